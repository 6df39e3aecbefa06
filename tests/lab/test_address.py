"""One public address on a real host, with curl as the browser: the login, a change, and the links that Dify gives out.

The host is deployed again for each way in which browsers may come to it.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from lab.hosts import Host
from tests.lab.browser import Browser
from tests.lab.checkout import Checkout
from tests.lab.containers import secrets_of
from tests.lab.tls_proxy import proxy_to

NAME = "dify.test"
ADMIN = {"email": "admin@example.com", "name": "Admin", "password": "Admin12345"}
TEXT = "a file of the test's\n"
COOKIES = ("access_token", "refresh_token", "csrf_token")
WEBHOOK = "/console/api/apps/0b5bb2b7-5ab4-4ba3-a4b1-9cbf5a3b0ac1/workflows/triggers/webhook?node_id=1700000000000"
APP = re.compile(r'CONSOLE_API_URL it got: "(.*?)"')


@dataclass(frozen=True)
class Way:
    """How browsers come to the host: the address that they see, and who ends TLS."""

    address: str
    tls: str = ""

    @property
    def is_https(self) -> bool:
        return bool(self.tls)


WAYS = {
    "http on port 80": Way(f"http://{NAME}"),
    "http on port 8080": Way(f"http://{NAME}:8080"),
    "https": Way(f"https://{NAME}", "host"),
    # The port is the one that the test's proxy got.
    "https behind another proxy": Way(f"https://{NAME}:{{port}}", "proxy"),
}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed one for the name, its key beside it."""
    path = tmp_path_factory.mktemp("tls") / "dify.crt"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={NAME}"]
    words += ["-addext", f"subjectAltName=DNS:{NAME}", "-keyout", str(path.with_suffix(".key")), "-out", str(path)]
    subprocess.run(words, check=True, capture_output=True)
    return path


@pytest.fixture(scope="module", params=list(WAYS.values()), ids=list(WAYS))
def way(request: pytest.FixtureRequest) -> Way:
    found: Way = request.param
    return found


@pytest.fixture(scope="module")
def browser(
    way: Way, checkout: Checkout, certificate: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Browser]:
    """A browser that never was there before; the host is deployed for this way."""
    host = checkout.hosts[0]
    behind = way.tls == "proxy"
    with proxy_to(host.address, 80, certificate, certificate.with_suffix(".key")) if behind else nullcontext(0) as port:
        origin = way.address.format(port=port)
        if way.tls == "host":
            lay_down(host, certificate)
        checkout.write(".env", "NGINX_HTTPS_ENABLED=true\n" if way.tls == "host" else "")
        checkout.deploy(public_url=origin).ok()
        jar = tmp_path_factory.mktemp("browser") / "cookies"
        yield Browser(jar, origin, "127.0.0.1" if behind else host.address, certificate if way.is_https else None)


@pytest.fixture(scope="module")
def page(browser: Browser, checkout: Checkout) -> list[str]:
    """curl's words with which a script of Dify's page sends a change, after the login."""
    make_account(browser, checkout.hosts[0])
    logged_in = browser.log_in(ADMIN["email"], ADMIN["password"])
    assert (logged_in.status, logged_in.document) == (200, {"result": "success"})
    # The page decides by its own setting alone what the cookie is called.
    found = APP.search(browser.ask("/signin").body)
    assert found
    return browser.csrf("__Host-csrf_token" if found[1].startswith("https://") else "csrf_token")


def lay_down(host: Host, certificate: Path) -> None:
    """The operator's own certificate, where nginx looks for it."""
    for path in (certificate, certificate.with_suffix(".key")):
        done = host.run(
            f"mkdir -p /opt/dify/nginx/ssl && cat > /opt/dify/nginx/ssl/{path.name}", stdin=path.read_text()
        )
        assert done.returncode == 0, done.stderr


def make_account(browser: Browser, host: Host) -> None:
    """The first account, through the page that INIT_PASSWORD guards; once for the host."""
    if browser.ask("/console/api/setup").document["step"] == "finished":
        return
    assert browser.post("/console/api/setup", ADMIN).status == 401
    assert browser.post("/console/api/init", {"password": secrets_of(host)["INIT_PASSWORD"]}).status == 201
    assert browser.post("/console/api/setup", ADMIN).status == 201


