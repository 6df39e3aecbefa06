"""Containers: what each of them is kept from, in every release and mode. The host: what its security updates are told."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ByteSize

from stack import hardening, release, sizes
from stack.hardening import PROCESSES, UNUSED
from stack.render import Needs, render
from tasks import hygiene
from tasks.commands import script
from tasks.hygiene import APT_FILE, DNF_DROP_IN, DNF_FILE, HygieneState, digest, wanted
from tests.unit.wanted import compose_of, resolved, run_sh, settings_of, stack_of

# What Docker gives a container that asks for nothing (moby, oci/caps/defaults.go): a service may keep some of it. SYS_NICE is
# more, and does no more than let openGauss bind its memory to processors.
DOCKERS = {
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "NET_RAW", "SETFCAP",
    "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
}  # fmt: skip
MORE = {"opengauss": {"SYS_NICE"}}
# The images in which programs become another user by their setuid bit, or may do so.
SETUID = {"iris", "oracle", "vastbase"}
NOT_ROOT = {"api", "worker", "worker_beat", "web", "ssrf_proxy", "matrixone_init"}
# Of these it is known what they need: their images are open, or ran.
NARROW = NOT_ROOT | {
    "certbot", "db_mysql", "db_postgres", "init_permissions", "nginx", "plugin_daemon", "redis", "sandbox",
}  # fmt: skip
# Each of them would let a container at its host.
HOSTS_OWN = (
    "privileged",
    "network_mode",
    "pid",
    "ipc",
    "uts",
    "userns_mode",
    "cgroup",
    "cgroup_parent",
    "devices",
    "volumes_from",
)
# Of the host, nothing but our own folders is mounted.
OUR_FOLDERS = ("./", "/var/cache/nginx")

everywhere = pytest.mark.parametrize(
    ("version", "mode"), [(version, mode) for version in release.versions() for mode in ("dify", "middleware")]
)


def catalogue(version: str, mode: str) -> dict[str, Any]:
    """Every service there is, chosen or not, with settings filled in."""
    found = resolved(stack_of(dify_version=version, mode=mode, expose={}))["services"]
    assert isinstance(found, dict)
    assert len(found) > 25
    return found


@everywhere
def test_nothing_is_let_at_its_host(version: str, mode: str) -> None:
    for name, block in catalogue(version, mode).items():
        assert [key for key in HOSTS_OWN if key in block] == [], name
        assert set(block.get("security_opt", [])) <= {"no-new-privileges:true"}, name
        sources = [volume.split(":")[0] for volume in block.get("volumes", [])]
        assert [source for source in sources if not source.startswith(OUR_FOLDERS)] == [], name
        assert [volume for volume in block.get("volumes", []) if "docker.sock" in volume or ".." in volume] == [], name


@everywhere
def test_every_container_is_kept_from_what_it_does_not_need(version: str, mode: str) -> None:
    for name, block in catalogue(version, mode).items():
        assert ("security_opt" not in block) == (name in SETUID), name
        most = block["deploy"]["resources"]["limits"]["pids"] if "deploy" in block else block["pids_limit"]
        assert 0 < most <= PROCESSES, name
        assert set(block.get("cap_add", [])) <= DOCKERS | MORE.get(name, set()), name
        assert block["cap_drop"] == (["ALL"] if name in NARROW else list(UNUSED)), name


@everywhere
def test_who_is_not_root_has_none_of_its_powers(version: str, mode: str) -> None:
    blocks = catalogue(version, mode)
    assert [name for name in NOT_ROOT & blocks.keys() if "cap_add" in blocks[name]] == []
    assert blocks["ssrf_proxy"]["user"] == "13:13"


@everywhere
def test_an_image_that_is_not_written_to_has_scratch_of_bounded_size(version: str, mode: str) -> None:
    blocks = catalogue(version, mode)
    sealed = {name for name, block in blocks.items() if block.get("read_only")}
    assert sealed == {"nginx", "ssrf_proxy", "redis", "init_permissions"} & blocks.keys()
    for name, block in blocks.items():
        assert name in sealed or "tmpfs" not in block
        assert [folder for folder in block.get("tmpfs", []) if not folder.endswith(":size=64m")] == [], name


@everywhere
def test_what_strangers_programs_leave_behind_finds_an_init(version: str, mode: str) -> None:
    assert {name for name, block in catalogue(version, mode).items() if block.get("init")} == {
        "iris",
        "plugin_daemon",
        "sandbox",
    }


@everywhere
def test_whom_strangers_reach_first_is_limited_without_a_size_too(version: str, mode: str) -> None:
    limited = {name: block["mem_limit"] for name, block in catalogue(version, mode).items() if "mem_limit" in block}
    assert limited == {name: f"{most}m" for name, most in sizes.UNSIZED.items() if mode == "dify" or name != "nginx"}


def needing(**more: Any) -> Needs:
    return Needs(memory=ByteSize(0), **more)


def test_what_is_said_in_a_template_is_all_that_is_kept() -> None:
    assert hardening.additions(needing(), {}) == {
        "security_opt": ["no-new-privileges:true"],
        "cap_drop": list(UNUSED),
        "pids_limit": PROCESSES,
    }
    assert hardening.additions(needing(setuid=True, capabilities=("KILL",), processes=7, scratch=("/tmp",)), {}) == {
        "cap_drop": ["ALL"],
        "cap_add": ["KILL"],
        "pids_limit": 7,
        "read_only": True,
        "tmpfs": ["/tmp:size=64m"],
    }
    assert "tmpfs" not in hardening.additions(needing(scratch=()), {})


def test_a_power_is_named_once_and_in_one_place() -> None:
    for name, block in compose_of(stack_of())["services"].items():
        added = block.get("cap_add", [])
        assert sorted(set(added)) == added, name
        assert not set(added) & set(block["cap_drop"]), name


def test_a_container_is_replaced_when_it_is_kept_from_more(monkeypatch: pytest.MonkeyPatch) -> None:
    before = render(settings_of()).services
    monkeypatch.setattr(hardening, "UNUSED", (*UNUSED, "KILL"))
    after = render(settings_of()).services
    assert before["weaviate"].digest != after["weaviate"].digest
    assert before["api"].digest == after["api"].digest


# --- The host ---

BARE = HygieneState(manager="apt", clock=True)


def test_a_bare_debian_gets_all_of_it() -> None:
    (text,) = wanted(BARE).values()
    assert '"origin=Debian,codename=${distro_codename}-security,label=Debian-Security"' in text
    assert '"docker"' in text
    assert 'Automatic-Reboot "false"' in text


def test_what_installing_switches_on_is_still_ours() -> None:
    after = replace(BARE, installed=True, theirs=True, ours=True, files=((APT_FILE, digest(wanted(BARE)[APT_FILE])),))
    assert wanted(after) == wanted(BARE)


def test_a_host_that_upgrades_itself_goes_on_in_its_own_way_but_leaves_docker_alone() -> None:
    theirs = replace(BARE, installed=True, timer=True, theirs=True)
    (text,) = wanted(theirs).values()
    assert "Package-Blacklist" in text
    assert "clear" not in text and "Periodic" not in text and "Origins" not in text
    assert wanted(replace(theirs, files=((APT_FILE, digest(text)),))) == wanted(theirs)


def test_dnf_is_told_by_files_of_our_own() -> None:
    bare = HygieneState(manager="dnf")
    assert set(wanted(bare)) == {DNF_FILE, DNF_DROP_IN}
    assert "upgrade_type = security" in wanted(bare)[DNF_FILE]
    assert f"dnf-automatic {DNF_FILE}" in wanted(bare)[DNF_DROP_IN]
    assert wanted(replace(bare, timer=True, theirs=True)) == {}
    assert wanted(replace(bare, timer=True, theirs=True, ours=True)) == wanted(bare)


def programs(folder: Path, **bodies: str) -> Path:
    """Programs of these names, with the few others that looking takes: nothing of this machine's own is found beside them."""
    folder.mkdir()
    for name, body in bodies.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    return folder


