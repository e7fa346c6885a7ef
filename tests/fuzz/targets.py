"""What is fuzzed: for each parser of foreign bytes a check that fails where its promise is broken.

A check takes any bytes. It returns where the parser answered or refused as documented, and raises
anything else. It needs neither Hypothesis nor a coverage tool: both drive it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, TypeVar

from convergenced.canon import transcript
from convergenced.canon.rewrite import Rewriter
from convergenced.canon.secrets import FINGERPRINT_DIGITS, find_secrets
from convergenced.canon.signed import signed_spans
from convergenced.control import protocol
from convergenced.errors import (
    ConvergenceError,
    MissingObjectError,
    NewerSchemaError,
    RefusedInputError,
    StoreError,
)
from convergenced.merge.conflict import format_parts, parse_conflicts
from convergenced.merge.contributions import contributions, due_scopes
from convergenced.merge.knowledge_merge import merge_knowledge
from convergenced.merge.knowledge_tree import read_knowledge, write_knowledge
from convergenced.merge.layout import ProjectTree, read_folder, read_project, write_folder, write_project
from convergenced.merge.memory import merge_text
from convergenced.merge.roster import (
    format_machine,
    format_policy,
    format_roster,
    merge_rosters,
    parse_machine,
    parse_policy,
    parse_roster,
)
from convergenced.merge.tree import merge_projects
from convergenced.model import MODE_BLOB, MODE_TREE, Content, Oid, SessionId, TreeEntry
from convergenced.store.objects import format_commit, format_tree, object_id, parse_commit, parse_tree
from tests import labelled
from tests.fakes.store import MemoryStore
from tests.fuzz import knowing, mutation

Parsed = TypeVar("Parsed")

SID = "2af1d7f8-1206-438d-b660-8b22937b7f38"
OTHER_SID = "9fae7791-06e5-41f7-864b-f9212d050af9"

Names: TypeAlias = tuple[tuple[str, ...], ...]

_ESCAPE = re.compile(rb"\\u(?!002[fF])")


@dataclass(frozen=True, slots=True)
class Target:
    """A parser under fuzz: its check, and well-formed bytes to begin with."""

    check: Callable[[bytes], None]
    seeds: Callable[[], Sequence[bytes]]


def check_rewrite(data: bytes) -> None:
    """Canonicalize and localize are inverse, both ways; the first two bytes choose the participants."""
    own, other, rest = mutation.choose(data, mutation.EVERYONE)
    here, there = Rewriter(own), Rewriter(other)
    for content in Content:
        canonical = here.canonicalize(rest, content)
        local = here.localize(canonical, content)
        assert own.os == "windows" or local == rest, (own, content, rest, canonical, local)
        assert here.is_reversible(rest, content) == (local == rest)
        arrived = there.localize(canonical, content)
        again = there.canonicalize(arrived, content)
        usable = own.home not in (None, "/") and own.project_root != "/"
        plain = content is Content.JSON and usable and _ESCAPE.search(rest) is None
        if plain and "windows" not in (own.os, other.os):
            assert again == canonical, (own, other, rest, canonical, arrived, again)


def check_transcript(data: bytes) -> None:
    """Records are what stands between LFs, each says what its JSON says or nothing, and nobody raises."""
    records, tail = transcript.split_records(data)
    assert b"\n".join([*records, tail]) == data
    times = []
    told: list[str] = []
    for record in records:
        facts = transcript.facts(record)
        value = _object_or_none(record)
        for key, said in (("type", facts.type), ("uuid", facts.uuid), ("sessionId", facts.session_id)):
            wanted = None if value is None else value.get(key)
            assert said == (wanted if isinstance(wanted, str) else None), (record, key)
        assert transcript.is_conversation(record) <= facts.is_conversation
        assert facts.is_conversation <= (facts.uuid is not None and facts.type in transcript.CONVERSATION)
        times += [] if facts.timestamp is None else [facts.timestamp]
        told += [] if facts.cwd is None else [facts.cwd]
        renamed = transcript.with_session_id(record, SessionId(SID), SessionId(OTHER_SID))
        assert len(renamed) == len(record)
        if OTHER_SID.encode() not in record:
            assert transcript.with_session_id(renamed, SessionId(OTHER_SID), SessionId(SID)) == record
        transcript.fork_id(SessionId(SID), record)
        check_signed(record)
    last = transcript.last_time(data)
    assert last is None or last in times
    cwds = list(transcript.scan_cwds(data))
    assert all(cwd in told or cwd in _cwds_by_definition(tail) for cwd in cwds)
    assert len(set(cwds)) == len(cwds)
    root = transcript.find_project_root(cwds, "-home-ann-src-proj")
    assert root is None or any(cwd.startswith(root) for cwd in cwds)


def check_signed(line: bytes) -> None:
    """Protected strings stand in order inside quotes, and no participant's rewriting touches one."""
    spans = signed_spans(line)
    end = -1
    for start, stop in spans:
        assert end < start <= stop < len(line)
        assert line[start - 1 : start] == line[stop : stop + 1] == b'"'
        end = stop
    if spans and _object_or_none(line) is not None:
        canonical = Rewriter(mutation.EVERYONE[0]).canonicalize(line, Content.JSON)
        kept = [canonical[start:stop] for start, stop in signed_spans(canonical)]
        assert kept == [line[start:stop] for start, stop in spans]


