"""A controller that dies in the middle, and two at once: the next run finishes the work, and no secret is made twice."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.lab.checkout import Checkout, Terminal
from tests.lab.containers import CORE, containers, reached, secrets_of, sh

STEPS = ["Data folders", "Configuration files", "Database schema", "Stack runs"]


@pytest.mark.parametrize("step", STEPS)
def test_killed_in_a_step_and_run_again(checkout: Checkout, step: str) -> None:
    host = checkout.hosts[0]
    kept = secrets_of(host) if host.run("test -e /opt/dify/.env").returncode == 0 else {}
    kill_in(checkout, step)
    checkout.deploy().ok()
    assert set(containers(host)) == CORE
    reached(host)
    assert checkout.deploy().ok().changed == []
    for name, value in kept.items():
        assert secrets_of(host)[name] == value
    host.run("cd /opt/dify && docker compose down && rm -f .migrated nginx/routes.conf")


def kill_in(checkout: Checkout, step: str) -> None:
    """Start a deploy and kill -9 it half a second after this step began."""
    checkout.write_inventory()
    words = [str(Path(sys.executable).with_name("pyinfra")), "inventory.py", "deploy.py", "-y"]
    process = subprocess.Popen(
        words,
        cwd=checkout.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    for line in process.stdout:
        if f"Starting operation: {step}" in line:
            time.sleep(0.5)
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    process.stdout.close()
    assert process.returncode == -signal.SIGKILL


def waiting_plan(checkout: Checkout) -> Terminal:
    """A deploy that has shown its plan."""
    checkout.write_inventory()
    terminal = checkout.on_a_terminal("inventory.py", "deploy.py")
    terminal.wait_for("Press enter to execute")
    return terminal


CHANGED = "/opt/dify/.env changed during this run: another run, or one that was cut off, was at work here."


def test_of_two_first_runs_at_once_one_gives_way(checkout: Checkout) -> None:
    host = checkout.hosts[0]
    sh(host, "rm -rf /opt/dify")
    both = [waiting_plan(checkout) for _ in range(2)]
    for one in both:
        one.type("\n")
    with ThreadPoolExecutor() as pool:
        runs = sorted(pool.map(Terminal.end, both), key=lambda run: run.code)
    runs[0].ok()
    runs[1].failed(CHANGED, "Nothing was replaced; run this again.")
    reached(host)
    kept = secrets_of(host)
    assert checkout.deploy().ok().changed == []
    assert secrets_of(host) == kept


def test_a_plan_that_waited_while_a_secret_was_rotated_is_not_carried_out(checkout: Checkout) -> None:
    host = checkout.hosts[0]
    checkout.write(".env", "LOG_LEVEL=DEBUG\n")
    waiting = waiting_plan(checkout)
    checkout.pyinfra("inventory.py", "tasks.secrets.rotate", "name=REDIS_PASSWORD", "-y", inventory=False).ok()
    kept, ran = secrets_of(host), containers(host)
    waiting.type("\n")
    waiting.end().failed(CHANGED)
    assert (secrets_of(host), containers(host)) == (kept, ran)
    reached(host)
    assert "Configuration files" not in checkout.deploy().ok().changed


@pytest.mark.parametrize(
    ("undo", "when"),
    [
        ("docker rm --force dify-web-1", "--date $(docker inspect --format '{{.Created}}' dify-web-1)"),
        ("rm /opt/dify/.migrated", "--reference /opt/dify/.migrated"),
    ],
    ids=["Stack runs", "Database schema"],
)
def test_the_rest_of_a_run_that_was_cut_off_is_waited_for(checkout: Checkout, undo: str, when: str) -> None:
    host = checkout.hosts[0]
    sh(host, f"rm -f /root/through; {undo}")
    rest = "sleep 20; date +%s.%N > /root/through"
    sh(host, f"systemd-run --quiet flock /run/dify-deployment.lock sh -c '{rest}'")
    checkout.deploy().ok()
    assert float(sh(host, "cat /root/through")) < float(sh(host, f"date {when} +%s.%N"))
