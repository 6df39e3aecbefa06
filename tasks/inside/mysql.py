"""What Dify and its plugin daemon need of a MySQL elsewhere."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote_plus

from tasks.inside.report import PROBE, SECONDS, Check, Problem, Report, must_reach, one_line


def check_mysql(check: Check, report: Report) -> None:
    for database, connect in ((check["database"], as_api), (check["plugin_database"], as_daemon)):
        try:
            look_into(check, report, database, connect)
        except Problem as problem:
            report.problems.append(str(problem))


def as_api(check: Check, _: Report, database: str | None) -> Any:
    import sqlalchemy

    url = "mysql+pymysql://{}:{}@{}:{}/{}{}".format(
        quote_plus(check["user"]),
        quote_plus(check["password"]),
        check["host"],
        check["port"],
        database,
        f"?{check['extras']}" if check["extras"] else "",
    )
    engine = sqlalchemy.create_engine(
        url, poolclass=sqlalchemy.pool.NullPool, connect_args={"connect_timeout": SECONDS}
    )
    try:
        return engine.raw_connection()
    except sqlalchemy.exc.DBAPIError as error:
        raise error.orig from None


def as_daemon(check: Check, report: Report, database: str | None) -> Any:
    import pymysql

    # Its tls=true verifies the certificate, whatever Dify's own connection does.
    tls = {"ssl": report.trusted()} if check.get("plugin_sslmode") == "require" else {}
    return pymysql.connect(
        host=check["host"],
        port=check["port"],
        user=check["user"],
        password=check["password"],
        database=database,
        connect_timeout=SECONDS,
        read_timeout=SECONDS,
        **tls,
    )


def look_into(check: Check, report: Report, database: str, connect: Any) -> None:
    import pymysql

    where = f"MySQL at {check['host']}:{check['port']}"
    try:
        connection = connect(check, report, database)
    except TypeError:
        raise Problem("DB_EXTRAS: holds a name that the MySQL client does not know; sslmode is PostgreSQL's") from None
    except pymysql.Error as error:
        if error.args[0] not in (1044, 1049):
            raise Problem(refused_by_mysql(check, where, error)) from None
        make_database(check, report, where, database)
        if not report.create:
            return
        connection = connect(check, report, database)
    # Nothing is rolled back here: the table is gone again at once.
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE TABLE {PROBE} (id integer)")
            cursor.execute(f"DROP TABLE {PROBE}")
    except pymysql.Error:
        raise Problem(f"{where}, database {database}: no tables may be made: {grant(check, database)}") from None
    finally:
        connection.close()


def grant(check: Check, database: str) -> str:
    return f"GRANT ALL PRIVILEGES ON `{database}`.* TO '{check['user']}'@'%';"


def make_database(check: Check, report: Report, where: str, database: str) -> None:
    connection = as_daemon(check, report, None)
    with connection.cursor() as cursor:
        cursor.execute("SHOW GRANTS")
        may = re.compile(rf"GRANT (?:.*, )?(?:ALL PRIVILEGES|CREATE)(?:,.*)? ON (?:\*\.\*|`{re.escape(database)}`\.\*)")
        statement = f"CREATE DATABASE `{database}` CHARACTER SET utf8mb4;"
        if not any(may.match(row[0]) for row in cursor.fetchall()):
            raise Problem(
                f"{where} has no database {database}, or {check['user']!r} may not use it. Its administrator can: {statement} "
                + grant(check, database)
            )
        report.lacks(f"database {database}", lambda: cursor.execute(statement))
    connection.close()


def refused_by_mysql(check: Check, where: str, error: Any) -> str:
    """A line for a connection that did not come about."""
    prefix = check.get("prefix", "DB")
    user = "DB_USERNAME" if prefix == "DB" else f"{prefix}_USER"
    must_reach(error, f"{prefix}_HOST", where)
    if error.args[0] == 1045:
        return f"{prefix}_PASSWORD: {where} refuses the login of {check['user']!r}: it or {user} is wrong"
    if error.args[0] == 3159:
        return (
            f"DB_SSL_MODE: {where} takes encrypted connections only: set DB_SSL_MODE=require, and ssl_ca in DB_EXTRAS"
        )
    return f"{prefix}_HOST: {where} refuses: {one_line(error)}"
