"""What follows from a choice: the broker's address, values that must agree, profiles."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stack import redis, wiring
from stack.choices import DATABASES, VECTOR_STORES
from tests.unit.wanted import OTHER_DATABASE, RELEASE, UPSTASH, refused, settings_of, stack_of

OWN = {"REDIS_PASSWORD": "rp", "SANDBOX_API_KEY": "sk", "WEAVIATE_API_KEY": "wk"}


def derived(given: dict[str, str], profiles: list[str] | None = None) -> dict[str, str]:
    chosen = wiring.choose(RELEASE, given, profiles or [])
    own = {name: OWN.get(name, "made") for name in chosen.secrets if not given.get(name)}
    return wiring.derive(RELEASE, given, own, chosen, profiles or [])


def elsewhere(*names: str, **more: str) -> dict[str, str]:
    """What must be given of services that run elsewhere."""
    return {**dict.fromkeys(names, "given.lan"), **more}


# --- The broker ---


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ({}, "redis://:rp@redis:6379/1"),
        ({"REDIS_HOST": "cache.lan", "REDIS_PORT": "6380"}, "redis://:@cache.lan:6380/1"),
        ({"REDIS_HOST": "cache.lan", "REDIS_PASSWORD": "x"}, "redis://:x@cache.lan:6379/1"),
        ({"REDIS_HOST": "cache.lan", "REDIS_USERNAME": "a:b"}, "redis://a%3Ab:@cache.lan:6379/1"),
        ({"REDIS_HOST": "cache.lan", "REDIS_USE_SSL": "true"}, "rediss://:@cache.lan:6379/1"),
        ({"REDIS_HOST": "cache.lan", "REDIS_USE_SSL": "True"}, "rediss://:@cache.lan:6379/1"),
        ({"REDIS_USE_SSL": "false"}, "redis://:rp@redis:6379/1"),
        ({"REDIS_PASSWORD": "p@ss:w/rd#$%'\" "}, "redis://:p%40ss%3Aw%2Frd%23%24%25%27%22%20@redis:6379/1"),
        ({"CELERY_BROKER_URL": "sentinel://a:1;sentinel://b:1"}, "sentinel://a:1;sentinel://b:1"),
    ],
)
def test_the_broker_is_the_redis_that_was_chosen(given: dict[str, str], url: str) -> None:
    assert derived(given)["CELERY_BROKER_URL"] == url


@given(st.text(min_size=1), st.text(min_size=1))
def test_any_user_and_password_come_through_the_brokers_url(user: str, password: str) -> None:
    url = urlsplit(
        derived({"REDIS_HOST": "cache.lan", "REDIS_USERNAME": user, "REDIS_PASSWORD": password})["CELERY_BROKER_URL"]
    )
    assert (unquote(url.username or ""), unquote(url.password or "")) == (user, password)
    assert (url.hostname, url.port, url.path) == ("cache.lan", 6379, "/1")


# --- What must agree ---


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("SANDBOX_API_KEY", "CODE_EXECUTION_API_KEY"),
        ("WEAVIATE_API_KEY", "WEAVIATE_AUTHENTICATION_APIKEY_ALLOWED_KEYS"),
    ],
)
class TestPair:
    def test_agrees_when_made(self, one: str, other: str) -> None:
        assert derived({})[one] == derived({})[other] == OWN[one]

    def test_agrees_when_one_is_given(self, one: str, other: str) -> None:
        assert derived({one: "mine"})[other] == "mine"

    def test_agrees_when_the_other_is_given(self, one: str, other: str) -> None:
        assert derived({other: "mine"})[one] == "mine"

    def test_agrees_when_both_are_given(self, one: str, other: str) -> None:
        values = derived({one: "mine", other: "mine"})
        assert (values[one], values[other]) == ("mine", "mine")

    def test_is_refused_when_both_are_given_and_differ(self, one: str, other: str) -> None:
        assert refused(lambda: derived({one: "mine", other: "yours"})) == [
            f"{one} and {other} differ, but must be the same; give one of them only"
        ]

    def test_is_not_torn_by_an_empty_value(self, one: str, other: str) -> None:
        assert derived({one: "", other: "mine"})[one] == "mine"
        assert derived({one: "mine", other: ""})[other] == "mine"


def test_weaviate_may_take_more_keys_than_dify_uses() -> None:
    assert derived({"WEAVIATE_AUTHENTICATION_APIKEY_ALLOWED_KEYS": "first,second"})["WEAVIATE_API_KEY"] == "first"
    both = {"WEAVIATE_AUTHENTICATION_APIKEY_ALLOWED_KEYS": "first,second", "WEAVIATE_API_KEY": "second"}
    assert derived(both)["WEAVIATE_API_KEY"] == "second"


def test_a_comma_in_the_sandbox_key_is_part_of_it() -> None:
    assert derived({"CODE_EXECUTION_API_KEY": "a,b"})["SANDBOX_API_KEY"] == "a,b"


# --- Contradictions ---


@pytest.mark.parametrize(
    ("name", "value", "fragment"),
    [
        ("MIGRATION_ENABLED", "true", "the migration is a step of the deployment"),
        ("COMPOSE_PROFILES", "weaviate,postgresql", "use the knob profiles"),
        ("PGDATA", "/var/lib/postgresql/other", "the only folder that outlives the container"),
        ("PGDATA", "/var/lib/postgresql/database", "must be below /var/lib/postgresql/data/"),
        ("VECTOR_STORE", "wheaviate", "did you mean weaviate?"),
        ("VECTOR_STORE", "Weaviate", "did you mean weaviate?"),
        ("VECTOR_STORE", "upstsah", "did you mean upstash?"),
        ("VECTOR_STORE", "filing cabinet", "not offered; allowed: "),
        ("DB_TYPE", "postgres", "did you mean postgresql?"),
        ("DB_TYPE", "sqlite", "not offered; allowed: mysql, oceanbase, postgresql, seekdb"),
    ],
)
def test_a_contradiction_is_refused(name: str, value: str, fragment: str) -> None:
    (said,) = refused(lambda: derived({name: value}))
    assert said.startswith(name)
    assert fragment in said


def test_all_contradictions_are_told_at_once() -> None:
    given = {"MIGRATION_ENABLED": "true", "VECTOR_STORE": "x", "SANDBOX_API_KEY": "a", "CODE_EXECUTION_API_KEY": "b"}
    assert len(refused(lambda: derived(given))) == 3


def test_a_migration_that_is_not_wanted_at_start_is_no_contradiction() -> None:
    assert derived({"MIGRATION_ENABLED": "false"})["MIGRATION_ENABLED"] == "false"


def test_the_backend_never_migrates_by_itself() -> None:
    assert settings_of().values["MIGRATION_ENABLED"] == "false"


# --- Profiles ---


@pytest.mark.parametrize(
    ("given", "profiles"),
    [
        ({}, "postgresql,weaviate,redis"),
        (elsewhere("DB_HOST", "DB_PASSWORD"), "weaviate,redis"),
        ({"DB_HOST": "db_postgres"}, "postgresql,weaviate,redis"),
        ({"DB_HOST": ""}, "postgresql,weaviate,redis"),
        (elsewhere("WEAVIATE_ENDPOINT", "WEAVIATE_GRPC_ENDPOINT"), "postgresql,redis"),
        ({"WEAVIATE_ENDPOINT": "http://weaviate:8080"}, "postgresql,weaviate,redis"),
        ({"VECTOR_STORE": "weaviate"}, "postgresql,weaviate,redis"),
        ({"REDIS_HOST": "cache.lan"}, "postgresql,weaviate"),
        (
            {"REDIS_USE_SENTINEL": "true", "REDIS_SENTINELS": "a.lan:26379", "REDIS_SENTINEL_SERVICE_NAME": "m"},
            "postgresql,weaviate",
        ),
        *(
            (elsewhere(*choice.needed, VECTOR_STORE=store), "postgresql,redis")
            for store, choice in VECTOR_STORES.items()
            if not choice.profile
        ),
        *(
            ({"VECTOR_STORE": store}, f"postgresql,{choice.profile},redis")
            for store, choice in VECTOR_STORES.items()
            if choice.profile
        ),
        *(({"DB_TYPE": name}, f"{choice.profile},weaviate,redis") for name, choice in DATABASES.items()),
        ({"ETL_TYPE": "Unstructured"}, "postgresql,weaviate,redis,unstructured"),
        ({**UPSTASH, **elsewhere("REDIS_HOST", "DB_HOST", "DB_PASSWORD")}, ""),
    ],
)
def test_profiles_follow_from_what_runs_here(given: dict[str, str], profiles: str) -> None:
    assert derived(given)["COMPOSE_PROFILES"] == profiles


@pytest.mark.parametrize(
    ("given", "gone"),
    [
        (OTHER_DATABASE, {"db_postgres"}),
        (elsewhere("REDIS_HOST"), {"redis"}),
        (UPSTASH, {"weaviate"}),
        ({**UPSTASH, **OTHER_DATABASE}, {"weaviate", "db_postgres"}),
    ],
)
def test_a_service_that_runs_elsewhere_neither_runs_nor_gets_a_folder_here(
    given: dict[str, str], gone: set[str]
) -> None:
    everything, stack = stack_of(), stack_of(given)
    assert set(everything.services) - set(stack.services) == gone
    paths = {"db_postgres": "volumes/db/data", "weaviate": "volumes/weaviate", "redis": "volumes/redis/data"}
    assert {folder.path for folder in everything.folders} - {folder.path for folder in stack.folders} == {
        paths[name] for name in gone
    }


def test_more_profiles_come_by_the_knob_and_once() -> None:
    assert derived({}, ["weaviate", "debug"])["COMPOSE_PROFILES"] == "postgresql,weaviate,redis,debug"


def test_a_profile_that_no_service_has_is_refused() -> None:
    (said,) = refused(lambda: stack_of(profiles=["weavaite"]))
    assert "weavaite" in said
    assert "did you mean weaviate?" in said


@pytest.mark.parametrize(
    ("url", "differs"),
    [
        ("redis://:other@cache.lan:6379/0", True),
        ("redis://default:other@cache.lan/0", True),
        ("redis://:right@cache.lan/5", False),
        ("redis://:other@cache.lan:6380/0", False),
        ("redis://queues:other@cache.lan/0", False),
        ("redis://:o[er@cache.lan/0", False),
        ("redis://:a/b@cache.lan/0", False),
    ],
)
def test_another_port_or_user_may_have_another_password(url: str, differs: bool) -> None:
    assert redis.other_password(url, "redis://:right@cache.lan:6379/1") == differs
    assert redis.other_password("redis://me:other@redis:6379/1", "redis://:right@redis:6379/1")


@pytest.mark.parametrize("host", ["redis", "cache.lan"])
def test_a_broker_url_with_another_password_for_the_same_redis_is_refused(host: str) -> None:
    given = {
        "CELERY_BROKER_URL": "redis://:OfTheBroker@redis:6379/1",
        "REDIS_PASSWORD": "OfTheCache",
        "REDIS_HOST": host,
    }
    if host == "redis":
        (said,) = refused(lambda: settings_of(given))
        assert said.startswith(".env line 1: CELERY_BROKER_URL: its password is not REDIS_PASSWORD")
        assert "OfThe" not in said
    else:
        assert settings_of(given)["CELERY_BROKER_URL"] == given["CELERY_BROKER_URL"]
