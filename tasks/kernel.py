"""Kernel settings that the chosen services need: set now, and again at every boot."""

from __future__ import annotations

from collections.abc import Generator, Mapping

from pyinfra import host
from pyinfra.api import FactBase, StringCommand, operation

from stack.render import Stack
from tasks.commands import script

LOOK = r"""
test -e "$file" && sed 's/^/kept /' "$file"
for name; do echo "now $name $(sysctl -n "$name" 2>/dev/null)"; done
true
"""
# Written first: what cannot be set now is at least set at the next boot.
SET = r"""
set -e
printf '%s' "$wanted" > "$file"
for setting; do
    sysctl -q -w "$setting" || {
        echo "$setting cannot be set: this host may not change its kernel (a container?); set it on the machine below" >&2
        exit 1
    }
done
"""


class Kernel(FactBase[tuple[dict[str, int], str]]):
    """({name: value now}, what our own file below /etc/sysctl.d says)"""

    @staticmethod
    def default() -> tuple[dict[str, int], str]:
        return {}, ""

    def command(self, file: str, names: list[str]) -> StringCommand:
        return StringCommand(script(LOOK, *names, file=file))

    def process(self, output: list[str]) -> tuple[dict[str, int], str]:
        rows = [line.split(" ", 1) for line in output]
        now = dict(row.split(" ", 1) for key, row in rows if key == "now")
        kept = "".join(f"{row}\n" for key, row in rows if key == "kept")
        return {name: int(value) for name, value in now.items() if value.isdigit()}, kept


def wanted(stack: Stack) -> dict[str, int]:
    """The least value of each kernel setting that one of the services needs."""
    least: dict[str, int] = {}
    for service in stack.services.values():
        for name, value in service.needs.sysctl.items():
            least[name] = max(value, least.get(name, 0))
    return least


def text(least: Mapping[str, int]) -> str:
    """The file below /etc/sysctl.d."""
    return "".join(f"{name} = {value}\n" for name, value in sorted(least.items()))


@operation()
def settings(stack: Stack) -> Generator[StringCommand, None, None]:
    """The kernel is set as the services need it: never lowered, and kept over reboots.

    + stack: what shall run
    """
    least = wanted(stack)
    if not least:
        host.noop("no service asks anything of the kernel")
        return
    file = f"/etc/sysctl.d/60-{stack.settings.knobs.project}.conf"
    now, kept = host.get_fact(Kernel, file=file, names=list(least))
    low = {name: value for name, value in least.items() if now.get(name, 0) < value}
    if not low and kept == text(least):
        host.noop("the kernel is set as the services need it")
        return
    assignments = [f"{name}={value}" for name, value in low.items()]
    yield StringCommand(script(SET, *assignments, file=file, wanted=text(least)))
