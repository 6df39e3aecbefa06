"""Builds the lab's images and pushes them to its registry, under the names that the product's Compose file uses.

An image carries the hash of what it was built from as a label: what has not changed is neither built nor pushed again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import groupby
from pathlib import Path

from lab import base, engine, registry
from lab.home import LOGS, LabError, lock
from lab.progress import parallel_step, step

_REPOSITORY = Path(__file__).resolve().parent.parent
IMAGES = _REPOSITORY / "lab" / "images"
_RELEASES = _REPOSITORY / "stack" / "releases"
_HASH_LABEL = "dify.lab.hash"
#: A Dockerfile that copies a file of this name gets this machine's trusted certificates under it.
CERTIFICATES = "machine-ca.crt"
_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")


@dataclass(frozen=True)
class Plan:
    """One image to build: from which folder, called what, with which build arguments."""

    folder: Path
    tag: str
    arguments: dict[str, str] = field(default_factory=dict)

    @cached_property
    def bases(self) -> list[str]:
        return bases((self.folder / "Dockerfile").read_text(), self.arguments)


def canonical(reference: str) -> str:
    """The full name of an image: `busybox` is `docker.io/library/busybox:latest`."""
    first, slash, rest = reference.partition("/")
    if not slash or not (set(".:") & set(first) or first == "localhost"):
        first, rest = "docker.io", reference
    if first == "docker.io" and "/" not in rest:
        rest = f"library/{rest}"
    return f"{first}/{rest}" if ":" in rest else f"{first}/{rest}:latest"


def bases(dockerfile: str, arguments: dict[str, str]) -> list[str]:
    """The images that a Dockerfile starts from or copies from, its own stages left out."""
    values = dict(re.findall(r"^ARG\s+(\w+)=(\S+)", dockerfile, re.MULTILINE)) | arguments
    stages = {
        stage.lower() for stage in re.findall(r"^FROM\s+\S+\s+AS\s+(\S+)", dockerfile, re.MULTILINE | re.IGNORECASE)
    }
    named = re.findall(r"^FROM\s+(?:--\S+\s+)*(\S+)|--from=(\S+)", dockerfile, re.MULTILINE)
    found = [_substitute(one or other, values) for one, other in named]
    return [name for name in dict.fromkeys(found) if name.lower() not in stages and not name.isdigit()]


def _substitute(text: str, values: dict[str, str]) -> str:
    return re.sub(r"\$\{?(\w+)\}?", lambda match: values.get(match[1], ""), text)


def folder_hash(folder: Path, arguments: dict[str, str], base_ids: Iterable[str]) -> str:
    """Changes when anything does that an image is made of: names, contents and executable bits of the files,
    the build arguments, the images below it."""
    digest = hashlib.sha256(json.dumps([arguments, list(base_ids)], sort_keys=True).encode())
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        executable = file.stat().st_mode & 0o100
        digest.update(f"{file.relative_to(folder)}\0{executable}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:20]


# What to build


def service_plans() -> list[Plan]:
    """Every image that hosts pull, with its variants, in the order of the folders' names."""
    names = references()
    found: list[Plan] = []
    for folder in _folders():
        if folder.name.startswith("_") or folder.name == "registry":
            continue
        for reference in names.get(folder.name, [f"dify-lab/{folder.name}"]):
            found += _with_variants(folder, registry.push_name(canonical(reference)))
    return found


def _folders() -> list[Path]:
    return sorted(file.parent for file in IMAGES.glob("*/Dockerfile"))


def references() -> dict[str, list[str]]:
    """Service -> its image in each release that the product knows."""
    import yaml

    found: dict[str, list[str]] = {}
    for file in sorted(_RELEASES.glob("*/images.yaml")):
        for service, reference in yaml.safe_load(file.read_text()).items():
            if reference not in found.setdefault(service, []):
                found[service].append(reference)
    return found


@cache
def registries() -> list[str]:
    """Where the releases' images come from, each once: the lab's registry stands for all of them."""
    named = {canonical(name).partition("/")[0] for names in references().values() for name in names}
    return sorted(named)


def _with_variants(folder: Path, tag: str) -> Iterator[Plan]:
    yield Plan(folder, tag, {"VERSION": tag.rpartition(":")[2]})
    file = folder / "variants.yaml"
    if file.exists():
        import yaml

        for suffix, arguments in yaml.safe_load(file.read_text()).items():
            own = {name: str(value) for name, value in (arguments or {}).items()}
            yield Plan(folder, f"{tag}-{suffix}", {"VERSION": f"{tag.rpartition(':')[2]}-{suffix}", **own})


def shared_plan(name: str) -> Plan | None:
    """The plan of a shared base image `dify-lab/<name>`, kept in the folder `_<name>`."""
    owner, _, rest = name.partition("/")
    folder = IMAGES / f"_{rest.partition(':')[0]}"
    return Plan(folder, name) if owner == "dify-lab" and folder.is_dir() else None


# Building


def publish() -> None:
    """Have the registry, and in it every image as its folder is now; nothing changed takes well under a second."""
    with lock("images"):
        _publish()


def _publish() -> None:
    _registry_up()
    plans = service_plans()
    for name in dict.fromkeys(name for plan in plans for name in plan.bases):
        _ensure_base(name)
    local = _local_images()
    with ThreadPoolExecutor(2) as pool:
        # Variants share most layers with the plain image, so one folder is one job.
        jobs = [pool.submit(_publish_folder, list(job), local) for _, job in groupby(plans, lambda plan: plan.folder)]
    for job in jobs:
        job.result()


