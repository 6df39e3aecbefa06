"""The text of docs/settings.md, made from the releases' settings and their types."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from stack import release, types
from stack.docs import default_knobs
from stack.explain import default_of, known_to
from stack.readers import BACKEND, readers
from stack.release import Release
from stack.secrets import GENERATED, is_secret

HEAD = """\
# Settings

Made by `make docs` from `stack/releases/`; a test fails when it is stale. Every setting of Dify {versions}; the defaults are those
of {version}. `python -m stack explain NAME` says where a value comes from, `python -m stack settings WORD` searches.

## Where a setting comes from

The nearer layer wins, setting by setting:

| layer | how a setting is written there |
| --- | --- |
| 1. the release's default | this page |
| 2. derived | from other settings and knobs, as in [services.md](services.md); secrets are made once on the host |
| 3. `group_data/all.py` | `LOG_LEVEL = "DEBUG"`: capitals are settings of Dify, small letters are knobs |
| 4. `group_data/<group>.py`, data of a group | the same; of several groups the last one of the inventory wins |
| 5. `.env` | `LOG_LEVEL=DEBUG`; a value with spaces, `#` or quotes is quoted |
| 6. `env/<group>.env` | the same, in the order of the host's groups |
| 7. `env/<host>.env` | the same |
| 8. the host's data in `inventory.py` | `("web1", {{"LOG_LEVEL": "DEBUG"}})` |
| 9. `--data` | `--data LOG_LEVEL=DEBUG`; secrets are refused there, everybody on the machine could read them |

An empty value is as if the line were not there: the release's default counts, and a warning says so. A name that the release does
not know is an error, and so is a value that the setting cannot have. Knobs stand in layers 3, 4, 8 and 9 only.

A boolean is `true` or `false`, in any case, and nothing else: 1, yes and on mean something to some of Dify's parts only.
"backend" below is {backend}: they read all shared settings. "since" is the
oldest release in `stack/releases/` that has the setting; Dify itself may have had it before.

"""


def settings_page() -> str:
    """The text of docs/settings.md."""
    version = default_knobs()["dify_version"]
    facts = release.load(version)
    head = HEAD.format(versions=" and ".join(release.versions()), version=version, backend=", ".join(BACKEND))
    return head + "\n".join(line for group, names in _groups().items() for line in _section(group, names, facts)) + "\n"


def _groups() -> dict[str, list[str]]:
    """{group: settings that a release has}, in the order of stack/releases/types.yaml."""
    known = {name for version in release.versions() for name in release.load(version).settings}
    groups: dict[str, list[str]] = {}
    for name in [*types.declared(), *sorted(known)]:
        if name in known and name not in groups.setdefault(types.of(name).group, []):
            groups[types.of(name).group].append(name)
    return {group: names for group, names in groups.items() if names}


def _section(group: str, names: Iterable[str], facts: Release) -> Iterator[str]:
    yield f"## {group}"
    yield ""
    yield "| setting | may be | default | since | read by |"
    yield "| --- | --- | --- | --- | --- |"
    for name in names:
        yield f"| `{name}` | {types.of(name).allowed} | {_default(name, facts)} | {_since(name)} | {_readers(name, facts)} |"
    yield ""


def _default(name: str, facts: Release) -> str:
    if name in GENERATED:
        return "made on the host"
    if is_secret(name):
        return "secret"
    shown = default_of(name, facts if name in facts.settings else release.load(known_to(name)[-1]))
    return f"`{shown}`" if shown else ""


def _since(name: str) -> str:
    """The oldest release here that has it, and the newest when later ones do not; older ones than the oldest here may too."""
    having = known_to(name)
    return having[0] if having[-1] == release.versions()[-1] else f"{having[0]}, until {having[-1]}"


def _readers(name: str, facts: Release) -> str:
    services = list(readers(name, facts if name in facts.settings else release.load(known_to(name)[-1])))
    if set(BACKEND) <= set(services):
        services = ["backend", *(service for service in services if service not in BACKEND)]
    return ", ".join(services)
