"""What of a host can be reached: ports that are opened by name, and the list of the firewall in front of containers.

Nothing but nginx is published by itself. The knob expose publishes another port by the name that its service file gives it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from pydantic_core import PydanticCustomError

from stack import address
from stack.errors import InvalidError, nearest

if TYPE_CHECKING:
    from stack.settings import Knobs

PLACE = re.compile(r"([0-9.]+|\[[0-9A-Fa-f:.]+\]):([1-9][0-9]{0,4})")
ENTRY = re.compile(r"(?P<what>[A-Za-z0-9_-]+)(?:/(?P<protocol>tcp|udp))?(?: from (?P<source>\S+))?")
EVERYWHERE = {"", "0.0.0.0", "*", "[::]"}
ANY = "-"
DEBUG = "plugin_daemon_debug"
# OpenSearch makes a certificate of its own.
HAS_TLS = frozenset({"opensearch"})
# What answers without asking who it is, as our service files set them up; the others ask for a password or key.
NO_PASSWORD = frozenset({"etcd", "milvus-standalone_http", "ssrf_proxy", "ssrf_proxy_sandbox", "unstructured"})


@dataclass(frozen=True)
class Offer:
    """A service's ports, as far as they can be published.

    ports: {name in its service file: port inside}; the first is the service's main one.
    internal: its networks when none of them has a way to the host; else empty.
    """

    ports: Mapping[str, int]
    internal: tuple[str, ...] = ()


def _wrong(why: str) -> PydanticCustomError:
    # Braces would be taken for a place to fill in.
    return PydanticCustomError("exposure", "{why}", {"why": why})


def checked(place: str) -> str:
    """An address and port of the knob expose, written as Compose writes it; for pydantic, which has its own kind of error."""
    found = PLACE.fullmatch(place)
    if not found or int(found[2]) > 65535:
        raise _wrong(
            f"{place}: must be address:port, as 10.0.0.5:5003 or [2001:db8::5]:5003; 0.0.0.0:5003 is every IPv4 address"
        )
    try:
        at = ip_address(found[1].strip("[]"))
    except ValueError:
        raise _wrong(f"{place}: {found[1]} is no IP address") from None
    return f"[{at}]:{found[2]}" if at.version == 6 else f"{at}:{found[2]}"


def checked_entry(entry: str) -> str:
    """An entry of the knob firewall_allow, its source as the kernel writes it."""
    found = ENTRY.fullmatch(entry)
    number = found and found["what"].isdigit()
    if not found or (number and not 0 < int(found["what"]) < 65536) or (found["protocol"] and not number):
        raise _wrong(
            f"{entry!r}: must be a port or the name of an open one, and may say from where: "
            '"8443", "53/udp", "plugin_daemon_debug from 203.0.113.0/24"'
        )
    if not found["source"]:
        return entry
    try:
        return f"{entry.partition(' ')[0]} from {ip_network(found['source'])}"
    except ValueError as error:
        raise _wrong(f"{entry!r}: {error}") from None


def overlap(wanted: str, listener: str) -> bool:
    """Whether two things at these "address:port" or "port" would take it from each other."""
    here, _, port = wanted.rpartition(":")
    there, _, listening = re.sub(r"^\[::ffff:([0-9.]+)\]", r"\1", listener).rpartition(":")
    return port == listening and (here == there or here in EVERYWHERE or there in EVERYWHERE)


def names(offers: Mapping[str, Offer]) -> dict[str, tuple[str, int]]:
    """{name of a port: (service, port inside)}: a service's first port is called like it, others service_<port name>."""
    return {
        f"{service}_{called}" if at else service: (service, inside)
        for service, offer in offers.items()
        for at, (called, inside) in enumerate(offer.ports.items())
    }


def published(knobs: Knobs, offers: Mapping[str, Offer], chosen: Collection[str]) -> dict[str, list[str]]:
    """{service: what Compose shall publish of it}; raises InvalidError for each name that cannot be opened.

    offers: of all services that there are. chosen: those that run.
    """
    known = names(offers)
    lines = [
        f"{_knob(name)}: {said}" for name in knobs.expose if (said := _refused(name, knobs, known, offers, chosen))
    ]
    if lines:
        raise InvalidError(lines)
    found: dict[str, list[str]] = {}
    for name, place in knobs.expose.items():
        service, inside = known[name]
        found.setdefault(service, []).append(f"{place}:{inside}")
    return found


