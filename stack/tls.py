"""HTTPS: what the knob tls asks of the other settings, and an operator's own certificate, judged before any host is touched."""

from __future__ import annotations

import ssl
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import cache
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from stack import address
from stack.errors import InvalidError

if TYPE_CHECKING:
    from stack.release import Release
    from stack.settings import Knobs

# Modes in which our own nginx ends TLS because the knob says so.
OURS = ("own", "letsencrypt")
SERVERS = {
    "letsencrypt": "https://acme-v02.api.letsencrypt.org/directory",
    "staging": "https://acme-staging-v02.api.letsencrypt.org/directory",
}
# An own certificate that ends sooner is warned of.
SOON = timedelta(days=14)
# What OpenSSL, and so nginx, takes at the security level that distributions set.
LEAST_RSA = 2048
# Of certbot's options those that the knobs say, or that would leave us without a certificate.
OUR_OPTIONS = set(
    """
    -d --domain --domains --cert-name --server --test-cert --staging --dry-run --force-renewal --webroot -w --standalone
    --config-dir --work-dir --logs-dir
    """.split()  # noqa: SIM905
)
# Where Docker takes the networks of containers from, unless docker_address_pools says otherwise.
POOLS = [ip_network("172.16.0.0/12"), ip_network("192.168.0.0/16")]
# Where systems keep the authorities that they trust in one file.
BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
PEM = serialization.Encoding.PEM


# --- What the knob asks of the settings ---


def settings(tls: str, public_url: str) -> dict[str, str]:
    """Dify's settings that follow from the knob.

    public_url: the knob, a right one.
    """
    follows = {"NGINX_HTTPS_ENABLED": "true"} if tls in OURS else {}
    if tls in (*OURS, "proxy"):
        # The api itself is spoken to by http; this has it believe nginx that the browser is not.
        follows["RESPECT_XFORWARD_HEADERS_ENABLED"] = "true"
    if tls == "letsencrypt":
        domain = address.parse(public_url).host if public_url else ""
        follows |= {"NGINX_ENABLE_CERTBOT_CHALLENGE": "true", "CERTBOT_DOMAIN": domain}
    return follows


def profiles(knobs: Knobs) -> list[str]:
    """Compose profiles that the knob needs."""
    return ["certbot"] if knobs.mode == "dify" and knobs.tls == "letsencrypt" else []


def problems(release: Release, given: Mapping[str, str], data: Mapping[str, Any]) -> Iterator[str]:
    """A line for each of the operator's settings that the knob tls cannot be with, and for what it lacks.

    given: what the operator set.
    data: the knobs as they were given, right or wrong.
    """
    tls = data.get("tls")
    try:
        public = address.parse(str(data.get("public_url") or "http://"))
    except ValueError:
        public = None
    yield from _address(tls, str(data.get("public_url") or ""), public)
    https = given.get("NGINX_HTTPS_ENABLED", "").lower()
    if tls in OURS and https == "false":
        yield f'NGINX_HTTPS_ENABLED=false: tls = "{tls}" needs it on; leave it out, or set tls = "off"'
    if tls == "proxy" and https == "true":
        yield 'NGINX_HTTPS_ENABLED=true: tls = "proxy" has another proxy end TLS; leave it out, or set tls = "own"'
    if tls == "own":
        yield from (
            f'tls = "own": needs {name}, the path of a file in PEM on this machine'
            for name in ("tls_certificate", "tls_key")
            if not data.get(name)
        )
    if tls == "proxy" and data.get("trusted_proxies") == []:
        yield 'tls = "proxy": needs trusted_proxies, the addresses that the other proxy asks from, as ["192.0.2.10"]'
    if tls == "letsencrypt":
        yield from _letsencrypt(release, given, public)
    hsts = data.get("hsts")
    if tls == "off" and https != "true" and isinstance(hsts, int) and hsts > 0:
        yield (
            f'hsts = {hsts}: tls = "off" serves no https that browsers could stay with; take it out, or set tls = "proxy" '
            "where another proxy ends TLS"
        )


