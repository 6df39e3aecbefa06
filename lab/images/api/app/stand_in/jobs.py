"""The Celery application: one job that answers the api, and one that beat sends every ten seconds."""

from __future__ import annotations

import json
import os
import socket
import ssl
import time
from collections.abc import Mapping
from typing import Any

from celery import Celery
from celery.signals import beat_init

from stand_in import redis_client
from stand_in.settings import read_settings

BEAT_KEY = "stand-in:beat"
BEAT_SECONDS = 10
ANSWER_KEY = "stand-in:answer:"


def connection(env: Mapping[str, str]) -> dict[str, Any]:
    """How the broker is reached: TLS goes by CELERY_BROKER_URL, as in Dify, whatever BROKER_USE_SSL says."""
    found: dict[str, Any] = {}
    if env.get("CELERY_BROKER_URL", "").startswith("rediss://"):
        found["broker_use_ssl"] = {
            "ssl_cert_reqs": getattr(ssl, env.get("REDIS_SSL_CERT_REQS") or "CERT_NONE"),
            "ssl_ca_certs": env.get("REDIS_SSL_CA_CERTS") or None,
            "ssl_certfile": env.get("REDIS_SSL_CERTFILE") or None,
            "ssl_keyfile": env.get("REDIS_SSL_KEYFILE") or None,
        }
    if env.get("CELERY_USE_SENTINEL", "").lower() == "true":
        found["broker_transport_options"] = {
            "master_name": env.get("CELERY_SENTINEL_MASTER_NAME"),
            "sentinel_kwargs": {"password": env.get("CELERY_SENTINEL_PASSWORD") or None},
        }
    return found


celery = Celery("stand-in", broker=os.environ.get("CELERY_BROKER_URL"), set_as_current=True)
celery.conf.update(
    **connection(os.environ),
    task_ignore_result=True,
    task_default_queue="dataset",
    broker_connection_retry_on_startup=True,
    timezone="UTC",
    beat_schedule={"stand-in heartbeat": {"task": "stand_in.heartbeat", "schedule": float(BEAT_SECONDS)}},
)


# A heartbeat that waited longer says nothing, and without a worker they would pile up.
@celery.task(name="stand_in.heartbeat", queue="schedule_poller", expires=3 * BEAT_SECONDS)
def heartbeat() -> None:
    redis_client.connect(read_settings()).set(BEAT_KEY, time.time())


@celery.task(name="stand_in.answer", queue="dataset", expires=30)
def answer(token: str) -> None:
    """Say through Redis what this worker reached: the api waits there."""
    from stand_in import probe  # probe sends this job: at the top of the file the two would import each other

    settings = read_settings()
    report = {"host": socket.gethostname(), "reached": probe.run(probe.WORKER_CHECKS, settings)}
    client = redis_client.connect(settings)
    client.rpush(ANSWER_KEY + token, json.dumps(report))
    client.expire(ANSWER_KEY + token, 60)


@beat_init.connect
def first_heartbeat(**_: object) -> None:
    """Beat's first round comes after ten seconds: whoever waits for it shall not."""
    heartbeat.delay()
