"""The project's branch → local files, when Claude Code is not running there.

Promises, per file: what stood there was exactly what ingest accounted for, its content is already in
the store, and at every instant the path holds the old bytes or the complete new ones, with a backup of
what was replaced. A transcript that only grows does so in place: a crash may leave a beginning of what was
to come, which the next pass completes. A session arrives whole: its folder first, the transcript last,
forks before what they forked from. What the user (or the client's cleanup) removed here stays removed
until it is wanted back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain, islice
from posixpath import join

from convergenced import steps
from convergenced.canon.rewrite import Rewriter
from convergenced.canon.transcript import last_time
from convergenced.errors import ConvergenceError, FileChangedError, HeldError, RefusedInputError
from convergenced.machine.backups import STAMP
from convergenced.machine.claude import runs_in
from convergenced.machine.state import FileNote
from convergenced.merge.layout import ProjectTree, SessionTree, read_folder
from convergenced.merge.roster import Policy
from convergenced.merge.segments import (
    common_segments,
    list_segments,
    read_backwards,
    read_tail,
    read_transcript,
)
from convergenced.merge.sessions import Sessions
from convergenced.model import ClaudeProcess, Content, LocalPath, Oid, Refusal, SessionId, Snapshot
from convergenced.store.branch import project_at
from convergenced.sync.replica import Parts, Replica, lineage_of, replica_ref
from convergenced.sync.scan import (
    MEMORY,
    TRANSCRIPT_SUFFIX,
    Scan,
    content_of,
    is_set_aside,
    scan_folder,
    session_of,
)
from convergenced.sync.tips import ref_of, tip_of
from convergenced.sync.transcripts import UNKNOWN, tail_window
from convergenced.sync.whereabouts import Whereabouts

MAX_REST = 16
"""Segments that are not the same any more, up to which a file's beginning is taken over as it is."""
DAY = 86_400.0
CLEANUP_MARGIN = 0.5
"""An old session gets an age of at most this share of the client's cleanup period."""


@dataclass(slots=True)
class LocalizeReport:
    """What was written into a replica's folder, and what waits."""

    written: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    held: int = 0
    """How many sessions and memory notes wait."""
    held_by: ClaudeProcess | None = None
    held_reason: str = ""
    retry: bool = False
    refusals: list[Refusal] = field(default_factory=list)
    settled: bool = False
    """Whether the folder now holds all that the branch's tip has for it."""


@dataclass(frozen=True, slots=True)
class _Write:
    path: str
    oid: Oid
    is_transcript: bool
    is_new: bool


@dataclass(frozen=True, slots=True)
class _Remove:
    path: str


@dataclass(frozen=True, slots=True)
class _Fresh:
    """What a file is to hold: the first `kept` bytes of what stands there, `chunks`, an incomplete line."""

    kept: int
    chunks: Iterator[bytes]
    torn: bytes


@dataclass(slots=True)
class _Group:
    """Writes that belong together: one session, or one memory note."""

    name: str
    actions: list[_Write | _Remove] = field(default_factory=list)

    @property
    def session(self) -> SessionId | None:
        """The session; None for a memory note."""
        return session_of(self.name)


def localize(
    parts: Parts,
    replica: Replica,
    policy: Policy,
    *,
    whole_machine: bool = False,
    set_aside: Collection[str] = (),
    scan: Scan | None = None,
    is_whole: bool = True,
    only_wanted: bool = False,
) -> LocalizeReport:
    """Brings the replica's folder to the tip of its project's branch, as far as nothing holds it.

    Expects that `ingest` just ran for the replica; `set_aside` are the paths it refused, which are not
    touched; `scan` is what it found, and without `is_whole` nothing is written by it. `whole_machine` waits
    for any Claude Code on the machine rather than for those in the project. `only_wanted` is for a
    folder that lost all it had: it gets its memory, and the sessions that a person wants back, and does not
    count as in step.
    """
    if scan is None:
        scan = scan_folder(parts.files, replica.context_dir(parts.machine)) or Scan()
    return _Localize(parts, replica, policy, whole_machine, set_aside).run(scan, is_whole, only_wanted)


def holder_of(parts: Parts, replica: Replica, whole_machine: bool) -> ClaudeProcess | None:
    """A running Claude Code that forbids writing into this replica's folder."""
    for process in parts.processes.claude():
        if whole_machine or runs_in(process, replica.root):
            return process
    return None


def _moves(homes: Mapping[SessionId, SessionId], name: str) -> int:
    """How many other files must be written before this one, as lineages move along from file to file."""
    sid, moves = SessionId(name.removesuffix(TRANSCRIPT_SUFFIX)), 0
    while sid in homes and moves <= len(homes):
        sid, moves = homes[sid], moves + 1
    return moves


