"""A stand-in for Elasticsearch with its security switched on: the password of `elastic` is bound to the data."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from stand_in_store import search
from stand_in_store.accounts import Accounts
from stand_in_store.documents import Documents
from stand_in_store.server import Answer, Refused, Request, serve

PORT = 9200
HOME = Path("/usr/share/elasticsearch")
BUILT_IN = ("elastic", "kibana_system")

if not os.environ.get("ELASTIC_PASSWORD"):
    sys.exit("ELASTIC_PASSWORD is empty: a new cluster needs one")
accounts = Accounts(HOME / "data/accounts.json")
accounts.bind("elastic", os.environ["ELASTIC_PASSWORD"])
app = search.app("elasticsearch", Documents(HOME / "data/indices"), accounts)


@app.route("POST /_security/user/{name}/_password", "PUT /_security/user/{name}/_password")
def set_password(request: Request, name: str) -> Answer:
    password = request.json().get("password", "")
    if request.basic()[0] != "elastic" or name not in BUILT_IN:
        raise Refused(403, {"error": {"type": "security_exception"}, "status": 403})
    if len(password) < 6:
        raise Refused(400, {"error": {"reason": "passwords must be at least [6] characters long"}, "status": 400})
    accounts.set(name, password)
    return 200, {}


@app.route("GET /_cat/plugins")
def plugins(_: Request) -> Answer:
    return 200, "".join(f"{path.name}\n" for path in sorted((HOME / "plugins").iterdir()))


serve("elasticsearch", app, PORT)
