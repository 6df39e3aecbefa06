"""A certificate from an ACME server: when one is asked for, what the host gets, and what its script makes of certbot's words."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from stack.acme import Found, Wish, lacking, wish
from stack.render import site
from tasks import tls
from tasks.commands import script
from tests.certificates import NOW, issue
from tests.unit.wanted import run_sh, stack_of

HOST = "dify.example.com"
SERVER = "https://acme-v02.api.letsencrypt.org/directory"
EMAIL = {"CERTBOT_EMAIL": "me@example.com"}
KNOBS = {"tls": "letsencrypt", "public_url": f"https://{HOST}"}
WANTED = Wish(HOST, SERVER, "127.0.0.1", "443", True)
CHAIN = issue(HOST, names=[HOST], days=(-10, 80)).pem
GOOD = Found(int(NOW.timestamp()), CHAIN, SERVER)


def test_what_is_asked_for_follows_from_the_address() -> None:
    assert wish(stack_of(EMAIL, **KNOBS)) == WANTED
    staging = stack_of(
        {**EMAIL, "EXPOSE_NGINX_SSL_PORT": "192.0.2.7:8443"}, **KNOBS, acme_server="staging", acme_check=False
    )
    asked = wish(staging)
    assert asked == Wish(HOST, "https://acme-staging-v02.api.letsencrypt.org/directory", "192.0.2.7", "8443", False)
    own = wish(stack_of(EMAIL, **KNOBS, acme_server="https://ca.example.com/acme/directory"))
    assert own and own.server == "https://ca.example.com/acme/directory"
    assert wish(stack_of()) is None


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (GOOD, ""),
        (replace(GOOD, now=GOOD.now + 57 * 86400), ""),
        (replace(GOOD, now=GOOD.now + 58 * 86400), f"the one there ends on {NOW + timedelta(days=80):%Y-%m-%d}"),
        (replace(GOOD, now=GOOD.now + 81 * 86400), f"the one there ended on {NOW + timedelta(days=80):%Y-%m-%d}"),
        (replace(GOOD, chain=""), "there is none"),
        (replace(GOOD, chain="-----BEGIN"), "there is none that can be read"),
        (replace(GOOD, server="https://staging"), "the one there is from https://staging"),
        (replace(GOOD, server=""), "the one there is from somebody else"),
        (replace(GOOD, chain=issue("x", names=["x.example.com"]).pem), "the one there is for x.example.com"),
        (replace(GOOD, chain=issue("x", names=[HOST, "x.org"]).pem), f"the one there is for {HOST}, x.org"),
    ],
)
def test_why_one_will_not_do(found: Found, why: str) -> None:
    assert lacking(found, WANTED) == why


def test_it_is_served_when_nginx_has_loaded_the_one_that_lies_there() -> None:
    served = replace(GOOD, loaded=GOOD.digest, site=site("https", GOOD.digest))
    assert served.is_served
    assert not replace(served, chain=issue("x", names=[HOST]).pem).is_served
    assert not replace(served, loaded="none").is_served
    assert not replace(served, site=site("http", "none")).is_served


# --- The script on the host, with programs that note what they are called with ---

LIVE = f"volumes/certbot/conf/live/{HOST}"
DOCKER = r"""
case $* in
    run*) echo $* >> called; cat said 2>/dev/null
        test -e said || { mkdir -p "$live"; cp new.pem "$live/fullchain.pem"; } ;;
    ps*) echo nginx1 ;;
    *nginx-health*) echo "nginx answers configuration=c $(sed -n 's/.*default "\(.*\)".*/certificate=\1/p' loaded)" ;;
    *"nginx -t"*) echo "nginx: [emerg] no good" >&2; test ! -e refuses ;;
    *reload*) echo reload >> called; cp nginx/letsencrypt/site.conf loaded ;;
