"""One vector store after the other on one host: what test_stores.py and test_stores_sql.py have in common."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from lab.hosts import Host
from stack import dotenv
from tests.lab import scan
from tests.lab.checkout import Checkout
from tests.lab.containers import CORE, containers, reached, secrets_of, sh

# Every character that .env files, Compose, YAML, JSON, XML, shells, URLs or SQL read in a way of their own.
NASTY = r"""Aa1-p@ss:w/rd#$%'" \${HOME} &;`x`<y>"""
MAP_COUNT = "/proc/sys/vm/max_map_count"


@dataclass(frozen=True)
class Case:
    """One value of VECTOR_STORE.

    services: what it brings up.
    folder: where its data is, below volumes/.
    secret: what the api logs in with.
    password: the operator's own; None for one that the deployment makes.
    settings: further lines of .env.
    """

    store: str
    services: frozenset[str]
    folder: str
    secret: str
    password: str | None = None
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def marker(self) -> str:
        return f"/opt/dify/volumes/{self.folder}/kept-by-test"


def case(store: str, services: str, folder: str, secret: str, password: str | None = None, **settings: str) -> Case:
    return Case(store, frozenset(services.split()), folder, secret, password, settings)


def choose(checkout: Checkout, wanted: Case) -> None:
    """Deploy with this store."""
    own = {wanted.secret: wanted.password} if wanted.password else {}
    lines = {"VECTOR_STORE": wanted.store, **wanted.settings, **own}
    checkout.write(".env", "".join(f"{name}={dotenv.quote(value)}\n" for name, value in lines.items()))
    checkout.deploy().ok()


def kept_since(host: Host) -> str:
    """Since when the store that Dify uses keeps the probe's document; it was reached, and by Dify's side alone."""
    detail = reached(host)["vector_store"]["detail"]
    found = re.search(r"wrote and found a document; keeps one since (\S+)", detail)
    assert found, detail
    return found[1]


def comes_up(checkout: Checkout, host: Host, wanted: Case) -> str:
    """Deploy with this store and prove that it is all there is; returns since when it keeps its document."""
    choose(checkout, wanted)
    assert set(containers(host)) == (CORE - {"weaviate"}) | wanted.services
    since = kept_since(host)
    sh(host, f"echo {wanted.store} > {wanted.marker}")
    refuses_others(host, wanted)
    is_settled(checkout, host)
    scan.only_open_either_way(host, 80)
    return since


def refuses_others(host: Host, wanted: Case) -> None:
    """The password is what lets Dify in: with another one the same probe fails, and shows neither of the two."""
    probe = "docker exec {} dify-api-1 python3 -m stand_in.stores"
    sh(host, probe.format(""))
    done = host.run(probe.format(f"--env {wanted.secret}=another-Passw0rd"))
    assert done.returncode == 1, done.stdout + done.stderr
    assert not any(value in done.stdout + done.stderr for value in secrets_of(host).values() if len(value) > 8)


def is_settled(checkout: Checkout, host: Host) -> None:
    """Another run announces nothing, does nothing and restarts nothing."""
    before = containers(host)
    run = checkout.deploy().ok()
    assert run.changed == [], run.output
    assert containers(host) == before


def is_kept(host: Host, former: Case) -> None:
    """The data of a store that is no longer chosen lies where it was."""
    assert sh(host, f"cat {former.marker}") == former.store


@contextmanager
def map_count_restored(host: Host) -> Iterator[None]:
    """vm.max_map_count belongs to the kernel, which lab hosts share with this machine: it gets its own value back."""
    before = sh(host, f"cat {MAP_COUNT}")
    try:
        yield
    finally:
        sh(host, f"echo {before} > {MAP_COUNT}")
