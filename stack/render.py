"""Settings -> Stack: every file that a host gets, and what must run on it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from pathlib import Path
from textwrap import indent
from typing import Annotated, Any, Literal

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError, TemplateSyntaxError
from pydantic import BaseModel, BeforeValidator, ByteSize, ConfigDict

from stack import address, developer, dotenv, egress, exposure, external, hardening, middleware, sizes
from stack.errors import InvalidError, nearest
from stack.images import reference
from stack.interpolate import interpolate
from stack.release import IMAGE_OF
from stack.secrets import is_secret
from stack.settings import Settings

TEMPLATES = Path(__file__).parent.parent / "templates"
DIGEST_LABEL = "dify.digest"
DATABASES = ("db_postgres", "db_mysql", "oceanbase", "seekdb")
# What the sandbox installs, one package a line; the operator's own.
REQUIREMENTS = "volumes/sandbox/dependencies/python-requirements.txt"
# Tells a program that reads its files again when asked which of them it has read: rendered last, with their digest in it.
VERSION = "version.conf"
# Which of the two sites nginx serves with tls = "letsencrypt"; changed on the host, when there is a certificate.
SITE = "nginx/letsencrypt/site.conf"
# A service's x-host block: what it needs of its host. We read it; Compose must not see it.
X_HOST = re.compile(r"^  x-host:.*\n(?:    .*\n)*", re.MULTILINE)
VARIABLE = re.compile(r"\$\{(\w+)")


@dataclass(frozen=True)
class File:
    """A file to lie on the host; owner is root unless said.

    keep: made when missing, never replaced: it is the operator's.
    hidden: a secret as a whole, of which no difference is shown.
    owner: uid and gid of the one user in a container that may read it, where root's own it could not.
    """

    data: bytes = field(repr=False)
    mode: int = 0o644
    keep: bool = False
    hidden: bool = False
    owner: int = 0

    @property
    def sha256(self) -> str:
        return sha256(self.data).hexdigest()


@dataclass(frozen=True)
class Folder:
    """A folder below ./volumes.

    owner: uid and gid of everything in it, repaired on every run; None when its container takes ownership itself.
    first_owner: uid and gid that it is made with, for a container that cannot take ownership; what is in it is its own.
    """

    path: str
    owner: int | None = None
    first_owner: int | None = None


def _named(ports: Any) -> Any:
    """A service's only port needs no name."""
    return {"": ports[0]} if isinstance(ports, list) and len(ports) == 1 else ports


