"""One Dify release as data: its settings with their defaults, its images."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from stack.errors import InvalidError, nearest

RELEASES = Path(__file__).parent / "releases"


@dataclass(frozen=True)
class Setting:
    """A setting of Dify.

    name: as in `.env`.
    default: the release's own.
    shared: whether api, worker, worker_beat and plugin_daemon all get it.
    """

    name: str
    default: str
    shared: bool


@dataclass(frozen=True)
class Release:
    """The facts of one release, read from `stack/releases/<version>/`."""

    version: str
    settings: dict[str, Setting]
    images: dict[str, str]

    def default(self, name: str) -> str:
        """The release's default of a setting; raises KeyError for a name that the release does not have."""
        return self.settings[name].default


def versions() -> list[str]:
    """The releases there is data for, oldest first."""
    found = (path.name for path in RELEASES.iterdir() if (path / "settings.tsv").is_file())
    return sorted(found, key=lambda version: [int(part) for part in version.split(".")])


@cache
def load(version: str) -> Release:
    """Read a release; raises InvalidError when there is no data for it."""
    if version not in versions():
        hint = nearest(version, versions())
        raise InvalidError(f"dify_version = {version!r}: no such release here; known: {', '.join(versions())}{hint}")
    folder = RELEASES / version
    images = yaml.safe_load((folder / "images.yaml").read_text())
    return Release(version, _settings(folder / "settings.tsv"), images)


def _settings(table: Path) -> dict[str, Setting]:
    with table.open(newline="") as lines:
        rows = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        next(rows)
        return {name: Setting(name, default, shared == "yes") for name, default, shared, *_ in rows}
