"""The Flask application, put together."""

from __future__ import annotations

import logging
import sys

from flask import Flask, Response

from stand_in import areas, errors, links, login, setup
from stand_in.commands import upgrade_db
from stand_in.database import database_url, db, extra_connect_arguments, migrate
from stand_in.settings import Settings, read_settings


def create_app() -> Flask:
    settings = read_settings()
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    return configure(Flask("stand_in"), settings)


def configure(app: Flask, settings: Settings) -> Flask:
    app.config.update(
        SETTINGS=settings,
        SECRET_KEY=settings.secret_key,
        SQLALCHEMY_DATABASE_URI=database_url(settings),
        SQLALCHEMY_ENGINE_OPTIONS={
            "pool_pre_ping": settings.pool_pre_ping,
            "connect_args": extra_connect_arguments(settings),
        },
    )
    db.init_app(app)
    migrate.init_app(app, db)
    app.cli.add_command(upgrade_db)
    for module in (setup, login, links, areas):
        app.register_blueprint(module.blueprint)
    areas.serve_areas(app)
    errors.register(app)
    add_headers(app, settings)
    return app


def add_headers(app: Flask, settings: Settings) -> None:
    @app.after_request
    def name_version(response: Response) -> Response:
        response.headers["X-Version"] = settings.version
        response.headers["X-Env"] = settings.deploy_env
        return response
