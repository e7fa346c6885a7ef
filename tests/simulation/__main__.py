"""Tells the story of one seed, or of many: `python -m tests.simulation --seed 7 --trace`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.actions import ACTIONS
from tests.simulation.scenario import Scenario

CHUNK = 20


def tell(seed: int) -> tuple[Scenario, Exception | None]:
    """The story of a seed, and how it failed."""
    scenario = Scenario(seed)
    try:
        scenario.run(ACTIONS)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what was looked for
        return scenario, error
    return scenario, None


def fail(seed: int) -> tuple[int, str] | None:
    """How a seed fails, in a line."""
    _, error = tell(seed)
    return None if error is None else (seed, f"{type(error).__name__}: {error}")


def main(words: list[str] | None = None) -> int:
    """Returns 1 where an invariant did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--seeds", metavar="A:B", help="all seeds from A up to, without, B")
    parser.add_argument("--trace", action="store_true")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(words)
    if options.seed is not None:
        scenario, error = tell(options.seed)
        if options.trace:
            print("\n".join(scenario.trace))
        print(error or "all invariants hold")
        return error is not None
    first, _, end = (options.seeds or "0:300").partition(":")
    started = time.monotonic()
    failed = _all(range(int(first), int(end)), options.jobs)
    print(f"{int(end) - int(first)} seeds in {time.monotonic() - started:.0f} s, {failed} failed")
    return failed > 0


def _all(seeds: Iterable[int], jobs: int) -> int:
    failed = 0
    with ProcessPoolExecutor(jobs) as pool:
        for found in pool.map(fail, seeds, chunksize=CHUNK):
            if found is not None:
                failed += 1
                print(f"seed {found[0]}: {found[1]}"[:600], flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
