"""python -m stack explain and settings: where a value comes from, what it may be, what reads it."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import Any

from stack import command_line, docs, layers, release, settings, types, validation
from stack.errors import InvalidError, nearest
from stack.layers import Data, hidden, sources_of
from stack.readers import readers
from stack.release import Release
from stack.settings import Knobs, Settings

EXPLAIN = """\
examples:
  python -m stack explain                         what differs from the release's defaults, on all hosts
  python -m stack explain LOG_LEVEL               where its value comes from, layer by layer
  python -m stack explain LOG_LEVEL --host web1
  python -m stack explain root                    knobs too

The nearer layer wins: release, derived, group_data/all.py, group data, .env, env/<group>.env, env/<host>.env, host data, --data.
"""
SEARCH = """\
examples:
  python -m stack settings              all settings
  python -m stack settings redis        those with redis in their name or group
  python -m stack settings --dify-version 1.13.3
"""
SECRET = "(secret)"


def add_command(commands: Any) -> None:
    """Register the subcommands."""
    explain = _command(commands, "explain", "where the value of a setting comes from", EXPLAIN)
    explain.add_argument("name", nargs="?", metavar="NAME", help="a setting or a knob; without: all that differs")
    command_line.add_inventory(explain)
    explain.set_defaults(run=_explain)
    search = _command(commands, "settings", "search the settings of Dify", SEARCH)
    search.add_argument("word", nargs="?", default="", metavar="WORD", help="part of a name or group")
    search.add_argument("--dify-version", default=docs.default_knobs()["dify_version"], help="%(default)s")
    search.set_defaults(run=_search)


def _command(commands: Any, name: str, help_: str, examples: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help_,
        description=f"{help_[0].upper()}{help_[1:]}. No host is contacted; secrets are not shown.",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return command


def _search(options: argparse.Namespace) -> None:
    facts, word = release.load(options.dify_version), options.word.lower()
    rows = [
        [name, types.of(name).allowed, shown(name, facts.settings[name].default), types.of(name).group]
        for name in facts.settings
        if word in name.lower() or word in types.of(name).group.lower()
    ]
    if not rows:
        raise InvalidError(
            f"no setting of Dify {facts.version} has {options.word!r} in it{nearest(word, facts.settings)}"
        )
    command_line.table(["setting", "may be", "default", "group"], rows)


def _explain(options: argparse.Namespace) -> None:
    hosts, names, folder = command_line.hosts(options)
    if not options.name:
        _differences({name: hosts[name] for name in names}, folder)
        return
    for at, host in enumerate(names):
        data, groups = hosts[host]
        name = _known(options.name, data)
        if at == 0:
            print("\n".join([name, *(f"  {line}" for line in about(name, data))]))
        print(f"\n{host}:")
        rows = list(rows_of(name, host, data, groups, folder))
        command_line.table(["", "comes from", "value"], _marked(rows))


def _known(word: str, data: Mapping[str, Any]) -> str:
    """The setting or knob that is meant, in whatever case it was typed."""
    facts = settings.release_of(data)
    known = {*facts.settings, *Knobs.model_fields, *layers.allowed(data)}
    for name in (word, word.upper(), word.lower()):
        if name in known:
            return name
    said = validation.strange(word.upper(), facts, Knobs.model_fields)
    raise InvalidError(
        f"{word.upper()} {said}"
        if said
        else f"{word}: no setting of Dify {facts.version} and no knob{nearest(word, known)}"
    )


def about(name: str, data: Mapping[str, Any]) -> Iterator[str]:
    """What is true of a setting or knob on any host, one line each."""
    if name in Knobs.model_fields:
        yield f"knob           {knob_meaning(name)}"
        if words := settings.may_be(name):
            yield f"may be         {words}"
        yield f"default        {docs.default_knobs()[name]!r}"
        return
    facts, kind = settings.release_of(data), types.of(name)
    yield f"may be         {kind.allowed}"
    yield f"default        {default_of(name, facts) or '(none)'}"
    yield f"read by        {', '.join(readers(name, facts)) or 'no service that is deployed here'}"
    yield f"releases       {', '.join(known_to(name)) or 'none; see allow_unknown_settings'}"
    if old := [old for old, now in validation.renames().items() if now == name]:
        yield f"once called    {', '.join(old)}"


def knob_meaning(name: str) -> str:
    """What group_data/all.py says of a knob: the comment above it and those that it shares the comment with."""
    before = re.split(rf"^{name}\b", docs.KNOBS.read_text(), flags=re.MULTILINE)[0].splitlines()
    paragraph = takewhile(bool, reversed(before))
    comment = takewhile(lambda line: line.startswith("# "), dropwhile(lambda line: line[0] != "#", paragraph))
    return " ".join(line.removeprefix("# ") for line in reversed(list(comment)))


def known_to(name: str) -> list[str]:
    """The releases that have a setting, oldest first."""
    return [version for version in release.versions() if name in release.load(version).settings]


def default_of(name: str, facts: Release) -> str:
    """The release's default, as it may be shown."""
    return shown(name, facts.settings[name].default) if name in facts.settings else ""


