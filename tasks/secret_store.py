"""Secrets outside the host: read once before any host is looked at, written before a host gets new ones."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Any

from gevent.lock import BoundedSemaphore
from pyinfra import host, logger, state
from pyinfra.api import operation
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.host import Host
from pyinfra.api.state import State

from stack import secret_store
from stack.errors import InvalidError
from stack.render import Stack
from stack.rotation import Rotation
from stack.secret_store import Entry, last_line
from stack.settings import Knobs
from tasks.inventory import folder

PATIENCE = 300  # seconds; somebody may have to find a key or type a passphrase

# Whatever asks for a passphrase asks for one host at a time.
_in_turn = BoundedSemaphore()
_entries: dict[str, Entry] = {}
# The same as it will be after the steps that were planned so far.
_planned: dict[str, Entry] = {}


@dataclass(frozen=True)
class AgeFile:
    """A file beside the inventory, encrypted with age.

    file: where it lies. where: what messages call it.
    identity: the file that the key lies in. recipients: public keys of others who may read it.
    """

    file: Path
    where: str
    identity: Path
    recipients: tuple[str, ...] = ()

    def read(self) -> str:
        """What is kept, empty for nothing yet; raises InvalidError when it cannot be read, or written later."""
        sealed = self.file.read_bytes() if self.file.is_file() else b""
        if not sealed:
            self._sealed("")
            return ""
        return _run(["age", "--decrypt", "--identity", str(self.identity)], self.where, sealed).decode()

    def write(self, text: str) -> None:
        """Keep this instead: the old file is there until the new one is whole. Raises InvalidError or OSError."""
        sealed = self._sealed(text)
        self.file.parent.mkdir(mode=0o700, exist_ok=True)
        # 0600 from its first byte.
        number, name = tempfile.mkstemp(dir=self.file.parent, prefix=f".{self.file.name}.")
        try:
            with os.fdopen(number, "wb") as new:
                new.write(sealed)
                new.flush()
                os.fsync(number)
            Path(name).replace(self.file)
        finally:
            Path(name).unlink(missing_ok=True)

    def _sealed(self, text: str) -> bytes:
        others = [word for one in self.recipients for word in ("--recipient", one)]
        words = ["age", "--encrypt", "--identity", str(self.identity), *others]
        return _run(words, self.where, text.encode(), secret=_values(text))


@dataclass(frozen=True)
class Vault:
    """Wherever the operator's own commands keep a host's secrets.

    where: what messages call it. host: its name in the inventory, which they find in DIFY_HOST.
    reader, writer: program and arguments. folder: where they are run.
    """

    where: str
    host: str
    reader: tuple[str, ...]
    writer: tuple[str, ...]
    folder: Path

    def read(self) -> str:
        """What is kept, empty for nothing yet; raises InvalidError when it cannot be read."""
        self._refuse_missing(self.writer)
        return self._run("read", self.reader).decode(errors="replace")

    def write(self, text: str) -> None:
        """Keep this instead; raises InvalidError."""
        self._run("write", self.writer, text.encode(), _values(text))

    def _run(self, what: str, words: Sequence[str], given: bytes = b"", secret: Sequence[str] = ()) -> bytes:
        self._refuse_missing(words)
        where = f"secrets_command, {what} of {self.host}"
        return _run(words, where, given, secret, {"DIFY_HOST": self.host}, self.folder)

    def _refuse_missing(self, words: Sequence[str]) -> None:
        if not which(self.folder / words[0] if "/" in words[0] else words[0]):
            raise InvalidError(f"secrets_command: there is no program {words[0]} on this machine; install or mend it")


def _values(text: str) -> list[str]:
    return list(secret_store.parse(text, "").values())


def _run(
    words: Sequence[str],
    where: str,
    given: bytes,
    secret: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    place: Path | None = None,
) -> bytes:
    """What a program on this machine prints; secrets come and go through its stdin and stdout only."""
    try:
        done = subprocess.run(
            list(words),
            input=given,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
            env={**os.environ, **(environment or {})},
            cwd=place,
        )
    except subprocess.TimeoutExpired:
        raise InvalidError(f"{where}: {words[0]} gave no answer in {PATIENCE} s") from None
    except OSError as error:
        raise InvalidError(f"{where}: {words[0]} cannot be run: {error.strerror}") from None
    if done.returncode:
        said = last_line(done.stderr.decode(errors="replace"), secret)
        raise InvalidError(f"{where}: {words[0]} ended with {done.returncode}: {said}")
    return done.stdout


def _of(name: str, knobs: Knobs) -> AgeFile | Vault:
    """Where this host's secrets are kept; raises InvalidError when this machine lacks what it takes."""
    where = secret_store.place(name, knobs)
    if knobs.secrets_command:
        return Vault(where, name, knobs.secrets_command.read, knobs.secrets_command.write, folder())
    key = folder() / Path(knobs.age_identity).expanduser()
    if not which("age"):
        raise InvalidError(
            f"{where}: the program age is not on this machine: install it (Debian, Ubuntu: apt install age), or give "
            "secrets_command"
        )
    if not key.is_file():
        raise InvalidError(
            f"age_identity = {knobs.age_identity!r}: no such file; `age-keygen -o` makes one, and nothing else opens {where}"
        )
    return AgeFile(folder() / where, where, key, tuple(knobs.age_recipients))


def entry(name: str, knobs: Knobs) -> Entry:
    """What is kept of a host outside of it; nothing with secrets = "host". Raises InvalidError when it cannot be known."""
    if knobs.secrets == "host":
        return {}
    with _in_turn:
        store = _of(name, knobs)
        _entries[name] = _planned[name] = _read(store)
    return _entries[name]


def _read(store: AgeFile | Vault) -> Entry:
    try:
        return secret_store.parse(store.read(), store.where)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidError(f"{store.where}: cannot be read: {error}") from None


class Keep(PyinfraCommand):
    """Write what shall be kept, on this machine, and read it back."""

    def __init__(self, store: AgeFile | Vault, new: Entry) -> None:
        super().__init__()
        self.store, self.new = store, new

    def __repr__(self) -> str:
        return f"Keep({self.store.where})"

    def execute(self, _state: State, host: Host, _connector_arguments: Any) -> bool:
        """Returns whether it is kept, and says why not."""
        try:
            with _in_turn:
                self.store.write(secret_store.text(self.new))
                found = _read(self.store)
        except (InvalidError, OSError) as error:
            host.log_styled(str(error), fg="red", log_func=logger.error)
            return False
        if found != self.new:
            names = ", ".join(sorted(n for n in found.keys() | self.new.keys() if found.get(n) != self.new.get(n)))
            said = (
                f"{self.store.where}: read gives not what was written ({names}); write must replace all that was there"
            )
            host.log_styled(said, fg="red", log_func=logger.error)
            return False
        _entries[host.name] = self.new
        return True


@operation()
def kept(stack: Stack, change: Rotation | None = None) -> Generator[PyinfraCommand, None, None]:
    """The secrets that were made for a host are kept outside of it, too.

    + stack: what was rendered
    + change: the secret that is on its way to another value; the old one stays beside it
    """
    store = _of(host.name, stack.settings.knobs)
    before = (_entries if state.is_executing else _planned)[host.name]
    new = secret_store.wanted(before, stack.settings, change)
    if new == before:
        host.noop(f"{store.where} has them")
        return
    # Once: in the plan, or in the run where there was no plan.
    if not (state.is_executing and state.should_check_for_changes()):
        for line in secret_store.changes(before, new):
            host.log(f"{store.where}: {line}")
    _planned[host.name] = new
    yield Keep(store, new)
