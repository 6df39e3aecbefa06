"""The Vagrantfile is right for both providers, and `pyinfra @vagrant deploy.py` deploys; a stand-in speaks for Vagrant there.

The machine is Debian 12, the one test of this system: its Docker comes from the stand-in of Docker's repository.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import repository
from lab.home import KEY
from lab.hosts import Host
from lab.inventory import data
from tests.lab.checkout import REPOSITORY, Checkout, Run
from tests.lab.containers import containers, reached, sh
from tests.lab.test_systems import PACKAGES

pytestmark = pytest.mark.systems

needs_vagrant = pytest.mark.skipif(
    not shutil.which("vagrant"), reason="vagrant is not here: apt-get install vagrant-libvirt"
)
# Vagrant asks VirtualBox for its version before it looks at the Vagrantfile; here is none.
VIRTUALBOX = "#!/bin/sh\necho 7.0.14r161095\n"


def program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


def vagrant(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the real vagrant on a copy of the Vagrantfile, which leaves nothing in the checkout or at home."""
    shutil.copy(REPOSITORY / "Vagrantfile", folder)
    program(folder / "bin", "VBoxManage", VIRTUALBOX)
    variables = {
        **os.environ,
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "VAGRANT_HOME": str(folder / "home"),
        "VAGRANT_CHECKPOINT_DISABLE": "1",  # does not ask its maker for a newer version
        **environment,
    }
    return subprocess.run(
        ["vagrant", *words], cwd=folder, env=variables, text=True, capture_output=True, stdin=subprocess.DEVNULL
    )


@needs_vagrant
@pytest.mark.parametrize("provider", ["libvirt", "virtualbox"])
def test_the_vagrantfile_is_valid(tmp_path: Path, provider: str) -> None:
    done = vagrant(tmp_path, "validate", VAGRANT_DEFAULT_PROVIDER=provider, DIFY_MACHINES="2")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Vagrantfile validated successfully" in done.stdout


@needs_vagrant
def test_the_environment_says_what_machines_there_are(tmp_path: Path) -> None:
    done = vagrant(tmp_path, "status", VAGRANT_DEFAULT_PROVIDER="libvirt", DIFY_MACHINES="3", DIFY_SYSTEM="rocky9")
    assert [name for name in ("dify-1", "dify-2", "dify-3", "dify-4") if name in done.stdout] == [
        "dify-1",
        "dify-2",
        "dify-3",
    ]


@needs_vagrant
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (
            "DIFY_SYSTEM",
            "debian10",
            "DIFY_SYSTEM=debian10: not one of debian12, debian13, ubuntu2204, ubuntu2404, rocky9",
        ),
        ("DIFY_MACHINES", "0", "DIFY_MACHINES=0: not a number above 0"),
        ("DIFY_MEMORY", "4g", "DIFY_MEMORY=4g: not a number above 0"),
    ],
)
def test_a_wrong_wish_is_refused(tmp_path: Path, name: str, value: str, said: str) -> None:
    done = vagrant(tmp_path, "validate", VAGRANT_DEFAULT_PROVIDER="libvirt", **{name: value})
    assert done.returncode == 1
    assert said in done.stderr


# pyinfra's connector, real; the machine, a lab host with a user who has sudo, as Vagrant's boxes have.


@pytest.fixture(scope="module")
def checkout(new_host: Callable[..., Host], tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return Checkout.make(tmp_path_factory.mktemp("checkout"), new_host(suite="bookworm"))


@pytest.fixture(scope="module")
def host(checkout: Checkout) -> Host:
    """A bare host that the stand-in calls dify-1; where it finds packages and images stands in the group data of Vagrant's."""
    host = checkout.hosts[0]
    knobs = {name: value for name, value in data(host).items() if not name.startswith("ssh_")}
    with (checkout.folder / "group_data/@vagrant.py").open("a") as file:
        file.writelines(f"{name} = {value!r}\n" for name, value in knobs.items())
    return host


@pytest.fixture
def stand_in(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = {"HostName": "127.0.0.1", "User": "ops", "Port": str(host.ssh_port), "IdentityFile": str(KEY)}
    program(
        tmp_path / "bin", "vagrant", f'#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name("vagrant.py")} "$@"\n'
    )
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("VAGRANT_STAND_IN", json.dumps({"dify-1": place, "dify-2": None}))


def deploy(checkout: Checkout) -> Run:
    return checkout.pyinfra("@vagrant", "deploy.py", "-y", inventory=False)


def test_vagrants_machines_are_deployed_to(checkout: Checkout, host: Host, stand_in: None) -> None:
    run = deploy(checkout).ok().says("@vagrant/dify-1")
    assert "dify-2" not in run.output
    reached(host)


def test_its_docker_comes_from_dockers_repository(host: Host) -> None:
    assert sh(host, PACKAGES).count("~stand.in") == 4
    assert f"URIs: {repository.URL}/debian\n" in sh(host, "cat /etc/apt/sources.list.d/docker.sources")
    fingerprint = repository.data()["docker_repository_key"]
    assert f":{fingerprint}:" in sh(host, "gpg --show-keys --with-colons /etc/apt/keyrings/docker.asc")


def test_a_second_run_changes_nothing(checkout: Checkout, host: Host, stand_in: None) -> None:
    before = containers(host)
    assert deploy(checkout).ok().changed == []
    assert containers(host) == before


def test_settings_of_vagrants_machines_have_a_file(checkout: Checkout, host: Host, stand_in: None) -> None:
    checkout.write("env/@vagrant.env", "LOG_LEVEL=NONSENSE\n")
    deploy(checkout).refused("env/@vagrant.env line 1: LOG_LEVEL=NONSENSE")
    # For hosts of another inventory, that file and group_data/@vagrant.py are there for nobody, and no mistake.
    assert checkout.deploy().ok().changed == []
