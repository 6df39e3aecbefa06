"""Elasticsearch and OpenSearch; and Couchbase, Oracle and IRIS, whose own protocols only their vendors' libraries speak:
Couchbase is asked by its REST API, the stand-ins for Oracle and IRIS answer HTTP on the port of the real ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from urllib.parse import quote, urlencode, urlsplit

from stand_in.stores.base import COLLECTION, Http, basic, is_true


class _Search:
    """Documents as both search engines take them."""

    api: Http

    def write(self, key: str, text: str) -> None:
        self.api.ask("PUT", f"/{COLLECTION}/_doc/{key}?refresh=true", {"key": key, "text": text})

    def read(self, key: str) -> str | None:
        wanted = {"query": {"match": {"key": key}}}
        status, found = self.api.ask("POST", f"/{COLLECTION}/_search", wanted, also=(404,))
        hits = found["hits"]["hits"] if status == 200 else []
        return next((hit["_source"]["text"] for hit in hits if hit["_id"] == key), None)

    def remove(self, key: str) -> None:
        self.api.ask("DELETE", f"/{COLLECTION}/_doc/{key}?refresh=true")


class Elasticsearch(_Search):
    def __init__(self, env: Mapping[str, str]) -> None:
        place = env.get("ELASTICSEARCH_HOST", "")
        url = place if place.startswith(("http://", "https://")) else f"http://{place}"
        login = basic(env.get("ELASTICSEARCH_USERNAME", ""), env.get("ELASTICSEARCH_PASSWORD", ""))
        self.api = Http(f"{url}:{env.get('ELASTICSEARCH_PORT') or '9200'}", login)


class OpenSearch(_Search):
    def __init__(self, env: Mapping[str, str]) -> None:
        scheme = "https" if is_true(env, "OPENSEARCH_SECURE") else "http"
        url = f"{scheme}://{env.get('OPENSEARCH_HOST', '')}:{env.get('OPENSEARCH_PORT') or '9200'}"
        login = basic(env.get("OPENSEARCH_USER", ""), env.get("OPENSEARCH_PASSWORD", ""))
        self.api = Http(url, login, verify=is_true(env, "OPENSEARCH_VERIFY_CERTS"))


class Couchbase:
    def __init__(self, env: Mapping[str, str]) -> None:
        host = urlsplit(env.get("COUCHBASE_CONNECTION_STRING", "")).hostname
        login = basic(env.get("COUCHBASE_USER", ""), env.get("COUCHBASE_PASSWORD", ""))
        self.api = Http(f"http://{host}:8091", {**login, "Content-Type": "application/x-www-form-urlencoded"})
        self.path = f"/pools/default/buckets/{quote(env.get('COUCHBASE_BUCKET_NAME', ''), safe='')}/docs"

    def write(self, key: str, text: str) -> None:
        value = urlencode({"value": json.dumps({"text": text})}).encode()
        self.api.ask("POST", f"{self.path}/{COLLECTION}-{key}", value)

    def read(self, key: str) -> str | None:
        status, found = self.api.ask("GET", f"{self.path}/{COLLECTION}-{key}", also=(404,))
        return str(json.loads(found["json"])["text"]) if status == 200 else None

    def remove(self, key: str) -> None:
        self.api.ask("DELETE", f"{self.path}/{COLLECTION}-{key}")


class _Table:
    """Rows of the stand-ins for Oracle and IRIS, below the service or namespace that Dify names."""

    api: Http

    def write(self, key: str, text: str) -> None:
        self.api.ask("PUT", f"/{COLLECTION}/{key}", {"text": text})

    def read(self, key: str) -> str | None:
        status, found = self.api.ask("GET", f"/{COLLECTION}/{key}", also=(404,))
        return str(found["text"]) if status == 200 else None

    def remove(self, key: str) -> None:
        self.api.ask("DELETE", f"/{COLLECTION}/{key}")


class Oracle(_Table):
    def __init__(self, env: Mapping[str, str]) -> None:
        place, _, service = env.get("ORACLE_DSN", "").partition("/")
        login = basic(env.get("ORACLE_USER", ""), env.get("ORACLE_PASSWORD", ""))
        self.api = Http(f"http://{place}/{quote(service, safe='')}", login)


class Iris(_Table):
    def __init__(self, env: Mapping[str, str]) -> None:
        place = f"{env.get('IRIS_HOST', '')}:{env.get('IRIS_SUPER_SERVER_PORT') or '1972'}"
        login = basic(env.get("IRIS_USER", ""), env.get("IRIS_PASSWORD", ""))
        self.api = Http(f"http://{place}/{quote(env.get('IRIS_DATABASE', ''), safe='')}", login)
