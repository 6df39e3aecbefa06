"""The figures for people and for programs."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tests.bench.process import Measured

#: SSH commands for each host, at most: check and run together.
COMMANDS = 20
#: Seconds for check and run together on one host, less than: by round trip in milliseconds.
SECONDS = {0: 2.5, 100: 8.0}


@dataclass(frozen=True)
class Row:
    """Some converged runs of the same kind.

    hosts: how many were in each run.
    round_trip: in milliseconds, added on the way to the hosts.
    checked: whether pyinfra looked for changes first (no -y).
    load: average of the last minute before the runs.
    """

    hosts: int
    round_trip: int
    checked: bool
    load: float
    runs: list[Measured]

    def middle(self, figure: Callable[[Measured], float]) -> float:
        return median(map(figure, self.runs))

    @property
    def commands(self) -> int:
        """Of the host that got most."""
        return max(number for run in self.runs for number in run.commands.values())

    def expected(self) -> tuple[str, bool] | None:
        """(what is expected, whether it is so), or None where nothing is."""
        if not self.checked:
            return None
        few = self.commands <= COMMANDS
        if self.hosts > 1:
            return f"at most {COMMANDS} commands", few
        limit = SECONDS[self.round_trip]
        return f"at most {COMMANDS} commands, {limit:g} s", few and self.middle(lambda run: run.wall) < limit


def show(rows: list[Row]) -> None:
    """Print the table; colours only on a terminal."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("hosts", "round trip"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("run")
    for name in ("SSH commands\nper host", "wall", "CPU", "peak\nmemory", "load"):
        table.add_column(name, justify="right")
    table.add_column("expected")
    for row in rows:
        table.add_row(*_cells(row))
    console.print(table)


def _cells(row: Row) -> list[str | Text]:
    return [
        str(row.hosts),
        f"+{row.round_trip} ms" if row.round_trip else "direct",
        "check and run" if row.checked else "run (-y)",
        str(row.commands),
        f"{row.middle(lambda run: run.wall):.2f} s",
        f"{row.middle(lambda run: run.cpu):.2f} s",
        f"{row.middle(lambda run: run.memory) / 2**20:.0f} MiB",
        f"{row.load:.1f}",
        _verdict(*expected) if (expected := row.expected()) else "",
    ]


def _verdict(what: str, met: bool) -> Text:
    return Text(f"{what}: {'met' if met else 'missed'}", style="green" if met else "red")


def about() -> dict[str, Any]:
    """Where the figures are from."""
    return {
        "pyinfra": version("pyinfra"),
        "python": platform.python_version(),
        "processors": len(os.sched_getaffinity(0)),
    }


def write(rows: list[Row], file: Path) -> None:
    """All single figures as JSON: seconds, bytes, milliseconds of round trip."""
    found = {**about(), "expected": {"commands": COMMANDS, "seconds": SECONDS}, "rows": [_plain(row) for row in rows]}
    file.write_text(json.dumps(found, indent=2) + "\n")


def _plain(row: Row) -> dict[str, Any]:
    runs = [{"commands": list(r.commands.values()), "wall": r.wall, "cpu": r.cpu, "memory": r.memory} for r in row.runs]
    return {
        "hosts": row.hosts,
        "round_trip": row.round_trip,
        "checked": row.checked,
        "load": row.load,
        "runs": runs,
    }
