"""Files that change, move, vanish or are odd while real daemons read and write them.

Each pass is a real `convergenced --once`. Whatever happens: nothing is lost, one bad file never stops
the others, the log says what was set aside and what to do, and afterwards all goes on.
"""

from __future__ import annotations

import os
import random
import shutil
import stat
import subprocess
import sys
import threading
import unicodedata
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.machines import DAEMON, PATIENCE, Machine, await_true, git, make_hub, record, stop_all
from tests.profiles import DEEP

REMOTE = "git@example.org:team/proj.git"
SOMEBODY = 65534
MEBIBYTE = 1024 * 1024
pytestmark = pytest.mark.timeout(7200 if DEEP else 120)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


def session(name: str) -> str:
    """A session id, the same in every run."""
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, name))


def make_machine(top: Path, name: str, hub: Path, project: str = "src/proj") -> Machine:
    one = Machine(top / name, name, (hub,), project_name=project)
    git("init", "-q", one.project)
    git("-C", one.project, "remote", "add", "origin", REMOTE)
    return one


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    return make_hub(tmp_path / "hub.git")


@pytest.fixture
def one(tmp_path: Path, hub: Path) -> Iterator[Machine]:
    machine = make_machine(tmp_path, "one", hub)
    yield machine
    stop_all([machine])


@pytest.fixture
def other(tmp_path: Path, hub: Path) -> Machine:
    return make_machine(tmp_path, "other", hub, "code/proj")


def once(machine: Machine, *codes: int) -> str:
    """One full pass, which must end with one of the codes (0: all in step); what the log said."""
    done = machine.run_daemon("--once")
    assert done.returncode in (codes or (0,)), done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stderr


def attention(machine: Machine) -> dict[str, str]:
    """What `status` of a running daemon wants a person to see, with the remedy for each."""
    return {found["text"]: found["fix"] for found in machine.status()["attention"]}


def stored(machine: Machine, sid: str) -> bytes:
    """A session's transcript as the store has it, in canonical form."""
    return b"".join(cat(machine, row) for row in rows(machine, f"segments/{sid}/"))


def rows(machine: Machine, path: str) -> list[str]:
    listed = git("-C", machine.store, "ls-tree", "-r", "-z", "project/proj", path)
    return [row for row in listed.split("\0") if row]


def cat(machine: Machine, row: str) -> bytes:
    words = ["git", "-C", str(machine.store), "cat-file", "blob", row.split()[2]]
    return subprocess.run(words, check=True, capture_output=True).stdout


def committed(machine: Machine) -> dict[str, bytes]:
    """The files below `context/` in the store."""
    return {
        row.partition("\t")[2].removeprefix("context/"): cat(machine, row)
        for row in rows(machine, "context/")
    }


def everything_stored(machine: Machine) -> bytes:
    """All blobs that the project's branch and its history hold, one after the other."""
    listed = git("-C", machine.store, "rev-list", "--objects", "project/proj").split("\n")
    asked = "\n".join(row.split()[0] for row in listed if row).encode()
    words = ["git", "-C", str(machine.store), "cat-file", "--batch"]
    return subprocess.run(words, input=asked, check=True, capture_output=True).stdout


def lines_of(machine: Machine, sid: str, count: int, start: int = 0) -> bytes:
    return b"".join(record(sid, machine.project, number) for number in range(start, start + count))


# ---------------------------------------------------------------- files that change while they are used

APPENDER = """
import os, sys
path, marks, flags = sys.argv[1], int(sys.argv[2]), os.O_WRONLY | os.O_APPEND | os.O_CREAT
kept = os.open(path, flags, 0o600) if sys.argv[3] == "keeps it open" else None
for number in range(marks):
    line = b'{"type":"user","uuid":"mark-%d.","message":{"content":"x"}}\\n' % number
    fd = kept if kept is not None else os.open(path, flags, 0o600)
    assert os.write(fd, line) == len(line)
    if kept is None:
        os.close(fd)
    if number % 40 == 0:
        print(number, flush=True)
        sys.stdin.readline()
"""


