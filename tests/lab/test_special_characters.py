"""Secrets with every kind of character: written to .env, read by a real Compose, and taken by the real servers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from shlex import quote as shell
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lab.hosts import Host
from stack import dotenv
from tests.lab.checkout import Checkout, Run
from tests.lab.containers import CORE, containers, reached, secrets_of, sh

pytestmark = pytest.mark.variants

BATCH = 100
NAMES = [f"SECRET_{number}" for number in range(BATCH)]
# Printable ones; the second kind is made of those that .env files, shells and Compose give a meaning to.
texts = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Zl", "Zp"]), min_size=1, max_size=20)
hard = st.text("'\"\\$#=nrt {}`:-?%!@/ ab", min_size=1, max_size=20)

# What a shell, a URL, YAML, JSON, SQL, Redis' configuration and Compose would each trip over.
ASKED = "p@ss:w/rd#$%'\" \\"
DEPLOYMENTS: dict[str, dict[str, Any]] = {
    "as people make them": {
        "knobs": {},
        "port": 80,
        "secrets": {
            "DB_PASSWORD": ASKED,
            "REDIS_PASSWORD": f"{ASKED}r",
            "SANDBOX_API_KEY": f"{ASKED}s",
            "PLUGIN_DAEMON_KEY": f"{ASKED}p",
            "PLUGIN_DIFY_INNER_API_KEY": f"{ASKED}i",
            "WEAVIATE_API_KEY": f"{ASKED}w",
            "SECRET_KEY": f"{ASKED} and long enough for a key",
            "INIT_PASSWORD": f"{ASKED}init",
        },
    },
    "worse": {
        "knobs": {"project": "two", "root": "/opt/two"},
        "port": 8080,
        "secrets": {
            "DB_PASSWORD": " ${HOME} $$ 'é ü 漢' \"$(id)\" \\n ",
            "REDIS_PASSWORD": "\\\"'${DB_PASSWORD} `id` é漢 # %40\\",
            # These go in HTTP headers, which end without spaces and have ASCII only.
            "SANDBOX_API_KEY": "'${HOME}\"`id`$(id) {{ 7 }} #=\\",
            "PLUGIN_DAEMON_KEY": "\\${SECRET_KEY} %s %25 ?&;|<>!*",
            "PLUGIN_DIFY_INNER_API_KEY": "$$$ \"'\\\\ [x]: - y",
            "WEAVIATE_API_KEY": "${WEAVIATE_API_KEY:-none} '\" \\t",
            "SECRET_KEY": " 'spaces' \"quotes\" é漢 ${HOME} and so on to the end ",
            "INIT_PASSWORD": ' é漢 ${HOME} "it\'s" \\',
        },
    },
}
# As the api asks the sandbox through squid, which passes the key on.
THROUGH_SQUID = """
import json, os, sys, urllib.error, urllib.request
key = os.environ["CODE_EXECUTION_API_KEY"] + sys.argv[1]
body = json.dumps({"language": "python3", "code": "print(6 * 7)"}).encode()
headers = {"Content-Type": "application/json", "X-Api-Key": key}
try:
    with urllib.request.urlopen(urllib.request.Request("http://ssrf_proxy:8194/v1/sandbox/run", body, headers)) as answer:
        print(answer.status, json.load(answer)["data"]["stdout"].strip())
except urllib.error.HTTPError as error:
    print(error.code)
"""


def quoted(value: str) -> str:
    """As an operator writes it into .env: in single quotes."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


@pytest.fixture(scope="module", params=list(DEPLOYMENTS), ids=list(DEPLOYMENTS))
def wanted(request: pytest.FixtureRequest) -> dict[str, Any]:
    return DEPLOYMENTS[request.param]


@pytest.fixture(scope="module")
def run(checkout: Checkout, wanted: dict[str, Any]) -> Run:
    """A deployment of its own on the module's one host: a password that data is made with is given once."""
    lines = [f"{name}={quoted(value)}\n" for name, value in wanted["secrets"].items()]
    checkout.write(".env", f"EXPOSE_NGINX_PORT={wanted['port']}\n" + "".join(lines))
    checkout.knobs = wanted["knobs"]
    return checkout.deploy("-vvv", "--debug", "--diff").ok()


@pytest.fixture
def host(checkout: Checkout, run: Run) -> Host:
    return checkout.hosts[0]


@pytest.fixture
def project(wanted: dict[str, Any]) -> str:
    return str(wanted["knobs"].get("project", "dify"))


def lets_in_postgres(host: Host, project: str, password: str) -> bool:
    """By TCP and with the password, as the api: the socket inside the container asks for none."""
    addresses = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    there = f"docker inspect --format '{addresses}' {project}-db_postgres-1"
    psql = f"psql -h $({there}) -U postgres -d dify -tAc 'select 6 * 7'"
    done = host.run(f"PGPASSWORD={shell(password)} docker exec --env PGPASSWORD {project}-db_postgres-1 {psql}")
    assert done.stdout.strip() == "42" or "password authentication failed" in done.stderr, done.stderr
    return done.returncode == 0


