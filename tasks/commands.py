"""Commands whose output may hold a secret, and looks that nobody may read along."""

from __future__ import annotations

from collections.abc import Iterable
from shlex import quote
from typing import Any

import click
from pyinfra.api import StringCommand
from pyinfra.api.arguments import CONNECTOR_ARGUMENT_KEYS, pop_global_arguments
from pyinfra.api.host import Host
from pyinfra.api.state import State
from pyinfra.connectors.util import CommandOutput, OutputLine

from stack.secrets import mask

# Two runs may be at work on one host: of two people, under two names of one machine, or what goes on after its controller died.
# Others may neither make the lock, as in /run/lock, nor read it: whoever can read a lock can hold it for ever.
ALONE = r"""
(umask 077; : >>"$lock"); exec 9>"$lock"
flock -w 600 9 || {
    echo "another run is at work here, for ten minutes now: deploy again when it is through." \
        "find /proc/[0-9]*/fd -lname $lock shows who holds it" >&2; exit 1; }
"""


class MaskedCommand(StringCommand):
    """A shell command whose output is shown with every secret replaced, at every verbosity.

    bits: as for StringCommand.
    secrets: values that must not be shown.
    connector arguments: as for StringCommand (`_stdin` is never printed).
    """

    def __init__(self, *bits: Any, secrets: Iterable[str], **arguments: Any) -> None:
        super().__init__(*bits, **arguments)
        self.secrets = list(secrets)

    def execute(self, state: State, host: Host, connector_arguments: Any) -> Any:
        """Run it; returns (whether it ended with 0, its masked output)."""
        connector_arguments.update(self.connector_arguments)
        ok, output = host.run_shell_command(
            self, print_output=False, print_input=state.print_input, **connector_arguments
        )
        shown = CommandOutput([OutputLine(line.buffer_name, mask(line.line, self.secrets)) for line in output])
        if state.print_output:
            for line in shown:
                click.echo(f"{host.print_prefix}{line.line}", err=True)
        return ok, shown


def private_look(state: State, host: Host, command: StringCommand, stdin: str | None = None) -> str:
    """What a command prints, shown to nobody: a fact would print it at -vvv. Raises OSError when the command fails."""
    arguments, _ = pop_global_arguments(state, host, {})
    connector_arguments = {key: value for key, value in arguments.items() if key in CONNECTOR_ARGUMENT_KEYS}
    if stdin is not None:
        connector_arguments["_stdin"] = stdin
    ok, output = host.run_shell_command(command, print_output=False, print_input=False, **connector_arguments)
    if not ok:
        raise OSError(output.stderr or "the command failed")
    return str(output.stdout)


def script(body: str, *arguments: str, **variables: str) -> str:
    """A shell script with its values in front, each quoted, so that the body itself never changes.

    body: POSIX shell.
    arguments: become "$@".
    variables: become "$name".
    """
    lines = [f"{name}={quote(value)}" for name, value in variables.items()]
    if arguments:
        lines.append("set -- " + " ".join(quote(argument) for argument in arguments))
    return "\n".join([*lines, body.strip("\n")])


def alone(body: str, *arguments: str, lock: str, **variables: str) -> str:
    """A shell script as `script` makes it, that waits while another one with the same lock runs on the host: ten minutes at most.

    lock: the lock's name; `deployment` gives that of what changes one deployment.
    """
    return script(ALONE + body, *arguments, lock=f"/run/{lock}.lock", **variables)


def deployment(project: str) -> str:
    """Name of the lock of all that replaces a project's files, schema or containers, or makes its first account."""
    return f"{project}-deployment"
