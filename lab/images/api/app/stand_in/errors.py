"""Errors as Dify words them: {"code", "message", "status"}."""

from __future__ import annotations

import logging
import re

from flask import Flask, Response, jsonify
from werkzeug.exceptions import HTTPException

logger = logging.getLogger(__name__)


class ApiError(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


def body(status: int, code: str, message: str) -> tuple[Response, int]:
    return jsonify(code=code, message=message, status=status), status


def register(app: Flask) -> None:
    @app.errorhandler(ApiError)
    def own(error: ApiError) -> tuple[Response, int]:
        return body(error.status, error.code, error.message)

    @app.errorhandler(HTTPException)
    def of_http(error: HTTPException) -> tuple[Response, int]:
        code = re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__).lower()
        return body(error.code or 500, code, error.description or error.name)

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> tuple[Response, int]:
        logger.error("%s", error, exc_info=error)
        return body(500, "unknown", "Internal Server Error")