class Needs(BaseModel):
    """What a service needs of its host: the x-host block of its template.

    owner, first_owner: of its data folders, as in Folder.
    memory: what it takes at work, in bytes.
    sysctl: kernel settings that must be at least this.
    architectures: that there is an image for, as Docker names them.
    ports: that it listens on inside, {name: number} where there are several; the first is the main one.
    reloads: whether it reads its files again when asked, so that a change of them needs no other container.
    capabilities: all that it keeps of root's; without them it keeps Docker's, less those that nobody needs.
    setuid: whether programs in it become another user by their setuid bit.
    processes: that it may have, threads counted.
    scratch: the folders it writes to beside its data: they are in memory, and its image is not written to.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    owner: int | None = None
    first_owner: int | None = None
    memory: ByteSize
    sysctl: dict[str, int] = {}
    architectures: tuple[str, ...] = ("amd64", "arm64")
    ports: Annotated[dict[str, int], BeforeValidator(_named)] = {}
    reloads: bool = False
    capabilities: tuple[str, ...] | None = None
    setuid: bool = False
    processes: int = hardening.PROCESSES
    scratch: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Service:
    """One service that shall run.

    image: the reference to pull.
    digest: what its container must be labelled with.
    one_shot: whether it ends when its job is done.
    has_check: whether it has a health check.
    needs: what its host must give it.
    profiles: those that bring it up; none for one that always runs.
    folders: its data, below `root`.
    loads: the digest of the files that it must have read, for one that reads them again when asked; else empty.
    """

    image: str
    digest: str
    one_shot: bool = False
    has_check: bool = True
    needs: Needs = field(default_factory=lambda: Needs(memory=ByteSize(0)))
    profiles: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    loads: str = ""


@dataclass(frozen=True)
class Stack:
    """All that one host gets.

    files: by path below `root`.
    folders: the data folders of the chosen services.
    services: those that the chosen profiles bring up.
    ports: "address:port" or "port" on the host that something is published at; the first of nginx is http.
    opened_by: the setting or knob behind each of them.
    networks: all that the Compose file names, by their names there.
    seen: sha256 of the .env on the host whose secrets these are; empty where there was none.
    """

    settings: Settings
    files: dict[str, File]
    folders: list[Folder]
    services: dict[str, Service]
    ports: list[str]
    opened_by: Mapping[str, str] = field(default_factory=dict)
    networks: frozenset[str] = frozenset()
    seen: str = ""

    @property
    def images(self) -> list[str]:
        """Every image that the host needs, once."""
        return list(dict.fromkeys(service.image for service in self.services.values()))


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def render(settings: Settings) -> Stack:
    """Render everything for one host; raises InvalidError for a template that fails or a file that is no valid YAML."""
    try:
        return _render(settings)
    except (TemplateError, TypeError, KeyError, ValueError) as error:
        raise InvalidError(f"{_place(error)}: {_reason(error)}") from error
    except yaml.YAMLError as error:
        raise InvalidError(
            f"docker-compose.yaml: the rendered file is no valid YAML: {' '.join(str(error).split())}"
        ) from error


def _place(error: BaseException) -> str:
    """File and line of the template that an error came from."""
    if isinstance(error, TemplateSyntaxError):
        return f"templates/{error.name} line {error.lineno}"
    where, trace = "templates", error.__traceback__
    while trace:
        file = Path(trace.tb_frame.f_code.co_filename)
        if file.is_relative_to(TEMPLATES):
            where = f"templates/{file.relative_to(TEMPLATES)} line {trace.tb_lineno}"
        trace = trace.tb_next
    return where


def _reason(error: Exception) -> str:
    return f"{error} is no setting of this release" if isinstance(error, KeyError) else str(error)


def _render(settings: Settings) -> Stack:
    files = _configuration(settings)
    names = (name for name in service_names() if not middleware.leaves_out(settings, name))
    texts = {name: service_text(settings, name) for name in names}
    compose = yaml.load(_compose(settings, texts), yaml.CSafeLoader)
    active = set(filter(None, settings.values["COMPOSE_PROFILES"].split(",")))
    _refuse_unknown_profiles(compose["services"], settings.knobs.profiles)
    services: dict[str, Service] = {}
    folders: dict[str, Folder] = {}
    opened_by: dict[str, str] = {}
    needed = {name: Needs.model_validate(block.pop("x-host")) for name, block in compose["services"].items()}
    exposed = _exposed(settings, compose, needed, active)
    for name, block in compose["services"].items():
        needs = needed[name]
        added = middleware.additions(settings, name) | sizes.additions(settings.size, name, block)
        added |= hardening.additions(needs, block)
        added |= {"ports": exposed[name]} if name in exposed else {}
        block |= added
        wanted = interpolate(block, settings.values)
        digest = _digest(wanted, {} if needs.reloads else files)
        texts[name] = X_HOST.sub("", texts[name]) + _yaml(added) + f'  labels:\n    {DIGEST_LABEL}: "{digest}"\n'
        if not _is_chosen(block, active):
            continue
        own = _folders(wanted, needs)
        services[name] = Service(
            image=wanted["image"],
            digest=digest,
            one_shot=wanted.get("restart") == "no",
            has_check="healthcheck" in wanted,
            needs=needs,
            profiles=tuple(wanted.get("profiles", ())),
            folders=tuple(folder.path for folder in own),
            loads=_digest_of_files(files, f"{name}/") if needs.reloads else "",
        )
        folders |= {f.path: f for f in own if f.owner or f.path not in folders}
        _open(opened_by, block.get("ports", []), wanted.get("ports", []), exposure.opened_by(settings.knobs))
    # Where Dify itself answers stands first.
    opened_by = dict(sorted(opened_by.items(), key=lambda opened: opened[1].startswith("expose[")))
    # A folder that is called like a service is that service's: with the service it is not wanted.
    unwanted = set(service_names()) - services.keys()
    files = {path: file for path, file in files.items() if path.partition("/")[0] not in unwanted}
    files["docker-compose.yaml"] = File(_compose(settings, texts).encode())
    networks = frozenset(compose["networks"])
    return Stack(settings, files, list(folders.values()), services, list(opened_by), opened_by, networks)


def _yaml(block: Mapping[str, Any]) -> str:
    return indent(yaml.safe_dump(block, sort_keys=False, width=1000), "  ") if block else ""


def _is_chosen(block: Mapping[str, Any], active: set[str]) -> bool:
    return "profiles" not in block or bool(active.intersection(block["profiles"]))


def _exposed(
    settings: Settings, compose: Mapping[str, Any], needed: Mapping[str, Needs], active: set[str]
) -> dict[str, list[str]]:
    """What the knob expose publishes of each service."""
    blocks, internal = compose["services"], {n for n, net in compose["networks"].items() if net.get("internal")}
    offers = {}
    for name, needs in needed.items():
        networks = tuple(blocks[name].get("networks", ["default"]))
        offers[name] = exposure.Offer(needs.ports, networks if internal.issuperset(networks) else ())
    exposure.refuse_unknown_entries(settings.knobs)
    return exposure.published(settings.knobs, offers, {n for n, block in blocks.items() if _is_chosen(block, active)})


def _open(
    opened_by: dict[str, str], written: Iterable[str], resolved: Iterable[str], exposed: Mapping[str, str]
) -> None:
    """Note which setting or knob publishes each port; raises InvalidError for two at one."""
    for text, filled in zip(written, resolved, strict=True):
        port, name = filled.rpartition(":")[0], VARIABLE.search(text)
        setting = name[1] if name else exposed.get(port, "")
        if taken := next((other for other in opened_by if exposure.overlap(port, other)), ""):
            raise InvalidError(f"port {port}: both {opened_by[taken]} and {setting} name it; give one of them another")
        opened_by[port] = setting


def _refuse_unknown_profiles(blocks: Mapping[str, Any], wanted: Iterable[str]) -> None:
    known = {profile for block in blocks.values() for profile in block.get("profiles", [])}
    if lines := [
        f"profiles: no service has the profile {name!r}; there are {', '.join(sorted(known))}{nearest(name, known)}"
        for name in wanted
        if name not in known
    ]:
        raise InvalidError(lines)


@cache
def service_names() -> tuple[str, ...]:
    """Every service there is a template for, core and optional."""
    return tuple(sorted(path.name.removesuffix(".yaml.j2") for path in (TEMPLATES / "services").glob("*.yaml.j2")))


def _variables(settings: Settings) -> dict[str, Any]:
    return {
        "project": settings.knobs.project,
        "release": settings.release,
        "setting": settings,
        "egress": egress.of(settings),
        "tls": settings.knobs.tls,
        "hsts": settings.knobs.hsts,
        "trusted_proxies": settings.knobs.trusted_proxies if settings.knobs.tls == "proxy" else [],
        "public": address.parse(settings.knobs.public_url) if settings.knobs.public_url else None,
        "memory_limit": lambda name: sizes.limit(settings.size, name),
        "databases": [name for name in DATABASES if name in service_names()],
        "server_options": _quoted(external.server_options(settings["DB_EXTRAS"])),
        "certificates": f"./certificates:{external.CERTIFICATES}:ro" if settings.knobs.ca_certificates else "",
        "env": lambda name, default=None: _env(settings, name, default),
        "image": lambda name: reference(settings, IMAGE_OF.get(name) or name),
    }


def _quoted(value: str) -> str:
    """A value for a Compose file in which Compose itself fills nothing in; empty stays empty."""
    return json.dumps(value.replace("$", "$$")) if value else ""


def _env(settings: Settings, name: str, default: str | None = None) -> str:
    """A setting as Compose reads it from .env; a secret has no default, so that a published one can never run."""
    if not is_secret(name):
        fallback = _release_default(settings, name) if default is None else default
        return json.dumps(f"${{{name}:-{fallback}}}")
    return json.dumps(f"${{{name}:?is missing in .env}}" if settings.values.get(name) else f"${{{name}:-}}")


def _release_default(settings: Settings, name: str) -> str:
    return "" if name in settings.knobs.allow_unknown_settings else settings.release.default(name)


def _configuration(settings: Settings) -> dict[str, File]:
    """All files but the Compose file: laid out below templates/ as on the host."""
    files = {".env": File(dotenv.write(settings).encode(), 0o600), REQUIREMENTS: File(b"", keep=True)}
    for path in sorted(TEMPLATES.rglob("*.j2")):
        name = path.relative_to(TEMPLATES).as_posix().removesuffix(".j2")
        folder = name.partition("/")[0]
        apart = name == "docker-compose.yaml" or folder == "services" or path.name == f"{VERSION}.j2"
        if not apart and not middleware.leaves_out(settings, folder):
            reader = _Reader(settings)
            text = _environment().get_template(f"{name}.j2").render(_variables(settings) | {"setting": reader})
            files[name] = File(text.encode(), 0o600 if any(map(is_secret, reader.read)) else 0o644)
    if pair := settings.certificate:
        files[f"nginx/ssl/{settings['NGINX_SSL_CERT_FILENAME']}"] = File(pair.certificate)
        files[f"nginx/ssl/{settings['NGINX_SSL_CERT_KEY_FILENAME']}"] = File(pair.key, 0o600, hidden=True)
    files[egress.UPSTREAM] = File(egress.upstream_file(settings).encode(), 0o600, owner=egress.SQUID)
    if settings.knobs.ca_certificates:
        files["certificates/ca.pem"] = File(settings.knobs.ca_certificates.encode())
    if settings.knobs.tls == "letsencrypt" and settings.knobs.mode == "dify":
        files[SITE] = File(site("http", "none").encode(), keep=True)
    files |= {path: File(text.encode(), 0o600) for path, text in developer.files(settings).items()}
    return files | _versions(settings, files)


def site(served: Literal["http", "https"], certificate: str) -> str:
    """The file at SITE.

    certificate: the first 16 hex digits of the sha256 of fullchain.pem, or "none".
    """
    return f'map $host $certificate {{ default "{certificate}"; }}\ninclude /etc/nginx/dify/{served}.conf;\n'


def _versions(settings: Settings, files: Mapping[str, File]) -> dict[str, File]:
    """Each VERSION file, which names what lies beside it."""
    found: dict[str, File] = {}
    for path in TEMPLATES.glob(f"*/{VERSION}.j2"):
        folder = f"{path.parent.name}/"
        if not middleware.leaves_out(settings, path.parent.name):
            template = _environment().get_template(f"{folder}{VERSION}.j2")
            found[folder + VERSION] = File(template.render(digest=_digest_of_files(files, folder)).encode())
    return found


def _digest_of_files(files: Mapping[str, File], folder: str) -> str:
    """One word for all files in a folder, but the one that says it and those that the host changes."""
    told = {p: f.sha256 for p, f in files.items() if p.startswith(folder) and p != folder + VERSION and not f.keep}
    return sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


class _Reader:
    """The settings as a template sees them; notes which ones it read, to know whether its file holds a secret."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.read.add(name)
        return self._settings[name]


