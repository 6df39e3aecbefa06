"""Why there are no figures."""

from __future__ import annotations


class BenchError(Exception):
    """What keeps the benchmark from measuring, in a few lines for a person."""
