"""Where Dify's settings come from: every layer that an operator writes, read in one order, with file and line of each value.

The nearer layer wins: the release's defaults; what is derived; group_data/all.py; group data; .env; env/<group>.env;
env/<host>.env; host data; --data. In Python data a setting is written under its own name in capitals; knobs have small letters.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

from dotenv.parser import Binding, parse_stream

from stack import dotenv
from stack.errors import InvalidError, nearest
from stack.release import Release
from stack.secrets import is_secret

SETTING = re.compile(r"[A-Z][A-Z0-9_]*")
# What os.fsdecode makes of bytes that are no UTF-8.
LONE = "has a lone surrogate in it, which no file can hold; give it another value"
# A login in a URL is a secret, whatever the setting is called: a token alone, or a password with any sign in it.
LOGIN_IN_URL = re.compile(r"://(?:[^/?#\s]+|[^/@]*:.*)@")


@dataclass(frozen=True)
class Source:
    """One layer of a host's data in the inventory.

    where: what it is called in messages.
    values: knobs and settings by name; of the command line as they were typed.
    near: whether it counts more than the .env files: host data and --data.
    typed: whether it was typed on the command line, which everybody on this machine can read.
    files: Python files that its names may stand in.
    host: whose data it is, to find the right line among those of several hosts.
    """

    where: str
    values: Mapping[str, Any]
    near: bool = False
    typed: bool = False
    files: tuple[Path, ...] = ()
    host: str = ""

    def place(self, name: str, folder: Path) -> str:
        """File and line of a name, where it can be found; else what the layer is called."""
        for file in self.files:
            if line := _line_of(file, name, self.host):
                shown = file.relative_to(folder) if file.is_relative_to(folder) else file.name
                return f"{shown} line {line}"
        return self.where


class Data(dict[str, Any]):
    """A host's data as pyinfra merges it, and the layers it was merged from, farthest first."""

    def __init__(self, merged: Mapping[str, Any], sources: Iterable[Source]) -> None:
        super().__init__(merged)
        self.sources = tuple(sources)


def sources_of(data: Mapping[str, Any]) -> tuple[Source, ...]:
    """The layers of a host's data; plain data is one layer, the host's."""
    return data.sources if isinstance(data, Data) else (Source("host data", data, near=True),)


def place_of(data: Mapping[str, Any], name: str, folder: Path) -> str:
    """Where the value of a knob comes from."""
    for source in reversed(sources_of(data)):
        if name in source.values and isinstance(data, Data):
            return source.place(name, folder)
    return "group_data or host data"


def allowed(data: Mapping[str, Any]) -> list[str]:
    """The knob allow_unknown_settings, right or wrong as the other knobs are."""
    names = data.get("allow_unknown_settings")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


@dataclass(frozen=True)
class Given:
    """What one line of one layer says.

    where: file and line.
    value: empty when the line says nothing after the name.
    """

    name: str
    value: str = field(repr=False)
    where: str

    @property
    def shown(self) -> str:
        """``NAME=value``, or the name alone when the value is a secret."""
        return self.name if hidden(self.name, self.value) else f"{self.name}={self.value}"


def hidden(name: str, value: str) -> bool:
    """Whether a value must not be shown."""
    return is_secret(name) or bool(LOGIN_IN_URL.search(value))


@dataclass
class Read:
    """What all layers say.

    given: the values of each known setting, farthest first.
    strange: the names that no setting has, each with its value and place.
    lines: what cannot be read.
    warnings: what can be read and does not do what it looks like.
    """

    given: dict[str, list[Given]] = field(default_factory=dict)
    strange: list[Given] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def last(self) -> dict[str, Given]:
        """What counts of each setting that has a value."""
        return {name: those[-1] for name, those in self.given.items() if those[-1].value}


def read(folder: Path, groups: Iterable[str], host: str, data: Mapping[str, Any], known: Iterable[str]) -> Read:
    """All layers of one host.

    folder: where `.env` and `env/` lie. groups, host: which files below `env/` count. data: the host's.
    known: the names that are settings.
    """
    found, known = Read(), set(known)
    sources = sources_of(data)
    for source in (source for source in sources if not source.near):
        _take(found, known, _from_data(found, source, folder))
    for file in env_files(folder, groups, host):
        _take(found, known, _from_file(found, known, file, folder))
    for source in (source for source in sources if source.near):
        _take(found, known, _from_data(found, source, folder))
    return found


def env_files(folder: Path, groups: Iterable[str], host: str) -> list[Path]:
    """The files that a host reads, nearer ones later; they need not be there."""
    return [folder / ".env", *(folder / "env" / f"{name}.env" for name in dict.fromkeys([*groups, host]))]


def _take(found: Read, known: set[str], given: Iterable[Given]) -> None:
    for one in given:
        if one.name in known:
            found.given.setdefault(one.name, []).append(one)
        else:
            found.strange.append(one)


