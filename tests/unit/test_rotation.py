"""Changing a secret of a running deployment: what is refused and why, what is noted, what the scripts do in a real shell."""

from __future__ import annotations

import base64
import stat
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given as with_any
from hypothesis import settings as limits
from hypothesis import strategies as st

from stack import rotation
from stack.render import render
from stack.requirements import Machine
from stack.rotation import Rotation, planned
from stack.secrets import BOUND_TO_DATA, GENERATED, placeholder
from tasks import preflight, secrets
from tasks.commands import script
from tests.unit.test_facts import answered
from tests.unit.wanted import plain, refused, run_sh, settings_of

KEPT = {name: placeholder(name) for name in GENERATED}
NASTY = "p@ss:w/rd#$%'\" \\"


# --- What can be ---


@pytest.mark.parametrize("name", plain().settings.chosen.secrets)
def test_every_secret_of_a_plain_deployment_but_one_can_be_changed(name: str) -> None:
    change = planned(name, settings_of(), KEPT, force=name == "SECRET_KEY")
    assert (change.old, change.pending) == (KEPT[name], False)
    assert change.new not in ("", change.old)
    assert render(settings_of(kept=rotation.replaced(KEPT, change))).settings[name] == change.new


def test_two_changes_of_one_secret_never_give_the_same_value() -> None:
    assert len({planned("DB_PASSWORD", settings_of(), KEPT).new for _ in range(20)}) == 20


@pytest.mark.parametrize(
    ("name", "store", "other"),
    [
        ("SANDBOX_API_KEY", "weaviate", "CODE_EXECUTION_API_KEY"),
        ("WEAVIATE_API_KEY", "weaviate", "WEAVIATE_AUTHENTICATION_APIKEY_ALLOWED_KEYS"),
        ("CHROMA_AUTH_CREDENTIALS", "chroma", "CHROMA_SERVER_AUTHN_CREDENTIALS"),
        ("PGVECTOR_PASSWORD", "pgvector", "PGVECTOR_POSTGRES_PASSWORD"),
        ("REDIS_PASSWORD", "weaviate", "CELERY_BROKER_URL"),
    ],
)
def test_all_names_of_a_value_get_the_new_one(name: str, store: str, other: str) -> None:
    given = {"VECTOR_STORE": store}
    before = settings_of(given, KEPT).values
    change = planned(name, settings_of(given), before)
    after = settings_of(given, rotation.replaced(before, change)).values
    assert change.new in after[name]
    assert change.new in after[other]
    assert {key for key in after if after[key] != before.get(key)} == {name, other}


def test_the_operators_own_new_value_is_taken_under_either_name() -> None:
    for name, store in (("DB_PASSWORD", "weaviate"), ("PGVECTOR_POSTGRES_PASSWORD", "pgvector")):
        given = {name: NASTY, "VECTOR_STORE": store}
        ours = name.replace("_POSTGRES", "")
        kept = {**KEPT, name: KEPT[ours]}
        assert f"tasks.secrets.rotate name={name}" in refused(partial(settings_of, given, kept))[0]
        change = planned(ours, settings_of(given), kept)
        assert change.new == NASTY
        assert settings_of(given, rotation.replaced(kept, change))[ours] == NASTY


# --- What cannot ---


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("DB_PASWORD", "did you mean DB_PASSWORD?"),
        ("LOG_LEVEL", "no secret that is made for a deployment. There are CHROMA"),
        ("", "name= is missing"),
        ("CODE_EXECUTION_API_KEY", "has the same value as SANDBOX_API_KEY"),
        ("PGVECTOR_POSTGRES_PASSWORD", "has the same value as PGVECTOR_PASSWORD"),
    ],
)
def test_another_name_is_refused(name: str, said: str) -> None:
    (line,) = refused(lambda: rotation.refuse_unknown(name))
    assert said in line


