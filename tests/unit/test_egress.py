"""What the knobs ssrf_* open and close: as lists of networks, and as what squid gets."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given as examples
from hypothesis import strategies as st

from stack import egress
from stack.errors import InvalidError
from stack.render import Stack
from stack.secrets import mask
from tests.unit.wanted import compose_of, knobs, plain, settings_of, stack_of

PASSWORD = "p@ss w:rd%#\"'$\\"
IN_URL = "p%40ss%20w%3Ard%25%23%22%27%24%5C"
UPSTREAM = f"http://dify:{IN_URL}@proxy.example.com:3128"


def squid(stack: Stack) -> list[str]:
    return stack.files["ssrf_proxy/squid.conf"].data.decode().splitlines()


def networks(lines: list[str], name: str) -> list[egress.Network]:
    return [ip_network(found[1]) for line in lines if (found := re.fullmatch(rf"acl {name} dst (\S+/\d+)", line))]


def rules(lines: list[str], kind: str = "http_access") -> list[str]:
    return [line.removeprefix(f"{kind} ") for line in lines if line.startswith(f"{kind} ")]


# --- What is closed ---


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "10.1.2.3", "100.64.0.1", "100.100.100.200", "127.0.0.1", "168.63.129.16", "169.254.169.254", "172.16.0.1",
        "172.31.255.255", "192.0.0.192", "192.168.0.1", "198.18.0.1", "203.0.113.1", "224.0.0.1", "255.255.255.255", "::", "::1",
        "::10.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b:1::1", "2001:0:4136:e378::1", "2002:a00:1::",
        "fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1", "2001:db8::1",
    ],
)  # fmt: skip
def test_what_is_not_public_is_closed(address: str) -> None:
    assert any(ip_address(address) in network for network in egress.forbidden())


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "1.1.1.1", "172.32.0.1", "172.15.255.255", "100.63.255.255", "100.128.0.1", "169.253.1.1", "2606:4700::1111",
     "2a00:1450::1", "64:ff9b::8.8.8.8", "168.63.129.17", "2001:4860:4860::8888"],
)  # fmt: skip
def test_what_is_public_is_not_closed(address: str) -> None:
    assert not any(ip_address(address) in network for network in egress.forbidden())


@examples(st.ip_addresses())
def test_all_that_python_calls_private_is_closed(address: IPv4Address | IPv6Address) -> None:
    # Squid judges the IPv4 address in these, and knows no other.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    if address.is_private and not mapped:
        assert any(address in network for network in egress.forbidden())


def test_squid_gets_each_address_once_and_no_form_of_all_ipv4_addresses() -> None:
    closed = networks(squid(plain()), "forbidden")
    assert len(closed) > 40
    for one in closed:
        assert not any(one.version == other.version and one.overlaps(other) for other in closed if other is not one)
        assert one.version == 4 or not one.overlaps(ip_network("::ffff:0:0/96"))


def test_everything_is_everything() -> None:
    everything = [ip_network(text) for text in egress.EVERYTHING]
    for address in ("0.0.0.1", "8.8.8.8", "255.0.0.1", "::1", "2a00::1", "fd00::1", "64:ff9b::1"):
        assert any(ip_address(address) in network for network in everything)


def test_the_order_of_the_rules_is_the_protection() -> None:
    assert rules(squid(plain())) == [
        "deny manager",
        "deny !clients",
        "deny reverse_port CONNECT",
        "allow reverse_port sandbox_api",
        "deny reverse_port",
        "deny !CONNECT !web_protocols",
        "deny !safe_ports",
        "deny CONNECT !ssl_ports",
        "deny forbidden",
        "deny !resolved",
        "allow all",
    ]


def test_nothing_is_kept_by_the_proxy() -> None:
    assert {"cache deny all", "forwarded_for delete"} <= set(squid(plain()))


# --- What is opened ---


@examples(
    hole=st.integers(0, 2**32 - 1), size=st.integers(9, 32), address=st.integers(0, 2**32 - 1), near=st.booleans()
)
def test_a_hole_is_exactly_as_large_as_it_is(hole: int, size: int, address: int, near: bool) -> None:
    network = ip_network((hole >> (32 - size) << (32 - size), size))
    one = IPv4Address(min(max(int(network.network_address) + address % 3 - 1, 0), 2**32 - 1) if near else address)
    left = egress.without(egress.forbidden(), [network])
    was = any(one in each for each in egress.forbidden())
    assert any(one in each for each in left) == (was and one not in network)


def test_the_entries_become_rules_before_what_closes_them() -> None:
    lines = squid(
        stack_of(
            ssrf_allow=[
                "10.0.5.0/24",
                "10.9.9.9:8443",
                "[fd00::5]:8443",
                "wiki.example.com:8443",
                "fd12::/64",
                ".lan",
                "Deep.LAN",
            ],
            ssrf_connect_ports=[9443],
        )
    )
    found = rules(lines)
    single = found.index("allow port_8443 opened_names_8443")
    anywhere = found.index("allow opened !beyond")
    assert found[single + 1] == "allow port_8443 opened_8443 !beyond_8443"
    assert single < found.index("deny !safe_ports") < found.index("deny CONNECT !ssl_ports") < anywhere
    assert found.index("allow opened_names") < anywhere < found.index("deny forbidden")
    assert [str(one) for one in networks(lines, "opened")] == ["10.0.5.0/24", "fd12::/64"]
    assert [str(one) for one in networks(lines, "opened_8443")] == ["10.9.9.9/32", "fd00::5/128"]
    # Squid drops one of two names of which one holds the other.
    assert [line for line in lines if line.startswith("acl opened_names dstdomain")] == [
        "acl opened_names dstdomain -n .lan"
    ]
    assert "acl ssl_ports port 9443" in lines
    beyond = networks(lines, "beyond")
    assert not any(ip_address("10.0.5.7") in one for one in beyond)
    for address in ("10.0.6.1", "10.9.9.9", "169.254.169.254", "fd00::5"):
        assert any(ip_address(address) in one for one in beyond)


def test_names_are_never_what_an_address_says_it_is_called() -> None:
    lines = squid(stack_of(ssrf_allow=["wiki.lan", "wiki.lan:8443"], ssrf_allowed_domains=["example.com"]))
    named = [line for line in lines if " dstdomain " in line]
    assert len(named) >= 3
    assert all(" dstdomain -n " in line for line in named)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, ["api.example.com", "marketplace.dify.ai"]),
        ({"MARKETPLACE_API_URL": "https://market.example.net:8443/x"}, ["api.example.com", "market.example.net"]),
        ({"MARKETPLACE_ENABLED": "false"}, ["api.example.com"]),
    ],
)
def test_the_marketplace_is_one_of_the_domains_while_it_is_on(given: dict[str, str], wanted: list[str]) -> None:
    lines = squid(stack_of(given, ssrf_allowed_domains=["API.example.com", "api.example.com"]))
    assert [line for line in lines if line.startswith("acl domains")] == [
        f"acl domains dstdomain -n {one}" for one in wanted
    ]
    found = rules(lines)
    assert found.index("deny !domains") < found.index("deny forbidden")


def test_with_named_domains_a_name_with_one_opened_address_is_not_opened_to_the_rest() -> None:
    lines = squid(stack_of(ssrf_allow=["10.0.5.0/24"], ssrf_allowed_domains=["example.com"]))
    assert any(ip_address("8.8.8.8") in one for one in networks(lines, "beyond"))
    assert not any(ip_address("8.8.8.8") in one for one in networks(lines, "forbidden"))


# --- The other proxy ---


def test_all_that_leaves_goes_by_the_other_proxy() -> None:
    stack = stack_of(ssrf_upstream_proxy=UPSTREAM, ssrf_allow=["10.0.5.0/24", "wiki.lan:8443"])
    lines = squid(stack)
    assert rules(lines, "always_direct") == [
        "allow reverse_port", "allow port_8443 opened_names_8443", "allow opened !beyond",
    ]  # fmt: skip
    assert rules(lines, "never_direct") == ["allow all"]
    # A name that has no address here may have one there; what has a private one here is refused here.
    assert rules(lines)[-2:] == ["deny forbidden", "allow all"]
    assert rules(squid(plain()), "never_direct") == []


def test_its_password_is_squids_alone_and_shown_nowhere() -> None:
    stack = stack_of(ssrf_upstream_proxy=UPSTREAM)
    file = stack.files[egress.UPSTREAM]
    text = file.data.decode()
    assert text.split()[1:4] == ["proxy.example.com", "parent", "3128"]
    assert f"login=dify:{IN_URL}\n" in text
    assert (oct(file.mode), file.owner) == ("0o600", 13)
    assert [
        path for path, one in stack.files.items() if IN_URL in one.data.decode() or PASSWORD in one.data.decode()
    ] == [egress.UPSTREAM]
    assert IN_URL not in mask(text, stack.settings.secrets)
    assert mask(f"x {PASSWORD}", stack.settings.secrets) == "x [REDACTED]"
    assert IN_URL not in repr(stack.settings.knobs)


def test_no_login_is_left_behind_when_there_is_no_other_proxy_any_more() -> None:
    assert "cache_peer" not in plain().files[egress.UPSTREAM].data.decode()
    assert stack_of(ssrf_upstream_proxy=UPSTREAM).files.keys() == plain().files.keys()


@pytest.mark.parametrize(
    ("url", "host"), [("http://[fd00::9]:3128", "[fd00::9]"), ("http://10.0.0.9:3128/", "10.0.0.9")]
)
def test_the_other_proxy_may_have_an_address_and_ask_for_nothing(url: str, host: str) -> None:
    assert stack_of(ssrf_upstream_proxy=url).files[egress.UPSTREAM].data.decode() == (
        f"cache_peer {host} parent 3128 0 no-query no-digest no-netdb-exchange default name=upstream\n"
    )


# --- The way to the sandbox ---


@pytest.mark.parametrize(("given", "port"), [({}, "8194"), ({"SSRF_REVERSE_PROXY_PORT": "8195"}, "8195")])
def test_code_is_asked_for_at_the_proxy(given: dict[str, str], port: str) -> None:
    assert settings_of(given)["CODE_EXECUTION_ENDPOINT"] == f"http://ssrf_proxy:{port}"


def test_a_sandbox_elsewhere_is_asked_there() -> None:
    where = "https://sandbox.example.com"
    assert settings_of({"CODE_EXECUTION_ENDPOINT": where})["CODE_EXECUTION_ENDPOINT"] == where


@pytest.mark.parametrize("given", [
    {"CODE_EXECUTION_ENDPOINT": "http://sandbox:8194"},
    {"CODE_EXECUTION_ENDPOINT": "http://box:8194", "SSRF_SANDBOX_HOST": "box"},
])  # fmt: skip
def test_the_sandbox_itself_is_refused_as_an_endpoint(given: dict[str, str]) -> None:
    with pytest.raises(InvalidError, match="no network in common with the sandbox"):
        settings_of(given)


def test_only_the_proxy_is_with_the_sandbox() -> None:
    document = compose_of(plain())
    there = {name for name, block in document["services"].items() if "sandbox" in block.get("networks", [])}
    assert there == {"sandbox", "ssrf_proxy"}
    assert document["services"]["sandbox"]["networks"] == ["sandbox"]
    assert document["networks"]["sandbox"]["internal"] is True
    assert document["networks"]["sandbox"]["driver_opts"] == {"com.docker.network.bridge.inhibit_ipv4": "true"}
    assert plain().networks == document["networks"].keys()


# --- What is no value of a knob ---

WRONG = [
    ("ssrf_allow", ["10.0.0.5/8"], "'10.0.0.5/8': is no network: 10.0.0.0/8 or 10.0.0.5 is"),
    ("ssrf_allow", ["0.0.0.0/0"], "'0.0.0.0/0': would open every address"),
    ("ssrf_allow", ["::/0"], "'::/0': would open every address"),
    ("ssrf_allow", ["::ffff:10.0.0.1"], "'::ffff:10.0.0.1': write an IPv4 address as one"),
    ("ssrf_allow", ["10.0.0.256"], "'10.0.0.256': must be an address"),
    ("ssrf_allow", ["2130706433"], "'2130706433': must be an address"),
    ("ssrf_allow", ["0x7f.1"], "'0x7f.1': must be an address"),
    ("ssrf_allow", ["wiki.lan.0x7f"], "'wiki.lan.0x7f': must be an address"),
    ("ssrf_allow", ["https://wiki.lan"], "'https://wiki.lan': must be an address"),
    ("ssrf_allow", ["*.lan"], "'*.lan': must be an address"),
    ("ssrf_allow", ["wiki lan"], "'wiki lan': must be an address"),
    ("ssrf_allow", ["wiki.lan\nhttp_access allow all"], "must be an address"),
    ("ssrf_allow", [""], "must be an address"),
    ("ssrf_allow", ["wiki.lan:0"], "'wiki.lan:0': 0 is no port"),
    ("ssrf_allow", ["10.0.0.5:http"], "'10.0.0.5:http': http is no port"),
    ("ssrf_allow", ["[fd00::5]:70000"], "'[fd00::5]:70000': 70000 is no port"),
    ("ssrf_allow", "10.0.0.5", "must be a valid list"),
    ("ssrf_connect_ports", [0], "must be greater than or equal to 1"),
    ("ssrf_connect_ports", [65536], "must be less than or equal to 65535"),
    ("ssrf_connect_ports", ["https"], "must be a valid integer"),
    ("ssrf_allowed_domains", ["https://example.com"], "'https://example.com': must be a domain"),
    ("ssrf_allowed_domains", ["10.0.0.5"], "'10.0.0.5': must be a domain"),
    ("ssrf_allowed_domains", ["*.example.com"], "'*.example.com': must be a domain"),
    ("ssrf_upstream_proxy", "proxy.lan:3128", "must be http://host:port"),
    ("ssrf_upstream_proxy", "https://proxy.lan:3128", "must be http://host:port"),
    ("ssrf_upstream_proxy", "http://proxy.lan", "must be http://host:port"),
    ("ssrf_upstream_proxy", "http://proxy.lan:99999", "must be http://host:port"),
    ("ssrf_upstream_proxy", "http://proxy.lan:3128/path", "must be http://host:port"),
    ("ssrf_upstream_proxy", "http://dify:geheim%0Aname=x@proxy.lan:3128", "must be http://host:port"),
    ("ssrf_upstream_proxy", "http://dify:@proxy.lan:3128", "must be http://host:port"),
    ("ssrf_upstream_proxy", "http://proxy lan:3128", "must be http://host:port"),
]


@pytest.mark.parametrize(("knob", "value", "said"), WRONG)
def test_a_wrong_value_is_one_line_with_the_knob_and_what_is_allowed(knob: str, value: Any, said: str) -> None:
    with pytest.raises(InvalidError) as wrong:
        settings_of({}, **{knob: value})
    (line,) = wrong.value.lines
    assert line.startswith(knob)
    assert said in line
    assert "\n" not in line
    assert "geheim" not in line


def test_the_knobs_are_there_and_closed() -> None:
    assert {name: value for name, value in knobs().items() if name.startswith("ssrf_")} == {
        "ssrf_allow": [], "ssrf_connect_ports": [], "ssrf_allowed_domains": [], "ssrf_upstream_proxy": "",
    }  # fmt: skip
