"""What the operator wants of one host: knobs (group_data/) and Dify's own settings (.env files), checked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal

from dotenv.parser import parse_stream
from pydantic import BaseModel, ByteSize, ConfigDict, Field, ValidationError

from stack import dotenv, release, secrets, wiring
from stack.errors import InvalidError, nearest
from stack.release import Release

# What pyinfra itself and its connectors read from host data is not ours to judge.
FOREIGN_DATA = re.compile(r"_|ssh_|docker_identifier|winrm_|vagrant|terraform|fake_")

AbsolutePath = Annotated[str, Field(pattern=r"^/[A-Za-z0-9._/-]*[A-Za-z0-9_-]$")]
# A host with port and path, as an image's name begins: no scheme.
Mirror = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]+)?(/[A-Za-z0-9._/-]+)?$")]
LOGIN_IN_URL = re.compile(r"://[^/@]*:[^/@]*@")


class Login(BaseModel):
    """Who we are at a registry."""

    model_config = ConfigDict(extra="forbid")
    username: str = Field(min_length=1)
    password: str = Field(min_length=1, repr=False)


class Knobs(BaseModel):
    """Every knob of the deployment; defaults and one line of why stand in group_data/all.py."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    dify_version: str
    root: AbsolutePath
    project: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    profiles: list[str]
    images: dict[str, str]
    image_registry: Literal[""] | Mirror | dict[str, Mirror]
    registry_login: dict[str, Login] = Field(repr=False)
    docker_source: Literal["distro", "docker", "present"]
    docker_repository: Annotated[str, Field(pattern=r"^https?://")]
    docker_log_max_size: Annotated[str, Field(pattern=r"^[0-9]+[kmg]$")]
    docker_log_max_file: Annotated[int, Field(ge=1)]
    docker_registry_mirrors: list[Annotated[str, Field(pattern=r"^https?://")]]
    docker_insecure_registries: list[str]
    docker_proxy: dict[Literal["http", "https", "no_proxy"], str] = Field(repr=False)
    docker_address_pools: list[dict[Literal["base", "size"], str | int]]
    min_cpus: Annotated[int, Field(ge=1)]
    min_memory: ByteSize
    min_disk_root: ByteSize
    min_disk_docker: ByteSize
    answer_timeout: Annotated[int, Field(ge=10)]
    allow_unknown_settings: list[str]


@dataclass(frozen=True)
class Settings:
    """All that is wanted of one host.

    host: its name in the inventory.
    values: each Dify setting that differs from the release's default; secrets included.
    given: the names among them that the operator set.
    """

    host: str
    knobs: Knobs
    release: Release = field(repr=False)
    values: dict[str, str] = field(repr=False)
    given: frozenset[str]

    def __getitem__(self, name: str) -> str:
        return self.values.get(name) or self.release.default(name)

    @property
    def secrets(self) -> list[str]:
        """Every value that must not be shown."""
        passwords = [login.password for login in self.knobs.registry_login.values()]
        proxies = [url for url in self.knobs.docker_proxy.values() if "@" in url]
        values = [v for n, v in self.values.items() if v and (secrets.is_secret(n) or LOGIN_IN_URL.search(v))]
        return values + passwords + proxies


def load(
    host: str, data: Mapping[str, Any], groups: Iterable[str], folder: Path, kept: Mapping[str, str], fresh: bool = True
) -> Settings:
    """Settings of one host.

    host, data, groups: its name, data and groups in the inventory.
    folder: where `.env` and `env/` lie (beside inventory.py).
    kept: what the host's own `.env` holds; its secrets are taken over.
    fresh: whether missing secrets are made; False writes placeholders instead.
    Raises InvalidError with a line for each thing that is wrong.
    """
    knobs = _knobs(data)
    facts = release.load(knobs.dify_version)
    read = read_layers(folder, groups, host, facts, knobs.allow_unknown_settings)
    # To Compose, an empty value is one that is not there: ${NAME:-default}.
    given = {name: value for name, value in read.items() if value}
    env_file = f"{knobs.root}/.env"
    secrets.refuse_published(facts, given)
    secrets.refuse_published(facts, {n: v for n, v in kept.items() if n not in given}, f" in {env_file} on the host")
    secrets.refuse_long_init_password(given)
    secrets.refuse_rotation(given, kept, env_file)
    make = secrets.make if fresh else secrets.placeholder
    chosen = wiring.choose(facts, given, knobs.profiles)
    # What is no longer chosen keeps its secrets too: its data still lies there, and may be wanted again.
    mine = dict.fromkeys([*chosen.secrets, *(name for name in secrets.GENERATED if name in kept)])
    own = {name: kept.get(name) or make(name) for name in mine if name not in given}
    values = wiring.derive(facts, given, own, chosen, knobs.profiles)
    differs = {name: value for name, value in values.items() if value != _default(facts, name)}
    return Settings(host, knobs, facts, differs, frozenset(given))


