"""A registry that wants a login."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import bcrypt
import pytest

from lab import engine, network, registry
from lab.hosts import Host
from tests.lab.checkout import Checkout
from tests.lab.conftest import CHECKOUT
from tests.lab.containers import reached, sh

NAME = f"test-registry-with-login-{CHECKOUT}"
PASSWORD = "Passw0rdOfTheRegistry"
MIRROR = {"image_registry": f"{NAME}:5000/docker.io", "docker_insecure_registries": [f"{NAME}:5000"]}


@pytest.fixture(scope="module", autouse=True)
def registry_with_login(images: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The lab's registry a second time: the same images behind a password."""
    folder = tmp_path_factory.mktemp("registry")
    (folder / "htpasswd").write_text(f"operator:{bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()}\n")
    engine.docker("rm", "--force", NAME, check=False)
    words = ["run", "--detach", "--name", NAME, "--network", network.NAME, "--network-alias", NAME]
    words += ["--volumes-from", f"{_lab_registry()}:ro", "--volume", f"{folder}:/login:ro"]
    words += ["--env", "REGISTRY_AUTH_HTPASSWD_REALM=test", "--env", "REGISTRY_AUTH_HTPASSWD_PATH=/login/htpasswd"]
    engine.docker(*words, _lab_registry_image())
    yield
    engine.docker("rm", "--force", NAME)


def _lab_registry() -> str:
    found = registry.container()
    assert found
    return str(found["Id"])


def _lab_registry_image() -> str:
    found = registry.container()
    assert found
    return str(found["ImageID"])


def test_a_wrong_login_stops_before_anything_runs(scratch: Callable[..., Checkout], checkout: Checkout) -> None:
    host = checkout.hosts[0]
    login = {f"{NAME}:5000": {"username": "operator", "password": "wrong-" + PASSWORD}}
    run = scratch(host, **MIRROR, registry_login=login).deploy("-vvv", "--debug")
    run.failed("cannot be pulled", "registry_login")
    assert PASSWORD not in run.output
    assert host.run("test -e /opt/dify/.env").returncode == 1


def test_a_login_is_used_and_left_nowhere(checkout: Checkout, tmp_path: Path) -> None:
    host = checkout.hosts[0]
    checkout.knobs = {**MIRROR, "registry_login": {f"{NAME}:5000": {"username": "operator", "password": PASSWORD}}}
    run = checkout.deploy("-vvv", "--debug").ok()
    assert PASSWORD not in run.output
    reached(host)
    assert (
        sh(host, "docker inspect --format '{{.Config.Image}}' dify-redis-1")
        == f"{NAME}:5000/docker.io/library/redis:6-alpine"
    )
    assert _leftovers(host) == ""


def _leftovers(host: Host) -> str:
    return sh(host, "find /root/.docker /tmp /opt/dify -name config.json 2>/dev/null || true")
