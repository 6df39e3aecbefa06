"""What runs on a host, seen from the host itself."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from lab.hosts import Host

LIST = (
    "docker ps -aq --filter label=com.docker.compose.project={project} --filter label=com.docker.compose.oneoff=False"
    " | xargs -r docker inspect --format "
    "'{{{{index .Config.Labels \"com.docker.compose.service\"}}}} {{{{.Id}}}} {{{{.State.StartedAt}}}}'"
)
CORE = {
    "init_permissions",
    "api",
    "worker",
    "worker_beat",
    "web",
    "db_postgres",
    "redis",
    "sandbox",
    "plugin_daemon",
    "ssrf_proxy",
    "nginx",
    "weaviate",
}


def containers(host: Host, project: str = "dify") -> dict[str, tuple[str, str]]:
    """{service: (container id, start time)}"""
    lines = sh(host, LIST.format(project=project)).splitlines()
    return {service: (id, started) for service, id, started in map(str.split, lines)}


def replaced(before: dict[str, tuple[str, str]], after: dict[str, tuple[str, str]]) -> set[str]:
    """The services whose container is another one or was started again."""
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def sh(host: Host, command: str) -> str:
    """Run a command on the host; it must succeed."""
    done = host.run(command)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


def sql(host: Host, statement: str, project: str = "dify") -> str:
    """Run SQL in Dify's database."""
    return sh(host, f'docker exec {project}-db_postgres-1 psql -U postgres -d dify -tAc "{statement}"')


def get(host: Host, path: str, port: int = 80) -> tuple[int, str]:
    """Status and body of what nginx answers."""
    try:
        with urllib.request.urlopen(f"http://{host.address}:{port}{path}", timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def answers_within(host: Host, patience: float) -> bool:
    """Whether Dify answers before so many seconds are over."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            if get(host, "/console/api/setup")[0] == 200:
                return True
        except OSError:
            pass
        time.sleep(1)
    return False


def within(patience: float, job: Callable[[], None]) -> None:
    """The job must succeed once within that many seconds, or one of three times where it takes longer itself."""
    deadline = time.monotonic() + patience
    tries = 0
    while True:
        tries += 1
        try:
            return job()
        except AssertionError:
            if tries >= 3 and time.monotonic() > deadline:
                raise
            time.sleep(1)


def reached(host: Host, patience: float = 180, port: int = 80) -> dict[str, Any]:
    """What the stand-in for the api says it reached with the settings it got; everything must be well.

    patience: seconds; beat's first job after a new Redis comes within 10, the worker finds it again by itself.
    port: the one that nginx is published at.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            status, body = get(host, "/console/api/stand-in/reached", port)
        except OSError as error:  # too slow, or nobody listens yet
            status, body = 0, repr(error)
        if status == 200:
            found: dict[str, Any] = json.loads(body)
            return found
        assert time.monotonic() < deadline, body
        time.sleep(2)


def secrets_of(host: Host, root: str = "/opt/dify") -> dict[str, str]:
    """The secrets in the host's .env below root."""
    from stack import dotenv
    from stack.secrets import is_secret

    return {name: value for name, value in dotenv.read(sh(host, f"cat {root}/.env")).items() if is_secret(name)}
