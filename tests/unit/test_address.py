"""One public address: what follows from it, and which mixes are refused."""

from __future__ import annotations

import re
from itertools import product
from urllib.parse import urlsplit

import pytest
from hypothesis import given as example_of
from hypothesis import strategies as st

from stack import address, release
from tests.unit.wanted import RELEASE, compose_of, plain, refused, resolved, settings_of, stack_of

HTTPS = "https://dify.example.com"
BOTH_DOMAINS = {"COOKIE_DOMAIN": "example.com", "NEXT_PUBLIC_COOKIE_DOMAIN": "1"}


def values(public_url: str, given: dict[str, str] | None = None, mode: str = "dify") -> dict[str, str]:
    return settings_of(given, public_url=public_url, mode=mode).values


# --- The knob ---


@pytest.mark.parametrize(
    ("typed", "origin"),
    [
        ("https://dify.example.com", "https://dify.example.com"),
        ("https://dify.example.com/", "https://dify.example.com"),
        ("https://dify.example.com:443", "https://dify.example.com"),
        ("https://dify.example.com:8443", "https://dify.example.com:8443"),
        ("http://dify.example.com:443", "http://dify.example.com:443"),
        ("http://192.0.2.7:8080", "http://192.0.2.7:8080"),
        ("http://192.0.2.7:80", "http://192.0.2.7"),
        ("http://[2001:DB8::0:1]:8080/", "http://[2001:db8::1]:8080"),
        ("HTTPS://Dify.Example.COM", "https://dify.example.com"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
        ("http://localhost", "http://localhost"),
        ("http://my_host", "http://my_host"),
    ],
)
def test_an_address_is_what_a_browser_makes_of_it(typed: str, origin: str) -> None:
    assert address.parse(typed).origin == origin


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (
            "https://dify.example.com/dify",
            "must end after the host and port: Dify's web image was built to lie at the root",
        ),
        ("https://dify.example.com?x=1", "must end after the host and port"),
        ("https://dify.example.com?", "must end after the host and port"),
        ("https://dify.example.com#top", "must end after the host and port"),
        ("https://operator:hidden@dify.example.com", "must have no user and password"),
        ("https://hidden@dify.example.com", "must have no user and password"),
        ("ftp://dify.example.com", "must begin with http:// or https://"),
        ("dify.example.com", "must begin with http:// or https://"),
        ("dify.example.com:80", "must begin with http:// or https://"),
        ("//dify.example.com", "must begin with http:// or https://"),
        ("https://", "is no host"),
        ("https://:8080", "is no host"),
        ("https://-dify.example.com", "is no host"),
        ("https://dify..example.com", "is no host"),
        ("https://dify.example.com.", "is no host"),
        ("https://dify$x.example.com", "is no host"),
        ("https://192.0.2.700", "is no host"),
        ("https://192.0.2", "is no host"),
        ("https://[fe80::1%eth0]", "is no host"),
        ("https://[2001:zz]", ""),
        ("https://[::1", "no address"),
        ("https://[::1]x", ""),
        (f"https://{'a' * 64}.example.com", "is no host"),
        ("https://straße.example", "give it in its xn-- form"),
        ("https://dify.example.com:0", "the port must be 1 to 65535"),
        ("https://dify.example.com:", "the port must be 1 to 65535"),
        ("https://dify.example.com:65536", "no address"),
        ("https://dify.example.com:https", "no address"),
        ("https://dify.example.com ", "a space"),
        ("https://dify.example.com\n", "a space"),
    ],
)
def test_what_is_no_address_is_refused_in_one_line(typed: str, said: str) -> None:
    (line,) = refused(lambda: settings_of(public_url=typed))
    assert line.startswith("public_url")
    assert said in line
    assert "hidden" not in line


@example_of(st.text(max_size=30) | st.from_regex(r"https?://[a-z0-9.\[\]:@/%-]{0,30}", fullmatch=True))
def test_whatever_is_typed_is_an_address_or_a_sentence(typed: str) -> None:
    try:
        origin = address.parse(typed).origin
    except ValueError as wrong:
        assert str(wrong)
    else:
        assert address.parse(origin).origin == origin
        assert urlsplit(origin).path == ""


