"""What each container is kept from, whatever runs in it: new privileges, root's powers, endless processes, its own image.

What a service needs all the same stands in its own template's x-host. Where that was found:

- The images' Dockerfiles and entrypoints. Those of PostgreSQL, MySQL and Redis begin as root, give their data to their own
  user (CHOWN, FOWNER, and DAC_OVERRIDE to look into what is already his) and become him (SETUID, SETGID). Some of Redis'
  end with `setpriv --bounding-set=-all`, which is
  SETPCAP. nginx begins as root for its keys and its port; its workers are another user.
- dify-sandbox makes a user (`useradd`), and runs code in a chroot of its own as that user, which it kills when it takes too long.
- The vector stores whose vendors' images nobody here has run keep what Docker gives, less UNUSED.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stack.render import Needs

# Of what Docker gives: device files, raw packets, and powers written into programs. No database does any of these. Not
# AUDIT_WRITE: `su` fails without it in images with PAM.
UNUSED = ("MKNOD", "NET_RAW", "SETFCAP")
# Processes and threads of one container; Docker has no limit. About what systemd allows a service of a host with 4 GiB,
# and far above what the busiest of ours (a database with 1,000 connections, a JVM) has.
PROCESSES = 4096
# Of a folder in memory, where an image is not written to: process ids and scratch.
SCRATCH = "64m"


def additions(needs: Needs, block: Mapping[str, Any]) -> dict[str, Any]:
    """What a service's part of the Compose file gets.

    needs: what the service needs all the same.
    block: the part as its template has it; its own limits stand.
    """
    found: dict[str, Any] = {} if needs.setuid else {"security_opt": ["no-new-privileges:true"]}
    found["cap_drop"] = list(UNUSED) if needs.capabilities is None else ["ALL"]
    if needs.capabilities:
        found["cap_add"] = list(needs.capabilities)
    found |= {} if "deploy" in block else {"pids_limit": needs.processes}
    if needs.scratch is not None:
        found["read_only"] = True
        found |= {"tmpfs": [f"{folder}:size={SCRATCH}" for folder in needs.scratch]} if needs.scratch else {}
    return found
