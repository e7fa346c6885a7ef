"""What is known of the keys in Claude Code's settings.json: which stay home, which are harmless, and why not.

Owns the tables. Nobody can list what a later client makes of a key, so what may be taken on without a
person is an allowlist, value by value, and all else is asked about. Made for the keys that the schema in
client 2.1.329 names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping

from convergenced.canon.own_hooks import is_own
from convergenced.canon.secrets import find_secrets
from convergenced.merge.documents import Json

Key = tuple[str, ...]
"""The names on the way to a value, from the top."""

_STAYS: Mapping[str, tuple[str, ...]] = {
    "a program of this machine that hands out its credentials": (
        "apiKeyHelper",
        "awsAuthRefresh",
        "awsCredentialExport",
        "gcpAuthRefresh",
        "otelHeadersHelper",
        "proxyAuthHelper",
    ),
    "who is logged in here, and how": (
        "allowNestedModelAccessUnderForceLogin",
        "allowedProviders",
        "customApiKeyResponses",
        "forceLoginGatewayUrl",
        "forceLoginMethod",
        "forceLoginOrgUUID",
        "forceRemoteSettingsRefresh",
        "gatewayInternalNetworks",
        "machineID",
        "oauthAccount",
        "primaryApiKey",
        "userID",
    ),
    "what a person agreed to here, which says nothing of elsewhere": (
        "skipAutoPermissionPrompt",
        "skipDangerousModePermissionPrompt",
        "skipWorkflowUsageWarning",
    ),
    "how the program is installed and managed here": (
        "installMethod",
        "minimumVersion",
        "policyHelper",
        "policyHelpers",
        "processWrapper",
        "wslInheritsWindowsSettings",
    ),
    "files, hosts and ports that are known here": (
        "autoMemoryDirectory",
        "sandbox.bwrapPath",
        "sandbox.network.httpProxyPort",
        "sandbox.network.socksProxyPort",
        "sandbox.ripgrep",
        "sandbox.socatPath",
        "sshConfigs",
        "sshHostCommands",
    ),
    "the surroundings that every session here is started in": tuple(
        f"env.{name}"
        for name in (
            "ALL_PROXY",
            "CLAUDE_CODE_CLIENT_CERT",
            "CLAUDE_CODE_GIT_BASH_PATH",
            "CLAUDE_CODE_SHELL",
            "CLAUDE_CODE_TMPDIR",
            "CLAUDE_CONFIG_DIR",
            "CLAUDE_ENV_FILE",
            "CONVERGENCE_HOME",
            "DBUS_SESSION_BUS_ADDRESS",
            "DISPLAY",
            "HOME",
            "HOSTNAME",
            "HTTPS_PROXY",
            "HTTP_PROXY",
            "LOGNAME",
            "NODE_EXTRA_CA_CERTS",
            "NO_PROXY",
            "PATH",
            "PWD",
            "SHELL",
            "SSH_AUTH_SOCK",
            "SSL_CERT_FILE",
            "TEMP",
            "TMP",
            "TMPDIR",
            "USER",
            "USERPROFILE",
            "WAYLAND_DISPLAY",
            "XDG_RUNTIME_DIR",
        )
    ),
}
"""Keys that belong to one machine, by the reason."""

_STAYING = frozenset(name.lower() for names in _STAYS.values() for name in names)

_UNITS = (
    ("fileSuggestion",),
    ("statusLine",),
    ("subagentStatusLine",),
    ("additionalMarketplaces", "*"),
    ("extraKnownMarketplaces", "*"),
    ("managedMcpServers", "*"),
    ("mcpServers", "*"),
    ("pluginConfigs", "*"),
    # Lists whose order counts.
    ("fallbackModel",),
    ("modelPicker", "options"),
)
"""Values that are taken whole or not at all: a command of one machine with arguments of another is
nobody's command."""

Shape = Callable[[Json], bool]


def _truth(value: Json) -> bool:
    return isinstance(value, bool)


def _one_of(*words: str) -> Shape:
    return lambda value: isinstance(value, str) and value in words


def _whole(low: int, high: int) -> Shape:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _text(pattern: str) -> Shape:
    compiled = re.compile(pattern)
    return lambda value: isinstance(value, str) and compiled.fullmatch(value) is not None


_SPACED = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0370-\u03ff\u0400-\u052f\u0590-\u06ff"
"""Letters of scripts with spaces between words."""