esac
"""
# Asked for the challenge it answers with what lies there; asked for https it is right unless told otherwise.
CURL = r"""
echo "curl $*" >> called
for word; do
    test "$last" = --output && body=$word
    last=$word
done
case $last in
    https:*) test ! -e https_wrong || { echo "curl: (60) wrong" >&2; exit 60; } ;;
    *) case " $* " in *":80:$(cat stale 2>/dev/null) "*) test ! -e stale || { echo 404; exit; } ;; esac
       test -e unreachable && { echo "curl: (7) Failed to connect." >&2; echo 000; exit 7; }
       cp "volumes/certbot/www/.well-known/acme-challenge/${last##*/}" "$body"; echo 200 ;;
esac
"""
PROGRAMS = {
    "docker": DOCKER,
    "curl": CURL,
    "getent": 'cat addresses | sed "s/$/ STREAM/"',
    "ip": 'case $* in route*) echo "192.0.2.1 via x src 192.0.2.8 uid 0" ;; *) echo "2: e inet 192.0.2.8/24 x" ;; esac',
    "sleep": "true",
    "flock": "test ! -e held",
}


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A host's folder with the site still on http."""
    (tmp_path / "bin").mkdir()
    for name, body in PROGRAMS.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\nlive={LIVE}\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "nginx/letsencrypt").mkdir(parents=True)
    (tmp_path / "nginx/letsencrypt/site.conf").write_text(site("http", "none"))
    (tmp_path / "loaded").write_text(site("http", "none"))
    (tmp_path / "new.pem").write_text(CHAIN)
    (tmp_path / "addresses").write_text("192.0.2.8\n")
    return tmp_path


def run(host: Path, *arguments: str, wanted: Wish = WANTED, stdin: str = "") -> list[str]:
    """Run the host's script; returns what it said, which is nothing when all is well."""
    stack = stack_of(EMAIL, **KNOBS)
    text = tls.texts(stack, wanted)[0].replace("root=/opt/dify", f"root={host}")
    (host / "script.sh").write_text(text)
    done = run_sh(f"cd {host} && sh script.sh {' '.join(arguments)}", stdin, path=host / "bin", check=False)
    assert (done.returncode == 0) is (done.stderr == ""), done
    assert done.stdout == ""
    return done.stderr.splitlines()


def called(host: Path) -> list[str]:
    file = host / "called"
    lines = file.read_text().splitlines() if file.exists() else []
    file.write_text("")
    return lines


def served(host: Path) -> str:
    return (host / "nginx/letsencrypt/site.conf").read_text()


def test_the_first_one_is_asked_for_and_served(host: Path) -> None:
    assert run(host, "issue") == []
    assert served(host) == (host / "loaded").read_text() == site("https", GOOD.digest)
    first, asked, reload, proof = called(host)
    assert first.startswith("curl") and f"http://{HOST}/.well-known/acme-challenge/" in first
    assert asked.startswith(
        "run --rm --pull never --network dify_default --cap-drop ALL --security-opt no-new-privileges:true"
    )
    assert re.search(
        r" --env CERTBOT_EMAIL=me@example.com .* --entrypoint sh --cap-add \S+ .* certbot/certbot:\S+ -c ", asked
    )
    assert f" certbot --cert-name {HOST} --server {SERVER}" in asked
    assert reload == "reload"
    assert f"--resolve {HOST}:443:127.0.0.1 https://{HOST}:443/nginx-health" in proof
    assert list((host / "volumes/certbot/www/.well-known/acme-challenge").iterdir()) == []


def test_one_that_is_served_is_not_loaded_again(host: Path) -> None:
    run(host, "issue")
    called(host)
    assert run(host) == []
    assert [line.split()[0] for line in called(host)] == ["run"]
    assert run(host, "load") == []
    assert called(host) == []


def _ask(host: Path) -> str:
    text = (host / "called").read_text()
    called(host)
    return text


