"""JSON over HTTPS to the API of a forge, with an end.

Promises: TLS is always verified, and plain http goes to this machine itself only; credentials go to the host
they are for and to no other, wherever a redirect leads, and into no text; an answer is bounded; what is
overloaded or asks for patience is asked again later; every wait ends at once with `Pace`'s stop, and none
lasts longer than the time that is left.
"""

from __future__ import annotations

import http.client
import itertools
import json
import re
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Literal
from urllib.parse import quote, urlencode, urljoin, urlsplit

from convergenced import __version__
from convergenced.errors import UsageError
from convergenced.knowledge.provider import ProviderError
from convergenced.ports import Clock
from convergenced.urls import HIDDEN, UrlKind, classify_url

TRIES = 6
"""How often one thing is asked for, at most."""
BACKOFF_S = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds between tries where the server does not say how long to wait."""
LIMITED_S = 60.0
"""Seconds after which a rate limit is tried against again where the server does not say."""
SOCKET_S = 20.0
"""Seconds in which a server has to say something."""
ANSWER_S = 60.0
"""Seconds in which an answer has to be whole."""
MAX_JSON = 4 << 20
"""Bytes of an answer, at most."""
MAX_LOG = 64 << 20
"""Bytes of a log that are looked at for its end, at most."""
MAX_SAID = 300
"""Characters of a server's own words that are passed on, at most."""
MAX_REDIRECTS = 5

_CHUNK = 64 * 1024
_LOOK_S = 0.1
"""Seconds between looks at whether to stop, while a server does not answer."""
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_KEEP_METHOD = frozenset({307, 308})
_OVERLOADED = frozenset({502, 503, 504})

Method = Literal["GET", "POST"]


class ApiError(ProviderError):
    """The server refused. `said` are its own words, bounded and printable."""

    def __init__(self, host: str, status: int, said: str) -> None:
        super().__init__(f"{host} answered {status}{f': {said}' if said else ''}")
        self.status = status
        self.said = said


class StoppedError(ProviderError):
    """Whoever waited does not want to any more."""


class OutOfTimeError(ProviderError):
    """There is no time left."""


