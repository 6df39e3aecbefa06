"""Settings -> Stack: the files a host gets, and what must run on it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from stack.render import TEMPLATES, Folder, Stack, render
from tests.unit.wanted import (
    CORE,
    OTHER_DATABASE,
    RELEASE,
    UPSTASH,
    compose_of,
    plain,
    refused,
    resolved,
    settings_of,
    stack_of,
)

HTTPS = {"NGINX_HTTPS_ENABLED": "true"}
EXTERNAL = {**OTHER_DATABASE, **UPSTASH}


def text(path: str, given: dict[str, str] | None = None) -> str:
    return (stack_of(given) if given else plain()).files[path].data.decode()


# --- Files ---


def test_a_host_gets_these_files() -> None:
    assert {path: oct(file.mode) for path, file in plain().files.items()} == {
        ".env": "0o600",
        "docker-compose.yaml": "0o644",
        "nginx/headers.conf": "0o644",
        "nginx/http.conf": "0o644",
        "nginx/https.conf": "0o644",
        "nginx/inner.conf": "0o644",
        "nginx/nginx.conf": "0o644",
        "nginx/proxy.conf": "0o644",
        "nginx/routes.conf": "0o644",
        "nginx/version.conf": "0o644",
        "ssrf_proxy/squid.conf": "0o644",
        "ssrf_proxy/upstream.conf": "0o600",
        "volumes/sandbox/conf/config.yaml": "0o600",
        "volumes/sandbox/dependencies/python-requirements.txt": "0o644",
    }


def test_only_the_operators_own_file_is_made_once_and_then_left() -> None:
    assert [path for path, file in plain().files.items() if file.keep] == [
        "volumes/sandbox/dependencies/python-requirements.txt"
    ]


@pytest.mark.parametrize("given", [{}, HTTPS, EXTERNAL])
def test_rendering_twice_gives_the_same_bytes(given: dict[str, str]) -> None:
    one, other = render(settings_of(given)), render(settings_of(given))
    assert {path: file.data for path, file in one.files.items()} == {
        path: file.data for path, file in other.files.items()
    }
    assert one.services == other.services


@pytest.mark.parametrize("given", [{}, HTTPS, EXTERNAL])
def test_nothing_of_a_template_is_left(given: dict[str, str]) -> None:
    for path, file in stack_of(given).files.items():
        assert re.search(r"\{\{ |\{%|%\}|\{#", file.data.decode()) is None, path
        assert "Undefined" not in file.data.decode(), path


def test_every_name_that_a_template_reads_from_env_is_one_of_the_release() -> None:
    names = re.findall(r"\$\{([A-Z0-9_]+)", re.sub(r"\$\$", "", text("docker-compose.yaml")))
    # Kibana's two are ours: upstream gives it no login and a published key.
    ours = {"KIBANA_PASSWORD", "KIBANA_ENCRYPTION_KEY"}
    assert set(names) - {"SERVER_PORT"} - ours <= set(RELEASE.settings)


# --- The Compose file ---


def test_nothing_of_ours_is_in_the_way_of_compose() -> None:
    said = text("docker-compose.yaml")
    for word in ("x-host", "container_name", ":latest"):
        assert word not in said


def test_the_project_is_named_in_the_file() -> None:
    assert compose_of(stack_of(project="dify-two"))["name"] == "dify-two"


def test_only_nginx_publishes_ports() -> None:
    services = compose_of(plain())["services"]
    assert [name for name, block in services.items() if "ports" in block] == ["nginx"]


@pytest.mark.parametrize("service", sorted(CORE - {"init_permissions"}))
def test_every_service_that_stays_has_a_health_check(service: str) -> None:
    check = compose_of(plain())["services"][service]["healthcheck"]
    assert check["test"][0] in ("CMD", "CMD-SHELL")
    assert check["interval"] == "30s"
    assert {"timeout", "retries", "start_period", "start_interval"} <= check.keys()
    assert plain().services[service].has_check
    assert not plain().services[service].one_shot


def test_the_service_that_ends_is_known_to_end() -> None:
    assert plain().services["init_permissions"].one_shot
    assert not plain().services["init_permissions"].has_check


def test_a_health_check_follows_the_port_that_it_asks() -> None:
    given = {"DIFY_PORT": "5055", "SANDBOX_PORT": "8199", "NGINX_PORT": "81", "SSRF_HTTP_PORT": "3130"}
    services = resolved(stack_of(given))["services"]
    for service, port in (("api", "5055"), ("sandbox", "8199"), ("nginx", "81"), ("ssrf_proxy", "3130")):
        assert port in str(services[service]["healthcheck"]["test"])


def test_a_mount_is_of_a_folder_that_is_made_or_rendered() -> None:
    made = {folder.path for folder in plain().folders} | {str(Path(path).parent) for path in plain().files}
    blocks = compose_of(plain())["services"]
    for name in plain().services:
        for volume in blocks[name].get("volumes", []):
            # Without a source it is a volume of Docker's own making.
            assert ":" not in volume or volume.split(":")[0].removeprefix("./") in made


def test_the_sandbox_and_nobody_else_has_no_way_out_but_the_proxy() -> None:
    services = compose_of(plain())["services"]
    inside = {name for name, block in services.items() if block.get("networks") == ["sandbox"]}
    assert inside == {"sandbox"}


def test_services_of_profiles_that_are_not_chosen_are_in_the_file_but_do_not_run() -> None:
    stack = stack_of(EXTERNAL)
    assert set(compose_of(stack)["services"]) > CORE
    assert set(stack.services) == CORE - {"db_postgres", "weaviate"}


# --- Digests ---


def test_every_service_is_labelled_with_its_digest() -> None:
    labels = {name: block["labels"]["dify.digest"] for name, block in compose_of(plain())["services"].items()}
    assert labels.items() >= {name: service.digest for name, service in plain().services.items()}.items()
    assert len({*labels.values()}) == len(labels) > len(CORE)
    assert all(re.fullmatch("[0-9a-f]{16}", digest) for digest in labels.values())


def test_a_digest_is_quoted_so_that_12345e67_is_not_read_as_a_number() -> None:
    document: Any = yaml.compose(text("docker-compose.yaml"), yaml.CSafeLoader)
    nodes = [node for key, node in _pairs(document) if key == "dify.digest"]
    assert len(nodes) == len(compose_of(plain())["services"])
    assert {node.style for node in nodes} <= {"'", '"'}


def _pairs(node: Any) -> list[tuple[str, Any]]:
    """Every (key, node) of the document, anchors followed once."""
    if isinstance(node, yaml.MappingNode):
        return [pair for key, value in node.value for pair in [(key.value, value), *_pairs(value)]]
    return []


# --- Folders ---


def test_data_folders_belong_to_dify_or_are_left_to_their_containers() -> None:
    assert {(folder.path, folder.owner) for folder in plain().folders} == {
        ("volumes/app/storage", 1001),
        ("volumes/db/data", None),
        ("volumes/redis/data", None),
        ("volumes/weaviate", None),
        ("volumes/plugin_daemon", None),
        ("volumes/sandbox/conf", None),
        ("volumes/sandbox/dependencies", None),
        ("volumes/certbot/conf", None),
        ("volumes/certbot/www", None),
    }
    assert len(plain().folders) == len({folder.path for folder in plain().folders})


def test_storage_is_difys_whichever_service_comes_first() -> None:
    assert Folder("volumes/app/storage", 1001) in stack_of(EXTERNAL).folders


# --- Ports ---


@pytest.mark.parametrize(
    ("given", "ports"),
    [
        ({}, ["80"]),
        ({"EXPOSE_NGINX_PORT": "8080"}, ["8080"]),
        ({"EXPOSE_NGINX_PORT": "127.0.0.1:8080"}, ["127.0.0.1:8080"]),
        ({"EXPOSE_NGINX_PORT": "[::1]:8080"}, ["[::1]:8080"]),
        ({"NGINX_PORT": "8080"}, ["80"]),
        (HTTPS, ["80", "443"]),
        ({"NGINX_HTTPS_ENABLED": "True", "EXPOSE_NGINX_SSL_PORT": "127.0.0.1:8443"}, ["80", "127.0.0.1:8443"]),
        ({"EXPOSE_NGINX_SSL_PORT": "8443"}, ["80"]),
    ],
)
def test_ports_are_published_where_the_operator_says(given: dict[str, str], ports: list[str]) -> None:
    assert stack_of(given).ports == ports


# --- squid and the sandbox ---


def test_squid_leads_to_the_sandbox_and_out() -> None:
    lines = text("ssrf_proxy/squid.conf", {"SANDBOX_PORT": "8199", "SSRF_HTTP_PORT": "3130"}).splitlines()
    assert "http_port 3130 name=forward" in lines
    assert "http_port 8194 accel name=reverse defaultsite=sandbox:8199 no-vhost" in lines


def test_the_sandbox_is_configured_as_the_release_does_it() -> None:
    assert yaml.safe_load(text("volumes/sandbox/conf/config.yaml")) == {
        "app": {"port": 8194, "debug": False, "key": "placeholder-of-sandbox-api-key"},
        "max_workers": 4,
        "max_requests": 50,
        "worker_timeout": 15,
        "python_path": "/usr/local/bin/python3",
        "enable_network": True,
        "allowed_syscalls": [],
        "proxy": {"socks5": "", "http": "http://ssrf_proxy:3128", "https": "http://ssrf_proxy:3128"},
    }


@pytest.mark.parametrize("key", ["p@ss:w/rd#$%'\"", "it's <b>&", "{{ x }}", "- [a]: b", "back\\slash", "no", "123"])
def test_any_sandbox_key_comes_through_every_file(key: str) -> None:
    stack = stack_of({"SANDBOX_API_KEY": key})
    assert yaml.safe_load(stack.files["volumes/sandbox/conf/config.yaml"].data)["app"]["key"] == key
    services = resolved(stack)["services"]
    assert services["sandbox"]["environment"]["API_KEY"] == key
    assert services["api"]["environment"]["CODE_EXECUTION_API_KEY"] == key


# --- Wrong templates ---

NGINX = "nginx/http.conf.j2"


@pytest.mark.parametrize(
    ("file", "old", "new", "place", "reason"),
    [
        (NGINX, "setting.NGINX_PORT", "setting.NGINX_PROT", "nginx/http.conf.j2 line 2", "NGINX_PROT"),
        (NGINX, "{{ setting.NGINX_PORT }}", "{{ port }}", "nginx/http.conf.j2 line 2", "'port' is undefined"),
        ("nginx/inner.conf.j2", "{% endif %}", "", "nginx/inner.conf.j2 line", "Unexpected end of template"),
        (NGINX, "{{ setting.NGINX_PORT }}", "{{ setting. }}", "nginx/http.conf.j2 line 2", "expected name"),
        (NGINX, "{{ setting.NGINX_PORT }}", "{{ env() }}", "nginx/http.conf.j2 line 2", "missing"),
        (
            "services/web.yaml.j2",
            'image("web")',
            'image("wbe")',
            "services/web.yaml.j2 line ",
            "stack/releases/1.11.4/images.yaml names no image for wbe",
        ),
        (
            "services/web.yaml.j2",
            'env("PM2_INSTANCES")',
            'env("PM2_INSTANZES")',
            "services/web.yaml.j2 line ",
            "PM2_INSTANZES",
        ),
        ("services/web.yaml.j2", "restart: always", "restart: [always", "", "no valid YAML"),
        ("services/web.yaml.j2", "$$(hostname)", "$(hostname)", "", "write $$ for a dollar sign"),
        (
            "services/_backend.j2",
            "in databases",
            "in data_bases",
            "services/_backend.j2 line ",
            "'data_bases' is undefined",
        ),
    ],
)
def test_a_wrong_template_is_one_line_with_its_place(
    templates: Path, file: str, old: str, new: str, place: str, reason: str
) -> None:
    good = (templates / file).read_text()
    assert old in good
    (templates / file).write_text(good.replace(old, new))
    (said,) = refused(stack_of)
    assert said.startswith(f"templates/{place}" if place else "")
    assert reason in said


def test_a_service_is_one_more_file_and_nothing_else(templates: Path) -> None:
    """What the catalogue of vector stores will be made of."""
    (templates / "services/qdrant.yaml.j2").write_text(
        "qdrant:\n  x-host:\n    owner: 1000\n    memory: 1GiB\n"
        '    sysctl: {vm.max_map_count: 262144}\n  image: {{ image("weaviate") }}\n'
        "  profiles: [qdrant]\n  volumes:\n    - ./volumes/qdrant:/qdrant/storage\n"
    )
    unchosen, chosen = stack_of(), stack_of(profiles=["qdrant"])
    assert "qdrant" not in unchosen.services
    assert Folder("volumes/qdrant", 1000) in chosen.folders
    assert set(chosen.services) == CORE | {"qdrant"}
    assert "x-host" not in chosen.files["docker-compose.yaml"].data.decode()
    assert compose_of(chosen)["services"]["qdrant"]["labels"] == {"dify.digest": chosen.services["qdrant"].digest}


def test_a_database_with_a_template_is_waited_for(templates: Path) -> None:
    (templates / "services/db_mysql.yaml.j2").write_text(
        'db_mysql:\n  x-host: {memory: 1GiB}\n  image: {{ image("redis") }}\n  profiles: [mysql]\n'
    )
    for service in ("api", "worker", "worker_beat", "plugin_daemon"):
        assert compose_of(stack_of())["services"][service]["depends_on"]["db_mysql"] == {
            "condition": "service_healthy",
            "required": False,
        }


# --- The stack ---


def test_the_templates_are_those_of_this_repository() -> None:
    assert Path(__file__).resolve().parents[2] / "templates" == TEMPLATES
    assert isinstance(plain(), Stack)
