"""The hosts Dify is put on. Put your own here: a list is a group, a tuple carries data for one host.

dify = [
    "dify.example.com",
    ("203.0.113.10", {"ssh_user": "admin", "ssh_key": "~/.ssh/id_ed25519", "project": "dify"}),
]
"""

from lab.inventory import hosts as _lab_hosts

# Throw-away hosts on this machine (`python -m lab up`). Take this line out when you have hosts of your own.
lab = _lab_hosts()
