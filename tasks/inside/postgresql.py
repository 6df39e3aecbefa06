"""What Dify and its plugin daemon need of a PostgreSQL elsewhere."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl, quote_plus

from tasks.inside.report import PROBE, SECONDS, Check, Problem, Report, must_reach, one_line


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def check_postgresql(check: Check, report: Report) -> None:
    opened = {}
    try:
        for database, connect in ((check["database"], as_api), (check["plugin_database"], as_daemon)):
            try:
                opened[database] = open_postgresql(check, report, database, connect)
            except Problem as problem:
                report.problems.append(str(problem))
                if "wrong" in str(problem) or "firewall" in str(problem):
                    return
        for database, connection in opened.items():
            if connection:
                look_into(check, report, database, connection)
    finally:
        for connection in filter(None, opened.values()):
            connection.close()


def as_api(check: Check, database: str) -> Any:
    """Connect as Dify's SQLAlchemy does."""
    import sqlalchemy

    extras = check["extras"]
    options = f"{dict(parse_qsl(extras)).get('options', '')} -c timezone=UTC".strip()
    url = "postgresql://{}:{}@{}:{}/{}{}".format(
        quote_plus(check["user"]),
        quote_plus(check["password"]),
        check["host"],
        check["port"],
        database,
        f"?{extras}" if extras else "",
    )
    engine = sqlalchemy.create_engine(
        url, poolclass=sqlalchemy.pool.NullPool, connect_args={"connect_timeout": SECONDS, "options": options}
    )
    try:
        return engine.raw_connection()
    except sqlalchemy.exc.DBAPIError as error:
        raise error.orig from None


def as_daemon(check: Check, database: str, sslmode: str | None = None) -> Any:
    """Connect as the plugin daemon does, which knows sslmode disable and require only."""
    import psycopg2

    return psycopg2.connect(
        host=check["host"],
        port=check["port"],
        user=check["user"],
        password=check["password"],
        dbname=database,
        sslmode=sslmode or check["plugin_sslmode"],
        connect_timeout=SECONDS,
    )


def open_postgresql(check: Check, report: Report, database: str, connect: Any) -> Any:
    """A connection to one database, which is made when it may be; None when it is missing but can be made."""
    import psycopg2

    try:
        return connect(check, database)
    except (psycopg2.Error, TypeError, ValueError) as error:
        where = f"PostgreSQL at {check['host']}:{check['port']}"
        if "does not exist" not in str(error) or f'database "{database}"' not in str(error):
            raise Problem(refused_by_postgresql(check, where, error, tls_would_help(check, database, error))) from None
        if not make_database(check, report, where, database):
            return None
        return connect(check, database)


def tls_would_help(check: Check, database: str, error: BaseException) -> bool:
    import psycopg2

    if "pg_hba.conf" not in str(error) or check["plugin_sslmode"] == "require":
        return False
    try:
        as_daemon(check, database, "require").close()
    except psycopg2.Error as again:
        return "pg_hba.conf" not in str(again) and "does not support SSL" not in str(again)
    return True


def refused_by_postgresql(check: Check, where: str, error: BaseException, tls_helps: bool = False) -> str:
    """A line for a connection that did not come about."""
    text = one_line(error)
    prefix = check.get("prefix", "DB")
    must_reach(error, f"{prefix}_HOST", where)
    if "password authentication failed" in text or re.search(r'role ".*" does not exist', text):
        user = "DB_USERNAME" if prefix == "DB" else f"{prefix}_USER"
        return f"{prefix}_PASSWORD: {where} refuses the login of {check['user']!r}: it or {user} is wrong"
    if tls_helps:
        return (
            f"DB_EXTRAS: {where} takes encrypted connections only, and the plugin daemon opens none until it is told to: "
            "set DB_EXTRAS=sslmode=require"
        )
    if "does not support SSL" in text:
        return f"DB_EXTRAS: {where} offers no TLS: leave sslmode out of DB_EXTRAS, or switch ssl on there"
    if "pg_hba.conf" in text:
        return f"{prefix}_HOST: {where} lets {check['user']!r} in from nowhere near: add a line to its pg_hba.conf ({text})"
    if "certificate" in text:
        return f"DB_EXTRAS: {where} has a certificate that sslmode does not accept ({text})"
    return f"{prefix}_HOST: {where} refuses: {text}"


