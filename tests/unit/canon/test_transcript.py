"""What a transcript's bytes mean."""

from __future__ import annotations

import json
import uuid

import pytest

from convergenced.canon.transcript import (
    RecordFacts,
    facts,
    find_project_root,
    fork_id,
    is_conversation,
    last_time,
    scan_cwds,
    split_records,
    with_session_id,
)
from convergenced.model import SessionId
from tests.unit.canon import corpus

OLD = SessionId("9fae7791-06e5-41f7-864b-f9212d050af9")
NEW = SessionId("9faddafb-a78e-4a86-998b-acbe776b3048")


def record(**keys: object) -> bytes:
    return json.dumps(keys, ensure_ascii=False, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("data", "records", "tail"),
    [
        (b"", [], b""),
        (b"torn", [], b"torn"),
        (b"a\nb\n", [b"a", b"b"], b""),
        (b"a\n\nb", [b"a", b""], b"b"),
        ("x\u2028y\u2029z\u0085\r\x0b\n".encode(), ["x\u2028y\u2029z\u0085\r\x0b".encode()], b""),
    ],
)
def test_only_a_line_feed_separates_records(data: bytes, records: list[bytes], tail: bytes) -> None:
    assert split_records(data) == (records, tail)


def test_a_chain_record_says_all_of_itself() -> None:
    line = record(
        type="user", uuid="u", sessionId=OLD, timestamp="1970-01-02T00:00:01.500Z", cwd="/é", message={}
    )
    assert facts(line) == RecordFacts("user", "u", OLD, 86401.5, "/é", is_conversation=True)


@pytest.mark.parametrize(
    "line",
    [
        b"", b"{", b"[1]", b"null", b'"x"', b"\xff\xfe", b"{}{}",
        b'{"type":1,"uuid":[],"timestamp":5,"cwd":{}}',
        b'{"a":' + b"[" * 100_000, b'{"type":"user"', b'{"n":' + b"9" * 5000 + b"}",
        b'{"timestamp":"yesterday"}',
    ],
)  # fmt: skip
def test_an_opaque_line_says_nothing(line: bytes) -> None:
    assert facts(line) == RecordFacts()
    assert not is_conversation(line)


def test_undecodable_bytes_ride_along() -> None:
    assert facts(b'{"cwd":"/x\xff"}').cwd == "/x\udcff"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("user", True), ("assistant", True), ("system", True), ("attachment", False), ("mode", False)],
)
def test_user_assistant_and_system_are_conversation(kind: str, expected: bool) -> None:
    assert is_conversation(record(type=kind, uuid="u")) is expected
    assert not is_conversation(record(type=kind))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:00Z", 0.0),
        ("2026-11-20T17:10:08.394Z", 1795194608.394),
        ("2000-02-29T12:00:00+02:00", 951818400.0),
        ("2000-02-29T12:00:00-02:30", 951834600.0),
        ("1969-12-31T23:59:59z", -1.0),
        ("2100-03-01t00:00:00Z", 4107542400.0),
    ],
)
def test_times_are_unix_seconds(text: str, seconds: float) -> None:
    assert facts(record(timestamp=text)).timestamp == seconds


@pytest.mark.parametrize(
    "text",
    ["", "2026-11-20", "2026-11-20T17:10:08", "2026-13-20T17:10:08Z", "2026-01-00T00:00:00Z",
     "2026-01-01T24:00:00Z", "2026-01-01T00:60:00Z", "2026-01-01T00:00:61Z", "２026-11-20T17:10:08Z"],
)  # fmt: skip
def test_an_unreadable_time_is_none(text: str) -> None:
    assert facts(record(timestamp=text)).timestamp is None


def test_the_session_id_is_changed_in_its_keys_and_nowhere_else() -> None:
    line = (
        b'{"sessionId":"%(o)s", "sessionId" :\t"%(o)s","parent":"%(o)s","text":"\\"sessionId\\":\\"%(o)s\\"",'
        b'"n":{"sessionId":"%(o)s"},"x\\"sessionId":"%(o)s","sessionId":"%(o)s-not"}'
    )
    expected = (
        b'{"sessionId":"%(n)s", "sessionId" :\t"%(n)s","parent":"%(o)s","text":"\\"sessionId\\":\\"%(o)s\\"",'
        b'"n":{"sessionId":"%(n)s"},"x\\"sessionId":"%(o)s","sessionId":"%(o)s-not"}'
    )
    ids = {b"o": OLD.encode(), b"n": NEW.encode()}
    assert with_session_id(line % ids, OLD, NEW) == expected % ids
    assert with_session_id(b'{"sessionId":"other"}', OLD, NEW) == b'{"sessionId":"other"}'


