"""What facts make of a host's answers; the answers are as hosts gave them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import pytest
from pyinfra.api import StringCommand

from stack.render import SITE, Folder, Service, site
from stack.requirements import Machine
from tasks import compose, docker, files, gate, images, migrate, preflight, volumes
from tasks.compose import Container, compare
from tasks.migrate import SchemaState
from tests.unit.wanted import plain, run_sh

ID = "3f2a9c04b1de"


def answered(fact: Any, command: StringCommand, path: Path | None = None) -> Any:
    """What the fact says of this machine."""
    output = run_sh(str(command.get_raw_value()), path=path).stdout
    return fact.process(output.splitlines())


# --- Preflight ---

DEBIAN = """\
os_id	debian
os_version	13
architecture	x86_64
systemd	yes
cpus	4
memory_kib	8138948
memory_limit	4294967296
client	Docker version 26.1.5+dfsg1, build a72d7cd
engine	26.1.5+dfsg1
compose	2.26.1-4
own_port	80
own_port	443
compose_v1	1.29.2
curl	yes
docker_root	/var/lib/docker
disk_root_kib	52428800
disk_docker_kib	10485760
deployed	yes
migrated	yes
database	yes
listener	0.0.0.0:80 users:(("docker-proxy",pid=812,fd=4))
listener	127.0.0.53%lo:53 users:(("systemd-resolve",pid=300,fd=15))
listener	[::]:22 users:(("sshd",pid=1,fd=4),("systemd",pid=2,fd=5))
listener	*:9100 """


def test_a_host_is_read_with_all_that_it_has() -> None:
    assert preflight.Found().process(DEBIAN.splitlines()) == Machine(
        os_id="debian",
        os_version="13",
        architecture="x86_64",
        systemd=True,
        cpus=4,
        memory=4 * 1024**3,
        disk_root=50 * 1024**3,
        disk_docker=10 * 1024**3,
        docker_root="/var/lib/docker",
        engine="26.1.5+dfsg1",
        client="Docker version 26.1.5+dfsg1, build a72d7cd",
        compose="2.26.1-4",
        compose_v1="1.29.2",
        curl=True,
        deployed=True,
        migrated=True,
        database=True,
        own_ports=("80", "443"),
        listeners=(
            ("0.0.0.0:80", "docker-proxy"),
            ("127.0.0.53%lo:53", "systemd-resolve"),
            ("[::]:22", "sshd"),
            ("*:9100", ""),
        ),
    )


@pytest.mark.parametrize(
    ("limit", "memory"),
    [("max", 8138948 * 1024), ("9223372036854771712", 8138948 * 1024), ("1073741824", 1024**3)],
)
def test_memory_is_the_machines_or_the_containers_whichever_is_less(limit: str, memory: int) -> None:
    found = preflight.Found().process(["memory_kib\t8138948", f"memory_limit\t{limit}"])
    assert found.memory == memory


@pytest.mark.parametrize("output", [[], ["os_version\t", "engine\t", "compose\t"]])
def test_what_is_not_there_is_empty(output: list[str]) -> None:
    assert preflight.Found().process(output) == preflight.Found.default() == Machine()


def test_a_look_at_this_machine_finds_what_is_there(tmp_path: Path) -> None:
    root = tmp_path / "not/there/yet"
    found = answered(preflight.Found(), preflight.Found().command(root=str(root), project="dify"))
    assert found.cpus == len(os.sched_getaffinity(0))
    assert found.os_id
    assert found.architecture == os.uname().machine
    assert found.memory > 0
    assert found.disk_root > 0
    assert not (found.deployed or found.migrated or found.database)


@pytest.mark.parametrize("version_file", ["volumes/db/data/PG_VERSION", "volumes/db/data/pgdata/PG_VERSION"])
def test_a_look_at_this_machine_finds_a_deployment_and_its_database(tmp_path: Path, version_file: str) -> None:
    for path in ("docker-compose.yaml", ".migrated", version_file):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    found = answered(preflight.Found(), preflight.Found().command(root=str(tmp_path), project="dify"))
    assert (found.deployed, found.migrated, found.database) == (True, True, True)


@pytest.mark.parametrize(
    ("project", "root", "running_from", "occupied_by"),
    [
        ("dify", "/opt/dify", "/opt/dify", ""),
        ("dify", "/srv/dify", "/opt/dify", ""),
        ("dify-two", "/opt/two", "/opt/two", ""),
        ("two", "/opt/dify", "", "dify"),
        ("dify", "/opt/two", "/opt/dify", "dify-two"),
        ("dify-t", "/opt/tw", "", ""),
    ],
)
def test_whose_containers_run_from_where(
    tmp_path: Path, project: str, root: str, running_from: str, occupied_by: str
) -> None:
    rows = r"dify\t/opt/dify\ndify\t/opt/dify\ndify-two\t/opt/two\n\t\n"
    (tmp_path / "docker").write_text(f"#!/bin/sh\ncase $* in *working_dir*) printf '{rows}' ;; *) exit 1 ;; esac\n")
    (tmp_path / "docker").chmod(0o755)
    found = answered(preflight.Found(), preflight.Found().command(root=root, project=project), tmp_path)
    assert (found.running_from, found.occupied_by) == (running_from, occupied_by)


# --- Docker ---


@pytest.mark.parametrize(
    ("output", "state"),
    [
        (["os debian"], docker.EngineState(os="debian", daemon={})),
        (
            [
                "os debian",
                "installed yes",
                "curl yes",
                "enabled yes",
                "active yes",
                'daemon {"ipv6": true}',
                "drop_in abc",
            ],
            docker.EngineState("debian", True, True, True, True, {"ipv6": True}, "abc"),
        ),
        (
            ["os debian", 'daemon {"log-opts": {  "max-size": "1m" }}'],
            docker.EngineState("debian", daemon={"log-opts": {"max-size": "1m"}}),
        ),
        (["os debian", "daemon {oops"], docker.EngineState("debian", daemon=None)),
        (["os debian", "daemon "], docker.EngineState("debian", daemon=None)),
    ],
)
def test_docker_is_read(output: list[str], state: docker.EngineState) -> None:
    assert docker.Engine().process(output) == state


@pytest.mark.parametrize("output", ["[]", '"text"', "5", "null"])
def test_a_daemon_json_that_is_no_object_is_not_taken_for_an_empty_one(output: str) -> None:
    assert docker.Engine().process([f"daemon {output}"]).daemon is None


# --- Files ---


def test_files_are_read_with_mode_owner_and_content() -> None:
    output = ["644 0:0 docker-compose.yaml", "600 0:0 .env", "666 1000:1000 a name with spaces"]
    output += ["0f1e  docker-compose.yaml", "2d3c  .env", "4b5a  a name with spaces"]
    assert files.Lying().process(output) == {
        "docker-compose.yaml": ("644 0:0", "0f1e"),
        ".env": ("600 0:0", "2d3c"),
        "a name with spaces": ("666 1000:1000", "4b5a"),
    }


def test_a_look_at_files_reads_those_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "it's here").write_text("x")
    (tmp_path / "it's here").chmod(0o640)
    command = files.Lying().command(root=str(tmp_path), paths=["it's here", "not here"])
    sha256 = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    assert answered(files.Lying(), command) == {"it's here": (f"640 {os.getuid()}:{os.getgid()}", sha256)}


def test_a_look_where_nothing_is_finds_nothing(tmp_path: Path) -> None:
    command = files.Lying().command(root=str(tmp_path / "nowhere"), paths=[".env"])
    assert answered(files.Lying(), command) == {}


@pytest.mark.parametrize(
    ("served", "certificate", "there"), [("https", True, True), ("https", False, False), ("http", False, True)]
)
def test_a_site_whose_certificate_is_lost_is_as_good_as_missing(
    tmp_path: Path, served: Literal["http", "https"], certificate: bool, there: bool
) -> None:
    (tmp_path / SITE).parent.mkdir(parents=True)
    (tmp_path / SITE).write_text(site(served, "0123456789abcdef"))
    if certificate:
        (live := tmp_path / "volumes/certbot/conf/live/dify.lan").mkdir(parents=True)
        (live / "fullchain.pem").touch()
    found = answered(files.Lying(), files.Lying().command(root=str(tmp_path), paths=[SITE], domain="dify.lan"))
    assert (SITE in found) is there


# --- Folders ---


def test_folders_are_read_with_what_is_wrong() -> None:
    output = ["missing volumes/redis/data", "owner volumes/app/storage", "missing a b"]
    assert volumes.NotAsWanted().process(output) == {
        "volumes/redis/data": "missing",
        "volumes/app/storage": "owner",
        "a b": "missing",
    }


def test_a_look_at_folders_finds_the_missing_and_the_wrongly_owned(tmp_path: Path) -> None:
    for name in ("mine", "theirs", "taken by its container"):
        (tmp_path / name / "deep").mkdir(parents=True)
    own = os.getuid()
    wanted = [
        Folder("mine", own),
        Folder("theirs", own + 1),
        Folder("taken by its container"),
        Folder("missing"),
        Folder("missing too", own),
    ]
    found = answered(volumes.NotAsWanted(), volumes.NotAsWanted().command(root=str(tmp_path), folders=wanted))
    assert found == {"theirs": "owner", "missing": "missing", "missing too": "missing"}


# --- Containers ---

ROWS = f"""\
api	running	d1	Up 2 hours (healthy)	{ID}1
worker	running	d2	Up 4 seconds (health: starting)	{ID}2
web	running		Up 2 hours (unhealthy)	{ID}3
init_permissions	exited	d4	Exited (0) 2 hours ago	{ID}4
redis	restarting	d5	Restarting (1) 3 seconds ago	{ID}5
nginx	created	d6	Created	{ID}6"""


def test_containers_are_read() -> None:
    found = compose.Containers().process(ROWS.splitlines())
    assert found[0] == Container(f"{ID}1", "api", "running", "d1", "Up 2 hours (healthy)")
    assert [one.service for one in found] == ["api", "worker", "web", "init_permissions", "redis", "nginx"]
    assert [one.health for one in found] == ["healthy", "starting", "unhealthy", "exited", "restarting", "created"]


def container(
    service: str = "api", state: str = "running", digest: str = "d", status: str = "Up (healthy)", id: str = ID
) -> Container:
    return Container(id, service, state, digest, status)


SERVICE = Service("image", "d")
ONE_SHOT = Service("image", "d", one_shot=True, has_check=False)
UNCHECKED = Service("image", "d", has_check=False)


@pytest.mark.parametrize(
    ("found", "service", "right", "well"),
    [
        (container(), SERVICE, True, True),
        (container(digest="old"), SERVICE, False, True),
        (container(digest=""), SERVICE, False, True),
        (container(status="Up (health: starting)"), SERVICE, True, False),
        (container(status="Up (unhealthy)"), SERVICE, True, False),
        (container(status="Up 3 seconds"), SERVICE, True, False),
        (container(status="Up 3 seconds"), UNCHECKED, True, True),
        (container(state="exited", status="Exited (0) 1 hour ago"), SERVICE, False, False),
        (container(state="exited", status="Exited (137) 1 hour ago"), SERVICE, False, False),
        (container(state="created", status="Created"), SERVICE, False, False),
        (container(state="paused", status="Up 2 hours (Paused)"), SERVICE, False, False),
        (container(state="restarting", status="Restarting (1) 3 seconds ago"), SERVICE, False, False),
        (container(state="dead", status="Dead"), UNCHECKED, False, False),
        (container(state="exited", status="Exited (0) 1 hour ago"), ONE_SHOT, True, True),
        (container(state="exited", status="Exited (1) 1 hour ago"), ONE_SHOT, False, False),
        (container(state="exited", status="Exited (0) 1 hour ago", digest="old"), ONE_SHOT, False, True),
        (container(state="running", status="Up 3 seconds"), ONE_SHOT, True, False),
        (container(state="created", status="Created"), ONE_SHOT, False, False),
    ],
)
def test_a_container_is_right_and_well(found: Container, service: Service, right: bool, well: bool) -> None:
    assert found.is_right(service) is right
    assert found.is_well(service) is well


GOOD, OLD, STOPPED = container(id="good"), container(digest="old", id="old"), container(state="exited", id="stopped")


@pytest.mark.parametrize(
    ("found", "wanted", "stale", "surplus"),
    [
        ([], {}, [], []),
        ([], {"api": SERVICE}, ["api"], []),
        ([GOOD], {"api": SERVICE}, [], []),
        ([OLD], {"api": SERVICE}, ["api"], []),
        ([STOPPED], {"api": SERVICE}, ["api"], []),
        ([GOOD], {}, [], ["good"]),
        ([GOOD, container("qdrant", id="q")], {"api": SERVICE, "web": SERVICE}, ["web"], ["q"]),
        ([GOOD, OLD], {"api": SERVICE}, [], ["old"]),
        ([GOOD, STOPPED], {"api": SERVICE}, [], ["stopped"]),
        ([container("")], {"api": SERVICE}, ["api"], [ID]),
    ],
)
def test_only_what_differs_is_touched(
    found: list[Container], wanted: dict[str, Service], stale: list[str], surplus: list[str]
) -> None:
    names, gone = compare(found, wanted)
    assert (names, [one.id for one in gone]) == (stale, surplus)


def test_what_runs_as_rendered_is_not_touched() -> None:
    found = [
        container(
            name,
            "exited" if service.one_shot else "running",
            service.digest,
            "Exited (0) 1 hour ago" if service.one_shot else "Up",
        )
        for name, service in plain().services.items()
    ]
    assert compare(found, plain().services) == ([], [])


# --- The schema ---

IMAGE, OTHER = "sha256:1111", "sha256:2222"


@pytest.mark.parametrize(
    ("output", "state", "current"),
    [
        ([], SchemaState(), False),
        (["image "], SchemaState(), False),
        ([f"image {IMAGE}"], SchemaState(IMAGE), False),
        ([f"image {IMAGE}", f"recorded {IMAGE} 288345cd01d1"], SchemaState(IMAGE, (IMAGE, "288345cd01d1")), True),
        (
            [f"image {IMAGE}", f"recorded {IMAGE} 288345cd01d1", "revision 288345cd01d1"],
            SchemaState(IMAGE, (IMAGE, "288345cd01d1"), "288345cd01d1"),
            True,
        ),
        (
            [f"image {IMAGE}", f"recorded {IMAGE} 288345cd01d1", "revision c47e5a8830f2"],
            SchemaState(IMAGE, (IMAGE, "288345cd01d1"), "c47e5a8830f2"),
            False,
        ),
        (
            [f"image {IMAGE}", f"recorded {IMAGE} 288345cd01d1", "revision "],
            SchemaState(IMAGE, (IMAGE, "288345cd01d1"), ""),
            False,
        ),
        (
            [f"image {OTHER}", f"recorded {IMAGE} 288345cd01d1", "revision 288345cd01d1"],
            SchemaState(OTHER, (IMAGE, "288345cd01d1"), "288345cd01d1"),
            False,
        ),
        (["image ", f"recorded {IMAGE} 288345cd01d1"], SchemaState(None, (IMAGE, "288345cd01d1")), False),
        ([f"image {IMAGE}", f"recorded {IMAGE}"], SchemaState(IMAGE), False),
        ([f"image {IMAGE}", "recorded "], SchemaState(IMAGE), False),
    ],
)
def test_a_schema_is_current_when_it_was_proven_for_this_image(
    output: list[str], state: SchemaState, current: bool
) -> None:
    found = migrate.Schema().process(output)
    assert found == state
    assert found.is_current is current


# --- The answer ---

RIGHT = {"setup": '{"step":"not_started"} 200', "page": "200"}


def test_answers_are_read() -> None:
    output = ['setup {"step": "finished", "setup_at": "x"} 200', "page 307", "address 192.0.2.7"]
    assert gate.Answer().process(output) == {
        "setup": '{"step": "finished", "setup_at": "x"} 200',
        "page": "307",
        "address": "192.0.2.7",
    }


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, []),
        ({"setup": '{"step": "finished", "setup_at": "2025-01-01"} 200'}, []),
        ({"page": "307"}, []),
        ({"setup": "<html>502 Bad Gateway</html> 502"}, ["/console/api/setup says <html>502 Bad Gateway</html> 502"]),
        ({"setup": '{"step":"finished"} 500'}, ['/console/api/setup says {"step":"finished"} 500']),
        ({"setup": "welcome to nginx 200"}, ["/console/api/setup says welcome to nginx 200"]),
        (
            {"setup": "curl: (28) Operation timed out after 10002 milliseconds with 0 bytes received 000"},
            [
                "/console/api/setup gives no answer: curl: (28) Operation timed out after 10002 milliseconds with 0 bytes received"
            ],
        ),
        ({"setup": ""}, ["/console/api/setup says nothing"]),
        ({"page": "404"}, ["/ says 404"]),
        ({"page": "502"}, ["/ says 502"]),
        (
            {"page": "curl: (7) Failed to connect to 127.0.0.1"},
            ["/ gives no answer: curl: (7) Failed to connect to 127.0.0.1"],
        ),
        ({"page": ""}, ["/ says nothing"]),
    ],
)
def test_a_wrong_answer_is_said_as_it_came(changed: dict[str, str], said: list[str]) -> None:
    assert gate.wrong_answers({**RIGHT, **changed}) == said


def test_no_answer_at_all_is_two_wrong_ones() -> None:
    assert len(gate.wrong_answers({})) == 2


@pytest.mark.parametrize(
    ("port", "url"),
    [
        ("80", "127.0.0.1:80"),
        ("127.0.0.1:8080", "127.0.0.1:8080"),
        ("0.0.0.0:80", "127.0.0.1:80"),
        ("192.0.2.7:80", "192.0.2.7:80"),
        ("[::1]:8080", "[::1]:8080"),
        ("[::]:8080", "127.0.0.1:8080"),
    ],
)
def test_the_host_asks_where_nginx_listens(port: str, url: str) -> None:
    assert gate.local(port) == url


# --- Images ---


def test_missing_images_are_read() -> None:
    assert images.Missing().process(["nginx:1.28.0", "redis:6-alpine"]) == ["nginx:1.28.0", "redis:6-alpine"]


@pytest.mark.parametrize(
    "fact",
    [compose.Containers, docker.Engine, files.Lying, gate.Answer, images.Missing, migrate.Schema, volumes.NotAsWanted],
)
def test_a_fact_of_a_silent_host_is_its_default(fact: Any) -> None:
    empty = fact().process([])
    assert empty == (
        {} if fact is gate.Answer else docker.EngineState(daemon={}) if fact is docker.Engine else fact.default()
    )
