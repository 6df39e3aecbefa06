"""Debian 11 and testing, from bare to answering. Debian 12 is deployed to by test_vagrant.py, Debian 13 by all others.
All of them boot as virtual machines too.

Docker's repository is a stand-in on the lab's network, laid out and signed as Docker's own: it has Debian 13's packages under
Docker's names and a key of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lab import repository
from lab.hosts import SUITES, Host, destroy
from stack.docker import APT_KEY
from tests.lab.checkout import Checkout, Run
from tests.lab.containers import CORE, containers, get, reached, sh

pytestmark = pytest.mark.systems

SYSTEMS = ("debian11", "testing")
PACKAGES = "dpkg-query --show docker-ce docker-ce-cli containerd.io docker-compose-plugin"
SOURCES = "grep -rl docker-packages /etc/apt/sources.list /etc/apt/sources.list.d || true"
# A source as Docker's installation page had it for years: other names, another place for the key.
KEY_FILE, LIST_FILE = "/usr/share/keyrings/docker-archive-keyring.asc", "/etc/apt/sources.list.d/docker-ce.list"
LIST = f"deb [signed-by={KEY_FILE}] {repository.URL}/debian bullseye stable\n"


@pytest.fixture(scope="module")
def hosts(new_host: Callable[..., Host]) -> dict[str, Host]:
    """Bare hosts by system."""
    return {system: new_host(system, suite=SUITES[system]) for system in SYSTEMS}


@pytest.fixture(scope="module")
def checkout(hosts: dict[str, Host], tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return Checkout.make(tmp_path_factory.mktemp("checkout"), *hosts.values())


def test_a_repository_with_another_key_is_refused(scratch: Callable[..., Checkout], hosts: dict[str, Host]) -> None:
    host = hosts["debian11"]
    run = scratch(host).deploy(docker_repository_key="")
    run.failed(f"the key of {repository.URL}/debian is not the expected {APT_KEY}: nothing was installed")
    assert sh(host, SOURCES) == ""
    assert host.run("command -v docker").returncode != 0


def test_a_repository_without_the_hosts_release_is_refused(
    scratch: Callable[..., Checkout], hosts: dict[str, Host]
) -> None:
    host = hosts["testing"]
    checkout = scratch(host, docker_source="docker", **repository.data())
    checkout.deploy().failed(f'{repository.URL}/debian has nothing for forky: set docker_source = "distro"')
    assert sh(host, SOURCES) == ""


@pytest.fixture(scope="module")
def deployed(checkout: Checkout, hosts: dict[str, Host]) -> Run:
    """All of them at once; the one of Debian 11 has Docker's source already, under other names than ours."""
    hosts["debian11"].run(f"cat > {KEY_FILE}", stdin=repository.key())
    hosts["debian11"].run(f"cat > {LIST_FILE}", stdin=LIST)
    return checkout.deploy().ok()


@pytest.mark.parametrize("system", SYSTEMS)
def test_dify_answers(deployed: Run, hosts: dict[str, Host], system: str) -> None:
    assert set(containers(hosts[system])) == CORE
    reached(hosts[system])
    assert get(hosts[system], "/")[0] in (200, 307)


def test_a_source_that_is_there_is_used_and_not_doubled(deployed: Run, hosts: dict[str, Host]) -> None:
    host = hosts["debian11"]
    assert sh(host, PACKAGES).count("~stand.in") == 4
    assert sh(host, SOURCES) == LIST_FILE
    assert sh(host, f"cat {LIST_FILE}") == LIST.strip()
    assert host.run("test -e /etc/apt/keyrings/docker.asc").returncode == 1
    assert sh(host, "apt-get update -q 2>&1 | grep -E '^(W|E|N):' || true") == ""


def test_a_second_run_changes_nothing(deployed: Run, checkout: Checkout, hosts: dict[str, Host]) -> None:
    before = {system: containers(host) for system, host in hosts.items()}
    assert checkout.deploy().ok().changed == []
    assert {system: containers(host) for system, host in hosts.items()} == before


@pytest.mark.parametrize("system", [name for name in SUITES if name != "debian13"])
def test_it_boots_as_a_virtual_machine_too(new_host: Callable[..., Host], system: str) -> None:
    """With a kernel of its own; test_vm.py deploys to Debian 13."""
    host = new_host(f"vm-{system}", suite=SUITES[system], virtual=True)
    assert sh(host, "systemctl is-system-running") == "running"
    assert sh(host, "systemd-detect-virt") in ("qemu", "kvm")
    assert sh(host, ". /etc/os-release; echo $VERSION_CODENAME") == {"testing": "forky"}.get(system, host.suite)
    assert sh(host, "getent hosts registry")
    destroy(host.name)
