"""What Dify's workflows and its sandbox may reach: the knobs ssrf_* as lists that squid compares addresses and names with.

A name is judged by every address it has, so what is kept here is what nobody may reach, never what anybody may.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from pydantic_core import PydanticCustomError

from stack.release import Release

if TYPE_CHECKING:
    from stack.settings import Settings

Network = IPv4Network | IPv6Network

# Squid's own user in its image, Debian's and Ubuntu's alike; it runs as this one from the start.
SQUID = 13
# Where the login of another proxy stands; apart, so that squid.conf itself stays readable for everybody.
UPSTREAM = "ssrf_proxy/upstream.conf"
# Connections to these are refused: IANA's registries of special-purpose addresses, as of 2025, and what clouds add.
# Squid keeps IPv4 addresses as ::ffff:0:0/96, so that those forms are judged as the IPv4 address inside, and must not stand here.
FORBIDDEN: Mapping[str, str] = {
    "0.0.0.0/8": "this host",
    "10.0.0.0/8": "private",
    "100.64.0.0/10": "of providers (CGNAT); Alibaba Cloud's metadata at 100.100.100.200",
    "127.0.0.0/8": "loopback",
    "168.63.129.16/32": "Azure's host agent, at a public address",
    "169.254.0.0/16": "link-local; the metadata of most clouds at 169.254.169.254",
    "172.16.0.0/12": "private; Docker's own networks",
    "192.0.0.0/24": "of protocols; Oracle Cloud's metadata at 192.0.0.192",
    "192.0.2.0/24": "documentation",
    "192.88.99.0/24": "relays from IPv6",
    "192.168.0.0/16": "private",
    "198.18.0.0/15": "benchmarks",
    "198.51.100.0/24": "documentation",
    "203.0.113.0/24": "documentation",
    "224.0.0.0/4": "multicast",
    "240.0.0.0/4": "reserved, and broadcast",
    "::/96": "unspecified, loopback, and IPv4 addresses in an old form",
    "::ffff:0:0:0/96": "IPv4 addresses in translated form",
    "64:ff9b:1::/48": "IPv4 addresses behind a NAT64 of one's own",
    "100::/8": "discarded, reserved",
    "200::/7": "reserved",
    "400::/6": "reserved",
    "800::/5": "reserved",
    "1000::/4": "reserved",
    "2001::/23": "of protocols; Teredo, which has IPv4 addresses inside",
    "2001:db8::/32": "documentation",
    "2002::/16": "6to4, which has IPv4 addresses inside",
    "3fff::/20": "documentation",
    "4000::/2": "reserved",
    "8000::/1": "reserved, private, link-local, multicast; Amazon's metadata at fd00:ec2::254",
}
# A resolver behind NAT64 makes one such address for every name that has IPv4 only, so that it counts as that IPv4 address.
NAT64 = IPv6Network("64:ff9b::/96")
# All there is, in the pieces that squid takes for nothing but networks.
EVERYTHING = ("0.0.0.0/1", "128.0.0.0/1", "2000::/3", *(n for n in FORBIDDEN if ":" in n), str(NAT64))

_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
# The last one must not be a number in any of its forms: that would be an address.
_NAME = re.compile(rf"\.?({_LABEL}\.)*(?!0x[0-9a-f]*$)(?![0-9]+$){_LABEL}")
_ADDRESS = (
    "must be an address (10.0.0.5, fd00::5), a network (10.0.0.0/24) or a name (wiki.example.com; .example.com for all "
    "below it too)"
)


@dataclass(frozen=True)
class Target:
    """What may be reached although it is private.

    network: it, or None for a name.
    name: it in small letters, with a dot before it when all below it is meant too; empty for a network.
    port: the only one that is meant; None for every port that may be asked for.
    """

    network: Network | None
    name: str
    port: int | None


@dataclass(frozen=True)
class Upstream:
    """The proxy that leads out.

    user, password: as they are, not as a URL has them; empty when it asks for none.
    """

    host: str
    port: int
    user: str
    password: str

    @property
    def login(self) -> str:
        """The login as squid reads it, which takes %XX for any character; empty when there is none."""
        return f"{quote(self.user, safe='')}:{quote(self.password, safe='')}" if self.user else ""


@dataclass(frozen=True)
class Opened:
    """What is opened at one port, or at all of them.

    port: None for all that may be asked for.
    names: opened whatever they resolve to.
    networks: opened to what resolves to one of them and to nothing in `beyond`.
    beyond: what else is closed.
    """

    port: int | None
    names: tuple[str, ...]
    networks: tuple[str, ...]
    beyond: tuple[str, ...]

    @property
    def mark(self) -> str:
        """What the names of squid's lists end with."""
        return f"_{self.port}" if self.port else ""

    @property
    def conditions(self) -> Iterator[str]:
        """What an access rule of squid asks to let these pass."""
        at_port = f"port{self.mark} " if self.port else ""
        if self.names:
            yield f"{at_port}opened_names{self.mark}"
        if self.networks:
            yield f"{at_port}opened{self.mark} !beyond{self.mark}"


