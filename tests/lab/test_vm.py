"""What only a kernel of the host's own shows: Dify on a virtual machine. The tests build on each other, in this order.

The first four are the short run: one machine, deployed to, converged, rebooted.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import takewhile

import pytest

from lab import hosts, vm
from lab.hosts import Host
from tests.lab.checkout import Checkout
from tests.lab.containers import CORE, answers_within, containers, reached, replaced, sh, sql
from tests.lab.scan import only_open

pytestmark = pytest.mark.vm

# Emulated processors need minutes for what takes others seconds.
PATIENCE = 900
STORED = "/opt/dify/volumes/app/storage/stored-by-test"
TABLE = "drop table if exists kept; create table kept (id int primary key, text text)"
ROWS = "insert into kept select id, md5(id::text) from generate_series(1, 20000) id"
SUM = "select count(*) || ' ' || md5(string_agg(id || text, ',' order by id)) from kept"
# One transaction a row; psql says the number when the commit is through.
WRITER = (
    'i=0; while i=$((i+1)); do echo "insert into acknowledged values ($i) returning id;"; done 2>/dev/null'
    " | docker exec -i dify-db_postgres-1 psql -U postgres -d dify -tAq"
)
NFT, LEGACY = "nft", "legacy"
Note = Callable[[str, object], None]


@pytest.fixture(scope="module")
def checkout(new_host: Callable[..., Host], tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout with one bare virtual machine of 4 GiB and two processors."""
    host = new_host("a", virtual=True)
    return Checkout.make(tmp_path_factory.mktemp("checkout"), host, answer_timeout=PATIENCE, firewall="docker-user")


@pytest.fixture(scope="module")
def host(checkout: Checkout) -> Host:
    return checkout.hosts[0]


@pytest.fixture
def note(capsys: pytest.CaptureFixture[str]) -> Note:
    """Print a figure for docs/testing.md, whatever pytest keeps to itself."""

    def say(what: str, figure: object) -> None:
        with capsys.disabled():
            print(f"\n{what}: {figure}")

    return say


@pytest.fixture(autouse=True)
def timed(request: pytest.FixtureRequest, note: Note) -> Iterator[None]:
    started = time.monotonic()
    yield
    note(request.node.name, f"{time.monotonic() - started:.0f} s")


def boot_id(host: Host) -> str:
    return host.run("cat /proc/sys/kernel/random/boot_id").stdout.strip()


def reboot(host: Host) -> None:
    """From within, by systemd; returns when another boot lets us in."""
    before = boot_id(host)
    host.run("systemctl reboot")
    deadline = time.monotonic() + PATIENCE
    while boot_id(host) in ("", before):
        assert time.monotonic() < deadline, "it does not come back"
        time.sleep(2)


def well(checkout: Checkout, host: Host) -> None:
    """Every part reaches every other, and another run has nothing to do."""
    reached(host, PATIENCE)
    before = containers(host)
    assert checkout.deploy().ok().changed == []
    assert containers(host) == before


def summed(host: Host) -> tuple[str, str]:
    """What is in the rows and in the file that the first test left."""
    return sql(host, SUM), sh(host, f"sha256sum < {STORED}")


# The short run


@pytest.mark.vm_short
def test_it_is_a_machine_with_a_kernel_of_its_own(host: Host) -> None:
    assert sh(host, "systemd-detect-virt") in ("qemu", "kvm")
    assert sh(host, "systemctl is-system-running") == "running"
    assert sh(host, "stat -f -c %T /sys/fs/cgroup") == "cgroup2fs"
    assert host.run("command -v docker").returncode != 0


@pytest.mark.vm_short
def test_from_bare_to_answering(checkout: Checkout, host: Host) -> None:
    assert "Docker runs" in checkout.deploy().ok().changed
    assert set(containers(host)) == CORE
    reached(host, PATIENCE)


@pytest.mark.vm_short
def test_a_second_run_changes_nothing(checkout: Checkout, host: Host) -> None:
    well(checkout, host)


@pytest.fixture(scope="module")
def kept(host: Host) -> tuple[str, str]:
    """Rows and a file, older than what a kernel may still hold back."""
    sql(host, TABLE)
    sql(host, ROWS)
    sh(host, f"head -c 20000000 /dev/urandom > {STORED} && chown 1001:1001 {STORED} && sync")
    return summed(host)


