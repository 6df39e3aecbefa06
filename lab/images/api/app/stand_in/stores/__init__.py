"""The vector stores, each reached with the settings that Dify reads for it: log in, write a document, find it again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from uuid import uuid4

from stand_in.stores import search, sql, vectors
from stand_in.stores.base import NotReached, Store, Unsupported

#: The document that stays: it tells whether a store that comes back has its data.
KEPT = "00000000-0000-4000-8000-000000000001"
OPEN: dict[str, Callable[[Mapping[str, str]], Store]] = {
    "weaviate": vectors.Weaviate,
    "qdrant": vectors.Qdrant,
    "milvus": vectors.Milvus,
    "chroma": vectors.Chroma,
    "pgvector": sql.Pgvector,
    "pgvecto-rs": sql.PgvectoRs,
    "vastbase": sql.Vastbase,
    "opengauss": sql.Opengauss,
    "oceanbase": sql.OceanBase,
    "seekdb": sql.OceanBase,
    "matrixone": sql.MatrixOne,
    "myscale": sql.MyScale,
    "oracle": search.Oracle,
    "iris": search.Iris,
    "couchbase": search.Couchbase,
    "elasticsearch": search.Elasticsearch,
    "elasticsearch-ja": search.Elasticsearch,
    "opensearch": search.OpenSearch,
}

__all__ = ["KEPT", "OPEN", "NotReached", "Store", "Unsupported", "check"]


def check(name: str, env: Mapping[str, str]) -> str:
    """Write a document, find it, remove it, and look for the one that stays. Returns one line; raises what went wrong.

    name: a value of VECTOR_STORE.
    env: the api's environment.
    """
    if name not in OPEN:
        raise Unsupported(f"the stand-in cannot check VECTOR_STORE={name}")
    store, key = OPEN[name](env), str(uuid4())
    store.write(key, f"text of {key}")
    found = store.read(key)
    store.remove(key)
    if found != f"text of {key}":
        raise NotReached(f"{name}: wrote a document and found {found!r}")
    return f"{name}: wrote and found a document; keeps one since {_kept(store)}"


def _kept(store: Store) -> str:
    found = store.read(KEPT)
    if found is None:
        found = datetime.now(UTC).isoformat(timespec="microseconds")
        store.write(KEPT, found)
    return found
