"""What a setting may be: every setting of every release is declared, and each kind takes what its readers take."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from stack import middleware, release, types, validation
from stack.choices import DATABASES, VECTOR_STORES
from stack.secrets import is_secret

# Defaults that only show the form of a value.
EXAMPLES = {"AZURE_BLOB_ACCOUNT_URL", "TENCENT_COS_SCHEME", "SUPABASE_URL"}
ACCEPTED = [
    ("boolean", ["true", "false", "True", "FALSE"]),
    ("boolean or debug", ["true", "debug"]),
    ("integer 1..", ["1", "007", "9223372036854775807"]),
    ("integer -1..", ["-1", "0"]),
    ("integer ..-1", ["-1", "-9223372036854775808"]),
    ("integer -1.. or max", ["max", "2"]),
    ("number 0<.. s", ["0.1", "5", "5.", "600.0"]),
    ("number 0..1", ["0", "1", "0.25"]),
    ("size postgresql", ["128MB", "4kB", "1.5GB", "16384"]),
    ("size mysql", ["512M", "1g", "1073741824"]),
    ("size nginx", ["100M", "100m", "0", "8k"]),
    ("size java", ["512m", "2G"]),
    ("size oceanbase", ["6G", "6GB"]),
    ("duration nginx", ["65", "3600s", "1h 30m", "500ms"]),
    ("duration postgresql", ["0", "5min", "30s"]),
    (
        "url",
        [
            "http://api:5001",
            "https://dify.example.com/",
            "https://me:pw@[2001:db8::1]:8443/a?b=c#d",
            "http://ssrf_proxy:3128",
        ],
    ),
    ("url containing {hook_id}", ["http://localhost/e/{hook_id}"]),
    ("url redis rediss", ["redis://redis:6379/0", "rediss://:pw@redis/1"]),
    ("address", ["minio:9000", "grpc://weaviate:50051", "https://oss.example.com/x", "10.0.0.1"]),
    ("address list", ["10.0.0.1:26379", "a:1,b:2,[::1]:3"]),
    ("host", ["db_postgres", "db.example.com", "10.0.0.1", "::1", "[::1]", "2001:db8::5", "db.", "bücher.example"]),
    ("port", ["1", "80", "9999", "10000", "65535"]),
    ("published", ["8080", "127.0.0.1:8080", "[::1]:80"]),
    ("choice text json", ["text", "json"]),
    ("words TLSv1.2 TLSv1.3", ["TLSv1.3", "TLSv1.2 TLSv1.3"]),
    ("list", ["exe", "exe,bat", "a, b"]),
    ("origins", ["*", "https://a.example,http://b.example:8080", r"https://.*\.example\.com"]),
    ("json", ["{}", '{"a": [1]}', "null"]),
    ("email", ["me@example.com"]),
    ("path", ["/a b", "storage", "./volumes/mysql"]),
    ("file", ["dify.crt", "a_b-c"]),
    ("text", ["x", " ", "p@ss:w/rd#$%'\" \\", "ü"]),
]


@pytest.mark.parametrize(("words", "values"), ACCEPTED)
def test_a_kind_takes_what_its_readers_take(words: str, values: list[str]) -> None:
    kind = types._type("", "", words)
    assert [value for value in values if not kind.accepts(value)] == []


@pytest.mark.parametrize("words", sorted({kind.words for kind in types.declared().values()}))
def test_no_kind_takes_an_empty_value_or_one_with_the_end_of_a_line_or_nothing_in_it(words: str) -> None:
    kind = next(kind for kind in types.declared().values() if kind.words == words)
    assert not kind.accepts("")
    assert kind.kind in ("text", "secret", "path", "list", "json") or not any(
        kind.accepts(f"{c}\n") for c in ("1", "80", "true", "a")
    )
    assert not kind.accepts("a\0b")
    assert kind.allowed


@pytest.mark.parametrize(
    "port", [0, 1, 9, 99, 999, 5999, 9999, 59999, 64999, 65499, 65529, 65535, 65536, 65540, 66000, 99999, 100000]
)
def test_a_port_is_one_of_those_there_are(port: int) -> None:
    assert types._type("", "", "port").accepts(str(port)) == (1 <= port <= 65535)


@given(st.integers())
@example(0)
def test_a_whole_number_in_range_is_taken_however_large(number: int) -> None:
    assert types._type("", "", "integer 1..").accepts(str(number)) == (number >= 1)


def test_a_word_that_is_no_kind_is_found_when_the_table_is_read() -> None:
    with pytest.raises(ValueError, match="no type 'bolean'"):
        types._type("", "", "bolean")


@pytest.mark.parametrize("version", release.versions())
def test_every_setting_of_every_release_has_a_type(version: str) -> None:
    assert [name for name in release.load(version).settings if name not in types.declared()] == []


@pytest.mark.parametrize("version", release.versions())
def test_every_setting_of_middleware_mode_has_a_type_of_its_own(version: str) -> None:
    ours = middleware.release_for("middleware", release.load(version)).settings
    assert [name for name in ours if types.of(name).group == "Others" and types.of(name).kind != "port"] == []


@pytest.mark.parametrize("version", release.versions())
def test_every_default_is_what_its_setting_may_be(version: str) -> None:
    wrong = {
        name
        for name, setting in release.load(version).settings.items()
        if setting.default and not types.of(name).accepts(setting.default)
    }
    assert wrong == EXAMPLES


def test_nothing_is_declared_that_no_release_has() -> None:
    known = {
        name
        for version in release.versions()
        for mode in ("dify", "middleware")
        for name in middleware.release_for(mode, release.load(version)).settings
    }
    # Of Compose's middleware file; our folders have the names of the other one.
    assert set(types.declared()) - known == set()


def test_a_secret_is_declared_as_one() -> None:
    assert [n for n, kind in types.declared().items() if (kind.kind == "secret") != is_secret(n)] == []


def test_nothing_is_declared_twice() -> None:
    names = [line.split(":")[0] for line in types.DECLARED.read_text().splitlines() if line.startswith("  ")]
    assert len(names) == len(set(names)) == len(types.declared())


@pytest.mark.parametrize(("name", "choices"), [("DB_TYPE", DATABASES), ("VECTOR_STORE", VECTOR_STORES)])
def test_a_choice_that_we_bring_up_is_one_that_may_be_given(name: str, choices: dict[str, object]) -> None:
    assert set(types.of(name).choices) == set(choices)


def test_a_name_that_nobody_declared_is_text_and_a_published_port_a_port() -> None:
    assert types.of("BRAND_NEW").accepts("anything at all")
    assert not types.of("EXPOSE_BRAND_NEW_PORT").accepts("anything at all")


def test_renames_lead_to_settings_that_a_release_has() -> None:
    known = {name for version in release.versions() for name in release.load(version).settings}
    assert set(validation.renames().values()) <= known
    assert not set(validation.renames()) & known
    assert yaml.safe_load(validation.RENAMES.read_text()) == validation.renames()
