"""Kernel settings: what is read from the host, what is wanted, what is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pydantic import ByteSize

from stack.render import Needs
from tasks.commands import script
from tasks.kernel import LOOK, SET, Kernel, text, wanted
from tests.unit.wanted import plain, run_sh


def needing(**sysctl: int) -> Needs:
    return Needs(memory=ByteSize(0), sysctl={name.replace("__", "."): value for name, value in sysctl.items()})


def test_the_largest_of_what_the_services_need_is_wanted() -> None:
    stack = plain()
    services = dict(stack.services)
    services["api"] = replace(services["api"], needs=needing(vm__max_map_count=262144))
    services["web"] = replace(services["web"], needs=needing(vm__max_map_count=65530, fs__aio_max_nr=1048576))
    assert wanted(replace(stack, services=services)) == {"vm.max_map_count": 262144, "fs.aio_max_nr": 1048576}
    assert wanted(stack) == {}


def test_what_is_written_is_what_is_read_back(tmp_path: Path) -> None:
    file = tmp_path / "60-dify.conf"
    least = {"vm.swappiness": 1, "vm.max_map_count": 2}
    done = run_sh(script(SET, file=str(file), wanted=text(least)))
    assert done.stderr == ""
    look = run_sh(script(LOOK, "kernel.pid_max", "no.such.setting", file=str(file)))
    now, kept = Kernel().process(look.stdout.splitlines())
    assert kept == text(least) == file.read_text() == "vm.max_map_count = 2\nvm.swappiness = 1\n"
    assert now["kernel.pid_max"] == int(Path("/proc/sys/kernel/pid_max").read_text())
    assert "no.such.setting" not in now


def test_a_kernel_that_may_not_be_changed_is_said(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "sysctl").write_text("#!/bin/sh\nexit 1\n")
    (programs / "sysctl").chmod(0o755)
    file = tmp_path / "60-dify.conf"
    done = run_sh(script(SET, "vm.max_map_count=262144", file=str(file), wanted="x\n"), path=programs, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("vm.max_map_count=262144 cannot be set: this host may not change its kernel")
    assert file.read_text() == "x\n"
