"""The registry that lab hosts pull from: `registry:5000` for them, 127.0.0.1:<port> for this machine's pushes."""

from __future__ import annotations

import http.client
import socket
import time
from functools import cache
from typing import Any

from lab import engine, network
from lab.home import LabError
from lab.progress import step

#: How hosts on the lab's network call it.
ADDRESS = "registry:5000"
_NAME = "dify-lab-registry"
_VOLUME = "dify-lab-registry"
_FIRST_PORT = 5000
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def up(image: str, image_id: str) -> None:
    """Have the registry running, from this image."""
    network.up()
    there = container()
    if there and there["State"] == "running" and there["ImageID"] == image_id:
        return
    port = int(there["Labels"]["dify.lab.port"]) if there else _free_port()
    with step(f"registry: start on 127.0.0.1:{port}"):
        _start(image, port)


def _start(image: str, port: int) -> None:
    engine.docker("rm", "--force", _NAME, check=False)
    engine.docker(
        *("run", "--detach", "--name", _NAME, "--restart", "unless-stopped"),
        *("--label", "dify.lab=registry", "--label", f"dify.lab.port={port}"),
        *("--network", network.NAME, "--network-alias", "registry"),
        *("--publish", f"127.0.0.1:{port}:5000", "--volume", f"{_VOLUME}:/var/lib/registry"),
        image,
    )
    push_port.cache_clear()
    _wait()


def _wait() -> None:
    for _ in range(200):
        if _ask("GET", "/v2/") == (200, None):
            return
        time.sleep(0.1)
    raise LabError(f"the registry does not answer on 127.0.0.1:{push_port()}: docker logs {_NAME}")


def down(*, keep_images: bool) -> None:
    engine.docker("rm", "--force", "--volumes", _NAME, check=False)
    if not keep_images:
        engine.docker("volume", "rm", "--force", _VOLUME)


def container() -> dict[str, Any] | None:
    """The registry's container as the engine lists it, running or not."""
    found = engine.get("/containers/json", all="1", filters={"label": ["dify.lab=registry"]})
    return found[0] if found else None


def _free_port() -> int:
    for port in range(_FIRST_PORT, 65536):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise LabError("no free port on 127.0.0.1 for the registry")


@cache
def push_port() -> int:
    """The port on 127.0.0.1 that this machine reaches the registry on."""
    running = container()
    if running is None:
        raise LabError("the registry is not running: python -m lab up")
    return int(running["Labels"]["dify.lab.port"])


def push_name(name: str) -> str:
    """The name to push an image under, given its full name."""
    return f"127.0.0.1:{push_port()}/{name}"


def digest(pushed: str) -> str | None:
    """The digest that the registry has under the name `127.0.0.1:<port>/<name>:<tag>`, if it has one."""
    name, _, tag = pushed.partition("/")[2].rpartition(":")
    return _ask("HEAD", f"/v2/{name}/manifests/{tag}")[1]


def _ask(method: str, path: str) -> tuple[int, str | None]:
    connection = http.client.HTTPConnection("127.0.0.1", push_port(), timeout=10)
    try:
        connection.request(method, path, headers={"Accept": _MANIFEST})
        answer = connection.getresponse()
        return answer.status, answer.headers["Docker-Content-Digest"]
    except (OSError, http.client.HTTPException):
        return 0, None
    finally:
        connection.close()
