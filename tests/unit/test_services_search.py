"""Vector stores that search, ETL and certbot: their services as they are rendered."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from stack.render import Stack
from stack.secrets import is_secret
from tests.unit.wanted import CORE, PUBLISHED, compose_of, leaves, resolved, stack_of

NASTY = "p@ss:w/rd#$%'\" \\A1"
# What is chosen: what the operator sets, knobs, the services that come up, and their secrets as the operator names them.
CHOICES: dict[str, tuple[dict[str, str], dict[str, Any], dict[str, set[str]]]] = {
    "qdrant": ({"VECTOR_STORE": "qdrant"}, {}, {"qdrant": {"QDRANT_API_KEY"}}),
    "chroma": ({"VECTOR_STORE": "chroma"}, {}, {"chroma": {"CHROMA_SERVER_AUTHN_CREDENTIALS"}}),
    "couchbase": ({"VECTOR_STORE": "couchbase"}, {}, {"couchbase-server": {"COUCHBASE_PASSWORD"}}),
    "milvus": (
        {"VECTOR_STORE": "milvus"},
        {},
        {
            "etcd": set(),
            "minio": {"MINIO_ACCESS_KEY", "MINIO_SECRET_KEY"},
            "milvus-standalone": {"MILVUS_PASSWORD", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY"},
        },
    ),
    "opensearch": (
        {"VECTOR_STORE": "opensearch"},
        {},
        {
            "opensearch": {"OPENSEARCH_INITIAL_ADMIN_PASSWORD"},
            "opensearch-dashboards": {"OPENSEARCH_INITIAL_ADMIN_PASSWORD"},
        },
    ),
    "elasticsearch": (
        {"VECTOR_STORE": "elasticsearch"},
        {},
        {
            "elasticsearch": {"ELASTICSEARCH_PASSWORD"},
            "kibana": {"ELASTICSEARCH_PASSWORD", "KIBANA_PASSWORD", "KIBANA_ENCRYPTION_KEY"},
        },
    ),
    "elasticsearch-ja": ({"VECTOR_STORE": "elasticsearch-ja"}, {}, {"elasticsearch": {"ELASTICSEARCH_PASSWORD"}}),
    "unstructured": ({"ETL_TYPE": "Unstructured"}, {}, {"unstructured": set()}),
    "certbot": ({}, {"profiles": ["certbot"]}, {"certbot": set()}),
}
SERVICES = [(choice, service) for choice, (_, _, services) in CHOICES.items() for service in services]


def chosen(choice: str, **given: str) -> Stack:
    settings, knobs, _ = CHOICES[choice]
    return stack_of({**settings, **given}, **knobs)


def block(choice: str, service: str, **given: str) -> dict[str, Any]:
    found = resolved(chosen(choice, **given))["services"][service]
    assert isinstance(found, dict)
    return found


# --- The services ---


@pytest.mark.parametrize("choice", CHOICES)
def test_a_choice_brings_up_its_services_and_no_other(choice: str) -> None:
    store = set() if choice in ("unstructured", "certbot") else {"weaviate"}
    assert set(chosen(choice).services) == (CORE - store) | CHOICES[choice][2].keys()


@pytest.mark.parametrize(("choice", "service"), SERVICES)
def test_a_secret_is_required_and_no_other_is_read(choice: str, service: str) -> None:
    text = json.dumps(compose_of(chosen(choice))["services"][service])
    read = {name for name in re.findall(r"\$\{(\w+)", text) if is_secret(name)}
    assert read == CHOICES[choice][2][service]
    assert all(f"${{{name}:?is missing in .env}}" in text for name in read)


@pytest.mark.parametrize(("choice", "service"), SERVICES)
def test_nothing_published_runs(choice: str, service: str) -> None:
    found = chosen(choice)
    mounted = [file.data.decode() for path, file in found.files.items() if path.startswith(f"{service}/")]
    values = [*leaves(resolved(found)["services"][service])]
    known = {*PUBLISHED.values(), "d1a66dfd-c4d3-4a0a-8290-2abcb83ab3aa", "kibanaserver"}
    assert [value for value in known if value in values] == []
    # Inside of others too, unless it is an ordinary word.
    spelled = "\n".join([*values, *mounted])
    assert [value for value in known if len(value) > len("password") and value in spelled] == []


@pytest.mark.parametrize(
    ("choice", "service", "given", "name"),
    [
        ("qdrant", "qdrant", "QDRANT_API_KEY", "QDRANT__SERVICE__API_KEY"),
        ("chroma", "chroma", "CHROMA_AUTH_CREDENTIALS", "CHROMA_SERVER_AUTHN_CREDENTIALS"),
        ("couchbase", "couchbase-server", "COUCHBASE_PASSWORD", "COUCHBASE_ADMINISTRATOR_PASSWORD"),
        ("milvus", "milvus-standalone", "MILVUS_PASSWORD", "COMMON_SECURITY_DEFAULTROOTPASSWORD"),
        ("milvus", "milvus-standalone", "MINIO_SECRET_KEY", "MINIO_SECRET_ACCESS_KEY"),
        ("milvus", "minio", "MINIO_SECRET_KEY", "MINIO_SECRET_KEY"),
        ("opensearch", "opensearch", "OPENSEARCH_PASSWORD", "OPENSEARCH_INITIAL_ADMIN_PASSWORD"),
        ("opensearch", "opensearch-dashboards", "OPENSEARCH_PASSWORD", "OPENSEARCH_INITIAL_ADMIN_PASSWORD"),
        ("elasticsearch", "elasticsearch", "ELASTICSEARCH_PASSWORD", "ELASTIC_PASSWORD"),
        ("elasticsearch", "kibana", "ELASTICSEARCH_PASSWORD", "ELASTIC_PASSWORD"),
    ],
)
def test_any_password_reaches_the_service_by_its_environment_alone(
    choice: str, service: str, given: str, name: str
) -> None:
    found = block(choice, service, **{given: NASTY})
    assert found["environment"][name] == NASTY
    shown = json.dumps({key: value for key, value in found.items() if key != "environment"})
    assert "p@ss" not in shown


@pytest.mark.parametrize(("choice", "service"), SERVICES)
def test_a_service_says_what_it_needs(choice: str, service: str) -> None:
    found = chosen(choice).services[service]
    assert found.needs.memory > 0
    assert bool(found.needs.ports) is (service != "certbot")
    assert found.has_check is (service != "certbot")
    assert found.one_shot is (service == "certbot")


@pytest.mark.parametrize(("choice", "service"), SERVICES)
def test_a_service_that_stays_is_checked_and_comes_back(choice: str, service: str) -> None:
    found = block(choice, service)
    if service != "certbot":
        assert found["restart"] == "always"
        check = found["healthcheck"]
        assert {"test", "interval", "timeout", "retries", "start_period", "start_interval"} == check.keys()
    assert not {"ports", "container_name", "build"} & found.keys()


@pytest.mark.parametrize("service", ["opensearch", "elasticsearch"])
def test_what_maps_many_files_asks_the_kernel_for_it(service: str) -> None:
    found = chosen(service)
    assert found.services[service].needs.sysctl == {"vm.max_map_count": 262144}
    assert [f.first_owner for f in found.folders if f.path == f"volumes/{service}/data"] == [1000]


@pytest.mark.parametrize(
    ("choice", "service", "networks"),
    [
        ("milvus", "etcd", ["milvus"]),
        ("milvus", "minio", ["milvus"]),
        ("milvus", "milvus-standalone", ["milvus", "default"]),
        ("opensearch", "opensearch", ["opensearch-net", "default"]),
        ("opensearch", "opensearch-dashboards", ["opensearch-net"]),
    ],
)
def test_dify_reaches_the_store_and_not_its_helpers(choice: str, service: str, networks: list[str]) -> None:
    document = compose_of(chosen(choice))
    assert document["services"][service]["networks"] == networks
    assert set(networks) <= document["networks"].keys()
    assert set(networks) & set(document["services"]["api"].get("networks", ["default"])) == {"default"} & set(networks)


def test_opensearch_takes_its_limits_from_the_settings() -> None:
    assert block("opensearch", "opensearch")["ulimits"]["memlock"] == {"soft": "-1", "hard": "-1"}
    assert block("opensearch", "opensearch", OPENSEARCH_NOFILE_HARD="20000")["ulimits"]["nofile"]["hard"] == "20000"


@pytest.mark.parametrize(
    ("choice", "plugins"), [("elasticsearch", ""), ("elasticsearch-ja", "analysis-icu analysis-kuromoji")]
)
def test_japanese_needs_two_plugins(choice: str, plugins: str) -> None:
    assert block(choice, "elasticsearch")["environment"]["PLUGINS"] == plugins


@pytest.mark.parametrize(
    ("path", "secret"),
    [
        ("kibana/kibana.yml", "elasticsearch.password"),
        ("kibana/kibana.yml", "xpack.encryptedSavedObjects.encryptionKey"),
        ("opensearch-dashboards/opensearch_dashboards.yml", "opensearch.password"),
        ("opensearch-dashboards/opensearch_dashboards.yml", "opensearch_security.cookie.password"),
    ],
)
def test_a_configuration_file_names_the_variable_that_holds_the_secret(path: str, secret: str) -> None:
    choice = "elasticsearch" if path.startswith("kibana") else "opensearch"
    found = chosen(choice).files[path]
    assert found.mode == 0o644  # the programs run as 1000
    assert re.fullmatch(r"\$\{[A-Z_]+\}", yaml.safe_load(found.data)[secret])
