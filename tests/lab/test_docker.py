"""A Docker that is there already is adopted; its configuration is merged, and restarted only when that changed."""

from __future__ import annotations

import json

import pytest

from lab.hosts import Host
from tests.lab.checkout import Checkout
from tests.lab.containers import containers, reached, sh

OWN = {"data-root": "/var/lib/docker", "labels": ["owner=operator"], "insecure-registries": ["other:5000"]}


@pytest.fixture(scope="module")
def host(checkout: Checkout) -> Host:
    host = checkout.hosts[0]
    host.run("mkdir -p /etc/docker && cat > /etc/docker/daemon.json", stdin=json.dumps(OWN))
    sh(
        host,
        "apt-get -q update && apt-get -q -y --no-install-recommends install docker.io docker-cli docker-compose curl",
    )
    return host


def daemon(host: Host) -> dict[str, object]:
    found: dict[str, object] = json.loads(sh(host, "cat /etc/docker/daemon.json"))
    return found


def started(host: Host) -> str:
    return sh(host, "systemctl show docker --property ActiveEnterTimestampMonotonic")


def test_an_adopted_docker_keeps_its_own_keys(checkout: Checkout, host: Host) -> None:
    checkout.deploy(docker_source="present").ok()
    found = daemon(host)
    assert found["labels"] == OWN["labels"]
    assert found["data-root"] == OWN["data-root"]
    assert found["insecure-registries"] == ["other:5000", "registry:5000"]
    assert found["log-opts"] == {"max-size": "50m", "max-file": "3"}
    reached(host)
    limits = sh(host, "docker inspect --format '{{json .HostConfig.LogConfig}}' $(docker ps -aq) | sort -u")
    assert json.loads(limits) == {"Type": "json-file", "Config": {"max-file": "3", "max-size": "50m"}}


def test_it_is_not_restarted_without_a_change(checkout: Checkout, host: Host) -> None:
    before = started(host)
    assert checkout.deploy().ok().changed == []
    assert started(host) == before


def test_it_is_restarted_for_a_change(checkout: Checkout, host: Host) -> None:
    before, ids = started(host), {name: id for name, (id, _) in containers(host).items()}
    checkout.knobs["docker_log_max_file"] = 5
    checkout.knobs["docker_proxy"] = {"http": "http://user:Passw0rd@proxy.example.com:3128", "no_proxy": "registry"}
    run = checkout.deploy("-vvv", "--debug").ok()
    assert "Passw0rd" not in run.output
    assert started(host) != before
    assert {name: id for name, (id, _) in containers(host).items()} == ids
    assert "Passw0rd" in sh(host, "systemctl show docker --property Environment")
    assert checkout.deploy().ok().changed == []
    del checkout.knobs["docker_proxy"]
    # So soon after Docker's restart nginx may not say yet what it has loaded; then it is told once more.
    assert set(checkout.deploy().ok().changed) - {"Stack runs"} == {"Docker runs"}
    assert host.run("test -e /etc/systemd/system/docker.service.d/dify-proxy.conf").returncode == 1


def test_a_configuration_that_docker_refuses_replaces_nothing(checkout: Checkout, host: Host) -> None:
    before, config = started(host), daemon(host)
    pools = [{"base": "10.201.0.0/16", "size": 8}]
    checkout.deploy(docker_address_pools=pools).failed(
        "Docker does not start with the new /etc/docker/daemon.json; the old one is back"
    )
    assert daemon(host) == config
    assert started(host) != before
    sh(host, "docker info")
    checkout.deploy().ok()
    reached(host)


def test_a_stopped_docker_is_started(checkout: Checkout, host: Host) -> None:
    sh(host, "systemctl disable --now docker.service docker.socket")
    checkout.deploy().ok()
    assert sh(host, "systemctl is-enabled docker") == "enabled"
    reached(host)
