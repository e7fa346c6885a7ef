"""Stories of many seeds; the same seed always tells the same one."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from tests.profiles import DEEP
from tests.simulation.__main__ import fail, tell

SEEDS = 20_000 if DEEP else 150
CHUNKS = 100 if DEEP else 3


@pytest.fixture(scope="module")
def workers() -> Iterator[Executor]:
    """As many as there are cores: a story waits for nothing."""
    with ProcessPoolExecutor(os.cpu_count() or 1, mp_context=get_context("spawn")) as pool:
        yield pool


@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_stories_lose_nothing_and_end_in_agreement(workers: Executor, chunk: int) -> None:
    size = SEEDS // CHUNKS
    seeds = range(chunk * size, (chunk + 1) * size)
    failed = [found for found in workers.map(fail, seeds, chunksize=5) if found is not None]
    if failed:
        seed, text = failed[0]
        end = "\n".join(tell(seed)[0].trace[-40:])
        pytest.fail(
            f"{len(failed)} of {size} stories: {text}\n{end}\n"
            f"to repeat it: python -m tests.simulation --seed {seed} --trace"
        )


@pytest.mark.parametrize("seed", [3, 14])
def test_the_same_seed_tells_the_same_story_in_any_process(seed: int) -> None:
    told = "\n".join(tell(seed)[0].trace)
    script = f"""
import hashlib
from tests.simulation.__main__ import tell
print(hashlib.sha256("\\n".join(tell({seed})[0].trace).encode()).hexdigest())
"""
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.split() == [hashlib.sha256(told.encode()).hexdigest()]
    assert len(told.splitlines()) > 20
