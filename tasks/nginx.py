"""The running nginx: which files it has loaded, and how it loads others without dropping a request."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from pyinfra import host
from pyinfra.api import FactBase, StringCommand

from stack.render import Stack
from tasks.commands import MaskedCommand, script

# Lies in nginx's folder while a release changes; everybody is told to come back then.
CLOSED = "nginx/.closed"

# For other scripts too. `health` is what nginx says of what it has loaded. `reload_nginx WORDS` has it load its files and waits
# until it says so: configuration=<digest> and certificate=<digest>, one of them or both.
# Needs $project, and $port: the one that nginx listens at inside.
RELOAD = r"""
nginx_container() {
    docker ps --quiet --filter "label=com.docker.compose.project=$project" \
        --filter label=com.docker.compose.service=nginx --filter label=com.docker.compose.oneoff=False
}
health() {
    docker exec "$1" curl --silent --max-time 5 --noproxy '*' "http://127.0.0.1:$port/nginx-health" 2>/dev/null
}
reload_nginx() {
    container=$(nginx_container)
    test -n "$container" || { echo "nginx does not run, so it cannot load its configuration" >&2; return 1; }
    said=$(docker exec "$container" nginx -t -c /etc/nginx/dify/nginx.conf 2>&1) || {
        printf '%s\n' "$said" | grep emerg >&2
        echo "nginx refuses the configuration and runs on with the one it has" >&2
        return 1
    }
    since=$(date +%s)
    docker exec "$container" nginx -c /etc/nginx/dify/nginx.conf -s reload 2>/dev/null
    for look in $(seq 30); do
        loaded=$(health "$container") || loaded=
        missing=; for words in "$@"; do case " $loaded " in *" $words "*) ;; *) missing=$words ;; esac; done
        test -n "$missing" || return 0
        sleep 1
    done
    docker logs --since "$since" "$container" 2>&1 | grep -E '\[(emerg|alert|crit|error)\]' >&2
    echo "nginx has not loaded $missing within 30 s; it says: ${loaded:-nothing}" >&2
    return 1
}
"""
LOOK = r"""
command -v docker >/dev/null || exit 0
test -e "$root/$closed" && echo closed
container=$(nginx_container); test -n "$container" || exit 0
health "$container"
true
"""
LOAD = r"""
reload_nginx "configuration=$wanted"
"""
OPEN = 'rm -f "$root/$closed"'


@dataclass(frozen=True)
class Serving:
    """What the running nginx does.

    configuration, certificate: digests of what it has loaded; empty when it does not say.
    closed: whether it tells everybody to come back later.
    """

    configuration: str = ""
    certificate: str = ""
    closed: bool = False


class Served(FactBase[Serving]):
    """What the running nginx has loaded, and whether it is closed."""

    @staticmethod
    def default() -> Serving:
        return Serving()

    def command(self, root: str, project: str, port: str) -> StringCommand:
        """+ port: the one that nginx listens at inside"""
        return StringCommand(script(RELOAD + LOOK, root=root, project=project, port=port, closed=CLOSED))

    def process(self, output: list[str]) -> Serving:
        said = dict(word.split("=", 1) for line in output for word in line.split() if "=" in word)
        return Serving(said.get("configuration", ""), said.get("certificate", ""), "closed" in output)


def serving(stack: Stack) -> Serving:
    """What the host's nginx does; nothing where there shall be none."""
    if "nginx" not in stack.services:
        return Serving()
    knobs = stack.settings.knobs
    found: Serving = host.get_fact(Served, root=knobs.root, project=knobs.project, port=stack.settings["NGINX_PORT"])
    return found


def loads(stack: Stack) -> Generator[StringCommand, None, None]:
    """The running nginx loads its files."""
    knobs, wanted = stack.settings.knobs, stack.services["nginx"].loads
    load = script(RELOAD + LOAD, project=knobs.project, port=stack.settings["NGINX_PORT"], wanted=wanted)
    yield MaskedCommand(load, secrets=stack.settings.secrets)


def opens(stack: Stack) -> Generator[StringCommand, None, None]:
    """nginx lets everybody in again."""
    yield StringCommand(script(OPEN, root=stack.settings.knobs.root, closed=CLOSED))
