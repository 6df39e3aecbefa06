"""Secrets: which settings are secret, where a value comes from, and that no published one ever runs."""

from __future__ import annotations

import re
from functools import partial
from urllib.parse import quote, unquote, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stack import dotenv, release, secrets
from stack.choices import DATABASES, REDIS, VECTOR_STORES
from stack.errors import InvalidError
from stack.interpolate import interpolate
from stack.wiring import CORE_SECRETS
from tests.unit.wanted import (
    CREDENTIAL,
    LOOK_ALIKES,
    PUBLISHED,
    RELEASE,
    plain,
    refused,
    resolved,
    settings_of,
    stack_of,
)

CREDENTIALS = sorted(name for name in RELEASE.settings if CREDENTIAL.search(name) and name not in LOOK_ALIKES)
CHOICES = [*DATABASES.values(), *VECTOR_STORES.values(), REDIS]
EVERY_CHOICE = [
    *({"VECTOR_STORE": name} for name, choice in VECTOR_STORES.items() if choice.profile),
    *({"DB_TYPE": name} for name in DATABASES),
]
NEVER_SECRET = [
    *sorted(LOOK_ALIKES),
    "REDIS_USERNAME",
    "DB_HOST",
    "CELERY_BACKEND",
    "SECRETS_ARE_FUN",
    "GUNICORN_TIMEOUT",
    "CODE_EXECUTION_POOL_MAX_KEEPALIVE_CONNECTIONS",
    "DSL_EXPORT_ENCRYPT_DATASET_ID",
]


# --- Which ones ---


@pytest.mark.parametrize("name", [name for name in CREDENTIALS if "KEYFILE" not in name])
def test_a_credential_is_secret(name: str) -> None:
    assert secrets.is_secret(name)


@pytest.mark.parametrize("name", NEVER_SECRET)
def test_a_setting_that_is_only_named_alike_is_not(name: str) -> None:
    assert not secrets.is_secret(name)


# --- Made ---


def test_the_table_has_each_secret_that_something_needs_and_no_other() -> None:
    needed = {name for choice in CHOICES for name in choice.secrets} | set(CORE_SECRETS)
    assert set(secrets.GENERATED) == needed


@pytest.mark.parametrize("name", secrets.GENERATED)
def test_what_is_made_is_a_secret(name: str) -> None:
    assert secrets.is_secret(name)


def test_of_two_names_for_one_secret_both_are_secret_and_both_are_bound() -> None:
    for one, other in (pair for choice in CHOICES for pair in choice.same):
        assert secrets.is_secret(one) == secrets.is_secret(other), one
        assert (one in secrets.BOUND_TO_DATA) <= (other in secrets.BOUND_TO_DATA), one


@pytest.mark.parametrize("name", secrets.GENERATED)
def test_a_new_secret_is_long_and_another_one_each_time(name: str) -> None:
    one, other = secrets.make(name), secrets.make(name)
    assert len(one) == secrets.GENERATED[name].length >= 20
    assert one != other


@pytest.mark.parametrize("name", [name for name, one in secrets.GENERATED.items() if not one.strong])
def test_a_new_secret_is_letters_and_digits_only(name: str) -> None:
    """It goes through .env files, URLs, shells and SQL."""
    assert re.fullmatch("[A-Za-z0-9]+", secrets.make(name))


@pytest.mark.parametrize("name", [name for name, one in secrets.GENERATED.items() if one.strong])
def test_where_a_server_asks_for_it_there_is_one_of_each_kind_and_a_letter_first(name: str) -> None:
    assert re.fullmatch("[A-Z][a-z]-[0-9][A-Za-z0-9]+", secrets.make(name))


@pytest.mark.parametrize("name", ["SANDBOX_API_KEY", "CODE_EXECUTION_API_KEY", "PLUGIN_DAEMON_KEY", "WEAVIATE_API_KEY"])
@pytest.mark.parametrize("value", ["naïve key", "漢字", " first", "last ", "tab\tinside"])
def test_a_key_that_no_http_header_carries_is_refused(name: str, value: str) -> None:
    (line,) = refused(lambda: settings_of({name: value}))
    assert f"{name}: travels in an HTTP header" in line
    assert value not in line


