"""Whether a repository answers anybody, asked of a real https server, with git and without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pygit2
import pytest

from convergenced.store.openness import answers_anybody
from convergenced.urls import classify_url
from tests.repositories import make_bare
from tests.servers import WebServer, bad_server, git_environ, says_nothing, web

__all__ = ["web"]


@pytest.fixture(params=["git", "libgit2"])
def environ(request: pytest.FixtureRequest, web: WebServer, tmp_path: Path) -> dict[str, str]:
    pygit2.settings.set_ssl_cert_locations(str(web.certificate), None)
    found = git_environ(tmp_path / "home") | {"GIT_SSL_CAINFO": str(web.certificate)}
    if request.param == "libgit2":
        found["PATH"] = str(tmp_path)
    return found


@pytest.fixture
def hub(web: WebServer) -> Path:
    path = web.root / "open.git"
    if not path.exists():
        make_bare(path)
    return path


@pytest.fixture
def nobody_is_asked(web: WebServer) -> Iterator[None]:
    web.lets_anybody_in = True
    yield
    web.lets_anybody_in = False


@pytest.mark.usefixtures("nobody_is_asked")
@pytest.mark.parametrize("credentials", ["", None], ids=["without", "with credentials"])
def test_a_repository_that_asks_for_nothing_is_open(
    web: WebServer, hub: Path, environ: dict[str, str], credentials: str | None
) -> None:
    assert answers_anybody(classify_url(web.url(hub, credentials)), environ)


def test_one_that_asks_is_not_whatever_the_user_could_answer(
    web: WebServer, hub: Path, environ: dict[str, str]
) -> None:
    home = Path(environ["HOME"])
    (home / ".netrc").write_text(f"machine localhost login {web.user} password {web.password}\n")
    helper = f"!f() {{ echo username={web.user}; echo 'password={web.password}'; }}; f"
    (home / "gitconfig").write_text(f'[credential]\n\thelper = "{helper}"\n')
    assert not answers_anybody(classify_url(web.url(hub)), environ)
    assert not answers_anybody(classify_url(web.url(hub, "")), environ)


@pytest.mark.usefixtures("nobody_is_asked")
def test_what_the_user_needs_to_reach_a_server_is_kept(web: WebServer, hub: Path, tmp_path: Path) -> None:
    environ = git_environ(tmp_path / "home")
    url = classify_url(web.url(hub, ""))
    assert not answers_anybody(url, environ), "nobody vouches for its certificate"
    (tmp_path / "home/gitconfig").write_text(f'[http]\n\tsslCAInfo = "{web.certificate}"\n')
    assert answers_anybody(url, environ)


@pytest.mark.usefixtures("nobody_is_asked")
def test_what_is_not_there_or_not_on_the_web_is_not_open(
    web: WebServer, hub: Path, environ: dict[str, str]
) -> None:
    assert not answers_anybody(classify_url(web.url(web.root / "none.git")), environ)
    assert not answers_anybody(classify_url(str(hub)), environ)
    assert not answers_anybody(classify_url(f"ssh://ann@localhost{hub}"), environ)


def test_a_server_that_says_nothing_is_given_up(environ: dict[str, str]) -> None:
    with bad_server(says_nothing) as port:
        url = classify_url(f"https://localhost:{port}/hub.git")
        assert not answers_anybody(url, environ, seconds=0.3)
