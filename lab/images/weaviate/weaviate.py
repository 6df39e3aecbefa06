"""A stand-in for semitechnologies/weaviate: readiness, key check, objects and classes kept as JSON files. No vectors."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import uuid
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PORT = 8080
CLASS_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
Answer = tuple[int, Any]


@dataclass(frozen=True)
class Settings:
    version: str
    hostname: str
    data: Path
    keys: tuple[str, ...]
    anonymous: bool


def read_settings(env: dict[str, str]) -> Settings:
    keys = tuple(key.strip() for key in env.get("AUTHENTICATION_APIKEY_ALLOWED_KEYS", "").split(",") if key.strip())
    if not env.get("PERSISTENCE_DATA_PATH"):
        sys.exit("PERSISTENCE_DATA_PATH is not set")
    if is_true(env, "AUTHENTICATION_APIKEY_ENABLED") and not keys:
        sys.exit("AUTHENTICATION_APIKEY_ENABLED is true, but AUTHENTICATION_APIKEY_ALLOWED_KEYS names no key")
    return Settings(
        version=env["STAND_IN_VERSION"],
        hostname=env.get("CLUSTER_HOSTNAME", ""),
        data=Path(env["PERSISTENCE_DATA_PATH"]),
        keys=keys if is_true(env, "AUTHENTICATION_APIKEY_ENABLED") else (),
        anonymous=is_true(env, "AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED"),
    )


def is_true(env: dict[str, str], name: str) -> bool:
    return env.get(name, "").lower() in ("true", "1", "on", "enabled")


class Store:
    """JSON files: objects/<class>/<uuid>.json and schema/<class>.json below the data folder."""

    def __init__(self, root: Path) -> None:
        self.objects = root / "objects"
        self.schema = root / "schema"
        self.objects.mkdir(parents=True, exist_ok=True)
        self.schema.mkdir(exist_ok=True)

    def classes(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(self.schema.glob("*.json"))]

    def add_class(self, document: dict[str, Any]) -> None:
        write(self.schema / f"{document['class']}.json", document)

    def add(self, document: dict[str, Any]) -> None:
        write(self.objects / document["class"] / f"{document['id']}.json", document)
        if not (self.schema / f"{document['class']}.json").exists():
            self.add_class({"class": document["class"]})

    def find(self, object_id: str) -> Path | None:
        return next(iter(self.objects.glob(f"*/{object_id}.json")), None)

    def all(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(self.objects.glob("*/*.json"))]


def write(path: Path, document: dict[str, Any]) -> None:
    """Write beside the file and rename, so that a container killed half way leaves no torn object."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(document))
    beside.replace(path)


def error(status: int, message: str) -> Answer:
    return status, {"error": [{"message": message}]}


def is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    settings: Settings
    store: Store

    def do_GET(self) -> None:
        self.serve(None)

    do_DELETE = do_GET

    def do_POST(self) -> None:
        self.serve(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def serve(self, body: bytes | None) -> None:
        path = self.path.partition("?")[0].rstrip("/")
        if path in ("/v1/.well-known/ready", "/v1/.well-known/live"):
            self.send(200, None)
        elif problem := self.key_problem():
            self.send(401, {"code": 401, "message": problem})
        else:
            self.send(*self.answer(path, body))

    def key_problem(self) -> str | None:
        scheme, _, given = (self.headers.get("Authorization") or "").partition(" ")
        if not given:
            return None if self.settings.anonymous else "anonymous access not enabled"
        known = scheme.lower() == "bearer" and given.strip() in self.settings.keys
        return None if known else "unauthorized: invalid api key"

    def answer(self, path: str, body: bytes | None) -> Answer:
        wanted = (self.command, *path.split("/")[2:])
        match wanted:
            case ("GET", "meta"):
                return 200, self.meta()
            case ("GET", "schema"):
                return 200, {"classes": self.store.classes()}
            case ("GET", "objects"):
                return 200, {"objects": self.store.all()}
            case ("POST", "schema" | "objects" as kind):
                return self.create(kind, body or b"")
            case ("GET" | "DELETE", "objects", *_, object_id) if is_uuid(object_id):
                return self.one(object_id.lower())
        return error(404, f"the stand-in has no {self.command} {path}")

    def meta(self) -> dict[str, Any]:
        return {
            "version": self.settings.version,
            "hostname": f"http://[::]:{PORT}",
            "modules": {},
            "stand-in": "a stand-in for semitechnologies/weaviate",
            "node": self.settings.hostname,
        }

    def create(self, kind: str, body: bytes) -> Answer:
        try:
            document = json.loads(body)
            class_name = document["class"]
        except (ValueError, KeyError, TypeError):
            return error(422, "the body must be JSON with a class")
        if not isinstance(class_name, str) or not CLASS_NAME.fullmatch(class_name):
            return error(422, f"not a class name: {class_name!r}")
        if kind == "schema":
            self.store.add_class(document)
            return 200, document
        return self.create_object(document)

    def create_object(self, document: dict[str, Any]) -> Answer:
        document["id"] = str(document.get("id") or uuid.uuid4()).lower()
        if not is_uuid(document["id"]):
            return error(422, f"not a UUID: {document['id']!r}")
        if self.store.find(document["id"]):
            return error(422, f"id '{document['id']}' already exists")
        self.store.add(document)
        return 200, document

    def one(self, object_id: str) -> Answer:
        path = self.store.find(object_id)
        if path is None:
            return error(404, f"no object {object_id}")
        if self.command == "DELETE":
            path.unlink()
            return 204, None
        return 200, json.loads(path.read_text())

    def send(self, status: int, document: object) -> None:
        payload = b"" if document is None else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        if status != 204:
            self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *args: object) -> None:
        print(f"{self.client_address[0]} {format % args}", flush=True)


def main() -> None:
    Handler.settings = read_settings(dict(os.environ))
    Handler.store = Store(Handler.settings.data)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(f"stand-in for semitechnologies/weaviate {Handler.settings.version}: listening on port {PORT}", flush=True)
    ThreadingHTTPServer(("", PORT), Handler).serve_forever()


if __name__ == "__main__":
    main()
