"""A Dify checkout's docker folder -> the data of a release, and what is new in it."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import yaml
from dotenv.parser import parse_stream

from stack import dotenv, release
from stack.errors import InvalidError
from stack.release import IMAGE_OF, TABLE_HEAD, Row, Setting
from stack.secrets import is_secret

COMPOSE = "docker-compose.yaml"
MIDDLEWARE = "docker-compose.middleware.yaml"
EXAMPLE = ".env.example"
MIDDLEWARE_EXAMPLE = "middleware.env.example"
SHARED = "x-shared-env"
VERSION = re.compile(r"[0-9]+(\.[0-9]+)+")
# ${NAME}, ${NAME:-default}, ${NAME-default}, ${NAME:?message}; a default may hold one pair of braces of its own.
VARIABLE = re.compile(r"\$\{(\w+)(?:(:?[-?])((?:[^{}]|\{[^{}]*\})*))?\}|\$(\w+)")


@dataclass(frozen=True)
class Data:
    """All that is kept of one release.

    settings: with the services that read them, in upstream's order.
    images: by service.
    services, middleware: what upstream's two Compose files say, as in services.json and middleware.json.
    """

    version: str
    settings: dict[str, Row]
    images: dict[str, str]
    services: dict[str, Any]
    middleware: dict[str, Any]


class _Loader(yaml.CSafeLoader):
    """YAML 1.2 as Compose reads it: `no` and `on` are words, 22:22 is a port and not a number to the base of sixty."""


_Loader.yaml_implicit_resolvers = {}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^-?(0|[1-9][0-9]*)$"), list("-0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^-?(0|[1-9][0-9]*)\.[0-9]+$"), list("-0123456789")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"^<<$"), ["<"])


def read(folder: Path, version: str = "") -> Data:
    """Read a docker folder, or a checkout that has one.

    version: of the release; taken from the tag of the api's image when empty.
    Raises InvalidError in one line for what is missing or cannot be read.
    """
    folder = _docker_folder(folder)
    compose, middleware = _compose(folder / COMPOSE), _compose(folder / MIDDLEWARE)
    shared = _environment(compose.get(SHARED) or {})
    if not shared:
        raise InvalidError(f"{folder / COMPOSE}: has no {SHARED}; this layout is not known here")
    services = {name: _service(block, shared) for name, block in compose["services"].items()}
    version = version or _version(services, folder)
    if not VERSION.fullmatch(version):
        raise InvalidError(f"--version {version}: not a version such as 1.13.3")
    return Data(
        version,
        _settings(shared, _example(folder / EXAMPLE), services),
        {name: block["image"] for name, block in services.items() if "image" in block and name not in IMAGE_OF},
        _facts(compose, services),
        {
            **_facts(middleware, {name: _service(block, {}) for name, block in middleware["services"].items()}),
            "settings": _example(folder / MIDDLEWARE_EXAMPLE),
        },
    )


def _docker_folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise InvalidError(f"{folder}: no such folder; give the docker folder of a Dify checkout")
    for found in (folder, folder / "docker"):
        if (found / COMPOSE).is_file():
            return found
    raise InvalidError(f"{folder}: has no {COMPOSE}; give the docker folder of a Dify checkout")


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None


def _compose(file: Path) -> dict[str, Any]:
    try:
        found = yaml.load(_text(file), _Loader)
    except yaml.YAMLError as error:
        raise InvalidError(f"{file}: no valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict) or not isinstance(found.get("services"), dict):
        raise InvalidError(f"{file}: has no services, so it is no Compose file")
    return found


def _example(file: Path) -> dict[str, str]:
    """{setting: value} of an example .env; a name that stands twice has its last value, as to Compose."""
    bindings = list(parse_stream(StringIO(_text(file))))
    for binding in bindings:
        if binding.error:
            raise InvalidError(f"{file} line {dotenv.line_of(binding)}: not NAME=value")
    return {binding.key: dotenv.value_of(binding) or "" for binding in bindings if binding.key}


def _version(services: Mapping[str, Any], folder: Path) -> str:
    image = services.get("api", {}).get("image", "none")
    if not VERSION.fullmatch(tag := release.tag_of(image)):
        raise InvalidError(f"{folder / COMPOSE}: the api's image is {image}, which names no release; give --version")
    return tag


def _facts(compose: Mapping[str, Any], services: Mapping[str, Any]) -> dict[str, Any]:
    return {"services": services, **{key: compose[key] for key in ("networks", "volumes") if key in compose}}


def _service(block: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    """One service as it is kept: without what it only repeats of the shared settings."""
    environment = _environment(block.get("environment") or {})
    reads_shared = bool(shared) and shared.keys() <= environment.keys()
    own = {name: value for name, value in environment.items() if not reads_shared or shared.get(name) != value}
    rest = {key: value for key, value in block.items() if key != "environment"}
    return {**rest, "environment": own, "reads_shared_settings": reads_shared}


def _environment(node: Mapping[str, Any] | list[str]) -> dict[str, dict[str, str]]:
    """{variable: where its value comes from}; both of Compose's spellings of `environment`."""
    if isinstance(node, list):
        pairs = (line.partition("=") for line in node)
        return {name: _value(value if equals else f"${{{name}}}") for name, equals, value in pairs}
    return {name: _value(f"${{{name}}}" if value is None else value) for name, value in node.items()}


