"""A stand-in for langgenius/dify-plugin-daemon: its database, its health check and its key checks. It runs no plugin."""

from __future__ import annotations

import hmac
import json
import os
import signal
import socketserver
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg2
import redis
from psycopg2 import sql

STORAGE = Path("/app/storage")
START_SECONDS = 30
Answer = tuple[int, dict[str, Any]]


@dataclass(frozen=True)
class Settings:
    version: str
    port: int
    key: str
    debugging_host: str
    debugging_port: int
    inner_url: str
    inner_key: str
    database: str
    connection: Mapping[str, Any]
    redis: Mapping[str, Any]


def read_settings(env: Mapping[str, str]) -> Settings:
    return Settings(
        version=env["STAND_IN_VERSION"],
        port=int(env.get("SERVER_PORT") or 5002),
        key=env.get("SERVER_KEY", ""),
        debugging_host=env.get("PLUGIN_REMOTE_INSTALLING_HOST") or "0.0.0.0",
        debugging_port=int(env.get("PLUGIN_REMOTE_INSTALLING_PORT") or 5003),
        inner_url=env.get("DIFY_INNER_API_URL", "").rstrip("/"),
        inner_key=env.get("DIFY_INNER_API_KEY", ""),
        database=env.get("DB_DATABASE") or "dify_plugin",
        connection=database_settings(env),
        redis=redis_settings(env),
    )


def database_settings(env: Mapping[str, str]) -> dict[str, Any]:
    return {
        "host": env.get("DB_HOST"),
        "port": env.get("DB_PORT") or "5432",
        "user": env.get("DB_USERNAME"),
        "password": env.get("DB_PASSWORD"),
        "sslmode": env.get("DB_SSL_MODE") or "disable",
        "connect_timeout": 5,
    }


def redis_settings(env: Mapping[str, str]) -> dict[str, Any]:
    return {
        "host": env.get("REDIS_HOST"),
        "port": int(env.get("REDIS_PORT") or 6379),
        "db": int(env.get("REDIS_DB") or 0),
        "username": env.get("REDIS_USERNAME") or None,
        "password": env.get("REDIS_PASSWORD") or None,
        "ssl": env.get("REDIS_USE_SSL", "").lower() == "true",
        "socket_timeout": 5,
        "socket_connect_timeout": 5,
    }


def query(
    settings: Settings, database: str, statement: sql.Composable | str, values: tuple[object, ...] = ()
) -> list[Any]:
    """One statement on a connection of its own, committed at once: CREATE DATABASE allows no transaction."""
    connection = psycopg2.connect(dbname=database, **settings.connection)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement, values)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def make_database(settings: Settings) -> None:
    """Create the daemon's own database when it is missing: nobody else in the stack does."""
    if not query(settings, "postgres", "SELECT 1 FROM pg_database WHERE datname = %s", (settings.database,)):
        query(settings, "postgres", sql.SQL("CREATE DATABASE {}").format(sql.Identifier(settings.database)))
        print(f"created database {settings.database}", flush=True)
    query(
        settings, settings.database, "CREATE TABLE IF NOT EXISTS stand_in_starts (started_at timestamptz DEFAULT now())"
    )
    query(settings, settings.database, "INSERT INTO stand_in_starts DEFAULT VALUES")


def check_database(settings: Settings) -> str:
    rows = query(settings, settings.database, "SELECT count(*) FROM stand_in_starts")
    return f"{rows[0][0]} starts recorded in {settings.database}"


def check_redis(settings: Settings) -> str:
    redis.Redis(**settings.redis).ping()
    return "PONG"


def check_storage(settings: Settings) -> str:
    path = STORAGE / "stand-in.json"
    path.write_text(json.dumps({"version": settings.version}))
    return f"wrote {len(path.read_bytes())} bytes"


def check_inner_api(settings: Settings) -> str:
    """Call the api back with the inner key, as plugins do."""
    request = urllib.request.Request(
        f"{settings.inner_url}/inner/api/stand-in", headers={"X-Inner-Api-Key": settings.inner_key}
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return f"api answered {response.status}"
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"api answered {error.code} to the inner key") from error


HEALTH: dict[str, Callable[[Settings], str]] = {"postgres": check_database, "redis": check_redis}
REACHED = HEALTH | {"storage": check_storage, "inner_api": check_inner_api}


def run(checks: Mapping[str, Callable[[Settings], str]], settings: Settings) -> dict[str, dict[str, Any]]:
    results = {}
    for name, check in checks.items():
        try:
            results[name] = {"ok": True, "detail": check(settings)}
        except Exception as error:
            results[name] = {"ok": False, "detail": f"{type(error).__name__}: {error}".strip()}
    return results


def all_ok(results: Mapping[str, dict[str, Any]]) -> bool:
    return all(result["ok"] for result in results.values())


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    settings: Settings

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send(*self.answer(self.path.partition("?")[0]))

    do_POST = do_PUT = do_DELETE = do_GET

    def answer(self, path: str) -> Answer:
        if path == "/health/check":
            return self.health()
        if path.startswith("/e/"):
            return 404, {"error": "plugin not found", "Dify-Hook-Url": self.headers.get("Dify-Hook-Url")}
        if not self.has_key():
            return 401, {"code": -401, "message": "unauthorized"}
        if path == "/stand-in/reached":
            results = run(REACHED, self.settings)
            return 200 if all_ok(results) else 503, results
        return 404, {"code": -404, "message": "the stand-in runs no plugins"}

    def health(self) -> Answer:
        results = run(HEALTH, self.settings)
        if all_ok(results):
            return 200, {"status": "ok", "version": self.settings.version}
        return 503, {"status": "error", **results}

    def has_key(self) -> bool:
        given = self.headers.get("X-Api-Key") or ""
        return bool(self.settings.key) and hmac.compare_digest(given.encode(), self.settings.key.encode())

    def send(self, status: int, document: object) -> None:
        payload = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *args: object) -> None:
        print(f"{self.client_address[0]} {format % args}", flush=True)


class Debugging(socketserver.BaseRequestHandler):
    """The remote debugging port: open, and of no use in a stand-in."""

    def handle(self) -> None:
        self.request.sendall(b"stand-in for langgenius/dify-plugin-daemon: no remote debugging\n")


class DebuggingServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def start(settings: Settings) -> None:
    """Make the database and see Redis; the real daemon also stops when it reaches neither, and Docker starts it again."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            make_database(settings)
            check_redis(settings)
            check_storage(settings)
            return
        except (psycopg2.Error, redis.RedisError, OSError) as error:
            if time.monotonic() > deadline:
                sys.exit(f"failed to start: {error}")
            print(f"not yet: {str(error).strip()}", flush=True)
            time.sleep(1)


def main() -> None:
    settings = Handler.settings = read_settings(os.environ)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    start(settings)
    debugging = DebuggingServer((settings.debugging_host, settings.debugging_port), Debugging)
    threading.Thread(target=debugging.serve_forever, daemon=True).start()
    print(
        f"stand-in for langgenius/dify-plugin-daemon {settings.version}: listening on port {settings.port}", flush=True
    )
    ThreadingHTTPServer(("", settings.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
