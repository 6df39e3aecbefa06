"""No secret in the output, in any process's arguments or in a file that others can read, at any moment of a run."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lab.hosts import Host
from tests.lab.checkout import Checkout
from tests.lab.containers import CORE, containers, reached, secrets_of, sh

# Notes the arguments of every process that is seen, and keeps each content it sees of every file that others may read. Asked to
# stop, it ends its round: nothing is left half copied.
WATCH = r"""
mkdir -m 700 -p /root/seen/files
touch /root/seen/watching
while test -e /root/seen/watching; do
    for process in /proc/[0-9]*; do tr '\0' ' ' < $process/cmdline; echo; done 2>/dev/null | sort -u >> /root/seen/arguments
    find /opt/dify /tmp /var/tmp /etc/docker /etc/systemd/system -xdev -path '*/volumes/*/*/*' -prune -o \
        -type f -perm /044 -print 2>/dev/null | while read -r file; do
        cp --parents --preserve=timestamps --update --backup=numbered "$file" /root/seen/files 2>/dev/null
    done
    sort -u -o /root/seen/arguments /root/seen/arguments
done
"""


@pytest.fixture(scope="module")
def watched(checkout: Checkout) -> Host:
    """A bare host with a watcher on it, reached as a user who needs sudo."""
    host = checkout.hosts[0]
    checkout.knobs = {"ssh_user": "ops"}
    host.run("cat > /root/watch.sh", stdin=WATCH)
    sh(host, "systemd-run --unit watcher --quiet sh /root/watch.sh")
    return host


@pytest.fixture(scope="module")
def outputs(checkout: Checkout, watched: Host) -> list[str]:
    """What a first run and a run that changes files printed with everything switched on."""
    loud = ("-vvv", "--debug", "--diff")
    first = checkout.deploy(*loud).ok()
    assert set(containers(watched)) == CORE
    reached(watched)
    # By stdin: the watcher notes arguments of everybody.
    edit = "s/^REDIS_PASSWORD=.*/REDIS_PASSWORD=AnotherPasswordOfTheOperator/\n"
    assert watched.run("sed -i -f /dev/stdin /opt/dify/.env", stdin=edit).returncode == 0
    plan = checkout.plan(*loud).ok()
    second = checkout.deploy(*loud).ok()
    reached(watched)
    sh(
        watched,
        "rm /root/seen/watching; timeout 120 sh -c 'while systemctl is-active --quiet watcher; do sleep 0.2; done'",
    )
    return [first.output, plan.output, second.output]


def test_no_secret_is_printed(outputs: list[str], watched: Host) -> None:
    secrets = secrets_of(watched)
    assert len(secrets) >= 10
    assert "[REDACTED]" in outputs[2]
    for name, value in secrets.items():
        assert not any(value in output for output in outputs), f"{name} was printed"


def test_no_secret_was_in_the_arguments_of_a_process(outputs: list[str], watched: Host) -> None:
    seen = sh(watched, "cat /root/seen/arguments")
    assert "docker compose" in seen
    assert "redis-server" in seen
    for name, value in secrets_of(watched).items():
        assert value not in seen, f"{name} was in the arguments of a process"


def test_no_secret_was_in_a_file_that_others_can_read(outputs: list[str], watched: Host) -> None:
    assert sh(
        watched,
        "cd /root/seen/files && test -s opt/dify/docker-compose.yaml && test -s opt/dify/nginx/routes.conf && echo seen",
    )
    for name, value in secrets_of(watched).items():
        assert watched.run(f"grep -rqF {value} /root/seen/files").returncode == 1, f"{name} was in a readable file"
    assert (
        sh(watched, "stat -c '%a %U' /opt/dify/.env /opt/dify/volumes/sandbox/conf/config.yaml") == "600 root\n600 root"
    )
    assert sh(watched, "stat -c %a /opt/dify/volumes") == "700"


def test_a_secret_the_operator_changed_on_the_host_is_taken_as_it_is(outputs: list[str], watched: Host) -> None:
    assert secrets_of(watched)["REDIS_PASSWORD"] == "AnotherPasswordOfTheOperator"
    assert "AnotherPasswordOfTheOperator" in secrets_of(watched)["CELERY_BROKER_URL"]


def test_no_published_default_runs(outputs: list[str], watched: Host) -> None:
    config = sh(watched, "cd /opt/dify && docker compose config; docker inspect $(docker ps -aq)")
    for default in (
        "difyai123456",
        "WVF5YThaHlkYwhGUSmCRgsX3tD5ngdN8pkih",
        "sk-9f73s3lj",
        "QaHbTe77",
        "lYkiYYT6",
        'dify-sandbox"',
    ):
        assert default not in config


def test_another_run_changes_no_secret(checkout: Checkout, outputs: list[str], watched: Host) -> None:
    before = secrets_of(watched)
    assert checkout.deploy().ok().changed == []
    assert secrets_of(watched) == before


def test_a_password_the_data_was_made_with_is_not_replaced(
    scratch: Callable[..., Checkout], outputs: list[str], watched: Host
) -> None:
    checkout = scratch(watched)
    checkout.write(".env", "DB_PASSWORD=another\n")
    checkout.deploy().refused("DB_PASSWORD: differs from the one in /opt/dify/.env on the host")


def test_a_lost_env_file_beside_a_database_is_refused(checkout: Checkout, outputs: list[str], watched: Host) -> None:
    before = containers(watched)
    sh(watched, "mv /opt/dify/.env /root/.env")
    checkout.deploy().refused("holds a database, but DB_PASSWORD and SECRET_KEY of it is gone from /opt/dify/.env")
    sh(watched, "mv /root/.env /opt/dify/.env")
    assert containers(watched) == before
    assert checkout.deploy().ok().changed == []


def test_a_vanished_database_is_refused(checkout: Checkout, outputs: list[str], watched: Host) -> None:
    sh(watched, "docker stop dify-db_postgres-1 && mv /opt/dify/volumes/db/data/pgdata /root/pgdata")
    checkout.deploy().refused("volumes/db/data is empty, but Dify ran here before")
    sh(watched, "mv /root/pgdata /opt/dify/volumes/db/data/pgdata")
    assert checkout.deploy().ok().changed == ["Stack runs"]
    reached(watched)
