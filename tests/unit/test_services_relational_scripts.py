"""The scripts and health checks of the databases: run here, against stand-ins of their images' programs."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from xml.etree import ElementTree

import pytest

from stack.render import TEMPLATES
from tests.unit.image import Image
from tests.unit.test_services_relational import CHOICES, NASTY, block, chosen

PASSWORDS = [NASTY, "plain", "a'b", 'a"b', "a\\", "\\'\\\"", "$(id) `id` ${HOME}", "é ü", "-- #;"]
MOUNTED = ["db_mysql", "oceanbase", "seekdb", "pgvector", "iris", "oracle", "opengauss"]
SCRIPTS = [(folder, path.name.removesuffix(".j2")) for folder in MOUNTED for path in (TEMPLATES / folder).glob("*.j2")]
CHOSEN = {next(iter(services)): choice for choice, (_, services) in CHOICES.items()}


@pytest.mark.parametrize(("service", "name"), SCRIPTS)
def test_a_script_is_bash_and_rendering_leaves_it_as_it_is(service: str, name: str) -> None:
    text = chosen(CHOSEN[service]).files[f"{service}/{name}"].data.decode()
    assert text == (TEMPLATES / service / f"{name}.j2").read_text()
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def literal(text: str, quote: str) -> str:
    """What MySQL reads between two quotes; raises ValueError when the value ends too soon."""
    match = re.fullmatch(rf"{quote}((?:[^{quote}\\]|\\.)*){quote}", text, re.DOTALL)
    if not match:
        raise ValueError(text)
    return re.sub(r"\\(.)", r"\1", match[1], flags=re.DOTALL)


# --- MySQL ---


@pytest.mark.parametrize("password", PASSWORDS)
def test_mysql_is_made_with_any_password(tmp_path: Path, password: str) -> None:
    """As the image's script writes it: in SQL between single quotes, in an option file between double ones."""
    image = Image(tmp_path, "db_mysql")
    image.program("docker-entrypoint.sh", 'printf %s "$MYSQL_ROOT_PASSWORD" >"$NOTES/password"; echo "$@"')
    done = image.run("start.sh", MYSQL_ROOT_PASSWORD=password)
    assert done.stdout.split() == ["mysqld"]
    for quote in "'\"":
        assert literal(f"{quote}{image.notes('password')}{quote}", quote) == password


