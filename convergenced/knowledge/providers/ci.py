"""Synthesis in a hub's CI, and with which token that is asked for.

Promise: a token comes from the environment or the keyring of this machine, never from a configuration, and
is only ever given to the host of the hub it is for, or to the one that `knowledge.api_url` names.

Loads what speaks with the web: the daemon imports it when it has to.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from convergenced.knowledge.keys import SERVICE, Keyring, find_token, read_keyring
from convergenced.knowledge.provider import ProviderError
from convergenced.knowledge.providers.github import RIGHTS as GITHUB_RIGHTS
from convergenced.knowledge.providers.github import GitHubRunner, github_headers
from convergenced.knowledge.providers.gitlab import RIGHTS as GITLAB_RIGHTS
from convergenced.knowledge.providers.gitlab import GitLabRunner
from convergenced.knowledge.providers.http import Access
from convergenced.knowledge.providers.hubs import Forge, api_base, choose_hub
from convergenced.machine.clock import SystemClock
from convergenced.machine.settings_schema import KnowledgeSettings, PeerSettings
from convergenced.ports import Clock


class Runner(Protocol):
    """Synthesis that runs elsewhere, and pushes what it made to the hub."""

    def run(self, stop: threading.Event, tell: Callable[[str], None], timeout: float) -> str:
        """Starts it, follows it for `timeout` seconds at most, and says what became of it.

        `tell` hears of each state in words. Raises `ProviderError` with what went wrong and what to do.
        """
        ...


def open_runner(
    settings: KnowledgeSettings,
    peers: Sequence[PeerSettings],
    environ: Mapping[str, str],
    *,
    keyring: Keyring | None = None,
    clock: Clock | None = None,
    wait: Callable[[float], object] | None = None,
) -> Runner:
    """The CI that `settings` name. Asks nobody yet. Raises `ProviderError`: no such hub, no token."""
    forge: Forge = "gitlab" if settings.provider == "gitlab" else "github"
    hub = choose_hub(forge, settings, peers)
    base = settings.api_url or api_base(forge, hub)
    clock = clock or SystemClock()

    def token(names: Sequence[str], account: str) -> str:
        return find_token(names, account, environ, keyring or read_keyring)

    if forge == "github":
        found = token(("GITHUB_TOKEN", "GH_TOKEN"), "github")
        if not found:
            raise _no_token("GitHub", "GITHUB_TOKEN", "github", GITHUB_RIGHTS)
        access = Access(base, {"Authorization": f"Bearer {found}"}, github_headers(), environ)
        return GitHubRunner(hub.path, access, clock=clock, wait=wait)
    found, trigger = token(("GITLAB_TOKEN",), "gitlab"), token(("GITLAB_TRIGGER_TOKEN",), "gitlab-trigger")
    if not found and not trigger:
        raise _no_token("GitLab", "GITLAB_TOKEN", "gitlab", GITLAB_RIGHTS)
    access = Access(base, {"PRIVATE-TOKEN": found} if found else {}, {}, environ)
    return GitLabRunner(hub.path, access, trigger, clock=clock, wait=wait)


def _no_token(forge: str, variable: str, account: str, rights: str) -> ProviderError:
    return ProviderError(
        f"there is no token for {forge}",
        f"set {variable}, or keep one: python -m keyring set {SERVICE} {account}; {rights}",
    )
