"""A stand-in for Qdrant's HTTP API: collections and points in JSON files, the API key checked as Qdrant checks it."""

from __future__ import annotations

import hmac
import os

from stand_in_store.documents import Documents
from stand_in_store.server import Answer, App, Refused, Request, serve

PORT = 6333
KEY = os.environ.get("QDRANT__SERVICE__API_KEY", "")
points = Documents("/qdrant/storage/collections")


def log_in(request: Request) -> None:
    """Without a key of its own Qdrant lets everybody in."""
    given = request.headers.get("api-key", "") or request.bearer()
    if KEY and not hmac.compare_digest(given.encode(), KEY.encode()):
        raise Refused(401 if not given else 403, "Must provide an API key or an Authorization bearer token")


app = App(log_in)


def ok(result: object) -> Answer:
    return 200, {"result": result, "status": "ok", "time": 0.0}


def collection(name: str) -> str:
    if not points.has(name):
        raise Refused(404, {"status": {"error": f"Not found: Collection `{name}` doesn't exist!"}})
    return name


@app.route("GET /", "GET /healthz", "GET /livez", "GET /readyz", open=True)
def alive(_: Request) -> Answer:
    return 200, {"title": "a stand-in for qdrant"}


@app.route("GET /collections")
def collections(_: Request) -> Answer:
    return ok({"collections": [{"name": path.name} for path in sorted(points.root.iterdir())]})


@app.route("PUT /collections/{name}")
def make(_: Request, name: str) -> Answer:
    points.make(name)
    return ok(True)


@app.route("PUT /collections/{name}/points")
def upsert(request: Request, name: str) -> Answer:
    for point in request.json()["points"]:
        points.put(collection(name), str(point["id"]), {"vector": point["vector"], "payload": point.get("payload")})
    return ok({"operation_id": 0, "status": "completed"})


@app.route("POST /collections/{name}/points/search")
def search(request: Request, name: str) -> Answer:
    wanted = request.json()
    found = points.nearest(collection(name), wanted["vector"])[: wanted.get("limit", 10)]
    return ok([{"id": key, "version": 0, "score": 1.0, "payload": point["payload"]} for key, point in found])


@app.route("GET /collections/{name}/points/{key}")
def point(_: Request, name: str, key: str) -> Answer:
    found = points.get(collection(name), key)
    if found is None:
        raise Refused(404, {"status": {"error": f"Not found: Point with id {key} does not exists!"}})
    return ok({"id": key, **found})


@app.route("POST /collections/{name}/points/delete")
def delete(request: Request, name: str) -> Answer:
    for key in request.json()["points"]:
        points.remove(collection(name), str(key))
    return ok({"operation_id": 0, "status": "completed"})


if __name__ == "__main__":
    serve("qdrant", app, PORT)
