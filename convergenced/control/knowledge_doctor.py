"""What `doctor` says of shared knowledge: documents, the branch, and whoever merges.

Promises: nothing is changed and nobody is asked over a network; a key is looked for, and neither shown nor
sent. Where knowledge is not shared there is nothing to say.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from math import ceil

from convergenced.errors import ConvergenceError, NewerSchemaError
from convergenced.knowledge.branch import KNOWLEDGE_REF, knowledge_at
from convergenced.knowledge.keys import find_token, read_keyring
from convergenced.knowledge.places import PlaceFinder
from convergenced.knowledge.provider import ProviderError
from convergenced.knowledge.providers.anthropic_api import ENTRY, KEY, KEY_HINT, TOKEN
from convergenced.knowledge.providers.claude_client import OTHER_HINT, find_client
from convergenced.knowledge.snapshot import Snapshots, not_shared
from convergenced.knowledge.synthesis import DocumentTask, ScopeTask, estimate
from convergenced.knowledge.worker import open_model
from convergenced.machine.locations import ClaudeLocations
from convergenced.machine.settings_schema import KnowledgeSettings, Settings
from convergenced.merge.markdown import Version
from convergenced.merge.reading import forget_folders
from convergenced.model import Finding, LocalPath, Refusal
from convergenced.store.program import Limits, Programs
from convergenced.sync.replica import Parts, Replica
from convergenced.sync.tips import ref_of
from convergenced.wording import plural

KNOWN_SINCE = (2, 1, 40)
"""The oldest Claude Code that is known to take the options that it is asked with."""
VERSION_S = 10.0
"""Seconds that Claude Code may take to say which version it is."""
MAX_NAMED = 20

_FIX = "convergencectl doctor --deep --fix"
_VERSION = re.compile(rb"([0-9]{1,6})\.([0-9]{1,6})\.([0-9]{1,6})")


def check_knowledge(
    parts: Parts,
    replicas: Sequence[Replica],
    settings: Settings,
    environ: Mapping[str, str],
    hints: Callable[[], str | None] = lambda: None,
) -> Iterator[Finding]:
    """All findings. `hints` says why changes are not heard of, None where they are."""
    if not settings.knowledge.enabled:
        return
    yield from _about_branch(parts)
    yield from _about_documents(parts, replicas, settings, environ)
    if (trouble := hints()) is not None:
        text = f"changes of CLAUDE.md and settings are only found by looking: {trouble}"
        yield Finding("knowledge.hints", "ok", text)
    try:
        said = _about_provider(settings, environ)
    except ConvergenceError as error:
        yield Finding("knowledge.provider", "problem", error.summary, fix=error.hint)
    else:
        yield said
        yield from _about_costs(settings.knowledge, environ)


def share_again(
    parts: Parts, replicas: Sequence[Replica], settings: Settings, environ: Mapping[str, str]
) -> None:
    """Gives the store what this machine shares; nothing where that is nothing."""
    if settings.knowledge.enabled:
        found = _finder(parts, environ).find(
            replicas, tracked_files=settings.knowledge.tracked_files, now=parts.clock.monotonic()
        )
        Snapshots(parts).share_again(found.files, found.places)


# -- branch and documents


def _about_branch(parts: Parts) -> Iterator[Finding]:
    forget_folders(parts.store)  # what was read once may not be readable any more
    try:
        knowledge, refusals = knowledge_at(parts.store, ref_of(parts.store, KNOWLEDGE_REF))
    except NewerSchemaError as error:
        yield Finding("knowledge.branch", "warning", error.summary, fix=error.hint)
        return
    except ConvergenceError as error:
        yield Finding("knowledge.branch", "problem", f"cannot be read: {error.summary}", fix=_FIX)
        return
    fix = "remove it on the machine that made it"
    yield from _told("knowledge.branch", refusals, "{0.where}: {0.reason}; left alone", fix)
    if not refusals:
        count = len(knowledge.machines)
        verb = "shares" if count == 1 else "share"
        text = f"{plural(count, 'machine')} {verb} CLAUDE.md and settings; all of that can be read"
        yield Finding("knowledge.branch", "ok", text)


def _about_documents(
    parts: Parts, replicas: Sequence[Replica], settings: Settings, environ: Mapping[str, str]
) -> Iterator[Finding]:
    found = _finder(parts, environ).find(
        replicas, tracked_files=settings.knowledge.tracked_files, now=parts.clock.monotonic()
    )
    refusals = [*found.refusals, *not_shared(parts, found.files, found.places)]
    yield from _told("knowledge.documents", refusals, "{0.where} {0.reason}", "")
    if not refusals:
        yield Finding("knowledge.documents", "ok", "CLAUDE.md files, settings and notes here can be shared")


def _told(check: str, refusals: Sequence[Refusal], form: str, fix: str) -> Iterator[Finding]:
    for one in refusals[:MAX_NAMED]:
        yield Finding(check, "warning", form.format(one), fix=one.remedy or fix)
    if (more := len(refusals) - MAX_NAMED) > 0:
        yield Finding(check, "warning", f"and {more} more")


def _finder(parts: Parts, environ: Mapping[str, str]) -> PlaceFinder:
    claude = ClaudeLocations.from_environment(environ, parts.machine.home)
    return PlaceFinder(parts.machine, claude.config_dir)


# -- whoever merges


def _about_provider(settings: Settings, environ: Mapping[str, str]) -> Finding:
    """Whether the provider could be asked. Raises `ProviderError`."""
    match settings.knowledge.provider:
        case "anthropic":
            _check_anthropic(environ)
            text = "the Messages API can be asked: its package is installed, and there is a key"
        case "claude":
            return _about_client(environ)
        case "github" | "gitlab" as forge:
            from convergenced.knowledge.providers.ci import open_runner  # noqa: PLC0415 (loads what speaks with the web)

            open_runner(settings.knowledge, settings.peers, environ)
            text = f"a hub's CI merges: there is a peer that fits the provider {forge}, and a token for it"
        case _:
            text = "documents are merged by rule, without a model"
    return Finding("knowledge.provider", "ok", text)


def _check_anthropic(environ: Mapping[str, str]) -> None:
    if find_spec("anthropic") is None:
        raise ProviderError(
            "the provider anthropic needs a package that is not installed",
            "pip install 'convergenced[synthesis]'",
        )
    if not find_token((KEY, TOKEN), ENTRY, environ, read_keyring):
        raise ProviderError("there is no key for the Messages API", KEY_HINT)


def _about_client(environ: Mapping[str, str]) -> Finding:
    client = find_client(environ)
    if client is None:
        raise ProviderError(
            "Claude Code is not installed here: there is no program `claude` on the PATH",
            f"install it, or {OTHER_HINT}",
        )
    version = _version_of(client, environ)
    if version is None:
        text = f"Claude Code at {client} does not say its version"
        return Finding("knowledge.provider", "warning", text, fix=f"{client} --version")
    shown = f"Claude Code at {client} is version {'.'.join(map(str, version))}"
    if version < KNOWN_SINCE:
        oldest = ".".join(map(str, KNOWN_SINCE))
        text = f"{shown}; that one can be asked is only known of {oldest} and later"
        return Finding("knowledge.provider", "warning", text, fix="claude update")
    return Finding("knowledge.provider", "ok", shown)


def _version_of(client: LocalPath, environ: Mapping[str, str]) -> tuple[int, ...] | None:
    """What the client says of itself; it keeps what it might write in a folder that goes away."""
    with tempfile.TemporaryDirectory(prefix="convergence-", ignore_cleanup_errors=True) as folder:
        own = {
            "PATH": environ.get("PATH", os.defpath),
            "HOME": folder,
            "CLAUDE_CONFIG_DIR": folder,
            "DISABLE_AUTOUPDATER": "1",
        }
        limits = Limits(VERSION_S, VERSION_S)
        try:
            outcome = Programs().run([client, "--version"], environ=own, limits=limits, folder=folder)
        except OSError:
            return None
    found = _VERSION.search(outcome.out)
    return None if found is None or outcome.end != "exit" else tuple(int(part) for part in found.groups())


def _about_costs(settings: KnowledgeSettings, environ: Mapping[str, str]) -> Iterator[Finding]:
    """A warning where not even a short document may be merged for the money that a run may cost."""
    versions = (Version("one", b"one\n", None), Version("other", b"other\n", None))
    task = ScopeTask("global", (DocumentTask("CLAUDE.md", None, versions),))
    _, usd, _ = estimate(task, open_model(settings, environ))
    if usd > settings.max_usd:
        text = (
            f"merging even a short document may cost ${usd:.2f}, and a run may cost ${settings.max_usd:.2f}"
        )
        fix = f"convergencectl config set knowledge.max_usd {ceil(usd)}"
        yield Finding("knowledge.costs", "warning", text, fix=fix)
