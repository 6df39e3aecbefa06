"""A proxy of the test's own that ends TLS in front of a host, as another company's load balancer would."""

from __future__ import annotations

import http.client
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# What belongs to one connection, not to the message.
HOP = {"connection", "keep-alive", "transfer-encoding", "host", "content-length", "expect"}


class Forward(BaseHTTPRequestHandler):
    """Asks the host by its own address, as a proxy does that nobody told to keep Host, and says in headers what was asked."""

    protocol_version = "HTTP/1.1"
    backend: tuple[str, int]

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
        headers |= {"X-Forwarded-Proto": "https", "X-Forwarded-Host": self.headers["Host"]}
        headers |= {"X-Forwarded-For": self.client_address[0]}
        connection = http.client.HTTPConnection(*self.backend, timeout=30)
        connection.request(self.command, self.path, body or None, headers)
        answer = connection.getresponse()
        self._send(answer, answer.read())
        connection.close()

    do_POST = do_GET

    def _send(self, answer: http.client.HTTPResponse, body: bytes) -> None:
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: curl's own message is in the test's."""


@contextmanager
def proxy_to(host: str, port: int, certificate: Path, key: Path) -> Iterator[int]:
    """The port on 127.0.0.1 at which https leads to http at host:port, while the context lasts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    handler = type("ForwardThere", (Forward,), {"backend": (host, port)})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()
