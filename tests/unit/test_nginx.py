"""nginx: where paths lead, what its maps make of a request, and when it loads its files again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from stack.render import SITE, Stack, render, site
from tasks import gate, nginx
from tasks.nginx import RELOAD, Served, Serving
from tests.unit.wanted import TEMPLATES, plain, refused, run_sh, settings_of, stack_of

HTTPS = {"NGINX_HTTPS_ENABLED": "true"}
CERTBOT = {"CERTBOT_DOMAIN": "dify.lan", "CERTBOT_EMAIL": "ops@dify.lan"}
URL = "https://dify.example.com"
PROXY: dict[str, Any] = {"tls": "proxy", "public_url": URL, "trusted_proxies": ["192.0.2.10"]}
LETSENCRYPT: dict[str, Any] = {"tls": "letsencrypt", "public_url": URL}
EMAIL: dict[str, str] = {"CERTBOT_EMAIL": "ops@example.com"}


def text(path: str, given: dict[str, str] | None = None, **knobs: Any) -> str:
    return stack_of(given or {}, **knobs).files[f"nginx/{path}"].data.decode()


def included(path: str, stack: Stack) -> str:
    """A file with those that it includes."""
    found = stack.files[f"nginx/{path}"].data.decode()
    for name in re.findall(r"include /etc/nginx/dify/(\S+);", found):
        found += included(name, stack)
    return found


# --- Where paths lead ---


@pytest.mark.parametrize(
    ("location", "upstream"),
    [
        *((path, "$to_api") for path in ("/console/api", "/api", "/v1", "/files", "/mcp", "/triggers")),
        ("/e/", "$to_plugin_daemon"),
        ("/", "$to_web"),
    ],
)
def test_nginx_sends_a_path_to_its_service(location: str, upstream: str) -> None:
    block = re.search(rf"location {re.escape(location)} \{{(.*?)\}}", text("routes.conf"), re.DOTALL)
    assert block
    assert f"proxy_pass {upstream};" in block[1]
    assert "include /etc/nginx/dify/proxy.conf;" in block[1]
    assert ("proxy_set_header Dify-Hook-Url $scheme://$asked_host$request_uri;" in block[1]) is (location == "/e/")


@pytest.mark.parametrize(
    ("file", "given", "line"),
    [
        ("routes.conf", {}, "set $to_api http://api:5001;"),
        ("routes.conf", {"DIFY_PORT": "5055"}, "set $to_api http://api:5055;"),
        ("routes.conf", {}, "set $to_web http://web:3000;"),
        ("routes.conf", {"PLUGIN_DAEMON_PORT": "5009"}, "set $to_plugin_daemon http://plugin_daemon:5009;"),
        ("http.conf", {"NGINX_SERVER_NAME": "dify.example.com"}, "server_name dify.example.com;"),
        ("http.conf", {"NGINX_PORT": "8080"}, "listen 8080;"),
        ("https.conf", HTTPS, "listen 443 ssl;"),
        ("https.conf", HTTPS, "http2 on;"),
        ("https.conf", HTTPS, "ssl_certificate /etc/nginx/dify/ssl/dify.crt;"),
        ("https.conf", HTTPS, "ssl_certificate_key /etc/nginx/dify/ssl/dify.key;"),
        ("https.conf", HTTPS, "ssl_protocols TLSv1.2 TLSv1.3;"),
        ("https.conf", HTTPS | {"NGINX_SSL_PROTOCOLS": "TLSv1.3"}, "ssl_protocols TLSv1.3;"),
        ("nginx.conf", {"NGINX_CLIENT_MAX_BODY_SIZE": "15m"}, "client_max_body_size 15m;"),
        (
            "inner.conf",
            {"NGINX_ENABLE_CERTBOT_CHALLENGE": "true", **CERTBOT},
            "location /.well-known/acme-challenge/ {",
        ),
        (
            "inner.conf",
            {"NGINX_ENABLE_CERTBOT_CHALLENGE": "True", **CERTBOT},
            "location /.well-known/acme-challenge/ {",
        ),
    ],
)
def test_nginx_serves_as_set(file: str, given: dict[str, str], line: str) -> None:
    assert line in map(str.strip, text(file, given).splitlines())


@pytest.mark.parametrize("word", ["listen 443", "set_real_ip_from", "max-age"])
def test_nginx_without_https_says_nothing_of_it(word: str) -> None:
    assert word not in included("nginx.conf", plain())


def test_nginx_looks_its_upstreams_up_when_it_is_asked() -> None:
    assert re.search(r"resolver 127\.0\.0\.11 .*ipv6=off;", text("nginx.conf"))
    assert not re.search(r"proxy_pass http", text("routes.conf"))


# --- Which site ---


@pytest.mark.parametrize(
    ("given", "knobs", "site"),
    [
        ({}, {}, "http.conf"),
        ({}, PROXY, "http.conf"),
        (HTTPS, {}, "https.conf"),
        (EMAIL, LETSENCRYPT, "letsencrypt/site.conf"),
    ],
)
def test_one_site_is_served(given: dict[str, str], knobs: dict[str, Any], site: str) -> None:
    sites = {"http.conf", "https.conf", "letsencrypt/site.conf"}
    assert sites & set(re.findall(r"include /etc/nginx/dify/(\S+);", text("nginx.conf", given, **knobs))) == {site}


def test_with_letsencrypt_a_host_begins_with_http_and_keeps_what_it_then_has() -> None:
    file = stack_of(EMAIL, **LETSENCRYPT).files[SITE]
    assert (file.data.decode(), file.keep) == (site("http", "none"), True)
    assert "include /etc/nginx/dify/http.conf;" in site("http", "none")
    assert 'default "0123456789abcdef";' in site("https", "0123456789abcdef")
    assert "include /etc/nginx/dify/https.conf;" in site("https", "0123456789abcdef")


def test_http_sends_on_to_the_public_address_where_the_certificate_is_ours() -> None:
    moved = "return 308 https://dify.example.com:8443$request_uri;"
    assert moved in text("https.conf", EMAIL, tls="letsencrypt", public_url=f"{URL}:8443")
    # By hand, http goes on serving, as it always did.
    assert "308" not in text("https.conf", HTTPS, public_url=URL)
    assert "include /etc/nginx/dify/http.conf;" in text("https.conf", HTTPS, public_url=URL)


@pytest.mark.parametrize(("hsts", "said"), [(0, False), (31536000, True)])
def test_browsers_are_told_to_come_with_https_only_when_the_operator_says_so(hsts: int, said: bool) -> None:
    assert ('on "max-age=31536000";' in text("nginx.conf", HTTPS, hsts=hsts)) is said


@pytest.mark.parametrize(("knobs", "said"), [(PROXY, 'default "max-age=600";'), ({"tls": "off"}, 'default "";')])
def test_behind_a_proxy_browsers_are_told_it_too(knobs: dict[str, Any], said: str) -> None:
    assert said in text("nginx.conf", {} if knobs is PROXY else HTTPS, **knobs, hsts=600)


@pytest.mark.parametrize(
    ("given", "knobs", "word"),
    [({}, {}, "yes"), (HTTPS, {}, "yes"), (EMAIL, LETSENCRYPT, "yes"), ({}, PROXY, "no")],
)
def test_challenges_are_answered_before_letsencrypt_is_chosen(
    given: dict[str, str], knobs: dict[str, Any], word: str
) -> None:
    inner = text("inner.conf", given, **knobs)
    assert f" challenges={word}\\n" in inner
    assert ("location /.well-known/acme-challenge/ {" in inner) is (word == "yes")


# --- Who asks ---


def test_nobody_is_believed_who_he_says_he_is() -> None:
    headers = dict(re.findall(r"proxy_set_header (\S+) (\S+);", text("proxy.conf")))
    assert (headers["X-Forwarded-For"], headers["X-Real-IP"]) == ("$remote_addr", "$remote_addr")
    assert {headers[name] for name in ("CF-Connecting-IP", "Forwarded", "X-Forwarded-Host")} == {'""'}


def test_a_trusted_proxy_alone_is_believed() -> None:
    knobs = {**PROXY, "trusted_proxies": ["192.0.2.10", "10.0.0.0/24", "2001:db8::1"]}
    found = re.findall(r"(set_real_ip_from|real_ip_header|real_ip_recursive) (\S+);", text("nginx.conf", **knobs))
    assert found == [
        ("set_real_ip_from", "192.0.2.10/32"),
        ("set_real_ip_from", "10.0.0.0/24"),
        ("set_real_ip_from", "2001:db8::1/128"),
        ("real_ip_header", "X-Forwarded-For"),
        ("real_ip_recursive", "on"),
    ]
    assert "real_ip" not in text("nginx.conf", trusted_proxies=["192.0.2.10"])


@pytest.mark.parametrize(
    ("proxies", "said"),
    [
        ([], 'tls = "proxy": needs trusted_proxies, the addresses that the other proxy asks from, as ["192.0.2.10"]'),
        (["proxy.lan"], "must be an IP address or a network as 10.0.0.0/24"),
        (["10.0.0.1/24"], "must be an IP address or a network as 10.0.0.0/24"),
        (["0.0.0.0/0"], "would have anybody believed; name the proxy's address"),
        (["192.0.2.10", "::/0"], "would have anybody believed; name the proxy's address"),
        (["10.0.0.0/24; deny all"], "must be an IP address or a network as 10.0.0.0/24"),
    ],
)
def test_a_wrong_trusted_proxy_is_refused(proxies: list[str], said: str) -> None:
    (line,) = refused(lambda: settings_of(tls="proxy", public_url=URL, trusted_proxies=proxies))
    assert "trusted_proxies" in line
    assert line.endswith(said)


@pytest.mark.parametrize(("knobs", "believed"), [({}, "false"), (PROXY, "true")])
def test_the_api_believes_nginx_where_browsers_come_with_https(knobs: dict[str, Any], believed: str) -> None:
    assert settings_of(**knobs)["RESPECT_XFORWARD_HEADERS_ENABLED"] == believed


# --- What the maps make of a request ---


def mapped(name: str, value: str) -> str:
    """What nginx's map of this name makes of a value: an exact line, else the first expression that is found, else default."""
    block = re.search(rf"map \S+ \${name} \{{\n(.*?)\n    \}}", text("nginx.conf"), re.DOTALL)
    assert block
    lines = re.findall(r'^\s*("(?:[^"\\]|\\.)*"|\S+) (\S+);$', block[1], re.MULTILINE)
    default = ""
    for key, result in lines:
        key = key.strip('"')
        if key == "default":
            default = result
        elif key == value:
            return str(result)
        elif key.startswith("~"):
            flags = re.IGNORECASE if key.startswith("~*") else 0
            if found := re.search(key.lstrip("~*").replace("(?<", "(?P<"), value, flags):
                return re.sub(r"\$(\w+?)(?=\W|$)", lambda name: found.groupdict().get(name[1], name[0]), result)
    return default.strip('"')


