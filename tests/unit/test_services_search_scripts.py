"""The scripts and health checks of the vector stores that search: run here, against stand-ins of their servers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qs

import pytest
import yaml

from stack.render import TEMPLATES
from tests.unit.test_services_search import NASTY, block, chosen

MOUNTED = ["couchbase-server", "elasticsearch", "kibana", "opensearch", "opensearch-dashboards"]


def script(service: str, name: str) -> str:
    return (TEMPLATES / service / f"{name}.j2").read_text()


SCRIPTS = [
    (folder, path.name.removesuffix(".j2")) for folder in MOUNTED for path in (TEMPLATES / folder).glob("*.sh.j2")
]


@pytest.mark.parametrize(("service", "name"), SCRIPTS)
def test_a_script_is_bash_and_rendering_leaves_it_as_it_is(service: str, name: str) -> None:
    choice = {"couchbase-server": "couchbase", "kibana": "elasticsearch", "opensearch-dashboards": "opensearch"}
    text = chosen(choice.get(service, service)).files[f"{service}/{name}"].data.decode()
    assert text == script(service, name)
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def anybody(_headers: dict[str, str]) -> bool:
    return True


def always(said: str = "{}") -> Callable[[str, str], tuple[int, str]]:
    return lambda _path, _body: (200, said)


@dataclass
class Server:
    """A stand-in for any server with a login: 401 to strangers, and what `answer` says to those who log in."""

    login: Callable[[dict[str, str]], bool]
    answer: Callable[[str, str], tuple[int, str]]
    port: int = 0
    asked: list[tuple[str, str]] = field(default_factory=list)


S = TypeVar("S", bound=Server)


@contextmanager
def serving(server: S) -> Iterator[S]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            server.asked.append((self.path, body))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, said = server.answer(self.path, body) if server.login(headers) else (401, "{}")
            self.send_response(status)
            self.end_headers()
            self.wfile.write(said.encode())

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.port = http.server_port
    threading.Thread(target=http.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()


def basic(user: str, password: str) -> Callable[[dict[str, str]], bool]:
    def right(headers: dict[str, str]) -> bool:
        kind, _, code = headers.get("authorization", "").partition(" ")
        return kind == "Basic" and b64decode(code).decode() == f"{user}:{password}"

    return right


def header(name: str, value: str) -> Callable[[dict[str, str]], bool]:
    return lambda headers: headers.get(name) == value


def run(command: list[str], port: int, **environment: str) -> int:
    """Run a check of a container here; its server is at another port, and speaks no TLS."""
    moved = [re.sub(r"(?:https://)?127\.0\.0\.1([:/])\d{4,5}", rf"127.0.0.1\g<1>{port}", word) for word in command]
    return subprocess.run(moved, env={"PATH": os.environ["PATH"], **environment}, check=False).returncode


# What asks whom: (choice, service, what the right server takes, what it says).
CHECKS = [
    ("qdrant", "qdrant", "QDRANT_API_KEY", header("api-key", NASTY), "{}"),
    (
        "chroma",
        "chroma",
        "CHROMA_SERVER_AUTHN_CREDENTIALS",
        header("authorization", f"Bearer {NASTY}"),
        "{}",
    ),
    (
        "milvus",
        "milvus-standalone",
        "COMMON_SECURITY_DEFAULTROOTPASSWORD",
        header("authorization", f"Bearer root:{NASTY}"),
        '{"code":0,"data":[]}',
    ),
    ("opensearch", "opensearch", "OPENSEARCH_INITIAL_ADMIN_PASSWORD", basic("admin", NASTY), "{}"),
    ("opensearch", "opensearch-dashboards", "OPENSEARCH_INITIAL_ADMIN_PASSWORD", basic("admin", NASTY), "{}"),
    ("elasticsearch", "elasticsearch", "ELASTIC_PASSWORD", basic("elastic", NASTY), "{}"),
]


@pytest.mark.parametrize(("choice", "service", "name", "login", "said"), CHECKS, ids=[check[1] for check in CHECKS])
def test_a_check_holds_with_the_password_and_fails_with_another(
    choice: str, service: str, name: str, login: Callable[[dict[str, str]], bool], said: str
) -> None:
    command = block(choice, service)["healthcheck"]["test"][1:]
    if command == ["bash", "/opt/dify/healthy.sh"]:
        command = ["bash", "-c", script(service, "healthy.sh")]
    with serving(Server(login, always(said))) as server:
        assert run(command, server.port, **{name: NASTY}) == 0
        assert run(command, server.port, **{name: "another"}) != 0
    assert run(command, server.port, **{name: NASTY}) != 0


def test_milvus_that_refuses_in_a_200_is_not_healthy() -> None:
    command = block("milvus", "milvus-standalone")["healthcheck"]["test"][1:]
    refusing = Server(anybody, always('{"code":1800,"message":"not authenticated"}'))
    with serving(refusing) as server:
        assert run(command, server.port, COMMON_SECURITY_DEFAULTROOTPASSWORD="x") != 0


def test_unstructured_is_asked_for_its_health() -> None:
    command = block("unstructured", "unstructured")["healthcheck"]["test"][1:]
    with serving(Server(anybody, always())) as server:
        assert run(command, server.port) == 0
        assert server.asked == [("/healthcheck", "")]


def programs(folder: Path, **bodies: str) -> Path:
    """Stand-ins for programs, by name; those of the system stay behind them."""
    folder.mkdir(exist_ok=True)
    for name, body in bodies.items():
        path = folder / name.replace("_", "-")
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)
    return folder


def start(service: str, folder: Path, replace: dict[str, str], **environment: str) -> subprocess.CompletedProcess[str]:
    said = script(service, "start.sh")
    for old, new in replace.items():
        assert old in said
        said = said.replace(old, new)
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", said], cwd=folder, env={"PATH": path, **environment}, capture_output=True, text=True, check=True
    )


def test_kibanas_user_gets_its_password_before_kibana_starts(tmp_path: Path) -> None:
    programs(tmp_path / "bin", tini='echo "$@ ELASTIC_PASSWORD=${ELASTIC_PASSWORD:-}"')
    with serving(Server(basic("elastic", NASTY), always())) as server:
        address = {"http://elasticsearch:9200": f"http://127.0.0.1:{server.port}"}
        ran = start("kibana", tmp_path, address, ELASTIC_PASSWORD=NASTY, KIBANA_PASSWORD=f"{NASTY}2")
    ((path, body),) = server.asked
    assert path == "/_security/user/kibana_system/_password"
    assert json.loads(body) == {"password": f"{NASTY}2"}
    assert ran.stdout == "-- kibana --config=/opt/dify/kibana.yml ELASTIC_PASSWORD=\n"


def test_elasticsearch_gets_the_plugins_it_lacks(tmp_path: Path) -> None:
    programs(tmp_path / "bin", elasticsearch_plugin='echo "$@"', tini='echo "$@"')
    (tmp_path / "plugins/analysis-icu").mkdir(parents=True)
    ran = start("elasticsearch", tmp_path, {}, PLUGINS="analysis-icu analysis-kuromoji")
    assert ran.stdout == "install --batch analysis-kuromoji\n-- docker-entrypoint.sh eswrapper\n"
    assert start("elasticsearch", tmp_path, {}, PLUGINS="").stdout == "-- docker-entrypoint.sh eswrapper\n"


USERS = """---
_meta:
  type: "internalusers"
  config_version: 2