class Pace:
    """The time that one piece of work has. `wait` waits so many seconds, or less where `stop` is set."""

    def __init__(
        self,
        stop: threading.Event,
        seconds: float,
        *,
        clock: Clock,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self.clock = clock
        self._stop = stop
        self._wait = wait or stop.wait
        self._end = clock.monotonic() + seconds

    def left(self) -> float:
        """Seconds that are left, 0 where none are."""
        return max(0.0, self._end - self.clock.monotonic())

    def check(self) -> None:
        """Raises `StoppedError` where it is time to stop."""
        if self._stop.is_set():
            raise StoppedError("it was stopped while it waited", "what was started in the CI goes on there")

    def pause(self, seconds: float) -> None:
        """Waits. Raises `StoppedError`, and `OutOfTimeError` where nothing is left."""
        self.check()
        if self.left() <= 0:
            raise OutOfTimeError("it took longer than it may", "look again later")
        self._wait(min(seconds, self.left()))
        self.check()


@dataclass(frozen=True, slots=True)
class Access:
    """Where an API is and who asks. `credential` are the headers that prove it; they are shown nowhere."""

    base: str
    credential: Mapping[str, str] = field(repr=False)
    headers: Mapping[str, str]
    environ: Mapping[str, str] = field(repr=False)

    @property
    def host(self) -> str:
        """The host, for people."""
        return urlsplit(self.base).netloc


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. Names of `headers` are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def said(self) -> str:
        """The server's own words about what went wrong; empty where it has none."""
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            return ""
        return _one_line(_words(value))


class Api:
    """One forge's API, asked by one caller within its `Pace`."""

    def __init__(self, access: Access, pace: Pace) -> None:
        self._access = access
        self._pace = pace
        _check_url(access.base)

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        """The JSON at `path`, below the base. Raises `ApiError` for a refusal, else `ProviderError`."""
        url = f"{self._url(path)}?{urlencode(query)}" if query else self._url(path)
        return self._value(self._ask("GET", url, None, _whole))

    def post(self, path: str, body: Mapping[str, object]) -> tuple[Any, Reply]:
        """What is answered to `body`, None for nothing. It may arrive twice where a server breaks off."""
        data = json.dumps(body).encode()
        reply = self._ask("POST", self._url(path), data, _whole)
        return (self._value(reply) if reply.body else None), reply

    def tail(self, path: str, keep: int) -> str:
        """The last `keep` bytes of a text, whatever its form."""
        reply = self._ask("GET", self._url(path), None, lambda chunks: _last(chunks, keep))
        return reply.body.decode("utf-8", "replace")

    def _url(self, path: str) -> str:
        return self._access.base.rstrip("/") + path

    def _value(self, reply: Reply) -> Any:
        try:
            return json.loads(reply.body)
        except (ValueError, RecursionError) as error:
            raise ProviderError(
                f"{self._access.host} answered with something else than JSON",
                "is that the address of its API? convergencectl config set knowledge.api_url URL",
            ) from error

    # -- trying again

    def _ask(
        self, method: Method, url: str, data: bytes | None, take: Callable[[Iterator[bytes]], bytes]
    ) -> Reply:
        host = self._access.host
        for number in itertools.count(1):
            backoff = BACKOFF_S[min(number, len(BACKOFF_S)) - 1]
            try:
                reply = self._follow(method, url, data, take)
            except _BrokenError as error:
                if number == TRIES:
                    raise ProviderError(
                        f"{host} cannot be reached: {error}",
                        "check the network, and HTTPS_PROXY if there is one",
                    ) from error
                self._pace.pause(backoff)
                continue
            limit = limited_for(reply, self._pace.clock.now())
            if limit is not None:
                if number == TRIES or limit > self._pace.left():
                    raise ProviderError(
                        f"{host} limits how often it is asked, for another {limit:.0f} s",
                        "try again then: convergencectl knowledge synthesize",
                    )
                self._pace.pause(limit)
            elif reply.status in _OVERLOADED and number < TRIES:
                self._pace.pause(max(backoff, _retry_after(reply, self._pace.clock.now()) or 0.0))
            elif reply.status >= 400:
                raise ApiError(host, reply.status, self._hide(reply.said()))
            else:
                return reply
        raise AssertionError("counting has no end")

    def _hide(self, text: str) -> str:
        """`text` without the credential, should a server repeat it."""
        for value in self._access.credential.values():
            for part in (value, *value.split()):
                if len(part) >= 8:
                    text = text.replace(part, HIDDEN)
        return text

    # -- one request

    def _follow(
        self, method: Method, url: str, data: bytes | None, take: Callable[[Iterator[bytes]], bytes]
    ) -> Reply:
        trusted = True
        for _ in range(MAX_REDIRECTS):
            reply = self._once(method, url, data, take, trusted=trusted)
            if reply.status not in _REDIRECTS:
                return reply
            target = urljoin(url, reply.headers.get("location", ""))
            same = _origin(target) == _origin(url)
            if method == "POST" and not (same and reply.status in _KEEP_METHOD):
                raise ApiError(self._access.host, reply.status, "it moved; name its address anew")
            _check_url(target)
            trusted = trusted and same
            url = target
        raise ProviderError(f"{self._access.host} redirects without end", "check knowledge.api_url")

    def _once(
        self,
        method: Method,
        url: str,
        data: bytes | None,
        take: Callable[[Iterator[bytes]], bytes],
        *,
        trusted: bool,
    ) -> Reply:
        """One request, in a thread beside, which a stop leaves to its own end."""
        self._pace.check()
        found: list[Reply | BaseException] = []

        def work() -> None:
            try:
                found.append(self._exchange(method, url, data, take, trusted=trusted))
            except BaseException as error:  # noqa: BLE001 (raised again below)
                found.append(error)

        beside = threading.Thread(target=work, name="knowledge-http", daemon=True)
        beside.start()
        while beside.is_alive():
            beside.join(_LOOK_S)
            self._pace.check()
        if isinstance(found[0], BaseException):
            raise found[0]
        return found[0]

    def _exchange(
        self,
        method: Method,
        url: str,
        data: bytes | None,
        take: Callable[[Iterator[bytes]], bytes],
        *,
        trusted: bool,
    ) -> Reply:
        headers = {"User-Agent": f"convergence/{__version__}"}
        if trusted:
            headers |= {**self._access.headers, **self._access.credential}
        if data is not None:
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(url, data, headers, method=method)  # noqa: S310 - checked: https, or this machine
        try:
            with _opener(url, self._access.environ).open(request, timeout=SOCKET_S) as response:
                return self._read(response, take)
        except urllib.error.HTTPError as error:
            with error:
                return self._read(error, _whole)
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, ssl.SSLCertVerificationError):
                host = urlsplit(url).netloc
                raise ProviderError(
                    f"the https certificate of {host} is not trusted: {reason.verify_message}",
                    "check the address; a private authority is made known with SSL_CERT_FILE",
                ) from error
            raise _BrokenError(_one_line(str(reason)) or type(reason).__name__) from error

    def _read(self, response: Any, take: Callable[[Iterator[bytes]], bytes]) -> Reply:
        headers = {name.lower(): value for name, value in response.headers.items()}
        try:
            return Reply(response.status, headers, take(self._chunks(response)))
        except (OSError, http.client.HTTPException) as error:
            raise _BrokenError("the answer broke off") from error

    def _chunks(self, response: Any) -> Iterator[bytes]:
        clock = self._pace.clock
        end = clock.monotonic() + ANSWER_S
        while chunk := response.read1(_CHUNK):
            yield chunk
            self._pace.check()
            if clock.monotonic() > end:
                raise _BrokenError("the answer takes too long")
        if response.length:  # what was announced and never came; chunked answers raise by themselves
            raise _BrokenError("the answer broke off")


