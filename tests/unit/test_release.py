"""The data of the releases, and the shared settings of the rendered Compose file beside them.

What the services are beside the release's own is for a real Compose to say: tests/lab/test_conformance.py.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from stack import importer, release, secrets
from stack.images import TOGETHER
from stack.render import service_names
from tests.unit.wanted import BACKEND, RELEASE, compose_of, refused, resolved, stack_of

VERSIONS = release.versions()
VARIABLE = re.compile(r"\$\{(\w+)(?::-(.*)|:\?.*)\}")


def read(text: Any) -> Any:
    """(setting, default) of a value that is read from .env; default None when it must be there."""
    match = VARIABLE.fullmatch(text) if isinstance(text, str) else None
    return (match[1], match[2]) if match else text


def compose(version: str) -> dict[str, Any]:
    return compose_of(stack_of(dify_version=version))


def shared(version: str) -> list[str]:
    """The names that upstream shares, in its order."""
    return [name for name, (setting, _) in release.table(version).items() if setting.shared]


def handed(version: str) -> list[str]:
    """Those of them that our containers get too."""
    return [name for name in shared(version) if not name.startswith(release.NOT_SHARED)]


def test_which_releases_there_are() -> None:
    assert VERSIONS == ["1.11.4", "1.13.3"]
    assert [len(release.table(version)) for version in VERSIONS] == [681, 706]
    assert [len(shared(version)) for version in VERSIONS] == [677, 703]


def test_a_release_without_data_is_refused() -> None:
    assert refused(lambda: release.load("1.13.4")) == [
        "dify_version = '1.13.4': no such release here; known: 1.11.4, 1.13.3; did you mean 1.13.3?"
    ]


def test_what_is_not_shared() -> None:
    first, second = ({name for name, (s, _) in release.table(v).items() if not s.shared} for v in VERSIONS)
    assert first == {"COMPOSE_PROFILES", "MARKETPLACE_URL", "NEXT_TELEMETRY_DISABLED", "PM2_INSTANCES"}
    assert second == first - {"PM2_INSTANCES"}


def test_defaults_with_odd_characters_are_kept() -> None:
    assert RELEASE.default("LOG_DATEFORMAT") == "%Y-%m-%d %H:%M:%S"
    assert RELEASE.default("OPENSEARCH_INITIAL_ADMIN_PASSWORD") == "Qazwsxedc!@#123"


@pytest.mark.parametrize("version", VERSIONS)
def test_what_the_services_read_are_settings(version: str) -> None:
    known = release.table(version)
    for name, block in release.upstream(version)["services"].items():
        for setting, _ in importer.variables(block):
            assert setting in known
            assert name in known[setting][1]


@pytest.mark.parametrize("version", VERSIONS)
def test_shared_settings_are_those_of_the_release_in_its_order(version: str) -> None:
    mine = [name for name in compose(version)["x-shared-env"] if not release.load(version).settings[name].forgotten]
    assert mine == handed(version)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_shared_setting_has_the_releases_default_unless_it_is_a_credential(version: str) -> None:
    known = release.load(version)
    ours = {name: read(text) for name, text in compose(version)["x-shared-env"].items()}
    other = {name for name in handed(version) if ours[name] != (name, known.default(name))}
    published = {name for name in secrets.published(known) if known.settings[name].shared}
    # One that has no default in the release, and is made for each host.
    assert other == {*published, "INIT_PASSWORD"}
    assert all(ours[name][1] in (None, "") for name in other)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("service", service_names())
def test_who_gets_all_shared_settings(version: str, service: str) -> None:
    environment = compose(version)["services"][service].get("environment", {})
    facts = release.upstream(version)["services"].get(service, {})
    assert (set(handed(version)) <= environment.keys()) is (service in BACKEND)
    assert facts.get("reads_shared_settings", False) is (service in BACKEND)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_service_of_the_release_is_offered_with_an_image(version: str) -> None:
    upstream = set(release.upstream(version)["services"])
    assert upstream <= set(service_names())
    assert set(release.load(version).images) == upstream - release.IMAGE_OF.keys()


@pytest.mark.parametrize("version", VERSIONS)
def test_every_image_is_pinned_that_can_be(version: str) -> None:
    images = release.load(version).images
    # No version of it is published under a name.
    assert {name for name, image in images.items() if importer.floats(image)} == {"vastbase"}


@pytest.mark.parametrize("version", VERSIONS)
def test_an_image_is_the_releases_unless_that_floats(version: str) -> None:
    upstream = release.upstream(version)["services"]
    ours = release.load(version).images
    named = {name: block["image"] for name, block in upstream.items() if "image" in block and name in ours}
    assert {name: ours[name] for name in named if not importer.floats(named[name])} == {
        name: image for name, image in named.items() if not importer.floats(image)
    }


def test_a_newer_release_keeps_the_pins_of_the_older_one() -> None:
    older, newer = map(importer.known, VERSIONS)
    assert importer.pin(newer, older)[0].images == newer.images
    assert {name for name, image in newer.images.items() if older.images.get(name) != image} == set(TOGETHER)


def test_an_image_has_the_tag_that_stands_last() -> None:
    names = ("nginx", "nginx:1.28.0", "lan:5000/nginx", "lan:5000/nginx:1", "nginx:1@sha256:ab", "nginx@sha256:ab")
    assert [release.tag_of(name) for name in names] == ["", "1.28.0", "", "1", "1", ""]


def test_a_template_knows_what_its_release_lacks() -> None:
    web = {version: compose(version)["services"]["web"]["environment"] for version in VERSIONS}
    assert "PM2_INSTANCES" in web["1.11.4"]
    assert "PM2_INSTANCES" not in web["1.13.3"]


@pytest.mark.parametrize(
    ("name", "service", "variable"),
    [
        ("TOP_K_MAX_VALUE", "web", "TOP_K_MAX_VALUE"),
        ("INDEXING_MAX_SEGMENTATION_TOKENS_LENGTH", "web", "INDEXING_MAX_SEGMENTATION_TOKENS_LENGTH"),
        ("WEAVIATE_AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED", "weaviate", "AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED"),
    ],
)
def test_a_default_that_is_given_reaches_a_service_that_has_another_one(name: str, service: str, variable: str) -> None:
    default = RELEASE.default(name)
    unset, given = (resolved(stack_of(wish))["services"][service]["environment"] for wish in ({}, {name: default}))
    assert unset[variable] != default
    assert given[variable] == default
