"""What can be reached: ports opened by name, what is refused, and the firewall's list."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import yaml

from stack import exposure, settings
from stack.errors import InvalidError
from stack.render import X_HOST, Needs, service_names, service_text
from stack.requirements import clashes, failures
from tests.unit.test_requirements import WITH_DOCKER
from tests.unit.wanted import REPOSITORY, compose_of, knobs, plain, refused, resolved, settings_of, stack_of

DEBUG = "plugin_daemon_debug"


def opened(**places: str) -> Any:
    return stack_of(expose=places)


def allowed(**changed: Any) -> list[str]:
    stack = stack_of(firewall="docker-user", **changed)
    return exposure.allowed(stack.settings.knobs, stack.opened_by)


# --- Ports by name ---


def test_nothing_but_nginx_is_published() -> None:
    assert plain().ports == ["80"]
    assert [name for name, block in compose_of(plain())["services"].items() if "ports" in block] == ["nginx"]


def test_a_port_is_published_at_its_address_and_changes_no_other_service() -> None:
    stack = opened(redis="10.0.0.5:16379", weaviate_grpc="[2001:db8:0::5]:50051")
    services = resolved(stack)["services"]
    assert services["redis"]["ports"] == ["10.0.0.5:16379:6379"]
    assert services["weaviate"]["ports"] == ["[2001:db8::5]:50051:50051"]
    assert stack.ports == ["80", "10.0.0.5:16379", "[2001:db8::5]:50051"]
    changed = {name for name, one in stack.services.items() if one.digest != plain().services[name].digest}
    assert changed == {"redis", "weaviate"}


def test_nginx_stays_the_first_port_whatever_is_opened() -> None:
    assert opened(api="127.0.0.1:5001", db_postgres="127.0.0.1:5432").ports[0] == "80"


def test_two_ports_of_one_service_can_be_opened() -> None:
    services = resolved(opened(plugin_daemon="127.0.0.1:5002", plugin_daemon_debug="10.0.0.5:5003"))["services"]
    assert services["plugin_daemon"]["ports"] == ["127.0.0.1:5002:5002", "10.0.0.5:5003:5003"]


def test_the_port_inside_is_the_one_that_is_set() -> None:
    stack = stack_of(
        {"PLUGIN_DEBUGGING_PORT": "6003", "DIFY_PORT": "5101"}, expose={DEBUG: "10.0.0.5:5003", "api": "127.0.0.1:1"}
    )
    services = resolved(stack)["services"]
    assert services["plugin_daemon"]["ports"] == ["10.0.0.5:5003:6003"]
    assert services["api"]["ports"] == ["127.0.0.1:1:5101"]


@pytest.mark.parametrize(
    ("place", "public_url", "host"),
    [
        ("10.0.0.5:15003", "", "10.0.0.5"),
        ("[2001:db8::5]:15003", "", "[2001:db8::5]"),
        ("0.0.0.0:15003", "", "localhost"),
        ("0.0.0.0:15003", "https://dify.example.com", "dify.example.com"),
    ],
)
def test_dify_is_told_where_plugins_are_debugged_as_host_and_number(place: str, public_url: str, host: str) -> None:
    api = resolved(stack_of(expose={DEBUG: place}, public_url=public_url))["services"]["api"]["environment"]
    assert (api["PLUGIN_REMOTE_INSTALL_HOST"], api["PLUGIN_REMOTE_INSTALL_PORT"]) == (host, "15003")


def test_what_the_operator_tells_dify_himself_wins() -> None:
    stack = stack_of({"EXPOSE_PLUGIN_DEBUGGING_PORT": "443"}, expose={DEBUG: "10.0.0.5:5003"})
    assert stack.settings["EXPOSE_PLUGIN_DEBUGGING_PORT"] == "443"
    assert "10.0.0.5:5003" in stack.ports


def test_nginx_on_one_address_works_as_ever() -> None:
    assert stack_of({"EXPOSE_NGINX_PORT": "127.0.0.1:8080"}).ports == ["127.0.0.1:8080"]


@pytest.mark.parametrize(
    ("expose", "said"),
    [
        ({"plugin_daemon_debg": "10.0.0.5:5003"}, "no port is called so; did you mean plugin_daemon_debug?"),
        ({"worker": "10.0.0.5:5003"}, 'expose["worker"]: no port is called so'),
        ({"nginx": "10.0.0.5:80"}, "nginx is published already; EXPOSE_NGINX_PORT"),
        ({"nginx_https": "10.0.0.5:443"}, "nginx is published already"),
        ({"qdrant": "10.0.0.5:6333"}, "qdrant does not run here; choose it"),
        ({"sandbox": "10.0.0.5:8194"}, "only, which has no way to the host"),
        ({"redis": "0.0.0.0:80"}, 'port 0.0.0.0:80: both EXPOSE_NGINX_PORT and expose["redis"] name it'),
        ({"redis": "10.0.0.5:80"}, "both EXPOSE_NGINX_PORT"),
    ],
)
def test_what_cannot_be_opened_is_refused(expose: dict[str, str], said: str) -> None:
    (line,) = refused(lambda: stack_of(expose=expose))
    assert said in line


def test_two_names_cannot_have_one_port() -> None:
    assert refused(lambda: opened(redis="10.0.0.5:1", web="0.0.0.0:1")) == [
        'expose["redis"]: expose["web"] has that port too; give one of them another',
        'expose["web"]: expose["redis"] has that port too; give one of them another',
    ]


def test_in_middleware_mode_all_is_published_already() -> None:
    (line,) = refused(lambda: stack_of(expose={"redis": "10.0.0.5:6379"}, mode="middleware"))
    assert "middleware_address" in line


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("5003", "must be address:port, as 10.0.0.5:5003"),
        (":5003", "must be address:port"),
        ("localhost:5003", "must be address:port"),
        ("10.0.0.5", "must be address:port"),
        ("10.0.0.5:0", "must be address:port"),
        ("10.0.0.5:65536", "must be address:port"),
        ("10.0.0.5:5003/tcp", "must be address:port"),
        ("2001:db8::5:5003", "must be address:port"),
        ("10.0.0.500:5003", "10.0.0.500 is no IP address"),
        ("[10.0.0]:5003", "is no IP address"),
    ],
)
def test_an_address_that_is_none_is_refused(place: str, said: str) -> None:
    (line,) = refused(lambda: settings.read_knobs(knobs(expose={DEBUG: place})))
    assert line.startswith("expose['plugin_daemon_debug'] = ")
    assert said in line


def test_the_setting_that_takes_only_a_number_leads_to_the_knob() -> None:
    (line,) = refused(lambda: settings_of({"EXPOSE_PLUGIN_DEBUGGING_PORT": "127.0.0.1:5003"}))
    assert 'expose = {"plugin_daemon_debug": "127.0.0.1:5003"}' in line


def test_an_open_port_that_is_taken_is_said_with_its_knob() -> None:
    taken = replace(WITH_DOCKER, listeners=(("0.0.0.0:5003", "java"),))
    assert failures(taken, opened(plugin_daemon_debug="10.0.0.5:5003"), {}) == [
        'port 10.0.0.5:5003 is held by java (0.0.0.0:5003): stop it, or set expose["plugin_daemon_debug"]'
    ]


def test_two_instances_cannot_open_one_port() -> None:
    one = opened(redis="10.0.0.5:6379")
    two = stack_of({"EXPOSE_NGINX_PORT": "81"}, expose={"web": "0.0.0.0:6379"}, project="two", root="/opt/two")
    assert clashes({"one": ("id", one), "two": ("id", two)}) == [
        'one and two are one machine: both publish port 10.0.0.5:6379; give each its own expose["redis"] in its data'
    ]


# --- What should be read ---


@pytest.mark.parametrize(
    ("name", "place", "said"),
    [
        ("redis", "10.0.0.5:6379", "open to whoever reaches 10.0.0.5, and passwords cross the network without TLS"),
        ("redis", "0.0.0.0:6379", "open to everybody who reaches the host"),
        ("unstructured", "10.0.0.5:8001", "it asks for no password"),
        ("redis", "127.0.0.1:6379", ""),
        ("redis", "[::1]:6379", ""),
    ],
)
def test_an_open_port_is_a_line_to_read(name: str, place: str, said: str) -> None:
    lines = [line for line in settings_of(expose={name: place}).warnings if line.startswith("expose")]
    assert len(lines) == bool(said)
    assert said in "".join(lines)


def test_a_list_without_a_firewall_is_a_line_to_read() -> None:
    def said(**changed: Any) -> list[str]:
        warnings = settings_of(firewall_allow=["8443"], **changed).warnings
        return [line for line in warnings if line.startswith("firewall_allow")]

    assert said() == ['firewall_allow: closes nothing while firewall = "off"']
    assert said(firewall="docker-user") == []


# --- The firewall's list ---


@pytest.mark.parametrize(
    ("changed", "lines"),
    [
        ({}, ["tcp 80 - -"]),
        ({"expose": {DEBUG: "10.0.0.5:5003"}}, ["tcp 5003 10.0.0.5 -", "tcp 80 - -"]),
        (
            {"expose": {DEBUG: "0.0.0.0:5003"}, "firewall_allow": [f"{DEBUG} from 203.0.113.0/24", f"{DEBUG} from 2001:db8::/32"]},
            ["tcp 5003 - 2001:db8::/32", "tcp 5003 - 203.0.113.0/24", "tcp 80 - -"],
        ),
        ({"expose": {DEBUG: "[2001:db8::5]:5003"}}, ["tcp 5003 2001:db8::5 -", "tcp 80 - -"]),
        ({"firewall_allow": ["nginx from 10.0.0.0/8"]}, ["tcp 80 - 10.0.0.0/8"]),
        ({"firewall_allow": ["80 from 10.0.0.0/8"]}, ["tcp 80 - 10.0.0.0/8"]),
        (
            {"firewall_allow": ["8443", "53/udp", "53/tcp from 10.0.0.1"]},
            ["tcp 53 - 10.0.0.1/32", "tcp 80 - -", "tcp 8443 - -", "udp 53 - -"],
        ),
        ({"given": {"EXPOSE_NGINX_PORT": "127.0.0.1:8080"}}, ["tcp 8080 127.0.0.1 -"]),
    ],
)  # fmt: skip
def test_what_may_come_in(changed: dict[str, Any], lines: list[str]) -> None:
    assert allowed(**changed) == lines


def test_in_middleware_mode_all_that_is_published_may_come_in() -> None:
    stack = stack_of(
        mode="middleware",
        middleware_address="10.0.0.5",
        firewall="docker-user",
        firewall_allow=["6379 from 10.0.0.0/8"],
    )
    lines = exposure.allowed(stack.settings.knobs, stack.opened_by)
    assert "tcp 6379 10.0.0.5 10.0.0.0/8" in lines
    assert len(lines) == len(stack.ports)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("70000", "must be a port or the name of an open one"),
        ("0", "must be a port"),
        ("8443/sctp", "must be a port"),
        ("nginx/tcp", "must be a port"),
        ("8443 203.0.113.0/24", "must be a port"),
        ("8443 from everywhere", "'everywhere' does not appear to be an IPv4 or IPv6 network"),
        ("8443 from 203.0.113.7/24", "203.0.113.7/24 has host bits set"),
        ("8443; reboot", "must be a port"),
    ],
)
def test_an_entry_that_is_none_is_refused(entry: str, said: str) -> None:
    (line,) = refused(lambda: settings.read_knobs(knobs(firewall_allow=[entry])))
    assert line.startswith("firewall_allow")
    assert said in line


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"firewall_allow": ["plugin_daemon_debug"]}, "no open port is called plugin_daemon_debug; there are nginx"),
        (
            {"expose": {DEBUG: "10.0.0.5:5003"}, "firewall_allow": ["plugin_daemon_debg"]},
            "there are nginx, plugin_daemon_debug; did you mean plugin_daemon_debug?",
        ),
        ({"mode": "middleware", "firewall_allow": ["redis"]}, 'with mode = "middleware" give its number'),
    ],
)
def test_an_entry_for_a_name_that_is_not_open_is_refused(changed: dict[str, Any], said: str) -> None:
    (line,) = refused(lambda: stack_of(firewall="docker-user", **changed))
    assert said in line


def test_a_wrong_kind_of_firewall_is_refused() -> None:
    with pytest.raises(InvalidError, match=r"firewall = 'nftables'.*must be 'off' or 'docker-user'"):
        settings.read_knobs(knobs(firewall="nftables"))


def test_the_names_in_the_documentation_are_those_there_are() -> None:
    offers = {name: exposure.Offer(_ports(name)) for name in service_names()}
    names = exposure.names(offers)
    assert len(names) == sum(len(offer.ports) for offer in offers.values())
    told = set(re.findall(r"^\| `([a-z_-]+)` \|", (REPOSITORY / "docs/exposure.md").read_text(), re.MULTILINE))
    assert told == {
        name for name, (service, _) in names.items() if service not in ("nginx", "sandbox", "opensearch-dashboards")
    }


def _ports(name: str) -> dict[str, int]:
    found = X_HOST.search(service_text(plain().settings, name))
    assert found
    return Needs.model_validate(yaml.safe_load(found[0])["x-host"]).ports
