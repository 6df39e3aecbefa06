"""One public address: what Dify's settings must be for a browser that goes to it, and which mixes break the login.

Two programs decide on their own what the login's cookies are called, so that they must come to the same result:

- The api names them ``__Host-...`` when CONSOLE_WEB_URL and CONSOLE_API_URL are both https and COOKIE_DOMAIN is empty
  (libs/token.py of Dify 1.11.4).
- The page in the browser looks for ``__Host-csrf_token`` when CONSOLE_API_URL is https and NEXT_PUBLIC_COOKIE_DOMAIN is
  empty (web/config/index.ts).

When they differ, the login ends in "CSRF token is missing or invalid" (dify#28228, dify#28377).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

from pydantic_core import PydanticCustomError

from stack.release import Release

# Each of them is the address alone: Dify puts its own paths behind it.
PLAIN = (
    "CONSOLE_API_URL",
    "CONSOLE_WEB_URL",
    "SERVICE_API_URL",
    "APP_API_URL",
    "APP_WEB_URL",
    "FILES_URL",
    "TRIGGER_URL",
)
# (where the page is, where it asks, what must let it): a browser goes by these.
PAGES = (
    ("CONSOLE_WEB_URL", "CONSOLE_API_URL", "CONSOLE_CORS_ALLOW_ORIGINS"),
    ("APP_WEB_URL", "APP_API_URL", "WEB_API_CORS_ALLOW_ORIGINS"),
)
# What Dify puts behind each of those that somebody may have copied from where it is used. The pages lie at the root only.
PATHS = {
    "CONSOLE_API_URL": "/console/api",
    "SERVICE_API_URL": "/v1",
    "APP_API_URL": "/api",
    "FILES_URL": "/files",
    "TRIGGER_URL": "/triggers",
    "CONSOLE_WEB_URL": "",
    "APP_WEB_URL": "",
}
PORTS = {"http": 80, "https": 443}
LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
# Browsers and Python's own codec write these differently, so that the name would be two.
AMBIGUOUS = set("ßς\u200c\u200d")


@dataclass(frozen=True)
class Address:
    """Where browsers find Dify.

    scheme: http or https.
    host: as browsers write it: a name in ASCII, or an IP address, IPv6 in brackets.
    port: always a number.
    """

    scheme: str
    host: str
    port: int

    @property
    def origin(self) -> str:
        """As a browser writes it: without the port that everybody assumes."""
        return f"{self.scheme}://{self.host}" + ("" if self.port == PORTS[self.scheme] else f":{self.port}")


def parse(public_url: str) -> Address:
    """The address in the knob public_url; raises ValueError with what is wrong with it."""
    if any(character.isspace() or not character.isprintable() for character in public_url):
        raise ValueError("a space or another character that no address has")
    try:
        parts = urlsplit(public_url)
        port = parts.port
    except ValueError:
        raise ValueError("no address: it must be like https://dify.example.com or http://192.0.2.7:8080") from None
    if parts.scheme not in PORTS:
        raise ValueError("must begin with http:// or https://")
    if "@" in parts.netloc:
        raise ValueError("must have no user and password: people log in to Dify itself")
    if parts.path not in ("", "/") or parts.query or parts.fragment or public_url[-1] in "?#":
        raise ValueError(
            "must end after the host and port: Dify's web image was built to lie at the root, not under a path "
            "(dify#263); give it a name or a port of its own"
        )
    if port == 0 or parts.netloc.endswith(":"):
        raise ValueError("the port must be 1 to 65535")
    return Address(parts.scheme, _host(parts), port or PORTS[parts.scheme])


def _host(parts: SplitResult) -> str:
    name = parts.hostname or ""
    if parts.netloc.startswith("["):
        return f"[{_ipv6(name)}]" if re.fullmatch(r"\[[^]]*\](:\d+)?", parts.netloc) else _no_host(parts.netloc)
    if re.fullmatch(r"[0-9.]+", name):
        try:
            return str(ip_address(name))
        except ValueError:
            return _no_host(name)
    if AMBIGUOUS & set(name):
        raise ValueError(f"{name}: not all programs write this name alike in ASCII; give it in its xn-- form")
    try:
        ascii_name = name.encode("idna").decode()
    except UnicodeError:
        return _no_host(name)
    return ascii_name if all(map(LABEL.fullmatch, ascii_name.split("."))) else _no_host(name)


def _ipv6(name: str) -> str:
    try:
        # A zone (%eth0) says which of this machine's cables: no browser elsewhere could follow.
        return str(IPv6Address(name)) if "%" not in name else _no_host(name)
    except ValueError:
        return _no_host(name)


def _no_host(name: str) -> str:
    raise ValueError(f"{name or '(none)'} is no host: a name such as dify.example.com or an IP address is wanted")


def checked(public_url: str) -> str:
    """The knob as it was given when it is an address or empty; for pydantic, which has its own kind of error."""
    try:
        parse(public_url or "http://localhost")
    except ValueError as wrong:
        # Braces would be taken for a place to fill in.
        raise PydanticCustomError("public_url", "{why}", {"why": str(wrong)}) from None
    return public_url


def network(proxy: str) -> str:
    """An address or network in the knob trusted_proxies as nginx takes it; for pydantic, as `checked`."""
    try:
        found = ip_network(proxy)
    except ValueError:
        why = f"{proxy}: must be an IP address or a network as 10.0.0.0/24"
    else:
        if found.prefixlen:
            return str(found)
        why = f"{proxy}: would have anybody believed; name the proxy's address"
    raise PydanticCustomError("trusted_proxies", "{why}", {"why": why})


def settings(public_url: str, release: Release, given: Mapping[str, str]) -> dict[str, str]:
    """What follows from public_url; nothing from an empty one. Cookies need nothing: without a domain they are the host's.

    public_url: the knob, as `parse` takes it.
    release: for the ports that are not given.
    given: what the operator set; decides which ports of ours browsers reach.
    """
    if not public_url:
        return {}
    public = parse(public_url)
    return {
        **dict.fromkeys(PLAIN, public.origin),
        "ENDPOINT_URL_TEMPLATE": public.origin + "/e/{hook_id}",
        # Files go from container to container by this one: the public name may not lead back to us from inside.
        "INTERNAL_FILES_URL": f"http://api:{given.get('DIFY_PORT') or release.default('DIFY_PORT')}",
        "NGINX_SERVER_NAME": public.host,
        **_published(public, given),
    }


def _published(public: Address, given: Mapping[str, str]) -> dict[str, str]:
    """The port that is in the address, on our own nginx; with https only when it is ours and not another proxy's."""
    if public.scheme == "http":
        return {"EXPOSE_NGINX_PORT": str(public.port)}
    ours = given.get("NGINX_HTTPS_ENABLED", "").lower() == "true"
    return {"EXPOSE_NGINX_SSL_PORT": str(public.port)} if ours else {}