# Demo users
admin:
  hash: "one"
  backend_roles:
  - "admin"

kibanaserver:
  hash: "two"
readall:
  hash: "three"
  backend_roles:
  - "readall"
"""
INSTALLER = """cat >>config/opensearch.yml <<'EOF'
plugins.security.ssl.http.enabled: true
plugins.security.authcz.admin_dn:
  - "CN=kirk"
plugins.security.allow_default_init_securityindex: true
EOF
echo installed"""


def test_opensearch_starts_without_the_users_and_the_certificate_that_everybody_knows(tmp_path: Path) -> None:
    """The image's two scripts are stand-ins: the first adds the kind of lines that the real one adds."""
    users, config = (
        tmp_path / f"config/{path}" for path in ("opensearch-security/internal_users.yml", "opensearch.yml")
    )
    users.parent.mkdir(parents=True)
    users.write_text(USERS)
    config.write_text("---\ncluster.name: docker-cluster\nnetwork.host: 0.0.0.0\n")
    tools = tmp_path / "plugins/opensearch-security/tools"
    tools.mkdir(parents=True)
    (tools / "install_demo_configuration.sh").write_text(INSTALLER)
    programs(tmp_path, **{"opensearch_docker_entrypoint.sh": 'echo "$@ $DISABLE_INSTALL_DEMO_CONFIG"'})
    assert start("opensearch", tmp_path, {}).stdout == "installed\nopensearch true\n"
    assert yaml.safe_load(users.read_text()).keys() == {"_meta", "admin"}
    assert yaml.safe_load(users.read_text())["admin"] == {"hash": "one", "backend_roles": ["admin"]}
    assert yaml.safe_load(config.read_text()) == {
        "cluster.name": "docker-cluster",
        "network.host": "0.0.0.0",
        "plugins.security.ssl.http.enabled": True,
        "plugins.security.allow_default_init_securityindex": True,
    }
    # The container is started again: what was done stays done.
    assert start("opensearch", tmp_path, {}).stdout == "opensearch true\n"


