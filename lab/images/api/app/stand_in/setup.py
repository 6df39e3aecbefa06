"""The first visit: GET and POST /console/api/init and /console/api/setup."""

from __future__ import annotations

import hmac
import re

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from flask import Blueprint, Response, current_app, jsonify, request, session
from sqlalchemy import select
from werkzeug.security import generate_password_hash

from stand_in.database import Account, DifySetup, Tenant, TenantAccountJoin, db, new_id
from stand_in.errors import ApiError
from stand_in.settings import Settings

# Dify's form takes no longer names and init passwords, and no password without a letter and a digit.
LONGEST = 30
PASSWORD = re.compile(r"(?=.*[A-Za-z])(?=.*\d).{8,}")
EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
blueprint = Blueprint("setup", __name__, url_prefix="/console/api")


def settings() -> Settings:
    """The settings of the application that serves this request."""
    found: Settings = current_app.config["SETTINGS"]
    return found


def argument(name: str, longest: int | None = None) -> str:
    document = request.get_json(silent=True)
    value = document.get(name) if isinstance(document, dict) else None
    if not isinstance(value, str) or not value:
        raise ApiError(400, "invalid_param", f"{name} is required")
    if longest is not None and len(value) > longest:
        raise ApiError(400, "invalid_param", f"{name} is longer than {longest} characters")
    return value


def finished_setup() -> DifySetup | None:
    return db.session.scalar(select(DifySetup).limit(1))


def is_init_validated() -> bool:
    return not settings().init_password or bool(session.get("is_init_validated")) or finished_setup() is not None


def require_setup() -> None:
    if not is_init_validated():
        raise not_init_validated()
    if finished_setup() is None:
        raise ApiError(401, "not_setup", "Dify has not been set up yet.")


def not_init_validated() -> ApiError:
    return ApiError(401, "not_init_validated", "The init password has not been given yet.")


def already_set_up() -> ApiError:
    return ApiError(403, "already_setup", "Dify has already been set up.")


@blueprint.get("/init")
def init_status() -> Response:
    return jsonify(status="finished" if is_init_validated() else "not_started")


@blueprint.post("/init")
def validate_init() -> tuple[Response, int]:
    if finished_setup() is not None:
        raise already_set_up()
    given, wanted = argument("password", LONGEST), settings().init_password
    session["is_init_validated"] = hmac.compare_digest(given.encode(), wanted.encode())
    if not session["is_init_validated"]:
        raise ApiError(401, "init_validate_failed", "The init password is wrong.")
    return jsonify(result="success"), 201


@blueprint.get("/setup")
def setup_status() -> Response:
    done = finished_setup()
    return jsonify(step="finished", setup_at=done.setup_at.isoformat()) if done else jsonify(step="not_started")


@blueprint.post("/setup")
def set_up() -> tuple[Response, int]:
    if finished_setup() is not None:
        raise already_set_up()
    if not is_init_validated():
        raise not_init_validated()
    make_admin(argument("email"), argument("name", LONGEST), argument("password"))
    return jsonify(result="success"), 201


def make_admin(email: str, name: str, password: str) -> None:
    if not EMAIL.fullmatch(email):
        raise ApiError(400, "invalid_param", f"{email} is not an email address")
    if not PASSWORD.fullmatch(password):
        raise ApiError(
            400, "invalid_param", "Password must contain letters and numbers, and be at least 8 characters long."
        )
    account = Account(id=new_id(), name=name, email=email, password=generate_password_hash(password))
    tenant = Tenant(id=new_id(), name=f"{name}'s Workspace", encrypt_public_key="")
    tenant.encrypt_public_key = make_key_pair(tenant.id)
    join = TenantAccountJoin(tenant_id=tenant.id, account_id=account.id, role="owner")
    db.session.add_all([account, tenant, join, DifySetup(version=settings().version)])
    db.session.commit()


def make_key_pair(tenant_id: str) -> str:
    """Write the tenant's private key where Dify keeps it, and return the public one. Raises ApiError when storage takes no file."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    path = settings().storage / "privkeys" / tenant_id / "private.pem"
    try:
        path.parent.mkdir(parents=True)
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    except OSError as error:
        raise ApiError(400, "invalid_param", f"Setup failed: {error}") from error
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )
