"""A stand-in for Oracle Database Free: users as sqlplus made them, rows in JSON files, HTTP on the listener's port."""

from __future__ import annotations

import os

from stand_in_store.accounts import Accounts
from stand_in_store.documents import Documents
from stand_in_store.server import Answer, App, Refused, Request, serve

PORT, SERVICE = 1521, "FREEPDB1"
accounts, documents = Accounts("/opt/oracle/oradata/accounts.json"), Documents("/opt/oracle/oradata/FREE")
for name in ("SYS", "SYSTEM", "PDBADMIN"):
    accounts.bind(name, os.environ["ORACLE_PWD"])


def log_in(request: Request) -> None:
    user, password = request.basic()
    if not accounts.check(user.upper(), password):
        raise Refused(401, {"error": "ORA-01017: invalid credential or not authorized; logon denied"})


app = App(log_in)


def table(service: str, name: str) -> str:
    if service.upper() != SERVICE:
        raise Refused(400, {"error": "ORA-12514: TNS:listener does not currently know of service requested"})
    return name


@app.route("PUT /{service}/{name}/{key}")
def put(request: Request, service: str, name: str, key: str) -> Answer:
    documents.put(table(service, name), key, request.json())
    return 200, {}


@app.route("GET /{service}/{name}/{key}")
def get(_: Request, service: str, name: str, key: str) -> Answer:
    found = documents.get(table(service, name), key)
    if found is None:
        raise Refused(404, {"error": "no such row"})
    return 200, found


@app.route("DELETE /{service}/{name}/{key}")
def delete(_: Request, service: str, name: str, key: str) -> Answer:
    documents.remove(table(service, name), key)
    return 200, {}


serve("oracle free", app, PORT)