def test_a_key_with_a_comma_would_be_two_to_weaviate() -> None:
    (line,) = refused(lambda: settings_of({"WEAVIATE_API_KEY": "hidden,too"}))
    assert "WEAVIATE_API_KEY: must have no comma" in line
    assert settings_of({"WEAVIATE_AUTHENTICATION_APIKEY_ALLOWED_KEYS": "hidden,too"})["WEAVIATE_API_KEY"] == "hidden"


@pytest.mark.parametrize(
    "name", ["SANDBOX_API_KEY", "PLUGIN_DAEMON_KEY", "PLUGIN_DIFY_INNER_API_KEY", "WEAVIATE_API_KEY"]
)
def test_any_key_that_a_header_carries_is_taken(name: str) -> None:
    assert settings_of({name: "p@ss:w/rd#$%'\" \\"})[name] == "p@ss:w/rd#$%'\" \\"


def test_the_init_password_fits_into_the_form_that_asks_for_it() -> None:
    assert len(secrets.make("INIT_PASSWORD")) <= 30


def test_an_init_password_that_the_form_would_refuse_is_refused() -> None:
    assert settings_of({"INIT_PASSWORD": "x" * 30})["INIT_PASSWORD"] == "x" * 30
    (said,) = refused(lambda: settings_of({"INIT_PASSWORD": "x" * 31}))
    assert said.startswith(".env line 1: INIT_PASSWORD: ")


@pytest.mark.parametrize("given", EVERY_CHOICE, ids=str)
def test_two_deployments_share_no_secret(given: dict[str, str]) -> None:
    one, other = settings_of(given, fresh=True), settings_of(given, fresh=True)
    assert set(one.values) >= set(one.chosen.secrets) >= set(CORE_SECRETS)
    assert set(one.secrets).isdisjoint(other.secrets)


@pytest.mark.parametrize("given", EVERY_CHOICE, ids=str)
def test_within_a_deployment_only_what_must_agree_is_the_same(given: dict[str, str]) -> None:
    wanted = settings_of(given, fresh=True)
    agree = {other: one for one, other in wanted.chosen.pairs}
    own = {agree.get(name, name) for name in wanted.chosen.secrets}
    assert len({wanted.values[name] for name in wanted.chosen.secrets}) == len(own)


@pytest.mark.parametrize("given", EVERY_CHOICE, ids=str)
def test_what_is_not_chosen_gets_no_secret(given: dict[str, str]) -> None:
    wanted = settings_of(given, fresh=True)
    sides = {name for pair in wanted.chosen.pairs for name in pair}
    assert set(wanted.values) & set(secrets.GENERATED) - sides <= set(wanted.chosen.secrets)


@pytest.mark.parametrize("given", EVERY_CHOICE, ids=str)
def test_a_placeholder_is_stable_and_no_published_value(given: dict[str, str]) -> None:
    wanted = settings_of(given)
    sides = {name for pair in wanted.chosen.pairs for name in pair}
    shown = {name: wanted.values[name] for name in wanted.chosen.secrets if name not in sides}
    assert shown == {name: secrets.placeholder(name) for name in shown}
    assert set(shown.values()).isdisjoint(PUBLISHED.values())


# --- Kept, given ---


@pytest.mark.parametrize("name", secrets.GENERATED)
def test_the_hosts_own_secret_stays(name: str) -> None:
    assert settings_of(kept={name: "ofthishost"}, fresh=True).values[name] == "ofthishost"


def test_of_the_hosts_env_nothing_but_its_own_secrets_stays() -> None:
    kept = {"LOG_LEVEL": "DEBUG", "S3_SECRET_KEY": "taken out", "CELERY_BROKER_URL": "redis://old"}
    assert settings_of(kept=kept).values == settings_of(workflow_log_retention_days=0).values


