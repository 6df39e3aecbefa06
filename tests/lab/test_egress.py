"""What workflows and the sandbox reach, and what not: through real squid, past it, whatever a name server says."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Iterator
from shlex import quote
from typing import Any

import pytest

from lab.hosts import Host
from tests.lab.checkout import REPOSITORY, Checkout
from tests.lab.containers import CORE, containers, reached, replaced, sh, within
from tests.lab.outside import PRIVATE, PRIVATE_TOO, PUBLIC

ASKER = (REPOSITORY / "tests/lab/asker.py").read_text()
OUTSIDE = (REPOSITORY / "tests/lab/outside.py").read_text()
FORWARD, REVERSE = ("ssrf_proxy", 3128), ("ssrf_proxy", 8194)
NGINX = 8088
# Where the code comes from that asks: somebody's own in the one, Dify's HTTP nodes and tools in the other.
ASKING = ("sandbox", "worker")

FORBIDDEN = [
    # Each kind of address.
    "http://127.0.0.1/", "http://127.8.9.10:8080/", "http://10.66.66.66/", "http://172.17.0.1/", "http://192.168.1.1/",
    "http://169.254.169.254/latest/meta-data/", "http://169.254.170.2/", "http://100.100.100.200/", "http://168.63.129.16/",
    "http://192.0.0.192/", "http://192.0.2.1/", "http://198.18.0.1/", "http://198.51.100.7/", "http://203.0.113.7/",
    "http://224.0.0.1/", "http://240.0.0.1/", "http://255.255.255.255/", "http://0.0.0.0/", "http://0.1.2.3/",
    "http://[::1]/", "http://[::]/", "http://[fd00:ec2::254]/", "http://[fe80::1]/", "http://[fec0::1]/", "http://[ff02::1]/",
    "http://[2001:db8::1]/", "http://[2001:0:4136:e378::]/",
    # One address in another.
    "http://[::ffff:10.66.66.66]/", "http://[::ffff:a9fe:a9fe]/", "http://[::ffff:0:10.66.66.66]/", "http://[::10.66.66.66]/",
    "http://[64:ff9b::10.66.66.66]/", "http://[64:ff9b:1::a42:4242]/", "http://[2002:a42:4242::]/",
    # One address in other words: as a number, in octal and hexadecimal, short.
    "http://2130706433/", "http://2852039166/", "http://0x7f000001/", "http://0xa.0x42.0x42.0x42/", "http://012.0102.0102.0102/",
    "http://0177.1/", "http://10.4342338/", "http://127.1/", "http://0/", "http://user@10.66.66.66/",
    # Names for it.
    "http://private.test/", "http://PRIVATE.Test/", "http://private.test./", "http://metadata.test/", "http://loopback.test/",
    "http://zero.test/", "http://both.test/", "http://private6.test/", "http://mapped.test/", "http://nat64.test/",
    "http://half6.test/", "http://localhost/", "http://nowhere.test/",
    # Dify's own services, the host and another one.
    "http://api:5001/health", "http://API.:5001/health", "http://db_postgres:5432/", "http://redis:6379/", "http://weaviate:8080/",
    "http://plugin_daemon:5002/", "http://nginx/", "http://web:3000/", "http://sandbox:8194/health", "http://ssrf_proxy:8194/health",
    "http://ssrf_proxy:3128/", "http://{host}/", "http://{host}:22/", "http://registry:5000/v2/",
    # HTTPS, FTP, ports, and squid's own pages.
    "10.66.66.66:443", "private.test:443", "api:443", "169.254.169.254:443", "[::1]:443", "both.test:443", "0x7f.1:443",
    "public.test:22", "public.test:8443", "11.11.11.11:80", "http://11.11.11.11:22/", "ftp://10.66.66.66/", "ftp://private.test/",
    "http://ssrf_proxy:3128/squid-internal-mgr/info",
]  # fmt: skip
# Each is answered by the public server or, where nothing but a tunnel is asked for, by squid.
ALLOWED = [
    "http://11.11.11.11/", "http://11.11.11.11:8080/", "http://185273099/", "http://[::ffff:11.11.11.11]/", "http://public.test/",
    "http://PUBLIC.test./", "11.11.11.11:443", "public.test:443", "marketplace.test:443",
]  # fmt: skip


MARKS = itertools.count()


class World:
    """The module's host, and what stands outside of it."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def ask(self, service: str, what: str, *each: tuple[Any, ...], at_once: int = 16) -> list[Any]:
        """What a function of asker.py returns for each, run in a container of this service."""
        wanted = json.dumps({"what": what, "each": each, "at_once": at_once})
        done = self.host.run(f"docker exec -i dify-{service}-1 python3 - {quote(wanted)}", stdin=ASKER)
        assert done.returncode == 0, done.stderr
        found: list[Any] = json.loads(done.stdout)
        return found

    def through(self, service: str, *targets: str) -> dict[str, int]:
        """What squid answers for each target."""
        there = [target.replace("{host}", self.host.address) for target in targets]
        return dict(zip(targets, self.ask(service, "status", *((FORWARD, one) for one in there)), strict=True))

    def seen(self, word: str) -> list[str]:
        """The lines of the world outside that begin with `word`, up to now: until a question of our own is there."""
        mark = f"mark-{next(MARKS)}.test"
        self.host.run(f"getent ahostsv4 {mark}")
        said: list[str] = []

        def marked() -> None:
            said[:] = sh(self.host, "docker logs outside 2>&1").splitlines()
            assert f"question 1 {mark}" in said

        within(30, marked)
        return [line for line in said if line.startswith(word)]

    def code(self, service: str, script: str) -> str:
        """What a shell script prints in a container."""
        done = self.host.run(f"docker exec -i dify-{service}-1 sh -s", stdin=script)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def answers(self, patience: float = 180) -> None:
        """Wait until code runs by way of the proxy; 401 is the sandbox's own answer to a missing key."""
        deadline = time.monotonic() + patience
        while True:
            (status,) = self.ask("worker", "status", (REVERSE, "/v1/sandbox/run"))
            if status == 404:  # GET is not how it is asked, so that it is the sandbox that says no
                return
            assert time.monotonic() < deadline, status
            time.sleep(1)


