"""Virtual machines as lab hosts, where a kernel of the host's own matters.

Each is QEMU in a container on the lab's network (machine/), so it is started, stopped and found as the other hosts are, and has
the container's address. Its disk (disk/) is made once for a system; what a machine writes lies on top of it.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from lab import engine
from lab.home import HOME, LabError, lock
from lab.progress import step

if TYPE_CHECKING:
    from lab.hosts import Host

_LAB = Path(__file__).resolve().parent
_MACHINE = "dify-lab/machine:latest"
#: What the disks of all systems are kept in.
DISKS = HOME / "disks"
#: Which accelerator works on this machine; tried once.
_ACCELERATOR = HOME / "accelerator"
_KVM = Path("/dev/kvm")
#: Seconds for a boot; emulated, 25 are usual, and many times that beside other work.
PATIENCE = 600
#: Seconds for an orderly shutdown with containers.
SHUTDOWN = 180
#: Kept for the machine itself when nothing is said: Dify's minimum.
MEMORY = "4g"
PROCESSORS = 2


def prepare(suite: str) -> None:
    """Have the hardware and the disk for machines of this suite; the image of a lab host of that suite must be there."""
    from lab import build  # only here: inventory.py imports this module on every pyinfra run

    if platform.machine() != "x86_64":
        raise LabError(
            f"virtual machines need an x86-64 processor, this machine is {platform.machine()}: leave --vm out"
        )
    build.ensure(build.Plan(_LAB / "machine", _MACHINE))
    with lock(f"disk-{suite}"):
        build.ensure(build.Plan(_LAB / "disk", disk_image(suite), {"SUITE": suite}))
        if not (disk(suite) / "disk").exists():
            with step(f"disk of {suite}: make"):
                _make_disk(suite)


def disk_image(suite: str) -> str:
    """The name of the image that holds what is on the disk."""
    return f"dify-lab/disk:{suite}"


def disk(suite: str) -> Path:
    """The folder with disk, kernel and initrd; another one when the image is another."""
    id = engine.get(f"/images/{disk_image(suite)}/json")["Id"].removeprefix("sha256:")
    return DISKS / f"{suite}-{id[:12]}"


def _make_disk(suite: str) -> None:
    used = _used_disks()
    for old in DISKS.glob(f"{suite}-*"):
        if str(old) not in used:
            shutil.rmtree(old)
    folder = disk(suite)
    folder.mkdir(parents=True, exist_ok=True)
    with _container(suite) as container:
        for name in ("vmlinuz", "initrd.img"):
            engine.docker("cp", "--follow-link", f"{container}:/{name}", str(folder / name))
        export = subprocess.Popen(["docker", "export", container], env=engine.environment(), stdout=subprocess.PIPE)
        words = ["run", "--rm", "--interactive", "--network", "none", "--volume", f"{folder}:/system", _MACHINE]
        done = subprocess.run(
            ["docker", *words, "make-disk", "/system/disk"],
            env=engine.environment(),
            stdin=export.stdout,
            capture_output=True,
            text=True,
            check=False,
        )
    if export.wait() or done.returncode:
        raise LabError(f"disk of {suite}: {engine.last_line(done.stderr)}")


def _used_disks() -> set[str]:
    """The folders that machines have their disks on, also those that are off."""
    containers = engine.get("/containers/json", all="1", filters={"label": ["dify.lab=host"]})
    return {mount["Source"] for container in containers for mount in container["Mounts"]}


@contextmanager
def _container(suite: str) -> Iterator[str]:
    container = engine.docker("create", disk_image(suite)).stdout.strip()
    try:
        yield container
    finally:
        engine.docker("rm", container)


# The hardware


def accelerator(suite: str) -> str:
    """`kvm` where it runs the kernel of this suite's disk, else `tcg`, which is emulation."""
    with lock("accelerator"):
        if not _ACCELERATOR.exists():
            _ACCELERATOR.write_text("kvm" if _KVM.exists() and _boots_with_kvm(suite) else "tcg")
        return _ACCELERATOR.read_text()


def _boots_with_kvm(suite: str) -> bool:
    """Whether the kernel gets to its first words. /dev/kvm alone proves nothing: where the processors that it needs are
    themselves made by software, a stock kernel may not run.
    """
    qemu = (
        "timeout 20 qemu-system-x86_64 -machine q35 -accel kvm -cpu host -m 512 -nodefaults -display none -serial stdio"
    )
    kernel = "-no-reboot -kernel /system/vmlinuz -append 'console=ttyS0 panic=-1'"
    place = ["--device", "/dev/kvm", "--volume", f"{disk(suite)}:/system:ro", "--network", "none"]
    done = engine.docker("run", "--rm", *place, _MACHINE, "sh", "-c", f"{qemu} {kernel} </dev/null", check=False)
    return "Linux version" in done.stdout


def words(suite: str, accelerator: str, key: str, memory: str, processors: int) -> list[str]:
    """The arguments of `docker run` that make a container a virtual machine.

    + key: the public one that may log in, as OpenSSH writes it
    + memory: as QEMU writes it, such as `4g`
    """
    found = ["--cap-add", "NET_ADMIN", "--device", "/dev/net/tun"]
    found += ["--device", "/dev/kvm"] if accelerator == "kvm" else []
    # What the machine writes is gone with it; what lies below belongs to all of them.
    found += ["--volume", "/machine", "--volume", f"{disk(suite)}:/system:ro"]
    own = {"ACCELERATOR": accelerator, "MEMORY": memory, "PROCESSORS": str(processors), "KEY": key.split()[1]}
    found += [word for name, value in own.items() for word in ("--env", f"LAB_{name}={value}")]
    return [*found, _MACHINE]


def host_keys(name: str) -> list[str]:
    """The public keys that a machine's sshd has now, as it wrote them on its console."""
    said = engine.docker("logs", name).stdout
    return re.findall(r"lab-host-key (ssh-\S+ \S+)", said)[-1:]


# Snapshots


def snapshot(host: Host, name: str) -> None:
    """Keep disk and memory of a running machine under a name."""
    _ask(host, f"savevm {name}")


def revert(host: Host, name: str) -> None:
    """Make a running machine what it was at a snapshot, but for its clock."""
    try:
        _ask(host, f"loadvm {name}")
    finally:
        _ask(host, "cont")  # a snapshot that is not there leaves the machine standing still
    host.hang_up()
    host.run(f"date --utc --set @{int(time.time())}")


def _ask(host: Host, command: str) -> None:
    """Have QEMU's monitor do something; it says something only when it cannot."""
    if not host.accelerator:
        raise LabError(f"{host.name} is a container; virtual machines have snapshots (python -m lab up --vm)")
    talk = ["docker", "exec", "--interactive", host.name, "socat", "-", "UNIX-CONNECT:/run/monitor"]
    with subprocess.Popen(
        talk, env=engine.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout
        _call(process.stdin, process.stdout, "qmp_capabilities")
        said = _call(process.stdin, process.stdout, "human-monitor-command", {"command-line": command})
        process.stdin.close()
    if said:
        raise LabError(f"{host.name}, {command}: {engine.last_line(said)}")


def _call(asked: IO[str], answers: IO[str], execute: str, arguments: dict[str, str] | None = None) -> str:
    """One command of QMP; events and the greeting are passed over."""
    asked.write(json.dumps({"execute": execute, "arguments": arguments or {}}) + "\n")
    asked.flush()
    for answer in map(json.loads, answers):
        if "return" in answer:
            return answer["return"] or ""
        if "error" in answer:
            return str(answer["error"]["desc"])
    return "the machine is off"
