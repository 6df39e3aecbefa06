"""Fixtures of the unit tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from stack import render
from tests.unit.wanted import plain

# No deadline: a busy machine is no bug. Derandomised, so that a red run means a changed program.
settings.register_profile("unit", deadline=None, max_examples=40, derandomize=True, database=None)
settings.load_profile("unit")


def _forget_templates() -> None:
    render._environment.cache_clear()
    render.service_names.cache_clear()


@pytest.fixture
def templates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of templates/ that is rendered instead of the real one."""
    plain()  # of the real ones, for comparison
    copy = tmp_path / "templates"
    shutil.copytree(render.TEMPLATES, copy)
    monkeypatch.setattr(render, "TEMPLATES", copy)
    _forget_templates()
    yield copy
    _forget_templates()
