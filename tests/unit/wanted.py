"""Settings and stacks as an operator could want them, for tests."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from stack import release, settings
from stack import render as renderer
from stack.errors import InvalidError
from stack.interpolate import interpolate
from stack.render import Stack, render
from stack.settings import Settings

REPOSITORY = Path(__file__).resolve().parents[2]
TEMPLATES = renderer.TEMPLATES
RELEASE = release.load("1.11.4")
BACKEND = {"api", "worker", "worker_beat", "plugin_daemon"}
# Choices that lead to services elsewhere, with what must be given of these.
OTHER_DATABASE = {"DB_HOST": "db.lan", "DB_PASSWORD": "given"}
UPSTASH = {
    "VECTOR_STORE": "upstash",
    "UPSTASH_VECTOR_URL": "https://vectors.lan",
    "UPSTASH_VECTOR_TOKEN": "given",
}
CORE = BACKEND | {"init_permissions", "web", "db_postgres", "redis", "sandbox", "ssrf_proxy", "nginx", "weaviate"}

# What names a credential in Dify's settings, and those that are named alike but hold none.
CREDENTIAL = re.compile(r"PASSWORD|PWD|SECRET|TOKEN|KEY|CREDENTIAL|CONNECTION_STRING|_DSN|CELERY_BROKER_URL")
LOOK_ALIKES = {
    "ACCESS_TOKEN_EXPIRE_MINUTES",
    "REFRESH_TOKEN_EXPIRE_DAYS",
    "RESET_PASSWORD_TOKEN_EXPIRY_MINUTES",
    "EMAIL_REGISTER_TOKEN_EXPIRY_MINUTES",
    "CHANGE_EMAIL_TOKEN_EXPIRY_MINUTES",
    "OWNER_TRANSFER_TOKEN_EXPIRY_MINUTES",
    "PROMPT_GENERATION_MAX_TOKENS",
    "CODE_GENERATION_MAX_TOKENS",
    "PLUGIN_BASED_TOKEN_COUNTING_ENABLED",
    "INDEXING_MAX_SEGMENTATION_TOKENS_LENGTH",
    "WEAVIATE_TOKENIZATION",
    "WEAVIATE_ENABLE_TOKENIZER_GSE",
    "WEAVIATE_ENABLE_TOKENIZER_KAGOME_JA",
    "WEAVIATE_ENABLE_TOKENIZER_KAGOME_KR",
    "WEAVIATE_AUTHENTICATION_APIKEY_ENABLED",
    "WEAVIATE_AUTHENTICATION_APIKEY_USERS",
    "NGINX_SSL_CERT_KEY_FILENAME",
    # host:port/name and scheme://host: the names of servers. User and password are settings of their own.
    "ORACLE_DSN",
    "COUCHBASE_CONNECTION_STRING",
}
# Every credential that everybody can read in the release.
PUBLISHED = {
    name: setting.default
    for name, setting in RELEASE.settings.items()
    if setting.default and CREDENTIAL.search(name) and name not in LOOK_ALIKES
}


@cache
def _defaults() -> dict[str, Any]:
    tree = ast.parse((REPOSITORY / "group_data/all.py").read_text())
    found = {}
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id in settings.Knobs.model_fields:
            found[target.id] = ast.literal_eval(node.value)  # type: ignore[attr-defined]
    return found


def knobs(**changed: Any) -> dict[str, Any]:
    """Host data with the defaults of group_data/all.py."""
    return {**_defaults(), **changed}


def env_text(given: Mapping[str, str]) -> str:
    """An operator's .env file; single quotes, in which python-dotenv takes all but two characters as they are."""
    quoted = {name: value.replace("\\", "\\\\").replace("'", "\\'") for name, value in given.items()}
    return "".join(f"{name}='{value}'\n" for name, value in quoted.items())


def settings_of(
    given: Mapping[str, str] | None = None, kept: Mapping[str, str] | None = None, fresh: bool = False, **changed: Any
) -> Settings:
    """Settings of one host.

    given: what the operator's .env says; kept: what the host's says; changed: knobs.
    """
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / ".env").write_text(env_text(given or {}), encoding="utf-8")
        return settings.load("web1", knobs(**changed), ["dify"], Path(folder), kept or {}, fresh)


def stack_of(given: Mapping[str, str] | None = None, **changed: Any) -> Stack:
    """Everything that one host gets, with placeholders for secrets."""
    wish = json.dumps([given or {}, changed], sort_keys=True)
    return _rendered(wish) if renderer.TEMPLATES == TEMPLATES else render(settings_of(given, **changed))


@cache
def _rendered(wish: str) -> Stack:
    given, changed = json.loads(wish)
    return render(settings_of(given, **changed))


@cache
def plain() -> Stack:
    """What a host gets when the operator changes nothing."""
    return stack_of()


def compose_of(stack: Stack) -> dict[str, Any]:
    """The parsed Compose file."""
    parsed = yaml.load(stack.files["docker-compose.yaml"].data, yaml.CSafeLoader)
    assert isinstance(parsed, dict)
    return parsed


def resolved(stack: Stack) -> dict[str, Any]:
    """The parsed Compose file with all settings filled in."""
    filled = interpolate(compose_of(stack), stack.settings.values)
    assert isinstance(filled, dict)
    return filled


def refused(job: Callable[[], object]) -> list[str]:
    """The lines of the error that the job ends with, each of them one line."""
    with pytest.raises(InvalidError) as wrong:
        job()
    assert wrong.value.lines
    assert [line for line in wrong.value.lines if "\n" in line] == []
    return wrong.value.lines


def leaves(node: object) -> Iterable[str]:
    """Every value in parsed YAML, as text; keys left out."""
    if isinstance(node, dict):
        for value in node.values():
            yield from leaves(value)
    elif isinstance(node, list):
        for value in node:
            yield from leaves(value)
    else:
        yield node if isinstance(node, str) else json.dumps(node)


def run_sh(
    script: str, stdin: str = "", path: Path | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a script in the shell that hosts run it in.

    path: a folder whose programs come before the system's.
    """
    programs = "/usr/sbin:/usr/bin:/sbin:/bin"
    return subprocess.run(
        ["sh", "-c", script],
        input=stdin,
        capture_output=True,
        text=True,
        check=check,
        env={"PATH": f"{path}:{programs}" if path else programs, "LC_ALL": "C.UTF-8"},
    )
