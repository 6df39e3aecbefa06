"""nginx in front of a running Dify: what clients see while something behind it changes, and what it believes and hides.

One host, deployed once; what later tests change they leave as it was, or say so.
"""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lab.hosts import Host
from tests.lab.checkout import Checkout
from tests.lab.containers import containers, sh

RELOADED = ["Configuration files", "Stack runs"]
# One path of each service, and what it says when it is well; the stand-in for the plugin daemon has no plugins.
PATHS = {"api": ("/console/api/setup", 200), "web": ("/", 200), "plugin_daemon": ("/e/hook", 404)}
SPOOFED = {
    "X-Forwarded-For": "203.0.113.9",
    "X-Real-IP": "203.0.113.9",
    "CF-Connecting-IP": "203.0.113.9",
    "Forwarded": "for=203.0.113.9",
    "X-Forwarded-Host": "evil.example.com",
    "X-Forwarded-Proto": "gopher",
}
MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Answer:
    """headers: with names in small letters."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)


def ask(
    host: Host, path: str, method: str = "GET", body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> Answer:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection(host.address, timeout=60)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return Answer(answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.read())
    finally:
        connection.close()


@dataclass
class Steady:
    """Asks each of the paths again and again, until the block ends.

    seen: (when it was asked, path, status or what went wrong, Retry-After)
    """

    host: Host
    seen: list[tuple[float, str, int | str, str]] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Steady:
        self.threads = [threading.Thread(target=self._ask, args=(path,)) for path, _ in PATHS.values()]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        for thread in self.threads:
            thread.join()

    def _ask(self, path: str) -> None:
        while not self.done.wait(0.05):
            asked = time.monotonic()
            try:
                answer = ask(self.host, path)
                self.seen.append((asked, path, answer.status, answer.headers.get("retry-after", "")))
            except (OSError, http.client.HTTPException) as error:
                self.seen.append((asked, path, repr(error), ""))

    def some_more(self, count: int = 20) -> None:
        """Return when each path was asked so many times more."""
        wanted = {path: self._asked(path) + count for path, _ in PATHS.values()}
        while any(self._asked(path) < enough for path, enough in wanted.items()):
            time.sleep(0.05)

    def _asked(self, path: str) -> int:
        return sum(one[1] == path for one in list(self.seen))

    def answers(self, since: float = 0) -> Counter[tuple[str, int | str]]:
        """How often each path answered what."""
        return Counter((path, status) for asked, path, status, _ in self.seen if asked >= since)


WELL = set(PATHS.values())


@pytest.fixture(scope="module")
def host(checkout: Checkout) -> Host:
    checkout.deploy().ok()
    return checkout.hosts[0]


@pytest.fixture(scope="module")
def elsewhere(new_host: Callable[..., Host]) -> Host:
    """A bare host that asks the other one."""
    return new_host("elsewhere")


def test_requests_go_on_while_a_service_is_recreated(
    host: Host, record_property: Callable[[str, object], None]
) -> None:
    nginx = containers(host)["nginx"]
    with Steady(host) as steady:
        for service, (path, right) in PATHS.items():
            steady.some_more()
            began = time.monotonic()
            sh(host, f"cd /opt/dify && docker compose up --detach --force-recreate --no-deps --wait {service}")
            well = time.monotonic()
            steady.some_more()
            during = [one for one in steady.seen if began <= one[0] < well and one[1] == path]
            said = Counter(status for _, _, status, _ in during)
            print(f"{service}: recreated and well after {well - began:.1f} s, meanwhile {dict(said)}")
            record_property(service, dict(said))
            assert set(said) <= {right, 503}, said
            assert {retry for _, _, status, retry in during if status == 503} <= {"15"}
            assert set(steady.answers(well)) == WELL, steady.answers(well)
    others = steady.answers()
    print(f"{sum(others.values())} requests in all: {dict(others)}")
    assert containers(host)["nginx"] == nginx


def test_a_stream_arrives_part_by_part_and_is_not_packed(host: Host) -> None:
    connection = http.client.HTTPConnection(host.address, timeout=60)
    connection.request("GET", "/v1/stand-in/stream?events=5", headers={"Accept-Encoding": "gzip"})
    answer = connection.getresponse()
    first = answer.readline()
    arrived = time.time()
    lines = [line for line in [first, *answer] if line.startswith(b"data: ")]
    connection.close()
    events = [json.loads(line.removeprefix(b"data: ")) for line in lines]
    assert [event["number"] for event in events] == list(range(5))
    assert arrived < events[-1]["sent"]
    assert answer.headers["Content-Encoding"] is None


def test_long_texts_are_packed_for_those_who_can_read_it(host: Host) -> None:
    packed, plain = ask(host, "/v1/stand-in/text", headers={"Accept-Encoding": "gzip"}), ask(host, "/v1/stand-in/text")
    assert (packed.headers.get("content-encoding"), packed.headers.get("vary")) == ("gzip", "Accept-Encoding")
    assert "content-encoding" not in plain.headers
    assert len(packed.body) < len(plain.body) / 10


@pytest.mark.parametrize("path", ["/v1/files/upload", "/console/api/files/upload", "/"])
@pytest.mark.parametrize("expect", ["", "Expect:"], ids=["asks first", "sends at once"])
def test_what_is_too_large_is_refused_cleanly(host: Host, tmp_path: Path, path: str, expect: str) -> None:
    code, status, said = upload(host, path, tmp_path / "body", 110, expect)
    assert (code, status) == (0, 413), said
    if path != "/":
        assert json.loads(said)["code"] == "file_too_large"


def test_who_sends_all_before_it_listens_is_told_too(host: Host) -> None:
    assert ask(host, "/v1/files/upload", "POST", bytes(110 * MEGABYTE)).status == 413


def test_what_is_large_and_allowed_passes(host: Host, tmp_path: Path) -> None:
    code, status, said = upload(host, "/v1/files/upload", tmp_path / "body", 90, "Expect:")
    assert (code, status, json.loads(said)["bytes"]) == (0, 200, 90 * MEGABYTE)


def upload(host: Host, path: str, body: Path, megabytes: int, header: str) -> tuple[int, int, str]:
    """(curl's exit code, status, what was answered)"""
    with body.open("wb") as file:
        file.truncate(megabytes * MEGABYTE)
    words = ["curl", "--silent", "--show-error", "--noproxy", "*", "--max-time", "120", "--write-out", "\n%{http_code}"]
    words += ["--header", header] if header else []
    words += ["--data-binary", f"@{body}", f"http://{host.address}{path}"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    said, _, status = done.stdout.rpartition("\n")
    return done.returncode, int(status), said + done.stderr


def test_a_change_is_loaded_and_no_request_is_lost(checkout: Checkout, host: Host) -> None:
    before = containers(host)
    stream = threading.Thread(
        target=lambda: events.extend(ask(host, "/v1/stand-in/stream?events=30").body.split(b"\n\n"))
    )
    events: list[bytes] = []
    checkout.write(".env", "NGINX_CLIENT_MAX_BODY_SIZE=1M\nNGINX_KEEPALIVE_TIMEOUT=33\n")
    plan = checkout.plan("--diff").ok().says("-    client_max_body_size 100M;", "+    client_max_body_size 1M;")
    stream.start()
    with Steady(host) as steady:
        assert checkout.deploy().ok().changed == plan.planned == RELOADED
        steady.some_more()
    assert set(steady.answers()) == WELL, steady.answers()
    assert containers(host) == before
    assert ask(host, "/v1/x", "POST", bytes(2 * MEGABYTE)).status == 413
    stream.join()
    # A stream that began with the old configuration is not cut.
    assert len([event for event in events if event]) == 30
    assert checkout.deploy().ok().changed == []
    assert containers(host) == before


def test_a_run_that_dies_before_the_reload_is_mended(checkout: Checkout, host: Host) -> None:
    before = containers(host)
    old = health(host)
    checkout.write(".env", "")
    die_at(checkout, "Database schema")
    assert health(host) == old
    assert checkout.plan().ok().planned == ["Stack runs"]
    assert checkout.deploy().ok().changed == ["Stack runs"]
    wanted = sh(host, "grep -o '[0-9a-f]\\{16\\}' /opt/dify/nginx/version.conf")
    assert health(host) == f"nginx answers configuration={wanted} certificate=none challenges=yes"
    assert containers(host) == before
    assert checkout.deploy().ok().changed == []


def health(host: Host) -> str:
    return sh(host, "docker exec dify-nginx-1 curl --silent http://127.0.0.1/nginx-health")


def die_at(checkout: Checkout, step: str) -> None:
    """Start a deploy and kill -9 it as soon as this step begins."""
    checkout.write_inventory()
    words = [str(Path(sys.executable).with_name("pyinfra")), "inventory.py", "deploy.py", "-y"]
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(words, cwd=checkout.folder, text=True, **pipes) as process:
        assert process.stdout
        for line in process.stdout:
            if f"Starting operation: {step}" in line:
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL


def test_health_is_for_the_host_alone(host: Host) -> None:
    assert ask(host, "/nginx-health").status == 404


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_closed_is_said_to_everybody_and_the_next_run_opens(checkout: Checkout, host: Host, method: str) -> None:
    """As a run leaves it that was killed while it migrated."""
    sh(host, "touch /opt/dify/nginx/.closed")
    program, person = ask(host, "/v1/chat-messages", method), ask(host, "/apps", method)
    for answer in (program, person):
        assert (answer.status, answer.headers["retry-after"]) == (503, "15")
        assert answer.headers["cache-control"] == "no-store"
    assert program.document["code"] == "service_unavailable"
    assert b"This page tries again by itself" in person.body
    assert "http" not in person.body.decode().replace("http-equiv", "")
    assert health(host).startswith("nginx answers")
    if method == "POST":
        assert checkout.plan().ok().planned == ["Stack runs"]
    assert checkout.deploy().ok().changed == ["Stack runs"]
    assert ask(host, "/apps").status == 200


def test_a_status_of_the_services_own_is_left_as_it_is(host: Host) -> None:
    """Two that nginx would say otherwise, if they were its own."""
    assert b"service_unavailable" not in ask(host, "/console/api/no-such-path").body
    sh(host, "docker stop dify-sandbox-1")
    own = ask(host, "/console/api/stand-in/reached")
    sh(host, "docker start dify-sandbox-1")
    assert (own.status, own.headers.get("retry-after")) == (503, None)
    assert "sandbox" in own.document


def test_the_site_is_closed_while_the_database_is_migrated(checkout: Checkout, host: Host) -> None:
    nginx = containers(host)["nginx"]
    checkout.knobs |= {"images": {"api": "langgenius/dify-api:1.11.4-next"}, "allow_mixed_images": True}
    with Steady(host) as steady:
        assert "Database schema" in checkout.deploy().ok().changed
        steady.some_more()
    # The page too, although web did not change: what works only half is worse than what says so.
    assert ("/", 503) in steady.answers()
    assert set(steady.answers()) <= WELL | {(path, 503) for path, _ in PATHS.values()}, steady.answers()
    assert {retry for _, _, status, retry in steady.seen if status == 503} == {"15"}
    assert host.run("test -e /opt/dify/nginx/.closed").returncode == 1
    assert containers(host)["nginx"] == nginx
    print(f"closed for migration: {dict(steady.answers())}")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/../console/api/setup",
        "/e/x/..%2f..%2fplugin",
        "/console/api/workspaces/current/plugin/tasks/%252e%252e%252f1",
        "/console/api/workspaces/current/plugin/icon?tenant_id=1&filename=..%2f..%2fx",
        "/console/api/workspaces/current/%70lugin/icon?filename=%2E%2E/x",
    ],
)
def test_a_way_up_never_arrives(host: Host, path: str) -> None:
    assert ask(host, path).status == 400


