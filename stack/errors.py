"""What the operator has to mend."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class InvalidError(Exception):
    """One or more wrong inputs, one line each: where, what, what is allowed, what to do."""

    def __init__(self, lines: str | Iterable[str]) -> None:
        self.lines = [lines] if isinstance(lines, str) else list(lines)
        super().__init__("\n".join(self.lines))


def nearest(word: str, known: Iterable[str]) -> str:
    """``"; did you mean X?"`` for the known word nearest to a mistyped one, else an empty string."""
    by_upper = {name.upper(): name for name in known}
    close = get_close_matches(word.upper(), by_upper, n=1, cutoff=0.75)
    return f"; did you mean {by_upper[close[0]]}?" if close else ""