class _BrokenError(Exception):
    """One try failed in a way that another may not."""


def limited_for(reply: Reply, now: float) -> float | None:
    """Seconds to wait where `reply` says that it was asked too often; None where it says something else.

    `now` (Unix seconds) is for a server that does not tell the time itself.
    """
    spent = "0" in (reply.headers.get("x-ratelimit-remaining"), reply.headers.get("ratelimit-remaining"))
    if reply.status == 403:
        if not (spent or "retry-after" in reply.headers or "rate limit" in reply.said().lower()):
            return None
    elif reply.status != 429:
        return None
    after = _retry_after(reply, now)
    if after is not None:
        return after
    for name in ("x-ratelimit-reset", "ratelimit-reset"):
        reset = reply.headers.get(name, "")
        if re.fullmatch(r"[0-9]{1,12}", reset) and spent:
            return max(0.0, int(reset) - _served(reply, now)) + 1.0
    return LIMITED_S


def _retry_after(reply: Reply, now: float) -> float | None:
    value = reply.headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", value):
        return float(value)
    moment = _moment(value)
    return None if moment is None else max(0.0, moment - _served(reply, now))


def _served(reply: Reply, now: float) -> float:
    """When the server answered, by its own clock."""
    moment = _moment(reply.headers.get("date", ""))
    return now if moment is None else moment


def _moment(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def _whole(chunks: Iterator[bytes]) -> bytes:
    found = bytearray()
    for chunk in chunks:
        found += chunk
        if len(found) > MAX_JSON:
            raise ProviderError(f"an answer is larger than {MAX_JSON >> 20} MB", "check knowledge.api_url")
    return bytes(found)


def _last(chunks: Iterator[bytes], keep: int) -> bytes:
    found, seen = b"", 0
    for chunk in chunks:
        found = (found + chunk)[-keep:]
        seen += len(chunk)
        if seen > MAX_LOG:
            break
    return found


def _words(value: Any) -> str:
    """The telling part of an error's JSON: GitHub's `message`, GitLab's `message` or `error`."""
    if isinstance(value, dict):
        for name in ("message", "error_description", "error", "base"):
            if value.get(name):
                return _words(value[name])
        return "; ".join(_words(one) for one in value.values())
    if isinstance(value, list):
        return "; ".join(_words(one) for one in value)
    return value if isinstance(value, str) else ""


def _one_line(text: str) -> str:
    line = " ".join("".join(char if char.isprintable() else " " for char in text[: 4 * MAX_SAID]).split())
    return line if len(line) <= MAX_SAID else line[: MAX_SAID - 1] + "…"


# -- where a request may go


def segment(text: str) -> str:
    """`text` as one segment of a path."""
    return quote(text, safe="")


def _check_url(url: str) -> None:
    try:
        parts = classify_url(url)
    except UsageError as error:
        raise ProviderError(error.summary, "an API is reached by https://") from error
    if parts.kind is not UrlKind.WEB or parts.user is not None:
        raise ProviderError(f"{parts.shown} is no address of an API", "an API is reached by https://")


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _opener(url: str, environ: Mapping[str, str]) -> urllib.request.OpenerDirector:
    """What opens `url` and nothing else: no redirect, no other scheme, the environment's proxy."""
    opener = urllib.request.OpenerDirector()
    parts = urlsplit(url)
    handlers: list[urllib.request.BaseHandler] = [
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ]
    if parts.scheme == "https":
        handlers.append(urllib.request.ProxyHandler(proxies_for(parts.netloc, environ)))
        handlers.append(urllib.request.HTTPSHandler(context=ssl.create_default_context()))
    else:  # this machine itself; a proxy would see everything
        handlers.append(urllib.request.HTTPHandler())
    for handler in handlers:
        opener.add_handler(handler)
    return opener


def proxies_for(host: str, environ: Mapping[str, str]) -> dict[str, str]:
    """The proxy of https requests to `host` (with its port), as curl and git read the environment."""
    found = {}
    for name in sorted(environ):  # the small names come last and win
        if name.lower() in ("https_proxy", "all_proxy", "no_proxy"):
            found[name.lower()] = environ[name]
    proxy = found.get("https_proxy") or found.get("all_proxy") or ""
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    usable = proxy.startswith(("http://", "https://")) and not _is_direct(host, found.get("no_proxy", ""))
    return {"https": proxy} if usable and urlsplit(proxy).hostname else {}


def _is_direct(host: str, without: str) -> bool:
    bare = urlsplit(f"//{host}").hostname or host
    for one in without.split(","):
        rule = one.strip().lower().lstrip(".")
        if rule and (rule == "*" or rule in (bare, host.lower()) or bare.endswith("." + rule)):
            return True
    return False
