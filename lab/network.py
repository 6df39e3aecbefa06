"""The network that hosts and registry are on."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from lab import engine
from lab.home import LabError, lock

NAME = "dify-lab"

#: Far from 172.17.0.0/16 and up, which the engines inside the hosts use for their own networks.
_CANDIDATES = [ipaddress.IPv4Network(f"10.{second}.0.0/16") for second in range(213, 255)]


def up() -> None:
    with lock("network"):
        if not _inspect():
            # Addresses that Docker chooses itself (the registry's) stay out of the way of the hosts' fixed ones.
            net = free_subnet(_routes())
            automatic = next(net.subnets(new_prefix=24))
            words = ["--subnet", str(net), "--ip-range", str(automatic), "--label", "dify.lab=network"]
            engine.docker("network", "create", *words, NAME)


def down() -> None:
    if _inspect():
        engine.docker("network", "rm", NAME)


def subnet() -> ipaddress.IPv4Network:
    found = _inspect()
    if not found:
        raise LabError("the lab's network is not there: python -m lab up")
    return ipaddress.IPv4Network(found[0]["IPAM"]["Config"][0]["Subnet"])


def _inspect() -> list[dict[str, dict[str, list[dict[str, str]]]]]:
    listed: list[dict[str, dict[str, list[dict[str, str]]]]] = engine.get(
        "/networks", filters={"label": ["dify.lab=network"]}
    )
    return listed


def _routes() -> str:
    file = Path("/proc/net/route")
    return file.read_text() if file.exists() else ""


def free_subnet(routes: str) -> ipaddress.IPv4Network:
    """The first candidate that overlaps no route of this machine, given as /proc/net/route prints them."""
    taken = [_network(line.split()) for line in routes.splitlines()[1:]]
    for candidate in _CANDIDATES:
        if not any(net.prefixlen and net.overlaps(candidate) for net in taken):
            return candidate
    raise LabError("no free network between 10.213.0.0/16 and 10.254.0.0/16 for the lab's hosts")


def _network(fields: list[str]) -> ipaddress.IPv4Network:
    """/proc/net/route writes addresses as hexadecimal numbers in this machine's byte order (little endian)."""
    address, mask = (int.from_bytes(bytes.fromhex(fields[column]), "little") for column in (1, 7))
    return ipaddress.IPv4Network((address, mask.bit_count()))
