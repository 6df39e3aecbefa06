"""What of a host answers another machine: every TCP port and the UDP ports in use, over IPv4 and IPv6."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from lab import build, engine, network
from lab.hosts import Host
from tests.lab.checkout import REPOSITORY
from tests.lab.containers import sh

SSH = "22/tcp"
IMAGE = "dify-lab/scanner"
FOLDER = REPOSITORY / "lab" / "scanner"
# All that its own addresses and raw packets need.
RIGHTS = ["--cap-add", "NET_ADMIN", "--cap-add", "NET_RAW", "--security-opt", "systempaths=unconfined"]


@cache
def _image(folder: Path = FOLDER) -> str:
    build.ensure(build.Plan(folder, IMAGE))
    return IMAGE


def open_ports(host: Host, udp: tuple[int, ...] = ()) -> dict[str, set[str]]:
    """{address: {"22/tcp", ...}} of what answers a scanner, a machine of its own on the lab's network.

    udp: ports to ask besides those that the host says are in use.
    """
    asked = ",".join(str(port) for port in sorted({*udp, *_udp_in_use(host)}))
    words = ["run", "--rm", "--network", network.NAME, *RIGHTS, _image(), host.address, host.address6, asked]
    found: dict[str, set[str]] = {host.address: set(), host.address6: set()}
    for line in engine.docker(*words).stdout.splitlines():
        # A host that is off would look like one that has everything closed.
        assert "Ignored State: filtered" not in line, f"hardly a port answered: {line}"
        address = line.split()[1]
        # "open|filtered": no answer, as from what is dropped.
        found[address] |= {f"{port}/{protocol}" for port, protocol in re.findall(r"(\d+)/open/(\w+)/", line)}
    return found


def _udp_in_use(host: Host) -> set[int]:
    places = [line.split()[3] for line in sh(host, "ss -Hlun").splitlines()]
    return {int(place.rpartition(":")[2]) for place in places if not place.startswith(("127.", "[::1]"))}


def only_open(host: Host, *ports: int | str) -> None:
    """Exactly these answer, over either family; SSH always does, which shows that the scanner sees what is open.

    ports: numbers of TCP ports, or "53/udp"; "80/tcp4" answers over IPv4 alone.
    """
    names = [str(port) if isinstance(port, str) else f"{port}/tcp" for port in ports]
    everywhere = {SSH, *(name for name in names if not name.endswith("4"))}
    four = {name.removesuffix("4") for name in names if name.endswith("4")}
    found, wanted = open_ports(host), {host.address: everywhere | four, host.address6: everywhere}
    assert found == wanted, f"open: {found}, wanted: {wanted}"


def only_open_either_way(host: Host, *ports: int | str) -> None:
    """As `only_open`, with the firewall that is in force there and with its rules taken away."""
    sh(host, "dify-firewall check")
    only_open(host, *ports)
    sh(host, "systemctl stop dify-firewall && dify-firewall off")
    try:
        assert "DIFY" not in sh(host, "iptables-save; ip6tables-save")
        only_open(host, *ports)
    finally:
        sh(host, "systemctl start dify-firewall")
