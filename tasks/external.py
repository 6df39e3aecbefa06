"""Services that run elsewhere: tried as Dify will use them, from where it will, before anything of it is configured."""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyinfra import host, state
from pyinfra.api import DeployError, StringCommand, operation

from stack import external
from stack.render import Stack
from stack.secrets import mask
from stack.settings import Settings
from tasks.commands import MaskedCommand, private_look, script

INSIDE = Path(__file__).parent / "inside"
# In the order in which they import each other.
MODULES = ("report", "postgresql", "mysql", "redis", "s3", "stores", "external")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")

# Reads modules and settings from stdin: nothing of either is on the host, in an argument or in `docker inspect`.
START = """\
import json, sys, types
sent = json.load(sys.stdin)
for name, source in sent["modules"].items():
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(source, name, "exec"), module.__dict__)
print(json.dumps(module.main(sent["wanted"])))
"""
# Dify's storage is where an operator may have put certificates that its settings name.
RUN = r"""
docker image inspect --format . "$image" >/dev/null 2>&1 || { cat >/dev/null; echo absent; exit 0; }
test ! -d "$root/volumes/app/storage" || set -- --volume "$root/volumes/app/storage:/app/api/storage:ro"
exec docker run --rm --interactive --pull never --log-driver none --tmpfs "$certificates:mode=1777" "$@" \
    --entrypoint python3 "$image" -c "$start"
"""
REFUSE = r"""
printf '%s\n' "$@" >&2
echo "a service that runs elsewhere is not as Dify needs it. What ran before runs on." >&2
exit 1
"""


@dataclass(frozen=True)
class Found:
    """What was found.

    problems: a line for each thing that Dify could not work with.
    missing: what is not there, but can be made.
    """

    problems: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


@operation()
def ready(stack: Stack) -> Generator[StringCommand, None, None]:
    """Every service that runs elsewhere takes Dify's settings and has what Dify needs.

    + stack: what shall run
    """
    checks = external.checks(stack.settings) if "api" in stack.services else []
    if not checks:
        host.noop("nothing that Dify needs runs elsewhere")
        return
    found = _look(stack, checks)
    if found is None:
        host.noop("looked at in the run, when the image of the api is there")
    elif found.problems and not state.is_executing:
        raise DeployError("\n    ".join([f"{host.name}: nothing was changed:", *found.problems]))
    elif found.problems:
        yield MaskedCommand(script(REFUSE, *found.problems), secrets=stack.settings.secrets)
    elif found.missing:
        host.log(f"to be made elsewhere: {', '.join(found.missing)}")
        yield MaskedCommand(
            _command(stack), secrets=stack.settings.secrets, _stdin=program(stack.settings, checks, create=True)
        )
        yield from _prove(stack, checks)
    else:
        host.noop("every service that runs elsewhere is as Dify needs it")


def _prove(stack: Stack, checks: list[dict[str, Any]]) -> Generator[StringCommand, None, None]:
    """What was made must be found now."""
    found = _look(stack, checks) if state.is_executing else None
    if found and (wrong := [*found.problems, *(f"could not be made: {what}" for what in found.missing)]):
        yield MaskedCommand(script(REFUSE, *wrong), secrets=stack.settings.secrets)


def _look(stack: Stack, checks: list[dict[str, Any]]) -> Found | None:
    """What is found with these settings; None where the image is not there yet."""
    try:
        answer = private_look(state, host, _command(stack), program(stack.settings, checks, create=False))
    except OSError as error:
        last = mask(str(error), stack.settings.secrets).strip().splitlines()[-1:]
        return Found(problems=(f"the services that run elsewhere could not be tried: {' '.join(last)}",))
    answer = mask(answer, stack.settings.secrets).strip()
    if answer == "absent":
        return None
    told = json.loads(answer.splitlines()[-1])
    return Found(tuple(told["problems"]), tuple(told["missing"]))


def _command(stack: Stack) -> StringCommand:
    image, root = stack.services["api"].image, stack.settings.knobs.root
    return StringCommand(script(RUN, image=image, root=root, certificates=external.CERTIFICATES, start=START))


def program(settings: Settings, checks: list[dict[str, Any]], create: bool) -> str:
    """What is fed to the container: the modules that try everything, and what they are to try.

    create: whether what is missing is made.
    """
    modules = {f"tasks.inside.{name}": (INSIDE / f"{name}.py").read_text() for name in MODULES}
    wanted = {
        "checks": checks,
        "create": create,
        "authorities": settings.knobs.ca_certificates,
        "proxies": {name: settings[name] for name in PROXIES if settings[name]},
    }
    return json.dumps({"modules": modules, "wanted": wanted})
