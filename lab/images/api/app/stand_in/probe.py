"""What the settings lead to: each check connects as Dify would, and returns one line about it or raises."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import boto3
import psycopg2
import pymysql
import redis
from kombu.exceptions import OperationalError

from stand_in import jobs, redis_client, stores
from stand_in.http import fetch, parse
from stand_in.settings import Settings, redact
from stand_in.stores import NotReached

Check = Callable[[Settings], str]
Results = dict[str, dict[str, Any]]
WORKER_SECONDS = 10
BEAT_SECONDS = 60
NOWHERE = "http://127.0.0.1:9/"


def expect(condition: object, detail: str) -> None:
    if not condition:
        raise NotReached(detail)


def check_database(settings: Settings) -> str:
    if settings.is_postgres:
        connect, statement = (
            psycopg2.connect,
            "SELECT current_database(), current_user, current_setting('server_version')",
        )
    else:
        connect, statement = pymysql.connect, "SELECT database(), current_user(), version()"
    connection = connect(**settings.database)
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
            database, user, version = cursor.fetchone()
    finally:
        connection.close()
    return f"database {database} as {user} on {settings.database_type} {version}"


def check_redis(settings: Settings) -> str:
    redis_client.connect(settings).ping()
    return "PONG"


def check_broker(_: Settings) -> str:
    """The messages are ours: a URL that was put together wrongly has a piece of the password where the host should be."""
    try:
        jobs.celery.connection_for_write().ensure_connection(max_retries=1, timeout=5, reraise_as_library_errors=False)
    except redis.AuthenticationError as error:
        raise NotReached("refused the password in CELERY_BROKER_URL") from error
    except (redis.RedisError, OSError, OperationalError) as error:
        raise NotReached("the host in CELERY_BROKER_URL does not answer") from error
    return "PONG"


def check_worker(settings: Settings) -> str:
    token, started = str(uuid4()), time.monotonic()
    send_job(token)
    answer = redis_client.connect(settings, WORKER_SECONDS + 2).blpop([jobs.ANSWER_KEY + token], WORKER_SECONDS)
    if answer is None:
        raise NotReached(f"no answer within {WORKER_SECONDS} s")
    report = json.loads(answer[1])
    expect(all_ok(report["reached"]), f"{report['host']} did not reach {failures(report['reached'])}")
    return f"{report['host']} answered in {time.monotonic() - started:.2f} s and reached {', '.join(report['reached'])}"


def send_job(token: str) -> None:
    try:
        jobs.answer.apply_async([token], retry=False)
    except OperationalError as error:
        raise NotReached("the job could not be sent to CELERY_BROKER_URL") from error


def check_beat(settings: Settings) -> str:
    recorded = redis_client.connect(settings).get(jobs.BEAT_KEY)
    if recorded is None:
        raise NotReached("no job of beat was recorded yet")
    age = time.time() - float(recorded)
    expect(age < BEAT_SECONDS, f"the last job of beat ran {age:.0f} s ago")
    return f"the last job of beat ran {age:.0f} s ago"


def check_storage(settings: Settings) -> str:
    if settings.environment.get("STORAGE_TYPE") == "s3":
        return check_bucket(settings.environment)
    path = settings.storage / f".stand-in-{uuid4()}"
    try:
        path.write_text("written")
        expect(path.read_text() == "written", f"{path} holds something else than was written")
    finally:
        path.unlink(missing_ok=True)
    return f"wrote and read below {settings.storage} as uid {os.getuid()}"


def check_bucket(env: Mapping[str, str]) -> str:
    client = boto3.client(
        "s3",
        endpoint_url=env.get("S3_ENDPOINT") or None,
        region_name=env.get("S3_REGION") or None,
        aws_access_key_id=env.get("S3_ACCESS_KEY"),
        aws_secret_access_key=env.get("S3_SECRET_KEY"),
    )
    bucket, key, text = env["S3_BUCKET_NAME"], f"stand-in-{uuid4()}", b"written"
    client.put_object(Bucket=bucket, Key=key, Body=text)
    found = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    client.delete_object(Bucket=bucket, Key=key)
    expect(found == text, f"{key} holds something else than was written")
    return f"wrote and read in bucket {bucket} at {env.get('S3_ENDPOINT')}"


def check_sandbox(settings: Settings) -> str:
    code = {"language": "python3", "code": "print(6 * 7)", "preload": "", "enable_network": False}
    status, body = fetch(f"{settings.sandbox_url}/v1/sandbox/run", {"X-Api-Key": settings.sandbox_key}, code)
    expect(status != 401, "refused CODE_EXECUTION_API_KEY (401)")
    data = (parse(body) or {}).get("data") or {}
    expect(
        status == 200 and data.get("stdout", "").strip() == "42", f"answered {status}, not 42: {data.get('error', '')}"
    )
    return "ran 6 * 7: 42"


def check_plugin_daemon(settings: Settings) -> str:
    status, body = fetch(f"{settings.plugin_daemon_url}/stand-in/reached", {"X-Api-Key": settings.plugin_daemon_key})
    expect(status != 401, "refused PLUGIN_DAEMON_KEY (401)")
    reached = parse(body)
    expect(status in (200, 503) and isinstance(reached, dict), f"answered {status}")
    expect(all_ok(reached), f"it did not reach {failures(reached)}")
    return f"took the key and reached {', '.join(reached)}"


def check_vector_store(settings: Settings) -> str:
    return stores.check(settings.vector_store, settings.environment)


def check_ssrf_proxy(settings: Settings) -> str:
    """Any HTTP answer shows that a proxy is there. The address needs no name service and leads nowhere: 403 or 503, and at once."""
    status, _ = fetch(NOWHERE, proxy=settings.ssrf_proxy_url)
    return f"answered {status} when asked for {NOWHERE}"


WORKER_CHECKS: dict[str, Check] = {"database": check_database, "storage": check_storage}
CHECKS: dict[str, Check] = {
    **WORKER_CHECKS,
    "redis": check_redis,
    "broker": check_broker,
    "worker": check_worker,
    "beat": check_beat,
    "sandbox": check_sandbox,
    "plugin_daemon": check_plugin_daemon,
    "vector_store": check_vector_store,
    "ssrf_proxy": check_ssrf_proxy,
}


def run(checks: Mapping[str, Check], settings: Settings) -> Results:
    """All checks at once: each may have to wait for a service that is not there."""
    with ThreadPoolExecutor(len(checks)) as pool:
        outcomes = pool.map(lambda check: run_one(check, settings), checks.values())
        return dict(zip(checks, outcomes, strict=True))


def run_one(check: Check, settings: Settings) -> dict[str, Any]:
    try:
        return {"ok": True, "detail": check(settings)}
    except ValueError as error:
        # A URL that cannot be parsed is quoted in the message, its password in pieces included.
        return {"ok": False, "detail": f"{type(error).__name__}: a setting that this check reads cannot be parsed"}
    except Exception as error:
        return {"ok": False, "detail": redact(f"{type(error).__name__}: {error}".strip(), settings)}


def all_ok(results: Mapping[str, dict[str, Any]]) -> bool:
    return all(result["ok"] for result in results.values())


def failures(results: Mapping[str, dict[str, Any]]) -> str:
    return "; ".join(f"{name} ({result['detail']})" for name, result in results.items() if not result["ok"])
