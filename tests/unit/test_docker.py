"""Docker on a host: what is new enough, how it is installed, what its daemon.json shall say."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyinfra.context import ctx_host, ctx_state

from stack import docker
from stack.settings import Knobs
from tasks import docker as engine_task
from tests.unit.wanted import knobs, run_sh


def wish(**changed: Any) -> Knobs:
    return Knobs.model_validate(knobs(**changed))


# --- Versions ---


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("26.1.5", (26, 1, 5)),
        ("26.1.5+dfsg1", (26, 1, 5)),
        ("v2.24.1", (2, 24, 1)),
        ("2.20.3-desktop.1", (2, 20, 3)),
        ("24", (24,)),
        ("", ()),
        ("dev", ()),
    ],
)
def test_a_version_is_its_leading_numbers(text: str, numbers: tuple[int, ...]) -> None:
    assert docker.version(text) == numbers


@pytest.mark.parametrize(
    ("found", "least", "enough"),
    [
        ("25.0.0", "25", True),
        ("25", "25", True),
        ("24.0.9", "25", False),
        ("100.0", "25", True),
        ("2.20.3", "2.20.3", True),
        ("v2.20.2", "2.20.3", False),
        ("2.9.0", "2.20.3", False),
        ("2.20", "2.20.3", False),
        ("5.0.0", "2.20.3", True),
        ("1.29.2", "2.20.3", False),
        ("", "25", False),
    ],
)
def test_versions_are_compared_as_numbers(found: str, least: str, enough: bool) -> None:
    assert docker.new_enough(found, least) is enough


# --- Where it can be installed from ---


@pytest.mark.parametrize(
    ("os_id", "os_version", "source", "fragment"),
    [
        *(("debian", version, "docker", "") for version in ("11", "12", "13", "14", "")),
        ("debian", "10", "docker", "Debian 10: too old; supported from 11"),
        ("debian", "11", "distro", "older than 25 in its own packages"),
        ("debian", "12", "distro", "older than 25 in its own packages"),
        ("debian", "13", "distro", ""),
        *(("ubuntu", version, "docker", "") for version in ("20.04", "22.04", "24.04", "24.10")),
        ("ubuntu", "18.04", "docker", "Ubuntu 18.04: too old; supported from 20.04"),
        ("ubuntu", "24.04", "distro", ""),
        *(
            (name, version, "docker", "")
            for name in ("rhel", "rocky", "almalinux")
            for version in ("8.10", "9.4", "10.0")
        ),
        ("rocky", "7.9", "docker", "Rocky Linux 7.9: too old; supported from 8"),
        *(
            (name, "9.4", "distro", "has no Docker in its own packages")
            for name in ("rhel", "rocky", "almalinux", "centos")
        ),
        ("centos", "9", "docker", ""),
        ("fedora", "43", "docker", ""),
        ("fedora", "43", "distro", ""),
        ("fedora", "38", "distro", "Fedora 38: too old"),
        ("amzn", "2023", "distro", ""),
        ("amzn", "2023", "docker", "Docker has no repository for it"),
        ("amzn", "2", "distro", "Amazon Linux 2: too old"),
        ("arch", "", "docker", "operating system 'arch': not supported; supported: Debian, Ubuntu, RHEL, Rocky Linux"),
    ],
)
def test_what_cannot_be_installed_is_refused_and_nothing_else(
    os_id: str, os_version: str, source: str, fragment: str
) -> None:
    said = docker.refusals(os_id, os_version, wish(docker_source=source))
    assert len(said) == bool(fragment)
    assert fragment in "".join(said)


# --- How it is installed ---

CAN = [
    (os_id, source)
    for os_id, system in docker.SYSTEMS.items()
    for source in ("distro", "docker")
    if not docker.refusals(os_id, f"{system.versions[1]:g}", wish(docker_source=source))
]
# The host's own programs, replaced by ones that write down how they were called.
PROGRAMS = {
    "apt-get": """
        test "$1" != indextargets || { cat "$sources"/targets; sed -n 's|^URIs: \\(.*\\)|\\1/|p' "$sources"/*; exit; }
        echo "apt-get $*" >> "$calls"
    """,
    "dnf": 'echo "dnf $*" >> "$calls"',
    "apt-cache": 'echo "  Candidate: $candidate"',
    "dpkg": 'test "$1" = --print-architecture && echo amd64 || test "$(printf "%s\\n" "$4" "$2" | sort -V | head -n1)" = "$4"',
    "curl": """
        echo "curl $*" >> "$calls"
        case "$*" in *"/dists/$unpublished/Release"*) exit 22 ;; esac
        for last; do :; done; echo key > "$last"
    """,
    "systemctl": 'test "$1" = daemon-reload || echo "systemctl $*" >> "$calls"',
    "docker": "echo 28.0.0",
    "gpg": 'echo "fpr:::::::::$fingerprint:"',
    "sleep": ":",
}


class Machine:
    """A folder in place of / and programs in place of a system's own."""

    def __init__(self, root: Path, os_id: str) -> None:
        self.root, self.os_id = root, os_id
        for folder in ("bin", "tmp", "etc/apt/sources.list.d", "etc/yum.repos.d"):
            (root / folder).mkdir(parents=True)
        (root / "etc/os-release").write_text(f"ID={os_id}\nVERSION_CODENAME=trixie\n")
        self.reads()
        for name, body in PROGRAMS.items():
            (root / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")
            (root / "bin" / name).chmod(0o755)

    def reads(self, *repositories: str) -> None:
        """What apt says that it reads, beside our own docker.sources."""
        (self.root / "etc/apt/sources.list.d/targets").write_text("".join(f"{uri}\n" for uri in repositories))

    def install(
        self,
        source: str,
        fingerprint: str = "",
        candidate: str = "26.1.5+dfsg1",
        unpublished: str = "none",
        **changed: Any,
    ) -> tuple[int, str]:
        """(exit code, what was said on stderr)"""
        script = docker.install_script(self.os_id, wish(docker_source=source, **changed))
        return self.run(script, fingerprint, candidate, unpublished)

    def run(
        self, script: str, fingerprint: str = "", candidate: str = "26.1.5+dfsg1", unpublished: str = "none"
    ) -> tuple[int, str]:
        """(exit code, what was said on stderr); no file is left behind, whatever the end."""
        own = {"apt": docker.APT_KEY, "dnf": docker.RPM_KEY}[docker.SYSTEMS[self.os_id].manager]
        script = script.replace("/run/", f"{self.root}/").replace("/etc/", f"{self.root}/etc/")
        exports = f"export calls={self.root}/calls fingerprint={fingerprint or own} candidate={candidate}\n"
        exports += f"export sources={self.root}/etc/apt/sources.list.d unpublished={unpublished}\n"
        exports += f"export TMPDIR={self.root}/tmp\nset -e\n"
        done = run_sh(exports + script, path=self.root / "bin", check=False)
        assert list((self.root / "tmp").iterdir()) == []
        return done.returncode, done.stderr

    @property
    def calls(self) -> str:
        log = self.root / "calls"
        return log.read_text() if log.exists() else ""

    @property
    def sources(self) -> dict[str, str]:
        """{name: text} of the package sources and keys."""
        folders = ("etc/apt/sources.list.d", "etc/apt/keyrings", "etc/yum.repos.d", "etc/pki/rpm-gpg")
        files = [file for folder in folders for file in (self.root / folder).glob("*")]
        return {file.name: file.read_text() for file in files if file.name != "targets"}


@pytest.mark.parametrize(("os_id", "source"), CAN)
def test_an_install_script_is_valid_shell(os_id: str, source: str) -> None:
    assert run_sh("sh -n", docker.install_script(os_id, wish(docker_source=source))).stderr == ""


@pytest.mark.parametrize("os_id", docker.SYSTEMS)
def test_a_script_that_installs_curl_is_valid_shell(os_id: str) -> None:
    assert run_sh("sh -n", docker.install_curl(os_id)).stderr == ""


@pytest.mark.parametrize(("os_id", "source"), CAN)
def test_docker_and_its_compose_plugin_are_installed(tmp_path: Path, os_id: str, source: str) -> None:
    machine = Machine(tmp_path, os_id)
    assert machine.install(source) == (0, "")
    wanted = docker.UPSTREAM_PACKAGES.split() if source == "docker" else docker.SYSTEMS[os_id].distro
    assert [name for name in wanted if f" {name}" not in machine.calls] == []
    assert ("curl --fail" in machine.calls) is (source == "docker")


OTHER_KEY = "0123456789ABCDEF0123456789ABCDEF01234567"
UPSTREAM = [os_id for os_id, source in CAN if source == "docker"]


@pytest.mark.parametrize("os_id", UPSTREAM)
def test_dockers_own_repository_comes_with_its_key(tmp_path: Path, os_id: str) -> None:
    machine = Machine(tmp_path, os_id)
    machine.install("docker")
    repository = f"https://download.docker.com/linux/{docker.SYSTEMS[os_id].upstream}"
    if docker.SYSTEMS[os_id].manager == "apt":
        assert machine.sources == {
            "docker.asc": "key\n",
            "docker.sources": f"Types: deb\nURIs: {repository}\nSuites: trixie\nComponents: stable\nArchitectures: amd64\n"
            f"Signed-By: {tmp_path}/etc/apt/keyrings/docker.asc\n",
        }
    else:
        assert machine.sources["docker-ce.gpg"] == "key\n"
        said = machine.sources["docker-ce.repo"].splitlines()
        assert f"baseurl={repository}/$releasever/$basearch/stable" in said
        assert "gpgcheck=1" in said


@pytest.mark.parametrize("os_id", UPSTREAM)
def test_another_key_than_dockers_stops_before_anything_is_written(tmp_path: Path, os_id: str) -> None:
    machine = Machine(tmp_path, os_id)
    code, said = machine.install("docker", fingerprint=OTHER_KEY)
    assert code == 1
    assert "nothing was installed" in said
    assert machine.sources == {}
    assert "docker-ce" not in machine.calls


@pytest.mark.parametrize("os_id", UPSTREAM)
def test_a_mirror_may_sign_with_a_key_of_its_own(tmp_path: Path, os_id: str) -> None:
    machine = Machine(tmp_path, os_id)
    mirror = {"docker_repository": "https://mirror.lan", "docker_repository_key": OTHER_KEY}
    assert machine.install("docker", fingerprint=OTHER_KEY, **mirror) == (0, "")
    code, said = Machine(tmp_path / "docker", os_id).install("docker", **mirror)
    assert code == 1
    assert f"is not the expected {OTHER_KEY}" in said


def test_a_release_that_docker_does_not_publish_for_is_refused(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "debian")
    code, said = machine.install("docker", unpublished="trixie")
    assert code == 1
    assert said == ('https://download.docker.com/linux/debian has nothing for trixie: set docker_source = "distro"\n')
    assert machine.sources == {}


def test_a_source_that_apt_reads_is_used_under_whatever_name(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "debian")
    machine.reads("http://mirror.example.com/debian/", "https://download.docker.com/linux/debian/")
    assert machine.install("docker")[0] == 0
    assert machine.sources == {}
    assert "curl --fail" not in machine.calls
    assert "docker-ce" in machine.calls


# As Docker publishes it, shortened: more repositories than the one that is used, switched off.
DOCKER_REPO = """\
[docker-ce-stable]
name=Docker CE Stable - $basearch
baseurl=https://download.docker.com/linux/{folder}/$releasever/$basearch/stable
enabled={enabled}
gpgcheck=1
gpgkey=https://download.docker.com/linux/{folder}/gpg

[docker-ce-test]
name=Docker CE Test - $basearch
baseurl=https://download.docker.com/linux/{folder}/$releasever/$basearch/test
enabled=0
gpgcheck=1
gpgkey=https://download.docker.com/linux/{folder}/gpg
"""


@pytest.mark.parametrize(
    ("os_id", "text"),
    [
        ("rocky", DOCKER_REPO.format(folder="centos", enabled=1)),
        ("fedora", DOCKER_REPO.format(folder="fedora", enabled="True")),
        ("rhel", "[mine]\nbaseurl = https://download.docker.com/linux/rhel/9/x86_64/stable\n"),
    ],
)
def test_a_repository_that_dnf_reads_is_used_under_whatever_name(tmp_path: Path, os_id: str, text: str) -> None:
    machine = Machine(tmp_path, os_id)
    (tmp_path / "etc/yum.repos.d/by-hand.repo").write_text(text)
    assert machine.install("docker") == (0, "")
    assert machine.sources == {"by-hand.repo": text}
    assert "curl --fail" not in machine.calls
    assert "docker-ce" in machine.calls


@pytest.mark.parametrize(("os_id", "name"), [("debian", "docker.sources"), ("rocky", "docker-ce.repo")])
def test_a_mirror_of_dockers_repository_is_set_up_once(tmp_path: Path, os_id: str, name: str) -> None:
    machine = Machine(tmp_path, os_id)
    for _ in range(2):
        assert machine.install("docker", docker_repository="https://mirror-1.lan/docker-ce/linux") == (0, "")
    assert "https://mirror-1.lan/docker-ce/linux/" in machine.sources[name]
    assert machine.calls.count("/gpg --output") == 1


def test_a_source_that_apt_does_not_read_does_not_count(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "debian")
    machine.reads("https://mirror.example.com/debian/", "https://download.docker.com/linux/ubuntu/")
    assert machine.install("docker") == (0, "")
    assert "docker.sources" in machine.sources


@pytest.mark.parametrize(
    "text",
    [
        DOCKER_REPO.format(folder="centos", enabled=0),
        DOCKER_REPO.format(folder="fedora", enabled=1),
        "[mine]\n#baseurl=https://download.docker.com/linux/centos/9/x86_64/stable\n",
    ],
)
def test_a_repository_that_is_switched_off_or_another_one_does_not_count(tmp_path: Path, text: str) -> None:
    machine = Machine(tmp_path, "rocky")
    (tmp_path / "etc/yum.repos.d/old.repo").write_text(text)
    assert machine.install("docker") == (0, "")
    assert "docker-ce.repo" in machine.sources


@pytest.mark.parametrize("os_id", ["debian", "ubuntu"])
@pytest.mark.parametrize("candidate", ["20.10.24+dfsg1", "(none)", "24.0.7"])
def test_an_old_engine_of_the_distribution_is_not_installed(tmp_path: Path, os_id: str, candidate: str) -> None:
    machine = Machine(tmp_path, os_id)
    code, said = machine.install("distro", candidate=f"'{candidate}'")
    assert code == 1
    assert f"docker.io {candidate} of this system is older than 25" in said
    assert "install" not in machine.calls


# --- Systems that no test ran on: what is known of them from public documentation leads to what would be done ---

# The lines of /etc/os-release that tell systems apart, as their makers publish it.
OS_RELEASE = {
    "rocky9": 'NAME="Rocky Linux"\nVERSION="9.6 (Blue Onyx)"\nID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.6"\n',
    "alma9": 'NAME="AlmaLinux"\nVERSION="9.6 (Sage Margay)"\nID="almalinux"\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.6"\n',
    "rhel9": 'NAME="Red Hat Enterprise Linux"\nVERSION="9.4 (Plow)"\nID="rhel"\nID_LIKE="fedora"\nVERSION_ID="9.4"\n',
    "fedora41": 'NAME="Fedora Linux"\nVERSION="41 (Forty One)"\nID=fedora\nVERSION_ID=41\nVERSION_CODENAME=""\n',
    "amazon2023": 'NAME="Amazon Linux"\nVERSION="2023"\nID="amzn"\nID_LIKE="fedora"\nVERSION_ID="2023"\n',
}
DOCKERS = "install docker-ce docker-ce-cli containerd.io docker-compose-plugin"


def planned(os_release: Path, wanted: Knobs) -> list[str]:
    """The shell commands of the step "Docker runs" on a bare host with this /etc/os-release, the look at it really run."""
    look = engine_task.LOOK.replace("/etc/os-release", str(os_release)).replace("command -v", "false")
    found = engine_task.Engine().process(run_sh(look, check=False).stdout.splitlines())
    bare = SimpleNamespace(get_fact=lambda _: replace(found, installed=False, enabled=False, active=False))
    with ctx_host.use(bare), ctx_state.use(SimpleNamespace(is_executing=False)):
        return [command.get_raw_value() for command in engine_task.engine._inner(knobs=wanted)]


@pytest.mark.parametrize(
    ("system", "source", "folder", "packages"),
    [
        ("rocky9", "docker", "centos", DOCKERS),
        ("alma9", "docker", "centos", DOCKERS),
        ("rhel9", "docker", "rhel", DOCKERS),
        ("fedora41", "docker", "fedora", DOCKERS),
        ("fedora41", "distro", "", "install moby-engine docker-cli docker-compose"),
        ("amazon2023", "distro", "", "install docker"),
    ],
)
def test_what_would_be_done_on_a_system_of_the_dnf_family(
    tmp_path: Path, system: str, source: str, folder: str, packages: str
) -> None:
    (tmp_path / "os-release").write_text(OS_RELEASE[system])
    named = dict(re.findall(r'^(ID|VERSION_ID)="?([^"\n]*)', OS_RELEASE[system], re.MULTILINE))
    assert docker.refusals(named["ID"], named["VERSION_ID"], wish(docker_source=source)) == []
    commands = planned(tmp_path / "os-release", wish(docker_source=source))
    machine = Machine(tmp_path / "machine", named["ID"])
    said = machine.run("\n".join(f"({command})" for command in commands[1:]))
    assert said == (0, "")
    assert packages in machine.calls
    assert machine.calls.splitlines()[-1] == "systemctl enable --now docker"
    repositories = {line for line in machine.sources.get("docker-ce.repo", "").splitlines() if "baseurl" in line}
    expected = f"baseurl=https://download.docker.com/linux/{folder}/$releasever/$basearch/stable"
    assert repositories == ({expected} if folder else set())


# --- daemon.json ---

LIMITS = {"log-driver": "json-file", "log-opts": {"max-size": "50m", "max-file": "3"}}
POOL = {"base": "10.201.0.0/16", "size": 24}


@pytest.mark.parametrize(
    ("current", "changed", "wanted"),
    [
        ({}, {}, LIMITS),
        ({"data-root": "/srv/docker", "ipv6": True}, {}, {"data-root": "/srv/docker", "ipv6": True, **LIMITS}),
        ({"log-driver": "journald"}, {}, {"log-driver": "journald"}),
        ({"log-driver": "syslog", "log-opts": {"tag": "x"}}, {}, {"log-driver": "syslog", "log-opts": {"tag": "x"}}),
        ({"log-driver": "local"}, {}, {"log-driver": "local", "log-opts": {"max-size": "50m", "max-file": "3"}}),
        (
            {"log-opts": {"labels": "a", "max-size": "1g"}},
            {"docker_log_max_size": "5m", "docker_log_max_file": 9},
            {"log-driver": "json-file", "log-opts": {"labels": "a", "max-size": "5m", "max-file": "9"}},
        ),
        (
            {"registry-mirrors": ["https://a"]},
            {"docker_registry_mirrors": ["https://b", "https://a"]},
            {"registry-mirrors": ["https://a", "https://b"], **LIMITS},
        ),
        ({}, {"docker_insecure_registries": ["r:5000"]}, {"insecure-registries": ["r:5000"], **LIMITS}),
        ({}, {"docker_address_pools": [POOL]}, {"default-address-pools": [POOL], **LIMITS}),
        (
            {"default-address-pools": [POOL]},
            {"docker_address_pools": [POOL]},
            {"default-address-pools": [POOL], **LIMITS},
        ),
    ],
)
def test_daemon_json_is_merged(current: dict[str, Any], changed: dict[str, Any], wanted: dict[str, Any]) -> None:
    before = repr(current)
    assert docker.daemon_config(current, wish(**changed)) == wanted
    assert repr(current) == before


urls = st.lists(st.sampled_from(["https://a", "https://b", "https://c"]), max_size=4)
daemons = st.fixed_dictionaries(
    {},
    optional={
        "log-driver": st.sampled_from(["json-file", "local", "journald", "none"]),
        "log-opts": st.dictionaries(st.sampled_from(["max-size", "max-file", "tag"]), st.text("19m", min_size=1)),
        "registry-mirrors": urls,
        "insecure-registries": urls,
        "data-root": st.just("/srv/docker"),
        "features": st.dictionaries(st.text(max_size=3), st.booleans(), max_size=2),
    },
)


@given(daemons, urls, urls)
def test_daemon_json_is_settled_after_one_merge(
    current: dict[str, Any], mirrors: list[str], insecure: list[str]
) -> None:
    knobs = wish(docker_registry_mirrors=mirrors, docker_insecure_registries=insecure)
    once = docker.daemon_config(current, knobs)
    assert docker.daemon_config(once, knobs) == once
    for key in ("data-root", "features"):
        assert once.get(key) == current.get(key)
    assert set(once.get("registry-mirrors", [])) == {*current.get("registry-mirrors", []), *mirrors}


# --- The proxy ---


@pytest.mark.parametrize(
    ("proxy", "lines"),
    [
        ({}, ""),
        ({"http": "http://p:3128"}, '[Service]\nEnvironment="HTTP_PROXY=http://p:3128"\n'),
        (
            {"no_proxy": "localhost,.lan", "https": "http://p", "http": "http://p"},
            "[Service]\n"
            'Environment="HTTP_PROXY=http://p"\nEnvironment="HTTPS_PROXY=http://p"\nEnvironment="NO_PROXY=localhost,.lan"\n',
        ),
        ({"http": "http://me:p%40ss@p"}, '[Service]\nEnvironment="HTTP_PROXY=http://me:p%%40ss@p"\n'),
    ],
)
def test_dockerd_gets_its_proxy(proxy: dict[str, str], lines: str) -> None:
    assert docker.proxy_drop_in(wish(docker_proxy=proxy)) == lines