def check_secrets(data: bytes) -> None:
    """Findings stand apart and in order, show little, and are the same among other records."""
    found = find_secrets(data, b"salt")
    end = 0
    for one in found:
        assert end <= one.start < one.end <= len(data)
        end = one.end
        assert len(one.fingerprint) == FINGERPRINT_DIGITS
        assert one.shown.isprintable()
        assert len(one.shown) < 40
        assert one.what
    among = find_secrets(b"\n\n" + data, b"salt")
    assert [one.fingerprint for one in among] == [one.fingerprint for one in found]


def check_roster(data: bytes) -> None:
    """Each document is read or refused; what was read comes back; merging is fair and loses nobody."""
    one, _, other = data.partition(b"\xff")
    policy, card = _refused(partial(parse_policy, one)), _refused(partial(parse_machine, one))
    if policy is not None:
        assert parse_policy(format_policy(policy)) == policy
    if card is not None:
        assert parse_machine(format_machine(card)) == card
    rosters = [roster for side in (one, other) if (roster := _refused(partial(parse_roster, side)))]
    for roster in rosters:
        assert parse_roster(format_roster(roster)).participants.keys() == roster.participants.keys()
    merged = _refused(lambda: merge_rosters(one, other))
    assert merged == _refused(lambda: merge_rosters(other, one))
    if merged is not None and rosters:
        known = parse_roster(merged).participants.keys()
        assert all(roster.participants.keys() <= known for roster in rosters)
        for side in (one, other, merged):
            assert merge_rosters(merged, side) in (merged, format_roster(parse_roster(merged)))


def check_frame(data: bytes) -> None:
    """A frame is a request, an answer or an error; an error can be raised and sent on."""
    request = protocol.parse_request(data)
    if isinstance(request, protocol.Request):
        assert protocol.parse_request(protocol.format_request(request)) == request
        assert protocol.format_result(request.id, request.params).endswith(b"\n")
    else:
        assert isinstance(protocol.parse_answer(protocol.format_error(request)), protocol.RpcError)
    answer = protocol.parse_answer(data)
    if isinstance(answer, protocol.RpcError):
        raised = protocol.raised_error(answer)
        crossed = protocol.raised_error(protocol.rpc_error(1, raised))
        assert (str(crossed), crossed.exit_code) == (str(raised), raised.exit_code)
        str(raised).encode("utf-8", "surrogateescape")


