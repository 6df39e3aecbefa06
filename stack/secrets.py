"""Which settings are secret, and how one is made."""

from __future__ import annotations

import secrets
import string
from collections.abc import Iterable, Mapping

from stack.errors import InvalidError
from stack.release import Release

# Letters and digits only: these values go through .env files, URLs, shells and SQL (Dify's own threads #23035, #23163).
ALPHABET = string.ascii_letters + string.digits

# Made once per deployment when the operator gives none, then kept in the host's .env. name: length in characters.
# INIT_PASSWORD: Dify's form takes at most 30 (files.md of the release).
GENERATED = {
    "SECRET_KEY": 48,
    "INIT_PASSWORD": 24,
    "DB_PASSWORD": 32,
    "REDIS_PASSWORD": 32,
    "SANDBOX_API_KEY": 40,
    "WEAVIATE_API_KEY": 40,
    "PLUGIN_DAEMON_KEY": 48,
    "PLUGIN_DIFY_INNER_API_KEY": 48,
}

# Secrets that what is stored depends on: another value than the host's would lock Dify out of its own data.
BOUND_TO_DATA = {
    "DB_PASSWORD": "the database was made with another password",
    "SECRET_KEY": "stored credentials are encrypted with what is derived from the old one",
}

SUFFIXES = (
    "PASSWORD",
    "_KEY",
    "_KEYS",
    "_SECRET",
    "_TOKEN",
    "_SECRET_ID",
    "_KEY_ID",
    "CREDENTIALS",
    "CONNECTION_STRING",
    "_DSN",
    "_BASE64",
    "CELERY_BROKER_URL",
)


def is_secret(name: str) -> bool:
    """Whether a setting's value must not be shown; goes by how Dify names its settings."""
    return name.endswith(SUFFIXES)


def make(name: str) -> str:
    """A new random value for one of GENERATED."""
    return "".join(secrets.choice(ALPHABET) for _ in range(GENERATED[name]))


def placeholder(name: str) -> str:
    """A stable stand-in for a value that only the host knows, for renderings that are looked at."""
    return f"placeholder-of-{name.lower().replace('_', '-')}"


def refuse_published(release: Release, given: Mapping[str, str]) -> None:
    """Raise InvalidError for each secret that was set to the value everybody can read in the release."""
    lines = [
        f"{name}: this is the published default of Dify {release.version}, which everybody knows; give it a value of "
        "your own or leave it out, then one is made"
        for name, value in given.items()
        if value and is_secret(name) and value == release.default(name)
    ]
    if lines:
        raise InvalidError(lines)


def refuse_rotation(given: Mapping[str, str], kept: Mapping[str, str], env_file: str) -> None:
    """Raise InvalidError when the operator's value of a secret that data hangs on is not the one the host runs with."""
    lines = [
        f"{name}: differs from the one in {env_file} on the host, and {why}; take it out of your settings to keep the "
        "host's, or change both sides by hand first"
        for name, why in BOUND_TO_DATA.items()
        if name in given and name in kept and given[name] != kept[name]
    ]
    if lines:
        raise InvalidError(lines)


def mask(text: str, values: Iterable[str]) -> str:
    """The text with every given secret replaced; values of under 6 characters would blot out ordinary words."""
    for value in sorted({v for v in values if len(v) >= 6}, key=len, reverse=True):
        text = text.replace(value, "[REDACTED]")
    return text
