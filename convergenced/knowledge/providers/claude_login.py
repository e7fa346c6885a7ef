"""What of a user's surroundings makes up the login of Claude Code, and nothing else of them.

A login may stand in the environment, and in the user's settings beside hooks and permissions that nobody
asked for. Promise: what is taken over says who asks and by which way, and changes nothing of what is done.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping

from convergenced.errors import ConvergenceError
from convergenced.machine.durable import read_bounded
from convergenced.machine.locations import MAX_CLAUDE_SETTINGS, ClaudeLocations
from convergenced.merge.documents import Json

_OF_A_LOGIN = re.compile(
    r"CLAUDE_CODE_(OAUTH_(TOKEN|REFRESH_TOKEN|SCOPES)|CLIENT_(CERT|KEY|KEY_PASSPHRASE)|CERT_STORE"
    r"|USE_(ANTHROPIC_)?(BEDROCK|VERTEX|FOUNDRY|MANTLE|AWS|GOOGLE_CLOUD)|SKIP_\w+_AUTH|PROXY_\w+"
    r"|API_KEY_HELPER_TTL_MS)"
)
"""Claude Code's own variables that say who the user is and how the API is reached. The others speak of the
session that we were started in, or change what a session does: one has it kept after all."""

_OF_THE_CLIENT = re.compile(r"CLAUDE|AI_AGENT$")

_OF_OTHERS = re.compile(
    r"(ANTHROPIC|AWS|GOOGLE|VERTEX|AZURE)_\w+|CLOUD_ML_REGION|NODE_EXTRA_CA_CERTS|SSL_CERT_(FILE|DIR)"
    r"|(HTTPS?|NO|ALL)_PROXY",
    re.IGNORECASE,
)
"""Variables that settings set for a login by somebody else's means, or on the way to it."""

_PROGRAMS = ("apiKeyHelper", "awsAuthRefresh", "awsCredentialExport", "gcpAuthRefresh")
"""Settings that name the user's own programs which bring or renew a key."""


def login_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without what Claude Code puts there for those that it starts."""
    kept = {
        name: value
        for name, value in environ.items()
        if not _OF_THE_CLIENT.match(name) or _OF_A_LOGIN.fullmatch(name)
    }
    if environ.get("CLAUDE_CONFIG_DIR"):
        kept["CLAUDE_CONFIG_DIR"] = locations(environ).config_dir
    return kept


def login_settings(environ: Mapping[str, str]) -> dict[str, Json]:
    """The part of the user's settings that the login needs; empty where they cannot be read."""
    try:
        settings = json.loads(read_bounded(locations(environ).settings, MAX_CLAUDE_SETTINGS) or b"{}")
    except (ConvergenceError, ValueError, RecursionError):
        return {}
    if not isinstance(settings, dict):
        return {}
    found: dict[str, Json] = {
        name: settings[name] for name in _PROGRAMS if isinstance(settings.get(name), str)
    }
    variables = settings.get("env")
    named: dict[str, Json] = {
        name: value
        for name, value in (variables if isinstance(variables, dict) else {}).items()
        if isinstance(value, str) and (_OF_A_LOGIN.fullmatch(name) or _OF_OTHERS.fullmatch(name))
    }
    return {**found, "env": named} if named else found


def locations(environ: Mapping[str, str]) -> ClaudeLocations:
    """Where the client of that environment keeps what it writes."""
    return ClaudeLocations.from_environment(environ, home_of(environ))


def home_of(environ: Mapping[str, str]) -> str:
    """The home folder in that environment."""
    return environ.get("HOME") or os.path.expanduser("~")
