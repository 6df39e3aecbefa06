"""No published secret runs, whatever is chosen: in no container, no command, no health check, no file."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import pytest

from stack import release
from stack.choices import DATABASES, VECTOR_STORES
from stack.render import Stack, render
from tests.unit.wanted import CREDENTIAL, LOOK_ALIKES, resolved, settings_of

# Published secrets that are ordinary words too: the name of the database, of users, of a bucket, a number. They are looked
# for where a secret can be only; all others, of these and of that many characters, everywhere.
WORDS = {"dify", "difyai", "admin", "elastic", "password", "111", "xxx"}
# An image that is called like the key of its service; an argument that has the name of its value.
HARMLESS = ("langgenius/dify-sandbox:", "password=password")
# A word that is given as a password: --password=word, -pword, user:word@, PWD='word', "key": "word".
BEFORE = r"(?:(?:pass(?:word|wd)?|pwd|secret|token|key)['\"]?\s*[=: ]\s*['\"]?|(?<=\s)-p\s?|://[^/@\s]*:|-u\s\S+:)"
AS_SECRET = {word: re.compile(rf"{BEFORE}{word}\b(?![-./:])", re.IGNORECASE) for word in WORDS}

CHOICES: list[dict[str, str]] = [
    *({"VECTOR_STORE": name} for name, choice in VECTOR_STORES.items() if choice.profile),
    *({"DB_TYPE": name} for name in DATABASES),
    {"ETL_TYPE": "Unstructured"},
]
CATALOGUE = [
    *((version, given, "dify") for version in release.versions() for given in CHOICES),
    *((version, {}, "middleware") for version in release.versions()),
]


@cache
def published(version: str) -> frozenset[str]:
    """Every secret that everybody can read in a release: defaults of settings, and values that its Compose file fixes."""
    facts = release.load(version)
    defaults = {s.default for s in facts.settings.values() if _names_a_secret(s.name)}
    blocks = json.loads((release.RELEASES / version / "services.json").read_text())["services"].values()
    fixed = {
        entry["value"]
        for block in blocks
        for name, entry in (block.get("environment") or {}).items()
        if _names_a_secret(name) and isinstance(entry, dict) and "value" in entry
    }
    return frozenset({str(value) for value in defaults | fixed} - {"", "true", "false"})


def _names_a_secret(name: str) -> bool:
    return (
        bool(CREDENTIAL.search(name))
        and name not in LOOK_ALIKES
        and not re.search("TOKENS|TOKENIZER|_ENABLED$|USERS$", name)
    )


class Deployment:
    """All that reaches a host of a choice.

    stack: as rendered, with secrets as a host makes them.
    blocks: its services, with all settings filled in.
    texts: (where, text) of every file and every part of a service.
    """

    def __init__(self, version: str, given: dict[str, str], mode: str) -> None:
        self.stack: Stack = render(settings_of(given, dify_version=version, mode=mode, fresh=True))
        self.blocks: dict[str, dict[str, Any]] = resolved(self.stack)["services"]
        self.texts = [(path, _without_harmless(file.data.decode())) for path, file in self.stack.files.items()]
        for name, block in self.blocks.items():
            self.texts += [(f"{name} {key}", _without_harmless(json.dumps(value))) for key, value in block.items()]


def _without_harmless(text: str) -> str:
    for harmless in HARMLESS:
        text = text.replace(harmless, "")
    return text


@pytest.fixture(scope="module", params=CATALOGUE, ids=lambda one: "-".join([one[0], *one[1].values(), one[2]]))
def deployment(request: pytest.FixtureRequest) -> tuple[str, Deployment]:
    """(version, deployment) of each choice of each release."""
    version, given, mode = request.param
    return version, Deployment(version, given, mode)


def given_as_passwords(text: str) -> list[str]:
    return [word for word in sorted(WORDS) if AS_SECRET[word].search(text)]


def secrets_in(block: dict[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in block.get("environment", {}).items() if _names_a_secret(name)}


def test_no_published_secret_is_anywhere(deployment: tuple[str, Deployment]) -> None:
    version, found = deployment
    for where, text in found.texts:
        assert {value for value in published(version) - WORDS if value in text} == set(), where


def test_no_word_that_is_a_published_secret_is_the_value_of_one(deployment: tuple[str, Deployment]) -> None:
    version, found = deployment
    for name, block in found.blocks.items():
        assert {n: v for n, v in secrets_in(block).items() if v in published(version)} == {}, name


def test_no_word_that_is_a_published_secret_is_given_as_a_password(deployment: tuple[str, Deployment]) -> None:
    _, found = deployment
    assert [(where, words) for where, text in found.texts if (words := given_as_passwords(text))] == []


def test_each_secret_of_what_is_chosen_is_one_of_this_host(deployment: tuple[str, Deployment]) -> None:
    version, found = deployment
    settings = found.stack.settings
    made = {name: settings.values.get(name) for name in settings.chosen.secrets}
    assert None not in made.values()
    assert published(version).isdisjoint(made.values())


@pytest.mark.parametrize("version", release.versions())
def test_what_is_looked_for_is_what_the_release_publishes(version: str) -> None:
    """Else all of the above would find nothing in nothing."""
    assert {"difyai123456", "Difyai123456", "minioadmin", "Qazwsxedc!@#123", "dify-sandbox", *WORDS} <= published(
        version
    )
    assert {value for value in published(version) if value.isdigit() or len(value) < 6} <= WORDS


@pytest.mark.parametrize(
    "text",
    ["mysql -uroot -p111", "mysql -u root -p 111", "curl -u admin:admin http://x", "http://root:password@x", "PASSWORD=dify",
     '"ORACLE_PASSWORD": "dify"', "--password elastic", "pwd: 'xxx'"],
)  # fmt: skip
def test_a_word_that_is_given_as_a_password_would_be_found(text: str) -> None:
    assert given_as_passwords(text)


@pytest.mark.parametrize("text", ["POSTGRES_DB: dify", "the key admin-user", "psql -U dify", "${DB_PASSWORD:?x}"])
def test_a_word_elsewhere_is_none(text: str) -> None:
    assert given_as_passwords(text) == []
