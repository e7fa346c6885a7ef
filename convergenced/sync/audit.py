"""Checks on a live store and live folders what is promised: every invariant that can be checked.

Changes nothing; what a finding's `repair` does goes the normal ways (a commit on top, a merge, a note
that is dropped so that the file is read again) and never touches a local file. Promise: work that is
under way while it looks is not taken for a fault, because what is suspicious is looked at again.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from convergenced.canon.rewrite import Rewriter
from convergenced.canon.transcript import NO_SESSION, with_session_id
from convergenced.errors import (
    ConvergenceError,
    FileChangedError,
    MissingObjectError,
    NewerSchemaError,
    RefusedInputError,
)
from convergenced.machine.state import FileNote
from convergenced.merge.layout import (
    ProjectTree,
    policy_of,
    read_folder,
    read_project,
    write_folder,
    write_project,
)
from convergenced.merge.names import collision_key
from convergenced.merge.segments import is_readable, list_segments, read_transcript
from convergenced.merge.session import contains, iterate_records
from convergenced.merge.sessions import Sessions, SessionTree
from convergenced.merge.tree import merge_projects
from convergenced.model import EMPTY_TREE, Content, Finding, Oid, ProjectId, SessionId
from convergenced.ports import Store
from convergenced.store.branch import (
    LOCAL,
    MERGER,
    PEERS,
    PROJECTS,
    commit_tree,
    merge_commit,
    peer_ref,
    project_at,
    project_ref,
    tracking_ref,
    walk_back,
)
from convergenced.store.refnames import BRANCHES
from convergenced.store.scratch import ScratchStore
from convergenced.sync.exchange import README_REF
from convergenced.sync.replica import Parts, Replica, lineage_of
from convergenced.sync.scan import MAX_FILE_BYTES, TRANSCRIPT_SUFFIX, content_of
from convergenced.sync.tips import advance, ref_of, tip_of

NEWEST = 200
"""Commits of each project that are compared with their parents where not all are asked for."""
READ_BYTES = 4 * 1024 * 1024
MAX_NAMED = 20
"""Findings of one kind about one project that are told one by one; the rest is counted."""
MAX_TREES = 8
"""Trees that are remembered once read: a parent is soon looked at as a child."""

MAX_WRITTEN = 100
"""Commits after which what was written on trial is forgotten."""

_Lost = dict[tuple[SessionId, SessionTree], None]
"""Transcripts, in whatever layout, without the session's folder."""
_LostFiles = dict[tuple[SessionId, str], Oid]


def audit(
    parts: Parts,
    replicas: Sequence[Replica],
    projects: Collection[ProjectId] | None,
    most: int | None = NEWEST,
) -> Iterator[Finding]:
    """The findings about all projects of the store, or about these.

    `replicas` are the folders that take part. `most` bounds the commits compared with their parents, the
    newest first; None compares all. Expects a store that `store.verify` has no complaint about.
    """
    return _Audit(parts, replicas, projects, most).run()


def audit_peer(
    store: Store,
    name: str,
    listing: Mapping[str, Oid],
    projects: Iterable[ProjectId],
    beside: Iterable[str] = (),
) -> Iterator[Finding]:
    """What a peer's listing says of our projects: whether it lost what it had. Also of branches `beside`."""
    behind = 0
    known: list[tuple[str, str, ProjectId | None]] = [
        (project_ref(project), tracking_ref(name, project), project) for project in projects
    ]
    known += [(ref, peer_ref(name, ref.removeprefix(BRANCHES)), None) for ref in beside]
    for ref, tracking, project in known:
        listed, tracked = listing.get(ref), ref_of(store, tracking)
        if tracked is None or listed == tracked:
            continue
        fix = "convergencectl sync --wait"
        branch = "the branch" if project is not None else f"the branch {ref.removeprefix(BRANCHES)}"
        if listed is None:
            text = f"peer {name} does not have {branch} any more; it gets it again"
            yield Finding("peers.history", "warning", text, project, fix)
            continue
        try:
            went_on = store.merge_base(listed, tracked) == tracked
        except ConvergenceError:
            behind += 1  # commits that never came here
            continue
        if not went_on:
            what = "was set back" if project is not None else f"was set back in {branch}"
            text = f"peer {name} {what} to an older commit; it gets its history again"
            yield Finding("peers.history", "warning", text, project, fix)
    text = f"peer {name} lost nothing"
    yield Finding("peers.history", "ok", f"{text}; {behind} branches went on there" if behind else text)


