"""Memory files merge by lines, keep what both wrote, and say where that is not one text."""

from __future__ import annotations

import pytest

from convergenced.merge.conflict import has_conflict
from convergenced.merge.memory import merge_text

BASE = b"# Facts\n\none\ntwo\nthree\nfour\nfive\n"


def merge(
    ours: bytes | None, theirs: bytes | None, base: bytes | None, path: str = "note.md"
) -> bytes | None:
    """Merges both ways round and checks that it makes no difference."""
    merged = merge_text(path, ours, theirs, base)
    assert merged == merge_text(path, theirs, ours, base)
    if merged.data not in (ours, theirs):
        assert merged.conflict == has_conflict(merged.data or b"")
    return merged.data


class TestNotes:
    def test_edits_in_different_places_are_both_kept(self) -> None:
        ours, theirs = BASE.replace(b"one", b"ONE"), BASE.replace(b"five", b"FIVE\nsix")
        assert merge(ours, theirs, BASE) == b"# Facts\n\nONE\ntwo\nthree\nfour\nFIVE\nsix\n"

    def test_the_same_edit_on_both_sides_is_one_edit(self) -> None:
        edited = BASE.replace(b"one", b"ONE")
        assert merge(edited, edited, BASE) == edited
        assert merge(edited, edited.replace(b"five", b"5"), BASE) == edited.replace(b"five", b"5")

    def test_an_overlap_keeps_both_sides_in_the_order_of_their_bytes(self) -> None:
        ours, theirs = BASE.replace(b"two", b"zwei"), BASE.replace(b"two", b"deux")
        assert merge(ours, theirs, BASE) == (
            b"# Facts\n\none\n<<<<<<< convergence\ndeux\n=======\nzwei\n>>>>>>> convergence\n"
            b"three\nfour\nfive\n"
        )

    def test_two_files_of_one_name_share_what_they_share(self) -> None:
        assert merge(b"same\na\nend\n", b"same\nb\nend\n", None) == (
            b"same\n<<<<<<< convergence\na\n=======\nb\n>>>>>>> convergence\nend\n"
        )
        assert merge(b"same\n", b"same\n", None) == b"same\n"
        assert merge(b"", b"x\n", None) == b"x\n"

    def test_a_deletion_counts_only_where_the_other_side_changed_nothing(self) -> None:
        assert merge(None, BASE, BASE) is None
        assert merge(None, b"edited\n", BASE) == b"edited\n"
        assert merge(None, None, BASE) is None
        assert merge(None, b"new\n", None) == b"new\n"

    @pytest.mark.parametrize(
        ("ours", "theirs", "base", "merged"),
        [
            (b"a\nb", b"A\nb\n", b"a\nb\n", b"A\nb"),
            (b"A\nb", b"a\nb\n", b"a\nb", b"A\nb\n"),
            (b"A\nb\nc", b"a\nb\nC", b"a\nb\nc", b"A\nb\nC"),
            (b"a", b"a\n", b"", b"a\n"),
        ],
    )
    def test_the_end_of_the_last_line_is_merged_like_everything_else(
        self, ours: bytes, theirs: bytes, base: bytes, merged: bytes
    ) -> None:
        assert merge(ours, theirs, base) == merged

    def test_bytes_that_are_no_text_pass_unharmed(self) -> None:
        base = b"\xff\xfe\r\nmiddle\x85\xe2\x80\xa8\nend\x0b\x0c\n"
        assert merge(base + b"\xf0\n", b"\x00\n" + base, base) == b"\x00\n" + base + b"\xf0\n"


