"""What `ports.Files` promises, on the file system and in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convergenced.errors import ConvergenceError, FileChangedError, HeldError, RefusedInputError
from convergenced.machine.files import RealFiles
from convergenced.machine.growth import MOST
from convergenced.model import Kind, LocalPath, Snapshot
from convergenced.ports import Files
from tests.fakes.files import MemoryFiles

MOMENT = 1_700_000_000_123_456_789


class World(Protocol):
    """A place with files, and what a client or a user does to them."""

    files: Files

    def path(self, *parts: str) -> LocalPath: ...
    def write(self, path: str, data: bytes) -> None: ...
    def append(self, path: str, data: bytes) -> None: ...
    def unlink(self, path: str) -> None: ...
    def move(self, old: str, new: str) -> None: ...
    def make_folder(self, path: str) -> None: ...
    def link(self, path: str, target: str) -> None: ...
    def fifo(self, path: str) -> None: ...
    def content(self, path: str) -> bytes: ...


class RealWorld:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: Files = RealFiles([LocalPath(str(root))])

    def path(self, *parts: str) -> LocalPath:
        return LocalPath(os.path.join(self.root, *parts))

    def write(self, path: str, data: bytes) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(data)

    def append(self, path: str, data: bytes) -> None:
        with open(path, "ab") as file:
            file.write(data)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def move(self, old: str, new: str) -> None:
        os.rename(old, new)

    def make_folder(self, path: str) -> None:
        Path(path).mkdir(parents=True)

    def link(self, path: str, target: str) -> None:
        os.symlink(target, path)

    def fifo(self, path: str) -> None:
        os.mkfifo(path)

    def content(self, path: str) -> bytes:
        return Path(path).read_bytes()


class MemoryWorld:
    def __init__(self) -> None:
        self.memory = MemoryFiles()
        self.files: Files = self.memory
        self.write = self.memory.write
        self.append = self.memory.append
        self.unlink = self.memory.unlink
        self.move = self.memory.move
        self.make_folder = self.memory.make_folder
        self.link = self.memory.link
        self.fifo = self.memory.fifo
        self.content = self.memory.content
        self.make_folder("/world")

    def path(self, *parts: str) -> LocalPath:
        return LocalPath(os.path.join("/world", *parts))


@pytest.fixture(params=["real", "memory"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    return RealWorld(tmp_path) if request.param == "real" else MemoryWorld()


def free() -> None:
    """A guard that lets everything pass."""


def held() -> None:
    """A guard that lets nothing pass."""
    raise HeldError("Claude Code runs here", pid=7)


def put(
    world: World,
    path: LocalPath,
    data: bytes,
    *,
    expect: Snapshot | None = None,
    backup: LocalPath | None = None,
    guard: Callable[[], None] = free,
    kept: int = 0,
) -> Snapshot:
    return world.files.replace(
        path, iter([data]), expect=expect, mtime_ns=MOMENT, backup=backup, guard=guard, kept=kept
    )


def names(world: World, folder: LocalPath) -> list[str]:
    return [entry.name for entry in world.files.list(folder) or []]


# ---------------------------------------------------------------------- looking


def test_a_folder_is_listed_in_order_with_what_stands_there(world: World) -> None:
    world.write(world.path("b.jsonl"), b"12345")
    world.make_folder(world.path("a"))
    world.link(world.path("c"), world.path("b.jsonl"))
    world.fifo(world.path("d"))
    entries = world.files.list(world.path())
    assert entries is not None
    assert [(entry.name, entry.kind) for entry in entries] == [
        ("a", Kind.FOLDER),
        ("b.jsonl", Kind.FILE),
        ("c", Kind.LINK),
        ("d", Kind.OTHER),
    ]
    assert entries[1].snapshot == world.files.stat(world.path("b.jsonl"))
    assert [entry.snapshot for entry in entries if entry.kind is not Kind.FILE] == [None, None, None]


def test_what_is_no_folder_is_not_listed(world: World) -> None:
    world.write(world.path("file"), b"")
    world.make_folder(world.path("folder"))
    world.link(world.path("link"), world.path("folder"))
    for name in ("absent", "file", "link", "link/below", "file/below"):
        assert world.files.list(world.path(name)) is None


def test_an_undecodable_name_is_listed_and_can_be_read(world: World) -> None:
    name = os.fsdecode(b"\xff\xfe.jsonl")
    world.write(world.path(name), b"x")
    assert names(world, world.path()) == [name]
    assert world.files.read(world.path(name), 0, 10) == b"x"


def test_only_a_regular_file_has_a_snapshot(world: World) -> None:
    world.write(world.path("file"), b"abc")
    world.make_folder(world.path("folder"))
    world.link(world.path("link"), world.path("file"))
    world.fifo(world.path("fifo"))
    found = world.files.stat(world.path("file"))
    assert found is not None
    assert found.size == 3
    for name in ("absent", "folder", "link", "fifo", "folder/absent", "file/below"):
        assert world.files.stat(world.path(name)) is None


def test_a_snapshot_changes_with_an_append(world: World) -> None:
    world.write(world.path("file"), b"abc")
    before = world.files.stat(world.path("file"))
    world.append(world.path("file"), b"d")
    assert world.files.stat(world.path("file")) != before


def test_bytes_are_read_from_where_one_asks(world: World) -> None:
    world.write(world.path("file"), b"0123456789")
    path = world.path("file")
    assert world.files.read(path, 0, 4) == b"0123"
    assert world.files.read(path, 8, 4) == b"89"
    assert world.files.read(path, 10, 4) == b""
    assert world.files.read(path, 99, 4) == b""
    assert world.files.read(path, 3, 0) == b""


@pytest.mark.parametrize("name", ["absent", "folder", "link", "fifo", "linked/file", "absent/file"])
def test_nothing_but_a_regular_file_is_read(world: World, name: str) -> None:
    world.write(world.path("folder", "file"), b"secret")
    world.link(world.path("link"), world.path("folder", "file"))
    world.link(world.path("linked"), world.path("folder"))
    world.fifo(world.path("fifo"))
    with pytest.raises(FileChangedError):
        world.files.read(world.path(name), 0, 10)


# ---------------------------------------------------------------------- replacing


def test_a_new_file_is_put_in_place_with_its_folders(world: World) -> None:
    path = world.path("project", "sid", "subagents", "a.jsonl")
    written = world.files.replace(
        path, iter([b"one\n", b"", b"two\n"]), expect=None, mtime_ns=MOMENT, backup=None, guard=free
    )
    assert world.content(path) == b"one\ntwo\n"
    assert written == world.files.stat(path)
    assert (written.size, written.mtime_ns) == (8, MOMENT)
    assert names(world, world.path("project", "sid", "subagents")) == ["a.jsonl"]


def test_a_replaced_file_is_kept_as_a_backup(world: World) -> None:
    path, backup = world.path("s.jsonl"), world.path("backups", "p", "s.jsonl")
    world.write(path, b"old")
    written = put(world, path, b"new", expect=world.files.stat(path), backup=backup)
    assert world.content(path) == b"new"
    assert world.content(backup) == b"old"
    assert written == world.files.stat(path)


@pytest.mark.parametrize("kept", [1, 4, 7])
def test_the_beginning_of_the_old_file_can_be_kept(world: World, kept: int) -> None:
    path, backup = world.path("s.jsonl"), world.path("backups", "s.jsonl")
    world.write(path, b"one\ntwo\n")
    written = put(world, path, b"three\n", expect=world.files.stat(path), backup=backup, kept=kept)
    assert world.content(path) == b"one\ntwo\n"[:kept] + b"three\n"
    assert written == world.files.stat(path)
    world.append(path, b"four\n")
    assert world.content(backup) == b"one\ntwo\n"


def test_a_file_that_is_kept_whole_grows_in_place(world: World) -> None:
    path, backup = world.path("s.jsonl"), world.path("backups", "s.jsonl")
    world.write(path, b"one\n")
    expect = world.files.stat(path)
    assert expect is not None
    written = put(world, path, b"two\n", expect=expect, backup=backup, kept=4)
    assert world.content(path) == b"one\ntwo\n"
    assert written == world.files.stat(path)
    assert (written.inode, written.mtime_ns) == (expect.inode, MOMENT)
    assert names(world, world.path()) == ["s.jsonl"]


def test_an_empty_file_is_replaced(world: World) -> None:
    path, backup = world.path("s.jsonl"), world.path("backups", "s.jsonl")
    world.write(path, b"")
    put(world, path, b"one\n", expect=world.files.stat(path), backup=backup, kept=0)
    assert world.content(path) == b"one\n"
    assert world.content(backup) == b""


def test_what_is_much_does_not_go_in_place(world: World) -> None:
    path, backup = world.path("s.jsonl"), world.path("backups", "s.jsonl")
    world.write(path, b"one\n")
    expect = world.files.stat(path)
    chunks = [b"x" * 1000] * (MOST // 1000) + [b"y" * 1000]
    written = world.files.replace(
        path, iter(chunks), expect=expect, mtime_ns=MOMENT, backup=backup, guard=free, kept=4
    )
    assert world.content(path) == b"one\n" + b"".join(chunks)
    assert expect is not None
    assert written.inode != expect.inode
    assert world.content(backup) == b"one\n"


def test_a_file_that_is_held_does_not_grow(world: World) -> None:
    path = world.path("s.jsonl")
    world.write(path, b"one\n")
    with pytest.raises(HeldError):
        put(world, path, b"two\n", expect=world.files.stat(path), guard=held, kept=4)
    assert world.content(path) == b"one\n"


def test_a_file_that_grew_at_the_last_moment_is_not_added_to(world: World) -> None:
    path = world.path("s.jsonl")
    world.write(path, b"one\n")
    with pytest.raises(FileChangedError):
        put(
            world,
            path,
            b"two\n",
            expect=world.files.stat(path),
            guard=lambda: world.append(path, b"theirs\n"),
            kept=4,
        )
    assert world.content(path) == b"one\ntheirs\n"


def test_more_than_there_is_cannot_be_kept(world: World) -> None:
    path = world.path("s.jsonl")
    world.write(path, b"one\n")
    with pytest.raises(FileChangedError):
        put(world, path, b"two\n", expect=world.files.stat(path), kept=5)
    assert world.content(path) == b"one\n"
    assert names(world, world.path()) == ["s.jsonl"]


def test_nothing_is_kept_of_a_file_that_changed_since_the_plan(world: World) -> None:
    path = world.path("s.jsonl")
    world.write(path, b"old")
    expect = world.files.stat(path)
    world.append(path, b"er")
    with pytest.raises(FileChangedError):
        put(world, path, b"new", expect=expect, kept=3)
    assert world.content(path) == b"older"
    assert names(world, world.path()) == ["s.jsonl"]


def test_an_older_backup_is_never_written_over(world: World) -> None:
    path, backup = world.path("s.jsonl"), world.path("backups", "s.jsonl")
    for version in (b"1", b"2", b"3"):
        world.write(path, version)
        put(world, path, b"new", expect=world.files.stat(path), backup=backup)
    assert [world.content(world.path("backups", name)) for name in names(world, world.path("backups"))] == [
        b"1",
        b"2",
        b"3",
    ]


def test_what_is_appended_later_does_not_reach_the_backup(world: World) -> None:
    path, backup = world.path("s.jsonl"), world.path("backups", "s.jsonl")
    world.write(path, b"old")
    put(world, path, b"new", expect=world.files.stat(path), backup=backup)
    world.append(path, b"er")
    assert (world.content(path), world.content(backup)) == (b"newer", b"old")


def test_a_file_that_changed_since_the_plan_is_not_replaced(world: World) -> None:
    path = world.path("s.jsonl")
    world.write(path, b"old")
    expect = world.files.stat(path)
    world.append(path, b"er")
    with pytest.raises(FileChangedError):
        put(world, path, b"new", expect=expect, backup=world.path("backups", "s.jsonl"))
    assert world.content(path) == b"older"
    assert names(world, world.path()) == ["s.jsonl"]


def test_a_file_that_is_gone_is_not_replaced(world: World) -> None:
    path = world.path("s.jsonl")
    world.write(path, b"old")
    expect = world.files.stat(path)
    world.unlink(path)
    with pytest.raises(FileChangedError):
        put(world, path, b"new", expect=expect)
    assert names(world, world.path()) == []


def test_a_file_that_appeared_is_not_replaced(world: World) -> None:
    path = world.path("s.jsonl")
    world.write(path, b"theirs")
    with pytest.raises(FileChangedError):
        put(world, path, b"new", expect=None)
    assert world.content(path) == b"theirs"


def test_an_append_between_guard_and_rename_stops_the_rename(world: World) -> None:
    path = world.path("s.jsonl")
    world.write(path, b"old")
    with pytest.raises(FileChangedError):
        put(
            world,
            path,
            b"new",
            expect=world.files.stat(path),
            backup=world.path("backups", "s.jsonl"),
            guard=lambda: world.append(path, b"er"),
        )
    assert world.content(path) == b"older"
    assert names(world, world.path()) == ["s.jsonl"]


def test_a_file_that_appears_between_guard_and_rename_stays(world: World) -> None:
    path = world.path("p", "s.jsonl")
    with pytest.raises(FileChangedError):
        put(world, path, b"new", guard=lambda: world.write(path, b"theirs"))
    assert world.content(path) == b"theirs"
    assert names(world, world.path("p")) == ["s.jsonl"]


def test_a_folder_replaced_between_guard_and_rename_gets_nothing(world: World) -> None:
    path = world.path("p", "s.jsonl")
    world.write(path, b"old")

    def replaced() -> None:
        world.move(world.path("p"), world.path("q"))
        world.make_folder(world.path("p"))

    with pytest.raises(FileChangedError):
        put(world, path, b"new", expect=world.files.stat(path), guard=replaced)
    assert names(world, world.path("p")) == []
    assert names(world, world.path("q")) == ["s.jsonl"]
    assert world.content(world.path("q", "s.jsonl")) == b"old"


def test_a_held_file_is_left_alone_and_nothing_stays_behind(world: World) -> None:
    path = world.path("s.jsonl")
    world.write(path, b"old")
    before = world.files.stat(path)

    with pytest.raises(HeldError):
        put(world, path, b"new", expect=before, backup=world.path("backups", "s.jsonl"), guard=held)
    with pytest.raises(HeldError):
        put(world, world.path("fresh", "t.jsonl"), b"new", guard=held)
    assert world.files.stat(path) == before
    assert names(world, world.path()) == ["s.jsonl"]


def test_content_that_breaks_off_leaves_the_old_file(world: World) -> None:
    path = world.path("s.jsonl")
    world.write(path, b"old")

    def broken() -> Iterator[bytes]:
        yield b"half"
        raise RuntimeError("the store is gone")

    with pytest.raises(RuntimeError):
        world.files.replace(
            path, broken(), expect=world.files.stat(path), mtime_ns=1, backup=None, guard=free
        )
    assert world.content(path) == b"old"
    assert names(world, world.path()) == ["s.jsonl"]


@pytest.mark.parametrize("stands", ["link", "folder", "fifo", "dangling"])
def test_nothing_is_written_over_what_is_no_regular_file(world: World, stands: str) -> None:
    path, other = world.path("s.jsonl"), world.path("other")
    world.write(other, b"other")
    match stands:
        case "link":
            world.link(path, other)
        case "dangling":
            world.link(path, world.path("nowhere"))
        case "folder":
            world.make_folder(path)
        case _:
            world.fifo(path)
    with pytest.raises(RefusedInputError):
        put(world, path, b"new")
    assert world.content(other) == b"other"
    assert names(world, world.path()) == ["other", "s.jsonl"]


@pytest.mark.parametrize("stands", ["link", "file"])
def test_nothing_is_written_through_what_is_no_folder(world: World, stands: str) -> None:
    world.make_folder(world.path("elsewhere"))
    if stands == "link":
        world.link(world.path("p"), world.path("elsewhere"))
    else:
        world.write(world.path("p"), b"")
    with pytest.raises(RefusedInputError):
        put(world, world.path("p", "s.jsonl"), b"new")
    with pytest.raises(RefusedInputError):
        put(world, world.path("p", "deeper", "s.jsonl"), b"new")
    assert names(world, world.path("elsewhere")) == []


# ---------------------------------------------------------------------- removing


def test_a_removed_file_is_kept_as_a_backup(world: World) -> None:
    path, backup = world.path("m.md"), world.path("backups", "m.md")
    world.write(path, b"note")
    expect = world.files.stat(path)
    assert expect is not None
    world.files.remove(path, expect=expect, backup=backup, guard=free)
    assert world.files.stat(path) is None
    assert world.content(backup) == b"note"


def test_a_changed_or_held_file_is_not_removed(world: World) -> None:
    path, backup = world.path("m.md"), world.path("backups", "m.md")
    world.write(path, b"note")
    expect = world.files.stat(path)
    assert expect is not None

    with pytest.raises(HeldError):
        world.files.remove(path, expect=expect, backup=backup, guard=held)
    with pytest.raises(FileChangedError):
        world.files.remove(path, expect=expect, backup=backup, guard=lambda: world.append(path, b"!"))
    with pytest.raises(FileChangedError):
        world.files.remove(path, expect=expect, backup=backup, guard=free)
    assert world.content(path) == b"note!"
    assert names(world, world.path()) == ["m.md"]


def test_what_is_gone_cannot_be_removed(world: World) -> None:
    path = world.path("p", "m.md")
    world.write(path, b"note")
    expect = world.files.stat(path)
    assert expect is not None
    world.unlink(path)
    with pytest.raises(FileChangedError):
        world.files.remove(path, expect=expect, backup=None, guard=free)
    with pytest.raises(FileChangedError):
        world.files.remove(world.path("absent", "m.md"), expect=expect, backup=None, guard=free)


# ---------------------------------------------------------------------- both twins side by side

NAMES = st.sampled_from(["a", "b", "p/a", "p/b", "p/q/a"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), NAMES, st.binary(max_size=8)),
        st.tuples(st.just("append"), NAMES, st.binary(min_size=1, max_size=8)),
        st.tuples(st.just("unlink"), NAMES, st.just(b"")),
        st.tuples(st.just("link"), NAMES, st.just(b"")),
        st.tuples(st.just("replace"), NAMES, st.binary(max_size=8)),
        st.tuples(st.just("replace blindly"), NAMES, st.binary(max_size=8)),
        st.tuples(st.just("remove"), NAMES, st.just(b"")),
    ),
    max_size=12,
)


def step(world: World, verb: str, name: str, data: bytes) -> str:
    """What came of one step, in a form that can be compared."""
    path = world.path(*name.split("/"))
    try:
        match verb:
            case "write" | "append" if world.files.list(LocalPath(os.path.dirname(path))) is not None:
                entries = {
                    entry.name: entry.kind
                    for entry in world.files.list(LocalPath(os.path.dirname(path))) or []
                }
                if entries.get(os.path.basename(path), Kind.FILE) is Kind.FILE:
                    (world.write if verb == "write" else world.append)(path, data)
            case "unlink" if world.files.stat(path) is not None:
                world.unlink(path)
            case "link":
                folder = LocalPath(os.path.dirname(path))
                if (
                    os.path.basename(path) not in names(world, folder)
                    and world.files.list(folder) is not None
                ):
                    world.link(path, world.path("a"))
            case "replace":
                put(world, path, data, expect=world.files.stat(path), backup=world.path("kept", "x"))
            case "replace blindly":
                put(world, path, data, expect=None)
            case "remove" if (expect := world.files.stat(path)) is not None:
                world.files.remove(path, expect=expect, backup=world.path("kept", "x"), guard=free)
    except ConvergenceError as error:
        return type(error).__name__
    return "done"


def picture(world: World, *folder: str) -> dict[str, object]:
    seen: dict[str, object] = {}
    for entry in world.files.list(world.path(*folder)) or []:
        inner = (*folder, entry.name)
        if entry.kind is Kind.FOLDER:
            seen |= picture(world, *inner)
        seen["/".join(inner)] = (
            world.files.read(world.path(*inner), 0, 100) if entry.kind is Kind.FILE else entry.kind
        )
    return seen


@given(STEPS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_both_twins_come_to_the_same(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, bytes]]
) -> None:
    real, memory = RealWorld(tmp_path_factory.mktemp("world")), MemoryWorld()
    for verb, name, data in steps:
        assert step(real, verb, name, data) == step(memory, verb, name, data), (verb, name)
        assert picture(real) == picture(memory)