def _has_transcript(session: SessionTree | None) -> bool:
    return session is not None and (session.transcript is not None or session.flat is not None)


class _Localize:
    def __init__(
        self,
        parts: Parts,
        replica: Replica,
        policy: Policy,
        whole_machine: bool,
        set_aside: Collection[str],
    ) -> None:
        self._parts = parts
        self._store = parts.store
        self._replica = replica
        self._whole_machine = whole_machine
        self._set_aside = frozenset(set_aside)
        self._rewriter: Rewriter = replica.rewriter(parts.machine, policy.rewrite_home)
        self._report = LocalizeReport()
        self._wanted = parts.state.wanted(replica.folder)
        stamp = datetime.fromtimestamp(parts.clock.now(), UTC).strftime(STAMP)
        self._backup_dir = join(parts.machine.backups_dir, replica.folder, stamp)

    def run(self, scan: Scan, is_whole: bool, only_wanted: bool) -> LocalizeReport:
        report = self._report
        tip = tip_of(self._store, self._replica.project)
        if tip is None:
            report.settled = True
            return report
        ref = replica_ref(self._replica)
        head = ref_of(self._store, ref)
        tree, _ = project_at(self._store, tip)
        self._whereabouts = Whereabouts(self._store, tree)
        is_damaged = scan.lost_memory(tree.memory) or not scan.hollow.isdisjoint(tree.sessions)
        if head == tip and not is_damaged and not self._wanted:
            report.settled = True
            return report
        head_tree, _ = project_at(self._store, head)
        groups = self._plan(tree, head_tree, scan)
        if only_wanted:
            groups = self._only_wanted(groups, scan)
        if groups and not is_whole:
            report.retry = True
            return report
        if groups:
            holder = holder_of(self._parts, self._replica, self._whole_machine)
            if holder is not None:
                self._hold(holder, groups)
                return report
        steps.reached("localize.planned")
        complete = not only_wanted
        self._unwant(self._wanted - {group.session for group in groups})  # they are here
        for index, group in enumerate(groups):
            try:
                self._carry_out(group)
                self._unwant(self._wanted & {group.session})
            except HeldError:
                holder = holder_of(self._parts, self._replica, self._whole_machine)
                self._hold(holder or ClaudeProcess(0, None), groups[index:])
                return report
            except FileChangedError:
                complete = False
                report.retry = True
            except (ConvergenceError, OSError) as error:
                complete = False
                hint = error.hint if isinstance(error, ConvergenceError) else "it is tried again by itself"
                report.refusals.append(Refusal(group.name, str(error), hint))
        if complete:
            report.settled = True
            self._store.swap(ref, head, tip)
            self._parts.state.note_head(self._replica.folder, tip)
            steps.reached("localize.settled")
        return report

    def _only_wanted(self, groups: list[_Group], scan: Scan) -> list[_Group]:
        """The memory, and then what is wanted back.

        What is missing is forgotten: beside the first file that comes back it would count as deleted.
        """
        state, folder = self._parts.state, self._replica.folder
        with state.together():
            for path in state.files(folder):
                if not scan.holds(path):
                    state.forget_file(folder, path)
        memory = [group for group in groups if group.session is None]
        return memory + [group for group in groups if group.session in self._wanted]

    def _unwant(self, sessions: Iterable[SessionId | None]) -> None:
        for sid in sessions:
            if sid is not None:
                self._parts.state.unwant(self._replica.folder, sid)

    def _hold(self, holder: ClaudeProcess, groups: list[_Group]) -> None:
        self._report.held = len(groups)
        self._report.held_by = holder
        where = holder.cwd or "a folder that cannot be seen"
        self._report.held_reason = f"Claude Code runs in {where}"

    # -- what is to be done

    def _plan(self, tree: ProjectTree, head: ProjectTree, scan: Scan) -> list[_Group]:
        here = scan.transcripts
        changed = Sessions.of(tree.sessions).differing(Sessions.of(head.sessions))
        homes = self._find_homes(tree, changed & here.keys())
        groups = []
        for sid in changed | scan.hollow | self._wanted:
            session = tree.sessions.get(sid)
            if session is None:
                continue
            former = head.sessions.get(sid) if sid not in self._wanted else None
            # A folder alone tells nothing: it arrives first, and the rest may have been held.
            had = _has_transcript(former)
            belongs_here = sid in self._wanted or sid in homes.values() or f"{sid}.jsonl" in self._set_aside
            if sid not in here and not belongs_here and (had or not self._replica.primary):
                continue
            group = _Group(f"{sid}.jsonl")
            group.actions.extend(self._plan_folder(sid, session, former, scan.attached))
            lineage = lineage_of(self._store, sid, session)
            if lineage is not None:
                path = f"{sid}.jsonl"
                note = self._note(path)
                if note is None or note.oid != lineage or sid not in here:
                    group.actions.append(_Write(path, lineage, True, sid not in here))
            if group.actions:
                groups.append(group)
        # A fork must be in place, and as long as it is to be, before its lineage leaves the old file.
        groups.sort(
            key=lambda group: (_moves(homes, group.name), self._note(group.name) is not None, group.name)
        )
        groups.extend(self._plan_memory(tree, head, scan.memory))
        return groups

    def _find_homes(self, tree: ProjectTree, changed: Iterable[SessionId]) -> dict[SessionId, SessionId]:
        """The forks to which lineages of this folder went: they belong here, whatever else does."""
        homes: dict[SessionId, SessionId] = {}
        for sid in changed:
            note = self._note(f"{sid}.jsonl")
            if note is None or sid not in tree.sessions:
                continue
            with contextlib.suppress(RefusedInputError):  # told when it is to be written
                home = self._whereabouts.find(sid, note.oid)
                if home is not None and home != sid:
                    homes[sid] = home
        return homes

    def _plan_folder(
        self, sid: SessionId, session: SessionTree, head: SessionTree | None, here: dict[str, Snapshot]
    ) -> Iterator[_Write]:
        if session.folder is None or (head is not None and head.folder == session.folder):
            return
        had = self._folder(sid, head.folder) if head is not None else {}
        for name, oid in self._folder(sid, session.folder).items():
            path = f"{sid}/{name}"
            note = self._note(path)
            if note is not None and note.oid == oid and path in here:
                continue
            if path not in here and name in had and not is_set_aside(path, self._set_aside):
                continue  # removed here
            if content_of(path) is not None:
                yield _Write(path, oid, False, path not in here)

    def _plan_memory(
        self, tree: ProjectTree, head: ProjectTree, here: dict[str, Snapshot]
    ) -> Iterator[_Group]:
        for name, oid in tree.memory.items():
            path = f"{MEMORY}/{name}"
            note = self._note(path)
            if (note is None or note.oid != oid or path not in here) and content_of(path) is not None:
                yield _Group(path, [_Write(path, oid, False, path not in here)])
        for name in head.memory.keys() - tree.memory.keys():
            path = f"{MEMORY}/{name}"
            if path in here:
                yield _Group(path, [_Remove(path)])

    def _note(self, path: str) -> FileNote | None:
        return self._parts.state.file(self._replica.folder, path)

    def _folder(self, sid: SessionId, folder: Oid | None) -> dict[str, Oid]:
        found, refusals = read_folder(self._store, folder, f"context/{sid}")
        self._report.refusals.extend(refusals)
        return found

    # -- doing it

    def _carry_out(self, group: _Group) -> None:
        for action in group.actions:
            note = self._note(action.path)
            if action.path in self._set_aside:
                raise RefusedInputError(
                    "waits, because what stands here was set aside", "see to that: convergencectl status"
                )
            if isinstance(action, _Write) and action.is_new:
                self._write(action, None)
            elif note is None:
                raise FileChangedError(f"{action.path} is not accounted for yet")
            elif isinstance(action, _Remove):
                self._remove(action.path, note)
            else:
                if action.is_transcript:
                    self._check_contained(action, note)
                self._write(action, note)

    def _check_contained(self, action: _Write, note: FileNote) -> None:
        """The local records must all be in the tip: in this session, or in a fork of it."""
        sid = SessionId(action.path.removesuffix(TRANSCRIPT_SUFFIX))
        if self._whereabouts.find(sid, note.oid) is None:
            raise FileChangedError(f"{action.path} holds records that the store does not have yet")

    def _guard(self) -> None:
        holder = holder_of(self._parts, self._replica, self._whole_machine)
        if holder is not None:
            raise HeldError("Claude Code was started meanwhile", "it goes in when that ends", holder.pid)

    def _write(self, action: _Write, note: FileNote | None) -> None:
        parts, replica = self._parts, self._replica
        path = replica.path(parts.machine, action.path)
        content = content_of(action.path)
        assert content is not None, action
        if action.is_transcript:
            fresh = self._transcript(path, action.oid, note)
            when = self._last_record_time(action.oid)
        else:
            data = self._store.read_blob(action.oid)
            fresh = _Fresh(0, iter([self._rewriter.localize(data, content)]), self._torn_line(path, note))
            when = last_time(data) if content is Content.JSON else None
        snapshot = parts.files.replace(
            path,
            chain(fresh.chunks, [fresh.torn]),
            expect=note.snapshot if note is not None else None,
            mtime_ns=self._mtime_ns(when),
            backup=None if note is None else LocalPath(join(self._backup_dir, action.path)),
            guard=self._guard,
            kept=fresh.kept,
        )
        steps.reached("localize.written")
        end = snapshot.size - len(fresh.torn)
        window = tail_window(parts.files, path, end) if action.is_transcript else b""
        form = self._rewriter.form if action.is_transcript else b""
        if parts.files.stat(path) != snapshot:
            window, form = UNKNOWN, b""
        parts.state.note_file(replica.folder, action.path, FileNote(snapshot, end, window, action.oid, form))
        steps.reached("localize.noted")
        self._report.written.append(action.path)

    def _transcript(self, path: LocalPath, oid: Oid, note: FileNote | None) -> _Fresh:
        """What a transcript's file is to hold.

        Where it is known to be what localizing gave, it is the same as far as the segments are, and further
        where the records after them are there too; an incomplete last line, perhaps left by a crash, may be
        the beginning of the next.
        """
        torn = self._torn_line(path, note)
        if note is not None and note.form == self._rewriter.form:
            same = common_segments(self._store, note.oid, oid)
            end = self._agreed(path, note, same)
            if end is not None:
                return self._continued(oid, same, note.consumed - len(end), end, torn)
        return _Fresh(0, self._localized(read_transcript(self._store, oid)), torn)

    def _continued(self, oid: Oid, same: int, kept: int, end: bytes, torn: bytes) -> _Fresh:
        """A file that has `kept` bytes which stay, the records `end`, and perhaps an incomplete line."""
        rest = self._localized(read_tail(self._store, oid, same))
        start = b""
        while len(start) < len(end) + len(torn) and (chunk := next(rest, b"")):
            start += chunk
        for there, left in ((end + torn, b""), (end, torn)):
            if start.startswith(there):
                return _Fresh(kept + len(there), chain([start[len(there) :]], rest), left)
        return _Fresh(kept, chain([start], rest), torn)

    def _agreed(self, path: LocalPath, note: FileNote, same: int) -> bytes | None:
        """What the file has after the first `same` segments, up to the last complete record.

        None where it is not sure that it has those.
        """
        others = list(islice(list_segments(self._store, note.oid, max(same - 1, 0)), MAX_REST + 2))
        before = self._store.read_blob(others.pop(0))[-1:] if same else b""
        if len(others) > MAX_REST or before not in (b"", b"\n"):
            return None  # too much to compare, or cut within a record that is very long
        end = b"".join(self._localized(map(self._store.read_blob, others)))
        kept = note.consumed - len(end)
        at = kept - len(before)
        is_there = at >= 0 and self._parts.files.read(path, at, note.consumed - at) == before + end
        return end if is_there else None

    def _localized(self, canonical: Iterator[bytes]) -> Iterator[bytes]:
        return self._rewriter.localize_chunks(canonical, Content.JSON)

    def _torn_line(self, path: LocalPath, note: FileNote | None) -> bytes:
        """The line at the file's end that is not complete yet: it stays at the end of the new file."""
        if note is None or note.consumed >= note.snapshot.size:
            return b""
        return self._parts.files.read(path, note.consumed, note.snapshot.size - note.consumed)

    def _remove(self, relative: str, note: FileNote) -> None:
        parts, replica = self._parts, self._replica
        path = replica.path(parts.machine, relative)
        backup = LocalPath(join(self._backup_dir, relative))
        parts.files.remove(path, expect=note.snapshot, backup=backup, guard=self._guard)
        steps.reached("localize.removed")
        parts.state.forget_file(replica.folder, relative)
        self._report.removed.append(relative)

    def _last_record_time(self, transcript: Oid) -> float | None:
        """From the end: the last segment nearly always tells, so the others are not read for it."""
        for segment in read_backwards(self._store, transcript):
            found = last_time(segment)
            if found is not None:
                return found
        return None

    def _mtime_ns(self, when: float | None) -> int:
        """The last record's time, but never so old that the client's cleanup takes the file away.

        Older files keep their order among themselves, within the hour before that limit.
        """
        now = self._parts.clock.now()
        if when is None:
            return int(now * 1e9)
        limit = now - self._parts.machine.cleanup_days * DAY * CLEANUP_MARGIN
        kept = min(when, now)
        if kept < limit:
            kept = limit - 3_600 + 3_600 * max(0.0, kept) / max(1.0, limit)
        return int(kept * 1e9)
