"""What only the real file system has: links on the way, other disks, full disks, permissions, crashes."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from convergenced import steps
from convergenced.errors import ConvergenceError, FileChangedError, HeldError, RefusedInputError
from convergenced.machine import durable, files, folders, targets
from convergenced.machine.durable import create_durably, read_bounded, write_durably
from convergenced.machine.files import RealFiles, sweep_temporaries
from convergenced.model import LocalPath, Snapshot

MOMENT = 1_700_000_000_123_456_789


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "projects").mkdir()
    return tmp_path / "projects"


@pytest.fixture
def real(root: Path, tmp_path: Path) -> RealFiles:
    return RealFiles([at(root), at(tmp_path / "backups")])


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    shm = Path("/dev/shm")
    if not shm.is_dir() or shm.stat().st_dev == tmp_path.stat().st_dev or not os.access(shm, os.W_OK):
        pytest.skip("there is no second file system to write to")
    with tempfile.TemporaryDirectory(dir=shm) as folder:
        yield Path(folder)


def at(path: Path) -> LocalPath:
    return LocalPath(str(path))


def free() -> None:
    """A guard that lets everything pass."""


def put(
    real: RealFiles,
    path: Path,
    data: bytes = b"new",
    *,
    expect: Snapshot | None = None,
    backup: Path | None = None,
    guard: Callable[[], None] = free,
) -> Snapshot:
    return real.replace(
        at(path),
        iter([data]),
        expect=expect,
        mtime_ns=MOMENT,
        backup=at(backup) if backup else None,
        guard=guard,
    )


def failing(number: int) -> Callable[..., None]:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()


# ---------------------------------------------------------------------- the way to a file


def test_a_root_behind_a_symlink_is_the_users_own_choice(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    real = RealFiles([at(tmp_path / "link")])
    put(real, tmp_path / "link" / "p" / "s.jsonl")
    assert (root / "p" / "s.jsonl").read_bytes() == b"new"
    assert [entry.name for entry in real.list(at(tmp_path / "link")) or []] == ["p"]


def test_a_symlink_above_a_root_is_followed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "home").symlink_to(tmp_path)
    real = RealFiles([at(tmp_path / "home" / "projects")])
    put(real, tmp_path / "home" / "projects" / "s.jsonl")
    assert (root / "s.jsonl").read_bytes() == b"new"


def test_outside_all_roots_no_symlink_is_followed(root: Path, tmp_path: Path) -> None:
    (root / "s.jsonl").write_bytes(b"x")
    (tmp_path / "link").symlink_to(root)
    assert RealFiles().stat(at(tmp_path / "link" / "s.jsonl")) is None
    assert RealFiles().stat(at(Path(os.path.realpath(root)) / "s.jsonl")) is not None


def test_a_root_that_is_not_there_yet_is_made_for_the_first_file(tmp_path: Path) -> None:
    real = RealFiles([at(tmp_path / "claude" / "projects")])
    assert real.list(at(tmp_path / "claude" / "projects")) is None
    put(real, tmp_path / "claude" / "projects" / "p" / "s.jsonl")
    assert (tmp_path / "claude" / "projects" / "p" / "s.jsonl").read_bytes() == b"new"


@pytest.mark.parametrize("way", ["elsewhere/x", "projects/../elsewhere/x", "projects-of-others/x"])
def test_nothing_outside_the_roots_is_written_or_removed(real: RealFiles, tmp_path: Path, way: str) -> None:
    path = Path(os.path.normpath(tmp_path / way))
    path.parent.mkdir()
    path.write_bytes(b"x")
    climbing = LocalPath(f"{tmp_path}/{way}")
    expect = RealFiles().stat(at(path))
    assert expect is not None
    with pytest.raises(RefusedInputError, match="outside"):
        real.replace(climbing, iter([b"new"]), expect=expect, mtime_ns=MOMENT, backup=None, guard=free)
    with pytest.raises(RefusedInputError, match="outside"):
        real.remove(climbing, expect=expect, backup=None, guard=free)
    assert path.read_bytes() == b"x"


def test_what_is_written_is_for_this_user_alone(real: RealFiles, root: Path) -> None:
    before = os.umask(0)
    try:
        put(real, root / "p" / "q" / "s.jsonl")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (root / "p", root / "p/q", root / "p/q/s.jsonl")]
    assert modes == [0o700, 0o700, 0o600]


@pytest.mark.parametrize("mode", [0o644, 0o600, 0o755, 0o444, 0o4664])
def test_a_file_keeps_its_permissions_where_that_is_asked(real: RealFiles, root: Path, mode: int) -> None:
    path = root / "CLAUDE.md"
    path.write_bytes(b"old")
    path.chmod(mode)
    snapshot = real.replace(
        at(path), iter([b"new"]), expect=real.stat(at(path)), mtime_ns=1, backup=None, guard=free, mode=None
    )
    assert stat.S_IMODE(path.stat().st_mode) == mode & 0o777
    assert real.stat(at(path)) == snapshot


def test_a_new_file_gets_the_permissions_that_are_asked_for(real: RealFiles, root: Path) -> None:
    path = root / "CLAUDE.md"
    real.replace(at(path), iter([b"new"]), expect=None, mtime_ns=1, backup=None, guard=free, mode=0o664)
    assert stat.S_IMODE(path.stat().st_mode) == 0o664


def test_the_nearest_root_counts(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "project").symlink_to(tmp_path / "elsewhere")
    path = at(tmp_path / "home" / "project" / "a")
    with pytest.raises(RefusedInputError, match="no folder"):
        put(RealFiles([at(tmp_path / "home")]), Path(path))
    put(RealFiles([at(tmp_path / "home"), at(tmp_path / "home" / "project")]), Path(path))
    assert (tmp_path / "elsewhere" / "a").exists()


def test_a_fifo_that_takes_the_place_of_a_file_does_not_block(
    real: RealFiles, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = root / "s.jsonl"
    path.write_bytes(b"x")
    found = os.stat(path)
    path.unlink()
    os.mkfifo(path)
    monkeypatch.setattr(targets, "lstat", lambda *_: found)  # looked at just before it was swapped
    with pytest.raises(FileChangedError):
        real.read(at(path), 0, 10)


def test_no_descriptor_is_left_open(real: RealFiles, root: Path, tmp_path: Path) -> None:
    def held() -> None:
        raise HeldError("Claude Code runs here")

    (root / "link").symlink_to(root)
    before = open_descriptors()
    for _ in range(3):
        path = root / "p" / "s.jsonl"
        for guard in (held, free):
            with contextlib.suppress(HeldError):
                put(real, path, expect=real.stat(at(path)), backup=tmp_path / "backups/s", guard=guard)
        real.read(at(path), 0, 10)
        real.list(at(root / "p"))
        real.list(at(root / "link"))
        with pytest.raises(RefusedInputError):
            put(real, root / "link" / "s.jsonl")
        with pytest.raises(FileChangedError):
            real.read(at(root / "link"), 0, 1)
        sweep_temporaries(at(root))
    assert open_descriptors() == before


# ---------------------------------------------------------------------- backups


def test_a_backup_on_the_same_disk_catches_what_a_client_still_appends(
    real: RealFiles, root: Path, tmp_path: Path
) -> None:
    path, backup = root / "s.jsonl", tmp_path / "backups" / "s.jsonl"
    path.write_bytes(b"old\n")
    with open(path, "ab") as client:
        put(real, path, expect=real.stat(at(path)), backup=backup)
        client.write(b"late\n")
    assert backup.read_bytes() == b"old\nlate\n"
    assert path.read_bytes() == b"new"


def test_a_backup_on_another_disk_is_a_copy(root: Path, other_disk: Path) -> None:
    real = RealFiles([at(root), at(other_disk)])
    path = root / "s.jsonl"
    path.write_bytes(b"old" * (files.COPY_CHUNK // 2))
    os.utime(path, ns=(MOMENT, MOMENT))
    for _ in range(2):
        put(real, path, expect=real.stat(at(path)), backup=other_disk / "p" / "s.jsonl")
    kept = other_disk / "p" / "s.jsonl"
    assert kept.read_bytes() == b"old" * (files.COPY_CHUNK // 2)
    assert (kept.stat().st_mtime_ns, stat.S_IMODE(kept.stat().st_mode)) == (MOMENT, 0o600)
    assert (other_disk / "p" / "s.jsonl.1").read_bytes() == b"new"


def test_a_copy_is_taken_away_when_the_replace_is_held(root: Path, other_disk: Path) -> None:
    real = RealFiles([at(root), at(other_disk)])
    path = root / "s.jsonl"
    path.write_bytes(b"old")

    def held() -> None:
        raise HeldError("Claude Code runs here")

    with pytest.raises(HeldError):
        put(real, path, expect=real.stat(at(path)), backup=other_disk / "s", guard=held)
    assert os.listdir(other_disk) == []


def test_backups_of_one_name_have_a_bound(
    real: RealFiles, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_BACKUPS_OF_ONE_NAME", 1)
    path, backup = root / "s.jsonl", tmp_path / "backups" / "s.jsonl"
    path.write_bytes(b"old")
    put(real, path, expect=real.stat(at(path)), backup=backup)
    with pytest.raises(ConvergenceError, match="backups already"):
        put(real, path, b"newer", expect=real.stat(at(path)), backup=backup)
    assert path.read_bytes() == b"new"


# ---------------------------------------------------------------------- what the disk refuses


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.ENOSPC, "free some space"), (errno.EROFS, "read-only"), (errno.EACCES, "permission")],
)
@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
def test_a_refusing_disk_is_told_with_a_remedy_and_changes_nothing(
    real: RealFiles, root: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, remedy: str
) -> None:
    path = root / "s.jsonl"
    path.write_bytes(b"old")
    expect = real.stat(at(path))
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(number))
        with pytest.raises(ConvergenceError) as caught:
            put(real, path, expect=expect, backup=root.parent / "backups" / "s.jsonl")
    assert remedy in caught.value.hint
    assert "s.jsonl" in caught.value.summary
    assert (os.listdir(root), path.read_bytes()) == (["s.jsonl"], b"old")
    assert real.stat(at(path)) == expect
    assert not os.path.lexists(root.parent / "backups" / "s.jsonl")


@pytest.mark.parametrize("shared", [0, 3])
def test_where_the_kernel_cannot_copy_a_beginning_it_is_read_and_written(
    real: RealFiles, root: Path, monkeypatch: pytest.MonkeyPatch, shared: int
) -> None:
    path = root / "s.jsonl"
    path.write_bytes(b"one\ntwo\nhalf")
    copy_range, calls = os.copy_file_range, [0]

    def give_up(source: int, descriptor: int, count: int) -> int:
        calls[0] += 1
        if calls[0] > 1 or not shared:
            raise OSError(errno.EXDEV, "no")
        return copy_range(source, descriptor, min(count, shared))

    monkeypatch.setattr(os, "copy_file_range", give_up)
    expect = real.stat(LocalPath(str(path)))
    real.replace(
        LocalPath(str(path)),
        iter([b"three\n"]),
        expect=expect,
        mtime_ns=1,
        backup=None,
        guard=lambda: None,
        kept=8,
    )
    assert path.read_bytes() == b"one\ntwo\nthree\n"
    assert calls[0]


def grow(real: RealFiles, path: Path, data: bytes, backup: Path | None = None) -> None:
    expect = real.stat(at(path))
    assert expect is not None
    real.replace(
        at(path),
        iter([data]),
        expect=expect,
        mtime_ns=1,
        backup=None if backup is None else at(backup),
        guard=lambda: None,
        kept=expect.size,
    )


def test_a_file_with_a_second_name_does_not_grow_in_place(
    real: RealFiles, root: Path, tmp_path: Path
) -> None:
    path, older, backup = root / "s.jsonl", tmp_path / "older", tmp_path / "backups" / "s.jsonl"
    path.write_bytes(b"one\n")
    os.link(path, older)
    grow(real, path, b"two\n", backup)
    assert path.read_bytes() == b"one\ntwo\n"
    assert older.read_bytes() == backup.read_bytes() == b"one\n"


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM])
def test_a_file_that_cannot_be_opened_to_grow_is_replaced(
    real: RealFiles, root: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    path = root / "s.jsonl"
    path.write_bytes(b"one\n")
    before, opened = path.stat().st_ino, os.open

    def refuse(name: str, flags: int, *args: int, dir_fd: int | None = None) -> int:
        if flags & os.O_APPEND:
            raise OSError(code, "no")
        return opened(name, flags, *args, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refuse)
    grow(real, path, b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"
    assert path.stat().st_ino != before


def test_a_disk_that_takes_only_half_leaves_the_file_as_it_was(real: RealFiles, root: Path) -> None:
    path = root / "s.jsonl"
    path.write_bytes(b"one\n")
    before = real.stat(at(path))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6, limits[1]))
    try:
        with pytest.raises(ConvergenceError, match=r"s\.jsonl: File too large"):
            grow(real, path, b"two\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"one\n"
    assert real.stat(at(path)) == before


def test_what_somebody_appends_while_it_grows_stays(
    real: RealFiles, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = root / "s.jsonl"
    path.write_bytes(b"one\n")

    def append(step: str) -> None:
        if step == "grow.checked":
            with path.open("ab") as client:
                client.write(b"theirs\n")

    monkeypatch.setattr(steps, "hook", append)
    with pytest.raises(FileChangedError, match="at the same time"):
        grow(real, path, b"two\n")
    assert path.read_bytes() == b"one\ntheirs\ntwo\n"


def test_where_hard_links_do_not_exist_all_works_by_copy_and_rename(
    real: RealFiles, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    path, backup = root / "s.jsonl", tmp_path / "backups" / "s.jsonl"
    put(real, path, b"first")
    put(real, path, b"second", expect=real.stat(at(path)), backup=backup)
    assert (path.read_bytes(), backup.read_bytes()) == (b"second", b"first")
    assert os.listdir(root) == ["s.jsonl"]


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_set_aside(real: RealFiles, root: Path) -> None:
    (root / "p").mkdir(mode=0)
    with pytest.raises(RefusedInputError, match="permission"):
        real.list(at(root / "p"))


def test_an_unreadable_folder_is_set_aside(
    real: RealFiles, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "scandir", failing(errno.EACCES))
    with pytest.raises(RefusedInputError) as caught:
        real.list(at(root))
    assert "permissions" in caught.value.hint


def test_a_guards_own_error_keeps_its_type(real: RealFiles, root: Path) -> None:
    with pytest.raises(ConnectionResetError):
        put(real, root / "s.jsonl", guard=failing(errno.ECONNRESET))
    assert os.listdir(root) == []


# ---------------------------------------------------------------------- after a crash


def test_temporary_files_are_hidden_and_swept(real: RealFiles, root: Path, tmp_path: Path) -> None:
    (root / "p" / "memory").mkdir(parents=True)
    left = [root / durable.temporary_name(), root / "p" / "memory" / durable.temporary_name()]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    kept = [root / "p" / "s.jsonl", root / "p" / "convergence-x", elsewhere / durable.temporary_name()]
    for path in left + kept:
        path.write_bytes(b"x")
    (root / "link").symlink_to(elsewhere)
    assert [entry.name for entry in real.list(at(root)) or []] == ["link", "p"]
    assert sweep_temporaries(at(root)) == 2
    assert [path.exists() for path in left + kept] == [False, False, True, True, True]
    assert sweep_temporaries(at(root)) == 0
    assert sweep_temporaries(at(root / "absent")) == 0


def test_sweeping_ends_at_some_depth(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "MAX_SWEEP_DEPTH", 1)
    for folder in (root / "1", root / "1" / "2"):
        folder.mkdir()
        (folder / durable.temporary_name()).write_bytes(b"")
    assert sweep_temporaries(at(root)) == 1


# ---------------------------------------------------------------------- our own small files


def test_a_sweep_beside_others_takes_what_is_old_and_right_there(root: Path) -> None:
    (root / "below").mkdir()
    old, fresh, below = (root / durable.temporary_name(), root / durable.temporary_name(), root / "below")
    below /= durable.temporary_name()
    for path, age in ((old, 100.0), (fresh, 1_000.0), (below, 100.0)):
        path.write_bytes(b"")
        os.utime(path, (age, age))
    assert sweep_temporaries(at(root), depth=0, before=500.0) == 1
    assert not old.exists()
    assert fresh.exists()
    assert below.exists()


def test_a_small_file_is_written_whole_and_private(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "config.toml"
    write_durably(at(path), b"one")
    write_durably(at(path), b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["config.toml"]
    assert [stat.S_IMODE(one.stat().st_mode) for one in (path, path.parent)] == [0o600, 0o700]


def test_a_config_kept_among_dotfiles_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "dotfiles").mkdir()
    (tmp_path / "dotfiles" / "config.toml").write_bytes(b"one")
    (tmp_path / "config.toml").symlink_to("dotfiles/config.toml")
    write_durably(at(tmp_path / "config.toml"), b"two")
    assert (tmp_path / "config.toml").is_symlink()
    assert (tmp_path / "dotfiles" / "config.toml").read_bytes() == b"two"


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"one")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(errno.ENOSPC))
        with pytest.raises(ConvergenceError, match="No space left"):
            write_durably(at(path), b"two")
    assert (path.read_bytes(), os.listdir(tmp_path)) == (b"one", ["config.toml"])


def test_only_the_first_creates(tmp_path: Path) -> None:
    path = at(tmp_path / "id")
    assert create_durably(path, b"one")
    assert not create_durably(path, b"two")
    assert (tmp_path / "id").read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["id"]


def test_a_small_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "x"
    assert read_bounded(at(path), 3) is None
    assert read_bounded(at(path / "below"), 3) is None
    path.write_bytes(b"123")
    assert read_bounded(at(path), 3) == b"123"
    path.write_bytes(b"1234")
    with pytest.raises(RefusedInputError, match="longer than 3"):
        read_bounded(at(path), 3)


def test_a_small_file_that_is_none_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo"):
        with pytest.raises(RefusedInputError, match="no regular file"):
            read_bounded(at(path), 10)


# ---------------------------------------------------------------------- what changes while one looks


def test_a_name_that_goes_while_a_folder_is_listed_is_left_out(
    real: RealFiles, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (root / name).write_bytes(b"")
    scandir = os.scandir

    @contextlib.contextmanager
    def outdated(folder: int) -> Iterator[Iterator[os.DirEntry[str]]]:
        with scandir(folder) as found:
            entries = list(found)
        (root / "a").unlink()
        # The folder's descriptor is still open, as it is in a listing that takes its time.
        yield iter(entries)

    monkeypatch.setattr(os, "scandir", outdated)
    assert [entry.name for entry in real.list(at(root)) or []] == ["b"]


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_a_disk_that_fails_to_read_sets_the_file_aside(
    real: RealFiles, root: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    (root / "s.jsonl").write_bytes(b"x")
    for call, act in (("pread", real.read), ("open", real.read)):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing(number))
            with pytest.raises(RefusedInputError, match="cannot read"):
                act(at(root / "s.jsonl"), 0, 10)
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", failing(number))
        with pytest.raises(RefusedInputError, match="cannot read"):
            real.stat(at(root / "s.jsonl"))


def test_a_file_that_goes_before_its_backup_stays_gone(
    real: RealFiles, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = root / "s.jsonl"
    path.write_bytes(b"old")
    expect = real.stat(at(path))
    link = os.link

    def late(*words: str, **named: int) -> None:
        path.unlink()
        link(*words, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(FileChangedError):
        put(real, path, expect=expect, backup=tmp_path / "backups" / "s.jsonl")
    assert os.listdir(root) == []


def test_a_sweep_passes_over_what_it_may_not_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "p").mkdir()
    (root / durable.temporary_name()).write_bytes(b"")
    real_open = os.open

    def partly(path: str, flags: int, *words: int, **named: int) -> int:
        if path == "p":
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return real_open(path, flags, *words, **named)

    monkeypatch.setattr(os, "open", partly)
    assert sweep_temporaries(at(root)) == 1
    monkeypatch.setattr(os, "open", failing(errno.EIO))
    with pytest.raises(ConvergenceError, match="cannot tidy"):
        sweep_temporaries(at(root))
