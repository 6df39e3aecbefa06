"""Settings in a YAML file, with ${NAME} filled in from the environment, as Kibana and OpenSearch Dashboards do it."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import yaml


def read(path: str) -> dict[str, Any]:
    """The file's settings. Ends the process for a name that the environment does not have."""

    def fill(value: Any) -> Any:
        return re.sub(r"\$\{(\w+)\}", lambda match: _variable(match[1]), value) if isinstance(value, str) else value

    settings: dict[str, Any] = yaml.safe_load(Path(path).read_text()) or {}
    return {name: fill(value) for name, value in settings.items()}


def _variable(name: str) -> str:
    if name not in os.environ:
        sys.exit(f"FATAL Error: unknown environment variable referenced in config: {name}")
    return os.environ[name]
