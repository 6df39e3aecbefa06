"""What an operator is warned of: published weaknesses, and workflow runs that pile up."""

from __future__ import annotations

import re

import pytest

from stack import advisories, release
from tests.unit.wanted import refused, settings_of

CLEANUP, RETENTION = "WORKFLOW_LOG_CLEANUP_ENABLED", "WORKFLOW_LOG_RETENTION_DAYS"
ELSEWHERE = {"DB_HOST": "db.lan", "DB_PASSWORD": "mine"}


# --- Weaknesses ---


@pytest.mark.parametrize(
    ("version", "names", "fixed"),
    [
        ("1.11.4", ["41947", "41948", "41949", "41950"], "1.15.0"),
        ("1.13.3", ["41947", "41948", "41949", "41950"], "1.15.0"),
        ("1.14.0", ["41947", "41948", "41949"], "1.15.0"),
        ("1.14.1", ["41947", "41948", "41949"], "1.15.0"),
        ("1.14.2", ["41948"], "1.15.0"),
    ],
)
def test_a_release_in_the_range_is_said_in_one_line(version: str, names: list[str], fixed: str) -> None:
    (line,) = advisories.warnings(version, {"VECTOR_STORE": "weaviate"})
    assert re.findall(r"CVE-2026-(\d+)", line) == names
    assert f"all mended in {fixed}; until then: " in line
    assert line.startswith(f"Dify {version} has")
    assert line.count("give accounts to people you trust only") == 1


@pytest.mark.parametrize("version", ["1.15.0", "1.16.0", "1.16.0-rc1", "1.17.1", "2.0.0"])
def test_a_release_after_it_is_not(version: str) -> None:
    assert advisories.warnings(version, {"VECTOR_STORE": "weaviate"}) == []


@pytest.mark.parametrize(("version", "said"), [("1.15.0", True), ("1.13.3", True), ("1.16.0", False)])
def test_a_weakness_of_one_vector_store_is_said_with_that_one_only(version: str, said: bool) -> None:
    line = "".join(advisories.warnings(version, {"VECTOR_STORE": "myscale"}))
    assert ("CVE-2026-61461" in line and "all mended in 1.16.0" in line) is said
    assert "61461" not in "".join(advisories.warnings(version, {"VECTOR_STORE": "qdrant"}))


def test_versions_are_compared_as_numbers() -> None:
    assert advisories.warnings("1.9.2", {})
    assert advisories.warnings("1.100.0", {}) == []


@pytest.mark.parametrize("advisory", advisories.known(), ids=lambda one: one.name)
def test_each_entry_is_whole(advisory: advisories.Advisory) -> None:
    assert re.fullmatch(r"CVE-\d{4}-\d{4,}", advisory.name)
    assert re.fullmatch(r"\d+\.\d+\.\d+", advisory.fixed)
    assert advisory.what
    assert advisory.until
    assert all(name in release.load(version).settings for version in release.versions() for name in advisory.only)


@pytest.mark.parametrize("version", release.versions())
def test_a_deploy_says_it(version: str) -> None:
    (line,) = settings_of(dify_version=version).warnings
    assert line.startswith(f"Dify {version} has published weaknesses")


# --- Workflow runs ---


def test_a_new_deployment_deletes_old_workflow_runs_and_the_next_deploy_goes_on_with_it() -> None:
    first = settings_of()
    assert (first[CLEANUP], first[RETENTION]) == ("true", "30")
    assert settings_of(kept=first.values).values == first.values
    assert settings_of(kept=first.values).warnings == first.warnings


def test_the_days_are_a_knob() -> None:
    assert settings_of(workflow_log_retention_days=7)[RETENTION] == "7"
    assert settings_of({RETENTION: "9"}, workflow_log_retention_days=7)[RETENTION] == "9"


def test_none_of_them_means_for_ever() -> None:
    before = settings_of().values
    wanted = settings_of(kept=before, workflow_log_retention_days=0)
    assert wanted[CLEANUP] == "false"
    assert len(wanted.warnings) == 1


def test_a_host_that_kept_them_goes_on_keeping_them_and_says_so() -> None:
    wanted = settings_of(kept={"SECRET_KEY": "of this host"})
    assert wanted[CLEANUP] == "false"
    (line,) = [line for line in wanted.warnings if CLEANUP in line]
    assert line == (
        "workflow runs and their messages are kept for ever here, as before: WORKFLOW_LOG_CLEANUP_ENABLED=true in .env has "
        "those older than 30 days deleted, workflow_log_retention_days = 0 keeps them"
    )


def test_one_word_of_the_operator_starts_it_there() -> None:
    wanted = settings_of({CLEANUP: "true"}, kept={"SECRET_KEY": "of this host"}, workflow_log_retention_days=14)
    assert (wanted[CLEANUP], wanted[RETENTION]) == ("true", "14")
    assert not [line for line in wanted.warnings if CLEANUP in line]


def test_a_database_that_runs_elsewhere_may_hold_old_runs_that_somebody_wants() -> None:
    assert settings_of(ELSEWHERE)[CLEANUP] == "false"
    assert settings_of({**ELSEWHERE, CLEANUP: "true"})[CLEANUP] == "true"


def test_the_operators_no_wins() -> None:
    wanted = settings_of({CLEANUP: "false"}, kept={CLEANUP: "true"})
    assert wanted[CLEANUP] == "false"
    assert not [line for line in wanted.warnings if CLEANUP in line]


def test_on_and_for_ever_contradict_each_other() -> None:
    (line,) = refused(lambda: settings_of({CLEANUP: "true"}, workflow_log_retention_days=0))
    assert line.startswith(f".env line 1: {CLEANUP}=true: workflow_log_retention_days = 0 says that nothing is deleted")
    assert settings_of({CLEANUP: "true", RETENTION: "9"}, workflow_log_retention_days=0)[RETENTION] == "9"


@pytest.mark.parametrize("days", [-1, "many", None])
def test_days_that_are_no_number_of_days_are_refused(days: object) -> None:
    (line,) = refused(lambda: settings_of(workflow_log_retention_days=days))
    assert line.startswith("workflow_log_retention_days = ")


def test_middleware_runs_no_workflow_and_is_not_dify() -> None:
    wanted = settings_of(mode="middleware")
    assert CLEANUP not in wanted.values
    assert wanted.warnings == ()