def _registry_up() -> None:
    plan = Plan(IMAGES / "registry", "dify-lab/registry:latest")
    ensure(plan)
    registry.up(plan.tag, _local_images()[plan.tag].id)


def _publish_folder(plans: list[Plan], local: dict[str, LocalImage]) -> None:
    for plan in plans:
        name = plan.tag.removeprefix(registry.push_name(""))
        wanted = _hash(plan, local)
        if not _is_built(plan, wanted, local):
            with parallel_step(f"image {name}: build and push"):
                _run_build(plan, wanted)
                engine.docker("push", plan.tag)
        elif registry.digest(plan.tag) not in local[plan.tag].digests:
            with parallel_step(f"image {name}: push"):
                engine.docker("push", plan.tag)


def ensure(plan: Plan) -> None:
    """Have one image, built from what its folder holds now, with the images below it; not pushed."""
    for name in plan.bases:
        _ensure_base(name)
    local = _local_images()
    wanted = _hash(plan, local)
    if not _is_built(plan, wanted, local):
        with step(f"image {plan.tag}: build"):
            _run_build(plan, wanted)


def _ensure_base(name: str) -> None:
    if shared := shared_plan(name):
        ensure(shared)
    elif slim := re.fullmatch(r"debian:(\w+)-slim", name):
        base.ensure(slim[1])


@dataclass(frozen=True)
class LocalImage:
    """An image that the engine has."""

    id: str
    labels: dict[str, str]
    digests: list[str]


def _local_images() -> dict[str, LocalImage]:
    found = {}
    for image in engine.get("/images/json"):
        digests = [name.partition("@")[2] for name in image.get("RepoDigests") or []]
        for tag in image.get("RepoTags") or []:
            found[tag] = LocalImage(image["Id"], image.get("Labels") or {}, digests)
    return found


def local_images() -> dict[str, LocalImage]:
    """The images that the lab made: name -> image."""
    return {name: image for name, image in _local_images().items() if _HASH_LABEL in image.labels}


def _hash(plan: Plan, local: dict[str, LocalImage]) -> str:
    ids = [local[name].id if name in local else name for name in map(_tagged, plan.bases)]
    return folder_hash(plan.folder, plan.arguments, ids)


def _tagged(name: str) -> str:
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _is_built(plan: Plan, wanted: str, local: dict[str, LocalImage]) -> bool:
    image = local.get(_tagged(plan.tag))
    return image is not None and image.labels.get(_HASH_LABEL) == wanted


def _run_build(plan: Plan, wanted: str) -> None:
    words = ["build", "--tag", plan.tag, "--label", f"{_HASH_LABEL}={wanted}"]
    dockerfile = (plan.folder / "Dockerfile").read_text()
    for name, value in plan.arguments.items():
        if re.search(rf"^ARG\s+{name}\b", dockerfile, re.MULTILINE):  # Docker complains about one that nobody reads
            words += ["--build-arg", f"{name}={value}"]
    if "ARG PIP_INDEX_URL" in dockerfile:
        words += ["--build-arg", "PIP_INDEX_URL"]  # of this machine's environment, if it has one
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / "build-{}.log".format(re.sub(r"[^\w.-]+", "_", plan.tag))
    with log.open("w") as output, _context(plan.folder, dockerfile) as context:
        done = engine.docker(*words, str(context), check=False, output=output)
    if done.returncode:
        raise LabError(f"image {plan.tag} cannot be built: {engine.last_line(log.read_text())} (all of it: {log})")


@contextmanager
def _context(folder: Path, dockerfile: str) -> Iterator[Path]:
    """The folder to build from: one that fetches from PyPI gets the certificates that this machine trusts, because a
    proxy may have signed what comes from there."""
    if CERTIFICATES not in dockerfile:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="dify-lab-build-") as copy:
        shutil.copytree(folder, copy, dirs_exist_ok=True)
        shutil.copy(trusted_certificates(), Path(copy, CERTIFICATES))
        yield Path(copy)


def trusted_certificates() -> Path:
    """This machine's bundle of certificates. Raises LabError when there is none."""
    named = [os.environ.get(name) for name in ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")]
    for name in filter(None, (*named, *_BUNDLES)):
        if Path(name).is_file():
            return Path(name)
    raise LabError("this machine has no bundle of certificates: install ca-certificates, or name it in SSL_CERT_FILE")


def remove_images() -> None:
    """Remove what the lab made from an engine that is not the lab's own."""
    for label in (_HASH_LABEL, base.LABEL):
        for image in engine.get("/images/json", filters={"label": [label]}):
            for name in image["RepoTags"] or [image["Id"]]:
                engine.docker("image", "rm", "--force", name, check=False)
    for name in _stages():
        engine.docker("image", "rm", name, check=False)


def _stages() -> list[str]:
    """The last image of each build stage: without name or label, only the logs tell that the lab made it."""
    logs = "".join(file.read_text() for file in LOGS.glob("build-*.log"))
    made = set(re.findall(r"^ ---> ([0-9a-f]{12})$", logs, re.MULTILINE))
    dangling = engine.get("/images/json", filters={"dangling": ["true"]})
    return [image["Id"] for image in dangling if image["Id"].removeprefix("sha256:")[:12] in made]
