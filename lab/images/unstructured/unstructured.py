"""A stand-in for Unstructured's API: the text of an upload, split at empty lines."""

from __future__ import annotations

from email import message_from_bytes
from pathlib import Path

from stand_in_store.server import Answer, App, Refused, Request, serve

PORT = 8000
app = App()


@app.route("GET /healthcheck")
def alive(_: Request) -> Answer:
    return 200, {"healthcheck": "HEALTHCHECK STATUS: EVERYTHING OK!"}


@app.route("POST /general/v0/general")
def general(request: Request) -> Answer:
    kind = request.headers.get("Content-Type", "")
    parts = message_from_bytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + request.body)
    files = [part for part in parts.walk() if part.get_filename()]
    if not files:
        raise Refused(422, {"detail": "files: field required"})
    Path("/app/data/last").write_text(files[0].get_filename() or "")
    text = (files[0].get_payload(decode=True) or b"").decode()
    return 200, [{"type": "NarrativeText", "text": piece.strip()} for piece in text.split("\n\n") if piece.strip()]


if __name__ == "__main__":
    serve("unstructured-api", app, PORT)
