"""What pyinfra lets pass with exit code 0 although nothing would be done: refused here, when the inventory is read."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import click
from pyinfra import inventory
from pyinfra.api.exceptions import InventoryError, NoGroupError, PyinfraError
from pyinfra.api.host import Host
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import State
from pyinfra.context import ctx_state
from pyinfra_cli.exceptions import UnexpectedExternalError
from pyinfra_cli.inventory import make_inventory
from pyinfra_cli.util import parse_cli_arg

from stack.checks import check
from stack.errors import InvalidError, nearest
from stack.layers import Data, Source, encodes

SHAPE = 'a group is a list of hosts, or (hosts, {data}); a host is "name" or ("name", {data})'


def _arguments() -> dict[str, Any]:
    """What was typed; empty when pyinfra is not run from its command line."""
    context = click.get_current_context(silent=True)
    return context.params if context else {}


def folder() -> Path:
    """Where inventory.py lies, and `.env` and `env/` beside it."""
    named = Path(str(_arguments().get("inventory") or ""))
    return named.parent.resolve() if named.is_file() else Path.cwd()


def refuse_missing_file() -> None:
    """Raise InventoryError for an inventory file that is not there, and for a question nobody could answer."""
    typed = _arguments()
    named = str(typed.get("inventory") or "")
    if named.endswith(".py") and not Path(named).is_file():
        near = nearest(named, (path.name for path in Path().iterdir()))
        raise InventoryError(f"no inventory file {named}{near}")
    first = str((typed.get("operations") or [""])[0])
    asks = first.endswith(".py") or first.startswith("tasks.")
    if asks and not (typed.get("yes") or typed.get("dry") or typed.get("json_output") or sys.stdin.isatty()):
        raise InventoryError("there is no terminal to ask for a go-ahead on: add -y to do it, or --dry to look")


def refuse_no_hosts() -> None:
    """Raise InventoryError for an empty inventory, and for a --limit or --exclude that names nothing in it."""
    if not len(inventory):
        raise InventoryError(
            "the inventory names no host: put yours into inventory.py, or start one with `python -m lab up`"
        )
    for option in ("limit", "exclude"):
        for pattern in _arguments().get(option) or ():
            if not _matches(pattern):
                names = [*inventory.groups, *(one.name for one in inventory)]
                raise InventoryError(
                    f"--{option} {pattern}: no such host or group; there are {', '.join(sorted(names))}{nearest(pattern, names)}"
                )


def refuse_wrong_settings() -> None:
    """Raise InventoryError with a line for all that is wrong with the hosts of this run, before one of them is contacted.

    Only a deployment and our own tasks need right settings: `exec`, `fact` and `debug-inventory` go on without.
    """
    typed = _arguments()
    first = str((typed.get("operations") or [""])[0])
    if Path(first).name != "deploy.py" and not first.startswith("tasks."):
        return
    try:
        found = _make(str(typed["inventory"]), typed.get("data") or (), typed.get("group_data") or ())
        check(_data(found, typed.get("data") or ()), folder(), [one.name for one in found if _in_run(one, found)])
    except InvalidError as wrong:
        raise InventoryError("\n    ".join(["nothing was changed, no host was contacted:", *wrong.lines])) from None


def _in_run(one: Host, hosts: Inventory) -> bool:
    limits, excludes = (_arguments().get(option) or () for option in ("limit", "exclude"))
    named = any(_names(pattern, one, hosts) for pattern in limits)
    return (named or not limits) and not any(_names(pattern, one, hosts) for pattern in excludes)


def _names(pattern: str, one: Host, hosts: Inventory) -> bool:
    """Whether a --limit means this host: it is a group, else a pattern of names."""
    return one in hosts.get_group(pattern, []) or (pattern not in hosts.groups and fnmatch(one.name, pattern))


def _matches(pattern: str) -> bool:
    try:
        return bool(inventory.get_group(pattern))
    except NoGroupError:
        return any(fnmatch(one.name, pattern) for one in inventory)


def read(file: Path, typed: Iterable[str] = ()) -> dict[str, tuple[Data, list[str]]]:
    """{host: (data, groups)} of an inventory file and its group data, without a connection; raises InvalidError.

    typed: NAME=value as after --data.
    """
    if not file.is_file():
        raise InvalidError(f"no inventory file {file}")
    _refuse_unreadable(file)
    ctx_state.set(State())  # where pyinfra notes which file it reads
    try:
        return _data(_make(str(file), typed), typed, file.parent.resolve())
    except PyinfraError as error:
        raise InvalidError(str(error)) from error
    except SyntaxError as error:
        at = f"{error.filename} line {error.lineno}" if error.filename else str(file)
        raise InvalidError(f"{at}: {error.msg}") from error
    except UnexpectedExternalError as error:
        raise InvalidError(f"{error.filename}: {error.exception}") from error
    except SystemExit as error:
        raise InvalidError(f"{file}: it, or a file of group_data, ends the program ({error}): take that out") from error
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        # What pyinfra says of another shape would help nobody who does not know its code.
        raise InvalidError(f"{file}: no inventory ({error}): {SHAPE}") from error


def _refuse_unreadable(inventory: Path) -> None:
    """Raise InvalidError for each Python file of an inventory that is not UTF-8, as Python itself wants it."""
    lines = []
    for file in (inventory, *sorted((inventory.parent / "group_data").glob("*.py"))):
        data = file.read_bytes()
        try:
            data.decode()
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            lines.append(f"{file} line {line}: not UTF-8; save it as that")
    if lines:
        raise InvalidError(lines)


def _make(named: str, typed: Iterable[str], folders: Iterable[str] = ()) -> Inventory:
    if wrong := [f"--data {word}: not NAME=value" for word in typed if not word.partition("=")[0] or "=" not in word]:
        raise InvalidError(wrong)
    override = {name: parse_cli_arg(value) for name, value in _pairs(typed).items()}
    found: Inventory = make_inventory(
        named, override_data=override, cwd=str(Path.cwd()), group_data_directories=list(folders)
    )
    if wrong := [
        f"host {one.name!r}: a name must not begin with /, have no .. and no lone surrogate; give the address as ssh_hostname"
        for one in found
        if _no_file(one.name)
    ]:
        raise InvalidError(wrong)
    return found


def _no_file(name: str) -> bool:
    """Whether a host's name cannot be a file's: of it are env/<host>.env, secrets/<host>.age, the folder that is rendered."""
    return name.startswith("/") or ".." in name.split("/") or not encodes(name)


def _pairs(typed: Iterable[str]) -> dict[str, str]:
    return dict(word.split("=", 1) for word in typed if "=" in word)


def _data(hosts: Inventory, typed: Iterable[str], where: Path | None = None) -> dict[str, tuple[Data, list[str]]]:
    return {one.name: (data_of(one, typed, where), list(one.groups)) for one in hosts}


def data_of(one: Host, typed: Iterable[str] | None = None, where: Path | None = None) -> Data:
    """A host's data with the layers it comes from.

    typed: NAME=value as after --data; by default what was typed. where: the inventory's folder.
    """
    hosts, where = one.inventory, where or folder()
    words = _arguments().get("data") or () if typed is None else typed
    # pyinfra makes 1.1 of what was typed as 1.10: settings are taken as they were typed.
    said = {**hosts.get_override_data(), **_pairs(words)}
    return Data(
        one.data.dict(),
        [
            Source("group_data/all.py", hosts.get_data(), files=_files(where, "all")),
            *(Source(f"group data of {g}", hosts.get_group_data(g), files=_files(where, g)) for g in one.groups),
            Source(f"host data of {one.name}", hosts.get_host_data(one.name), True, files=_files(where), host=one.name),
            Source("--data", said, near=True, typed=True),
        ],
    )


def _files(where: Path, *groups: str) -> tuple[Path, ...]:
    """The Python files in which a group's or a host's data can stand."""
    named = Path(str(_arguments().get("inventory") or "inventory.py")).name
    return (*(where / "group_data" / f"{group}.py" for group in groups), where / named)
