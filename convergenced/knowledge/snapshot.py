"""Local documents → this machine's folder of the branch `knowledge`.

Owns what stands there. Promises: nothing is read while nothing changed, and a look costs one `stat` for each
document; a file that cannot be read, or holds a secret that is not to leave, is set aside alone and what was
shared of it before stays; a document that goes away here goes from this machine's folder, and nothing else
is said by that; a document that is the consolidated one is remembered as such, which heals what a crash
between writing it and saying so left; where our folder went on without us, as after this machine was
restored from a backup, what it lacks of that is not taken for removed; where it does so again and again,
another machine goes by our id, and nothing is shared until that is settled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from convergenced.canon.secrets import Secret, find_secrets
from convergenced.errors import ConvergenceError, FileChangedError, StoreError
from convergenced.knowledge.branch import KNOWLEDGE_REF, commit_knowledge, knowledge_at
from convergenced.knowledge.local import LocalDocument, is_same_here, read_local
from convergenced.knowledge.places import Place
from convergenced.merge.contributions import contributions, due_scopes
from convergenced.merge.knowledge import (
    DocumentPath,
    Documents,
    Knowledge,
    MachineKnowledge,
    Scope,
    ScopeRecord,
)
from convergenced.model import Oid, Refusal, Snapshot
from convergenced.ports import Files
from convergenced.sync.papers import TWIN_REMEDY
from convergenced.sync.replica import Parts
from convergenced.sync.scan import MEMORY
from convergenced.sync.screening import Policy, describe, salt_of
from convergenced.sync.tips import ref_of
from convergenced.wording import plural

FRESH_NS = 1_000_000_000
"""A file that was written within this time before it was read may have been written again unseen."""

MAX_ELSEWHERE = 3
"""How often our folder may go on without us before another machine must be taken for us."""

MAX_NAMED = 6
"""Documents that a commit's subject names, at most."""

Key = tuple[Scope, DocumentPath]

_TWIN = Refusal("the id of this machine", "is used by another machine too", TWIN_REMEDY)


@dataclass(frozen=True, slots=True)
class SnapshotReport:
    """What a look at this machine's documents found and did.

    `commit` is None where nothing was committed. `documents` are those that are new or different in what
    was committed and `gone` those that left it, as `scope/path`. `secrets` tells in words which documents
    hold apparent secrets; `left_out` which settings belong to this machine alone, by document. `retry` says
    that a file was being written.
    """

    commit: Oid | None = None
    documents: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    secrets: tuple[str, ...] = ()
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    retry: bool = False


@dataclass(frozen=True, slots=True)
class _Seen:
    """What stood at a place when it was last read.

    `document` is None where nothing is there, or nothing that can be shared now.
    """

    snapshot: Snapshot | None
    form: bytes
    document: Oid | None = None
    secrets: tuple[Secret, ...] = ()
    left_out: tuple[str, ...] = ()
    refusal: Refusal | None = None
    is_changing: bool = False
    is_sure: bool = True
    """Whether the same `stat` means the same file."""


