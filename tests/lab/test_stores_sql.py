"""Vector stores that are databases, one after the other on one host. The tests build on each other, in this order."""

from __future__ import annotations

import pytest

from lab.hosts import Host
from tests.lab import stores
from tests.lab.checkout import Checkout
from tests.lab.containers import containers
from tests.lab.stores import NASTY, case

pytestmark = pytest.mark.variants

CASES = [
    case("pgvector", "pgvector", "pgvector/data", "PGVECTOR_PASSWORD", NASTY),
    case("pgvecto-rs", "pgvecto-rs", "pgvecto_rs/data", "PGVECTO_RS_PASSWORD"),
    case("vastbase", "vastbase", "vastbase/data", "VASTBASE_PASSWORD"),
    case("opengauss", "opengauss", "opengauss/data", "OPENGAUSS_PASSWORD", NASTY),
    case("oceanbase", "oceanbase", "oceanbase/data", "OCEANBASE_VECTOR_PASSWORD", NASTY),
    case("seekdb", "seekdb", "seekdb", "OCEANBASE_VECTOR_PASSWORD", NASTY),
    case("myscale", "myscale", "myscale/data", "MYSCALE_PASSWORD", NASTY),
    # Oracle takes no double quote in a password.
    case("oracle", "oracle", "oracle/oradata", "ORACLE_PASSWORD", NASTY.replace('"', "")),
    case("iris", "iris", "iris", "IRIS_PASSWORD", NASTY),
]
since: dict[str, str] = {}


@pytest.fixture(scope="module")
def host(checkout: Checkout) -> Host:
    checkout.knobs["firewall"] = "docker-user"
    return checkout.hosts[0]


@pytest.mark.parametrize("wanted", CASES, ids=lambda wanted: wanted.store)
def test_it_is_reached_with_its_own_password_only(checkout: Checkout, host: Host, wanted: stores.Case) -> None:
    since[wanted.store] = stores.comes_up(checkout, host, wanted)


@pytest.mark.parametrize("former", CASES[:-1], ids=lambda former: former.store)
def test_its_data_is_there_when_it_is_gone(host: Host, former: stores.Case) -> None:
    stores.is_kept(host, former)
    assert not former.services & containers(host).keys()


def test_the_first_one_comes_back_with_its_data(checkout: Checkout, host: Host) -> None:
    assert stores.comes_up(checkout, host, CASES[0]) == since["pgvector"]