def _refused(
    name: str,
    knobs: Knobs,
    known: Mapping[str, tuple[str, int]],
    offers: Mapping[str, Offer],
    chosen: Collection[str],
) -> str:
    """Why a port cannot be opened; empty when it can."""
    if knobs.mode == "middleware":
        return 'mode = "middleware" publishes all ports at middleware_address by itself; take it out'
    if name not in known:
        near = nearest(name, known)
        return "no port is called so" + (near or "; docs/exposure.md has their names")
    service = known[name][0]
    if service == "nginx":
        return "nginx is published already; EXPOSE_NGINX_PORT and EXPOSE_NGINX_SSL_PORT in .env say where"
    if service not in chosen:
        return f"{service} does not run here; choose it, or take the line out"
    twin = next((n for n, place in knobs.expose.items() if n != name and overlap(place, knobs.expose[name])), "")
    if twin:
        return f"{_knob(twin)} has that port too; give one of them another"
    if offers[service].internal:
        return (
            f"{service} is on {' and '.join(offers[service].internal)} only, which has no way to the host; take it out"
        )
    return ""


def _knob(name: str) -> str:
    return f'expose["{name}"]'


def opened_by(knobs: Knobs) -> dict[str, str]:
    """{address:port: the knob that opens it}"""
    return {place: _knob(name) for name, place in knobs.expose.items()}


def settings(knobs: Knobs) -> dict[str, str]:
    """What Dify tells those who debug plugins: where the plugin daemon is reached."""
    if DEBUG not in knobs.expose:
        return {}
    at, _, port = knobs.expose[DEBUG].rpartition(":")
    if at not in EVERYWHERE:
        return {"EXPOSE_PLUGIN_DEBUGGING_HOST": at, "EXPOSE_PLUGIN_DEBUGGING_PORT": port}
    host = {"EXPOSE_PLUGIN_DEBUGGING_HOST": address.parse(knobs.public_url).host} if knobs.public_url else {}
    return {**host, "EXPOSE_PLUGIN_DEBUGGING_PORT": port}


def warnings(knobs: Knobs) -> list[str]:
    """A line for each open port that more than the host itself can reach."""
    lines = []
    for name, place in knobs.expose.items():
        at = place.rpartition(":")[0].strip("[]")
        if ip_address(at).is_loopback:
            continue
        whom = "everybody who reaches the host" if ip_address(at).is_unspecified else f"whoever reaches {at}"
        lines.append(f'expose["{name}"] = "{place}": open to {whom}{_without(name)}')
    if knobs.firewall_allow and knobs.firewall == "off":
        lines.append('firewall_allow: closes nothing while firewall = "off"')
    return lines


def _without(name: str) -> str:
    """What an open port lacks."""
    if name in NO_PASSWORD:
        return ", and it asks for no password"
    return "" if name in HAS_TLS else ", and passwords cross the network without TLS"


def refuse_unknown_entries(knobs: Knobs) -> None:
    """Raise InvalidError for each name in firewall_allow that is no open port's."""
    known = ["nginx", *knobs.expose] if knobs.mode != "middleware" else []
    lines = []
    for entry in knobs.firewall_allow:
        what = entry.partition(" ")[0].partition("/")[0]
        if not what.isdigit() and what not in known:
            there = f"there are {', '.join(known)}" if known else 'with mode = "middleware" give its number'
            lines.append(f"firewall_allow: {entry!r}: no open port is called {what}; {there}{nearest(what, known)}")
    if lines:
        raise InvalidError(lines)


def allowed(knobs: Knobs, ports: Mapping[str, str]) -> list[str]:
    """The firewall's list: "protocol port address source" for each that may come in, "-" for any.

    ports: {"address:port" or "port" that is published: the setting or knob behind it}
    """
    limits: dict[tuple[str, str], list[str]] = {}
    foreign: list[tuple[str, str]] = []
    for entry in knobs.firewall_allow:
        for key in _keys(entry, knobs, ports):
            limits.setdefault(key, []).append(entry.partition(" from ")[2] or ANY)
            foreign.append(key)
    ours = [("tcp", place.rpartition(":")[2], place.rpartition(":")[0]) for place in ports]
    lines = list(_lines(ours, limits))
    numbers = {(protocol, port) for protocol, port, _ in ours}
    return sorted({*lines, *_lines(((*key, "") for key in foreign if key not in numbers), limits)})


def _keys(entry: str, knobs: Knobs, ports: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The protocols and ports that an entry is about."""
    what, _, protocol = entry.partition(" ")[0].partition("/")
    if what.isdigit():
        yield protocol or "tcp", str(int(what))
    elif what in knobs.expose:
        yield "tcp", knobs.expose[what].rpartition(":")[2]
    else:
        yield from (("tcp", place.rpartition(":")[2]) for place, by in ports.items() if by.startswith("EXPOSE_NGINX_"))


def _lines(those: Iterable[tuple[str, str, str]], limits: Mapping[tuple[str, str], list[str]]) -> Iterator[str]:
    for protocol, port, at in those:
        place = ANY if at in EVERYWHERE else at.strip("[]")
        for source in limits.get((protocol, port), [ANY]):
            yield f"{protocol} {port} {place} {source}"
