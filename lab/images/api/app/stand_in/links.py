"""The links that Dify gives out: to a file, a workflow's webhook, a plugin's endpoint. They are made of settings alone: how
the request came that asks for one makes no difference, so a wrong FILES_URL or TRIGGER_URL shows in them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from secrets import token_hex
from urllib.parse import urlencode
from uuid import UUID

from flask import Blueprint, Response, abort, jsonify, request, send_file

from stand_in.database import UploadFile, db
from stand_in.login import login_required
from stand_in.setup import settings

FILE_SECONDS = 300
blueprint = Blueprint("links", __name__)


def setting(name: str) -> str:
    return settings().environment.get(name, "")


def signature(file_id: str, timestamp: str, nonce: str) -> str:
    message = f"file-preview|{file_id}|{timestamp}|{nonce}".encode()
    return base64.urlsafe_b64encode(hmac.digest(settings().secret_key.encode(), message, "sha256")).decode()


def file_link(file_id: str) -> str:
    """Whoever has it may read the file, without a login, as long as the signature is young enough."""
    timestamp, nonce = str(int(time.time())), token_hex(16)
    query = {"timestamp": timestamp, "nonce": nonce, "sign": signature(file_id, timestamp, nonce)}
    return f"{setting('FILES_URL')}/files/{file_id}/file-preview?{urlencode(query)}"


@blueprint.get("/files/<uuid:file_id>/file-preview")
def signed_file(file_id: UUID) -> Response:
    timestamp, nonce, sign = (request.args.get(name, "") for name in ("timestamp", "nonce", "sign"))
    row = db.session.get(UploadFile, str(file_id))
    right = hmac.compare_digest(sign.encode(), signature(str(file_id), timestamp, nonce).encode())
    allowed = int(setting("FILES_ACCESS_TIMEOUT") or FILE_SECONDS)
    if row is None or not right or time.time() - int(timestamp) > allowed:
        abort(404)
    return send_file(settings().storage / row.key)


@blueprint.get("/console/api/apps/<uuid:app_id>/workflows/triggers/webhook")
@login_required
def webhook(app_id: UUID) -> Response:
    """There are no apps and nodes here: each node of each app has a webhook."""
    node = request.args.get("node_id", "")
    known = hashlib.sha256(f"{app_id}|{node}".encode()).hexdigest()[:24]
    base = setting("TRIGGER_URL")
    return jsonify(
        webhook_id=known,
        node_id=node,
        webhook_url=f"{base}/triggers/webhook/{known}",
        webhook_debug_url=f"{base}/triggers/webhook-debug/{known}",
    )


@blueprint.get("/console/api/workspaces/current/endpoints/list")
@login_required
def endpoints() -> Response:
    """One endpoint, of a plugin that is not there."""
    hook = "stand-in-hook"
    url = setting("ENDPOINT_URL_TEMPLATE").replace("{hook_id}", hook)
    return jsonify(endpoints=[{"name": "stand-in", "hook_id": hook, "url": url}], has_more=False, page=1)
