"""What other programs say is understood, and passed on without secrets and control characters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergenced.errors import PeerError, PeerRefusedError, PeerUnreachableError
from convergenced.store.refusals import MAX_REASON, Place, explain, is_behind, push_reason, summary_line
from convergenced.urls import classify_url

HUB = Place("hub", classify_url("https://ann:hunter2@host.example/you/x.git"))
SSH = Place("hub", classify_url("git@host.example:you/x.git"))
PATH = Place("hub", classify_url("/srv/hub one.git"), "/srv/hub one.git")

LOST = "fatal: Could not read from remote repository.\n\nPlease make sure you have the correct access rights"


@pytest.mark.parametrize(
    ("place", "said", "kind", "words"),
    [
        (SSH, "ssh: Could not resolve hostname host.example: Name or service not known\n" + LOST,
         PeerUnreachableError, "host.example cannot be found"),
        (HUB, "fatal: unable to access 'https://host.example/': Could not resolve host: host.example",
         PeerUnreachableError, "host.example cannot be found"),
        (SSH, "ssh: connect to host host.example port 22: Connection refused\n" + LOST,
         PeerUnreachableError, "nothing answers"),
        (SSH, "ssh: connect to host host.example port 22: Connection timed out\n" + LOST,
         PeerUnreachableError, "in time"),
        (SSH, "ssh: connect to host host.example port 22: No route to host\n" + LOST,
         PeerUnreachableError, "cannot be reached"),
        (SSH, "git@host.example: Permission denied (publickey).\n" + LOST, PeerRefusedError, "ssh key"),
        (SSH, "Host key verification failed.\n" + LOST, PeerRefusedError, "not known here"),
        (SSH, "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.\n" + LOST,
         PeerRefusedError, "is not the one known"),
        (SSH, "ERROR: Repository not found.\n" + LOST, PeerRefusedError, "not found, or is not shared"),
        (SSH, "fatal: '/srv/x' does not appear to be a git repository\n" + LOST,
         PeerRefusedError, "not a git repository"),
        (SSH, "bash: line 1: git-upload-pack: command not found\n" + LOST,
         PeerRefusedError, "git is not installed on host.example"),
        (SSH, "error: cannot run ssh: No such file or directory\nfatal: unable to fork",
         PeerRefusedError, "ssh program"),
        (HUB, "fatal: could not read Username for 'https://host.example': terminal prompts disabled",
         PeerRefusedError, "other credentials"),
        (HUB, "fatal: Authentication failed for 'https://ann:hunter2@host.example/you/x.git/'",
         PeerRefusedError, "other credentials"),
        (HUB, "fatal: unable to access 'x': The requested URL returned error: 403",
         PeerRefusedError, "other credentials"),
        (HUB, "fatal: repository 'https://host.example/you/x.git/' not found", PeerRefusedError, "not found"),
        (HUB, "fatal: unable to access 'x': server certificate verification failed. CAfile: none",
         PeerRefusedError, "certificate"),
        (HUB, "fatal: unable to access 'x': The requested URL returned error: 503",
         PeerUnreachableError, "broke off"),
        (HUB, "error: RPC failed; curl 92 HTTP/2 stream 5\nfatal: early EOF\nfatal: index-pack failed",
         PeerUnreachableError, "broke off"),
        (PATH, "fatal: detected dubious ownership in repository at '/srv/hub one.git'",
         PeerRefusedError, "another user"),
        (PATH, "/srv/hub one.git/objects/a7/1c cannot be written: [Errno 30] Read-only file system: 'x'",
         PeerRefusedError, "can only be read"),
        (PATH, "remote: error: insufficient permission for adding an object to repository database ./objects",
         PeerRefusedError, "does not let this user"),
        (PATH, "failed to create locked file: No space left on device", PeerRefusedError, "no room"),
        (HUB, "error: object 1234: hasDotgit: contains '.git'\nfatal: fsck error in packed object",
         PeerRefusedError, "damaged or not allowed"),
        (SSH, "remote: aborting due to possible repository corruption\nfatal: early EOF",
         PeerRefusedError, "damaged or not allowed"),
        (HUB, "fatal: transport 'ext' not allowed", PeerRefusedError, "not allowed"),
        (HUB, "something nobody has heard of", PeerUnreachableError, "something nobody has heard of"),
        (HUB, "", PeerUnreachableError, "without a word"),
    ],
)  # fmt: skip
def test_a_failure_is_put_in_plain_words(place: Place, said: str, kind: type[PeerError], words: str) -> None:
    error = explain(said, place).error
    assert type(error) is kind
    assert words in error.summary
    assert error.hint
    assert "hunter2" not in str(error)


def test_the_remedy_for_a_missing_hub_can_be_copied() -> None:
    error = explain("fatal: not a git repository", PATH).error
    assert error.hint.endswith("git init --bare '/srv/hub one.git'")


@pytest.mark.parametrize(
    "said",
    [
        "[rejected] (fetch first)",
        "[rejected] (non-fast-forward)",
        "[remote rejected] (failed to update ref)",
        "[remote rejected] (cannot lock ref 'refs/heads/x': is at 1 but expected 2)",
        "[remote rejected] (incorrect old value provided)",
    ],
)
def test_a_peer_that_moved_on_is_recognized(said: str) -> None:
    assert is_behind(push_reason(said, HUB))


@pytest.mark.parametrize(
    "said",
    [
        "[remote rejected] (pre-receive hook declined)",
        "[remote rejected] (branch is currently checked out)",
        "",
    ],
)
def test_a_peer_that_does_not_want_is_not_taken_for_one_that_moved_on(said: str) -> None:
    assert not is_behind(push_reason(said, HUB))


@given(st.text(max_size=2000))
def test_foreign_words_come_out_as_one_bounded_printable_line(said: str) -> None:
    line = summary_line(said + "\nremote: \x1b[31mhttps://ann:hunter2@host.example/you/x.git\x07", HUB.url)
    assert len(line) <= MAX_REASON
    assert line.isprintable()
    assert "hunter2" not in line


@given(st.text(max_size=500))
def test_every_complaint_becomes_a_peer_error(said: str) -> None:
    assert isinstance(explain(said, HUB).error, PeerError)
