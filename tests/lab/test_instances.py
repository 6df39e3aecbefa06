"""Two deployments on one machine, from bare in one run, each with its first account; what is done to one spares the other."""

from __future__ import annotations

import base64
import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable

import pytest

from lab.hosts import Host
from lab.inventory import data
from tests.lab.checkout import Checkout, Run
from tests.lab.containers import CORE, containers, get, reached, replaced, secrets_of, sh, sql

# The second project's name begins with the first one's.
PROJECT, ROOT, PORT = "dify-two", "/opt/two", 8080
ADMIN = {"email": "admin@example.com", "name": 'The "first" one'}


@pytest.fixture(scope="module")
def both(checkout: Checkout) -> Checkout:
    """An inventory that names the module's one machine twice."""
    host = checkout.hosts[0]
    checkout.knobs = {"admin": ADMIN}
    two = {**data(host), "project": PROJECT, "root": ROOT, "admin": {**ADMIN, "email": "two@example.com"}}
    checkout.write_inventory({"two": two})
    checkout.write("env/two.env", f"EXPOSE_NGINX_PORT={PORT}\n")
    return checkout


@pytest.fixture(scope="module")
def plan(both: Checkout) -> Run:
    """What --dry said of the bare machine."""
    return run(both, "deploy.py", "--dry").ok()


@pytest.fixture(scope="module")
def first(both: Checkout, plan: Run) -> Run:
    """The run that found a bare machine."""
    return run(both, "deploy.py", "-y", "-vv").ok()


@pytest.fixture
def machine(both: Checkout, first: Run) -> Host:
    return both.hosts[0]


def run(both: Checkout, *words: str) -> Run:
    return both.pyinfra("inventory.py", *words, inventory=False)


def password(host: Host, root: str) -> str:
    return sh(host, f"cat {root}/.admin-password")


def log_in(host: Host, email: str, word: str, port: int) -> int:
    body = json.dumps({"email": email, "password": base64.b64encode(word.encode()).decode()}).encode()
    url = f"http://{host.address}:{port}/console/api/login"
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_both_come_up_on_a_bare_machine_in_one_run(machine: Host) -> None:
    assert set(containers(machine)) == set(containers(machine, PROJECT)) == CORE
    reached(machine)
    reached(machine, port=PORT)


def test_nothing_is_shared(machine: Host) -> None:
    ours, theirs = secrets_of(machine), secrets_of(machine, ROOT)
    assert ours.keys() == theirs.keys()
    assert not set(ours.values()) & set(theirs.values())
    listed = "docker ps -aq --filter label=com.docker.compose.project={} | xargs docker inspect --format '{{{{json .Mounts}}}}'"
    for project, root in (("dify", "/opt/dify"), (PROJECT, ROOT)):
        mounts = [mount for line in sh(machine, listed.format(project)).splitlines() for mount in json.loads(line)]
        sources = [mount["Source"] for mount in mounts]
        assert sources
        assert all(source.startswith((f"{root}/", "/var/lib/docker/volumes/")) for source in sources)


# --- The first account ---


def test_the_plan_announced_the_account(plan: Run, first: Run) -> None:
    assert "First account" in plan.planned
    assert plan.planned.index("First account") == plan.planned.index("Stack runs") - 1
    assert first.changed == plan.planned


@pytest.mark.parametrize(
    ("root", "email", "port"), [("/opt/dify", ADMIN["email"], 80), (ROOT, "two@example.com", PORT)]
)
def test_the_account_can_log_in(machine: Host, root: str, email: str, port: int) -> None:
    word = password(machine, root)
    assert re.fullmatch("[A-Za-z0-9]{24}", word)
    assert log_in(machine, email, word, port) == 200
    assert log_in(machine, email, "another" + word, port) == 401
    assert '"finished"' in get(machine, "/console/api/setup", port)[1]
    assert sh(machine, f"stat -c '%a %U' {root}/.admin-password") == "600 root"


def test_without_a_terminal_the_password_is_not_printed(machine: Host, first: Run) -> None:
    for root in ("/opt/dify", ROOT):
        assert password(machine, root) not in first.output
        first.says(f"the first account's password lies in {root}/.admin-password on the host")


def test_nginx_came_after_the_account(machine: Host) -> None:
    for project in ("dify", PROJECT):
        # Both in UTC, to the microsecond at least: all of it may happen within a second.
        set_up = sql(machine, "select to_char(setup_at, 'YYYY-MM-DD HH24:MI:SS.US') from dify_setups", project)
        made = sh(machine, f"docker inspect --format '{{{{.Created}}}}' {project}-nginx-1")
        assert set_up < made.replace("T", " ").removesuffix("Z")


