"""Which settings are secret, and how one is made."""

from __future__ import annotations

import json
import secrets
import string
from collections.abc import Iterable, Mapping
from urllib.parse import quote as urlquote

from jinja2.utils import htmlsafe_json_dumps

from stack.choices import DATABASES, VECTOR_STORES
from stack.dotenv import quote
from stack.errors import InvalidError
from stack.release import Release

# Letters and digits only: these values go through .env files, URLs, shells and SQL (Dify's own threads #23035, #23163).
ALPHABET = string.ascii_letters + string.digits

# Made once per deployment when it needs them and the operator gives none, then kept in the host's .env.
# name: length in characters.
GENERATED = {
    "SECRET_KEY": 48,
    "INIT_PASSWORD": 24,
    "DB_PASSWORD": 32,
    "REDIS_PASSWORD": 32,
    "SANDBOX_API_KEY": 40,
    "PLUGIN_DAEMON_KEY": 48,
    "PLUGIN_DIFY_INNER_API_KEY": 48,
    "WEAVIATE_API_KEY": 40,
    "QDRANT_API_KEY": 40,
    "MILVUS_PASSWORD": 32,
    "MINIO_ACCESS_KEY": 20,
    "MINIO_SECRET_KEY": 40,
    "CHROMA_AUTH_CREDENTIALS": 40,
    "PGVECTOR_PASSWORD": 32,
    "PGVECTO_RS_PASSWORD": 32,
    "OPENSEARCH_PASSWORD": 24,
    "ELASTICSEARCH_PASSWORD": 32,
    "KIBANA_PASSWORD": 32,
    "KIBANA_ENCRYPTION_KEY": 48,
    "ORACLE_PASSWORD": 24,
    "ORACLE_PWD": 24,
    "OCEANBASE_VECTOR_PASSWORD": 32,
    "COUCHBASE_PASSWORD": 32,
    "VASTBASE_PASSWORD": 24,
    "IRIS_PASSWORD": 24,
    "OPENGAUSS_PASSWORD": 24,
    "MYSCALE_PASSWORD": 32,
    "MATRIXONE_PASSWORD": 24,
}
# Their servers take only passwords with a capital, a small letter, a digit and one of -_ and the like in them.
STRONG = {"OPENSEARCH_PASSWORD", "ORACLE_PASSWORD", "ORACLE_PWD", "VASTBASE_PASSWORD", "IRIS_PASSWORD", "OPENGAUSS_PASSWORD"}

INIT_PASSWORD_LIMIT = 30
SHORTEST_MASKED = 6
# From this length on a published secret is no ordinary word.
LONG = 12

# Secrets that what is stored depends on: another value than the host's would lock Dify out of its own data.
BOUND_TO_DATA = {
    **{
        name: "its data was made with another password"
        for choice in (*DATABASES.values(), *VECTOR_STORES.values())
        for name in choice.bound
    },
    "DB_PASSWORD": "the database was made with another password",
    "SECRET_KEY": "stored credentials are encrypted with what is derived from the old one",
}

SUFFIXES = (
    "PASSWORD",
    "_PWD",
    "_KEY",
    "_KEYS",
    "_SECRET",
    "_TOKEN",
    "_SECRET_ID",
    "_KEY_ID",
    "CREDENTIALS",
    "STORAGE_CONNECTION_STRING",
    "SENTRY_DSN",
    "_BASE64",
    "CELERY_BROKER_URL",
)


def is_secret(name: str) -> bool:
    """Whether a setting's value must not be shown; goes by how Dify names its settings."""
    return name.endswith(SUFFIXES)


def make(name: str) -> str:
    """A new random value for one of GENERATED."""
    if name not in STRONG:
        return _random(GENERATED[name])
    # A letter first, which Oracle wants; the rest of each kind is in it for sure.
    return f"{secrets.choice(string.ascii_uppercase)}{secrets.choice(string.ascii_lowercase)}-{secrets.choice(string.digits)}{_random(GENERATED[name] - 4)}"


def _random(length: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(length))


def published(release: Release) -> dict[str, str]:
    """{secret: the value that everybody can read in the release}, empty ones left out."""
    return {
        setting.name: setting.default
        for setting in release.settings.values()
        if setting.default and is_secret(setting.name)
    }


def placeholder(name: str) -> str:
    """A stable stand-in for a value that only the host knows, for renderings that are looked at."""
    return f"placeholder-of-{name.lower().replace('_', '-')}"


def refuse_published(release: Release, given: Mapping[str, str], where: str = "") -> None:
    """Raise InvalidError for each secret that has a value which everybody can read in the release.

    given: the settings to look at.
    where: what to say of the place they come from.
    """
    known = published(release)
    # Long ones are looked for inside of others too: in a URL, in a list of keys.
    long = {value for value in known.values() if len(value) >= LONG}
    lines = [
        f"{name}{where}: this is a published default of Dify {release.version}, which everybody knows; give it a value "
        "of your own or leave it out, then one is made"
        for name, value in given.items()
        if is_secret(name) and value and (value == known.get(name) or any(default in value for default in long))
    ]
    if lines:
        raise InvalidError(lines)


def refuse_long_init_password(given: Mapping[str, str]) -> None:
    """Raise InvalidError for an INIT_PASSWORD that Dify's own form would never take."""
    if len(given.get("INIT_PASSWORD", "")) > INIT_PASSWORD_LIMIT:
        raise InvalidError(f"INIT_PASSWORD: longer than {INIT_PASSWORD_LIMIT} characters, which Dify's form refuses")


def refuse_rotation(given: Mapping[str, str], kept: Mapping[str, str], env_file: str) -> None:
    """Raise InvalidError when the operator's value of a secret that data hangs on is not the one the host runs with."""
    lines = [
        f"{name}: differs from the one in {env_file} on the host, and {why}; take it out of your settings to keep the "
        "host's, or change both sides by hand first"
        for name, why in BOUND_TO_DATA.items()
        if given.get(name) and kept.get(name) and given[name] != kept[name]
    ]
    if lines:
        raise InvalidError(lines)


def mask(text: str, values: Iterable[str]) -> str:
    """The text with every given secret replaced; those of under SHORTEST_MASKED characters would blot out ordinary words."""
    spelled = {form for value in values if len(value) >= SHORTEST_MASKED for form in spellings(value)}
    for value in sorted(spelled, key=len, reverse=True):
        text = text.replace(value, "[REDACTED]")
    return text


def spellings(value: str) -> set[str]:
    """How a value is written in .env files, JSON, YAML, URLs and templates."""
    in_json = json.dumps(value)[1:-1]
    in_html = htmlsafe_json_dumps(value)[1:-1]
    return {value, quote(value).strip("'\""), in_json, in_html, urlquote(value, safe="")}