# --- What follows ---


def test_without_an_address_nothing_follows() -> None:
    assert not {*address.PLAIN, "ENDPOINT_URL_TEMPLATE", "INTERNAL_FILES_URL", "NGINX_SERVER_NAME"} & set(
        plain().settings.values
    )


def test_everything_follows_from_one_address() -> None:
    found = values("https://dify.example.com:8443/")
    assert {name: found[name] for name in address.PLAIN} == dict.fromkeys(
        address.PLAIN, "https://dify.example.com:8443"
    )
    assert found["ENDPOINT_URL_TEMPLATE"] == "https://dify.example.com:8443/e/{hook_id}"
    assert found["INTERNAL_FILES_URL"] == "http://api:5001"
    assert found["NGINX_SERVER_NAME"] == "dify.example.com"


@pytest.mark.parametrize("version", release.versions())
def test_every_release_has_what_follows(version: str) -> None:
    derived = address.settings("http://h:81", release.load(version), {}) | address.settings(
        "https://h:81", release.load(version), {"NGINX_HTTPS_ENABLED": "true"}
    )
    assert set(derived) <= set(release.load(version).settings)


@pytest.mark.parametrize("name", ["COOKIE_DOMAIN", "NEXT_PUBLIC_COOKIE_DOMAIN"])
def test_cookies_stay_with_the_host_alone(name: str) -> None:
    assert name not in values(HTTPS)


@pytest.mark.parametrize(
    ("public_url", "given", "ports"),
    [
        ("http://dify.lan", {}, ["80"]),
        ("http://dify.lan:8080", {}, ["8080"]),
        ("http://dify.lan:8080", {"EXPOSE_NGINX_PORT": "9000"}, ["9000"]),
        ("https://dify.lan:8443", {}, ["80"]),
        ("https://dify.lan", {"NGINX_HTTPS_ENABLED": "true"}, ["80", "443"]),
        ("https://dify.lan:8443", {"NGINX_HTTPS_ENABLED": "true"}, ["80", "8443"]),
        ("https://dify.lan:8443", {"NGINX_HTTPS_ENABLED": "true", "EXPOSE_NGINX_SSL_PORT": "444"}, ["80", "444"]),
    ],
)
def test_nginx_is_published_where_browsers_will_ask(public_url: str, given: dict[str, str], ports: list[str]) -> None:
    assert stack_of(given, public_url=public_url).ports == ports


def test_files_inside_go_to_the_port_that_the_api_has() -> None:
    assert values(HTTPS, {"DIFY_PORT": "5055"})["INTERNAL_FILES_URL"] == "http://api:5055"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            (name, "https://dify.example.com:8443")
            for name in ("SERVICE_API_URL", "FILES_URL", "TRIGGER_URL", "APP_WEB_URL")
        ),
        ("ENDPOINT_URL_TEMPLATE", "https://hooks.example.com/e/{hook_id}"),
        ("NGINX_SERVER_NAME", "_"),
        ("INTERNAL_FILES_URL", "http://api.lan:5001"),
    ],
)
def test_each_can_be_set_by_itself(name: str, value: str) -> None:
    wanted = settings_of({name: value}, public_url=HTTPS)
    assert wanted[name] == value


def test_the_containers_get_them() -> None:
    services = resolved(stack_of(public_url=HTTPS))["services"]
    assert services["web"]["environment"]["CONSOLE_API_URL"] == HTTPS
    for service in ("api", "worker", "plugin_daemon"):
        environment = services[service]["environment"]
        assert environment["FILES_URL"] == environment["TRIGGER_URL"] == HTTPS
        assert environment["ENDPOINT_URL_TEMPLATE"] == HTTPS + "/e/{hook_id}"


def test_a_developers_middleware_has_no_public_address() -> None:
    assert "CONSOLE_API_URL" not in values(HTTPS, mode="middleware")


# --- nginx ---


