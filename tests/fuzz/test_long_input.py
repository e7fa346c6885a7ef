"""Work is bounded by the input's length: here is what would take hours if it were squared, or cubed.

Nothing is measured. The time limit of the suite ends a test whose parser looks at anything over again.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from convergenced.canon import transcript
from convergenced.canon.rewrite import Rewriter
from convergenced.canon.secrets import find_secrets
from convergenced.canon.signed import signed_spans
from convergenced.errors import ConfigError, StoreError
from convergenced.machine.checkouts import normalize_git_url
from convergenced.machine.settings import parse_settings
from convergenced.merge.client_settings import apply_settings, setting_changes
from convergenced.merge.conflict import Conflict, has_conflict, parse_conflicts
from convergenced.merge.markdown import Version, merge_markdown
from convergenced.merge.marks import add_mark, find_marks, unverified_mark
from convergenced.merge.memory import merge_text
from convergenced.merge.roster import Participant, Roster, format_roster, merge_rosters, parse_roster
from convergenced.merge.sequences import hold_both, is_contained
from convergenced.model import Anchors, Content, MachineId
from convergenced.store.objects import parse_commit
from convergenced.store.refusals import MAX_REASON, Place, explain
from convergenced.urls import classify_url, redact_text
from tests.fuzz import mutation
from tests.property.canon.machines import ANN

OPENING = b"<<<<<<< convergence"
LONG = 2_000_000

REPEATED = (
    b"{{CC_",
    b"{{CC_HOME_LIT}}",
    b"_LIT",
    b"\\",
    b"\\u00",
    b'"',
    b"/home/ann",
    b"x/home/ann",
    b"\\/home\\/ann",
    b'"cwd":"/x",',
    b'"cwd" ',
    b'"cwd":"\\"',
    b'"thinking":"',
    b'{"type":"thinking","thinking":"/home/ann","signature":"x"}',
    b"{",
    b"[",
    b" ",
    b"x/c/Users/ann/",
    b"C:\\Users\\ann\\",
    b"x/c/src/proj/",
    b"{{CC_HOME}}/",
    b"-home-ann-src-proj",
    b'"sessionId": ',
    b'"signature"   :',
    b"\n",
    b"\0",
    b"9",
    b'""',
    b"/a/a/a",
)


@pytest.mark.parametrize("own", [ANN, mutation.ODD[2], *mutation.WINDOWS], ids=lambda own: own.project_root)
@pytest.mark.parametrize("piece", REPEATED, ids=repr)
def test_rewriting(own: Anchors, piece: bytes) -> None:
    rewriter = Rewriter(own)
    data = piece * (150_000 // len(piece)) + b"\n"
    for content in Content:
        local = rewriter.localize(rewriter.canonicalize(data, content), content)
        assert own.os == "windows" or local == data


def test_a_long_path_full_of_what_could_be_an_anchor() -> None:
    data = b"x/c/src/proj/" * (LONG // 13)
    assert Rewriter(mutation.WINDOWS[0]).canonicalize(data, Content.TEXT) == data


LEADS = (b"", b"password='", b"x://u:", b"eyJ", b"-----BEGIN PRIVATE " + b"KEY-----")


@pytest.mark.parametrize("lead", LEADS, ids=repr)
def test_secrets_that_begin_and_never_end(lead: bytes) -> None:
    pieces = b"""
    gh\x70_ sk- sk-ant-api03- - _ a_ xox\x62- eyJ \\neyJ eyJ. eyJa.eyJ . a. :// ://a: a://a:b
    x:\\/\\/ :\\ \\ \\\\/
    \\/ password= password:a1 token=a1 secret='a1B2 " key=" api_key= api_key="\\/ hooks
    webhooks/1234567890123456/
    AKI\x41 AIz\x61 authorization:basic AccountKey= Key=A/
    A1b2 A/ = { Maaaaaaaaaaaaaaaaaaaaaaa.abcdef. 12345678:AA
    --password password> SG. a:b@ secret:str= \\u00 k hf_a1 github_pat_ pypi-AgE x1 passphrase: -----BEGIN
    """.split()
    for piece in (
        *pieces,
        b"bearer a ",
        b" ",
        b"\n",
        b"\n{",
        b"key ",
        b"--token ",
        b"authorization: basic a",
    ):
        find_secrets(lead + piece * (40_000 // len(piece)), b"")


READERS: dict[str, Callable[[bytes], object]] = {
    "facts": transcript.facts,
    "cwds": lambda data: list(transcript.scan_cwds(data)),
    "time": transcript.last_time,
    "signed": signed_spans,
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize("piece", REPEATED, ids=repr)
def test_records(read: Callable[[bytes], object], piece: bytes) -> None:
    body = b'{"thinking":1,"timestamp":"' + piece * (300_000 // len(piece))
    for end in (b"", b"\n", b'"}\n'):
        read(body + end)


def test_a_record_that_names_very_many_folders() -> None:
    folders = b",".join(b'{"cwd":"/%d"}' % number for number in range(LONG // 20))
    assert list(transcript.scan_cwds(b'{"cwd":"/here","a":[' + folders + b"]}\n")) == ["/here"]
    assert len(list(transcript.scan_cwds(b'{"a":[' + folders))) == LONG // 20


def test_conflicts_that_begin_and_never_end() -> None:
    lines = [OPENING] * (LONG // 20)
    assert parse_conflicts(lines) == lines
    assert not has_conflict(b"\n".join(lines))


def test_conflicts_that_end_without_an_alternative() -> None:
    lines = [*[OPENING] * (LONG // 20), b">>>>>>> convergence"]
    assert parse_conflicts(lines) == lines


def test_one_conflict_in_which_very_many_begin() -> None:
    inner = (OPENING,) * (LONG // 20)
    lines = [OPENING, *inner, b"=======", b"a", b">>>>>>> convergence", b"end"]
    assert parse_conflicts(lines) == [Conflict((inner, (b"a",))), b"end"]


def test_lines_that_are_all_alike_but_for_their_neighbours() -> None:
    sides = [
        [line for at in range(1000) for line in (b"x", b"%s%d" % (name, at))] for name in (b"a", b"b", b"c")
    ]
    held = hold_both(sides[0], sides[1])
    assert held == hold_both(sides[1], sides[0])
    assert all(is_contained(side, held) for side in sides[:2])
    ours, theirs, base = (b"\n".join(side) for side in sides)
    assert merge_text("a.md", ours, theirs, base) == merge_text("a.md", theirs, ours, base)


@pytest.mark.parametrize(
    "person", [b"<" * LONG, b"a " * (LONG // 2), b"A <a> " + b"1" * LONG + b" +0000", b" " * LONG]
)
def test_a_commit_by_nobody(person: bytes) -> None:
    with pytest.raises(StoreError):
        parse_commit(b"tree %s\nauthor %s\n\n" % (b"1" * 40, person))


@pytest.mark.parametrize(
    "word",
    [
        "host key for ",
        "no host key is known ",
        "a",
        "https://",
        "@",
        "remote: ",
        "fatal: ",
        "permission to ",
        "transport '",
        "upload-pack ",
        "cannot run ",
        "protocol ",
        "unable to ",
        "git-upload-pack: ",
        "a://",
        "\r",
    ],
)
def test_words_of_a_hub(word: str) -> None:
    place = Place("hub", classify_url("https://u:p@host/x"))
    said = word * (LONG // len(word))
    assert len(explain(said, place).error.summary) < 2 * MAX_REASON
    redact_text(said[:300_000], place.url)
    normalize_git_url("ssh://" + said[:300_000])


@pytest.mark.parametrize(
    "text",
    [
        "[machine]\nname=" + "[" * 50_000,
        "[ingest]\nquiet = " + "9" * 5000,
        "a" * (LONG // 10) + "=1",
        "a." * 3000 + "b=1",
        "[ingest]\n" + "\n".join(f"a{at}=1" for at in range(50_000)),
        '[projects]\nroots = ["' + " " * LONG + '"]\n',
    ],
    ids=lambda text: text[:20],
)
def test_settings(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_settings(text, "config.toml")
    assert str(refused.value).startswith("config.toml")


def entry(name: str) -> bytes:
    return format_roster(Roster({MachineId(name): Participant(MachineId(name))}))


def test_a_roster_that_would_outgrow_its_limits_does_not_take_the_other_with_it() -> None:
    many = [
        format_roster(Roster({(name := MachineId(f"{side}{at}")): Participant(name) for at in range(6000)}))
        for side in "ab"
    ]
    merged = merge_rosters(*many)
    assert merged in many
    assert merge_rosters(many[1], many[0]) == merged
    wide = b'{"participants":[{"machine_id":"m","home":"' + "é".encode() * 1_000_000 + b'"}]}'
    small = entry("n")
    assert parse_roster(merge_rosters(wide, small)).participants.keys() == {"n"}


def test_a_roster_does_not_grow_with_the_indent_of_what_is_nested() -> None:
    deep = b"[" * 900 + b"1," * 500_000 + b"1" + b"]" * 900
    nested = b'{"participants":[{"machine_id":"m"}],"x":' + deep + b"}"
    assert parse_roster(merge_rosters(nested, entry("n"))).participants.keys() == {"n"}


@pytest.mark.parametrize(
    "piece",
    [b"# A\n", b"```\n", b"<!--", b"<!-- CONFLICT: a\n", b"---\n", b"| a |\n", b"- x\n", b"\r"],
    ids=repr,
)
def test_documents_of_one_piece(piece: bytes) -> None:
    data = piece * (40_000 // len(piece))
    versions = [Version("a", data + b"end\n", data), Version("b", b"x\n" + data, None)]
    merged = merge_markdown(data, versions)
    assert merge_markdown(data, versions[::-1]) == merged
    long = data * 25
    find_marks(long)
    mark = unverified_mark("who says that?")
    assert mark in add_mark(long, f"{piece.decode() * 1000}nowhere", mark)


def test_settings_with_as_many_keys_and_elements_as_may_be() -> None:
    keys = json.dumps({"env": {f"K{number}": "1" for number in range(150)}}).encode()
    elements = json.dumps({"permissions": {"allow": [f"Bash(x{at})" for at in range(4_000)]}}).encode()
    for one, other in ((keys, b"{}"), (b"{}", keys), (elements, b"{}"), (b"{}", elements)):
        changes = setting_changes(one, other)
        assert setting_changes(apply_settings(one, changes), other) == []
