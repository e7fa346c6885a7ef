"""Which hub's CI merges, where its API is, and with which token it is asked.

Promise: a token comes from the environment or the keyring of this machine, never from a configuration, and
is only ever given to the host of the hub it is for, or to the one that `knowledge.api_url` names.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol
from urllib.parse import unquote, urlsplit

from convergenced.errors import UsageError
from convergenced.knowledge.keys import SERVICE, Keyring, find_token, read_keyring
from convergenced.knowledge.provider import ProviderError
from convergenced.knowledge.providers.github import RIGHTS as GITHUB_RIGHTS
from convergenced.knowledge.providers.github import GitHubRunner, github_headers
from convergenced.knowledge.providers.gitlab import RIGHTS as GITLAB_RIGHTS
from convergenced.knowledge.providers.gitlab import GitLabRunner
from convergenced.knowledge.providers.http import Access
from convergenced.machine.clock import SystemClock
from convergenced.machine.settings_schema import KnowledgeSettings, PeerSettings
from convergenced.ports import Clock
from convergenced.urls import PeerUrl, UrlKind, classify_url

Forge = Literal["github", "gitlab"]

_ALIASES = {"ssh.github.com": "github.com", "altssh.gitlab.com": "gitlab.com"}
"""Hosts that only answer ssh, where port 22 is closed."""


class Runner(Protocol):
    """Synthesis that runs elsewhere, and pushes what it made to the hub."""

    def run(self, stop: threading.Event, tell: Callable[[str], None], timeout: float) -> str:
        """Starts it, follows it for `timeout` seconds at most, and says what became of it.

        `tell` hears of each state in words. Raises `ProviderError` with what went wrong and what to do.
        """
        ...


@dataclass(frozen=True, slots=True)
class Hosted:
    """A hub as its forge names it. `site` is where its web pages are: scheme, host and port."""

    peer: str
    host: str
    site: str
    path: str


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


def choose_hub(forge: Forge, settings: KnowledgeSettings, peers: Sequence[PeerSettings]) -> Hosted:
    """The peer that `knowledge.peer` names, or the first that fits. Raises `ProviderError`."""
    hosted = {peer.name: hosted_at(forge, peer) for peer in peers}
    if settings.peer:
        if settings.peer not in hosted:
            raise ProviderError(
                f"there is no peer named {settings.peer}, which knowledge.peer names",
                f"there are: {', '.join(hosted) or 'none'}; convergencectl config set knowledge.peer NAME",
            )
        hub = hosted[settings.peer]
        if hub is None:
            raise ProviderError(
                f"the peer {settings.peer} is no repository on {forge.capitalize()}",
                "name another one: convergencectl config set knowledge.peer NAME",
            )
        return hub
    candidates = [hub for hub in hosted.values() if hub is not None]
    fitting = [hub for hub in candidates if forge in hub.host]
    if settings.api_url:
        asked = urlsplit(settings.api_url).hostname or ""
        fitting = [hub for hub in candidates if hub.host == asked] or fitting or candidates
    if not fitting:
        raise ProviderError(
            f"no peer is on {'GitHub' if forge == 'github' else 'GitLab'}, as far as its URL tells",
            "name the one that is: convergencectl config set knowledge.peer NAME",
        )
    return fitting[0]


def hosted_at(forge: Forge, peer: PeerSettings) -> Hosted | None:
    """The repository behind a peer's URL; None where that can be none of this forge's."""
    try:
        url = classify_url(peer.url)
    except UsageError:
        return None
    if url.kind not in (UrlKind.SSH, UrlKind.WEB):
        return None
    parts = [part for part in unquote(url.path.partition("?")[0]).strip("/").split("/") if part]
    if parts:
        parts[-1] = parts[-1].removesuffix(".git")
    usual = len(parts) == 2 if forge == "github" else len(parts) >= 2
    if not usual or any(part in ("", ".", "..", "~") for part in parts):
        return None
    host = _ALIASES.get(url.host.lower(), url.host.lower())
    return Hosted(peer.name, host, _site(url, host), "/".join(parts))


def api_base(forge: Forge, hub: Hosted) -> str:
    """Where the API of a hub's forge is."""
    if forge == "gitlab":
        return f"{hub.site}/api/v4"
    return "https://api.github.com" if hub.host == "github.com" else f"{hub.site}/api/v3"


def _site(url: PeerUrl, host: str) -> str:
    if url.kind is UrlKind.WEB:
        parts = urlsplit(url.bare)
        return f"{parts.scheme}://{parts.netloc}"
    return f"https://[{host}]" if ":" in host else f"https://{host}"


def _no_token(forge: str, variable: str, account: str, rights: str) -> ProviderError:
    return ProviderError(
        f"there is no token for {forge}",
        f"set {variable}, or keep one: python -m keyring set {SERVICE} {account}; {rights}",
    )