@pytest.fixture(scope="module")
def planted(host: Host) -> None:
    """Another container, whose published port only the firewall closes."""
    image = sh(host, "docker inspect --format '{{.Config.Image}}' dify-redis-1")
    run = "docker run --detach --restart always --name planted --publish 9200:6379 --entrypoint redis-server"
    sh(host, f"{run} {image}")


def guarded(host: Host, backend: str) -> None:
    """The firewall is in force, by this iptables alone, and closes what is there to be reached."""
    other = LEGACY if backend == NFT else NFT
    for command in ("iptables", "ip6tables"):
        assert "DIFY" in sh(host, f"{command}-{backend}-save")
        assert "DIFY" not in sh(host, f"{command}-{other}-save 2>/dev/null")
    sh(host, "timeout 60 bash -c 'until (: </dev/tcp/127.0.0.1/9200) 2>/dev/null; do sleep 1; done'")
    only_open(host, 80)


@pytest.mark.vm_short
def test_all_is_back_after_a_reboot(
    checkout: Checkout, host: Host, kept: tuple[str, str], planted: None, note: Note
) -> None:
    guarded(host, NFT)
    started = time.monotonic()
    reboot(host)
    assert answers_within(host, PATIENCE)
    note("from `reboot` to an answer", f"{time.monotonic() - started:.0f} s")
    guarded(host, NFT)
    well(checkout, host)
    assert summed(host) == kept


# Without warning


def test_a_power_cut_loses_nothing_that_was_acknowledged(
    checkout: Checkout, host: Host, kept: tuple[str, str], planted: None, note: Note
) -> None:
    """From here on with the older iptables: the firewall must be there with either."""
    for command in ("iptables", "ip6tables"):
        sh(host, f"update-alternatives --set {command} /usr/sbin/{command}-legacy && sync")
    acknowledged = _cut_while_writing(host)
    started = time.monotonic()
    hosts.start(host.name)
    assert answers_within(host, PATIENCE)
    note("from power to an answer", f"{time.monotonic() - started:.0f} s")
    assert "was not properly shut down" in sh(host, "docker logs dify-db_postgres-1 2>&1")
    there = [int(line) for line in sql(host, "select id from acknowledged order by id").splitlines()]
    assert there == list(range(1, len(there) + 1))
    assert len(there) >= acknowledged > 100
    note("rows acknowledged before the cut, there after it", f"{acknowledged}, {len(there)}")
    assert summed(host) == kept
    guarded(host, LEGACY)
    well(checkout, host)