def image_of(host: Host, service: str) -> str:
    return sh(host, f"docker inspect --format '{{{{.Config.Image}}}}' dify-{service}-1")


@pytest.fixture(scope="module")
def world(checkout: Checkout) -> Iterator[World]:
    """Dify on a host that has a few addresses more and a name server of its own, as most systems have one on loopback."""
    host = checkout.hosts[0]
    # Docker gives every packet for a published port to its container, whichever of the host's addresses it is for.
    checkout.write(".env", f"EXPOSE_NGINX_PORT={NGINX}\n")
    checkout.deploy().ok()
    for address in (PUBLIC, PRIVATE, PRIVATE_TOO):
        sh(host, f"ip address add {address}/32 dev lo")
        assert "local" in sh(host, f"ip route get {address}")
    run = f"docker run --detach --name outside --network host {image_of(host, 'sandbox')} python3 -c {quote(OUTSIDE)}"
    sh(host, run)
    sh(host, "timeout 30 sh -c 'until docker logs outside 2>&1 | grep -q listening; do sleep 0.2; done'")
    sh(host, "echo nameserver 127.0.0.1 > /etc/resolv.conf")
    sh(host, "docker restart dify-ssrf_proxy-1 dify-sandbox-1 dify-worker-1")
    world = World(host)
    world.answers()
    yield world


# --- Through the proxy ---


def test_the_proxy_itself_reaches_what_it_refuses_to_others(world: World) -> None:
    """Else the tests below would show nothing: only its rules stand between."""
    for place in (f"{PRIVATE}/80", "api/5001", "db_postgres/5432", f"{world.host.address}/22", "registry/5000"):
        world.code("ssrf_proxy", f"timeout 10 bash -c 'exec 3<>/dev/tcp/{place}'")


