"""Which peer is a hub whose CI can merge, and where the API of its forge is. Asks nobody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote, urlsplit

from convergenced.errors import UsageError
from convergenced.knowledge.provider import ProviderError
from convergenced.machine.settings_schema import KnowledgeSettings, PeerSettings
from convergenced.urls import PeerUrl, UrlKind, classify_url

Forge = Literal["github", "gitlab"]

_ALIASES = {"ssh.github.com": "github.com", "altssh.gitlab.com": "gitlab.com"}
"""Hosts that only answer ssh, where port 22 is closed."""


@dataclass(frozen=True, slots=True)
class Hosted:
    """A hub as its forge names it. `site` is where its web pages are: scheme, host and port."""

    peer: str
    host: str
    site: str
    path: str


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
