"""Middleware mode on a real host: only what Dify needs around it, on loopback, for an api and a worker that run beside it."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from io import StringIO

import pytest
from dotenv import dotenv_values

from lab.hosts import Host
from tests.lab.checkout import Checkout, Run
from tests.lab.containers import containers, get, secrets_of, sh, sql
from tests.lab.scan import only_open_either_way

pytestmark = pytest.mark.variants

AROUND = {"db_postgres", "redis", "sandbox", "plugin_daemon", "ssrf_proxy", "weaviate"}
# Those of the release's docker-compose.middleware.yaml; the stand-in for Weaviate has no gRPC, Docker listens all the same.
PORTS = (5432, 6379, 5002, 5003, 3128, 8194, 8080, 50051)
ENV_FILE = "/opt/dify/developer/api.env"
# The api's image as a developer's own process: in the host's network, with the printed settings and no others.
RUN = "docker run {how} --network host --env-file " + ENV_FILE + " --env MODE={mode} {more} {image}"
NAMES = ("developer-api", "developer-worker", "developer-beat")


@pytest.fixture(scope="module")
def host(checkout: Checkout) -> Host:
    checkout.knobs |= {"mode": "middleware", "firewall": "docker-user"}
    return checkout.hosts[0]


@pytest.fixture(scope="module")
def first(checkout: Checkout, host: Host) -> Run:
    """The first deploy, on a bare host."""
    return checkout.deploy("-vvv", "--debug", "--diff").ok()


@pytest.fixture(scope="module")
def printed(checkout: Checkout, first: Run) -> str:
    """What the command prints for api and worker."""
    shown = checkout.pyinfra("inventory.py", "tasks.middleware.show", "only=api", "--dry").ok()
    lines = [line for line in shown.output.splitlines() if re.match(r"[A-Z0-9_]+=", line)]
    return "".join(f"{line}\n" for line in lines)


@pytest.fixture(scope="module")
def local(host: Host, printed: str) -> Iterator[Host]:
    """The host with an api, a worker and beat that a developer started on it."""
    plugin = sh(host, "docker inspect --format '{{.Config.Image}}' dify-plugin_daemon-1")
    image = plugin.replace("dify-plugin-daemon:0.5.2-local", "dify-api:1.11.4")
    assert image != plugin
    sh(host, f"docker pull --quiet {image}")
    sh(host, RUN.format(how="--rm", mode="migration", more="--env MIGRATION_ENABLED=true", image=image))
    for name, mode in zip(NAMES, ("api", "worker", "beat"), strict=True):
        sh(host, RUN.format(how=f"--detach --name {name}", mode=mode, more="", image=image))
    yield host
    host.run(f"docker rm --force {' '.join(NAMES)}")


def connects(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=3).close()
    except OSError:
        return False
    return True


def test_a_bare_host_gets_what_dify_needs_around_it_and_nothing_else(first: Run, host: Host) -> None:
    assert set(containers(host)) == AROUND
    first.says("Dify 1.11.4's middleware is well", "published on 127.0.0.1", "tasks.middleware.show")
    assert "Database schema" not in first.changed
    assert "Middleware is well" in first.output
    assert "langgenius/dify-api" not in sh(host, "docker image ls --format '{{.Repository}}'")


def test_no_secret_is_in_the_output_of_the_deploy(first: Run, host: Host) -> None:
    assert len(secrets_of(host)) >= 10
    assert [name for name, value in secrets_of(host).items() if value in first.output] == []


def test_a_second_run_changes_and_restarts_nothing(checkout: Checkout, first: Run, host: Host) -> None:
    before = containers(host)
    assert checkout.plan().ok().planned == []
    assert checkout.deploy().ok().changed == []
    assert containers(host) == before


@pytest.mark.parametrize("port", PORTS)
def test_every_port_answers_on_loopback_and_on_no_other_address(first: Run, host: Host, port: int) -> None:
    sh(host, f"timeout 5 bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}'")
    listening = sh(host, f"ss -Hltn 'sport = :{port}'")
    assert [line.split()[3] for line in listening.splitlines()] == [f"127.0.0.1:{port}"]
    assert connects(host.address, 22)
    assert not connects(host.address, port)


def test_no_port_at_all_is_open_to_another_machine(first: Run, host: Host) -> None:
    only_open_either_way(host)


def test_the_settings_are_for_root_and_printed_as_they_lie_there(printed: str, host: Host) -> None:
    assert sh(host, "stat -c '%a %U' /opt/dify/developer/api.env /opt/dify/developer/web.env") == "600 root\n600 root"
    assert printed in sh(host, f"cat {ENV_FILE}") + "\n"
    found = dotenv_values(stream=StringIO(printed))
    assert found["DB_PASSWORD"] == secrets_of(host)["DB_PASSWORD"]
    assert found == dict(line.split("=", 1) for line in printed.splitlines())


def test_both_files_are_printed_and_only_in_this_mode(checkout: Checkout, first: Run) -> None:
    both = checkout.pyinfra("inventory.py", "tasks.middleware.show", "--dry").ok()
    both.says("developer/api.env", "NEXT_PUBLIC_API_PREFIX=http://localhost:5001/console/api")
    wrong = checkout.pyinfra("inventory.py", "tasks.middleware.show", "only=apis", "--dry")
    assert wrong.code == 1
    wrong.says("only=apis: allowed are api and web")
    checkout.knobs["mode"] = "dify"
    refused = checkout.pyinfra("inventory.py", "tasks.middleware.show", "--dry")
    checkout.knobs["mode"] = "middleware"
    assert refused.code == 1
    assert "DB_PASSWORD" not in refused.output
    refused.says('mode = "dify"')


def test_a_local_api_migrates_with_the_printed_settings(local: Host) -> None:
    assert sql(local, "select version_num from alembic_version") == "288345cd01d1"


def test_a_local_api_and_worker_reach_everything_with_the_printed_settings(local: Host) -> None:
    deadline = time.monotonic() + 90
    while True:
        try:
            status, body = get(local, "/console/api/stand-in/reached", port=5001)
        except OSError as error:
            status, body = 0, str(error)
        if status == 200:
            break
        assert time.monotonic() < deadline, body
        time.sleep(2)
    reached = {name for name, result in json.loads(body).items() if result["ok"]}
    assert reached == {
        "database", "redis", "broker", "worker", "beat", "storage", "sandbox", "plugin_daemon", "vector_store", "ssrf_proxy",
    }  # fmt: skip


def test_a_local_api_is_reached_from_inside_as_host_docker_internal(local: Host) -> None:
    ask = (
        "exec 3<>/dev/tcp/host.docker.internal/5001; "
        r"printf \"GET /health HTTP/1.0\r\n\r\n\" >&3; read -r -t 5 line <&3; echo \"\$line\""
    )
    for service in ("plugin_daemon", "ssrf_proxy"):
        assert " 200 " in sh(local, f'docker exec dify-{service}-1 bash -c "{ask}"'), service


def test_a_wrong_password_is_refused_by_the_real_servers(local: Host) -> None:
    image = sh(local, "docker inspect --format '{{.Config.Image}}' developer-api")
    wrong = "--rm --env DB_PASSWORD=wrong --entrypoint flask"
    done = local.run(f"docker run --network host --env-file {ENV_FILE} {wrong} {image} db current")
    assert done.returncode != 0
    assert "password authentication failed" in done.stdout + done.stderr


def test_a_taken_port_is_refused_with_the_setting_that_moves_it(checkout: Checkout, first: Run, host: Host) -> None:
    before = containers(host)
    image = sh(host, "docker inspect --format '{{.Config.Image}}' dify-redis-1")
    sh(host, f"docker run --detach --name taken --publish 127.0.0.1:16379:6379 {image}")
    checkout.write(".env", "EXPOSE_REDIS_PORT=16379\n")
    checkout.deploy().refused("port 127.0.0.1:16379 is held by", "set EXPOSE_REDIS_PORT")
    assert containers(host) == before
    sh(host, "docker rm --force --volumes taken")
    assert checkout.deploy().ok().changed == ["Configuration files", "Firewall", "Stack runs"]
    assert "REDIS_PORT=16379" in sh(host, f"cat {ENV_FILE}")
    checkout.write(".env", "")
    checkout.deploy().ok()


def test_dify_itself_takes_over_with_the_data_that_is_there(checkout: Checkout, local: Host) -> None:
    local.run(f"docker rm --force {' '.join(NAMES)}")
    sql(local, "create table kept (word text); insert into kept values ('row')")
    checkout.deploy(mode="dify").ok().says("Dify 1.11.4 answers at")
    assert sql(local, "select word from kept") == "row"
    assert not connects(local.address, 5432)
    assert sh(local, "ss -Hltn 'sport = :5432'") == ""
    checkout.deploy().ok().says("removing, data kept: ")
    assert set(containers(local)) == AROUND
    assert sql(local, "select word from kept") == "row"
