"""What a host must be and have before anything is changed on it: found facts in, lines of what is wrong out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations

from pydantic import ByteSize

from stack import docker
from stack.exposure import overlap
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

    identity: str = ""
    """the same for two names of one machine"""
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
    """folder that the project's containers were made from"""
    occupied_by: str = ""
    """another project whose containers were made from root"""
    curl: bool = False
    unfiltered: str = ""
    """what in daemon.json keeps Docker from DOCKER-USER"""
    deployed: bool = False
    migrated: bool = False
    database: bool = False
    env_sha256: str = ""
    """of the .env that lies there"""
    rotation: str = ""
    """the secret that an earlier run began to change"""
    filled: tuple[str, ...] = ()
    """folders below volumes/ that hold something, as "volumes/..."; two levels deep"""
    unreachable: tuple[str, ...] = ()
    """services that run elsewhere and are not reached from here, as "SETTING: host:port: why" """
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
        *_firewall(machine, knobs),
        *_project(machine, knobs),
        *_sizes(machine, knobs),
        *_services(machine, stack),
        *(f"{place}; is it up, and does its firewall let this host in?" for place in machine.unreachable),
        *_ports(machine, stack.opened_by),
        *_data(machine, stack, kept),
    ]


def clashes(deployments: Mapping[str, tuple[str, Stack]]) -> list[str]:
    """What two deployments on one machine would take from each other; empty when each has its own.

    deployments: {name in the inventory: (identity of the machine, what shall run)}
    """
    lines = []
    for (one, (here, mine)), (other, (there, yours)) in combinations(deployments.items(), 2):
        if here == there:
            lines += [f"{one} and {other} are one machine: {what}" for what in _shared(mine, yours)]
    return lines


def _shared(mine: Stack, yours: Stack) -> Iterable[str]:
    one, other = mine.settings.knobs, yours.settings.knobs
    if one.project == other.project:
        yield f"both are project {one.project!r}; give each its own project"
    if f"{one.root}/".startswith(f"{other.root}/") or f"{other.root}/".startswith(f"{one.root}/"):
        yield f"root {one.root} and root {other.root} overlap; give each its own root"
    for knob in sorted(name for name in Knobs.model_fields if name.startswith("docker_")):
        if getattr(one, knob) != getattr(other, knob):
            yield f"{knob} differs, and they share one Docker; give both the same"
    for port, by in mine.opened_by.items():
        if any(overlap(port, taken) for taken in yours.opened_by):
            where = "its data" if by.startswith("expose[") else "env/<host>.env"
            yield f"both publish port {port}; give each its own {by} in {where}"


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


def _firewall(machine: Machine, knobs: Knobs) -> Iterable[str]:
    if machine.unfiltered and knobs.firewall == "docker-user":
        yield (
            f'firewall = "docker-user": Docker here keeps no DOCKER-USER, as {machine.unfiltered} stands in '
            '/etc/docker/daemon.json; take it out there, or set firewall = "off"'
        )


def _project(machine: Machine, knobs: Knobs) -> Iterable[str]:
    if machine.running_from not in ("", knobs.root):
        yield (
            f"project {knobs.project!r} runs from {machine.running_from}, not from {knobs.root}, where it would come up "
            "without its data: set root to that folder, or give this instance another project and port"
        )
    if machine.occupied_by:
        yield (
            f"project {machine.occupied_by!r} runs from {knobs.root}, and two on the same data destroy it: give "
            f"{knobs.project!r} a root of its own, or remove the other first, with project = {machine.occupied_by!r} in its data"
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


def _services(machine: Machine, stack: Stack) -> Iterable[str]:
    """What the chosen services ask of the host."""
    needs = {name: service.needs for name, service in stack.services.items()}
    ours = ARCHITECTURES.get(machine.architecture)
    for name, need in needs.items():
        if ours and ours not in need.architectures:
            yield (
                f"{name}: its image is for {' and '.join(need.architectures)} only, and this host is {ours}: choose another, "
                "or another host"
            )
    total = sum(need.memory for need in needs.values())
    if stack.settings.knobs.min_memory and machine.memory < total * USABLE_MEMORY:
        largest = sorted(needs, key=lambda name: needs[name].memory, reverse=True)
        sums = ", ".join(f"{name} {_size(needs[name].memory)}" for name in largest[:4])
        yield (
            f"{_size(machine.memory)} of memory: the chosen services need {_size(total)} ({sums}, "
            f"{len(needs) - 4} others {_size(sum(needs[name].memory for name in largest[4:]))}): choose smaller ones or a "
            "larger host; min_memory = 0 turns this off"
        )


def _size(count: int) -> str:
    return ByteSize(count).human_readable()


def _ports(machine: Machine, opened_by: Mapping[str, str]) -> Iterable[str]:
    for port, setting in opened_by.items():
        for listener, process in machine.listeners:
            if overlap(port, listener) and port.rpartition(":")[2] not in machine.own_ports:
                yield f"port {port} is held by {process or 'another process'} ({listener}): stop it, or set {setting}"
                break


def _data(machine: Machine, stack: Stack, kept: Mapping[str, str]) -> Iterable[str]:
    root = stack.settings.knobs.root
    yield from _other_database(machine, stack, kept)
    if lost := _lost(stack, kept, ("DB_PASSWORD", "SECRET_KEY")) if _has_database(machine, stack) else "":
        yield (
            f"{root}/{_database_folder(stack)} holds a database, but {lost} of it is gone from {root}/.env: restore "
            f"that file, or set {lost} to the old value"
        )
    if machine.migrated and _database_folder(stack) and not _has_database(machine, stack):
        yield (
            f"{root}/{_database_folder(stack)} is empty, but Dify ran here before: bring the data back, "
            f"or remove {root}/.migrated to start with an empty database"
        )
    for what, choice in stack.settings.chosen.local.items():
        filled = [folder for folder in _folders_of(stack, choice.profile) if folder in machine.filled]
        bound = [name for name in choice.secrets if name in BOUND_TO_DATA and name != "DB_PASSWORD"]
        if filled and (lost := _lost(stack, kept, bound)):
            yield (
                f"{root}/{filled[0]} holds the data of {what}, but {lost} of it is gone from {root}/.env: restore that "
                f"file, or set {lost} to the old value"
            )


def _other_database(machine: Machine, stack: Stack, kept: Mapping[str, str]) -> Iterable[str]:
    settings = stack.settings
    before = kept.get("DB_TYPE") or settings.release.default("DB_TYPE")
    if machine.migrated and before != settings["DB_TYPE"]:
        root = settings.knobs.root
        yield (
            f"DB_TYPE={settings['DB_TYPE']}: this host's data is in {before}, and Dify would come up empty: leave it at "
            f"{before}, or remove {root}/.migrated to start anew (the old data stays where it is)"
        )


def _lost(stack: Stack, kept: Mapping[str, str], names: Iterable[str]) -> str:
    return " and ".join(name for name in names if name not in kept and name not in stack.settings.given)


def _folders_of(stack: Stack, profile: str) -> list[str]:
    return [folder for service in stack.services.values() if profile in service.profiles for folder in service.folders]


def _database_folder(stack: Stack) -> str:
    """Where our own database keeps its data; empty when it runs elsewhere."""
    for what, choice in stack.settings.chosen.local.items():
        if what.startswith("DB_TYPE="):
            return next(iter(_folders_of(stack, choice.profile)), "")
    return ""


def _has_database(machine: Machine, stack: Stack) -> bool:
    folder = _database_folder(stack)
    return machine.database if stack.settings["DB_TYPE"] == "postgresql" else folder in machine.filled
