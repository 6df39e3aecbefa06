"""The settings of Dify that the stand-in reads, under Dify's own names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote

HOME = Path("/app/api")
SECRETS = (
    "SECRET_KEY",
    "INIT_PASSWORD",
    "DB_PASSWORD",
    "REDIS_PASSWORD",
    "CELERY_BROKER_URL",
    "CODE_EXECUTION_API_KEY",
    "PLUGIN_DAEMON_KEY",
    "INNER_API_KEY_FOR_PLUGIN",
    "REDIS_SENTINEL_PASSWORD",
    "S3_SECRET_KEY",
    # Of the vector stores.
    "CHROMA_AUTH_CREDENTIALS",
    "COUCHBASE_PASSWORD",
    "ELASTICSEARCH_PASSWORD",
    "IRIS_PASSWORD",
    "MATRIXONE_PASSWORD",
    "MILVUS_PASSWORD",
    "MILVUS_TOKEN",
    "MYSCALE_PASSWORD",
    "OCEANBASE_VECTOR_PASSWORD",
    "OPENGAUSS_PASSWORD",
    "OPENSEARCH_PASSWORD",
    "ORACLE_PASSWORD",
    "PGVECTOR_PASSWORD",
    "PGVECTO_RS_PASSWORD",
    "QDRANT_API_KEY",
    "VASTBASE_PASSWORD",
    "WEAVIATE_API_KEY",
)
# All of them but PostgreSQL speak MySQL's protocol.
DATABASES = {"postgresql": 5432, "mysql": 3306, "oceanbase": 2881, "seekdb": 2881}


@dataclass(frozen=True)
class Settings:
    version: str
    deploy_env: str
    secret_key: str
    init_password: str
    console_api_url: str
    console_web_url: str
    cookie_domain: str
    broker_url: str
    storage: Path
    sandbox_url: str
    sandbox_key: str
    plugin_daemon_url: str
    plugin_daemon_key: str
    inner_key: str
    vector_store: str
    ssrf_proxy_url: str
    pool_pre_ping: bool
    database_type: str
    database: Mapping[str, Any]
    redis: Mapping[str, Any]
    environment: Mapping[str, str]
    secrets: tuple[str, ...]

    @property
    def is_postgres(self) -> bool:
        return self.database_type == "postgresql"


def read_settings(env: Mapping[str, str] = os.environ) -> Settings:
    """Raises ValueError for a database that the stand-in cannot speak to, and for a port that is no number."""
    database_type = env.get("DB_TYPE") or "postgresql"
    if database_type not in DATABASES:
        raise ValueError(f"DB_TYPE={database_type}: the stand-in speaks to {', '.join(DATABASES)}")
    return Settings(
        version=env.get("STAND_IN_VERSION", ""),
        deploy_env=env.get("DEPLOY_ENV") or "PRODUCTION",
        secret_key=env.get("SECRET_KEY", ""),
        init_password=env.get("INIT_PASSWORD", ""),
        console_api_url=env.get("CONSOLE_API_URL", ""),
        console_web_url=env.get("CONSOLE_WEB_URL", ""),
        cookie_domain=env.get("COOKIE_DOMAIN", ""),
        broker_url=env.get("CELERY_BROKER_URL", ""),
        storage=HOME / (env.get("OPENDAL_FS_ROOT") or "storage"),
        sandbox_url=env.get("CODE_EXECUTION_ENDPOINT", "").rstrip("/"),
        sandbox_key=env.get("CODE_EXECUTION_API_KEY", ""),
        plugin_daemon_url=env.get("PLUGIN_DAEMON_URL", "").rstrip("/"),
        plugin_daemon_key=env.get("PLUGIN_DAEMON_KEY", ""),
        inner_key=env.get("INNER_API_KEY_FOR_PLUGIN", ""),
        vector_store=env.get("VECTOR_STORE", ""),
        ssrf_proxy_url=env.get("SSRF_PROXY_HTTP_URL", ""),
        pool_pre_ping=is_true(env, "SQLALCHEMY_POOL_PRE_PING"),
        database_type=database_type,
        database=postgres_settings(env) if database_type == "postgresql" else mysql_settings(env),
        redis=redis_settings(env),
        environment=env,
        secrets=secret_values(env),
    )


def is_true(env: Mapping[str, str], name: str) -> bool:
    return env.get(name, "").lower() == "true"


def postgres_settings(env: Mapping[str, str]) -> dict[str, Any]:
    """Keyword arguments of psycopg2.connect."""
    return {
        "host": env.get("DB_HOST", ""),
        "port": int(env.get("DB_PORT") or 5432),
        "user": env.get("DB_USERNAME", ""),
        "password": env.get("DB_PASSWORD", ""),
        "dbname": env.get("DB_DATABASE", ""),
        "connect_timeout": 5,
        **dict(parse_qsl(env.get("DB_EXTRAS", ""))),
    }


def mysql_settings(env: Mapping[str, str]) -> dict[str, Any]:
    """Keyword arguments of pymysql.connect."""
    return {
        "host": env.get("DB_HOST", ""),
        "port": int(env.get("DB_PORT") or DATABASES[env["DB_TYPE"]]),
        "user": env.get("DB_USERNAME", ""),
        "password": env.get("DB_PASSWORD", ""),
        "database": env.get("DB_DATABASE", ""),
        "charset": env.get("DB_CHARSET") or "utf8mb4",
        "connect_timeout": 5,
    }


def redis_settings(env: Mapping[str, str]) -> dict[str, Any]:
    """Keyword arguments of redis.Redis."""
    return {
        "host": env.get("REDIS_HOST", ""),
        "port": int(env.get("REDIS_PORT") or 6379),
        "db": int(env.get("REDIS_DB") or 0),
        "username": env.get("REDIS_USERNAME") or None,
        "password": env.get("REDIS_PASSWORD") or None,
        "ssl": is_true(env, "REDIS_USE_SSL"),
        "ssl_ca_certs": env.get("REDIS_SSL_CA_CERTS") or None,
        "ssl_cert_reqs": "required" if env.get("REDIS_SSL_CERT_REQS") == "CERT_REQUIRED" else "none",
        "ssl_certfile": env.get("REDIS_SSL_CERTFILE") or None,
        "ssl_keyfile": env.get("REDIS_SSL_KEYFILE") or None,
    }


def secret_values(env: Mapping[str, str]) -> tuple[str, ...]:
    """Every secret as it stands, and as it stands in a URL; the longest first, so that none hides a piece of another."""
    plain = {env[name] for name in SECRETS if env.get(name)}
    return tuple(sorted(plain | {quote(value, safe="") for value in plain}, key=len, reverse=True))


def redact(text: str, settings: Settings) -> str:
    for secret in settings.secrets:
        text = text.replace(secret, "[REDACTED]")
    return text