def test_another_server_means_another_certificate(host: Path) -> None:
    (host / "volumes/certbot/conf/renewal").mkdir(parents=True)
    held = host / f"volumes/certbot/conf/renewal/{HOST}.conf"
    held.write_text(f"x = 1\nserver = {SERVER}\n")
    run(host, "renew")
    assert "--force-renewal" not in _ask(host)
    held.write_text("server = https://acme-staging-v02.api.letsencrypt.org/directory\n")
    run(host, "renew")
    assert _ask(host).count("--force-renewal") == 1
    held.write_text(f"server = {SERVER}\n")
    run(host, "renew", "--force-renewal")
    assert _ask(host).count("--force-renewal") == 1


@pytest.mark.parametrize(
    ("addresses", "said"),
    [
        ("", f"{HOST} has no address in DNS; add an A or AAAA record that leads to this host"),
        (
            "203.0.113.5\n",
            f"http://{HOST} leads to 203.0.113.5, this host is 192.0.2.8, and no file of ours comes back (Failed to connect); "
            "mend its DNS record, or let port 80 through to here",
        ),
        (
            "192.0.2.8\n",
            f"port 80 at 192.0.2.8 is not our nginx (Failed to connect); free it, or mend the DNS record of {HOST}",
        ),
    ],
)
def test_nobody_is_asked_while_the_name_does_not_lead_here(host: Path, addresses: str, said: str) -> None:
    (host / "unreachable").touch()
    (host / "addresses").write_text(addresses)
    assert run(host, "issue") == [f"no certificate for {HOST}: {said}; the site runs on as it was"]
    assert not [line for line in called(host) if line.startswith("run")]
    assert served(host) == site("http", "none")
    # Where it cannot know, it does not look.
    assert run(host, "issue", wanted=replace(WANTED, check=False)) == []


def test_each_address_of_the_name_must_lead_here(host: Path) -> None:
    """An authority takes whichever it likes: with an old one beside the right one, it fails now and then."""
    (host / "addresses").write_text("192.0.2.8\n2001:db8::8\n192.0.2.8\n")
    assert run(host, "issue") == []
    asked = [line for line in called(host) if "acme-challenge" in line]
    assert [re.findall(rf"--resolve {HOST}:80:(\S+)", line) for line in asked] == [["192.0.2.8"], ["[2001:db8::8]"]]
    (host / "stale").write_text("[2001:db8::8]\n")
    (line,) = run(host, "issue")
    assert (
        f"http://{HOST} leads to 2001:db8::8, this host is 192.0.2.8, and no file of ours comes back (answers 404)"
        in line
    )


def test_a_lock_that_is_held_for_ever_is_one_line_and_nobody_else_can_hold_it(host: Path) -> None:
    lock = host / ".certificates.lock"
    lock.touch(0o644)
    assert run(host) == []
    assert lock.stat().st_mode & 0o777 == 0o600
    (host / "held").touch()
    (line,) = run(host)
    assert f"another run of it holds {lock} for 10 minutes now" in line


def test_one_that_is_had_before_the_site_is_replaced_is_not_loaded(host: Path) -> None:
    (host / "nginx/letsencrypt/site.conf").unlink()
    assert run(host, "obtain", stdin=CHAIN) == []
    assert served(host) == site("https", "none")
    asked = called(host)
    assert "reload" not in asked
    assert re.search(r" --volume /\S+/ca\.pem:/etc/dify-certificates/ca\.pem:ro ", asked[-1])
    # When the new site runs, it is proven as ever.
    assert run(host, "load") == []
    assert served(host) == site("https", GOOD.digest)
    assert "https://" in called(host)[-1]