@pytest.mark.parametrize("way", ["opens it for each line", "keeps it open"])
def test_every_line_that_is_appended_while_its_file_is_replaced_is_in_the_store_or_a_backup(
    one: Machine, other: Machine, way: str
) -> None:
    sid, marks = session("shared"), 40 * (60 if DEEP else 3)
    with (one.conv / "config.toml").open("a") as config:
        config.write("[backups]\nkeep = 1\n")
    one.append(sid, lines_of(one, sid, 3))
    other.append(session("begin"), lines_of(other, session("begin"), 1))
    for machine in (one, other, one):
        once(machine)
    path = one.context / f"{sid}.jsonl"
    words = [sys.executable, "-c", APPENDER, str(path), str(marks), way]
    appender = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert appender.stdin is not None
    assert appender.stdout is not None
    with appender, appender.stdin, appender.stdout:
        number = 0
        while appender.stdout.readline():
            number += 1
            other.append(sid, record(sid, other.project, number, f"over there {number}"))
            once(other)
            appender.stdin.write("\n")
            appender.stdin.flush()  # it writes on while this pass reads and replaces
            once(one, 0, 6)
    assert appender.returncode == 0
    for machine in (one, other, one):
        once(machine)
    backups = b"".join(path.read_bytes() for path in one.conv.glob("backups/**/*.jsonl"))
    known = everything_stored(one) + backups
    assert [mark for mark in range(marks) if b'"mark-%d."' % mark not in known] == []
    assert one.tip() == other.tip()
    for text in (f"over there {n}" for n in range(1, number + 1)):
        assert any(text.encode() in data for data in one.files().values()), text


def test_files_that_are_renamed_removed_and_made_again_while_they_are_read_end_as_they_stand(
    one: Machine, other: Machine
) -> None:
    chance, pause = random.Random(11), threading.Event()
    kept = session("kept")
    other.append(session("o"), lines_of(other, session("o"), 1))
    one.append(kept, lines_of(one, kept, 5))
    for number in range(20):
        one.write(f"memory/note{number}.md", b"a note\n" * 10)
        one.append(session(f"s{number}"), lines_of(one, session(f"s{number}"), 20))
    once(one)
    for turn in range(20 if DEEP else 2):
        words = [*DAEMON, "--once"]
        with subprocess.Popen(words, env=one.environ, stderr=subprocess.PIPE) as pass_:
            for _ in range(200):
                _shake(one, chance)
                pause.wait(0.005)
            assert pass_.stderr is not None
            said = pass_.stderr.read().decode()
        assert pass_.returncode in (0, 6), said
        assert "Traceback" not in said, said
        one.append(kept, record(kept, one.project, 5 + turn))
    once(one)
    notes = {name: data for name, data in one.files().items() if name.startswith("memory/")}
    assert {name: data for name, data in committed(one).items() if name.startswith("memory/")} == notes
    for name, data in one.files().items():
        if name.endswith(".jsonl"):
            complete = data[: data.rfind(b"\n") + 1]
            assert stored(one, name.removesuffix(".jsonl")).count(b"\n") >= complete.count(b"\n"), name
    for machine in (other, one):
        once(machine)
    assert stored(other, kept) == stored(one, kept)


