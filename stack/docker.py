"""Docker on a host: what is new enough, how it is installed on which system, what its daemon.json shall say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from shlex import quote
from textwrap import dedent
from typing import Any

from stack.settings import Knobs

MIN_ENGINE = "25"  # the first whose health checks know start_interval
MIN_COMPOSE = "2.20.3"  # the first with depends_on.required that can be relied on

# Fingerprints of Docker's two package keys, as its installation pages give them.
APT_KEY = "9DC858229FC7DD38854AE2D88D81803C0EBFCD88"
RPM_KEY = "060A61C51B558A7F742B77AAC52FEB6B621E9F35"


@dataclass(frozen=True)
class System:
    """One operating system that is supported.

    versions: first and last major version that was looked at; newer ones are taken as the last.
    distro: its own packages of Docker; empty when it has none.
    upstream: its folder in Docker's repository, or why there is none.
    """

    name: str
    manager: str
    versions: tuple[float, float]
    distro: tuple[str, ...]
    upstream: str
    has_upstream: bool = True


OLD = f"has a Docker Engine older than {MIN_ENGINE} in its own packages"
DEBIAN = ("docker.io", "docker-cli", "docker-compose")
UBUNTU = ("docker.io", "docker-compose-v2")
NO_DOCKER: tuple[str, ...] = ()
SYSTEMS = {
    "debian": System("Debian", "apt", (11, 13), DEBIAN, "debian"),
    "ubuntu": System("Ubuntu", "apt", (20.04, 24.04), UBUNTU, "ubuntu"),
    "rhel": System("RHEL", "dnf", (8, 10), NO_DOCKER, "rhel"),
    "rocky": System("Rocky Linux", "dnf", (8, 10), NO_DOCKER, "centos"),
    "almalinux": System("AlmaLinux", "dnf", (8, 10), NO_DOCKER, "centos"),
    "centos": System("CentOS Stream", "dnf", (8, 10), NO_DOCKER, "centos"),
    "fedora": System("Fedora", "dnf", (39, 43), ("moby-engine", "docker-cli", "docker-compose"), "fedora"),
    "amzn": System("Amazon Linux", "dnf", (2023, 2023), ("docker",), "Docker has no repository for it", False),
}


def version(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: ``"26.1.5+dfsg1"`` is ``(26, 1, 5)``; ``()`` when there is none."""
    match = re.match(r"v?(\d+(?:\.\d+)*)", text)
    return tuple(int(part) for part in match[1].split(".")) if match else ()


def new_enough(found: str, least: str) -> bool:
    """Whether a version is at least another."""
    return version(found) >= version(least)


def refusals(os_id: str, os_version: str, knobs: Knobs) -> list[str]:
    """Why Docker cannot be installed on this system in the wanted way; empty when it can."""
    system = SYSTEMS.get(os_id)
    if not system:
        names = ", ".join(s.name for s in SYSTEMS.values())
        return [f'operating system {os_id!r}: not supported; supported: {names}; with docker_source = "present" any']
    least = system.versions[0]
    if os_version and float(re.match(r"\d+(\.\d+)?", os_version)[0]) < least:  # type: ignore[index]
        return [f"{system.name} {os_version}: too old; supported from {least:g}"]
    if knobs.docker_source == "distro":
        return _distro_refusals(system, os_id, os_version)
    if knobs.docker_source == "docker" and not system.has_upstream:
        return [f'docker_source = "docker": {system.name}: {system.upstream}; use "distro" or "present"']
    return []


def _distro_refusals(system: System, os_id: str, os_version: str) -> list[str]:
    if not system.distro:
        return [f'docker_source = "distro": {system.name} has no Docker in its own packages; use "docker"']
    if os_id == "debian" and os_version and float(os_version) < 13:
        return [f'docker_source = "distro": Debian {os_version} {OLD}; use "docker" (Docker\'s own repository)']
    return []


