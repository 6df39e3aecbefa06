"""Exactly the containers that a change concerns are recreated."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stack import release
from stack.interpolate import interpolate
from stack.render import Stack, render
from tests.unit.upstream import SERVICES
from tests.unit.wanted import (
    BACKEND,
    CORE,
    OTHER_DATABASE,
    RELEASE,
    UPSTASH,
    compose_of,
    plain,
    settings_of,
    stack_of,
)


def changed(before: Stack, after: Stack) -> set[str]:
    names = before.services.keys() | after.services.keys()
    return {
        name
        for name in names
        if name not in before.services
        or name not in after.services
        or before.services[name].digest != after.services[name].digest
    }


@pytest.mark.parametrize(
    ("name", "value", "services"),
    [
        ("LOG_LEVEL", "DEBUG", BACKEND),
        ("PM2_INSTANCES", "3", {"web"}),
        ("NEXT_TELEMETRY_DISABLED", "1", {"web"}),
        ("MARKETPLACE_URL", "https://market.lan", {"web"}),
        ("TOP_K_MAX_VALUE", "20", BACKEND | {"web"}),
        ("CONSOLE_API_URL", "http://dify.lan", BACKEND | {"web"}),
        ("NGINX_CLIENT_MAX_BODY_SIZE", "1G", set()),
        ("NGINX_PROXY_READ_TIMEOUT", "60s", set()),
        ("NGINX_HTTPS_ENABLED", "true", {"nginx"}),
        ("EXPOSE_NGINX_PORT", "8080", {"nginx"}),
        ("SANDBOX_WORKER_TIMEOUT", "30", BACKEND | {"sandbox"}),
        ("SANDBOX_GIN_MODE", "debug", BACKEND | {"sandbox"}),
        ("SANDBOX_API_KEY", "another", BACKEND | {"sandbox"}),
        ("SANDBOX_PORT", "8199", BACKEND | {"sandbox", "ssrf_proxy"}),
        ("PIP_MIRROR_URL", "https://pypi.lan", BACKEND | {"sandbox"}),
        ("SSRF_HTTP_PORT", "3130", BACKEND | {"ssrf_proxy"}),
        ("POSTGRES_MAX_CONNECTIONS", "200", BACKEND | {"db_postgres"}),
        ("DB_PASSWORD", "another", BACKEND | {"db_postgres"}),
        ("REDIS_PASSWORD", "another", BACKEND | {"redis"}),
        ("WEAVIATE_QUERY_DEFAULTS_LIMIT", "50", BACKEND | {"weaviate"}),
        ("WEAVIATE_API_KEY", "another", BACKEND | {"weaviate"}),
        ("API_SENTRY_DSN", "https://sentry.lan/1", BACKEND),
        ("INIT_PASSWORD", "another", BACKEND),
    ],
)
def test_a_setting_concerns_the_services_that_read_it(name: str, value: str, services: set[str]) -> None:
    assert changed(plain(), stack_of({name: value})) == services


@pytest.mark.parametrize(
    ("given", "services"),
    [
        (UPSTASH, BACKEND | {"weaviate"}),
        (OTHER_DATABASE, BACKEND | {"db_postgres"}),
        (
            {"NGINX_ENABLE_CERTBOT_CHALLENGE": "true", "CERTBOT_DOMAIN": "dify.lan", "CERTBOT_EMAIL": "ops@dify.lan"},
            set(),
        ),
    ],
)
def test_a_choice_concerns_what_it_replaces_and_what_reads_it(given: dict[str, str], services: set[str]) -> None:
    assert changed(plain(), stack_of(given)) == services


@pytest.mark.parametrize(
    ("knobs", "services"),
    [
        ({"images": {"api": "own/dify-api:1.11.4"}}, {"api", "worker", "worker_beat"}),
        ({"images": {"nginx": "nginx:1.29.1"}}, {"nginx"}),
        ({"image_registry": {"docker.io": "mirror.lan"}}, CORE),
        ({"min_cpus": 1, "answer_timeout": 60, "docker_log_max_size": "1m"}, set()),
    ],
)
def test_a_knob_concerns_the_services_that_it_is_about(knobs: dict[str, Any], services: set[str]) -> None:
    assert changed(plain(), stack_of(**knobs)) == services


@pytest.mark.parametrize(
    ("template", "services"),
    [
        ("ssrf_proxy/squid.conf.j2", {"ssrf_proxy"}),
        ("volumes/sandbox/conf/config.yaml.j2", {"sandbox"}),
    ],
)
def test_a_file_concerns_the_service_that_mounts_it(templates: Path, template: str, services: set[str]) -> None:
    with (templates / template).open("a") as file:
        file.write("# one line more\n")
    assert changed(plain(), stack_of()) == services


def test_a_comment_in_the_compose_file_concerns_nobody(templates: Path) -> None:
    for template in ("docker-compose.yaml.j2", "services/web.yaml.j2"):
        good = (templates / template).read_text()
        (templates / template).write_text(
            good + "# one line more\n" if "/" not in template else good.replace("  #", "  # And")
        )
    assert changed(plain(), stack_of()) == set()


def test_what_the_host_must_provide_concerns_no_container(templates: Path) -> None:
    good = (templates / "services/redis.yaml.j2").read_text()
    (templates / "services/redis.yaml.j2").write_text(good.replace("redis:\n", "redis:\n  x-host: {memory: 1GiB}\n", 1))
    assert changed(plain(), stack_of()) == set()


def test_another_secret_of_another_host_is_another_container() -> None:
    assert changed(render(settings_of(fresh=True)), render(settings_of(fresh=True))) == BACKEND | {
        "db_postgres",
        "redis",
        "sandbox",
        "weaviate",
    }


# --- Who reads what: all settings at once ---

# These decide what is rendered, so they cannot stand for themselves; the table above has them.
SWITCHES = {
    "COMPOSE_PROFILES": "postgresql,weaviate",
    "NGINX_HTTPS_ENABLED": "true",
    "NGINX_ENABLE_CERTBOT_CHALLENGE": "true",
    "SANDBOX_GIN_MODE": "release",
    "DB_TYPE": "postgresql",
    "OCEANBASE_MEMORY_LIMIT": "6G",
    "SEEKDB_MEMORY_LIMIT": "2G",
    "OPENGAUSS_PORT": "6600",
}
# These stand in x-host lines too, where only a number will do.
NUMBERS = {
    "DIFY_PORT": "50001",
    "PLUGIN_DAEMON_PORT": "50002",
    "PLUGIN_DEBUGGING_PORT": "50003",
    "SSRF_HTTP_PORT": "50004",
    "SSRF_REVERSE_PROXY_PORT": "50005",
}
# {setting: (services that read it here and not upstream, or the other way round, why)}
OTHERWISE = {
    "DIFY_PORT": ({"nginx"}, "upstream's nginx has 5001 written into it"),
    "PLUGIN_DAEMON_PORT": ({"nginx"}, "upstream's nginx has 5002 written into it"),
    "CERTBOT_DOMAIN": ({"nginx"}, "the certificate lies in a folder of one name, whatever its domain"),
}


def readers() -> dict[str, set[str]]:
    """{setting: services whose block or mounted files change with it}, by giving each setting its own name as value."""
    values = {name: f"@@{name}@@" for name in RELEASE.settings} | SWITCHES | NUMBERS
    stack = render(replace(settings_of(), values=values))
    found: dict[str, set[str]] = {}
    for service, block in interpolate(compose_of(stack), values)["services"].items():
        mounts = tuple(volume.split(":")[0].removeprefix("./") + "/" for volume in block.get("volumes", []))
        texts = [
            json.dumps(block),
            *(file.data.decode() for path, file in stack.files.items() if path.startswith(mounts)),
        ]
        text = "\n".join(texts)
        for name in [*re.findall(r"@@(\w+?)@@", text), *(n for n, port in NUMBERS.items() if port in text)]:
            found.setdefault(name, set()).add(service)
    return found


def test_every_setting_is_read_by_the_services_that_the_release_names() -> None:
    table = (release.RELEASES / "1.11.4/settings.tsv").read_text().splitlines()[1:]
    found, unlike = readers(), {}
    for name, _, shared, read_by in (line.split("\t") for line in table):
        # One that stands in a service's own environment takes the place of the shared one of that name.
        hidden = {service for service in BACKEND if SERVICES[service]["environment"].get(name, [name])[0] != name}
        shared = "no" if name.startswith(release.NOT_SHARED) else shared
        upstream = (BACKEND - hidden if shared == "yes" else set()) | (set(read_by.split()) & CORE)
        # Those that are chosen are compared by real Compose, in the lab.
        ours = found.get(name, set()) & CORE
        if name not in SWITCHES and ours != upstream:
            unlike[name] = ours ^ upstream
    assert unlike == {name: services for name, (services, _) in OTHERWISE.items()}
