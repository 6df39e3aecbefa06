"""What the commands of `python -m stack` share: the inventory's hosts, and tables."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from stack.errors import InvalidError
from stack.layers import Data

Hosts = dict[str, tuple[Data, list[str]]]


def add_inventory(command: argparse.ArgumentParser) -> None:
    """Options that say which hosts are meant."""
    command.add_argument("--inventory", type=Path, default=Path("inventory.py"), metavar="FILE", help="%(default)s")
    command.add_argument("--host", metavar="NAME", help="only this host of the inventory")
    command.add_argument(
        "--data", action="append", default=[], metavar="NAME=VALUE", help="as for pyinfra: wins over every file"
    )


def hosts(options: argparse.Namespace) -> tuple[Hosts, list[str], Path]:
    """{host: (data, groups)} of the whole inventory, the names of the hosts that are meant, and the inventory's folder."""
    # The only place below stack/ that needs pyinfra: it reads inventories in its own way.
    from tasks.inventory import read

    found = read(options.inventory, options.data)
    if options.host and options.host not in found:
        known = f"there are {', '.join(found)}" if found else "it names none"
        raise InvalidError(f"--host {options.host}: not in {options.inventory}; {known}")
    return found, [options.host] if options.host else list(found), options.inventory.parent.resolve()


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table: drawn on a terminal, plain columns for other programs."""
    rows = list(rows)
    if sys.stdout.isatty():
        _drawn(heads, rows)
        return
    widths = [max(len(row[at]) for row in [heads, *rows]) for at in range(len(heads))]
    for row in [heads, *rows]:
        print("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip())


def _drawn(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    # Slow to import, and needed by a person only.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(*heads)
    for row in rows:
        drawn.add_row(*map(Text, row))
    Console().print(drawn)
