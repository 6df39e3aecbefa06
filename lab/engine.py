"""The Docker engine that the lab's hosts run in: this machine's own if it has one, else one that the lab starts.

Looking goes straight to the engine's socket (a few milliseconds), acting goes through the `docker` command.
"""

from __future__ import annotations

import http.client
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlencode

from lab.home import DOCKER_HOST, HOME, LOGS, RUN, LabError, claim, is_ours, lock, release
from lab.progress import step

_SOCKET = f"unix://{RUN}/docker.sock"
_PIDFILE = RUN / "docker.pid"
#: What the machine's own settings were before the engine changed them.
_BEFORE = RUN / "before.json"
_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")

#: Command -> Debian package that has it.
_NEEDS = {
    "dockerd": "docker.io",
    "iptables": "iptables",
    "ip": "iproute2",
    "debootstrap": "debootstrap",
    "ssh": "openssh-client",
}


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def url() -> str | None:
    """The lab's engine as DOCKER_HOST, or None when the lab is not up."""
    with suppress(FileNotFoundError):
        return DOCKER_HOST.read_text().strip()
    return None


def get(path: str, **query: Any) -> Any:
    """One answer of the Engine API; values of `query` other than strings are sent as JSON."""
    try:
        return _get(url() or _SOCKET, path, **query)
    except (OSError, http.client.HTTPException) as error:
        raise LabError(f"the lab's engine does not answer ({error}): python -m lab up") from error


def _get(endpoint: str, path: str, **query: Any) -> Any:
    words = {name: value if isinstance(value, str) else json.dumps(value) for name, value in query.items()}
    connection = _UnixConnection(endpoint.removeprefix("unix://"))
    try:
        connection.request("GET", f"{path}?{urlencode(words)}")
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status >= 400:
        raise LabError(f"Docker engine, {path}: {answer.status} {json.loads(body).get('message', '')}")
    return json.loads(body)


def answers(endpoint: str | None = None) -> bool:
    """Whether the engine (the lab's one by default) is there."""
    endpoint = endpoint or url()
    if endpoint is None:
        return False
    try:
        return bool(_get(endpoint, "/version"))
    except (OSError, http.client.HTTPException):
        return False


