"""What the operator wants: layers of .env files and knobs, and what is said of a wrong one."""

from __future__ import annotations

import re
import string
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stack import settings
from tests.unit.wanted import knobs, refused, settings_of, stack_of


def given_by(folder: Path, groups: list[str] | None = None, **files: str) -> dict[str, str]:
    """What the files say together; `env` is .env, any other name is env/<name>.env."""
    (folder / "env").mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / (".env" if name == "env" else f"env/{name}.env")).write_text(text)
    wanted = settings.load("web1", knobs(), groups or [], folder, {}, fresh=False)
    return {name: wanted[name] for name in wanted.given}


def lines_of(folder: Path, text: str | bytes) -> list[str]:
    """What is wrong with this .env."""
    (folder / ".env").write_bytes(text if isinstance(text, bytes) else text.encode())
    return refused(lambda: settings.load("web1", knobs(), [], folder, {}))


@pytest.mark.parametrize(
    ("groups", "files", "wins"),
    [
        ([], {"env": "LOG_DATEFORMAT=all"}, "all"),
        (["eu"], {"env": "LOG_DATEFORMAT=all", "eu": "LOG_DATEFORMAT=eu"}, "eu"),
        (["eu", "big"], {"eu": "LOG_DATEFORMAT=eu", "big": "LOG_DATEFORMAT=big"}, "big"),
        (["big", "eu"], {"eu": "LOG_DATEFORMAT=eu", "big": "LOG_DATEFORMAT=big"}, "eu"),
        (["eu"], {"env": "LOG_DATEFORMAT=all", "eu": "LOG_DATEFORMAT=eu", "web1": "LOG_DATEFORMAT=host"}, "host"),
        (["eu"], {"eu": "LOG_DATEFORMAT=eu", "us": "LOG_DATEFORMAT=us", "web2": "LOG_DATEFORMAT=other"}, "eu"),
        (["eu"], {"env": "LOG_DATEFORMAT=all", "eu": "DEPLOY_ENV=Europe/Berlin"}, "all"),
    ],
)
def test_the_nearer_file_wins(tmp_path: Path, groups: list[str], files: dict[str, str], wins: str) -> None:
    assert given_by(tmp_path, groups, **files)["LOG_DATEFORMAT"] == wins


def test_no_file_at_all_is_no_wish(tmp_path: Path) -> None:
    assert given_by(tmp_path, ["dify"]) == {}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("DEPLOY_ENV=UTC", "UTC"),
        ("export DEPLOY_ENV=UTC", "UTC"),
        ("DEPLOY_ENV=UTC  # why", "UTC"),
        ("DEPLOY_ENV='U # T'", "U # T"),
        ('DEPLOY_ENV="it\'s"', "it's"),
        ("DEPLOY_ENV=${HOME}$HOME", "${HOME}$HOME"),
        (r'DEPLOY_ENV="it\'s \$5"', "it's $5"),
        ("DEPLOY_ENV=UTC\r\n", "UTC"),
        ("\ufeffDEPLOY_ENV=UTC", "UTC"),
    ],
    ids=["plain", "export", "comment", "quoted", "double", "dollar", "escaped", "windows", "byte order mark"],
)
def test_a_value_is_read_as_it_was_meant(tmp_path: Path, text: str, value: str) -> None:
    assert given_by(tmp_path, env=text) == {"DEPLOY_ENV": value}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("LOG_LEVLE=DEBUG", ".env line 1: LOG_LEVLE is no setting of this Dify release; did you mean LOG_LEVEL?"),
        (
            "# why\nlog_level=DEBUG",
            ".env line 2: log_level is no setting of this Dify release; did you mean LOG_LEVEL?",
        ),
        ("XYZZY=1", ".env line 1: XYZZY is no setting of this Dify release"),
        ("DEPLOY_ENV=UTC\nLOG_LEVEL", ".env line 2: not NAME=value (LOG_LEVEL)"),
        ("DEPLOY_ENV=UTC\n\n\nLOG_LEVLE=DEBUG", ".env line 4: LOG_LEVLE is no setting"),
        ("DEPLOY_ENV='UTC", ".env line 1: not NAME=value (DEPLOY_ENV)"),
        ('DEPLOY_ENV="a" b', ".env line 1: not NAME=value (DEPLOY_ENV)"),
    ],
)
def test_a_wrong_line_is_named_with_file_and_line(tmp_path: Path, text: str, line: str) -> None:
    assert [said[: len(line)] for said in lines_of(tmp_path, text)] == [line]


def test_a_file_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    (said,) = lines_of(tmp_path, b"DEPLOY_ENV=caf\xe9\n")
    assert said.startswith(".env")
    assert "cannot be read" in said


