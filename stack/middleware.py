"""Middleware mode: what a developer's own api, worker and web need around them, its ports published on one address.

The same service files as ever; all that is different in this mode stands here. Where facts come from: the release's
docker-compose.middleware.yaml and middleware.env.example.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stack.errors import InvalidError
from stack.interpolate import interpolate
from stack.release import Release, Setting

if TYPE_CHECKING:
    from stack.settings import Settings

MODE = "middleware"
SERVICES = Path(__file__).parent.parent / "templates" / "services"
# The ports of a service's x-host line.
INSIDE = re.compile(r"^  x-host: \{.*\bports: ([\[{][a-z0-9:, ]+[]}])", re.MULTILINE)

# What the developer runs, and what stands in front of it.
NOT_HERE = frozenset({"api", "worker", "worker_beat", "web", "nginx", "init_permissions", "certbot"})
# How a container reaches what runs on its host; Docker Desktop knows this name by itself, Linux must be told.
THE_HOST = "host.docker.internal"
# Those that call the developer's api: the plugin daemon its inner API, the SSRF proxy its files.
CALLERS = frozenset({"plugin_daemon", "ssrf_proxy"})


@dataclass(frozen=True)
class Port:
    """A port that is published.

    setting: says at which port of the host.
    published: its default.
    inside: the port that the container listens on, as Compose reads it.
    """

    setting: str
    published: str
    inside: str

    def on_host(self, settings: Settings) -> str:
        """The port on the host."""
        return settings.values.get(self.setting) or self.published

    def in_container(self, settings: Settings) -> str:
        """The port inside, with settings filled in."""
        return str(interpolate(self.inside, settings.values))


# Those of middleware.json, and those that would meet another one at the number they have inside. What has none here is
# for its own neighbours only. Every other service is published at its own numbers, those of its x-host line.
PORTS: dict[str, tuple[Port, ...]] = {
    "db_postgres": (Port("EXPOSE_POSTGRES_PORT", "5432", "5432"),),
    "db_mysql": (Port("EXPOSE_MYSQL_PORT", "3306", "3306"),),
    "redis": (Port("EXPOSE_REDIS_PORT", "6379", "6379"),),
    "plugin_daemon": (
        Port("EXPOSE_PLUGIN_DAEMON_PORT", "5002", "${PLUGIN_DAEMON_PORT:-5002}"),
        Port("EXPOSE_PLUGIN_DEBUGGING_PORT", "5003", "${PLUGIN_DEBUGGING_PORT:-5003}"),
    ),
    "ssrf_proxy": (
        Port("EXPOSE_SSRF_PROXY_PORT", "3128", "${SSRF_HTTP_PORT:-3128}"),
        # The proxy listens here and leads to the sandbox, whose own network has no way to the host.
        Port("EXPOSE_SANDBOX_PORT", "8194", "${SSRF_REVERSE_PROXY_PORT:-8194}"),
    ),
    "sandbox": (),
    "weaviate": (Port("EXPOSE_WEAVIATE_PORT", "8080", "8080"), Port("EXPOSE_WEAVIATE_GRPC_PORT", "50051", "50051")),
    "pgvector": (Port("EXPOSE_PGVECTOR_PORT", "5433", "5432"),),
    "pgvecto-rs": (Port("EXPOSE_PGVECTO_RS_PORT", "5431", "5432"),),
    "vastbase": (Port("EXPOSE_VASTBASE_PORT", "5434", "5432"),),
    "opengauss": (Port("EXPOSE_OPENGAUSS_PORT", "6600", "${OPENGAUSS_PORT:-6600}"),),
    "unstructured": (Port("EXPOSE_UNSTRUCTURED_PORT", "8001", "8000"),),
    "etcd": (),
    # On a network of its own that has no way to the host.
    "opensearch-dashboards": (),
    "minio": (),
}

# What middleware.env.example and the plugin daemon's environment there have otherwise than the release itself.
DEFAULTS = {
    "PLUGIN_DAEMON_URL": f"http://{THE_HOST}:5002",
    "PLUGIN_DIFY_INNER_API_URL": f"http://{THE_HOST}:5001",
    "ENDPOINT_URL_TEMPLATE": "http://localhost:5002/e/{hook_id}",
    # A plugin that is being written has no signature.
    "FORCE_VERIFYING_SIGNATURE": "false",
    "THIRD_PARTY_SIGNATURE_VERIFICATION_ENABLED": "true",
    "THIRD_PARTY_SIGNATURE_VERIFICATION_PUBLIC_KEYS": "/app/keys/publickey.pem",
    "LOGSTORE_DUAL_WRITE_ENABLED": "true",
}
# Of middleware.env.example and not of .env.example: known here only to say why they are not taken.
VOLUMES = ("PGDATA_HOST_VOLUME", "REDIS_HOST_VOLUME", "WEAVIATE_HOST_VOLUME")


def ports(service: str) -> tuple[Port, ...]:
    """What is published of a service; none of one that is not in this mode."""
    if service in NOT_HERE:
        return ()
    return PORTS[service] if service in PORTS else _of_file(service)


@cache
def _of_file(service: str) -> tuple[Port, ...]:
    found = INSIDE.search((SERVICES / f"{service}.yaml.j2").read_text())
    name = service.upper().replace("-", "_")
    return tuple(
        Port(f"EXPOSE_{name}_{number}_PORT" if at else f"EXPOSE_{name}_PORT", number, number)
        for at, number in enumerate(re.findall(r"\b\d+\b", found[1]) if found else ())
    )


def all_ports() -> dict[str, tuple[Port, ...]]:
    """{service: what is published of it}, chosen or not."""
    names = (path.name.removesuffix(".yaml.j2") for path in sorted(SERVICES.glob("*.yaml.j2")))
    return {name: found for name in names if (found := ports(name))}


def release_for(mode: str, facts: Release) -> Release:
    """A release as it is in a mode: this one has a few other defaults, and settings of its own."""
    if mode != MODE:
        return facts
    new = {port.setting: port.published for some in all_ports().values() for port in some}
    new = {name: value for name, value in new.items() if name not in facts.settings}
    new |= {name: "" for name in VOLUMES if name not in facts.settings}
    settings = {**facts.settings, **{name: Setting(name, value, shared=False) for name, value in new.items()}}
    for name, value in DEFAULTS.items():
        known = settings.get(name, Setting(name, value, shared=True))
        settings[name] = replace(known, default=value)
    return replace(facts, settings=settings)


def leaves_out(settings: Settings, service: str) -> bool:
    """Whether a service is not brought up in the mode, whatever is chosen."""
    return settings.knobs.mode == MODE and service in NOT_HERE


def refuse(mode: str, given: Mapping[str, str]) -> None:
    """Raise InvalidError for a data folder elsewhere than below `root`.

    given: what the operator set.
    """
    if mode != MODE:
        return
    lines = [
        f"{name}={given[name]}: data lies in volumes/ below the knob root and nowhere else; leave {name} out"
        for name in VOLUMES
        if name in given
    ]
    if lines:
        raise InvalidError(lines)


def additions(settings: Settings, service: str) -> dict[str, Any]:
    """What this mode adds to a service's part of the Compose file; nothing in the other mode."""
    if settings.knobs.mode != MODE:
        return {}
    address = in_url(str(settings.knobs.middleware_address))
    found: dict[str, Any] = {}
    if published := [f"{address}:${{{p.setting}:-{p.published}}}:{p.inside}" for p in ports(service)]:
        found["ports"] = published
    if service in CALLERS:
        found["extra_hosts"] = [f"{THE_HOST}:host-gateway"]
    return found


def summary(settings: Settings, services: Iterable[str]) -> list[str]:
    """What to tell at the end of a run, in two sentences; no secret is in them.

    services: those that run.
    """
    address, ours = settings.knobs.middleware_address, ", ".join(services)
    guard = "" if address.is_loopback else "; whoever reaches that address reaches them"
    return [
        f"Dify {settings.release.version}'s middleware is well ({ours}), its ports published on {address}{guard}",
        "the settings for your own api, worker and web: pyinfra inventory.py tasks.middleware.show --dry",
    ]


def in_url(address: str) -> str:
    """An address as it stands before a port."""
    return f"[{address}]" if ":" in address else address


def reached_at(settings: Settings) -> str:
    """The address at which the host itself reaches what is published."""
    address = str(settings.knobs.middleware_address)
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
