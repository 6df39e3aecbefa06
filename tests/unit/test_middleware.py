"""Middleware mode: what runs, where it is published, and the settings for an api, worker and web that run elsewhere."""

from __future__ import annotations

import re
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from dotenv import dotenv_values
from hypothesis import given as for_all
from hypothesis import strategies as some

from stack import developer, middleware, secrets
from stack.choices import DATABASES, VECTOR_STORES, host_of
from stack.render import Needs, Stack, service_names, service_text
from stack.requirements import failures
from tasks import preflight
from tests.unit.test_requirements import WITH_DOCKER
from tests.unit.wanted import PUBLISHED, compose_of, plain, refused, resolved, run_sh, settings_of, stack_of

AROUND = {"db_postgres", "redis", "sandbox", "plugin_daemon", "ssrf_proxy", "weaviate"}
# As the release's own docker-compose.middleware.yaml publishes them: setting, port on the host, service, port inside.
UPSTREAM = {
    ("EXPOSE_POSTGRES_PORT", "5432", "db_postgres", "5432"),
    ("EXPOSE_REDIS_PORT", "6379", "redis", "6379"),
    ("EXPOSE_PLUGIN_DAEMON_PORT", "5002", "plugin_daemon", "5002"),
    ("EXPOSE_PLUGIN_DEBUGGING_PORT", "5003", "plugin_daemon", "5003"),
    ("EXPOSE_SSRF_PROXY_PORT", "3128", "ssrf_proxy", "3128"),
    ("EXPOSE_SANDBOX_PORT", "8194", "ssrf_proxy", "8194"),
    ("EXPOSE_WEAVIATE_PORT", "8080", "weaviate", "8080"),
    ("EXPOSE_WEAVIATE_GRPC_PORT", "50051", "weaviate", "50051"),
}
LOCAL_STORES = sorted(name for name, choice in VECTOR_STORES.items() if choice.profile)


def around(given: dict[str, str] | None = None, **knobs: Any) -> Stack:
    return stack_of(given, mode="middleware", **knobs)


def published(stack: Stack) -> set[tuple[str, ...]]:
    """(address:port on the host, service, port inside) of all that runs."""
    blocks = resolved(stack)["services"]
    return {
        (port.rpartition(":")[0], name, port.rpartition(":")[2])
        for name in stack.services
        for port in blocks[name].get("ports", [])
    }


def api_env(stack: Stack) -> dict[str, str | None]:
    """What python-dotenv, and Dify's api with it, reads from the file for api and worker."""
    return dotenv_values(stream=StringIO(stack.files[developer.API_FILE].data.decode()))


def web_env(stack: Stack) -> dict[str, str | None]:
    return dotenv_values(stream=StringIO(stack.files[developer.WEB_FILE].data.decode()), interpolate=False)


# --- What runs ---


def test_all_but_dify_itself_runs() -> None:
    assert set(around().services) == AROUND
    assert set(compose_of(around())["services"]).isdisjoint(middleware.NOT_HERE)
    assert not any(path.startswith("nginx/") for path in around().files)
    assert {folder.path.split("/")[1] for folder in around().folders} == {
        "db", "redis", "sandbox", "plugin_daemon", "weaviate",
    }  # fmt: skip


def test_the_other_mode_publishes_nginx_only_and_has_no_such_files() -> None:
    assert plain().opened_by == {"80": "EXPOSE_NGINX_PORT"}
    assert not set(plain().files) & {developer.API_FILE, developer.WEB_FILE}
    assert "host-gateway" not in plain().files["docker-compose.yaml"].data.decode()


def test_what_is_added_counts_in_the_digest() -> None:
    moved = around({"EXPOSE_REDIS_PORT": "6380"})
    there = {name for name in AROUND if moved.services[name].digest != around().services[name].digest}
    assert there == {"redis"}
    assert around().services["redis"].digest != plain().services["redis"].digest


def test_a_profile_of_a_service_that_is_left_out_is_refused() -> None:
    (line,) = refused(lambda: around(profiles=["certbot"]))
    assert line.startswith("profiles: no service has the profile 'certbot'")