class TestConflictsAgain:
    OURS, THEIRS = BASE.replace(b"two", b"zwei"), BASE.replace(b"two", b"deux")

    def conflict(self) -> bytes:
        data = merge(self.OURS, self.THEIRS, BASE)
        assert data is not None
        return data

    @pytest.mark.parametrize("base", [BASE, OURS, None])
    def test_merging_a_conflict_with_one_of_its_sides_changes_nothing(self, base: bytes | None) -> None:
        for side in (self.OURS, self.THEIRS, self.conflict()):
            if side != base:
                assert merge(self.conflict(), side, base) == self.conflict()

    def test_a_third_version_joins_the_conflict(self) -> None:
        third = BASE.replace(b"two", b"tre")
        merged = merge(self.conflict(), third, BASE)
        assert merged == BASE.replace(
            b"two", b"<<<<<<< convergence\ndeux\n=======\ntre\n=======\nzwei\n>>>>>>> convergence"
        )
        one_way = merge(self.OURS, third, BASE)
        assert merge(one_way, self.THEIRS, BASE) == merged

    def test_an_edit_elsewhere_does_not_touch_the_conflict(self) -> None:
        edited = BASE.replace(b"five", b"5")
        assert merge(self.conflict(), edited, BASE) == self.conflict().replace(b"five", b"5")

    def test_resolving_it_by_hand_travels(self) -> None:
        resolved = BASE.replace(b"two", b"beide")
        assert merge(self.conflict(), resolved, self.conflict()) == resolved

    def test_a_side_that_was_decided_against_does_not_come_back_with_a_third_one(self) -> None:
        third = merge(self.conflict(), BASE.replace(b"two", b"tre"), BASE)
        both = BASE.replace(b"two", b"<<<<<<< convergence\ntre\n=======\nzwei\n>>>>>>> convergence")
        assert merge(third, self.OURS, self.conflict()) == both
        assert merge(both, third, third) == both
        edited = BASE.replace(b"two", b"2")
        assert merge(third, edited, self.conflict()) == both.replace(b"zwei", b"2").replace(
            b"tre\n=======\n2", b"2\n=======\ntre"
        )

    def test_decided_differently_both_decisions_are_kept(self) -> None:
        assert merge(self.OURS, self.THEIRS, self.conflict()) == self.conflict()

    def test_text_that_looks_like_a_marker_is_told_apart(self) -> None:
        ours = BASE.replace(b"two", b"Title\n=======\ntext")
        theirs = BASE.replace(b"two", b"<<<<<<< convergence\nhand made")
        merged = merge(ours, theirs, BASE)
        assert merged is not None
        assert b"\n======== \n".replace(b" ", b"") in merged
        for side in (ours, theirs, merged):
            assert merge(merged, side, BASE) == merged

    def test_many_conflicts_do_not_explode(self) -> None:
        lines = [b"line %d" % number for number in range(40)]
        sides = [
            b"\n".join(line + tag if number % 4 == 0 else line for number, line in enumerate(lines))
            for tag in (b"a", b"b", b"")
        ]
        merged = merge(sides[0], sides[1], sides[2])
        assert merged is not None
        rewritten = b"\n".join(b"other %d" % number for number in range(40))
        again = merge(merged, rewritten, sides[2])
        assert again is not None
        assert len(again) < 10 * len(merged)
        assert merge(again, rewritten, sides[2]) == again
        assert merge(again, merged, sides[2]) == again


class TestIndex:
    def test_lines_of_both_are_in_the_index(self) -> None:
        base = b"# Memory\n- a\n"
        assert merge(base + b"- c\n", base + b"- b\n", base, "MEMORY.md") == b"# Memory\n- a\n- b\n- c\n"

    def test_a_line_added_by_both_is_there_once(self) -> None:
        base = b"# Memory\n"
        assert merge(base + b"- x\n- y\n", base + b"- y\n", base, "MEMORY.md") == b"# Memory\n- x\n- y\n"

    def test_a_line_taken_away_stays_away(self) -> None:
        base = b"- a\n- b\n- c\n"
        assert merge(b"- a\n- c\n", base + b"- d\n", base, "MEMORY.md") == b"- a\n- c\n- d\n"
        assert merge(b"- a\n- b\n", base + b"- d\n", base, "MEMORY.md") == b"- a\n- b\n- d\n"

    def test_two_indexes_without_a_common_past_unite(self) -> None:
        assert merge(b"# Memory\n- a\n", b"# Memory\n- b\n", None, "MEMORY.md") == b"# Memory\n- a\n- b\n"

    def test_no_markers_ever(self) -> None:
        merged = merge(b"- a\n- B\n", b"- a\n- BB\n", b"- a\n- b\n", "MEMORY.md")
        assert merged == b"- a\n- B\n- BB\n"

    def test_only_the_index_at_the_top_unites(self) -> None:
        assert has_conflict(merge(b"a\n", b"b\n", None, "deeper/MEMORY.md") or b"")
