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

import boto3
import psycopg2
import pymysql
import redis
from botocore.config import Config
from redis.sentinel import Sentinel

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
    database_type: str
    database: str
    connection: Mapping[str, Any]
    redis: Mapping[str, Any]
    environment: Mapping[str, str]


def read_settings(env: Mapping[str, str]) -> Settings:
    return Settings(
        version=env["STAND_IN_VERSION"],
        port=int(env.get("SERVER_PORT") or 5002),
        key=env.get("SERVER_KEY", ""),
        debugging_host=env.get("PLUGIN_REMOTE_INSTALLING_HOST") or "0.0.0.0",
        debugging_port=int(env.get("PLUGIN_REMOTE_INSTALLING_PORT") or 5003),
        inner_url=env.get("DIFY_INNER_API_URL", "").rstrip("/"),
        inner_key=env.get("DIFY_INNER_API_KEY", ""),
        database_type=database_type(env),
        database=env.get("DB_DATABASE") or "dify_plugin",
        connection=database_settings(env),
        redis=redis_settings(env),
        environment=env,
    )


def database_type(env: Mapping[str, str]) -> str:
    kind = env.get("DB_TYPE") or "postgresql"
    if kind not in ("postgresql", "mysql"):
        sys.exit(f"DB_TYPE={kind}: unsupported database type")
    return kind


def database_settings(env: Mapping[str, str]) -> dict[str, Any]:
    if database_type(env) == "mysql":
        return {
            "host": env.get("DB_HOST"),
            "port": int(env.get("DB_PORT") or 3306),
            "user": env.get("DB_USERNAME"),
            "password": env.get("DB_PASSWORD"),
            "connect_timeout": 5,
        }
    return {
        "host": env.get("DB_HOST"),
        "port": env.get("DB_PORT") or "5432",
        "user": env.get("DB_USERNAME"),
        "password": env.get("DB_PASSWORD"),
        "sslmode": env.get("DB_SSL_MODE") or "disable",
        # As the real one has it: all of DB_EXTRAS goes to the server as its options.
        "options": env.get("DB_EXTRAS", "").replace("options=", ""),
        "connect_timeout": 5,
    }


def redis_settings(env: Mapping[str, str]) -> dict[str, Any]:
    return {
        "host": env.get("REDIS_HOST"),
        "port": int(env.get("REDIS_PORT") or 6379),
        "db": int(env.get("REDIS_DB") or 0),
        "username": env.get("REDIS_USERNAME") or None,
        "password": env.get("REDIS_PASSWORD") or None,
        **redis_tls(env),
        "socket_timeout": 5,
        "socket_connect_timeout": 5,
    }


def redis_tls(env: Mapping[str, str]) -> dict[str, Any]:
    """Always verified, whatever REDIS_SSL_CERT_REQS says, by the system's authorities and those in SSL_CERT_DIR."""
    if env.get("REDIS_USE_SSL", "").lower() != "true":
        return {}
    folders = [Path(name) for name in env.get("SSL_CERT_DIR", "").split(":") if name and name != "/etc/ssl/certs"]
    own = "".join(path.read_text() for folder in folders if folder.is_dir() for path in sorted(folder.iterdir()))
    return {"ssl": True, "ssl_cert_reqs": "required", "ssl_check_hostname": True, "ssl_ca_data": own or None}


def redis_client(settings: Settings) -> redis.Redis:
    env = settings.environment
    if env.get("REDIS_USE_SENTINEL", "").lower() != "true":
        return redis.Redis(**settings.redis)
    nodes = [(host, int(port)) for host, _, port in (n.rpartition(":") for n in env["REDIS_SENTINELS"].split(","))]
    login = {
        "username": env.get("REDIS_SENTINEL_USERNAME") or None,
        "password": env.get("REDIS_SENTINEL_PASSWORD") or None,
    }
    to_master = {name: value for name, value in settings.redis.items() if name not in ("host", "port")}
    return Sentinel(nodes, sentinel_kwargs=login).master_for(env["REDIS_SENTINEL_SERVICE_NAME"], **to_master)


def connect(settings: Settings, database: str | None) -> Any:
    """+ database: None for the one that is always there."""
    if settings.database_type == "mysql":
        return pymysql.connect(database=database, autocommit=True, **settings.connection)
    connection = psycopg2.connect(dbname=database or "postgres", **settings.connection)
    connection.autocommit = True  # CREATE DATABASE allows no transaction
    return connection


def query(settings: Settings, database: str | None, statement: str, *values: str) -> list[Any]:
    """One statement on a connection of its own, committed at once."""
    connection = connect(settings, database)
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return list(cursor.fetchall()) if cursor.description else []
    finally:
        connection.close()


def make_database(settings: Settings) -> None:
    """Create the daemon's own database when it is missing: nobody else in the stack does."""
    mysql = settings.database_type == "mysql"
    known = "SELECT schema_name FROM information_schema.schemata WHERE schema_name" if mysql else ""
    known = known or "SELECT datname FROM pg_database WHERE datname"
    if not query(settings, None, f"{known} = %s", settings.database):
        quote = "`" if mysql else '"'
        query(settings, None, f"CREATE DATABASE {quote}{settings.database.replace(quote, quote * 2)}{quote}")
        print(f"created database {settings.database}", flush=True)
    table = "stand_in_starts (started_at timestamp DEFAULT CURRENT_TIMESTAMP)"
    query(settings, settings.database, f"CREATE TABLE IF NOT EXISTS {table}")
    query(settings, settings.database, "INSERT INTO stand_in_starts (started_at) VALUES (CURRENT_TIMESTAMP)")


def check_database(settings: Settings) -> str:
    rows = query(settings, settings.database, "SELECT count(*) FROM stand_in_starts")
    return f"{rows[0][0]} starts recorded in {settings.database}"


def check_redis(settings: Settings) -> str:
    redis_client(settings).ping()
    return "PONG"


def check_storage(settings: Settings) -> str:
    env = settings.environment
    if env.get("PLUGIN_STORAGE_TYPE") == "aws_s3":
        return check_bucket(env)
    path = STORAGE / "stand-in.json"
    path.write_text(json.dumps({"version": settings.version}))
    return f"wrote {len(path.read_bytes())} bytes"


def check_bucket(env: Mapping[str, str]) -> str:
    path_style = env.get("S3_USE_AWS", "").lower() != "true" and env.get("S3_USE_PATH_STYLE", "").lower() == "true"
    client = boto3.client(
        "s3",
        endpoint_url=env.get("S3_ENDPOINT") or None,
        region_name=env.get("AWS_REGION"),
        aws_access_key_id=env.get("AWS_ACCESS_KEY"),
        aws_secret_access_key=env.get("AWS_SECRET_KEY"),
        config=Config(s3={"addressing_style": "path" if path_style else "virtual"}),
    )
    bucket, text = env["PLUGIN_STORAGE_OSS_BUCKET"], b"written"
    client.put_object(Bucket=bucket, Key="stand-in", Body=text)
    if client.get_object(Bucket=bucket, Key="stand-in")["Body"].read() != text:
        raise RuntimeError("the bucket holds something else than was written")
    return f"wrote and read in bucket {bucket}"


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


HEALTH: dict[str, Callable[[Settings], str]] = {"database": check_database, "redis": check_redis}
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
    wbufsize = -1  # headers and body leave in one write: who is stopped between two leaves half an answer
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
        except (psycopg2.Error, pymysql.MySQLError, redis.RedisError, OSError) as error:
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