@pytest.mark.parametrize("service", ASKING)
def test_no_form_of_a_private_address_is_reached(world: World, service: str) -> None:
    before = world.seen(f"request {PRIVATE}")
    found = world.through(service, *FORBIDDEN)
    assert len(found) >= 80
    assert {target: status for target, status in found.items() if status not in (400, 403)} == {}
    # What squid cannot even read as a URL is few.
    assert sum(status == 403 for status in found.values()) >= 75
    assert world.seen(f"request {PRIVATE}") == before


@pytest.mark.parametrize("service", ASKING)
def test_what_is_public_is_reached_and_the_second_time_too(world: World, service: str) -> None:
    assert set(world.through(service, *ALLOWED).values()) == {200}
    assert set(world.through(service, *ALLOWED).values()) == {200}


def test_nothing_is_kept_and_nobody_inside_is_named(world: World) -> None:
    before = len(world.seen(f"request {PUBLIC} 80 /kept"))
    said = {world.code("sandbox", f"curl -s -x http://ssrf_proxy:3128 http://{PUBLIC}/kept") for _ in range(2)}
    assert said == {f"reached {PUBLIC} for nobody"}
    assert len(world.seen(f"request {PUBLIC} 80 /kept")) == before + 2


@pytest.mark.parametrize(
    "to", ["http://10.66.66.66/", "http://private.test/", "http://169.254.169.254/", "http://api:5001/health"]
)
def test_a_redirect_leads_to_nothing_that_is_refused(world: World, to: str) -> None:
    before = world.seen(f"request {PRIVATE}")
    curl = f"curl -s -L -o /dev/null -w '%{{num_redirects}} %{{http_code}}' -x http://ssrf_proxy:3128 'http://public.test/?to={to}'"
    assert world.code("sandbox", curl) == "1 403"
    python = f"""python3 - <<'EOF'
import urllib.error, urllib.request
proxy = urllib.request.ProxyHandler({{"http": "http://ssrf_proxy:3128"}})
try:
    print(urllib.request.build_opener(proxy).open("http://public.test/?to={to}").status)
except urllib.error.HTTPError as error:
    print(error.code, error.url)
EOF"""
    assert world.code("worker", python) == f"403 {to}"
    assert world.seen(f"request {PRIVATE}") == before


def test_a_redirect_to_what_is_public_is_followed(world: World) -> None:
    curl = "curl -s -L -x http://ssrf_proxy:3128 'http://public.test/?to=http://11.11.11.11:8080/there'"
    assert world.code("sandbox", curl) == f"reached {PUBLIC} for nobody"


def test_the_address_that_was_judged_is_the_one_that_is_connected_to(world: World) -> None:
    """Names whose next answer is another one, all with a time to live of 0, hundreds of times and across many a second."""
    before = world.seen(f"request {PRIVATE}")
    once = [(FORWARD, f"http://{kind}-{n}.test/") for kind in ("rebind", "late") for n in range(60)]
    first = dict(zip((target for _, target in once), world.ask("sandbox", "status", *once), strict=True))
    assert {status for target, status in first.items() if "rebind" in target} <= {200, 403}
    assert 200 in first.values()
    assert {status for target, status in first.items() if "late" in target} == {403}
    # With headers that ask for everything anew.
    again = [
        (FORWARD, f"http://late-{n}.test/", "Cache-Control: no-cache\r\nPragma: no-cache\r\n") for n in range(100, 200)
    ]
    assert set(world.ask("sandbox", "status", *again)) == {403}
    turns = [(FORWARD, f"http://flip-{n % 7}.test/") for n in range(2500)]
    assert set(world.ask("sandbox", "status", *turns, at_once=32)) == {200, 403}
    assert world.seen(f"request {PRIVATE}") == before


# --- The way to the sandbox ---


def test_code_runs_by_way_of_the_proxy(world: World) -> None:
    environment = sh(world.host, "docker exec dify-api-1 env")
    assert "CODE_EXECUTION_ENDPOINT=http://ssrf_proxy:8194" in environment.splitlines()
    assert {"sandbox", "ssrf_proxy"} <= set(reached(world.host, port=NGINX))


