"""A stand-in of the `vagrant` command: it says of lab hosts what Vagrant says of its machines. Linked as `vagrant` into a PATH.

VAGRANT_STAND_IN: JSON, {machine: {"HostName": ..., "User": ..., "Port": ..., "IdentityFile": ...}}, or null for one not made yet.
"""

from __future__ import annotations

import json
import os
import sys

# What Vagrant 2.3 writes after the four lines that differ.
OPTIONS = """\
  UserKnownHostsFile /dev/null
  StrictHostKeyChecking no
  PasswordAuthentication no
  IdentitiesOnly yes
  LogLevel FATAL
"""


def status(machines: dict[str, dict[str, str] | None]) -> None:
    """`vagrant status --machine-readable`: time,machine,kind,text; commas in texts are written in words."""
    for name in machines:
        print(f"1795384568,{name},metadata,provider,libvirt")
    for name, place in machines.items():
        state = "running" if place else "not_created"
        print(f"1795384568,{name},provider-name,libvirt")
        print(f"1795384568,{name},state,{state}")
        print(f"1795384568,{name},state-human-short,{state.replace('_', ' ')}")
    print("1795384568,,ui,info,a stand-in says this%!(VAGRANT_COMMA) no Vagrant")


def ssh_config(name: str, place: dict[str, str]) -> None:
    """`vagrant ssh-config NAME`"""
    print(f"Host {name}")
    for key, value in place.items():
        print(f"  {key} {value}")
    print(OPTIONS)


def main() -> int:
    machines = json.loads(os.environ["VAGRANT_STAND_IN"])
    if sys.argv[1:] == ["status", "--machine-readable"]:
        status(machines)
    elif len(sys.argv) == 3 and sys.argv[1] == "ssh-config" and machines.get(sys.argv[2]):
        ssh_config(sys.argv[2], machines[sys.argv[2]])
    else:
        print(f"the stand-in of vagrant does not know: {' '.join(sys.argv[1:])}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