def make_database(check: Check, report: Report, where: str, database: str) -> bool:
    """Make a database, or say how; whether it is there now."""
    import psycopg2

    me, may = check["user"], False
    for other in ("postgres", check["plugin_database"], check["database"], "template1"):
        try:
            connection = as_daemon(check, other, "require" if check["plugin_sslmode"] == "require" else "prefer")
        except psycopg2.Error:
            continue
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_user, rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user")
            me, may = cursor.fetchone()
            if may:
                report.lacks(f"database {database}", lambda: cursor.execute(f"CREATE DATABASE {quoted(database)}"))
        connection.close()
        break
    if not may:
        raise Problem(
            f"{where} has no database {database}, and {me!r} may not create it. Its administrator can: "
            f"CREATE DATABASE {quoted(database)} OWNER {quoted(me)};"
        )
    return report.create


def look_into(check: Check, report: Report, database: str, connection: Any) -> None:
    """What Dify needs in a database that is there."""
    where = f"PostgreSQL at {check['host']}:{check['port']}, database {database}"
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_user")
        me = cursor.fetchone()[0]
        for need in (tables, owner, extension):
            try:
                need(report, where, connection, cursor, me)
            except Problem as problem:
                report.problems.append(str(problem))
            finally:
                connection.rollback()


def tables(_: Report, where: str, __: Any, cursor: Any, me: str) -> None:
    import psycopg2

    try:
        cursor.execute(f"CREATE TABLE {PROBE} (id integer)")
    except psycopg2.Error as error:
        if error.pgcode == "25006":
            raise Problem(f"DB_HOST: {where}: is a read-only replica; give the primary's address") from None
        if error.pgcode not in ("42501", "3F000"):
            raise Problem(f"{where}: no table can be made: {one_line(error)}") from None
        raise Problem(
            f"{where}: {me!r} may make no tables. Its owner can, in that database: "
            f"GRANT USAGE, CREATE ON SCHEMA public TO {quoted(me)};"
        ) from None


def owner(_: Report, where: str, __: Any, cursor: Any, me: str) -> None:
    """A dump that was restored by another role leaves tables that no migration can change."""
    cursor.execute(
        "SELECT tableowner FROM pg_tables WHERE schemaname = current_schema() AND tablename IN "
        "('alembic_version', 'plugins') AND NOT pg_has_role(tableowner, 'MEMBER')"
    )
    for (other,) in cursor.fetchall()[:1]:
        raise Problem(
            f"{where}: its tables belong to {other!r}. An administrator can: GRANT {quoted(other)} TO {quoted(me)};"
        )


def extension(report: Report, where: str, connection: Any, cursor: Any, me: str, name: str = "uuid-ossp") -> None:
    import psycopg2

    cursor.execute("SELECT 1 FROM pg_extension WHERE extname = %s", (name,))
    if cursor.fetchone():
        return
    cursor.execute("SELECT 1 FROM pg_available_extensions WHERE name = %s", (name,))
    if not cursor.fetchone():
        raise Problem(
            f"{where}: the server has no extension {name}; install it there (for uuid-ossp: postgresql-contrib)"
        )
    try:
        cursor.execute(f"CREATE EXTENSION {quoted(name)}")
    except psycopg2.Error as error:
        raise Problem(
            f"{where}: has no extension {name}, and {me!r} may not add it ({one_line(error).split(' HINT')[0]}). An "
            f"administrator can, in that database: CREATE EXTENSION {quoted(name)};"
        ) from None
    report.lacks(f"extension {name} in database {where.rpartition(' ')[2]}", connection.commit)