@pytest.mark.parametrize(
    ("uri", "logged"),
    [
        ("/mcp/server/a1b2c3d4e5f6/mcp", "/mcp/server/a1b2***/mcp"),
        ("/e/abcdefghij/path/with/more", "/e/abcd***"),
        ("/e/abc", "/e/abc***"),
        ("/triggers/webhook/1234567890abcdef", "/triggers/webhook/1234***"),
        ("/triggers/webhook-debug/1234567890abcdef", "/triggers/webhook-debug/1234***"),
        ("/triggers/plugin/1234567890abcdef", "/triggers/plugin/1234***"),
        ("/console/api/setup", "$uri"),
        ("/explore/installed/abcdef", "$uri"),
        ("/v1/chat-messages", "$uri"),
    ],
)
def test_a_secret_in_a_path_is_cut_short_in_the_log(uri: str, logged: str) -> None:
    assert mapped("logged_uri", uri) == logged


def test_the_log_has_no_query_and_no_referrer() -> None:
    nginx = text("nginx.conf")
    assert not re.search(r"log_format [^;]*\$(request |request\"|request_uri|args|query_string|http_referer)", nginx)
    assert re.search(r"\n    error_log /dev/stderr crit;", nginx)


@pytest.mark.parametrize(
    "uri",
    [
        "/v1/../x",
        "/v1/..",
        "/e/..%2fplugin",
        "/a/%2e%2e/b",
        "/a/.%2E/b",
        "/a/%252e%252e/b",
        "/a/%25252e%25252e%25252fb",
        "/a%2f..%2fb?c=d",
        "/a/..?b",
        "/a\\..\\b",
        "/a%5c..%5cb",
    ],
)
def test_a_way_up_is_refused_however_it_is_encoded(uri: str) -> None:
    assert mapped("climbs", uri) == "1"