def _value(value: Any) -> dict[str, str]:
    text = _scalar(value)
    match = VARIABLE.fullmatch(text)
    if not match:
        return {"value": text}
    default = match[3] if match[2] in (":-", "-") else ""
    return {"setting": match[1] or match[4], "default": default or ""}


def _scalar(value: Any) -> str:
    """What a container sees of a bare value: Compose makes `true` of True and `1` of 1.0."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def _settings(
    shared: Mapping[str, dict[str, str]], example: Mapping[str, str], services: Mapping[str, Any]
) -> dict[str, Row]:
    """Every setting, those of .env.example first: what is shared, and what only some services read."""
    read = {name: dict(variables(block)) for name, block in services.items()}
    elsewhere = {name: default for names in read.values() for name, default in reversed(names.items())}
    # What stands in the Compose file counts: the example's value reaches no container that is deployed without it.
    defaults = {name: source.get("default", source.get("value", "")) for name, source in shared.items()}
    names = dict.fromkeys([*example, *shared, *sorted(elsewhere)])
    values = {name: defaults.get(name, example.get(name, elsewhere.get(name, ""))) for name in names}
    if bad := [name for name, value in values.items() if set("\t\n") & set(value)]:
        raise InvalidError(f"{', '.join(bad)}: a default with a tab or a line break cannot be kept in settings.tsv")
    return {
        name: (Setting(name, value, name in shared), tuple(sorted(s for s, names in read.items() if name in names)))
        for name, value in values.items()
    }


def variables(node: Any) -> Iterator[tuple[str, str]]:
    """(setting, default) wherever a service's block reads one."""
    if isinstance(node, dict) and "setting" in node:
        yield node["setting"], node["default"]
    elif isinstance(node, (dict, list)):
        for value in node.values() if isinstance(node, dict) else node:
            yield from variables(value)
    elif isinstance(node, str):
        for match in VARIABLE.finditer(node.replace("$$", "")):
            yield match[1] or match[4], match[3] or ""


# The command


def add_command(commands: Any) -> None:
    """Add `import-release` to the commands of `python -m stack`."""
    command = commands.add_parser(
        "import-release",
        help="make the data of a release from a Dify checkout, and say what is new in it",
        description="Read a Dify checkout's docker folder, write the release's data, and say what changed. Images that "
        "upstream floats keep the pin of the release compared with, and are listed.",
    )
    command.add_argument("folder", type=Path, metavar="FOLDER", help="the docker folder of a Dify checkout")
    command.add_argument("--version", default="", help="of the release; default: the tag of the api's image")
    command.add_argument("--against", metavar="VERSION", help="the release to compare with; default: the newest known")
    command.add_argument("--out", type=Path, metavar="DIR", help="where to write; default: stack/releases/VERSION")
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    new = read(options.folder, options.version)
    others = [version for version in release.versions() if version != new.version]
    against = options.against or (others[-1] if others else None)
    if against and against not in release.versions():
        raise InvalidError(f"--against {against}: no such release here; known: {', '.join(release.versions())}")
    old = known(against) if against else None
    new, to_pin = pin(new, old)
    written = write(new, options.out or release.RELEASES / new.version)
    print(f"{written[0].parent}: Dify {new.version}, {len(new.settings)} settings, {len(new.images)} images")
    if old:
        print("\n".join([f"beside {against}:", *(changes(old, new) or ["nothing changed"])]))
    for line in _section("images to look at", to_pin):
        print(line)


# Images


def pin(new: Data, old: Data | None) -> tuple[Data, list[str]]:
    """The release with the images that the older one has already pinned, and a line for each one that wants a look.

    An image that upstream names as it did before stays what it was; one that floats is pinned by its repository's last pin.
    """
    images, lines = {}, []
    for name in new.services["services"]:
        if name in IMAGE_OF:
            continue
        image, pinned = new.images.get(name, ""), old.images.get(name, "") if old else ""
        before = old.services["services"].get(name, {}).get("image", "") if old else ""
        same = image == before or (floats(image) and _repository(image) == _repository(pinned))
        if pinned and same:
            images[name] = pinned
        elif image:
            images[name] = image
        if said := _look(image, images.get(name, "")):
            lines.append(f"{name}: {said}")
    return replace(new, images=images), lines