CASES = [
    ("SECRET_KEY", {}, "stored credentials"),
    ("KIBANA_ENCRYPTION_KEY", {"VECTOR_STORE": "elasticsearch"}, "add force=yes"),
    ("QDRANT_API_KEY", {}, "nothing of this deployment uses it"),
    ("REDIS_PASSWORD", {"REDIS_HOST": "redis.example.com", "REDIS_PASSWORD": "x" * 12}, "runs elsewhere"),
    ("DB_PASSWORD", {"DB_HOST": "db.example.com", "DB_PASSWORD": "x" * 12}, "runs elsewhere"),
    ("DB_PASSWORD", {"DB_TYPE": "oceanbase"}, "ALTER USER root IDENTIFIED BY in its tenant"),
    ("DB_PASSWORD", {"DB_PASSWORD": KEPT["DB_PASSWORD"]}, "the host has the value that your settings give"),
    ("MILVUS_PASSWORD", {"VECTOR_STORE": "milvus"}, "update_password"),
    ("OPENSEARCH_PASSWORD", {"VECTOR_STORE": "opensearch"}, "securityadmin.sh"),
    ("MATRIXONE_PASSWORD", {"VECTOR_STORE": "matrixone"}, "ALTER USER"),
]


@pytest.mark.parametrize(("name", "given", "said"), CASES)
def test_what_has_no_safe_way_is_refused_with_the_reason(name: str, given: dict[str, str], said: str) -> None:
    (line,) = refused(lambda: planned(name, settings_of(given), KEPT))
    assert line.startswith(f"{name}: ")
    assert said in line


def test_every_password_that_data_was_made_with_has_a_way_or_a_reason() -> None:
    known = {*rotation.SERVERS, *rotation.BY_HAND, *rotation.ENCRYPTS, "DB_PASSWORD"}
    assert BOUND_TO_DATA.keys() & GENERATED.keys() <= known


def test_a_host_that_was_never_deployed_to_is_refused() -> None:
    assert refused(lambda: planned("DB_PASSWORD", settings_of(), {})) == [
        "DB_PASSWORD: this host has none yet; deploy first"
    ]


# --- What a run that died left ---


def test_it_goes_on_with_the_value_that_was_noted() -> None:
    begun = Rotation("DB_PASSWORD", "old", "new", pending=True)
    for kept in (KEPT | {"DB_PASSWORD": "old"}, KEPT | {"DB_PASSWORD": "new"}):
        assert planned("DB_PASSWORD", settings_of(), kept, begun) == begun


def test_another_change_waits_for_the_first() -> None:
    begun = Rotation("DB_PASSWORD", "old", "new", pending=True)
    (line,) = refused(lambda: planned("REDIS_PASSWORD", settings_of(), KEPT, begun))
    assert line.endswith("first run pyinfra inventory.py tasks.secrets.rotate name=DB_PASSWORD")
    (line,) = refused(lambda: planned("DB_PASSWORD", settings_of({"DB_PASSWORD": "third"}), KEPT, begun))
    assert "an earlier run began to change it to another value" in line


def test_a_deploy_is_refused_meanwhile(tmp_path: Path) -> None:
    (tmp_path / rotation.FILE).write_text(Rotation("DB_PASSWORD", "old", "new").text())
    found = answered(preflight.Found(), preflight.Found().command(root=str(tmp_path), project="dify"))
    assert isinstance(found, Machine)
    assert found.rotation == "DB_PASSWORD"
    (line,) = refused(lambda: rotation.refuse_unfinished(found.rotation, "/opt/dify"))
    assert line.startswith("/opt/dify/.rotation: the change of DB_PASSWORD was not finished")
    rotation.refuse_unfinished("", "/opt/dify")


@limits(max_examples=50)
@with_any(st.text(min_size=1), st.text(min_size=1))
def test_any_value_is_noted_and_read_back(old: str, new: str) -> None:
    change = Rotation("REDIS_PASSWORD", old, new)
    assert rotation.read(change.text()) == Rotation("REDIS_PASSWORD", old, new, pending=True)
    assert len(change.text().splitlines()) == 4