def check_objects(data: bytes) -> None:
    """Bytes are a tree or a commit, or refused; what was read can be told."""
    entries = _refused(lambda: parse_tree(data), StoreError)
    for entry in entries or ():
        assert len(entry.oid) == 40
        assert "/" not in f"{entry.mode:o}"
    if entries is not None and (written := _refused(lambda: format_tree(entries), StoreError)) is not None:
        assert parse_tree(written) is not None
        assert sorted(parse_tree(written)) == sorted(entries)
    commit = _refused(lambda: parse_commit(data), StoreError)
    if commit is not None:
        again = parse_commit(format_commit(commit))
        assert (again.tree, again.parents, again.time) == (commit.tree, commit.parents, commit.time)


def check_tree(data: bytes) -> None:
    """Two hostile projects are read, merged fairly, and merging again changes nothing."""
    store = MemoryStore()
    root_one, rest = build_tree(store, data)
    root_two, _ = build_tree(store, rest)
    sides: list[ProjectTree] = []
    for root in (root_one, root_two):
        project = read_hostile(store, root)
        if project is None:
            return
        sides.append(project)
    check_projects(store, *sides)


def read_hostile(store: MemoryStore, root: Oid) -> ProjectTree | None:
    """The project at a root; None where it may be refused as a whole. What is kept reads as clean."""
    try:
        project, _ = read_project(store, root)
    except (NewerSchemaError, MissingObjectError, StoreError):
        return None
    again, refusals = read_project(store, write_project(store, project))
    assert write_project(store, again) == write_project(store, project)
    assert [refusal for refusal in refusals if refusal.reason != "the branch has none"] == []
    return project


def check_projects(store: MemoryStore, one: ProjectTree, other: ProjectTree) -> None:
    """The merge is commutative and idempotent, and nobody's session, file or machine goes away."""
    try:
        merged = merge_projects(store, one, other, None)
    except (NewerSchemaError, RefusedInputError):
        return
    tree = merged.tree
    assert merge_projects(store, other, one, None) == merged
    for side in (one, other):
        assert side.sessions.keys() <= tree.sessions.keys()
        assert side.machines.keys() <= tree.machines.keys()
    again, _ = read_project(store, write_project(store, tree))
    if not all(_is_readable(store, side) for side in (one, other)):
        return  # what cannot be read of a session's folder goes when it is first opened
    for side in (one, other, tree):
        assert write_project(store, merge_projects(store, again, side, side).tree) == write_project(
            store, again
        )


def _is_readable(store: MemoryStore, project: ProjectTree) -> bool:
    """Whether every session's folder is there as somebody would write it."""
    for sid, session in project.sessions.items():
        files, _ = read_folder(store, session.folder, sid)
        if session.folder is not None and (not files or write_folder(store, files) != session.folder):
            return False
    return True


def check_memory(data: bytes) -> None:
    """A file with and without conflicts is parsed without loss; a merge is fair and ends."""
    parts = [part.removeprefix(b"\n") for part in data.split(b"\xff")[:3]]
    ours, theirs, base = (*parts, b"", b"")[:3]
    for text in (ours, theirs):
        lines = text.split(b"\n")
        parsed = parse_conflicts(lines)
        once = list(format_parts(parsed))
        assert list(format_parts(parse_conflicts(once))) == once
    for ancestor in (base, None):
        merged = merge_text("a.md", ours, theirs, ancestor)
        assert merge_text("a.md", theirs, ours, ancestor) == merged
        index = merge_text("MEMORY.md", ours, theirs, ancestor)
        assert merge_text("MEMORY.md", theirs, ours, ancestor) == index


