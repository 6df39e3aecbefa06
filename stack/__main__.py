"""python -m stack: everything about a host without touching it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from stack import dotenv, settings
from stack.errors import InvalidError
from stack.render import Stack, render


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except InvalidError as wrong:
        print("\n".join(wrong.lines), file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m stack", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser(
        "render",
        help="write exactly what hosts would get",
        description="Write exactly what hosts would get, one folder a host. Secrets that the hosts have made themselves are "
        "placeholders, always the same, so that two renderings can be compared.",
    )
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write to, made when missing")
    command.add_argument("--host", metavar="NAME", help="only this host of the inventory")
    command.add_argument("--inventory", type=Path, default=Path("inventory.py"), metavar="FILE", help="%(default)s")
    command.add_argument(
        "--secrets",
        type=Path,
        metavar="FILE",
        help="NAME=value lines instead of placeholders, such as a copy of a host's .env",
    )
    command.set_defaults(run=_render)
    return parser


def _render(options: argparse.Namespace) -> None:
    kept = _read(options.secrets) if options.secrets else {}
    hosts = _hosts(options.inventory)
    if options.host and options.host not in hosts:
        raise InvalidError(f"--host {options.host}: not in {options.inventory}; there are {', '.join(hosts) or 'none'}")
    folder = options.inventory.parent.resolve()
    settings.check_names(folder, {group for _, groups in hosts.values() for group in groups}, hosts)
    for name, (data, groups) in hosts.items():
        if options.host in (None, name):
            wanted = settings.load(name, data, groups, folder, kept, fresh=False)
            _write(render(wanted), options.out / name)


def _read(file: Path) -> dict[str, str]:
    try:
        return dotenv.read(file.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidError(f"--secrets {file}: cannot be read: {error}") from None


def _hosts(inventory: Path) -> dict[str, tuple[dict[str, Any], list[str]]]:
    """{name: (data, groups)} as pyinfra itself reads them; the only place below stack/ that needs pyinfra."""
    from tasks.inventory import read

    return read(inventory)


def _write(stack: Stack, folder: Path) -> None:
    for path, file in stack.files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch(mode=0o600)
        target.write_bytes(file.data)
        target.chmod(file.mode)
    print(f"{folder}: {len(stack.files)} files, {len(stack.services)} services, {len(stack.images)} images")


if __name__ == "__main__":
    sys.exit(main())
