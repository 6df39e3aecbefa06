"""Of seekdb's agent: PUT /api/v1/observer/user/root/password on a Unix socket, while root has none."""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import UnixStreamServer

import pymysql

WHERE = "/api/v1/observer/user/root/password"


class Handler(BaseHTTPRequestHandler):
    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status = self.change(json.loads(body)["password"]) if self.path == WHERE else 404
        self.send_response(status)
        self.end_headers()

    def change(self, password: str) -> int:
        # As the real one: it escapes double quotes and nothing else.
        quoted = password.replace('"', '\\"')
        try:
            with pymysql.connect(host="127.0.0.1", port=2881, user="root", password="") as connection:
                connection.cursor().execute(f'ALTER USER root IDENTIFIED BY "{quoted}"')
        except pymysql.MySQLError as error:
            print(f"obshell: {error.args[0]}", flush=True)
            return 500
        return 200

    def address_string(self) -> str:
        return "socket"


path = Path(sys.argv[1])
path.unlink(missing_ok=True)
UnixStreamServer(str(path), Handler).serve_forever()
