"""How Alembic reaches the database: through the application's own engine."""

from logging.config import fileConfig

from alembic import context
from flask import current_app

fileConfig(context.config.config_file_name, disable_existing_loggers=False)
database = current_app.extensions["migrate"].db

with database.engine.connect() as connection:
    context.configure(connection=connection, target_metadata=database.metadata)
    # One transaction around all revisions: a failing one leaves the database at the revision where it was.
    with context.begin_transaction():
        context.run_migrations()