def lets_in_redis(host: Host, project: str, password: str) -> bool:
    done = host.run(f"REDISCLI_AUTH={shell(password)} docker exec --env REDISCLI_AUTH {project}-redis-1 redis-cli ping")
    said = done.stdout + done.stderr
    assert "PONG" in said or "WRONGPASS" in said, said
    return "PONG" in done.stdout


def asked_through_squid(host: Host, project: str, more: str) -> str:
    """What the sandbox answers to its key with `more` behind it."""
    done = host.run(f"docker exec -i {project}-api-1 python3 - '{more}'", stdin=THROUGH_SQUID)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_api_reaches_everything_with_them(host: Host, wanted: dict[str, Any], project: str) -> None:
    found = reached(host, port=wanted["port"])
    assert {"database", "redis", "broker", "worker", "sandbox", "plugin_daemon", "vector_store"} <= set(found)
    assert set(containers(host, project)) == CORE


def test_the_host_keeps_them_as_they_were_given(host: Host, wanted: dict[str, Any]) -> None:
    kept = secrets_of(host, wanted["knobs"].get("root", "/opt/dify"))
    assert kept.items() >= wanted["secrets"].items()
    assert kept["CODE_EXECUTION_API_KEY"] == wanted["secrets"]["SANDBOX_API_KEY"]
    assert kept["WEAVIATE_AUTHENTICATION_APIKEY_ALLOWED_KEYS"] == wanted["secrets"]["WEAVIATE_API_KEY"]


def test_the_containers_get_them_as_they_were_given(host: Host, wanted: dict[str, Any], project: str) -> None:
    environment = json.loads(sh(host, f"docker inspect --format '{{{{json .Config.Env}}}}' {project}-api-1"))
    got = dict(line.split("=", 1) for line in environment)
    given_here = {name: got[name] for name in wanted["secrets"] if name in got}
    assert len(given_here) >= 5
    assert given_here == {name: wanted["secrets"][name] for name in given_here}


@pytest.mark.parametrize(("name", "lets_in"), [("DB_PASSWORD", lets_in_postgres), ("REDIS_PASSWORD", lets_in_redis)])
def test_the_real_server_takes_the_password_and_no_other(
    host: Host, wanted: dict[str, Any], project: str, name: str, lets_in: Callable[[Host, str, str], bool]
) -> None:
    right = wanted["secrets"][name]
    assert lets_in(host, project, right)
    assert not lets_in(host, project, f"{right}x")
    assert not lets_in(host, project, right[:-1] + "x")


def test_squid_passes_the_sandboxs_key_on(host: Host, project: str) -> None:
    assert asked_through_squid(host, project, "") == "200 42"
    assert asked_through_squid(host, project, "x") == "401"


def test_the_init_password_opens_the_install_page(host: Host, wanted: dict[str, Any]) -> None:
    url = f"http://127.0.0.1:{wanted['port']}/console/api/init"
    for more, status in (("x", "401"), ("", "201")):
        body = json.dumps({"password": (wanted["secrets"]["INIT_PASSWORD"] + more)[-30:]})
        ask = f"curl -s -o /dev/null -w '%{{http_code}}' -H 'Content-Type: application/json' --data @- {url}"
        assert host.run(ask, stdin=body).stdout == status


def test_none_was_printed(run: Run, wanted: dict[str, Any]) -> None:
    assert run.changed
    assert {name for name, value in wanted["secrets"].items() if value in run.output} == set()


def test_another_run_changes_nothing(checkout: Checkout, host: Host, run: Run) -> None:
    assert checkout.deploy().ok().changed == []


# --- Any secret, through a real Compose ---


@pytest.fixture(scope="module")
def compose(checkout: Checkout) -> Callable[[list[str]], list[str]]:
    """What Compose makes of a batch of values in a .env of ours. It comes last: the module's host has Compose by then."""
    host = checkout.hosts[0]
    environment = {name: f"${{{name}:?is missing}}" for name in NAMES}
    document = json.dumps({"services": {"one": {"image": "one", "environment": environment}}})
    done = host.run("mkdir -p /root/any && cat > /root/any/docker-compose.yaml", stdin=document)
    assert done.returncode == 0, done.stderr

    def resolve(values: list[str]) -> list[str]:
        text = "".join(f"{name}={dotenv.quote(value)}\n" for name, value in zip(NAMES, values, strict=True))
        done = host.run("cd /root/any && cat > .env && docker compose config --format json", stdin=text)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)["services"]["one"]["environment"]
        # What `config` prints can be read by Compose again, so that it writes each $ twice.
        return [re.sub(r"\$\$", "$", found[name]) for name in NAMES]

    return resolve


@settings(max_examples=5, deadline=None, phases=[Phase.generate, Phase.shrink], suppress_health_check=list(HealthCheck))
@given(values=st.lists(texts | hard, min_size=BATCH, max_size=BATCH))
def test_compose_reads_any_secret_as_it_was_written(
    compose: Callable[[list[str]], list[str]], values: list[str]
) -> None:
    assert compose(values) == values
