"""Which settings are secret, and how one is made."""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import quote as urlquote
from urllib.parse import unquote

from jinja2.utils import htmlsafe_json_dumps

from stack.choices import DATABASES, LISTS, SANDBOX_KEYS, VECTOR_STORES
from stack.dotenv import quote
from stack.errors import InvalidError
from stack.release import Release

# Letters and digits only: these values go through .env files, URLs, shells and SQL (Dify's own threads #23035, #23163).
ALPHABET = string.ascii_letters + string.digits


@dataclass(frozen=True)
class Secret:
    """How one secret is made, and whether it can be made anew.

    length: in characters; INIT_PASSWORD's form takes 30 at most, a MinIO access key has 20, Oracle takes 30 at most.
    strong: its server refuses a password without a capital, a small letter, a digit and one of -_ and the like.
    bound: why another value than the host's would lock Dify out of its own data; empty when it would not.
    least: the bytes that its own server or the image's script asks for, or would not start; 0 where nothing is known for sure.
    sign: a pattern that it must have too, beside a capital, a small letter and a digit; empty where it need not.
    """

    length: int
    strong: bool = False
    bound: str = ""
    least: int = 0
    sign: str = ""

    def lacks(self, value: str) -> str:
        """What its own server asks of a value that it would not take; empty for one that it takes."""
        kinds = ("[A-Z]", "[a-z]", "[0-9]", self.sign) if self.sign else ()
        if len(value.encode()) >= self.least and all(re.search(kind, value) for kind in kinds):
            return ""
        more = f", a capital, a small letter, a digit and {_SIGNS[self.sign]}" if self.sign else ""
        return f"at least {self.least} characters{more}"


# As OpenSearch's DEFAULT_PASSWORD_REGEX and docker_verify_minimum_env of openGauss's image have it.
_ANY_SIGN, _GAUSS_SIGN = "[^A-Za-z0-9]", "[#?!@$%^&*-]"
_SIGNS = {_ANY_SIGN: "another sign", _GAUSS_SIGN: "one of #?!@$%^&*-"}
_DATA = "its data was made with another password"

# Made once per deployment when what is chosen needs them and the operator gives none, then kept in the host's .env.
# Which choice needs which, and which settings must be the same, stands in stack/choices.py.
GENERATED = {
    "SECRET_KEY": Secret(48, bound="stored credentials are encrypted with what is derived from the old one"),
    "INIT_PASSWORD": Secret(24),
    "DB_PASSWORD": Secret(32, bound="the database was made with another password"),
    "REDIS_PASSWORD": Secret(32),
    "SANDBOX_API_KEY": Secret(40),
    "PLUGIN_DAEMON_KEY": Secret(48),
    "PLUGIN_DIFY_INNER_API_KEY": Secret(48),
    "WEAVIATE_API_KEY": Secret(40),
    "QDRANT_API_KEY": Secret(40),
    "MILVUS_PASSWORD": Secret(32, bound=_DATA),
    "MINIO_ACCESS_KEY": Secret(20, least=3),
    "MINIO_SECRET_KEY": Secret(40, least=8),
    "CHROMA_AUTH_CREDENTIALS": Secret(40),
    "PGVECTOR_PASSWORD": Secret(32, bound=_DATA),
    "PGVECTO_RS_PASSWORD": Secret(32, bound=_DATA),
    "OPENSEARCH_PASSWORD": Secret(24, strong=True, bound=_DATA, least=8, sign=_ANY_SIGN),
    "ELASTICSEARCH_PASSWORD": Secret(32, bound=_DATA),
    "KIBANA_PASSWORD": Secret(32),
    "KIBANA_ENCRYPTION_KEY": Secret(48),
    "ORACLE_PASSWORD": Secret(24, strong=True, bound=_DATA),
    "ORACLE_PWD": Secret(24, strong=True, bound=_DATA),
    "OCEANBASE_VECTOR_PASSWORD": Secret(32, bound=_DATA),
    "COUCHBASE_PASSWORD": Secret(32, bound=_DATA, least=6),
    "VASTBASE_PASSWORD": Secret(24, strong=True, bound=_DATA),
    "IRIS_PASSWORD": Secret(24, strong=True),
    "OPENGAUSS_PASSWORD": Secret(24, strong=True, bound=_DATA, least=8, sign=_GAUSS_SIGN),
    "MYSCALE_PASSWORD": Secret(32),
    "MATRIXONE_PASSWORD": Secret(24, bound=_DATA),
}
INIT_PASSWORD_LIMIT = 30
# What travels in an HTTP header: ASCII, and no space at an end, which servers cut off (RFC 9110, 5.5).
IN_A_HEADER = ("_API_KEY", "_APIKEY_ALLOWED_KEYS", "PLUGIN_DAEMON_KEY")
SENDABLE = re.compile(r"[!-~]([ -~]*[!-~])?")
SHORTEST_MASKED = 6
# From this length on a published secret is no ordinary word.
LONG = 12
# Who logs in rather than with what: a bucket's key may well be called dify.
IDENTITIES = ("_ACCESS_KEY", "_KEY_ID", "_SECRET_ID", "_PUBLIC_KEY")
PASSWORD_IN_URL = re.compile(r"://[^:/@\s]*:([^@\s]*)@")

