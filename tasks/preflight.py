"""Preflight, no impact yet: settings, templates and hosts of the whole inventory are checked before anything changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import gevent
from gevent.lock import BoundedSemaphore
from pyinfra import host, logger, state
from pyinfra.api import DeployError, FactBase, StringCommand
from pyinfra.api.host import Host
from pyinfra.context import ctx_host

from stack import dotenv, external, requirements, rotation, secret_store, settings
from stack.errors import InvalidError
from stack.render import Stack, render
from stack.requirements import Machine
from stack.secret_store import Entry
from stack.settings import Knobs, Settings
from tasks import secret_store as outside
from tasks.commands import private_look, script
from tasks.inventory import data_of, folder

LOOK = r"""
say() { printf '%s\t%s\n' "$1" "$2"; }
. /etc/os-release
say os_id "$ID"
say os_version "${VERSION_ID:-}"
say identity "$(cat /etc/machine-id /proc/sys/kernel/random/boot_id 2>/dev/null | tr '\n' ' ')$(uname -n)"
say architecture "$(uname -m)"
test -d /run/systemd/system && say systemd yes
say cpus "$(nproc)"
say memory_kib "$(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo)"
# A container's limit: a VPS of this kind sees its machine's memory in /proc/meminfo.
for limit in /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes; do
    test -r $limit && say memory_limit "$(cat $limit)"
