"""The addresses that nginx sends to the api: health, files, the service APIs, the inner API, and what was reached."""

from __future__ import annotations

import hmac
import os
import time
from collections.abc import Iterator
from pathlib import PurePath

from flask import Blueprint, Flask, Response, abort, jsonify, render_template, request, send_from_directory

from stand_in import links, probe
from stand_in.database import UploadFile, db, new_id
from stand_in.login import login_required, own_tenant
from stand_in.setup import settings

UPLOADS = "upload_files"
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
blueprint = Blueprint("areas", __name__)


@blueprint.get("/health")
def health() -> Response:
    """The process answers; nothing behind it is looked at."""
    return jsonify(pid=os.getpid(), status="ok", version=settings().version)


@blueprint.get("/v1", strict_slashes=False)
def service_api() -> Response:
    return jsonify(welcome="Dify OpenAPI", api_version="v1", server_version=settings().version)


def describe(**_: str) -> Response:
    """What arrived here, as the api sees it behind its proxies."""
    forwarded = ("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Port", "X-Forwarded-Host", "Forwarded")
    seen = ("Host", *forwarded, "X-Real-IP", "CF-Connecting-IP")
    return jsonify(
        {
            "stand-in": "a stand-in for langgenius/dify-api",
            "version": settings().version,
            "path": request.path,
            "method": request.method,
            "headers": {name: request.headers[name] for name in seen if name in request.headers},
            "bytes": sum(map(len, iter(lambda: request.stream.read(1 << 20), b""))),
        }
    )


@blueprint.get("/v1/stand-in/stream")
def stream() -> Response:
    """As a chat answers: an event every half second, as many as asked for."""

    def events(count: int) -> Iterator[str]:
        for number in range(count):
            yield f'data: {{"event": "message", "number": {number}, "sent": {time.time()}}}\n\n'
            time.sleep(0.5)

    return Response(events(request.args.get("events", 5, int)), mimetype="text/event-stream")


@blueprint.get("/v1/stand-in/text")
def text() -> Response:
    """Many words as JSON, worth being packed."""
    return jsonify(words=["word"] * 2000)


def serve_areas(app: Flask) -> None:
    for area in ("v1", "api", "mcp", "triggers"):
        app.add_url_rule(f"/{area}/<path:path>", f"{area}_path", describe, methods=METHODS)
        if area != "v1":
            app.add_url_rule(f"/{area}", area, describe, methods=METHODS, strict_slashes=False)


@blueprint.get("/files/<path:name>")
def uploaded_file(name: str) -> Response:
    """Served without the signature that Dify's own links carry."""
    return send_from_directory(settings().storage / UPLOADS, name)


@blueprint.post("/console/api/files/upload")
@login_required
def upload_file() -> tuple[Response, int]:
    sent = request.files.get("file")
    if sent is None or not sent.filename:
        abort(400, "file is required")
    name, key = PurePath(sent.filename).name, f"{own_tenant()}/{new_id()}{PurePath(sent.filename).suffix}"
    path = settings().storage / UPLOADS / key
    path.parent.mkdir(parents=True, exist_ok=True)
    sent.save(path)
    row = UploadFile(id=new_id(), tenant_id=own_tenant(), name=name, key=f"{UPLOADS}/{key}", size=path.stat().st_size)
    db.session.add(row)
    db.session.commit()
    return jsonify(
        id=row.id, name=row.name, size=row.size, url=f"/files/{key}", source_url=links.file_link(row.id)
    ), 201


@blueprint.route("/inner/api/<path:path>", methods=METHODS)
def inner_api(**_: str) -> Response:
    """Without the key it is not there (404), as in the real one."""
    given, wanted = request.headers.get("X-Inner-Api-Key", ""), settings().inner_key
    if not wanted or not hmac.compare_digest(given.encode(), wanted.encode()):
        abort(404)
    return describe()


@blueprint.get("/stand-in/reached")
@blueprint.get("/console/api/stand-in/reached")
def reached() -> tuple[Response, int]:
    results = probe.run(probe.CHECKS, settings())
    return jsonify(results), 200 if probe.all_ok(results) else 503


@blueprint.get("/console/api/stand-in")
def reached_page() -> str:
    return render_template("reached.html", version=settings().version, results=probe.run(probe.CHECKS, settings()))
