"""One pyinfra process: run to its end, watched and measured."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab.checkout import Run

_COUNTED = Path(__file__).with_name("counted.py")
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True)
class Measured:
    """What one run cost.

    commands: SSH commands by port of the host.
    wall, cpu: in seconds; cpu of the pyinfra process alone.
    memory: most of it that was resident at once, in bytes.
    """

    run: Run
    commands: dict[int, int]
    wall: float
    cpu: float
    memory: int


def measured(folder: Path, *arguments: str, heard: Callable[[str], None] = lambda _: None) -> Measured:
    """Run pyinfra in a folder.

    heard: is called with each line as it is printed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        figures = Path(scratch) / "figures.json"
        words = [sys.executable, str(_COUNTED), str(figures), *arguments]
        started = time.monotonic()
        run, cpu = _on_terminal(words, folder, heard)
        wall = time.monotonic() - started
        found: dict[str, Any] = json.loads(figures.read_text()) if figures.exists() else {}
    commands = {int(port): number for port, number in found.get("commands", {}).items()}
    return Measured(run, commands, wall, cpu, found.get("peak_memory", 0))


def _on_terminal(words: list[str], folder: Path, heard: Callable[[str], None]) -> tuple[Run, float]:
    """(the run, its CPU seconds). On a terminal of its own, since pyinfra asks for the go-ahead only on one."""
    ours, theirs = pty.openpty()
    os.write(ours, b"\n")  # Enter is typed ahead, so no second passes between question and answer
    lines = []
    with subprocess.Popen(words, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        try:
            for line in _lines(ours):
                lines.append(line)
                heard(line)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        except BaseException:
            process.kill()
            raise
        finally:
            os.close(ours)
    return Run(process.returncode, "\n".join(lines)), usage.ru_utime + usage.ru_stime


def _lines(terminal: int) -> Iterator[str]:
    with open(terminal, "rb", closefd=False) as stream, suppress(OSError):  # EIO: nobody has the other end any more
        for line in stream:
            text = line.decode(errors="replace").rstrip("\r\n")
            yield _ESCAPES.sub("", text.rpartition("\r")[2])  # what the spinner drew is written over
