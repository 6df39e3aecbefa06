"""Services that run elsewhere: what contradicts itself in their settings, where they are, and what is to be tried on them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from stack import redis, storage
from stack.choices import DATABASES, REDIS, UNSTRUCTURED, VECTOR_STORES, host_of
from stack.release import Release

if TYPE_CHECKING:
    from stack.settings import Settings

# Where operators' own certificate authorities lie in the containers of Dify.
CERTIFICATES = "/etc/dify-certificates"
LOOPBACK = re.compile(r"localhost$|127\.|::1$|0\.0\.0\.0$")
ENCRYPTED = ("require", "verify-ca", "verify-full")
PORTS = {"http": 80, "https": 443, "grpc": 50051, "couchbase": 11210, "couchbases": 11207}
# Vector stores that are reached with a login in SQL, by what their settings begin with.
IN_POSTGRESQL = {"pgvector": "PGVECTOR", "pgvecto-rs": "PGVECTO_RS", "relyt": "RELYT", "vastbase": "VASTBASE"}
IN_MYSQL = {
    "oceanbase": "OCEANBASE_VECTOR",
    "seekdb": "OCEANBASE_VECTOR",
    "tidb_vector": "TIDB_VECTOR",
    "matrixone": "MATRIXONE",
    "alibabacloud_mysql": "ALIBABACLOUD_MYSQL",
}


@dataclass(frozen=True)
class Place:
    """An address of a service that runs elsewhere.

    setting: the one that it comes from.
    """

    setting: str
    host: str
    port: int


# --- What contradicts itself ---


def contradictions(release: Release, given: Mapping[str, str]) -> Iterator[str]:
    """A line for each thing in the operator's settings that cannot work with a service elsewhere."""
    yield from storage.contradictions(release, given)
    for name in sorted({"S3_ENDPOINT", "PLUGIN_S3_ENDPOINT", *_where()}):
        if LOOPBACK.match(host_of(given.get(name, ""))):
            yield (
                f"{name}={given[name]}: inside a container that is the container itself; give the address by which other "
                "machines reach the service"
            )
    yield from _database(release, given)


def _where() -> set[str]:
    choices = [*DATABASES.values(), *VECTOR_STORES.values(), REDIS, UNSTRUCTURED]
    return {name for choice in choices for name in choice.where}


def _database(release: Release, given: Mapping[str, str]) -> Iterator[str]:
    kind = given.get("DB_TYPE") or release.default("DB_TYPE")
    if given.get("DB_CHARSET") and kind != "postgresql":
        yield f"DB_CHARSET={given['DB_CHARSET']}: is for PostgreSQL only, and DB_TYPE is {kind}; leave it out"
    extras = given.get("DB_EXTRAS", "")
    if extras and not all(part.partition("=")[2] for part in extras.split("&")):
        yield "DB_EXTRAS: not name=value&name=value, such as sslmode=require"


# --- What follows ---


def derived(values: Mapping[str, str]) -> dict[str, str]:
    """The plugin daemon's own name for sslmode, and a NO_PROXY that names the stack's own services."""
    found = {}
    if "DB_SSL_MODE" not in values and is_encrypted(values.get("DB_EXTRAS", "")):
        found["DB_SSL_MODE"] = "require"
    if values.get("HTTP_PROXY") or values.get("HTTPS_PROXY"):
        from stack.render import service_names  # which imports us

        # Also to what the operator gives: without them Dify would ask the proxy for its own services.
        own = ["localhost", "127.0.0.1", *service_names()]
        found["NO_PROXY"] = ",".join(dict.fromkeys([*filter(None, values.get("NO_PROXY", "").split(",")), *own]))
    return found


def is_encrypted(extras: str) -> bool:
    """Whether DB_EXTRAS asks for TLS."""
    wanted = dict(parse_qsl(extras))
    return wanted.get("sslmode") in ENCRYPTED or any(name.startswith("ssl_") for name in wanted)


def server_options(extras: str) -> str:
    """What of DB_EXTRAS the plugin daemon can use: it hands all of it to the server as `options`."""
    options = dict(parse_qsl(extras)).get("options", "")
    return f"options={options}" if options else ""


# --- Where they are ---


