"""Every parser of foreign bytes answers or refuses as documented, on bytes that were well-formed once."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.fuzz import mutation
from tests.fuzz.targets import TARGETS, Target

pytestmark = pytest.mark.timeout(1800)  # for the deep profile

SEEDS = {name: sorted(target.seeds()) for name, target in TARGETS.items()}
ROUNDS = 4
"""Inputs tried in each example: one stands on the other, as in a long run."""


@pytest.mark.parametrize("name", TARGETS)
@given(at=st.integers(0, 1 << 16), seed=st.integers(0, 1 << 32))
def test_damaged_bytes(name: str, at: int, seed: int) -> None:
    rng = random.Random(seed)
    data = SEEDS[name][at % len(SEEDS[name])]
    for _ in range(ROUNDS):
        data = mutation.mutate(data, rng, 6000)
        TARGETS[name].check(data)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@given(data=st.binary(max_size=200))
@example(data=b"")
@example(data=b'{"a":' * 5000)
@example(data=b"[" * 100_000)
@example(data=b'{"participants":[{"machine_id":"m"}],"x":' + b"[" * 900 + b"]" * 900 + b"}")
@example(data=b'{"participants":[],"x":NaN}')
@example(data=b'{"participants":[],"x":1e999}')
@example(data=b"9" * 5000)
@example(data=b"tree %s\nauthor A <a> %s +0000\ncommitter A <a> 1 +0000\n\n" % (b"1" * 40, b"1" * 5000))
def test_any_bytes(target: Target, data: bytes) -> None:
    target.check(data)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_what_the_fuzzing_begins_with(target: Target) -> None:
    assert target.seeds()
    for seed in target.seeds():
        target.check(seed)


@pytest.mark.skipif(not mutation.CORPUS.is_dir(), reason=f"no corpus at {mutation.CORPUS}")
@pytest.mark.parametrize("own", range(len(mutation.EVERYONE)))
def test_every_participant_takes_the_corpus_there_and_back(own: int) -> None:
    for at, (_, data) in enumerate(mutation.corpus_samples(3, 4000)):
        TARGETS["rewrite"].check(bytes([own, at % len(mutation.EVERYONE)]) + data)