def test_a_directory_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "env/web1.env").mkdir(parents=True)
    (said,) = refused(lambda: settings.load("web1", knobs(), [], tmp_path, {}))
    assert said.startswith("env/web1.env: cannot be read")


def test_all_files_are_judged_in_one_go(tmp_path: Path) -> None:
    said = refused(lambda: given_by(tmp_path, ["eu"], env="LOG_LEVLE=1\nLOG_TS=2", eu="DB_HOTS=3", web1="oops"))
    assert [line.split(":")[0] for line in said] == [
        ".env line 1",
        ".env line 2",
        "env/eu.env line 1",
        "env/web1.env line 1",
    ]


@pytest.mark.parametrize(
    "name", ["LOG_LEVEL", "DB_PASSWORD", "MIGRATION_ENABLED", "VECTOR_STORE", "PGDATA", "COMPOSE_PROFILES"]
)
def test_an_empty_value_is_as_if_it_were_not_there(name: str) -> None:
    assert settings_of({name: ""}).values == settings_of().values
    assert name not in settings_of({name: ""}).given


def test_a_nearer_empty_value_takes_a_farther_one_back(tmp_path: Path) -> None:
    (tmp_path / "env").mkdir()
    (tmp_path / ".env").write_text("LOG_LEVEL=DEBUG")
    (tmp_path / "env/web1.env").write_text("LOG_LEVEL=")
    wanted = settings.load("web1", knobs(), [], tmp_path, {}, fresh=False)
    assert wanted["LOG_LEVEL"] == "INFO"


def test_what_is_given_stands_there_also_when_it_is_the_default() -> None:
    assert settings_of({"LOG_LEVEL": "INFO"}).values["LOG_LEVEL"] == "INFO"
    assert "LOG_LEVEL" not in settings_of().values


@pytest.mark.parametrize(
    ("given", "value"),
    [({"DEBUG": "TRUE"}, "true"), ({"DEBUG": "False"}, "false"), ({"CODE_EXECUTION_SSL_VERIFY": "true"}, "True")],
)
def test_a_boolean_is_written_as_the_release_writes_it_or_small(given: dict[str, str], value: str) -> None:
    (name,) = given
    assert settings_of(given).values[name] == value


def test_an_unknown_setting_that_is_allowed_reaches_the_backend() -> None:
    wanted = stack_of({"NEW_FEATURE": "on"}, allow_unknown_settings=["NEW_FEATURE"])
    assert wanted.settings.values["NEW_FEATURE"] == "on"
    assert b"NEW_FEATURE: " in wanted.files["docker-compose.yaml"].data


@pytest.mark.parametrize(
    ("knob", "value"),
    [
        ("dify_version", 1.11),
        ("root", "opt/dify"),
        ("root", "/"),
        ("root", "/opt/dify/"),
        ("root", "/opt/my dify"),
        ("project", "Dify"),
        ("project", "-dify"),
        ("profiles", "weaviate"),
        ("images", {"api": 1}),
        ("image_registry", 5),
        ("image_registry", "https://registry.lan/hub"),
        ("image_registry", {"docker.io": "registry.lan/"}),
        ("registry_login", {"registry.lan": {"username": "me"}}),
        ("docker_source", "apt"),
        ("docker_repository", "download.docker.com"),
        ("docker_repository_key", "0123 4567"),
        ("docker_log_max_size", "50mb"),
        ("docker_log_max_file", 0),
        ("docker_registry_mirrors", ["mirror.lan"]),
        ("docker_proxy", {"ftp": "http://proxy"}),
        ("docker_address_pools", [{"base": "10.0.0.0/8", "bits": 24}]),
        ("docker_address_pools", [{"base": "10.0.0.0/8", "size": []}]),
        ("min_cpus", "two"),
        ("min_memory", "plenty"),
        ("answer_timeout", 0),
        ("allow_unknown_settings", "NEW_FEATURE"),
    ],
)
def test_a_wrong_knob_is_one_line_that_names_it(knob: str, value: Any) -> None:
    (said,) = refused(lambda: settings_of(**{knob: value}))
    assert re.match(rf"{knob}\b.* in group_data or host data: \S", said)


def test_a_missing_knob_is_one_line_that_says_where_its_default_stands(tmp_path: Path) -> None:
    data = knobs()
    del data["root"]
    assert refused(lambda: settings.load("web1", data, [], tmp_path, {})) == [
        "root: this knob has no value; group_data/all.py has its default"
    ]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("dify_versoin", "dify_version"), ("docker_sorce", "docker_source"), ("image", "images"), ("Root", "root")],
)
def test_a_mistyped_knob_is_an_error_with_the_nearest_name(typed: str, meant: str) -> None:
    data: dict[str, Any] = {typed: "x"}
    (said,) = refused(lambda: settings_of(**data))
    assert said.endswith(f"unknown knob; did you mean {meant}?")


