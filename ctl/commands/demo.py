"""`demo`: two machines, two real daemons and a hub in a temporary directory; nothing else is touched."""

from __future__ import annotations

import argparse
import os
import sys
import time
import uuid

from convergenced.errors import ConvergenceError

from ..arguments import Parser, example
from ..render import Terminal
from ..stage import Machine, await_true, two_machines


def configure(parser: Parser) -> None:
    """Arguments and help."""
    parser.description = (
        "Shows a session and a memory note of one machine appear on another, with that machine's paths,"
        " and a session that went on in both places become two. Needs no set-up and no network; cleans up"
        " after itself."
    )
    parser.epilog = example("convergencectl demo")


def run(args: argparse.Namespace) -> int:
    """Plays the demo; raises `ConvergenceError` where something did not come true."""
    del args
    terminal = Terminal.of(sys.stdout, os.environ)
    began = time.monotonic()
    with two_machines() as (top, desktop, laptop):
        story = _Story(terminal, str(top), desktop, laptop)
        story.play()
    print(terminal.style(f"demo: success in {time.monotonic() - began:.1f} s", "green", "bold"))
    print("Now for your own sessions: convergencectl up")
    return 0


class _Story:
    def __init__(self, terminal: Terminal, top: str, desktop: Machine, laptop: Machine) -> None:
        self._terminal = terminal
        self._top = top
        self._desktop = desktop
        self._laptop = laptop

    def play(self) -> None:
        """The whole story."""
        self._say(f"Two machines and a bare git repository as hub, all below {self._top}")
        for machine in (self._desktop, self._laptop):
            machine.start()
        for machine in (self._desktop, self._laptop):
            machine.await_ready()
            self._tell(f"{machine.name:<8} daemon runs, project at {self._short(str(machine.project))}")
        session = self._arrival()
        self._divergence(session)

    def _arrival(self) -> str:
        self._say("1. Claude Code writes a session and a memory note on the desktop")
        session = str(uuid.uuid4())
        project = self._desktop.project
        wrote = time.monotonic()
        self._desktop.append(
            session,
            ("user", f"fix the cart total in {project}/cart.py"),
            ("assistant", f"Done: {project}/cart.py rounds at the end now."),
        )
        note = self._desktop.context / "memory" / "MEMORY.md"
        note.parent.mkdir()
        note.write_text(f"- tests: cd {project} && make test\n", encoding="utf-8")
        arrived = self._laptop.context / "memory" / "MEMORY.md"
        await_true(
            lambda: len(self._laptop.turns(session)) == 2 and arrived.exists(), "the session on the laptop"
        )
        self._say(f"   … and {time.monotonic() - wrote:.1f} s later they are on the laptop, with its paths:")
        for machine in (self._desktop, self._laptop):
            self._tell(machine.name)
            for turn in machine.turns(session):
                self._tell(f"    {self._short(turn)}")
            memory = (machine.context / "memory" / "MEMORY.md").read_text(encoding="utf-8").strip()
            self._tell(f"    memory: {self._short(memory)}")
        self._check(
            self._laptop.turns(session)[0] == f"fix the cart total in {self._laptop.project}/cart.py",
            "the laptop's paths in the session",
        )
        self._check(
            str(self._laptop.project) in arrived.read_text(encoding="utf-8"), "the laptop's paths in memory"
        )
        return session

    def _divergence(self, session: str) -> None:
        self._say("2. The same session is continued on both machines while they are apart")
        both = (self._desktop, self._laptop)
        for machine in both:
            machine.call("pause", {"projects": []})
            machine.append(session, ("user", f"now the {machine.name}'s idea"))
        for machine in both:
            machine.call("resume", {"projects": []})
        await_true(
            lambda: all(self._has_both_ideas(machine) for machine in both), "both lineages on both machines"
        )
        self._say("   … and becomes two sessions on both; each can be resumed:")
        for machine in both:
            self._tell(machine.name)
            for one in machine.sessions():
                self._tell(f"    claude --resume {one[:8]}…  ends with: {machine.turns(one)[-1]!r}")
        self._check(self._desktop.sessions() == self._laptop.sessions(), "the same sessions on both machines")
        self._check(len(self._desktop.sessions()) == 2, "two sessions out of one")

    def _has_both_ideas(self, machine: Machine) -> bool:
        last = {turns[-1] for one in machine.sessions() if (turns := machine.turns(one))}
        return last == {"now the desktop's idea", "now the laptop's idea"}

    def _check(self, holds: bool, what: str) -> None:
        if not holds:
            raise ConvergenceError(f"the demo failed: {what} did not come out right", "please report this")

    def _short(self, text: str) -> str:
        """Paths without the temporary directory, as they would be on two real machines."""
        return text.replace(f"{self._top}/{self._desktop.name}", "").replace(
            f"{self._top}/{self._laptop.name}", ""
        )

    def _say(self, text: str) -> None:
        print(self._terminal.style(text, "bold"), flush=True)

    def _tell(self, text: str) -> None:
        print(f"   {text}", flush=True)
