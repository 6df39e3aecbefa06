"""A stand-in of Docker's apt repository on the lab's network, for hosts of Debian whose own Docker is too old.

It is laid out and signed as download.docker.com is; its packages are Debian 13's under Docker's names, its key is its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lab import engine, network
from lab.home import LabError, lock
from lab.progress import step

#: What hosts give as docker_repository.
URL = "http://docker-packages/linux"
#: Where Debian's own Docker is older than the product needs.
SUITES = ("bullseye", "bookworm")
_FOLDER = Path(__file__).resolve().parent / "packages"
_IMAGE = "dify-lab/docker-packages:latest"
_NAME = "dify-lab-docker-packages"


def up() -> None:
    """Have it running, from what its folder holds now."""
    from lab import build  # only here: inventory.py imports this module on every pyinfra run

    with lock("repository"):
        build.ensure(build.Plan(_FOLDER, _IMAGE))
        network.up()
        there, wanted = _container(), engine.get(f"/images/{_IMAGE}/json")["Id"]
        if not there or (there["State"], there["ImageID"]) != ("running", wanted):
            with step("stand-in of Docker's package repository: start"):
                _start()


def _start() -> None:
    down()
    key = engine.docker("run", "--rm", "--network", "none", _IMAGE, "cat", "/site/fingerprint").stdout.strip()
    engine.docker(
        *("run", "--detach", "--name", _NAME, "--restart", "unless-stopped"),
        *("--label", "dify.lab=repository", "--label", f"dify.lab.key={key}"),
        *("--network", network.NAME, "--network-alias", "docker-packages", _IMAGE),
    )


def down() -> None:
    engine.docker("rm", "--force", _NAME, check=False)


def running() -> bool:
    return (_container() or {}).get("State") == "running"


def data() -> dict[str, Any]:
    """The knobs that lead a host to it."""
    found = _container()
    if not found:
        raise LabError("the stand-in of Docker's package repository is not running: python -m lab up")
    key = found["Labels"]["dify.lab.key"]
    return {"docker_repository": URL, "docker_repository_key": key}


def key() -> str:
    """The public key that signs it, armoured."""
    return engine.docker("exec", _NAME, "cat", "/site/linux/debian/gpg").stdout


def _container() -> dict[str, Any] | None:
    found = engine.get("/containers/json", all="1", filters={"label": ["dify.lab=repository"]})
    return found[0] if found else None
