"""The host's .env: written so that Compose reads back exactly what was meant, and read back."""

from __future__ import annotations

import re
from io import StringIO
from typing import TYPE_CHECKING

from dotenv.parser import Binding, parse_stream

if TYPE_CHECKING:
    from stack.settings import Settings

HEADER = """\
# What differs from the defaults of Dify {version}; all else stands in docker-compose.yaml.
# Written by pyinfra. Secrets made for this host live here{place}.
"""
PLACES = {"host": " and nowhere else: back this file up", "file": ", and where group_data says"}
IN_DOUBLE_QUOTES = re.compile(r"\s*(?:export\s+)?[^=]+?\s*=\s*\"")
PLAIN = re.compile(r"[A-Za-z0-9_./:@,+=%-]+")


def write(settings: Settings) -> str:
    """The text of .env: one NAME=value a line, in the order of the release."""
    order = {name: at for at, name in enumerate(settings.release.settings)}
    names = sorted(settings.values, key=lambda name: (order.get(name, len(order)), name))
    lines = [f"{name}={quote(settings.values[name])}\n" for name in names]
    place = PLACES[settings.knobs.secrets]
    return HEADER.format(version=settings.release.version, place=place) + "".join(lines)


def quote(value: str) -> str:
    """A value as Compose reads it: plain, else in single quotes, else in double quotes with escapes."""
    if PLAIN.fullmatch(value):
        return value
    if not set("'\\\n") & set(value):
        return f"'{value}'"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$").replace("\n", "\\n")
    return f'"{escaped}"'


def read(text: str) -> dict[str, str]:
    """What a .env of ours says; names without a value are left out."""
    bindings = parse_stream(StringIO(text))
    return {binding.key: value for binding in bindings if binding.key and (value := value_of(binding))}


def value_of(binding: Binding) -> str | None:
    r"""The value of one parsed line as Compose means it: python-dotenv leaves ``\$`` in double quotes as it is."""
    if binding.value and IN_DOUBLE_QUOTES.match(binding.original.string):
        return binding.value.replace("\\$", "$")
    return binding.value


def line_of(binding: Binding) -> int:
    """The line that a parsed line begins in; python-dotenv counts from the empty lines before it."""
    text = binding.original.string
    return binding.original.line + text[: len(text) - len(text.lstrip())].count("\n")
