"""The settings of an api, a worker and a web server that a developer runs beside the middleware, as .env files for them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from stack import middleware
from stack.choices import Choice, host_of
from stack.settings import Settings

API_FILE, WEB_FILE = "developer/api.env", "developer/web.env"
API_HEADER = """\
# Dify {version}: settings of an api and a worker that run beside the middleware. Use as api/.env of a Dify checkout.
# Written by pyinfra; it holds this host's secrets.
"""
WEB_HEADER = """\
# Dify {version}: settings of a web server that runs beside the middleware. Use as web/.env.local of a Dify checkout.
# Written by pyinfra.
"""

# Where they find each other when nobody says otherwise: the ports of Dify's own development servers. Cookies go along
# only to an origin that is named, so `*` alone would not do.
API_URL, WEB_URL = "http://localhost:5001", "http://localhost:3000"
LOCAL = {
    "CONSOLE_API_URL": API_URL,
    "CONSOLE_WEB_URL": WEB_URL,
    "SERVICE_API_URL": API_URL,
    "APP_API_URL": API_URL,
    "APP_WEB_URL": WEB_URL,
    "TRIGGER_URL": API_URL,
    "FILES_URL": API_URL,
    # The plugin daemon fetches them from inside its container.
    "INTERNAL_FILES_URL": f"http://{middleware.THE_HOST}:5001",
    "WEB_API_CORS_ALLOW_ORIGINS": f"{WEB_URL},*",
    "CONSOLE_CORS_ALLOW_ORIGINS": f"{WEB_URL},*",
}
# Reached through the published port of this setting.
ENDPOINTS = {
    "CODE_EXECUTION_ENDPOINT": "EXPOSE_SANDBOX_PORT",
    "PLUGIN_DAEMON_URL": "EXPOSE_PLUGIN_DAEMON_PORT",
    "SSRF_PROXY_HTTP_URL": "EXPOSE_SSRF_PROXY_PORT",
    "SSRF_PROXY_HTTPS_URL": "EXPOSE_SSRF_PROXY_PORT",
}
# What the api has no default for, or another one than the release.
ALWAYS = (
    "SECRET_KEY",
    "INIT_PASSWORD",
    "CELERY_BROKER_URL",
    "CELERY_BACKEND",
    "STORAGE_TYPE",
    "OPENDAL_SCHEME",
    "OPENDAL_FS_ROOT",
    "VECTOR_STORE",
    "CODE_EXECUTION_API_KEY",
    "PLUGIN_DAEMON_KEY",
    "ENDPOINT_URL_TEMPLATE",
)
# Dify's own Compose file gives these to api under another name.
RENAMED = {
    "INNER_API_KEY_FOR_PLUGIN": "PLUGIN_DIFY_INNER_API_KEY",
    "PLUGIN_REMOTE_INSTALL_HOST": "EXPOSE_PLUGIN_DEBUGGING_HOST",
    "PLUGIN_REMOTE_INSTALL_PORT": "EXPOSE_PLUGIN_DEBUGGING_PORT",
    "SENTRY_DSN": "API_SENTRY_DSN",
}
# Settings that the web image's own start hands on with this prefix.
WEB_PREFIX = "NEXT_PUBLIC_"
WEB_SETTINGS = (
    "TEXT_GENERATION_TIMEOUT_MS",
    "CSP_WHITELIST",
    "ALLOW_EMBED",
    "ALLOW_UNSAFE_DATA_SCHEME",
    "TOP_K_MAX_VALUE",
    "INDEXING_MAX_SEGMENTATION_TOKENS_LENGTH",
    "LOOP_NODE_MAX_COUNT",
    "MAX_TOOLS_NUM",
    "MAX_PARALLEL_LIMIT",
    "MAX_ITERATIONS_NUM",
    "MAX_TREE_DEPTH",
    "ENABLE_WEBSITE_JINAREADER",
    "ENABLE_WEBSITE_FIRECRAWL",
    "ENABLE_WEBSITE_WATERCRAWL",
)
# Containers' own business, whoever set it.
NOT_LOCAL = re.compile(
    r"EXPOSE_|NGINX_|CERTBOT_|COMPOSE_|MIGRATION_ENABLED$|PLUGIN_DIFY_INNER_API_|LOG_FILE$|WEAVIATE_AUTH"
)

# What every reader of .env files, shells and `docker run --env-file` take alike.
PLAIN = re.compile(r"[A-Za-z0-9_./:@,+=%{}?~^*-]*")


def files(settings: Settings) -> dict[str, str]:
    """{path below root: text} of both files; none when Dify itself runs on the host."""
    if settings.knobs.mode != middleware.MODE:
        return {}
    version = settings.release.version
    return {
        API_FILE: API_HEADER.format(version=version) + _lines(api(settings), quote),
        WEB_FILE: WEB_HEADER.format(version=version) + _lines(web(settings), quote_for_web),
    }


def _lines(values: dict[str, str], quoted: Callable[[str], str]) -> str:
    return "".join(f"{name}={quoted(value)}\n" for name, value in values.items())


def api(settings: Settings) -> dict[str, str]:
    """What api and worker need, each service where it is published."""
    address = middleware.reached_at(settings)
    found = {name: settings[name] for name in _names(settings)}
    for name, port in ENDPOINTS.items():
        if name not in settings.given:
            found[name] = f"http://{middleware.in_url(address)}:{settings[port]}"
    if "ENDPOINT_URL_TEMPLATE" not in settings.given:
        found["ENDPOINT_URL_TEMPLATE"] = _endpoint_template(settings, address)
    found = _moved(settings, found, address)
    found |= {name: value for name, value in LOCAL.items() if name not in settings.given}
    found |= {name: settings[source] for name, source in RENAMED.items() if settings[source]}
    return dict(sorted(found.items()))


def _names(settings: Settings) -> Iterator[str]:
    """The release's settings that a local api is told."""
    words = {place.partition("_")[0] for choice in _choices(settings) for place in choice.where}
    sides = {other for _, other in settings.chosen.pairs}
    for name, setting in settings.release.settings.items():
        of_choice = setting.shared and name.partition("_")[0] in words and name not in sides
        wanted = name in settings.given and (setting.shared or setting.forgotten)
        if (name in ALWAYS or of_choice or wanted) and settings[name] and not NOT_LOCAL.match(name):
            yield name
    yield from (name for name in settings.knobs.allow_unknown_settings if name in settings.given)