def places(settings: Settings) -> list[Place]:
    """Every address of a service that runs elsewhere; those that an HTTP proxy stands before are left out."""
    found: list[Place] = []
    for what, choice in settings.chosen.elsewhere.items():
        if what == "REDIS_HOST":
            found += _redis_places(settings)
        elif what.startswith("DB_TYPE="):
            found.append(Place("DB_HOST", settings["DB_HOST"], int(settings["DB_PORT"])))
        else:
            found += [place for name in choice.where for place in _addresses(settings, name)]
    for bucket, name in (("Dify", "S3_ENDPOINT"), ("the plugin daemon", "PLUGIN_S3_ENDPOINT")):
        if any(used["user"] == bucket and used["endpoint"] for used in storage.buckets(_All(settings))):
            found += _addresses(settings, name)
    return list(dict.fromkeys(found))


def _redis_places(settings: Settings) -> list[Place]:
    if not redis.uses_sentinel(settings.values):
        return [Place("REDIS_HOST", settings["REDIS_HOST"], int(settings["REDIS_PORT"]))]
    parts = (node.rpartition(":") for node in redis.nodes(settings.values))
    return [Place("REDIS_SENTINELS", host, int(port)) for host, _, port in parts]


def _addresses(settings: Settings, name: str) -> Iterable[Place]:
    """The addresses in a setting that holds a host, a URL or a list of them."""
    for value in settings.values.get(name, "").split(","):
        url = urlsplit(value if "://" in value else f"//{value}")
        scheme = url.scheme or (settings["VIKINGDB_SCHEMA"] if name == "VIKINGDB_HOST" else "")
        proxied = scheme in ("http", "https") and settings[f"{scheme.upper()}_PROXY"]
        port = url.port or _port_beside(settings, name) or PORTS.get(scheme)
        # Some say which instance of a cloud's service, not where it is.
        if url.hostname and port and not proxied and not name.endswith(("_ID", "_INSTANCE")):
            yield Place(name, url.hostname, port)


def _port_beside(settings: Settings, name: str) -> int:
    beside = {"IRIS_HOST": "IRIS_SUPER_SERVER_PORT"}.get(name, re.sub(r"_HOST$", "_PORT", name))
    return int(settings[beside]) if beside != name and beside in settings.release.settings else 0


