"""Fuzzing that is led by the code it reaches: `python -m tests.fuzz.coverage_guided --target rewrite`.

Needs atheris (`pip install '.[fuzz]'`) and nothing else beside the package. A finding is written to
`--findings`, and ends the run; give such a file as the only argument `--repeat` to see it again.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.fuzz.targets import Target

MAX_INPUT = 16 * 1024
"""Bytes of one input, at most."""

TOO_SLOW = 25
"""Seconds for one input: nothing of that length may take a hundredth of it."""


def main(arguments: list[str]) -> int:
    """Runs one target until its runs or seconds are used up, or something is found."""
    parser = argparse.ArgumentParser(prog="coverage_guided", description=__doc__)
    parser.add_argument("--target", required=True)
    parser.add_argument("--runs", type=int, default=-1, help="inputs to try; -1: until --seconds")
    parser.add_argument("--seconds", type=int, default=0, help="at most; 0: no limit")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", type=Path, help="where inputs that reached new code are kept")
    parser.add_argument("--findings", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--repeat", type=Path, help="check this one input and end")
    options = parser.parse_args(arguments)
    if options.repeat is not None:
        _target(options.target).check(options.repeat.read_bytes())
        return 0
    try:
        import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError:
        print("coverage_guided needs atheris: pip install '.[fuzz]'", file=sys.stderr)
        return 2
    with atheris.instrument_imports(include=["convergenced"]):
        target = _target(options.target)
    with tempfile.TemporaryDirectory() as fresh:
        corpus = options.corpus or Path(fresh)
        _plant(corpus, target)
        _fuzz(atheris, target, options, corpus)
    return 0


def _target(name: str) -> Target:
    from tests.fuzz.targets import TARGETS

    if name not in TARGETS:
        sys.exit(f"there is no target {name}; there are: {', '.join(TARGETS)}")
    return TARGETS[name]


def _plant(corpus: Path, target: Target) -> None:
    """Puts the seeds where libFuzzer looks for inputs to begin with."""
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds():
        (corpus / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)


def _fuzz(atheris: Any, target: Target, options: argparse.Namespace, corpus: Path) -> None:
    """Hands over to libFuzzer, which ends the process itself."""
    from tests.fuzz.mutation import mutate

    def change(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.4:
            return bytes(atheris.Mutate(data, max_size))
        return mutate(bytes(data), rng, max_size)

    options.findings.mkdir(parents=True, exist_ok=True)
    words = [
        f"-runs={options.runs}",
        f"-seed={options.seed}",
        f"-max_total_time={options.seconds}",
        f"-max_len={MAX_INPUT}",
        f"-timeout={TOO_SLOW}",
        f"-artifact_prefix={options.findings}/{options.target}-",
        "-print_final_stats=1",
        str(corpus),
    ]
    atheris.Setup([sys.argv[0], *words], target.check, custom_mutator=change)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
