"""Removing a deployment: just its own containers and networks, and its data only when that is meant."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra.api import DeployError

from stack import settings
from tasks import firewall, stack, tls
from tasks.commands import script
from tests.unit.wanted import compose_of, knobs, run_sh, stack_of

# --- The scripts, with a docker that notes what it is called with ---

DOCKER = r"""
echo "$*" >> $called
case $* in
    "ps --quiet"*) echo running1 ;;
    "ps --all"*) echo running1; echo stopped1 ;;
    "network ls"*) echo net1; echo net2 ;;
esac
"""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "docker").write_text(f"#!/bin/sh\ncalled={tmp_path}/called\n{DOCKER}")
    (folder / "docker").chmod(0o755)
    return folder


def calls(programs: Path) -> list[str]:
    return (programs.parent / "called").read_text().splitlines()


@pytest.mark.parametrize(("volumes", "words"), [("", "rm --force"), ("--volumes", "rm --force --volumes")])
def test_only_what_has_the_projects_label_is_stopped_and_removed(programs: Path, volumes: str, words: str) -> None:
    done = run_sh(script(stack.REMOVE, project="dify", volumes=volumes), path=programs)
    assert (done.stdout, done.stderr) == ("", "")
    asked = [call for call in calls(programs) if call.startswith(("ps", "network ls"))]
    assert len(asked) == 3
    assert all(call.endswith("--quiet --filter label=com.docker.compose.project=dify") for call in asked)
    assert [call for call in calls(programs) if call not in asked] == [
        "stop --time 30 running1",
        f"{words} running1 stopped1",
        "network rm net1 net2",
    ]


def test_what_is_there_is_counted(programs: Path, tmp_path: Path) -> None:
    look = script(stack.LOOK, root=str(tmp_path), project="dify")
    found = stack.Deployment().process(run_sh(look, path=programs).stdout.splitlines())
    assert found == stack.Remains(containers=2, networks=2, folder=True)


def test_nothing_is_there_on_a_bare_host(tmp_path: Path) -> None:
    look = script(f"PATH={tmp_path}\n{stack.LOOK}", root=str(tmp_path / "none"), project="dify")
    assert stack.Deployment().process(run_sh(look).stdout.splitlines()) == stack.Remains()


# --- Deleting ---


def delete(folder: Path, project: str) -> str:
    """Run the script; returns what it said when it refused."""
    done = run_sh(script(stack.DELETE, root=str(folder), project=project), check=False)
    assert bool(done.returncode) is bool(done.stderr), done
    return done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A deployment's folder with the Compose file that is written today."""
    made = tmp_path / "dify"
    (made / "volumes").mkdir(parents=True)
    (made / "docker-compose.yaml").write_bytes(stack_of(project="of-a-test").files["docker-compose.yaml"].data)
    return made


def test_the_folder_of_the_project_goes(folder: Path) -> None:
    assert delete(folder, "of-a-test") == ""
    assert not folder.exists()
    assert folder.parent.exists()


@pytest.mark.parametrize("line", ["name: dify-two", 'name: "dify-two"'])
def test_a_compose_file_of_any_release_of_ours_names_its_project(folder: Path, line: str) -> None:
    (folder / "docker-compose.yaml").write_text(f"# of Dify\n{line}\n")
    assert "no file was deleted" in delete(folder, "dify")
    assert "no file was deleted" in delete(folder, "two")
    assert folder.exists()
    assert delete(folder, "dify-two") == ""


def test_a_folder_that_is_no_deployment_stays(folder: Path) -> None:
    (folder / "docker-compose.yaml").unlink()
    assert delete(folder, "of-a-test").endswith("is not that of project of-a-test: no file was deleted\n")
    assert folder.exists()


@pytest.mark.parametrize("project", ["2024", "null", "true", "1e3", "0x1f"])
def test_a_project_is_a_name_whatever_yaml_would_take_it_for(project: str) -> None:
    assert compose_of(stack_of(project=project))["name"] == project


# --- What was typed ---


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the step is asked for, with a host's knobs but no host."""
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(stack, "knobs_of", lambda _: settings.read_knobs(knobs(project="2024", root="/opt/two")))
    monkeypatch.setattr(firewall, "gone", lambda **_: None)
    monkeypatch.setattr(tls, "unscheduled", lambda **_: None)
    monkeypatch.setattr(stack, "removed", lambda **arguments: found.append(arguments))
    return found


def test_data_is_kept_unless_the_projects_name_is_typed(asked: list[dict[str, Any]]) -> None:
    stack.remove()
    stack.remove(data="delete", confirm="2024")
    stack.remove(data="delete", confirm=2024)  # type: ignore[arg-type]
    wanted = {"name": "Deployment is gone", "root": "/opt/two", "project": "2024"}
    assert asked == [{**wanted, "delete": False}, {**wanted, "delete": True}, {**wanted, "delete": True}]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (
            {"data": "delete"},
            "data=delete deletes /opt/two with all data and secrets of project 2024: type confirm=2024",
        ),
        ({"data": "delete", "confirm": "202"}, "type confirm=2024"),
        ({"data": "delete", "confirm": "20245"}, "type confirm=2024"),
        ({"data": "all"}, "data=all: allowed are keep and delete"),
        ({"data": "Delete", "confirm": "2024"}, "data=Delete: allowed are keep and delete"),
        ({"data": "keep", "confirm": "2024"}, "confirm=2024: only data=delete asks for it; nothing was removed"),
    ],
)
def test_what_is_typed_wrong_removes_nothing(asked: list[dict[str, Any]], typed: dict[str, str], said: str) -> None:
    with pytest.raises(DeployError) as wrong:
        stack.remove(**typed)
    assert said in str(wrong.value)
    assert "\n" not in str(wrong.value)
    assert asked == []


# --- The step ---


@pytest.mark.parametrize(
    ("remains", "gone", "commands"),
    [
        (stack.Remains(), False, []),
        (stack.Remains(), True, []),
        (stack.Remains(folder=True), False, []),
        (stack.Remains(folder=True), True, [stack.DELETE]),
        (stack.Remains(12, 4, True), False, [stack.REMOVE]),
        (stack.Remains(12, 4, True), True, [stack.REMOVE, stack.DELETE]),
        (stack.Remains(0, 1, False), False, [stack.REMOVE]),
    ],
)
def test_just_what_is_there_is_removed(
    monkeypatch: pytest.MonkeyPatch, remains: stack.Remains, gone: bool, commands: list[str]
) -> None:
    noops: list[str] = []
    host = SimpleNamespace(get_fact=lambda *_, **__: remains, log=lambda _: None, noop=noops.append)
    monkeypatch.setattr(stack, "host", host)
    yielded = list(stack.removed._inner("/opt/dify", "dify", gone))
    assert [str(command).endswith(body.strip("\n")) for command, body in zip(yielded, commands, strict=True)] == [
        True
    ] * len(commands)
    assert bool(noops) is not bool(commands)
