"""What a host must be and have before anything is changed on it: found facts in, lines of what is wrong out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pydantic import ByteSize

from stack import docker
from stack.render import Stack
from stack.secrets import BOUND_TO_DATA
from stack.settings import Knobs

ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
# What the kernel and firmware keep for themselves of the memory that a machine is sold with.
USABLE_MEMORY = 0.9
# What later deploys need of the first one's free space: new images beside the old.
LATER_SHARE = 0.1


@dataclass(frozen=True)
class Machine:
    """What was found on a host; sizes in bytes. Empty strings stand for things that are not there."""

    os_id: str = ""
    os_version: str = ""
    architecture: str = ""
    systemd: bool = False
    cpus: int = 0
    memory: int = 0
    disk_root: int = 0
    disk_docker: int = 0
    docker_root: str = ""
    engine: str = ""
    client: str = ""
    compose: str = ""
    compose_v1: str = ""
    snap: bool = False
    running_from: str = ""
    curl: bool = False
    deployed: bool = False
    migrated: bool = False
    database: bool = False
    own_ports: tuple[str, ...] = ()
    listeners: tuple[tuple[str, str], ...] = field(default=())
    """(address:port, name of the process that listens there)"""


def failures(machine: Machine, stack: Stack, kept: Mapping[str, str]) -> list[str]:
    """Everything that speaks against deploying here; empty when nothing does.

    machine: what was found.
    stack: what shall run.
    kept: what the host's own .env holds.
    """
    knobs = stack.settings.knobs
    return [
        *_system(machine, knobs),
        *_docker(machine),
        *_project(machine, knobs),
        *_sizes(machine, knobs),
        *_ports(machine, stack.ports),
        *_data(machine, stack, kept),
    ]


def _system(machine: Machine, knobs: Knobs) -> Iterable[str]:
    if machine.architecture not in ARCHITECTURES:
        yield f"architecture {machine.architecture}: Dify's images are for amd64 and arm64 only"
    if not machine.systemd:
        yield "no systemd: Docker could not be started after a reboot"
    if not machine.engine and not machine.client:
        if knobs.docker_source == "present":
            yield 'docker_source = "present", but there is no Docker: install it, or set "docker" or "distro"'
        else:
            yield from docker.refusals(machine.os_id, machine.os_version, knobs)
    elif not machine.curl and (knobs.docker_source == "present" or machine.os_id not in docker.SYSTEMS):
        yield "curl is missing: it asks Dify for an answer at the end; install it"


def _docker(machine: Machine) -> Iterable[str]:
    if "podman" in machine.client.lower():
        yield "docker is Podman here: not supported; install Docker Engine"
        return
    if machine.snap:
        yield "docker is the snap, which sees only part of the host's files: remove it, or install Docker Engine beside it"
        return
    # A stopped engine tells no version; its client is of the same package.
    engine = machine.engine or machine.client.removeprefix("Docker version ")
    if engine and not docker.new_enough(engine, docker.MIN_ENGINE):
        yield f"Docker Engine {engine.partition(',')[0]}: older than {docker.MIN_ENGINE}; upgrade it first"
    if (machine.engine or machine.client) and not machine.compose:
        old = f" (docker-compose {machine.compose_v1} is the old v1)" if machine.compose_v1 else ""
        yield f"Docker is there, but the Compose plugin is not{old}: install docker-compose-plugin >= {docker.MIN_COMPOSE}"
    elif machine.compose and not docker.new_enough(machine.compose, docker.MIN_COMPOSE):
        yield f"Docker Compose {machine.compose}: older than {docker.MIN_COMPOSE}, the first with depends_on.required; upgrade it"


def _project(machine: Machine, knobs: Knobs) -> Iterable[str]:
    if machine.running_from not in ("", knobs.root):
        yield (
            f"project {knobs.project!r} runs from {machine.running_from}, not from {knobs.root}, where it would come up "
            "without its data: set root to that folder, or give this instance another project and port"
        )


def _sizes(machine: Machine, knobs: Knobs) -> Iterable[str]:
    if machine.cpus < knobs.min_cpus:
        yield f"{machine.cpus} CPU: fewer than min_cpus = {knobs.min_cpus}"
    if machine.memory < knobs.min_memory * USABLE_MEMORY:
        yield f"{_size(machine.memory)} of memory: less than min_memory = {_size(knobs.min_memory)}"
    share = LATER_SHARE if machine.deployed else 1
    for free, least, where, knob in (
        (machine.disk_root, knobs.min_disk_root * share, knobs.root, "min_disk_root"),
        (machine.disk_docker, knobs.min_disk_docker * share, machine.docker_root, "min_disk_docker"),
    ):
        if free < least:
            yield f"{_size(free)} free below {where}: less than {_size(int(least))} (knob {knob})"


def _size(count: int) -> str:
    return ByteSize(count).human_readable()


def _ports(machine: Machine, wanted: Iterable[str]) -> Iterable[str]:
    for port in wanted:
        for listener, process in machine.listeners:
            if _overlap(port, listener) and port.rpartition(":")[2] not in machine.own_ports:
                yield f"port {port} is held by {process or 'another process'} ({listener}): stop it, or set EXPOSE_NGINX_PORT"
                break


def _overlap(wanted: str, listener: str) -> bool:
    address, _, port = wanted.rpartition(":")
    at, _, listening = re.sub(r"^\[::ffff:([0-9.]+)\]", r"\1", listener).rpartition(":")
    everywhere = {"", "0.0.0.0", "*", "[::]"}
    return port == listening and (address == at or address in everywhere or at in everywhere)


def _data(machine: Machine, stack: Stack, kept: Mapping[str, str]) -> Iterable[str]:
    root = stack.settings.knobs.root
    own_database = "db_postgres" in stack.services
    lost = [name for name in BOUND_TO_DATA if name not in kept and name not in stack.settings.given]
    if machine.database and lost:
        yield (
            f"{root}/volumes/db/data holds a database, but {' and '.join(lost)} of it is gone from {root}/.env: restore "
            f"that file, or set {' and '.join(lost)} to the old value"
        )
    if machine.migrated and own_database and not machine.database:
        yield (
            f"{root}/volumes/db/data is empty, but Dify ran here before: bring the data back, "
            f"or remove {root}/.migrated to start with an empty database"
        )
