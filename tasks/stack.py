"""pyinfra inventory.py tasks.stack.remove: one deployment goes, others on the same host stay."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from pyinfra import host
from pyinfra.api import DeployError, FactBase, StringCommand, operation

from tasks import firewall, tls
from tasks.commands import script
from tasks.preflight import knobs_of

LOOK = r"""
test -e "$root" && echo "root $root"
command -v docker >/dev/null || exit 0
docker ps --all --quiet --filter "label=com.docker.compose.project=$project" 2>/dev/null | sed 's/^/container /'
docker network ls --quiet --filter "label=com.docker.compose.project=$project" 2>/dev/null | sed 's/^/network /'
true
"""
REMOVE = r"""
set -e
list() { docker "$@" --quiet --filter "label=com.docker.compose.project=$project"; }
running=$(list ps); test -z "$running" || docker stop --time 30 $running >/dev/null
there=$(list ps --all); test -z "$there" || docker rm --force $volumes $there >/dev/null
networks=$(list network ls); test -z "$networks" || docker network rm $networks >/dev/null
"""
# Only a folder that this project was deployed to: a mistyped root must not cost somebody else's files.
DELETE = r"""
set -e
grep -Eqsx "name: \"?$project\"?" "$root/docker-compose.yaml" || {
    echo "$root/docker-compose.yaml is not that of project $project: no file was deleted" >&2; exit 1; }
rm -rf --one-file-system "$root"
rm -f "/etc/sysctl.d/60-$project.conf"
"""


@dataclass(frozen=True)
class Remains:
    """What there is of a deployment: how many containers and networks, and whether its folder is there."""

    containers: int = 0
    networks: int = 0
    folder: bool = False


class Deployment(FactBase[Remains]):
    """What there is of a deployment on a host."""

    @staticmethod
    def default() -> Remains:
        return Remains()

    def command(self, root: str, project: str) -> StringCommand:
        return StringCommand(script(LOOK, root=root, project=project))

    def process(self, output: list[str]) -> Remains:
        kinds = [line.partition(" ")[0] for line in output]
        return Remains(kinds.count("container"), kinds.count("network"), "root" in kinds)


@operation()
def removed(root: str, project: str, delete: bool) -> Generator[StringCommand, None, None]:
    """No container and no network of the deployment is there; with delete, nothing of its folder either.

    + root: folder of the deployment
    + project: its name
    + delete: whether data, secrets and configuration go too
    """
    found = host.get_fact(Deployment, root=root, project=project)
    if found.containers or found.networks:
        host.log(f"removing {found.containers} containers and {found.networks} networks of project {project}")
        # Those that no folder of ours is mounted over.
        yield StringCommand(script(REMOVE, project=project, volumes="--volumes" if delete else ""))
    if found.folder and delete:
        host.log(f"deleting {root}: data, secrets and configuration")
        yield StringCommand(script(DELETE, root=root, project=project))
    elif found.folder:
        host.log(f"kept: {root} with its data and secrets; a deploy brings all back")
    if not found.containers and not found.networks and not (found.folder and delete):
        host.noop(f"project {project} does not run")


def remove(data: str = "keep", confirm: str = "") -> None:
    """Stop and remove the containers and networks of this deployment; data and secrets stay.

    data: "keep", or "delete" to delete the deployment's whole folder.
    confirm: with data=delete, the project's name typed once more.
    Raises DeployError when the two do not fit.
    """
    knobs = knobs_of(host)
    if data not in ("keep", "delete"):
        raise DeployError(f"data={data}: allowed are keep and delete")
    if data == "keep" and confirm:
        raise DeployError(f"confirm={confirm}: only data=delete asks for it; nothing was removed")
    # pyinfra makes a number of what looks like one.
    if data == "delete" and str(confirm) != knobs.project:
        raise DeployError(
            f"data=delete deletes {knobs.root} with all data and secrets of project {knobs.project}: "
            f"type confirm={knobs.project} after it if that is meant"
        )
    tls.unscheduled(name="Certificate is renewed no more", project=knobs.project)
    removed(name="Deployment is gone", root=knobs.root, project=knobs.project, delete=data == "delete")
    firewall.gone(name="Firewall lets go", project=knobs.project)
