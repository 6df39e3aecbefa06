"""The host's .env: written so that Compose reads back exactly what was meant, and read back."""

from __future__ import annotations

import re
from io import StringIO
from typing import TYPE_CHECKING

from dotenv import dotenv_values

if TYPE_CHECKING:
    from stack.settings import Settings

HEADER = """\
# What differs from the defaults of Dify {version}; all else stands in docker-compose.yaml.
# Written by pyinfra. Secrets made for this host live here and nowhere else: back this file up.
"""
PLAIN = re.compile(r"[A-Za-z0-9_./:@,+=%-]+")


def write(settings: Settings) -> str:
    """The text of .env: one NAME=value a line, in the order of the release."""
    order = {name: at for at, name in enumerate(settings.release.settings)}
    names = sorted(settings.values, key=lambda name: (order.get(name, len(order)), name))
    lines = [f"{name}={quote(settings.values[name])}\n" for name in names]
    return HEADER.format(version=settings.release.version) + "".join(lines)


def quote(value: str) -> str:
    """A value as Compose and python-dotenv both read it: plain, else in single quotes, else in double quotes."""
    if PLAIN.fullmatch(value):
        return value
    if "'" not in value and "\\" not in value and "\n" not in value:
        return f"'{value}'"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$").replace("\n", "\\n")
    return f'"{escaped}"'


def read(text: str) -> dict[str, str]:
    """What a .env of ours says; names without a value are left out."""
    return {name: value for name, value in dotenv_values(stream=StringIO(text), interpolate=False).items() if value}
