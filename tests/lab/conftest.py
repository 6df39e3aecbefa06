"""Lab hosts for the tests: made once for a module, destroyed after it; engine, registry and images stay for the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from lab import build, hosts
from lab.hosts import Host
from lab.inventory import OF_TESTS
from tests.lab.checkout import REPOSITORY, Checkout

# In the hosts' names, so that the tests of two checkouts on one machine leave each other's hosts alone.
CHECKOUT = sha256(str(REPOSITORY).encode()).hexdigest()[:4]
# The modules that take longest, so that none of them begins when the other workers are about to end.
LONGEST_FIRST = (
    "instances",
    "rotation",
    "tls",
    "stores",
    "stores_sql",
    "databases",
    "rollout",
    "secret_store",
    "exposure",
    "nginx",
    "egress",
    "middleware",
    "hardening",
    "fleet",
    "external",
    "systems",
    "vagrant",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the modules for --dist loadfile; tests stay in their order within a module."""

    def place(item: pytest.Item) -> int:
        name = item.path.stem.removeprefix("test_")
        return LONGEST_FIRST.index(name) if name in LONGEST_FIRST else len(LONGEST_FIRST)

    items.sort(key=place)


@pytest.fixture(scope="session")
def images() -> None:
    """The registry with all images the hosts pull."""
    hosts.prepare("trixie")
    build.publish()


@pytest.fixture(scope="module")
def new_host(images: None, request: pytest.FixtureRequest) -> Iterator[Callable[..., Host]]:
    """Make a bare host; all of the module's go when it ends."""
    made: list[str] = []
    prefix = request.module.__name__.rpartition("test_")[2].replace("_", "-")

    def make(name: str = "a", **options: object) -> Host:
        full = f"{OF_TESTS}{prefix}-{CHECKOUT}-{name}"
        hosts.destroy(full)
        made.append(full)
        return hosts.create(full, **options)  # type: ignore[arg-type]

    yield make
    for name in made:
        hosts.destroy(name)


@pytest.fixture(scope="module")
def checkout(new_host: Callable[..., Host], tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout with one bare host, kept for the whole module."""
    return Checkout.make(tmp_path_factory.mktemp("checkout"), new_host())


@pytest.fixture
def scratch(tmp_path: Path) -> Callable[..., Checkout]:
    """A checkout of a test's own, for hosts that are there."""
    return lambda *those, **knobs: Checkout.make(tmp_path, *those, **knobs)