def test_no_secret_of_a_url_is_in_the_log(host: Host) -> None:
    paths = ["/mcp/server/SECRETcode/mcp", "/e/SECRETcode/x", "/triggers/webhook/SECRETcode", "/files/x"]
    sh(host, "docker stop dify-api-1")
    for path in paths:
        ask(host, f"{path}?sign=SECRETsign", headers={"Referer": "http://x.example/?token=SECRETreferrer"})
    sh(host, "docker start dify-api-1")
    log = sh(host, "docker logs dify-nginx-1 2>&1")
    assert '"GET /mcp/server/SECR***/mcp HTTP/1.1" 503' in log
    assert '"GET /files/x HTTP/1.1" 503' in log
    assert "SECRET" not in log


def test_headers_are_there_once(host: Host) -> None:
    for path in ("/", "/console/api/setup"):
        headers = ask(host, path).headers
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == (
            "nosniff",
            "strict-origin-when-cross-origin",
        )
        assert not {"x-frame-options", "strict-transport-security"} & headers.keys()
        assert headers["server"] == "nginx"


def seen_by_api(answer: Any) -> dict[str, str]:
    headers: dict[str, str] = answer["headers"]
    return {name: value for name, value in headers.items() if name != "Host"}


def from_host(asking: Host, host: Host, headers: dict[str, str]) -> dict[str, str]:
    """What the api is told when another host asks with these headers; there is no curl on a bare one."""
    lines = [f"{name}: {value}" for name, value in {"Host": host.address, "Connection": "close", **headers}.items()]
    request = "".join(f"{line}\r\n" for line in ["GET /v1/who HTTP/1.1", *lines, ""])
    done = asking.run(f"exec 3<>/dev/tcp/{host.address}/80; cat >&3; cat <&3", stdin=request)
    return seen_by_api(json.loads(done.stdout.partition("\n\n")[2]))


