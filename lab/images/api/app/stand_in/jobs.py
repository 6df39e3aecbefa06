"""The Celery application: one job that answers the api, and one that beat sends every ten seconds."""

from __future__ import annotations

import json
import os
import socket
import time

from celery import Celery
from celery.signals import beat_init

from stand_in import redis_client
from stand_in.settings import read_settings

BEAT_KEY = "stand-in:beat"
BEAT_SECONDS = 10
ANSWER_KEY = "stand-in:answer:"

celery = Celery("stand-in", broker=os.environ.get("CELERY_BROKER_URL"), set_as_current=True)
celery.conf.update(
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
