"""Runs inside a container: asks a proxy for targets exactly as they are written, and knocks at addresses.

What to do is its argument, what came of it its output, both JSON.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def status(proxy: tuple[str, int], target: str, more: str = "") -> int:
    """The status that a proxy answers with; by CONNECT for what has no scheme. 0 for none.

    more: further header lines. A client of one's own, because others rewrite what they think they understand.
    """
    method = "GET" if "://" in target or target.startswith(("/", "urn:")) else "CONNECT"
    request = f"{method} {target} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n{more}\r\n"
    try:
        with socket.create_connection(proxy, timeout=20) as connection:
            connection.sendall(request.encode())
            words = connection.makefile("rb").readline().split()
    except OSError:
        return 0
    return int(words[1]) if len(words) > 1 else 0


def knocks(address: str, port: int) -> str:
    """What comes of a TCP connection: `open`, or why not."""
    try:
        socket.create_connection((address, port), timeout=3).close()
    except OSError as error:
        return str(error) or type(error).__name__
    return "open"


def asks(address: str, port: int) -> str:
    """What comes of a question to a name server by UDP: `answered`, or why not."""
    question = b"\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x06public\x04test\x00\x00\x01\x00\x01"
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.settimeout(3)
            one.sendto(question, (address, port))
            one.recv(512)
    except OSError as error:
        return str(error) or type(error).__name__
    return "answered"


def resolves(name: str) -> str:
    """The address of a name; empty for none."""
    try:
        return socket.gethostbyname(name)
    except OSError:
        return ""


def main() -> None:
    wanted: dict[str, Any] = json.loads(sys.argv[1])
    functions: dict[str, Callable[..., Any]] = {"status": status, "knocks": knocks, "asks": asks, "resolves": resolves}
    what = functions[wanted["what"]]
    with ThreadPoolExecutor(wanted.get("at_once", 16)) as pool:
        json.dump(list(pool.map(lambda words: what(*words), wanted["each"])), sys.stdout)


main()
