"""Proof that Dify answers: every container well, and the right answers through nginx."""

from __future__ import annotations

import time
from collections.abc import Generator

import gevent
from pyinfra import host, state
from pyinfra.api import FactBase, StringCommand, operation

from stack import address, middleware
from stack.render import Stack
from tasks.commands import MaskedCommand, script
from tasks.compose import Containers

PAUSE = 2  # seconds between two looks
SAY_AGAIN = 15  # seconds after which unchanged waiting is mentioned again

# /console/api/setup goes through nginx and the api to the database, / through nginx to the web server.
LOOK = r"""
# Where browsers are sent on to https, so are we, but to ourselves; whether the certificate is right is another step's question.
answer() {
    curl --silent --show-error --max-time 10 --noproxy '*' --location --insecure ${to:+--connect-to "$to"} "$@" 2>&1
}
echo "setup $(answer --write-out ' %{http_code}' "$url/console/api/setup" | tr -d '\n')"
echo "page $(answer --output /dev/null --write-out '%{http_code}' "$url/")"
echo "address $(ip -4 route get 192.0.2.1 2>/dev/null | sed -n 's/.* src \([0-9.]*\).*/\1/p')"
"""
CHECKS = """\
{{index .Config.Labels "com.docker.compose.service"}}: {{.State.Status}}\
{{with .State.Health}}, {{.Status}}{{range .Log}}{{if .ExitCode}}
  check: {{.Output}}{{end}}{{end}}{{end}}"""
REPORT = r"""
for id; do
    docker inspect --format "$format" "$id" | tail -n 8
    echo "the last 50 lines of its log:"; docker logs --tail 50 "$id" 2>&1
done >&2
echo "$verdict" >&2
exit 1
"""


class Answer(FactBase[dict[str, str]]):
    """What comes back through nginx: {"setup": body and status, "page": status, "address": of the host}"""

    default = dict

    def command(self, url: str, to: str = "") -> StringCommand:
        """+ url: of what the host asks itself. + to: as curl's --connect-to"""
        return StringCommand(script(LOOK, url=url, to=to))

    def process(self, output: list[str]) -> dict[str, str]:
        return {key: value for key, _, value in (line.partition(" ") for line in output)}


def wrong_answers(answer: dict[str, str]) -> list[str]:
    """What is wrong with the two answers; empty when both are right."""
    setup, page = answer.get("setup", ""), answer.get("page", "")
    wrong = []
    if not setup.endswith(" 200") or '"step"' not in setup:
        wrong.append(f"/console/api/setup {_said(setup)}")
    if page[:1] not in ("2", "3"):
        wrong.append(f"/ {_said(page)}")
    return wrong


def _said(answer: str) -> str:
    """The end of a wrong answer, or curl's reason why there is none; what it then writes for the status is 000."""
    _, failed, reason = answer.partition("curl: (")
    if failed:
        return f"gives no answer: {failed}{reason.removesuffix('000').strip()}"
    return f"says {answer[-80:].strip() or 'nothing'}"


def local(port: str) -> str:
    """How the host itself reaches a port that is published at "8080" or "127.0.0.1:8080"."""
    address, _, number = port.rpartition(":")
    return f"{address if address not in ('', '0.0.0.0', '[::]') else '127.0.0.1'}:{number}"


def door(stack: Stack) -> tuple[str, str]:
    """(the URL at which the host asks its own nginx, and what curl's --connect-to must be for it)"""
    published = {setting: local(port) for port, setting in stack.opened_by.items()}
    http, https = published["EXPOSE_NGINX_PORT"], published.get("EXPOSE_NGINX_SSL_PORT", "")
    if not https:
        return f"http://{http}", ""
    public = address.parse(stack.settings.knobs.public_url or f"https://{https}")
    # Until it has its first certificate, nginx with Let's Encrypt speaks http; then it sends on to https.
    url = f"http://{http}" if stack.settings.knobs.tls == "letsencrypt" else f"https://{public.host}:{public.port}"
    return url, f"{public.host}:{public.port}:{https}"


@operation()
def answers(stack: Stack) -> Generator[StringCommand, None, None]:
    """All services are well, and Dify answers through nginx if it is there. Changes nothing: waits, fails when time is up.

    + stack: what runs
    """
    if not state.is_executing:
        host.noop("looked at when all else is done")
        return
    deadline = time.monotonic() + stack.settings.knobs.answer_timeout
    said, said_at = "", 0.0
    while True:
        unwell, wrong, answer = _look(stack)
        if not unwell and not wrong:
            _tell(stack, answer)
            return
        now = time.monotonic()
        if now > deadline:
            break
        waiting = ", ".join([*unwell, *wrong])
        if waiting != said or now - said_at > SAY_AGAIN:
            said, said_at = waiting, now
            host.log(f"waiting for {waiting}")
        gevent.sleep(PAUSE)
    # A proxy with no service behind it is silent itself, so its log is shown too.
    ids = list(unwell.values()) or list(_ids(stack, "nginx", "api"))
    what = "Dify does not answer" if "nginx" in stack.services else "not all is well"
    verdict = f"{what} after {stack.settings.knobs.answer_timeout} s: {waiting}"
    yield MaskedCommand(
        script(REPORT, *filter(None, ids), verdict=verdict, format=CHECKS), secrets=stack.settings.secrets
    )


def _look(stack: Stack) -> tuple[dict[str, str], list[str], dict[str, str]]:
    """({"service (status)": container id} of those that are not well, wrong answers, the answers)"""
    project = stack.settings.knobs.project
    found = {c.service: c for c in host.get_fact(Containers, project=project)}
    unwell = {f"{name} (not there)": "" for name in stack.services if name not in found}
    for name, container in found.items():
        if name in stack.services and not container.is_well(stack.services[name]):
            unwell[f"{name} ({container.health})"] = container.id
    if "nginx" not in stack.services:
        return unwell, [], {}
    url, to = door(stack)
    answer = host.get_fact(Answer, url=url, to=to)
    return unwell, wrong_answers(answer), answer


def public_address(stack: Stack, name: str) -> str:
    """Where browsers find Dify.

    name: of the host, where public_url says nothing.
    """
    if stack.settings.knobs.public_url:
        return address.parse(stack.settings.knobs.public_url).origin
    port = next(port for port, setting in stack.opened_by.items() if setting == "EXPOSE_NGINX_PORT").rpartition(":")[2]
    return f"http://{name}{'' if port == '80' else ':' + port}"


def _ids(stack: Stack, *services: str) -> list[str]:
    found = host.get_fact(Containers, project=stack.settings.knobs.project)
    return [container.id for container in found if container.service in services]


def _tell(stack: Stack, answer: dict[str, str]) -> None:
    if "nginx" not in stack.services:
        for line in middleware.summary(stack.settings, stack.services):
            host.log(line)
        return
    url = public_address(stack, answer.get("address") or host.name)
    host.log(f"Dify {stack.settings.release.version} answers at {url}")
    if "not_started" in answer["setup"]:
        root = stack.settings.knobs.root
        host.log(
            f"make the first account at {url}/install; it asks for INIT_PASSWORD, which stands in {root}/.env on the host"
        )
