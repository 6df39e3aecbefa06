"""The first account: whom it can be for, what Dify is told in which order, and who gets to see its password."""

from __future__ import annotations

import json
import stat
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stack import accounts
from tasks import admin
from tasks.commands import ALONE, script
from tests.unit.wanted import refused, run_sh, settings_of, stack_of

ADMIN = {"email": "admin@example.com", "name": "The \"first\" one, 50% 'new' \\"}

# --- The knob ---


@pytest.mark.parametrize("empty", [{}, None])
def test_empty_means_none(empty: object) -> None:
    assert settings_of(admin=empty).knobs.admin is None


@pytest.mark.parametrize("email", ["admin@example.com", "first.last+dify@mail.example.com", "o'hara@ex-ample.org"])
def test_an_address_that_dify_takes(email: str) -> None:
    found = settings_of(admin={"email": email, "name": "x" * 30}).knobs.admin
    assert found == accounts.Admin(email=email, name="x" * 30)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("admin@example.com", 'must be {"email": ..., "name": ...}, or {} for none'),
        (["admin@example.com"], 'must be {"email": ..., "name": ...}'),
        ({"email": "admin@example.com"}, "name is missing"),
        ({"name": "Admin"}, "email is missing"),
        ({**ADMIN, "name": " "}, "name is missing"),
        ({**ADMIN, "email": 5}, "email is missing or no text"),
        ({**ADMIN, "mail": "x"}, "unknown key 'mail'; did you mean email?"),
        ({**ADMIN, "password": "of-mine-1"}, "unknown key 'password'"),
        ({**ADMIN, "email": "admin"}, "email 'admin' is no address that Dify takes: it must be like admin@example.com"),
        ({**ADMIN, "email": "admin@example"}, "is no address"),
        ({**ADMIN, "email": "ad min@example.com"}, "is no address"),
        ({**ADMIN, "email": "admin@example.com\n"}, "is no address"),
        ({**ADMIN, "email": f"{'a' * 250}@example.com"}, "is no address"),
        ({**ADMIN, "name": "x" * 31}, "at most 30 characters"),
        ({**ADMIN, "name": "two\nlines"}, "at most 30 characters, on one line"),
    ],
)
def test_what_dify_would_refuse_is_refused_before_a_host_is_asked(wrong: object, said: str) -> None:
    (line,) = refused(lambda: settings_of(admin=wrong))
    assert line.startswith("admin")
    assert said in line
    assert "of-mine-1" not in line


def test_a_password_has_letters_and_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter("a" * 24 + "1" * 24 + "a" * 23 + "1")
    monkeypatch.setattr("secrets.choice", lambda _: next(drawn))
    assert accounts.make_password() == "a" * 23 + "1"
    monkeypatch.undo()
    made = {accounts.make_password() for _ in range(50)}
    assert len(made) == 50
    assert all(len(word) == 24 and word.isalnum() and word.isascii() for word in made)


# --- What Dify is told ---


class Dify(ThreadingHTTPServer):
    """A stand-in for the api's two calls: hands out a session in two cookies for https, and wants both of them back."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Calls)
        self.init_password, self.answer = "p@ss \"'\\$word%", 201
        self.accounts: list[dict[str, str]] = []


class Calls(BaseHTTPRequestHandler):
    server: Dify

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/console/api/init":
            right = body == {"password": self.server.init_password}
            self.reply(
                201 if right else 401, "success" if right else "init_validate_failed", *["a=1", "session=x.y"] * right
            )
        elif {*self.headers.get("Cookie", "").split(";")} != {"a=1", "session=x.y"}:
            self.reply(401, "not_init_validated")
        else:
            self.server.accounts.append(body)
            self.reply(self.server.answer, "said")

    def reply(self, status: int, code: str, *cookies: str) -> None:
        self.send_response(status)
        for cookie in cookies:
            self.send_header("Set-Cookie", f"{cookie}; Secure; HttpOnly; Path=/")
        self.end_headers()
        self.wfile.write(json.dumps({"code": code}).encode())

    def log_message(self, format: str, *words: Any) -> None:
        """Say nothing."""


@pytest.fixture
def dify() -> Iterator[Dify]:
    with Dify() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def talk(dify: Dify, init_password: str) -> subprocess.CompletedProcess[str]:
    init, account = accounts.bodies(accounts.Admin(**ADMIN), init_password, "Secret1")
    words = ["bash", "-c", admin.TALK, "talk", str(dify.server_address[1])]
    return subprocess.run(words, input=f"{init}\n{account}\n", capture_output=True, text=True, check=False)


def test_the_account_is_made_with_the_session_that_init_gave(dify: Dify) -> None:
    done = talk(dify, dify.init_password)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert dify.accounts == [{**ADMIN, "password": "Secret1"}]


def test_a_wrong_init_password_is_named(dify: Dify) -> None:
    done = talk(dify, "another")
    assert done.returncode == 1
    assert done.stderr == "Dify refuses the INIT_PASSWORD of .env\n"
    assert dify.accounts == []


def test_what_dify_says_against_the_account_is_shown(dify: Dify) -> None:
    dify.answer = 400
    done = talk(dify, dify.init_password)
    assert done.returncode == 1
    assert done.stderr == '{"code": "said"}\n400\n'


def test_no_answer_is_an_error(dify: Dify) -> None:
    words = ["bash", "-c", admin.TALK, "talk", "1"]
    done = subprocess.run(words, input="{}\n{}\n", capture_output=True, text=True, check=False)
    assert done.returncode
    assert "curl: (7)" in done.stderr


# --- On the host, with a docker that notes what it is called with ---

DOCKER = """
echo "$*" >> called
case $* in
    *"up "*) exit $(cat up) ;;
    "compose ps"*) echo 0123abcd ;;
    *"bash -c"*) ls -A > folder; cat > told; exit $(cat talk) ;;
    *curl*) cat step ;;