def test_the_way_to_the_sandbox_leads_nowhere_else(world: World) -> None:
    refused = ["/", "/v1/", "/squid-internal-mgr/info", "/v2/health", "http://11.11.11.11/", "http://api:5001/setup"]
    tunnels = ["public.test:443", "api:5001"]
    before = world.seen("request")
    assert set(world.ask("worker", "status", *((REVERSE, one) for one in refused))) == {403}
    assert set(world.ask("worker", "status", *((REVERSE, one) for one in tunnels))) <= {403, 405}
    # Whatever host such a request names, it is the sandbox that answers.
    named = [(REVERSE, one) for one in ("/health", "http://11.11.11.11/health", "http://api:5001/health")]
    assert world.ask("worker", "status", *named) == [200, 200, 200]
    assert world.seen("request") == before


def test_the_sandbox_is_found_whenever_it_comes_and_wherever_it_is(checkout: Checkout, world: World) -> None:
    old = address_of(world.host, "sandbox")
    sh(world.host, "docker stop --time 1 dify-sandbox-1 && docker restart dify-ssrf_proxy-1")
    (status,) = world.ask("worker", "status", (REVERSE, "/health"))
    assert status in (0, 502, 503, 504)
    before = containers(world.host)
    # Who came in between has its address now.
    words = f"docker run --detach --name elsewhere --network dify_sandbox {image_of(world.host, 'worker')} sleep 600"
    sh(world.host, f"docker rm dify-sandbox-1 && {words}")
    assert checkout.deploy().ok().changed == ["Stack runs"]
    assert address_of(world.host, "sandbox") != old
    # Docker calls it healthy after its first check, and then it is found.
    assert world.ask("worker", "status", (REVERSE, "/health")) == [200]
    assert replaced(before, containers(world.host)) == {"sandbox"}
    sh(world.host, "docker rm --force elsewhere")


def address_of(host: Host, service: str, network: str = "dify_sandbox") -> str:
    form = f'{{{{(index .NetworkSettings.Networks "{network}").IPAddress}}}}'
    return sh(host, f"docker inspect --format '{form}' dify-{service}-1")


# --- Past the proxy ---


def targets(host: Host) -> dict[str, tuple[str, int]]:
    """What listens around the sandbox."""
    ports = {
        "db_postgres": 5432,
        "redis": 6379,
        "api": 5001,
        "weaviate": 8080,
        "plugin_daemon": 5002,
        "web": 3000,
        "nginx": 80,
    }
    found = {service: (address_of(host, service, "dify_default"), port) for service, port in ports.items()}
    gateway = sh(host, "docker network inspect --format '{{(index .IPAM.Config 0).Gateway}}' dify_default")
    registry = sh(host, "getent hosts registry").split()[0]
    return found | {
        "the host": (host.address, 22),
        "the host by its bridge": (gateway, 22),
        "the host's nginx": (host.address, NGINX),
        "a private server": (PRIVATE, 80),
        "another host": (registry, 5000),
        "a public server": (PUBLIC, 80),
    }


def test_the_sandbox_opens_no_connection_but_to_the_proxy(world: World) -> None:
    there = targets(world.host)
    # All of them are there, for who is on the other network.
    assert dict(zip(there, world.ask("worker", "knocks", *there.values()), strict=True)) == dict.fromkeys(there, "open")
    own = address_of(world.host, "sandbox").rpartition(".")[0]
    more = {
        "the host, were it on this network": (f"{own}.1", 22),
        "the proxy from the other side": (address_of(world.host, "ssrf_proxy", "dify_default"), 3128),
        "metadata": ("169.254.169.254", 80),
    }
    found = dict(zip([*there, *more], world.ask("sandbox", "knocks", *there.values(), *more.values()), strict=True))
    assert len(found) >= 15
    assert [name for name, said in found.items() if said == "open"] == []
    assert world.ask("sandbox", "knocks", FORWARD, REVERSE) == ["open", "open"]