def check_knowledge(data: bytes) -> None:
    """Two hostile branches of shared knowledge are read and merged fairly; what is kept reads as clean."""
    store = MemoryStore()
    root_one, rest = build_tree(store, data, 0, _KNOWLEDGE)
    root_two, _ = build_tree(store, rest, 0, _KNOWLEDGE)
    clean: list[Oid] = []
    for root in (root_one, root_two):
        try:
            knowledge, _ = read_knowledge(store, root)
        except (NewerSchemaError, MissingObjectError, StoreError):
            return
        clean.append(write_knowledge(store, knowledge))
        assert read_knowledge(store, clean[-1]) == (knowledge, [])
        for scope in due_scopes(knowledge):
            assert contributions(knowledge, scope)
    one, other = clean
    merged = merge_knowledge(store, root_one, root_two, None)
    assert (
        merged == merge_knowledge(store, root_two, root_one, None) == merge_knowledge(store, one, other, None)
    )
    for side in (one, other, merged):
        assert merge_knowledge(store, merged, side, None) == merged
        known, kept = read_knowledge(store, side)[0], read_knowledge(store, merged)[0]
        assert known.machines.keys() <= kept.machines.keys()
        assert known.consolidated.keys() <= kept.consolidated.keys() | kept.records.keys()


def build_tree(
    store: MemoryStore, data: bytes, depth: int = 0, known: Names | None = None
) -> tuple[Oid, bytes]:
    """A tree that the bytes describe, one entry after another: name, kind, content. Any bytes do.

    `known` are the names at each depth, those of a project where nothing is said.
    """
    entries: dict[bytes, tuple[bytes, Oid]] = {}
    while data:
        head, data = data[0], data[1:]
        if head == 0xFF:
            break
        by_depth = known or _NAMES
        names = by_depth[depth] if depth < len(by_depth) else by_depth[-1]
        name = names[head % len(names)].encode("utf-8", "surrogateescape")
        kind, data = (data or b"\0")[0], data[1:]
        if kind & 1 and depth < 20:
            oid, data = build_tree(store, data, depth + 1, known)
            entries[name] = (b"40000", oid)
        elif kind & 2:
            size, data = (data or b"\0")[0], data[1:]
            entries[name] = (b"100644", store.write_blob(data[:size]))
            data = data[size:]
        else:
            mode = (b"100644", b"100755", b"120000", b"160000", b"100664", b"100600", b"777777")[
                (kind >> 2) % 7
            ]
            entries[name] = (mode, store.write_blob(_BLOBS[(kind >> 2) % len(_BLOBS)]))
    raw = b"".join(mode + b" " + name + b"\0" + bytes.fromhex(oid) for name, (mode, oid) in entries.items())
    oid = object_id("tree", raw)
    store.objects[oid] = ("tree", raw)
    return oid, data


_RECORD = b'{"type":"user","uuid":"%s","sessionId":"%s","timestamp":"2025-11-20T10:00:0%dZ"}\n'
_BLOBS = (
    b'{"schema":1,"layout":"flat"}',
    b'{"schema":1}',
    b'{"participants":[{"machine_id":"m","last_converged":"2"}]}',
    b'[{"machine_id":"n"}]',
    b"",
    b"line\nline\n",
    b"<<<<<<< convergence\na\n=======\nb\n>>>>>>> convergence\n",
    *(_RECORD % (name, SID.encode(), at) for at, name in enumerate((b"a", b"b", b"c"))),
    _RECORD % (b"a", SID.encode(), 1) + _RECORD % (b"b", SID.encode(), 2),
    _RECORD % (b"a", SID.encode(), 1) + _RECORD % (b"c", SID.encode(), 2),
    b"torn",
    b'{"schema":2}',
    b"\xff\x00{",
)
_HOSTILE = (
    "..",
    ".",
    "",
    "a/b",
    "a\\b",
    ".git",
    ".GIT",
    "git~1",
    ".gi\u200ct",
    "a\x01",
    "\udcff",
    "x" * 256,
    "a:b",
    "A",
    "a",
)
_NAMES: Names = (
    (
        "roster.json",
        "convergence.json",
        "machines",
        "context",
        "segments",
        "future",
        "Roster.json",
        *_HOSTILE,
    ),
    ("memory", SID, OTHER_SID, f"{SID}.jsonl", f"{OTHER_SID}.jsonl", "m.json", "n.json", "Memory", *_HOSTILE),
    ("0000", "0001", "ffff", "MEMORY.md", "memory.md", "subagents", "é.md", "e\u0301.md", *_HOSTILE),
    ("00", "01", "02", "agent-1.jsonl", "agent-2.jsonl", "deep", "Deep", *_HOSTILE),
)
_MACHINE = "ann-00000001"
_KNOWLEDGE: Names = (
    ("machines", "consolidated", "meta", "later", "Machines", *_HOSTILE),
    (_MACHINE, "bob-00000002", "global", "projects", "last-synthesis.json", "sync-log.json", *_HOSTILE),
    ("machine.json", "global", "projects", "p", "CLAUDE.md", "settings.json", "Global", *_HOSTILE),
    ("CLAUDE.md", "settings.json", "p", "P", ".claude", "memory", "claude.md", "Memory", *_HOSTILE),
    ("CLAUDE.md", ".claude", "memory", "a.md", "A.md", "a.txt", *_HOSTILE),
    ("CLAUDE.md", "a.md", "A.md", "deep", *_HOSTILE),
)


