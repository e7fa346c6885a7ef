"""The README's first quarter of an hour, played: two machines, real daemons, and stand-ins for the world.

What stands behind the commands: homes of their own on one host, each with a checkout of the same code;
`ssh`, which runs on this host what it would run on the other; `claude`, which writes a session as the
client does. The rest is real.
"""

from __future__ import annotations

import difflib
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from convergenced.canon.folder import encode_folder_name
from convergenced.machine.locations import Locations
from tests.e2e.cli import OnTerminal, fake_program
from tests.e2e.machines import git, make_hub

PATIENCE = 60.0
TITLE = "### The first quarter of an hour"
MACHINES = ("desktop", "laptop")
ELSEWHERE = "…"
"""A line of this alone stands for any lines."""
_PROMPT = re.compile(r"(?P<machine>desktop|laptop)\$ (?P<command>.+)")
_ASKS = re.compile(r"\[y/N\] (?P<answer>y)$", re.MULTILINE)
_CHANGING = (
    (re.compile(r"\b(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun|[A-Z][a-z]{2} \d+) )?\d\d:\d\d\b"), "TIME"),
    (re.compile(r"\bjust now\b|\b\d+ (?:s|min|h|d) ago\b"), "AGO"),
    (re.compile(r"\b[\d.]+ (?:B|kB|MB)\b"), "SIZE"),
    (re.compile(r"\b[0-9a-f]{10}\b"), "COMMIT"),
    (re.compile(r"\bpid \d+"), "PID"),
    (re.compile(r"\s+"), " "),
)
_SITE = """\
import os, platform
platform.node = lambda: os.environ["MACHINE"]
"""
_CLAUDE = """\
import json, os, sys, uuid
from datetime import datetime, timezone
from pathlib import Path

arguments = sys.argv[1:]
session = str(uuid.uuid5(uuid.NAMESPACE_URL, arguments[-1]))
folder = "".join(one if one.isascii() and one.isalnum() else "-" for one in os.getcwd())
place = Path.home() / ".claude" / "projects" / folder
if "--resume" in arguments:
    (session,) = [one.stem for one in place.glob(arguments[arguments.index("--resume") + 1] + "*.jsonl")]
answer = f"Done: {os.getcwd()}/cart.py."
place.mkdir(parents=True, exist_ok=True)
with open(place / f"{session}.jsonl", "ab", 0) as transcript:
    lines = b""
    for role, text in (("user", arguments[-1]), ("assistant", answer)):
        lines += json.dumps({
            "parentUuid": None, "isSidechain": False, "type": role,
            "message": {"role": role, "content": text}, "uuid": str(uuid.uuid4()),
            "timestamp": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z",
            "cwd": os.getcwd(), "sessionId": session,
        }).encode() + b"\\n"
    transcript.write(lines)
print(answer.replace(str(Path.home()), "~"))
"""


@dataclass(frozen=True)
class Step:
    """A command, the machine that it is typed on, and what the README says comes of it."""

    machine: str
    command: str
    said: str

    @property
    def answer(self) -> str | None:
        """What is typed at its question."""
        found = _ASKS.search(self.said)
        return None if found is None else found["answer"]


def steps(readme: str) -> list[Step]:
    """The commands of the section, in order, with their outputs."""
    section = readme[readme.index(TITLE) :]
    section = section[: section.find("\n### ", len(TITLE))]
    found: list[Step] = []
    for block in re.findall(r"^```console\n(.*?)^```", section, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if prompt := _PROMPT.fullmatch(line):
                found.append(Step(prompt["machine"], prompt["command"], ""))
            else:
                found[-1] = Step(found[-1].machine, found[-1].command, f"{found[-1].said}{line}\n")
    return found


def agrees(said: str, shown: str) -> bool:
    """Whether what was shown is what the README says, but for times, sizes and widths of columns."""
    wanted = [_settled(line) for line in said.splitlines()]
    found = [_settled(line) for line in shown.splitlines()]
    pattern = "".join(
        "(?:.*\n)*?" if line == ELSEWHERE else re.escape(line) + "\n" for line in wanted if line
    )
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in found if line)) is not None


