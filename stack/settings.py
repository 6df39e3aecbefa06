"""What the operator wants of one host: knobs (group_data/) and Dify's own settings (.env files), checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from posixpath import normpath
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    IPvAnyAddress,
    ValidationError,
)
from pydantic_core import PydanticCustomError

from stack import (
    accounts,
    address,
    derived,
    egress,
    exposure,
    layers,
    middleware,
    release,
    secret_store,
    secrets,
    sizes,
    tls,
    types,
    validation,
    wiring,
)
from stack.contradictions import contradictions, without_effect
from stack.errors import InvalidError, nearest
from stack.layers import LOGIN_IN_URL, SETTING, Given, Read, check_names
from stack.release import Release
from stack.wiring import Chosen

_T = TypeVar("_T")

# What pyinfra itself and its connectors read from host data is not ours to judge.
FOREIGN_DATA = re.compile(r"_|ssh_|docker_identifier|winrm_|vagrant|terraform|fake_")

# What a pattern asks for, in words.
_PATTERNS = {
    r"^/[A-Za-z0-9._/-]*[A-Za-z0-9_-]$": "must be an absolute path without spaces, as /opt/dify",
    r"^[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]+)?(/[A-Za-z0-9._/-]+)?$": "must be host[:port][/path], without a scheme",
    r"^[a-z0-9][a-z0-9_-]*$": "must be small letters, digits, - and _, and begin with a letter or digit",
    r"^https?://": "must begin with http:// or https://",
    r"^[0-9]+[kmg]$": "must be a size with k, m or g, as 50m",
    r"^https://[^\s'\"$`\\]+$": "must be letsencrypt, staging or the https:// address of an ACME directory",
    r"^[0-9A-F]{40}$": "must be a fingerprint: 40 digits of 0-9 and A-F, without spaces",
    r"-----BEGIN CERTIFICATE-----": "must be certificates in PEM, which begin with -----BEGIN CERTIFICATE-----",
}
# Somebody may have taken a private key for a certificate or a public key.
_HIDDEN = ("registry_login", "docker_proxy", "ca_certificates", "secrets_command", "age_identity", "age_recipients")
# How pydantic names the types that a value was tried as; they stand among the keys that lead to it.
_OF_PYDANTIC = re.compile(r"dict\[|constrained-str|literal\[|\[key\]")
_PATH, _MIRROR, _PROJECT, _WEB, _LOG_SIZE, _HTTPS, _KEY, _PEM = _PATTERNS
# Folders that the system, or another program, takes for its own; in those of VOLATILE nothing outlives a boot.
SYSTEM = set(
    """
    /bin /boot /etc /home /lib /lib64 /root /sbin /tmp /usr /usr/bin /usr/lib /usr/local /usr/sbin /usr/share
    /var /var/lib /var/lib/containerd /var/lib/docker /var/log /var/tmp
    """.split()  # noqa: SIM905
)
VOLATILE = ("/dev/", "/proc/", "/run/", "/sys/")


def _own_folder(path: str) -> str:
    """The knob root as it was given; PydanticCustomError for a folder that is not the deployment's alone."""
    # Written in another way it would look like another folder, where two deployments are compared.
    if normpath(path) != path or path.startswith("//"):
        raise PydanticCustomError("root", "must have no .., no . and no // in it, as /opt/dify")
    if path in SYSTEM or f"{path}/".startswith(VOLATILE):
        raise PydanticCustomError("root", "is the system's own folder; name one that only Dify uses, as /opt/dify")
    return path