done
free_below() {
    path=$1; while test ! -e "$path"; do path=$(dirname "$path"); done
    df -Pk "$path" | awk 'NR == 2 {print $4}'
}
docker_root=/var/lib/docker
if command -v docker >/dev/null; then
    case "$(readlink -f "$(command -v docker)")" in */snap*) say snap yes ;; esac
    # project<tab>folder of every container that Compose made
    deployments=$(docker ps --all --format "$labels" 2>/dev/null | sort -u)
    say running_from "$(printf '%s\n' "$deployments" | awk -F '\t' -v mine="$project" '$1 == mine && $2 {print $2; exit}')"
    say occupied_by "$(printf '%s\n' "$deployments" | awk -F '\t' -v mine="$project" -v root="$root" \
        '$1 != mine && $2 == root {print $1; exit}')"
    # One call for all of it where the engine answers: each costs 50 to 80 ms.
    if found=$(docker info --format "$format" 2>/dev/null); then
        say engine "${found%%|*}"
        docker_root=${found#*|}; docker_root=${docker_root%|*}
        compose=${found##*|}
    else
        say client "$(docker --version 2>/dev/null)"
        compose=$(docker compose version --short 2>/dev/null)
    fi
    say compose "${compose#v}"
    # As they were asked for: one that starts over and over publishes nothing at one moment, and its ports at the next.
    docker ps --quiet --filter "label=com.docker.compose.project=$project" 2>/dev/null | xargs -r docker inspect --format \
        '{{range .HostConfig.PortBindings}}{{range .}}{{.HostPort}}{{"\n"}}{{end}}{{end}}' 2>/dev/null | grep . | sort -u |
        while read -r port; do say own_port "$port"; done
fi
test -z "${compose:-}" && command -v docker-compose >/dev/null && say compose_v1 "$(docker-compose version --short 2>/dev/null)"
command -v curl >/dev/null && say curl yes
say unfiltered "$(grep -Eo '"iptables" *: *false|"firewall-backend" *: *"nftables"' /etc/docker/daemon.json 2>/dev/null | head -n1)"
say docker_root "$docker_root"
say disk_root_kib "$(free_below "$root")"
say disk_docker_kib "$(free_below "$docker_root")"
test -e "$root/docker-compose.yaml" && say deployed yes
test -e "$root/.migrated" && say migrated yes
test -e "$root/.env" && say env_sha256 "$(sha256sum < "$root/.env" | cut -d' ' -f1)"
test -e "$root/.rotation" && say rotation "$(sed -n 's/^NAME=//p' "$root/.rotation")"
for file in "$root"/volumes/db/data/PG_VERSION "$root"/volumes/db/data/*/PG_VERSION; do
    test -e "$file" && say database yes && break
done
for folder in "$root"/volumes/*/ "$root"/volumes/*/*/; do
    folder=${folder%/}
    test -n "$(find "$folder" -mindepth 1 -maxdepth 1 -print -quit 2>/dev/null)" && say filled "${folder#"$root"/}"
done
# Each place: setting, host and port of a service that runs elsewhere. All at once: each may have to be waited for.
for place; do (
    set -- $place
    why=$(LC_ALL=C timeout 5 bash -c 'exec 3<>"/dev/tcp/$0/$1"' "$2" "$3" 2>&1) && exit
    why=$(printf '%s\n' "$why" | sed -n '1s/.*: //p')
    say unreachable "$1: $2:$3: ${why:-no answer in 5 s}"
) & done
wait
ss -Hltnp 2>/dev/null | while read -r _ _ _ address _ process; do say listener "$address $process"; done
true
"""

FORMAT = '{{.ServerVersion}}|{{.DockerRootDir}}|{{range .ClientInfo.Plugins}}{{if eq .Name "compose"}}{{.Version}}{{end}}{{end}}'
LABELS = r'{{.Label "com.docker.compose.project"}}\t{{.Label "com.docker.compose.project.working_dir"}}'


class Found(FactBase[Machine]):
    """What a host is and has."""

    @staticmethod
    def default() -> Machine:
        return Machine()

    def command(self, root: str, project: str, places: tuple[str, ...] = ()) -> StringCommand:
        return StringCommand(script(LOOK, *places, root=root, project=project, format=FORMAT, labels=LABELS))

    def process(self, output: list[str]) -> Machine:
        found: dict[str, str] = {}
        listeners, own_ports, filled, unreachable = [], [], [], []
        for line in output:
            key, _, value = line.partition("\t")
            if key == "listener":
                address, _, process = value.partition(" ")
                listeners.append((address, process.split('"')[1] if '"' in process else ""))
            elif key == "own_port":
                own_ports.append(value)
            elif key == "unreachable":
                unreachable.append(value)
            elif key == "filled":
                filled.append(value)
            elif value:
                found[key] = value
        return Machine(
            listeners=tuple(listeners),
            own_ports=tuple(own_ports),
            filled=tuple(filled),
            unreachable=tuple(sorted(unreachable)),
            **_fields(found),
        )


def _fields(found: dict[str, str]) -> dict[str, Any]:
    sizes = {name: int(found.pop(f"{name}_kib", 0)) * 1024 for name in ("memory", "disk_root", "disk_docker")}
    limit = found.pop("memory_limit", "max")
    if limit.isdigit():
        sizes["memory"] = min(sizes["memory"], int(limit))
    flags = {
        name: found.pop(name, "") == "yes" for name in ("systemd", "snap", "curl", "deployed", "migrated", "database")
    }
    return {**sizes, **flags, "cpus": int(found.pop("cpus", 0)), **found}


Kept = Callable[[Host, Settings, Machine, dict[str, str]], dict[str, str]]


def _as_it_is(_: Host, draft: Settings, machine: Machine, kept: dict[str, str]) -> dict[str, str]:
    rotation.refuse_unfinished(machine.rotation, draft.knobs.root)
    return kept


_only_once = BoundedSemaphore()
_stacks: dict[str, Stack] = {}
_refused: list[DeployError] = []


def stack(kept: Kept = _as_it_is) -> Stack:
    """What the current host shall get.

    The first host to come here has all hosts looked at, rendered and checked; what is wrong with any of them is raised as
    one DeployError with a line for each thing, before the first operation of the first host.

    kept: what is taken for the host's own .env: (host, what its operator wants, what it is, what lies there) -> that, changed.
    """
    with _only_once:
        if not _stacks and not _refused:
            try:
                _stacks.update(_check_all(state.inventory.get_active_hosts(), kept))
                _warn(_stacks)
            except InvalidError as wrong:
                _refused.append(DeployError("\n    ".join(["nothing was changed:", *wrong.lines])))
    if _refused:
        raise _refused[0]
    return _stacks[host.name]


def _warn(stacks: Mapping[str, Stack]) -> None:
    """Say what stops nothing and should be read all the same, once for all hosts that it concerns."""
    lines: dict[str, list[str]] = {}
    for name, one in stacks.items():
        for line in one.settings.warnings:
            lines.setdefault(line, []).append(name)
    for line, names in lines.items():
        logger.warning("%s: %s", ", ".join(names), line)


def _check_all(hosts: list[Host], kept: Kept) -> dict[str, Stack]:
    groups = {name: members for name, members in state.inventory.groups.items() if members}
    settings.check_names(folder(), groups, [h.name for h in state.inventory])
    # Without the hosts' secrets first: what is wrong here needs no host to be found out.
    drafts = _each(hosts, lambda h: _settings(h, {}))
    entries = _each(hosts, lambda h: outside.entry(h.name, drafts[h.name].knobs))
    looks = _each(hosts, lambda h: _look(h, drafts[h.name]))
    stacks = _each(hosts, lambda h: _checked(h, kept, drafts[h.name], entries[h.name], *looks[h.name]))
    if lines := requirements.clashes({name: (looks[name][0].identity, stack) for name, stack in stacks.items()}):
        raise InvalidError(lines)
    return stacks


def _each(hosts: list[Host], job: Any) -> dict[str, Any]:
    """The job's result for every host, done at once; raises InvalidError with the lines of all hosts that have some."""

    def run(one: Host) -> Any:
        with ctx_host.use(one):
            try:
                return job(one)
            except InvalidError as wrong:
                return wrong

    jobs = {one.name: gevent.spawn(run, one) for one in hosts}
    results = {name: job.get() for name, job in jobs.items()}
    lines: dict[str, list[str]] = {}
    for name, result in results.items():
        for line in result.lines if isinstance(result, InvalidError) else []:
            lines.setdefault(line, []).append(name)
    if lines:
        raise InvalidError(f"{', '.join(names)}: {line}" for line, names in lines.items())
    return results


def knobs_of(one: Host) -> Knobs:
    """The knobs of a host, for what needs no settings; raises DeployError when they are wrong."""
    try:
        return settings.read_knobs(data_of(one), folder())
    except InvalidError as wrong:
        raise DeployError("\n    ".join(wrong.lines)) from None


def _settings(
    one: Host, kept: dict[str, str], memory: int | None = None, stored: dict[str, str] | None = None
) -> Settings:
    return settings.load(one.name, data_of(one), one.groups, folder(), kept, memory=memory, stored=stored)


def _look(one: Host, draft: Settings) -> tuple[Machine, str]:
    knobs = draft.knobs
    env_file = StringCommand(script('! test -e "$file" || cat "$file"', file=f"{knobs.root}/.env"))
    places = tuple(f"{place.setting} {place.host} {place.port}" for place in external.places(draft))
    machine = one.get_fact(Found, root=knobs.root, project=knobs.project, places=places)
    try:
        return machine, private_look(state, one, env_file)
    except OSError as error:
        raise InvalidError(f"{knobs.root}/.env on the host cannot be read: {error}") from None


def _checked(one: Host, as_kept: Kept, draft: Settings, entry: Entry, machine: Machine, env_file: str) -> Stack:
    if not machine.os_id:
        raise InvalidError("the host could not be looked at; what it answered stands above")
    found, where = dotenv.read(env_file), secret_store.place(one.name, draft.knobs)
    kept, stored = as_kept(one, draft, machine, found), secret_store.stored(entry, draft, where)
    secret_store.refuse_differing(entry, found, kept, draft, where)
    rendered = replace(render(_settings(one, kept, machine.memory, stored)), seen=machine.env_sha256)
    if wrong := requirements.failures(machine, rendered, {**stored, **kept}):
        raise InvalidError(wrong)
    return rendered