def _look(image: str, chosen: str) -> str:
    if not chosen:
        return "upstream builds this image itself; name one"
    if floats(chosen):
        return f"upstream floats {image}; name a tag"
    if image and floats(image):
        return f"upstream floats {image}; {chosen} is carried over"
    return "" if image else f"upstream builds this image itself; {chosen} is carried over"


def floats(image: str) -> bool:
    return bool(image) and "@" not in image and release.tag_of(image) in ("", "latest")


def _repository(image: str) -> str:
    return image.partition("@")[0].removesuffix(f":{release.tag_of(image)}")


# Files


def known(version: str) -> Data:
    """The data of a release that there is."""
    images = release.load(version).images
    return Data(
        version, release.table(version), images, release.upstream(version), release.upstream(version, "middleware")
    )


def write(data: Data, folder: Path) -> list[Path]:
    """Write settings.tsv, images.yaml, services.json and middleware.json; returns their paths. Nothing is overwritten."""
    texts = {
        "settings.tsv": TABLE_HEAD + "".join(map(_row, data.settings.values())),
        "images.yaml": _images(data),
        "services.json": _json(data.services),
        "middleware.json": _json(data.middleware),
    }
    if there := [name for name in texts if (folder / name).exists()]:
        raise InvalidError(f"{folder}: has {' and '.join(there)} already; give another --out, then compare and move")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidError(f"--out: {folder} cannot be written: {error.strerror}") from None
    return [folder / name for name in texts]


def _row(entry: Row) -> str:
    setting, readers = entry
    return f"{setting.name}\t{setting.default}\t{'yes' if setting.shared else 'no'}\t{' '.join(readers)}\n"


def _images(data: Data) -> str:
    head = (
        f"# The images of Dify {data.version}, each pinned here and nowhere else: "
        '`images = {"nginx": "nginx:1.29.1"}` in group_data overrides one.\n'
        "# Where upstream floats (`latest`, or no tag at all) the tags below are our choice.\n"
        "# worker and worker_beat run the image of api.\n"
    )
    return head + "".join(f"{name}: {image}\n" for name, image in data.images.items())


def _json(facts: Mapping[str, Any]) -> str:
    return json.dumps(facts, indent=1, ensure_ascii=False) + "\n"


# What is new


def changes(old: Data, new: Data) -> list[str]:
    """What an operator or a template has to know about the newer one, a line each; published secrets are not shown."""
    before = {name: setting.default for name, (setting, _) in old.settings.items()}
    after = {name: setting.default for name, (setting, _) in new.settings.items()}
    both = [name for name in after if name in before]
    services = old.services["services"], new.services["services"]
    return [
        *_section("settings added", (f"{n} = {_shown(n, after[n])}".rstrip() for n in after if n not in before)),
        *_section("settings removed", (name for name in before if name not in after)),
        *_section(
            "new defaults",
            (f"{n}: {_shown(n, before[n])} -> {_shown(n, after[n])}" for n in both if before[n] != after[n]),
        ),
        *_section("images", _differing(old.images, new.images)),
        *_section("services added", (name for name in services[1] if name not in services[0])),
        *_section("services removed", (name for name in services[0] if name not in services[1])),
        *_section("services changed", _changed_blocks(*services)),
        *_section("middleware changed", _changed_blocks(old.middleware["services"], new.middleware["services"])),
        *_section("middleware settings changed", _differing_names(old.middleware, new.middleware)),
    ]


def _section(title: str, lines: Iterable[str]) -> list[str]:
    found = list(lines)
    return [f"{title} ({len(found)}):", *(f"  {line}" for line in found)] if found else []


def _shown(name: str, value: str) -> str:
    return "(a published secret)" if value and is_secret(name) else value


def _differing(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[str]:
    for name, image in new.items():
        if name in old and old[name] != image:
            yield f"{name}: {old[name]} -> {image}"


def _changed_blocks(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """The keys of each service that differ; its image has a line of its own."""
    for name in (name for name in new if name in old):
        keys = {**old[name], **new[name]}
        if parts := [key for key in keys if key != "image" and old[name].get(key) != new[name].get(key)]:
            yield f"{name}: {', '.join(parts)}"


def _differing_names(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    before, after = old["settings"], new["settings"]
    yield from (name for name in {**before, **after} if before.get(name) != after.get(name))