# {secret that what is stored depends on: why}, under both of its names where it has two.
BOUND_TO_DATA = {
    **{name: secret.bound for name, secret in GENERATED.items() if secret.bound},
    **{
        other: GENERATED[one].bound
        for choice in (*DATABASES.values(), *VECTOR_STORES.values())
        for one, other in choice.same
        if one in GENERATED and GENERATED[one].bound
    },
}

# Both names of each.
MADE = {
    *GENERATED,
    SANDBOX_KEYS[1],
    *(
        other
        for choice in (*DATABASES.values(), *VECTOR_STORES.values())
        for one, other in choice.same
        if one in GENERATED
    ),
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
    return name.endswith(SUFFIXES) and not name.endswith("_PUBLIC_KEYS")


def make(name: str) -> str:
    """A new random value for one of GENERATED."""
    secret = GENERATED[name]
    if not secret.strong:
        return _random(secret.length)
    # A letter first, which Oracle wants; then one of each kind for sure.
    kinds = (string.ascii_uppercase, string.ascii_lowercase, "-", string.digits)
    return "".join(map(secrets.choice, kinds)) + _random(secret.length - len(kinds))


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


def refuse_published(release: Release, given: Mapping[str, str], where: str = "", every: bool = False) -> None:
    """Raise InvalidError for each secret that has a value which everybody can read in the release.

    given: the settings to look at.
    where: what to say of the place they come from.
    every: whether the defaults of other settings count too, ordinary words among them, and passwords in URLs.
    """
    known = published(release)
    lines = [
        f"{name}{where}: this is a published default of Dify {release.version}, which everybody knows; give it a value "
        f"of your own{' or leave it out, then one is made' if name in MADE else ''}"
        for name, value in given.items()
        if value and (_is_published(name, value, known) or (every and _is_word(name, value, known)))
    ]
    if lines:
        raise InvalidError(lines)


def published_words(release: Release, kept: Mapping[str, str], env_file: str) -> list[str]:
    """A line for each secret of a host that is the default of another setting: it runs, so nothing is refused.

    kept: the secrets that the host goes on with.
    """
    known = published(release)
    return [
        f"{name} in {env_file} on the host: this is a published default of Dify {release.version}, which everybody knows; "
        f"change it: pyinfra inventory.py tasks.secrets.rotate name={name}"
        for name, value in kept.items()
        if value and _is_word(name, value, known)
    ]


def _is_published(name: str, value: str, known: Mapping[str, str]) -> bool:
    # Long ones are looked for inside of others too: in a URL, in a list of keys.
    long = {word for word in known.values() if len(word) >= LONG}
    return is_secret(name) and (value == known.get(name) or any(word in value for word in long))


def _is_word(name: str, value: str, known: Mapping[str, str]) -> bool:
    values = {unquote(password) for password in PASSWORD_IN_URL.findall(value)}
    if is_secret(name) and not name.endswith(IDENTITIES):
        values |= set(value.split(",") if name in LISTS else [value])
    return not values.isdisjoint(known.values())


def refuse_long_init_password(given: Mapping[str, str]) -> None:
    """Raise InvalidError for an INIT_PASSWORD that Dify's own form would never take."""
    if len(given.get("INIT_PASSWORD", "")) > INIT_PASSWORD_LIMIT:
        raise InvalidError(f"INIT_PASSWORD: longer than {INIT_PASSWORD_LIMIT} characters, which Dify's form refuses")


def refuse_unsendable(given: Mapping[str, str]) -> None:
    """Raise InvalidError for each key that its server would never see as it was given."""
    lines = [
        f"{name}: travels in an HTTP header, so it must be ASCII without a space at either end; give it another value"
        for name, value in given.items()
        if name.endswith(IN_A_HEADER) and value and not SENDABLE.fullmatch(value)
    ]
    if "," in given.get("WEAVIATE_API_KEY", ""):
        lines.append(
            "WEAVIATE_API_KEY: must have no comma, because Weaviate's own setting of it is a list; leave it out"
        )
    if lines:
        raise InvalidError(lines)


def refuse_rotation(given: Mapping[str, str], kept: Mapping[str, str], env_file: str) -> None:
    """Raise InvalidError when the operator's value of a secret that data hangs on is not the one the host runs with."""
    lines = [
        f"{name}: differs from the one in {env_file} on the host, and {why}; take it out of your settings to keep the "
        f"host's, or change both sides: pyinfra inventory.py tasks.secrets.rotate name={name}"
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
