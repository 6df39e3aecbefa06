"""The firewall in front of containers: a chain behind DOCKER-USER for all deployments on a host, and a list for each."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from pyinfra import host
from pyinfra.api import FactBase, StringCommand, operation

from stack import exposure
from stack.render import Stack
from tasks.commands import script

FOLDER = Path(__file__).parent.parent / "templates" / "firewall"
LISTS = "/etc/dify-firewall"
PROGRAM = "/usr/local/sbin/dify-firewall"
UNIT = "/etc/systemd/system/dify-firewall.service"

LOOK = r"""
test -d "$lists" || exit 0
test -e "$lists/$project" && echo "listed $(sha256sum < "$lists/$project" | cut -d' ' -f1)"
cat "$program" "$unit" 2>/dev/null | sha256sum | sed 's/^\([0-9a-f]*\).*/program \1/'
systemctl --quiet is-enabled dify-firewall && systemctl --quiet is-active dify-firewall && "$program" check &&
    echo "in_force yes"
true
"""
PUT = r"""
set -e; umask 022
for command in iptables ip6tables; do
    command -v $command >/dev/null || {
        echo "firewall = \"docker-user\": $command is missing; install iptables, or set firewall = \"off\"" >&2; exit 1; }
done
put() { printf '%s' "$2" > "$1.new"; chmod "$3" "$1.new"; mv "$1.new" "$1"; }
mkdir -p "$lists"
# Not beside it: all that lies there is in force.
printf '%s' "$wanted" > "$lists.new"; mv "$lists.new" "$lists/$project"
put "$program" "$text" 755; put "$unit" "$service" 644
systemctl daemon-reload
systemctl enable --quiet dify-firewall
systemctl restart dify-firewall && "$program" check || {
    echo "the firewall's rules could not be set:" >&2
    journalctl --unit dify-firewall --lines 10 --no-pager --output cat >&2; exit 1; }
"""
REMOVE = r"""
set -e
rm -f "$lists/$project"
if test -n "$(ls "$lists")"; then
    "$program" set
else
    systemctl disable --quiet --now dify-firewall 2>/dev/null || true
    "$program" off
    rm -f "$unit" "$program" /run/dify-firewall.*; rmdir "$lists"; systemctl daemon-reload
fi
"""


@dataclass(frozen=True)
class State:
    """What was found of the firewall.

    listed: sha256 of this deployment's list; empty when it has none.
    program: sha256 of program and unit, one behind the other.
    in_force: whether the rules are those that were last set, and will be after a reboot.
    """

    listed: str = ""
    program: str = ""
    in_force: bool = False


class Firewall(FactBase[State]):
    """The firewall as it is on a host, seen from one project."""

    @staticmethod
    def default() -> State:
        return State()

    def command(self, project: str) -> StringCommand:
        return StringCommand(script(LOOK, project=project, lists=LISTS, program=PROGRAM, unit=UNIT))

    def process(self, output: list[str]) -> State:
        found = dict(line.split(" ", 1) for line in output)
        return State(found.get("listed", ""), found.get("program", ""), "in_force" in found)


def wanted(stack: Stack) -> str:
    """This deployment's list, one line for each port that may be reached; empty without a firewall."""
    knobs = stack.settings.knobs
    if knobs.firewall == "off":
        return ""
    return "".join(f"{line}\n" for line in exposure.allowed(knobs, stack.opened_by)) or "\n"


@operation()
def guards(stack: Stack) -> Generator[StringCommand, None, None]:
    """Of what containers publish, other machines reach what is listed; or the firewall is not ours.

    + stack: what shall run
    """
    project, text = stack.settings.knobs.project, wanted(stack)
    found = host.get_fact(Firewall, project=project)
    if not text:
        yield from _remove(project, found)
        return
    program, unit = ((FOLDER / name).read_text() for name in ("dify-firewall", "dify-firewall.service"))
    if found == State(_digest(text), _digest(program + unit), True):
        host.noop("the firewall lets in what is listed")
        return
    places = {"lists": LISTS, "program": PROGRAM, "unit": UNIT}
    yield StringCommand(script(PUT, project=project, wanted=text, text=program, service=unit, **places))


@operation()
def gone(project: str) -> Generator[StringCommand, None, None]:
    """Nothing of a project is in the firewall, and no firewall is left when it was the last.

    + project: name of the deployment
    """
    yield from _remove(project, host.get_fact(Firewall, project=project))


def _remove(project: str, found: State) -> Generator[StringCommand, None, None]:
    if found.listed:
        yield StringCommand(script(REMOVE, project=project, lists=LISTS, program=PROGRAM, unit=UNIT))
    else:
        host.noop(f"the firewall has no list of {project}")


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()
