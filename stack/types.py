"""What each Dify setting may be: declared in stack/releases/types.yaml, checked by pydantic.

A boolean is `true` or `false` in any case and nothing else: Dify's api would also take 1, yes and on, but its web, the plugin
daemon, nginx's templates and the databases each take another set, and only these two words mean the same to all of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from ipaddress import IPv6Address
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit
from zoneinfo import available_timezones

import yaml
from dateutil.zoneinfo import get_zonefile_instance  # type: ignore[import-untyped]
from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError

from stack.choices import DATABASES, VECTOR_STORES

DECLARED = Path(__file__).parent / "releases" / "types.yaml"
CHOICES = {"DB_TYPE": DATABASES, "VECTOR_STORE": VECTOR_STORES}

# An IPv4 address or a name is made of the same characters; an IPv6 address may stand in brackets.
_HOST = r"(?:\w(?:[\w.-]*\w)?\.?|\[[0-9A-Fa-f:.]+\])"
_HOST_ALONE = rf"(?:{_HOST}|(?:[0-9A-Fa-f]*:){{2,}}[0-9A-Fa-f.]*)"
# What Compose binds a port to must be an address; an IPv6 address in brackets.
_IP = r"(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|\[[0-9A-Fa-f:.]+\])"
_PORT = r"(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_BEHIND_SCHEME = rf"://(?:[^\s/@]*@)?{_HOST}(?::{_PORT})?(?:[/?#]\S*)?"
_ADDRESS = rf"(?:[a-z][a-z0-9+.-]*://)?{_HOST}(?::{_PORT})?(?:/\S*)?"
_WEB = ("http", "https")

# What Dify hands to flask-cors, which takes an item with one of these signs in it for a regular expression.
_ORIGIN = r"(?:https?://[^,\s]+|[^,\s]*[*\\?$^\[\]()][^,\s]*)"
# How each server writes sizes and durations: (pattern, what to say). Sources: "Parameter Names and Values" of PostgreSQL, "Using
# Options to Set Program Variables" of MySQL, "Configuration file measurement units" of nginx, java(1), OceanBase's "capacity".
_READERS = {
    "size postgresql": (r"[0-9]+(\.[0-9]+)?(B|kB|MB|GB|TB)?", "a size with kB, MB, GB or TB, as in 128MB"),
    "size mysql": (r"[0-9]+[KMGTPEkmgtpe]?", "a size with K, M or G, as in 512M"),
    "size nginx": (r"[0-9]+[kKmMgG]?", "a size with k, m or g, as in 100M"),
    "size java": (r"[0-9]{1,18}[kKmMgGtT]?", "a size with k, m or g, as in 512m"),
    "size oceanbase": (r"[0-9]{1,9}[KkMmGgTt][Bb]?", "a size with K, M or G, as in 6G"),
    "duration postgresql": (r"[0-9]+(us|ms|s|min|h|d)?", "a duration with ms, s, min, h or d; milliseconds without"),
    "duration nginx": (
        r"([0-9]+(ms|[smhdwMy])?)( [0-9]+(ms|[smhdwMy])?)*",
        "a duration with ms, s, m, h or d; seconds without",
    ),
}
_PATTERNS = {
    "address": (_ADDRESS, "a host with or without scheme and port, as in db.example.com:5432"),
    "address list": (rf"{_HOST}(:{_PORT})?(,{_HOST}(:{_PORT})?)*", "host:port, several with commas and without spaces"),
    "host": (_HOST_ALONE, "a host name or IP address alone, without scheme, port and path"),
    "port": (_PORT, "a port from 1 to 65535"),
    "published": (rf"({_IP}:)?{_PORT}", "a port from 1 to 65535, or IP address:port"),
    "email": (r"[^@\s]+@[^@\s]+\.[^@\s]+", "an e-mail address"),
    "file": (r"[A-Za-z0-9._-]*[A-Za-z0-9_-]", "the name of a file, without a folder"),
    "path": (r"[^\x00-\x1f]*[^\x00-\x1f\s][^\x00-\x1f]*", "a path"),
    "list": (r"[^,\x00]*[^,\s\x00][^,\x00]*(,[^,\x00]*[^,\s\x00][^,\x00]*)*", "words with commas between, none empty"),
    "origins": (
        rf"{_ORIGIN}(,{_ORIGIN})*",
        "* or http(s)://host, several with commas and without spaces",
    ),
}

_WITH_HOSTS = ("address", "address list", "host", "published")

# What is allowed, for people; what checks it; the words when there are only some.
Parsed = tuple[str, TypeAdapter[Any], tuple[str, ...]]


@dataclass(frozen=True)
class Type:
    """What a setting may be.

    group: where it stands in docs/settings.md.
    words: as it is declared.
    allowed: what may be given, for people.
    choices: the words that may be given when there are only some.
    """

    group: str
    words: str
    allowed: str
    choices: tuple[str, ...] = ()
    adapter: TypeAdapter[Any] = field(default_factory=lambda: TypeAdapter(str), repr=False, compare=False)

    @property
    def kind(self) -> str:
        return self.words.split(" ")[0]

    def accepts(self, value: str) -> bool:
        """Whether the value is one; an empty value is none."""
        try:
            self.adapter.validate_python(value)
        except ValidationError:
            return False
        return True

    def normal(self, value: str, default: str) -> str:
        """How a value is written to the host: booleans as the release writes them, else in small letters."""
        if self.kind != "boolean" or not self.accepts(value):
            return value
        return default if value.lower() == default.lower() else value.lower()


@cache
def declared() -> dict[str, Type]:
    """{setting: type} of all releases, in the order of the file."""
    groups = yaml.load(DECLARED.read_text(), yaml.CSafeLoader)
    return {name: _type(group, name, words) for group, those in groups.items() for name, words in those.items()}


def of(name: str) -> Type:
    """The type of a setting; text for one that nobody has declared yet, such as of a release that was just imported."""
    # Every service has its EXPOSE_..._PORT in middleware mode.
    return declared().get(name) or _type("Others", name, "port" if re.fullmatch("EXPOSE_.*_PORT", name) else "text")


def _type(group: str, name: str, words: str) -> Type:
    allowed, adapter, choices = _parsed(f"{words} {' '.join(CHOICES[name])}" if name in CHOICES else words)
    return Type(group, words, allowed, choices, adapter)


@cache
def _parsed(words: str) -> Parsed:
    kind, _, rest = words.partition(" ")
    if words in _READERS or words in _PATTERNS:
        pattern, allowed = {**_READERS, **_PATTERNS}[words]
        return allowed, _matching(pattern, hosts=words in _WITH_HOSTS), ()
    if kind not in _KINDS:
        raise ValueError(f"{DECLARED.name}: no type {words!r}")
    return _KINDS[kind](rest)


def _boolean(rest: str) -> Parsed:
    words = ("true", "false", *rest.split()[1:])
    return " or ".join(words), _matching(f"(?i:{'|'.join(words)})"), words


def _choice(rest: str) -> Parsed:
    words = tuple(rest.split())
    return f"one of {', '.join(words)}", _matching("|".join(map(re.escape, words))), words


def _several(rest: str) -> Parsed:
    one = "|".join(map(re.escape, rest.split()))
    return f"some of {', '.join(rest.split())}, with spaces between", _matching(f"({one})( ({one}))*"), ()


def _url(rest: str) -> Parsed:
    schemes, _, part = rest.partition("containing ")
    names = schemes.split() or list(_WEB)
    allowed = f"a URL that begins with {' or '.join(f'{name}://' for name in names)}"
    adapter = _matching(f"({'|'.join(names)}){_BEHIND_SCHEME}", part, hosts=True)
    return (f"{allowed} and has {part} in it" if part else allowed), adapter, ()


def _number(of_type: type, pattern: str, noun: str) -> Callable[[str], Parsed]:
    def parsed(rest: str) -> Parsed:
        span, unit, word = re.fullmatch(r"(\S*\.\.\S*)? ?((?!or )\S*)? ?(?:or (\S+))?", rest).groups()  # type: ignore[union-attr]
        least, _, most = (span or "..").partition("..")
        limits = {"gt" if least.endswith("<") else "ge": of_type(least.rstrip("<"))} if least else {}
        limits |= {"le": of_type(most)} if most else {}
        plain = BeforeValidator(lambda value: _plain(value, pattern))
        kind: Any = Annotated[of_type, plain, Field(**limits)]
        other: Any = Annotated[str, AfterValidator(lambda value: _plain(value, word))]
        adapter = TypeAdapter(kind | other if word else kind)
        said = f"{noun}{_span(least, most)}{f' ({_UNITS.get(unit, unit)})' if unit else ''}{f', or {word}' if word else ''}"
        return said, adapter, ()

    return parsed


_UNITS = {"s": "seconds", "ms": "milliseconds", "min": "minutes", "h": "hours"}


def _plain(value: Any, pattern: str) -> Any:
    """Only what every reader takes: Python would also read 1_000, +5 and spaces."""
    if not re.fullmatch(pattern, value):
        raise ValueError("no plain number")
    return value


def _span(least: str, most: str) -> str:
    if least and most:
        return f" from {least} to {most}"
    if most:
        return f" of at most {most}"
    if least.endswith("<"):
        return f" above {least.rstrip('<')}"
    return f" of at least {least}" if least else ""


@cache
def zones() -> frozenset[str]:
    """The names of time zones in small letters. dateutil has old ones too, which some systems leave out."""
    return frozenset(name.lower() for name in (*available_timezones(), *get_zonefile_instance().zones))


def _zone(_: str) -> Parsed:
    def known(value: str) -> str:
        if value.lower() not in zones():
            raise ValueError("no zone")
        return value

    return "a time zone, as Europe/Berlin or UTC", TypeAdapter(Annotated[str, AfterValidator(known)]), ()


def _json(_: str) -> Parsed:
    return "JSON", TypeAdapter(Annotated[str, AfterValidator(json.loads)]), ()


def _text(_: str) -> Parsed:
    return "text", _matching(r"[^\x00]+"), ()


def _secret(_: str) -> Parsed:
    return "text, secret", _matching(r"[^\x00]+"), ()


def _matching(pattern: str, part: str = "", hosts: bool = False) -> TypeAdapter[Any]:
    # Python's own regular expressions: the schemes, ports and words are many, but each is short.
    def whole(value: str) -> str:
        if not re.fullmatch(pattern, value) or part not in value:
            raise ValueError("no match")
        return _with_hosts(value) if hosts else value

    return TypeAdapter(Annotated[str, AfterValidator(whole)])


def _with_hosts(value: str) -> str:
    """The same; raises ValueError where what stands in brackets is no IPv6 address, which Python's own reading ends at."""
    for place in value.split(","):
        host = urlsplit(place if "://" in place else f"//{place}").netloc.rpartition("@")[2]
        if host.startswith("["):
            IPv6Address(host[1:].partition("]")[0])
    return value


_KINDS: dict[str, Callable[[str], Parsed]] = {
    "boolean": _boolean,
    "choice": _choice,
    "words": _several,
    "url": _url,
    "integer": _number(int, r"-?[0-9]+", "a whole number"),
    "number": _number(float, r"-?[0-9]+(\.[0-9]*)?", "a number"),
    "json": _json,
    "timezone": _zone,
    "text": _text,
    "secret": _secret,
}
