"""Where settings come from: one order of all layers, with file and line of each value."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stack import settings
from stack.layers import Data, Source
from stack.settings import Settings
from tasks.inventory import read
from tests.unit.wanted import REPOSITORY, knobs

# Farthest first: (file, what it says, the value then).
ORDER = [
    ("group_data/all.py", '\nLOG_DATEFORMAT = "all"\n', "all"),
    ("group_data/dify.py", 'LOG_DATEFORMAT = "group"\n', "group"),
    (".env", "LOG_DATEFORMAT=env\n", "env"),
    ("env/dify.env", "LOG_DATEFORMAT=env of group\n", "env of group"),
    ("env/web1.env", "LOG_DATEFORMAT=env of host\n", "env of host"),
    ("inventory.py", 'dify = [("web1", {"LOG_DATEFORMAT": "host data"}), "web2"]\n', "host data"),
]
TYPED = "LOG_DATEFORMAT=typed"


def write(folder: Path, path: str, text: str) -> None:
    (folder / path).parent.mkdir(exist_ok=True)
    before = (REPOSITORY / path).read_text() if path == "group_data/all.py" else ""
    (folder / path).write_text(before + text)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    write(tmp_path, "group_data/all.py", "")
    write(tmp_path, "inventory.py", 'dify = ["web1", "web2"]\n')
    return tmp_path


def loaded(folder: Path, host: str = "web1", *typed: str) -> Settings:
    data, groups = read(folder / "inventory.py", typed)[host]
    return settings.load(host, data, groups, folder, {}, fresh=False)


@pytest.mark.parametrize("nearest", range(len(ORDER)))
def test_the_nearest_layer_wins(checkout: Path, nearest: int) -> None:
    for path, text, _ in ORDER[: nearest + 1]:
        write(checkout, path, text)
    assert loaded(checkout)["LOG_DATEFORMAT"] == ORDER[nearest][2]


def test_the_command_line_wins_over_all_of_them(checkout: Path) -> None:
    for path, text, _ in ORDER:
        write(checkout, path, text)
    wanted = loaded(checkout, "web1", TYPED)
    assert wanted["LOG_DATEFORMAT"] == "typed"
    assert [one.value for one in wanted.layers["LOG_DATEFORMAT"]] == [*(value for _, _, value in ORDER), "typed"]


def test_each_value_is_known_with_file_and_line(checkout: Path) -> None:
    for path, text, _ in ORDER:
        write(checkout, path, text)
    places = [one.where for one in loaded(checkout, "web1", TYPED).layers["LOG_DATEFORMAT"]]
    of_all = len((REPOSITORY / "group_data/all.py").read_text().splitlines()) + 2
    assert places == [
        f"group_data/all.py line {of_all}",
        "group_data/dify.py line 1",
        ".env line 1",
        "env/dify.env line 1",
        "env/web1.env line 1",
        "inventory.py line 1",
        "--data",
    ]


def test_what_is_said_of_one_host_is_not_said_of_another(checkout: Path) -> None:
    for path, text, _ in ORDER:
        write(checkout, path, text)
    assert loaded(checkout, "web2")["LOG_DATEFORMAT"] == "env of group"


def test_of_two_hosts_in_the_inventory_each_has_its_own_line(checkout: Path) -> None:
    write(
        checkout,
        "inventory.py",
        'dify = [\n    ("web1", {"DEPLOY_ENV": "A"}),\n    ("web2", {"DEPLOY_ENV": "B"}),\n]\n',
    )
    assert [loaded(checkout, host).layers["DEPLOY_ENV"][0].where for host in ("web1", "web2")] == [
        "inventory.py line 2",
        "inventory.py line 3",
    ]


def test_a_value_that_is_made_by_code_has_the_name_of_its_layer(checkout: Path) -> None:
    write(checkout, "inventory.py", 'dify = [(f"web{n}", dict(DEPLOY_ENV="A")) for n in (1, 2)]\n')
    assert loaded(checkout, "web2").layers["DEPLOY_ENV"][0].where == "host data of web2"


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("DEBUG = True", "true"),
        ("DEBUG = False", "false"),
        ("DB_PORT = 5432", "5432"),
        ("OTEL_SAMPLING_RATE = 0.5", "0.5"),
        ('DEPLOY_ENV = "a $HOME b"', "a $HOME b"),
    ],
)
def test_numbers_and_truth_in_python_are_written_as_text(checkout: Path, line: str, value: str) -> None:
    write(checkout, "group_data/dify.py", f"{line}\n")
    assert loaded(checkout)[line.split(" ")[0]] == value


@pytest.mark.parametrize(
    ("word", "value"), [("DEPLOY_ENV=1.10", "1.10"), ("DEPLOY_ENV=007", "007"), ("DEPLOY_ENV=a=b", "a=b")]
)
def test_what_is_typed_is_taken_as_it_was_typed(checkout: Path, word: str, value: str) -> None:
    assert loaded(checkout, "web1", word)["DEPLOY_ENV"] == value


def test_knobs_have_the_same_order(checkout: Path) -> None:
    write(checkout, "group_data/dify.py", 'root = "/group"\n')
    write(checkout, "inventory.py", 'dify = [("web1", {"root": "/host"}), "web2"]\n')
    assert (loaded(checkout).knobs.root, loaded(checkout, "web2").knobs.root) == ("/host", "/group")
    assert loaded(checkout, "web1", "root=/typed").knobs.root == "/typed"


def test_a_nearer_empty_value_takes_a_farther_one_back_and_says_so(checkout: Path) -> None:
    write(checkout, ".env", "LOG_LEVEL=DEBUG\n")
    write(checkout, "env/web1.env", "\nLOG_LEVEL=\n")
    wanted = loaded(checkout)
    assert wanted["LOG_LEVEL"] == "INFO"
    assert (
        "env/web1.env line 2: LOG_LEVEL is empty, as if it were not there: the release's INFO counts; "
        "give a value or take it out"
    ) in wanted.warnings


@pytest.mark.parametrize(
    ("line", "said"), [("S3_ENDPOINT=", False), ("CHECK_UPDATE_URL=", True), ("DB_PASSWORD=", True)]
)
def test_an_empty_value_is_said_where_the_release_has_one(checkout: Path, line: str, said: bool) -> None:
    write(checkout, ".env", f"{line}\n")
    assert any("is empty" in warning for warning in loaded(checkout).warnings) == said


def test_a_published_secret_is_not_in_what_is_said_of_an_empty_one(checkout: Path) -> None:
    write(checkout, ".env", "SECRET_KEY=\n")
    (said,) = (warning for warning in loaded(checkout).warnings if "is empty" in warning)
    assert said.startswith(
        ".env line 1: SECRET_KEY is empty, as if it were not there: the host's own or a new one counts"
    )


def test_a_name_that_a_file_has_twice_is_said(checkout: Path) -> None:
    write(checkout, ".env", "DEPLOY_ENV=A\n\nDEPLOY_ENV=B\n")
    wanted = loaded(checkout)
    assert wanted["DEPLOY_ENV"] == "B"
    assert ".env line 3: DEPLOY_ENV stands in line 1 too; this one counts" in wanted.warnings


def test_plain_data_is_one_layer_nearer_than_the_files(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DEPLOY_ENV=A\n")
    assert settings.load("web1", knobs(DEPLOY_ENV="B"), [], tmp_path, {}, fresh=False)["DEPLOY_ENV"] == "B"


def test_a_secret_is_not_in_what_python_shows_of_a_layer(tmp_path: Path) -> None:
    data = Data(knobs(), [Source("here", {"SMTP_PASSWORD": "QXZJKV0123"})])
    wanted = settings.load("web1", data, [], tmp_path, {}, fresh=False)
    assert wanted["SMTP_PASSWORD"] == "QXZJKV0123"
    assert "QXZJKV0123" not in repr(wanted.layers)


# --- Before a connection ---


@pytest.fixture
def door() -> Iterator[tuple[int, list[str]]]:
    """A port that counts who knocks and lets nobody in."""
    knocks: list[str] = []
    closing = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)

        def serve() -> None:
            while not closing.is_set():
                with contextlib.suppress(TimeoutError):
                    guest, _ = server.accept()
                    knocks.append("knock")
                    guest.close()

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1], knocks
        closing.set()
        thread.join()


@pytest.fixture
def operator(checkout: Path, door: tuple[int, list[str]]) -> Path:
    """A checkout whose only host is the door."""
    data = f'{{"ssh_hostname": "127.0.0.1", "ssh_port": {door[0]}}}'
    write(checkout, "inventory.py", f'dify = [("web1", {data})]\n')
    for path in ("config.py", "deploy.py"):
        (checkout / path).write_text((REPOSITORY / path).read_text())
    return checkout


def pyinfra(folder: Path, *words: str) -> tuple[int, str]:
    """Exit code and output of pyinfra as it is typed."""
    done = subprocess.run(
        [sys.executable, "-m", "pyinfra", "inventory.py", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("words", [["deploy.py", "-y"], ["deploy.py", "--dry"], ["tasks.gate.answers", "stack=", "-y"]])
def test_wrong_settings_end_a_run_before_a_host_is_contacted(
    operator: Path, door: tuple[int, list[str]], words: list[str]
) -> None:
    write(operator, ".env", "LOG_LEVLE=DEBUG\nDB_PORT=x\n")
    code, said = pyinfra(operator, *words)
    assert (code, door[1]) == (1, [])
    assert "nothing was changed, no host was contacted:" in said
    assert "    web1: .env line 1: LOG_LEVLE is no setting of this Dify release; did you mean LOG_LEVEL?\n" in said
    assert "    web1: .env line 2: DB_PORT=x: must be a port from 1 to 65535\n" in said
    assert "Traceback" not in said


def test_with_right_settings_the_host_is_contacted(operator: Path, door: tuple[int, list[str]]) -> None:
    write(operator, ".env", "LOG_LEVEL=DEBUG\n")
    code, said = pyinfra(operator, "deploy.py", "-y")
    assert (code, bool(door[1])) == (1, True)
    assert "no host was contacted" not in said


def test_other_commands_need_no_right_settings(operator: Path, door: tuple[int, list[str]]) -> None:
    write(operator, ".env", "LOG_LEVLE=DEBUG\n")
    _, said = pyinfra(operator, "exec", "--", "uptime")
    assert door[1]
    assert "LOG_LEVLE" not in said


def test_what_is_wrong_with_a_host_that_is_not_in_the_run_does_not_stop_it(
    operator: Path, door: tuple[int, list[str]]
) -> None:
    text = (operator / "inventory.py").read_text().replace("dify = [", 'dify = [("web2", {"LOG_LEVEL": "loud"}), ')
    write(operator, "inventory.py", text)
    assert "loud" in pyinfra(operator, "deploy.py", "-y")[1]
    assert door[1] == []
    for limit in (["--limit", "web1"], ["--limit", "web[13]"], ["--exclude", "web2"]):
        door[1].clear()
        assert "loud" not in pyinfra(operator, "deploy.py", "-y", *limit)[1]
        assert door[1]


def test_what_is_typed_is_checked_too(operator: Path, door: tuple[int, list[str]]) -> None:
    code, said = pyinfra(operator, "deploy.py", "-y", "--data", "LOG_LEVEL=loud")
    assert (code, door[1]) == (1, [])
    assert "web1: --data: LOG_LEVEL=loud: must be one of DEBUG" in said