def _refused(parse: Callable[[], Parsed], *more: type[ConvergenceError]) -> Parsed | None:
    try:
        return parse()
    except ConvergenceError as error:
        if isinstance(error, (RefusedInputError, NewerSchemaError, *more)):
            return None
        raise


def _object_or_none(record: bytes) -> dict[str, object] | None:
    if not record.lstrip().startswith(b"{"):
        return None
    try:
        value = json.loads(record.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _cwds_by_definition(torn: bytes) -> set[str]:
    """The strings that stand behind a raw key `cwd`."""
    found: set[str] = set()
    text = torn.decode("utf-8", "surrogateescape")
    for key in re.finditer('"cwd"[ \t]*:[ \t]*', text):
        try:
            value, _ = json.JSONDecoder(strict=False).raw_decode(text, key.end())
        except (ValueError, RecursionError):
            continue
        found |= {value} if isinstance(value, str) else set()
    return found


def _corpus(prefix: Callable[[int], bytes]) -> list[bytes]:
    return [prefix(at) + data for at, (_, data) in enumerate(mutation.corpus_samples(4, 3000))]


def _rewrite_seeds() -> list[bytes]:
    count = len(mutation.EVERYONE)
    mixed = [
        bytes([at % count, (at * 7) % count]) + b'{"a":"' + one + b'/x"}\n'
        for at, one in enumerate(mutation.tokens())
    ]
    return _corpus(lambda at: bytes([at % count, at * 5 % count])) + mixed


def _transcript_seeds() -> list[bytes]:
    return [
        *_corpus(lambda _: b""),
        *(blob for blob in _BLOBS if b"uuid" in blob),
        b'{"cwd":"/home/ann/src/proj/x"}\n{"cwd":"/home/a',
    ]


def _roster_seeds() -> list[bytes]:
    entry = b'{"machine_id":"m","os":"linux","home":"/h","project_root":"/p","last_converged":"1"}'
    return [
        b"[%s]\xff[%s]" % (entry, entry.replace(b'"m"', b'"n"')),
        b'{"participants":{"m":%s},"rewrite_home":false,"schema":1}\xff[]' % entry,
        b'{"schema":1,"rewrite_home":true,"layout":"segments","segment_bytes":65536,"new":[1,{"a":null}]}\xff{}',
        b'{"schema":1,"machine_id":"m","name":"a","git_url":"h/p","first_commit":null,"version":"1","os":"linux"}',
    ]


def _secret_seeds() -> list[bytes]:
    return [one.data for one in labelled.positives(1, 1)]


def _frame_seeds() -> list[bytes]:
    error = ConvergenceError("what", "do")
    return [
        protocol.format_request(protocol.Request(1, "status", {"a": [1, None]})),
        protocol.format_request(protocol.Request("x", "sync", {})),
        protocol.format_result(1, {"projects": [{"id": "p"}]}),
        protocol.format_error(protocol.rpc_error(7, error)),
        protocol.format_error(protocol.RpcError(None, protocol.METHOD_NOT_FOUND, "no")),
    ]


def _object_seeds() -> list[bytes]:
    entries = [TreeEntry("a", MODE_BLOB, Oid("1" * 40)), TreeEntry("b", MODE_TREE, Oid("2" * 40))]
    commit = b"tree %s\nparent %s\nauthor A <a@b> 1700000000 +0000\ncommitter A <a@b> 1700000000 +0000\n\nm\n"
    return [format_tree(entries), commit % (b"1" * 40, b"2" * 40)]


def _tree_seeds() -> list[bytes]:
    context, segments = b"\x03\x01", b"\x04\x01"
    roster = b"\x00\x08"
    flat = context + b"\x03" + bytes([4 * 7]) + b"\xff"
    cut = segments + b"\x01\x01" + b"\x00\x01" + b"\x00" + bytes([4 * 10]) + b"\xff\xff\xff"
    memory = context + b"\x00\x01" + b"\x03\x02\x05hello" + b"\xff\xff"
    return [
        roster + flat + b"\xff" + roster + cut,
        roster + memory + cut + b"\xff" + roster + flat + memory,
        cut,
    ]


def _knowledge_seeds() -> list[bytes]:
    def file(name: int, data: bytes) -> bytes:
        return bytes([name, 2, len(data)]) + data

    def folder(name: int, *inner: bytes) -> bytes:
        return bytes([name, 1]) + b"".join(inner) + b"\xff"

    oid = b"1" * 40
    paper = b'{"schema":1,"name":"A","revision":2,"applied":{"global":{"CLAUDE.md":"%s"}},"x":1}' % oid
    made = b'"at":1,"machine":"%s","provider":"none","usd":0.5,' % _MACHINE.encode()
    written = b'{%s"outcome":"copied","inputs":{"%s":{"CLAUDE.md":"%s"}}}' % (made, _MACHINE.encode(), oid)
    rejected = b'{%s"claims":["x"],"inputs":""}' % made
    entry = b'[{%s"scope":"global","outcome":"copied"}]' % made
    machine = folder(0, file(0, paper), folder(1, file(0, b"a")), folder(2, folder(2, file(0, b"b"))))
    consolidated = folder(1, folder(2, file(4, b"c")), folder(3, folder(3, folder(5, file(3, b"n")))))
    records = b'{"scopes":{"global":{"written":%s}}}' % written
    doubts = b'{"scopes":{"global":{"rejected":%s,"revision":1}},"x":[]}' % rejected
    one = folder(0, machine) + consolidated + folder(2, file(4, records), file(5, entry)) + b"\xff"
    return [one, one + folder(0, machine) + folder(2, file(4, doubts)) + b"\xff"]


def _memory_seeds() -> list[bytes]:
    block = b"<<<<<<< convergence\na\n=======\nb\n>>>>>>> convergence\n"
    return [
        b"a\nb\nc\n\xffa\nx\nc\n\xffa\nb\nc\n",
        block + b"\xff" + block.replace(b"b", b"c") + b"\xffa\n",
        b"a\xffb",
    ]


TARGETS = {
    "rewrite": Target(check_rewrite, _rewrite_seeds),
    "transcript": Target(check_transcript, _transcript_seeds),
    "secrets": Target(check_secrets, _secret_seeds),
    "roster": Target(check_roster, _roster_seeds),
    "frame": Target(check_frame, _frame_seeds),
    "objects": Target(check_objects, _object_seeds),
    "tree": Target(check_tree, _tree_seeds),
    "memory": Target(check_memory, _memory_seeds),
    "knowledge": Target(check_knowledge, _knowledge_seeds),
    "markdown": Target(knowing.check_markdown, knowing.markdown_seeds),
    "marks": Target(knowing.check_marks, knowing.mark_seeds),
    "settings": Target(knowing.check_settings, knowing.setting_seeds),
    "heard": Target(knowing.check_heard, knowing.heard_seeds),
    "answer": Target(knowing.check_answer, knowing.answer_seeds),
    "client": Target(knowing.check_client, knowing.client_seeds),
    "forge": Target(knowing.check_forge, knowing.forge_seeds),
}