AbsolutePath = Annotated[str, Field(pattern=_PATH), AfterValidator(_own_folder)]
# A host with port and path, as an image's name begins: no scheme.
Mirror = Annotated[str, Field(pattern=_MIRROR)]


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
    project: Annotated[str, Field(pattern=_PROJECT)]
    mode: Literal["dify", "middleware"]
    middleware_address: IPvAnyAddress
    profiles: list[str]
    public_url: Annotated[str, AfterValidator(address.checked)]
    admin: Annotated[accounts.Admin | None, BeforeValidator(accounts.checked)]
    size: sizes.Size
    workflow_log_retention_days: Annotated[int, Field(ge=0)]
    expose: dict[str, Annotated[str, AfterValidator(exposure.checked)]]
    firewall: Literal["off", "docker-user"]
    firewall_allow: list[Annotated[str, AfterValidator(exposure.checked_entry)]]
    images: dict[str, str]
    allow_mixed_images: bool
    image_registry: Literal[""] | Mirror | dict[str, Mirror]
    registry_login: dict[str, Login] = Field(repr=False)
    docker_source: Literal["distro", "docker", "present"]
    docker_repository: Annotated[str, Field(pattern=_WEB)]
    docker_repository_key: Literal[""] | Annotated[str, Field(pattern=_KEY)]
    docker_log_max_size: Annotated[str, Field(pattern=_LOG_SIZE)]
    docker_log_max_file: Annotated[int, Field(ge=1)]
    docker_registry_mirrors: list[Annotated[str, Field(pattern=_WEB)]]
    docker_insecure_registries: list[str]
    docker_proxy: dict[Literal["http", "https", "no_proxy"], str] = Field(repr=False)
    docker_address_pools: list[dict[Literal["base", "size"], str | int]]
    min_cpus: Annotated[int, Field(ge=1)]
    min_memory: ByteSize
    min_disk_root: ByteSize
    min_disk_docker: ByteSize
    harden: bool
    answer_timeout: Annotated[int, Field(ge=10)]
    allow_unknown_settings: list[str]
    ca_certificates: Literal[""] | Annotated[str, Field(pattern=_PEM)]
    secrets: Literal["host", "file"]
    age_identity: Annotated[str, BeforeValidator(secret_store.identity)]
    age_recipients: list[Annotated[str, AfterValidator(secret_store.recipient)]]
    secrets_command: Annotated[secret_store.Commands | None, BeforeValidator(secret_store.commands), Field(repr=False)]
    tls: Literal["off", "own", "letsencrypt", "proxy"]
    tls_certificate: str = Field(repr=False)
    tls_key: str = Field(repr=False)
    acme_server: Literal["letsencrypt", "staging"] | Annotated[str, Field(pattern=_HTTPS)]
    acme_check: bool
    hsts: Annotated[int, Field(ge=0)]
    trusted_proxies: list[Annotated[str, AfterValidator(address.network)]]
    ssrf_allow: list[Annotated[str, AfterValidator(egress.checked_target)]]
    ssrf_connect_ports: list[Annotated[int, Field(ge=1, le=65535)]]
    ssrf_allowed_domains: list[Annotated[str, AfterValidator(egress.checked_domain)]]
    ssrf_upstream_proxy: Annotated[str, AfterValidator(egress.checked_upstream)] = Field(repr=False)


@dataclass(frozen=True)
class Settings:
    """All that is wanted of one host.

    host: its name in the inventory.
    values: each Dify setting that is given or differs from the release's default; secrets included.
    given: the names among them that the operator set.
    chosen: what the deployment consists of beside Dify itself.
    layers: what each layer says of each setting that the operator gave, farthest first.
    warnings: what is no error and should be read all the same, one line each.
    size: the preset of stack/sizes.py that is in use; empty for none.
    certificate: the operator's own for HTTPS, with its key; None in other modes.
    """

    host: str
    knobs: Knobs
    release: Release = field(repr=False)
    values: dict[str, str] = field(repr=False)
    given: frozenset[str]
    chosen: Chosen = field(repr=False)
    layers: Mapping[str, Sequence[Given]] = field(default_factory=dict, repr=False)
    warnings: tuple[str, ...] = ()
    size: str = ""
    certificate: tls.Pair | None = field(default=None, repr=False)

    def __getitem__(self, name: str) -> str:
        return self.values.get(name) or self.release.default(name)

    @property
    def secrets(self) -> list[str]:
        """Every value that must not be shown."""
        passwords = [login.password for login in self.knobs.registry_login.values()]
        proxies = [url for url in self.knobs.docker_proxy.values() if "@" in url]
        values = [v for n, v in self.values.items() if v and (secrets.is_secret(n) or LOGIN_IN_URL.search(v))]
        return values + passwords + proxies + egress.secrets(self.knobs.ssrf_upstream_proxy)


def load(
    host: str,
    data: Mapping[str, Any],
    groups: Iterable[str],
    folder: Path,
    kept: Mapping[str, str],
    fresh: bool = True,
    memory: int | None = None,
    stored: Mapping[str, str] | None = None,
) -> Settings:
    """Settings of one host.

    host, data, groups: its name, data and groups in the inventory.
    folder: where `.env` and `env/` lie (beside inventory.py).
    kept: what the host's own `.env` holds; its secrets are taken over.
    fresh: whether missing secrets are made; False writes placeholders instead.
    memory: of the host in bytes, for size = "auto"; None before it was looked at, which is taken for the smallest.
    stored: secrets of this host that are kept elsewhere, for what its `.env` does not have.
    Raises InvalidError with a line for each thing that is wrong.
    """
    wrong = _Wrong()
    knobs, facts = wrong.of(lambda: read_knobs(data, folder)), wrong.of(lambda: release_of(data))
    if facts is None:
        raise InvalidError(wrong.lines)
    found = _read(host, data, groups, folder, facts)
    given = _judged(wrong, found, facts, data)
    pair = wrong.of(lambda: tls.own(knobs, folder)) if knobs else None
    if knobs is None or wrong.lines:
        raise InvalidError(validation.ordered(wrong.lines))
    try:
        wanted = _complete(host, knobs, facts, found, given, kept, fresh, memory, stored or {})
    except InvalidError as error:
        raise InvalidError(validation.placed(error.lines, found.last)) from None
    return replace(wanted, certificate=pair, warnings=(*wanted.warnings, *pair.warnings)) if pair else wanted


