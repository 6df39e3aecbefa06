"""python -m stack: everything about a host without touching it."""

from __future__ import annotations

import argparse
import sys

from stack import checks, explain, importer, pages, rendering
from stack.errors import InvalidError

COMMANDS = (checks, explain, rendering, pages, importer)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except InvalidError as wrong:
        print("\n".join(wrong.lines), file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Its reader has seen enough, as in `... | head`; Python would complain about the rest when it ends.
        sys.stderr.close()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m stack", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add_command(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
