"""The command line: `python -m lab --help`."""

from __future__ import annotations

import argparse
import os
import re
import runpy
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

from lab import build, engine, home, hosts, network, registry, repository, vm
from lab.home import LabError
from lab.progress import bad, good, parallel_step, seconds, step, table

_ABOUT = """\
Throw-away hosts on this machine to deploy Dify to: containers that boot systemd and sshd, or virtual machines, reached
by SSH; a registry on their network, and the images that they pull from it."""

_EXAMPLES = """\
examples:
  python -m lab up                      one Debian 13 host, dify-1
  python -m lab up --hosts 3            have dify-1, dify-2 and dify-3; those that run stay as they are
  python -m lab up --system debian12    a Debian 12 host, and a stand-in of Docker's repository for it
  python -m lab up --vm --hosts 2       virtual machines, with kernels of their own (QEMU; emulated where KVM does not work)
  python -m lab snapshot dify-1 bare    keep a virtual machine as it is now; `revert dify-1 bare` brings that back
  python -m lab ssh dify-1              log in as root (ops@dify-1: a user with sudo)
  python -m lab ssh dify-1 docker ps    run one command
  python -m lab down                    remove everything, images included

Where no Docker engine answers, the lab starts its own (root on Debian) and stops it on `down`.
DIFY_LAB_HOME names the folder for images and keys (default ~/.cache/dify-lab)."""

_NEXT = """
  pyinfra inventory.py deploy.py      deploy to them
  python -m lab ssh HOST              log in
  python -m lab down                  remove them"""


def parser() -> argparse.ArgumentParser:
    formatting = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser("python -m lab", description=_ABOUT, epilog=_EXAMPLES, formatter_class=formatting)
    top.set_defaults(action=lambda _: top.print_help())
    commands = top.add_subparsers(title="commands", metavar="COMMAND")
    _up_arguments(commands.add_parser("up", help="have hosts, registry and images; what is there stays"))
    _down_arguments(commands.add_parser("down", help="remove all of it; stop the engine if the lab started it"))
    commands.add_parser("status", help="engine, registry, images and hosts").set_defaults(action=_status)
    _ssh_arguments(commands.add_parser("ssh", help="log in to a host, or run one command there"))
    _snapshot_arguments(commands.add_parser("snapshot", help="keep disk and memory of a virtual machine"), _snapshot)
    _snapshot_arguments(commands.add_parser("revert", help="make it again what it was then"), _revert)
    images = commands.add_parser("images", help="build the images that have changed and push them")
    images.set_defaults(action=_images)
    return top


def _up_arguments(up: argparse.ArgumentParser) -> None:
    up.add_argument("--hosts", type=_count, default=1, metavar="N", help="how many: dify-1 to dify-N (default 1)")
    system = up.add_argument("--system", choices=hosts.SUITES, default="debian13")
    system.help = "what the hosts are: debian11, debian12, debian13 (default) or testing"
    up.add_argument(
        "--vm", action="store_true", help="virtual machines instead of containers: 4 GiB, 2 processors each"
    )
    choice = up.add_argument("--images", choices=["lab", "upstream"], default="lab")
    choice.help = "lab (default): built here, stand-ins among them; upstream: the real ones, pulled from the internet"
    up.add_argument(
        "--unless-named-in", type=Path, metavar="FILE", help="do nothing where this inventory names hosts of your own"
    )
    up.set_defaults(action=_up)


def _down_arguments(down: argparse.ArgumentParser) -> None:
    down.add_argument("--keep-images", action="store_true", help="leave the images, so that the next `up` is quick")
    down.set_defaults(action=_down)


def _ssh_arguments(ssh: argparse.ArgumentParser) -> None:
    ssh.add_argument("host", metavar="[USER@]HOST")
    ssh.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND")
    ssh.set_defaults(action=_ssh)


def _snapshot_arguments(command: argparse.ArgumentParser, action: Callable[[argparse.Namespace], None]) -> None:
    command.add_argument("host", metavar="HOST")
    command.add_argument("name", type=_word, metavar="NAME")
    command.set_defaults(action=action)


def _word(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z][\w-]*", text):
        raise argparse.ArgumentTypeError(f"{text} is not a name: a letter, then letters, digits, dashes")
    return text


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text} is not a number of hosts")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = parser().parse_args(arguments)
    try:
        chosen.action(chosen)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


# The commands


