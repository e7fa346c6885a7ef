"""The store on disk: clean for the ordinary git program, and on its feet again after damage."""

from __future__ import annotations

import os
import subprocess
import threading
import zlib
from pathlib import Path

import pytest

from convergenced.errors import MissingObjectError, NewerSchemaError, RefMovedError, StoreError
from convergenced.merge.layout import ProjectTree, SessionTree, write_folder, write_project
from convergenced.merge.segments import write_transcript
from convergenced.model import MODE_BLOB, Author, Commit, LocalPath, Oid, ProjectId, SessionId, TreeEntry
from convergenced.store import repo
from convergenced.store.branch import commit_tree, merge_commit, project_ref
from convergenced.store.repo import GitStore, open_store

ANN = Author("Ann", "ann@desktop")
REF = project_ref(ProjectId("proj"))
SID = SessionId("2af1d7f8-1206-438d-b660-8b22937b7f38")


@pytest.fixture
def path(tmp_path: Path) -> LocalPath:
    return LocalPath(str(tmp_path / "store.git"))


@pytest.fixture
def store(path: LocalPath) -> GitStore:
    return open_store(path)


def git(path: str, *words: str) -> str:
    done = subprocess.run(["git", "-C", path, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def loose(path: str, oid: str) -> Path:
    return Path(path, "objects", oid[:2], oid[2:])


def damage(path: str, oid: str) -> None:
    file = loose(path, oid)
    file.chmod(0o600)
    file.write_bytes(file.read_bytes()[:-4])


def project(store: GitStore, *records: bytes, **memory: bytes) -> Oid:
    return write_project(
        store,
        ProjectTree(
            roster=store.write_blob(b'{"participants": []}'),
            sessions={
                SID: SessionTree(
                    write_transcript(store, [record + b"\n" for record in records]),
                    folder=write_folder(store, {"subagents/a.jsonl": store.write_blob(b"{}\n")}),
                )
            },
            memory={name + ".md": store.write_blob(text) for name, text in memory.items()},
        ),
    )


class TestOpening:
    def test_a_new_store_is_private_and_explains_itself(self, store: GitStore) -> None:
        assert os.stat(store.path).st_mode & 0o777 == 0o700
        assert "convergence" in git(store.path, "show", "main:README.md")
        assert git(store.path, "symbolic-ref", "HEAD").strip() == "refs/heads/main"
        assert store.recovered == ()
        assert git(store.path, "config", "gc.auto").strip() == "0"

    def test_opening_again_changes_nothing(self, store: GitStore, path: LocalPath) -> None:
        before = {file: file.stat().st_mtime_ns for file in Path(path).rglob("*")}
        assert open_store(path).refs("refs/") == store.refs("refs/")
        assert {file: file.stat().st_mtime_ns for file in Path(path).rglob("*")} == before

    def test_every_store_has_the_same_page_on_main(self, store: GitStore, tmp_path: Path) -> None:
        assert open_store(LocalPath(str(tmp_path / "other.git"))).refs("refs/") == store.refs("refs/")

    def test_a_store_of_a_newer_version_is_left_alone(self, store: GitStore, path: LocalPath) -> None:
        git(path, "config", "convergence.schema", "2")
        with pytest.raises(NewerSchemaError):
            open_store(path)

    def test_a_folder_full_of_something_else_is_refused(self, path: LocalPath) -> None:
        Path(path).mkdir()
        Path(path, "precious").write_text("x")
        with pytest.raises(StoreError):
            open_store(path)
        assert os.listdir(path) == ["precious"]

    def test_a_reader_makes_no_store(self, path: LocalPath) -> None:
        with pytest.raises(StoreError):
            open_store(path, recover=False)
        assert not os.path.exists(path)


class TestRecovery:
    @pytest.mark.parametrize(
        "lock", ["refs/heads/project/proj.lock", "packed-refs.lock", "config.lock", "HEAD.lock"]
    )
    def test_a_left_over_lock_is_set_aside_and_reported(
        self, store: GitStore, path: LocalPath, lock: str
    ) -> None:
        commit_tree(store, REF, project(store), (), ANN, 1, "one")
        Path(path, lock).write_text("")
        again = open_store(path)
        assert lock in again.recovered[0].where
        assert not Path(path, lock).exists()
        commit_tree(again, REF, project(again, b"{}"), (again.refs(REF)[REF],), ANN, 2, "two")

    def test_a_reader_touches_no_lock(self, store: GitStore, path: LocalPath) -> None:
        lock = Path(path, "refs/heads/main.lock")
        lock.write_text("")
        assert open_store(path, recover=False).recovered == ()
        assert lock.exists()

    @pytest.mark.parametrize("content", [b"", b"\0" * 41, b"12345\n"])
    def test_a_broken_ref_is_set_aside_and_the_others_go_on(
        self, store: GitStore, path: LocalPath, content: bytes
    ) -> None:
        tip = commit_tree(store, REF, project(store), (), ANN, 1, "one")
        store.swap(REF + "2", None, tip)
        Path(path, REF).write_bytes(content)
        again = open_store(path)
        assert [refusal.where for refusal in again.recovered] == [f"store: {REF}"]
        assert again.refs("refs/heads/project/") == {REF + "2": tip}
        git(path, "fsck", "--strict")

    def test_a_lost_head_is_written_again(self, store: GitStore, path: LocalPath) -> None:
        Path(path, "HEAD").write_bytes(b"")
        assert open_store(path).refs("refs/") == store.refs("refs/")

    def test_a_damaged_object_is_named_when_read(self, store: GitStore, path: LocalPath) -> None:
        oid = store.write_blob(b"x" * 5000)
        store.settle()
        damage(path, oid)
        with pytest.raises(MissingObjectError, match=oid):
            open_store(path).read_blob(oid)

    def test_an_object_with_other_content_is_named_when_read(self, store: GitStore, path: LocalPath) -> None:
        oid = store.write_blob(b"right")
        store.settle()
        file = loose(path, oid)
        file.chmod(0o600)
        file.write_bytes(zlib.compress(b"blob 5\0wrong"))
        with pytest.raises(MissingObjectError, match=oid):
            open_store(path).read_blob(oid)

    def test_writing_the_same_content_heals_a_damaged_object(self, store: GitStore, path: LocalPath) -> None:
        oid = store.write_blob(b"x" * 5000)
        store.settle()
        damage(path, oid)
        again = open_store(path)
        assert again.write_blob(b"x" * 5000) == oid
        assert again.read_blob(oid) == b"x" * 5000
        again.settle()
        assert store.read_blob(oid) == b"x" * 5000
        git(path, "fsck", "--strict")


class TestForGit:
    def test_what_is_written_is_clean_for_the_ordinary_git_program(
        self, store: GitStore, tmp_path: Path
    ) -> None:
        records = [b'{"n":%d,"text":"%s"}' % (n, b"x" * 900) for n in range(300)]
        first = commit_tree(
            store, REF, project(store, *records[:100], note=b"one\n"), (), ANN, 1_700_000_000, "one"
        )
        left = commit_tree(store, REF, project(store, *records), (first,), ANN, 1_700_000_010, "two")
        tree = project(store, *records[:100], note=b"two\n")
        right = store.write_commit(Commit(tree, (first,), Author("Bob", "b@laptop"), 1_700_000_020, "three"))
        merged = merge_commit(store, left, right)
        store.swap(REF, left, merged.commit)
        assert git(store.path, "fsck", "--strict", "--full") == ""
        assert "Ann <ann@desktop>" in git(store.path, "log", "project/proj")
        clone = str(tmp_path / "clone")
        git(str(tmp_path), "clone", "-q", "-b", "project/proj", store.path, clone)
        segments = sorted(Path(clone, "segments", SID).glob("*/*"))
        assert b"".join(file.read_bytes() for file in segments) == b"".join(
            record + b"\n" for record in records
        )
        assert Path(clone, "context/memory/note.md").read_text() == "two\n"

    def test_it_reads_what_git_packed_and_gits_refs(self, store: GitStore, path: LocalPath) -> None:
        tip = commit_tree(store, REF, project(store, b"{}"), (), ANN, 1, "one")
        git(path, "gc", "--quiet", "--prune=now")
        assert not loose(path, tip).exists()
        assert store.refs(REF) == {REF: tip}
        commit_tree(store, REF, project(store, b"{}", b"[]"), (tip,), ANN, 2, "two")
        assert git(path, "fsck", "--strict") == ""


def test_threads_that_move_one_ref_lose_no_commit(store: GitStore) -> None:
    """Ten threads append ten times each by compare-and-swap; all hundred commits are in the end."""
    trouble: list[BaseException] = []

    def append(name: str) -> None:
        try:
            for number in range(10):
                tree = store.write_tree(
                    [TreeEntry("a", MODE_BLOB, store.write_blob(f"{name} {number}".encode()))]
                )
                for _ in range(1000):
                    tip = store.refs(REF).get(REF)
                    parents = () if tip is None else (tip,)
                    try:
                        store.swap(
                            REF, tip, store.write_commit(Commit(tree, parents, ANN, 1, f"{name} {number}"))
                        )
                        break
                    except RefMovedError:
                        continue
        except BaseException as error:  # noqa: BLE001 - shown by the assertion below
            trouble.append(error)

    threads = [threading.Thread(target=append, args=(f"t{index}",)) for index in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert trouble == []
    assert len(git(store.path, "log", "--format=%s", "project/proj").split("\n")) == 51


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="what is mapped is told by Linux alone")
def test_of_large_packs_only_a_little_is_mapped_at_a_time(
    path: LocalPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repo, "_MAPPED_BYTES", 4 << 20)
    store = open_store(path)
    oids = [store.write_blob(os.urandom(1 << 20)) for _ in range(2 * repo._MAPPED_BYTES >> 20)]
    store.settle()
    again = GitStore(path)
    for oid in oids:
        again.read_blob(oid)
    mapped = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if str(path) in line]
    sizes = [int(end, 16) - int(start, 16) for start, end in (one[0].split("-") for one in mapped)]
    assert 0 < sum(sizes) <= repo._MAPPED_BYTES + repo._WINDOW_BYTES
