"""What the release's own Compose file says, as tests compare it.

An entry of `environment` is a value, or (the setting it is read from, the default written beside it).
"""

from __future__ import annotations

from typing import Any

from stack import release
from tests.unit.wanted import RELEASE


def _entry(source: dict[str, str]) -> str | tuple[str, str]:
    return source["value"] if "value" in source else (source["setting"], source["default"])


def _service(block: dict[str, Any]) -> dict[str, Any]:
    return {**block, "environment": {name: _entry(source) for name, source in block["environment"].items()}}


SERVICES = {name: _service(block) for name, block in release.upstream(RELEASE.version)["services"].items()}
