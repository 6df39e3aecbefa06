"""Which published weaknesses a release has: data in stack/releases/advisories.yaml, one line for the operator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

import yaml

from stack.release import RELEASES


@dataclass(frozen=True)
class Advisory:
    """One published weakness; the file says what each field means and where it comes from."""

    name: str
    fixed: str
    what: str
    until: str
    only: Mapping[str, str] = field(default_factory=dict)

    def concerns(self, version: str, values: Mapping[str, str]) -> bool:
        """Whether a deployment has it.

        version: of Dify.
        values: the settings that `only` may name.
        """
        return _number(version) < _number(self.fixed) and all(values.get(n) == v for n, v in self.only.items())


@cache
def known() -> tuple[Advisory, ...]:
    """Every weakness there is data for."""
    entries = yaml.safe_load((RELEASES / "advisories.yaml").read_text())
    return tuple(Advisory(**entry) for entry in entries)


def warnings(version: str, values: Mapping[str, str]) -> list[str]:
    """One line that names all published weaknesses of a release, what helps, and the first release without any; or none.

    version: of Dify.
    values: the settings that a weakness may hang on (VECTOR_STORE).
    """
    found = [advisory for advisory in known() if advisory.concerns(version, values)]
    if not found:
        return []
    fixed = max((advisory.fixed for advisory in found), key=_number)
    until = "; ".join(dict.fromkeys(advisory.until for advisory in found))
    names = ", ".join(advisory.name for advisory in found)
    return [f"Dify {version} has published weaknesses ({names}), all mended in {fixed}; until then: {until}"]


def _number(version: str) -> tuple[int, ...]:
    """A version to compare by; of a pre-release (1.16.0-rc1) the release that it leads to."""
    return tuple(int(part) for part in version.partition("-")[0].split("."))
