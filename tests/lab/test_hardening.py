"""Containers that may do what they must, seen in the kernel's own words; and a host that keeps itself safe."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from lab.hosts import Host
from tests.lab.checkout import Checkout
from tests.lab.containers import CORE, containers, get, reached, sh, within

# Bits of linux/capability.h.
BITS = {
    "CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "FSETID": 4, "KILL": 5, "SETGID": 6, "SETUID": 7, "SETPCAP": 8,
    "NET_BIND_SERVICE": 10, "SYS_CHROOT": 18, "AUDIT_WRITE": 29,
}  # fmt: skip
ROOTS_START = {"CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"}
# All that is left to each of them, and the user that process 1 ends as: who is not root holds nothing of it.
KEPT: dict[str, tuple[int, set[str]]] = {
    "api": (1001, set()),
    "worker": (1001, set()),
    "worker_beat": (1001, set()),
    "web": (1001, set()),
    "ssrf_proxy": (13, set()),
    "nginx": (0, {"CHOWN", "DAC_OVERRIDE", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID"}),
    "plugin_daemon": (0, {"CHOWN", "DAC_OVERRIDE", "FOWNER"}),
    "sandbox": (0, {*ROOTS_START, "AUDIT_WRITE", "FSETID", "KILL", "SYS_CHROOT"}),
    "redis": (999, {*ROOTS_START, "SETPCAP"}),
    "db_postgres": (70, ROOTS_START),
    "weaviate": (0, {*BITS}),
}
SEALED = ("nginx", "ssrf_proxy", "redis")
THREADS = """
import threading
end, made = threading.Event(), 0
try:
    while made < 4000:
        threading.Thread(target=end.wait, daemon=True).start()
        made += 1
except RuntimeError:
    pass
print(made)
"""


@pytest.fixture(scope="module")
def host(checkout: Checkout) -> Host:
    """A host that keeps itself safe, with Dify on it."""
    checkout.knobs["harden"] = True
    run = checkout.deploy().ok()
    assert "Host hygiene" in run.changed
    return checkout.hosts[0]


def inside(host: Host, service: str, *command: str, user: str = "0") -> Any:
    """What a command in a service's container ends with and says, as root unless said."""
    words = " ".join(f"'{word}'" for word in command)
    return host.run(f"docker exec --user {user} --interactive dify-{service}-1 {words}", stdin=THREADS)


def inspected(host: Host) -> dict[str, Any]:
    """{service: what Docker made of it}"""
    ids = " ".join(id for id, _ in containers(host).values())
    found = json.loads(sh(host, f"docker inspect {ids}"))
    return {one["Config"]["Labels"]["com.docker.compose.service"]: one for one in found}


def test_each_container_has_the_powers_that_it_needs_and_can_get_no_others(host: Host) -> None:
    assert set(KEPT) == CORE - {"init_permissions"}
    for service, (user, names) in KEPT.items():
        rows = sh(
            host, f"cat /proc/$(docker inspect --format '{{{{.State.Pid}}}}' dify-{service}-1)/status"
        ).splitlines()
        status = {key: rest.split() for key, _, rest in (row.partition(":") for row in rows)}
        mask = sum(1 << BITS[name] for name in names)
        assert status["Uid"] == [str(user)] * 4, service
        assert int(status["CapBnd"][0], 16) == mask, service
        assert int(status["CapEff"][0], 16) == (0 if user else mask), service
        assert status["NoNewPrivs"] == ["1"], service


def test_nothing_is_let_at_its_host(host: Host) -> None:
    for service, one in inspected(host).items():
        given = one["HostConfig"]
        assert not given["Privileged"] and not given["Devices"], service
        assert given["PidMode"] == given["UTSMode"] == given["UsernsMode"] == "", service
        assert given["IpcMode"] in ("private", "shareable"), service
        assert given["NetworkMode"] != "host" and given["PidsLimit"] > 0, service
        assert [
            mount
            for mount in one["Mounts"]
            if not mount["Source"].startswith(("/opt/dify/", "/var/lib/docker/volumes/"))
        ] == []