def _from_data(found: Read, source: Source, folder: Path) -> Iterator[Given]:
    for name, value in source.values.items():
        if not isinstance(name, str) or not SETTING.fullmatch(name):
            continue
        where = source.place(name, folder)
        if source.typed and is_secret(name):
            found.lines.append(
                f"{where}: {name} is a secret, which everybody on this machine could read there; give it in env/"
            )
        elif isinstance(value, str) and not encodes(value):
            found.lines.append(f"{where}: {name}: {LONE}")
        elif isinstance(value, bool):
            yield Given(name, str(value).lower(), where)
        elif isinstance(value, str | int | float):
            yield Given(name, str(value), where)
        else:
            found.lines.append(f"{where}: {name}: must be text, a number, True or False, not {type(value).__name__}")


def encodes(value: object) -> bool:
    """Whether UTF-8, in which all files are, can hold the text of a value, and of all that is in it."""
    if isinstance(value, Mapping):
        return all(encodes(one) for pair in value.items() for one in pair)
    if isinstance(value, list | tuple):
        return all(map(encodes, value))
    return not isinstance(value, str) or not re.search("[\ud800-\udfff]", value)


def _from_file(found: Read, known: set[str], file: Path, folder: Path) -> Iterator[Given]:
    where = file.relative_to(folder)
    try:
        data = file.read_bytes()
        bindings = list(parse_stream(StringIO(data.decode("utf-8-sig"))))
    except FileNotFoundError:
        return
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found.lines.append(f"{where} line {line}: cannot be read: not UTF-8")
        return
    except OSError as error:
        found.lines.append(f"{where}: cannot be read: {error.strerror}")
        return
    first: dict[str, int] = {}
    for binding in bindings:
        line = dotenv.line_of(binding)
        if said := _not_a_setting(binding, known):
            found.lines.append(f"{where} line {line}: {said}")
        elif binding.key is not None:
            if binding.key in first:
                found.warnings.append(
                    f"{where} line {line}: {binding.key} stands in line {first[binding.key]} too; this one counts"
                )
            first[binding.key] = line
            yield Given(binding.key, dotenv.value_of(binding) or "", f"{where} line {line}")


def _not_a_setting(binding: Binding, known: set[str]) -> str:
    """What is wrong with a line that is none; the line itself may hold a secret and is not shown."""
    if not binding.error and (binding.key is None or binding.value is not None):
        return ""
    word = re.match(r"\s*(?:export\s+)?(\w*)", binding.original.string)
    named = f" ({word[1]})" if word and word[1] in known else ""
    return f"not NAME=value{named}; a value with spaces, # or quotes must be quoted"


def empties(found: Read, facts: Release, values: Mapping[str, str]) -> Iterator[str]:
    """A line for each last word on a setting that is empty although something counts: to Compose it is not there.

    values: what is set all the same.
    """
    for name, given in found.given.items():
        default = facts.settings[name].default if name in facts.settings else ""
        if given and not given[-1].value and (kept := _counting(name, default, values.get(name, ""))):
            yield f"{given[-1].where}: {name} is empty, as if it were not there: {kept} counts; give a value or take it out"


def _counting(name: str, default: str, value: str) -> str:
    if is_secret(name) and (value or default):
        return "the host's own or a new one" if value else "the release's own"
    if value and value != default:
        return "what follows from other settings and knobs" + ("" if hidden(name, value) else f", {value},")
    return default and f"the release's {default}"


@cache
def _parsed(file: Path, _changed: float) -> ast.Module | None:
    try:
        return ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, UnicodeDecodeError):
        return None


def _line_of(file: Path, name: str, host: str) -> int | None:
    """The line of a Python file where a name gets its value: an assignment, or a key of the host's or of the only dictionary."""
    tree = _parsed(file, file.stat().st_mtime) if file.is_file() else None
    if tree is None:
        return None
    for node in tree.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if not host and any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return node.lineno
    keys = list(_keys(tree, name))
    own = [key for node in ast.walk(tree) if _is_of(node, host) for key in _keys(node, name)]
    return own[0] if own else keys[0] if len(keys) == 1 else None


def _keys(tree: ast.AST, name: str) -> Iterator[int]:
    for node in ast.walk(tree):
        for key in node.keys if isinstance(node, ast.Dict) else ():
            if isinstance(key, ast.Constant) and key.value == name:
                yield key.lineno


def _is_of(node: ast.AST, host: str) -> bool:
    first = node.elts[0] if isinstance(node, ast.Tuple) and node.elts else None
    return isinstance(first, ast.Constant) and first.value == host


def check_names(folder: Path, groups: Iterable[str], hosts: Iterable[str]) -> None:
    """Raise InvalidError for each env/<name>.env and group_data/<name>.py that no group or host of the inventory reads."""
    groups, hosts = set(groups) - {"all"}, set(hosts)
    stray = [(p, groups | hosts) for p in sorted((folder / "env").glob("*.env"))]
    stray += [(p, groups | {"all"}) for p in sorted((folder / "group_data").glob("*.py"))]
    lines = [
        f"{path.relative_to(folder)}: the inventory has no group{'' if path.suffix == '.py' else ' or host'} "
        f"{path.stem!r}{nearest(path.stem, known)}"
        for path, known in stray
        # Groups of pyinfra's connectors, as @vagrant, are there only while the connector is the inventory.
        if path.stem not in known and not path.stem.startswith("@")
    ]
    if lines:
        raise InvalidError(lines)
