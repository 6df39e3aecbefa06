"""Logging in: the three cookies, their names, and the check that a request which changes something carries the CSRF token."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Callable
from functools import wraps
from typing import Any
from uuid import uuid4

from flask import Blueprint, Response, g, jsonify, request
from itsdangerous import BadData, URLSafeTimedSerializer
from sqlalchemy import select
from werkzeug.security import check_password_hash

from stand_in import redis_client
from stand_in.database import Account, TenantAccountJoin, db
from stand_in.errors import ApiError
from stand_in.setup import argument, require_setup, settings

ACCESS_SECONDS = 60 * 60
REFRESH_SECONDS = 30 * 24 * 60 * 60
COOKIES = ("access_token", "refresh_token", "csrf_token")
blueprint = Blueprint("login", __name__, url_prefix="/console/api")


def is_secure() -> bool:
    """Both addresses must be https: one of them alone leaves browser and api with different cookie names."""
    return all(url.startswith("https") for url in (settings().console_web_url, settings().console_api_url))


def cookie_name(name: str) -> str:
    return f"__Host-{name}" if is_secure() and not settings().cookie_domain else name


def signer(purpose: str) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(settings().secret_key, salt=purpose)


def decoded_password() -> str:
    try:
        return base64.b64decode(argument("password"), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise ApiError(401, "authentication_failed", "Invalid encrypted data") from error


def new_refresh_token(account: Account) -> str:
    token = uuid4().hex
    redis_client.connect(settings()).set(f"refresh_token:{token}", account.id, ex=REFRESH_SECONDS)
    return token


def set_cookie(response: Response, name: str, value: str, seconds: int) -> None:
    response.set_cookie(
        cookie_name(name),
        value,
        max_age=seconds,
        httponly=name != "csrf_token",
        secure=is_secure(),
        samesite="Lax",
        path="/",
        domain=settings().cookie_domain or None,
    )


@blueprint.post("/login")
def log_in() -> Response:
    require_setup()
    email, password = argument("email"), decoded_password()
    account = db.session.scalar(select(Account).where(Account.email == email))
    if account is None or not check_password_hash(account.password, password):
        raise ApiError(401, "authentication_failed", "Invalid email or password.")
    response = jsonify(result="success")
    set_cookie(response, "access_token", signer("access").dumps(account.id), ACCESS_SECONDS)
    set_cookie(response, "refresh_token", new_refresh_token(account), REFRESH_SECONDS)
    set_cookie(response, "csrf_token", signer("csrf").dumps(account.id), ACCESS_SECONDS)
    return response


def signed_account(purpose: str, token: str) -> str:
    try:
        return str(signer(purpose).loads(token, max_age=ACCESS_SECONDS))
    except BadData as error:
        raise ApiError(401, "unauthorized", "Invalid token.") from error


def check_csrf() -> None:
    sent, kept = request.headers.get("X-CSRF-Token", ""), request.cookies.get(cookie_name("csrf_token"), "")
    if not kept or not hmac.compare_digest(sent.encode(), kept.encode()):
        raise ApiError(401, "unauthorized", "CSRF token is missing or invalid.")


def login_required(view: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(view)
    def checked(*args: object, **kwargs: object) -> Any:
        account_id = signed_account("access", request.cookies.get(cookie_name("access_token"), ""))
        if request.method not in ("GET", "HEAD", "OPTIONS"):
            check_csrf()
        g.account = db.session.get(Account, account_id)
        if g.account is None:
            raise ApiError(401, "unauthorized", "Invalid token.")
        return view(*args, **kwargs)

    return checked


def own_tenant() -> str:
    return str(
        db.session.scalar(select(TenantAccountJoin.tenant_id).where(TenantAccountJoin.account_id == g.account.id))
    )


def profile() -> Response:
    return jsonify(id=g.account.id, name=g.account.name, email=g.account.email, tenant_id=own_tenant())


@blueprint.get("/account/profile")
@login_required
def show_profile() -> Response:
    return profile()


@blueprint.post("/account/name")
@login_required
def change_name() -> Response:
    g.account.name = argument("name")
    db.session.commit()
    return profile()


@blueprint.post("/logout")
@login_required
def log_out() -> Response:
    response = jsonify(result="success")
    for name in COOKIES:
        response.delete_cookie(cookie_name(name), path="/", domain=settings().cookie_domain or None, secure=is_secure())
    return response
