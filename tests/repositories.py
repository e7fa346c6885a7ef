"""Bare repositories for tests, made by the ordinary git program."""

from __future__ import annotations

import subprocess
from pathlib import Path

from convergenced.model import LocalPath


def make_bare(path: Path, *config: str) -> LocalPath:
    """An empty bare repository. `config` are pairs of "-c", "key=value" that it keeps."""
    run_git("init", "--quiet", "--bare", "--initial-branch=main", str(path))
    for setting in config[1::2]:
        key, _, value = setting.partition("=")
        run_git("-C", str(path), "config", key, value)
    return LocalPath(str(path))


def run_git(*arguments: str) -> str:
    """The output of git, which must succeed."""
    ran = subprocess.run(["git", *arguments], check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout
