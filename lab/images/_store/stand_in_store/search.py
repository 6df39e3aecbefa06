"""What Elasticsearch and OpenSearch have in common: documents by index and id, a search that compares words."""

from __future__ import annotations

from typing import Any

from stand_in_store.accounts import Accounts
from stand_in_store.documents import Document, Documents
from stand_in_store.server import Answer, App, Refused, Request


def app(name: str, documents: Documents, accounts: Accounts) -> App:
    """+ name: for the answer to GET /."""

    def log_in(request: Request) -> None:
        if not accounts.check(*request.basic()):
            reason = {"type": "security_exception", "reason": "unable to authenticate user for REST request"}
            challenge = {"WWW-Authenticate": 'Basic realm="security"'}
            raise Refused(401, {"error": reason, "status": 401}, challenge)

    made = App(log_in)
    _cluster(made, name)
    _documents(made, documents)
    return made


def _cluster(app: App, name: str) -> None:
    @app.route("GET /")
    def banner(_: Request) -> Answer:
        return 200, {"name": name, "tagline": "a stand-in: it searches nothing but words"}

    @app.route("GET /_cluster/health")
    def health(_: Request) -> Answer:
        return 200, {"status": "green", "number_of_nodes": 1, "timed_out": False}

    @app.route("GET /_security/_authenticate", "GET /_plugins/_security/authinfo")
    def who(request: Request) -> Answer:
        return 200, {"username": request.basic()[0]}


def _documents(app: App, documents: Documents) -> None:
    @app.route("PUT /{index}")
    def make(_: Request, index: str) -> Answer:
        documents.make(index)
        return 200, {"acknowledged": True, "index": index}

    @app.route("PUT /{index}/_doc/{key}", "POST /{index}/_doc/{key}")
    def put(request: Request, index: str, key: str) -> Answer:
        there = documents.get(index, key) is not None
        documents.put(index, key, request.json())
        return (200 if there else 201), {"_index": index, "_id": key, "result": "updated" if there else "created"}

    @app.route("GET /{index}/_doc/{key}")
    def get(_: Request, index: str, key: str) -> Answer:
        found = documents.get(index, key)
        if found is None:
            raise Refused(404, {"_index": index, "_id": key, "found": False})
        return 200, {"_index": index, "_id": key, "found": True, "_source": found}

    @app.route("DELETE /{index}/_doc/{key}")
    def delete(_: Request, index: str, key: str) -> Answer:
        there = documents.remove(index, key)
        return (200 if there else 404), {"_id": key, "result": "deleted" if there else "not_found"}

    @app.route("POST /{index}/_search", "GET /{index}/_search")
    def search(request: Request, index: str) -> Answer:
        words: dict[str, Any] = request.json().get("query", {}).get("match", {})
        found = [(key, one) for key, one in documents.all(index) if _matches(one, words)]
        hits = [{"_index": index, "_id": key, "_source": one} for key, one in found]
        return 200, {"hits": {"total": {"value": len(hits)}, "hits": hits}}


def _matches(document: Document, words: dict[str, Any]) -> bool:
    """As `match` does: any word of the query is in the field."""
    return all(set(str(wanted).split()) & set(str(document.get(field)).split()) for field, wanted in words.items())