@pytest.mark.parametrize("name", ["ssh_user", "ssh_key", "_sudo", "docker_identifier", "fake_answer", "rack"])
def test_data_of_pyinfra_or_of_the_operator_is_none_of_our_business(name: str) -> None:
    data: dict[str, Any] = {name: "x"}
    assert settings_of(**data).host == "web1"


def test_an_unknown_release_is_an_error_that_names_the_known_ones() -> None:
    (said,) = refused(lambda: settings_of(dify_version="1.11.5"))
    assert re.fullmatch(
        r"dify_version = '1\.11\.5': no such release here; known: 1\.11\.4, .*; did you mean 1\.11\.4\?", said
    )


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("env/dfy.env", "env/dfy.env: the inventory has no group or host 'dfy'; did you mean dify?"),
        ("env/web2.env", "env/web2.env: the inventory has no group or host 'web2'; did you mean web1?"),
        ("group_data/dfy.py", "group_data/dfy.py: the inventory has no group 'dfy'; did you mean dify?"),
        ("group_data/web1.py", "group_data/web1.py: the inventory has no group 'web1'"),
    ],
)
def test_a_file_that_nobody_reads_is_an_error(tmp_path: Path, path: str, line: str) -> None:
    for name in ("env/dify.env", "env/web1.env", "group_data/all.py", "group_data/dify.py", path):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert refused(lambda: settings.check_names(tmp_path, ["dify"], ["web1"])) == [line]


def test_a_file_for_a_connectors_group_is_none(tmp_path: Path) -> None:
    """@vagrant is a group only while pyinfra's Vagrant connector is the inventory."""
    for name in ("env/@vagrant.env", "group_data/@vagrant.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    settings.check_names(tmp_path, ["dify"], ["web1"])


# --- No secret in an error ---

words = st.text("QXZJKV0123456789", min_size=12, max_size=60)
bases = st.text(string.ascii_letters + string.digits + "+/=:@$%#", min_size=16, max_size=60)


@pytest.mark.parametrize(
    "line",
    [
        "DB_PASSWORD {}",
        "DB_PASSWORD: {}",
        "DB_PASSWORD='{}",
        'DB_PASSWORD="{}',
        "DB_PASSWORD='{0}' {0}",
        "DB_PASSWRD={}",
        "DB_PASSWRD {}",
        "export DB_PASSWORD {}",
        "DB_PASSWORD=first\n{}",
        "= {}",
    ],
)
@given(secret=st.one_of(words, bases.map(lambda text: "qXzJkV01" + text)))
def test_a_secret_in_a_broken_line_is_not_shown(line: str, secret: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        said = "\n".join(lines_of(Path(folder), line.format(secret)))
    assert secret[:8] not in said


@pytest.mark.parametrize(
    ("knob", "value"),
    [
        ("registry_login", "QXZJKV0123"),
        ("registry_login", {"registry.lan": "QXZJKV0123"}),
        ("registry_login", {"registry.lan": {"username": "", "password": "QXZJKV0123"}}),
        ("registry_login", {"registry.lan": {"username": "me", "pasword": "QXZJKV0123"}}),
        ("docker_proxy", "http://me:QXZJKV0123@proxy"),
        ("docker_proxy", ["http://me:QXZJKV0123@proxy"]),
        ("docker_proxy", {"htttp": "http://me:QXZJKV0123@proxy"}),
    ],
)
def test_a_secret_in_a_wrong_knob_is_not_shown(knob: str, value: Any) -> None:
    assert "QXZJKV0123" not in "\n".join(refused(lambda: settings_of(**{knob: value})))


def test_a_secret_is_not_in_what_python_shows_of_settings() -> None:
    wanted = stack_of(
        {"SMTP_PASSWORD": "QXZJKV0123"},
        registry_login={"registry.lan": {"username": "me", "password": "QXZJKV0123"}},
        docker_proxy={"http": "http://me:QXZJKV0123@proxy"},
    )
    assert "QXZJKV0123" not in repr(wanted)


def test_everything_that_must_not_be_shown_is_among_the_secrets() -> None:
    wanted = settings_of(
        {"SMTP_PASSWORD": "of smtp"},
        registry_login={"registry.lan": {"username": "me", "password": "of registry"}},
        docker_proxy={"http": "http://me:of-proxy@proxy", "no_proxy": "localhost"},
    )
    assert {"of smtp", "of registry", "http://me:of-proxy@proxy", wanted["DB_PASSWORD"]} <= set(wanted.secrets)
    assert "localhost" not in wanted.secrets