esac
"""
BODIES = '{"password": "of-init"}', '{"name": "x", "password": "Secret1"}'


class Root:
    """A deployment's folder."""

    def __init__(self, folder: Path) -> None:
        self.path, self.programs = folder / "dify", folder / "bin"
        self.path.mkdir()
        self.programs.mkdir()
        (self.programs / "docker").write_text(f"#!/bin/sh\n{DOCKER}")
        (self.programs / "docker").chmod(0o755)
        self.say(up="0", talk="0", step='{"step":"not_started"}')

    def say(self, **files: str) -> None:
        for name, text in files.items():
            (self.path / name).write_text(text)

    def read(self, name: str) -> str:
        file = self.path / name
        return file.read_text() if file.exists() else ""

    def make(self, stores: str = "db_postgres redis") -> subprocess.CompletedProcess[str]:
        body = script(admin.MAKE, root=str(self.path), port="5001", stores=stores, patience="180", talk=admin.TALK)
        return run_sh(body, "\n".join(["Secret1", *BODIES, ""]), self.programs, check=False)


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(tmp_path)


def test_stores_then_api_then_the_password_then_the_account(root: Root) -> None:
    done = root.make()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    calls = [line for line in root.read("called").splitlines() if line.startswith(("compose", "exec"))]
    assert [call.split()[-1] for call in calls[:3]] == ["redis", "api", "api"]
    assert "compose up --detach --wait --wait-timeout 180 --no-deps --pull never db_postgres redis" in calls
    assert root.read("told").splitlines() == list(BODIES)
    assert ".admin-password" in root.read("folder").splitlines()
    assert root.read(".admin-password") == "Secret1\n"
    assert stat.S_IMODE((root.path / ".admin-password").stat().st_mode) == 0o600
    assert not any(word in root.read("called") for word in ("Secret1", "of-init"))


def test_without_stores_of_our_own_only_api_is_started(root: Root) -> None:
    assert root.make(stores="").returncode == 0
    assert root.read("called").count("compose up") == 1


def test_an_account_that_somebody_made_meanwhile_is_left_alone(root: Root) -> None:
    root.say(step='{"step": "finished", "setup_at": "2025-01-01T00:00:00"}')
    assert root.make().returncode == 0
    assert (root.read("told"), root.read(".admin-password")) == ("", "")


def test_an_api_that_does_not_come_up_is_named(root: Root) -> None:
    root.say(up="1")
    done = root.make()
    assert done.returncode == 1
    assert done.stderr.endswith(
        "db_postgres redis: not healthy, so the first account was not made; the log stands above\n"
    )
    assert root.read(".admin-password") == ""


def test_an_api_that_is_not_there_although_compose_says_so_is_named(root: Root) -> None:
    """`up --wait` of Compose 2.26.1 ends with 0 when its time is over, too."""
    (root.path / "step").unlink()
    done = root.make()
    assert done.returncode == 1
    assert done.stderr.endswith("api does not answer, so the first account was not made; its log stands above\n")
    assert root.read(".admin-password") == ""


def test_a_refusal_of_difys_fails_the_step_and_the_password_stays_for_the_next_run(root: Root) -> None:
    root.say(talk="1")
    done = root.make()
    assert done.returncode == 1
    assert done.stderr == "the first account was not made; what Dify answered stands above\n"
    assert root.read(".admin-password") == "Secret1\n"


# --- What is looked at ---


@pytest.mark.parametrize(
    ("output", "found"),
    [
        ([], admin.Account()),
        (["password yes"], admin.Account(password=True)),
        (['setup {"step":"not_started"}'], admin.Account()),
        (['setup {"step": "finished", "setup_at": "x"}'], admin.Account(finished=True)),
        (["password yes", 'setup {"step":"finished"}'], admin.Account(True, True)),
        (['setup {"code":"unknown","message":"finished?"}'], admin.Account()),
    ],
)
def test_the_account_is_there_when_dify_says_so(output: list[str], found: admin.Account) -> None:
    assert admin.FirstAccount().process(output) == found


