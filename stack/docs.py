"""Pages of docs/ that are made from the same data as the deployment, so that they cannot say anything else."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ByteSize

from stack import settings
from stack.choices import DATABASES, VECTOR_STORES
from stack.release import IMAGE_OF
from stack.render import Needs, service_names, service_text
from stack.settings import Knobs, Settings

KNOBS = Path(__file__).parent.parent / "group_data" / "all.py"
SHARED = "*shared-env"
VARIABLE = re.compile(r"\$\{(\w+)")

SERVICES_HEAD = """\
# Services

Made by `make docs` from `templates/services/`, `stack/releases/{version}/` and `stack/choices.py`; a test fails when it is stale.

Every service of Dify {version} that can be brought up, and what it asks of its host. Services without a profile always run.
The others come by a choice in `.env` (`VECTOR_STORE`, `DB_TYPE`, `ETL_TYPE`) or by the knob `profiles`. Memory is what preflight
adds up. Ports are inside: only nginx's are published. `api`, `worker`, `worker_beat` and `plugin_daemon` read all shared settings
besides those named here ([settings.md](settings.md)).

"""
CHOICES_HEAD = """
# Choices

What must be given when it runs elsewhere, and what is made for you when it runs here.

"""


@cache
def default_knobs() -> dict[str, Any]:
    """The default of every knob, read from group_data/all.py without running it: that would need an inventory."""
    found = {}
    for node in ast.parse(KNOBS.read_text()).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id in Knobs.model_fields:
            found[target.id] = ast.literal_eval(node.value)  # type: ignore[attr-defined]
    return found


def services_page(version: str) -> str:
    """The text of docs/services.md for one release."""
    plain = settings.load(
        "host", {**default_knobs(), "dify_version": version}, [], Path("/nonexistent"), {}, fresh=False
    )
    rows = [_service_row(plain, name) for name in service_names()]
    heads = ["service", "profile", "image", "ports", "memory", "data", "host needs", "settings"]
    choices = [_choice_row(f"{kind}={name}", choice) for kind, those in _CHOICES for name, choice in those.items()]
    return (
        SERVICES_HEAD.format(version=version)
        + _table(heads, rows)
        + CHOICES_HEAD
        + _table(["choice", "profile", "leads to it", "secrets made", "elsewhere: must be given"], choices)
    )


_CHOICES = (("DB_TYPE", DATABASES), ("VECTOR_STORE", VECTOR_STORES))


def _table(heads: list[str], rows: Iterable[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _service_row(plain: Settings, name: str) -> list[str]:
    text = service_text(plain, name)
    block = yaml.safe_load(text.replace(SHARED, "{}"))[name]
    needs = Needs.model_validate(block["x-host"])
    return [
        f"`{name}`",
        _code(block.get("profiles", ())),
        f"`{plain.release.images[IMAGE_OF.get(name, name)]}`",
        ", ".join(f"{port} {called}".strip() for called, port in needs.ports.items()),
        ByteSize(needs.memory).human_readable() if needs.memory else "",
        _code(_data(block)),
        ", ".join(_host_needs(needs)),
        _code(sorted(set(VARIABLE.findall(text)))),
    ]


def _code(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _data(block: dict[str, Any]) -> list[str]:
    sources = (re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", volume).split(":")[0] for volume in block.get("volumes", ()))
    return [source.removeprefix("./") for source in sources if source.startswith("./volumes/")]


def _host_needs(needs: Needs) -> Iterable[str]:
    yield from (f"{name} ≥ {value}" for name, value in needs.sysctl.items())
    if needs.architectures != Needs.model_fields["architectures"].default:
        yield f"{' and '.join(needs.architectures)} only"


def _choice_row(what: str, choice: Any) -> list[str]:
    leads = [f"{name}={value}" for name, value in choice.local.items() if value]
    return [
        f"`{what}`",
        f"`{choice.profile}`" if choice.profile else "runs elsewhere",
        _code(leads),
        _code(choice.secrets),
        _code(dict.fromkeys([*choice.where, *choice.needed])),
    ]