def test_mysql_passes_its_options_on(tmp_path: Path) -> None:
    image = Image(tmp_path, "db_mysql")
    image.program("docker-entrypoint.sh", 'printf "%s\\n" "$@"')
    script = str(image.scripts / "start.sh")
    done = subprocess.run(
        ["bash", script, "--a=1", "--b=x y"],
        env=image.environment({"MYSQL_ROOT_PASSWORD": "x"}),
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == ["mysqld", "--a=1", "--b=x y"]


@pytest.mark.parametrize(("right", "code"), [(True, 0), (False, 1)])
def test_mysql_is_well_when_root_can_log_in(tmp_path: Path, right: bool, code: int) -> None:
    image = Image(tmp_path, "db_mysql")
    image.program("mysql", 'test "$MYSQL_PWD" = "$EXPECTED" && echo "$@"')
    kind, check = block("mysql", "db_mysql")["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    env = image.environment({"MYSQL_ROOT_PASSWORD": NASTY, "EXPECTED": NASTY if right else "other"})
    done = subprocess.run(["sh", "-c", check], env=env, capture_output=True, text=True)
    assert done.returncode == code
    assert "p@ss" not in done.stdout


# --- pgvector ---


@pytest.mark.parametrize(
    ("given", "there", "works", "code", "said"),
    [
        ("false", False, False, 0, "postgres"),
        ("true", True, False, 0, "postgres -c shared_preload_libraries=pg_bigm"),
        ("true", False, True, 0, "postgres -c shared_preload_libraries=pg_bigm"),
        ("true", False, False, 1, ""),
    ],
)
def test_pg_bigm_is_built_when_it_is_wanted_and_missing(
    tmp_path: Path, given: str, there: bool, works: bool, code: int, said: str
) -> None:
    image = Image(tmp_path, "pgvector", {"/usr/share/postgresql/": f"{tmp_path}/"})
    if there:
        (tmp_path / "16/extension").mkdir(parents=True)
        (tmp_path / "16/extension/pg_bigm.control").touch()
    image.program("docker-entrypoint.sh", 'echo "$@"')
    image.program("apt-get", f'echo "$@" >>"$NOTES/apt"; {"true" if works else "false"}')
    image.program("curl", 'echo "$@" >>"$NOTES/curl"')
    image.program("tar", "cat >/dev/null")
    image.program("make", 'echo "$@" >>"$NOTES/make"')
    done = image.run("start.sh", PG_BIGM=given, PG_BIGM_VERSION="1.2-20240606", PG_MAJOR="16")
    assert (done.returncode, done.stdout.strip()) == (code, said)
    assert bool(image.notes("apt")) is (given == "true" and not there)
    assert ("v1.2-20240606.tar.gz" in image.notes("curl")) is works
    assert ("install" in image.notes("make")) is works
    if code:
        assert done.stderr.strip() == (
            "PGVECTOR_PG_BIGM=true: pg_bigm 1.2-20240606 cannot be built, see above; set it to false to start without"
        )


# --- openGauss ---

# What of the image's script ours uses, as far as it matters here.
ENTRYPOINT = r"""
set -Eeo pipefail
docker_setup_env() { export GS_USER=omm; }
docker_create_db_directories() { echo made >>"$NOTES/made"; }
docker_process_sql() { echo 'the one of the image was called' >&2; exit 9; }
_main() {
  docker_setup_env
  GS_DB= docker_process_sql --dbname postgres --set db="$GS_DB" --set passwd="$GS_PASSWORD" <<'END'
create database :"db";
END
  echo "runs $*"
}
"""


@pytest.mark.parametrize("password", PASSWORDS)
def test_opengauss_runs_its_sql_without_a_password_to_be_seen(tmp_path: Path, password: str) -> None:
    image = Image(tmp_path, "opengauss", {"/usr/local/bin/entrypoint.sh": f"{tmp_path}/entrypoint.sh"})
    (tmp_path / "entrypoint.sh").write_text(ENTRYPOINT)
    image.program("id", 'test -e "$NOTES/changed" && echo 70 || echo 0')
    image.program("gosu", 'touch "$NOTES/changed"; test "$1" = omm && shift && exec "$@"')
    image.program("gsql", 'echo "$@" >"$NOTES/arguments"; cat >"$NOTES/sql"')
    done = image.run("start.sh", GS_PASSWORD=password, GS_DB="dify", GS_PORT="6600")
    assert done.stdout.strip() == "runs gaussdb", done.stderr
    assert image.notes("made") == "made\n"
    assert image.notes("arguments").split() == [
        *("-v", "ON_ERROR_STOP=1"),
        *("--username", "omm"),
        *("--port", "6600"),
        *("--dbname", "postgres"),
    ]
    assert password not in image.notes("arguments") + done.stdout + done.stderr
    database, secret, statement = image.notes("sql").splitlines()
    assert (database, statement) == ("\\set db 'dify'", 'create database :"db";')
    # gsql reads a quote from two, and a backslash as in C.
    spelled = re.fullmatch(r"\\set passwd '((?:[^'\\]|''|\\\\)*)'", secret)
    assert spelled
    assert spelled[1].replace("''", "'").replace("\\\\", "\\") == password


# --- Oracle ---


@pytest.mark.parametrize("password", [NASTY.replace('"', ""), "plain", "a'b", "a\\", "$(id) `id` &x", "é"])
def test_oracle_gets_its_values_in_hexadecimal(tmp_path: Path, password: str) -> None:
    image = Image(tmp_path, "oracle")
    image.program("sqlplus", 'echo "$@" >"$NOTES/arguments"; cat >"$NOTES/sql"')
    done = image.run("dify.sh", SYSTEM_PASSWORD="sys", DIFY_USER="dify", DIFY_PASSWORD=password)
    assert done.returncode == 0
    assert image.ready
    assert image.notes("arguments").split() == ["-S", "-L", "/", "as", "sysdba"]
    values = [bytes.fromhex(digits).decode() for digits in re.findall(r"hextoraw\('([0-9a-f]*)'\)", image.notes("sql"))]
    assert sorted(values) == sorted(["sys", "sys", "dify", password])
    assert "plain" not in image.notes("sql")


def test_an_oracle_that_could_not_be_set_up_says_so_and_is_not_ready(tmp_path: Path) -> None:
    image = Image(tmp_path, "oracle")
    (tmp_path / "ready").touch()
    image.program("sqlplus", "exit 1")
    done = image.run("dify.sh", SYSTEM_PASSWORD="s", DIFY_USER="dify", DIFY_PASSWORD="p")
    assert not image.ready
    assert "Dify's user could not be set up" in done.stderr


def test_oracles_script_leaves_the_shell_that_reads_it_alone(tmp_path: Path) -> None:
    image = Image(tmp_path, "oracle")
    image.program("sqlplus", "exit 1")
    env = image.environment({"SYSTEM_PASSWORD": "s", "DIFY_USER": "d", "DIFY_PASSWORD": "p"})
    script = f". {image.scripts}/dify.sh; type hex >/dev/null 2>&1 && echo left behind; echo goes on"
    assert subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True).stdout == "goes on\n"


# --- IRIS ---


def test_iris_starts_and_then_sets_its_passwords(tmp_path: Path) -> None:
    image = Image(tmp_path, "iris", {"/iris-main": f"{tmp_path}/bin/iris-main", "/opt/dify": f"{tmp_path}/opt"})
    image.program("iris-main", 'test "$1" = --after && sh -c "$2"')
    image.program("iris", 'echo "$@" >"$NOTES/arguments"; cat >"$NOTES/session"')
    assert image.run("start.sh", IRIS_PASSWORD=NASTY).returncode == 0
    assert image.ready
    assert image.notes("arguments").split() == ["session", "IRIS", "-U", "%SYS"]
    lines = image.notes("session").splitlines()
    assert lines[-1] == "halt"
    assert lines[1].count("{") == lines[1].count("}")
    assert '"_SYSTEM"' in lines[1]
    assert "p@ss" not in image.notes("session")


def test_an_iris_whose_passwords_could_not_be_set_is_not_ready(tmp_path: Path) -> None:
    image = Image(tmp_path, "iris")
    image.program("iris", "exit 1")
    assert image.run("passwords.sh", IRIS_PASSWORD="x").returncode == 1
    assert not image.ready


# --- MyScale ---


def test_myscales_users_are_xml_and_hold_no_password() -> None:
    user = ElementTree.fromstring(chosen("myscale").files["myscale/dify.xml"].data).find("users/default")
    assert user is not None
    password, networks = user.find("password"), user.find("networks")
    assert password is not None and networks is not None
    assert password.attrib == {"replace": "replace", "from_env": "MYSCALE_PASSWORD"}
    assert password.text is None
    assert networks.attrib == {"replace": "replace"}
    assert "0.0.0.0/0" not in [ip.text for ip in networks]
    assert "172.16.0.0/12" in [ip.text for ip in networks]
    assert "MYSCALE_PASSWORD" in block("myscale", "myscale")["environment"]


@contextmanager
def database(password: str) -> Iterator[int]:
    """A stand-in for MyScale's HTTP port: a query from the right user is answered."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            key = (self.headers["X-ClickHouse-Key"] or "").encode("latin-1").decode()
            right = (self.path, self.headers["X-ClickHouse-User"], key) == ("/?query=SELECT%201", "default", password)
            self.send_response(200 if right else 403)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()


@pytest.mark.parametrize(("password", "given", "code"), [*((p, p, 0) for p in PASSWORDS), ("right", "wrong", 1)])
def test_myscale_is_well_when_dify_can_ask_it(password: str, given: str, code: int) -> None:
    _, bash, option, check = block("myscale", "myscale")["healthcheck"]["test"]
    with database(password) as port:
        done = subprocess.run(
            [bash, option, check.replace("8123", str(port))], env={**os.environ, "MYSCALE_PASSWORD": given}
        )
    assert done.returncode == code


# --- MatrixOne ---

# A stand-in for the client: it knows two users, whose passwords are in a file, and asks as PyMySQL does.
PYMYSQL = r"""
import json, os, pathlib
STATE = pathlib.Path(os.environ["STATE"])
class MySQLError(Exception): pass
class Connection:
    def __init__(self, user): self.user = user
    def __enter__(self): return self
    def __exit__(self, *_): pass
    def cursor(self): return self
    def close(self): pass
    def execute(self, sql, values):
        assert sql == f"ALTER USER {self.user} IDENTIFIED BY %s", sql
        STATE.write_text(json.dumps({**json.loads(STATE.read_text()), self.user: values[0]}))
def connect(host, port, user, password, **_):
    if not STATE.exists(): raise MySQLError(2003, "not there")
    if json.loads(STATE.read_text())[user] != password: raise MySQLError(1045, "Access denied")
    return Connection(user)
"""
MADE = {"root": "111", "dump": "111"}


def set_passwords(folder: Path, state: dict[str, str] | None, seconds: str = "5") -> subprocess.CompletedProcess[str]:
    (folder / "pymysql.py").write_text(PYMYSQL)
    (folder / "passwords.py").write_bytes(chosen("matrixone").files["matrixone/passwords.py"].data)
    if state is not None:
        (folder / "state").write_text(json.dumps(state))
    env = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "STATE": str(folder / "state"),
        "READY": str(folder / "ready"),
        "SECONDS_TO_WAIT": seconds,
        "MATRIXONE_PASSWORD": NASTY,
    }
    python = block("matrixone", "matrixone_init")["entrypoint"][0]
    return subprocess.run([f"{python}3", str(folder / "passwords.py")], env=env, capture_output=True, text=True)


@pytest.mark.parametrize(
    "state", [MADE, {"root": NASTY, "dump": "111"}, {"root": NASTY, "dump": NASTY}], ids=["new", "half done", "done"]
)
def test_matrixones_users_get_their_password(tmp_path: Path, state: dict[str, str]) -> None:
    done = set_passwords(tmp_path, state)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "state").read_text()) == {"root": NASTY, "dump": NASTY}
    assert (tmp_path / "ready").exists()


def test_matrixone_is_waited_for(tmp_path: Path) -> None:
    def appears() -> None:
        time.sleep(0.5)
        (tmp_path / "new").write_text(json.dumps(MADE))
        (tmp_path / "new").rename(tmp_path / "state")

    threading.Thread(target=appears).start()
    assert set_passwords(tmp_path, None).returncode == 0


@pytest.mark.parametrize("state", [None, {"root": "unknown", "dump": "unknown"}], ids=["not there", "other password"])
def test_a_matrixone_that_stays_as_it_is_is_said_and_not_ready(tmp_path: Path, state: dict[str, str] | None) -> None:
    (tmp_path / "ready").touch()
    done = set_passwords(tmp_path, state, seconds="0.2")
    assert done.returncode == 1
    assert done.stderr.startswith("MATRIXONE_PASSWORD could not be set: ")
    assert "p@ss" not in done.stderr
    assert not (tmp_path / "ready").exists()


@pytest.mark.parametrize(("ready", "greets", "code"), [(True, True, 0), (False, True, 1), (True, False, 1)])
def test_matrixone_is_well_when_it_is_secure_and_greets(tmp_path: Path, ready: bool, greets: bool, code: int) -> None:
    _, bash, option, check = block("matrixone", "matrixone")["healthcheck"]["test"]
    if ready:
        (tmp_path / "password-set").touch()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def greet() -> None:
            with suppress(OSError):  # closed before anybody came: who is not ready does not ask
                connection, _ = server.accept()
                if greets:
                    connection.sendall(b"\x4a\x00\x00\x00\x0a")
                connection.close()

        threading.Thread(target=greet, daemon=True).start()
        text = check.replace("6001", str(port)).replace("/ready/", f"{tmp_path}/")
        assert subprocess.run([bash, option, text]).returncode == code
