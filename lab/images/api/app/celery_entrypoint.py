"""The Celery application alone: a worker needs no Flask."""

from stand_in.jobs import celery as celery
