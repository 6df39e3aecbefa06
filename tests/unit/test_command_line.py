"""`python -m stack render`, as an operator types it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stack.__main__ import main
from tests.unit.wanted import REPOSITORY, plain


class Checkout:
    """An operator's folder with an inventory of one host that does not exist."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(REPOSITORY / "group_data", folder / "group_data", ignore=shutil.ignore_patterns("__pycache__"))
        self.write("inventory.py", 'dify = [("web1", {"ssh_hostname": "192.0.2.1"})]\n')

    def write(self, path: str, text: str) -> None:
        (self.folder / path).parent.mkdir(exist_ok=True)
        (self.folder / path).write_text(text)

    def tree(self, out: str = "out") -> dict[str, bytes]:
        files = (file for file in (self.folder / out).rglob("*") if file.is_file())
        return {str(file.relative_to(self.folder / out)): file.read_bytes() for file in files}


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    monkeypatch.chdir(tmp_path)
    return Checkout(tmp_path)


def run(checkout: Checkout, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "stack", "render", "--out", "out", *arguments],
        cwd=checkout.folder,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"},
    )


def rendered(*arguments: str) -> int:
    """The exit code of the command, run in this process; by its full path, for pyinfra reads a file of one name once."""
    return main(["render", "--out", "out", "--inventory", str(Path("inventory.py").absolute()), *arguments])


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that the command ends with, exit code 1 and nothing written."""
    assert rendered(*arguments) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert not Path("out").exists()
    (line,) = shown.err.splitlines()
    return line


# --- As processes of their own ---


def test_rendering_writes_what_a_host_would_get_and_the_same_each_time(checkout: Checkout) -> None:
    for _ in range(2):
        done = run(checkout)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "out/web1: 14 files, 12 services, 10 images\n"
        assert checkout.tree() == {f"web1/{path}": file.data for path, file in plain().files.items()}
    modes = {path: (checkout.folder / "out/web1" / path).stat().st_mode & 0o777 for path in plain().files}
    assert modes == {path: file.mode for path, file in plain().files.items()}


def test_an_unknown_host_is_one_line_and_exit_code_1(checkout: Checkout) -> None:
    done = run(checkout, "--host", "web2")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "--host web2: not in inventory.py; there are web1\n"


def test_a_template_error_is_one_line_and_exit_code_1(checkout: Checkout) -> None:
    for name in ("stack", "tasks", "templates"):
        shutil.copytree(REPOSITORY / name, checkout.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    checkout.write("templates/nginx/nginx.conf.j2", "\n{{ setting.NGINX_PROT }}\n")
    done = run(checkout)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("templates/nginx/nginx.conf.j2 line 2: ")
    assert len(done.stderr.splitlines()) == 1


# --- The command itself ---


def test_secrets_come_from_a_file_and_settings_from_every_layer(checkout: Checkout) -> None:
    checkout.write("host.env", "DB_PASSWORD=ofthishost\n")
    for name, value in ((".env", "1"), ("env/dify.env", "2"), ("env/web1.env", "3")):
        checkout.write(name, f"PM2_INSTANCES={value}\n")
    assert rendered("--host", "web1", "--secrets", "host.env") == 0
    env = checkout.tree()["web1/.env"].decode().splitlines()
    assert {"DB_PASSWORD=ofthishost", "PM2_INSTANCES=3", "SECRET_KEY=placeholder-of-secret-key"} <= set(env)


def test_a_file_of_settings_for_all_hosts_is_read_or_refused(checkout: Checkout) -> None:
    checkout.write("env/all.env", "PM2_INSTANCES=3\n")
    assert rendered() == 1 or b"PM2_INSTANCES=3" in checkout.tree()["web1/.env"]


def test_every_host_gets_a_folder_of_its_own(checkout: Checkout) -> None:
    checkout.write("inventory.py", 'dify = ["web1", ("web2", {"project": "two"})]\n')
    assert rendered() == 0
    assert b'name: "two"\n' in checkout.tree()["web2/docker-compose.yaml"]
    assert b'name: "dify"\n' in checkout.tree()["web1/docker-compose.yaml"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--host", "web2"], "inventory.py; there are web1"),
        (["--inventory", "nowhere.py"], "no inventory file nowhere.py"),
        (["--secrets", "nowhere.env"], "nowhere.env"),
    ],
)
@pytest.mark.usefixtures("checkout")
def test_what_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], line: str) -> None:
    assert line in refused(capsys, *arguments)


@pytest.mark.parametrize(
    ("path", "text", "line"),
    [
        (
            ".env",
            "LOG_LEVLE=DEBUG\n",
            ".env line 1: LOG_LEVLE is no setting of this Dify release; did you mean LOG_LEVEL?",
        ),
        (
            "env/wbe1.env",
            "LOG_LEVEL=DEBUG\n",
            "env/wbe1.env: the inventory has no group or host 'wbe1'; did you mean web1?",
        ),
        ("group_data/dify.py", 'dify_versoin = "1.11.4"\n', "unknown knob; did you mean dify_version?"),
        ("group_data/dify.py", "root =\n", "group_data/dify.py"),
        ("inventory.py", "dify = []\n", "the inventory names no host"),
    ],
)
def test_bad_input_is_one_line(
    checkout: Checkout, capsys: pytest.CaptureFixture[str], path: str, text: str, line: str
) -> None:
    checkout.write(path, text)
    assert line in refused(capsys)


@pytest.mark.parametrize("arguments", [["--help"], ["render", "--help"]])
def test_the_command_explains_itself(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 0
    assert "render" in capsys.readouterr().out
