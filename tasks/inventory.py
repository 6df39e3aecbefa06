"""What pyinfra lets pass with exit code 0 although nothing would be done: refused here, when the inventory is read."""

from __future__ import annotations

import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import click
from pyinfra import inventory
from pyinfra.api.exceptions import InventoryError, NoGroupError, PyinfraError
from pyinfra.api.state import State
from pyinfra.context import ctx_state
from pyinfra_cli.exceptions import UnexpectedExternalError
from pyinfra_cli.inventory import make_inventory

from stack.errors import InvalidError, nearest


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
    asks = typed.get("operations") and str(typed["operations"][0]).endswith(".py")
    if asks and not (typed.get("yes") or typed.get("dry") or typed.get("json_output") or sys.stdin.isatty()):
        raise InventoryError("there is no terminal to ask for a go-ahead on: add -y to deploy, or --dry to look")


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


def _matches(pattern: str) -> bool:
    try:
        return bool(inventory.get_group(pattern))
    except NoGroupError:
        return any(fnmatch(one.name, pattern) for one in inventory)


def read(file: Path) -> dict[str, tuple[dict[str, Any], list[str]]]:
    """{host: (data, groups)} of an inventory file and its group data, without a connection; raises InvalidError."""
    if not file.is_file():
        raise InvalidError(f"no inventory file {file}")
    ctx_state.set(State())  # where pyinfra notes which file it reads
    try:
        found = make_inventory(str(file), cwd=str(Path.cwd()))
    except PyinfraError as error:
        raise InvalidError(str(error)) from error
    except SyntaxError as error:
        raise InvalidError(f"{error.filename} line {error.lineno}: {error.msg}") from error
    except UnexpectedExternalError as error:
        raise InvalidError(f"{error.filename}: {error.exception}") from error
    return {one.name: (one.data.dict(), list(one.groups)) for one in found}
