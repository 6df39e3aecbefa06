"""The knob tls: an operator's own certificate is judged on the controller, and what cannot be together is refused."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from stack import settings, tls
from stack.render import render
from stack.settings import Settings
from tests.certificates import NOW, Issued, issue
from tests.unit.wanted import compose_of, env_text, knobs, refused, settings_of, stack_of

HOST = "dify.example.com"
ROOT = issue("Root of the test", authority=True, days=(-1, 3650))
MIDDLE = issue("Intermediate of the test", ROOT, authority=True, days=(-1, 900))
LEAF = issue(HOST, MIDDLE, [HOST])
EMAIL = {"CERTBOT_EMAIL": "me@example.com"}
LETSENCRYPT: dict[str, Any] = {"tls": "letsencrypt", "public_url": f"https://{HOST}"}

Wanting = Callable[..., Settings]


@pytest.fixture
def wanting(tmp_path: Path) -> Wanting:
    """Settings of a host with tls = "own" and these files beside its inventory."""

    def make(
        certificate: str = LEAF.pem + MIDDLE.pem + ROOT.pem, key: str = LEAF.key_pem, **changed: object
    ) -> Settings:
        (tmp_path / "dify.crt").write_text(certificate)
        (tmp_path / "dify.key").write_text(key)
        own = {"tls": "own", "tls_certificate": "dify.crt", "tls_key": "dify.key", "public_url": f"https://{HOST}"}
        return settings.load("web1", knobs(**{**own, **changed}), [], tmp_path, {}, fresh=False)

    return make


def test_a_good_one_is_sent_and_switches_https_on(wanting: Wanting) -> None:
    wanted = wanting()
    stack = render(wanted)
    assert wanted.warnings == settings_of(public_url=f"https://{HOST}").warnings
    certificate, key = stack.files["nginx/ssl/dify.crt"], stack.files["nginx/ssl/dify.key"]
    assert (certificate.mode, key.mode, key.hidden) == (0o644, 0o600, True)
    assert certificate.data.decode() == LEAF.pem + MIDDLE.pem + ROOT.pem
    assert key.data.decode() == LEAF.key_pem
    assert wanted["NGINX_HTTPS_ENABLED"] == "true"
    assert "${EXPOSE_NGINX_SSL_PORT:-443}:${NGINX_SSL_PORT:-443}" in compose_of(stack)["services"]["nginx"]["ports"]
    assert LEAF.key_pem.splitlines()[1] not in repr(wanted) + repr(stack)


def test_the_port_of_the_address_is_where_https_is_published(wanting: Wanting) -> None:
    assert wanting(public_url=f"https://{HOST}:8443")["EXPOSE_NGINX_SSL_PORT"] == "8443"
    assert (
        settings_of(EMAIL, **{**LETSENCRYPT, "public_url": f"https://{HOST}:8443"})["EXPOSE_NGINX_SSL_PORT"] == "8443"
    )


def test_a_chain_that_ends_at_an_authority_in_ca_certificates(wanting: Wanting) -> None:
    wanting(LEAF.pem + MIDDLE.pem, ca_certificates=ROOT.pem)


def test_authorities_that_cannot_be_read_are_said(wanting: Wanting) -> None:
    lines = refused(lambda: wanting(ca_certificates="-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n"))
    assert lines == ["ca_certificates: one of them cannot be read; give each whole, in PEM"]


def test_a_chain_that_ends_at_an_authority_of_this_machine(wanting: Wanting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "_system", lambda: [ROOT.certificate])
    assert "Root of the test" not in "".join(wanting(LEAF.pem + MIDDLE.pem).warnings)
    assert "Intermediate of the test, is missing" in refused(lambda: wanting(LEAF.pem))[0]
    monkeypatch.setattr(tls, "_system", lambda: [])
    assert "browsers know Root of the test was not checked" in wanting(LEAF.pem + MIDDLE.pem).warnings[-1]


def test_the_authorities_of_this_machine_are_found() -> None:
    context = ssl.create_default_context()
    found = [path for path in map(Path, tls.BUNDLES) if path.exists()]
    assert tls._system() or not (found or context.get_ca_certs())


def test_a_file_of_several_forms_is_sent_as_plain_pem(wanting: Wanting) -> None:
    """Text around the blocks, EC parameters, the key in the same file: nothing of it reaches the certificate."""
    done = subprocess.run(["openssl", "ecparam", "-genkey", "-name", "prime256v1"], capture_output=True, text=True)
    key = serialization.load_pem_private_key(done.stdout.encode(), None)
    leaf = issue(HOST, ROOT, [HOST], key=key)
    combined = f"subject=CN = {HOST}\n{done.stdout}{leaf.pem}{ROOT.pem}"
    pair = wanting(combined, combined).certificate
    assert pair is not None
    assert pair.certificate.decode() == leaf.pem + ROOT.pem
    assert pair.key.decode() == leaf.key_pem


def test_a_self_signed_one_is_warned_of(wanting: Wanting) -> None:
    own = issue(HOST, names=[HOST])
    assert "dify.crt: signed by itself: browsers warn of it" in wanting(own.pem, own.key_pem).warnings[-1]


def test_one_that_ends_soon_is_warned_of(wanting: Wanting) -> None:
    soon = issue(HOST, ROOT, [HOST], days=(-80, 13))
    lines = wanting(soon.pem + ROOT.pem, soon.key_pem).warnings
    assert lines[-1] == f"tls_certificate dify.crt: ends on {NOW + timedelta(days=13):%Y-%m-%d}: get the next one"


@pytest.mark.parametrize(
    ("names", "public"),
    [
        ((HOST,), HOST),
        (("DIFY.example.com",), HOST),
        (("*.example.com",), HOST),
        (("other.example.com", HOST), HOST),
        (("192.0.2.7",), "192.0.2.7"),
        (("2001:db8::7",), "[2001:DB8:0::7]"),
        (("xn--bcher-kva.example",), "bücher.example"),
    ],
)
def test_names_that_fit(wanting: Wanting, names: tuple[str, ...], public: str) -> None:
    leaf = issue(HOST, ROOT, names)
    wanting(leaf.pem + ROOT.pem, leaf.key_pem, public_url=f"https://{public}")


@pytest.mark.parametrize(
    ("names", "public"),
    [
        (("other.example.com",), HOST),
        (("*.example.com",), "example.com"),
        (("*.example.com",), "a.dify.example.com"),
        (("*.com",), "example.com"),
        (("*.0.2.7",), "192.0.2.7"),
        (("dify.example.com.org",), HOST),
    ],
)
def test_names_that_do_not_fit(wanting: Wanting, names: tuple[str, ...], public: str) -> None:
    leaf = issue(HOST, ROOT, names)
    lines = refused(lambda: wanting(leaf.pem + ROOT.pem, leaf.key_pem, public_url=f"https://{public}"))
    assert lines == [f"tls_certificate dify.crt: is for {', '.join(names)}, not for {public} in public_url"]


OTHER = issue(HOST, MIDDLE, [HOST])
SHORT = issue(HOST, MIDDLE, [HOST], key=rsa.generate_private_key(65537, 1024))
CLIENT = issue(HOST, MIDDLE, [HOST], use=ExtendedKeyUsageOID.CLIENT_AUTH)
LATE = issue(HOST, MIDDLE, [HOST], days=(-90, -2))
EARLY = issue(HOST, MIDDLE, [HOST], days=(2, 90))
NAMELESS = issue(HOST, MIDDLE)
OLD = issue("Old intermediate", ROOT, authority=True, days=(-900, -3))
BELOW_OLD = issue(HOST, OLD, [HOST])


def _with(leaf: Issued, *above: Issued) -> tuple[str, str]:
    return "".join(one.pem for one in (leaf, *(above or (MIDDLE, ROOT)))), leaf.key_pem


REFUSED = {
    "the key of another": ((_with(LEAF)[0], OTHER.key_pem), "tls_key dify.key is the key of another certificate"),
    "the issuer first": (
        (MIDDLE.pem + LEAF.pem + ROOT.pem, LEAF.key_pem),
        "the server's own certificate must come first, and it is number 2 in the file",
    ),
    "expired": (_with(LATE), f"expired on {NOW - timedelta(days=2):%Y-%m-%d}; get a new one"),
    "an issuer expired": (
        _with(BELOW_OLD, OLD, ROOT),
        f"dify.crt: Old intermediate in it: expired on {NOW - timedelta(days=3):%Y-%m-%d}",
    ),
    "not yet valid": (_with(EARLY), f"not valid before {NOW + timedelta(days=2):%Y-%m-%d %H:%M} UTC"),
    "no name": (_with(NAMELESS), "is for no name (browsers read subjectAltName only), not for"),
    "no intermediate": (
        (LEAF.pem + ROOT.pem, LEAF.key_pem),
        "its issuer, Intermediate of the test, is missing: append",
    ),
    "no known authority": ((LEAF.pem + MIDDLE.pem, LEAF.key_pem), "its issuer, Root of the test, is missing: append"),
    "a short key": (_with(SHORT), "an RSA key of 1024 bits"),
    "for clients": (_with(CLIENT), "is not for servers (extendedKeyUsage lacks serverAuth)"),
    "an empty file": (("", LEAF.key_pem), "tls_certificate = 'dify.crt': no certificate in PEM"),
    "a broken one": ((LEAF.pem[:200], LEAF.key_pem), "tls_certificate = 'dify.crt': no certificate in PEM"),
    "DER": (("0\x82\x01", LEAF.key_pem), "openssl x509 -inform der"),
    "a key that is none": ((_with(LEAF)[0], "secret words"), "tls_key = 'dify.key': no private key in PEM"),
    "a passphrase": (
        (_with(LEAF)[0], LEAF.private(serialization.BestAvailableEncryption(b"open"))),
        "tls_key = 'dify.key': has a passphrase",
    ),
}


@pytest.mark.parametrize(("files", "said"), REFUSED.values(), ids=list(REFUSED))
def test_what_is_wrong_is_one_line(wanting: Wanting, files: tuple[str, str], said: str) -> None:
    lines = refused(lambda: wanting(*files))
    assert len(lines) == 1 and said in lines[0], lines
    assert files[1][:20] not in lines[0]


def test_a_file_that_cannot_be_read(wanting: Wanting) -> None:
    lines = refused(lambda: wanting(tls_certificate="none.crt"))
    assert lines == ["tls_certificate = 'none.crt': cannot be read: No such file or directory"]
    assert "tls_key = '.': cannot be read: Is a directory" in refused(lambda: wanting(tls_key="."))[0]


def test_a_key_in_place_of_its_path_is_not_shown(wanting: Wanting) -> None:
    lines = refused(lambda: wanting(tls_key=LEAF.key_pem))
    assert lines == ["tls_key: must be the path of a file, not what stands in it"]


@pytest.mark.parametrize(
    ("given", "changed", "said"),
    [
        ({}, {"tls": "own"}, 'tls = "own": needs public_url with https'),
        ({}, {"tls": "own", "public_url": f"https://{HOST}"}, 'tls = "own": needs tls_certificate, the path'),
        ({}, {"tls": "proxy", "public_url": f"http://{HOST}"}, f"dify.example.com; it is http://{HOST}"),
        (EMAIL, {"tls": "letsencrypt"},  "needs public_url with https, as https://dify.example.com; it is empty"),
        (EMAIL, {**LETSENCRYPT, "public_url": "https://192.0.2.7"}, "certificates are for names that the world knows"),
        (EMAIL, {**LETSENCRYPT, "public_url": "https://localhost"}, "certificates are for names that the world knows"),
        (EMAIL, {**LETSENCRYPT, "public_url": "https://[2001:db8::7]"}, "certificates are for names that the world knows"),
        ({}, LETSENCRYPT, 'tls = "letsencrypt": needs CERTBOT_EMAIL in .env'),
        ({**EMAIL, "EXPOSE_NGINX_PORT": "8080"}, LETSENCRYPT, ".env line 2: EXPOSE_NGINX_PORT=8080: tls = "),
        ({**EMAIL, "NGINX_HTTPS_ENABLED": "false"}, LETSENCRYPT, 'NGINX_HTTPS_ENABLED=false: tls = "letsencrypt" needs it on'),
        ({**EMAIL, "CERTBOT_DOMAIN": "x.example.com"}, LETSENCRYPT, "CERTBOT_DOMAIN=x.example.com: the certificate is for"),
        ({**EMAIL, "NGINX_ENABLE_CERTBOT_CHALLENGE": "false"}, LETSENCRYPT, "NGINX_ENABLE_CERTBOT_CHALLENGE=false: tls"),
        ({**EMAIL, "CERTBOT_OPTIONS": "--key-type rsa --server=https://x"}, LETSENCRYPT, "CERTBOT_OPTIONS: --server=https://x: "),
        ({**EMAIL, "CERTBOT_OPTIONS": "--eab-kid=k --eab-hmac-key k"}, LETSENCRYPT, "CERTBOT_OPTIONS: an EAB key would stand in"),
        ({}, {"hsts": 600}, 'hsts = 600: tls = "off" serves no https that browsers could stay with; take it out, or set tls ='),
        ({"NGINX_HTTPS_ENABLED": "true"}, {"tls": "proxy", "public_url": f"https://{HOST}"}, "NGINX_HTTPS_ENABLED=true: tls"),
        ({}, {"tls": "on"}, "tls = 'on' in "),
        ({}, {"acme_server": "http://ca.example.com"}, "must be letsencrypt, staging or the https:// address of an ACME directory"),
        ({}, {"acme_server": "https://ca.example.com/$(id)"}, "must be letsencrypt, staging or the https:// address"),
        ({}, {"hsts": -1}, "hsts = -1 in "),
    ],
)  # fmt: skip
def test_what_cannot_be_together(given: dict[str, str], changed: dict[str, Any], said: str) -> None:
    lines = refused(lambda: settings_of(given, **changed))
    assert [line for line in lines if said in line], lines


def test_a_certificate_of_ones_own_on_the_host_needs_no_knob() -> None:
    stack = stack_of({"NGINX_HTTPS_ENABLED": "true"})
    assert not [path for path in stack.files if path.startswith("nginx/ssl/")]


def test_letsencrypt_brings_what_it_needs() -> None:
    stack = stack_of(EMAIL, **LETSENCRYPT)
    assert stack.settings["CERTBOT_DOMAIN"] == HOST
    assert stack.settings["NGINX_ENABLE_CERTBOT_CHALLENGE"] == "true"
    assert "certbot" in stack.services
    assert env_text(EMAIL)


def test_in_middleware_mode_there_is_no_tls() -> None:
    stack = stack_of({}, mode="middleware", tls="own")
    assert stack.settings.certificate is None


@pytest.mark.parametrize(
    ("proxy", "given", "changed", "doubted"),
    [
        ("172.16.0.0/12", "", {}, True),
        ("10.0.0.0/8", "", {}, False),
        ("172.18.0.1", "0.0.0.0:80", {}, True),
        ("172.18.0.1", "[::]:80", {}, True),
        ("172.18.0.1", "[2001:db8::1]:80", {}, True),
        ("172.18.0.1", "127.0.0.1:8080", {}, False),
        ("172.18.0.1", "[::1]:8080", {}, False),
        ("172.18.0.1", "192.0.2.7:80", {}, False),
        ("192.168.1.10", "", {}, False),
        ("2001:db8::/32", "", {}, False),
        ("10.201.0.0/24", "", {"docker_address_pools": [{"base": "10.201.0.0/16", "size": 24}]}, True),
        ("172.18.0.1", "", {"docker_address_pools": [{"base": "10.201.0.0/16", "size": 24}]}, False),
    ],
)
def test_a_trusted_proxy_that_may_be_docker_itself_is_warned_of(
    proxy: str, given: str, changed: dict[str, Any], doubted: bool
) -> None:
    proxied = {"tls": "proxy", "public_url": f"https://{HOST}", "trusted_proxies": [proxy], **changed}
    lines = settings_of({"EXPOSE_NGINX_PORT": given} if given else {}, **proxied).warnings
    found = [line for line in lines if line.startswith("trusted_proxies: ")]
    assert len(found) == doubted, lines
