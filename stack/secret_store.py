"""Secrets that are kept outside the host too, in a file beside the inventory or in a vault: what is kept there, and what counts."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from io import StringIO
from typing import TYPE_CHECKING, Any
from urllib.parse import quote as urlquote

from dotenv.parser import parse_stream
from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError

from stack import dotenv, secrets
from stack.errors import InvalidError, nearest
from stack.secrets import GENERATED

if TYPE_CHECKING:
    from stack.rotation import Rotation
    from stack.settings import Knobs, Settings

# What is kept of one host, NAME=value lines as in its .env.
Entry = Mapping[str, str]

# Before the name of a secret that is being changed: the value that it had, until the new one is proven.
OLD = "OLD_"
RECIPIENT = re.compile(r"age1[0-9a-z]+|ssh-(ed25519|rsa) [A-Za-z0-9+/=]+( .*)?")
# What age prints after each of its errors.
NOT_AN_ERROR = "report unexpected or unhelpful errors"


class Commands(BaseModel):
    """What reads and writes the secrets of one host: a program and its arguments each."""

    model_config = ConfigDict(frozen=True)
    read: tuple[str, ...]
    write: tuple[str, ...]


def commands(value: object) -> object:
    """The knob secrets_command, None when it is empty; raises what pydantic makes an error of the knob from."""
    if value in ({}, None):
        return None
    if isinstance(value, Commands):
        return value
    try:
        return _commands(value)
    except ValueError as wrong:
        raise PydanticCustomError("secrets_command", "{said}", {"said": str(wrong)}) from None


def _commands(value: object) -> Commands:
    if not isinstance(value, Mapping):
        raise ValueError('must be {"read": ..., "write": ...}, or {} for none')
    for key in value:
        if key not in Commands.model_fields:
            raise ValueError(f"unknown key {key!r}{nearest(str(key), Commands.model_fields)}; read and write are all")
    if missing := [key for key in Commands.model_fields if key not in value]:
        raise ValueError(f"{' and '.join(missing)} is missing; both read and write are needed")
    return Commands(**{str(key): _words(str(key), words) for key, words in value.items()})


def _words(key: str, value: object) -> tuple[str, ...]:
    """A program and its arguments; a string is split as a shell would, and no shell runs it."""
    try:
        words = shlex.split(value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError(f"{key}: a quote in it is not closed") from None
    if not isinstance(words, list | tuple) or not words or not all(isinstance(word, str) and word for word in words):
        raise ValueError(f"{key}: must be a program and its arguments, as text or as a list of texts")
    return tuple(words)


def identity(value: Any) -> Any:
    """The knob age_identity; raises what pydantic makes an error of the knob from."""
    if isinstance(value, str) and "AGE-SECRET-KEY" in value.upper():
        said = "must be the file that the key lies in, not the key itself"
        raise PydanticCustomError("age_identity", "{said}", {"said": said})
    return value


def recipient(value: str) -> str:
    """A public key that age encrypts to; raises what pydantic makes an error of the knob from."""
    if not RECIPIENT.fullmatch(value):
        said = "must be public keys: age1... or the line of an SSH key"
        raise PydanticCustomError("age_recipients", "{said}", {"said": said})
    return value


def problems(knobs: Knobs) -> Iterator[tuple[str, str]]:
    """(knob, what is wrong with it) for those that do not fit together."""
    age = [name for name in ("age_identity", "age_recipients") if getattr(knobs, name)]
    if knobs.secrets == "host":
        for name in ["secrets_command"] * bool(knobs.secrets_command) + age:
            yield name, 'nothing uses it while secrets = "host"; set secrets = "file", or take it out'
    elif knobs.secrets_command:
        for name in age:
            yield name, "secrets_command takes the place of age; take one of them out"
    elif not knobs.age_identity:
        yield (
            "secrets",
            '"file" needs age_identity, the file that your age key lies in (age-keygen makes one), or secrets_command',
        )


def place(host: str, knobs: Knobs) -> str:
    """Where a host's secrets are kept: a file, seen from the inventory, or what messages call a vault."""
    return f"secrets_command's entry of {host}" if knobs.secrets_command else f"secrets/{urlquote(host, safe='@')}.age"