@corpus.needed
def test_a_fork_by_the_client_differs_as_ours_would() -> None:
    folder = corpus.ROOT / "fork" / "projects" / "-home-ann-src-proj"
    ours = [
        with_session_id(line, OLD, NEW) for line in split_records((folder / f"{OLD}.jsonl").read_bytes())[0]
    ]
    theirs = split_records((folder / f"{NEW}.jsonl").read_bytes())[0]
    shared = [facts(line).uuid for line in theirs if facts(line).uuid]
    ours_by_uuid = {facts(line).uuid: facts(line).session_id for line in ours}
    assert len(shared) > 5
    assert {ours_by_uuid[own] for own in shared if own in ours_by_uuid} == {NEW}


def test_a_fork_id_depends_on_the_record_and_not_on_the_session_it_is_met_in() -> None:
    of_old, of_new = (b'{"uuid":"u","sessionId":"%s"}' % name.encode() for name in (OLD, NEW))
    one = fork_id(OLD, of_old)
    assert one == fork_id(NEW, of_new)
    assert uuid.UUID(one).version == 5
    assert len({one, fork_id(OLD, of_new), fork_id(OLD, of_old + b" ")}) == 3
    assert one == "55866b9f-1a3e-51e0-887d-5ddc289d2078"  # other machines derive the same: never change it


def test_the_last_time_is_that_of_the_last_whole_record_that_tells_one() -> None:
    early, late = record(timestamp="1970-01-01T00:00:05Z"), record(timestamp="1970-01-01T00:00:09Z")
    assert last_time(late + b"\n" + early + b"\n") == 5.0
    assert last_time(early + b"\n" + record(type="mode") + b"\n" + b'{"timestamp"\n' + late) == 5.0
    assert last_time(late) is None
    assert last_time(b"\n\n" + record(type="mode") + b"\n") is None
    assert last_time(b"") is None


@pytest.mark.parametrize(
    ("cwds", "folder", "root"),
    [
        (["/home/ann/src/proj"], "-home-ann-src-proj", "/home/ann/src/proj"),
        (["/tmp", "/home/ann/src/proj/a/b"], "-home-ann-src-proj", "/home/ann/src/proj"),
        (["/home/ann/src/proj-x/y"], "-home-ann-src-proj", None),
        (["C:\\Users\\ann\\proj\\src"], "C--Users-ann-proj", "C:\\Users\\ann\\proj"),
        (["C:/Users/ann/proj/src"], "C--Users-ann-proj", "C:/Users/ann/proj"),
        (["\\\\nas\\code\\proj\\x"], "--nas-code-proj", "\\\\nas\\code\\proj"),
        (["/home/ann/src/proj/"], "-home-ann-src-proj", "/home/ann/src/proj"),
        (["relative", "/", ""], "-x", None),
        (["/a" + "/b" * 500], "-a", None),
        ([], "-x", None),
    ],
)
def test_the_root_is_the_cwd_or_its_ancestor_that_has_the_folders_name(
    cwds: list[str], folder: str, root: str | None
) -> None:
    assert find_project_root(cwds, folder) == root


def test_cwds_are_told_once_each_in_order() -> None:
    lines = [
        b'cut off","cwd":"/lost"}',
        record(cwd="/a", text='"cwd":"/quoted"'),
        record(cwd="/a"),
        b'{"tool":{"cwd":"/nested"},"cwd":"/b\\u002fc"}',
        b'{"tool":{"cwd":"/b/c"},"cwd":"/a"}',
        b'{"cwd":"\\ud800\\q"}',
        b'{"type":"user","cwd" : "/torn","message":"half',
    ]
    assert list(scan_cwds(b"\n".join(lines))) == ["/a", "/b/c", "/torn"]
    assert list(scan_cwds(b'{"cwd":"\\q"')) == []
    assert list(scan_cwds(b"")) == []


@corpus.needed
def test_the_root_of_a_real_project_is_found_from_its_transcripts() -> None:
    for path in (corpus.ROOT / "machineA" / ".claude" / "projects" / "-home-ann-src-proj").glob("*.jsonl"):
        assert find_project_root(scan_cwds(path.read_bytes()), "-home-ann-src-proj") == "/home/ann/src/proj"


def test_what_a_record_says_does_not_depend_on_how_deep_the_stack_is() -> None:
    def ask(record: bytes, frames: int) -> bool:
        return is_conversation(record) if frames == 0 else ask(record, frames - 1)

    for depth, understood in (
        (190, True),
        (199, True),
        (200, False),
        (700, False),
        (950, False),
        (10_000, False),
    ):
        record = b'{"type":"user","uuid":"u","x":' + b"[" * depth + b"]" * depth + b"}"
        assert [ask(record, frames) for frames in (0, 100, 400)] == [understood] * 3
