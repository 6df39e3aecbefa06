"""The command line: `python -m tests.bench --help`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from lab.home import LabError
from lab.progress import step
from tests.bench import table
from tests.bench.delay_proxy import delay_proxy
from tests.bench.errors import BenchError
from tests.bench.fleet import Fleet, fleet, too_many
from tests.bench.table import SECONDS, Row

_ABOUT = """\
What `pyinfra inventory.py deploy.py` costs on hosts where nothing is left to do: SSH commands, seconds, memory.

Makes lab hosts bench-1 to bench-N, deploys to them (about a minute for one), measures runs that change nothing,
and removes the hosts. Each figure is the median of the repeats. Hosts and pyinfra share this machine, so other
work on it makes them slower: the load average stands in the table."""

#: With -y there is no check: pyinfra looks at each step only when its turn comes.
_FORMS = {True: ("check and run", ()), False: ("run", ("-y",))}


def parser() -> argparse.ArgumentParser:
    formatting = argparse.RawDescriptionHelpFormatter
    found = argparse.ArgumentParser("python -m tests.bench", description=_ABOUT, formatter_class=formatting)
    found.add_argument("--hosts", type=_sizes, default=[1, 10], metavar="N,N", help="numbers of hosts (default 1,10)")
    found.add_argument("--repeat", type=_count, default=3, metavar="N", help="runs for each figure (default 3)")
    found.add_argument("--json", type=Path, metavar="FILE", help="write the figures of every single run there too")
    return found


def _count(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 on")
    return int(text)


def _sizes(text: str) -> list[int]:
    return sorted({_count(word.strip()) for word in text.split(",")})


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _end)
    try:
        bench(chosen.hosts, chosen.repeat, chosen.json)
    except (BenchError, LabError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _end(number: int, _: FrameType | None) -> None:
    """As Ctrl-C: the hosts are removed first."""
    sys.exit(128 + number)


def bench(sizes: list[int], repeat: int, file: Path | None) -> None:
    """Measure and print; raises BenchError and LabError."""
    rows: list[Row] = []
    possible = [size for size in sizes if not _left_out(size)]
    if not possible:
        raise BenchError("nothing is left to measure")
    with tempfile.TemporaryDirectory(prefix="dify-bench-") as folder, fleet(Path(folder)) as hosts:
        for size in possible:
            hosts.grow(size)
            rows += _measure(hosts, repeat)
    print()
    table.show(rows)
    print(f"\n{_setting()}")
    if file:
        table.write(rows, file)


def _left_out(size: int) -> bool:
    why = too_many(size)
    if why:
        print(why, flush=True)
    return bool(why)


def _measure(hosts: Fleet, repeat: int) -> Iterator[Row]:
    for round_trip in SECONDS:
        with delay_proxy(round_trip / 1000) as proxy:
            hosts.name(hosts.behind(proxy) if round_trip else hosts.direct())
            for checked in _FORMS:
                yield _row(hosts, round_trip, checked, repeat)


def _row(hosts: Fleet, round_trip: int, checked: bool, repeat: int) -> Row:
    words, arguments = _FORMS[checked]
    way = f"+{round_trip} ms" if round_trip else "direct"
    load = os.getloadavg()[0]
    with step(f"{len(hosts.hosts)} x {way}, {words}, {repeat} times"):
        return Row(len(hosts.hosts), round_trip, checked, load, [hosts.converged(*arguments) for _ in range(repeat)])


def _setting() -> str:
    about: dict[str, Any] = table.about()
    return (
        f"pyinfra {about['pyinfra']}, Python {about['python']}, {about['processors']} processors that the hosts use too.\n"
        "load: processes that wanted one before the runs; with more of them than processors, wall time is not pyinfra's."
    )


if __name__ == "__main__":
    sys.exit(main())
