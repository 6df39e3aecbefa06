"""The images: all on the host before anything is stopped."""

from __future__ import annotations

import json
import time
from base64 import b64encode
from collections.abc import Generator

from pyinfra import host, state
from pyinfra.api import FactBase, StringCommand, operation

from stack.render import Stack
from stack.settings import Login
from tasks.commands import MaskedCommand, script

# How Docker's client calls docker.io in its config.json.
DOCKER_HUB = "https://index.docker.io/v1/"

LOOK = r"""
docker image inspect --format . "$@" >/dev/null 2>&1 && exit 0
for image; do docker image inspect --format . "$image" >/dev/null 2>&1 || echo "$image"; done
"""
# A login comes on stdin and lies in a folder of its own for the time of the pull only. Without one, that of the host counts.
PULL = r"""
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; umask 077; cat > "$folder/config.json"
test ! -s "$folder/config.json" || export DOCKER_CONFIG="$folder"
for wait in 2 5 0; do
    docker pull --quiet "$image" >/dev/null 2>"$folder/why" && exit 0
    grep -Eq 'not found|denied|unauthorized|manifest unknown' "$folder/why" && break
    sleep $wait
done
cat "$folder/why" >&2
echo "image $image cannot be pulled: see image_registry, registry_login and docker_proxy in group_data/all.py." \
    "What ran before runs on." >&2
exit 1
"""


class Missing(FactBase[list[str]]):
    """Those of the wanted images that are not on the host."""

    default = list

    def command(self, images: list[str]) -> StringCommand:
        return StringCommand(script(LOOK, *images))

    def process(self, output: list[str]) -> list[str]:
        return output


@operation()
def pulled(stack: Stack) -> Generator[StringCommand, None, None]:
    """Every image of the stack is on the host.

    + stack: what shall run
    """
    missing = host.get_fact(Missing, images=stack.images)
    if not missing:
        host.noop("all images are there")
    config = docker_config(stack.settings.knobs.registry_login)
    for number, image in enumerate(missing, 1):
        started = time.monotonic()
        if state.is_executing:
            host.log(f"image {number} of {len(missing)}: {image}")
        yield MaskedCommand(script(PULL, image=image), secrets=stack.settings.secrets, _stdin=config)
        host.log(f"image {number} of {len(missing)}: there after {time.monotonic() - started:.0f} s")


def docker_config(logins: dict[str, Login]) -> str:
    """A Docker client's config.json with these logins, as `docker login` would write it; empty without any."""
    auths = {
        DOCKER_HUB if registry == "docker.io" else registry: {"auth": _basic(login)}
        for registry, login in logins.items()
    }
    return json.dumps({"auths": auths}) if auths else ""


def _basic(login: Login) -> str:
    return b64encode(f"{login.username}:{login.password}".encode()).decode()
