"""The containers: compared by state and digest label; only what differs is touched."""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass

from pyinfra import host
from pyinfra.api import FactBase, StringCommand, operation

from stack.render import DIGEST_LABEL, Service, Stack
from tasks import nginx
from tasks.commands import MaskedCommand, alone, deployment, script

LOOK = r"""
docker ps --all --no-trunc --filter "label=com.docker.compose.project=$project" \
    --filter label=com.docker.compose.oneoff=False --format "$format" 2>/dev/null || true
"""
FORMAT = r"\t".join(
    [
        '{{.Label "com.docker.compose.service"}}',
        "{{.State}}",
        f'{{{{.Label "{DIGEST_LABEL}"}}}}',
        "{{.Status}}",
        "{{.ID}}",
    ]
)

# Without --volumes: the data of a service that is no longer chosen stays.
REMOVE = 'docker stop --time 30 "$@" >/dev/null && docker rm "$@" >/dev/null'
# Compose leaves a network behind that its file no longer names. Its containers are gone or elsewhere by now.
LOOK_AT_NETWORKS = r"""
docker network ls --filter "label=com.docker.compose.project=$project" \
    --format '{{.Label "com.docker.compose.network"}}' 2>/dev/null || true
"""
REMOVE_NETWORKS = r"""
for name; do
    docker network ls --quiet --filter "label=com.docker.compose.project=$project" \
        --filter "label=com.docker.compose.network=$name" | xargs -r docker network rm >/dev/null || exit 1
done
"""
UP = 'cd "$root" && docker compose up --detach --no-deps --pull never --quiet-pull "$@" 2>&1'


@dataclass(frozen=True)
class Container:
    """A container of the project.

    state: of Docker: running, exited, ...
    status: Docker's sentence about it, with its health.
    """

    id: str
    service: str
    state: str
    digest: str
    status: str

    @property
    def health(self) -> str:
        """One word: starting, unhealthy, exited, ..."""
        words = re.findall(r"starting|unhealthy|healthy", self.status)
        return words[0] if self.state == "running" and words else self.state

    def is_right(self, service: Service) -> bool:
        """Whether it runs, or has done its one job, as wanted."""
        done = service.one_shot and self.state == "exited" and self.status.startswith("Exited (0)")
        return self.digest == service.digest and (self.state == "running" or done)

    def is_well(self, service: Service) -> bool:
        """Whether it runs and its health check says so."""
        if service.one_shot:
            return self.status.startswith("Exited (0)")
        return self.health == ("healthy" if service.has_check else "running")


class Containers(FactBase[list[Container]]):
    """The containers of a Compose project, one-off ones left out; none when Docker is not there."""

    default = list

    def command(self, project: str) -> StringCommand:
        return StringCommand(script(LOOK, project=project, format=FORMAT))

    def process(self, output: list[str]) -> list[Container]:
        rows = (line.split("\t") for line in output)
        return [Container(id, service, state, digest, status) for service, state, digest, status, id in rows]


class Networks(FactBase[list[str]]):
    """The networks of a Compose project, by their names in its file; none when Docker is not there."""

    default = list

    def command(self, project: str) -> StringCommand:
        return StringCommand(script(LOOK_AT_NETWORKS, project=project))

    def process(self, output: list[str]) -> list[str]:
        return output


def compare(found: list[Container], wanted: dict[str, Service]) -> tuple[list[str], list[Container]]:
    """(services that must be brought up, containers that must go)"""
    by_service: dict[str, Container] = {}
    surplus = []
    for container in found:
        if container.service not in wanted or container.service in by_service:
            surplus.append(container)
        else:
            by_service[container.service] = container
    stale = [n for n, service in wanted.items() if n not in by_service or not by_service[n].is_right(service)]
    return stale, surplus


@operation()
def runs(stack: Stack) -> Generator[StringCommand, None, None]:
    """Exactly the wanted services run, each as rendered.

    + stack: what was rendered
    """
    knobs = stack.settings.knobs
    stale, surplus = compare(host.get_fact(Containers, project=knobs.project), stack.services)
    if surplus:
        host.log(f"removing, data kept: {', '.join(container.service for container in surplus)}")
        yield StringCommand(script(REMOVE, *(container.id for container in surplus)))
    if stale:
        up = alone(UP, *stale, lock=deployment(knobs.project), root=knobs.root)
        yield MaskedCommand(up, secrets=stack.settings.secrets)
    networks: list[str] = host.get_fact(Networks, project=knobs.project)
    if left := sorted(set(networks) - stack.networks):
        host.log(f"removing the networks {', '.join(left)}")
        yield StringCommand(script(REMOVE_NETWORKS, *left, project=knobs.project))
    served = nginx.serving(stack)
    reloads = (
        "nginx" in stack.services and "nginx" not in stale and served.configuration != stack.services["nginx"].loads
    )
    if reloads:
        yield from nginx.loads(stack)
    if served.closed:
        yield from nginx.opens(stack)
    if not (stale or surplus or left or reloads or served.closed):
        host.noop(f"{knobs.project} runs as wanted")
