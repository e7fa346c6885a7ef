"""Apparent secrets are found wherever they stand, what looks like one is not, nothing gives one away."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from convergenced.canon.rewrite import Rewriter
from convergenced.canon.secrets import PIECE, WHAT, find_secrets
from convergenced.canon.secrets.judge import entropy
from convergenced.model import Content
from tests.labelled import ASSIGNED, KEYS, SHAPES, WAYS, Example, Lot, negatives, positives
from tests.property.canon.machines import ANN

SALT = b"here"
SEED, ROUNDS = 20260105, 12
RECALL, PRECISION = 0.995, 0.99
"""What the labelled set must come to, at least."""


def test_recall_and_precision_on_the_labelled_set() -> None:
    found = wrong = 0
    missed: Counter[tuple[str | None, str]] = Counter()
    examples = list(positives(SEED, ROUNDS))
    for one in examples:
        secrets = find_secrets(one.data, SALT)
        is_found = any(secret.rule == one.rule for secret in secrets)
        found += is_found
        wrong += len(secrets) - is_found
        if not is_found:
            missed[one.rule, one.where] += 1
    wrong += sum(len(find_secrets(one.data, SALT)) for one in negatives(SEED, ROUNDS))
    recall, precision = found / len(examples), found / (found + wrong)
    print(f"seed {SEED}: recall {recall:.4f}, precision {precision:.4f}, missed {dict(missed)}")
    assert recall >= RECALL
    assert precision >= PRECISION


def test_each_rule_that_is_labelled_finds_nearly_all_of_its_own() -> None:
    of, found = Counter[str](), Counter[str]()
    for one in positives(SEED + 1, ROUNDS):
        assert one.rule is not None
        of[one.rule] += 1
        found[one.rule] += any(secret.rule == one.rule for secret in find_secrets(one.data, SALT))
    assert {rule for rule in of if found[rule] < 0.9 * of[rule]} == set()
    assert of.keys() == {*SHAPES, *KEYS, *ASSIGNED, "gcp-account"}
    assert of.keys() <= WHAT.keys()


@pytest.mark.parametrize("way", WAYS)
def test_a_secret_has_one_fingerprint_however_it_is_escaped(way: str) -> None:
    lot = Lot(SEED)
    texts = [maker(lot) for makers in (*SHAPES.values(), *KEYS.values()) for maker in makers]
    texts += [text.format(make(lot)) for ways in ASSIGNED.values() for text, make in ways]
    texts += ["see https://discord.com/api/web" + make(lot) for make in SHAPES["discord-webhook"]]
    for text in texts:
        plain = {one.fingerprint for one in find_secrets(text.encode(), SALT)}
        assert {one.fingerprint for one in find_secrets(WAYS[way](text), SALT)} == plain, (way, text)


def test_nothing_of_a_finding_gives_the_secret_away() -> None:
    for one in positives(SEED + 2, 3):
        for secret in find_secrets(one.data, SALT):
            assert one.secret is not None
            told = (secret.shown, secret.fingerprint)
            pieces = {one.secret[at : at + 5] for at in range(len(one.secret) - 4)}
            assert not any(piece in text for piece in pieces for text in told)
            assert len(secret.fingerprint) == 12


def test_a_fingerprint_is_of_the_salt_too() -> None:
    data = WAYS["prompt"](SHAPES["npm"][0](Lot(1)))
    assert find_secrets(data, b"one")[0].fingerprint != find_secrets(data, b"other")[0].fingerprint


def test_the_same_is_found_in_the_form_in_which_it_is_committed() -> None:
    rewriter = Rewriter(ANN)
    for one in positives(SEED + 3, 2):
        content = Content.TEXT if one.where == "note" else Content.JSON
        local = find_secrets(one.data, SALT)
        canonical = find_secrets(rewriter.canonicalize(one.data, content), SALT)
        assert [secret.fingerprint for secret in canonical] == [secret.fingerprint for secret in local]


def test_the_same_is_found_in_few_bytes_and_among_many() -> None:
    examples = [one for one in positives(SEED + 4, 3) if one.where != "note"]
    alone = [secret for one in examples for secret in find_secrets(one.data, SALT)]
    filler = json.dumps({"type": "user", "message": "nothing to see here, " * 40}).encode() + b"\n"
    data = b"".join(filler * (number % 7 * 8) + one.data for number, one in enumerate(examples))
    assert len(data) > 3 * PIECE
    among = find_secrets(data, SALT)
    assert [one.fingerprint for one in among] == [one.fingerprint for one in alone]
    for one in among:
        assert find_secrets(data[data.rfind(b"\n", 0, one.start) + 1 : data.find(b"\n", one.end)], SALT)


def test_a_note_is_searched_as_a_whole_so_that_a_key_is_never_cut() -> None:
    lines = b"a line\n" * (PIECE // 7)
    key = KEYS["private-key"][0](Lot(5)).encode()
    for before in range(0, 900, 97):
        (secret,) = find_secrets(lines[: -before or None] + key + lines, SALT)
        assert secret.rule == "private-key"


def test_where_two_rules_find_the_same_the_more_telling_one_counts() -> None:
    token = SHAPES["github"][0](Lot(6))
    text = f'GITHUB_TOKEN="{token}" git clone https://ann:{token}@host/x -H "Authorization: Bearer {token}"'
    found = find_secrets(text.encode(), SALT)
    assert [one.rule for one in found] == ["github"] * 3
    assert len({one.fingerprint for one in found}) == 1


def test_what_is_short_shows_nothing_of_itself() -> None:
    (secret,) = find_secrets(b'password = "Tr0ub4dor&3"', SALT)
    assert (secret.rule, secret.shown, secret.what) == ("password", "\u2026 (11 characters)", "password")


def test_entropy_is_in_bits() -> None:
    assert entropy(b"aaaa") == 0
    assert entropy(b"abcdabcd") == 2


def test_the_labelled_set_is_the_same_for_the_same_seed() -> None:
    def drawn(seed: int) -> list[Example]:
        return [*positives(seed, 1), *negatives(seed, 1)]

    assert drawn(3) == drawn(3) != drawn(4)