_HARMLESS: Mapping[str, Shape] = {
    "$schema": _one_of("https://json.schemastore.org/claude-code-settings.json"),
    "autoScrollEnabled": _truth,
    "editorMode": _one_of("normal", "vim"),
    "emojiCompletionEnabled": _truth,
    # It becomes part of an instruction to the model: one word cannot be another instruction. Scripts without
    # spaces say a sentence in as many letters as others a word.
    "language": _text(rf"[{_SPACED}]{{2,20}}(?:-[{_SPACED}]{{2,20}})?|[^\W\d_]{{2,5}}"),
    "maxProseWidth": _whole(40, 1000),
    # Only those that come with the client: any other name is that of a file with instructions.
    "outputStyle": _one_of("default", "Explanatory", "Learning"),
    "preferredNotifChannel": _one_of(
        "auto",
        "iterm2",
        "terminal_bell",
        "iterm2_with_bell",
        "kitty",
        "ghostty",
        "notifications_disabled",
    ),
    "prefersReducedMotion": _truth,
    "showMessageTimestamps": _truth,
    "showTurnDuration": _truth,
    "spinnerTipsEnabled": _truth,
    "syntaxHighlightingDisabled": _truth,
    "terminalProgressBarEnabled": _truth,
    "terminalTitleFromRename": _truth,
    "theme": _one_of(
        "auto", "dark", "light", "light-daltonized", "dark-daltonized", "light-ansi", "dark-ansi"
    ),
    "timeFormat": _one_of("auto", "12-hour", "24-hour", "24-hour-utc"),
    "timeZone": _text(r"[A-Za-z]{1,16}(?:[/_+-][A-Za-z0-9]{1,16}){0,4}"),
    "todoFeatureEnabled": _truth,
    "verbose": _truth,
    "viewMode": _one_of("default", "verbose", "focus"),
    "wheelScrollAccelerationEnabled": _truth,
}
"""Settings that only change how things look, with the values that they have. Not among them, though they
look tame: what changes costs, what a model is told, what is kept, or who is asked."""

_WHY = tuple(
    (re.compile(pattern, re.DOTALL | re.IGNORECASE), why)
    for pattern, why in (
        (r"permissions", "changes what Claude Code may do without asking"),
        (r"sandbox", "changes what commands are confined to"),
        (r"env", "sets the environment of every session, which can run commands"),
        (r"(cleanupPeriodDays|desktopSessionCleanupPeriodDays)", "decides when transcripts are deleted"),
        (r".*mcp.*", "decides which MCP servers run"),
        (r".*(plugin|marketplace).*", "decides which plugins run"),
        (
            r".*model.*|agent|effort.*|fastMode.*|alwaysThinking.*",
            "changes which model or agent answers, or its cost",
        ),
        (r"autoUpdates.*", "decides which version of the client runs"),
        (r"remote.*|crossSession.*|isolatePeer.*|daemon.*", "decides who else can reach this machine"),
        (
            r"outputStyle|language|claudeMd.*|companyAnnouncements|attribution.*",
            "changes what is said, or told",
        ),
        (r".*hook.*|disable.*|enable.*|allow.*", "switches something on or off that may protect you"),
    )
)


_GRANTING = frozenset({"allow", "additionalDirectories", "blockReadsExemptPaths"})
_RULES = _GRANTING | {"deny", "ask"}
"""Lists of rules in `permissions`; what is in the first ones grants, what is in the others withholds."""

_SECRET_WORDS = (
    "auth",
    "bearer",
    "cookie",
    "credential",
    "dsn",
    "headers",
    "jwt",
    "key",
    "passphrase",
    "passw",
    "private",
    "pwd",
    "secret",
    "session",
    "token",
    "webhook",
)
"""Parts of the names of variables that may hold something to log in with."""

_PASSWORD_NAME = re.compile(
    r".*(apikey|accesskey|privatekey|secretkey|token|secret|passwo?r?d|passphrase|credentials?"
    r"|authorization|cookie)"
)
_REFERENCE = re.compile(r"(?:\w+ )?\$(?:\w+|\{\w+\})")
_LOGIN = re.compile(
    r"://[^/\s:@\"']*:(?![$<{*])[^/\s@\"']+@"  # a password in a URL
    r"|authorization\W{1,4}(?:(?:basic|bearer|token)\s+)?(?![$<{*])[\w.~+/=-]{8}"
    r"|(?:passwo?r?d|passphrase|token|secret|api_?key|access_?key)['\"]?[=:]['\"]?(?![$<{*])[^\s$'\")]{4}",
    re.IGNORECASE,
)
"""What is taken for a secret here though it may be none. A rule of `permissions` can be a whole command."""

