"""A line to a hub that can be cut, held, garbled or led elsewhere while daemons use it.

It stands in for the ssh program: git on this machine talks through it to the real git on the other side,
which runs on this machine too. What happens on the way is a line of shell that a test changes at any time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_PROGRAM = """\
#!/bin/bash
# wire HOST COMMAND: what a test wants of a call stands beside this program.
unset GIT_DIR GIT_CONFIG_PARAMETERS GIT_CONFIG_COUNT GIT_QUARANTINE_PATH
export GIT_CONFIG_GLOBAL=/dev/null
command=${*: -1}
case $command in
    git-upload-pack*) fault=$0.sends ;;
    *) fault=$0.takes ;;
esac
[ -e "$fault" ] || exec sh -c "$command"
. "$fault"
"""


@dataclass(frozen=True, slots=True)
class Wire:
    """The program at `path`, and what it does to those who fetch and to those who push."""

    path: Path

    @classmethod
    def lay(cls, folder: Path) -> Wire:
        """A line that works."""
        path = folder / "wire"
        path.write_text(_PROGRAM)
        path.chmod(0o700)
        return cls(path)

    @property
    def environ(self) -> dict[str, str]:
        """What has git use the line."""
        return {"GIT_SSH_COMMAND": str(self.path), "GIT_SSH_VARIANT": "simple"}

    def url(self, hub: Path) -> str:
        """A hub at the other end."""
        return f"ssh://hub{hub}"

    def disturb(self, *, sends: str | None = None, takes: str | None = None) -> None:
        """From now on calls run these lines of bash instead of `$command`; None for a line that works."""
        for suffix, script in (("sends", sends), ("takes", takes)):
            path = self.path.with_suffix(f".{suffix}")
            if script is None:
                path.unlink(missing_ok=True)
            else:
                fresh = path.with_suffix(".fresh")
                fresh.write_text(script)
                fresh.replace(path)

    def mend(self) -> None:
        """The line works again."""
        self.disturb()
