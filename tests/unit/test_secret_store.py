"""Secrets that are kept outside the host too: what is kept, who wins, what is refused, and what a command may do wrong."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from shutil import which
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyinfra.api import State
from pyinfra.api.arguments import ConnectorArguments

from stack import dotenv, secret_store
from stack.errors import InvalidError
from stack.rotation import Rotation
from stack.secrets import GENERATED, make
from stack.settings import Settings
from tasks import secret_store as outside
from tasks.secret_store import AgeFile, Keep, Vault
from tests.unit.wanted import PUBLISHED, knobs, refused, settings_of

NASTY = "p@ss:w/rd#$%'\" \\"
PLACE = "secrets/web1.age"


def wish(given: Mapping[str, str] | None = None, kept: Mapping[str, str] | None = None, **changed: Any) -> Settings:
    return settings_of(given, kept, **{"secrets": "file", "age_identity": "key.txt", **changed})


def differing(entry: Mapping[str, str], found: Mapping[str, str], kept: Mapping[str, str] | None = None) -> list[str]:
    """The lines that are said of these two."""
    try:
        secret_store.refuse_differing(entry, found, found if kept is None else kept, wish(), PLACE)
    except InvalidError as wrong:
        return wrong.lines
    return []


# --- What is kept ---


def test_it_is_what_was_made_and_not_what_the_operator_gives() -> None:
    new = secret_store.wanted({}, wish({"DB_PASSWORD": "mine", "SMTP_PASSWORD": "mine"}))
    assert {"SECRET_KEY", "REDIS_PASSWORD", "SANDBOX_API_KEY", "WEAVIATE_API_KEY"} <= new.keys() <= GENERATED.keys()
    assert "DB_PASSWORD" not in new


def test_what_the_operator_gives_under_its_other_name_is_his_too() -> None:
    assert "SANDBOX_API_KEY" not in secret_store.wanted({}, wish({"CODE_EXECUTION_API_KEY": "mine"}))


def test_names_that_are_none_of_ours_stay() -> None:
    new = secret_store.wanted({"NOTE": "of the operator", "QDRANT_API_KEY": "of before", "SECRET_KEY": "old"}, wish())
    assert (new["NOTE"], new["QDRANT_API_KEY"]) == ("of the operator", "of before")
    assert new["SECRET_KEY"] != "old"


def test_what_the_operator_gives_from_now_on_goes() -> None:
    entry = secret_store.wanted({}, wish())
    assert entry.keys() - secret_store.wanted(entry, wish({"REDIS_PASSWORD": "mine"})).keys() == {"REDIS_PASSWORD"}


def test_while_one_changes_its_old_value_is_kept_beside_it() -> None:
    entry = secret_store.wanted({}, wish())
    change = Rotation("DB_PASSWORD", entry["DB_PASSWORD"], "new")
    during = secret_store.wanted(entry, wish(kept={**entry, "DB_PASSWORD": "new"}), change)
    assert during == {**entry, "DB_PASSWORD": "new", "OLD_DB_PASSWORD": entry["DB_PASSWORD"]}
    after = secret_store.wanted(during, wish(kept={**entry, "DB_PASSWORD": "new"}))
    assert after == {**entry, "DB_PASSWORD": "new"}


def test_what_becomes_of_which_name_is_said_without_values() -> None:
    said = list(secret_store.changes({"A": "1", "B": "2", "C": "3"}, {"A": "1", "B": "x", "E": "y", "D": "z"}))
    assert said == ["new: D, E", "another value: B", "taken out: C"]


# --- Who wins ---


def loaded(folder: Path, kept: Mapping[str, str], stored: Mapping[str, str], text: str = "") -> Settings:
    from stack import settings as module

    (folder / ".env").write_text(text)
    return module.load("web1", knobs(), [], folder, kept, stored=stored)


def test_a_host_that_has_none_gets_what_is_kept(tmp_path: Path) -> None:
    entry = {name: make(name) for name in ("SECRET_KEY", "DB_PASSWORD", "QDRANT_API_KEY")}
    wanted = loaded(tmp_path, {}, entry)
    assert {name: wanted.values[name] for name in entry} == entry
    assert wanted.values["REDIS_PASSWORD"]


def test_what_the_host_has_stays_and_what_the_operator_gives_wins(tmp_path: Path) -> None:
    entry = {"SECRET_KEY": "kept", "REDIS_PASSWORD": "kept", "DB_PASSWORD": "kept"}
    wanted = loaded(tmp_path, {"REDIS_PASSWORD": "hosts"}, entry, "DB_PASSWORD=given\n")
    assert [wanted.values[name] for name in entry] == ["kept", "hosts", "given"]


def test_a_host_that_is_made_again_is_a_new_one_otherwise(tmp_path: Path) -> None:
    assert loaded(tmp_path, {}, {"SECRET_KEY": "kept"}).values["WORKFLOW_LOG_CLEANUP_ENABLED"] == "true"
    assert "WORKFLOW_LOG_CLEANUP_ENABLED" not in loaded(tmp_path, {"SECRET_KEY": "kept"}, {}).values


def test_what_was_kept_of_a_service_that_runs_elsewhere_now_is_left_alone(tmp_path: Path) -> None:
    elsewhere = "REDIS_HOST=redis.lan\n"
    assert "REDIS_PASSWORD" not in loaded(tmp_path, {}, {"REDIS_PASSWORD": "kept"}, elsewhere).values


# --- Two that disagree ---


def test_values_that_differ_are_one_line_each_with_both_places_and_no_value() -> None:
    entry = {"REDIS_PASSWORD": "oneValue", "SECRET_KEY": "same", "QDRANT_API_KEY": "oneValue"}
    said = differing(entry, {"REDIS_PASSWORD": "another", "SECRET_KEY": "same", "QDRANT_API_KEY": "another"})
    assert said == [
        f"{name}: differs between /opt/dify/.env on the host and {PLACE}: to go on with the host's, take it out of "
        f"{PLACE}; to go back to the other, which the data must fit, take it out of /opt/dify/.env"
        for name in ("REDIS_PASSWORD", "QDRANT_API_KEY")
    ]


def test_what_only_one_of_them_has_does_not_differ() -> None:
    assert differing({"SECRET_KEY": "a"}, {"DB_PASSWORD": "b"}) == []


def test_what_the_operator_gives_does_not_differ() -> None:
    draft = wish({"REDIS_PASSWORD": "given"})
    secret_store.refuse_differing({"REDIS_PASSWORD": "a"}, {"REDIS_PASSWORD": "b"}, {}, draft, PLACE)


@pytest.mark.parametrize(("entry", "host"), [("old", "old"), ("new", "old"), ("new", "new")])
def test_during_a_change_both_may_have_the_old_or_the_new_value(entry: str, host: str) -> None:
    kept = {"REDIS_PASSWORD": "new"}
    assert differing({"REDIS_PASSWORD": entry}, {"REDIS_PASSWORD": host}, kept) == []
    assert differing({"REDIS_PASSWORD": "third"}, {"REDIS_PASSWORD": host}, kept)


def test_a_change_that_was_given_up_leaves_the_old_value() -> None:
    entry = {"REDIS_PASSWORD": "new", "OLD_REDIS_PASSWORD": "old"}
    assert differing(entry, {"REDIS_PASSWORD": "old"}) == []
    assert differing(entry, {"REDIS_PASSWORD": "third"})


def test_a_value_that_is_no_line_is_refused_before_it_is_kept() -> None:
    (said,) = differing({}, {"REDIS_PASSWORD": "two\nlines"})
    assert said.startswith("REDIS_PASSWORD: the value in /opt/dify/.env on the host has a line break in it")


# --- The form ---


@given(st.text(st.characters(codec="utf-8", exclude_characters="\n\r\0"), min_size=1))
@settings(max_examples=200, deadline=None)
def test_any_value_on_one_line_is_read_back(value: str) -> None:
    assert secret_store.parse(secret_store.text({"DB_PASSWORD": value, "A": NASTY}), PLACE) == {
        "DB_PASSWORD": value,
        "A": NASTY,
    }


def test_comments_and_empty_lines_are_nothing() -> None:
    assert secret_store.parse("", PLACE) == secret_store.parse("# from the vault\n\n", PLACE) == {}
    assert secret_store.parse("# why\nA=b # c\n\nexport C='d e'\r\n", PLACE) == {"A": "b", "C": "d e"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"DB_PASSWORD": "QXZJKV"}', f"{PLACE}: line 1 is not NAME=value"),
        ("A=b\nQXZJKV\n", f"{PLACE}: line 2 is not NAME=value"),
        ("A=b\n\nDB_PASSWORD=\n", f"{PLACE}: line 3 is not NAME=value"),
        ("A='QXZJKV\n", f"{PLACE}: line 1 is not NAME=value"),
        ('DB_PASSWORD="QXZ\\nJKV"\n', f"DB_PASSWORD: the value in {PLACE} has a line break in it"),
        ("DB_PASSWORD='QXZ\nJKV'\n", f"DB_PASSWORD: the value in {PLACE} has a line break in it"),
    ],
)
def test_what_is_no_env_file_is_not_taken_for_an_empty_one(text: str, said: str) -> None:
    (line,) = refused(lambda: secret_store.parse(text, PLACE))
    assert line.startswith(said)
    assert "QXZ" not in line


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"SECRET_KEY": PUBLISHED["SECRET_KEY"]}, f"{PLACE}: SECRET_KEY: this is a published default of Dify"),
        ({"INIT_PASSWORD": "x" * 31}, f"{PLACE}: INIT_PASSWORD: longer than 30 characters"),
        ({"SANDBOX_API_KEY": "schlüssel"}, f"{PLACE}: SANDBOX_API_KEY: travels in an HTTP header"),
    ],
)
def test_what_must_not_run_does_not_come_out_of_the_file(entry: dict[str, str], said: str) -> None:
    (line,) = refused(lambda: secret_store.stored(entry, wish(), PLACE))
    assert line.startswith(said)


def test_only_our_own_names_come_out_of_the_file() -> None:
    entry = {"DB_PASSWORD": "kept", "DB_TYPE": "mysql", "OLD_DB_PASSWORD": "old", "SECRET_KEY": "kept"}
    assert secret_store.stored(entry, wish({"SECRET_KEY": "given"}), PLACE) == {"DB_PASSWORD": "kept"}


@pytest.mark.parametrize(
    ("host", "name"), [("web1", "secrets/web1.age"), ("a/../b", "secrets/a%2F..%2Fb.age"), ("me@h", "secrets/me@h.age")]
)
def test_each_host_has_a_file_of_its_own(host: str, name: str) -> None:
    assert secret_store.place(host, wish().knobs) == name


def test_the_hosts_env_says_where_else_they_are() -> None:
    assert "nowhere else: back this file up" in dotenv.write(settings_of())
    assert "nowhere else" not in dotenv.write(wish())


# --- Knobs ---


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"secrets": "file"}, 'secrets in group_data or host data: "file" needs age_identity'),
        (
            {"age_identity": "key.txt"},
            'age_identity in group_data or host data: nothing uses it while secrets = "host"',
        ),
        ({"secrets_command": {"read": "a", "write": "b"}}, "secrets_command in group_data or host data: nothing uses"),
        (
            {"secrets": "file", "secrets_command": {"read": "a", "write": "b"}, "age_identity": "key.txt"},
            "age_identity in group_data or host data: secrets_command takes the place of age",
        ),
    ],
)
def test_knobs_that_do_not_fit_together(changed: dict[str, Any], said: str) -> None:
    (line,) = refused(lambda: settings_of(**changed))
    assert line.startswith(said)


def test_a_command_may_be_a_string_or_a_list() -> None:
    found = wish(age_identity="", secrets_command={"read": "sh -c 'a b'", "write": ["x y", "z"]}).knobs.secrets_command
    assert found == secret_store.Commands(read=("sh", "-c", "a b"), write=("x y", "z"))


def test_a_key_in_a_wrong_place_is_not_shown() -> None:
    key = "AGE-SECRET-KEY-1QXZJKV"
    for changed in ({"age_identity": key}, {"age_recipients": [key]}, {"secrets_command": {"read": key}}):
        (line,) = refused(lambda changed=changed: wish(**changed))  # type: ignore[misc]
        assert "QXZJKV" not in line


# --- Commands on this machine ---


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs that come first."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(outside, "folder", lambda: tmp_path)
    return tmp_path


def program(folder: Path, name: str, body: str) -> str:
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)
    return f"./{name}"


def vault(folder: Path, read: str = "cat kept 2>/dev/null || true", write: str = "cat >kept") -> Vault:
    return Vault(
        "secrets_command's entry of web1",
        "web1",
        (program(folder, "reader", read),),
        (program(folder, "writer", write), "a b"),
        folder,
    )


def test_commands_get_the_hosts_name_and_the_lines_on_stdin_only(programs: Path) -> None:
    store = vault(programs, write='cat >kept; echo "$DIFY_HOST $*" >said')
    assert store.read() == ""
    store.write(secret_store.text({"DB_PASSWORD": NASTY}))
    assert (programs / "said").read_text() == "web1 a b\n"
    assert secret_store.parse(store.read(), PLACE) == {"DB_PASSWORD": NASTY}


@pytest.mark.parametrize(
    ("read", "said"),
    [
        ("echo A=QXZJKV; echo first >&2; echo sealed >&2; exit 2", "./reader ended with 2: sealed"),
        ("exit 1", "./reader ended with 1: it says nothing"),
    ],
)
def test_a_command_that_fails_is_one_line_and_no_empty_entry(programs: Path, read: str, said: str) -> None:
    (line,) = refused(vault(programs, read).read)
    assert line == f"secrets_command, read of web1: {said}"


def test_a_write_that_fails_shows_no_secret(programs: Path) -> None:
    store = vault(programs, write='echo "cannot take $(cat)" >&2; exit 1')
    (line,) = refused(lambda: store.write(secret_store.text({"DB_PASSWORD": "QXZJKV0123456789"})))
    assert line == "secrets_command, write of web1: ./writer ended with 1: cannot take DB_PASSWORD=[REDACTED]"


@pytest.mark.parametrize("words", [("vault-that-is-not-there",), ("./nowhere/read",)])
def test_a_missing_command_is_one_line_before_anything_is_done(programs: Path, words: tuple[str, ...]) -> None:
    one = vault(programs)
    for store in (
        Vault(one.where, "web1", words, one.writer, programs),
        Vault(one.where, "web1", one.reader, words, programs),
    ):
        (line,) = refused(store.read)
        assert line == f"secrets_command: there is no program {words[0]} on this machine; install or mend it"


def test_a_command_that_hangs_is_given_up(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "PATIENCE", 0.2)
    (line,) = refused(vault(programs, "exec sleep 60").read)
    assert line.startswith("secrets_command, read of web1: ./reader gave no answer in 0.2 s")


class Noted:
    """A host that notes what it is told."""

    name = "web1"

    def __init__(self) -> None:
        self.said: list[str] = []

    def log_styled(self, said: str, **_: object) -> None:
        self.said.append(said)


def keep(store: AgeFile | Vault, new: Mapping[str, str]) -> tuple[bool, list[str]]:
    host = Noted()
    done = Keep(store, new).execute(State(), host, ConnectorArguments())  # type: ignore[arg-type]
    return done, host.said


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    outside._entries.clear()
    outside._planned.clear()


def test_what_was_written_is_read_back(programs: Path) -> None:
    assert keep(vault(programs), {"A": NASTY}) == (True, [])
    assert outside._entries == {"web1": {"A": NASTY}}


def test_a_vault_that_only_adds_is_refused(programs: Path) -> None:
    store = vault(programs, write="cat >>kept")
    assert keep(store, {"A": "x", "B": "y"}) == (True, [])
    done, (said,) = keep(store, {"A": "x"})
    assert not done
    assert said.endswith("read gives not what was written (B); write must replace all that was there")


# --- age ---


@pytest.fixture
def age(programs: Path) -> AgeFile:
    """A file that is encrypted by the real age."""
    assert which("age"), "these tests need the program age: apt install age"
    subprocess.run(["age-keygen", "-o", programs / "key.txt"], check=True, capture_output=True)
    return AgeFile(programs / PLACE, PLACE, programs / "key.txt")


def test_a_file_is_encrypted_whole_and_for_nobody_else(age: AgeFile) -> None:
    assert age.read() == ""
    assert not age.file.parent.exists()
    assert keep(age, {"A": NASTY}) == (True, [])
    first = age.file.read_bytes()
    assert first.startswith(b"age-encryption.org/")
    assert keep(age, {"A": NASTY, "B": "x"}) == (True, [])
    assert [(path.name, oct(path.stat().st_mode)[-3:]) for path in age.file.parent.iterdir()] == [("web1.age", "600")]
    assert oct(age.file.parent.stat().st_mode)[-3:] == "700"
    assert secret_store.parse(age.read(), PLACE) == {"A": NASTY, "B": "x"}


def test_others_may_read_it_too(age: AgeFile, programs: Path) -> None:
    subprocess.run(["age-keygen", "-o", programs / "other.txt"], check=True, capture_output=True)
    public = re.search("age1[0-9a-z]+", (programs / "other.txt").read_text())
    assert public
    AgeFile(age.file, PLACE, age.identity, (public[0],)).write("A=b\n")
    assert age.read() == AgeFile(age.file, PLACE, programs / "other.txt").read() == "A=b\n"


def test_an_empty_file_is_none_and_a_broken_one_is_an_error(age: AgeFile) -> None:
    age.write("A=b\n")
    sealed = age.file.read_bytes()
    age.file.write_bytes(sealed[:-1])
    (line,) = refused(age.read)
    assert line.startswith(f"{PLACE}: age ended with 1: age: error: ")
    age.file.write_bytes(b"")
    assert age.read() == ""


def test_what_a_later_write_would_fail_at_is_found_at_the_first_look(age: AgeFile) -> None:
    broken = AgeFile(age.file, PLACE, age.identity, ("age1qqqq",))
    (line,) = refused(broken.read)
    assert line.startswith(f"{PLACE}: age ended with 1: age: error: malformed recipient")
    age.identity.write_text("no key\n")
    (line,) = refused(age.read)
    assert line.startswith(f"{PLACE}: age ended with 1: age: error: ")


def test_a_write_that_fails_leaves_the_old_file(age: AgeFile) -> None:
    age.write("A=b\n")
    sealed = age.file.read_bytes()
    refused(lambda: AgeFile(age.file, PLACE, age.identity, ("age1qqqq",)).write("A=c\n"))
    assert age.file.read_bytes() == sealed
    assert [path.name for path in age.file.parent.iterdir()] == ["web1.age"]


def test_a_missing_program_or_key_is_one_line(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = wish(age_identity="nokey.txt").knobs
    (line,) = refused(lambda: outside.entry("web1", wanted))
    assert line.startswith("age_identity = 'nokey.txt': no such file")
    monkeypatch.setenv("PATH", str(programs))
    (line,) = refused(lambda: outside.entry("web1", wanted))
    assert line.startswith(
        f"{PLACE}: the program age is not on this machine: install it (Debian, Ubuntu: apt install age)"
    )


def test_nothing_is_read_while_secrets_live_on_the_host() -> None:
    assert outside.entry("web1", settings_of().knobs) == {}


def test_a_command_shows_no_secret_of_its_own() -> None:
    assert repr(Keep(Vault("the vault", "web1", ("r",), ("w",), Path()), {"A": "QXZJKV"})) == "Keep(the vault)"