def test_nobody_is_believed_who_he_says_he_is(host: Host, elsewhere: Host) -> None:
    found = from_host(elsewhere, host, SPOOFED)
    assert found == {
        "X-Forwarded-For": elsewhere.address,
        "X-Real-IP": elsewhere.address,
        "X-Forwarded-Proto": "http",
        "X-Forwarded-Port": "80",
    }


@pytest.fixture(scope="module")
def behind_a_proxy(checkout: Checkout, host: Host, elsewhere: Host) -> Iterator[Host]:
    """The host with `elsewhere` as the proxy that ends TLS."""
    proxy = {"tls": "proxy", "public_url": "https://dify.test", "trusted_proxies": [elsewhere.address], "hsts": 600}
    checkout.deploy(**proxy).ok().says("Dify 1.11.4 answers at https://dify.test")
    assert checkout.deploy(**proxy).ok().changed == []
    yield host


@pytest.mark.parametrize(
    "chain", ["203.0.113.9", "198.51.100.1, 203.0.113.9"], ids=["alone", "with what a client said"]
)
def test_the_trusted_proxy_is_believed_who_asked_it(behind_a_proxy: Host, elsewhere: Host, chain: str) -> None:
    found = from_host(elsewhere, behind_a_proxy, {**SPOOFED, "X-Forwarded-For": chain})
    assert found == {
        "X-Forwarded-For": "203.0.113.9",
        "X-Real-IP": "203.0.113.9",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Port": "443",
    }


def test_behind_a_proxy_nobody_else_is_believed(behind_a_proxy: Host) -> None:
    honest = seen_by_api(ask(behind_a_proxy, "/v1/who").document)
    assert seen_by_api(ask(behind_a_proxy, "/v1/who", headers=SPOOFED).document) == honest
    assert "203.0.113.9" not in honest.values()


@pytest.mark.parametrize("path", ["/", "/console/api/setup"])
def test_behind_a_proxy_browsers_are_told_to_come_with_https_only(behind_a_proxy: Host, path: str) -> None:
    assert ask(behind_a_proxy, path).headers["strict-transport-security"] == "max-age=600"
