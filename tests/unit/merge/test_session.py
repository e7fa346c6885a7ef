"""Two versions of a session: when they are one lineage, and when they are two."""

from __future__ import annotations

import pytest

from convergenced.canon.transcript import NO_SESSION, fork_id, with_session_id
from convergenced.errors import RefusedInputError
from convergenced.merge import session as session_module
from convergenced.merge.layout import SessionTree
from convergenced.merge.lineage import merge_tails
from convergenced.merge.segments import write_transcript
from convergenced.merge.session import (
    contains,
    merge_session,
    read_flat,
    rename_session,
    transcripts_of,
    write_flat,
)
from convergenced.model import MODE_BLOB, MODE_TREE, Oid, SessionId, TreeEntry
from tests.fakes.store import MemoryStore
from tests.transcripts import SID, keep, noted, records_of, spoken

P = [spoken("p1", 1), noted("normal"), spoken("p2", 2)]
A1, A2, B1, B2 = spoken("a1", 11), spoken("a2", 12), spoken("b1", 21), spoken("b2", 22)
M, N, K = noted("m"), noted("n"), noted("o")


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def merge(store: MemoryStore, ours: list[bytes], theirs: list[bytes]) -> dict[SessionId, list[bytes]]:
    """Merges both ways round, checks that it makes no difference, and returns the records."""
    one, other = keep(store, ours), keep(store, theirs)
    merged = merge_session(store, SID, one, other)
    assert merged == merge_session(store, SID, other, one)
    return {sid: records_of(store, tree) for sid, tree in merged.items()}


class TestOneLineage:
    @pytest.mark.parametrize(
        ("ours", "theirs", "whole"),
        [
            pytest.param(P, P, P, id="identical"),
            pytest.param(P, [*P, A1], [*P, A1], id="one goes on"),
            pytest.param([], [A1], [A1], id="one is empty"),
            pytest.param([*P, M], [*P, A1], [*P, M, A1], id="only one went on talking"),
            pytest.param([*P, M, A1, N], [*P, K], [*P, K, M, A1, N], id="the conversation comes last"),
            pytest.param([*P, M, N], [*P, M, K], [*P, M, N, K], id="both only kept books"),
            pytest.param([*P, M, N], [*P, N, K], [*P, M, N, K], id="books that overlap"),
            pytest.param([*P, M], [*P, N, M], [*P, N, M], id="books of one hold those of the other"),
            pytest.param([*P, A1, A2, M], [*P, A2, M], [*P, A1, A2, M], id="one lost a record"),
            pytest.param([*P, A1, A2], [*P, A2, B1], [*P, A1, A2, B1], id="one lost a record and went on"),
            pytest.param([*P, M, A1], [*P, A1, A2], [*P, M, A1, A2], id="books were woven in before"),
            pytest.param([*P, A1, M], [*P, A1, A2], [*P, A1, M, A2], id="books after a shared turn"),
        ],
    )
    def test_nothing_forks(
        self, store: MemoryStore, ours: list[bytes], theirs: list[bytes], whole: list[bytes]
    ) -> None:
        assert merge(store, ours, theirs) == {SID: whole}

    def test_repeated_records_are_not_taken_for_one(self, store: MemoryStore) -> None:
        assert merge(store, [*P, M, M, A1, M], [*P, M]) == {SID: [*P, M, M, A1, M]}
        assert merge(store, [A1, A1], [A1]) == {SID: [A1, A1]}

    def test_turns_in_another_order_are_kept_the_same_way_round_everywhere(self) -> None:
        assert merge_tails([A1, B1], [B1, A1]) == merge_tails([B1, A1], [A1, B1])

    def test_lines_that_are_no_records_are_kept_where_they_stand(self, store: MemoryStore) -> None:
        junk = [b"", b"\xff\xfe", b"{half", b"\xe2\x80\xa8"]
        assert merge(store, [*P, *junk], [*P, A1]) == {SID: [*P, *junk, A1]}

    def test_a_version_that_is_not_there_counts_for_nothing(self, store: MemoryStore) -> None:
        tree = keep(store, P)
        assert merge_session(store, SID, tree, None) == merge_session(store, SID, None, tree) == {SID: tree}
        assert merge_session(store, SID, None, None) == {}