class _Audit:
    def __init__(
        self,
        parts: Parts,
        replicas: Sequence[Replica],
        projects: Collection[ProjectId] | None,
        most: int | None,
    ) -> None:
        self._parts = parts
        self._store = parts.store
        self._replicas = replicas
        self._only = projects
        self._most = most
        self._scratch = ScratchStore(parts.store)
        self._trees: dict[Oid, ProjectTree] = {}
        self._left_out: dict[ProjectId, dict[str, Oid]] = {}

    def run(self) -> Iterator[Finding]:
        tips = {ProjectId(ref.removeprefix(PROJECTS)): tip for ref, tip in self._store.refs(PROJECTS).items()}
        projects = {*tips, *(replica.project for replica in self._replicas)}
        yield from self._guarded(None, self._apart(tips))
        for project in sorted(projects if self._only is None else projects & set(self._only)):
            yield from self._guarded(project, self._project(project))
        # Last, because a merge may have been under way at the first look.
        for project, suspects in self._left_out.items():
            yield from self._guarded(project, self._contained(project, suspects))

    def _guarded(self, project: ProjectId | None, findings: Iterator[Finding]) -> Iterator[Finding]:
        """One project that cannot be read does not hide the others."""
        try:
            yield from findings
        except NewerSchemaError as error:
            yield Finding("history", "warning", error.summary, project, error.hint)
        except ConvergenceError as error:
            text = f"cannot be checked: {error.summary}"
            yield Finding(
                "history", "problem", text, project, error.hint or "convergencectl doctor --deep --fix"
            )

    def _project(self, project: ProjectId) -> Iterator[Finding]:
        self._left_out[project] = self._find_left_out(project)
        tip = tip_of(self._store, project)
        if tip is not None:
            yield from self._readable(project, tip)
            yield from self._history(project, tip)
        for replica in self._replicas:
            if replica.project == project:
                yield from self._local(replica)

    # -- refs

    def _apart(self, tips: Mapping[ProjectId, Oid]) -> Iterator[Finding]:
        owners: dict[Oid, str] = {}
        shared: Counter[tuple[str, str]] = Counter()
        main = ref_of(self._store, README_REF)
        pages = [("the branch main", main)] if main is not None else []
        for name, tip in [*pages, *sorted(tips.items())]:
            for oid, _ in walk_back(self._store, tip, limit=sys.maxsize):
                owner = owners.setdefault(oid, name)
                if owner != name:
                    shared[owner, name] += 1
        for (one, other), count in shared.items():
            noun = "commit" if count == 1 else "commits"
            yield Finding(
                "history.apart",
                "problem",
                f"shares {count} {noun} with {one}: two projects were mixed",
                ProjectId(other),
                f"see what came in: git -C STORE log project/{other}",
            )
        if not shared:
            text = "no project shares history with another"
            yield Finding("history.apart", "ok", text)

    def _find_left_out(self, project: ProjectId) -> dict[str, Oid]:
        """Refs that know of something the project's branch does not hold."""
        refs = self._store.refs(f"{LOCAL}{project}/")
        refs |= {
            ref: oid for ref, oid in self._store.refs(PEERS).items() if ref.endswith(f"/project/{project}")
        }
        tip = tip_of(self._store, project)
        return {
            ref: oid for ref, oid in refs.items() if tip is None or self._store.merge_base(tip, oid) != oid
        }

    def _contained(self, project: ProjectId, suspects: Mapping[str, Oid]) -> Iterator[Finding]:
        left_out = self._find_left_out(project) if suspects else {}
        ours = [ref for ref, oid in left_out.items() if suspects.get(ref) == oid]
        tip = tip_of(self._store, project)
        repair = partial(_bring_together, self._store, project)
        if tip is None and ours:
            text = "its branch is gone; the folders here and the peers still know what it held"
            yield Finding("history.contains", "problem", text, project, _FIX, repair)
            return
        for ref in ours:
            oid = left_out[ref]
            if ref.startswith(LOCAL):
                text = "the branch does not hold what a folder here committed"
            elif tip is not None and self._store.merge_base(tip, oid) is None:
                text = f"{_peer_of(ref)} holds a history of its own under this name; it is not mixed in"
                fix = "if it is the same code: convergencectl join PATH --id ID"
                yield Finding("history.contains", "warning", text, project, fix)
                continue
            else:
                text = f"the branch does not hold what came from {_peer_of(ref)}"
            yield Finding("history.contains", "problem", text, project, _FIX, repair)
        if not ours and tip is not None:
            text = "the branch holds all that folders and peers committed"
            yield Finding("history.contains", "ok", text, project)

    # -- history

    def _tree_at(self, tree: Oid) -> ProjectTree:
        if tree not in self._trees:
            if len(self._trees) >= MAX_TREES:
                del self._trees[next(iter(self._trees))]
            self._trees[tree] = read_project(self._scratch, tree)[0]
        return self._trees[tree]

    def _readable(self, project: ProjectId, tip: Oid) -> Iterator[Finding]:
        tree, refusals = project_at(self._store, tip)
        told = [f"{refusal.where}: {refusal.reason}" for refusal in refusals]
        for sid, session in tree.sessions.items():
            _, refused = read_folder(self._store, session.folder, f"context/{sid}")
            told += [f"{refusal.where}: {refusal.reason}" for refusal in refused]
            if session.transcript is not None and not is_readable(self._store, session.transcript):
                told.append(f"segments/{sid}: it is no transcript")
        for text in told[:MAX_NAMED]:
            fix = "remove it on the machine that made it"
            yield Finding("history.tree", "warning", f"{text}; left alone", project, fix)
        if (more := len(told) - MAX_NAMED) > 0:
            yield Finding("history.tree", "warning", f"{more} more entries are left alone", project)
        if not told:
            yield Finding("history.tree", "ok", "everything on the branch can be read", project)

    def _history(self, project: ProjectId, tip: Oid) -> Iterator[Finding]:
        commits = merges = other = 0
        lost: _Lost = {}
        lost_files: _LostFiles = {}
        for oid, commit in walk_back(self._store, tip, limit=self._most or sys.maxsize):
            commits += 1
            if commits % MAX_WRITTEN == 0:
                self._scratch = ScratchStore(self._store)
            if len(commit.parents) == 2 and commit.author == MERGER:
                merges += 1
                other += not self._is_pure(oid, *commit.parents)
            child = self._tree_at(commit.tree)
            for parent in commit.parents:
                before = self._tree_at(self._store.read_commit(parent).tree)
                self._compare(before, child, lost, lost_files)
        differing = f"; {other} were made by other rules than today's" if other else ""
        text = f"{merges} merges looked at{differing}"
        yield Finding("history.merges", "ok", text, project)
        yield from self._losses(project, tip, commits, lost, lost_files)

    def _is_pure(self, merge: Oid, one: Oid, other: Oid) -> bool:
        try:
            return merge_commit(self._scratch, one, other).commit == merge
        except RefusedInputError:
            return False

    def _compare(self, before: ProjectTree, after: ProjectTree, lost: _Lost, files: _LostFiles) -> None:
        """Gathers what seems to have been lost on the way from a parent to its child."""
        for sid in Sessions.of(before.sessions).differing(Sessions.of(after.sessions)):
            session = before.sessions.get(sid, SessionTree())
            now = after.sessions.get(sid, SessionTree())
            was, is_now = lineage_of(self._scratch, sid, session), lineage_of(self._scratch, sid, now)
            if was is not None and was != is_now and not self._contains(is_now, was):
                lost[sid, replace(session, folder=None)] = None
            if session.folder is not None and session.folder != now.folder:
                held = self._folder(sid, now)
                for name, oid in self._folder(sid, session).items():
                    if name not in held:
                        files[sid, name] = oid

    def _contains(self, whole: Oid | None, part: Oid) -> bool:
        try:
            return whole is not None and contains(self._scratch, whole, part)
        except RefusedInputError:
            return True  # none of ours; it was told of as such

    def _folder(self, sid: SessionId, session: SessionTree) -> dict[str, Oid]:
        return read_folder(self._scratch, session.folder, f"context/{sid}")[0]

    def _losses(
        self, project: ProjectId, tip: Oid, commits: int, lost: _Lost, files: _LostFiles
    ) -> Iterator[Finding]:
        """What is still lost at the tip: a fork may hold what left a session, a later merge bring it back."""
        tree = self._tree_at(self._store.read_commit(tip).tree)
        gone = [one for one in lost if not self._holds(tree, *one)]
        gone_files = {
            one: oid
            for one, oid in files.items()
            if collision_key(one[1])
            not in map(collision_key, self._folder(one[0], tree.sessions.get(one[0], SessionTree())))
        }
        repair = partial(_restore, self._parts, project, gone, gone_files)
        for sid in dict.fromkeys([*(sid for sid, _ in gone), *(sid for sid, _ in gone_files)]):
            text = f"the branch does not hold all of session {sid} any more; its history does"
            yield Finding("history.kept", "problem", text, project, _FIX, repair)
        if not gone and not gone_files:
            text = f"no commit took anything away from a session ({commits} looked at)"
            yield Finding("history.kept", "ok", text, project)

    def _holds(self, tree: ProjectTree, sid: SessionId, session: SessionTree) -> bool:
        """Whether the branch has every record: in the lineage it belongs to, or at least somewhere.

        Bookkeeping goes with the lineage it was merged into first, which may have become a fork since.
        """
        arrived = ProjectTree(sessions={sid: session})
        merged = merge_projects(self._scratch, tree, arrived, None).tree
        if not Sessions.of(merged.sessions).differing(Sessions.of(tree.sessions)):
            return True
        wanted = set(self._nameless(sid, session))
        for other, one in tree.sessions.items():
            with contextlib.suppress(RefusedInputError):  # none of ours; it is told of as such
                wanted.difference_update(self._nameless(other, one))
            if not wanted:
                return True
        return False

    def _nameless(self, sid: SessionId, session: SessionTree) -> Iterator[bytes]:
        """Digests of a session's records as they are without any session's name."""
        transcript = lineage_of(self._scratch, sid, session)
        chunks = read_transcript(self._scratch, transcript) if transcript is not None else ()
        for record in iterate_records(chunks):
            yield _digest(with_session_id(record, sid, NO_SESSION))

    # -- local files

    def _local(self, replica: Replica) -> Iterator[Finding]:
        notes = self._parts.state.files(replica.folder)
        tip = tip_of(self._store, replica.project)  # after the notes, for they are written after it moved
        tree = ProjectTree() if tip is None else project_at(self._store, tip)[0]
        rewriter = replica.rewriter(self._parts.machine, policy_of(self._store, tree).rewrite_home)
        wrong: dict[str, str] = {}
        unheld: list[str] = []
        for path, note in notes.items():
            reason = self._find_fault(replica, rewriter, path, note)
            if reason is not None:
                wrong[path] = reason
            elif tip is not None and "/" not in path and not self._is_held(tree, path, note):
                unheld.append(path)
        repair = partial(_forget, self._parts, replica, (*wrong, *unheld))
        for path, reason in list(wrong.items())[:MAX_NAMED]:
            yield Finding("local.notes", "problem", f"{path}: {reason}", replica.project, _FIX, repair)
        for path in unheld[:MAX_NAMED]:
            text = f"{path}: the branch does not hold all records that were committed of it"
            yield Finding("local.kept", "problem", text, replica.project, _FIX, repair)
        if not wrong:
            text = f"what is remembered of {len(notes)} files in {replica.root} is so"
            yield Finding("local.notes", "ok", text, replica.project)
        if not unheld:
            text = f"every record in {replica.root} that was committed is on the branch"
            yield Finding("local.kept", "ok", text, replica.project)

    def _is_held(self, tree: ProjectTree, path: str, note: FileNote) -> bool:
        sid = SessionId(path.removesuffix(TRANSCRIPT_SUFFIX))
        session = tree.sessions.get(sid, SessionTree())
        return note.oid in (EMPTY_TREE, session.transcript) or self._holds(tree, sid, SessionTree(note.oid))

    def _find_fault(self, replica: Replica, rewriter: Rewriter, path: str, note: FileNote) -> str | None:
        """Why a note is not to be believed, None where it is."""
        content = content_of(path)
        if content is None:
            return "it is remembered, but nothing of that name is synced"
        files, local = self._parts.files, replica.path(self._parts.machine, path)
        try:
            if files.stat(local) != note.snapshot:
                self._check_object(path, note)
                return None  # changed since: it is looked at anyhow
            if "/" not in path:
                is_so = self._transcript_is(rewriter, replica, path, note)
            else:
                is_so = self._file_is(rewriter, replica, path, note, content)
            if is_so or files.stat(local) != note.snapshot:
                return None
        except MissingObjectError:
            return "what was committed of it is not in the store"
        except (FileChangedError, RefusedInputError, OSError):
            return None  # not readable now; ingest tells of that
        return "it was taken for committed, but holds what was not"

    def _check_object(self, path: str, note: FileNote) -> None:
        """Raises `MissingObjectError` where the store lacks what the note names."""
        if "/" in path:
            self._store.blob_size(note.oid)
        else:
            for segment in list_segments(self._store, note.oid):
                self._store.blob_size(segment)

    def _transcript_is(self, rewriter: Rewriter, replica: Replica, path: str, note: FileNote) -> bool:
        """Whether each complete record of the file is in the noted transcript."""
        files, local = self._parts.files, replica.path(self._parts.machine, path)
        rest = note.consumed
        while rest < note.snapshot.size and (piece := files.read(local, rest, READ_BYTES)):
            if b"\n" in piece:
                return False  # a complete record that was not accounted for
            rest += len(piece)
        at = 0
        for expected in rewriter.localize_chunks(read_transcript(self._store, note.oid), Content.JSON):
            found = files.read(local, at, min(len(expected), note.consumed - at))
            at += len(found)
            if found != expected:
                if at == note.consumed and expected.startswith(found):
                    return True  # a shorter beginning of what is stored
                return self._has_records(rewriter, replica, path, note)
        return at == note.consumed or self._has_records(rewriter, replica, path, note)

    def _has_records(self, rewriter: Rewriter, replica: Replica, path: str, note: FileNote) -> bool:
        """Whether the noted transcript has each record of the file, in whatever order."""
        stored = rewriter.localize_chunks(read_transcript(self._store, note.oid), Content.JSON)
        known = Counter(map(_digest, iterate_records(stored)))
        known.subtract(map(_digest, iterate_records(self._chunks(replica, path, note.consumed))))
        return min(known.values(), default=0) >= 0

    def _chunks(self, replica: Replica, path: str, end: int) -> Iterator[bytes]:
        local = replica.path(self._parts.machine, path)
        for at in range(0, end, READ_BYTES):
            yield self._parts.files.read(local, at, min(READ_BYTES, end - at))

    def _file_is(
        self, rewriter: Rewriter, replica: Replica, path: str, note: FileNote, content: Content
    ) -> bool:
        local = replica.path(self._parts.machine, path)
        data = self._parts.files.read(local, 0, MAX_FILE_BYTES + 1)
        if path.endswith(".jsonl"):
            data = data[: data.rfind(b"\n") + 1]
        stored = rewriter.localize(self._store.read_blob(note.oid), content)
        return stored == data or (content is Content.JSON and stored.startswith(data))


