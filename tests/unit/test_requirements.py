"""What a host must be and have: every line of the report, just inside and just outside of its limit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from stack.requirements import Machine, clashes, failures
from tests.unit.wanted import plain, stack_of

KIB, GIB = 1024, 1024**3
BARE = Machine(
    os_id="debian",
    os_version="13",
    architecture="x86_64",
    systemd=True,
    cpus=2,
    memory=4 * GIB,
    disk_root=5 * GIB,
    disk_docker=10 * GIB,
    docker_root="/var/lib/docker",
)
WITH_DOCKER = replace(BARE, engine="26.1.5", client="Docker version 26.1.5", compose="2.26.1", curl=True)


BOTH = {"DB_PASSWORD": "old", "SECRET_KEY": "old"}


def said(
    machine: Machine = WITH_DOCKER,
    kept: dict[str, str] | None = None,
    given: dict[str, str] | None = None,
    **knobs: Any,
) -> list[str]:
    return failures(machine, stack_of(given, **knobs) if given or knobs else plain(), kept or {})


def expect(lines: list[str], fragment: str) -> None:
    """The one line with this fragment, or none when it is empty."""
    assert len(lines) == bool(fragment), lines
    assert fragment in "".join(lines)


def test_a_bare_host_and_one_with_docker_are_welcome() -> None:
    assert said(BARE) == []
    assert said(WITH_DOCKER) == []


@pytest.mark.parametrize(
    ("changed", "fragment"),
    [
        ({"architecture": "aarch64"}, ""),
        ({"architecture": "arm64"}, ""),
        ({"architecture": "armv7l"}, "architecture armv7l: Dify's images are for amd64 and arm64 only"),
        ({"systemd": False}, "no systemd"),
        ({"cpus": 1}, "1 CPU: fewer than min_cpus = 2"),
        ({"memory": int(3.6 * GIB) + 1}, ""),
        ({"memory": int(3.6 * GIB) - 1}, "3.6GiB of memory: less than min_memory = 4.0GiB"),
        ({"disk_root": 5 * GIB - KIB}, "5.0GiB free below /opt/dify: less than 5.0GiB (knob min_disk_root)"),
        ({"disk_docker": 9 * GIB}, "9.0GiB free below /var/lib/docker: less than 10.0GiB (knob min_disk_docker)"),
        ({"deployed": True, "disk_root": GIB // 2, "disk_docker": GIB}, ""),
        ({"deployed": True, "disk_root": GIB // 2 - KIB}, "512.0MiB free below /opt/dify: less than 512.0MiB"),
        ({"deployed": True, "disk_docker": GIB - KIB}, "less than 1.0GiB (knob min_disk_docker)"),
        ({"engine": "25.0.0"}, ""),
        ({"engine": "24.0.9"}, "Docker Engine 24.0.9: older than 25"),
        ({"compose": "2.20.3"}, ""),
        ({"compose": "v2.20.3"}, ""),
        ({"compose": "2.20.2"}, "Docker Compose 2.20.2: older than 2.20.3, the first with depends_on.required"),
        ({"compose": ""}, "Docker is there, but the Compose plugin is not: install docker-compose-plugin >= 2.20.3"),
        ({"compose": "", "compose_v1": "1.29.2"}, "docker-compose 1.29.2 is the old v1"),
        ({"compose_v1": "1.29.2"}, ""),
        ({"client": "podman version 4.9.4"}, "docker is Podman here: not supported"),
        ({"client": "Emulate Docker CLI using podman.", "engine": "", "compose": ""}, "docker is Podman here"),
        ({"os_id": "arch", "os_version": ""}, ""),
        ({"curl": False}, ""),
    ],
)
def test_a_host_with_docker(changed: dict[str, Any], fragment: str) -> None:
    expect(said(replace(WITH_DOCKER, **changed)), fragment)


@pytest.mark.parametrize(
    ("changed", "knobs", "fragment"),
    [
        ({"os_id": "arch"}, {}, "operating system 'arch': not supported"),
        ({"os_version": "10"}, {}, "Debian 10: too old"),
        ({}, {"docker_source": "present"}, 'docker_source = "present", but there is no Docker'),
        ({"os_version": "12"}, {"docker_source": "distro"}, "Debian 12 has a Docker Engine older than 25"),
        ({"cpus": 1}, {"min_cpus": 1}, ""),
        ({"memory": 3 * GIB}, {"min_memory": "3GiB"}, ""),
        ({"memory": 2 * GIB}, {"min_memory": "2GiB"}, "2.0GiB of memory: the chosen services need 3.1GiB (api "),
        ({"memory": 2 * GIB}, {"min_memory": "0"}, ""),
        ({"disk_root": GIB}, {"min_disk_root": "1GiB"}, ""),
        ({"disk_docker": GIB}, {"min_disk_docker": "2GiB"}, "1.0GiB free below /var/lib/docker: less than 2.0GiB"),
    ],
)
def test_a_bare_host(changed: dict[str, Any], knobs: dict[str, Any], fragment: str) -> None:
    expect(said(replace(BARE, **changed), **knobs), fragment)


@pytest.mark.parametrize(
    ("os_id", "source"), [("debian", "present"), ("arch", "present"), ("arch", "docker"), ("arch", "distro")]
)
def test_curl_that_cannot_be_installed_by_us_must_be_there(os_id: str, source: str) -> None:
    machine = replace(WITH_DOCKER, os_id=os_id, curl=False)
    expect(said(machine, docker_source=source), "curl")
    assert said(replace(machine, curl=True), docker_source=source) == []


def test_everything_that_is_wrong_is_told_at_once() -> None:
    machine = Machine(os_id="arch", architecture="riscv64", listeners=(("*:80", "caddy"),))
    assert len(said(machine)) == 9


# --- Ports ---


@pytest.mark.parametrize(
    ("wanted", "listener", "taken"),
    [
        ("80", "0.0.0.0:80", True),
        ("80", "*:80", True),
        ("80", "[::]:80", True),
        ("80", "127.0.0.1:80", True),
        ("80", "[::1]:80", True),
        ("80", "192.0.2.1:80", True),
        ("80", "0.0.0.0:8080", False),
        ("80", "0.0.0.0:180", False),
        ("8080", "0.0.0.0:80", False),
        ("0.0.0.0:80", "127.0.0.1:80", True),
        ("127.0.0.1:8080", "127.0.0.1:8080", True),
        ("127.0.0.1:8080", "0.0.0.0:8080", True),
        ("127.0.0.1:8080", "*:8080", True),
        ("127.0.0.1:8080", "[::ffff:127.0.0.1]:8080", True),
        ("127.0.0.1:8080", "127.0.0.2:8080", False),
        ("127.0.0.1:8080", "192.0.2.1:8080", False),
        ("127.0.0.1:8080", "[::1]:8080", False),
        ("127.0.0.1:53", "127.0.0.53%lo:53", False),
        ("[::1]:8080", "[::1]:8080", True),
        ("[::1]:8080", "[::]:8080", True),
        ("[::1]:8080", "*:8080", True),
        ("[::1]:8080", "127.0.0.1:8080", False),
        ("[::1]:8080", "[2001:db8::1]:8080", False),
    ],
)
def test_a_port_is_taken_when_the_addresses_overlap(wanted: str, listener: str, taken: bool) -> None:
    machine = replace(BARE, listeners=((listener, "caddy"),))
    expect(
        said(machine, given={"EXPOSE_NGINX_PORT": wanted}),
        f"port {wanted} is held by caddy ({listener}): stop it, or set EXPOSE_NGINX_PORT" if taken else "",
    )


def test_a_process_that_may_not_be_named_is_another_process() -> None:
    expect(said(replace(BARE, listeners=(("*:80", ""),))), "port 80 is held by another process (*:80)")


def test_our_own_port_is_no_obstacle() -> None:
    listeners = (("0.0.0.0:80", "docker-proxy"), ("[::]:80", "docker-proxy"))
    assert said(replace(WITH_DOCKER, listeners=listeners, own_ports=("80",))) == []
    expect(said(replace(WITH_DOCKER, listeners=listeners, own_ports=("443",))), "held by docker-proxy")


def test_a_port_held_twice_is_told_once_and_two_ports_twice() -> None:
    machine = replace(BARE, listeners=(("0.0.0.0:80", "a"), ("[::]:80", "a"), ("0.0.0.0:443", "b")))
    expect(said(machine), "port 80")
    assert len(said(machine, given={"NGINX_HTTPS_ENABLED": "true"})) == 2


# --- Data ---


@pytest.mark.parametrize(
    ("machine", "kept", "given", "fragment"),
    [
        ({}, {}, {}, ""),
        ({"database": True}, BOTH, {}, ""),
        ({"database": True, "migrated": True}, BOTH, {}, ""),
        ({"database": True}, {}, {}, "DB_PASSWORD and SECRET_KEY of it is gone from /opt/dify/.env: restore that file"),
        ({"database": True}, {"LOG_LEVEL": "INFO"}, {}, "DB_PASSWORD and SECRET_KEY of it is gone"),
        ({"database": True}, {"DB_PASSWORD": "old"}, {}, "set SECRET_KEY to the old value"),
        ({"database": True}, {}, BOTH, ""),
        ({"database": True}, {"DB_PASSWORD": "old"}, {"SECRET_KEY": "old"}, ""),
        ({"database": True}, {}, {"DB_PASSWORD": "old"}, "but SECRET_KEY of it is gone"),
        ({"database": True}, {}, {"DB_PASSWORD": "", "SECRET_KEY": ""}, "DB_PASSWORD and SECRET_KEY of it is gone"),
        ({"migrated": True}, BOTH, {}, "/opt/dify/volumes/db/data is empty, but Dify ran here before"),
        ({"migrated": True}, BOTH, {"DB_HOST": "db.lan", "DB_PASSWORD": "old"}, ""),
    ],
)
def test_data_without_its_key_and_a_lost_database_stop_the_deploy(
    machine: dict[str, Any], kept: dict[str, str], given: dict[str, str], fragment: str
) -> None:
    expect(said(replace(WITH_DOCKER, **machine), kept, given), fragment)


# --- A Docker that cannot be adopted, a project that runs elsewhere ---


def test_a_stopped_docker_is_judged_by_its_client() -> None:
    stopped = replace(WITH_DOCKER, engine="", client="Docker version 20.10.24+dfsg1, build 297e128")
    expect(said(stopped), "Docker Engine 20.10.24+dfsg1: older than 25")
    expect(said(replace(stopped, client="Docker version 26.1.5+dfsg1, build a72d7cd")), "")


def test_the_snap_is_refused_by_name() -> None:
    expect(said(replace(WITH_DOCKER, snap=True)), "docker is the snap")


def test_a_project_that_runs_from_another_folder_is_not_started_empty() -> None:
    expect(said(replace(WITH_DOCKER, running_from="/srv/dify")), "runs from /srv/dify, not from /opt/dify")
    expect(said(replace(WITH_DOCKER, running_from="/opt/dify")), "")
    expect(said(replace(WITH_DOCKER, running_from="/srv/dify"), root="/srv/dify"), "")


def test_a_folder_that_another_project_runs_from_is_not_given_to_a_second_one() -> None:
    expect(
        said(replace(WITH_DOCKER, occupied_by="dify"), project="two"),
        "project 'dify' runs from /opt/dify, and two on the same data destroy it: give 'two' a root of its own, or remove "
        "the other first, with project = 'dify' in its data",
    )


# --- Two deployments on one machine ---


@pytest.mark.parametrize(
    ("knobs", "given", "fragments"),
    [
        ({"project": "two", "root": "/opt/two"}, {"EXPOSE_NGINX_PORT": "8080"}, []),
        ({"project": "two", "root": "/opt/two"}, {"EXPOSE_NGINX_PORT": "127.0.0.1:8080"}, []),
        ({"project": "two", "root": "/opt/two"}, {}, ["both publish port 80; give each its own EXPOSE_NGINX_PORT"]),
        ({"project": "two", "root": "/opt/two"}, {"EXPOSE_NGINX_PORT": "127.0.0.1:80"}, ["both publish port 80"]),
        ({"root": "/opt/two"}, {"EXPOSE_NGINX_PORT": "8080"}, ["both are project 'dify'"]),
        ({"project": "two"}, {"EXPOSE_NGINX_PORT": "8080"}, ["root /opt/dify and root /opt/dify overlap"]),
        ({"project": "two", "root": "/opt/dify/two"}, {"EXPOSE_NGINX_PORT": "8080"}, ["/opt/dify/two overlap"]),
        ({"project": "two", "root": "/opt"}, {"EXPOSE_NGINX_PORT": "8080"}, ["root /opt overlap"]),
        ({"project": "two", "root": "/opt/dify2"}, {"EXPOSE_NGINX_PORT": "8080"}, []),
        (
            {"project": "two", "root": "/opt/two", "docker_log_max_file": 9, "docker_source": "distro"},
            {"EXPOSE_NGINX_PORT": "8080"},
            ["docker_log_max_file differs, and they share one Docker; give both the same", "docker_source differs"],
        ),
        ({}, {}, ["project", "root", "port"]),
    ],
)
def test_two_deployments_on_one_machine_share_nothing(
    knobs: dict[str, Any], given: dict[str, str], fragments: list[str]
) -> None:
    other = stack_of(given, **knobs)
    lines = clashes({"a": ("one machine", plain()), "b": ("one machine", other)})
    assert len(lines) == len(fragments)
    for line, fragment in zip(lines, fragments, strict=True):
        assert line.startswith("a and b are one machine: ")
        assert fragment in line
    assert clashes({"a": ("one machine", plain()), "b": ("another", other)}) == []


# --- What the chosen services ask for ---


@pytest.mark.parametrize(
    ("memory", "given", "fragment"),
    [
        (4, {"VECTOR_STORE": "oceanbase"}, "4.0GiB of memory: the chosen services need 8.6GiB (oceanbase 6.0GiB, api "),
        (16, {"VECTOR_STORE": "oceanbase"}, ""),
        (16, {"VECTOR_STORE": "oceanbase", "OCEANBASE_MEMORY_LIMIT": "20G"}, "(oceanbase 20.0GiB, api "),
        (4, {"VECTOR_STORE": "elasticsearch"}, "(elasticsearch 2.0GiB, kibana 1.0GiB, api "),
        (4, {"VECTOR_STORE": "pgvector"}, ""),
    ],
)
def test_the_memory_of_all_services_is_added_up(memory: int, given: dict[str, str], fragment: str) -> None:
    expect(said(replace(WITH_DOCKER, memory=memory * GIB), given=given), fragment)


@pytest.mark.parametrize(
    ("architecture", "store", "fragment"),
    [
        (
            "aarch64",
            "iris",
            "iris: its image is for amd64 only, and this host is arm64: choose another, or another host",
        ),
        ("x86_64", "iris", ""),
        ("aarch64", "qdrant", ""),
    ],
)
def test_an_image_that_there_is_not_for_this_machine(architecture: str, store: str, fragment: str) -> None:
    machine = replace(WITH_DOCKER, architecture=architecture, memory=16 * GIB)
    expect(said(machine, given={"VECTOR_STORE": store}), fragment)


@pytest.mark.parametrize(
    ("kept", "given", "fragment"),
    [
        ({}, {"DB_TYPE": "mysql"}, "DB_TYPE=mysql: this host's data is in postgresql, and Dify would come up empty"),
        ({"DB_TYPE": "mysql"}, {}, "DB_TYPE=postgresql: this host's data is in mysql"),
        ({"DB_TYPE": "mysql"}, {"DB_TYPE": "mysql"}, ""),
    ],
)
def test_another_kind_of_database_beside_data(kept: dict[str, str], given: dict[str, str], fragment: str) -> None:
    machine = replace(WITH_DOCKER, migrated=True, database=True, filled=("volumes/mysql/data",), memory=16 * GIB)
    expect(said(machine, {**BOTH, **kept}, given), fragment)


def test_a_stores_data_without_the_password_it_was_made_with() -> None:
    machine = replace(WITH_DOCKER, filled=("volumes/pgvector/data",))
    given = {"VECTOR_STORE": "pgvector"}
    line = (
        "/opt/dify/volumes/pgvector/data holds the data of VECTOR_STORE=pgvector, but PGVECTOR_PASSWORD of it is gone"
    )
    expect(said(machine, {}, given), line)
    expect(said(machine, {"PGVECTOR_PASSWORD": "old"}, given), "")
    expect(said(machine, {}, {**given, "PGVECTOR_PASSWORD": "old"}), "")
    # What is not bound to its data may be made anew.
    expect(said(replace(WITH_DOCKER, filled=("volumes/qdrant",)), {}, {"VECTOR_STORE": "qdrant"}), "")


# --- The firewall ---


def test_a_docker_without_docker_user_and_the_firewall_are_refused() -> None:
    machine = replace(WITH_DOCKER, unfiltered='"iptables": false')
    expect(said(machine, firewall="docker-user"), '"iptables": false stands in /etc/docker/daemon.json; take it out')
    expect(said(machine), "")
    expect(said(WITH_DOCKER, firewall="docker-user"), "")
