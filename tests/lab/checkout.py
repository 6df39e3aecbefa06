"""An operator's own checkout, and what pyinfra said and did when it was run there."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.hosts import Host
from lab.inventory import data

REPOSITORY = Path(__file__).resolve().parents[2]
PRODUCT = ("config.py", "deploy.py", "group_data", "stack", "tasks", "templates")
ROW = re.compile(r"^    (?P<name>\S.*?)\s{2,}(?P<hosts>\d+)\s+(?P<success>\S+)\s+(?P<error>\S+)\s+(?P<same>\S+)\s*$")
PLAN_ROW = re.compile(r"^    (?P<name>[A-Z]\S.*?)\s{2,}(?P<change>-|\d+ \(.*?\))\s+-\s*$")


@dataclass(frozen=True)
class Run:
    """One run of pyinfra.

    output: what it printed, stdout and stderr together.
    """

    code: int
    output: str

    @property
    def changed(self) -> list[str]:
        """The steps that did something."""
        rows = (ROW.match(line) for line in self.output.splitlines())
        return [row["name"] for row in rows if row and row["success"] != "-" and row["name"] != "Grand total"]

    @property
    def planned(self) -> list[str]:
        """The steps that the plan announced."""
        rows = (PLAN_ROW.match(line) for line in self.output.splitlines())
        return [row["name"] for row in rows if row and row["change"] != "-"]

    def ok(self) -> Run:
        """This run, if it ended with 0."""
        assert self.code == 0, self.output
        return self

    def refused(self, *words: str) -> Run:
        """This run, if it ended with 1, said these words and began no operation."""
        assert self.code == 1, self.output
        assert "Starting operation" not in self.output, self.output
        return self.says(*words)

    def failed(self, *words: str) -> Run:
        """This run, if it ended with 1 in the middle and said these words."""
        assert self.code == 1, self.output
        assert "Starting operation" in self.output, self.output
        return self.says(*words)

    def says(self, *words: str) -> Run:
        for word in words:
            assert word in self.output, f"{word!r} is not in:\n{self.output}"
        assert "Traceback" not in self.output, self.output
        return self


class Terminal:
    """A program on a terminal of its own.

    words: the program and its arguments.
    folder: that it is started in.
    """

    def __init__(self, words: list[str], folder: Path) -> None:
        self.side, other = pty.openpty()
        self.process = subprocess.Popen(words, cwd=folder, stdin=other, stdout=other, stderr=other)
        os.close(other)
        self.said = b""

    def wait_for(self, words: str) -> None:
        """Return when it has said so."""
        while words.encode() not in self.said:
            assert self._read(), self.said.decode()

    def type(self, text: str) -> None:
        os.write(self.side, text.encode())

    def end(self) -> Run:
        """What it said and how it ended."""
        while self._read():
            pass
        os.close(self.side)
        return Run(self.process.wait(), self.said.decode())

    def _read(self) -> bool:
        try:
            some = os.read(self.side, 65536)
        except OSError:  # so Linux says that the other side is closed
            return False
        self.said += some
        return bool(some)


@dataclass
class Checkout:
    """A copy of the product with an inventory of its own."""

    folder: Path
    hosts: list[Host] = field(default_factory=list)
    knobs: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def make(cls, folder: Path, *hosts: Host, **knobs: Any) -> Checkout:
        """Copy the product to `folder` and name these hosts; knobs are data of all of them."""
        for name in PRODUCT:
            source = REPOSITORY / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
            else:
                shutil.copy(source, folder / name)
        return cls(folder, list(hosts), knobs)

    def write(self, path: str, text: str) -> None:
        """Write a file of the operator's, such as .env."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def write_inventory(self, extra: dict[str, dict[str, Any]] | None = None) -> None:
        """inventory.py with the hosts, and further ones by name and data."""
        named = [(host.name, {**data(host), **self.knobs}) for host in self.hosts]
        named += [(name, {**self.knobs, **more}) for name, more in (extra or {}).items()]
        self.write("inventory.py", f"dify = {named!r}\n")

    def pyinfra(self, *arguments: str, inventory: bool = True) -> Run:
        """Run pyinfra as an operator would, in the checkout."""
        if inventory:
            self.write_inventory()
        words = [str(Path(sys.executable).with_name("pyinfra")), *arguments]
        done = subprocess.run(
            words,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return Run(done.returncode, re.sub(r"\x1b\[[0-9;]*m", "", done.stdout))

    def deploy(self, *arguments: str, **knobs: Any) -> Run:
        """`pyinfra inventory.py deploy.py -y`, with these knobs for this run only."""
        before, self.knobs = self.knobs, {**self.knobs, **knobs}
        try:
            return self.pyinfra("inventory.py", "deploy.py", "-y", *arguments)
        finally:
            self.knobs = before

    def on_a_terminal(self, *arguments: str) -> Terminal:
        """pyinfra as where somebody sits before it."""
        return Terminal([str(Path(sys.executable).with_name("pyinfra")), *arguments], self.folder)

    def plan(self, *arguments: str) -> Run:
        """`pyinfra inventory.py deploy.py --dry`"""
        return self.pyinfra("inventory.py", "deploy.py", "--dry", *arguments)
