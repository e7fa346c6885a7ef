"""Local change → commit. A context folder is just another replica of its project.

Owns the way from a folder's files to a commit on the replica's own ref (`local_ref`, what this
folder looked like when last in step) and from there, merged, onto the project's branch. Promises:
only complete records and whole files are committed; a folder that is gone or empty is not taken
for a deletion; one bad file is set aside alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from convergenced import steps
from convergenced.canon.rewrite import Rewriter
from convergenced.errors import ConvergenceError, FileChangedError, MissingObjectError, RefusedInputError
from convergenced.machine.state import FileNote, SecretNote
from convergenced.merge import layout
from convergenced.merge.layout import (
    ProjectTree,
    SessionTree,
    read_folder,
    write_folder,
    write_project,
)
from convergenced.merge.roster import (
    Policy,
)
from convergenced.merge.session import write_flat
from convergenced.merge.sessions import Sessions
from convergenced.model import EMPTY_TREE, Commit, Content, Kind, Oid, Refusal, SessionId, Snapshot
from convergenced.store.branch import MergeOutcome, project_at
from convergenced.sync.moving import is_taken_over
from convergenced.sync.papers import with_papers
from convergenced.sync.replica import Parts, Replica, lineage_of, replica_ref
from convergenced.sync.scan import (
    MAX_FILE_BYTES,
    MEMORY,
    Glance,
    Scan,
    content_of,
    is_set_aside,
    scan_again,
    scan_folder,
    session_of,
)
from convergenced.sync.screening import Screening, salt_of
from convergenced.sync.searcher import Searcher
from convergenced.sync.tips import advance, ref_of, tip_of
from convergenced.sync.transcripts import TOO_LONG, TOO_LONG_REMEDY, take_transcript

COMMIT_SUBJECT_JOIN = "takes part"

STEP_BYTES = 32 * 1024 * 1024
"""New bytes that go into one commit; where there are more, several are made, the latest files first."""


@dataclass(slots=True)
class Changes:
    """What a commit brings."""

    sessions: set[SessionId] = field(default_factory=set)
    records: int = 0
    memory: int = 0

    def add(self, other: Changes) -> None:
        """Counts what another commit brings too."""
        self.sessions |= other.sessions
        self.records += other.records
        self.memory += other.memory

    def message(self) -> str:
        """The commit's subject."""
        parts = []
        if self.sessions:
            noun = "session" if len(self.sessions) == 1 else "sessions"
            detail = f" +{self.records} records" if self.records else ""
            parts.append(f"{len(self.sessions)} {noun}{detail}")
        if self.memory:
            parts.append(f"memory {self.memory}")
        return ", ".join(parts) or COMMIT_SUBJECT_JOIN


@dataclass(slots=True)
class IngestReport:
    """What one look at a replica's folder found and did."""

    commit: Oid | None = None
    message: str = ""
    merged: MergeOutcome | None = None
    halted: str | None = None
    """Why nothing was done: the folder is gone or empty though it held something."""
    gone: bool = False
    """A secondary folder that does not exist any more."""
    retry: bool = False
    """A file changed while it was read: look again soon."""
    sessions: int = 0
    size: int = 0
    refusals: list[Refusal] = field(default_factory=list)
    scan: Scan | None = None
    """What stands in the folder."""
    looked_at: frozenset[str] | None = None
    """The paths that were looked at; None for all there are."""
    new: int = 0
    """Bytes that had not been read before."""
    left: int = 0
    """Bytes of those that were put off."""
    changes: Changes = field(default_factory=Changes)
    secrets: list[SecretNote] = field(default_factory=list)
    """Apparent secrets in what is shared that nobody allowed."""
    found: list[SecretNote] = field(default_factory=list)
    """Those that were met now."""

    def follow(self, former: IngestReport) -> None:
        """Takes up what the step before it found and did."""
        self.changes.add(former.changes)
        self.commit = self.commit or former.commit
        self.message = self.changes.message()
        self.retry |= former.retry
        self.found = [*former.found, *self.found]
        self.refusals = list(dict.fromkeys([*former.refusals, *self.refusals]))
        withheld = {refusal.where for refusal in self.refusals}
        self.secrets = [one for one in self.secrets if one.path not in withheld]
        if self.merged is not None and former.merged is not None:
            refusals = dict.fromkeys([*former.merged.refusals, *self.merged.refusals])
            self.merged = replace(self.merged, refusals=tuple(refusals))


