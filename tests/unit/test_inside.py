"""What runs inside a container of the api: how an error is said, and what is seen of servers on this machine."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from tasks.inside import external as inside
from tasks.inside import mysql, postgresql, s3
from tasks.inside import redis as in_redis
from tasks.inside.report import Problem, Report, unreachable

# --- How an error is said ---


CHECK = {
    "kind": "postgresql",
    "host": "db.lan",
    "port": 5432,
    "user": "dify",
    "password": "of-the-database",
    "database": "dify",
    "plugin_database": "dify_plugin",
    "extras": "",
    "plugin_sslmode": "disable",
}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            'FATAL:  password authentication failed for user "dify"',
            "DB_PASSWORD: PostgreSQL refuses the login of 'dify'",
        ),
        ("server does not support SSL, but SSL was required", "DB_EXTRAS: PostgreSQL offers no TLS"),
        ('FATAL:  no pg_hba.conf entry for host "10.0.0.1", no encryption', "add a line to its pg_hba.conf"),
        (
            "SSL error: certificate verify failed",
            "DB_EXTRAS: PostgreSQL has a certificate that sslmode does not accept",
        ),
        (
            "FATAL:  sorry, too many clients already",
            "DB_HOST: PostgreSQL refuses: FATAL: sorry, too many clients already",
        ),
    ],
)
def test_a_refusal_of_postgresql(error: str, said: str) -> None:
    assert said in postgresql.refused_by_postgresql(CHECK, "PostgreSQL", OSError(error))


def test_the_daemons_missing_tls_is_told_from_a_missing_line_in_pg_hba() -> None:
    error = OSError('FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "dify", no encryption')
    said = postgresql.refused_by_postgresql(CHECK, "PostgreSQL", error, tls_helps=True)
    assert said.endswith("set DB_EXTRAS=sslmode=require")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("could not translate host name", "its name is not known here"),
        ("[Errno -2] Name or service not known", "its name is not known here"),
        ("connection to server failed: Connection refused", "connection refused"),
        ("timeout expired", "no answer in 10 s"),
        ("[Errno 113] No route to host", "no way there"),
        ("password authentication failed", None),
    ],
)
def test_why_nothing_is_reached(error: str, said: str | None) -> None:
    assert unreachable(OSError(error)) == said


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (1045, "DB_PASSWORD: MySQL refuses the login of 'dify'"),
        (3159, "DB_SSL_MODE: MySQL takes encrypted connections only"),
        (1130, "DB_HOST: MySQL refuses: (1130, 'no')"),
    ],
)
def test_a_refusal_of_mysql(number: int, said: str) -> None:
    assert mysql.refused_by_mysql(CHECK, "MySQL", Exception(number, "no")).startswith(said)


@pytest.mark.parametrize(
    ("error", "tls", "has_tls", "said"),
    [
        (
            "invalid username-password pair or user is disabled.",
            False,
            False,
            "REDIS_PASSWORD: Redis refuses the login of",
        ),
        ("Authentication required.", False, False, "REDIS_PASSWORD: Redis asks for a password"),
        (
            "AUTH <password> called without any password configured for the default user",
            False,
            False,
            "leave REDIS_PASSWORD out",
        ),
        ("Connection closed by server.", False, True, "REDIS_USE_SSL: Redis takes TLS only"),
        ("[SSL: WRONG_VERSION_NUMBER] wrong version number", True, False, "REDIS_USE_SSL=true: Redis speaks no TLS"),
        (
            "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed",
            True,
            False,
            "REDIS_SSL_CERT_REQS: Redis has a cert",
        ),
        ("DB index is out of range", False, False, "REDIS_DB: Redis does not have that database"),
        ("OOM command not allowed", False, False, "REDIS_HOST: Redis refuses: OOM"),
    ],
)
def test_a_refusal_of_redis(error: str, tls: bool, has_tls: bool, said: str) -> None:
    check = {"tls": tls, "user": "dify", "sentinel_user": ""}
    assert said in in_redis.refused_by_redis(check, "Redis", OSError(error), has_tls)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "SignatureDoesNotMatch",
            "S3_SECRET_KEY: bucket files at http://s3.lan, for Dify: the signature does not match",
        ),
        ("InvalidAccessKeyId", "S3_ACCESS_KEY: bucket files at http://s3.lan, for Dify: that access key is not known"),
        ("AuthorizationHeaderMalformed", "S3_REGION: bucket files at http://s3.lan, for Dify: is in another region"),
        (
            "AccessDenied",
            "S3_ACCESS_KEY: bucket files at http://s3.lan, for Dify: may not write, read and delete there",
        ),
        ("SlowDown", "S3_ACCESS_KEY: bucket files at http://s3.lan, for Dify: SlowDown later"),
    ],
)
def test_a_refusal_of_s3(code: str, said: str) -> None:
    check = {"settings": "S3", "bucket": "files", "endpoint": "http://s3.lan", "region": "eu-1", "user": "Dify"}
    assert s3.refused_by_s3(check, {"Code": code, "Message": "later"}).startswith(said)


# --- Against servers on this machine ---


class Guarded(BaseHTTPRequestHandler):
    """A stand-in for a vector store that knows one key."""

    def do_GET(self) -> None:
        right = self.headers.get("api-key") == "right" or self.headers.get("Authorization") == "Basic ZGlmeTpyaWdodA=="
        self.send_response(200 if right else 401)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def served() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Guarded)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def tried(check: dict[str, Any]) -> list[str]:
    return inside.main({"checks": [check], "create": False, "authorities": "", "proxies": {}})["problems"]


@pytest.mark.parametrize("user", ["", "dify"])
def test_a_store_that_asks_for_a_key(user: str) -> None:
    check: dict[str, Any] = {
        "kind": "http",
        "setting": "QDRANT_URL",
        "secret": "QDRANT_API_KEY",
        "header": "api-key",
        "scheme": "",
    }
    with served() as url:
        check |= {"url": f"{url}/collections", "user": user, "verify": True}
        assert tried({**check, "password": "right"}) == []
        assert tried({**check, "password": "wrong"}) == [f"QDRANT_API_KEY: {url}/collections refuses it (401)"]
    (line,) = tried({**check, "password": "right"})
    assert (
        line == f"QDRANT_URL: {url}/collections: connection refused; is it up, and does its firewall let this host in?"
    )


def test_a_server_without_tls_is_seen_as_one() -> None:
    with served() as url:
        assert not in_redis.speaks_tls("127.0.0.1", int(url.rpartition(":")[2]))
        context = Report(create=False, authorities="").trusted()
        assert context.verify_mode == ssl.CERT_REQUIRED


def test_a_client_that_the_image_lacks_is_named() -> None:
    (line,) = tried({**CHECK, "kind": "mysql"})
    assert line.startswith("mysql: this image of the api has no client for it: No module named")


class Client:
    """A stand-in for a Redis whose user may not do everything."""

    def __init__(self, forbidden: dict[str, str]) -> None:
        self.forbidden = forbidden

    def execute_command(self, name: str, *_: object) -> None:
        if name in self.forbidden:
            raise PermissionError(self.forbidden[name])


def test_the_rights_that_a_user_lacks_are_named_with_the_statement(monkeypatch: pytest.MonkeyPatch) -> None:
    class Exceptions:
        NoPermissionError = PermissionError

    class Library:
        exceptions = Exceptions

    monkeypatch.setitem(__import__("sys").modules, "redis", Library)
    denied = {
        "EVAL": "User dify has no permissions to run the 'eval' command",
        "PUBLISH": "No permissions to access a channel",
        "SET": "No permissions to access a key",
    }
    with pytest.raises(Problem) as problem:
        in_redis.commands({"user": "dify"}, "Redis", Client(denied))
    assert str(problem.value).endswith("ACL SETUSER dify ~* +eval &*")
    in_redis.commands({"user": "dify"}, "Redis", Client({}))


def test_only_what_it_is_told_to_make_is_made() -> None:
    made: list[str] = []
    look, make = Report(create=False, authorities=""), Report(create=True, authorities="")
    for report in (look, make):
        report.lacks("database dify_plugin", lambda: made.append("dify_plugin"))
    assert (look.missing, look.made, make.missing, make.made) == (
        ["database dify_plugin"],
        [],
        [],
        ["database dify_plugin"],
    )
    assert made == ["dify_plugin"]