def test_one_that_is_not_had_leaves_everything_as_it_was(host: Path) -> None:
    (host / "nginx/letsencrypt/site.conf").unlink()
    (host / "said").write_text("no\n")
    assert len(run(host, "obtain")) == 1
    assert not (host / "nginx/letsencrypt/site.conf").exists()
    # That of another name, which runs on.
    (host / "nginx/letsencrypt/site.conf").write_text(site("https", "0123456789abcdef"))
    (host / "said").unlink()
    assert run(host, "obtain") == []
    assert served(host) == site("https", "0123456789abcdef")


def _failed(kind: str, detail: str) -> str:
    return f"Certbot failed to authenticate some domains.\n  Domain: {HOST}\n  Type:   {kind}\n  Detail: {detail}\n\nHint: x\n"


def _unexpected(text: str) -> str:
    return (
        f"Saving debug log\nAn unexpected error occurred:\n{text}\nAsk for help or search for solutions at x. See y\n"
    )


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        (
            _unexpected("requests.exceptions.SSLError: HTTPSConnectionPool(host='x'): ('[SSL: CERTIFICATE_VERIFY_FAILED] y')"),
            f"the certificate of {SERVER} is not trusted; put its authority into ca_certificates",
        ),
        (
            _unexpected("ValueError: Requesting ca/dir: Connection refused"),
            f"{SERVER} does not answer (Requesting ca/dir: Connection refused); run this again when it does",
        ),
        (
            _unexpected("requests.exceptions.ConnectionError: HTTPSConnectionPool(host='x'): (Caused by NameResolutionError('y'))"),
            f"{SERVER} does not answer (HTTPSConnectionPool(host='x')",
        ),
        (
            _unexpected("requests.exceptions.ReadTimeout: HTTPSConnectionPool(host='x'): Read timed out. (read timeout=45)"),
            f"{SERVER} does not answer (",
        ),
        (
            _unexpected("too many certificates (5) already issued, see z."),
            f"{SERVER} refuses for now, there is a limit: too many certificates (5) already issued, see z (",
        ),
        (
            _failed("dns", f"DNS problem: NXDOMAIN looking up A for {HOST}"),
            f"its authority finds no address of the name (DNS problem: NXDOMAIN looking up A for {HOST}); mend the DNS record",
        ),
        (
            _failed("connection", "Get http://x: could not resolve URL http://x"),
            "its authority finds no address of the name (Get http://x: could not resolve URL http://x); mend the DNS record",
        ),
        (
            _failed("connection", "203.0.113.5: Fetching http://x: Connection refused"),
            "its authority does not reach port 80 (203.0.113.5: Fetching http://x: Connection refused); let it in from everywhere",
        ),
        (
            _failed("unauthorized", "203.0.113.5: Invalid response from http://x: 404"),
            "its authority finds something else there (203.0.113.5: Invalid response from http://x: 404); mend the DNS record",
        ),
        (
            _failed("caa", "CAA record for x prevents issuance"),
            "certbot says: CAA record for x prevents issuance",
        ),
        ("Another instance of Certbot is already running.\n", "certbot says: Another instance of Certbot is already running"),
    ],
)  # fmt: skip
def test_certbots_words_are_brought_down_to_a_line(host: Path, said: str, cause: str) -> None:
    (host / "said").write_text(said)
    (line,) = run(host, "issue")
    assert line.startswith(f"no certificate for {HOST}: {cause}")
    assert re.search(r" \(more in .*/volumes/certbot/logs/letsencrypt\.log\); the site runs on as it was$", line)
    assert served(host) == site("http", "none")


def test_what_nginx_refuses_or_does_not_serve_is_taken_back(host: Path) -> None:
    (host / "refuses").touch()
    assert run(host, "issue")[-1].endswith("but nginx does not serve it; the site runs on as it was")
    assert served(host) == site("http", "none")
    (host / "refuses").unlink()
    (host / "https_wrong").touch()
    assert "curl: (60) wrong" in run(host, "load")[0]
    assert served(host) == (host / "loaded").read_text() == site("http", "none")
    (host / "https_wrong").unlink()
    assert run(host, "load") == []