def _complete(
    host: str,
    knobs: Knobs,
    facts: Release,
    found: Read,
    given: dict[str, str],
    kept: Mapping[str, str],
    fresh: bool,
    memory: int | None,
    stored: Mapping[str, str],
) -> Settings:
    """What the operator set, the secrets of the host and what follows from both."""
    env_file = f"{knobs.root}/.env"
    secrets.refuse_published(facts, {n: v for n, v in kept.items() if n not in given}, f" in {env_file} on the host")
    make = secrets.make if fresh else secrets.placeholder
    chosen = wiring.choose(facts, given, knobs.profiles)
    # What the host keeps of a service that now runs elsewhere was its own container's.
    kept = {name: value for name, value in kept.items() if name not in chosen.theirs}
    secrets.refuse_rotation(given, kept, env_file)
    # What is no longer chosen keeps its secrets too: its data still lies there, and may be wanted again.
    had = {**{name: value for name, value in stored.items() if name not in chosen.theirs}, **kept}
    mine = dict.fromkeys([*chosen.secrets, *(name for name in secrets.GENERATED if name in had)])
    own = {name: had.get(name) or make(name) for name in mine if name not in given}
    profiles = [*knobs.profiles, *tls.profiles(knobs)]
    values = wiring.derive(
        facts, given, own, chosen, profiles, derived.settings(knobs, facts, given, kept, chosen, memory)
    )
    # What is given stands there even when it is the default: some services have another one (TOP_K_MAX_VALUE in web).
    differs = {name: value for name, value in values.items() if name in given or value != _default(facts, name)}
    words = secrets.published_words(facts, {n: v for n, v in own.items() if kept.get(n) == v}, env_file)
    size, asks = sizes.resolve(knobs.size, memory), derived.warnings(knobs, facts, given, kept, chosen, memory)
    idle = validation.placed(without_effect(facts, given, values), found.last) if knobs.mode == "dify" else ()
    warnings = (*found.warnings, *layers.empties(found, facts, values), *idle, *words, *asks)
    return Settings(host, knobs, facts, differs, frozenset(given), chosen, found.given, warnings, size)


class _Wrong:
    """The lines of all that is wrong, so that none hides another."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def of(self, job: Callable[[], _T], given: Mapping[str, Given] | None = None, but: Iterable[str] = ()) -> _T | None:
        """The job's result; its lines with the places of the settings they begin with, without those that name one of `but`."""
        try:
            return job()
        except InvalidError as wrong:
            lines = [line for line in wrong.lines if not any(name in re.findall(r"\w+", line) for name in but)]
            self.lines += validation.placed(lines, given or {})
            return None


def release_of(data: Mapping[str, Any]) -> Release:
    """The release as far as the knobs tell, right or wrong as they are otherwise."""
    version = data.get("dify_version")
    if not isinstance(version, str):
        raise InvalidError([])  # said of the knob already
    return middleware.release_for(str(data.get("mode")), release.load(version))


def _read(host: str, data: Mapping[str, Any], groups: Iterable[str], folder: Path, facts: Release) -> Read:
    return layers.read(folder, groups, host, data, [*facts.settings, *layers.allowed(data)])


def _judged(wrong: _Wrong, found: Read, facts: Release, data: Mapping[str, Any]) -> dict[str, str]:
    """What the operator set; empty values are left out, to Compose they are not there: ${NAME:-default}."""
    wrong.lines += [*found.lines, *validation.wrong_names(found, facts, Knobs.model_fields)]
    values = list(validation.wrong_values(found))
    wrong.lines += (line for _, line in values)
    bad = {name for name, _ in values}
    last = {name: one for name, one in found.last.items() if name not in bad}
    given = {name: types.of(name).normal(one.value, _default(facts, name) or "") for name, one in last.items()}
    wrong.of(lambda: secrets.refuse_published(facts, given, every=True), last)
    wrong.of(lambda: secrets.refuse_long_init_password(given), last)
    wrong.of(lambda: secrets.refuse_unsendable(given), last)
    wrong.of(lambda: middleware.refuse(str(data.get("mode")), given), last)
    wrong.of(lambda: _refuse(contradictions(facts, given)), last, bad)
    wrong.of(lambda: _refuse(derived.problems(facts, given, data)), last, bad)
    # Of a mistyped choice nothing can follow; what follows from the default instead would only confuse.
    if not set(wiring.CHOICES) & bad:
        profiles = data.get("profiles")
        named = [one for one in profiles if isinstance(one, str)] if isinstance(profiles, list) else []
        wrong.of(lambda: wiring.choose(facts, given, named), last, bad)
    return given


