"""`debian:<suite>-slim`: pulled where Docker Hub can be reached, else made here from the Debian mirror."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from lab import engine
from lab.home import HOME, LabError, lock
from lab.progress import step

#: Left out of the image as Docker Hub's slim images leave it out.
_UNWANTED = (
    "var/cache/apt/archives/*.deb",
    "var/lib/apt/lists/*",
    "usr/share/doc/*",
    "usr/share/man/*",
    "usr/share/locale/*",
)

#: As Docker Hub's images: no translations of package descriptions (1 s less at each `apt-get update`), no fsync.
#: And a mirror that lags behind testing will do: apt would refuse one after two weeks.
_SETTINGS = {
    "etc/apt/apt.conf.d/docker-no-languages": 'Acquire::Languages "none";\n',
    "etc/apt/apt.conf.d/lab-mirror-may-lag": 'Acquire::Check-Valid-Until "false";\n',
    "etc/dpkg/dpkg.cfg.d/docker-apt-speedup": "force-unsafe-io\n",
}
#: Marks a base image that was made here, and all that is built on it.
LABEL = "dify.lab.base"


def image(suite: str) -> str:
    return f"debian:{suite}-slim"


def ensure(suite: str) -> None:
    """Have the image `debian:<suite>-slim`."""
    with lock(f"base-{suite}"):
        if not _there(suite) and not _pull(suite):
            _make(suite)


def _there(suite: str) -> bool:
    return bool(engine.get("/images/json", filters={"reference": [image(suite)]}))


def _pull(suite: str) -> bool:
    return engine.docker("pull", "-q", image(suite), check=False).returncode == 0


def _make(suite: str) -> None:
    source = mirror(_sources(), _codename())
    if source is None:
        raise LabError(
            f"no image {image(suite)}: Docker Hub does not answer, and no Debian mirror is set up under /etc/apt: "
            "run the lab on Debian, or where Docker Hub answers"
        )
    engine.install("debootstrap")
    with tempfile.TemporaryDirectory(dir=HOME, prefix="base-") as root:
        with step(f"base image: debootstrap {suite}"):
            _debootstrap(suite, root, source)
        with step(f"base image: import {image(suite)}"):
            for file, text in _SETTINGS.items():
                Path(root, file).write_text(text)
            _import(root, image(suite))


def _debootstrap(suite: str, root: str, source: str) -> None:
    words = ["debootstrap", "--variant=minbase", "--include=ca-certificates", suite, root, source]
    done = subprocess.run(words, text=True, capture_output=True, check=False)
    if done.returncode:
        raise LabError(f"debootstrap {suite}: {engine.last_line(done.stdout + done.stderr)}")


def _import(root: str, name: str) -> None:
    excluded = [f"--exclude=./{pattern}" for pattern in _UNWANTED]
    pack = subprocess.Popen(["tar", "-C", root, *excluded, "-c", "."], stdout=subprocess.PIPE)
    changes = ["--change", 'CMD ["bash"]', "--change", f"LABEL {LABEL}=debootstrap"]
    words = ["docker", "import", *changes, "-", name]
    done = subprocess.run(
        words, stdin=pack.stdout, env=engine.environment(), capture_output=True, text=True, check=False
    )
    if pack.wait() or done.returncode:
        raise LabError(f"docker import {name}: {engine.last_line(done.stderr)}")


# The mirror


def _codename() -> str:
    release = Path("/etc/os-release").read_text()
    found = re.search(r"^VERSION_CODENAME=\"?(\w+)", release, re.MULTILINE)
    return found[1] if found else "stable"


def _sources() -> list[str]:
    """The texts of apt's source lists, one-line and deb822."""
    folder = Path("/etc/apt")
    files = [folder / "sources.list", *sorted(folder.glob("sources.list.d/*"))]
    return [file.read_text() for file in files if file.is_file()]


def mirror(sources: Iterable[str], codename: str) -> str | None:
    """The Debian mirror that this machine itself installs from.

    + sources: the texts of apt's source lists
    + codename: the machine's own suite, such as `bookworm`; it tells Debian's entry from other vendors'
    """
    found = [uri for text in sources for uri, suites in _entries(text) if codename in suites]
    debian = [uri for uri in found if uri.rstrip("/").endswith("/debian")]
    return next(iter(debian + found), None)


def _entries(text: str) -> Iterator[tuple[str, list[str]]]:
    """(URI, suites) of each entry that has the component `main`."""
    for line in text.splitlines():
        one_line = re.match(r"deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+(\S+)\s+(.*)", line)
        if one_line and "main" in one_line[3].split():
            yield one_line[1], [one_line[2]]
    for stanza in re.split(r"\n\s*\n", text):
        fields = dict(re.findall(r"^(\w[\w-]*):\s*(.*)$", stanza, re.MULTILINE))
        if "main" in fields.get("Components", "").split() and "deb" in fields.get("Types", "").split():
            for uri in fields.get("URIs", "").split():
                yield uri, fields.get("Suites", "").split()
