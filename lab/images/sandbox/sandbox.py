"""A stand-in for langgenius/dify-sandbox: its key check, its configuration file and its answers, without its isolation."""

from __future__ import annotations

import hmac
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

CONFIG = Path("/conf/config.yaml")
REQUIREMENTS = Path("/dependencies/python-requirements.txt")
NOBODY = 65534
PROXY_NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")


@dataclass(frozen=True)
class Settings:
    key: str
    port: int
    timeout: int


def read_settings(config: Path, env: dict[str, str]) -> Settings:
    """The file, with each value that the environment names winning over it, as in the real one."""
    document: dict[str, Any] = yaml.safe_load(config.read_text()) or {}
    app: dict[str, Any] = document.get("app") or {}
    return Settings(
        key=env.get("API_KEY") or str(app.get("key") or ""),
        port=int(env.get("SANDBOX_PORT") or app.get("port") or 8194),
        timeout=int(env.get("WORKER_TIMEOUT") or document.get("worker_timeout") or 5),
    )


def run_python(code: str, timeout: int) -> dict[str, str]:
    """Run the code as nobody, with the proxies in its environment and nothing else of ours (the key is there)."""
    env = {name: os.environ[name] for name in PROXY_NAMES if name in os.environ}
    try:
        done = subprocess.run(
            ["python3", "-I", "-"],
            input=code,
            env=env | {"PATH": os.defpath},
            cwd="/tmp",
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"stdout": "", "error": f"error: timeout after {timeout} s"}
    return {"stdout": done.stdout, "error": done.stderr}


def answer(code: int, message: str, data: dict[str, str] | None) -> dict[str, Any]:
    return {"code": code, "message": message, "data": data}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    settings: Settings

    def do_GET(self) -> None:
        if self.path == "/health":
            self.send(200, "ok")
        else:
            self.send(404, answer(-404, "not found", None))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not self.has_key():
            self.send(401, answer(-401, "Unauthorized", None))
        elif self.path != "/v1/sandbox/run":
            self.send(404, answer(-404, "not found", None))
        else:
            self.send(*self.run(body))

    def has_key(self) -> bool:
        given = self.headers.get("X-Api-Key") or ""
        return bool(self.settings.key) and hmac.compare_digest(given.encode(), self.settings.key.encode())

    def run(self, body: bytes) -> tuple[int, dict[str, Any]]:
        try:
            request = json.loads(body)
            language, code = str(request["language"]), str(request["code"])
        except (ValueError, KeyError, TypeError):
            return 400, answer(-400, "the body must be JSON with language and code", None)
        if language != "python3":
            return 400, answer(-400, f"this stand-in runs python3, not {language}", None)
        return 200, answer(0, "success", run_python(code, self.settings.timeout))

    def send(self, status: int, document: object) -> None:
        payload = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *args: object) -> None:
        print(f"{self.client_address[0]} {format % args}", flush=True)


def wanted_packages() -> list[str]:
    lines = REQUIREMENTS.read_text().splitlines() if REQUIREMENTS.is_file() else []
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def main() -> None:
    try:
        settings = read_settings(CONFIG, dict(os.environ))
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        sys.exit(f"failed to read {CONFIG}: {error}")
    Handler.settings = settings
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(f"stand-in for langgenius/dify-sandbox: listening on port {settings.port}", flush=True)
    if packages := wanted_packages():
        print(f"the real one would now install {' '.join(packages)}; the stand-in does not", flush=True)
    ThreadingHTTPServer(("", settings.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