def service_text(settings: Settings, name: str) -> str:
    """A service's part of the Compose file before anything is filled in from .env, x-host included."""
    return _environment().get_template(f"services/{name}.yaml.j2").render(_variables(settings)).lstrip("\n")


def _compose(settings: Settings, texts: Mapping[str, str]) -> str:
    extra = [name for name in settings.values if name in settings.knobs.allow_unknown_settings]
    shared = [
        setting.name
        for setting in settings.release.settings.values()
        if setting.shared and (not setting.forgotten or setting.name in settings.values)
    ]
    return (
        _environment()
        .get_template("docker-compose.yaml.j2")
        .render(
            _variables(settings),
            shared_settings=shared + extra,
            services="\n".join(indent(text, "  ") for text in texts.values()),
        )
    )


def _folders(block: Mapping[str, Any], needs: Needs) -> list[Folder]:
    sources = (volume.split(":")[0] for volume in block.get("volumes", []))
    return [Folder(s[2:], needs.owner, needs.first_owner) for s in sources if s.startswith("./volumes/")]


def _digest(block: Mapping[str, Any], files: Mapping[str, File]) -> str:
    """One word for all that a container depends on: its resolved block and the files mounted into it."""
    mounts = tuple(v.split(":")[0].removeprefix("./") + "/" for v in block.get("volumes", []))
    mounted = {
        path: [file.sha256, file.mode] for path, file in files.items() if path.startswith(mounts) and not file.keep
    }
    return sha256(json.dumps([block, mounted], sort_keys=True).encode()).hexdigest()[:16]
