"""Keys and tokens of this machine: from its environment, else from its keyring, and from nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from convergenced.knowledge.provider import ProviderError

SERVICE = "convergence"
"""Under which name the keyring has what is ours."""

Keyring = Callable[[str, str], str | None]
"""A secret by service and name; None where there is none."""


def find_token(names: Sequence[str], account: str, environ: Mapping[str, str], keyring: Keyring) -> str:
    """The first of these variables that is set, else what the keyring has; empty for none.

    Raises `ProviderError` for what cannot stand in a header.
    """
    given = next((name for name in names if environ.get(name, "").strip()), None)
    found = environ[given].strip() if given else (keyring(SERVICE, account) or "").strip()
    if found and not (found.isascii() and found.isprintable() and " " not in found):
        where = given or f"the keyring under {SERVICE} {account}"
        raise ProviderError(f"the token in {where} holds characters that no token has", "set it anew")
    return found


def read_keyring(service: str, name: str) -> str | None:
    """A secret of this machine's keyring; None also where there is no keyring, or none that answers."""
    try:
        import keyring  # noqa: PLC0415 (an optional package, and slow)

        return keyring.get_password(service, name)
    except Exception:  # noqa: BLE001 (behind it is anybody's program)
        return None