def test_half_a_note_is_no_note() -> None:
    text = Rotation("REDIS_PASSWORD", "old", "new").text()
    for length in range(len(text) - 1):
        assert "no whole file of ours" in refused(partial(rotation.read, text[:length]))[0]


# --- The scripts, in the shell that hosts run them in ---


class Host:
    """A deployment's folder, and stand-ins for docker and curl that answer as they are told."""

    def __init__(self, folder: Path) -> None:
        self.root, self.programs = folder / "dify", folder / "bin"
        self.root.mkdir()
        self.programs.mkdir()

    def program(self, name: str, body: str) -> None:
        """$seen is a file that a program may write down what it was given in."""
        path = self.programs / name
        path.write_text(f"#!/bin/sh\nseen={self.root}/seen\nprintf '%s\\n' \"$*\" >>$seen.arguments\n{body}\n")
        path.chmod(0o755)

    def run(self, body: str, *lines: str, end: str = "\n", **variables: str) -> str:
        """Run a script with these values on stdin; returns what it said when it failed."""
        stdin = "\n".join(rotation.encoded(line) for line in lines) + end
        done = run_sh(script(body, root=str(self.root), **variables), stdin, self.programs, check=False)
        assert bool(done.returncode) is bool(done.stderr), done
        return done.stderr


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.mark.parametrize("body", [secrets.NOTE, secrets.CHANGE, secrets.REMOVE, *secrets.TRY.values(), secrets.PROVE])
def test_a_script_is_valid_shell(body: str) -> None:
    assert run_sh("sh -n", script(body, name="it's a value")).stderr == ""


def test_what_a_script_is_told_never_takes_the_name_of_its_own_text() -> None:
    for trial in (*rotation.TRIALS.values(), rotation.Trial("pgvector", "postgresql")):
        assert script("true", **{name: str(value) for name, value in vars(trial).items()}).endswith("\ntrue")


def note(host: Host, text: str) -> str:
    body = script(secrets.NOTE, root=str(host.root), file=rotation.FILE, complete=rotation.COMPLETE)
    return run_sh(body, text, check=False).stderr


def test_the_new_value_is_noted_for_root_only(host: Host) -> None:
    text = Rotation("DB_PASSWORD", "old", NASTY).text()
    assert note(host, text) == ""
    assert [path.name for path in host.root.iterdir()] == [rotation.FILE]
    assert (host.root / rotation.FILE).read_text() == text
    assert stat.S_IMODE((host.root / rotation.FILE).stat().st_mode) == 0o600


def test_a_note_that_arrives_in_part_is_none(host: Host) -> None:
    text = Rotation("DB_PASSWORD", "old", NASTY).text()
    for length in range(0, len(text) - 1, 7):
        assert "did not arrive whole" in note(host, text[:length])
        assert list(host.root.iterdir()) == []


def test_the_note_of_another_run_is_not_replaced(host: Host) -> None:
    note(host, Rotation("DB_PASSWORD", "old", "first").text())
    assert "somebody else is at it too" in note(host, Rotation("DB_PASSWORD", "old", "second").text())
    assert rotation.read((host.root / rotation.FILE).read_text()).new == "first"


CHANGE = {"project": "dify", "service": "db_postgres", "client": "psql", "patience": "0"}
# A server with the password $has; it takes a statement from whoever has it.
SERVER = """case $1 in ps) echo 3f2a ;; exec) has=%s
  test "$MYSQL_PWD" = "$has" || { echo "ERROR 1045: Access denied" >&2; exit 1; }
  cat >$seen ;; esac"""


@pytest.mark.parametrize("has", ["'old value'", "'new value'"])
def test_a_server_is_asked_with_the_old_value_and_then_with_the_new(host: Host, has: str) -> None:
    host.program("docker", SERVER % has)
    sql = rotation.statement("mysql", "new value")
    assert host.run(secrets.CHANGE, "old value", "new value", sql, **CHANGE) == ""
    assert (host.root / "seen").read_text() == sql
    assert "value" not in (host.root / "seen.arguments").read_text()