def test_the_sandbox_sends_no_datagram_out(world: World) -> None:
    there = [(PUBLIC, 53), (world.host.address, 53), (targets(world.host)["the host by its bridge"][0], 53)]
    before = len(world.seen("question 1 public.test"))
    assert world.ask("worker", "asks", *there) == ["answered"] * 3
    assert len(world.seen("question 1 public.test")) == before + 3
    assert "answered" not in world.ask("sandbox", "asks", *there)
    assert len(world.seen("question 1 public.test")) == before + 3


def test_no_name_that_the_sandbox_looks_up_gets_out(world: World) -> None:
    assert world.ask("worker", "resolves", ("public.test",), ("worker-asks.public.test",)) == [PUBLIC, ""]
    assert world.seen("question 1 worker-asks")
    names = [
        "public.test",
        "sandbox-asks.public.test",
        "api",
        "db_postgres",
        "redis",
        "nginx",
        "registry",
        "localhost.test",
    ]
    assert world.ask("sandbox", "resolves", *((name,) for name in names)) == [""] * len(names)
    assert world.seen("question 1 sandbox-asks") + world.seen("question 28 sandbox-asks") == []
    assert world.ask("sandbox", "resolves", ("ssrf_proxy",)) == [address_of(world.host, "ssrf_proxy")]


def test_nobody_else_is_on_the_sandboxes_network_the_host_neither(world: World) -> None:
    form = "'{{range .Containers}}{{println .Name}}{{end}}'"
    there = sh(world.host, f"docker network inspect --format {form} dify_sandbox").split()
    assert sorted(there) == ["dify-sandbox-1", "dify-ssrf_proxy-1"]
    bridge = "br-" + sh(world.host, "docker network inspect --format '{{slice .Id 0 12}}' dify_sandbox")
    assert "inet " not in sh(world.host, f"ip address show dev {bridge}")
    # By IPv6 each of the two would have an address that nobody gave it.
    assert (
        world.code("sandbox", "cat /proc/sys/net/ipv6/conf/eth0/disable_ipv6; grep -c eth /proc/net/if_inet6 || true")
        == "1\n0"
    )
    assert world.code("sandbox", "cut -f 2 /proc/net/route | grep -c 00000000 || true") == "0"


# --- The knobs ---


def test_the_network_of_an_older_deployment_goes(checkout: Checkout, world: World) -> None:
    labels = "--label com.docker.compose.project=dify --label com.docker.compose.network=ssrf_proxy_network"
    sh(world.host, f"docker network create --internal {labels} dify_ssrf_proxy_network")
    before = containers(world.host)
    checkout.deploy().ok().says("removing the networks ssrf_proxy_network")
    assert "ssrf_proxy_network" not in sh(world.host, "docker network ls")
    assert checkout.deploy().ok().changed == []
    assert containers(world.host) == before
    assert set(before) == CORE


def test_exactly_what_is_opened_is_open(checkout: Checkout, world: World) -> None:
    checkout.knobs |= {
        "ssrf_allow": [f"{PRIVATE}:8080", "10.66.77.0/24", "wiki.test:8443", ".intra.test"],
        "ssrf_connect_ports": [9443],
    }
    before = containers(world.host)
    assert checkout.deploy().ok().changed == ["Configuration files", "Stack runs"]
    assert replaced(before, containers(world.host)) == {"ssrf_proxy"}
    opened = [
        "http://10.66.66.66:8080/", "10.66.66.66:8080", "http://private.test:8080/", "http://10.66.77.77/",
        "http://10.66.77.77:8080/", "10.66.77.77:443", "10.66.77.77:9443", "wiki.test:8443", "http://wiki.test:8443/",
        "http://deep.intra.test/", "deep.intra.test:9443", "public.test:9443", "http://public.test/", "http://both.test:8080/",
    ]  # fmt: skip
    closed = [
        "http://10.66.66.66/", "10.66.66.66:443", "http://10.66.66.66:8443/", "10.66.77.77:8443", "10.66.66.66:9443",
        "http://wiki.test/", "wiki.test:443", "http://private.test:8443/", "http://10.66.78.1/", "http://metadata.test:8080/",
        "http://both.test/", "http://127.0.0.1:8080/", "http://api:5001/health", "public.test:8443", "http://169.254.169.254/",
    ]  # fmt: skip
    found = world.through("sandbox", *opened, *closed)
    assert {target: found[target] for target in opened} == dict.fromkeys(opened, 200)
    assert {target: found[target] for target in closed} == dict.fromkeys(closed, 403)
    assert checkout.deploy().ok().changed == []