def test_the_dashboards_seal_their_sessions_with_a_new_key(tmp_path: Path) -> None:
    entry = {"opensearch_dashboards_docker_entrypoint.sh": 'echo "$DASHBOARDS_COOKIE_PASSWORD $@"'}
    programs(tmp_path, **entry)
    keys = {start("opensearch-dashboards", tmp_path, {}).stdout.split()[0] for _ in range(2)}
    assert len(keys) == 2
    assert all(len(key) >= 32 for key in keys)


# --- Couchbase ---

COUCHBASE = {
    "CLUSTER_NAME": "dify_search",
    "COUCHBASE_ADMINISTRATOR_USERNAME": "Administrator",
    "COUCHBASE_ADMINISTRATOR_PASSWORD": NASTY,
    "COUCHBASE_BUCKET": "Embeddings",
    "COUCHBASE_BUCKET_RAMSIZE": "512",
    "COUCHBASE_RAM_SIZE": "2048",
    "COUCHBASE_EVENTING_RAM_SIZE": "512",
    "COUCHBASE_INDEX_RAM_SIZE": "512",
    "COUCHBASE_FTS_RAM_SIZE": "1024",
}


class Couchbase(Server):
    """A stand-in for its administration: what was set up, and who may see it."""

    def __init__(self) -> None:
        super().__init__(self.lets_in, self.says)
        self.cluster: dict[str, list[str]] = {}
        self.buckets: dict[str, dict[str, list[str]]] = {}

    def lets_in(self, headers: dict[str, str]) -> bool:
        return not self.cluster or basic("Administrator", self.cluster["password"][0])(headers)

    def says(self, path: str, body: str) -> tuple[int, str]:
        if path == "/clusterInit":
            self.cluster = parse_qs(body)
        elif not self.cluster:
            return 404, '"unknown pool"'
        elif body:
            self.buckets[parse_qs(body)["name"][0]] = parse_qs(body)
            return 202, ""
        elif path == "/pools/default":
            return 200, '{"nodes":[{"status":"healthy"}]}'
        return 200, json.dumps([{"name": name} for name in self.buckets], separators=(",", ":"))


def couchbase(name: str, server: Server, folder: Path) -> int:
    """Run one of its scripts; the server itself is left out, and what is done beside it is waited for."""
    for file in ("login.sh", "healthy.sh", "start.sh"):
        text = script("couchbase-server", file).replace("127.0.0.1:8091", f"127.0.0.1:{server.port}")
        text = text.replace("/tmp/", f"{folder}/").replace("exec /entrypoint.sh couchbase-server", "wait")
        (folder / file).write_text(text)
    environment = {"PATH": os.environ["PATH"], **COUCHBASE}
    return subprocess.run(["bash", folder / name], env=environment, check=False, timeout=60).returncode


def test_couchbase_is_set_up_once(tmp_path: Path) -> None:
    with serving(Couchbase()) as server:
        assert couchbase("healthy.sh", server, tmp_path) != 0
        assert couchbase("start.sh", server, tmp_path) == 0
        assert server.cluster["password"] == [NASTY]
        assert server.cluster["services"] == ["kv,index,n1ql,fts"]
        assert server.cluster["ftsMemoryQuota"] == ["1024"]
        assert server.buckets["Embeddings"]["ramQuota"] == ["512"]
        assert couchbase("healthy.sh", server, tmp_path) == 0
        before = server.cluster, dict(server.buckets)
        server.asked.clear()
        assert couchbase("start.sh", server, tmp_path) == 0
        assert (server.cluster, server.buckets) == before
        assert [path for path, body in server.asked if body] == []


def test_a_couchbase_that_was_left_without_its_bucket_gets_it(tmp_path: Path) -> None:
    with serving(Couchbase()) as server:
        server.cluster = {"password": [NASTY]}
        assert couchbase("start.sh", server, tmp_path) == 0
        assert server.cluster == {"password": [NASTY]}
        assert server.buckets.keys() == {"Embeddings"}
