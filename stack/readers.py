"""Which services read which setting, found in the templates themselves."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from stack.release import Release

TEMPLATES = Path(__file__).parent.parent / "templates"
BACKEND = ("api", "worker", "worker_beat", "plugin_daemon")
# env("NAME"), setting["NAME"], setting.NAME and ${NAME...}.
_NAME = re.compile(r"""(?:["']([A-Z][A-Z0-9_]+)["']|setting\.([A-Z][A-Z0-9_]+)|\$\{([A-Z][A-Z0-9_]+))""")
_INCLUDED = re.compile(r"""["'](?:services/)?(_\w+\.j2)["']""")


def readers(name: str, release: Release) -> tuple[str, ...]:
    """The services that a change of this setting concerns; shared ones reach all of Dify's own."""
    setting = release.settings.get(name)
    shared = BACKEND if setting is not None and setting.shared else ()
    return tuple(dict.fromkeys([*shared, *_read_by().get(name, ())]))


@cache
def _read_by() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path in sorted(TEMPLATES.rglob("*.j2")):
        if service := _service(path.relative_to(TEMPLATES)):
            for name in _names(path):
                found.setdefault(name, []).append(service)
    return found


def _service(path: Path) -> str:
    """Whose file it is: templates/services/<service>.yaml.j2, templates/[volumes/]<service>/..."""
    if path.parts[0] == "services":
        return "" if path.name.startswith("_") else path.name.removesuffix(".yaml.j2")
    folders = path.parts[1:-1] if path.parts[0] == "volumes" else path.parts[:-1]
    return folders[0] if folders else ""


def _names(path: Path) -> set[str]:
    text = path.read_text()
    names = {"".join(forms) for forms in _NAME.findall(text)}
    included = (TEMPLATES / "services" / name for name in _INCLUDED.findall(text))
    return names.union(*(_names(file) for file in included if file.is_file() and file != path))
