"""One Dify release as data: its settings with their defaults, its images, and what its own Compose files say."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from stack.errors import InvalidError, nearest

RELEASES = Path(__file__).parent / "releases"
# Settings that Dify reads and upstream hands to no container, the same in every release.
FORGOTTEN = RELEASES / "forgotten.tsv"
TABLE_HEAD = "name\tdefault\tshared_by_api_worker_beat_plugin_daemon\tread_by\n"
# Upstream hands these to all of Dify's own services too, which do not read them: nginx could not change without them.
NOT_SHARED = ("NGINX_", "EXPOSE_NGINX_", "CERTBOT_")
# Services that run the image of another one.
IMAGE_OF = {"worker": "api", "worker_beat": "api", "matrixone_init": "api"}


@dataclass(frozen=True)
class Setting:
    """A setting of Dify.

    name: as in `.env`.
    default: the release's own.
    shared: whether api, worker, worker_beat and plugin_daemon all get it.
    forgotten: whether Dify reads it, but its own Compose file hands it to no container; ours does when it is set.
    """

    name: str
    default: str
    shared: bool
    forgotten: bool = False


# A setting, and the services that read it besides the shared ones.
Row = tuple[Setting, tuple[str, ...]]


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
    images = yaml.safe_load((RELEASES / version / "images.yaml").read_text())
    forgotten = {name: replace(setting, forgotten=True) for name, (setting, _) in _table(FORGOTTEN).items()}
    own = {
        name: replace(setting, shared=setting.shared and not name.startswith(NOT_SHARED))
        for name, (setting, _) in table(version).items()
    }
    return Release(version, {**forgotten, **own}, images)


def table(version: str) -> dict[str, Row]:
    """Every setting of a release there is, with the services that read it besides what is shared."""
    return _table(RELEASES / version / "settings.tsv")


@cache
def upstream(version: str, name: Literal["services", "middleware"] = "services") -> dict[str, Any]:
    """What the release's own docker-compose.yaml says of its services, or its docker-compose.middleware.yaml.

    An entry of `environment` is a value, or the setting that it is read from with the default written beside it.
    """
    facts = json.loads((RELEASES / version / f"{name}.json").read_text())
    assert isinstance(facts, dict)
    return facts


def tag_of(image: str) -> str:
    """The tag of an image; empty when it has none."""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[2]


def _table(file: Path) -> dict[str, Row]:
    with file.open(newline="") as lines:
        rows = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        next(rows)
        return {
            name: (Setting(name, default, shared == "yes"), tuple(by.split())) for name, default, shared, by, *_ in rows
        }
