"""An HTTP server for stand-ins: one handler with a route table and a login, on one or more ports, with TLS if wanted."""

from __future__ import annotations

import base64
import binascii
import json
import re
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass(frozen=True)
class Request:
    """One request; `body` as it came, `query` with the first value of each name."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""
    query: Mapping[str, str] = field(default_factory=dict)
    target: str = ""
    client: str = ""

    def json(self) -> Any:
        """The body's JSON. Raises Refused (400) for something else."""
        try:
            return json.loads(self.body or b"{}")
        except ValueError:
            raise Refused(400, {"error": "the body is no JSON"}) from None

    def basic(self) -> tuple[str, str]:
        """User and password of an Authorization header; empty without one."""
        scheme, _, given = self.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return "", ""
        try:
            user, _, password = base64.b64decode(given, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return "", ""
        return user, password

    def bearer(self) -> str:
        scheme, _, given = self.headers.get("Authorization", "").partition(" ")
        return given if scheme.lower() == "bearer" else ""


class Refused(Exception):
    """An answer other than the wanted one."""

    def __init__(self, status: int, document: Any, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status)
        self.status, self.document, self.headers = status, document, headers or {}


Answer = tuple[int, Any]
View = Callable[..., Answer]


class App:
    """Routes ("GET /things/{name}" -> function(request, name=...)) and who may use them."""

    def __init__(self, login: Callable[[Request], None] | None = None) -> None:
        self.login = login
        self.routes: list[tuple[str, re.Pattern[str], View, bool]] = []

    def route(self, *patterns: str, open: bool = False) -> Callable[[View], View]:
        """+ open: whether anybody may ask."""

        def add(view: View) -> View:
            for pattern in patterns:
                method, path = pattern.split(" ", 1)
                regex = re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(path)))
                self.routes.append((method, regex, view, open))
            return view

        return add

    def answer(self, request: Request) -> Answer:
        found = None
        for method, regex, view, is_open in self.routes:
            if (match := regex.fullmatch(request.path)) and method in (request.method, "ANY"):
                found = view, {name: unquote(value) for name, value in match.groupdict().items()}
                if is_open:
                    return view(request, **found[1])
                break
        if self.login:
            self.login(request)
        if found is None:
            raise Refused(404, {"error": f"the stand-in has no {request.method} {request.path}"})
        return found[0](request, **found[1])


def serve(what: str, app: App, *ports: int, tls: bool = False) -> NoReturn:
    """Serve for ever on all ports; SIGTERM ends it at once.

    what: the name of what it stands in for, for the log.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    handler = type("Bound", (_Handler,), {"app": app})
    servers = [_Server(("", port), handler) for port in ports]
    if tls:
        context = _self_signed()
        for server in servers:
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    print(f"stand-in for {what}: listening on {', '.join(map(str, ports))}", flush=True)
    for server in servers[1:]:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    servers[0].serve_forever()
    raise SystemExit(0)


class _Server(ThreadingHTTPServer):
    daemon_threads = True


def _self_signed() -> ssl.SSLContext:
    """A certificate that nobody signed, made anew at each start, as a demo installation has it."""
    with tempfile.TemporaryDirectory() as folder:
        key, certificate = Path(folder, "key.pem"), Path(folder, "cert.pem")
        words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        words += ["-days", "365", "-subj", "/CN=stand-in", "-keyout", str(key), "-out", str(certificate)]
        subprocess.run(words, check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
    return context


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    app: App
    timeout = 60

    def _serve(self) -> None:
        request = self._request()
        try:
            status, document = self.app.answer(request)
            headers: Mapping[str, str] = {}
        except Refused as refused:
            status, document, headers = refused.status, refused.document, refused.headers
        self._send(status, document, headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _request(self) -> Request:
        place = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(place.query, keep_blank_values=True).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return Request(
            self.command, place.path.rstrip("/") or "/", self.headers, body, query, self.path, self.client_address[0]
        )

    def _send(self, status: int, document: Any, headers: Mapping[str, str]) -> None:
        payload = document if isinstance(document, bytes) else _encoded(document)
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(document, bytes | str) else "application/json")
        self.send_header("Content-Length", str(len(payload)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(payload)

    def log_message(self, format: str, *args: object) -> None:
        print(f"{self.client_address[0]} {format % args}", flush=True)


def _encoded(document: Any) -> bytes:
    if document is None:
        return b""
    return document.encode() if isinstance(document, str) else json.dumps(document).encode()