@pytest.mark.parametrize(
    "uri", ["/v1/a..b", "/files/a..pdf", "/a/.../b", "/a?path=../b", "/.well-known/acme-challenge/x", "/a/%2e/b", "/"]
)
def test_dots_that_lead_nowhere_pass(uri: str) -> None:
    assert mapped("climbs", uri) == ""


@pytest.mark.parametrize(
    ("asked", "refused"),
    [
        ("/console/api/workspaces/current/plugin/icon?tenant_id=1&filename=..%2f..%2fx", "1"),
        ("/console/api/workspaces/current/plugin/icon?filename=%252E%252e/x", "1"),
        ("/console/api/workspaces/current/plugin/tasks/%2e%2e%2fx?", "1"),
        ("/console/api/workspaces/current/plugin/tasks/0b5bb2b7-5ab4-4ba3-a4b1-9cbf5a3b0ac1?", ""),
        ("/console/api/workspaces/current/plugin/icon?tenant_id=1&filename=0f3a.svg", ""),
        (
            "/console/api/workspaces/current/plugin/fetch-manifest?plugin_unique_identifier=langgenius/openai:0.2.6@12ab",
            "",
        ),
        ("/console/api/datasets?keyword=..", ""),
    ],
)
def test_no_way_leads_up_from_the_plugins(asked: str, refused: str) -> None:
    assert mapped("climbs_in_plugins", asked) == refused


