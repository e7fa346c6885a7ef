"""A machine with a real `systemd --user`: a small Debian tree, booted in namespaces of its own.

The scripts that make and boot it lie beside the project (`../shared/lab/systemd`) and need root. Nothing
outside the tree can be touched from within. It takes most of a minute to make: CONVERGENCE_TEST_SYSTEMD_ROOT
names a folder where it is kept between runs, or is being made already.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
SCRIPTS = TOP.parent / "shared" / "lab" / "systemd"
NEEDED = ("debootstrap", "nsenter", "unshare", "chroot")
DEPENDENCIES = (
    "platformdirs",
    "psutil",
    "pygit2",
    "pygit2.libs",
    "_cffi_backend*",
    "cffi",
    "pycparser",
    "tomlkit",
    "watchdog",
)
SOURCES = {
    "convergenced": "convergenced",
    "ctl": "convergencectl",
    "service-units": "convergencectl/service_units",
}
USER = "ann"
UID = 1000
PATIENCE = 60.0
TRIES = 300
"""Looks, 0.1 s apart, at something that is to come true."""


@dataclass(frozen=True)
class Done:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Lab:
    """The booted machine. `pid` is that of its init, seen from outside."""

    root: Path
    pid: int

    @property
    def home(self) -> Path:
        """The user's home, seen from outside."""
        return self.root / "home" / USER

    def do(self, command: str, *, stdin: str = "") -> Done:
        """A shell command as the user, in a login of its own."""
        shell = f"export XDG_RUNTIME_DIR=/run/user/{UID} PATH=/opt/venv/bin:$PATH; {command}"
        return self._enter(["su", "-", USER, "-c", shell], stdin)

    def ok(self, command: str) -> str:
        """What a command printed that has to succeed."""
        done = self.do(command)
        assert done.code == 0, f"{command}: exit {done.code}\n{done.out}\n{done.err}"
        return done.out

    def as_root(self, command: str) -> str:
        """The same as root of that machine."""
        done = self._enter(["sh", "-c", command], "")
        assert done.code == 0, f"{command}: exit {done.code}\n{done.out}\n{done.err}"
        return done.out

    def ctl(self, *arguments: str, **environ: str) -> Done:
        """`convergencectl`."""
        settings = " ".join(f"{name}={shlex.quote(value)}" for name, value in environ.items())
        done = self.do(f"{settings} python -m convergencectl {shlex.join(arguments)}")
        assert "Traceback" not in done.err, done.err
        return done

    def show(self, *properties: str, unit: str = "convergenced.service") -> dict[str, str]:
        """Properties of a unit of the user's manager."""
        said = self.ok(f"systemctl --user show {unit} --property={','.join(properties)}")
        return dict(line.partition("=")[::2] for line in said.splitlines())

    def main_pid(self) -> int:
        """The daemon's pid in that machine, 0 where none runs."""
        return int(self.show("MainPID")["MainPID"])

    def file(self, path: str, text: str, mode: int = 0o600) -> Path:
        """Writes a file of the user's; returns it as seen from outside."""
        return self._write(self.home / path, text, mode)

    def system_file(self, path: str, text: str) -> Path:
        """Writes a file of root's."""
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        return place

    def _write(self, place: Path, text: str, mode: int) -> Path:
        missing = [one for one in (place, *place.parents) if not one.exists()]
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        place.write_text(text)
        place.chmod(mode)
        for one in (place, *missing):
            os.chown(one, UID, UID)
        return place

    def _enter(self, command: list[str], stdin: str) -> Done:
        done = subprocess.run(
            ["nsenter", "-t", str(self.pid), "-a", *command],
            input=stdin,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/root"},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)


def why_not() -> str | None:
    """Why there can be no such machine here, None where there can."""
    if sys.platform != "linux":
        return "systemd runs on Linux only"
    if os.geteuid() != 0:
        return "booting a systemd in namespaces needs root"
    if not (SCRIPTS / "boot.sh").exists():
        return "the scripts that boot a systemd are not beside the project (../shared/lab/systemd)"
    missing = [name for name in NEEDED if shutil.which(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else None


def make(root: Path) -> None:
    """The tree with an empty home, and with the program installed in a virtual environment."""
    complete = root / "var/lib/systemd/linger" / USER  # what the script makes last
    if root.is_dir() and any(root.iterdir()):
        if not comes_true(complete.exists, 5 * TRIES):
            pytest.skip(f"the tree for systemd in {root} is not complete")
    else:
        made = subprocess.run(
            [SCRIPTS / "make-root.sh", root, "openssh-server"], capture_output=True, text=True, check=False
        )
        if made.returncode != 0:
            pytest.skip(f"the tree for systemd could not be made: {(made.stderr or made.stdout)[-300:]}")
    root.chmod(0o755)  # it becomes "/" for a user who is not root
    home = root / "home" / USER
    shutil.rmtree(home)
    subprocess.run(["chroot", root, "install", "-d", "-m", "700", "-o", USER, f"/home/{USER}"], check=True)
    python = ["chroot", str(root), "python3"]
    told = subprocess.run(
        [*python, "-c", "import sys; print(*sys.version_info[:2])"],
        capture_output=True,
        text=True,
        check=True,
    )
    if told.stdout.split() != [str(part) for part in sys.version_info[:2]]:
        pytest.skip(f"the tree has Python {told.stdout.strip()}: what is installed here does not run there")
    subprocess.run([*python, "-m", "venv", "--without-pip", "/opt/venv"], check=True)
    site = root / f"opt/venv/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    import platformdirs

    here = Path(platformdirs.__file__).parents[1]
    for pattern in DEPENDENCIES:
        for found in here.glob(pattern):
            _copy(found, site / found.name)
    for source, target in SOURCES.items():
        _copy(TOP / source, site / target)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    else:
        shutil.copy(source, target)


def boot(root: Path) -> Lab:
    """Boots the tree and waits until its user's manager runs."""
    booted = subprocess.run([SCRIPTS / "boot.sh", root], capture_output=True, text=True, check=False)
    if not booted.stdout.strip():
        pytest.skip(f"systemd does not boot here: {booted.stderr[-300:]}")
    lab = Lab(root, int(booted.stdout))
    asked = "systemctl --user is-system-running"
    if not comes_true(lambda: lab.do(asked).out.strip() in {"running", "degraded"}, TRIES):
        said = lab.do(asked)
        shut(lab)
        pytest.fail(f"the user's manager does not run: {said}")
    return lab


def shut(lab: Lab) -> None:
    """Ends the machine and all that runs in it."""
    os.kill(lab.pid, signal.SIGKILL)


def until(true: Callable[[], bool], what: str) -> None:
    """Waits for something to come true."""
    if not comes_true(true, TRIES):
        pytest.fail(f"{what} did not come about")


def comes_true(true: Callable[[], bool], tries: int) -> bool:
    """Whether something comes true within `tries` looks."""
    never = threading.Event()
    for _ in range(tries):
        if true():
            return True
        never.wait(0.1)
    return False


def environment_of(lab: Lab, pid: int) -> Mapping[str, str]:
    """The environment of a process of that machine."""
    pairs = lab.as_root(f"tr '\\0' '\\n' < /proc/{pid}/environ").splitlines()
    return dict(pair.partition("=")[::2] for pair in pairs)