_FIX = "convergencectl doctor --deep --fix"


def _bring_together(store: Store, project: ProjectId) -> str:
    """Merges into the branch what folders here and peers hold of the same history."""
    before = tip_of(store, project)
    for oid in store.refs(f"{LOCAL}{project}/").values():
        advance(store, project, oid)
    for ref, oid in store.refs(PEERS).items():
        tip = tip_of(store, project)
        if ref.endswith(f"/project/{project}") and (tip is None or store.merge_base(tip, oid) is not None):
            advance(store, project, oid)
    return "made the branch again" if before is None else "merged what was left out into the branch"


def _restore(
    parts: Parts,
    project: ProjectId,
    lost: Collection[tuple[SessionId, SessionTree]],
    files: Mapping[tuple[SessionId, str], Oid],
) -> str:
    """Commits on top of the branch what earlier commits held of these sessions."""
    store = parts.store
    tip = tip_of(store, project)
    tree, _ = project_at(store, tip)
    for sid, session in lost:
        tree = merge_projects(store, tree, ProjectTree(sessions={sid: session}), None).tree
    for (sid, name), oid in files.items():
        folder = write_folder(store, {name: oid})
        tree = merge_projects(store, tree, ProjectTree(sessions={sid: SessionTree(folder=folder)}), None).tree
    sessions = {sid for sid, _ in (*lost, *files)}
    noun = "session" if len(sessions) == 1 else "sessions"
    message = f"restored {len(sessions)} {noun} from the history"
    parents = () if tip is None else (tip,)
    now = int(parts.clock.now())
    commit_tree(
        store, project_ref(project), write_project(store, tree), parents, parts.machine.author, now, message
    )
    return message


def _forget(parts: Parts, replica: Replica, paths: Collection[str]) -> str:
    """Drops notes, so that these files are read again."""
    for path in paths:
        parts.state.forget_file(replica.folder, path)
    noun = "file is" if len(paths) == 1 else "files are"
    return f"{len(paths)} {noun} read again"


def _peer_of(ref: str) -> str:
    return f"peer {ref.removeprefix(PEERS).partition('/')[0]}"


def _digest(record: bytes) -> bytes:
    return hashlib.blake2b(record, digest_size=16).digest()