def _choices(settings: Settings) -> Iterable[Choice]:
    return [*settings.chosen.local.values(), *settings.chosen.elsewhere.values()]


def _endpoint_template(settings: Settings, address: str) -> str:
    # A browser follows it: localhost as upstream has it, so that it is of one site with web and api.
    host = "localhost" if address in ("127.0.0.1", "::1") else middleware.in_url(address)
    return f"http://{host}:{settings['EXPOSE_PLUGIN_DAEMON_PORT']}/e/{{hook_id}}"


def _moved(settings: Settings, values: dict[str, str], address: str) -> dict[str, str]:
    """The values with every container's name and port replaced by where it is published."""
    for choice in settings.chosen.local.values():
        for place in filter(choice.local.get, choice.where):
            service = host_of(choice.local[place])
            word = place.partition("_")[0]
            mine = {name for name in values if name.partition("_")[0] == word}
            # CELERY_BROKER_URL leads to Redis, and is named otherwise.
            mine |= {"CELERY_BROKER_URL"} if word == "REDIS" else set()
            values |= {name: moved(settings, service, name, values[name], address) for name in mine if name in values}
    return values


def moved(settings: Settings, service: str, name: str, value: str, address: str) -> str:
    """One value of a service's, such as `redis`, `6379`, `http://weaviate:8080` or `oracle:1521/FREEPDB1`.

    name: of the setting; one that ends with _HOST or _PORT holds nothing else, and DB_TYPE=seekdb is no host.
    """
    if value == service and name.endswith("_HOST"):
        return address
    for port in middleware.ports(service):
        inside, published = port.in_container(settings), port.on_host(settings)
        if name.endswith("_PORT") and value == inside:
            return published
        at = rf"(?:^|(?<=[/@])){re.escape(service)}:{inside}(?=/|$)"
        value = re.sub(at, f"{middleware.in_url(address)}:{published}", value)
    return re.sub(rf"(?<=//){re.escape(service)}(?=/|$)", middleware.in_url(address), value)


def web(settings: Settings) -> dict[str, str]:
    """What a local web server needs."""
    local = api(settings)
    found = {
        "NEXT_PUBLIC_DEPLOY_ENV": "DEVELOPMENT",
        "NEXT_PUBLIC_EDITION": "SELF_HOSTED",
        "NEXT_PUBLIC_API_PREFIX": f"{local['CONSOLE_API_URL'].rstrip('/')}/console/api",
        "NEXT_PUBLIC_PUBLIC_API_PREFIX": f"{local['APP_API_URL'].rstrip('/')}/api",
        "NEXT_PUBLIC_MARKETPLACE_API_PREFIX": f"{settings['MARKETPLACE_API_URL'].rstrip('/')}/api/v1",
        "NEXT_PUBLIC_MARKETPLACE_URL_PREFIX": settings["MARKETPLACE_URL"],
        "NEXT_PUBLIC_COOKIE_DOMAIN": settings["NEXT_PUBLIC_COOKIE_DOMAIN"],
        "NEXT_TELEMETRY_DISABLED": "1",
    }
    return found | {WEB_PREFIX + name: settings[name] for name in WEB_SETTINGS if name in settings.given}


def quote(value: str) -> str:
    """A value as python-dotenv reads it, and Dify's api with it: ``${`` is filled in there even in single quotes."""
    if PLAIN.fullmatch(value):
        return value
    escaped = value.replace("\\", "\\\\").replace("'", "\\'").replace("${", "${:-$}{")
    return f"'{escaped}'"


def quote_for_web(value: str) -> str:
    """A value as Next.js reads it, which fills in ``$NAME`` in every kind of quotes and knows no escaped quotes."""
    if PLAIN.fullmatch(value):
        return value
    mark = '"' if "'" in value else "'"
    return mark + value.replace("$", "\\$") + mark