def shown(name: str, value: str) -> str:
    """A value that people may see: secrets, also those that are published, are not."""
    return SECRET if value and hidden(name, value) else value


Row = tuple[str, str]


def rows_of(name: str, host: str, data: Data, groups: Iterable[str], folder: Path) -> Iterator[Row]:
    """(place, value) of each layer that says something of a setting or knob, the winning one last."""
    if name in Knobs.model_fields:
        for source in sources_of(data):
            if name in source.values:
                secret = Knobs.model_fields[name].repr is False
                yield source.place(name, folder), SECRET if secret else repr(source.values[name])
        return
    facts = settings.release_of(data)
    yield f"Dify {facts.version}", default_of(name, facts) or "(none)"
    wanted, wrong = _loaded(host, data, groups, folder)
    if wanted and name in wanted.values and name not in wanted.given:
        yield "derived", _derived(name, wanted)
    found = layers.read(folder, groups, host, data, [*facts.settings, *layers.allowed(data)])
    for one in found.given.get(name, ()):
        yield one.where, shown(name, one.value) or "(empty: as if it were not there)"
    if wrong:
        yield "(settings are wrong)", "see: python -m stack check"


def _marked(rows: list[Row]) -> Iterator[list[str]]:
    """The rows with a mark at the one that counts: the last that has a value."""
    counts = [at for at, (place, value) in enumerate(rows) if not value.startswith("(empty") and place[0] != "("]
    for at, (place, value) in enumerate(rows):
        yield ["->" if counts and at == counts[-1] else "", place, value]


def _derived(name: str, wanted: Settings) -> str:
    made = name in wanted.chosen.secrets
    return f"{SECRET}, made once on the host and kept in its .env" if made else shown(name, wanted.values[name])


def _loaded(host: str, data: Data, groups: Iterable[str], folder: Path) -> tuple[Settings | None, bool]:
    try:
        return settings.load(host, data, groups, folder, {}, fresh=False), False
    except InvalidError:
        return None, True


def _differences(hosts: command_line.Hosts, folder: Path) -> None:
    rows = []
    for host, (data, groups) in hosts.items():
        wanted = settings.load(host, data, groups, folder, {}, fresh=False)
        for name in sorted(name for name, value in wanted.values.items() if value != _plain_default(name, wanted)):
            given = list(wanted.layers.get(name, ()))
            value = shown(name, wanted.values[name]) if name in wanted.given else _derived(name, wanted)
            place = given[-1].where if name in wanted.given else "derived"
            rows.append([host, name, value, default_of(name, wanted.release), place])
    command_line.table(["host", "setting", "value", "default", "comes from"], rows)


def _plain_default(name: str, wanted: Settings) -> str:
    return wanted.release.settings[name].default if name in wanted.release.settings else ""