@pytest.mark.parametrize(
    ("given", "service"), [({"DB_TYPE": "mysql"}, "db_mysql"), ({"VECTOR_STORE": "qdrant"}, "qdrant")]
)
def test_a_choice_replaces_its_service(given: dict[str, str], service: str) -> None:
    stack = around(given)
    assert service in stack.services
    assert len(stack.services) == len(AROUND)
    assert any(name == service for _, name, _ in published(stack))


# --- Where ---


def test_ports_are_published_as_upstream_has_them_but_on_loopback() -> None:
    assert published(around()) == {(f"127.0.0.1:{port}", service, inside) for _, port, service, inside in UPSTREAM}
    assert around().opened_by == {f"127.0.0.1:{port}": setting for setting, port, _, _ in UPSTREAM}


@pytest.mark.parametrize(
    ("address", "before"),
    [("0.0.0.0", "0.0.0.0"), ("192.0.2.7", "192.0.2.7"), ("::1", "[::1]"), ("2001:db8::7", "[2001:db8::7]")],
)
def test_the_address_is_the_operators_to_choose(address: str, before: str) -> None:
    ports = {port.rpartition(":")[0] for port, _, _ in published(around(middleware_address=address))}
    assert ports == {before}


@pytest.mark.parametrize("address", ["", "localhost", "127.0.0.1:80", "300.1.1.1"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    (line,) = refused(lambda: settings_of(mode="middleware", middleware_address=address))
    assert line.startswith(f"middleware_address = {address!r} in group_data or host data")


@pytest.mark.parametrize(("setting", "service"), [(setting, service) for setting, _, service, _ in sorted(UPSTREAM)])
def test_each_port_can_be_another(setting: str, service: str) -> None:
    stack = around({setting: "12345"})
    assert stack.opened_by["127.0.0.1:12345"] == setting
    assert any(port == "127.0.0.1:12345" and name == service for port, name, _ in published(stack))
    text = stack.files[developer.API_FILE].data.decode()
    assert "12345" in text, f"{setting} is not in the settings for the api"


@pytest.mark.parametrize("value", ["0", "65536", "-1", "6379/tcp", "redis", "0.0.0.0:6379", "127.0.0.1:6379", "٦٣٧٩"])
def test_a_port_that_is_none_is_refused(value: str) -> None:
    (line,) = refused(lambda: around({"EXPOSE_REDIS_PORT": value}))
    assert f"EXPOSE_REDIS_PORT={value}: must be a port from 1 to 65535" in line


def test_two_services_at_one_port_are_refused() -> None:
    (line,) = refused(lambda: around({"EXPOSE_REDIS_PORT": "5432"}))
    assert line == (
        "port 127.0.0.1:5432: both EXPOSE_POSTGRES_PORT and EXPOSE_REDIS_PORT name it; give one of them another"
    )


@pytest.mark.parametrize("name", middleware.VOLUMES)
def test_a_data_folder_elsewhere_is_refused(name: str) -> None:
    (line,) = refused(lambda: around({name: "/srv/data"}))
    assert line.startswith(f".env line 1: {name}=/srv/data: data lies in volumes/ below the knob root")


def test_the_modes_own_settings_are_known_in_it_only() -> None:
    (line,) = refused(lambda: stack_of({"EXPOSE_REDIS_PORT": "6380"}))
    assert "EXPOSE_REDIS_PORT is no setting of this Dify release" in line
    (line,) = refused(lambda: around({"EXPOSE_REDSI_PORT": "6380"}))
    assert line.endswith("did you mean EXPOSE_REDIS_PORT?")


@pytest.mark.parametrize("store", LOCAL_STORES)
@pytest.mark.parametrize("database", sorted(DATABASES))
def test_no_choice_has_two_services_at_one_port(store: str, database: str) -> None:
    # Two OceanBases side by side: told at which settings to part them.
    parted = {"EXPOSE_SEEKDB_PORT": "2882"} if {store, database} == {"oceanbase", "seekdb"} else {}
    stack = around({"VECTOR_STORE": store, "DB_TYPE": database, **parted})
    of_store = [name for name, service in stack.services.items() if VECTOR_STORES[store].profile in service.profiles]
    assert of_store
    assert any(name in of_store for _, name, _ in published(stack)), f"nothing of {store} is published"


def test_all_that_is_optional_at_once_has_a_port_of_its_own_or_is_told_which_setting_to_change() -> None:
    (line,) = refused(lambda: around({"VECTOR_STORE": "opensearch"}, profiles=["elasticsearch"]))
    assert "EXPOSE_ELASTICSEARCH_PORT and EXPOSE_OPENSEARCH_PORT" in line
    stack = around({"VECTOR_STORE": "opensearch", "EXPOSE_OPENSEARCH_PORT": "9201"}, profiles=["elasticsearch"])
    assert {"127.0.0.1:9200", "127.0.0.1:9201"} <= set(stack.ports)


@pytest.mark.parametrize("service", sorted({*service_names()} - middleware.NOT_HERE - {*middleware.PORTS}))
def test_the_ports_read_from_a_service_file_are_those_the_renderer_reads(service: str) -> None:
    found = re.search(r"^  x-host: (\{.*\})$", service_text(plain().settings, service), re.MULTILINE)
    assert found
    needs = Needs.model_validate(yaml.safe_load(found[1]))
    assert [int(port.inside) for port in middleware._of_file(service)] == list(needs.ports.values())


def test_a_port_in_use_is_named_with_the_setting_that_moves_it() -> None:
    taken = replace(WITH_DOCKER, listeners=(("127.0.0.1:5432", "postgres"), ("0.0.0.0:8080", "java")))
    assert failures(taken, around(), {}) == [
        "port 127.0.0.1:5432 is held by postgres (127.0.0.1:5432): stop it, or set EXPOSE_POSTGRES_PORT",
        "port 127.0.0.1:8080 is held by java (0.0.0.0:8080): stop it, or set EXPOSE_WEAVIATE_PORT",
    ]
    elsewhere = replace(WITH_DOCKER, listeners=(("192.0.2.7:5432", "postgres"),))
    assert failures(elsewhere, around(), {}) == []


def test_the_ports_that_our_containers_ask_for_are_our_own(tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    asked = 'case "$*" in *PortBindings*) printf "5002\\n5003\\n\\n80\\n" ;; "ps --quiet"*) echo 5e1f ;; esac'
    docker.write_text(f"#!/bin/sh\n{asked}\n")
    docker.chmod(0o755)
    command = preflight.Found().command(root=str(tmp_path), project="dify")
    found = preflight.Found().process(run_sh(str(command), path=tmp_path).stdout.splitlines())
    assert set(found.own_ports) == {"5002", "5003", "80"}


def test_the_port_of_https_is_named_with_its_own_setting() -> None:
    taken = replace(WITH_DOCKER, listeners=(("0.0.0.0:443", "apache2"),))
    (line,) = failures(taken, stack_of({"NGINX_HTTPS_ENABLED": "true"}), {})
    assert line.endswith("set EXPOSE_NGINX_SSL_PORT")


# --- Into the host and out again ---


def test_containers_reach_the_developers_api_on_the_host() -> None:
    blocks = resolved(around())["services"]
    there = {name for name, block in blocks.items() if "extra_hosts" in block}
    assert there == {"plugin_daemon", "ssrf_proxy"}
    assert blocks["plugin_daemon"]["extra_hosts"] == ["host.docker.internal:host-gateway"]
    assert blocks["plugin_daemon"]["environment"]["DIFY_INNER_API_URL"] == "http://host.docker.internal:5001"


def test_plugins_need_no_signature_unless_told_so() -> None:
    def daemon(stack: Stack) -> dict[str, str]:
        block = resolved(stack)
        return {**block["x-shared-env"], **block["services"]["plugin_daemon"]["environment"]}

    assert daemon(around())["FORCE_VERIFYING_SIGNATURE"] == "false"
    assert daemon(around())["THIRD_PARTY_SIGNATURE_VERIFICATION_ENABLED"] == "true"
    assert daemon(around())["THIRD_PARTY_SIGNATURE_VERIFICATION_PUBLIC_KEYS"] == "/app/keys/publickey.pem"
    assert daemon(around({"FORCE_VERIFYING_SIGNATURE": "true"}))["FORCE_VERIFYING_SIGNATURE"] == "true"
    assert daemon(plain())["FORCE_VERIFYING_SIGNATURE"] == "true"


# --- The settings for the developer's own ---


def test_api_and_worker_are_told_where_everything_is_published() -> None:
    expected = {
        "DB_HOST": "127.0.0.1",
        "DB_PORT": "5432",
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": "6379",
        "CELERY_BROKER_URL": "redis://:placeholder-of-redis-password@127.0.0.1:6379/1",
        "WEAVIATE_ENDPOINT": "http://127.0.0.1:8080",
        "WEAVIATE_GRPC_ENDPOINT": "grpc://127.0.0.1:50051",
        "CODE_EXECUTION_ENDPOINT": "http://127.0.0.1:8194",
        "CODE_EXECUTION_API_KEY": "placeholder-of-sandbox-api-key",
        "PLUGIN_DAEMON_URL": "http://127.0.0.1:5002",
        "PLUGIN_DAEMON_KEY": "placeholder-of-plugin-daemon-key",
        "INNER_API_KEY_FOR_PLUGIN": "placeholder-of-plugin-dify-inner-api-key",
        "SSRF_PROXY_HTTP_URL": "http://127.0.0.1:3128",
        "ENDPOINT_URL_TEMPLATE": "http://localhost:5002/e/{hook_id}",
        "INTERNAL_FILES_URL": "http://host.docker.internal:5001",
        "VECTOR_STORE": "weaviate",
        "CELERY_BACKEND": "redis",
        "STORAGE_TYPE": "opendal",
        "SECRET_KEY": "placeholder-of-secret-key",
    }
    assert {name: api_env(around()).get(name) for name in expected} == expected


def test_ports_that_moved_are_followed() -> None:
    moved = {"EXPOSE_POSTGRES_PORT": "15432", "EXPOSE_REDIS_PORT": "16379", "EXPOSE_PLUGIN_DAEMON_PORT": "15002"}
    found = api_env(around(moved, middleware_address="2001:db8::7"))
    assert (found["DB_HOST"], found["DB_PORT"]) == ("2001:db8::7", "15432")
    assert (found["REDIS_HOST"], found["REDIS_PORT"]) == ("2001:db8::7", "16379")
    assert str(found["CELERY_BROKER_URL"]).endswith("@[2001:db8::7]:16379/1")
    assert found["ENDPOINT_URL_TEMPLATE"] == "http://[2001:db8::7]:15002/e/{hook_id}"
    assert found["WEAVIATE_ENDPOINT"] == "http://[2001:db8::7]:8080"


@pytest.mark.parametrize(("address", "reached"), [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("192.0.2.7", "192.0.2.7")])
def test_every_address_is_reached_at_one_that_can_be_typed(address: str, reached: str) -> None:
    assert api_env(around(middleware_address=address))["DB_HOST"] == reached


# Choices that are called like their own service.
CALLED_ALIKE = {"VECTOR_STORE", "DB_TYPE", "CELERY_BACKEND"}


@pytest.mark.parametrize("store", LOCAL_STORES)
def test_no_container_is_named_in_what_a_local_api_is_told(store: str) -> None:
    for name, value in api_env(around({"VECTOR_STORE": store})).items():
        if name not in CALLED_ALIKE:
            assert not {host_of(value or ""), value} & set(service_names()), f"{name}={value}"


@pytest.mark.parametrize("database", sorted(DATABASES))
def test_a_local_api_is_told_where_its_database_is(database: str) -> None:
    found = api_env(around({"DB_TYPE": database}))
    assert found["DB_TYPE"] == database
    assert (found["DB_HOST"], found["DB_PORT"]) == ("127.0.0.1", DATABASES[database].local["DB_PORT"])


def test_what_runs_elsewhere_is_left_as_it_was_given() -> None:
    given = {
        "DB_HOST": "db.example.com",
        "DB_PORT": "6432",
        "DB_PASSWORD": "of-the-operator",
        "REDIS_HOST": "cache.example.com",
        "REDIS_PASSWORD": "of-the-operator",
        "CODE_EXECUTION_ENDPOINT": "http://code.example.com",
        "LOG_LEVEL": "DEBUG",
        "CONSOLE_API_URL": "http://dev.example.com:5001",
        "EXPOSE_NGINX_PORT": "8080",
    }
    stack = around(given)
    found = api_env(stack)
    assert {name: found.get(name) for name in given if name != "EXPOSE_NGINX_PORT"} == {
        name: value for name, value in given.items() if name != "EXPOSE_NGINX_PORT"
    }
    assert "EXPOSE_NGINX_PORT" not in found
    assert "@cache.example.com:6379/1" in str(found["CELERY_BROKER_URL"])
    assert {"db_postgres", "redis"}.isdisjoint(stack.services)


def test_the_web_server_is_told_where_the_api_is() -> None:
    assert web_env(around())["NEXT_PUBLIC_API_PREFIX"] == "http://localhost:5001/console/api"
    assert web_env(around())["NEXT_PUBLIC_PUBLIC_API_PREFIX"] == "http://localhost:5001/api"
    told = web_env(around({"APP_API_URL": "http://dev.example.com:5001/", "MAX_TOOLS_NUM": "20"}))
    assert told["NEXT_PUBLIC_PUBLIC_API_PREFIX"] == "http://dev.example.com:5001/api"
    assert told["NEXT_PUBLIC_MAX_TOOLS_NUM"] == "20"
    text = around().files[developer.WEB_FILE].data.decode()
    assert not any(secret in text for secret in around().settings.secrets)


def test_both_files_are_for_root_only_and_no_published_secret_is_in_them() -> None:
    for path in (developer.API_FILE, developer.WEB_FILE):
        file = around().files[path]
        assert file.mode == 0o600
        assert not [name for name, value in PUBLISHED.items() if len(value) > 8 and value in file.data.decode()]


def test_secrets_are_made_as_ever() -> None:
    settings = settings_of(mode="middleware", fresh=True)
    made = {name: settings.values[name] for name in settings.chosen.secrets}
    assert {"SECRET_KEY", "DB_PASSWORD", "PLUGIN_DAEMON_KEY", "WEAVIATE_API_KEY"} <= set(made)
    assert not any(value.startswith("placeholder") or value in PUBLISHED.values() for value in made.values())
    again = settings_of(mode="middleware", fresh=True, kept=settings.values)
    assert {name: again.values[name] for name in made} == made


def test_the_name_of_public_keys_is_no_secret() -> None:
    assert not secrets.is_secret("THIRD_PARTY_SIGNATURE_VERIFICATION_PUBLIC_KEYS")
    assert secrets.is_secret("WEAVIATE_AUTHENTICATION_APIKEY_ALLOWED_KEYS")


def test_what_is_told_at_the_end_holds_no_secret_and_warns_of_an_open_address() -> None:
    lines = middleware.summary(around().settings, around().services)
    assert "weaviate" in lines[0] and lines[0].endswith("published on 127.0.0.1")
    assert "tasks.middleware.show" in lines[1]
    assert not any(secret in line for line in lines for secret in around().settings.secrets)
    settings = around(middleware_address="0.0.0.0").settings
    assert "whoever reaches that address" in middleware.summary(settings, AROUND)[0]


# --- As .env files are read ---

TEXT = some.text(some.characters(exclude_characters="\r\0", exclude_categories=["Cs"]), max_size=30)
NASTY = [
    "p@ss:w/rd#$%'\" \\",
    "${HOME}",
    "$HOME",
    "${",
    "a$${b}",
    "${a:-b}",
    "\\${HOME}",
    "trailing\\",
    "two\nlines",
    " ",
    "",
]


@for_all(TEXT | some.sampled_from(NASTY))
def test_python_dotenv_reads_back_what_was_meant(value: str) -> None:
    text = f"BEFORE=1\nNAME={developer.quote(value)}\nAFTER=2\n"
    assert dict(dotenv_values(stream=StringIO(text))) == {"BEFORE": "1", "NAME": value, "AFTER": "2"}


@pytest.mark.parametrize("value", NASTY)
def test_a_password_of_the_operators_arrives_as_it_is(value: str, tmp_path: Path) -> None:
    password = f"long-enough-{value}"
    stack = around({"REDIS_PASSWORD": password})
    (tmp_path / ".env").write_bytes(stack.files[developer.API_FILE].data)
    assert dotenv_values(tmp_path / ".env")["REDIS_PASSWORD"] == password


def test_made_secrets_need_no_quotes_so_that_every_reader_takes_them() -> None:
    settings = settings_of(mode="middleware", fresh=True)
    lines = developer.files(settings)[developer.API_FILE].splitlines()
    assert not [line for line in lines if "'" in line.partition("=")[2] or '"' in line]