def test_a_host_without_docker_has_no_account(tmp_path: Path) -> None:
    look = script(admin.LOOK, root=str(tmp_path), project="dify", port="5001")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/docker").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "bin/docker").chmod(0o755)
    assert run_sh(look, path=tmp_path / "bin").stdout == ""
    (tmp_path / ".admin-password").write_text("Secret1\n")
    assert run_sh(look, path=tmp_path / "bin").stdout == "password yes\n"


# --- The step ---


class Step:
    """The step on a host that is not there: what it would run, say and print."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stack = stack_of(admin=ADMIN)
        self.looks: list[admin.Account] = []
        self.said: list[str] = []
        self.state = SimpleNamespace(is_executing=True)
        self.kept, self.terminal = "", False
        host = SimpleNamespace(name="web1", print_prefix="[web1] ", noop=self.said.append, log=self.said.append)
        host.get_fact = lambda *_, **__: self.looks.pop(0)
        monkeypatch.setattr(admin, "host", host)
        monkeypatch.setattr(admin, "state", self.state)
        monkeypatch.setattr(admin, "_finished", set())
        monkeypatch.setattr(admin, "private_look", lambda *_: self.kept)
        monkeypatch.setattr(admin, "_on_terminal", lambda: self.terminal)
        monkeypatch.setattr("click.echo", self.said.append)

    def run(self, *looks: admin.Account) -> list[Any]:
        self.looks = list(looks)
        return list(admin.made._inner(self.stack))


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch) -> Step:
    return Step(monkeypatch)


NONE, MADE, TOLD = admin.Account(), admin.Account(True, True), admin.Account(True, False)


def lines_of(command: Any) -> list[str]:
    return str(command.connector_arguments["_stdin"]).split("\n")


def test_the_password_comes_on_stdin_and_is_masked(step: Step) -> None:
    (make,) = step.run(NONE, MADE)
    password, init, account = lines_of(make)
    assert json.loads(account) == {**ADMIN, "password": password}
    assert json.loads(init) == {"password": step.stack.settings["INIT_PASSWORD"]}
    assert password in make.secrets
    assert not any(word in str(make) for word in (password, step.stack.settings["INIT_PASSWORD"]))


def test_what_an_earlier_run_left_at_work_is_waited_for(step: Step) -> None:
    """It may be making the account just now, with a password of its own."""
    (make,) = step.run(NONE, MADE)
    assert str(make).startswith("lock=/run/dify-deployment.lock\n")
    assert ALONE.strip() in str(make)


def test_the_password_of_a_run_that_died_is_used_again(step: Step) -> None:
    step.kept = "KeptFromBefore1\n"
    (make,) = step.run(NONE, MADE)
    assert lines_of(make)[0] == "KeptFromBefore1"


def test_without_a_terminal_it_is_said_where_the_password_lies(step: Step) -> None:
    step.kept = "KeptFromBefore1"
    step.run(NONE, MADE)
    assert step.said == [
        "the first account's password lies in /opt/dify/.admin-password on the host; read it there, then delete the file"
    ]


def test_on_a_terminal_it_is_shown_and_its_file_removed(step: Step) -> None:
    step.terminal, step.kept = True, "KeptFromBefore1\n"
    _, remove = step.run(NONE, MADE)
    assert str(remove) == 'file=/opt/dify/.admin-password\nrm -f "$file"'
    assert step.said == [
        "[web1] first account: admin@example.com, password KeptFromBefore1 (shown this once: keep it now)"
    ]


def test_a_run_that_died_before_it_showed_it_is_made_good(step: Step) -> None:
    step.terminal, step.kept = True, "KeptFromBefore1\n"
    assert len(step.run(MADE)) == 1
    assert "password KeptFromBefore1" in step.said[0]


def test_a_plan_shows_no_password(step: Step) -> None:
    step.terminal, step.kept, step.state.is_executing = True, "KeptFromBefore1\n", False
    assert len(step.run(MADE)) == 1
    assert step.said == []


@pytest.mark.parametrize("terminal", [False, True])
def test_an_account_that_is_there_is_left_alone(step: Step, terminal: bool) -> None:
    step.terminal = terminal
    assert step.run(TOLD) == []
    assert step.said == ["Dify has its first account"]


def test_an_api_that_the_migration_stopped_is_not_started_for_an_account_that_is_there(step: Step) -> None:
    assert step.run(TOLD) == []
    assert step.run(NONE) == []


@pytest.mark.parametrize("name", ["LOOK", "MAKE", "READ"])
def test_a_script_is_valid_shell(name: str) -> None:
    assert run_sh("sh -n", script(getattr(admin, name), name="it's a value")).stderr == ""
