"""A certificate that certbot keeps on a host: what is asked for, and whether the one there will do."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from hashlib import sha256

from cryptography import x509

from stack import address, tls
from stack.render import SITE, Stack, site

# The share of its life that may be left before a deploy asks for the next one. certbot itself renews at a third, so that
# something hinders the timer when a quarter is reached.
LEFT = 0.25


@dataclass(frozen=True)
class Wish:
    """What certificate a host shall have.

    server: the ACME directory that is asked for it.
    https_address, https_port: where the host itself reaches its own https.
    check: whether it is tried first if the name leads to the host.
    """

    domain: str
    server: str
    https_address: str
    https_port: str
    check: bool


@dataclass(frozen=True)
class Found:
    """What there is on a host.

    now: its clock, in seconds since 1970.
    chain: fullchain.pem; empty when there is none.
    server: that the certificate came from.
    site: what lies at SITE.
    loaded: the digest of the certificate that nginx has loaded.
    answers_for_another: whether another site than the wanted one runs here, whose nginx answers challenges for this one too.
    """

    now: int = 0
    chain: str = ""
    server: str = ""
    site: str = ""
    loaded: str = ""
    answers_for_another: bool = False

    @property
    def digest(self) -> str:
        """What nginx says when it has loaded this one."""
        return sha256(self.chain.encode()).hexdigest()[:16]

    @property
    def is_served(self) -> bool:
        return self.loaded == self.digest and self.site == site("https", self.digest)


def wish(stack: Stack) -> Wish | None:
    """What certificate is asked for; None when certbot has nothing to do."""
    knobs = stack.settings.knobs
    if knobs.tls != "letsencrypt" or knobs.mode != "dify":
        return None
    at, _, port = stack.settings["EXPOSE_NGINX_SSL_PORT"].rpartition(":")
    return Wish(
        domain=address.parse(knobs.public_url).host,
        server=tls.SERVERS.get(knobs.acme_server, knobs.acme_server),
        https_address="127.0.0.1" if at in ("", "0.0.0.0", "[::]") else at,
        https_port=port,
        check=knobs.acme_check,
    )


def lacking(found: Found, wanted: Wish) -> str:
    """Why the certificate that is there will not do, in words; empty when it will."""
    try:
        leaf = x509.load_pem_x509_certificate(found.chain.encode())
    except ValueError:
        return "there is none that can be read" if found.chain else "there is none"
    if tls.names_of(leaf) != [wanted.domain]:
        return f"the one there is for {', '.join(tls.names_of(leaf))}"
    if found.server != wanted.server:
        return f"the one there is from {found.server or 'somebody else'}"
    now = datetime.fromtimestamp(found.now, timezone.utc)
    begin, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if end - now < LEFT * (end - begin):
        return f"the one there {'ended' if end < now else 'ends'} on {end:%Y-%m-%d}"
    return ""


__all__ = ["LEFT", "SITE", "Found", "Wish", "lacking", "wish"]