def test_another_run_changes_nothing(both: Checkout, machine: Host) -> None:
    before = secrets_of(machine), secrets_of(machine, ROOT), containers(machine), containers(machine, PROJECT)
    assert run(both, "deploy.py", "-y").ok().changed == []
    assert before == (secrets_of(machine), secrets_of(machine, ROOT), containers(machine), containers(machine, PROJECT))


def test_a_controller_that_lost_its_files_changes_no_secret(scratch: Callable[..., Checkout], machine: Host) -> None:
    before = secrets_of(machine), containers(machine)
    assert scratch(machine, admin=ADMIN).deploy().ok().changed == []
    assert before == (secrets_of(machine), containers(machine))


def test_on_a_terminal_the_password_is_shown_once(both: Checkout, machine: Host) -> None:
    word = password(machine, "/opt/dify")
    words = ("inventory.py", "deploy.py", "-y", "--limit", machine.name)
    shown = both.on_a_terminal(*words).end().ok().output
    assert shown.count(f"first account: {ADMIN['email']}, password {word}") == 1
    assert machine.run("test -e /opt/dify/.admin-password").returncode == 1
    assert word not in both.on_a_terminal(*words).end().ok().output
    assert log_in(machine, ADMIN["email"], word, 80) == 200


# --- What is done to one ---


def test_a_change_of_one_leaves_the_other_alone(both: Checkout, machine: Host) -> None:
    ours, theirs = containers(machine), containers(machine, PROJECT)
    both.write("env/two.env", f"EXPOSE_NGINX_PORT={PORT}\nTOP_K_MAX_VALUE=11\n")
    run(both, "deploy.py", "-y").ok()
    assert "web" in replaced(theirs, containers(machine, PROJECT))
    assert containers(machine) == ours
    reached(machine)
    reached(machine, port=PORT)


def test_another_project_in_a_folder_that_is_in_use_is_refused(both: Checkout, machine: Host) -> None:
    words = ("deploy.py", "-y", "--limit", "two", "--data", "project=three")
    run(both, *words).refused(f"project 'dify-two' runs from {ROOT}, and two on the same data destroy it")


def test_data_goes_only_with_the_right_name_typed(both: Checkout, machine: Host) -> None:
    theirs = containers(machine, PROJECT)
    words = ("tasks.stack.remove", "-y", "--limit", "two")
    run(both, *words, "data=delete").refused(f"data=delete deletes {ROOT}", f"type confirm={PROJECT}")
    run(both, *words, "data=delete", "confirm=dify").refused(f"type confirm={PROJECT}")
    run(both, *words, "data=all").refused("data=all: allowed are keep and delete")
    assert containers(machine, PROJECT) == theirs


def test_removed_and_deployed_again_all_is_back(both: Checkout, machine: Host) -> None:
    secrets, ours = secrets_of(machine, ROOT), containers(machine)
    sql(machine, "create table kept as select 42 as answer", PROJECT)
    storage = f"{ROOT}/volumes/app/storage"
    sh(machine, f"echo a file > {storage}/kept.txt && chown 1001:1001 {storage}/kept.txt")
    removed = run(both, "tasks.stack.remove", "-y", "--limit", "two").ok()
    assert removed.changed == ["Deployment is gone"]
    removed.says(f"kept: {ROOT} with its data and secrets")
    assert left(machine) == ("", "")
    assert containers(machine) == ours
    reached(machine)
    assert run(both, "tasks.stack.remove", "-y", "--limit", "two").ok().changed == []

    again = run(both, "deploy.py", "-y").ok()
    assert again.changed == ["First account", "Stack runs"]
    reached(machine, port=PORT)
    assert sql(machine, "select answer from kept", PROJECT) == "42"
    assert sh(machine, f"cat {storage}/kept.txt") == "a file"
    assert secrets_of(machine, ROOT) == secrets
    assert log_in(machine, "two@example.com", password(machine, ROOT), PORT) == 200
    assert containers(machine) == ours


def test_deleted_with_all_its_data(both: Checkout, machine: Host) -> None:
    ours = containers(machine)
    words = ("tasks.stack.remove", "-y", "--limit", "two", "data=delete", f"confirm={PROJECT}")
    run(both, *words).ok().says(f"deleting {ROOT}: data, secrets and configuration")
    assert left(machine) == ("", "")
    assert machine.run(f"test -e {ROOT} || test -e /etc/sysctl.d/60-{PROJECT}.conf").returncode == 1
    assert run(both, *words).ok().changed == []
    assert containers(machine) == ours
    reached(machine)


def left(machine: Host) -> tuple[str, str]:
    """Containers and networks of the second instance."""
    of = f"--quiet --filter label=com.docker.compose.project={PROJECT}"
    return sh(machine, f"docker ps --all {of}"), sh(machine, f"docker network ls {of}")