@pytest.mark.parametrize(
    ("uri", "kind"),
    [("/", "html"), ("/apps", "html"), ("/v1/x", "json"), ("/api", "json"), ("/e/x", "json"), ("/explore", "html")],
)
def test_programs_are_told_in_json_and_people_with_a_page(uri: str, kind: str) -> None:
    assert mapped("answer_in", uri) == kind
    assert f"location @closed_{kind} {{" in text("routes.conf")
    assert f"location @too_large_{kind} {{" in text("routes.conf")


@pytest.mark.parametrize(
    ("uri", "closed"), [("/nginx-health", ""), ("/.well-known/acme-challenge/x", ""), ("/", "1"), ("/v1", "1")]
)
def test_all_but_the_health_and_the_challenge_can_be_closed(uri: str, closed: str) -> None:
    assert mapped("closed_while_changing", uri).strip('"') == closed


def test_event_streams_are_never_packed() -> None:
    types = re.search(r"gzip_types (.*);", text("nginx.conf"))
    assert types
    assert "text/event-stream" not in types[1]
    assert "*" not in types[1]


# --- What it has loaded ---


def test_every_file_of_nginx_is_in_what_it_says_it_has_loaded(templates: Path) -> None:
    before = plain()
    names = [path.name for path in TEMPLATES.glob("nginx/*.j2") if path.name != "version.conf.j2"]
    assert len(names) == 7
    for name in names:
        good = (templates / "nginx" / name).read_text()
        (templates / "nginx" / name).write_text(good + "# one line more\n")
        after = stack_of()
        (templates / "nginx" / name).write_text(good)
        assert after.services["nginx"].loads != before.services["nginx"].loads, name
        assert f'"{after.services["nginx"].loads}"' in after.files["nginx/version.conf"].data.decode()
        # Nothing is recreated for it.
        assert {n: s.digest for n, s in after.services.items()} == {n: s.digest for n, s in before.services.items()}


def test_another_certificate_is_loaded_and_what_the_host_says_itself_is_not() -> None:
    one, other = plain(), stack_of(HTTPS)
    assert one.services["nginx"].loads != other.services["nginx"].loads
    first, again = (render(settings_of(EMAIL, **LETSENCRYPT)) for _ in range(2))
    assert first.services["nginx"].loads == again.services["nginx"].loads


def test_a_service_that_does_not_reload_says_nothing() -> None:
    assert {name for name, service in plain().services.items() if service.loads} == {"nginx"}


@pytest.mark.parametrize(
    ("output", "serving"),
    [
        ([], Serving()),
        (["nginx answers configuration=0123 certificate=none"], Serving("0123", "none")),
        (["closed", "nginx answers configuration=0123 certificate=4567"], Serving("0123", "4567", closed=True)),
        # One that was deployed before it could say more.
        (["nginx answers"], Serving()),
        (["closed"], Serving(closed=True)),
    ],
)
def test_what_nginx_says_is_read(output: list[str], serving: Serving) -> None:
    assert Served().process(output) == serving


def docker(folder: Path, answers: str) -> Path:
    """A docker whose nginx answers so."""
    program = folder / "docker"
    program.write_text(f'#!/bin/sh\necho "$*" >>{folder}/asked\ncase "$*" in\nps*) echo c1 ;;\n{answers}\nesac\n')
    program.chmod(0o755)
    return folder


