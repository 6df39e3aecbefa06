"""What is wrong with the operator's settings, one by one: names that none has, values that are none."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

import yaml

from stack import release, types
from stack.errors import nearest
from stack.layers import Given, Read, hidden
from stack.release import Release

RENAMES = Path(__file__).parent / "releases" / "renames.yaml"
# A line that was broken in the middle of a secret has no name that looks like one: it is not shown.
LIKE_A_NAME = re.compile(r"[A-Z][A-Z_]{2,40}")


@cache
def renames() -> dict[str, str]:
    """{old name: new name} of settings, also those of releases there is no data for."""
    names: dict[str, str] = yaml.load(RENAMES.read_text(), yaml.CSafeLoader)
    return names


def wrong_names(found: Read, facts: Release, knobs: Collection[str]) -> Iterator[str]:
    """A line for each name that is no setting of the release.

    found: what all layers say. facts: the release. knobs: the names of all knobs, which stand elsewhere.
    """
    for one in found.strange:
        said = strange(one.name, facts, knobs)
        near = nearest(one.name, facts.settings)
        in_python = ".env" not in one.where
        name = one.name if said or near or in_python or LIKE_A_NAME.fullmatch(one.name) else "its name"
        own = "; begin a name of your own with _" if in_python and not near else ""
        yield f"{one.where}: {name} {said or f'is no setting of this Dify release{near}{own}'}"


def strange(name: str, facts: Release, knobs: Collection[str]) -> str:
    """What became of a name that the release does not know; empty when nothing is known of it."""
    now = renames().get(name, "")
    if now in facts.settings:
        return f"is called {now} in Dify {facts.version}; give that one"
    if name.lower() in knobs and name not in facts.settings:
        return f"is a knob, not a setting of Dify: {name.lower()} goes into group_data or the inventory"
    having = [version for version in release.versions() if (now or name) in release.load(version).settings]
    if not having:
        return ""
    known = f"is called {now} and known to" if now else "is known to"
    return f"{known} Dify {' and '.join(having)} only, and dify_version is {facts.version}; take it out"


def wrong_values(found: Read) -> Iterator[tuple[str, str]]:
    """(name, line) for each value that is not of its setting's type, in whatever layer."""
    for name, those in found.given.items():
        for one in those:
            if one.value and not types.of(name).accepts(one.value):
                yield name, _wrong_value(one)


def _wrong_value(one: Given) -> str:
    allowed = types.of(one.name)
    near = "" if hidden(one.name, one.value) else nearest(one.value, allowed.choices)
    # Docker's own file publishes by it; Dify reads it too, and wants a number.
    asks = one.name == "EXPOSE_PLUGIN_DEBUGGING_PORT" and ":" in one.value
    knob = f'; to publish it, give expose = {{"plugin_daemon_debug": "{_one_line(one.value)}"}}' if asks else ""
    return f"{one.where}: {_one_line(one.shown)}: must be {allowed.allowed}{near}{knob}"


def _one_line(text: str) -> str:
    return text if text.isprintable() else repr(text)[1:-1]


def placed(lines: Iterable[str], given: Mapping[str, Given]) -> list[str]:
    """The same lines with file and line before those that name a setting which the operator gave; the first of such counts."""
    shown = map(_one_line, lines)
    return [f"{given[names[0]].where}: {line}" if (names := _given_in(line, given)) else line for line in shown]


def _given_in(line: str, given: Mapping[str, Given]) -> list[str]:
    # Behind the first word only names with _: DEBUG and LANG are words of other lines too.
    return [name for name in re.findall(r"^\w+|\b[A-Z][A-Z0-9]*_\w+", line) if name in given]


def ordered(lines: Iterable[str]) -> list[str]:
    """Each line once, those of a file from its top to its end; what has no place comes first."""

    def place(line: str) -> tuple[str, int]:
        at = re.match(r"(\S+) line (\d+): ", line)
        return (at[1], int(at[2])) if at else ("", 0)

    return sorted(dict.fromkeys(lines), key=place)
