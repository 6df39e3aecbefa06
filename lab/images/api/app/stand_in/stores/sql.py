"""Stores that are databases: PostgreSQL's and MySQL's relatives, and MyScale, which takes SQL by HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any
from urllib.parse import urlencode

import psycopg2
import pymysql

from stand_in.stores.base import COLLECTION, VECTOR, Http, basic


class _Table:
    """One table, and a connection for each statement."""

    make = (f"CREATE TABLE IF NOT EXISTS {COLLECTION} (id varchar(36) PRIMARY KEY, text varchar(200))",)
    insert = f"INSERT INTO {COLLECTION} (id, text) VALUES (%s, %s)"
    select = f"SELECT text FROM {COLLECTION} WHERE id = %s"

    def prepare(self) -> None:
        for statement in self.make:
            self.run(statement)

    def connect(self) -> Any:
        raise NotImplementedError

    def run(self, statement: str, *values: str) -> list[tuple[Any, ...]]:
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            rows = list(cursor.fetchall()) if cursor.description else []
            connection.commit()
            return rows

    def write(self, key: str, text: str) -> None:
        self.run(self.insert, key, text)

    def read(self, key: str) -> str | None:
        rows = self.run(self.select, key)
        return str(rows[0][0]) if rows else None

    def remove(self, key: str) -> None:
        self.run(f"DELETE FROM {COLLECTION} WHERE id = %s", key)


class _Postgres(_Table):
    prefix = ""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.login = {
            "host": env.get(f"{self.prefix}_HOST", ""),
            "port": int(env.get(f"{self.prefix}_PORT") or 5432),
            "user": env.get(f"{self.prefix}_USER", ""),
            "password": env.get(f"{self.prefix}_PASSWORD", ""),
            "dbname": env.get(f"{self.prefix}_DATABASE", ""),
        }
        self.prepare()

    def connect(self) -> Any:
        return psycopg2.connect(**self.login, connect_timeout=5)


class Pgvector(_Postgres):
    """The only one of them whose extension is real in the lab."""

    prefix = "PGVECTOR"
    make = (
        "CREATE EXTENSION IF NOT EXISTS vector",
        f"CREATE TABLE IF NOT EXISTS {COLLECTION} (id varchar(36) PRIMARY KEY, text text, embedding vector({len(VECTOR)}))",
    )
    insert = f"INSERT INTO {COLLECTION} (id, text, embedding) VALUES (%s, %s, '{VECTOR}')"
    select = f"SELECT text FROM {COLLECTION} WHERE id = %s ORDER BY embedding <=> '{VECTOR}' LIMIT 1"


class PgvectoRs(_Postgres):
    prefix = "PGVECTO_RS"


class Vastbase(_Postgres):
    prefix = "VASTBASE"


class Opengauss(_Postgres):
    prefix = "OPENGAUSS"


class _Mysql(_Table):
    prefix = ""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.login = {
            "host": env.get(f"{self.prefix}_HOST", ""),
            "port": int(env.get(f"{self.prefix}_PORT") or 3306),
            "user": env.get(f"{self.prefix}_USER", ""),
            "password": env.get(f"{self.prefix}_PASSWORD", ""),
            "database": env.get(f"{self.prefix}_DATABASE", ""),
        }
        self.prepare()

    def connect(self) -> Any:
        return pymysql.connect(**self.login, connect_timeout=5, read_timeout=8)


class OceanBase(_Mysql):
    """seekdb too: Dify reads the same settings for both."""

    prefix = "OCEANBASE_VECTOR"


class MatrixOne(_Mysql):
    """Dify's library for it creates the database, so this does too."""

    prefix = "MATRIXONE"

    def prepare(self) -> None:
        name = self.login.pop("database")
        self.run(f"CREATE DATABASE IF NOT EXISTS {name}")
        self.login["database"] = name
        super().prepare()


class MyScale:
    """ClickHouse's HTTP interface."""

    def __init__(self, env: Mapping[str, str]) -> None:
        login = basic(env.get("MYSCALE_USER", ""), env.get("MYSCALE_PASSWORD", ""))
        self.api = Http(f"http://{env.get('MYSCALE_HOST', '')}:{env.get('MYSCALE_PORT') or '8123'}", login)
        self.table = f"{env.get('MYSCALE_DATABASE', '')}.{COLLECTION}"
        self.run(f"CREATE DATABASE IF NOT EXISTS {env.get('MYSCALE_DATABASE', '')}")
        self.run(f"CREATE TABLE IF NOT EXISTS {self.table} (id String, text String) ENGINE = MergeTree ORDER BY id")

    def run(self, statement: str, **values: str) -> Any:
        query = urlencode({f"param_{name}": value for name, value in values.items()})
        return self.api.ask("POST", f"/?{query}", statement.encode())[1]

    def write(self, key: str, text: str) -> None:
        self.run(f"INSERT INTO {self.table} (id, text) VALUES ({{id:String}}, {{text:String}})", id=key, text=text)

    def read(self, key: str) -> str | None:
        found = self.run(f"SELECT text FROM {self.table} WHERE id = {{id:String}} FORMAT JSON", id=key)
        return str(found["data"][0]["text"]) if found["data"] else None

    def remove(self, key: str) -> None:
        self.run(f"ALTER TABLE {self.table} DELETE WHERE id = {{id:String}}", id=key)
