"""The running lab hosts for inventory.py; nothing, and no error, where there is no lab."""

from __future__ import annotations

from typing import Any

from lab import build, engine, repository
from lab import hosts as machines
from lab.home import LabError

#: What the names of the tests' own hosts begin with: nobody deploys to those but the test that made them.
OF_TESTS = "test-"
#: Where hosts find the lab's images.
_REGISTRY = "registry:5000"


def hosts() -> list[tuple[str, dict[str, Any]]]:
    """Name and data of each running lab host but the tests' own, as pyinfra's inventory wants them."""
    if engine.url() is None:
        return []
    try:
        there = [host for host in machines.hosts() if not host.name.startswith(OF_TESTS)]
        return [(host.name, data(host)) for host in there if host.state == "running"]
    except LabError:
        return []  # a lab whose engine was stopped


def data(host: machines.Host) -> dict[str, Any]:
    """How to reach it, and where it gets Docker and the images from."""
    found = {**host.data(), "docker_source": "docker" if host.suite in repository.SUITES else "distro"}
    if host.images == "lab":
        if host.suite in repository.SUITES:
            found |= repository.data()
        found["docker_insecure_registries"] = [_REGISTRY]
        found["image_registry"] = {name: f"{_REGISTRY}/{name}" for name in build.registries()}
    return found