def test_a_server_that_takes_neither_is_named(host: Host) -> None:
    host.program("docker", SERVER % "third")
    said = host.run(secrets.CHANGE, "old", "new", "sql", **{**CHANGE, "patience": "600"})
    assert "Access denied" in said
    assert "db_postgres does not take the new password" in said


def test_a_statement_that_arrives_in_part_is_not_run(host: Host) -> None:
    host.program("docker", "case $1 in ps) echo 3f2a ;; exec) cat >$seen ;; esac")
    run_sh(script(secrets.CHANGE, root=str(host.root), **CHANGE), "b2xk\nbmV3\nQUxURVI", host.programs, check=False)
    assert not (host.root / "seen").exists()


# What each server says to a right and to a wrong value, in $asked.
SAYS = {
    "postgresql": ("PGPASSWORD", "echo 1", 'echo "FATAL:  password authentication failed for user" >&2; exit 2'),
    "mysql": ("MYSQL_PWD", "echo 1", "echo \"ERROR 1045 (28000): Access denied for user 'root'\" >&2; exit 1"),
    "redis": ("REDISCLI_AUTH", "echo PONG", 'echo "AUTH failed: WRONGPASS"; echo "NOAUTH Authentication required."'),
}
TRIAL = {"project": "dify", "service": "server", "port": "1", "path": "/p", "header": "key: ", "data": ""}


def prove(host: Host, kind: str, takes: str, gone: bool = False) -> str:
    """What the proof says of a server that takes these values, as shell patterns."""
    inspect = "case $1 in ps) echo 3f2a; exit ;; inspect) echo 172.18.0.5; exit ;; esac\n"
    if kind == "http":
        host.program("docker", inspect)
        host.program(
            "curl",
            f'case "$(cat)" in {"nobody" if gone else takes}) printf 200 ;; *) printf {"000" if gone else "401"} ;; esac',
        )
    else:
        variable, yes, no = SAYS[kind]
        lost = "echo connection refused >&2; exit 2" if gone else no
        host.program(
            "docker", f'{inspect}case "${variable}" in {"nobody" if gone else takes}) {yes} ;; *) {lost} ;; esac'
        )
    return host.run(secrets.VALUES + secrets.TRY[kind] + secrets.PROVE, "old-one", "new-one", **TRIAL)


@pytest.mark.parametrize("kind", secrets.TRY)
def test_only_a_server_that_takes_the_new_and_refuses_the_old_is_proof(host: Host, kind: str) -> None:
    assert prove(host, kind, "*new-one*") == ""
    assert "still takes the old value" in prove(host, kind, "*")
    assert "does not take the new value" in prove(host, kind, "*old-one*")
    assert "does not take the new value" in prove(host, kind, "*", gone=True)
    assert "-one" not in (host.root / "seen.arguments").read_text()


def test_a_key_with_quotes_is_one_header(host: Host) -> None:
    host.program("docker", "echo 172.18.0.5")
    host.program("curl", "cat >$seen; printf 200")
    host.run(secrets.VALUES + secrets.TRY_HTTP + secrets.PROVE, "old", NASTY, **TRIAL)
    host.program("curl", "cat >>$seen; printf 401")
    host.run(secrets.VALUES + secrets.TRY_HTTP + secrets.PROVE, NASTY, NASTY, **TRIAL)
    assert (host.root / "seen").read_text().splitlines()[-1] == 'header = "key: p@ss:w/rd#$%\'\\" \\\\"'


# --- SQL ---


def test_a_password_cannot_end_its_statement() -> None:
    assert "PASSWORD 'p@ss:w/rd#$%''\" \\';" in rotation.statement("postgresql", NASTY)
    assert rotation.statement("mysql", NASTY).count("IDENTIFIED BY 'p@ss:w/rd#$%''\" \\\\'") == 2
    assert base64.b64decode(rotation.encoded(NASTY)).decode() == NASTY