def cautions(knobs: Knobs, port: str) -> Iterator[str]:
    """A line for each trusted proxy that may be Docker itself, which hands on what comes by IPv6 from an address of its own.

    port: EXPOSE_NGINX_PORT.
    """
    bound = port.rpartition(":")[0].strip("[]")
    if knobs.tls != "proxy" or (bound and bound != "0.0.0.0" and (ip_address(bound).is_loopback or "." in bound)):
        return
    pools = [ip_network(str(pool["base"])) for pool in knobs.docker_address_pools] or POOLS
    for proxy in knobs.trusted_proxies:
        network = ip_network(proxy)
        # The address that Docker wears is a network's first.
        if network.num_addresses == 1 and not str(network[0]).endswith(".1"):
            continue
        if any(network.version == pool.version and network.overlaps(pool) for pool in pools):
            yield (
                f"trusted_proxies: {proxy} is where Docker takes its own addresses from, and whoever comes by IPv6 wears one: "
                "name the proxy's own address, or publish nginx where only it comes, as EXPOSE_NGINX_PORT=127.0.0.1:8080"
            )


def _address(tls: object, public_url: str, public: address.Address | None) -> Iterator[str]:
    """What the modes ask of public_url; nothing of a wrong one, of which is said enough."""
    if tls not in (*OURS, "proxy") or (public_url and public is None):
        return
    if public is None or public.scheme != "https":
        yield f'tls = "{tls}": needs public_url with https, as https://dify.example.com; it is {public_url or "empty"}'
    elif tls == "letsencrypt" and not _is_name(public.host):
        yield (
            f'tls = "letsencrypt": certificates are for names that the world knows, and public_url is {public_url}; '
            'give it a DNS name, or set tls = "own"'
        )


def _is_name(host: str) -> bool:
    return "." in host and not _ip(host) and not host.endswith((".localhost", ".local"))


def _letsencrypt(release: Release, given: Mapping[str, str], public: address.Address | None) -> Iterator[str]:
    if "CERTBOT_EMAIL" not in given:
        yield 'tls = "letsencrypt": needs CERTBOT_EMAIL in .env, where the authority writes to when something is wrong'
    if given.get("NGINX_ENABLE_CERTBOT_CHALLENGE", "true").lower() == "false":
        yield 'NGINX_ENABLE_CERTBOT_CHALLENGE=false: tls = "letsencrypt" answers challenges; leave it out'
    port = given.get("EXPOSE_NGINX_PORT") or release.default("EXPOSE_NGINX_PORT")
    if port.rpartition(":")[2] != "80":
        yield (
            f'EXPOSE_NGINX_PORT={port}: tls = "letsencrypt" is asked for the challenge on port 80 only; leave it out, '
            'or set tls = "own"'
        )
    domain = given.get("CERTBOT_DOMAIN", "")
    if domain and public and domain != public.host:
        yield f"CERTBOT_DOMAIN={domain}: the certificate is for the name in public_url, {public.host}; leave it out"
    if any(word.startswith("--eab") for word in given.get("CERTBOT_OPTIONS", "").split()):
        yield (
            "CERTBOT_OPTIONS: an EAB key would stand in the list of processes; write eab-kid = ... and eab-hmac-key = ... into "
            "volumes/certbot/conf/cli.ini on the host, with mode 0600, which certbot reads"
        )
    ours = [word for word in given.get("CERTBOT_OPTIONS", "").split() if word.partition("=")[0] in OUR_OPTIONS]
    if ours:
        yield f"CERTBOT_OPTIONS: {' '.join(ours)}: public_url, acme_server and the script on the host say that; take it out"