def _cut_while_writing(host: Host) -> int:
    """Pull the cable while rows are being written; the last one whose commit was said to be through."""
    sql(host, "create table acknowledged (id int primary key)")
    writing = subprocess.Popen(
        host.ssh("--", WRITER), text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert writing.stdout
    for line in writing.stdout:
        if int(line) == 300:
            break
    hosts.stop(host.name, power_cut=True)
    # The last line may have been cut too.
    rest = list(takewhile(lambda line: line.endswith("\n"), writing.stdout))
    writing.wait()
    return int(rest[-1]) if rest else 300


def test_a_snapshot_brings_back_disk_and_memory(checkout: Checkout, host: Host, kept: tuple[str, str]) -> None:
    before = boot_id(host)
    vm.snapshot(host, "well")
    sql(host, "drop table kept")
    sh(host, f"rm {STORED}")
    vm.revert(host, "well")
    assert abs(int(sh(host, "date +%s")) - time.time()) < 30
    assert boot_id(host) == before
    reached(host, PATIENCE)
    assert summed(host) == kept


# Disk and memory


# They find no room either, and Docker starts them again: beat for its schedule, the worker when Redis can keep nothing.
WRITE_THEMSELVES = {"worker", "worker_beat"}


@contextmanager
def no_room(host: Host) -> Iterator[None]:
    """A root file system without a free block, until this ends."""
    # Full journals (a power cut leaves one) go as soon as there is no room, and would make some.
    sh(host, "journalctl --rotate --vacuum-time=1s 2>&1")
    # Docker and root write to the last block, so what is kept for root goes too.
    sh(
        host,
        "fallocate -l $(stat -f -c '%f * %S' / | xargs expr) /root/fill 2>&1; dd if=/dev/zero of=/root/rest bs=64k 2>&1; true",
    )
    try:
        yield
    finally:
        sh(host, "rm /root/fill /root/rest")


def test_a_full_disk_stops_a_deploy_and_breaks_nothing(checkout: Checkout, host: Host, kept: tuple[str, str]) -> None:
    before = containers(host)
    with no_room(host):
        checkout.deploy().refused("free below /opt/dify: less than", "(knob min_disk_root)")
        # Who switches the check off is stopped by the first thing that finds no room; what ran runs on. Only web reads this one.
        checkout.write(".env", "PM2_INSTANCES=3\n")
        run = checkout.deploy(min_disk_root="0", min_disk_docker="0").failed()
        assert "no space left on device" in run.output.lower()
        assert replaced(before, containers(host)) <= WRITE_THEMSELVES
        sh(host, "cd /opt/dify && test -s .env && docker compose config --quiet")
    # With room again, the same run goes through.
    checkout.deploy().ok()
    assert replaced(before, containers(host)) - WRITE_THEMSELVES == {"web"}
    well(checkout, host)
    assert summed(host) == kept


def test_4_gib_hold(host: Host, note: Note) -> None:
    fields = sh(host, "awk '/^(MemTotal|MemAvailable):/ {print $2}' /proc/meminfo").split()
    total, available = (int(field) >> 10 for field in fields)
    note("MiB of memory, available", f"{total}, {available}")
    assert available > total / 5
    assert sh(host, "dmesg | grep -c 'Out of memory:' || true") == "0"


@pytest.fixture(scope="module")
def small(new_host: Callable[..., Host]) -> Host:
    return new_host("small", virtual=True, memory="2g")


def test_2_gib_are_refused(scratch: Callable[..., Checkout], small: Host) -> None:
    scratch(small).deploy().refused("of memory: less than min_memory = 4.0GiB")
    assert small.run("test -e /opt/dify || command -v dockerd").returncode != 0


def test_machines_see_each_other_by_name(host: Host, small: Host) -> None:
    assert sh(small, f"getent hosts {host.name}").split()[0] == host.address
    for name in (host.name, host.address6):
        sh(small, f"timeout 60 bash -c ': </dev/tcp/{name}/80'")
    hosts.destroy(small.name)


def test_what_outgrows_its_limit_is_ended_alone(host: Host) -> None:
    before = containers(host)
    group = "docker exec dify-nginx-1 cat /sys/fs/cgroup/{}"
    assert sh(host, group.format("memory.max")) == str(512 << 20)
    # tail keeps all of a line.
    done = host.run("docker exec dify-nginx-1 sh -c 'head -c 900000000 /dev/zero | tail -n 1 >/dev/null'")
    assert done.returncode == 137, done.stdout + done.stderr
    events = dict(line.split() for line in sh(host, group.format("memory.events")).splitlines())
    assert int(events["oom_kill"]) >= 1
    assert containers(host) == before
    reached(host, PATIENCE)
    assert sh(host, "dmesg | grep -c 'Out of memory:' || true") == "0"


def test_what_forks_without_end_stops_at_its_limit(host: Host) -> None:
    group = "docker exec dify-sandbox-1 cat /sys/fs/cgroup/{}"
    most = int(sh(host, group.format("pids.max")))
    forks = f"i=0; while [ $i -lt {most + 50} ]; do i=$((i+1)); sleep 900 >/dev/null 2>&1 & done"
    try:
        done = host.run(f"docker exec dify-sandbox-1 sh -c '{forks}'")
        assert "fork" in done.stdout + done.stderr
    finally:
        sh(host, "docker top dify-sandbox-1 -o pid,comm | awk '$2 == \"sleep\" {print $1}' | xargs -r kill")
    # Those whom they left are gone with them, and there is room for others.
    assert dict(line.split() for line in sh(host, group.format("pids.events")).splitlines())["max"] != "0"
    reached(host, PATIENCE)


# The kernel's own settings


def test_opensearch_gets_what_it_asks_of_a_kernel(checkout: Checkout, host: Host) -> None:
    sh(host, "sysctl -q -w vm.max_map_count=65530")
    checkout.write(".env", "VECTOR_STORE=opensearch\n")
    # The real one needs more memory than this machine has; its stand-in does not.
    checkout.knobs["min_memory"] = 0
    assert "Kernel settings" in checkout.deploy().ok().changed
    limits = sh(host, "cat /proc/$(docker inspect --format '{{.State.Pid}}' dify-opensearch-1)/limits").splitlines()
    found = {line[:26].strip(): line[26:].split()[:2] for line in limits}
    assert found["Max locked memory"] == ["unlimited", "unlimited"]
    assert found["Max open files"] == ["65536", "65536"]
    assert sh(host, "sysctl -n vm.max_map_count") == "262144"
    well(checkout, host)
