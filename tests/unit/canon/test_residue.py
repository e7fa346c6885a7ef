"""What of a machine is left in canonical bytes: where, how much, and what is shown of it."""

from __future__ import annotations

import json

import pytest

from convergenced.canon.residue import MAX_FIELDS, ResidueFinder, shorten


def found(*records: object, folders: tuple[str, ...] = ()) -> dict[tuple[str, str], tuple[int, str]]:
    finder = ResidueFinder(folders)
    finder.look_at_records(json.dumps(record, ensure_ascii=False).encode() for record in records)
    return {key: (tally.count, tally.example) for key, tally in finder.found.fields.items()}


def test_paths_are_told_by_the_field_they_stand_in() -> None:
    text = {"type": "text", "text": "see /opt/data/x and /home/eve/y"}
    record = {"cwd": "/srv/app", "message": {"content": [text, text]}, "trackedFiles": {"/mnt/a/b": 1}}
    assert found(record) == {
        ("cwd", "path"): (1, "/srv/app"),
        ("message.content[].text", "path"): (4, "/opt/data/x"),
        ("trackedFiles.*", "path"): (1, "/mnt/a/b"),
    }


@pytest.mark.parametrize(
    "record",
    [
        {"cwd": "{{CC_PROJECT_ROOT}}/src", "text": "{{CC_HOME}}/home/x"},
        {"text": "GET /api/v1/users and https://example.org/home/x/y"},
        {"cwd": "/tmp/x", "file_path": "/usr/lib/python3/x.py", "text": "/usr/bin/env"},
        {"filePath": "relative/home/x"},
    ],
)
def test_what_means_the_same_everywhere_is_no_residue(record: object) -> None:
    assert found(record) == {}


def test_windows_paths_count() -> None:
    assert found({"text": r"in C:\Users\eve\x"}) == {("text", "path"): (1, "C:/Users/eve/x")}


def test_names_of_other_projects_folders_are_found_whole_only() -> None:
    record = {"text": "projects/-home-ann-zoo/x -home-ann-zoos"}
    assert found(record, folders=("-home-ann-zoo", "-x")) == {("text", "folder name"): (1, "-home-ann-zoo")}


def test_records_that_are_no_objects_are_counted_and_do_not_stop_the_rest() -> None:
    finder = ResidueFinder(())
    finder.look_at_records([b"{torn", b"[1]", b"\xff\xfe", b"[" * 100_000, b'{"cwd":"/srv/x"}'])
    assert finder.found.unparsable.count == 4
    assert finder.found.unparsable.example == "5 bytes"
    assert finder.found.total("path") == 1


def test_plain_text_is_one_field() -> None:
    finder = ResidueFinder(())
    finder.look_at_text(b"- notes are in /media/ann/stick\n\xff")
    most = finder.found.most("path")
    assert most is not None
    assert (most[0], most[1].count, most[1].example) == ("text", 1, "/media/ann/stick")
    assert finder.found.most("folder name") is None


def test_fields_are_bounded() -> None:
    records = [{f"field{number}": "/srv/x"} for number in range(MAX_FIELDS + 50)]
    counts = found(*records)
    assert len(counts) == MAX_FIELDS + 1
    assert counts["*", "path"][0] == 50


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/opt/data", "/opt/data"),
        ("/a/b/c/d/e/f", "/a/b/c/d/…"),
        ("/srv/ghp_16C7e42F292c6912E7710c838347Ae178B4a/x", "/srv/…/x"),
        ("/srv/a_very_long_name_that_nobody_wants_to_read", "/srv/a_very_long_name_that_n…"),
    ],
)
def test_what_is_shown_is_short_and_holds_no_secret(path: str, shown: str) -> None:
    assert shorten(path) == shown