def looked(
    path: Path, at: Path, tools: Iterable[str] = ("mktemp", "cp", "rm", "sha256sum", "cut", "grep")
) -> HygieneState:
    """What the look says where only these programs are."""
    for tool in tools:
        (path / tool).symlink_to(str(shutil.which(tool)))
    files = {name: str(at / Path(file).name) for name, file in [("apt_file", APT_FILE), ("dnf_file", DNF_FILE)]}
    body = script(hygiene.LOOK, **files, dnf_drop_in=str(at / "drop-in"))
    done = run_sh(f"PATH={path}; {body}".replace("/etc/apt/apt.conf.d/.", f"{at}/."))
    assert done.stderr == ""
    return hygiene.Hygiene().process(done.stdout.splitlines())


def test_a_host_with_apt_is_looked_at(tmp_path: Path) -> None:
    at = tmp_path / "etc"
    at.mkdir()
    text = wanted(BARE)[APT_FILE]
    (at / Path(APT_FILE).name).write_text(text)
    told = 'test ! -e "${APT_CONFIG%/*}/60dify-security-updates" || exit 1; echo "on=\'1\'"'
    units = "case $3 in apt-daily.timer | apt-daily-upgrade.timer | chrony) exit 0 ;; esac; exit 1"
    path = programs(
        tmp_path / "bin", **{"apt-get": "", "apt-config": told, "unattended-upgrade": "", "systemctl": units}
    )
    found = looked(path, at)
    assert found == HygieneState(
        "apt", installed=True, timer=True, theirs=True, ours=True, clock=True,
        files=((str(at / Path(APT_FILE).name), digest(text)),),
    )  # fmt: skip


def test_a_host_with_dnf_is_looked_at(tmp_path: Path) -> None:
    at = tmp_path / "etc"
    at.mkdir()
    units = "case $3 in dnf-automatic-install.timer) exit 0 ;; esac; exit 1"
    path = programs(tmp_path / "bin", **{"dnf": "", "dnf-automatic": "", "systemctl": units})
    assert looked(path, at) == HygieneState("dnf", installed=True, timer=True, theirs=True)
    (path / "dnf").unlink()
    assert looked(path, at, tools=()) == HygieneState()


@pytest.mark.parametrize(
    "body", [hygiene.LOOK, hygiene.APT, hygiene.APT_CLOCK, hygiene.DNF, hygiene.DNF_CLOCK, hygiene.PUT]
)
def test_the_scripts_are_ones(body: str) -> None:
    assert run_sh(f"if false; then\n{body}\nfi").stderr == ""
