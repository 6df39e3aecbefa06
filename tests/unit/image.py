"""A container's programs, as scripts of ours in a folder: what the mounted scripts of a service are run against."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from stack.render import TEMPLATES


class Image:
    """The programs of an image, as scripts of ours, and what they noted.

    folder: what stands for the root of the container; paths of the real one are replaced by paths below it.
    """

    def __init__(self, folder: Path, service: str, moved: dict[str, str] | None = None) -> None:
        self.folder, self.programs, self.scripts = folder, folder / "bin", folder / "opt"
        self.programs.mkdir()
        self.scripts.mkdir()
        for path in (TEMPLATES / service).glob("*.sh.j2"):
            text = path.read_text()
            for old, new in {**(moved or {}), "/tmp/dify-ready": f"{folder}/ready"}.items():
                text = text.replace(old, new)
            (self.scripts / path.name.removesuffix(".j2")).write_text(text)

    def program(self, name: str, text: str) -> None:
        path = self.programs / name
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)

    def environment(self, given: dict[str, str]) -> dict[str, str]:
        return {
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "LC_ALL": "C.UTF-8",
            "NOTES": str(self.folder),
            **given,
        }

    def run(self, name: str, **given: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(self.scripts / name)],
            env=self.environment(given),
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )

    def notes(self, name: str) -> str:
        path = self.folder / name
        return path.read_text() if path.exists() else ""

    @property
    def ready(self) -> bool:
        return (self.folder / "ready").exists()
