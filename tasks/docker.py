"""Docker on the host: installed when missing, its daemon.json merged, restarted only when that changed."""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from pyinfra import host, state
from pyinfra.api import FactBase, StringCommand, operation

from stack import docker
from stack.settings import Knobs
from tasks.commands import MaskedCommand, alone, script

DAEMON = "/etc/docker/daemon.json"
DROP_IN = "/etc/systemd/system/docker.service.d/dify-proxy.conf"
LOCK = "dify-docker"

LOOK = r"""
. /etc/os-release
echo "os $ID"
# Asking Compose itself costs 80 ms; preflight did, so here it is enough that the plugin is where plugins are.
has_compose() {
    for folder in /usr/lib /usr/libexec /usr/local/lib /usr/local/libexec; do
        test -x $folder/docker/cli-plugins/docker-compose && return
    done
    docker compose version
}
{ command -v dockerd || docker info; } >/dev/null 2>&1 && has_compose >/dev/null 2>&1 && echo "installed yes"
command -v curl >/dev/null && echo "curl yes"
systemctl show docker --property UnitFileState --property ActiveState 2>/dev/null |
    sed -n 's/^UnitFileState=enabled$/enabled yes/p; s/^ActiveState=active$/active yes/p'
test -s "$daemon" && echo "daemon $(tr -d '\n' < "$daemon")"
test -e "$drop_in" && echo "drop_in $(sha256sum < "$drop_in" | cut -d' ' -f1)"
true
"""

# Staged beside the old one, checked by dockerd itself, then moved into place.
PUT_DAEMON = r"""
umask 022; mkdir -p /etc/docker; cat > "$file.new"
! cmp -s "$file.new" "$file" || { rm -f "$file.new"; exit 0; }
if command -v dockerd >/dev/null && ! dockerd --validate --config-file "$file.new" >/dev/null 2>"$file.why"; then
    echo "dockerd refuses the new daemon.json, the old one stays: $(cat "$file.why")" >&2
    rm -f "$file.new" "$file.why"; exit 1
fi
rm -f "$file.why"; test ! -e "$file" || cp -p "$file" "$file.before"; mv "$file.new" "$file"
"""
PUT_DROP_IN = 'umask 077; mkdir -p -m 755 "${file%/*}"; cat > "$file.new" && mv "$file.new" "$file"'
REMOVE_DROP_IN = 'rm -f "$file"'
RESTART = r"""
systemctl daemon-reload
systemctl restart docker && rm -f "$file.before" && exit 0
echo "Docker does not start with the new $file; the old one is back:" >&2
journalctl --unit docker --lines 20 --no-pager >&2
if test -e "$file.before"; then mv "$file.before" "$file"; else rm -f "$file"; fi
systemctl reset-failed docker; systemctl restart docker; exit 1
"""
CHECK = r"""
systemctl daemon-reload; systemctl enable --now docker >/dev/null 2>&1 || { echo "docker.service does not start" >&2; exit 1; }
engine=$(docker version --format '{{.Server.Version}}'); compose=$(docker compose version --short) || compose=
at_least() { test "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1"; }
at_least "$min_engine" "${engine:-0}" || {
    echo "Docker Engine ${engine:-(none)} was installed, $min_engine is needed" >&2; exit 1; }
at_least "$min_compose" "${compose#v}" || {
    echo "Docker Compose ${compose:-(none)} was installed, $min_compose is needed: install its plugin by hand" >&2; exit 1; }
"""


@dataclass(frozen=True)
class EngineState:
    """What was found of Docker: daemon is the parsed daemon.json, drop_in the sha256 of the proxy file or empty."""

    os: str = ""
    installed: bool = False
    curl: bool = False
    enabled: bool = False
    active: bool = False
    daemon: Any = None
    drop_in: str = ""


class Engine(FactBase[EngineState]):
    """How Docker is installed, configured and running."""

    @staticmethod
    def default() -> EngineState:
        return EngineState()

    def command(self) -> StringCommand:
        return StringCommand(script(LOOK, daemon=DAEMON, drop_in=DROP_IN))

    def process(self, output: list[str]) -> EngineState:
        found: dict[str, Any] = {key: value for key, _, value in (line.partition(" ") for line in output)}
        flags = {name: name in found for name in ("installed", "curl", "enabled", "active")}
        try:
            daemon = json.loads(found.get("daemon", "{}"))
        except ValueError:
            daemon = None
        if not isinstance(daemon, dict):
            daemon = None
        return EngineState(os=found.get("os", ""), daemon=daemon, drop_in=found.get("drop_in", ""), **flags)


@operation()
def engine(knobs: Knobs) -> Generator[StringCommand, None, None]:
    """Docker runs, configured as wanted.

    + knobs: of this host
    """
    found = host.get_fact(Engine)
    if found.daemon is None:
        yield StringCommand(script('echo "$file is no valid JSON: mend it first" >&2; exit 1', file=DAEMON))
        return
    changed = yield from _configure(found, knobs)
    if not found.installed or not found.curl:
        yield from _install(found, knobs)
    elif changed:
        yield StringCommand(alone(RESTART, lock=LOCK, file=DAEMON))
    elif not (found.enabled and found.active):
        yield StringCommand("systemctl enable --now docker")
    else:
        host.noop("Docker is as wanted")


def _configure(found: EngineState, knobs: Knobs) -> Generator[StringCommand, None, bool]:
    wanted = docker.daemon_config(found.daemon, knobs)
    drop_in = docker.proxy_drop_in(knobs)
    changed = bool(wanted != found.daemon)
    if changed:
        yield StringCommand(alone(PUT_DAEMON, lock=LOCK, file=DAEMON), _stdin=json.dumps(wanted, indent=2))
    if drop_in and sha256(drop_in.encode()).hexdigest() != found.drop_in:
        secret = list(knobs.docker_proxy.values())
        yield MaskedCommand(alone(PUT_DROP_IN, lock=LOCK, file=DROP_IN), secrets=secret, _stdin=drop_in.rstrip("\n"))
        changed = True
    if not drop_in and found.drop_in:
        yield StringCommand(alone(REMOVE_DROP_IN, lock=LOCK, file=DROP_IN))
        changed = True
    return changed


def _install(found: EngineState, knobs: Knobs) -> Generator[StringCommand, None, None]:
    if not found.installed:
        if state.is_executing:
            host.log(f'installing Docker (docker_source = "{knobs.docker_source}"); this takes a minute')
        yield StringCommand(alone("set -e\n" + docker.install_script(found.os, knobs), lock=LOCK))
    else:
        yield StringCommand(alone("set -e\n" + docker.install_curl(found.os), lock=LOCK))
    yield StringCommand(script(CHECK, min_engine=docker.MIN_ENGINE, min_compose=docker.MIN_COMPOSE))