class _All(Mapping[str, str]):
    """Every setting by name, the release's defaults included."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __getitem__(self, name: str) -> str:
        return self._settings[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._settings.release.settings)

    def __len__(self) -> int:
        return len(self._settings.release.settings)


# --- What is to be tried on them ---


def checks(settings: Settings) -> list[dict[str, Any]]:
    """What is to be tried from inside a container of Dify's api; empty when nothing runs elsewhere.

    Each has a `kind`, and beside it what tasks/inside/external.py wants to know for that kind.
    """
    everything = _All(settings)
    found: list[dict[str, Any]] = []
    for what in settings.chosen.elsewhere:
        kind, _, value = what.partition("=")
        if kind == "DB_TYPE":
            found.append(_database_check(everything, value))
        elif kind == "REDIS_HOST":
            found.append(_redis_check(settings))
        elif kind == "VECTOR_STORE":
            found += _store_checks(everything, value)
    found += [{"kind": "s3", **bucket} for bucket in storage.buckets(everything)]
    if not found and not places(settings):
        return []
    tried = {(check.get("host"), check.get("port")) for check in found}
    rest = [place for place in places(settings) if (place.host, place.port) not in tried]
    return found + [{"kind": "tcp", "setting": p.setting, "host": p.host, "port": p.port} for p in rest]


def _database_check(get: Mapping[str, str], kind: str) -> dict[str, Any]:
    return {
        "kind": "postgresql" if kind == "postgresql" else "mysql",
        "host": get["DB_HOST"],
        "port": int(get["DB_PORT"]),
        "user": get["DB_USERNAME"],
        "password": get["DB_PASSWORD"],
        "database": get["DB_DATABASE"],
        "plugin_database": get["DB_PLUGIN_DATABASE"],
        "extras": f"{get['DB_EXTRAS']}&client_encoding={get['DB_CHARSET']}".strip("&")
        if get["DB_CHARSET"]
        else get["DB_EXTRAS"],
        "plugin_sslmode": get["DB_SSL_MODE"],
    }


def _redis_check(settings: Settings) -> dict[str, Any]:
    sentinel = redis.uses_sentinel(settings.values)
    return {
        "kind": "redis",
        "host": "" if sentinel else settings["REDIS_HOST"],
        "port": int(settings["REDIS_PORT"]),
        "user": settings["REDIS_USERNAME"],
        "password": settings.values.get("REDIS_PASSWORD", ""),
        "databases": sorted({int(settings["REDIS_DB"]), redis.BROKER_DB}),
        "tls": settings["REDIS_USE_SSL"].lower() == "true",
        "verify": settings["REDIS_SSL_CERT_REQS"],
        "authorities": settings["REDIS_SSL_CA_CERTS"],
        "certificate": settings["REDIS_SSL_CERTFILE"],
        "key": settings["REDIS_SSL_KEYFILE"],
        "sentinels": redis.nodes(settings.values) if sentinel else [],
        "master": settings["REDIS_SENTINEL_SERVICE_NAME"],
        "sentinel_user": settings["REDIS_SENTINEL_USERNAME"],
        "sentinel_password": settings["REDIS_SENTINEL_PASSWORD"],
        "broker_sentinel_password": settings["CELERY_SENTINEL_PASSWORD"],
    }


def _store_checks(get: Mapping[str, str], store: str) -> Iterator[dict[str, Any]]:
    if prefix := IN_POSTGRESQL.get(store) or IN_MYSQL.get(store):
        yield {
            "kind": "login",
            "speaks": "postgresql" if store in IN_POSTGRESQL else "mysql",
            "prefix": prefix,
            "host": get[f"{prefix}_HOST"],
            "port": int(get[f"{prefix}_PORT"]),
            "user": get[f"{prefix}_USER"],
            "password": get[f"{prefix}_PASSWORD"],
            "database": get[f"{prefix}_DATABASE"],
            "extension": "vector" if store == "pgvector" else "",
        }
    elif store in _HTTP:
        yield {"kind": "http", **_HTTP[store](get)}


def _weaviate(get: Mapping[str, str]) -> dict[str, Any]:
    return _http("WEAVIATE_ENDPOINT", get["WEAVIATE_ENDPOINT"], "/v1/meta", "WEAVIATE_API_KEY", get, "Bearer ")


def _qdrant(get: Mapping[str, str]) -> dict[str, Any]:
    return _http("QDRANT_URL", get["QDRANT_URL"], "/collections", "QDRANT_API_KEY", get, header="api-key")


def _tidb_on_qdrant(get: Mapping[str, str]) -> dict[str, Any]:
    name = "TIDB_ON_QDRANT_URL"
    return _http(name, get[name], "/collections", "TIDB_ON_QDRANT_API_KEY", get, header="api-key")


def _upstash(get: Mapping[str, str]) -> dict[str, Any]:
    return _http("UPSTASH_VECTOR_URL", get["UPSTASH_VECTOR_URL"], "/info", "UPSTASH_VECTOR_TOKEN", get, "Bearer ")


def _opensearch(get: Mapping[str, str]) -> dict[str, Any]:
    scheme = "https" if get["OPENSEARCH_SECURE"].lower() == "true" else "http"
    url = f"{scheme}://{get['OPENSEARCH_HOST']}:{get['OPENSEARCH_PORT']}"
    user = get["OPENSEARCH_USER"] if get["OPENSEARCH_AUTH_METHOD"] == "basic" else ""
    verify = get["OPENSEARCH_VERIFY_CERTS"].lower() == "true"
    return _http("OPENSEARCH_HOST", url, "/", "OPENSEARCH_PASSWORD", get) | {"user": user, "verify": verify}


def _elasticsearch(get: Mapping[str, str]) -> dict[str, Any]:
    place = get["ELASTICSEARCH_HOST"]
    url = place if "://" in place else f"http://{place}"
    if not urlsplit(url).port:
        url = f"{url.rstrip('/')}:{get['ELASTICSEARCH_PORT']}"
    verify = get["ELASTICSEARCH_VERIFY_CERTS"].lower() == "true"
    found = _http("ELASTICSEARCH_HOST", url, "/", "ELASTICSEARCH_PASSWORD", get)
    return found | {"user": get["ELASTICSEARCH_USERNAME"], "verify": verify}


def _http(
    setting: str,
    url: str,
    path: str,
    secret: str,
    get: Mapping[str, str],
    scheme: str = "",
    header: str = "Authorization",
) -> dict[str, Any]:
    return {
        "setting": setting,
        "url": url.rstrip("/") + path,
        "secret": secret,
        "header": header,
        "scheme": scheme,
        "password": get[secret],
        "user": "",
        "verify": True,
    }


_HTTP = {
    "weaviate": _weaviate,
    "qdrant": _qdrant,
    "tidb_on_qdrant": _tidb_on_qdrant,
    "upstash": _upstash,
    "opensearch": _opensearch,
    "elasticsearch": _elasticsearch,
    "elasticsearch-ja": _elasticsearch,
}