@dataclass(frozen=True, slots=True)
class Bulk:
    """What is done about work that takes long.

    `tell` hears of the bytes that were taken and of how many there are; `aside` has the work done where it
    is in nobody's way.
    """

    tell: Callable[[int, int], None] = lambda done, of: None
    aside: Callable[[Callable[[], IngestReport]], IngestReport] = lambda work: work()
    searcher: Callable[[bytes], Searcher] | None = None
    """What starts a search for apparent secrets beside it."""


def policy_of(parts: Parts, replica: Replica) -> Policy:
    """The project's policy as its branch has it; the default for a new project.

    Raises `NewerSchemaError` where the branch was written by a newer version.
    """
    tip = tip_of(parts.store, replica.project)
    if tip is None:
        return Policy()
    tree, _ = project_at(parts.store, tip)
    return layout.policy_of(parts.store, tree)


def ingest(
    parts: Parts, replica: Replica, policy: Policy, since: Glance | None = None, bulk: Bulk | None = None
) -> IngestReport:
    """Commits what changed in the replica's folder, and brings it onto the project's branch.

    Looks at everything, or, with a glance, at what may have changed since it. Much is committed in steps,
    each of which is remembered: what ends this process costs one step.
    """
    bulk = bulk or Bulk()
    with ExitStack() as stack:
        searcher: Searcher | None = None
        if bulk.searcher is not None:
            searcher = bulk.searcher(salt_of(parts.machine.id))
            stack.callback(searcher.close)
        report = _Ingest(parts, replica, policy, searcher=searcher).run(since)
        if not report.left:
            return report

        def go_on(report: IngestReport = report) -> IngestReport:
            of, is_going_on = report.new, report.commit is not None or bool(report.refusals)
            while report.left and is_going_on:
                bulk.tell(of - report.left, of)
                former = report
                report = _Ingest(parts, replica, policy, former.refusals, searcher).run(since)
                # What was refused is put off from now on, which makes way for what is behind it.
                is_going_on = report.commit is not None or not set(report.refusals) <= set(former.refusals)
                report.follow(former)
            report.retry |= report.left > 0
            return report

        return bulk.aside(go_on)


def reread(parts: Parts, replica: Replica, policy: Policy) -> None:
    """Writes to the store again what the replica's folder holds, and moves no ref.

    What the store had of these files and lost is there again afterwards.
    """
    _Ingest(parts, replica, policy).reread()