@pytest.mark.parametrize(
    "name", [name for name in secrets.GENERATED if name not in secrets.BOUND_TO_DATA and name in RELEASE.settings]
)
def test_the_operators_value_wins_over_the_hosts(name: str) -> None:
    assert settings_of({name: "ofoperator"}, kept={name: "ofthishost"}).values[name] == "ofoperator"


@pytest.mark.parametrize("name", secrets.BOUND_TO_DATA)
def test_a_secret_that_data_hangs_on_is_not_replaced(name: str) -> None:
    (said,) = refused(lambda: settings_of({name: "another"}, kept={name: "ofthishost"}))
    assert f"{name}: differs from the one in /opt/dify/.env on the host" in said
    assert "another" not in said.replace("made with another password", "")
    assert "ofthishost" not in said


@pytest.mark.parametrize("name", secrets.BOUND_TO_DATA)
@pytest.mark.parametrize("kept", [{}, {"DB_PASSWORD": "same", "SECRET_KEY": "same"}])
def test_the_same_value_or_a_first_one_is_welcome(name: str, kept: dict[str, str]) -> None:
    assert settings_of({name: "same"}, kept=kept).values[name] == "same"


@pytest.mark.parametrize("name", [name for name in secrets.BOUND_TO_DATA if name in secrets.GENERATED])
def test_an_empty_value_is_no_wish_to_replace_the_hosts(name: str) -> None:
    assert settings_of({name: ""}, kept={name: "ofthishost"}).values[name] == "ofthishost"


@pytest.mark.parametrize(("one", "other"), sorted({pair for choice in CHOICES for pair in choice.same}))
def test_neither_of_its_two_names_replaces_a_secret_that_data_hangs_on(one: str, other: str) -> None:
    if one not in secrets.BOUND_TO_DATA:
        assert other not in secrets.BOUND_TO_DATA
        return
    said = refused(lambda: settings_of({other: "another"}, kept={one: "ofthishost", other: "ofthishost"}))
    assert [line for line in said if f"{other}: differs from the one in" in line]


# --- Special characters ---

NASTY = "p@ss:w/rd#$%'\" \\ ${HOME} $$ `id` =x"
# What can be typed on one line; Compose and all that comes after take no other.
PRINTABLE = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Zl", "Zp")), min_size=1)


@given(PRINTABLE)
@example(NASTY)
@example("'")
@example('"')
@example("$")
@example(" both ends ")
@example("#")
def test_any_printable_secret_comes_through_the_file_and_composes_own_reading(value: str) -> None:
    wanted = settings_of({"REDIS_PASSWORD": value}, kept={"REDIS_PASSWORD": value})
    kept = dotenv.read(dotenv.write(wanted))
    assert kept["REDIS_PASSWORD"] == value
    assert interpolate("${REDIS_PASSWORD:?is missing}", kept) == value
    assert unquote(urlsplit(kept["CELERY_BROKER_URL"]).password or "") == value


@pytest.mark.parametrize("name", ["SECRET_KEY", "DB_PASSWORD", "REDIS_PASSWORD", "SANDBOX_API_KEY", "WEAVIATE_API_KEY"])
def test_a_nasty_secret_of_the_operators_is_in_the_containers_as_it_was_given(name: str) -> None:
    value = NASTY.replace(",", "")
    services = resolved(stack_of({name: value}))["services"]
    readers = [
        service for service, block in services.items() if value in map(str, block.get("environment", {}).values())
    ]
    assert readers


# --- No published one ---

# Words that are credentials in one setting and something harmless in another: the name of the database and its user
# (dify), of a bucket (difyai), users (admin, elastic); too short or too common to be searched for (password, 111, xxx).
# Each setting's own value is looked at instead.
WORDS = {"dify", "difyai", "admin", "elastic", "password", "111", "xxx"}