def problems(release: Release, values: Mapping[str, str]) -> list[str]:
    """A line for each mix of addresses and cookie settings that breaks the login or a published app.

    release: for the defaults of what is not set.
    values: the operator's settings and those that follow from public_url.
    """

    def get(name: str) -> str:
        return values.get(name) or release.default(name)

    urls = {name: get(name) for name in PLAIN}
    slashes = [line for name, url in urls.items() if (line := _path(name, url))]
    cookies = {name: get(name).strip().removeprefix(".") for name in ("COOKIE_DOMAIN", "NEXT_PUBLIC_COOKIE_DOMAIN")}
    pages = [line for page in PAGES for line in _page(*page, urls, get(page[2]))]
    return [*slashes, *pages, *_cookie_names(urls, *cookies.values()), *_cookie_reach(urls, *cookies.values())]


def _path(name: str, url: str) -> str:
    """What is wrong with what stands behind the host of one of PLAIN; empty when nothing is."""
    shown = name if "@" in url else f"{name}={url}"
    path, theirs = urlsplit(url).path.rstrip("/"), PATHS[name]
    if theirs and path.endswith(theirs):
        return f"{shown}: must end before {theirs}: Dify itself puts that behind it"
    if path and not theirs:
        return f"{shown}: must have no path: Dify's web image was built to lie at the root (dify#263)"
    return f"{shown}: must not end in /: Dify puts its own paths behind it" if url.endswith("/") else ""


def _page(web: str, api: str, allowed: str, urls: Mapping[str, str], origins: str) -> Iterable[str]:
    """What a browser refuses between a page and the api that it asks."""
    page, asked = urls[web], urls[api]
    if not page or not asked:
        return
    if page.startswith("https:") and asked.startswith("http:"):
        yield f"{web} is https and {api} is http: browsers refuse that; give both with https, or set public_url alone"
    elif _origin(page) != _origin(asked) and not {"*", _origin(page)} & {
        _origin(one.strip()) for one in origins.split(",")
    }:
        yield (
            f"{allowed}={origins}: must let {_origin(page)} in, because {web} and {api} are different addresses; "
            "add it, or leave the setting out"
        )


def _cookie_names(urls: Mapping[str, str], domain: str, page_domain: str) -> Iterable[str]:
    asked_is_https = urls["CONSOLE_API_URL"].startswith("https://")
    api_says_host = asked_is_https and urls["CONSOLE_WEB_URL"].startswith("https://") and not domain
    page_says_host = asked_is_https and not page_domain
    if api_says_host == page_says_host:
        return
    if bool(domain) != bool(page_domain):
        one, other = ("COOKIE_DOMAIN", "NEXT_PUBLIC_COOKIE_DOMAIN")[:: 1 if domain else -1]
        yield f"{one} without {other}: the login breaks, as api and page name their cookies differently; give both or none"
    else:
        yield (
            "CONSOLE_API_URL is https and CONSOLE_WEB_URL is not: the login breaks, as api and page name their cookies "
            "differently; give both with https, or set public_url alone"
        )


def _cookie_reach(urls: Mapping[str, str], domain: str, page_domain: str) -> Iterable[str]:
    """Whether the page may read the cookie that the api sets."""
    web, api = (_host_of(urls[name]) for name in ("CONSOLE_WEB_URL", "CONSOLE_API_URL"))
    outside = [host for host in dict.fromkeys((web, api)) if domain and host and not _within(host, domain)]
    if outside:
        yield f"COOKIE_DOMAIN={domain}: the login breaks, as {' and '.join(outside)} is not within it; leave it out"
    elif web and api and web != api and not (domain and page_domain):
        yield (
            f"CONSOLE_WEB_URL is at {web} and CONSOLE_API_URL at {api}: the login breaks without a cookie for both; set "
            "COOKIE_DOMAIN and NEXT_PUBLIC_COOKIE_DOMAIN to the domain that they share, or set public_url alone"
        )


def _within(host: str, domain: str) -> bool:
    return host == domain or host.endswith(f".{domain}")


def _host_of(url: str) -> str:
    return urlsplit(url).hostname or ""


def _origin(url: str) -> str:
    """Scheme, host and port as a browser compares them; anything else as it is."""
    try:
        return parse(url).origin
    except ValueError:
        return url