# --- An operator's own certificate ---


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, found good.

    certificate: PEM, the server's own first.
    key: PEM, a secret.
    warnings: what is no error and should be read all the same.
    """

    certificate: bytes
    key: bytes = field(repr=False)
    warnings: tuple[str, ...] = ()


def own(knobs: Knobs, folder: Path) -> Pair | None:
    """What the operator gives with tls = "own"; None in other modes.

    folder: where the inventory lies.
    Raises InvalidError with a line for each thing that is wrong.
    """
    if knobs.tls != "own" or knobs.mode != "dify" or not (knobs.tls_certificate and knobs.tls_key and knobs.public_url):
        return None  # what is missing is said by `problems`
    host = address.parse(knobs.public_url).host
    now = datetime.now(timezone.utc)
    chain = _chain("tls_certificate", knobs.tls_certificate, folder)
    key = _key("tls_key", knobs.tls_key, folder)
    where = f"tls_certificate {knobs.tls_certificate}"
    links, loose = _links(chain, [*_own_authorities(knobs.ca_certificates), *_system()])
    wrong = list(_mismatch(where, chain, key, knobs.tls_key))
    wrong = wrong or [*_unfit(where, chain[0], host), *_times(where, links, now)]
    if wrong := wrong or list(_incomplete(where, loose)):
        raise InvalidError(wrong)
    pem = b"".join(one.public_bytes(PEM) for one in chain)
    secret = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Pair(pem, secret, tuple(_warnings(where, links, loose, now)))


def _read(knob: str, path: str, folder: Path) -> bytes:
    if "-----BEGIN" in path:
        raise InvalidError(f"{knob}: must be the path of a file, not what stands in it")
    try:
        return (folder / Path(path).expanduser()).read_bytes()
    except OSError as error:
        raise InvalidError(f"{knob} = {path!r}: cannot be read: {error.strerror}") from None


def _chain(knob: str, path: str, folder: Path) -> list[x509.Certificate]:
    data = _read(knob, path, folder)
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError:
        is_der = data[:1] == b"\x30"
        said = "openssl x509 -inform der -in ... -out ... makes it of DER" if is_der else "it holds none that is whole"
        raise InvalidError(f"{knob} = {path!r}: no certificate in PEM: {said}") from None


def _key(knob: str, path: str, folder: Path) -> Any:
    data = _read(knob, path, folder)
    try:
        return serialization.load_pem_private_key(data, password=None)
    except TypeError:
        raise InvalidError(
            f"{knob} = {path!r}: has a passphrase, which nobody could type when nginx starts; give a copy without one "
            "(openssl pkey -in ... -out ...)"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidError(f"{knob} = {path!r}: no private key in PEM that nginx can read") from None


def _mismatch(where: str, chain: Sequence[x509.Certificate], key: Any, key_path: str) -> Iterable[str]:
    """Whether the key is that of the first certificate."""
    mine = _public(key.public_key())
    owner = next((place for place, one in enumerate(chain) if _public(one.public_key()) == mine), None)
    if owner is None:
        return [f"{where}: tls_key {key_path} is the key of another certificate; give the one it was made with"]
    if owner:
        return [f"{where}: the server's own certificate must come first, and it is number {owner + 1} in the file"]
    size = key.key_size if isinstance(key.public_key(), RSAPublicKey) else LEAST_RSA
    if size < LEAST_RSA:
        return [f"{where}: an RSA key of {size} bits, which browsers and nginx refuse; {LEAST_RSA} is the least"]
    return []


def _public(key: Any) -> bytes:
    encoded: bytes = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return encoded


def _unfit(where: str, leaf: x509.Certificate, host: str) -> Iterable[str]:
    """Whether browsers would take it for this host: its name is in it, and it is for servers."""
    names = names_of(leaf)
    if not any(fits(name, host) for name in names):
        yield f"{where}: is for {', '.join(names) or 'no name (browsers read subjectAltName only)'}, not for {host} in public_url"
    try:
        uses = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    if not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(uses):
        yield f"{where}: is not for servers (extendedKeyUsage lacks serverAuth); ask its authority for one that is"


def names_of(leaf: x509.Certificate) -> list[str]:
    """The DNS names and IP addresses that a certificate is for."""
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]


def fits(name: str, host: str) -> bool:
    """Whether a name of a certificate covers a host, as browsers do it: * stands for one whole label, the first."""
    if _ip(host) or _ip(name):
        return bool(_ip(host)) and _ip(host) == _ip(name)
    label, _, rest = host.lower().partition(".")
    name = name.lower()
    return name == host.lower() or (bool(label) and "." in rest and name == f"*.{rest}")


def _ip(host: str) -> str:
    """An address in one way of writing; empty for a name."""
    try:
        return str(ip_address(host.strip("[]")))
    except ValueError:
        return ""


# --- The chain ---


def _links(
    chain: Sequence[x509.Certificate], trusted: Sequence[x509.Certificate]
) -> tuple[list[x509.Certificate], x509.Certificate | None]:
    """(the server's certificate and those of the file that vouch for it in turn, the one whose issuer is nowhere)"""
    links = [chain[0]]
    while not _issued(links[-1], links[-1]):
        above = next((one for one in chain if one not in links and _issued(links[-1], one)), None)
        if above is None:
            known = any(_issued(links[-1], one) for one in trusted)
            return links, None if known else links[-1]
        links.append(above)
    return links, None


def _issued(one: x509.Certificate, by: x509.Certificate) -> bool:
    if one.issuer != by.subject:
        return False
    try:
        one.verify_directly_issued_by(by)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _own_authorities(pem: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem.encode()) if pem else []
    except ValueError:
        raise InvalidError("ca_certificates: one of them cannot be read; give each whole, in PEM") from None


@cache
def _system() -> list[x509.Certificate]:
    """The authorities that this machine trusts; those that cannot be read are left out, and none is there without a list."""
    context = ssl.create_default_context()
    # Where the list is a folder, it is looked at one by one when it is needed, and nothing of it is shown.
    for bundle in filter(Path.exists, map(Path, BUNDLES if not context.get_ca_certs() else ())):
        context.load_verify_locations(bundle)
        break
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of old authorities with odd serial numbers, which are not ours to mend
        for der in context.get_ca_certs(binary_form=True):
            with suppress(ValueError):
                found.append(x509.load_der_x509_certificate(der))
    return found


def _incomplete(where: str, loose: x509.Certificate | None) -> Iterable[str]:
    if loose is not None and _system():
        yield (
            f"{where}: the certificate of its issuer, {_name(loose.issuer)}, is missing: append it to the file; where it is "
            "an authority of your own, put it into ca_certificates"
        )


def _times(where: str, links: Sequence[x509.Certificate], now: datetime) -> Iterable[str]:
    for one in links:
        what = where if one is links[0] else f"{where}: {_name(one.subject)} in it"
        if now > one.not_valid_after_utc:
            yield f"{what}: expired on {one.not_valid_after_utc:%Y-%m-%d}; get a new one"
        elif now < one.not_valid_before_utc:
            yield f"{what}: not valid before {one.not_valid_before_utc:%Y-%m-%d %H:%M} UTC; is this machine's clock right?"


def _warnings(
    where: str, links: Sequence[x509.Certificate], loose: x509.Certificate | None, now: datetime
) -> Iterable[str]:
    end = min(one.not_valid_after_utc for one in links)
    if end - now < SOON:
        yield f"{where}: ends on {end:%Y-%m-%d}: get the next one"
    if loose is not None:
        yield f"{where}: whether browsers know {_name(loose.issuer)} was not checked: this machine has no list of authorities"
    if len(links) == 1 and _issued(links[0], links[0]):
        yield f"{where}: signed by itself: browsers warn of it until it is installed there"


def _name(name: x509.Name) -> str:
    common = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(common[0].value) if common else name.rfc4514_string()