@pytest.mark.parametrize(("name", "default"), PUBLISHED.items())
def test_a_published_default_is_refused_from_the_operator(name: str, default: str) -> None:
    (said,) = refused(lambda: secrets.refuse_published(RELEASE, {name: default}))
    assert said.startswith(f"{name}: ")
    assert "published default of Dify 1.11.4" in said
    assert default in WORDS or default not in said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CELERY_BROKER_URL", "redis://:difyai123456@cache.lan:6379/1"),
        ("WEAVIATE_AUTHENTICATION_APIKEY_ALLOWED_KEYS", f"ofoperator,{PUBLISHED['WEAVIATE_API_KEY']}"),
        ("REDIS_PASSWORD", PUBLISHED["SECRET_KEY"]),
    ],
)
def test_a_published_default_is_refused_wherever_it_is_put(name: str, value: str) -> None:
    (said,) = refused(lambda: settings_of({name: value}))
    assert said.startswith(f".env line 1: {name}: ")
    assert value not in said


@pytest.mark.parametrize("version", release.versions())
@pytest.mark.parametrize("name", [*(one for one in secrets.GENERATED if one != "MINIO_ACCESS_KEY"), "SMTP_PASSWORD"])
def test_a_published_default_is_refused_under_any_other_name_too(name: str, version: str) -> None:
    facts = release.load(version)
    for value in secrets.published(facts).values():
        (said,) = refused(partial(secrets.refuse_published, facts, {name: value}, every=True))
        assert said.startswith(f"{name}: this is a published default of Dify {version}"), value
        assert ("leave it out, then one is made" in said) == (name != "SMTP_PASSWORD")


@pytest.mark.parametrize("default", sorted({unquote(value) for value in PUBLISHED.values() if "://" not in value}))
@pytest.mark.parametrize(
    "url", ["redis://:{}@redis:6379/0", "http://me:{}@proxy.lan:3128", "sentinel://:{}@a:1;sentinel://b:1"]
)
def test_a_published_default_is_refused_as_the_password_in_a_url(url: str, default: str) -> None:
    given = {"HTTP_PROXY": url.format(quote(default, safe=""))}
    (said,) = refused(lambda: secrets.refuse_published(RELEASE, given, every=True))
    assert said.startswith("HTTP_PROXY: this is a published default")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("S3_ACCESS_KEY", "dify"),
        ("TIDB_PUBLIC_KEY", "admin"),
        ("DB_DATABASE", "dify"),
        ("HTTP_PROXY", "http://dify:OfTheProxy@proxy.lan:3128"),
        ("SMTP_PASSWORD", "adminOfMails"),
    ],
)
def test_a_word_that_is_a_published_secret_elsewhere_may_be_a_name(name: str, value: str) -> None:
    assert settings_of({name: value})[name] == value


def test_a_host_that_runs_with_a_word_which_is_published_goes_on_and_is_warned() -> None:
    wanted = settings_of(kept={"DB_PASSWORD": "admin", "REDIS_PASSWORD": "ofthishost"})
    assert wanted["DB_PASSWORD"] == "admin"
    (said,) = [line for line in wanted.warnings if "published default" in line]
    assert said.startswith("DB_PASSWORD in /opt/dify/.env on the host: this is a published default of Dify 1.11.4")
    assert said.endswith("pyinfra inventory.py tasks.secrets.rotate name=DB_PASSWORD")


@pytest.mark.parametrize("name", [name for name in secrets.GENERATED if name in PUBLISHED])
def test_a_published_default_that_a_host_runs_with_is_not_taken_over(name: str) -> None:
    """A host that was set up by hand may have one: then it is refused or replaced, but neither kept nor left empty."""
    try:
        wanted = settings_of(kept={name: PUBLISHED[name]}, fresh=True)
    except InvalidError as error:
        assert name in str(error)
    else:
        assert wanted.values.get(name) not in (None, "", PUBLISHED[name])


def test_no_credential_has_its_published_value_in_any_container() -> None:
    environments = [service.get("environment", {}) for service in resolved(plain())["services"].values()]
    running = {name for name in PUBLISHED for one in environments if one.get(name) == PUBLISHED[name]}
    assert running == set()
    assert all(name in environment for name in PUBLISHED for environment in environments if "LOG_LEVEL" in environment)


# --- Strong enough for the server that runs here ---


