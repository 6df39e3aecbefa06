"""A stand-in for OpenSearch with its security plugin: users are taken from the configuration once, then kept with the data."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import yaml
from stand_in_store import search
from stand_in_store.accounts import Accounts
from stand_in_store.documents import Documents
from stand_in_store.server import serve

PORT = 9200
HOME = Path("/usr/share/opensearch")

configuration = yaml.safe_load((HOME / "config/opensearch.yml").read_text())
users = yaml.safe_load((HOME / "config/opensearch-security/internal_users.yml").read_text())
if not configuration.get("plugins.security.ssl.http.enabled"):
    sys.exit("the security plugin is not configured")
accounts = Accounts(HOME / "data/accounts.json")
if not accounts.file.exists():
    for name in users.keys() - {"_meta"}:
        accounts.bind(name, os.environ["OPENSEARCH_INITIAL_ADMIN_PASSWORD"] if name == "admin" else name)
serve("opensearch", search.app("opensearch", Documents(HOME / "data/indices"), accounts), PORT, tls=True)