def test_what_is_sealed_cannot_be_written_to_by_root(host: Host) -> None:
    for service in SEALED:
        done = inside(host, service, "sh", "-c", "touch /usr/bin/made /etc/made")
        assert done.stderr.count("Read-only file system") == 2, service
        assert inside(host, service, "sh", "-c", "touch /tmp/made && rm /tmp/made").returncode == 0, service
    assert inside(host, "sandbox", "touch", "/etc/made").returncode == 0


def test_what_is_uploaded_waits_on_disk(host: Host) -> None:
    """Larger than what nginx keeps in memory: it must have a folder to write to, and that one is in no memory."""
    sh(host, "head -c 20000000 /dev/zero > /root/upload")
    said = sh(
        host,
        "curl --silent --output /dev/null --write-out '%{http_code}' --data-binary @/root/upload http://127.0.0.1/v1/x",
    )
    assert int(said) < 500
    assert inside(host, "nginx", "stat", "-f", "-c", "%T", "/var/cache/nginx/").stdout.strip() != "tmpfs"


def test_what_forks_without_end_in_the_sandbox_stops_there(host: Host) -> None:
    made = int(inside(host, "sandbox", "python3", "-", user="65534").stdout)
    assert 200 < made < 1024
    # What the others have is theirs.
    assert (
        inside(host, "api", "python3", "-c", "import threading; threading.Thread(target=print).start()").returncode == 0
    )
    assert get(host, "/console/api/setup")[0] == 200
    reached(host)


def test_what_strangers_programs_leave_behind_is_reaped(host: Host) -> None:
    """A zombie counts as a process: a container full of them takes neither code nor health checks."""
    for service in ("sandbox", "plugin_daemon"):
        inside(host, service, "sh", "-c", "(sleep 0.5 &); sleep 2")
        within(60, partial(has_no_zombie, host, service))


def has_no_zombie(host: Host, service: str) -> None:
    """A health check that has just ended is one for a moment, until Docker has seen it."""
    said = inside(host, service, "sh", "-c", "cat /proc/[0-9]*/status").stdout
    assert said.count("Name:") >= 2, service
    assert "zombie" not in said, service


def test_limits_stand_where_strangers_send_what_they_like(host: Host) -> None:
    limited = {service: one["HostConfig"]["Memory"] >> 20 for service, one in inspected(host).items()}
    assert {service: most for service, most in limited.items() if most} == {
        "nginx": 512,
        "sandbox": 2048,
        "ssrf_proxy": 1024,
    }


def test_the_host_takes_security_updates_and_nothing_else_by_itself(host: Host) -> None:
    # The timer's own run, in the morning, holds the lock meanwhile.
    said = sh(host, "timeout 300 sh -c 'until unattended-upgrade --dry-run --debug 2>&1; do sleep 5; done'")
    origins = [line for line in said.splitlines() if line.startswith("Allowed origins are:")][-1]
    assert "codename=trixie-security,label=Debian-Security" in origins
    assert all("security" in origin for origin in origins.partition(":")[2].split(", "))
    assert "Initial blacklist: docker moby containerd runc" in said
    told = sh(host, "apt-config dump")
    assert 'APT::Periodic::Unattended-Upgrade "1";' in told
    assert 'Unattended-Upgrade::Automatic-Reboot "false";' in told
    for unit in ("apt-daily.timer", "apt-daily-upgrade.timer", "systemd-timesyncd"):
        assert sh(host, f"systemctl is-enabled {unit}") == "enabled"


def test_a_second_run_changes_and_restarts_nothing(checkout: Checkout, host: Host) -> None:
    before = containers(host)
    assert checkout.deploy().ok().changed == []
    assert containers(host) == before
    # Taken back, it stays.
    assert checkout.deploy(harden=False).ok().changed == []
    assert containers(host) == before
    sh(host, "test -s /etc/apt/apt.conf.d/60dify-security-updates")


def test_what_was_switched_off_on_the_host_is_planned_and_mended(checkout: Checkout, host: Host) -> None:
    sh(host, "systemctl disable apt-daily-upgrade.timer; echo > /etc/apt/apt.conf.d/60dify-security-updates")
    assert checkout.plan().ok().planned == ["Host hygiene"]
    assert checkout.deploy().ok().changed == ["Host hygiene"]
    assert sh(host, "systemctl is-enabled apt-daily-upgrade.timer") == "enabled"