@pytest.mark.parametrize("name", secrets.GENERATED)
def test_what_is_made_is_what_its_server_takes(name: str) -> None:
    assert secrets.GENERATED[name].lacks(secrets.make(name)) == ""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OPENSEARCH_PASSWORD", "Aaaaa-11"),
        ("OPENGAUSS_PASSWORD", "Aaaaa@11"),
        ("MINIO_SECRET_KEY", "12345678"),
        ("MINIO_ACCESS_KEY", "abc"),
        ("COUCHBASE_PASSWORD", "123456"),
        ("DB_PASSWORD", "1"),
    ],
)
def test_the_least_that_a_server_takes_is_taken(name: str, value: str) -> None:
    assert secrets.GENERATED[name].lacks(value) == ""


def test_a_server_that_runs_elsewhere_or_is_not_chosen_has_rules_of_its_own() -> None:
    theirs = {"VECTOR_STORE": "opensearch", "OPENSEARCH_HOST": "search.lan", "OPENSEARCH_PASSWORD": "short"}
    assert settings_of(theirs)["OPENSEARCH_PASSWORD"] == "short"
    assert settings_of({"MINIO_SECRET_KEY": "short"})["MINIO_SECRET_KEY"] == "short"


# --- Not shown ---


def test_of_overlapping_secrets_the_longest_is_masked_first() -> None:
    assert secrets.mask("a longpassword here", ["longpa", "longpassword"]) == "a [REDACTED] here"


@pytest.mark.parametrize("short", ["", "a", "12345"])
def test_a_value_too_short_to_be_told_from_a_word_is_left(short: str) -> None:
    assert secrets.mask("a 12345 b", [short]) == "a 12345 b"


@given(st.lists(st.text("abc$\\.*+/", min_size=6, max_size=20), min_size=1), st.text("abc$\\.*+/ \n", max_size=60))
def test_nothing_masked_can_be_read(values: list[str], around: str) -> None:
    shown = secrets.mask(around.join(values), values)
    assert all(value not in shown for value in values)


# What an HTTP header carries, and what only a password may be.
SPECIAL = ["p@ss:w/rd#$%'\"", "it's $5 off", "<b>&'quoted'</b>", 'back\\slash "x"']
TWO_LINES = "two\nlines of it"
IN_FILES = [
    *((".env", "DB_PASSWORD", "DB_PASSWORD=", value) for value in (*SPECIAL, TWO_LINES)),
    *(("volumes/sandbox/conf/config.yaml", "SANDBOX_API_KEY", "  key: ", value) for value in SPECIAL),
]


@pytest.mark.parametrize(("path", "name", "start", "value"), IN_FILES)
def test_a_secret_is_masked_in_a_file_however_the_file_spells_it(path: str, name: str, start: str, value: str) -> None:
    stack = stack_of({name: value})
    lines = stack.files[path].data.decode().splitlines()
    (shown,) = [secrets.mask(line, stack.settings.secrets) for line in lines if line.startswith(start)]
    assert shown.removeprefix(start).strip("'\"") == "[REDACTED]"


@pytest.mark.parametrize("value", [*SPECIAL, "plainpassword"])
def test_a_file_with_a_secret_in_it_is_roots_alone(value: str) -> None:
    stack = stack_of({"SANDBOX_API_KEY": value})
    assert {path for path, file in stack.files.items() if file.mode == 0o600} == {
        ".env",
        "ssrf_proxy/upstream.conf",
        "volumes/sandbox/conf/config.yaml",
    }


@pytest.mark.parametrize("word", ["sandbox", "localhost"])
def test_a_secret_that_is_an_ordinary_word_closes_no_other_file(word: str) -> None:
    """Squid runs as user 13: a file of mode 0600 is one that it cannot read."""
    assert stack_of({"SMTP_PASSWORD": word}).files["ssrf_proxy/squid.conf"].mode == 0o644


def test_a_password_inside_an_address_is_a_secret_too() -> None:
    address = "http://operator:Passw0rd@proxy.lan:3128"
    assert address in settings_of({"SANDBOX_HTTP_PROXY": address}).secrets
    assert "http://proxy.lan:3128" not in settings_of({"SANDBOX_HTTP_PROXY": "http://proxy.lan:3128"}).secrets