def test_the_cookies_have_the_names_and_flags_of_the_scheme(way: Way, browser: Browser, page: list[str]) -> None:
    prefix = "__Host-" if way.is_https else ""
    found = {name: cookie for name, cookie in browser.cookies().items() if name.endswith("_token")}
    assert set(found) == {prefix + name for name in COOKIES}
    for name, cookie in found.items():
        assert cookie.value
        assert (cookie.path, cookie.subdomains, cookie.secure) == ("/", False, way.is_https)
        assert cookie.httponly is (name != f"{prefix}csrf_token")


def test_a_change_is_taken_with_the_token_and_not_without(browser: Browser, page: list[str]) -> None:
    name = f"Admin at {browser.origin}"[:30]
    refused = browser.post("/console/api/account/name", {"name": name})
    assert (refused.status, refused.document["message"]) == (401, "CSRF token is missing or invalid.")
    assert browser.post("/console/api/account/name", {"name": name}, *page).status == 200
    assert browser.ask("/console/api/account/profile").document["name"] == name
    assert browser.ask("/console/api/account/profile", cookies=False).status == 401


def test_https_of_our_own_is_http_2(way: Way, browser: Browser) -> None:
    spoken = browser.ask("/console/api/setup", "--include", "--http2").body.partition(" ")[0]
    assert spoken == ("HTTP/2" if way.tls == "host" else "HTTP/1.1")


def test_the_link_to_a_file_leads_back_by_the_public_address(browser: Browser, page: list[str], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    sent = browser.ask("/console/api/files/upload", "--form", f"file=@{tmp_path / 'a.txt'}", *page)
    assert sent.status == 201, sent.body
    link = sent.document["source_url"]
    assert link.startswith(f"{browser.origin}/files/{sent.document['id']}/file-preview?")
    # Whoever gets the link has no cookies: a model's provider, say.
    assert browser.ask(link, cookies=False) == (found := browser.ask(link))
    assert (found.status, found.body) == (200, TEXT)
    assert browser.ask(link.replace("sign=", "sign=x"), cookies=False).status == 404


def test_a_webhook_called_from_outside_arrives(way: Way, browser: Browser, page: list[str]) -> None:
    hook = browser.ask(WEBHOOK).document
    assert hook["webhook_url"] == f"{browser.origin}/triggers/webhook/{hook['webhook_id']}"
    assert hook["webhook_debug_url"] == f"{browser.origin}/triggers/webhook-debug/{hook['webhook_id']}"
    called = browser.ask(hook["webhook_url"], "--data", "{}", cookies=False)
    assert (called.status, called.document["path"]) == (200, f"/triggers/webhook/{hook['webhook_id']}")
    headers = called.document["headers"]
    assert headers["X-Forwarded-Proto"] == ("https" if way.is_https else "http")
    port = urlsplit(browser.origin).port or (443 if way.is_https else 80)
    assert headers["X-Forwarded-Port"] == str(port)


def test_a_plugins_endpoint_arrives_and_knows_its_public_address(browser: Browser, page: list[str]) -> None:
    (endpoint,) = browser.ask("/console/api/workspaces/current/endpoints/list").document["endpoints"]
    assert endpoint["url"] == f"{browser.origin}/e/{endpoint['hook_id']}"
    called = browser.ask(f"{endpoint['url']}/path?a=b", cookies=False)
    # The stand-in runs no plugin, but tells what the daemon was told.
    assert (called.status, called.document["Dify-Hook-Url"]) == (404, f"{endpoint['url']}/path?a=b")


def test_files_go_from_container_to_container_by_the_inner_address(
    browser: Browser, checkout: Checkout, page: list[str], tmp_path: Path
) -> None:
    (tmp_path / "b.txt").write_text(TEXT)
    link = browser.ask("/console/api/files/upload", "--form", f"file=@{tmp_path / 'b.txt'}", *page).document[
        "source_url"
    ]
    inner = "f\"{os.environ['INTERNAL_FILES_URL']}/\" + sys.argv[1]"
    script = f"import os, sys, urllib.request as r; print(r.urlopen({inner}).read().decode(), end='')"
    path = link.removeprefix(f"{browser.origin}/")
    found = checkout.hosts[0].run(f"docker exec -i dify-plugin_daemon-1 python3 - '{path}'", stdin=script)
    assert found.stdout == TEXT, found.stderr