SHORTEST_SECRET = 8
"""Characters of what is searched."""

MAX_COMMAND = 120
"""Characters of a command that are shown."""


def stays_home(key: Key, value: Json) -> bool:
    """Whether a value belongs to one machine because of where it stands."""
    return ".".join(key).lower() in _STAYING or (
        len(key) == 2 and key[0] == "env" and _tells_of_secret(key[1], value)
    )


def is_unit(key: Key) -> bool:
    """Whether its value, be it an object or a list, is taken whole."""
    return any(
        len(unit) == len(key) and all(part in ("*", name) for part, name in zip(unit, key, strict=True))
        for unit in _UNITS
    )


def is_harmless(key: Key, value: Json) -> bool:
    """Whether nothing can come of the value but another look."""
    return len(key) == 1 and key[0] in _HARMLESS and _HARMLESS[key[0]](value)


def why_asked(key: Key, value: Json, *, added: bool) -> str:
    """Why a person is asked about a value that is not harmless, and comes or goes there."""
    if command := _command_in(value):
        return f"{'runs' if added else 'no longer runs'} a command: {command}"
    if key[0] == "hooks":
        return "adds a hook, which sees what happens in a session" if added else "takes a hook away"
    if key[0] == "permissions" and key[-1] in _RULES:
        what = "widens" if added == (key[-1] in _GRANTING) else "narrows"
        rule = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        return _shortened(f"{what} a permission: {'' if added else 'no longer '}{key[-1]} {rule}")
    for pattern, why in _WHY:
        if pattern.fullmatch(key[0]) and not (key[0] in _HARMLESS and len(key) > 1):
            return why
    return "not a value that this setting has" if key[0] in _HARMLESS else "an unknown setting"


def own_hooks(value: Json) -> tuple[int, int]:
    """How many commands of ours an element of a list holds, and how many of others."""
    if isinstance(value, dict) and "command" in value:
        return (1, 0) if is_own(value["command"]) else (0, 1)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    counts = [own_hooks(one) for one in inner]
    return sum(own for own, _ in counts), sum(others for _, others in counts)


def holds_secret(name: str, value: Json) -> bool:
    """Whether a value looks as if somebody could log in with it, or with something in it."""
    if isinstance(value, dict):
        return any(
            holds_secret(inner, part)
            or holds_secret("", inner)
            or (name in ("env", "headers") and _is_secret_entry(inner, part))
            for inner, part in value.items()
        )
    if isinstance(value, list):
        return any(holds_secret(name, part) for part in value)
    if not isinstance(value, str):
        return False
    if _names_password(name) and not _is_reference(value):
        return True
    return len(value) >= SHORTEST_SECRET and (
        _LOGIN.search(value) is not None or bool(find_secrets(json.dumps({name: value}).encode("ascii"), b""))
    )


def _is_secret_entry(name: str, value: Json) -> bool:
    return _tells_of_secret(name, value) and not (isinstance(value, str) and _is_reference(value))


def _tells_of_secret(name: str, value: Json) -> bool:
    """Whether the name of a variable or header tells that its value is nobody else's business."""
    parts = re.split(r"[^a-z0-9]+", name.lower())
    squeezed = "".join(parts).replace("author", "")
    if str(value).isdecimal():
        squeezed = squeezed.replace("tokens", "")  # how many
    return "pat" in parts or "authoriz" in name.lower() or any(word in squeezed for word in _SECRET_WORDS)


def _names_password(name: str) -> bool:
    return _PASSWORD_NAME.fullmatch(re.sub(r"[^a-z0-9]", "", name.lower())) is not None


def _is_reference(value: str) -> bool:
    """Whether it names a variable instead of holding its value."""
    return _REFERENCE.fullmatch(value) is not None


def _command_in(value: Json) -> str:
    """The first command that stands in a value, shortened; empty where there is none."""
    if isinstance(value, list):
        return next(filter(None, map(_command_in, value)), "")
    if not isinstance(value, dict):
        return ""
    command = value.get("command")
    if isinstance(command, str) and command:
        args = value.get("args")
        words = [command, *(part for part in args if isinstance(part, str))] if isinstance(args, list) else []
        return _shortened(" ".join(words or [command]))
    return next(filter(None, map(_command_in, value.values())), "")


def _shortened(text: str) -> str:
    plain = "".join(char if char.isprintable() else " " for char in text)
    return plain if len(plain) <= MAX_COMMAND else plain[: MAX_COMMAND - 1] + "…"
