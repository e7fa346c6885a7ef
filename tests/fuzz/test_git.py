"""What git and hubs say: objects are taken exactly where git's own check takes them, words never mislead."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convergenced.errors import PeerError, StoreError
from convergenced.store.objects import format_commit, format_tree, parse_commit, parse_tree
from convergenced.store.refnames import is_branch, is_oid, is_ref_name
from convergenced.store.refusals import Place, explain, push_reason
from convergenced.store.transfer import is_dangerous
from convergenced.store.transport_git import _parse_listing, _parse_push
from convergenced.urls import classify_url
from tests.fuzz.mutation import mutate
from tests.repositories import make_bare

pytestmark = pytest.mark.timeout(1800)  # for the deep profile

on_disk = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
seeds = st.integers(0, 1 << 32)

PERSON = b"Ann <ann@example.org> 1700000000 +0000"
COMMIT = (
    b"tree %s\nparent %s\nauthor " % (b"4b825dc642cb6eb9a060e54bf8d69288fbee4904", b"1" * 40)
    + PERSON
    + b"\ncommitter "
    + PERSON
    + b"\nencoding UTF-8\n\nwhat was done\n"
)
ODD = (
    b"0700000000",
    b"-1",
    b"99999999999999999999",
    b"9223372036854775807",
    b"9223372036854775808",
    b"+000",
    b"+00000",
    b"<",
    b">",
    b"<>",
    b"\n",
    b"\n\n",
    b"\0",
    b" ",
    b"  ",
    b"parent ",
    b"tree ",
    b"author ",
    b"committer ",
    b"gpgsig x\n y\n",
    b"mergetag ",
    b"\xff",
    b"A",
    b"a" * 40,
    b"",
)
PARTS = (
    b"1700000000",
    b"+0000",
    b"Ann",
    b"<ann@example.org>",
    b"ann@example.org",
    b"\n",
    b"parent ",
    b"author ",
    b"committer ",
    b"encoding UTF-8\n",
    b"1" * 40,
    b" ",
    b"\n\n",
    b"tree ",
    PERSON,
    b"what was done\n",
)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(make_bare(tmp_path_factory.mktemp("fuzz") / "bare.git"))


def git_takes(bare: Path, kind: str, data: bytes) -> bool:
    """Whether git would keep these bytes, by the check it makes of what it receives."""
    oid = (
        subprocess.run(
            ["git", "-C", str(bare), "hash-object", "-t", kind, "-w", "--stdin", "--literally"],
            input=data,
            capture_output=True,
            check=True,
        )
        .stdout.decode()
        .strip()
    )
    checked = subprocess.run(
        ["git", "-C", str(bare), "fsck", "--strict", "--no-dangling", "--no-progress", oid],
        capture_output=True,
        check=False,
    )
    (bare / "objects" / oid[:2] / oid[2:]).unlink()
    return b"error in " not in checked.stderr and b"warning in " not in checked.stderr


def changed(data: bytes, rng: random.Random) -> bytes:
    """The commit with up to two of its parts in another form, or gone."""
    for _ in range(rng.randint(0, 2)):
        part = rng.choice(PARTS)
        places = data.count(part)
        if places:
            before = data.split(part)
            at = rng.randrange(places)
            data = part.join(before[: at + 1]) + rng.choice(ODD) + part.join(before[at + 1 :])
    return mutate(data, rng, 2000) if rng.random() < 0.2 else data


@on_disk
@given(seed=seeds)
def test_what_is_taken_for_a_commit_passes_the_check_of_git(bare: Path, seed: int) -> None:
    data = changed(COMMIT, random.Random(seed))
    try:
        commit = parse_commit(data)
    except StoreError:
        return
    assert git_takes(bare, "commit", data), data
    again = format_commit(commit)
    assert git_takes(bare, "commit", again), again
    assert parse_commit(again).time == commit.time


@pytest.mark.parametrize(
    "data",
    [
        COMMIT,
        COMMIT.replace(b"encoding UTF-8\n", b""),
        COMMIT.replace(b"encoding UTF-8\n", b"gpgsig -----BEGIN\n line\n \n -----END\n"),
        COMMIT.replace(b"parent " + b"1" * 40 + b"\n", b""),
        COMMIT.replace(b"1700000000", b"0"),
        COMMIT.replace(b"Ann", "Änn O'Neil (x)".encode()),
        COMMIT.replace(b"Ann", b"\xc4nn"),
        COMMIT.replace(b"ann@example.org", b""),
        COMMIT.replace(b"what was done\n", b""),
        COMMIT.replace(b"what was done\n", b"no line end"),
    ],
)
def test_what_git_makes_is_taken_for_a_commit(bare: Path, data: bytes) -> None:
    assert git_takes(bare, "commit", data)
    assert parse_commit(data).time in (0, 1700000000)


@pytest.mark.parametrize("key", [b"author", b"committer"])
def test_a_time_that_no_clock_can_tell_is_refused(key: bytes) -> None:
    with pytest.raises(StoreError):
        parse_commit(COMMIT.replace(key + b" " + PERSON, key + b" Ann <a@b> 9223372036854775808 +0000"))


@on_disk
@given(seed=seeds)
def test_what_may_enter_as_a_tree_passes_the_check_of_git(bare: Path, seed: int) -> None:
    rng = random.Random(seed)
    names = (
        b"a",
        b"b.md",
        b".git",
        b".GIT ",
        b"git~1",
        b"..",
        b".",
        b"a/b",
        b"a\\b",
        b"\xff",
        b".gitmodules",
        b".g\xe2\x80\x8cit",
    )
    modes = (
        b"100644",
        b"40000",
        b"040000",
        b"100755",
        b"120000",
        b"0100644",
        b"100600",
        b"-1",
        b"1_0",
        b"0o7",
    )
    data = b""
    for _ in range(rng.randint(0, 3)):
        mode = rng.choice(modes[:2] if rng.random() < 0.8 else modes)
        named = b"\x22" if mode.endswith(b"40000") else b"\x11"  # one id is not of two kinds
        data += mode + b" " + rng.choice(names) + b"\0" + named * 20
    try:
        entries = parse_tree(data)
        if format_tree(entries) != data or any(is_dangerous(entry.name) for entry in entries):
            return
    except StoreError:
        return
    if {entry.mode for entry in entries} <= {0o100644, 0o040000, 0o100755}:
        assert git_takes(bare, "tree", data), data


LISTING = b"%s\trefs/heads/project/p\n%s\trefs/heads/main\n" % (b"1" * 40, b"2" * 40)
PUSHED = (
    b"To hub\n*\trefs/heads/a:refs/heads/a\t[new branch]\n!\trefs/heads/b:refs/heads/b\t[rejected] (old)\n"
)


@given(seeds)
def test_a_listing_names_nothing_but_branches(seed: int) -> None:
    data = mutate(mutate(LISTING, random.Random(seed), 3000), random.Random(seed + 1), 3000)
    for ref, oid in _parse_listing(data).items():
        assert is_branch(ref)
        assert is_ref_name(ref)
        assert is_oid(oid)


@given(seeds)
def test_a_branch_counts_as_pushed_only_where_git_says_so(seed: int) -> None:
    data = mutate(PUSHED, random.Random(seed), 3000)
    place = Place("hub", classify_url("https://ann:hunter2@host/x"))
    for ref, said in _parse_push(data).items():
        if said is None and "\ufffd" not in ref:
            lines = [line for line in data.split(b"\n") if ref.encode() in line]
            assert any(line[:1] in b" *=" and line[1:2] == b"\t" for line in lines)
        if said is not None:
            assert "hunter2" not in push_reason(said, place)


@given(seeds, st.binary(max_size=60))
def test_words_of_a_program_become_an_error_without_a_password(seed: int, noise: bytes) -> None:
    said = b"remote: error: https://ann:hunter2@host/x refused\nfatal: could not read from https://bob:s3cret@other/y\n"
    text = (mutate(noise, random.Random(seed), 500) + b"\n" + said).decode("utf-8", "replace")
    error = explain(text, Place("hub", classify_url("https://ann:hunter2@host/x"))).error
    assert isinstance(error, PeerError)
    assert "hunter2" not in str(error)
    assert "s3cret" not in str(error)
    assert str(error).isprintable()