def _settled(line: str) -> str:
    for pattern, word in _CHANGING:
        line = pattern.sub(word, line)
    return line.strip()


@dataclass
class Stage:
    """Both machines and the hub, below `top`."""

    top: Path
    homes: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        programs = self.top / "bin"
        hub = make_hub(self.top / "you" / "context.git")
        fake_program(programs, "ssh", f'for last; do :; done; cd {hub.parent.parent} && eval "$last"')
        fake_program(programs, "claude", f'exec {sys.executable} {programs}/claude.py "$@"')
        fake_program(programs, "convergencectl", f'exec {sys.executable} -m convergencectl "$@"')
        (programs / "claude.py").write_text(_CLAUDE)
        (programs / "sitecustomize.py").write_text(_SITE)
        for machine in MACHINES:
            home = self.top / machine / "ann"
            (home / "src").mkdir(parents=True)
            (self.top / machine / "run").mkdir(mode=0o700)
            git("init", "-q", home / "src" / "webshop")
            git("-C", home / "src" / "webshop", "remote", "add", "origin", "git@github.com:you/webshop.git")
            self.homes[machine] = home

    def environ(self, machine: str) -> dict[str, str]:
        return {
            "HOME": str(self.homes[machine]),
            "PATH": f"{self.top / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(
                [str(self.top / "bin"), *filter(None, [os.environ.get("PYTHONPATH")])]
            ),
            "XDG_RUNTIME_DIR": str(self.top / machine / "run"),
            "MACHINE": machine,
            "CONVERGENCE_NO_SERVICE": "1",
            "GIT_CONFIG_NOSYSTEM": "1",
            "NO_COLOR": "1",
            "PAGER": "cat",
            "TERM": "xterm",
            "TZ": "UTC",
            "LANG": "C.UTF-8",
            **{name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")},
        }

    def play(self, step: Step) -> str:
        """Types the command on its machine and gives what came of it, as if home were `/home/ann`."""
        home = str(self.homes[step.machine])
        terminal = OnTerminal.start_shell(
            step.command, self.environ(step.machine), self.homes[step.machine] / "src" / "webshop"
        )
        if step.answer is not None:
            terminal.read_until("[y/N] ")
            terminal.type(f"{step.answer}\n")
        shown = terminal.end()[1].replace("\r\n", "\n")
        shown = re.sub(r".*\r(?:\x1b\[K)?", "", shown).replace(encode_folder_name(home), "-home-ann")
        return shown.replace(home, "~")

    def perform(self, step: Step) -> None:
        """Plays a step until it agrees; one that only looks may look again, for what is still on its way."""
        until = time.monotonic() + PATIENCE
        while not agrees(step.said, shown := self.play(step)):
            if not _only_looks(step.command) or time.monotonic() > until:
                difference = difflib.ndiff(step.said.splitlines(), shown.splitlines())
                raise AssertionError("\n".join([f"{step.machine}$ {step.command}", *difference]))

    def end(self) -> None:
        """Ends the daemons that still run."""
        for machine in MACHINES:
            subprocess.run(
                [sys.executable, "-m", "convergencectl", "down"],
                env=self.environ(machine),
                capture_output=True,
                timeout=PATIENCE,
                check=False,
            )

    def socket(self, machine: str) -> Path:
        """Where the machine's daemon listens while it runs."""
        return Path(Locations.from_environment(self.environ(machine), str(self.homes[machine])).socket)


def _only_looks(command: str) -> bool:
    words = command.split()
    return (
        words[0] == "convergencectl"
        and words[1] in {"status", "sessions", "log", "session", "conflicts"}
        and (words[1] != "session" or words[2] in {"show", "history"})
    )