def _shake(machine: Machine, chance: random.Random) -> None:
    number = chance.randrange(20)
    note = machine.context / "memory" / f"note{number}.md"
    sid = session(f"s{number}")
    transcript = machine.context / f"{sid}.jsonl"
    match chance.randrange(7):
        case 0:
            note.unlink(missing_ok=True)
        case 1:
            note.write_bytes(b"written anew\n" * chance.randrange(1, 2000))
        case 2 if note.exists():
            note.rename(note.with_name(f"note{chance.randrange(20)}.md"))
        case 3:
            transcript.unlink(missing_ok=True)
        case 4:
            machine.append(sid, lines_of(machine, sid, 20))
        case 5 if transcript.exists():
            transcript.rename(machine.context / f"{session(f's{chance.randrange(20)}')}.jsonl")
        case 6 if transcript.exists():
            os.truncate(transcript, transcript.stat().st_size // 2)


def test_a_transcript_that_is_cut_while_it_is_read_loses_nothing_that_was_committed(one: Machine) -> None:
    sid, good = session("cut"), session("good")
    whole = lines_of(one, sid, 60_000 if DEEP else 12_000)
    path = one.append(sid, whole)
    one.append(good, lines_of(one, good, 3))
    words = [*DAEMON, "--once"]
    with subprocess.Popen(words, env=one.environ, stderr=subprocess.DEVNULL) as pass_:
        await_true(lambda: _reads(pass_.pid, path) or pass_.poll() is not None, "the transcript to be read")
        os.truncate(path, len(whole) // 2)
    assert pass_.returncode in (0, 6)
    once(one)
    assert stored(one, good).count(b"\n") == 3
    part = path.read_bytes()
    held = stored(one, sid)
    assert held.count(b"\n") >= part.count(b"\n")
    one.append(sid, b"\n" + record(sid, one.project, 7, "afterwards"))
    once(one)
    assert stored(one, sid).startswith(held)
    assert b"afterwards" in stored(one, sid)


def _reads(pid: int, path: Path) -> bool:
    folder = f"/proc/{pid}/fd"
    try:
        return any(os.readlink(f"{folder}/{name}") == str(path) for name in os.listdir(folder))
    except FileNotFoundError:
        return False


# --------------------------------------------------------------------------- the same name, another file


def _rewritten(path: Path, data: bytes, *, inode: str, mtime: int) -> None:
    """Puts other content of the same size and time at `path`, in the same or another inode."""
    before = path.stat()
    if inode == "another":
        fresh = path.with_name("fresh")
        fresh.write_bytes(data)
        fresh.rename(path)
    else:
        path.write_bytes(data)
    os.utime(path, ns=(mtime, mtime))
    now = path.stat()
    assert now.st_size == before.st_size
    assert (now.st_ino == before.st_ino) == (inode == "the same")


def test_other_content_of_the_same_size_is_found_by_inode_or_time(one: Machine) -> None:
    sid = session("s")
    one.append(sid, lines_of(one, sid, 1))
    note = one.write("memory/a.md", b"one thing\n")
    once(one)
    when = note.stat().st_mtime_ns
    _rewritten(note, b"two thing\n", inode="another", mtime=when)
    once(one)
    assert committed(one)["memory/a.md"] == b"two thing\n"
    _rewritten(note, b"old thing\n", inode="the same", mtime=when - 10**15)
    once(one)
    assert committed(one)["memory/a.md"] == b"old thing\n"


def test_content_that_no_stat_can_tell_apart_is_found_by_reading_all_and_never_lost(
    one: Machine, other: Machine
) -> None:
    """Same inode, size and time: only the time of change differs, which backups and links change too."""
    sid = session("s")
    one.append(sid, lines_of(one, sid, 1))
    other.append(session("o"), lines_of(other, session("o"), 1))
    note, second = one.write("memory/a.md", b"one thing\n"), one.write("memory/b.md", b"one thing\n")
    for machine in (one, other):
        once(machine)
    for path in (note, second):
        _rewritten(path, b"two thing\n", inode="the same", mtime=path.stat().st_mtime_ns)
    other.write("memory/a.md", b"one thing, and more\n")
    once(other)
    one.start()
    one.do("sync", "--wait", "--timeout", "30")
    assert note.read_bytes() == b"one thing, and more\n"
    assert b"two thing\n" in [path.read_bytes() for path in one.conv.glob("backups/**/*.md")]
    one.do("sync", "--full", "--wait", "--timeout", "30")
    assert committed(one)["memory/b.md"] == b"two thing\n"


def test_an_older_copy_with_its_older_time_shortens_nothing(one: Machine) -> None:
    sid = session("s")
    path = one.append(sid, lines_of(one, sid, 4))
    copy = path.with_name("copy")
    shutil.copy2(path, copy)
    one.append(sid, lines_of(one, sid, 4, start=4))
    once(one)
    before = stored(one, sid)
    shutil.copy2(copy, path)
    os.utime(path, ns=(10**9, 10**9))
    once(one)
    assert stored(one, sid) == before
    one.append(sid, record(sid, one.project, 20, "went on from the copy"))
    once(one)
    assert before in stored(one, sid)
    assert b"went on from the copy" in stored(one, sid)


# ------------------------------------------------------------------------------------------------- links


def test_a_context_folder_that_became_a_link_is_neither_read_nor_written_through(
    one: Machine, other: Machine
) -> None:
    sid, elsewhere = session("s"), one.top / "elsewhere"
    one.append(sid, lines_of(one, sid, 2))
    for machine in (one, other):
        other.append(session("o"), lines_of(other, session("o"), 1))
        once(machine)
    tip = one.tip()
    one.context.rename(elsewhere)
    one.context.symlink_to(elsewhere)
    (elsewhere / f"{session('x')}.jsonl").write_bytes(lines_of(one, session("x"), 1))
    before = _looks(elsewhere)
    other.append(sid, record(sid, other.project, 2))
    once(other)
    said = once(one, 6)
    assert "link" in said
    assert _looks(elsewhere) == before
    assert session("x").encode() not in everything_stored(one)
    one.start()
    assert any("link" in text and fix for text, fix in attention(one).items()), attention(one)
    assert one.status()["projects"][0]["state"] != "synced"
    one.stop()
    assert git("-C", one.store, "merge-base", tip, one.tip()).strip() == tip
    one.context.unlink()
    elsewhere.rename(one.context)
    once(one)
    assert one.files()[f"{sid}.jsonl"].count(b"\n") == 3
    assert session("x").encode() in everything_stored(one)


def _looks(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_projects_folder_that_is_a_link_is_the_users_own_and_followed(one: Machine, other: Machine) -> None:
    sid = session("s")
    one.projects.rename(one.home / "kept elsewhere")
    one.projects.symlink_to(one.home / "kept elsewhere")
    one.append(sid, lines_of(one, sid, 2))
    other.append(session("o"), lines_of(other, session("o"), 1))
    for machine in (one, other, one):
        once(machine)
    assert one.projects.is_symlink()
    assert f"{session('o')}.jsonl" in one.files()
    assert f"{sid}.jsonl" in other.files()


def test_a_memory_folder_that_became_a_link_is_left_alone_and_its_notes_stay(
    one: Machine, other: Machine
) -> None:
    sid, elsewhere = session("s"), one.top / "elsewhere"
    one.append(sid, lines_of(one, sid, 1))
    one.write("memory/a.md", b"a note\n")
    other.append(session("o"), lines_of(other, session("o"), 1))
    for machine in (one, other):
        once(machine)
    (one.context / "memory").rename(elsewhere)
    (one.context / "memory").symlink_to(elsewhere)
    (elsewhere / "secret.md").write_text("not to be shared\n")
    other.write("memory/b.md", b"another\n")
    other.write("memory/a.md", b"a note, and more\n")
    other.append(sid, record(sid, other.project, 1))
    once(other)
    before = _looks(elsewhere)
    once(one, 0, 6)
    one.start()
    assert any("memory" in text and "link" in text and fix for text, fix in attention(one).items())
    one.stop()
    assert _looks(elsewhere) == before
    assert one.files()[f"{sid}.jsonl"].count(b"\n") == 2
    assert committed(one)["memory/a.md"] == b"a note, and more\n"
    assert b"not to be shared" not in everything_stored(one)
    (one.context / "memory").unlink()
    elsewhere.rename(one.context / "memory")
    (one.context / "memory" / "secret.md").unlink()
    for machine in (one, other):
        once(machine)
    assert one.files()["memory/b.md"] == b"another\n"
    assert one.files()["memory/a.md"] == other.files()["memory/a.md"] == b"a note, and more\n"


def _put_odd(path: Path, what: str, secret: Path) -> None:
    match what:
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "socket":
            os.mknod(path, stat.S_IFSOCK | 0o600)
        case "link":
            path.symlink_to(secret)
        case _:
            path.symlink_to(secret.with_name("nowhere"))


def test_transcripts_that_became_something_else_wait_alone_until_that_is_gone(
    one: Machine, other: Machine
) -> None:
    odd = {what: session(what) for what in ("folder", "fifo", "socket", "link", "link to nowhere")}
    good, secret = session("good"), one.top / "secret"
    for sid in (*odd.values(), good):
        one.append(sid, lines_of(one, sid, 2))
    other.append(session("o"), lines_of(other, session("o"), 1))
    for machine in (one, other):
        once(machine)
    secret.write_bytes(record(odd["link"], one.project, 9, "not to be shared"))
    kinds = {}
    for what, sid in odd.items():
        path = one.context / f"{sid}.jsonl"
        path.rename(one.top / sid)
        _put_odd(path, what, secret)
        kinds[path] = path.lstat().st_mode
        other.append(sid, record(sid, other.project, 2))
    one.append(good, record(good, one.project, 2))
    once(other)
    said = once(one, 6)
    assert {path: path.lstat().st_mode for path in kinds} == kinds
    assert stored(one, good).count(b"\n") == 3
    for sid in odd.values():
        assert f"{sid}.jsonl" in said
        assert stored(one, sid).count(b"\n") == 3
    assert b"not to be shared" not in everything_stored(one)
    assert not secret.with_name("nowhere").exists()
    for what, sid in odd.items():
        path = one.context / f"{sid}.jsonl"
        if what == "folder":
            path.rmdir()
        else:
            path.unlink()
        (one.top / sid).rename(path)
    once(one)
    for sid in (*odd.values(), good):
        assert one.files()[f"{sid}.jsonl"].count(b"\n") == 3


@as_root
def test_a_hard_link_to_another_users_file_is_parted_from_it_and_that_one_untouched(
    one: Machine, other: Machine
) -> None:
    sid = session("s")
    theirs = one.top / "theirs"
    theirs.write_bytes(lines_of(one, sid, 2))
    os.chown(theirs, SOMEBODY, SOMEBODY)
    theirs.chmod(0o644)
    one.context.mkdir(parents=True)
    os.link(theirs, one.context / f"{sid}.jsonl")
    other.append(session("o"), lines_of(other, session("o"), 1))
    for machine in (one, other):
        once(machine)
    before = theirs.read_bytes()
    other.append(sid, record(sid, other.project, 2))
    for machine in (other, one):
        once(machine)
    assert theirs.read_bytes() == before
    assert theirs.stat().st_uid == SOMEBODY
    assert one.files()[f"{sid}.jsonl"].count(b"\n") == 3


# ------------------------------------------------------------------------------------------------- names


def test_names_that_some_machine_could_not_hold_are_set_aside_each_and_the_rest_is_synced(
    one: Machine, other: Machine
) -> None:
    sid = session("s")
    one.append(sid, lines_of(one, sid, 2))
    longest = "n" * 252 + ".md"
    composed, decomposed = (
        unicodedata.normalize("NFC", "caf\u00e9.md"),
        unicodedata.normalize("NFD", "caf\u00e9.md"),
    )
    names = (
        longest,
        "Note.md",
        "note.md",
        composed,
        decomposed,
        "two\nlines.md",
        "back\\slash.md",
        "plain.md",
    )
    for name in names:
        one.write(f"memory/{name}", name.encode())
    (one.context / "memory" / os.fsdecode(b"\xff\xfe.md")).write_bytes(b"undecodable\n")
    results = one.context / sid / "tool-results"
    results.mkdir(parents=True)
    for name in ("a.txt", "A.txt", os.fsdecode(b"\xe9.txt"), "line\n.txt"):
        (results / name).write_bytes(name.encode(errors="surrogateescape"))
    (one.context / f"{sid.upper()}.jsonl").write_bytes(record(sid, one.project, 9, "upper case"))
    (one.context / os.fsdecode(b"\xff.jsonl")).write_bytes(record(sid, one.project, 9, "undecodable"))
    other.append(session("o"), lines_of(other, session("o"), 1))
    for machine in (one, other, one):
        once(machine)
    found = [name for name in other.files() if not name.endswith(".jsonl")]
    # Of two names that are one elsewhere the first in byte order is taken.
    assert sorted(found) == sorted(
        [
            *(f"memory/{name}" for name in (longest, "Note.md", decomposed, "plain.md")),
            f"{sid}/tool-results/A.txt",
        ]
    )
    for name in found:
        assert other.files()[name] == one.files()[name]
    one.start()
    told = attention(one)
    assert len(told) == 8
    assert all(told.values())
    for words in ("note.md", "café.md", "control character", "path separator", "UTF-8", "a.txt"):
        assert any(words in unicodedata.normalize("NFC", text) for text in told), (words, told)
    assert all(text.isprintable() for text in one.ctl("status").stdout.splitlines())
    before = sorted(os.listdir(os.fsencode(one.context / "memory")))
    (one.context / "memory" / "note.md").rename(one.context / "memory" / "renamed.md")
    one.do("sync", "--wait", "--timeout", "30")
    assert len(attention(one)) == 7
    assert len(before) == len(os.listdir(one.context / "memory"))
    assert committed(one)["memory/renamed.md"] == b"note.md"


# ----------------------------------------------------------------------------------------------- amounts

MEASURED = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stderr=subprocess.PIPE)
sys.stderr.buffer.write(done.stderr)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
sys.exit(done.returncode)
"""


def measured_once(machine: Machine, *codes: int) -> int:
    """One pass; the most memory it used, in bytes. A small program starts it: a child counts its parent."""
    words = [sys.executable, "-c", MEASURED, *DAEMON, "--once"]
    done = subprocess.run(words, env=machine.environ, capture_output=True, text=True, check=False)
    assert done.returncode in (codes or (0,)), done.stderr
    assert "Traceback" not in done.stderr
    return int(done.stdout)


def write_transcript(machine: Machine, sid: str, size: int) -> Path:
    """A transcript of about `size` bytes, in records of some 20 kB that do not compress to nothing."""
    chance = random.Random(5)
    path = machine.append(sid, b"")
    with path.open("ab") as stream:
        number = 0
        while stream.tell() < size:
            text = f"turn {number} in {machine.project}/src " + chance.randbytes(10_000).hex()
            stream.write(record(sid, machine.project, number, text))
            number += 1
    return path


def lines_in(path: Path) -> int:
    with path.open("rb") as stream:
        return sum(1 for _ in stream)


def test_memory_does_not_grow_with_the_length_of_a_transcript(
    one: Machine, other: Machine, tmp_path: Path
) -> None:
    small, large = session("small"), session("large")
    write_transcript(one, small, 4 * MEBIBYTE)
    other.append(session("o"), lines_of(other, session("o"), 1))
    first = {machine.name: measured_once(machine) for machine in (one, other)}
    path = write_transcript(one, large, (1024 if DEEP else 32) * MEBIBYTE)
    for machine in (one, other):
        assert measured_once(machine) <= 1.5 * first[machine.name] + 16 * MEBIBYTE, machine.name
    assert lines_in(other.context / path.name) == lines_in(path)
    other.append(large, record(large, other.project, 10**6))
    for machine in (other, one):
        assert measured_once(machine) <= 1.5 * first[machine.name] + 16 * MEBIBYTE, machine.name
    with path.open("rb") as stream:
        stream.seek(-1000, os.SEEK_END)
        assert str(uuid.uuid5(uuid.UUID(large), str(10**6))).encode() in stream.read()


def test_a_line_without_end_costs_no_memory_and_arrives_when_it_ends(one: Machine, other: Machine) -> None:
    sid, good, sparse = session("endless"), session("good"), session("sparse")
    one.append(sid, lines_of(one, sid, 1))
    one.append(good, lines_of(one, good, 2))
    other.append(session("o"), lines_of(other, session("o"), 1))
    base = measured_once(one)
    body = b'{"type":"user","message":{"content":"' + b"x" * (48 * MEBIBYTE)
    path = one.append(sid, body)
    hole = one.append(sparse, lines_of(one, sparse, 1))
    os.truncate(hole, (1024 if DEEP else 128) * MEBIBYTE)
    one.append(good, record(good, one.project, 2))
    assert measured_once(one, 0, 6) <= base + 32 * MEBIBYTE
    assert stored(one, sid).count(b"\n") == 1
    assert stored(one, good).count(b"\n") == 3
    assert stored(one, sparse).count(b"\n") == 1
    hole.unlink()
    one.append(sid, b'"}}\n')
    for machine in (one, other):
        once(machine)
    assert stored(one, sid).count(b"\n") == 2
    assert other.files()[path.name].endswith(b'xxx"}}\n')
    assert len(other.files()[path.name]) - len(other.files()[path.name].partition(b"\n")[0]) == len(body) + 5


def test_many_small_files_take_bounded_memory_and_a_second_look_none_of_them(
    one: Machine, other: Machine
) -> None:
    sid, count = session("s"), 50_000 if DEEP else 250
    one.append(sid, lines_of(one, sid, 1))
    base = measured_once(one)
    results = one.context / sid / "tool-results"
    memory = one.context / "memory"
    for folder, suffix in ((results, "txt"), (memory, "md")):
        folder.mkdir(parents=True)
        for number in range(count):
            (folder / f"{number}.{suffix}").write_bytes(b"%d in %s\n" % (number, os.fsencode(one.project)))
    # Names, notes and tree entries of each file: some kilobytes, not the files' content.
    allowed = base + 32 * MEBIBYTE + 2 * count * 4096
    assert measured_once(one) <= allowed
    tip = one.tip()
    assert len(committed_names(one)) == 2 * count
    assert measured_once(one) <= allowed
    assert one.tip() == tip
    other.append(session("o"), lines_of(other, session("o"), 1))
    assert measured_once(other) <= allowed + base
    assert len(list(other.context.rglob("*.md"))) == len(list(other.context.rglob("*.txt"))) == count


def committed_names(machine: Machine) -> list[str]:
    return git("-C", machine.store, "ls-tree", "-r", "--name-only", "project/proj", "context/").splitlines()


# ------------------------------------------------------------------------------------------- permissions


def once_without_privileges(machine: Machine, *codes: int) -> str:
    """A pass of a process that permissions hold for, though root may have started it."""
    dropped = "--bounding-set=-dac_override,-dac_read_search"
    words = ["setpriv", dropped, *DAEMON] if os.geteuid() == 0 else [*DAEMON]
    done = subprocess.run(
        [*words, "--once"],
        env=machine.environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode in (codes or (0,)), done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stderr


@pytest.mark.skipif(
    os.geteuid() == 0 and shutil.which("setpriv") is None, reason="root may read what nobody may"
)
def test_what_may_not_be_read_waits_alone_and_is_taken_up_when_it_may(one: Machine) -> None:
    machine = one
    odd, good, folder = session("odd"), session("good"), session("folder")
    for sid in (odd, good, folder):
        machine.append(sid, lines_of(machine, sid, 2))
    machine.write("memory/a.md", b"a note\n")
    machine.write("memory/b.md", b"another\n")
    machine.write(f"{folder}/tool-results/x.txt", b"a result\n")
    once_without_privileges(machine)
    for sid in (odd, good):
        machine.append(sid, record(sid, machine.project, 2))
    shut = [
        machine.context / f"{odd}.jsonl",
        machine.context / "memory" / "a.md",
        machine.context / folder / "tool-results",
    ]
    (machine.context / "memory" / "a.md").write_bytes(b"a note, and more\n")
    for path in shut:
        path.chmod(0)
    said = once_without_privileges(machine, 0, 6)
    for name in (f"{odd}.jsonl", "memory/a.md", "tool-results"):
        assert name in said, said
    assert stored(machine, odd).count(b"\n") == 2
    assert stored(machine, good).count(b"\n") == 3
    assert committed(machine)["memory/a.md"] == b"a note\n"
    assert committed(machine)[f"{folder}/tool-results/x.txt"] == b"a result\n"
    for path in shut:
        path.chmod(0o700)
    once_without_privileges(machine)
    assert stored(machine, odd).count(b"\n") == 3
    assert committed(machine)["memory/a.md"] == b"a note, and more\n"
