"""`flask upgrade-db`, with the silence of the real one: a migration that fails is logged, and the exit code stays 0."""

from __future__ import annotations

import logging

import click
import flask_migrate

from stand_in import redis_client
from stand_in.settings import read_settings

LOCK_SECONDS = 60
logger = logging.getLogger(__name__)


@click.command("upgrade-db", help="Migrate the database, unless another container is at it.")
def upgrade_db() -> None:
    click.echo("Preparing database migration...")
    lock = redis_client.connect(read_settings()).lock(name="db_upgrade_lock", timeout=LOCK_SECONDS)
    if not lock.acquire(blocking=False):
        click.echo("Database migration skipped")
        return
    try:
        click.echo("Starting database migration.")
        flask_migrate.upgrade()
        click.echo("Database migration successful!")
    except Exception:
        logger.exception("Failed to execute database migration")
    finally:
        lock.release()
