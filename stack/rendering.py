"""python -m stack render: exactly what hosts would get, written to a folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stack import command_line, dotenv, layers, settings
from stack.errors import InvalidError
from stack.render import Stack, render

EXAMPLES = """\
examples:
  python -m stack render --out /tmp/now                     all hosts
  python -m stack render --out /tmp/now --host web1 --secrets web1.env
"""


def add_command(commands: Any) -> None:
    """Register the subcommand."""
    command = commands.add_parser(
        "render",
        help="write exactly what hosts would get",
        description="Write exactly what hosts would get, one folder a host. Secrets that the hosts have made themselves are "
        "placeholders, always the same, so that two renderings can be compared.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write to, made when missing")
    command_line.add_inventory(command)
    command.add_argument(
        "--secrets",
        type=Path,
        metavar="FILE",
        help="NAME=value lines instead of placeholders, such as a copy of a host's .env",
    )
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    kept = _read(options.secrets) if options.secrets else {}
    hosts, names, folder = command_line.hosts(options)
    layers.check_names(folder, {group for _, groups in hosts.values() for group in groups}, hosts)
    for name in names:
        wanted = settings.load(name, *hosts[name], folder, kept, fresh=False)
        _write(render(wanted), options.out / name)


def _read(file: Path) -> dict[str, str]:
    try:
        return dotenv.read(file.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidError(f"--secrets {file}: cannot be read: {error}") from None


def _write(stack: Stack, folder: Path) -> None:
    for path, file in stack.files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch(mode=0o600)
        target.write_bytes(file.data)
        target.chmod(file.mode)
    print(f"{folder}: {len(stack.files)} files, {len(stack.services)} services, {len(stack.images)} images")
