"""python -m stack check: everything that can be found wrong without a host: settings, knobs, wiring, and all templates."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from stack import command_line, layers, settings
from stack.errors import InvalidError
from stack.render import render
from stack.settings import Settings

# {host: (data, groups)}
Hosts = Mapping[str, tuple[Mapping[str, Any], list[str]]]
# That many hosts are named before a line that they share.
NAMED = 3

EXAMPLES = """\
examples:
  python -m stack check                              everything, as before a deployment
  python -m stack check --inventory prod/hosts.py    in your CI: exit code 1 when something is wrong
"""


def check(hosts: Hosts, folder: Path, only: Iterable[str] | None = None, every: bool = False) -> dict[str, Settings]:
    """What is wanted of each host, with placeholders for the secrets that it makes itself.

    hosts: of the whole inventory. folder: where it lies. only: the hosts to look at; all without.
    every: whether each host is rendered; else one of those that differ in nothing that rendering can fail at.
    Raises InvalidError with the lines of all hosts at once.
    """
    groups = {group for _, those in hosts.values() for group in those}
    lines = _lines(lambda: layers.check_names(folder, groups, hosts))
    found: dict[str, Settings] = {}
    wrong: dict[str, list[str]] = {}
    rendered: dict[str, list[str]] = {}
    for name in hosts if only is None else only:
        data, those = hosts[name]
        try:
            found[name] = wanted = settings.load(name, data, those, folder, {}, fresh=False)
        except InvalidError as error:
            wrong[name] = error.lines
            continue
        alike = name if every else _matters(wanted)
        if alike not in rendered:
            rendered[alike] = _rendered(wanted)
        wrong[name] = rendered[alike]
    if lines := [*lines, *together(wrong, len(wrong))]:
        raise InvalidError(lines)
    return found


def _rendered(wanted: Settings) -> list[str]:
    return _lines(lambda: render(wanted))


def _matters(wanted: Settings) -> str:
    """All that rendering can fail at: what the operator can get wrong about images, profiles, ports and what is opened."""
    knobs = wanted.knobs
    ports = {name: value for name, value in wanted.values.items() if name.startswith("EXPOSE_")}
    exposed = [knobs.expose, knobs.firewall_allow, wanted.values["COMPOSE_PROFILES"]]
    return repr([knobs.dify_version, knobs.mode, knobs.images, knobs.image_registry, knobs.profiles, ports, exposed])


def _lines(job: Callable[[], object]) -> list[str]:
    try:
        job()
    except InvalidError as wrong:
        return wrong.lines
    return []


def together(lines: Mapping[str, Iterable[str]], total: int) -> list[str]:
    """One line for each thing that is said, with the hosts that it is said of before it.

    lines: by host. total: how many hosts were looked at.
    """
    hosts: dict[str, list[str]] = {}
    for name, those in lines.items():
        for line in those:
            hosts.setdefault(line, []).append(name)
    return [f"{_named(names, total)}: {line}" for line, names in hosts.items()]


def _named(names: list[str], total: int) -> str:
    if len(names) <= NAMED:
        return ", ".join(names)
    return f"all {total} hosts" if len(names) == total else f"{', '.join(names[:NAMED])} and {len(names) - NAMED} more"


def add_command(commands: Any) -> None:
    """Register the subcommand."""
    command = commands.add_parser(
        "check",
        help="find all that is wrong without contacting a host",
        description="Find all that is wrong with settings, knobs, choices and templates of all hosts, without contacting one.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command_line.add_inventory(command)
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    hosts, names, folder = command_line.hosts(options)
    found = check(hosts, folder, names, every=True)
    for line in together({name: wanted.warnings for name, wanted in found.items()}, len(found)):
        print(f"warning: {line}")
    for name, wanted in found.items():
        differ = len(wanted.given)
        print(f"{name}: fine: Dify {wanted.release.version}, {differ} setting{'' if differ == 1 else 's'} given")
