"""A certificate authority on a lab host: real Pebble behind nginx, which can go down, or stand in for a limit of Let's Encrypt."""

from __future__ import annotations

import json
from shlex import quote

from lab.hosts import Host
from tests.certificates import issue
from tests.lab.containers import sh

INSTALL = """
set -e
apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install curl nginx-light pebble
cd /etc/lab
cat > pebble.json <<EOF
{"pebble": {"listenAddress": "127.0.0.1:14000", "managementListenAddress": "127.0.0.1:15000", "httpPort": 80, "tlsPort": 443,
 "certificate": "/etc/lab/server.pem", "privateKey": "/etc/lab/server.key", "ocspResponderURL": ""}}
EOF
touch limit.conf
cat > /etc/nginx/sites-enabled/default <<EOF
server {
    listen 14001 ssl;
    ssl_certificate /etc/lab/server.pem;
    ssl_certificate_key /etc/lab/server.key;
    include /etc/lab/limit.conf;
    location / {
        proxy_pass https://127.0.0.1:14000;
        proxy_set_header Host \\$http_host;
    }
}
EOF
systemd-run -q --unit pebble --setenv PEBBLE_VA_NOSLEEP=1 --setenv PEBBLE_WFE_NONCEREJECT=0 --setenv PEBBLE_AUTHZREUSE=0 \\
    pebble -config /etc/lab/pebble.json -dnsserver 127.0.0.1:8053
systemd-run -q --unit names pebble-challtestsrv -defaultIPv4 '' -defaultIPv6 '' -dns01 127.0.0.1:8053 -management 127.0.0.1:8055 \\
    -http01 '' -https01 '' -tlsalpn01 '' -doh ''
systemctl restart nginx
timeout 60 sh -c 'until curl -skf -o /dev/null https://127.0.0.1:14001/dir; do sleep 0.2; done'
timeout 60 bash -c 'until (exec 3<>/dev/tcp/127.0.0.1/8055) 2>/dev/null; do sleep 0.2; done'
"""
# What Let's Encrypt answers to one order too many: status, type and how its sentence begins.
LIMIT = """
location = /order-plz {
    default_type application/problem+json;
    return 429 '{"type": "urn:ietf:params:acme:error:rateLimited", "status": 429, "detail": "too many certificates"}';
}
"""


class Authority:
    """The authority, and what it knows of names."""

    def __init__(self, host: Host) -> None:
        self.host = host
        authority = issue("authority of the lab", authority=True)
        server = issue("acme", authority, [host.address])
        for name, text in {"server.pem": server.pem, "server.key": server.key_pem}.items():
            done = host.run(f"mkdir -p /etc/lab && cat > /etc/lab/{name}", stdin=text)
            assert done.returncode == 0, done.stderr
        sh(host, INSTALL)
        self.server = f"https://{host.address}:14001/dir"
        self.ca = authority.pem
        self.root = sh(host, "curl -skf https://127.0.0.1:15000/roots/0") + "\n"

    def knows(self, name: str, address: str = "") -> None:
        """What its DNS says of a name from now on; without an address, nothing."""
        # An address that is added stands beside those that are there.
        for path in ("clear-a", "add-a") if address else ("clear-a",):
            what = json.dumps({"host": name, "addresses": [address]})
            sh(self.host, f"curl -sf -d {quote(what)} http://127.0.0.1:8055/{path}")

    def is_up(self, up: bool) -> None:
        sh(self.host, f"systemctl {'start' if up else 'stop'} nginx")

    def is_limited(self, limited: bool) -> None:
        """Stand in for Let's Encrypt when it has given too many certificates."""
        done = self.host.run(
            "cat > /etc/lab/limit.conf && systemctl reload-or-restart nginx", stdin=LIMIT if limited else ""
        )
        assert done.returncode == 0, done.stderr


def name_in(host: Host, address: str, *names: str) -> None:
    """What DNS says to a host, by its hosts file: these names lead to the address, no other name of the tests anywhere."""
    line = f"{address} {' '.join(names)}" if names else ""
    # Docker mounts the file, so that it cannot be replaced.
    sh(
        host,
        f"grep -v '# of the test' /etc/hosts > /tmp/hosts; echo '{line} # of the test' >> /tmp/hosts; cat /tmp/hosts > /etc/hosts",
    )