class _Ingest:
    def __init__(
        self,
        parts: Parts,
        replica: Replica,
        policy: Policy,
        refused: Iterable[Refusal] = (),
        searcher: Searcher | None = None,
    ) -> None:
        self._parts = parts
        self._store = parts.store
        self._replica = replica
        self._policy = policy
        self._rewriter: Rewriter = replica.rewriter(parts.machine, policy.rewrite_home)
        self._notes: dict[str, FileNote] = {}
        self._noted: frozenset[str] = frozenset()
        self._stale: frozenset[str] = frozenset()
        self._only: frozenset[str] | None = None
        """The paths that are looked at; None for all."""
        self._fresh: dict[str, FileNote] = {}
        self._report = IngestReport()
        self._changes = self._report.changes
        self._put_off = {refusal.where for refusal in refused}
        """Paths that are not read this time."""
        self._words: str | None = None
        """What this machine says of itself."""
        self._screening = Screening(
            *(parts.screen, parts.state, parts.files, parts.machine.id, replica.folder),
            lambda path: replica.path(parts.machine, path),
            searcher,
        )
        self._is_behind = False
        """Whether the branch has all that this folder ever committed, and more."""

    def run(self, since: Glance | None) -> IngestReport:
        report, replica = self._report, self._replica
        head = ref_of(self._store, replica_ref(replica))
        tip = tip_of(self._store, replica.project)
        is_noted = self._is_noted_at(head)
        # What arrived is written only where all was looked at: the folder may not be what it was.
        scan = self._look(since if is_noted and head == tip else None)
        self._noted = frozenset(self._notes)
        if not is_noted:
            self._stale, self._notes = self._noted, {}
        self._is_behind = head != tip and self._leads_to(head, tip)
        base, _ = project_at(self._store, head)
        tip_tree, left_out = project_at(self._store, tip)
        report.scan = scan
        if scan is None and not replica.primary:
            report.gone = True
            return report
        has_begun = head is not None and not is_taken_over(base)
        if scan is None or scan.is_empty:
            if self._noted or (has_begun and (base.sessions or base.memory)):
                what = self._why_not_there() if scan is None else "is empty"
                report.halted = f"the context folder {replica.context_dir(self._parts.machine)} {what}"
                return report
            scan = scan or Scan()
        report.sessions, report.size = len(scan.transcripts), scan.size
        # A commit on top leaves out what was not believed of a peer's tree: it is told now, or never.
        report.refusals.extend((*scan.refusals, *left_out))
        self._choose(scan)
        tree = self._with_sessions(base, tip_tree, scan)
        tree = self._with_memory(tree, tip_tree, scan)
        if scan.is_empty and not has_begun and tip is not None:
            # Nothing local yet: only say on the project's branch that this machine takes part.
            self._commit(self._with_papers(tip_tree, tip_tree, tip), head, tip)
        else:
            head = self._commit(self._with_papers(tree, tip_tree, tip), head, head)
        self._remember(scan, head)
        withheld = {refusal.where for refusal in report.refusals}
        report.secrets = [one for one in self._screening.standing() if one.path not in withheld]
        report.found = [one for one in self._screening.found if one.path not in withheld]
        return report

    def _look(self, since: Glance | None) -> Scan | None:
        """What stands in the folder, with the notes on what is to be looked at."""
        parts, folder = self._parts, self._replica.folder
        context_dir = self._replica.context_dir(parts.machine)
        if since is not None:
            scan = scan_again(parts.files, context_dir, since.scan, since.changed)
            if scan is not None and not scan.is_empty:
                self._only = self._report.looked_at = scan.with_neighbours(since.changed)
                found = ((path, parts.state.file(folder, path)) for path in self._only)
                self._notes = {path: note for path, note in found if note is not None}
                return scan
        self._notes = parts.state.files(folder)
        return scan_folder(parts.files, context_dir)

    def _choose(self, scan: Scan) -> None:
        """Puts off what is too much for one step."""
        files = {f"{sid}.jsonl": snapshot for sid, snapshot in self._transcripts(scan)}
        files |= {path: scan.attached[path] for path in self._attached(scan)}
        unread = {
            path: snapshot.size - (min(note.consumed, snapshot.size) if note is not None else 0)
            for path, snapshot in files.items()
            if (note := self._notes.get(path)) is None or note.snapshot != snapshot
        }
        self._report.new = sum(unread.values())
        taken = 0
        for path in sorted(unread, key=lambda path: -files[path].mtime_ns):
            if taken >= STEP_BYTES:
                self._put_off.add(path)
                self._report.left += unread[path]
            else:
                taken += unread[path]

    def _with_papers(self, tree: ProjectTree, tip_tree: ProjectTree, tip: Oid | None) -> ProjectTree:
        said = None if self._stale else self._parts.state.said(self._replica.project)
        papers = with_papers(self._parts, self._replica, self._policy, tree, tip_tree, tip, said)
        self._report.refusals.extend(papers.refusals)
        self._words = papers.words
        return papers.tree

    def _why_not_there(self) -> str:
        """What stands where the context folder should be, in words that follow its path."""
        beside = self._parts.files.list(self._parts.machine.projects_dir) or ()
        kind = next((entry.kind for entry in beside if entry.name == self._replica.folder), None)
        if kind is None or kind is Kind.FOLDER:
            return "is missing"
        return "is a symbolic link, which is not followed" if kind is Kind.LINK else "is no folder"

    def reread(self) -> None:
        noted = self._parts.state.files(self._replica.folder)
        scan = scan_folder(self._parts.files, self._replica.context_dir(self._parts.machine))
        if scan is None:
            return
        consumed = {
            sid: noted[path].consumed for sid in scan.transcripts if (path := f"{sid}.jsonl") in noted
        }
        # As far as they were committed, so that the last segments are the same; then all there is.
        transcripts = {
            sid: replace(snapshot, size=min(snapshot.size, consumed.get(sid, snapshot.size)))
            for sid, snapshot in scan.transcripts.items()
        }
        for one in (replace(scan, transcripts=transcripts), scan):
            tree = self._with_memory(
                self._with_sessions(ProjectTree(), ProjectTree(), one), ProjectTree(), one
            )
            write_project(self._store, tree)

    def _commit(self, tree: ProjectTree, head: Oid | None, start: Oid | None) -> Oid:
        """Brings the tree onto the branch; returns the commit that has it."""
        steps.reached("ingest.read")
        oid = write_project(self._store, tree)
        report = self._report
        if start is not None and self._store.read_commit(start).tree == oid:
            commit = start
        else:
            report.message = self._changes.message()
            parents = () if start is None else (start,)
            fresh = Commit(
                oid, parents, self._parts.machine.author, int(self._parts.clock.now()), report.message
            )
            commit = report.commit = self._store.write_commit(fresh)
            if start == head:
                self._store.swap(replica_ref(self._replica), head, commit)
            steps.reached("ingest.committed")
        report.merged = advance(self._store, self._replica.project, commit)
        steps.reached("ingest.advanced")
        return commit

    def _remember(self, scan: Scan, head: Oid | None) -> None:
        state, folder = self._parts.state, self._replica.folder
        self._screening.settle()
        gone = {path for path in self._noted if not scan.holds(path)} | self._stale
        is_new_head = head is not None and state.head(folder) != head
        is_said = self._words is None or state.said(self._replica.project) == self._words
        is_screened = not self._screening.is_changed and all(map(scan.holds, self._screening.paths))
        if not self._fresh and not gone and not is_new_head and is_said and is_screened:
            return
        with state.together():
            self._screening.save(scan.holds)
            for path in gone:
                state.forget_file(folder, path)
            for path, note in self._fresh.items():
                state.note_file(folder, path, note)
            if head is not None and is_new_head:
                state.note_head(folder, head)
            if self._words is not None and not is_said:
                state.note_said(self._replica.project, self._words)
        steps.reached("ingest.noted")

    def _leads_to(self, early: Oid | None, late: Oid | None) -> bool:
        return early is not None and late is not None and self._store.merge_base(early, late) == early

    def _is_noted_at(self, head: Oid | None) -> bool:
        """Whether the notes are of this head, or of one it came from: they name objects of its history.

        Where the store was lost, begun anew or set back to an older copy, they are not.
        """
        noted = self._parts.state.head(self._replica.folder)
        if head is None or noted is None:
            return False
        try:
            return noted == head or self._store.merge_base(noted, head) == noted
        except MissingObjectError:
            return False

    # -- sessions

    def _with_sessions(self, base: ProjectTree, tip: ProjectTree, scan: Scan) -> ProjectTree:
        sessions: dict[SessionId, SessionTree] = {}
        for sid, snapshot in self._transcripts(scan):
            path = f"{sid}.jsonl"
            with _setting_aside(self._report, path):
                mine = base.sessions.get(sid, SessionTree())
                theirs = tip.sessions.get(sid, SessionTree())
                if self._is_noted(path, snapshot) and mine == theirs and sid in base.sessions:
                    continue  # in step; a flat transcript would have to be cut up to see that
                former = lineage_of(self._store, sid, mine)
                oid = self._transcript(path, snapshot, former, lineage_of(self._store, sid, theirs))
                if oid is not None and former != oid:
                    sessions[sid] = self._laid_out(mine, oid)
                    self._changes.sessions.add(sid)
        by_session: dict[SessionId, list[str]] = {}
        for path in self._attached(scan):
            by_session.setdefault(SessionId(path.partition("/")[0]), []).append(path)
        for sid, paths in by_session.items():
            held = sessions.get(sid) or base.sessions.get(sid, SessionTree())
            tip_held = tip.sessions.get(sid, SessionTree())
            if all(self._is_noted(path, scan.attached[path]) for path in paths) and held.folder is not None:
                continue
            known = self._folder(sid, held.folder)
            tip_known = self._folder(sid, tip_held.folder)
            for path in paths:
                with _setting_aside(self._report, path):
                    name = path.partition("/")[2]
                    oid = self._blob(
                        path, scan.attached[path], known.get(name), tip_known.get(name), shrinks=False
                    )
                    if oid is not None and known.get(name) != oid:
                        known[name] = oid
                        self._changes.sessions.add(sid)
            if known:
                sessions[sid] = replace(held, folder=write_folder(self._store, known))
        return replace(base, sessions=Sessions.of(base.sessions).updated(sessions))

    def _transcripts(self, scan: Scan) -> Iterable[tuple[SessionId, Snapshot]]:
        """The transcripts that are read this time."""
        found: Iterable[SessionId] = scan.transcripts
        if self._only is not None:
            found = [sid for path in sorted(self._only) if (sid := session_of(path)) in scan.transcripts]
        return [(sid, scan.transcripts[sid]) for sid in found if f"{sid}.jsonl" not in self._put_off]

    def _attached(self, scan: Scan) -> Iterable[str]:
        """The files beside them that are read this time."""
        found = scan.attached if self._only is None else sorted(self._only & scan.attached.keys())
        return [path for path in found if path not in self._put_off]

    def _laid_out(self, session: SessionTree, transcript: Oid) -> SessionTree:
        if self._policy.layout == "flat":
            return replace(session, transcript=None, flat=write_flat(self._store, transcript))
        return replace(session, transcript=transcript, flat=None)

    def _folder(self, sid: SessionId, folder: Oid | None) -> dict[str, Oid]:
        return read_folder(self._store, folder, f"context/{sid}")[0]

    def _is_noted(self, path: str, snapshot: Snapshot) -> bool:
        note = self._notes.get(path)
        return note is not None and note.snapshot == snapshot

    def _transcript(self, path: str, snapshot: Snapshot, mine: Oid | None, theirs: Oid | None) -> Oid | None:
        note = self._notes.get(path)
        if mine is not None:
            # After a crash the replica's own ref may know more than notes and branch do: it goes first.
            if not self._is_behind:
                theirs = None
            if note is not None and note.oid not in (mine, theirs, EMPTY_TREE):
                note = None
        if note is not None and note.snapshot == snapshot:
            return note.oid if note.oid != EMPTY_TREE else None
        taken = None
        self._screening.admit(path, 0 if note is None else note.consumed)
        if snapshot.size > 0:
            taken = take_transcript(
                self._store,
                self._parts.files,
                self._rewriter,
                self._replica.path(self._parts.machine, path),
                snapshot,
                note=note,
                own=mine,
                others=theirs,
                look=lambda data, start: self._screening.look(path, data, start),
            )
        if taken is None:
            # No record yet: nothing to commit, and nothing lost where what arrives is written over it.
            self._fresh[path] = FileNote(snapshot, 0, b"", EMPTY_TREE)
            return None
        if taken.is_stuck:
            # Without a note it is read, and told, again.
            self._report.refusals.append(Refusal(path, TOO_LONG, TOO_LONG_REMEDY))
        else:
            self._fresh[path] = taken.note
        self._changes.records += taken.records
        return taken.note.oid

    # -- other files

    def _with_memory(self, tree: ProjectTree, tip: ProjectTree, scan: Scan) -> ProjectTree:
        if self._only is not None and self._only.isdisjoint(scan.memory):
            return tree
        memory = dict(tree.memory)
        for path, snapshot in scan.memory.items():
            with _setting_aside(self._report, path):
                name = path.removeprefix(f"{MEMORY}/")
                oid = self._blob(path, snapshot, memory.get(name), tip.memory.get(name), shrinks=True)
                if oid is not None and memory.get(name) != oid:
                    memory[name] = oid
                    self._changes.memory += 1
        missing = [name for name in memory if f"{MEMORY}/{name}" not in scan.memory]
        set_aside = {refusal.where for refusal in self._report.refusals}
        if scan.has_memory_folder and not scan.lost_memory(tree.memory):
            # Where a folder that lost all gets it back, a crash may have come between two notes.
            is_returning = bool(missing and self._parts.state.wanted(self._replica.folder))
            for name in missing:
                path = f"{MEMORY}/{name}"
                if is_returning and path not in self._noted:
                    continue
                if not is_set_aside(path, set_aside):
                    del memory[name]
                    self._changes.memory += 1
        return replace(tree, memory=memory)

    def _blob(
        self, path: str, snapshot: Snapshot, mine: Oid | None, theirs: Oid | None, *, shrinks: bool
    ) -> Oid | None:
        note = self._notes.get(path)
        if note is not None and note.snapshot == snapshot:
            return note.oid
        self._screening.admit(path, 0)
        content = content_of(path)
        assert content is not None, path
        files = self._parts.files
        local_path = self._replica.path(self._parts.machine, path)
        data = files.read(local_path, 0, MAX_FILE_BYTES + 1)
        if files.stat(local_path) != snapshot:
            raise FileChangedError(f"{local_path} changed while it was read")
        if path.endswith(".jsonl"):
            data = data[: data.rfind(b"\n") + 1]
            if not data:
                return None
        oid = self._canonical_blob(path, data, content, mine, theirs, shrinks=shrinks)
        self._fresh[path] = FileNote(snapshot, len(data), b"", oid)
        return oid

    def _canonical_blob(
        self,
        path: str,
        data: bytes,
        content: Content,
        mine: Oid | None,
        theirs: Oid | None,
        *,
        shrinks: bool,
    ) -> Oid:
        bases = [(oid, self._store.read_blob(oid)) for oid in (mine, theirs) if oid is not None]
        spelled: dict[bytes, bytes] = {}
        for oid, base in bases:
            local = self._rewriter.localize(base, content)
            if local == data or (not shrinks and content is Content.JSON and local.startswith(data)):
                return oid
            for line in base.split(b"\n"):
                spelled.setdefault(self._rewriter.localize(line, content), line)
        self._screening.look(path, data, 0)
        # A line the store already holds keeps the spelling it has there.
        canonical = b"\n".join(
            spelled[line] if line in spelled else self._rewriter.canonicalize(line, content)
            for line in data.split(b"\n")
        )
        if self._rewriter.localize(canonical, content) != data:
            raise RefusedInputError(
                "content that would not come back byte for byte",
                "run `convergencectl doctor` and report this",
            )
        return self._store.write_blob(canonical)


class _setting_aside:  # noqa: N801 - reads as a sentence where it is used
    """Reports what one file raises, so that it never stops the others."""

    def __init__(self, report: IngestReport, path: str) -> None:
        self._report = report
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, FileChangedError):
            self._report.retry = True
            return True
        if isinstance(error, (RefusedInputError, OSError)) or type(error) is ConvergenceError:
            remedy = error.hint if isinstance(error, ConvergenceError) else "check the file's permissions"
            reason = error.summary if isinstance(error, ConvergenceError) else str(error)
            self._report.refusals.append(Refusal(self._path, reason, remedy))
            return True
        return False