def _up(chosen: argparse.Namespace) -> None:
    if chosen.unless_named_in and (own := _own_groups(chosen.unless_named_in)):
        print(f"{chosen.unless_named_in} names hosts of your own ({', '.join(own)}): no lab is needed.")
        return
    started = time.monotonic()
    suite = hosts.SUITES[chosen.system]
    names = [f"dify-{number}" for number in range(1, chosen.hosts + 1)]
    for host in hosts.hosts() if engine.answers() else []:
        if host.name in names:
            hosts.demand(host, suite, chosen.images, chosen.vm)
    hosts.prepare(suite, chosen.vm)
    if chosen.images == "lab":
        build.publish()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: _create(name, chosen), names))
    print(f"The lab is up ({seconds(time.monotonic() - started)}).\n")
    _print_hosts()
    print(_NEXT)


def _own_groups(inventory: Path) -> list[str]:
    """The groups of an inventory that are not the lab's."""
    try:
        found = runpy.run_path(str(inventory))
    except OSError as error:
        raise LabError(f"{inventory} cannot be read: {error}") from None
    return [
        name for name, value in found.items() if name != "lab" and name[0] != "_" and isinstance(value, list) and value
    ]


def _create(name: str, chosen: argparse.Namespace) -> None:
    there = hosts.find(name)
    quiet = there and there.state == "running"
    with nullcontext() if quiet else parallel_step(f"host {name}: boot {chosen.system}"):
        hosts.create(name, suite=hosts.SUITES[chosen.system], images=chosen.images, virtual=chosen.vm)


def _down(chosen: argparse.Namespace) -> None:
    engine.revive()
    if engine.answers():
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda host: hosts.destroy(host.name), hosts.hosts()))
        registry.down(keep_images=chosen.keep_images)
        repository.down()
        network.down()
        if not chosen.keep_images and not engine.own():
            build.remove_images()
    engine.down()
    home.release(home.HOME, keep=["engine", "disks"] if chosen.keep_images else [])
    print("The lab is down.")


def _status(_: argparse.Namespace) -> None:
    if not engine.answers():
        print("No lab here: python -m lab up")
        return
    version = engine.get("/version")["Version"]
    whose = "the lab's own" if engine.own() else "this machine's"
    print(f"Engine\n  Docker {version}, {whose}, {engine.url()}")
    found = registry.container()
    where = f"127.0.0.1:{registry.push_port()}, for the hosts {registry.ADDRESS}" if found else "not running"
    print(f"Registry\n  {where}")
    if repository.running():
        print(f"Stand-in of Docker's package repository\n  for the hosts {repository.URL}")
    print("Images for the hosts")
    print(table(_image_rows() if found else []))
    print("Hosts")
    _print_hosts()


def _image_rows() -> list[tuple[str, ...]]:
    """Name, kind and origin of what hosts pull."""
    prefix = registry.push_name("")
    found = {name: image.labels for name, image in sorted(build.local_images().items()) if name.startswith(prefix)}
    return [
        (name.removeprefix(prefix), labels.get("dify.lab.image-kind", ""), labels.get("dify.lab.image-of", ""))
        for name, labels in found.items()
    ]


def _print_hosts() -> None:
    there = hosts.hosts()
    print(table([_host_row(host) for host in there]))
    for line in {hosts.limits(host) for host in there} - {None}:
        print(f"  Note: {line}.")


def _host_row(host: hosts.Host) -> tuple[str, ...]:
    state = good(host.state) if host.state == "running" else bad(host.state)
    kind = {"": "container", "kvm": "virtual machine", "tcg": "virtual machine, emulated"}[host.accelerator]
    return host.name, state, host.system, kind, host.address, f"ssh 127.0.0.1:{host.ssh_port}", f"images: {host.images}"


def _ssh(chosen: argparse.Namespace) -> None:
    user, _, name = chosen.host.rpartition("@")
    command = ["--", *chosen.words] if chosen.words else []
    words = hosts.get(name).ssh(*command, user=user or "root")
    os.execvp(words[0], words)


def _snapshot(chosen: argparse.Namespace) -> None:
    with step(f"snapshot {chosen.name} of {chosen.host}"):
        vm.snapshot(hosts.get(chosen.host), chosen.name)


def _revert(chosen: argparse.Namespace) -> None:
    with step(f"{chosen.host}: back to {chosen.name}"):
        vm.revert(hosts.get(chosen.host), chosen.name)


def _images(_: argparse.Namespace) -> None:
    engine.up()
    build.publish()


if __name__ == "__main__":
    sys.exit(main())