def test_a_mistyped_job_is_refused(host: Path) -> None:
    assert run(host, "renwe")[0].startswith("usage: ")


def test_what_runs_in_the_container_trusts_both_lists(tmp_path: Path) -> None:
    """The authorities that requests brings, and the operator's own."""
    (tmp_path / "ca.pem").write_text("OWN\n")
    for name, body in {"python3": "echo USUAL", "certbot": 'cat "$REQUESTS_CA_BUNDLE"; echo "$@"'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    given = "export CERTBOT_EMAIL=me@example.com CERTBOT_DOMAIN=x.example.com CERTBOT_OPTIONS='--key-type rsa'\n"
    inside = script(tls.INSIDE.replace("/tmp/", f"{tmp_path}/"), own=f"{tmp_path}/ca.pem")
    lines = run_sh(f"{given}set -- --server s\n{inside}", path=tmp_path).stdout.splitlines()
    assert lines[:2] == ["USUAL", "OWN"]
    assert lines[2].endswith("--renew-with-new-domains --server s --key-type rsa")


def test_the_fact_reads_what_is_there() -> None:
    lines = [
        "now 1700000000",
        "file aa  /opt/dify/certificates.sh",
        "timer enabled",
        "timer active",
        "site bWFw",
        "chain cGVt",
        "server s",
        "loaded dd",
    ]
    kept = tls.Certificate().process(lines)
    assert kept.certificate == Found(1700000000, "pem", "s", "map", "dd")
    assert tls.Certificate().process([*lines, "answers_for_another yes"]).certificate.answers_for_another
    assert (kept.files, kept.timer) == ({"/opt/dify/certificates.sh": "aa"}, True)
    assert tls.Certificate().process(["now 1", "timer disabled", "timer inactive", "site ", "chain "]).timer is False


def test_the_units_name_this_deployment() -> None:
    stack = stack_of(EMAIL, **KNOBS, project="other", root="/srv/other")
    wanted = wish(stack)
    assert wanted
    _, service, timer = tls.texts(stack, wanted)
    assert "ExecStart=/bin/sh /srv/other/certificates.sh\n" in service
    assert "Description=Certificate of other:" in timer
    assert "Persistent=true" in timer and "RandomizedDelaySec=" in timer
    assert tls.paths("/srv/other", "other")[1:] == [
        "/etc/systemd/system/other-certificates.service",
        "/etc/systemd/system/other-certificates.timer",
    ]


@pytest.mark.parametrize(
    ("health", "published", "conf", "answers"),
    [
        ("challenges=yes", "0.0.0.0:80", "/etc/nginx/dify/ssl/dify.crt", True),
        ("challenges=yes", "0.0.0.0:80", "/etc/letsencrypt/live/other.example.com/fullchain.pem", True),
        ("challenges=yes", "0.0.0.0:80", f"/etc/letsencrypt/live/{HOST}/fullchain.pem", False),
        ("challenges=yes", "127.0.0.1:80", "", False),
        ("challenges=no", "0.0.0.0:80", "", False),
        ("", "0.0.0.0:80", "", False),
    ],
)
def test_whether_another_site_answers_challenges(
    tmp_path: Path, health: str, published: str, conf: str, answers: bool
) -> None:
    says = f"ps*) echo c1 ;; port*) echo {published}; echo [::]:80 ;; *health*) echo nginx certificate=none {health} ;;"
    docker = f"case $* in {says} esac"
    for name, body in {"docker": docker, "systemctl": "true"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "nginx").mkdir()
    (tmp_path / "nginx/https.conf").write_text(f"ssl_certificate {conf};\n")
    look = tls.Certificate().command(str(tmp_path), "dify", "80", HOST, "0.0.0.0:80")
    lines = run_sh(look.get_raw_value(), path=tmp_path).stdout.splitlines()
    assert tls.Certificate().process(lines).certificate.answers_for_another is answers
