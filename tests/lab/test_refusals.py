"""What is refused before anything is touched: one line, exit code 1."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lab.hosts import Host
from tests.lab.checkout import Checkout
from tests.lab.containers import sh


def untouched(host: Host) -> bool:
    """Whether nothing of ours is on the host."""
    return host.run("test -e /opt/dify || command -v dockerd").returncode != 0


@pytest.fixture(scope="module")
def bare(new_host: Callable[..., Host]) -> Host:
    return new_host("bare")


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ("LOG_LEVL=DEBUG\n", (".env line 1: LOG_LEVL is no setting of this Dify release; did you mean LOG_LEVEL?",)),
        ("LOG_LEVEL=DEBUG\nAPP_WEB_URL http://x\n", (".env line 2: not NAME=value",)),
        (
            "SECRET_KEY=sk-9f73s3ljTXVcMT3Blb3ljTqtsKiGHXVcMT3BlbkFJLK7U\n",
            ("SECRET_KEY: this is a published default of Dify 1.11.4",),
        ),
        ("VECTOR_STORE=weavaite\n", ("VECTOR_STORE=weavaite: must be one of", "did you mean weaviate?")),
        ("PGDATA=/data\n", ("PGDATA=/data: must be below",)),
    ],
)
def test_a_wrong_env_file(scratch: Callable[..., Checkout], bare: Host, env: str, words: tuple[str, ...]) -> None:
    checkout = scratch(bare)
    checkout.write(".env", env)
    checkout.deploy().refused(*words)
    assert untouched(bare)


def test_an_env_file_that_is_no_text(scratch: Callable[..., Checkout], bare: Host) -> None:
    checkout = scratch(bare)
    (checkout.folder / ".env").write_bytes(b"LOG_TZ=UTC\nLOG_LEVEL=\xff\xfe\n")
    checkout.deploy().refused(".env line 2: cannot be read: not UTF-8")
    (checkout.folder / ".env").unlink()
    (checkout.folder / ".env").mkdir()
    checkout.deploy().refused(".env: cannot be read")
    assert untouched(bare)


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        (
            {"dify_versoin": "1.11.4"},
            ": unknown knob; did you mean dify_version?",
        ),
        ({"dify_version": "1.11.5"}, "dify_version = '1.11.5': no such release here"),
        ({"root": "opt"}, "root = 'opt' in inventory.py line "),
        ({"docker_source": "snap"}, "docker_source = 'snap' in inventory.py line "),
        ({"images": {"ngnix": "nginx:1"}}, "images['ngnix']: no such service"),
    ],
)
def test_a_wrong_knob(scratch: Callable[..., Checkout], bare: Host, knobs: dict[str, object], words: str) -> None:
    scratch(bare, **knobs).deploy().refused(words)
    assert untouched(bare)


def test_a_template_error_names_file_and_line(scratch: Callable[..., Checkout], bare: Host) -> None:
    checkout = scratch(bare)
    template = checkout.folder / "templates/nginx/nginx.conf.j2"
    template.write_text(template.read_text() + "# {{ setting.NGINX_NO_SUCH }}\n")
    line = len(template.read_text().splitlines())
    checkout.deploy().refused(f"templates/nginx/nginx.conf.j2 line {line}", "NGINX_NO_SUCH")
    assert untouched(bare)


def test_a_port_that_another_process_holds(scratch: Callable[..., Checkout], bare: Host) -> None:
    listen = "my $$held = IO::Socket::INET->new(LocalPort => 80, Listen => 1) or die; sleep"
    sh(bare, f"systemd-run --unit holder --quiet perl -MIO::Socket -e '{listen}'")
    scratch(bare).deploy().refused("port 80 is held by perl (0.0.0.0:80)")
    assert untouched(bare)
    sh(bare, "systemctl stop holder")


def test_too_little_of_everything_is_said_at_once(
    scratch: Callable[..., Checkout], new_host: Callable[..., Host]
) -> None:
    small = new_host("small", memory="2g", cpus=1)
    run = scratch(small, min_disk_root="90TiB").deploy()
    run.refused(
        "2.0GiB of memory: less than min_memory = 4.0GiB", "1 CPU: fewer than min_cpus = 2", "free below /opt/dify"
    )
    assert untouched(small)


def test_failures_of_all_hosts_stand_in_one_report(
    scratch: Callable[..., Checkout], bare: Host, new_host: Callable[..., Host]
) -> None:
    small = new_host("small", memory="2g")
    checkout = scratch(bare, small)
    checkout.write(f"env/{bare.name}.env", "EXPOSE_NGINX_PORT=22\n")
    checkout.deploy().refused(f"{bare.name}: port 22 is held by sshd", f"{small.name}: 2.0GiB of memory")
    assert untouched(bare)
    assert untouched(small)


def test_the_old_docker_of_debian_12_is_refused_by_name(
    scratch: Callable[..., Checkout], new_host: Callable[..., Host]
) -> None:
    old = new_host("old", suite="bookworm")
    scratch(old).deploy(docker_source="distro").refused(
        'docker_source = "distro": Debian 12 has a Docker Engine older than 25'
    )
    assert untouched(old)
    sh(old, "apt-get -q update && apt-get -q -y --no-install-recommends install docker.io docker-compose")
    scratch(old).deploy().refused("Docker Engine 20.10", "docker-compose 1.29", "is the old v1")
    assert host_has_no_deployment(old)


def host_has_no_deployment(host: Host) -> bool:
    return host.run("test -e /opt/dify").returncode != 0


STAND_IN_PLUGIN = """\
#!/bin/sh
# A stand-in for an old Compose plugin: it knows its version and nothing else.
case "$1" in
    docker-cli-plugin-metadata) echo '{"SchemaVersion":"0.1.0","Vendor":"stand-in","Version":"v2.19.1"}' ;;
    *) echo 2.19.1 ;;
esac
"""


def test_an_old_compose_and_podman_are_refused(scratch: Callable[..., Checkout], new_host: Callable[..., Host]) -> None:
    host = new_host("compose")
    checkout = scratch(host)
    sh(
        host,
        "apt-get -q update && apt-get -q -y --no-install-recommends install docker.io docker-cli docker-compose curl",
    )
    plugin = sh(host, "dpkg -L docker-compose | grep cli-plugins/docker-compose")
    sh(host, f"mv {plugin} /root/real-compose")
    checkout.deploy().refused("Docker is there, but the Compose plugin is not")
    host.run(f"cat > {plugin} && chmod 755 {plugin}", stdin=STAND_IN_PLUGIN)
    checkout.deploy().refused("Docker Compose 2.19.1: older than 2.20.3")
    sh(
        host,
        "apt-get -q -y purge docker.io docker-cli docker-compose && apt-get -q -y --no-install-recommends install podman-docker",
    )
    checkout.deploy().refused("docker is Podman here: not supported")
    assert host_has_no_deployment(host)
