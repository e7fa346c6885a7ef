"""Which URLs may be peers, and what is shown of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergenced.errors import UsageError
from convergenced.urls import UrlKind, classify_url, redact_text, redact_url


@pytest.mark.parametrize(
    ("url", "kind", "host", "path"),
    [
        ("/srv/hub with spaces/é.git", UrlKind.PATH, "", "/srv/hub with spaces/é.git"),
        ("/srv/a:b.git", UrlKind.PATH, "", "/srv/a:b.git"),
        ("~/hub.git", UrlKind.PATH, "", "~/hub.git"),
        ("file:///srv/a%20b.git", UrlKind.FILE, "", "/srv/a b.git"),
        ("file://localhost/srv/a.git", UrlKind.FILE, "", "/srv/a.git"),
        ("git@github.com:you/context.git", UrlKind.SSH, "github.com", "you/context.git"),
        ("alias:context.git", UrlKind.SSH, "alias", "context.git"),
        ("ann@[::1]:context.git", UrlKind.SSH, "::1", "context.git"),
        ("ssh://ann@host.example:2222/~/context.git", UrlKind.SSH, "host.example", "/~/context.git"),
        ("https://host.example/you/context.git", UrlKind.WEB, "host.example", "/you/context.git"),
        ("http://127.0.0.1:8080/x.git", UrlKind.WEB, "127.0.0.1", "/x.git"),
        ("http://[::1]/x.git", UrlKind.WEB, "::1", "/x.git"),
        ("http://localhost/x.git", UrlKind.WEB, "localhost", "/x.git"),
    ],
)
def test_an_allowed_url_says_how_the_peer_is_reached(url: str, kind: UrlKind, host: str, path: str) -> None:
    parts = classify_url(url)
    assert (parts.kind, parts.host, parts.path) == (kind, host, path)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hub.git",
        "./hub.git",
        "../hub.git",
        "~bob/hub.git",
        "C:\\hub.git",
        "ext::sh -c touch% /tmp/x",
        "fd::17",
        "-u",
        "--upload-pack=touch /tmp/x",
        "-oProxyCommand=x@host:path",
        "ann@-oProxyCommand=x:path",
        "host:-path",
        "ssh://-oProxyCommand=x/path",
        "ssh://ann@-host/path",
        "ssh://-ann@host/path",
        "ssh://host/-path",
        "ssh://host",
        "ssh://ann:hunter2@host/path",
        "https://-host/path",
        "https:///path",
        "https://ann:sec/ret@host/path",
        "http://host.example/path",
        "http://127.0.0.1.evil.example/path",
        "http://127.0.0.1@evil.example/path",
        "git://host/path",
        "ftp://host/path",
        "file://host/path",
        "file:///pa%0Ath",
        "/pa\nth",
        "/pa\0th",
        "host:pa\x1bth",
        "/pa\udc80th",
        "/" + "x" * 5000,
    ],
)
def test_what_could_be_taken_for_something_else_is_refused_with_what_is_allowed(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        classify_url(url)
    assert "user@host:path" in caught.value.hint
    assert "hunter2" not in str(caught.value)
    assert "sec/ret" not in str(caught.value)


def test_the_parts_of_a_web_url_are_taken_from_it() -> None:
    parts = classify_url("https://ann:p%40ss%2Fword@host.example:8443/x.git")
    assert (parts.user, parts.password) == ("ann", "p@ss/word")
    assert parts.bare == "https://host.example:8443/x.git"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://ann:secret@host/x", "https://***@host/x"),
        ("https://token@host/x", "https://***@host/x"),
        ("https://ann:sec@ret@host/x", "https://***@host/x"),
        ("https://ann:sec/ret@host/x", "https://***@host/x"),
        ("https://ann:sec#ret@host/x", "https://***@host/x"),
        ("HTTPS://ann:secret@host/x", "HTTPS://***@host/x"),
        ("https://host/x?token=secret", "https://host/x?***"),
        ("https://host/x@v1", "https://host/x@v1"),
        ("ssh://ann:secret@host/x", "ssh://ann@host/x"),
        ("ssh://ann@host/x", "ssh://ann@host/x"),
        ("git@github.com:you/x.git", "git@github.com:you/x.git"),
        ("/srv/hub.git", "/srv/hub.git"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert redact_url(url) == shown


def test_a_program_that_repeats_the_url_or_the_password_is_silenced() -> None:
    parts = classify_url("https://ann:p%40ss@host/x.git")
    said = "fatal: https://ann:p%40ss@host/x.git: p@ss; see https://bob:other@elsewhere/y"
    assert redact_text(said, parts) == "fatal: https://***@host/x.git: ***; see https://***@elsewhere/y"


_SECRET = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=12)


@given(_SECRET, st.sampled_from(["https", "ssh", "http", "ftp"]))
def test_no_password_is_ever_shown(secret: str, scheme: str) -> None:
    marked = f"Q{secret}Q"
    url = f"{scheme}://ann:{marked}@host.example/x.git"
    assert marked not in redact_url(url)
    shown = _all_that_is_shown(url)
    assert marked not in shown


def _all_that_is_shown(url: str) -> str:
    try:
        parts = classify_url(url)
    except UsageError as error:
        return str(error)
    return f"{parts!r} {parts.bare}"


@given(st.text(max_size=60))
def test_any_text_is_either_a_url_or_refused(text: str) -> None:
    redact_url(text)
    try:
        parts = classify_url(text)
    except UsageError:
        return
    assert not parts.text.startswith("-")
    assert not parts.host.startswith("-")
    assert not any(ord(char) < 0x20 for char in text)
