"""Where the lab keeps its things. Light: inventory.py imports it on every pyinfra run."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

_DEFAULT = Path.home() / ".cache" / "dify-lab"

#: Images, SSH key and known hosts: what may outlive a reboot of this machine.
HOME = Path(os.environ.get("DIFY_LAB_HOME") or _DEFAULT).absolute()


def _run_dir() -> Path:
    """A second lab (another DIFY_LAB_HOME) must not share the first one's socket."""
    if named := os.environ.get("DIFY_LAB_RUN"):
        return Path(named).absolute()
    if _DEFAULT.absolute() == HOME:
        return Path("/run/dify-lab")
    return Path(f"/run/dify-lab-{hashlib.sha256(bytes(HOME)).hexdigest()[:8]}")


#: Socket, pid and mounts of the engine that the lab started itself.
RUN = _run_dir()

KEY = HOME / "id_ed25519"
KNOWN_HOSTS = HOME / "known_hosts"
LOGS = HOME / "log"
#: Which engine this lab uses, as DOCKER_HOST; written once, when the lab comes up.
DOCKER_HOST = HOME / "docker_host"
#: `down` removes whole folders, so it must be sure that they are the lab's.
_MARK = "this-is-a-dify-lab"


class LabError(Exception):
    """What the lab cannot do here, in one line, with what to do about it."""


def claim(folder: Path) -> None:
    """Make a folder the lab's; refuse one that others have put things into."""
    if folder != _DEFAULT.absolute() and folder.is_dir() and any(folder.iterdir()) and not is_ours(folder):
        raise LabError(f"{folder} is not empty and not a lab's: name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARK).touch()


def is_ours(folder: Path) -> bool:
    return (folder / _MARK).exists()


def release(folder: Path, keep: Collection[str] = ()) -> None:
    """Remove a folder of the lab, all of it or all but the names in `keep`."""
    if not is_ours(folder):
        return
    for path in folder.iterdir():
        if path.name not in keep and path.name != _MARK:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if not keep:
        shutil.rmtree(folder)


@contextmanager
def lock(name: str) -> Iterator[None]:
    """Hold the lock `name`: tests create hosts in parallel, from threads and from processes."""
    if not is_ours(HOME):
        claim(HOME)
    with (HOME / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
