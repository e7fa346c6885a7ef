"""`knowledge enable|disable`: says what will be shared and who sees it, asks, and writes config.toml."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from glob import iglob

from convergenced.machine.locations import ClaudeLocations, Locations
from convergenced.machine.settings import (
    KnowledgeSettings,
    Settings,
    default_config_text,
    parse_settings,
    redact_url,
    set_value,
)
from convergenced.model import LocalPath
from convergenced.wording import plural

from .. import configuration
from ..here import locations, read_status
from ..render import Terminal, clean, tilde
from .asking import agrees, require_answers
from .words import where_text_goes

SHOWN = 12
"""Files that are listed; the rest is counted."""
ALONE = "With nobody yet: there is no peer."
_KEYS = ("provider", "model", "max_usd", "synthesizer")
"""What `enable` may set beside `enabled`."""


def enable(args: argparse.Namespace) -> int:
    """Switches it on, 0; 1 where a person said no."""
    where = locations()
    text = configuration.read(where)
    before = configuration.settings(where)
    wanted = {"enabled": "true", **{key: value for key in _KEYS if (value := getattr(args, key)) is not None}}
    changed = default_config_text() if text is None else text
    for key, value in wanted.items():
        changed = set_value(changed, f"knowledge.{key}", value)
    after = parse_settings(changed, where.config_file)
    if after.knowledge == before.knowledge:
        print("CLAUDE.md and settings are shared already; nothing was changed")
        return 0
    # Only another place that text goes to, or more of it, is another question.
    is_new = not before.knowledge.enabled or after.knowledge.provider != before.knowledge.provider
    if is_new and not args.yes and not _consents(after):
        print("nothing was changed", file=sys.stderr)
        return 1
    _write(where, changed)
    print("\n".join(_enabled(after.knowledge)))
    return 0


def disable(args: argparse.Namespace) -> int:
    """Switches it off."""
    del args
    where = locations()
    text = configuration.read(where)
    if not configuration.settings(where).knowledge.enabled:
        print("CLAUDE.md and settings are not shared from this machine; nothing was changed")
        return 0
    _write(where, set_value(text or "", "knowledge.enabled", "false"))
    terminal = Terminal.of(sys.stdout, os.environ)
    print("CLAUDE.md and settings are not shared from this machine any more.")
    stays = (
        "What was shared stays on the branch `knowledge`, here and with your peers, and your other machines "
        "go on with it. The files here stay as they are."
    )
    print("\n".join(terminal.paragraph(stays)))
    return 0


def _write(where: Locations, text: str) -> None:
    configuration.write(where, text)
    if not configuration.apply(where):
        print("saved; no daemon runs, it counts from the next start", file=sys.stderr)


def _enabled(knowledge: KnowledgeSettings) -> Iterator[str]:
    yield "CLAUDE.md and settings are shared from now on"
    if knowledge.provider in {"github", "gitlab"}:
        command = f"convergencectl knowledge scaffold {knowledge.provider}"
        yield f"what merges there is written with:\n  → {command}"
    elif knowledge.provider != "none":
        yield "whether it can merge here:\n  → convergencectl doctor"
    yield "how it goes:\n  → convergencectl knowledge status"


def _consents(settings: Settings) -> bool:
    """Shows what will be shared, with whom, and asks. Raises `UsageError` where nobody can answer."""
    require_answers(
        "CLAUDE.md and settings may be shared", "say yes beforehand: convergencectl knowledge enable --yes"
    )
    print("\n".join(what_is_shared(settings, *_found(settings), Terminal.of(sys.stdout, os.environ))))
    return agrees("Go on?")


def what_is_shared(settings: Settings, found: list[str], notes: int, terminal: Terminal) -> list[str]:
    """What a person is to know before that: the files, the notes of memory beside them, the terms."""
    out = ["What is found here and would be shared:"] if found or notes else []
    out += [f"  {clean(tilde(path))}" for path in found[:SHOWN]]
    out += [f"  … and {plural(len(found) - SHOWN, 'file')} more"] if len(found) > SHOWN else []
    out += [f"  {plural(notes, 'note')} of memory"] if notes else []
    if not out:
        out = terminal.paragraph("Nothing is found here yet that would be shared; what you write will be.")
    for text in _terms(settings):
        out += ["", *terminal.paragraph(text)]
    return out


def _terms(settings: Settings) -> Iterator[str]:
    tracked = settings.knowledge.tracked_files
    carried = "" if tracked else " What a git repository carries is left to that."
    yield f"Of settings.json, what belongs to one machine alone stays there.{carried}"
    names = ", ".join(f"{one.name} ({clean(redact_url(one.url))})" for one in settings.peers)
    them = "it" if len(settings.peers) == 1 else "them"
    yield f"With: {names}, and your machines that exchange with {them}." if names else ALONE
    kept = "" if settings.knowledge.provider == "none" else " Apparent secrets never go to a model."
    yield f"{where_text_goes(settings.knowledge)}{kept}"
    yield (
        "What your other machines wrote is applied here while no Claude Code runs, after a backup; a setting "
        "that runs something or widens a permission only after you said yes to that very change."
    )


def _found(settings: Settings) -> tuple[list[str], int]:
    """The documents of this machine, by their names alone, and how many notes of memory there are."""
    claude = ClaudeLocations.from_environment(os.environ, os.path.expanduser("~"))
    names = [os.path.join(claude.config_dir, "CLAUDE.md"), str(claude.settings)]
    notes = 0
    for project in read_status()[0]["projects"]:
        if project["root"] is not None:
            names += [os.path.join(project["root"], name) for name in ("CLAUDE.md", ".claude/CLAUDE.md")]
        if project["context_dir"] is not None:
            notes += sum(1 for _ in iglob("memory/**/*.md", root_dir=project["context_dir"], recursive=True))
    found = [LocalPath(one) for one in names if os.path.isfile(one)]
    if settings.knowledge.tracked_files:
        return [*found], notes
    from convergenced.machine.tracked import is_tracked  # with pygit2

    return [
        one for one in found if not is_tracked(one) and not is_tracked(LocalPath(os.path.realpath(one)))
    ], notes