@dataclass(frozen=True)
class Egress:
    """What the template of squid.conf is filled with.

    forbidden: networks that nobody may reach.
    at_ports, anywhere: what is opened all the same, at single ports and at all.
    connect_ports: where HTTPS may go beside 443.
    domains: the only ones that may be reached beside what is opened; empty for all.
    upstream: the proxy that leads out, None for none.
    """

    forbidden: tuple[str, ...]
    at_ports: tuple[Opened, ...]
    anywhere: Opened
    connect_ports: tuple[int, ...]
    domains: tuple[str, ...]
    upstream: Upstream | None

    @property
    def places(self) -> tuple[Opened, ...]:
        """All that is opened, single ports first."""
        return (*self.at_ports, self.anywhere)


def of(settings: Settings) -> Egress:
    """What follows from the knobs of one host."""
    knobs = settings.knobs
    targets = [target(text) for text in knobs.ssrf_allow]
    domains = [text.lower() for text in knobs.ssrf_allowed_domains]
    if domains and settings["MARKETPLACE_ENABLED"].lower() == "true":
        domains.append(urlsplit(settings["MARKETPLACE_API_URL"]).hostname or "")
    closed = forbidden()
    base = [ip_network(text) for text in EVERYTHING] if domains else closed
    ports = sorted({one.port for one in targets if one.port})
    return Egress(
        forbidden=_written(closed),
        at_ports=tuple(_opened(port, targets, base) for port in ports),
        anywhere=_opened(None, targets, base),
        connect_ports=tuple(sorted(set(knobs.ssrf_connect_ports))),
        domains=_shortest(filter(None, domains)),
        upstream=parse_upstream(knobs.ssrf_upstream_proxy) if knobs.ssrf_upstream_proxy else None,
    )


def forbidden() -> list[Network]:
    """What nobody may reach unless it is opened, IPv4 addresses behind NAT64 included."""
    networks = [ip_network(text) for text in FORBIDDEN]
    return [*networks, *(_behind_nat64(one) for one in networks if isinstance(one, IPv4Network))]


def _behind_nat64(network: IPv4Network) -> IPv6Network:
    return IPv6Network((int(NAT64.network_address) | int(network.network_address), 96 + network.prefixlen))


def _opened(port: int | None, targets: Sequence[Target], base: Iterable[Network]) -> Opened:
    mine = [one for one in targets if one.port == port]
    networks = [one.network for one in mine if one.network]
    beyond = without(base, networks) if networks else []
    return Opened(port, _shortest(one.name for one in mine if one.name), _written(networks), _written(beyond))


def without(networks: Iterable[Network], holes: Iterable[Network]) -> list[Network]:
    """The networks less the holes: no address of a hole is left, and all others are."""
    left = list(networks)
    for hole in holes:
        left = [piece for one in left for piece in _pieces(one, hole)]
    return left


def _pieces(network: Network, hole: Network) -> Iterable[Network]:
    if network.version != hole.version or not network.overlaps(hole):
        return [network]
    # Of two networks that overlap, one holds the other.
    return [] if network.prefixlen >= hole.prefixlen else network.address_exclude(hole)  # type: ignore[arg-type]


def _written(networks: Iterable[Network]) -> tuple[str, ...]:
    """Each address once, because squid drops a network that lies within another."""
    there = list(networks)
    old = collapse_addresses([one for one in there if isinstance(one, IPv4Network)])
    new = collapse_addresses([one for one in there if isinstance(one, IPv6Network)])
    return (*map(str, old), *map(str, new))


def _shortest(names: Iterable[str]) -> tuple[str, ...]:
    """The names without those that another one with a dot before it holds, because squid drops one of the two."""
    known = sorted(set(names))
    dotted = [one for one in known if one.startswith(".")]
    return tuple(one for one in known if not any(one != other and f".{one}".endswith(other) for other in dotted))


# What is written in the knobs


def target(text: str) -> Target:
    """An entry of ssrf_allow; raises ValueError with what is wrong with it."""
    place, port = _parted(text)
    if not re.fullmatch(r"[0-9.]+(/[0-9]*)?|.*[:/].*", place):
        return Target(None, _name(place), port)
    try:
        network = ip_network(place)
    except ValueError:
        raise ValueError(_no_network(place)) from None
    if not network.prefixlen:
        raise ValueError("would open every address, those of databases and of the cloud included; name what is meant")
    if network.version == 6 and network.subnet_of(IPv6Network("::ffff:0:0/96")):
        raise ValueError("write an IPv4 address as one")
    return Target(network, "", port)


