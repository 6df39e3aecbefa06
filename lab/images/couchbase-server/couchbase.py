"""A stand-in for Couchbase Server: nobody is known until the cluster is set up, once; then its administrator is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from stand_in_store.accounts import Accounts
from stand_in_store.documents import Documents
from stand_in_store.server import Answer, App, Refused, Request, serve

PORT = 8091
VAR = Path("/opt/couchbase/var/lib/couchbase")
SERVICES = {"kv", "index", "n1ql", "fts", "eventing"}
CLUSTER, BUCKETS = VAR / "cluster.json", VAR / "buckets.json"
accounts = Accounts(VAR / "accounts.json")
documents = Documents(VAR / "data")


def log_in(request: Request) -> None:
    """As the real one: what is not set up has nothing to ask for, with any password."""
    if not CLUSTER.exists():
        raise Refused(404, "unknown pool")
    if not accounts.check(*request.basic()):
        raise Refused(401, "", {"WWW-Authenticate": 'Basic realm="Couchbase Server Admin / REST"'})


app = App(log_in)


def form(request: Request) -> dict[str, str]:
    return dict(parse_qsl(request.body.decode(), keep_blank_values=True))


def buckets() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(BUCKETS.read_text()) if BUCKETS.exists() else []
    return found


@app.route("POST /clusterInit", open=True)
def set_up(request: Request) -> Answer:
    if CLUSTER.exists():
        log_in(request)
    given = form(request)
    if len(given.get("password", "")) < 6:
        raise Refused(400, {"errors": {"password": "The password must be at least 6 characters long."}})
    if unknown := set(given.get("services", "").split(",")) - SERVICES:
        raise Refused(400, {"errors": {"services": f"Unknown services: {sorted(unknown)}"}})
    accounts.set(given["username"], given["password"])
    CLUSTER.write_text(json.dumps({name: value for name, value in given.items() if name != "password"}))
    return 200, {"newBaseUri": f"http://127.0.0.1:{PORT}/"}


@app.route("GET /pools/default")
def pool(_: Request) -> Answer:
    node = {"status": "healthy", "hostname": f"127.0.0.1:{PORT}"}
    return 200, json.dumps({"nodes": [node]}, separators=(",", ":"))


@app.route("GET /pools/default/buckets")
def list_buckets(_: Request) -> Answer:
    return 200, json.dumps(buckets(), separators=(",", ":"))


@app.route("POST /pools/default/buckets")
def make_bucket(request: Request) -> Answer:
    given = form(request)
    if any(bucket["name"] == given["name"] for bucket in buckets()):
        raise Refused(400, {"errors": {"name": "Bucket with given name already exists"}})
    BUCKETS.write_text(json.dumps([*buckets(), given]))
    documents.make(given["name"])
    return 202, ""


def collection(bucket: str) -> str:
    if not any(found["name"] == bucket for found in buckets()):
        raise Refused(404, {"error": "not_found", "reason": "bucket not found"})
    return bucket


@app.route("POST /pools/default/buckets/{bucket}/docs/{key}")
def put(request: Request, bucket: str, key: str) -> Answer:
    documents.put(collection(bucket), key, json.loads(form(request)["value"]))
    return 200, ""


@app.route("GET /pools/default/buckets/{bucket}/docs/{key}")
def get(_: Request, bucket: str, key: str) -> Answer:
    found = documents.get(collection(bucket), key)
    if found is None:
        raise Refused(404, {})
    return 200, {"meta": {"id": key}, "json": json.dumps(found)}


@app.route("DELETE /pools/default/buckets/{bucket}/docs/{key}")
def delete(_: Request, bucket: str, key: str) -> Answer:
    documents.remove(collection(bucket), key)
    return 200, ""


serve("couchbase-server", app, PORT)
