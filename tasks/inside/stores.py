"""Vector stores elsewhere, and everything of which only the address is known."""

from __future__ import annotations

import base64
import socket
import ssl
import urllib.error
import urllib.request

from tasks.inside.mysql import as_daemon as mysql_as_daemon
from tasks.inside.mysql import refused_by_mysql
from tasks.inside.postgresql import as_daemon, extension, refused_by_postgresql
from tasks.inside.report import PROBE, SECONDS, Check, Problem, Report, must_reach, one_line


def check_login(check: Check, report: Report) -> None:
    where = f"{check['speaks']} at {check['host']}:{check['port']}"
    if check["speaks"] == "mysql":
        import pymysql

        try:
            mysql_as_daemon(check, report, None).close()
        except pymysql.Error as error:
            raise Problem(refused_by_mysql(check, where, error)) from None
        return
    import psycopg2

    try:
        connection = as_daemon(check, check["database"], "prefer")
    except psycopg2.Error as error:
        raise Problem(refused_by_postgresql({**check, "plugin_sslmode": "prefer"}, where, error)) from None
    with connection.cursor() as cursor:
        if check["extension"]:
            place = f"{where}, database {check['database']}"
            extension(report, place, connection, cursor, check["user"], check["extension"])
    connection.close()


def check_http(check: Check, report: Report) -> None:
    headers = {"User-Agent": PROBE}
    if check["user"]:
        login = base64.b64encode(f"{check['user']}:{check['password']}".encode()).decode()
        headers["Authorization"] = f"Basic {login}"
    elif check["password"]:
        headers[check["header"]] = check["scheme"] + check["password"]
    context = report.trusted()
    if not check["verify"]:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    request = urllib.request.Request(check["url"], headers=headers)
    try:
        urllib.request.urlopen(request, timeout=SECONDS, context=context).close()
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise Problem(f"{check['secret']}: {check['url']} refuses it ({error.code})") from None
        raise Problem(f"{check['setting']}: {check['url']} answers {error.code}") from None
    except OSError as error:
        must_reach(error, check["setting"], check["url"])
        raise Problem(f"{check['setting']}: {check['url']}: {one_line(error)}") from None


def check_tcp(check: Check, _: Report) -> None:
    try:
        socket.create_connection((check["host"], check["port"]), SECONDS).close()
    except OSError as error:
        must_reach(error, check["setting"], f"{check['host']}:{check['port']}")
        raise Problem(f"{check['setting']}: {check['host']}:{check['port']}: {one_line(error)}") from None
