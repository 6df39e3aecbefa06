"""Which image a service runs and where it is pulled from."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stack import images
from stack.release import tag_of
from tests.unit.wanted import CORE, RELEASE, plain, refused, settings_of, stack_of


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("nginx", "docker.io/library/nginx"),
        ("nginx:1.28.0", "docker.io/library/nginx:1.28.0"),
        ("langgenius/dify-api:1.11.4", "docker.io/langgenius/dify-api:1.11.4"),
        ("a/b/c:1", "docker.io/a/b/c:1"),
        ("nginx@sha256:abc", "docker.io/library/nginx@sha256:abc"),
        ("docker.io/library/nginx:1", "docker.io/library/nginx:1"),
        ("docker.io/nginx:1", "docker.io/library/nginx:1"),
        ("quay.io/coreos/etcd:v3", "quay.io/coreos/etcd:v3"),
        ("ghcr.io/chroma-core/chroma:0.5.20", "ghcr.io/chroma-core/chroma:0.5.20"),
        ("registry:5000/nginx:1", "registry:5000/nginx:1"),
        ("localhost/nginx", "localhost/nginx"),
    ],
)
def test_an_image_has_one_full_name(image: str, name: str) -> None:
    assert images.canonical(image) == name


BOTH = {"docker.io": "registry.lan/hub", "quay.io": "registry.lan:5000"}


@pytest.mark.parametrize(
    ("image", "mirrors", "pulled"),
    [
        ("nginx:1", {}, "nginx:1"),
        ("nginx:1", "", "nginx:1"),
        ("nginx:1", BOTH, "registry.lan/hub/library/nginx:1"),
        ("nginx:1", {"docker.io": "registry.lan/"}, "registry.lan/library/nginx:1"),
        ("docker.io/nginx:1", BOTH, "registry.lan/hub/library/nginx:1"),
        ("langgenius/dify-api:1", BOTH, "registry.lan/hub/langgenius/dify-api:1"),
        ("quay.io/coreos/etcd:v3", BOTH, "registry.lan:5000/coreos/etcd:v3"),
        ("ghcr.io/a/b:1", BOTH, "ghcr.io/a/b:1"),
        ("ghcr.io/a/b:1", "registry.lan/all", "registry.lan/all/a/b:1"),
        ("nginx@sha256:abc", BOTH, "registry.lan/hub/library/nginx@sha256:abc"),
    ],
)
def test_a_mirror_takes_the_place_of_its_registry(image: str, mirrors: str | dict[str, str], pulled: str) -> None:
    assert images.mirrored(image, mirrors) == pulled


def test_every_core_service_has_an_image_that_is_pinned() -> None:
    assert set(plain().services) == CORE
    for service in plain().services.values():
        name, _, tag = service.image.rpartition(":")
        assert name
        assert tag != "latest"


def test_worker_and_beat_run_the_image_of_the_api() -> None:
    services = stack_of(images={"api": "langgenius/dify-api:1.11.4-next"}, allow_mixed_images=True).services
    assert {services[name].image for name in ("api", "worker", "worker_beat")} == {"langgenius/dify-api:1.11.4-next"}


def test_an_override_of_one_image_leaves_the_others() -> None:
    services, before = stack_of(images={"nginx": "nginx:1.29.1"}).services, plain().services
    assert {name for name in services if services[name].image != before[name].image} == {"nginx"}
    assert services["nginx"].image == "nginx:1.29.1"


def test_an_override_that_names_its_registry_stands_beside_mirrors_of_others() -> None:
    wanted = settings_of(images={"nginx": "registry.lan/own/nginx:1"}, image_registry={"docker.io": "mirror.lan"})
    assert images.reference(wanted, "nginx") == "registry.lan/own/nginx:1"
    assert images.reference(wanted, "redis") == "mirror.lan/library/redis:6-alpine"


@pytest.mark.parametrize(
    ("typed", "hint"), [("ngnix", "; did you mean nginx?"), ("plugin-daemon", "; did you mean plugin_daemon?")]
)
def test_an_override_for_no_service_is_refused(typed: str, hint: str) -> None:
    (said,) = refused(lambda: stack_of(images={typed: "nginx:1"}))
    assert said == f"images['{typed}']: no such service; known: {', '.join(RELEASE.images)}{hint}"


def test_an_image_is_pulled_once_however_many_services_run_it() -> None:
    assert len(plain().images) == len(set(plain().images)) == len(CORE) - 2


@pytest.mark.parametrize("service", images.TOGETHER)
def test_an_image_of_another_version_than_its_fellows_is_refused(service: str) -> None:
    (said,) = refused(lambda: stack_of(images={service: "registry.lan/own/image:9.9.9"}))
    assert said.startswith(f"images[{service!r}] = 'registry.lan/own/image:9.9.9': ")
    assert tag_of(RELEASE.images[service]) in said
    assert said.endswith("choose another dify_version, or set allow_mixed_images = True")


def test_every_image_that_does_not_fit_is_named_at_once() -> None:
    wrong = {"api": "langgenius/dify-api:latest", "sandbox": "langgenius/dify-sandbox", "ngnix": "nginx:1"}
    assert [said.partition("]")[0] for said in refused(lambda: stack_of(images=wrong))] == [
        "images['ngnix'",
        "images['api'",
        "images['sandbox'",
    ]


@pytest.mark.parametrize(
    "image",
    [
        "registry.lan:5000/own/dify-api:1.11.4",
        "langgenius/dify-api:1.11.4@sha256:" + "0" * 64,
        "langgenius/dify-api@sha256:" + "0" * 64,
    ],
)
def test_the_same_version_may_come_from_elsewhere(image: str) -> None:
    assert stack_of(images={"api": image}).services["worker"].image == image


def test_two_versions_may_be_mixed_by_who_says_so() -> None:
    mixed = stack_of(images={"plugin_daemon": "langgenius/dify-plugin-daemon:0.5.3-local"}, allow_mixed_images=True)
    assert mixed.services["plugin_daemon"].image == "langgenius/dify-plugin-daemon:0.5.3-local"


def test_a_service_that_the_release_has_no_image_for_is_named() -> None:
    wanted = settings_of()
    bare = replace(wanted, release=replace(RELEASE, images={"api": "langgenius/dify-api:1.11.4"}))
    with pytest.raises(ValueError, match=r"^stack/releases/1\.11\.4/images\.yaml names no image for kibana$"):
        images.reference(bare, "kibana")
