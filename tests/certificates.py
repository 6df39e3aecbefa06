"""Certificates for tests: an authority, one below it, and what they sign."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = datetime.now(timezone.utc).replace(microsecond=0)
# Where a list of what it took back would be; there is none, but no browser trusts one that does not say.
_REVOKED = x509.DistributionPoint([x509.UniformResourceIdentifier("http://ca.test/revoked.crl")], None, None, None)


@dataclass(frozen=True)
class Issued:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: Any

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def key_pem(self) -> str:
        return self.private(serialization.NoEncryption())

    def private(self, encryption: serialization.KeySerializationEncryption) -> str:
        """The key in PEM."""
        form = serialization.PrivateFormat.PKCS8
        pem: bytes = self.key.private_bytes(serialization.Encoding.PEM, form, encryption)
        return pem.decode()


def issue(
    name: str,
    by: Issued | None = None,
    names: Sequence[str] = (),
    authority: bool = False,
    days: tuple[float, float] = (-1, 90),
    key: Any = None,
    use: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH,
) -> Issued:
    """A certificate.

    by: who signs it; itself when None.
    names: DNS names and IP addresses.
    days: from now until it begins and ends.
    """
    key = key or ec.generate_private_key(ec.SECP256R1())
    signs = by.key if by else key
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder(subject_name=subject, issuer_name=by.certificate.subject if by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + timedelta(days=days[0]))
        .not_valid_after(NOW + timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
        .add_extension(_usage(authority), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signs.public_key()), critical=False)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general(one) for one in names]), critical=False)
    if not authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        builder = builder.add_extension(x509.CRLDistributionPoints([_REVOKED]), critical=False)
    return Issued(builder.sign(signs, hashes.SHA256()), key)


def _usage(authority: bool) -> x509.KeyUsage:
    """What strict readers ask for: Python from 3.13 on is one."""
    names = [
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "encipher_only",
        "decipher_only",
    ]
    signs = {"digital_signature": not authority, "key_cert_sign": authority, "crl_sign": authority}
    return x509.KeyUsage(**signs, **dict.fromkeys(names, False))


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