def _default(facts: Release, name: str) -> str | None:
    setting = facts.settings.get(name)
    return setting.default if setting else None


def _knobs(data: Mapping[str, Any]) -> Knobs:
    known = Knobs.model_fields
    lines = [
        f"{name} in group_data or host data: unknown knob{hint}"
        for name in data
        if name not in known and not FOREIGN_DATA.match(name) and (hint := nearest(name, known))
    ]
    try:
        knobs = Knobs.model_validate(dict(data))
    except ValidationError as error:
        # A knob that may be of two types fails for each of them: the last says most.
        lines += list({wrong["loc"][0]: _knob_line(data, wrong) for wrong in error.errors()}.values())
    if lines:
        raise InvalidError(lines)
    return knobs


def _knob_line(data: Mapping[str, Any], wrong: Any) -> str:
    name = str(wrong["loc"][0])
    if wrong["type"] == "missing" and len(wrong["loc"]) == 1:
        return f"{name}: this knob has no value; group_data/all.py has its default"
    inside = "".join(
        f"[{part!r}]" for part in wrong["loc"][1:] if isinstance(part, str) and not part.startswith("dict[")
    )
    shown = "" if name in ("registry_login", "docker_proxy") else f" = {data[name]!r}"
    return f"{name}{inside}{shown} in group_data or host data: {wrong['msg']}"


def read_layers(
    folder: Path, groups: Iterable[str], host: str, facts: Release, allowed: Iterable[str] = ()
) -> dict[str, str]:
    """What the operator set, later files winning: .env, env/<group>.env in the order of the host's groups, env/<host>.env."""
    files = [folder / ".env", *(folder / "env" / f"{name}.env" for name in dict.fromkeys([*groups, host]))]
    given: dict[str, str] = {}
    lines: list[str] = []
    for file in files:
        try:
            given |= _read_env_file(file, folder, {*facts.settings, *allowed})
        except InvalidError as wrong:
            lines += wrong.lines
    if lines:
        raise InvalidError(lines)
    return given


def _read_env_file(file: Path, folder: Path, known: set[str]) -> dict[str, str]:
    where = file.relative_to(folder)
    try:
        data = file.read_bytes()
        bindings = list(parse_stream(StringIO(data.decode())))
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidError(f"{where} line {line}: cannot be read: not UTF-8") from None
    except OSError as error:
        raise InvalidError(f"{where}: cannot be read: {error.strerror}") from None
    values: dict[str, str] = {}
    lines: list[str] = []
    for binding in bindings:
        at = f"{where} line {dotenv.line_of(binding)}"
        if binding.error or (binding.key is not None and binding.value is None):
            named = _name_in(binding.original.string, known)
            lines.append(f"{at}: not NAME=value{named}; a value with spaces, # or quotes must be quoted")
        elif binding.key is not None and binding.key not in known:
            near = nearest(binding.key, known)
            # A line that was broken in the middle of a secret has no name that looks like one: not to be shown.
            name = binding.key if near or re.fullmatch(r"[A-Z][A-Z_]{2,40}", binding.key) else "its name"
            lines.append(f"{at}: {name} is no setting of this Dify release{near}")
        elif binding.key is not None:
            values[binding.key] = dotenv.value_of(binding) or ""
    if lines:
        raise InvalidError(lines)
    return values


def _name_in(line: str, known: set[str]) -> str:
    """The setting that a broken line begins with, if there is one; all else of it may be a secret."""
    word = re.match(r"\s*(?:export\s+)?(\w*)", line)
    return f" ({word[1]})" if word and word[1] in known else ""


def check_names(folder: Path, groups: Iterable[str], hosts: Iterable[str]) -> None:
    """Raise InvalidError for each env/<name>.env and group_data/<name>.py that no group or host of the inventory reads."""
    groups, hosts = set(groups) - {"all"}, set(hosts)
    stray = [(p, groups | hosts) for p in sorted((folder / "env").glob("*.env"))]
    stray += [(p, groups | {"all"}) for p in sorted((folder / "group_data").glob("*.py"))]
    lines = [
        f"{path.relative_to(folder)}: the inventory has no group{'' if path.suffix == '.py' else ' or host'} "
        f"{path.stem!r}{nearest(path.stem, known)}"
        for path, known in stray
        if path.stem not in known
    ]
    if lines:
        raise InvalidError(lines)
