"""Throw-away hosts: containers that boot systemd and sshd, or virtual machines; reached by SSH on 127.0.0.1.

The engine's containers with the label `dify.lab=host` are the only record of them.
"""

from __future__ import annotations

import re
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import engine, network, repository, vm
from lab.home import HOME, KEY, KNOWN_HOSTS, LabError, lock

#: The systems that hosts can be, as people call them -> Debian's suite.
SUITES = {"debian11": "bullseye", "debian12": "bookworm", "debian13": "trixie", "testing": "testing"}
_FOLDER = Path(__file__).resolve().parent / "host"
_FIRST_SSH_PORT = 2200
#: Seconds for a boot; three are usual.
_PATIENCE = 90

#: Every capability but SYS_RESOURCE, PERFMON, BPF and CHECKPOINT_RESTORE, which this machine may lack itself.
_ALLOWED = """
    AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID IPC_LOCK
    IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD NET_ADMIN NET_BIND_SERVICE NET_BROADCAST NET_RAW
    SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_ADMIN SYS_BOOT SYS_CHROOT SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE
    SYS_RAWIO SYS_TIME SYS_TTY_CONFIG WAKE_ALARM
"""
CAPABILITIES = _ALLOWED.split()


@dataclass(frozen=True)
class Host:
    """One lab host.

    + address: on the lab's network, reachable from this machine and from the other hosts; kept over a reboot
    + ssh_port: on 127.0.0.1; kept over a reboot
    + images: `lab` (pulled from the lab's registry) or `upstream`
    + state: as Docker says it: running, exited, ...
    + privileged: whether it may do all that a machine may (else: `limits`)
    + accelerator: of a virtual machine, `kvm` or `tcg`; empty for a container, which shares this machine's kernel
    """

    name: str
    id: str
    address: str
    ssh_port: int
    suite: str
    images: str
    state: str
    privileged: bool
    accelerator: str = ""

    @property
    def address6(self) -> str:
        """For IPv6, as host/init makes it."""
        return f"fd5c:d1f7::{self.address.replace('.', ':')}"

    @property
    def known_hosts(self) -> Path:
        return KNOWN_HOSTS / self.name

    @property
    def system(self) -> str:
        """Its suite as people call it."""
        return next((system for system, suite in SUITES.items() if suite == self.suite), self.suite)

    def data(self) -> dict[str, Any]:
        """What pyinfra has to know to connect; the key of the host is really checked."""
        return {
            "ssh_hostname": "127.0.0.1",
            "ssh_port": self.ssh_port,
            "ssh_user": "root",
            "ssh_key": str(KEY),
            "ssh_known_hosts_file": str(self.known_hosts),
            "ssh_strict_host_key_checking": "yes",
            "ssh_config_file": "/dev/null",  # a `Host *` of the person's own must not lead elsewhere
        }

    def ssh(self, *words: str, user: str = "root", options: Sequence[str] = ()) -> list[str]:
        """The ssh command to this host, followed by `words`."""
        always = ["IdentitiesOnly=yes", "StrictHostKeyChecking=yes", f'UserKnownHostsFile="{self.known_hosts}"']
        always += ["LogLevel=ERROR", "ConnectTimeout=10"]
        flags = [flag for option in (*always, *options) for flag in ("-o", option)]
        return ["ssh", "-F", "/dev/null", *flags, "-i", str(KEY), "-p", str(self.ssh_port), f"{user}@127.0.0.1", *words]

    def run(self, command: str, *, user: str = "root", stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a shell command on the host over SSH; a failing one raises nothing."""
        source = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
        words = self.ssh("--", command, user=user, options=self._shared(user))
        return subprocess.run(words, text=True, capture_output=True, check=False, **source)

    def hang_up(self) -> None:
        """Close the shared connection: a host that went back in time does not know it any more."""
        subprocess.run(self.ssh("-O", "exit", options=self._shared("root")), capture_output=True, check=False)

    def _shared(self, user: str) -> list[str]:
        """One connection for commands that follow each other: a login costs both sides more than most of them.

        Only for root, whose rights no login changes. A host that goes takes the connection along.
        """
        path = f"{HOME}/ssh-{self.id[:12]}"
        if user != "root" or len(path) > 80:  # ssh adds 17 characters, and a socket's path has 108 at most
            return []
        return ["ControlMaster=auto", f"ControlPath={path}", "ControlPersist=10", "ServerAliveInterval=5"]


# Which hosts there are


def hosts() -> list[Host]:
    """All hosts of the lab, by name, running or not."""
    found = engine.get("/containers/json", all="1", filters={"label": ["dify.lab=host"]})
    return sorted(map(_host, found), key=lambda host: natural(host.name))


def find(name: str) -> Host | None:
    return next((host for host in hosts() if host.name == name), None)


def get(name: str) -> Host:
    if host := find(name):
        return host
    there = ", ".join(host.name for host in hosts()) or "none"
    raise LabError(f"no lab host {name} (there: {there})")


def _host(container: dict[str, Any]) -> Host:
    labels = container["Labels"]
    return Host(
        name=labels["dify.lab.host"],
        id=container["Id"],
        address=labels["dify.lab.address"],
        ssh_port=int(labels["dify.lab.ssh-port"]),
        suite=labels["dify.lab.suite"],
        images=labels["dify.lab.images"],
        state=container["State"],
        privileged=labels.get("dify.lab.privileged") == "True",
        accelerator=labels.get("dify.lab.accelerator", ""),
    )


def natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


# Making one


def create(
    name: str,
    *,
    suite: str = "trixie",
    images: str = "lab",
    virtual: bool = False,
    memory: str | None = None,
    cpus: int | None = None,
    options: Sequence[str] = (),
) -> Host:
    """Boot a host and wait until it can be worked with (about 3 s); a host of that name that is there stays.

    + suite: Debian's code name
    + images: `lab` or `upstream`: where its images will come from, for the inventory
    + virtual: a virtual machine instead of a container
    + memory: as Docker writes it, such as `2g`; /proc/meminfo shows it too
    + cpus: how many processors it has; of a container: how many of this machine's it sees by `nproc`
    + options: more arguments for `docker run`
    """
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", name):
        raise LabError(f"{name} is not a host name: lower case letters, digits and dashes")
    if there := find(name) if engine.answers() else None:
        demand(there, suite, images, virtual)
        return there if there.state == "running" else start(name)
    image = prepare(suite, virtual)
    labels = {"dify.lab": "host", "dify.lab.host": name, "dify.lab.suite": suite, "dify.lab.images": images}
    if virtual:
        own, words = _as_machine(suite, memory, cpus)
    else:
        own, words = _as_container(image, memory, cpus)
    _run_in_free_slot(name, labels | own, [*options, *words])
    return _wait(name)


def _as_machine(suite: str, memory: str | None, cpus: int | None) -> tuple[dict[str, str], list[str]]:
    """The labels and the arguments of `docker run` for a virtual machine."""
    accelerator = vm.accelerator(suite)
    words = vm.words(suite, accelerator, _public_key(), memory or vm.MEMORY, cpus or vm.PROCESSORS)
    return {"dify.lab.accelerator": accelerator, "dify.lab.privileged": "True"}, words


def _as_container(image: str, memory: str | None, cpus: int | None) -> tuple[dict[str, str], list[str]]:
    isolation = _isolation(image)
    words = [*_boots_systemd(), *isolation, *_limits(memory, cpus), image]
    return {"dify.lab.privileged": str("--privileged" in isolation)}, words


def demand(host: Host, suite: str, images: str, virtual: bool = False) -> None:
    """A host that is there already must be the one that is asked for."""
    if (host.suite, host.images, bool(host.accelerator)) != (suite, images, virtual):
        kind = " --vm" if host.accelerator else ""
        raise LabError(
            f"{host.name} is there already, with --system {host.system} --images {host.images}{kind}: "
            "first python -m lab down --keep-images"
        )


def prepare(suite: str, virtual: bool = False) -> str:
    """Have all that a host of this suite needs; the name of its image."""
    from lab import build  # only here: inventory.py imports this module on every pyinfra run

    engine.up()
    image = f"dify-lab/host:{suite}"
    with lock(f"host-{suite}"):
        build.ensure(build.Plan(_FOLDER, image, {"SUITE": suite}))
    if virtual:
        vm.prepare(suite)
    network.up()
    if suite in repository.SUITES:
        repository.up()
    return image


def _run_in_free_slot(name: str, labels: dict[str, str], words: list[str]) -> None:
    """A slot is an SSH port and the address that goes with it. Another process may take it first: then the next."""
    net = network.subnet()
    for slot in _free_slots(name):
        port, address = _FIRST_SSH_PORT + slot, str(net[256 + slot])
        own = {**labels, "dify.lab.ssh-port": str(port), "dify.lab.address": address}
        place = ["--publish", f"127.0.0.1:{port}:22", "--network", network.NAME, "--ip", address]
        done = engine.docker("run", *_common(name, own), *place, *words, check=False)
        if done.returncode == 0:
            return
        if "is already in use by container" not in done.stderr:
            engine.docker("rm", "--force", "--volumes", name, check=False)
        if not re.search(r"port is already allocated|address already in use", done.stderr, re.IGNORECASE):
            raise LabError(f"host {name}: {engine.last_line(done.stderr)}")


def _free_slots(name: str) -> Iterator[int]:
    """The number in the name first: dify-2 is on port 2202 where that is free."""
    taken = {host.ssh_port - _FIRST_SSH_PORT for host in hosts()}
    numbered = re.search(r"-(\d{1,3})$", name)
    preferred = [max(1, int(numbered[1]))] if numbered else []
    for slot in (*preferred, *range(1, 65536 - _FIRST_SSH_PORT)):
        if slot not in taken and not _listening(_FIRST_SSH_PORT + slot):
            yield slot
    raise LabError(f"no free port above {_FIRST_SSH_PORT} on 127.0.0.1 for one more host")


def _listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _common(name: str, labels: dict[str, str]) -> list[str]:
    words = ["--detach", "--name", name, "--hostname", name]
    words += [word for key, value in labels.items() for word in ("--label", f"{key}={value}")]
    # `reboot` inside ends the container with an error: it comes back, as a machine does. `stop` keeps it off.
    return [*words, "--restart", "on-failure"]


def _boots_systemd() -> list[str]:
    words = ["--env", "container=docker", "--env", f"LAB_AUTHORIZED_KEY={_public_key()}"]
    words += ["--tmpfs", "/run", "--tmpfs", "/tmp:exec", "--cgroupns", "private"]
    # overlay2 on overlay2 does not work, so the engine inside keeps its data on this machine's own file system.
    return [*words, "--volume", "/var/lib/docker", "--volume", "/var/lib/containerd"]


def _limits(memory: str | None, cpus: int | None) -> list[str]:
    words = []
    if memory:
        words += ["--memory", memory, "--memory-swap", memory, "--env", f"LAB_MEMORY_KIB={kibibytes(memory)}"]
    if cpus:
        words += ["--cpuset-cpus", f"0-{cpus - 1}"]
    return words


def kibibytes(memory: str) -> int:
    """`512m`, `2g` and so on, as Docker reads them, in KiB."""
    found = re.fullmatch(r"(\d+)([bkmg]?)b?", memory.lower())
    if not found:
        raise LabError(f"{memory} is not an amount of memory; 2g or 512m are")
    return int(found[1]) * {"": 1, "b": 1, "k": 1024, "m": 1024**2, "g": 1024**3}[found[2]] // 1024


def _isolation(image: str) -> list[str]:
    return ["--privileged"] if _can_be_privileged(image) else unprivileged()


def _can_be_privileged(image: str) -> bool:
    """Not where this machine itself lacks a capability. A host that is there knows, else one try tells (0.4 s)."""
    if known := [host for host in hosts() if not host.accelerator]:
        return known[0].privileged
    done = engine.docker("run", "--rm", "--privileged", "--network", "none", image, "true", check=False)
    return done.returncode == 0


def unprivileged() -> list[str]:
    """All of `--privileged` that systemd and a nested engine need."""
    words = [f"--cap-add={capability}" for capability in CAPABILITIES]
    words += [f"--security-opt={option}=unconfined" for option in ("seccomp", "apparmor", "systempaths")]
    return [*words, "--device-cgroup-rule=a *:* rwm"]


def limits(host: Host) -> str | None:
    """What a host cannot do where the lab runs here, in one line."""
    if host.accelerator == "tcg":
        return (
            "no KVM works here, so processors of virtual machines are emulated: a deployment takes minutes, not seconds"
        )
    if host.privileged:
        return None
    return (
        "this machine cannot give its hosts CAP_SYS_RESOURCE, so ulimits above its own fail there (OpenSearch's), "
        "and IPVS (Swarm's virtual IPs) does not work"
    )


def _public_key() -> str:
    with lock("key"):
        if not KEY.exists():
            words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "dify-lab", "-f", str(KEY)]
            subprocess.run(words, check=True)
    return KEY.with_suffix(".pub").read_text().strip()


# Its life


def _wait(name: str) -> Host:
    """Until sshd answers, its keys are noted and systemd has finished the boot."""
    started = time.monotonic()
    while True:
        host = get(name)
        patience = vm.PATIENCE if host.accelerator else _PATIENCE
        if host.state == "running" and _greets(host.ssh_port):
            break
        if host.state in ("exited", "restarting") or time.monotonic() > started + patience:
            log = engine.docker("logs", "--tail", "5", name, check=False)
            raise LabError(
                f"host {name} does not boot: {engine.last_line(log.stdout + log.stderr)} (docker logs {name})"
            )
        time.sleep(0.1)
    _note_host_keys(host)
    host.run("systemctl is-system-running --wait")
    return host


def _greets(port: int) -> bool:
    """Docker's proxy accepts connections before sshd does, so only a banner counts."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
        return connection.recv(4) == b"SSH-"
    return False


def _note_host_keys(host: Host) -> None:
    """One file a host, read through the engine, which cannot be somebody else's sshd."""
    if host.accelerator:
        keys = vm.host_keys(host.name)
    else:
        keys = engine.docker("exec", host.name, "sh", "-c", "cat /etc/ssh/ssh_host_*_key.pub").stdout.splitlines()
    lines = [f"[127.0.0.1]:{host.ssh_port} {' '.join(key.split()[:2])}\n" for key in keys]
    KNOWN_HOSTS.mkdir(parents=True, exist_ok=True)
    host.known_hosts.write_text("".join(lines))


def stop(name: str, *, power_cut: bool = False) -> None:
    """Shut a host down; with `power_cut`, as if its power went."""
    host = get(name)
    patience = vm.SHUTDOWN if host.accelerator else 60
    engine.docker("kill" if power_cut else "stop", *([] if power_cut else ["--time", str(patience)]), host.name)


def start(name: str) -> Host:
    engine.docker("start", get(name).name)
    return _wait(name)


def reboot(name: str) -> Host:
    stop(name)
    return start(name)


def destroy(name: str) -> None:
    """Remove a host and all its data; one that is not there is fine."""
    if host := find(name):
        _remove(host)
        host.known_hosts.unlink(missing_ok=True)


def _remove(host: Host) -> None:
    """Ask again where Docker gives up waiting for a busy host's end (moby/moby#51845)."""
    deadline = time.monotonic() + 60
    while True:
        done = engine.docker("rm", "--force", "--volumes", host.id, check=False)
        if done.returncode == 0 or not find(host.name):
            return
        if time.monotonic() > deadline:
            raise LabError(f"host {host.name} cannot be removed: {engine.last_line(done.stderr)}")
        time.sleep(2)
