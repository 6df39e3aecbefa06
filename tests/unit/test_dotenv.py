"""The host's .env: what is written is what is read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stack import dotenv
from tests.unit.wanted import RELEASE, settings_of

AWKWARD = [
    "it's",
    'say "so"',
    "p@ss:w/rd#$%'\"",
    "it's $5",
    "${HOME}",
    "$$",
    "a #b",
    " x ",
    "\\",
    "C:\\new",
    "é ü 漢",
    "a\nb",
]
texts = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Zl", "Zp"]))
hard = st.text("'\"\\$#=nrt {}`\n ab")


@pytest.mark.parametrize("value", AWKWARD)
def test_an_awkward_value_is_read_as_it_was_written(value: str) -> None:
    assert dotenv.read(f"A={dotenv.quote(value)}\nB=after\n") == {"A": value, "B": "after"}


@given(st.one_of(texts, hard).filter(bool))
def test_any_value_is_read_as_it_was_written(value: str) -> None:
    assert dotenv.read(f"A={dotenv.quote(value)}\nB=after\n") == {"A": value, "B": "after"}


@given(st.one_of(texts, hard))
def test_a_value_stays_on_its_line(value: str) -> None:
    assert dotenv.quote(value).count("\n") == 0


@pytest.mark.parametrize("value", ["plain", "redis://:pw@redis:6379/1", "a,b", "50%", "a+b=c@d"])
def test_a_plain_value_needs_no_quotes(value: str) -> None:
    assert dotenv.quote(value) == value


def test_a_host_reads_back_all_of_its_settings() -> None:
    wanted = settings_of({"DEPLOY_ENV": "a b", "SMTP_PASSWORD": "it's"}, fresh=True)
    assert dotenv.read(dotenv.write(wanted)) == wanted.values


def test_what_was_written_by_the_first_run_is_no_rotation_in_the_second() -> None:
    given = {"DB_PASSWORD": "it's $5", "SECRET_KEY": "back\\slash\"$'"}
    first = settings_of(given, fresh=True)
    second = settings_of(given, kept=dotenv.read(dotenv.write(first)), fresh=True)
    assert second.values == first.values


def test_settings_stand_in_the_order_of_the_release() -> None:
    lines = dotenv.write(settings_of({"PM2_INSTANCES": "3", "LOG_LEVEL": "DEBUG"})).splitlines()
    names = [line.partition("=")[0] for line in lines if not line.startswith("#")]
    assert names == [name for name in RELEASE.settings if name in names]


def test_only_what_differs_from_the_release_is_written() -> None:
    assert set(dotenv.read(dotenv.write(settings_of()))) == {
        "CELERY_BROKER_URL",
        "CODE_EXECUTION_API_KEY",
        "CODE_EXECUTION_ENDPOINT",
        "COMPOSE_PROFILES",
        "DB_PASSWORD",
        "INIT_PASSWORD",
        "MIGRATION_ENABLED",
        "PLUGIN_DAEMON_KEY",
        "PLUGIN_DIFY_INNER_API_KEY",
        "REDIS_PASSWORD",
        "SANDBOX_API_KEY",
        "SECRET_KEY",
        "WEAVIATE_API_KEY",
        "WEAVIATE_AUTHENTICATION_APIKEY_ALLOWED_KEYS",
        "WORKFLOW_LOG_CLEANUP_ENABLED",
    }


@pytest.mark.parametrize("text", ["", "# a comment\n", "A\n", "A=\n"])
def test_a_name_without_a_value_is_left_out(text: str) -> None:
    assert dotenv.read(text) == {}
