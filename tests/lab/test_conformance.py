"""Every service of each release beside the release's own Compose files, both resolved by a real Compose."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab import hosts
from lab.hosts import Host
from stack import release
from stack.choices import DATABASES, VECTOR_STORES
from stack.render import Stack
from tests.lab import conformance, differences
from tests.unit.wanted import compose_of, stack_of

# All that a deployment can be told to bring up.
PROFILES = {
    "dify": sorted(
        {c.profile for c in (*VECTOR_STORES.values(), *DATABASES.values())} - {""} | {"certbot", "unstructured"}
    ),
    # Side by side, two stores would want one port.
    "middleware": ["mysql", "postgresql", "weaviate"],
}
FACTS = {"dify": "services", "middleware": "middleware"}


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """A host with Compose and no engine: `config` needs none, nor any image."""
    name = "test-conformance-a"
    hosts.destroy(name)
    host = hosts.create(name)
    words = "apt-get install --yes --quiet --no-install-recommends docker-compose docker-cli"
    done = host.run(f"export DEBIAN_FRONTEND=noninteractive; apt-get update --quiet && {words}")
    assert done.returncode == 0, done.stderr
    yield host
    hosts.destroy(name)


def rendered(version: str, mode: str) -> Stack:
    """Ours with all that can be brought up, so that every secret is there."""
    # Upstream publishes on every address; that ours are on 127.0.0.1 by default is said in group_data.
    return stack_of(dify_version=version, mode=mode, profiles=PROFILES[mode], middleware_address="0.0.0.0")


def compared(host: Host, version: str, mode: str) -> dict[str, str]:
    stack = rendered(version, mode)
    there = conformance.theirs(host, version, release.upstream(version, FACTS[mode]), stack)
    here = conformance.ours(host, stack)
    # In this mode upstream's plugin daemon reads no shared settings; ours reads them as ever, which the name says once.
    for path in conformance.shared_only_here(stack, there) if mode == "middleware" else ():
        here.pop(path, None)
    return conformance.unlike(here, there)


@pytest.mark.parametrize("mode", FACTS)
@pytest.mark.parametrize("version", release.versions())
def test_what_differs_from_the_release_is_wanted(host: Host, version: str, mode: str) -> None:
    unwanted, gone = differences.split(compared(host, version, mode), version, mode)
    assert unwanted == []
    assert gone == []


@pytest.mark.parametrize("mode", FACTS)
def test_every_service_of_the_release_was_compared(host: Host, mode: str) -> None:
    for version in release.versions():
        services = compose_of(rendered(version, mode))["services"]
        assert set(release.upstream(version, FACTS[mode])["services"]) <= services.keys()


def test_a_difference_that_nobody_wants_is_found(host: Host) -> None:
    here = conformance.ours(host, rendered("1.11.4", "dify"))
    wrong = {
        "redis.image": "redis:8",
        "api.environment.LOG_LEVEL": "DEBUG",
        "opensearch.ulimits.nofile.hard": 1,
        "web.ports.3000": "3000",
        "sandbox.networks.default": "joined",
        "networks.default.internal": True,
    }
    unwanted, gone = differences.split(conformance.unlike({**here, **wrong}, here), "1.11.4", "dify")
    assert sorted(line.partition(":")[0] for line in unwanted) == sorted(wrong)
    assert set(gone) == differences.wanted("1.11.4", "dify").keys()