def install_script(os_id: str, knobs: Knobs) -> str:
    """A shell script that installs Docker Engine, Compose and curl; it ends with 1 and one line when it cannot."""
    system = SYSTEMS[os_id]
    if knobs.docker_source == "distro":
        if os_id == "amzn":
            return _dnf_amazon()
        return _apt_distro(system.distro) if system.manager == "apt" else _dnf(system.distro)
    if system.manager == "apt":
        return _apt_docker(f"{knobs.docker_repository}/{system.upstream}", knobs.docker_repository_key or APT_KEY)
    return _dnf_docker(f"{knobs.docker_repository}/{system.upstream}", knobs.docker_repository_key or RPM_KEY)


def install_curl(os_id: str) -> str:
    """A shell script that installs curl, where Docker was there already."""
    return APT + "apt_install ca-certificates curl\n" if SYSTEMS[os_id].manager == "apt" else "dnf -q -y install curl\n"


# Someone else's apt may hold the lock: unattended upgrades run in the first minutes of a new machine.
APT = dedent("""\
    export DEBIAN_FRONTEND=noninteractive
    apt_update() { for _ in 1 2 3 4 5 6; do apt-get -q update && return; sleep 10; done; return 1; }
    apt_install() { apt-get -q -y -o DPkg::Lock::Timeout=300 --no-install-recommends install "$@"; }
    apt_update
    """)
UPSTREAM_PACKAGES = "docker-ce docker-ce-cli containerd.io docker-compose-plugin"


def _apt_distro(packages: tuple[str, ...]) -> str:
    return APT + dedent(f"""\
        candidate() {{ apt-cache policy "$1" | sed -n 's/^ *Candidate: //p'; }}
        newest=$(candidate docker.io)
        test "$newest" != '(none)' || newest=
        dpkg --compare-versions "${{newest:-0}}" ge {MIN_ENGINE} || {{
            echo "docker.io ${{newest:-(none)}} of this system is older than {MIN_ENGINE}: set docker_source = \\"docker\\"" >&2
            exit 1
        }}
        apt_install {" ".join(packages)} ca-certificates curl iptables
        """)


def _fetch_key(repository: str, key: str) -> str:
    """Shell that has the repository's key in the file $key until it ends, if it is the one with this fingerprint."""
    refusal = (
        f"the key of {repository} is not the expected {key}: nothing was installed; "
        "docker_repository_key names the key of a mirror that signs anew"
    )
    return f"""\
            key=$(mktemp); trap 'rm -f "$key"' EXIT
            curl --fail --silent --show-error --location {quote(repository + "/gpg")} --output "$key"
            gpg --show-keys --with-colons "$key" | grep -q '^fpr:.*:{key}:' || {{
                echo {quote(refusal)} >&2
                exit 1
            }}"""


def _apt_docker(repository: str, key: str) -> str:
    """A source that is there already, under whatever name, is used as it is: two of them with two keys stop apt."""
    return APT + dedent(f"""\
        apt_install ca-certificates curl gpg
        . /etc/os-release
        # What apt reads, not what lies about: files that an upgrade switched off or renamed do not count.
        if ! apt-get indextargets --format '$(REPO_URI)' | grep -Fqx {quote(repository + "/")}; then
{_fetch_key(repository, key)}
            curl --fail --silent --location {quote(repository + "/dists/")}"$VERSION_CODENAME/Release" --output /dev/null || {{
                echo {quote(repository)} "has nothing for $VERSION_CODENAME: set docker_source = \\"distro\\"" >&2
                exit 1
            }}
            install -D -m 644 "$key" /etc/apt/keyrings/docker.asc
            printf '%s\\n' 'Types: deb' {quote("URIs: " + repository)} "Suites: $VERSION_CODENAME" 'Components: stable' \\
                "Architectures: $(dpkg --print-architecture)" 'Signed-By: /etc/apt/keyrings/docker.asc' \\
                > /etc/apt/sources.list.d/docker.sources
            apt_update
        fi
        apt_install {UPSTREAM_PACKAGES}
        """)


