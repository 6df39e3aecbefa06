"""python -m stack docs: the pages of docs/ that are made from data."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stack.docs import default_knobs, services_page
from stack.docs_settings import settings_page

DOCS = Path(__file__).parent.parent / "docs"
# {file: its text}
PAGES: dict[str, Callable[[], str]] = {
    "services.md": lambda: services_page(default_knobs()["dify_version"]),
    "settings.md": settings_page,
}


def add_command(commands: Any) -> None:
    """Register the subcommand."""
    command = commands.add_parser("docs", help="write the pages of docs/ that are made from data")
    command.set_defaults(run=_run)


def _run(_: argparse.Namespace) -> None:
    for name, text in PAGES.items():
        (DOCS / name).write_text(text())
        print(f"docs/{name}")
