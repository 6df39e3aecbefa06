"""Runs in a throw-away container of Dify's api: tries what Dify and its plugin daemon will do with services elsewhere.

Comes on stdin with its settings, so that no secret stands in an argument or in `docker inspect`. Whatever it makes on a
server it takes away again, but for databases, extensions and buckets that are missing, and those only when told to.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tasks.inside.mysql import check_mysql
from tasks.inside.postgresql import check_postgresql
from tasks.inside.redis import check_redis
from tasks.inside.report import Check, Problem, Report, one_line
from tasks.inside.s3 import check_s3
from tasks.inside.stores import check_http, check_login, check_tcp

CERTIFICATES = Path("/etc/dify-certificates")
CHECKS = {
    "postgresql": check_postgresql,
    "mysql": check_mysql,
    "redis": check_redis,
    "s3": check_s3,
    "login": check_login,
    "http": check_http,
    "tcp": check_tcp,
}


def run(check: Check, report: Report) -> None:
    try:
        CHECKS[check["kind"]](check, report)
    except Problem as problem:
        report.problems.append(str(problem))
    except ImportError as error:
        report.problems.append(f"{check['kind']}: this image of the api has no client for it: {one_line(error)}")


def main(wanted: dict[str, Any]) -> dict[str, list[str]]:
    """Try everything at once; returns what was found, as lists of lines."""
    os.environ.update(wanted["proxies"])
    report = Report(wanted["create"], wanted["authorities"])
    if wanted["authorities"]:
        (CERTIFICATES / "ca.pem").write_text(wanted["authorities"])
    with ThreadPoolExecutor(len(wanted["checks"])) as pool:
        list(pool.map(lambda check: run(check, report), wanted["checks"]))
    return {"problems": sorted(set(report.problems)), "missing": sorted(report.missing), "made": sorted(report.made)}