def proxy(public_url: str = "") -> dict[str, str]:
    """{header: value} that nginx sends to what is behind it."""
    text = stack_of(public_url=public_url).files["nginx/proxy.conf"].data.decode()
    return dict(re.findall(r"proxy_set_header (\S+) (\S+);", text))


def test_the_host_keeps_the_port_that_the_browser_asked_at() -> None:
    assert proxy()["Host"] == "$asked_host"
    nginx = plain().files["nginx/nginx.conf"].data.decode()
    assert re.search(r'map \$http_host \$asked_host \{\s+"" \$host;\s+default \$http_host;\s+\}', nginx)


@pytest.mark.parametrize(
    ("public_url", "scheme", "port"),
    [
        ("", "$scheme", "$server_port"),
        ("http://dify.lan:8080", "http", "8080"),
        (HTTPS, "https", "443"),
        ("https://dify.lan:8443", "https", "8443"),
    ],
)
def test_what_is_behind_nginx_is_told_what_browsers_see(public_url: str, scheme: str, port: str) -> None:
    headers = proxy(public_url)
    assert (headers["X-Forwarded-Proto"], headers["X-Forwarded-Port"]) == (scheme, port)


@pytest.mark.parametrize(
    ("public_url", "hook"),
    [("", "$scheme://$asked_host$request_uri"), ("https://dify.lan:8443", "https://dify.lan:8443$request_uri")],
)
def test_a_plugins_endpoint_is_told_its_public_address(public_url: str, hook: str) -> None:
    text = stack_of(public_url=public_url).files["nginx/routes.conf"].data.decode()
    assert f"proxy_set_header Dify-Hook-Url {hook};" in text


# --- Mixes ---


def cookie_names(found: dict[str, str]) -> tuple[str, str]:
    """(what the api calls the cookie, what the page looks for), as Dify 1.11.4 decides it in its two programs."""
    web, api = found.get("CONSOLE_WEB_URL", ""), found.get("CONSOLE_API_URL", "")
    by_api = (
        web.startswith("https")
        and api.startswith("https")
        and not found.get("COOKIE_DOMAIN", "").strip().removeprefix(".")
    )
    by_page = api.startswith("https://") and not found.get("NEXT_PUBLIC_COOKIE_DOMAIN", "").strip()
    return tuple("__Host-csrf_token" if host else "csrf_token" for host in (by_api, by_page))  # type: ignore[return-value]


ADDRESSES = ["", "http://dify.example.com", "https://dify.example.com"]


@pytest.mark.parametrize(("web", "api"), [*product(ADDRESSES, ADDRESSES)])
@pytest.mark.parametrize(("domain", "page_domain"), [*product(["", "example.com", ".example.com"], ["", "1"])])
def test_no_mix_of_schemes_and_domains_gives_the_cookie_two_names(
    web: str, api: str, domain: str, page_domain: str
) -> None:
    given = {
        "CONSOLE_WEB_URL": web,
        "CONSOLE_API_URL": api,
        "COOKIE_DOMAIN": domain,
        "NEXT_PUBLIC_COOKIE_DOMAIN": page_domain,
    }
    by_api, by_page = cookie_names(given)
    blocked = web.startswith("https:") and api.startswith("http:")
    assert bool(address.problems(RELEASE, given)) is (by_api != by_page or blocked)