class TestTwoLineages:
    def test_the_one_that_went_on_first_keeps_the_id(self, store: MemoryStore) -> None:
        fork = fork_id(SID, B1)
        assert merge(store, [*P, A1, A2], [*P, B1, B2]) == {
            SID: [*P, A1, A2],
            fork: [with_session_id(record, SID, fork) for record in (*P, B1, B2)],
        }

    def test_every_record_of_the_fork_names_it(self, store: MemoryStore) -> None:
        (fork,) = merge(store, [*P, A1], [*P, B1]).keys() - {SID}
        assert all(fork.encode() in record for record in merge(store, [*P, A1], [*P, B1])[fork])

    def test_growing_on_either_side_finds_the_same_fork(self, store: MemoryStore) -> None:
        first = merge(store, [*P, A1], [*P, B1])
        assert merge(store, [*P, A1], [*P, B1, B2]).keys() == first.keys()
        assert merge(store, [*P, A1, A2], [*P, B1, M, B2]).keys() == first.keys()

    def test_books_before_the_first_own_turn_do_not_change_the_fork(self, store: MemoryStore) -> None:
        assert merge(store, [*P, M, A1], [*P, N, B1]).keys() == merge(store, [*P, A1], [*P, B1]).keys()

    def test_a_turn_without_a_time_counts_as_newest_whatever_follows(self, store: MemoryStore) -> None:
        timeless = spoken("t")
        ids = {SID, fork_id(SID, timeless)}
        assert merge(store, [*P, timeless], [*P, B1]).keys() == ids
        assert merge(store, [*P, timeless, spoken("t2", 12)], [*P, B1]).keys() == ids

    def test_at_the_same_time_the_forks_ids_decide(self, store: MemoryStore) -> None:
        _, later = sorted(fork_id(SID, spoken(name, 9)) for name in "xy")
        assert merge(store, [*P, spoken("x", 9)], [*P, spoken("y", 9)]).keys() == {SID, later}

    def test_a_lineage_stays_under_the_id_that_it_has_as_a_fork(self, store: MemoryStore) -> None:
        fork = fork_id(SID, B1)
        in_fork = [with_session_id(record, SID, fork) for record in (*P, A1, B1)]
        trees = (keep(store, [*in_fork[:-2], record]) for record in in_fork[-2:])
        merged = merge_session(store, fork, *trees)
        assert records_of(store, merged[fork])[-1] == in_fork[-1]
        assert merged.keys() == {fork, fork_id(SID, A1)}

    def test_two_turns_that_differ_in_a_forged_name_only_are_both_kept(self, store: MemoryStore) -> None:
        forged = spoken("x", 9, NO_SESSION)
        fork = fork_id(NO_SESSION, forged)
        merged = merge_session(store, fork, keep(store, [forged]), keep(store, [spoken("x", 9, fork)]))
        assert len(merged) == 2
        assert fork in merged

    def test_losing_the_last_record_and_going_on_loses_nothing(self, store: MemoryStore) -> None:
        merged = merge(store, [*P, A1], [*P, B1])
        assert merged[SID] == [*P, A1]
        assert len(merged) == 2


class TestCost:
    def test_only_the_ends_of_long_transcripts_are_read(self, store: MemoryStore) -> None:
        long = [spoken(f"r{number}", 1) + b" " * 900 for number in range(5000)]
        one, other = keep(store, [*long, A1]), keep(store, [*long, M])
        store.reads = store.writes = 0
        merge_session(store, SID, one, other)
        assert store.reads < 40
        assert store.writes < 8

    def test_an_extension_reads_two_blobs(self, store: MemoryStore) -> None:
        long = [spoken(f"r{number}", 1) + b" " * 900 for number in range(5000)]
        shorter, longer = keep(store, long[:2500]), keep(store, long)
        store.reads = store.writes = 0
        assert merge_session(store, SID, shorter, longer) == {SID: longer}
        assert store.reads < 20
        assert store.writes == 0

    def test_versions_too_far_apart_are_refused(
        self, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(session_module, "TAIL_LIMIT", 100)
        with pytest.raises(RefusedInputError, match="differ"):
            merge_session(store, SID, keep(store, [A1, A2]), keep(store, [B1, B2]))


class TestContains:
    def test_what_is_there_in_order_is_contained(self, store: MemoryStore) -> None:
        whole = keep(store, [*P, M, A1, A2])
        for part in ([], P, [*P, A2], [M], [*P, M, A1, A2]):
            assert contains(store, whole, keep(store, part))
        for part in ([B1], [A2, A1], [*P, M, A1, A2, A2]):
            assert not contains(store, whole, keep(store, part))

    def test_a_long_record_that_begins_alike_is_another_record(
        self, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for module in (session_module, __import__("convergenced.merge.segments", fromlist=["x"])):
            monkeypatch.setattr(module, "PIECE_BYTES", 70_000)
        one, other = b"x" * 150_000 + b"1", b"x" * 150_000 + b"2"
        assert not contains(store, keep(store, [P[0], one]), keep(store, [P[0], other]))
        assert contains(store, keep(store, [P[0], one, other]), keep(store, [P[0], other]))


class TestLayouts:
    def test_a_flat_transcript_is_read_as_the_same_session(self, store: MemoryStore) -> None:
        tree = keep(store, [*P, A1])
        assert read_flat(store, write_flat(store, tree)) == tree
        assert read_flat(store, store.write_blob(b"a\nb")) == write_transcript(store, [b"a\nb\n"])

    def test_a_session_in_both_layouts_is_merged(self, store: MemoryStore) -> None:
        both = SessionTree(keep(store, [*P, M]), write_flat(store, keep(store, [*P, A1])))
        assert transcripts_of(store, SID, both) == {SID: keep(store, [*P, M, A1])}
        assert transcripts_of(store, SID, SessionTree()) == {}

    def test_renaming_there_and_back_changes_nothing(self, store: MemoryStore) -> None:
        tree, other = keep(store, [*P, M, b"junk"]), SessionId("0" * 8 + SID[8:])
        assert rename_session(store, rename_session(store, tree, SID, other), other, SID) == tree

    def test_a_tree_that_is_no_transcript_is_refused(self, store: MemoryStore) -> None:
        hostile: Oid = store.write_tree(
            [
                TreeEntry(
                    "0000", MODE_TREE, store.write_tree([TreeEntry("x", MODE_BLOB, store.write_blob(b""))])
                )
            ]
        )
        with pytest.raises(RefusedInputError):
            merge_session(store, SID, keep(store, P), hostile)
