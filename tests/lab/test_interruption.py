"""A controller that dies in the middle: the next run finishes the work, and no secret is made twice."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.lab.checkout import Checkout
from tests.lab.containers import CORE, containers, reached, secrets_of

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
