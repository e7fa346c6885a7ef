"""What only happens on a network: keys, certificates, silence, and lines that break."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pygit2
import pytest

from convergenced.errors import PeerRefusedError, PeerUnreachableError
from convergenced.model import Author, Commit, Oid, TreeEntry
from convergenced.ports import Peer
from convergenced.store.git import GitStore
from convergenced.store.peers import Timeouts, Transport, open_peer
from tests.repositories import make_bare, run_git
from tests.servers import (
    SshServer,
    WebServer,
    bad_server,
    breaks_off,
    git_environ,
    says_nothing,
    sshd,
    web,
)

__all__ = ["sshd", "web"]

X = "refs/heads/project/x"
TRACK_X = "refs/convergence/hub/x"
HASTY = Timeouts(connect=0.5, listing=0.5, transfer=20, stall=0.5)
PATIENT = Timeouts(connect=20, listing=60, transfer=60, stall=60)


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return git_environ(tmp_path / "home")


@pytest.fixture
def store(tmp_path: Path) -> GitStore:
    return GitStore(make_bare(tmp_path / "store.git"))


@pytest.fixture(params=["git", "libgit2"])
def transport(request: pytest.FixtureRequest) -> Transport:
    return "git" if request.param == "git" else "libgit2"


@pytest.fixture(autouse=True)
def no_child_is_left() -> Iterator[None]:
    before = set(psutil.Process().children(recursive=True))
    yield
    left = set(psutil.Process().children(recursive=True)) - before
    assert not {
        child for child in left if child.name() in ("git", "ssh", "git-remote-https", "git-remote-http")
    }


@pytest.fixture
def ssh_home(sshd: SshServer, environ: dict[str, str]) -> Iterator[dict[str, str]]:
    """What either transport needs to be let in by `sshd`."""
    before = pygit2.settings.homedir or ""
    pygit2.settings.homedir = str(sshd.client_home)
    yield environ | {"GIT_SSH_COMMAND": sshd.command(), "HOME": str(sshd.client_home)}
    pygit2.settings.homedir = before


def peer_at(
    url: str,
    store: GitStore,
    environ: dict[str, str],
    transport: Transport = "auto",
    timeouts: Timeouts = PATIENT,
) -> Peer:
    return open_peer(url, store.path, name="hub", transport=transport, environ=environ, timeouts=timeouts)


def write(store: GitStore, ref: str, text: str) -> Oid:
    blob = store.write_blob(text.encode())
    old = store.refs(ref).get(ref)
    tree = store.write_tree([TreeEntry("note.md", 0o100644, blob)])
    person = Author("desktop", "desktop@convergence")
    new = store.write_commit(Commit(tree, (old,) if old else (), person, 1_700_000_000, "note"))
    store.swap(ref, old, new)
    return new


# ssh


def test_ssh_with_a_key_that_is_not_known_there_is_refused(
    sshd: SshServer, store: GitStore, tmp_path: Path, environ: dict[str, str]
) -> None:
    environ |= {"GIT_SSH_COMMAND": sshd.command(key=sshd.other_key)}
    with pytest.raises(PeerRefusedError, match="does not accept this machine's ssh key") as caught:
        peer_at(sshd.url(tmp_path / "hub.git"), store, environ).list()
    assert "SSH_AUTH_SOCK" in caught.value.hint


def test_libgit2_with_a_key_that_is_not_known_there_is_refused(
    sshd: SshServer, store: GitStore, tmp_path: Path, ssh_home: dict[str, str]
) -> None:
    keys = tmp_path / "keys" / ".ssh"
    keys.mkdir(parents=True)
    for suffix in ("", ".pub"):
        (keys / f"id_ed25519{suffix}").write_bytes(Path(f"{sshd.other_key}{suffix}").read_bytes())
    environ = ssh_home | {"HOME": str(keys.parent)}
    with pytest.raises(PeerRefusedError, match="does not accept this machine's ssh key"):
        peer_at(sshd.url(tmp_path / "hub.git"), store, environ, "libgit2").list()


def test_ssh_to_a_host_whose_key_is_not_known_here_says_how_to_get_to_know_it(
    sshd: SshServer, store: GitStore, tmp_path: Path, ssh_home: dict[str, str], transport: Transport
) -> None:
    strangers = tmp_path / "strangers"
    (strangers / ".ssh").mkdir(parents=True)
    (strangers / ".ssh" / "known_hosts").write_text("")
    pygit2.settings.homedir = str(strangers)
    ssh_home |= {"GIT_SSH_COMMAND": sshd.command(known_hosts=strangers / ".ssh" / "known_hosts")}
    with pytest.raises(PeerRefusedError, match=r"host key .+ is not known here") as caught:
        peer_at(sshd.url(tmp_path / "hub.git"), store, ssh_home, transport).list()
    assert "ssh-keyscan" in caught.value.hint


def test_ssh_to_a_host_whose_key_has_changed_is_not_taken_lightly(
    sshd: SshServer, store: GitStore, tmp_path: Path, environ: dict[str, str]
) -> None:
    known = tmp_path / "known_hosts"
    other = Path(f"{sshd.other_key}.pub").read_text().split()[:2]
    known.write_text(f"[127.0.0.1]:{sshd.port} {' '.join(other)}\n")
    environ |= {"GIT_SSH_COMMAND": sshd.command(known_hosts=known)}
    with pytest.raises(PeerRefusedError, match="is not the one known here"):
        peer_at(sshd.url(tmp_path / "hub.git"), store, environ).list()


def test_over_ssh_a_missing_hub_is_told_from_a_missing_key(
    sshd: SshServer, store: GitStore, tmp_path: Path, ssh_home: dict[str, str], transport: Transport
) -> None:
    with pytest.raises(PeerRefusedError, match="is not a git repository") as caught:
        peer_at(sshd.url(tmp_path / "none.git"), store, ssh_home, transport).list()
    assert f"git init --bare {tmp_path}/none.git" in caught.value.hint


def test_the_ssh_command_of_the_git_configuration_is_used(
    sshd: SshServer, store: GitStore, tmp_path: Path, environ: dict[str, str]
) -> None:
    hub = make_bare(tmp_path / "hub.git")
    run_git("config", "--file", environ["GIT_CONFIG_GLOBAL"], "core.sshCommand", sshd.command())
    x = write(store, X, "of x")
    peer = peer_at(f"{sshd.user}@hub.alias:{hub}", store, environ)
    run_git(
        "config", "--file", environ["GIT_CONFIG_GLOBAL"], "core.sshCommand",
        f"{sshd.command()} -o HostName=127.0.0.1 -o HostKeyAlias='[127.0.0.1]:{sshd.port}' -p {sshd.port}",
    )  # fmt: skip
    assert peer.push([X]) == {X: None}
    assert GitStore(hub).refs(X) == {X: x}


# https


def web_environ(web: WebServer, environ: dict[str, str]) -> dict[str, str]:
    pygit2.settings.set_ssl_cert_locations(str(web.certificate), None)
    return environ | {"GIT_SSL_CAINFO": str(web.certificate)}


@pytest.mark.parametrize("credentials", ["", "ann:hunter2@", "hunter2@"])
def test_https_with_wrong_credentials_is_refused_and_shows_no_password(
    web: WebServer, store: GitStore, environ: dict[str, str], transport: Transport, credentials: str
) -> None:
    url = web.url(make_bare_for(web, "locked"), credentials)
    with pytest.raises(PeerRefusedError, match="wants other credentials") as caught:
        peer_at(url, store, web_environ(web, environ), transport).list()
    assert "hunter2" not in str(caught.value)
    assert not any("hunter2" in request for request in web.requests)


def make_bare_for(web: WebServer, name: str) -> Path:
    path = web.root / f"{name}.git"
    if not path.exists():
        make_bare(path, "-c", "http.receivepack=true")
    return path


def test_https_with_a_certificate_nobody_vouches_for_is_refused(
    web: WebServer, store: GitStore, environ: dict[str, str]
) -> None:
    with pytest.raises(PeerRefusedError, match="certificate of localhost is not trusted"):
        peer_at(web.url(make_bare_for(web, "locked")), store, environ).list()


def test_https_to_a_repository_that_is_not_there_is_refused(
    web: WebServer, store: GitStore, environ: dict[str, str], transport: Transport
) -> None:
    with pytest.raises(PeerRefusedError, match="was not found"):
        peer_at(web.url(web.root / "none.git"), store, web_environ(web, environ), transport).list()


def test_a_pack_that_ends_in_the_middle_changes_nothing(
    web: WebServer, store: GitStore, environ: dict[str, str], transport: Transport
) -> None:
    hub = make_bare_for(web, f"cut-{transport}")
    tip = write(GitStore(hub), X, "of x")  # type: ignore[arg-type]
    peer = peer_at(web.url(hub), store, web_environ(web, environ), transport)
    web.truncate_packs = True
    try:
        with pytest.raises(PeerUnreachableError, match="broke off"):
            peer.fetch({X: TRACK_X})
    finally:
        web.truncate_packs = False
    assert store.refs("refs/") == {}
    run_git("-C", store.path, "fsck", "--strict")
    peer.fetch({X: TRACK_X})
    assert store.refs("refs/") == {TRACK_X: tip}


def test_a_hook_that_declines_gives_its_reason(
    web: WebServer, store: GitStore, environ: dict[str, str], transport: Transport
) -> None:
    hub = make_bare_for(web, f"strict-{transport}")
    hook = hub / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho 'error: not on a Sunday' >&2\nexit 1\n")
    hook.chmod(0o755)
    write(store, X, "of x")
    reason = peer_at(web.url(hub), store, web_environ(web, environ), transport).push([X])[X]
    assert reason is not None
    assert "hook declined" in reason
    assert ("not on a Sunday" in reason) == (transport == "git")
    assert GitStore(hub).refs("refs/") == {}  # type: ignore[arg-type]


# Silence and broken lines


@pytest.mark.parametrize("scheme", ["ssh", "http"])
def test_a_peer_that_accepts_and_never_answers_is_left_in_time(
    store: GitStore, environ: dict[str, str], transport: Transport, scheme: str
) -> None:
    with bad_server(says_nothing) as port:
        peer = peer_at(f"{scheme}://127.0.0.1:{port}/x.git", store, environ, transport, HASTY)
        with pytest.raises(PeerUnreachableError):
            peer.list()


@pytest.mark.parametrize("scheme", ["ssh", "http"])
def test_a_peer_that_hangs_up_is_tried_again_later(
    store: GitStore, environ: dict[str, str], transport: Transport, scheme: str
) -> None:
    with bad_server(breaks_off) as port:
        peer = peer_at(f"{scheme}://127.0.0.1:{port}/x.git", store, environ, transport)
        with pytest.raises(PeerUnreachableError):
            peer.list()


@pytest.mark.parametrize("scheme", ["ssh", "http"])
def test_a_port_where_nobody_listens_is_unreachable(
    store: GitStore, environ: dict[str, str], transport: Transport, scheme: str
) -> None:
    with bad_server(says_nothing) as port:
        pass
    with pytest.raises(PeerUnreachableError):
        peer_at(f"{scheme}://127.0.0.1:{port}/x.git", store, environ, transport).list()


def test_a_host_that_does_not_exist_is_unreachable(store: GitStore, environ: dict[str, str]) -> None:
    with pytest.raises(PeerUnreachableError) as caught:
        peer_at("https://no-such-host.invalid/x.git", store, environ, "git").list()
    assert "no-such-host.invalid" in caught.value.summary


def test_the_tests_leave_the_environment_alone(environ: dict[str, str]) -> None:
    assert environ["HOME"] != os.path.expanduser("~")
