"""A way to repositories of this machine by ssh, on which the bytes are counted."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from tests.bench.relay import COUNTS
from tests.servers import SshServer, git_environ, sshd

_SSH = """\
#!{python}
import sys
sys.path.insert(0, "{here}")
from tests.bench.relay import main
sys.exit(main())
"""


@dataclass(frozen=True)
class Wire:
    """A running sshd, and a counting ssh in front of it. Everything of it lies below `top`."""

    server: SshServer
    top: Path

    @property
    def environ(self) -> dict[str, str]:
        """An environment for git in which ssh is counted."""
        ssh = self.server.command().replace("ssh ", f"{self.top / 'ssh'} ", 1)
        return git_environ(self.top / "home") | {"GIT_SSH_COMMAND": ssh, COUNTS: str(self._counts)}

    @property
    def _counts(self) -> Path:
        return self.top / "counts"

    def url(self, path: Path) -> str:
        """How ssh names a repository here."""
        return self.server.url(path)

    def counted(self) -> int:
        """Bytes in both directions since this was asked last."""
        text = self._counts.read_text() if self._counts.exists() else ""
        self._counts.unlink(missing_ok=True)
        return sum(map(int, text.split()))


class _Folders:
    """As much of pytest's `tmp_path_factory` as the server asks for."""

    def __init__(self, top: Path) -> None:
        self._top = top

    def mktemp(self, name: str) -> Path:
        """A new folder."""
        (self._top / name).mkdir()
        return self._top / name


@contextmanager
def wire(top: Path) -> Iterator[Wire]:
    """An sshd for as long as the context lasts; skips (`pytest.skip`) where none is installed."""
    top.mkdir()
    script = top / "ssh"
    script.write_text(_SSH.format(python=sys.executable, here=Path(__file__).parents[2]))
    script.chmod(0o700)
    running = inspect.unwrap(sshd)(cast("pytest.TempPathFactory", _Folders(top)))
    try:
        yield Wire(next(running), top)
    finally:
        running.close()