def _parted(text: str) -> tuple[str, int | None]:
    """The place and its port; an IPv6 address with a port stands in brackets."""
    found = re.fullmatch(r"\[([^][]*)\](?::(.*))?|([^:]*):([^:]*)", text.lower())
    if not found:
        return text.lower(), None
    if "//" in text:
        raise ValueError(_ADDRESS)
    place, port = found[1] if found[3] is None else found[3], found[2] if found[3] is None else found[4]
    if port is None:
        return place, None
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise ValueError(f"{port} is no port: it must be a number from 1 to 65535")
    return place, int(port)


def _no_network(place: str) -> str:
    try:
        return f"is no network: {ip_network(place, strict=False)} or {place.partition('/')[0]} is"
    except ValueError:
        return _ADDRESS


def _name(text: str) -> str:
    if not _NAME.fullmatch(text) or len(text) > 254:
        raise ValueError(_ADDRESS)
    return text


def checked_target(text: str) -> str:
    """The same text, if it is an entry of ssrf_allow; raises what pydantic makes an error of the knob from."""
    return _checked(text, target, text)


def checked_domain(text: str) -> str:
    """The same text, if it is a domain; for pydantic, as `checked_target`."""
    said = "must be a domain: example.com for itself alone, .example.com for all below it too"
    if not _NAME.fullmatch(text.lower()) or len(text) > 254:
        raise PydanticCustomError("egress", "{text}: {said}", {"text": repr(text), "said": said})
    return text


def checked_upstream(text: str) -> str:
    """The same text, if it is empty or the URL of a proxy; for pydantic, as `checked_target`."""
    return _checked(text, parse_upstream, "") if text else text


def _checked(text: str, read: object, shown: str) -> str:
    try:
        read(text)  # type: ignore[operator]
    except ValueError as wrong:
        said = f"{shown!r}: {wrong}" if shown else str(wrong)
        raise PydanticCustomError("egress", "{said}", {"said": said}) from None
    return text


def parse_upstream(url: str) -> Upstream:
    """The knob ssrf_upstream_proxy; raises ValueError with what is wrong with it, never with what it says."""
    usual = ValueError("must be http://host:port or http://user:password@host:port, special characters as %XX")
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname or ""
    except ValueError:
        raise usual from None
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    no_login = "@" in parts.netloc and not (user and password)
    odd = parts.path not in ("", "/") or parts.query or parts.fragment or parts.scheme != "http"
    if odd or not port or no_login or not _is_host(host) or not (user + password).isprintable():
        raise usual
    return Upstream(host, port, user, password)


def _is_host(host: str) -> bool:
    try:
        ip_network(host)
    except ValueError:
        return bool(_NAME.fullmatch(host)) and not host.startswith(".")
    return True


# What else follows


def upstream_file(settings: Settings) -> str:
    """The part of squid's configuration that holds the upstream proxy's login; without one too, so that none is left behind."""
    upstream = of(settings).upstream
    if not upstream:
        return "# No other proxy: the knob ssrf_upstream_proxy is empty.\n"
    host = f"[{upstream.host}]" if ":" in upstream.host else upstream.host
    login = f" login={upstream.login}" if upstream.login else ""
    return f"cache_peer {host} parent {upstream.port} 0 no-query no-digest no-netdb-exchange default name=upstream{login}\n"


def secrets(url: str) -> list[str]:
    """What of the knob ssrf_upstream_proxy must not be shown."""
    upstream = parse_upstream(url) if url else None
    return [upstream.password, upstream.login] if upstream and upstream.password else []


def settings(release: Release, given: Mapping[str, str]) -> dict[str, str]:
    """Where api and worker ask for code to be run: at the proxy, since no network of theirs leads to the sandbox.

    given: what the operator set.
    """
    port = given.get("SSRF_REVERSE_PROXY_PORT") or release.default("SSRF_REVERSE_PROXY_PORT")
    return {"CODE_EXECUTION_ENDPOINT": f"http://ssrf_proxy:{port}"}


def problems(release: Release, given: Mapping[str, str]) -> Iterator[str]:
    """A line for an endpoint that leads past the proxy to our own sandbox; arguments as of `settings`."""
    url = given.get("CODE_EXECUTION_ENDPOINT", "")
    if url and urlsplit(url).hostname in ("sandbox", given.get("SSRF_SANDBOX_HOST")):
        yield (
            f"CODE_EXECUTION_ENDPOINT={url}: api and worker have no network in common with the sandbox and ask for it at "
            f"{settings(release, given)['CODE_EXECUTION_ENDPOINT']}; leave CODE_EXECUTION_ENDPOINT out, it follows"
        )


__all__ = ["Egress", "Upstream", "checked_domain", "checked_target", "checked_upstream", "of", "problems", "settings"]
