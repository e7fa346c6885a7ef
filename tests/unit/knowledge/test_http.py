"""JSON over HTTPS: patience, redirects, proxies, certificates, and what never leaves."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergenced.knowledge.provider import ProviderError
from convergenced.knowledge.providers import http
from convergenced.knowledge.providers.http import (
    Access,
    Api,
    ApiError,
    OutOfTimeError,
    Pace,
    Reply,
    StoppedError,
    limited_for,
    proxies_for,
)
from tests.forges import TOKEN, Answer, Asked, Server, Waiting, http_date, serving
from tests.servers import WebServer, web

__all__ = ["web"]


class Echo(Server):
    """Answers with what it was asked."""

    def answer(self, asked: Asked) -> Answer:
        return Answer(200, {"path": asked.path, "body": asked.body})


@pytest.fixture
def server() -> Iterator[Echo]:
    with serving(Echo()) as server:
        yield server


def api(url: str, waiting: Waiting, seconds: float = 3600.0, stop: threading.Event | None = None) -> Api:
    pace = Pace(stop or threading.Event(), seconds, clock=waiting.clock, wait=waiting)
    return Api(Access(url, {"Authorization": f"Bearer {TOKEN}"}, {"Accept": "x/y"}, {}), pace)


def test_asks_and_posts(server: Echo) -> None:
    asking = api(server.url, Waiting())
    assert asking.get("/a%2Fb", {"q": "1 2"}) == {"path": "/a%2Fb", "body": None}
    assert asking.post("/c", {"x": 1})[0] == {"path": "/c", "body": {"x": 1}}
    assert server.asked[0].query == {"q": "1 2"}
    assert server.asked[0].headers["authorization"] == f"Bearer {TOKEN}"
    assert server.asked[0].headers["user-agent"].startswith("convergence/")


@pytest.mark.parametrize("status", [502, 503, 504])
def test_an_overloaded_server_is_asked_again(server: Echo, status: int) -> None:
    waiting = Waiting()
    server.faults.extend([Answer(status), Answer(status, None, {"Retry-After": "7"})])
    assert api(server.url, waiting).get("/x")["path"] == "/x"
    assert waiting.waits == [1.0, 7.0]


def test_an_overloaded_server_is_given_up(server: Echo) -> None:
    server.faults.extend([Answer(503, {"message": "too much"})] * http.TRIES)
    waiting = Waiting()
    with pytest.raises(ApiError, match="503: too much"):
        api(server.url, waiting).get("/x")
    assert waiting.waits == list(http.BACKOFF_S)


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"Retry-After": "30"}, 30.0),
        ({"Retry-After": "Thu, 01 Jan 2026 00:02:00 GMT", "Date": "Thu, 01 Jan 2026 00:00:30 GMT"}, 90.0),
        ({"Retry-After": "Thu, 01 Jan 2026 00:00:00 GMT", "Date": "Thu, 01 Jan 2026 00:00:30 GMT"}, 0.0),
        (
            {
                "RateLimit-Remaining": "0",
                "RateLimit-Reset": "1767225640",
                "Date": "Thu, 01 Jan 2026 00:00:00 GMT",
            },
            41.0,
        ),
        ({"Retry-After": "soon"}, 60.0),
        ({}, 60.0),
    ],
)
def test_how_long_a_rate_limit_lasts(headers: dict[str, str], wait: float) -> None:
    reply = Reply(429, {name.lower(): value for name, value in headers.items()}, b"")
    assert limited_for(reply, 0.0) == wait


def test_githubs_limits_are_told_apart_from_a_refusal() -> None:
    spent = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1100"}
    assert limited_for(Reply(403, spent, b""), 1000.0) == 101.0
    secondary = b'{"message": "You have exceeded a secondary rate limit."}'
    assert limited_for(Reply(403, {"x-ratelimit-remaining": "88"}, secondary), 0.0) == 60.0
    assert limited_for(Reply(403, {"retry-after": "5"}, b"{}"), 0.0) == 5.0
    assert limited_for(Reply(403, {"x-ratelimit-remaining": "88"}, b'{"message": "Not yours"}'), 0.0) is None
    assert limited_for(Reply(200, spent, b""), 0.0) is None


def test_a_rate_limit_is_waited_for(server: Echo) -> None:
    waiting = Waiting()
    server.faults.append(Answer(429, None, {"Retry-After": http_date(timedelta(seconds=40))}))
    assert api(server.url, waiting).get("/x")["path"] == "/x"
    assert len(waiting.waits) == 1
    assert 30 < waiting.waits[0] <= 41


def test_a_rate_limit_beyond_the_time_left_is_told(server: Echo) -> None:
    waiting = Waiting()
    server.faults.append(Answer(429, None, {"Retry-After": "7200"}))
    with pytest.raises(ProviderError, match="limits how often it is asked, for another 7200 s"):
        api(server.url, waiting).get("/x")
    assert waiting.waits == []


def test_a_stop_ends_a_wait_at_once(server: Echo) -> None:
    stop = threading.Event()
    server.faults.append(Answer(429, None, {"Retry-After": "7200"}))
    pace = Pace(stop, 1e6, clock=Waiting().clock)  # a real wait, of hours: only the event can end it
    ending = threading.Timer(0.05, stop.set)
    ending.start()
    with pytest.raises(StoppedError):
        Api(Access(server.url, {}, {}, {}), pace).get("/x")
    ending.join()


def test_a_stop_waits_for_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "SOCKET_S", 1000.0)
    stop, left = threading.Event(), threading.Event()

    class Silent(Server):
        def answer(self, asked: Asked) -> Answer:
            stop.set()
            left.wait()
            return Answer(204)

    with serving(Silent()) as server:
        try:
            with pytest.raises(StoppedError):
                api(server.url, Waiting(), stop=stop).get("/x")
        finally:
            left.set()


@given(
    st.sampled_from([200, 403, 429]),
    st.dictionaries(
        st.sampled_from(
            ["retry-after", "date", "ratelimit-reset", "x-ratelimit-reset", "x-ratelimit-remaining"]
        ),
        st.text() | st.integers().map(str) | st.sampled_from(["0", "Thu, 01 Jan 2026 00:00:30 GMT"]),
    ),
    st.binary(),
)
def test_no_header_confuses_it(status: int, headers: dict[str, str], body: bytes) -> None:
    wait = limited_for(Reply(status, headers, body), 1_767_225_600.0)
    assert wait is None or 0 <= wait < 1e13


def test_no_time_is_left() -> None:
    waiting = Waiting()
    pace = Pace(threading.Event(), 10, clock=waiting.clock, wait=waiting)
    pace.pause(25)
    assert waiting.waits == [10]
    with pytest.raises(OutOfTimeError):
        pace.pause(1)


def test_nobody_answers() -> None:
    with serving(Echo()) as server:
        url = server.url
    waiting = Waiting()
    with pytest.raises(ProviderError, match="cannot be reached") as caught:
        api(url, waiting).get("/x")
    assert TOKEN not in str(caught.value)
    assert waiting.waits == list(http.BACKOFF_S)


def test_an_answer_that_breaks_off_is_asked_for_again(server: Echo) -> None:
    server.faults.append(Answer(200, b'{"half": ', announced=500))
    assert api(server.url, Waiting()).get("/x")["path"] == "/x"


def test_an_endless_answer_is_not_read(server: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_JSON", 1000)
    server.faults.append(Answer(200, b"[" + b"1," * 2000))
    with pytest.raises(ProviderError, match="an answer is larger"):
        api(server.url, Waiting()).get("/x")


def test_no_json(server: Echo) -> None:
    server.faults.append(Answer(200, b"<html>welcome</html>"))
    with pytest.raises(ProviderError, match="something else than JSON") as caught:
        api(server.url, Waiting()).get("/x")
    assert "knowledge.api_url" in caught.value.hint


def test_only_the_end_of_a_log_is_kept(server: Echo) -> None:
    server.faults.append(Answer(200, b"x" * 300_000 + b"\nthe end"))
    assert api(server.url, Waiting()).tail("/log", 8) == "\nthe end"


def test_a_redirect_elsewhere_loses_the_token(server: Echo) -> None:
    with serving(Echo()) as other:
        server.faults.append(Answer(302, b"", {"Location": f"{other.url}/b?sig=1"}))
        other.faults.append(Answer(302, b"", {"Location": f"{server.url}/back"}))
        assert api(server.url, Waiting()).get("/a")["path"] == "/back"
        assert "authorization" not in other.asked[0].headers
        assert "authorization" not in server.asked[1].headers  # who sent us there does not get it either


def test_a_redirect_on_the_same_host_keeps_it(server: Echo) -> None:
    server.faults.append(Answer(301, b"", {"Location": "/new"}))
    server.faults.append(Answer(307, b"", {"Location": "/newer"}))
    asking = api(server.url, Waiting())
    assert asking.get("/old")["path"] == "/newer"
    assert all("authorization" in asked.headers for asked in server.asked)
    server.faults.append(Answer(307, b"", {"Location": "/moved"}))
    assert asking.post("/old", {"x": 1})[0] == {"path": "/moved", "body": {"x": 1}}


@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_post_is_not_turned_into_something_else(server: Echo, status: int) -> None:
    server.faults.append(Answer(status, b"", {"Location": "/new"}))
    with pytest.raises(ApiError, match="it moved"):
        api(server.url, Waiting()).post("/old", {})
    assert len(server.asked) == 1


@pytest.mark.parametrize("target", ["http://example.com/x", "file:///etc/passwd", "ftp://example.com/x", ""])
def test_where_a_redirect_must_not_lead(server: Echo, target: str) -> None:
    server.faults.extend([Answer(302, b"", {"Location": target})] * http.MAX_REDIRECTS)
    with pytest.raises(ProviderError):
        api(server.url, Waiting()).get("/x")


@pytest.mark.parametrize(
    "base", ["http://api.example.com", "ssh://git@example.com/x", "/tmp/x", "https://a:b@c/d"]
)
def test_where_no_token_is_sent(base: str) -> None:
    with pytest.raises(ProviderError) as caught:
        api(base, Waiting())
    assert "a:b" not in str(caught.value)


def test_a_server_that_repeats_the_token(server: Echo) -> None:
    server.faults.append(Answer(400, {"message": f"bad header: Bearer {TOKEN}\x1b[2J"}))
    with pytest.raises(ApiError) as caught:
        api(server.url, Waiting()).get("/x")
    assert TOKEN not in str(caught.value)
    assert caught.value.said == "bad header: *** [2J"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"message": "Not Found"}, "Not Found"),
        ({"message": {"base": ["Missing CI config file", "x"]}}, "Missing CI config file; x"),
        ({"error": "insufficient_scope", "error_description": "needs more"}, "needs more"),
        ({"message": {"ref": ["is bad"]}}, "is bad"),
        (["a", "b"], "a; b"),
        (5, ""),
    ],
)
def test_what_servers_say(body: Any, said: str, server: Echo) -> None:
    server.faults.append(Answer(418, body))
    with pytest.raises(ApiError) as caught:
        api(server.url, Waiting()).get("/x")
    assert caught.value.said == said


@pytest.mark.parametrize(
    ("environ", "proxy"),
    [
        ({}, {}),
        ({"HTTPS_PROXY": "http://p:1"}, {"https": "http://p:1"}),
        ({"https_proxy": "p:1"}, {"https": "http://p:1"}),
        ({"HTTPS_PROXY": "http://big:1", "https_proxy": "http://small:1"}, {"https": "http://small:1"}),
        ({"ALL_PROXY": "http://p:1"}, {"https": "http://p:1"}),
        ({"ALL_PROXY": "socks5://p:1"}, {}),
        ({"HTTP_PROXY": "http://p:1"}, {}),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "other, .example.com"}, {}),
        ({"HTTPS_PROXY": "http://p:1", "no_proxy": "ample.com"}, {"https": "http://p:1"}),
        ({"HTTPS_PROXY": "http://p:1", "no_proxy": "*"}, {}),
    ],
)
def test_the_environments_proxy(environ: dict[str, str], proxy: dict[str, str]) -> None:
    assert proxies_for("api.example.com:443", environ) == proxy


def test_a_proxy_is_asked_for_a_tunnel() -> None:
    heard: list[tuple[str, dict[str, str]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            heard.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            self.send_error(407)

        def log_message(self, *_: object) -> None:
            pass

    proxy = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=proxy.serve_forever, args=(0.01,))
    thread.start()
    try:
        waiting = Waiting()
        pace = Pace(threading.Event(), 5, clock=waiting.clock, wait=waiting)
        environ = {"HTTPS_PROXY": f"http://127.0.0.1:{proxy.server_address[1]}"}
        access = Access("https://api.example.com", {"Authorization": f"Bearer {TOKEN}"}, {}, environ)
        with pytest.raises(ProviderError):
            Api(access, pace).get("/x")
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()
    assert heard[0][0] == "api.example.com:443"
    assert TOKEN not in str(heard)


def test_plain_http_to_this_machine_goes_through_no_proxy(server: Echo) -> None:
    waiting = Waiting()
    pace = Pace(threading.Event(), 5, clock=waiting.clock, wait=waiting)
    environ = {"HTTP_PROXY": "http://127.0.0.1:9", "ALL_PROXY": "http://127.0.0.1:9"}
    assert Api(Access(server.url, {}, {}, environ), pace).get("/x")["path"] == "/x"


def test_a_certificate_that_nobody_vouches_for(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = Waiting()
    with pytest.raises(ProviderError, match=r"certificate of localhost:[0-9]+ is not trusted") as caught:
        api(f"https://localhost:{web.port}", waiting).get("/x")
    assert "SSL_CERT_FILE" in caught.value.hint
    assert waiting.waits == []  # trying again would not help
    monkeypatch.setenv("SSL_CERT_FILE", str(web.certificate))
    assert ssl.create_default_context().verify_mode is ssl.CERT_REQUIRED
    with pytest.raises(ApiError) as refused:
        api(f"https://localhost:{web.port}", waiting).get("/x")
    assert refused.value.status in (401, 403, 404)
