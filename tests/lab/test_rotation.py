"""Another value for a secret of a running deployment: both sides have it, the real server refuses the old one."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.hosts import Host
from tests.lab.checkout import Checkout, Run
from tests.lab.containers import containers, get, reached, replaced, secrets_of, sh

PROJECT = "inventory.py", "tasks.secrets.rotate"
# All that Dify's shared settings are handed to.
BACKEND = {"api", "worker", "worker_beat", "plugin_daemon"}
# Whose containers must be others afterwards: the secret's server and who logs in to it.
READERS = {
    "DB_PASSWORD": BACKEND | {"db_postgres"},
    "REDIS_PASSWORD": BACKEND | {"redis"},
    "SANDBOX_API_KEY": BACKEND | {"sandbox"},
    "WEAVIATE_API_KEY": BACKEND | {"weaviate"},
    "PLUGIN_DAEMON_KEY": BACKEND,
}
ADDRESS = (
    "docker inspect --format '{{range .NetworkSettings.Networks}}{{println .IPAddress}}{{end}}' dify-%s-1 | head -n 1"
)
# How a value is tried on the real server by this test; each says "in" when it is taken.
RUN = '-H \'Content-Type: application/json\' --data \'{"language": "python3", "code": "print(1)"}\''
TRIES: dict[str, Callable[[str], str]] = {
    "DB_PASSWORD": lambda value: (
        f"docker exec -e PGPASSWORD={value} dify-db_postgres-1 psql -h $({ADDRESS % 'db_postgres'}) -U postgres -d dify -tAc "
        "\"select 'in'\" 2>&1"
    ),
    "db_mysql": lambda value: (
        f"docker exec -e MYSQL_PWD={value} dify-db_mysql-1 mysql --protocol=tcp -h $({ADDRESS % 'db_mysql'}) -u root -N "
        "-e \"select 'in'\" 2>&1"
    ),
    "pgvector": lambda value: (
        f"docker exec -e PGPASSWORD={value} dify-pgvector-1 psql -h $({ADDRESS % 'pgvector'}) -U postgres -d dify -tAc "
        "\"select 'in'\" 2>&1"
    ),
    "REDIS_PASSWORD": lambda value: (
        f"docker exec -e REDISCLI_AUTH={value} dify-redis-1 redis-cli ping 2>&1 | sed 's/^PONG$/in/'"
    ),
    # By way of the proxy: the host itself has none to it.
    "SANDBOX_API_KEY": lambda value: _http("ssrf_proxy", 8194, "/v1/sandbox/run", f"X-Api-Key: {value}", RUN),
    "WEAVIATE_API_KEY": lambda value: _http("weaviate", 8080, "/v1/schema", f"Authorization: Bearer {value}"),
}


def _http(service: str, port: int, path: str, header: str, more: str = "") -> str:
    url = f"http://$({ADDRESS % service}):{port}{path}"
    return f"curl -s -o /dev/null -w '%{{http_code}}' -m 20 -H '{header}' {more} {url} | sed 's/^2..$/in/'"


def lets_in(host: Host, name: str, value: str) -> bool:
    """Whether the real server of this secret takes a value; it must answer."""
    said = host.run(TRIES[name](value)).stdout.strip()
    assert said
    assert said != "000"
    return said.splitlines()[-1] == "in"


class Outage:
    """Asks /console/api/setup all the time, for how long no right answer comes."""

    def __init__(self, host: Host) -> None:
        self.host, self.good, self.over = host, [time.monotonic()], threading.Event()
        self.thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self.over.is_set():
            try:
                if get(self.host, "/console/api/setup")[0] == 200:
                    self.good.append(time.monotonic())
            except OSError:
                pass
            self.over.wait(0.2)

    def __enter__(self) -> Outage:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    @property
    def seconds(self) -> float:
        """The longest time between two right answers."""
        return max(after - before for before, after in zip(self.good, self.good[1:], strict=False))


@pytest.fixture(scope="module")
def host(checkout: Checkout) -> Host:
    """A host that Dify runs on."""
    checkout.deploy().ok()
    reached(checkout.hosts[0])
    return checkout.hosts[0]


def rotate(checkout: Checkout, *arguments: str) -> Run:
    return checkout.pyinfra("inventory.py", "tasks.secrets.rotate", *arguments)


def is_clean(host: Host) -> bool:
    return sh(host, "ls -A /opt/dify | grep -F .rotation || true") == ""


@pytest.mark.parametrize("name", READERS)
def test_both_sides_have_another_value_and_the_old_one_is_dead(
    checkout: Checkout, host: Host, name: str, record_property: Callable[[str, object], None]
) -> None:
    before, ran = secrets_of(host), containers(host)
    assert name not in TRIES or lets_in(host, name, before[name])
    with Outage(host) as outage:
        run = rotate(checkout, f"name={name}", "-y", "-vvv", "--debug", "--diff").ok()
    record_property("outage", outage.seconds)
    print(f"{name}: {outage.seconds:.1f} s without an answer")
    after = secrets_of(host)
    assert after[name] != before[name]
    assert replaced(ran, containers(host)) == READERS[name]
    run.says("refuses the old value" if name in TRIES else "not proven")
    assert name not in TRIES or (lets_in(host, name, after[name]), lets_in(host, name, before[name])) == (True, False)
    reached(host)
    assert is_clean(host)
    assert {value for value in (before[name], after[name]) if value in run.output} == set()
    assert checkout.deploy().ok().changed == []
    assert {key for key in after if after[key] != before.get(key)} <= {name, *SAME.get(name, ())}


SAME = {
    "REDIS_PASSWORD": ("CELERY_BROKER_URL",),
    "SANDBOX_API_KEY": ("CODE_EXECUTION_API_KEY",),
    "WEAVIATE_API_KEY": ("WEAVIATE_AUTHENTICATION_APIKEY_ALLOWED_KEYS",),
}


@pytest.mark.parametrize(
    "step", ["New value noted on the host", "Server has the new value", "Configuration files", "Stack runs"]
)
def test_killed_in_a_step_and_run_again(checkout: Checkout, host: Host, step: str) -> None:
    before = secrets_of(host)["DB_PASSWORD"]
    kill_after(checkout, step)
    noted = sh(host, "sed -n 's/^NEW=//p' /opt/dify/.rotation | base64 -d")
    assert sh(host, "stat -c '%a %u' /opt/dify/.rotation") == "600 0"
    ran = containers(host)
    checkout.deploy().refused("the change of DB_PASSWORD was not finished", "tasks.secrets.rotate name=DB_PASSWORD")
    rotate(checkout, "name=REDIS_PASSWORD", "-y").refused("first run", "name=DB_PASSWORD")
    assert containers(host) == ran
    rotate(checkout, "name=DB_PASSWORD", "-y").ok().says("refuses the old value")
    assert secrets_of(host)["DB_PASSWORD"] == noted
    assert (lets_in(host, "DB_PASSWORD", noted), lets_in(host, "DB_PASSWORD", before)) == (True, False)
    reached(host)
    assert is_clean(host)
    assert checkout.deploy().ok().changed == []


def kill_after(checkout: Checkout, step: str) -> None:
    """Start a rotation and kill -9 it as soon as this step has done its work."""
    checkout.write_inventory()
    words = [str(Path(sys.executable).with_name("pyinfra")), *PROJECT, "name=DB_PASSWORD", "-y"]
    with subprocess.Popen(
        words,
        cwd=checkout.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout
        begun = False
        for line in process.stdout:
            begun = begun or f"Starting operation: {step}" in line
            # The line that ends a step; in the middle of the longest one it is not waited for.
            if begun and (step == "Stack runs" or "Success" in line or "No changes" in line):
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL


def test_a_new_value_of_the_operators_own_is_taken(checkout: Checkout, host: Host) -> None:
    before, theirs = secrets_of(host)["DB_PASSWORD"], "p@ss:w/rd#$%'\" \\"
    quoted = theirs.replace("\\", "\\\\").replace("'", "\\'")
    checkout.write(".env", f"DB_PASSWORD='{quoted}'\n")
    checkout.deploy().refused("DB_PASSWORD: differs from the one in", "tasks.secrets.rotate name=DB_PASSWORD")
    rotate(checkout, "name=DB_PASSWORD", "-y").ok().says("refuses the old value")
    assert secrets_of(host)["DB_PASSWORD"] == theirs
    assert not lets_in(host, "DB_PASSWORD", before)
    reached(host)
    assert checkout.deploy().ok().changed == []
    rotate(checkout, "name=DB_PASSWORD", "-y").refused("the host has the value that your settings give")
    checkout.write(".env", "")
    assert checkout.deploy().ok().changed == []


def test_mysql_and_the_database_of_a_vector_store_are_changed_alike(
    scratch: Callable[..., Checkout], new_host: Callable[..., Host]
) -> None:
    other = new_host("b")
    checkout = scratch(other)
    checkout.write(".env", "DB_TYPE=mysql\nVECTOR_STORE=pgvector\n")
    checkout.deploy().ok()
    reached(other)
    for name, service in (("DB_PASSWORD", "db_mysql"), ("PGVECTOR_PASSWORD", "pgvector")):
        before, ran = secrets_of(other)[name], containers(other)
        rotate(checkout, f"name={name}", "-y").ok().says(f"{service} refuses the old value")
        assert replaced(ran, containers(other)) == BACKEND | {service}
        after = secrets_of(other)[name]
        assert after != before
        assert (lets_in(other, service, after), lets_in(other, service, before)) == (True, False)
        reached(other)
    assert checkout.deploy().ok().changed == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("name=SECRET_KEY", "stored credentials (of model providers, tools, plugins) are encrypted"),
        ("name=DB_PASWORD", "did you mean DB_PASSWORD?"),
        ("name=CODE_EXECUTION_API_KEY", "has the same value as SANDBOX_API_KEY"),
        ("name=QDRANT_API_KEY", "nothing of this deployment uses it"),
        ("", "name= is missing"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_changes(checkout: Checkout, host: Host, words: str, said: str) -> None:
    before, ran = secrets_of(host), containers(host)
    rotate(checkout, *words.split(), "-y").refused(said)
    assert (secrets_of(host), containers(host)) == (before, ran)


def test_a_plan_changes_nothing(checkout: Checkout, host: Host) -> None:
    before, ran = secrets_of(host), containers(host)
    planned = rotate(checkout, "name=DB_PASSWORD", "--dry").ok().planned
    assert planned[:3] == ["New value noted on the host", "Server has the new value", "Configuration files"]
    assert (secrets_of(host), containers(host), is_clean(host)) == (before, ran, True)


def test_one_secret_is_printed_on_demand(checkout: Checkout, host: Host) -> None:
    shown = checkout.pyinfra("inventory.py", "tasks.secrets.show", "name=INIT_PASSWORD", "--dry").ok()
    assert f"{host.name}: {secrets_of(host)['INIT_PASSWORD']}" in shown.output.splitlines()
    wrong = checkout.pyinfra("inventory.py", "tasks.secrets.show", "name=INIT_PASWORD", "--dry")
    wrong.refused("did you mean INIT_PASSWORD?")
