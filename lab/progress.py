"""What a person at the terminal sees of long work."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

_GREEN, _RED, _RESET = "\033[32m", "\033[31m", "\033[0m"


def paint(text: str, colour: str) -> str:
    return f"{colour}{text}{_RESET}" if sys.stdout.isatty() else text


def good(text: str) -> str:
    return paint(text, _GREEN)


def bad(text: str) -> str:
    return paint(text, _RED)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Print `what ... 29 s`: the words when the work starts, the time when it is done."""
    print(f"{what} ...", end="", flush=True)
    started = time.monotonic()
    try:
        yield
    except BaseException:
        print(f" {bad('failed')}", flush=True)
        raise
    print(f" {seconds(time.monotonic() - started)}", flush=True)


@contextmanager
def parallel_step(what: str) -> Iterator[None]:
    """As `step`, but one whole line at the end, so that lines of parallel work do not mix."""
    started = time.monotonic()
    yield
    print(f"{what} ... {seconds(time.monotonic() - started)}", flush=True)


def seconds(duration: float) -> str:
    return f"{duration:.1f} s" if duration < 10 else f"{duration:.0f} s"


def table(rows: list[tuple[str, ...]]) -> str:
    """Rows in aligned columns, indented by two."""
    if not rows:
        return "  none"
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(f"  {line}".rstrip() for line in lines)
