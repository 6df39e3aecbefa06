"""Vector stores that are reached by HTTP, one after the other on one host. The tests build on each other, in this order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.hosts import Host
from tests.lab import stores
from tests.lab.checkout import Checkout
from tests.lab.containers import containers, sh
from tests.lab.stores import NASTY, case

pytestmark = pytest.mark.variants

# This machine's kernel gives containers no more (see lab/images/README.md); a real host takes the release's own.
LIMITS = {f"OPENSEARCH_{name}_{kind}": "1024" for name in ("MEMLOCK", "NOFILE") for kind in ("SOFT", "HARD")}
CASES = [
    case("qdrant", "qdrant", "qdrant", "QDRANT_API_KEY"),
    case("milvus", "etcd minio milvus-standalone", "milvus/milvus", "MILVUS_PASSWORD", NASTY),
    case("chroma", "chroma", "chroma", "CHROMA_AUTH_CREDENTIALS"),
    case("couchbase", "couchbase-server", "couchbase/var", "COUCHBASE_PASSWORD", NASTY),
    case("opensearch", "opensearch opensearch-dashboards", "opensearch/data", "OPENSEARCH_PASSWORD", NASTY, **LIMITS),
    case("elasticsearch", "elasticsearch kibana", "elasticsearch/data", "ELASTICSEARCH_PASSWORD", NASTY),
    case("elasticsearch-ja", "elasticsearch", "elasticsearch/data", "ELASTICSEARCH_PASSWORD", NASTY),
    case("matrixone", "matrixone matrixone_init", "matrixone/data", "MATRIXONE_PASSWORD"),
    case("weaviate", "weaviate", "weaviate", "WEAVIATE_API_KEY"),
]
since: dict[str, str] = {}


@pytest.fixture(scope="module")
def host(checkout: Checkout) -> Iterator[Host]:
    checkout.knobs["firewall"] = "docker-user"
    with stores.map_count_restored(checkout.hosts[0]):
        yield checkout.hosts[0]


@pytest.mark.parametrize("wanted", CASES, ids=lambda wanted: wanted.store)
def test_it_is_reached_with_its_own_password_only(checkout: Checkout, host: Host, wanted: stores.Case) -> None:
    since[wanted.store] = stores.comes_up(checkout, host, wanted)


@pytest.mark.parametrize("former", CASES[:-1], ids=lambda former: former.store)
def test_its_data_is_there_when_it_is_gone(host: Host, former: stores.Case) -> None:
    if former.store != "elasticsearch":  # the other one went on with its folder
        stores.is_kept(host, former)
    assert not former.services & containers(host).keys()


def test_a_user_that_everybody_knows_is_gone_from_opensearch(host: Host) -> None:
    users = sh(host, "cat /opt/dify/volumes/opensearch/data/accounts.json")
    assert '"admin"' in users
    assert "kibanaserver" not in users


def test_the_index_of_elasticsearch_is_taken_over_for_japanese() -> None:
    assert since["elasticsearch-ja"] == since["elasticsearch"]


def test_the_first_one_comes_back_with_its_data(checkout: Checkout, host: Host) -> None:
    assert stores.comes_up(checkout, host, CASES[0]) == since["qdrant"]
