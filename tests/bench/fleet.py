"""The lab hosts that are measured: made, deployed to once, removed at the end whatever happens."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lab import build, hosts
from lab.hosts import Host
from lab.inventory import data
from lab.progress import seconds, step
from tests.bench.delay_proxy import DelayProxy
from tests.bench.errors import BenchError
from tests.bench.process import Measured, measured
from tests.lab.checkout import Checkout

_STARTING = "--> Starting operation: "
_WORKERS = 4
#: GiB that one host needs with all of the lab's stack (0.65 as `docker stats` counts it) and while Docker is installed.
MEMORY = 0.8
#: Seconds until Dify must answer: ten hosts that start at once on one machine take longer than the product allows one.
_PATIENCE = 1800


class Fleet:
    """Hosts bench-1 to bench-N, and a checkout of the product that knows them."""

    def __init__(self, folder: Path) -> None:
        self.checkout = Checkout.make(folder, answer_timeout=_PATIENCE)
        self.hosts: list[Host] = []
        self._claimed: list[str] = []

    def grow(self, size: int) -> None:
        """Have this many hosts, all of them with a Dify that is converged; raises BenchError when one is not."""
        names = [f"bench-{number}" for number in range(len(self.hosts) + 1, size + 1)]
        self._claimed += names
        with step(f"{_hosts(len(names))}: boot"), ThreadPoolExecutor(_WORKERS) as pool:
            self.hosts += pool.map(_anew, names)
        self.name(self.direct())
        print(f"first deploy to {_hosts(len(names))}:", flush=True)
        _demand_success(measured(self.checkout.folder, "inventory.py", "deploy.py", "-y", heard=_Steps()))
        with step(f"second deploy to {_hosts(size)}: must change nothing"):
            self.converged("-y")

    def name(self, inventory: dict[str, dict[str, Any]]) -> None:
        """Write inventory.py: name and data of each host."""
        self.checkout.write_inventory(inventory)

    def converged(self, *arguments: str) -> Measured:
        """One run that must change nothing; raises BenchError when it does."""
        done = measured(self.checkout.folder, "inventory.py", "deploy.py", *arguments)
        _demand_success(done)
        if changed := list(dict.fromkeys([*done.run.planned, *done.run.changed])):
            raise BenchError(f"not converged, so there is nothing to measure: a further run did {', '.join(changed)}")
        return done

    def direct(self) -> dict[str, dict[str, Any]]:
        """The inventory as the lab knows it."""
        return {host.name: data(host) for host in self.hosts}

    def behind(self, proxy: DelayProxy) -> dict[str, dict[str, Any]]:
        """The inventory with every host reached through the proxy; host keys are still checked."""
        return {host.name: {**data(host), **self._through(proxy, host)} for host in self.hosts}

    def _through(self, proxy: DelayProxy, host: Host) -> dict[str, Any]:
        port = proxy.listen(host.ssh_port)
        known = self.checkout.folder / f"known_hosts.{host.name}"
        known.write_text(host.known_hosts.read_text().replace(f"]:{host.ssh_port} ", f"]:{port} "))
        return {"ssh_port": port, "ssh_known_hosts_file": str(known)}

    def destroy(self) -> None:
        """Remove all hosts, also those that never came up."""
        if not self._claimed:
            return
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would leave hosts behind
        with step(f"{_hosts(len(self._claimed))}: remove"), ThreadPoolExecutor(_WORKERS) as pool:
            list(pool.map(hosts.destroy, self._claimed))


@contextmanager
def fleet(folder: Path) -> Iterator[Fleet]:
    """No host yet; `grow` makes some. All are gone when the block ends."""
    hosts.prepare("trixie")
    build.publish()
    made = Fleet(folder)
    try:
        yield made
    finally:
        made.destroy()


def _anew(name: str) -> Host:
    hosts.destroy(name)  # of a benchmark that was killed
    return hosts.create(name)


def _demand_success(done: Measured) -> None:
    if done.run.code:
        said = "\n".join(done.run.output.splitlines()[-20:])
        raise BenchError(f"pyinfra ended with {done.run.code}; its last lines:\n{said}")


class _Steps:
    """Tells the steps of a long deploy as they begin, with the time since its start."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def __call__(self, line: str) -> None:
        if line.startswith(_STARTING):
            since = seconds(time.monotonic() - self._started)
            print(f"  {since:>6}  {line.removeprefix(_STARTING).strip()}", flush=True)


def too_many(size: int) -> str | None:
    """Why this machine's memory is too small for so many hosts, in one line."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) / 2**20
    if size * MEMORY < free:
        return None
    return f"{_hosts(size)}: left out, they need {size * MEMORY:.0f} GiB of memory and this machine has {free:.0f} GiB free"


def _hosts(number: int) -> str:
    return "1 host" if number == 1 else f"{number} hosts"
