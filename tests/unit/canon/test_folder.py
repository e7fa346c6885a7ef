from __future__ import annotations

import json

import pytest

from convergenced.canon.folder import LIMIT, encode_folder_name
from tests.unit.canon import corpus

SHORTENED, STAND_IN = "/opt/lab/homeE", "/opt/lab/orwbx88"
"""The corpus shows its paths two units shorter than they were, which would change their hash. The
stand-in has the length and the hash of what stood there."""


@corpus.needed
def test_all_observed_folders_have_the_name_the_client_gave_them() -> None:
    lines = (corpus.ROOT / "encoding" / "observed.jsonl").read_text("utf-8").split("\n")
    cases = [json.loads(line) for line in lines if line]
    assert len(cases) == 20
    for case in cases:
        path = (case["cwd"] or [case["path"]])[0].replace(SHORTENED, STAND_IN)
        shown = case["dir"][0]
        assert encode_folder_name(path) == "-opt-lab-orwbx88" + shown.removeprefix("-opt-lab-homeE")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/home/ann/src/proj", "-home-ann-src-proj"),
        ("/w/caf\u00e9", "-w-caf-"),
        ("/w/\U0001f600x", "-w---x"),
        ("/w/\udcff", "-w--"),
        ("C:\\Users\\ann", "C--Users-ann"),
    ],
)
def test_each_utf16_unit_that_is_no_letter_or_digit_is_a_dash(path: str, name: str) -> None:
    assert encode_folder_name(path) == name


def test_a_name_of_exactly_the_limit_is_kept_whole() -> None:
    path = "/" + "n" * (LIMIT - 1)
    assert encode_folder_name(path) == "-" + "n" * (LIMIT - 1)


def test_a_longer_name_is_cut_and_told_apart_by_a_hash() -> None:
    one, two = (encode_folder_name("/" + "n" * LIMIT + end) for end in "ab")
    assert one[:LIMIT] == two[:LIMIT] == "-" + "n" * (LIMIT - 1)
    assert one[LIMIT] == two[LIMIT] == "-"
    assert one != two


def test_the_hash_of_zeros_is_a_digit() -> None:
    assert encode_folder_name("\0" * (LIMIT + 1)) == "-" * LIMIT + "-0"
