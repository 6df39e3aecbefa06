"""Certificates on a real host, with real certbot and Pebble for Let's Encrypt: the first one, renewals, all that can hinder one.

What stands in for a limit of Let's Encrypt is nginx with a fixed answer. Names are those of the host's hosts file and of Pebble's
own DNS server.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from lab import hosts
from lab.hosts import Host
from tests.certificates import issue
from tests.lab.authority import Authority, name_in
from tests.lab.checkout import Checkout
from tests.lab.containers import containers, get, replaced, sh, within
from tests.lab.visitor import Visitor

NAME, OTHER = "dify.test", "other.test"
SITE = "/opt/dify/nginx/letsencrypt/site.conf"
ISSUE = "sh /opt/dify/certificates.sh issue"
# The certificates go, as if there had never been one.
FORGET = f"""
set -e
printf 'map $host $certificate {{ default "none"; }}\\ninclude /etc/nginx/dify/http.conf;\\n' > {SITE}
docker exec dify-nginx-1 nginx -c /etc/nginx/dify/nginx.conf -s reload
rm -rf /opt/dify/volumes/certbot/conf/*
timeout 30 sh -c 'until curl -s http://127.0.0.1/console/api/setup | grep -q step; do sleep 0.2; done'
"""


@pytest.fixture(scope="module")
def authority(new_host: Callable[..., Host]) -> Authority:
    return Authority(new_host("ca"))


@pytest.fixture(scope="module")
def secured(checkout: Checkout, authority: Authority) -> Checkout:
    """A bare host, and what its operator wants."""
    checkout.knobs |= {"tls": "letsencrypt", "public_url": f"https://{NAME}", "ca_certificates": authority.ca}
    checkout.knobs |= {"acme_server": authority.server}
    checkout.write(".env", "CERTBOT_EMAIL=admin@example.com\n")
    host = checkout.hosts[0]
    name_in(host, host.address, NAME)
    authority.knows(NAME, host.address)
    return checkout


@pytest.fixture
def visitor(secured: Checkout, authority: Authority) -> Visitor:
    return Visitor(NAME, secured.hosts[0], authority.root)


def test_from_a_bare_host_to_valid_https_in_one_run(secured: Checkout, visitor: Visitor) -> None:
    host = secured.hosts[0]
    secured.deploy().ok().says(f"asking {secured.knobs['acme_server']} for a certificate for {NAME}: there is none")
    assert visitor.ask()[0] == 200
    assert (
        sh(host, f"curl -so /dev/null -w '%{{http_code}} %{{redirect_url}}' http://{NAME}/apps")
        == f"308 https://{NAME}/apps"
    )


def test_a_second_run_asks_for_nothing_and_changes_nothing(secured: Checkout, visitor: Visitor) -> None:
    before, serial = containers(secured.hosts[0]), visitor.ask()[1]
    assert secured.deploy().ok().changed == []
    assert (containers(secured.hosts[0]), visitor.ask()[1]) == (before, serial)
    # Whoever can open it can hold it.
    assert sh(secured.hosts[0], "stat -c '%a %u' /opt/dify/.certificates.lock") == "600 0"


def test_a_renewal_is_loaded_and_no_request_fails(secured: Checkout, visitor: Visitor) -> None:
    host, serial = secured.hosts[0], visitor.ask()[1]
    before = containers(host)
    sh(host, "systemctl start dify-certificates.service")
    assert visitor.ask()[1] == serial, "one that is not due was renewed"
    with visitor.steadily():
        sh(host, "sh /opt/dify/certificates.sh renew --force-renewal")
    assert visitor.failures == []
    assert visitor.serials[0] == serial
    within(30, lambda: shows_another(visitor, serial))
    assert replaced(before, containers(host)) == set()
    print(f"{len(visitor.serials)} requests during a renewal, none failed")


def test_a_renewal_that_nginx_did_not_load_is_loaded(secured: Checkout, visitor: Visitor) -> None:
    """As after kill -9 between the two."""
    host, serial = secured.hosts[0], visitor.ask()[1]
    ask = "docker compose run --rm --no-deps -T --entrypoint certbot certbot renew --force-renewal --no-random-sleep-on-renew"
    trust = "--env REQUESTS_CA_BUNDLE=/etc/dify-certificates/ca.pem"
    sh(host, f"cd /opt/dify && {ask.replace('--entrypoint', f'{trust} --entrypoint')} 2>&1")
    assert visitor.ask()[1] == serial
    sh(host, "systemctl start dify-certificates.service")
    within(30, lambda: shows_another(visitor, serial))


def shows_another(visitor: Visitor, serial: int) -> None:
    """nginx's old workers may take a few requests more."""
    assert visitor.ask()[1] not in (serial, 0)


def test_a_reboot_brings_all_back(secured: Checkout, visitor: Visitor) -> None:
    host, serial = secured.hosts[0], visitor.ask()[1]
    hosts.reboot(host.name)
    name_in(host, host.address, NAME)
    assert visitor.wait() == serial
    assert sh(host, "systemctl is-active dify-certificates.timer") == "active"
    assert sh(host, "systemctl is-enabled dify-certificates.timer") == "enabled"


def test_a_lost_certificate_is_asked_for_anew(secured: Checkout, visitor: Visitor) -> None:
    """nginx cannot start without the one that it shall serve."""
    host, serial = secured.hosts[0], visitor.ask()[1]
    sh(host, "rm -rf /opt/dify/volumes/certbot/conf/* && docker restart dify-nginx-1")
    secured.deploy().ok().says(f"for a certificate for {NAME}: there is none")
    status, new = visitor.ask()
    assert (status, new != serial) == (200, True)


def test_a_failed_renewal_leaves_https_as_it_is(secured: Checkout, authority: Authority, visitor: Visitor) -> None:
    host, serial = secured.hosts[0], visitor.ask()[1]
    authority.is_up(False)
    done = host.run("sh /opt/dify/certificates.sh renew --force-renewal")
    authority.is_up(True)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    assert visitor.ask() == (200, serial)


def _nowhere(host: Host, authority: Authority) -> None:
    name_in(host, "")


def _elsewhere(host: Host, authority: Authority) -> None:
    name_in(host, authority.host.address, NAME)


def _stale(host: Host, authority: Authority) -> None:
    name_in(host, f"{host.address} {NAME} # of the test\n{authority.host.address}", NAME)


def _down(host: Host, authority: Authority) -> None:
    authority.is_up(False)


def _limited(host: Host, authority: Authority) -> None:
    authority.is_limited(True)


def _blocked(host: Host, authority: Authority) -> None:
    authority.knows(NAME, authority.host.address)


def _unknown(host: Host, authority: Authority) -> None:
    authority.knows(NAME)


HINDRANCES = {
    "no address": (_nowhere, "dify.test has no address in DNS; add an A or AAAA record that leads to this host"),
    "another address": (
        _elsewhere,
        "http://dify.test leads to {ca}, this host is {host}, and no file of ours comes back",
    ),
    "one address more": (_stale, "http://dify.test leads to {ca}, this host is {host}, and no file of ours comes back"),
    "down": (
        _down,
        "https://{ca}:14001/dir does not answer (Requesting {ca}/dir: Connection refused); run this again when",
    ),
    "a limit": (
        _limited,
        "https://{ca}:14001/dir refuses for now, there is a limit: too many certificates (more in",
    ),
    "blocked": (_blocked, "its authority does not reach port 80 ("),
    "unknown": (_unknown, "its authority finds no address of the name ("),
}


@pytest.mark.parametrize(("hinder", "said"), HINDRANCES.values(), ids=list(HINDRANCES))
def test_what_hinders_the_first_one_is_one_line_and_is_mended_by_the_next_run(
    secured: Checkout, authority: Authority, visitor: Visitor, hinder: Callable[[Host, Authority], None], said: str
) -> None:
    host = secured.hosts[0]
    sh(host, FORGET)
    hinder(host, authority)
    done = host.run(ISSUE)
    name_in(host, host.address, NAME)
    authority.knows(NAME, host.address)
    authority.is_limited(False)
    authority.is_up(True)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1), done
    assert done.stderr.startswith(f"no certificate for {NAME}: "), done.stderr
    assert said.format(ca=authority.host.address, host=host.address) in done.stderr
    assert done.stderr.endswith("; the site runs on as it was\n"), done.stderr
    assert get(host, "/console/api/setup")[0] == 200
    sh(host, ISSUE)
    assert visitor.ask()[0] == 200


REPLACES = ["Certificate at hand", "Configuration files", "Stack runs", "Certificate"]
REDIRECT = f"curl -so /dev/null -w '%{{http_code}} %{{redirect_url}}' http://{NAME}/apps"


def lost(checkout: Checkout, visitor: Visitor, said: str, **knobs: str) -> None:
    """A run that gets no certificate for what shall replace the running site: that site goes on, now and after a restart."""
    host, serial = checkout.hosts[0], visitor.ask()[1]
    before, files = containers(host), sh(host, "cd /opt/dify && sha256sum .env docker-compose.yaml nginx/*.conf")
    with visitor.steadily():
        run = checkout.deploy(**knobs).failed(said)
    assert (visitor.failures, set(visitor.serials)) == ([], {serial})
    assert (run.output.count("no certificate for"), run.changed) == (1, [])
    assert sh(host, REDIRECT) == f"308 https://{NAME}/apps"
    assert containers(host) == before
    assert sh(host, "cd /opt/dify && sha256sum .env docker-compose.yaml nginx/*.conf") == files
    sh(host, "docker restart dify-nginx-1")
    assert visitor.wait() == serial


def test_another_name_gets_its_own_and_without_one_the_old_name_goes_on(
    secured: Checkout, authority: Authority
) -> None:
    host, wanted = secured.hosts[0], {"public_url": f"https://{OTHER}"}
    visitor = Visitor(NAME, host, authority.root)
    lost(secured, visitor, f"no certificate for {OTHER}: {OTHER} has no address in DNS", **wanted)
    name_in(host, host.address, NAME, OTHER)
    authority.knows(OTHER, host.address)
    authority.is_up(False)
    lost(secured, visitor, "does not answer", **wanted)
    authority.is_up(True)
    assert secured.deploy(**wanted).ok().changed == REPLACES
    assert Visitor(OTHER, host, authority.root).ask()[0] == 200
    assert secured.deploy(**wanted).ok().changed == []


ROOT = issue("Root of the test", authority=True)
FIRST, NEXT = (issue(NAME, ROOT, [NAME]) for _ in range(2))
OWN = {
    "tls": "own",
    "tls_certificate": "tls/dify.crt",
    "tls_key": "tls/dify.key",
    "hsts": 600,
}


def test_a_certificate_of_ones_own_is_loaded_and_its_key_is_shown_nowhere(secured: Checkout) -> None:
    host = secured.hosts[0]
    visitor = Visitor(NAME, host, ROOT.pem)
    secured.knobs |= OWN
    for one in (FIRST, NEXT):
        secured.write("tls/dify.crt", one.pem + ROOT.pem)
        secured.write("tls/dify.key", one.key_pem)
        before = containers(host)
        run = secured.deploy("--diff", "-vvv").ok()
        assert visitor.ask() == (200, one.certificate.serial_number)
        lines = one.key_pem.splitlines()[1:-1]
        assert not [line for line in lines if line in run.output]
    # The second time only the certificate was another one.
    assert replaced(before, containers(host)) == set()
    assert sh(host, "stat -c '%a %u' /opt/dify/nginx/ssl/dify.key /opt/dify/nginx/ssl/dify.crt") == "600 0\n644 0"
    assert sh(host, f"curl -skI https://{NAME}/ | grep -i ^strict") == "strict-transport-security: max-age=600"
    assert secured.deploy().ok().changed == []
    assert host.run("systemctl cat dify-certificates.timer").returncode != 0


def test_a_wrong_certificate_is_refused_and_nothing_is_contacted(secured: Checkout) -> None:
    secured.write("tls/dify.key", FIRST.key_pem)
    secured.deploy().refused("no host was contacted", "tls_key tls/dify.key is the key of another certificate")


# Protocols, ciphers, the certificate, and every known weakness; what it would ask of the outside world is left out.
TESTSSL = "testssl --quiet --color 0 --warnings batch --protocols --std --server-defaults --vulnerable"


def test_testssl_finds_nothing_serious(secured: Checkout, authority: Authority) -> None:
    scanner, host = authority.host, secured.hosts[0]
    sh(scanner, "DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install testssl.sh")
    assert scanner.run("cat > /tmp/root.pem && rm -f /tmp/report.json", stdin=ROOT.pem).returncode == 0
    scanner.run(f"{TESTSSL} --add-ca /tmp/root.pem --jsonfile /tmp/report.json --ip {host.address} https://{NAME}")
    found = {one["id"]: one for one in json.loads(sh(scanner, "cat /tmp/report.json"))}
    done = {"TLS1_2", "TLS1_3", "cipherlist_NULL", "cert_trust", "heartbleed", "ROBOT", "secure_renego", "LUCKY13"}
    assert done <= found.keys(), found.keys()
    lesser, serious = ("LOW", "MEDIUM", "WARN"), ("HIGH", "CRITICAL", "FATAL")
    print("lesser:", {name: one["finding"] for name, one in found.items() if one["severity"] in lesser})
    assert {name: one["finding"] for name, one in found.items() if one["severity"] in serious} == {}


def test_from_ones_own_to_letsencrypt_https_is_never_gone(secured: Checkout, authority: Authority) -> None:
    """The last that runs here with a certificate of its own."""
    host, visitor = secured.hosts[0], Visitor(NAME, secured.hosts[0], ROOT.pem + authority.root)
    # As if certbot had never been here.
    sh(host, f"rm -rf /opt/dify/volumes/certbot/conf/* {SITE}")
    own = visitor.ask()[1]
    authority.is_up(False)
    lost(secured, visitor, "does not answer", tls="letsencrypt")
    authority.is_up(True)
    with visitor.steadily():
        assert secured.deploy(tls="letsencrypt").ok().changed == REPLACES
    assert visitor.failures == []
    assert visitor.ask()[1] not in (own, 0)
    assert sh(host, REDIRECT) == f"308 https://{NAME}/apps"
    assert secured.deploy(tls="letsencrypt").ok().changed == []