def docker(*words: str, check: bool = True, output: IO[str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run one `docker` command on the lab's engine.

    + check: raise LabError with the last line of its errors when it fails
    + output: write all that it says there, instead of returning it
    """
    where = {"stdout": output, "stderr": subprocess.STDOUT} if output else {"capture_output": True}
    done = subprocess.run(
        ["docker", *words], text=True, env=environment(), stdin=subprocess.DEVNULL, check=False, **where
    )
    if check and done.returncode:
        raise LabError(f"docker {words[0]}: {last_line(done.stderr)}")
    return done


def environment() -> dict[str, str]:
    """The environment for `docker`: the lab's engine, and the classic builder, which every engine has."""
    inherited = {name: value for name, value in os.environ.items() if name != "DOCKER_CONTEXT"}
    return {**inherited, "DOCKER_HOST": url() or _SOCKET, "DOCKER_BUILDKIT": "0"}


def last_line(text: str | None) -> str:
    lines = [line for line in (text or "").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no message"


# Up


def up() -> None:
    """An engine that answers: the one this lab already uses, the machine's own, or a new one."""
    with lock("engine"):
        if answers():
            return
        found = _SOCKET if answers(_SOCKET) else _ordinary()
        if found is None:
            found = _start()
        DOCKER_HOST.write_text(f"{found}\n")


def _ordinary() -> str | None:
    """The engine that a plain `docker` command reaches, if any."""
    if not shutil.which("docker"):
        return None
    words = ["docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"]
    endpoint = subprocess.run(words, text=True, capture_output=True, check=False).stdout.strip()
    if not endpoint.startswith("unix://"):
        return None  # hosts of an engine elsewhere could not be reached on 127.0.0.1
    return endpoint if answers(endpoint) else None


def _start() -> str:
    install(*_NEEDS)
    if found := _ordinary():
        return found  # where systemd runs, installing the package has started it
    claim(RUN)
    if not _BEFORE.exists():
        _note_before()
    with step("Docker engine: starting one of the lab's own"):
        _wait_for(_spawn())
    return _SOCKET


def install(*commands: str) -> None:
    """Have these commands here, by apt where one is missing."""
    missing = [command for command in commands if not shutil.which(command, path=_path())]
    if missing:
        _demand_root(missing)
        with step(f"apt-get install {' '.join(_NEEDS[command] for command in missing)}"):
            _apt(*(_NEEDS[command] for command in missing))
            if not shutil.which("docker"):
                _apt("docker-cli")  # a package of its own since Debian 13
    elif os.geteuid() != 0 and "dockerd" in commands:
        _demand_root([])


def _demand_root(missing: list[str]) -> None:
    if os.geteuid() == 0 and Path("/etc/debian_version").exists():
        return
    without = f" ({', '.join(missing)} missing)" if missing else ""
    raise LabError(
        f"no Docker engine answers here{without}, and the lab can start its own only as root on Debian: "
        "start Docker (or join its group), or run this as root"
    )


def _apt(*packages: str) -> None:
    _system("apt-get", "update", "-q")
    done = _system("apt-get", "install", "-y", "-q", "--no-install-recommends", *packages)
    if done.returncode:
        raise LabError(f"apt-get install {' '.join(packages)}: {last_line(done.stderr)}")


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def _system(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": _path(), "DEBIAN_FRONTEND": "noninteractive"}
    return subprocess.run(words, env=environment, text=True, capture_output=True, stdin=subprocess.DEVNULL, check=False)


def _spawn() -> subprocess.Popen[str]:
    LOGS.mkdir(parents=True, exist_ok=True)
    if not own():
        _PIDFILE.unlink(missing_ok=True)  # of an engine that was killed; dockerd would not start beside it
    words = ["dockerd", "--data-root", str(HOME / "engine"), "--exec-root", str(RUN / "exec")]
    words += ["--pidfile", str(_PIDFILE), "-H", _SOCKET]
    with _log().open("w") as log:
        return subprocess.Popen(
            words,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
            env={**os.environ, "PATH": _path()},
        )


def _log() -> Path:
    return LOGS / "dockerd.log"


def _wait_for(process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not answers(_SOCKET):
        if process.poll() is not None or time.monotonic() > deadline:
            raise LabError(f"dockerd does not start: {last_line(_log().read_text())} ({_log()})")
        time.sleep(0.1)


# Down


def own() -> int | None:
    """The process id of the engine that the lab started, or None."""
    with suppress(FileNotFoundError, ValueError):
        pid = int(_PIDFILE.read_text())
        return pid if _alive(pid) else None
    return None


def _alive(pid: int) -> bool:
    """Whether that process is the lab's dockerd; one that ended and that nobody waited for has no command line."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return str(_PIDFILE).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def revive() -> None:
    """Start the lab's own engine again if it died: only an engine can remove its containers."""
    if url() == _SOCKET and not answers():
        up()


def down() -> None:
    """Stop the engine if the lab started it, and take back what it did to this machine."""
    DOCKER_HOST.unlink(missing_ok=True)
    if pid := own():
        with step("Docker engine: stopping"):
            _stop(pid)
    if is_ours(RUN):
        _unmount(RUN)
        _unmount(HOME)
        if not _other_engines():
            _clean_network()
            _clean_cgroups()
        release(RUN)


def _stop(pid: int) -> None:
    os.kill(pid, signal.SIGTERM)
    for _ in range(600):
        if not _alive(pid):
            return
        time.sleep(0.1)
    raise LabError(f"dockerd (process {pid}) does not stop; its log is {_log()}")


def _unmount(folder: Path) -> None:
    """dockerd leaves the mounts of network namespaces behind."""
    for mount in reversed(Path("/proc/mounts").read_text().splitlines()):
        place = mount.split()[1].replace("\\040", " ")
        if place.startswith(f"{folder}/"):
            _system("umount", "--lazy", place)


def _other_engines() -> bool:
    """Whether another engine uses this network too: docker0 and the DOCKER chains belong to all of them."""
    return any(_runs_dockerd_here(process) for process in Path("/proc").glob("[0-9]*"))


def _runs_dockerd_here(process: Path) -> bool:
    """The engines inside lab hosts have networks of their own."""
    with suppress(OSError):
        here = Path("/proc/self/ns/net").readlink()
        return (process / "comm").read_text() == "dockerd\n" and (process / "ns/net").readlink() == here
    return False


def _note_before() -> None:
    """dockerd turns forwarding on and then sets the FORWARD policy to DROP; `down` sets both back."""
    policy = _system("iptables", "-S", "FORWARD").stdout.split()
    before = {"forwarding": _FORWARDING.read_text().strip(), "policy": policy[2] if len(policy) > 2 else "ACCEPT"}
    _BEFORE.write_text(json.dumps(before))


def _clean_network() -> None:
    _system("ip", "link", "delete", "docker0")
    for command in ("iptables", "ip6tables"):
        for words in leftovers(_system(f"{command}-save").stdout):
            _system(command, *words)
    if _BEFORE.exists():
        before = json.loads(_BEFORE.read_text())
        _system("iptables", "-P", "FORWARD", before["policy"])
        _FORWARDING.write_text(before["forwarding"])


def _clean_cgroups() -> None:
    for folder in Path("/sys/fs/cgroup").glob("*/docker"):
        with suppress(OSError):  # not empty: somebody else's
            folder.rmdir()


def leftovers(saved: str) -> list[list[str]]:
    """The iptables arguments that remove what Docker left in a firewall, given as `iptables-save` prints it."""
    table, rules, chains = "filter", [], []
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(":DOCKER"):
            chains.append((table, line[1:].split()[0]))
        elif line.startswith("-A ") and not line.startswith("-A DOCKER"):
            words = shlex.split(line)
            if any(word == "docker0" or word.startswith("DOCKER") for word in words):
                rules.append(["-t", table, "-D", *words[1:]])
    return [
        *rules,
        *(["-t", table, "-F", chain] for table, chain in chains),
        *(["-t", table, "-X", chain] for table, chain in chains),
    ]