UPSTREAM_CONF = """
auth_param basic program /bin/sh /etc/up/who
acl known proxy_auth REQUIRED
http_access allow known
http_access deny all
http_port 3999
access_log stdio:/dev/stdout
pid_filename none
cache deny all
"""
# As squid's helpers do: a line with name and password, some characters as %XX, and one word for an answer.
WHO = r"""while read -r name word; do
    test "$name $word" = "dify p@ss%20w:rd%25%23" && echo OK || echo ERR
done
"""


def test_nothing_but_the_named_domains_is_open_and_all_of_it_goes_by_the_other_proxy(
    checkout: Checkout, world: World
) -> None:
    start_upstream(world.host)
    checkout.knobs |= {
        "ssrf_allow": [f"{PRIVATE_TOO}:8080", "wiki.test"],
        "ssrf_allowed_domains": ["allowed.test", ".more.test", "private.test"],
        "ssrf_upstream_proxy": f"http://dify:p%40ss%20w%3Ard%25%23@{world.host.address}:3999",
    }
    checkout.write(".env", f"EXPOSE_NGINX_PORT={NGINX}\nMARKETPLACE_API_URL=https://marketplace.test\n")
    run = checkout.deploy("-vvv", "--debug", "--diff").ok()
    assert "p%40ss" not in run.output
    assert "p@ss w:rd" not in run.output
    place = "/opt/dify/ssrf_proxy/upstream.conf"
    assert sh(world.host, f"stat -c '%a %u:%g' {place}") == "600 13:13"
    opened = ["http://allowed.test/", "allowed.test:443", "marketplace.test:443"]
    direct = [f"http://{PRIVATE_TOO}:8080/", "http://wiki.test/"]
    closed = [
        "http://public.test/",
        "http://11.11.11.11/",
        "http://private.test/",
        "http://10.66.66.66/",
        "api:443",
        "public.test:443",
    ]
    found = world.through("sandbox", *opened, *direct, *closed)
    assert found == {**dict.fromkeys([*opened, *direct], 200), **dict.fromkeys(closed, 403)}

    def asked_upstream() -> None:
        """It writes a line when a connection ends, so maybe after the answer."""
        log = sh(world.host, "docker logs upstream 2>/dev/null")
        assert re.findall(r"(?:GET|CONNECT) (\S+) dify", log) == sorted_as(log, opened)

    within(30, asked_upstream)
    assert checkout.deploy().ok().changed == []
    # Without it nothing gets out by itself.
    sh(world.host, "docker rm --force upstream")
    assert world.through("sandbox", "http://allowed.test/")["http://allowed.test/"] in (502, 503, 504)
    start_upstream(world.host)
    assert world.through("sandbox", "http://allowed.test/") == {"http://allowed.test/": 200}
    assert world.ask("worker", "status", (REVERSE, "/health")) == [200]


def start_upstream(host: Host) -> None:
    for name, text in {"squid.conf": UPSTREAM_CONF, "who": WHO}.items():
        assert host.run(f"mkdir -p /root/up && cat > /root/up/{name}", stdin=text).returncode == 0
    words = f"{image_of(host, 'ssrf_proxy')} -N -Y -C -f /etc/up/squid.conf"
    command = f"--volume /root/up:/etc/up:ro --user 13:13 --entrypoint squid {words}"
    sh(host, f"chmod 755 /root /root/up && docker run --detach --name upstream --network host {command}")
    sh(host, "timeout 30 bash -c 'until (exec 3<>/dev/tcp/127.0.0.1/3999) 2>/dev/null; do sleep 0.2; done'")


def sorted_as(log: str, targets: list[str]) -> list[str]:
    """The targets in the order in which they stand in a log."""
    return sorted(targets, key=lambda target: log.find(f" {target} "))
