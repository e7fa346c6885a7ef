"""The git program is started so that it asks nobody, shows no password, and is not believed blindly.

A script takes the place of git here, notes how it was called and says what a test wants it to say.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pygit2
import pytest

from convergenced.errors import PeerError, PeerRefusedError, PeerUnreachableError
from convergenced.model import LocalPath
from convergenced.ports import Peer
from convergenced.store import program
from convergenced.store.peers import Timeouts, is_behind, open_peer
from convergenced.store.refusals import NOT_CONFIRMED
from tests.repositories import make_bare

X = "refs/heads/project/x"
Y = "refs/heads/project/y"
OID = "1" * 40

SCRIPT = """#!{python} -S
import json, os, sys, threading
here = {here!r}
with open(here + "/calls", "a") as calls:
    calls.write(json.dumps([sys.argv[1:], dict(os.environ)]) + "\\n")
if "core.sshCommand" in sys.argv:
    answer = json.load(open(here + "/ssh")) if os.path.exists(here + "/ssh") else [1, "", ""]
else:
    answer = json.load(open(here + "/answer"))
code, out, err = answer
sys.stdout.write(out); sys.stdout.flush()
sys.stderr.write(err); sys.stderr.flush()
if code is None:
    threading.Event().wait()
sys.exit(code)
"""


@dataclass
class FakeGit:
    folder: Path
    store: LocalPath

    def says(self, code: int | None, out: str = "", err: str = "") -> None:
        """The next calls end with `code` after saying this; with None they never end."""
        (self.folder / "answer").write_text(json.dumps([code, out, err]))

    def configures_ssh(self, command: str) -> None:
        (self.folder / "ssh").write_text(json.dumps([0, command + "\n", ""]))

    def peer(self, url: str = "https://host.example/x.git", **environ: str) -> Peer:
        given = {"PATH": str(self.folder), "HOME": "/home/ann", **environ}
        timeouts = Timeouts(connect=3, listing=0.4, transfer=60, stall=60)
        return open_peer(url, self.store, name="hub", transport="git", environ=given, timeouts=timeouts)

    @property
    def calls(self) -> list[tuple[list[str], dict[str, str]]]:
        lines = (self.folder / "calls").read_text().splitlines()
        return [(argv, environ) for argv, environ in map(json.loads, lines)]


@pytest.fixture
def git(tmp_path: Path) -> FakeGit:
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "git"
    script.write_text(SCRIPT.format(python=sys.executable, here=str(folder)))
    script.chmod(0o755)
    store = make_bare(tmp_path / "store.git")
    repository = pygit2.Repository(store)
    tree = repository.TreeBuilder().write()
    person = pygit2.Signature("a", "a@b", 1, 0)
    for ref in (X, Y):
        repository.create_commit(ref, person, person, ref, tree, [])
    made = FakeGit(folder, store)
    made.says(0)
    return made


def test_nothing_is_asked_of_a_person(git: FakeGit) -> None:
    git.peer(SSH_ASKPASS="/usr/bin/ask", GIT_ASKPASS="/usr/bin/ask", SSH_AUTH_SOCK="/run/agent").list()
    ((_, environ),) = git.calls
    assert environ["GIT_TERMINAL_PROMPT"] == "0"
    assert environ["GIT_ASKPASS"] == environ["SSH_ASKPASS"] == ""
    assert environ["LC_ALL"] == "C"
    assert (environ["HOME"], environ["SSH_AUTH_SOCK"]) == ("/home/ann", "/run/agent")


def test_no_variable_moves_git_away_from_the_store(git: FakeGit) -> None:
    git.peer(
        GIT_DIR="/elsewhere", GIT_WORK_TREE="/elsewhere", GIT_OBJECT_DIRECTORY="/e", GIT_TRACE="1"
    ).list()
    ((argv, environ),) = git.calls
    assert f"--git-dir={git.store}" in argv
    assert not {"GIT_DIR", "GIT_WORK_TREE", "GIT_OBJECT_DIRECTORY", "GIT_TRACE"} & environ.keys()


def test_helper_programs_hooks_and_upkeep_are_off(git: FakeGit) -> None:
    git.peer().list()
    ((argv, _),) = git.calls
    for setting in (
        "gc.auto=0",
        "maintenance.auto=false",
        "protocol.ext.allow=never",
        "core.hooksPath=/dev/null",
    ):
        assert setting in argv


def test_the_password_is_in_no_process_list(git: FakeGit) -> None:
    peer = git.peer("https://ann:hunter2@host.example/x.git")
    peer.list()
    git.says(0, f"*\t{X}:{X}\t[new branch]\nDone\n")
    peer.push([X])
    for argv, environ in git.calls:
        assert not any("hunter2" in argument for argument in argv)
        assert environ["CONVERGENCE_PEER_PASSWORD"] == "hunter2"
        assert "https://host.example/x.git" in argv
        assert any(argument.startswith("credential.https://host.example.helper=") for argument in argv)


@pytest.mark.parametrize("err", ["fatal: Authentication failed for '{url}'", "fatal: strange: {url} hunter2"])
def test_the_password_is_in_no_error(git: FakeGit, err: str) -> None:
    url = "https://ann:hunter2@host.example/x.git"
    git.says(128, "", err.format(url=url))
    with pytest.raises(PeerError) as caught:
        git.peer(url).list()
    assert "hunter2" not in str(caught.value)


SSH_OPTIONS = "-o BatchMode=yes -o ConnectTimeout=3"


def test_ssh_cannot_ask_and_does_not_wait_for_ever(git: FakeGit) -> None:
    git.peer("git@host.example:x.git").list()
    assert git.calls[-1][1]["GIT_SSH_COMMAND"].startswith(f"ssh {SSH_OPTIONS}")


def test_the_users_own_ssh_command_is_kept(git: FakeGit) -> None:
    git.configures_ssh("ssh -p 2222")
    git.peer("git@host.example:x.git").list()
    assert git.calls[-1][1]["GIT_SSH_COMMAND"].startswith(f"ssh -p 2222 {SSH_OPTIONS}")
    git.peer("git@host.example:x.git", GIT_SSH_COMMAND="/usr/bin/ssh -i 'my key'").list()
    assert git.calls[-1][1]["GIT_SSH_COMMAND"].startswith(f"/usr/bin/ssh -i 'my key' {SSH_OPTIONS}")


def test_a_program_that_is_not_openssh_gets_no_options_of_openssh(git: FakeGit) -> None:
    git.peer("git@host.example:x.git", GIT_SSH_COMMAND="plink -batch").list()
    assert git.calls[-1][1]["GIT_SSH_COMMAND"] == "plink -batch"
    git.peer("git@host.example:x.git", GIT_SSH="/opt/my-ssh").list()
    assert git.calls[-1][1]["GIT_SSH"] == "/opt/my-ssh"
    assert "GIT_SSH_COMMAND" not in git.calls[-1][1]


def test_what_a_peer_lists_is_not_believed_blindly(git: FakeGit) -> None:
    good = f"{OID}\t{X}\n"
    names = ("../../config", "a b", "a:b", "x.lock", "x" * 2000, "\x1b[0m", ".hidden", "a//b", "a@{1}", "")
    bad = "".join(f"{OID}\trefs/heads/{name}\n" for name in names)
    bad += f"{OID}\trefs/tags/v1\n{OID}\t--upload-pack=x\n{OID}\n\t\nnonsense\n"
    bad += f"{'0' * 40}\trefs/heads/zero\n{OID[:-1]}g\trefs/heads/hex\n{OID[:-1]}\trefs/heads/short\n"
    git.says(0, bad + good + bad)
    assert git.peer().list() == {X: OID}


def test_a_peer_that_lists_without_end_is_refused(git: FakeGit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "MAX_OUT", 10_000)
    git.says(None, f"{OID}\t{X}\n" * 1000)
    with pytest.raises(PeerRefusedError, match="more branches than can be read"):
        git.peer().list()


def test_a_peer_that_says_nothing_is_left_after_the_timeout(git: FakeGit) -> None:
    git.says(None)
    with pytest.raises(PeerUnreachableError, match=r"was not done after 0\.4 s"):
        git.peer().list()


def pushed(git: FakeGit, code: int, out: str, err: str = "") -> dict[str, str | None]:
    git.says(code, out, err)
    return git.peer().push([X, Y])


def test_a_push_is_done_only_where_git_lists_it_as_done(git: FakeGit) -> None:
    out = f"To https://host.example/x.git\n*\t{X}:{X}\t[new branch]\nDone\n"
    assert pushed(git, 0, out) == {X: None, Y: NOT_CONFIRMED}


def test_a_rejected_branch_is_not_done_even_when_git_ends_well(git: FakeGit) -> None:
    out = f"=\t{X}:{X}\t[up to date]\n!\t{Y}:{Y}\t[rejected] (fetch first)\nDone\n"
    answer = pushed(git, 0, out)
    assert answer[X] is None
    assert is_behind(answer[Y] or "")


def test_a_hook_that_declines_is_quoted(git: FakeGit) -> None:
    out = f" \t{X}:{X}\t1..2\n!\t{Y}:{Y}\t[remote rejected] (pre-receive hook declined)\nDone\n"
    err = "remote: error: GH001: Large files detected.\nerror: failed to push some refs"
    answer = pushed(git, 1, out, err)
    assert answer[X] is None
    assert answer[Y] == "[remote rejected] (pre-receive hook declined): GH001: Large files detected."
    assert not is_behind(answer[Y] or "")


def test_a_peer_that_breaks_off_before_it_answers_took_nothing(git: FakeGit) -> None:
    out = "".join(f"!\t{ref}:{ref}\t[remote failure] (remote failed to report status)\n" for ref in (X, Y))
    with pytest.raises(PeerUnreachableError):
        pushed(git, 1, out, "fatal: the remote end hung up unexpectedly")


def test_a_forced_or_deleting_push_is_never_asked_for(git: FakeGit) -> None:
    git.says(0, f"*\t{X}:{X}\t[new branch]\n")
    git.peer().push([X])
    argv, _ = git.calls[-1]
    assert argv[-3:] == ["--", "https://host.example/x.git", f"{X}:{X}"]
    assert not {"--force", "-f", "--mirror", "--delete", "--force-with-lease"} & set(argv)


def test_a_name_that_is_no_branch_reaches_no_command_line(git: FakeGit) -> None:
    with pytest.raises(PeerRefusedError):
        git.peer().fetch({"--upload-pack=x": "refs/convergence/x"})
    with pytest.raises(PeerRefusedError):
        git.peer().fetch({X: "refs/convergence/x:refs/heads/y"})
    assert not (git.folder / "calls").exists()


def test_many_branches_go_in_several_command_lines(git: FakeGit) -> None:
    git.peer().fetch({f"refs/heads/project/{n}": f"refs/convergence/hub/{n}" for n in range(450)})
    assert [sum(part.startswith("+refs/") for part in argv) for argv, _ in git.calls] == [200, 200, 50]


def test_without_a_git_program_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(PeerRefusedError) as caught:
        open_peer(
            "/srv/hub.git",
            LocalPath("/x"),
            name="hub",
            transport="git",
            environ={"PATH": str(tmp_path), "HOME": "/"},
        )
    assert "install git" in caught.value.hint
    assert os.listdir(tmp_path) == []
