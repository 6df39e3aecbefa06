"""The release's own Compose file and ours, resolved by a real Compose, side by side."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from lab.hosts import Host
from stack import dotenv, release
from stack.render import Stack
from stack.secrets import is_secret
from tests.unit.wanted import compose_of

# Where both files are said to lie: paths are resolved against it.
FOLDER = "/srv/dify"
COMPOSE = f"docker compose --project-name dify --project-directory {FOLDER}"

Flat = dict[str, Any]


def upstream(version: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The Compose file that these facts are of."""
    table = release.table(version)
    shared = {name: f"${{{name}:-{setting.default}}}" for name, (setting, _) in table.items() if setting.shared}
    services = {}
    for name, block in facts["services"].items():
        own = {key: _written(entry) for key, entry in block["environment"].items()}
        rest = {key: value for key, value in block.items() if key != "reads_shared_settings"}
        services[name] = {**rest, "environment": {**(shared if block["reads_shared_settings"] else {}), **own}}
    return {"services": services, **{key: facts[key] for key in ("networks", "volumes") if key in facts}}


def _written(entry: Mapping[str, str]) -> str:
    return entry["value"] if "value" in entry else f"${{{entry['setting']}:-{entry['default']}}}"


def without_env_file(compose: dict[str, Any]) -> tuple[dict[str, Any], set[str]]:
    """The file without `env_file`, and the services that had one."""
    services = compose["services"]
    had = {name for name, block in services.items() if "env_file" in block}
    bare = {name: {k: v for k, v in block.items() if k != "env_file"} for name, block in services.items()}
    return {**compose, "services": bare}, had


def secrets_of(stack: Stack) -> dict[str, str]:
    """Our secrets as theirs: then a password at the wrong place is a difference, and a published one is one too."""
    return {name: value for name, value in stack.settings.values.items() if is_secret(name)}


def resolve(host: Host, compose: str, env: str) -> dict[str, Any]:
    """What a real Compose makes of a file and its .env, all profiles on."""
    for name, text in {"docker-compose.yaml": compose, ".env": env}.items():
        sent = host.run(f"mkdir -p {FOLDER} && cat > {FOLDER}/{name}", stdin=text)
        assert sent.returncode == 0, sent.stderr
    done = host.run(f"cd {FOLDER} && {COMPOSE} --profile '*' config --format json")
    assert done.returncode == 0, done.stderr
    resolved = json.loads(done.stdout)
    assert isinstance(resolved, dict)
    return resolved


def theirs(host: Host, version: str, facts: Mapping[str, Any], stack: Stack) -> Flat:
    """The release's own, with our secrets."""
    compose, had = without_env_file(upstream(version, facts))
    env = {**facts.get("settings", {}), **secrets_of(stack)}
    lines = "".join(f"{name}={dotenv.quote(value)}\n" for name, value in env.items())
    found = flat(resolve(host, yaml.safe_dump(compose), lines))
    for name in had:
        found[f"{name}.env_file"] = "every setting"
    return found


def ours(host: Host, stack: Stack) -> Flat:
    """What a host gets."""
    return flat(resolve(host, stack.files["docker-compose.yaml"].data.decode(), stack.files[".env"].data.decode()))


def shared_only_here(stack: Stack, there: Flat) -> set[str]:
    """Paths of shared settings that our services have and theirs, which read no shared settings, do not."""
    names = compose_of(stack)["x-shared-env"]
    return {f"{service}.environment.{name}" for service in services_of(there) for name in names} - there.keys()


def services_of(flattened: Flat) -> set[str]:
    return {path.split(".")[0] for path in flattened if not path.startswith(("networks.", "volumes."))}


def flat(compose: Mapping[str, Any]) -> Flat:
    """{path: value} of a resolved file; lists of volumes and ports are named by what they are inside."""
    found: Flat = {}
    for name, block in compose["services"].items():
        found[name] = "a service"
        found |= _leaves(name, {key: _named(key, value) for key, value in block.items()})
    for kind in ("networks", "volumes"):
        for name, block in (compose.get(kind) or {}).items():
            found[f"{kind}.{name}"] = "there"
            found |= _leaves(f"{kind}.{name}", {key: value for key, value in block.items() if key != "ipam"})
    return found


def _named(key: str, value: Any) -> Any:
    if key == "volumes":
        return {volume["target"]: _source(volume) for volume in value}
    if key == "ports":
        return {str(port["target"]): _published(port) for port in value}
    if key == "networks":
        return dict.fromkeys(value, "joined")
    if key == "healthcheck":
        return {name: shlex.join(part) if name == "test" else part for name, part in value.items()}
    if key in ("command", "entrypoint"):
        return shlex.join(value) if value else value
    return sorted(value) if key == "profiles" else value


def _published(port: Mapping[str, Any]) -> str:
    address = port.get("host_ip")
    return port["published"] if address in (None, "0.0.0.0") else f"{address}:{port['published']}"


def _source(volume: Mapping[str, Any]) -> str:
    return f"{volume.get('source', '')}{':ro' if volume.get('read_only') else ''}"


def _leaves(path: str, node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(f"{path}.{key}", value)
    elif isinstance(node, list):
        for at, value in enumerate(node):
            yield from _leaves(f"{path}.{at}", value)
    elif node is not None:
        yield path, node


def unlike(here: Flat, there: Flat) -> dict[str, str]:
    """{path: theirs and ours} of all that differs; a service that only one side has is one path, +name or -name."""
    both = services_of(here) & services_of(there)
    found = {f"+{name}": "ours only" for name in sorted(services_of(here) - both)}
    found |= {f"-{name}": "theirs only" for name in sorted(services_of(there) - both)}
    for path in sorted(here.keys() | there.keys()):
        one, other = there.get(path), here.get(path)
        if one != other and (path.split(".")[0] in both or path.startswith(("networks.", "volumes."))):
            found[path] = f"upstream {one!r}, ours {other!r}"
    return found
