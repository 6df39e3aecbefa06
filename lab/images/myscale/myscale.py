"""A stand-in for MyScaleDB's HTTP interface. Its user `default` is as /etc/clickhouse-server/users.d says: without a password
at first, and let in from everywhere."""

from __future__ import annotations

import hmac
import ipaddress
import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stand_in_store.documents import Documents
from stand_in_store.server import Answer, App, Refused, Request, serve

PORT = 8123
CONFIGURATION = Path("/etc/clickhouse-server/users.d")
rows = Documents("/var/lib/clickhouse/data")
password, networks = "", ["::/0", "0.0.0.0/0"]

for path in sorted(CONFIGURATION.glob("*.xml")):
    user = ElementTree.parse(path).getroot().find("users/default")
    found = user.find("password") if user is not None else None
    if found is not None:
        password = os.environ[found.attrib["from_env"]] if "from_env" in found.attrib else (found.text or "")
    given = [place.text or "" for place in user.findall("networks/ip")] if user is not None else []
    networks = given or networks


def log_in(request: Request) -> None:
    address = ipaddress.ip_address(request.client)
    if not any(address in ipaddress.ip_network(network, strict=False) for network in networks):
        raise Refused(
            403, "Code: 195. DB::Exception: Connections are not allowed from this address (IP_ADDRESS_NOT_ALLOWED)"
        )
    shown = request.headers.get("X-ClickHouse-User", ""), request.headers.get("X-ClickHouse-Key", "")
    who, key = request.basic() if request.headers.get("Authorization") else shown
    if (who or "default") != "default" or not hmac.compare_digest(key.encode(), password.encode()):
        raise Refused(403, "Code: 516. DB::Exception: default: Authentication failed (AUTHENTICATION_FAILED)")


app = App(log_in)
Do = Callable[[re.Match[str], dict[str, str]], Any]


def table(name: str) -> str:
    if not rows.has(name):
        raise Refused(404, f"Code: 60. DB::Exception: Table {name} does not exist. (UNKNOWN_TABLE)")
    return name


def make_database(match: re.Match[str], _: dict[str, str]) -> str:
    rows.make(match[1])
    return ""


def make_table(match: re.Match[str], _: dict[str, str]) -> str:
    table(match[1].partition(".")[0])
    rows.make(match[1])
    return ""


def insert(match: re.Match[str], values: dict[str, str]) -> str:
    rows.put(table(match[1]), values["id"], {"text": values["text"]})
    return ""


def select(match: re.Match[str], values: dict[str, str]) -> Any:
    row = rows.get(table(match[1]), values["id"])
    return {"data": [row] if row else [], "rows": int(bool(row))}


def delete(match: re.Match[str], values: dict[str, str]) -> str:
    rows.remove(table(match[1]), values["id"])
    return ""


STATEMENTS: list[tuple[str, Do]] = [
    (r"SELECT 1", lambda *_: "1\n"),
    (r"CREATE DATABASE IF NOT EXISTS (\w+)", make_database),
    (r"CREATE TABLE IF NOT EXISTS ([\w.]+) \(.*\) ENGINE = MergeTree ORDER BY id", make_table),
    (r"INSERT INTO ([\w.]+) \(id, text\) VALUES .*", insert),
    (r"SELECT text FROM ([\w.]+) WHERE id = .* FORMAT JSON", select),
    (r"ALTER TABLE ([\w.]+) DELETE WHERE id = .*", delete),
]


@app.route("GET /ping", open=True)
def ping(_: Request) -> Answer:
    return 200, "Ok.\n"


@app.route("GET /", "POST /")
def query(request: Request) -> Answer:
    statement = request.query.get("query", "") or request.body.decode()
    values = {name.removeprefix("param_"): value for name, value in request.query.items()}
    for pattern, do in STATEMENTS:
        if match := re.fullmatch(pattern, statement.strip()):
            return 200, do(match, values)
    raise Refused(400, "Code: 62. DB::Exception: Syntax error: the stand-in knows few statements (SYNTAX_ERROR)")


serve("myscaledb", app, PORT)