@pytest.mark.parametrize(
    ("public_url", "given", "said"),
    [
        ("", {"CONSOLE_API_URL": HTTPS}, "CONSOLE_API_URL is https and CONSOLE_WEB_URL is not"),
        (HTTPS, {"CONSOLE_WEB_URL": "http://dify.example.com"}, "CONSOLE_API_URL is https and CONSOLE_WEB_URL is not"),
        (HTTPS, {"CONSOLE_API_URL": "http://dify.example.com"}, "CONSOLE_WEB_URL is https and CONSOLE_API_URL is http"),
        (HTTPS, {"APP_API_URL": "http://dify.example.com"}, "APP_WEB_URL is https and APP_API_URL is http"),
        (HTTPS, {"COOKIE_DOMAIN": "example.com"}, "COOKIE_DOMAIN without NEXT_PUBLIC_COOKIE_DOMAIN"),
        (HTTPS, {"NEXT_PUBLIC_COOKIE_DOMAIN": "1"}, "NEXT_PUBLIC_COOKIE_DOMAIN without COOKIE_DOMAIN"),
        (HTTPS, {"CONSOLE_API_URL": "https://api.example.com"}, "the login breaks without a cookie for both"),
        (HTTPS, {**BOTH_DOMAINS, "COOKIE_DOMAIN": "other.com"}, "dify.example.com is not within it"),
        (HTTPS, {**BOTH_DOMAINS, "COOKIE_DOMAIN": "ample.com"}, "dify.example.com is not within it"),
        (HTTPS, {"FILES_URL": "https://dify.example.com/"}, "FILES_URL=https://dify.example.com/: must not end in /"),
        (
            HTTPS,
            {
                **BOTH_DOMAINS,
                "CONSOLE_API_URL": "https://api.example.com",
                "CONSOLE_CORS_ALLOW_ORIGINS": "https://x.example.com",
            },
            "CONSOLE_CORS_ALLOW_ORIGINS=https://x.example.com: must let https://dify.example.com in",
        ),
        (
            "http://dify.lan",
            {"APP_API_URL": "http://dify.lan:8080", "WEB_API_CORS_ALLOW_ORIGINS": "http://dify.lan:81"},
            "WEB_API_CORS_ALLOW_ORIGINS=http://dify.lan:81: must let http://dify.lan in",
        ),
    ],
)
def test_a_mix_that_breaks_the_login_is_refused_in_one_line(public_url: str, given: dict[str, str], said: str) -> None:
    (line,) = refused(lambda: settings_of(given, public_url=public_url))
    assert said in line


@pytest.mark.parametrize(
    ("public_url", "given"),
    [
        ("", {}),
        ("", {"CONSOLE_WEB_URL": HTTPS}),
        ("", {"CONSOLE_API_URL": "http://dify.example.com"}),
        ("", {"CONSOLE_API_URL": HTTPS, "CONSOLE_WEB_URL": HTTPS}),
        ("http://dify.lan:8080", {}),
        (HTTPS, {}),
        (HTTPS, BOTH_DOMAINS),
        (HTTPS, {**BOTH_DOMAINS, "COOKIE_DOMAIN": ".example.com", "CONSOLE_API_URL": "https://api.example.com"}),
        (HTTPS, {"APP_API_URL": "https://api.example.com", "APP_WEB_URL": "https://apps.example.net"}),
        (
            HTTPS,
            {
                "CONSOLE_API_URL": "https://dify.example.com:8443",
                "CONSOLE_CORS_ALLOW_ORIGINS": f"https://x.lan,{HTTPS}",
            },
        ),
        (HTTPS, {"CONSOLE_CORS_ALLOW_ORIGINS": "https://x.lan"}),
        (HTTPS, {"FILES_URL": "http://files.lan"}),
    ],
)
def test_a_mix_that_works_is_taken(public_url: str, given: dict[str, str]) -> None:
    assert settings_of(given, public_url=public_url).values.items() >= given.items()


def test_the_line_says_in_which_file_the_wrong_one_stands() -> None:
    (line,) = refused(lambda: settings_of({"COOKIE_DOMAIN": "example.com"}, public_url=HTTPS))
    assert line.startswith(".env line 1: COOKIE_DOMAIN without")


def test_an_address_changes_the_containers_that_hear_of_it_and_no_other() -> None:
    one, other = plain().services, stack_of(public_url=HTTPS).services
    changed = {name for name in one if one[name].digest != other[name].digest}
    # nginx loads its new files without another container.
    assert changed == {"api", "worker", "worker_beat", "plugin_daemon", "web"}
    assert one["nginx"].loads != other["nginx"].loads
    assert compose_of(plain())["services"].keys() == compose_of(stack_of(public_url=HTTPS))["services"].keys()