class Snapshots:
    """Looks at this machine's documents again and again. Not for several threads at once."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._seen: dict[Key, _Seen] = {}
        self._settled: object = None
        """What all depended on when nothing was left to do."""
        self._report = SnapshotReport()
        self._elsewhere: set[int] = set()
        """The revisions of our folder that are none of ours."""
        self._left: MachineKnowledge | None = None
        """Our folder as the newest commit of ours has it."""
        self._awaited: frozenset[Key] = frozenset()
        """The documents in it that are not ours, and are to be taken in before we say otherwise."""

    def take(self, files: Files, places: Sequence[Place]) -> SnapshotReport:
        """Looks at the places and commits what changed.

        Of a project that has none here (its folder is gone, or it takes no part) all stays as it was. Raises
        `NewerSchemaError` where the branch was written by a newer version, `StoreError`.
        """
        try:
            return self._take(files, places)
        except BaseException:
            self._seen.clear()  # blobs that no commit names may go
            self._settled = None
            raise

    def share_again(self, files: Files, places: Sequence[Place]) -> None:
        """Gives the store every document once more, as it may have lost some. Commits nothing."""
        self._seen.clear()
        self._settled = None
        screened = _Screened.of(self._parts)
        for place in places:
            self._look(files, place, screened, {})

    def _take(self, files: Files, places: Sequence[Place]) -> SnapshotReport:
        screened = _Screened.of(self._parts)
        fresh: dict[Key, LocalDocument] = {}
        seen = {(place.scope, place.path): self._look(files, place, screened, fresh) for place in places}
        is_changed = seen != self._seen
        self._seen = seen
        tip = ref_of(self._parts.store, KNOWLEDGE_REF)
        if not is_changed and self._settled == (screened, tip):
            return replace(self._report, commit=None, documents=(), gone=())
        said = self._said()
        if self._has_twin(said, tip):
            self._report = SnapshotReport(refusals=(_TWIN,))
            self._settled = (screened, tip)
            return self._report
        folder = _Folder(self._parts, files, places, seen, screened, fresh, said)
        folder.left, folder.awaited = self._left, self._awaited
        self._report = folder.commit()
        self._awaited = folder.awaited
        if self._report.commit is not None:
            self._left = self._folder_at(self._report.commit)
        tip = self._report.commit or tip
        if tip is not None and not self._awaited and (self._report.commit or self._folder_at(tip) != said):
            self._parts.state.note_said(KNOWLEDGE_REF, tip)
        self._settled = (screened, tip)
        return self._report

    def _has_twin(self, said: MachineKnowledge, tip: Oid | None) -> bool:
        """Whether another machine writes what is ours: both would do so again and again."""
        if tip is not None:
            here = self._folder_at(tip)
            if here not in (said, self._left):
                self._elsewhere.add(here.revision)
        return len(self._elsewhere) > MAX_ELSEWHERE

    def _said(self) -> MachineKnowledge:
        """Our folder as we left it; as if we had none where that is not known."""
        commit = self._parts.state.said(KNOWLEDGE_REF)
        try:
            return MachineKnowledge() if commit is None else self._folder_at(Oid(commit))
        except StoreError:
            return MachineKnowledge()

    def _folder_at(self, commit: Oid) -> MachineKnowledge:
        known, _ = knowledge_at(self._parts.store, commit)
        return known.machines.get(self._parts.machine.id, MachineKnowledge())

    def _look(
        self, files: Files, place: Place, screened: _Screened, fresh: dict[Key, LocalDocument]
    ) -> _Seen:
        """What stands there, read only where it may have changed."""
        known = self._seen.get((place.scope, place.path))
        form = place.rewriter.form + screened.policy.encode()
        try:
            snapshot = files.stat(place.local)
            if known is not None and known.is_sure and (known.snapshot, known.form) == (snapshot, form):
                return known
            local = read_local(files, place)
        except FileChangedError:
            return _Seen(None, form, is_changing=True, is_sure=False)
        except ConvergenceError as error:
            refusal = Refusal(place.name, error.summary, error.hint)
            return _Seen(None, form, refusal=refusal, is_sure=False)
        if local is None:
            return _Seen(None, form)
        fresh[place.scope, place.path] = local
        secrets = screened.find(self._parts, local.shared)
        if screened.refuse(place, secrets) is None:
            self._parts.store.write_blob(local.canonical)
            is_sure = abs(self._parts.clock.now() * 1e9 - local.snapshot.mtime_ns) > FRESH_NS
        else:
            is_sure = False  # it is written when it is allowed
        return _Seen(local.snapshot, form, local.oid, secrets, local.left_out, is_sure=is_sure)


@dataclass(frozen=True, slots=True)
class _Screened:
    """The policy about apparent secrets, and the fingerprints of those that are fine."""

    policy: Policy
    allowed: frozenset[str]

    @classmethod
    def of(cls, parts: Parts) -> _Screened:
        """As they are now."""
        policy = parts.screen.policy
        return cls(policy, frozenset(parts.state.allowed()) if policy != "off" else frozenset())

    def find(self, parts: Parts, data: bytes) -> tuple[Secret, ...]:
        """The apparent secrets of a document."""
        return () if self.policy == "off" else tuple(find_secrets(data, salt_of(parts.machine.id)))

    def standing(self, secrets: Iterable[Secret]) -> list[Secret]:
        return [one for one in secrets if one.fingerprint not in self.allowed]

    def refuse(self, place: Place, secrets: Iterable[Secret]) -> Refusal | None:
        """Why a document is not shared, None where it is."""
        held = self.standing(secrets)
        if self.policy != "block" or not held:
            return None
        fingerprints = " ".join(dict.fromkeys(one.fingerprint for one in held[:3]))
        return Refusal(
            place.name,
            f"is not shared as it is now: it {describe(held)}",
            f"take that out, or if it is fine: convergencectl scan --allow {fingerprints}",
        )


class _Folder:
    """Our own folder of the branch, as it is to be."""

    def __init__(
        self,
        parts: Parts,
        files: Files,
        places: Sequence[Place],
        seen: Mapping[Key, _Seen],
        screened: _Screened,
        fresh: Mapping[Key, LocalDocument],
        said: MachineKnowledge,
    ) -> None:
        self._parts = parts
        self._said = said
        self.left: MachineKnowledge | None = None
        self.awaited: frozenset[Key] = frozenset()
        """As in `Snapshots`; what is to be awaited from now on after `commit`."""
        self._awaiting: set[Key] = set()
        self._places = places
        self._files = files
        self._seen = seen
        self._screened = screened
        self._read: dict[Key, LocalDocument | None] = {**fresh}

    def commit(self) -> SnapshotReport:
        parts = self._parts
        former, _ = knowledge_at(parts.store, ref_of(parts.store, KNOWLEDGE_REF))
        me = parts.machine.id
        before = former.machines.get(me, MachineKnowledge()).documents
        after = self._changed(former).machines.get(me, MachineKnowledge()).documents
        fresh = [key for key, oid in _flat(after).items() if _flat(before).get(key) != oid]
        gone = [key for key in _flat(before) if key not in _flat(after)]
        made = commit_knowledge(
            parts.store,
            self._changed,
            parts.machine.author,
            int(parts.clock.now()),
            describe_commit(fresh, gone),
        )
        self.awaited = frozenset(self._awaiting)
        report = SnapshotReport(
            made,
            tuple(_name(key) for key in sorted(fresh)) if made else (),
            tuple(_name(key) for key in sorted(gone)) if made else (),
        )
        return self._tell(report)

    def _tell(self, report: SnapshotReport) -> SnapshotReport:
        refusals: list[Refusal] = []
        secrets: list[str] = []
        left_out: dict[str, tuple[str, ...]] = {}
        for place in self._places:
            seen = self._seen[place.scope, place.path]
            held = self._screened.refuse(place, seen.secrets)
            refusals += [one for one in (seen.refusal, held) if one is not None]
            if standing := self._screened.standing(seen.secrets):
                secrets.append(f"{place.name} {describe(standing)}")
            if seen.left_out:
                left_out[place.name] = seen.left_out
        return replace(
            report,
            refusals=tuple(refusals),
            secrets=tuple(secrets),
            left_out=left_out,
            retry=any(seen.is_changing for seen in self._seen.values()),
        )

    def _changed(self, knowledge: Knowledge) -> Knowledge:
        me = self._parts.machine.id
        former = knowledge.machines.get(me, MachineKnowledge())
        documents = {scope: dict(those) for scope, those in former.documents.items()}
        for scope in {place.scope for place in self._places}:
            documents[scope] = {}
        applied = {scope: dict(those) for scope, those in former.applied.items()}
        anew = {scope: dict(those) for scope, those in former.anew.items()}
        is_odd = self._said != former
        due = frozenset(due_scopes(knowledge)) if is_odd else frozenset[Scope]()
        self._awaiting.clear()
        for place in self._places:
            scope, path = place.scope, place.path
            current = knowledge.consolidated.get(scope, {}).get(path)
            known = former.documents.get(scope, {}).get(path)
            document = self._document(place, current, known)
            went_on = is_odd and (former != self.left or (scope, path) in self.awaited)
            returns = document not in (None, known) and (went_on or path in anew.get(scope, {}))
            if document is not None and returns:
                is_new = self._is_new(knowledge, place)
                if went_on and is_new and scope in due:
                    document = known
                    self._awaiting.add((scope, path))
                elif went_on and (base := self._base(knowledge, place)) is not None:
                    applied.setdefault(scope, {})[path] = base
                    anew.get(scope, {}).pop(path, None)
                elif went_on or is_new:
                    applied.get(scope, {}).pop(path, None)
                    anew.setdefault(scope, {})[path] = document
                else:
                    anew.get(scope, {}).pop(path, None)
            if document is not None:
                documents[scope][path] = document
                if document == current:
                    applied.setdefault(scope, {})[path] = current
        now = replace(
            former,
            name=self._parts.machine.name,
            documents={scope: those for scope, those in documents.items() if those},
            applied={scope: those for scope, those in applied.items() if those},
            anew={scope: those for scope, those in anew.items() if those},
        )
        if now == former or not (now.documents or former.documents or now.applied):
            return knowledge
        return replace(knowledge, machines={**knowledge.machines, me: now})

    def _is_new(self, knowledge: Knowledge, place: Place) -> bool:
        """Whether our folder has a document of this place that no synthesis took in yet."""
        mine = self._parts.machine.id, place.path
        return any((one.machine, one.path) == mine for one in contributions(knowledge, place.scope))

    def _base(self, knowledge: Knowledge, place: Place) -> Oid | None:
        """What we had applied when we left our folder, where a synthesis can tell that it is that."""
        said, record = self._said, knowledge.records.get(place.scope, ScopeRecord())
        base = said.applied.get(place.scope, {}).get(place.path)
        current = knowledge.consolidated.get(place.scope, {}).get(place.path)
        used = {} if record.written is None else record.written.inputs.get(self._parts.machine.id, {})
        last = used.get(place.path)
        is_known = base in (current, *record.former.get(place.path, ()))
        return base if is_known and (last is None or last.applied != base) else None

    def _document(self, place: Place, current: Oid | None, former: Oid | None) -> Oid | None:
        """What stands at a place, as the branch is to have it."""
        seen = self._seen[place.scope, place.path]
        if seen.refusal is not None or seen.is_changing or self._screened.refuse(place, seen.secrets):
            return former
        if seen.document in (None, current) or {current, former} <= {None, seen.document}:
            return seen.document
        local = self._local(place)
        if local is None or local.oid != seen.document:
            return former  # it changed this moment; the next look takes it
        for known in (current, former):
            if is_same_here(self._parts.store, place, local, known):
                return known
        return seen.document

    def _local(self, place: Place) -> LocalDocument | None:
        key = place.scope, place.path
        if key not in self._read:
            try:
                self._read[key] = read_local(self._files, place)
            except ConvergenceError:
                self._read[key] = None
        return self._read[key]


def not_shared(parts: Parts, files: Files, places: Iterable[Place]) -> list[Refusal]:
    """The documents that are not shared as they are now, and why. Writes nothing."""
    screened = _Screened.of(parts)
    refusals: list[Refusal] = []
    for place in places:
        try:
            local = read_local(files, place)
        except FileChangedError:
            continue
        except ConvergenceError as error:
            refusals.append(Refusal(place.name, error.summary, error.hint))
            continue
        if local is not None:
            held = screened.refuse(place, screened.find(parts, local.shared))
            refusals += [held] if held is not None else []
    return refusals


def describe_commit(fresh: Iterable[Key], gone: Iterable[Key]) -> str:
    """The subject of a commit: `knowledge: global CLAUDE.md, settings.json; app 2 notes`."""
    parts = _words(fresh) + [f"without {words}" for words in _words(gone)]
    more = f"; and {len(parts) - MAX_NAMED} more" if len(parts) > MAX_NAMED else ""
    return f"knowledge: {'; '.join(parts[:MAX_NAMED])}{more}" if parts else "knowledge: what is applied here"


def _words(keys: Iterable[Key]) -> list[str]:
    names: dict[str, list[str]] = {}
    notes: Counter[str] = Counter()
    for scope, path in sorted(keys):
        owner = scope.rpartition("/")[2]
        names.setdefault(owner, [])
        if path.startswith(f"{MEMORY}/"):
            notes[owner] += 1
        else:
            names[owner].append(path)
    return [
        f"{owner} {', '.join([*paths, *([plural(notes[owner], 'note')] if notes[owner] else [])])}"
        for owner, paths in names.items()
    ]


def _flat(documents: Mapping[Scope, Documents]) -> dict[Key, Oid]:
    return {(scope, path): oid for scope, those in documents.items() for path, oid in those.items()}


def _name(key: Key) -> str:
    return f"{key[0]}/{key[1]}"