def _refuse(lines: Iterable[str]) -> None:
    if lines := list(lines):
        raise InvalidError(lines)


def _default(facts: Release, name: str) -> str | None:
    setting = facts.settings.get(name)
    return setting.default if setting else None


def read_knobs(data: Mapping[str, Any], folder: Path = Path()) -> Knobs:
    """The knobs among a host's data; raises InvalidError with a line for each that is wrong.

    folder: where the inventory lies; files are named from there.
    """
    known = Knobs.model_fields
    lines = [
        f"{name} in {layers.place_of(data, name, folder)}: {said}" for name in data if (said := _no_knob(name, known))
    ]
    if lone := [name for name in data if name in known and not layers.encodes(data[name])]:
        raise InvalidError(
            [*lines, *(f"{name} in {layers.place_of(data, name, folder)}: {layers.LONE}" for name in lone)]
        )
    try:
        knobs = Knobs.model_validate({name: value for name, value in data.items() if isinstance(name, str)})
    except ValidationError as error:
        # A knob that may be of several types fails for each of them: the last that is not a mere "no dictionary" says most.
        errors = sorted(error.errors(), key=lambda wrong: wrong["type"] != "dict_type")
        lines += {wrong["loc"][0]: _knob_line(data, wrong, folder) for wrong in errors}.values()
    else:
        lines += (
            f"{name} in {layers.place_of(data, name, folder)}: {said}" for name, said in secret_store.problems(knobs)
        )
    if lines:
        raise InvalidError(lines)
    return knobs


def may_be(name: str) -> str:
    """What may be given as a knob, for people; empty when its kind alone says too little."""
    return _words(Knobs.model_json_schema()["properties"][name])


def _words(kind: Mapping[str, Any]) -> str:
    """A kind as pydantic describes it in JSON Schema, in words."""
    if "anyOf" in kind:
        words = [_words(one) for one in kind["anyOf"]]
        return ", or ".join(words) if all(words) else ""
    if "enum" in kind or "const" in kind:
        return " or ".join(map(repr, kind.get("enum", [kind.get("const")])))
    if "pattern" in kind:
        said = _PATTERNS.get(kind["pattern"], "a size with a unit, as 4GiB")
        return said.removeprefix("must be ").replace("must ", "text that must ")
    if kind.get("type") == "integer":
        return f"a whole number of at least {kind['minimum']}" if "minimum" in kind else "a whole number"
    return {"boolean": "True or False", "array": "a list", "object": "a dictionary"}.get(kind.get("type", ""), "")


def _no_knob(name: object, known: Iterable[str]) -> str:
    """What is wrong with a name that looks like a knob and is none; what looks like nothing of ours is the operator's."""
    if not isinstance(name, str):
        return "the name of a knob or setting must be text"
    if name in known or SETTING.fullmatch(name) or FOREIGN_DATA.match(name):
        return ""
    if name.upper() in types.declared():
        return f"unknown knob; did you mean Dify's setting {name.upper()}?"
    near = nearest(name, known)
    return near and f"unknown knob{near}"


def _knob_line(data: Mapping[str, Any], wrong: Any, folder: Path) -> str:
    name = str(wrong["loc"][0])
    if wrong["type"] == "missing" and len(wrong["loc"]) == 1:
        return f"{name}: this knob has no value; group_data/all.py has its default"
    inside = "".join(
        f"[{part!r}]" for part in wrong["loc"][1:] if isinstance(part, str) and not _OF_PYDANTIC.match(part)
    )
    hidden = name in _HIDDEN or "@" in str(data[name])
    shown = "" if hidden else f" = {data[name]!r}"
    said = _PATTERNS.get(wrong.get("ctx", {}).get("pattern"), wrong["msg"].replace("Input should be", "must be"))
    said = "must be a size with a unit, as 4GiB" if wrong["type"].startswith("byte_size") else said
    return f"{name}{inside}{shown} in {layers.place_of(data, name, folder)}: {said}"


__all__ = ["Knobs", "Settings", "check_names", "load", "may_be", "read_knobs", "release_of"]
