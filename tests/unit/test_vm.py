"""The lab's virtual machines, as far as they can be judged without one."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import pytest

from lab import engine, hosts, vm
from lab.__main__ import main, parser
from lab.home import LabError
from tests.unit.test_lab import _host


def test_machines_are_asked_for() -> None:
    assert not parser().parse_args(["up"]).vm
    assert parser().parse_args(["up", "--vm", "--hosts", "2"]).vm


@pytest.mark.parametrize("name", ["", "a b", "1", "x;quit", "-x"])
def test_a_snapshots_name_is_a_word(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["snapshot", "dify-1", name])
    assert ended.value.code == 2
    assert "snapshot" in capsys.readouterr().err


def test_a_host_of_the_other_kind_is_refused() -> None:
    hosts.demand(_host(accelerator="tcg"), "trixie", "lab", virtual=True)
    with pytest.raises(LabError, match="dify-1 is there already, with --system debian13 --images lab: first"):
        hosts.demand(_host(), "trixie", "lab", virtual=True)
    with pytest.raises(LabError, match="--images lab --vm: first python -m lab down"):
        hosts.demand(_host(accelerator="kvm"), "trixie", "lab")


def test_what_a_machine_cannot_do_is_said() -> None:
    assert "emulated" in (hosts.limits(_host(accelerator="tcg")) or "")
    assert hosts.limits(_host(accelerator="kvm")) is None


def test_a_container_has_no_snapshots() -> None:
    with pytest.raises(LabError, match="dify-1 is a container; virtual machines have snapshots"):
        vm.snapshot(_host(), "bare")


def test_the_console_tells_the_newest_host_key(monkeypatch: pytest.MonkeyPatch) -> None:
    console = "\x1b[0mbooting\r\nlab-host-key ssh-ed25519 AAAAold\r\n... lab-host-key ssh-ed25519 AAAAnew\r\nend"
    done = subprocess.CompletedProcess(["docker"], 0, console, "")
    monkeypatch.setattr(engine, "docker", lambda *_: done)
    assert vm.host_keys("dify-1") == ["ssh-ed25519 AAAAnew"]


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ('{"QMP": {}}\n{"event": "RESUME"}\n{"return": {}}\n{"return": "later"}\n', ""),
        ('{"return": "Error: Snapshot \'x\' does not exist"}\n', "Error: Snapshot 'x' does not exist"),
        ('{"error": {"class": "GenericError", "desc": "no such command"}}\n', "no such command"),
        ("", "the machine is off"),
    ],
)
def test_what_the_monitor_answers(answers: str, said: str) -> None:
    asked = io.StringIO()
    assert vm._call(asked, io.StringIO(answers), "human-monitor-command", {"command-line": "loadvm x"}) == said
    assert asked.getvalue().endswith('"arguments": {"command-line": "loadvm x"}}\n')


@pytest.mark.parametrize("works", [True, False])
def test_the_accelerator_is_tried_once(works: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def boots(suite: str) -> bool:
        tried.append(suite)
        return works

    monkeypatch.setattr(vm, "_ACCELERATOR", tmp_path / "accelerator")
    monkeypatch.setattr(vm, "_KVM", tmp_path)
    monkeypatch.setattr(vm, "_boots_with_kvm", boots)
    assert [vm.accelerator("trixie"), vm.accelerator("bookworm")] == ["kvm" if works else "tcg"] * 2
    assert tried == ["trixie"]


def test_without_the_device_nothing_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vm, "_ACCELERATOR", tmp_path / "accelerator")
    monkeypatch.setattr(vm, "_KVM", tmp_path / "none")
    assert vm.accelerator("trixie") == "tcg"


def test_another_processor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(LabError, match="x86-64 processor, this machine is aarch64: leave --vm out"):
        vm.prepare("trixie")