def _dnf(packages: tuple[str, ...]) -> str:
    # --allowerasing would swap curl-minimal for curl; the command curl is there with either.
    return dedent(f"""\
        dnf -q -y install {" ".join(packages)}
        command -v curl >/dev/null || dnf -q -y install curl
        """)


def _dnf_amazon() -> str:
    """Amazon Linux has Docker, but not always Compose: found out before anything is installed."""
    return dedent("""\
        plugin=
        if ! ls /usr/l*/docker/cli-plugins/docker-compose /usr/local/lib/docker/cli-plugins/docker-compose >/dev/null 2>&1; then
            plugin=docker-compose-plugin
            dnf -q list --available $plugin >/dev/null 2>&1 || {
                echo "no package $plugin here: put Docker's Compose plugin into /usr/local/lib/docker/cli-plugins first" >&2
                exit 1
            }
        fi
        dnf -q -y install docker $plugin
        command -v curl >/dev/null || dnf -q -y install curl
        """)


def _dnf_docker(repository: str, key: str) -> str:
    repo = f"""\
[docker-ce-stable]
name=Docker CE
baseurl={repository}/$releasever/$basearch/stable
enabled=1
gpgcheck=1
gpgkey=file:///etc/pki/rpm-gpg/docker-ce.gpg
"""
    return dedent(f"""\
        command -v curl >/dev/null || dnf -q -y install curl
        command -v gpg >/dev/null || dnf -q -y install gnupg2
        # A repository that is switched off does not count.
        if ! awk -F ' *= *' -v url={quote(repository + "/")} '
            /^\\[/ {{ found = found || here && on; here = 0; on = 1 }}
            $1 == "baseurl" && index($2, url) == 1 {{ here = 1 }}
            $1 == "enabled" {{ on = $2 ~ /^(1|[Tt]rue|[Yy]es|[Oo]n)/ }}
            END {{ exit !(found || here && on) }}' /etc/yum.repos.d/*.repo 2>/dev/null; then
{_fetch_key(repository, key)}
            install -D -m 644 "$key" /etc/pki/rpm-gpg/docker-ce.gpg
            printf %s {quote(repo)} > /etc/yum.repos.d/docker-ce.repo
        fi
        dnf -q -y install {UPSTREAM_PACKAGES}
        """)


def daemon_config(current: Mapping[str, Any], knobs: Knobs) -> dict[str, Any]:
    """The daemon.json that the host shall have: its own keys stay, ours are merged in.

    current: what is there now. A log driver that is not a file on the host is the operator's choice and stays alone.
    """
    config = dict(current)
    if config.get("log-driver", "json-file") in ("json-file", "local"):
        config.setdefault("log-driver", "json-file")
        limits = {"max-size": knobs.docker_log_max_size, "max-file": str(knobs.docker_log_max_file)}
        config["log-opts"] = {**config.get("log-opts", {}), **limits}
    for key, wanted in (
        ("registry-mirrors", knobs.docker_registry_mirrors),
        ("insecure-registries", knobs.docker_insecure_registries),
        ("default-address-pools", knobs.docker_address_pools),
    ):
        there = list(config.get(key, []))
        if merged := there + [entry for entry in wanted if entry not in there]:
            config[key] = merged
    return config


def proxy_drop_in(knobs: Knobs) -> str:
    """The systemd drop-in that gives dockerd its proxy; empty when there is none."""
    names = {"http": "HTTP_PROXY", "https": "HTTPS_PROXY", "no_proxy": "NO_PROXY"}
    lines = [
        f'Environment="{names[key]}={value.replace("%", "%%")}"\n' for key, value in sorted(knobs.docker_proxy.items())
    ]
    return "[Service]\n" + "".join(lines) if lines else ""
