"""Compose's ${NAME:-default} as Compose itself resolves it, so that a change of a setting is seen before it is sent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

NAME = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(:-|:\?|\?|(?=\}))")


def interpolate(node: Any, values: Mapping[str, str]) -> Any:
    """A copy of parsed YAML with every ``${NAME}``, ``${NAME:-default}`` and ``${NAME:?message}`` replaced.

    values: what the host's .env says. Raises ValueError for a lone dollar sign; ``$$`` becomes ``$``.
    """
    if isinstance(node, dict):
        return {key: interpolate(value, values) for key, value in node.items()}
    if isinstance(node, list):
        return [interpolate(value, values) for value in node]
    return _text(node, values) if isinstance(node, str) and "$" in node else node


def _text(text: str, values: Mapping[str, str]) -> str:
    out, at = [], 0
    while (dollar := text.find("$", at)) >= 0:
        out.append(text[at:dollar])
        if text.startswith("$$", dollar):
            out.append("$")
            at = dollar + 2
            continue
        match = NAME.match(text, dollar)
        if not match:
            raise ValueError(f"cannot interpolate {text!r}; write $$ for a dollar sign")
        end = _closing_brace(text, match.end())
        fallback = text[match.end() : end] if match[2] == ":-" else ""
        out.append(values.get(match[1]) or _text(fallback, values))
        at = end + 1
    return "".join([*out, text[at:]])


def _closing_brace(text: str, at: int) -> int:
    """Where the brace closes; a default may hold braces of its own ({hook_id})."""
    depth = 1
    for index in range(at, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return index
    raise ValueError(f"no closing brace in {text!r}")