def parse(text: str, where: str) -> dict[str, str]:
    """What is kept; raises InvalidError for what is no .env, which must not be taken for nothing. No line is shown.

    where: what the place is called in messages.
    """
    found, lines = {}, []
    for binding in parse_stream(StringIO(text)):
        value = None if binding.error else dotenv.value_of(binding)
        if binding.key is None and not binding.error:
            continue  # a comment or an empty line
        if binding.key is None or not value:
            lines.append(f"{where}: line {dotenv.line_of(binding)} is not NAME=value; mend it there")
        elif _breaks(value):
            lines.append(f"{binding.key}: the value in {where} has a line break in it; mend it there")
        else:
            found[binding.key] = value
    if lines:
        raise InvalidError(lines)
    return found


def _breaks(value: str) -> bool:
    return any(character in value for character in "\n\r\0")


def text(entry: Entry) -> str:
    """One NAME=value a line, in the order of the names."""
    return "".join(f"{name}={dotenv.quote(value)}\n" for name, value in sorted(entry.items()))


def wanted(entry: Entry, settings: Settings, change: Rotation | None = None) -> dict[str, str]:
    """What shall be kept of a host: what was made for it, not what the operator gives himself.

    entry: what is kept now; names that are none of ours stay.
    settings: of the host, its secrets included.
    change: the secret that is on its way to another value; the old one is kept beside it.
    """
    theirs = given(settings)
    rest = {name: value for name, value in entry.items() if name not in theirs and not _is_old(name)}
    ours = {name: value for name, value in settings.values.items() if name in GENERATED and name not in theirs}
    return {**rest, **ours, **({OLD + change.name: change.old} if change else {})}


def given(settings: Settings) -> set[str]:
    """What the operator gives himself, under whichever of its names."""
    return set(settings.given) | {one for one, other in settings.chosen.pairs if other in settings.given}


def _is_old(name: str) -> bool:
    return name.startswith(OLD) and name.removeprefix(OLD) in GENERATED


def stored(entry: Entry, draft: Settings, where: str) -> dict[str, str]:
    """The secrets of ours among what is kept; raises InvalidError for values that must not run.

    draft: what the operator wants, who wins. where: what the place is called in messages.
    """
    ours = {name: value for name, value in entry.items() if name in GENERATED and name not in given(draft)}
    try:
        secrets.refuse_published(draft.release, ours)
        secrets.refuse_long_init_password(ours)
        secrets.refuse_unsendable(ours)
    except InvalidError as wrong:
        raise InvalidError(f"{where}: {line}" for line in wrong.lines) from None
    return ours


def refuse_differing(entry: Entry, found: Entry, kept: Entry, draft: Settings, where: str) -> None:
    """Raise InvalidError for each secret that the host has another value of than what is kept outside.

    entry: what is kept outside. found: what the host's .env holds. draft: what the operator wants.
    kept: the same as found, with the new value of a secret that is being changed.
    where: what the place is called in messages.
    """
    env_file = f"{draft.knobs.root}/.env"
    skipped = given(draft) | draft.chosen.theirs
    ours = [name for name in GENERATED if found.get(name) and name not in skipped]
    lines = [
        f"{name}: the value in {env_file} on the host has a line break in it and cannot be kept in {where}; give it another"
        for name in ours
        if _breaks(found[name])
    ]
    lines += [
        f"{name}: differs between {env_file} on the host and {where}: to go on with the host's, take it out of {where}; "
        f"to go back to the other, which the data must fit, take it out of {env_file}"
        for name in ours
        if name in entry and entry[name] not in (found[name], kept.get(name)) and not _given_up(name, entry, found)
    ]
    if lines:
        raise InvalidError(lines)


def _given_up(name: str, entry: Entry, found: Entry) -> bool:
    """Whether a change was begun here and the host went on with the old value."""
    return entry.get(OLD + name) == found[name]


def changes(entry: Entry, new: Entry) -> Iterator[str]:
    """What becomes of which names, without a value."""
    for what, names in (
        ("new", new.keys() - entry.keys()),
        ("another value", [name for name in new.keys() & entry.keys() if new[name] != entry[name]]),
        ("taken out", entry.keys() - new.keys()),
    ):
        if names:
            yield f"{what}: {', '.join(sorted(names))}"


def last_line(said: str, secret: Iterable[str] = ()) -> str:
    """What a program that failed said last, with secrets masked; "it says nothing" when it did not."""
    lines = [line.strip() for line in said.splitlines() if line.strip() and NOT_AN_ERROR not in line]
    return secrets.mask(lines[-1], secret) if lines else "it says nothing"
