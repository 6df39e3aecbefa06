"""pyinfra's own command line, which afterwards writes down what it asked of whom: `counted.py FIGURES pyinfra-arguments`.

An SSH command is a request "exec" or "subsystem" on a channel: each costs a round trip to open the channel and one to
ask. Checked once against sshd's own log at `LogLevel VERBOSE`: as many lines "Starting session:" as commands counted
here: 16 for check and run together, 10 with -y.
"""

# mypy: disable-error-code="method-assign"
from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyinfra_cli.main import main  # before paramiko: it patches the sockets that paramiko uses

from paramiko import Channel  # isort: skip


def count(request: Callable[..., Any], commands: Counter[int]) -> Callable[..., Any]:
    """The same method of a channel, counting its calls by the port of the host that it is connected to."""

    def counting(channel: Channel, *arguments: Any, **options: Any) -> Any:
        commands[channel.get_transport().getpeername()[1]] += 1
        return request(channel, *arguments, **options)

    return counting


def peak_memory() -> int:
    """Of this process since it began, in bytes; getrusage would count what its parent had before the fork."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def run(figures: Path) -> None:
    """Run pyinfra on what is left of the command line; it ends the process."""
    commands: Counter[int] = Counter()
    Channel.exec_command = count(Channel.exec_command, commands)
    Channel.invoke_subsystem = count(Channel.invoke_subsystem, commands)
    try:
        main()
    finally:
        figures.write_text(json.dumps({"commands": commands, "peak_memory": peak_memory()}))


if __name__ == "__main__":
    target = Path(sys.argv.pop(1))
    sys.argv[0] = "pyinfra"
    sys.path.pop(0)  # this folder, which the `pyinfra` command would not have there either
    run(target)
