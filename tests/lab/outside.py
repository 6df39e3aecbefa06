"""A stand-in for the world outside a lab host: a name server and web servers on addresses that only the host itself has.

Runs on the host with nothing but Python; each question and request is one line of its output.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from urllib.parse import parse_qs, urlsplit

# As on any public address; the host has it on its loopback, so that nothing leaves the machine.
PUBLIC, PRIVATE, PRIVATE_TOO = "11.11.11.11", "10.66.66.66", "10.66.77.77"
PORTS = (80, 443, 8080, 8443, 9443)
ZONE = "test"
UPSTREAM = ("127.0.0.11", 53)  # who the host asked before
ADDRESSES = {
    "public": [PUBLIC],
    "private": [PRIVATE],
    "metadata": ["169.254.169.254"],
    "loopback": ["127.0.0.1"],
    "zero": ["0.0.0.0"],
    "both": [PUBLIC, PRIVATE],
    "private6": ["fd00::5"],
    "mapped": ["::ffff:10.66.66.66"],
    "nat64": ["64:ff9b::a42:4242"],
    "half6": [PUBLIC, "fe80::1"],
    "wiki": [PRIVATE],
    "deep.intra": [PRIVATE_TOO],
    "allowed": [PUBLIC],
    "marketplace": [PUBLIC],
}
asked: Counter[str] = Counter()
_saying = threading.Lock()


def say(line: str) -> None:
    """One line of output, whole, whoever else has something to say."""
    with _saying:
        print(line, flush=True)


def addresses(name: str) -> list[str]:
    """What a name of ours has now. The first word of some says what comes when."""
    first = name.partition(".")[0]
    count = asked[name]
    if first.startswith("rebind"):  # public the first time, private ever after
        return [PUBLIC] if count == 1 else [PRIVATE]
    if first.startswith("flip"):  # the one and the other by turns
        return [PUBLIC] if count % 2 else [PRIVATE]
    if first.startswith("late"):  # nothing the first time, private ever after
        return [] if count == 1 else [PRIVATE]
    return ADDRESSES.get(name.removesuffix(f".{ZONE}"), [])


def answer(packet: bytes) -> bytes:
    """The answer to one question; those for other zones go to whom the host asked before."""
    labels, at = [], 12
    while packet[at]:
        labels.append(packet[at + 1 : at + 1 + packet[at]].decode().lower())
        at += 1 + packet[at]
    name, kind = ".".join(labels), struct.unpack(">H", packet[at + 1 : at + 3])[0]
    if labels[-1:] != [ZONE]:
        return forwarded(packet)
    say(f"question {kind} {name}")
    asked[name] += kind == 1
    records = [ip_address(one) for one in addresses(name)]
    wanted = [one.packed for one in records if (kind, one.version) in ((1, 4), (28, 6))]
    question = packet[12 : at + 5]
    body = b"".join(b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 0, len(one)) + one for one in wanted)
    return packet[:2] + struct.pack(">HHHHH", 0x8180, 1, len(wanted), 0, 0) + question + body


def forwarded(packet: bytes) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.settimeout(5)
        other.sendto(packet, UPSTREAM)
        return other.recv(4096)


def names() -> None:
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("0.0.0.0", 53))
    while True:
        packet, where = server.recvfrom(4096)
        threading.Thread(target=_reply, args=(server, packet, where), daemon=True).start()


def _reply(server: socket.socket, packet: bytes, where: tuple[str, int]) -> None:
    try:
        server.sendto(answer(packet), where)
    except (OSError, IndexError) as error:
        say(f"no answer: {error}")


class Server(ThreadingHTTPServer):
    request_queue_size = 128


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        here = self.connection.getsockname()
        say(f"request {here[0]} {here[1]} {self.path}")
        to = parse_qs(urlsplit(self.path).query).get("to")
        self.send_response(302 if to else 200)
        if to:
            self.send_header("Location", to[0])
        body = f"reached {here[0]} for {self.headers.get('X-Forwarded-For', 'nobody')}\n".encode()
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "public, max-age=3600")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def main() -> None:
    for address in (PUBLIC, PRIVATE, PRIVATE_TOO):
        for port in PORTS:
            server = Server((address, port), Handler)
            threading.Thread(target=server.serve_forever, daemon=True).start()
    say("listening")
    names()


if __name__ == "__main__":
    main()
