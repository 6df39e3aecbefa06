"""The rendered Compose file beside the release's own: what differs is wanted, and said here why."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

import pytest

from stack import release
from tests.unit.upstream import SERVICES
from tests.unit.wanted import BACKEND, CORE, PUBLISHED, RELEASE, compose_of, plain, refused

# {path: why}. A path is service.key...; `*` stands for any part.
DIFFERENCES = {
    "init_permissions.image": "upstream floats: pinned",
    "nginx.image": "upstream floats: pinned",
    "ssrf_proxy.image": "upstream floats: pinned",
    "init_permissions.command.2": "the flag is set before the walk; says nothing; our own words",
    "*.environment.INNER_API_KEY_FOR_PLUGIN": "no published default",
    "plugin_daemon.environment.SERVER_KEY": "no published default",
    "plugin_daemon.environment.DIFY_INNER_API_KEY": "no published default",
    "db_postgres.environment.POSTGRES_PASSWORD": "no published default",
    "redis.environment.REDISCLI_AUTH": "no published default",
    "sandbox.environment.API_KEY": "no published default",
    "weaviate.environment.AUTHENTICATION_APIKEY_ALLOWED_KEYS": "no published default",
    "*.depends_on.db_mysql.*": "not offered yet",
    "*.depends_on.oceanbase.*": "not offered yet",
    "*.depends_on.seekdb.*": "not offered yet",
    "*.depends_on.redis.condition": "healthy, not merely started: the backend ends when Redis does not answer",
    "redis.command": "the password is no argument: every user of the host would see it in ps",
    "redis.entrypoint.*": "the password comes on stdin",
    "redis.healthcheck.*": "the password comes by REDISCLI_AUTH",
    "db_postgres.command": "the same options, quoted otherwise",
    "db_postgres.healthcheck.interval": "a check a second costs 80 ms of CPU each",
    "sandbox.healthcheck.*": "on the port that is set, and silent",
    "api.healthcheck.*": "upstream has none",
    "worker.healthcheck.*": "upstream has none",
    "worker_beat.healthcheck.*": "upstream has none",
    "web.healthcheck.*": "upstream has none",
    "plugin_daemon.healthcheck.*": "upstream has none",
    "ssrf_proxy.healthcheck.*": "upstream has none",
    "nginx.healthcheck.*": "upstream has none",
    "weaviate.healthcheck.*": "upstream has none",
    "plugin_daemon.ports.*": "nothing but nginx is published: the debugging port with the published key is a way in",
    "nginx.ports.1": "published only when HTTPS is on",
    "nginx.environment.*": "the files are rendered before they come to the host",
    "ssrf_proxy.environment.*": "the files are rendered before they come to the host",
    "nginx.volumes.*": "one folder: a replaced file is never seen through a mount of the file alone",
    "ssrf_proxy.volumes.*": "one folder: a replaced file is never seen through a mount of the file alone",
    "nginx.entrypoint.*": "no templates to fill in",
    "nginx.command.*": "reads our folder",
    "ssrf_proxy.entrypoint.*": "no templates to fill in",
    "ssrf_proxy.user": "its log goes to stdout, which only the image's own user may then write",
    "*.labels.dify.digest": "how a changed service is recognised",
}
VARIABLE = re.compile(r"\$\{(\w+)(?::-(.*)|:\?.*)\}")


def flat(path: str, node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from flat(f"{path}.{key}", value)
    elif isinstance(node, list):
        for at, value in enumerate(node):
            yield from flat(f"{path}.{at}", value)
    else:
        yield path, node


def read(text: Any) -> Any:
    """(setting, default) of a value that is read from .env; default None when it must be there."""
    match = VARIABLE.fullmatch(text) if isinstance(text, str) else None
    return (match[1], match[2]) if match else text


def ours() -> dict[str, Any]:
    """The core services, flat, without what they share."""
    compose = compose_of(plain())
    shared = compose["x-shared-env"]
    found: dict[str, Any] = {}
    for name, block in compose["services"].items():
        environment = block.pop("environment", {})
        block["environment"] = {
            key: read(value) for key, value in environment.items() if shared.get(key) != value or name not in BACKEND
        }
        found |= flat(name, block)
    return found


def theirs() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, block in SERVICES.items():
        found |= flat(name, {key: value for key, value in block.items() if key != "reads_shared_settings"})
    return found


@cache
def unlike() -> set[str]:
    one, other = ours(), theirs()
    return {path for path in one.keys() | other.keys() if one.get(path) != other.get(path)}


def test_every_service_is_there_and_no_other() -> None:
    assert set(compose_of(plain())["services"]) == set(SERVICES) == CORE


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_a_service_is_the_releases_but_for_what_is_said_above(service: str) -> None:
    paths = [path for path in unlike() if path.startswith(f"{service}.")]
    assert [path for path in paths if not any(fnmatchcase(path, pattern) for pattern in DIFFERENCES)] == []


@pytest.mark.parametrize("pattern", DIFFERENCES)
def test_a_difference_that_is_said_above_is_one(pattern: str) -> None:
    assert any(fnmatchcase(path, pattern) for path in unlike())


@pytest.mark.parametrize("service", sorted(CORE))
def test_who_gets_all_shared_settings(service: str) -> None:
    environment = compose_of(plain())["services"][service].get("environment", {})
    shared = {setting.name for setting in RELEASE.settings.values() if setting.shared}
    assert (shared <= environment.keys()) is bool(SERVICES[service]["reads_shared_settings"]) is (service in BACKEND)


def test_shared_settings_are_those_of_the_release_in_its_order() -> None:
    names = [setting.name for setting in RELEASE.settings.values() if setting.shared]
    assert list(compose_of(plain())["x-shared-env"]) == names
    assert len(names) == 677


def test_a_shared_setting_has_the_releases_default_unless_it_is_a_published_credential() -> None:
    shared = {name: read(text) for name, text in compose_of(plain())["x-shared-env"].items()}
    other = {name for name, value in shared.items() if value != (name, RELEASE.default(name))}
    assert other == {*PUBLISHED, "INIT_PASSWORD"}  # which has none, and is made for each host


def test_postgres_gets_the_releases_options() -> None:
    option = re.compile(r"\w+=\$\{\w+:-\w+\}")
    said = option.findall(compose_of(plain())["services"]["db_postgres"]["command"])
    assert said == option.findall(SERVICES["db_postgres"]["command"])
    assert len(said) == 7


def test_networks_are_the_releases() -> None:
    # Those of Milvus and OpenSearch come with them.
    assert compose_of(plain())["networks"] == {
        "default": {"driver": "bridge"},
        "ssrf_proxy_network": {"driver": "bridge", "internal": True},
    }


def test_the_table_of_settings_is_whole() -> None:
    assert len(RELEASE.settings) == 681
    assert {name for name, setting in RELEASE.settings.items() if not setting.shared} == {
        "COMPOSE_PROFILES",
        "MARKETPLACE_URL",
        "NEXT_TELEMETRY_DISABLED",
        "PM2_INSTANCES",
    }
    assert RELEASE.default("LOG_DATEFORMAT") == "%Y-%m-%d %H:%M:%S"
    assert RELEASE.default("OPENSEARCH_INITIAL_ADMIN_PASSWORD") == "Qazwsxedc!@#123"


def test_images_are_the_releases_but_for_those_that_float() -> None:
    upstream = {name: SERVICES[name]["image"] for name in RELEASE.images}
    assert {name for name, image in RELEASE.images.items() if image != upstream[name]} == {
        name for name, image in upstream.items() if image.endswith(":latest")
    }
    assert set(RELEASE.images) == CORE - {"worker", "worker_beat"}


def test_a_release_without_data_is_refused() -> None:
    assert release.versions() == ["1.11.4"]
    assert refused(lambda: release.load("1.13.3")) == ["dify_version = '1.13.3': no such release here; known: 1.11.4"]