def reload(folder: Path, *wanted: str) -> tuple[int, str]:
    done = run_sh(
        f"port=80; project=dify\nsleep() {{ :; }}\n{RELOAD}\nreload_nginx {' '.join(wanted)}", "", folder, check=False
    )
    return done.returncode, done.stderr


def test_nginx_reloads_when_it_takes_the_files_and_is_waited_for(tmp_path: Path) -> None:
    folder = docker(tmp_path, '*curl*) echo "nginx answers configuration=new certificate=none" ;;')
    assert reload(folder, "configuration=new", "certificate=none") == (0, "")
    assert [line.split()[2:4] for line in (folder / "asked").read_text().splitlines() if " nginx -" in line] == [
        ["nginx", "-t"],
        ["nginx", "-c"],
    ]


def test_what_nginx_refuses_is_not_loaded_and_said_in_its_words(tmp_path: Path) -> None:
    folder = docker(tmp_path, '*" -t "*) echo "nginx: [emerg] unknown directive" >&2; exit 1 ;;')
    code, said = reload(folder, "configuration=new")
    assert code == 1
    assert said.splitlines() == [
        "nginx: [emerg] unknown directive",
        "nginx refuses the configuration and runs on with the one it has",
    ]
    assert "reload" not in (folder / "asked").read_text()


def test_a_reload_that_changes_nothing_is_said_with_what_is_missing(tmp_path: Path) -> None:
    folder = docker(
        tmp_path,
        '*curl*) echo "nginx answers configuration=old certificate=none" ;;\nlogs*) echo "1#1: [emerg] why" ;;',
    )
    code, said = reload(folder, "configuration=new")
    assert code == 1
    assert said.splitlines() == [
        "1#1: [emerg] why",
        "nginx has not loaded configuration=new within 30 s; it says: nginx answers configuration=old certificate=none",
    ]


def test_without_nginx_there_is_nothing_to_reload(tmp_path: Path) -> None:
    program = docker(tmp_path, "") / "docker"
    program.write_text("#!/bin/sh\n")
    assert reload(tmp_path, "configuration=new") == (1, "nginx does not run, so it cannot load its configuration\n")


def test_the_flag_lies_where_nginx_looks_for_it() -> None:
    assert f"if (-f /etc/nginx/dify/{nginx.CLOSED.removeprefix('nginx/')})" in text("routes.conf")


# --- How the host asks itself ---


@pytest.mark.parametrize(
    ("given", "knobs", "url", "to"),
    [
        ({}, {}, "http://127.0.0.1:80", ""),
        ({"EXPOSE_NGINX_PORT": "192.0.2.7:8080"}, {}, "http://192.0.2.7:8080", ""),
        ({}, PROXY, "http://127.0.0.1:80", ""),
        (HTTPS, {}, "https://127.0.0.1:443", "127.0.0.1:443:127.0.0.1:443"),
        (HTTPS, {"public_url": URL}, "https://dify.example.com:443", "dify.example.com:443:127.0.0.1:443"),
        (
            HTTPS | {"EXPOSE_NGINX_SSL_PORT": "127.0.0.1:8443"},
            {"public_url": URL},
            "https://dify.example.com:443",
            "dify.example.com:443:127.0.0.1:8443",
        ),
        (EMAIL, LETSENCRYPT, "http://127.0.0.1:80", "dify.example.com:443:127.0.0.1:443"),
    ],
)
def test_the_host_asks_by_https_where_it_is_on(given: dict[str, str], knobs: dict[str, Any], url: str, to: str) -> None:
    assert gate.door(stack_of(given, **knobs)) == (url, to)


@pytest.mark.parametrize(
    ("given", "knobs", "address"),
    [
        ({}, {}, "http://192.0.2.7"),
        ({"EXPOSE_NGINX_PORT": "8080"}, {}, "http://192.0.2.7:8080"),
        ({}, PROXY, URL),
        ({}, {"public_url": "http://dify.lan:8080/"}, "http://dify.lan:8080"),
    ],
)
def test_dify_is_said_to_be_where_browsers_find_it(given: dict[str, str], knobs: dict[str, Any], address: str) -> None:
    assert gate.public_address(stack_of(given, **knobs), "192.0.2.7") == address
