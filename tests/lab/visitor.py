"""Somebody who comes by https, with the lab's own names and authorities."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from cryptography import x509

from lab.hosts import Host


class _Connection(http.client.HTTPSConnection):
    """Goes to a host's own address, and asks it by the name."""

    def __init__(self, name: str, address: str, context: ssl.SSLContext) -> None:
        super().__init__(name, 443, timeout=30, context=context)
        self._address, self._context_of_ours = address, context

    def connect(self) -> None:
        sock = socket.create_connection((self._address, self.port), self.timeout)
        self.sock = self._context_of_ours.wrap_socket(sock, server_hostname=self.host)


@dataclass
class Visitor:
    """Trusts one authority only.

    name: that is asked for.
    root: the authority, in PEM.
    """

    name: str
    host: Host
    root: str
    failures: list[str] = field(default_factory=list)
    serials: list[int] = field(default_factory=list)

    def ask(self, path: str = "/console/api/setup") -> tuple[int, int]:
        """(status, serial number of the certificate that was shown); a new connection, checked as browsers do."""
        connection = _Connection(self.name, self.host.address, ssl.create_default_context(cadata=self.root))
        try:
            connection.request("GET", path)
            shown = connection.sock.getpeercert(binary_form=True) or b""
            answer = connection.getresponse()
            answer.read()
            return answer.status, x509.load_der_x509_certificate(shown).serial_number
        finally:
            connection.close()

    def wait(self, patience: float = 120) -> int:
        """The serial number as soon as it answers.

        patience: seconds.
        """
        deadline = time.monotonic() + patience
        while True:
            try:
                status, serial = self.ask()
                if status == 200:
                    return serial
            except OSError:
                pass
            assert time.monotonic() < deadline, f"https://{self.name} does not answer"
            time.sleep(1)

    @contextmanager
    def steadily(self) -> Iterator[None]:
        """Ask without a break while the context lasts; notes serials and failures."""
        over = threading.Event()

        def run() -> None:
            while not over.is_set():
                try:
                    status, serial = self.ask()
                    self.serials.append(serial)
                    if status != 200:
                        self.failures.append(f"status {status}")
                except (OSError, http.client.HTTPException) as error:
                    self.failures.append(repr(error))

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
