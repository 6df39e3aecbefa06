"""The lab's pure parts; its hosts are tested by the tests that use them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lab import base, build, engine, home, hosts, inventory, network, repository
from lab.__main__ import main, parser
from lab.home import LabError
from stack import docker

# The command line


def test_up_is_one_trixie_host_with_lab_images() -> None:
    chosen = parser().parse_args(["up"])
    assert (chosen.hosts, chosen.system, chosen.images) == (1, "debian13", "lab")
    assert hosts.SUITES[chosen.system] == "trixie"


def test_ssh_leaves_the_options_of_the_command_alone() -> None:
    chosen = parser().parse_args(["ssh", "ops@dify-1", "ls", "-l", "--help"])
    assert (chosen.host, chosen.words) == ("ops@dify-1", ["ls", "-l", "--help"])


@pytest.mark.parametrize(
    "words",
    [["up", "--hosts", "some"], ["up", "--images", "mine"], ["up", "--system", "debian10"], ["ssh"], ["deploy"]],
)
def test_bad_arguments_end_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "python -m lab" in capsys.readouterr().err


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(f"\n    {command} " in text for command in ("up", "down", "status", "ssh", "images"))


def _python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    place = Path(__file__).parents[2]
    variables = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=place, env=variables, text=True, capture_output=True, check=False
    )


def test_without_a_lab_the_inventory_is_empty(tmp_path: Path) -> None:
    done = _python("from lab import inventory; print(inventory.hosts())", DIFY_LAB_HOME=str(tmp_path / "none"))
    assert (done.stdout, done.stderr) == ("[]\n", "")
    assert not (tmp_path / "none").exists()


def test_with_a_stopped_engine_the_inventory_is_empty(tmp_path: Path) -> None:
    (tmp_path / "docker_host").write_text(f"unix://{tmp_path}/nobody.sock\n")
    done = _python("from lab import inventory; print(inventory.hosts())", DIFY_LAB_HOME=str(tmp_path))
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_the_inventory_leaves_out_what_is_off_and_the_hosts_of_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    there = [_host(name="dify-1"), _host(name="dify-2", state="exited"), _host(name="test-docker-a")]
    monkeypatch.setattr(engine, "url", lambda: "unix:///here.sock")
    monkeypatch.setattr(hosts, "hosts", lambda: there)
    assert [name for name, _ in inventory.hosts()] == ["dify-1"]


def test_an_error_is_one_line(tmp_path: Path) -> None:
    done = _python("from lab.__main__ import main; exit(main(['ssh', 'x']))", DIFY_LAB_HOME=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("lab: the lab's engine does not answer")
    assert done.stderr.count("\n") == 1


def test_another_home_has_another_socket(tmp_path: Path) -> None:
    code = "from lab import home; print(home.RUN)"
    homes = [_python(code, DIFY_LAB_HOME=str(tmp_path / name)).stdout for name in "ab"]
    assert homes[0] != homes[1]
    assert _python(code, DIFY_LAB_RUN="/run/other").stdout == "/run/other\n"


def test_a_folder_of_somebody_else_is_neither_used_nor_removed(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    with pytest.raises(LabError, match="not a lab's"):
        home.claim(tmp_path)
    home.release(tmp_path)
    assert (tmp_path / "precious").exists()


def test_the_labs_folder_goes_with_all_but_what_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "lab"
    home.claim(folder)
    (folder / "engine").mkdir()
    (folder / "key").touch()
    home.release(folder, keep=["engine"])
    assert not (folder / "key").exists()
    home.claim(folder)
    home.release(folder)
    assert not folder.exists()


# Images


@pytest.mark.parametrize(
    ("reference", "full"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.37.0", "docker.io/library/busybox:1.37.0"),
        ("ubuntu/squid:6.6-24.04_beta", "docker.io/ubuntu/squid:6.6-24.04_beta"),
        ("docker.io/redis:6-alpine", "docker.io/library/redis:6-alpine"),
        ("quay.io/coreos/etcd:v3.5.5", "quay.io/coreos/etcd:v3.5.5"),
        ("localhost/x", "localhost/x:latest"),
        ("registry:5000/a/b", "registry:5000/a/b:latest"),
    ],
)
def test_canonical(reference: str, full: str) -> None:
    assert build.canonical(reference) == full


def test_bases_leaves_out_stages_and_fills_in_arguments() -> None:
    dockerfile = """
        ARG SUITE=trixie
        FROM debian:${SUITE}-slim AS packages
        FROM --platform=linux/amd64 dify-lab/busybox
        COPY --from=packages /image/ /
        COPY --from=dify-lab/python:latest /bin/x /bin/x
        COPY --from=0 /y /y
    """.replace("\n        ", "\n")
    assert build.bases(dockerfile, {}) == ["debian:trixie-slim", "dify-lab/busybox", "dify-lab/python:latest"]
    assert build.bases(dockerfile, {"SUITE": "bookworm"})[0] == "debian:bookworm-slim"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    (tmp_path / "run.sh").write_text("echo\n")
    return tmp_path


def test_hash_changes_with_everything_an_image_is_made_of(folder: Path) -> None:
    hashes = [build.folder_hash(folder, {}, ["base"])]
    hashes.append(build.folder_hash(folder, {}, ["other base"]))
    hashes.append(build.folder_hash(folder, {"VERSION": "2"}, ["base"]))
    (folder / "run.sh").chmod(0o755)
    hashes.append(build.folder_hash(folder, {}, ["base"]))
    (folder / "run.sh").rename(folder / "start.sh")
    hashes.append(build.folder_hash(folder, {}, ["base"]))
    (folder / "start.sh").write_text("echo changed\n")
    hashes.append(build.folder_hash(folder, {}, ["base"]))
    assert len(set(hashes)) == len(hashes)


def test_hash_stays_when_nothing_of_it_changes(folder: Path) -> None:
    before = build.folder_hash(folder, {"A": "1", "B": "2"}, ["base"])
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "x.pyc").write_bytes(b"x")
    os.utime(folder / "run.sh", (1, 1))
    assert build.folder_hash(folder, {"B": "2", "A": "1"}, ["base"]) == before


def test_every_service_of_every_release_has_one_name() -> None:
    names = build.references()
    assert names["init_permissions"][0].startswith("busybox:")
    assert all(len(set(references)) == len(references) for references in names.values())


def test_every_registry_of_the_releases_has_a_place_in_the_labs() -> None:
    named = build.registries()
    assert {"docker.io", "quay.io", "ghcr.io", "docker.elastic.co"} <= set(named)
    for names in build.references().values():
        assert all(build.canonical(name).partition("/")[0] in named for name in names)


def test_a_variant_is_of_the_version_that_its_tag_names(tmp_path: Path) -> None:
    (tmp_path / "variants.yaml").write_text('broken: {BROKEN_REVISION: "1"}\n')
    plain, broken = build._with_variants(tmp_path, "127.0.0.1:5000/docker.io/a/api:1.13.3")
    assert plain.arguments == {"VERSION": "1.13.3"}
    assert broken.tag == "127.0.0.1:5000/docker.io/a/api:1.13.3-broken"
    assert broken.arguments == {"VERSION": "1.13.3-broken", "BROKEN_REVISION": "1"}


def test_only_an_image_that_asks_for_them_gets_this_machines_certificates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "image").mkdir()
    (tmp_path / "image/requirements.txt").write_text("chromadb\n")
    (tmp_path / "bundle").write_text("certificates")
    monkeypatch.setenv("PIP_CERT", str(tmp_path / "bundle"))
    with build._context(tmp_path / "image", "FROM scratch") as context:
        assert context == tmp_path / "image"
    with build._context(tmp_path / "image", f"COPY {build.CERTIFICATES} /") as context:
        assert (context / build.CERTIFICATES).read_text() == "certificates"
        assert (context / "requirements.txt").exists()
    assert not context.exists()
    assert [path.name for path in (tmp_path / "image").iterdir()] == ["requirements.txt"]


def test_a_machine_without_certificates_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(build, "_BUNDLES", ())
    with pytest.raises(LabError, match="install ca-certificates"):
        build.trusted_certificates()


# The base image


_DEB822 = """\
Types: deb
# a comment
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
"""


def test_mirror_of_deb822_sources() -> None:
    assert base.mirror([_DEB822], "bookworm") == "http://mirror.example/debian"


def test_mirror_is_debians_also_among_other_vendors() -> None:
    vendors = "deb [signed-by=/x.gpg] https://vendor.example/apt bookworm main\n"
    debian = "# deb http://old.example/debian bookworm main\ndeb http://mirror.example/debian/ bookworm main contrib\n"
    assert base.mirror([vendors, debian], "bookworm") == "http://mirror.example/debian/"


def test_no_mirror() -> None:
    assert (
        base.mirror(["Types: deb\nURIs: https://node.example\nSuites: nodistro\nComponents: main\n"], "bookworm")
        is None
    )


# Hosts


def test_capabilities_leave_out_what_the_machine_may_lack() -> None:
    assert len(set(hosts.CAPABILITIES)) == len(hosts.CAPABILITIES) == 37
    assert not {"SYS_RESOURCE", "PERFMON", "BPF", "CHECKPOINT_RESTORE"} & set(hosts.CAPABILITIES)
    assert "--cap-add=SYS_ADMIN" in hosts.unprivileged()


@pytest.mark.parametrize(
    ("memory", "kibibytes"), [("2g", 2 * 1024**2), ("512m", 512 * 1024), ("4096k", 4096), ("1GB", 1024**2)]
)
def test_kibibytes(memory: str, kibibytes: int) -> None:
    assert hosts.kibibytes(memory) == kibibytes


def test_kibibytes_of_nonsense() -> None:
    with pytest.raises(LabError, match="much is not an amount of memory"):
        hosts.kibibytes("much")


@pytest.mark.parametrize("name", ["", "Dify", "a b", "-a", "a_b"])
def test_bad_host_name(name: str) -> None:
    with pytest.raises(LabError, match="is not a host name"):
        hosts.create(name)


def _host(**changed: object) -> hosts.Host:
    known: dict[str, object] = {
        "name": "dify-1",
        "id": "0",
        "address": "10.213.1.1",
        "ssh_port": 2201,
        "suite": "trixie",
    }
    return hosts.Host(**{**known, "images": "lab", "state": "running", "privileged": True, **changed})  # type: ignore[arg-type]


def test_the_inventory_checks_the_hosts_key() -> None:
    data = _host().data()
    assert data["ssh_strict_host_key_checking"] == "yes"
    assert data["ssh_known_hosts_file"].endswith("known_hosts/dify-1")


def test_upstream_hosts_have_no_registry_of_the_lab() -> None:
    from lab import inventory

    mirrors = inventory.data(_host())["image_registry"]
    assert mirrors["docker.io"] == "registry:5000/docker.io"
    assert mirrors["quay.io"] == "registry:5000/quay.io"
    assert not {"image_registry", "docker_insecure_registries"} & set(inventory.data(_host(images="upstream")))


def test_old_systems_get_docker_from_the_stand_in_of_its_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    from lab import inventory

    monkeypatch.setattr(repository, "data", lambda: {"docker_repository": repository.URL})
    assert set(repository.SUITES) < set(hosts.SUITES.values())
    for suite in hosts.SUITES.values():
        data = inventory.data(_host(suite=suite))
        assert data["docker_source"] == ("docker" if suite in repository.SUITES else "distro")
        assert ("docker_repository" in data) is (suite in repository.SUITES)
    # Where the images come from the internet, Docker does too.
    assert "docker_repository" not in inventory.data(_host(suite="bookworm", images="upstream"))


def test_the_packages_of_the_stand_in_are_those_that_are_installed() -> None:
    repack = (Path(repository.__file__).parent / "packages/repack").read_text()
    assert all(f"\n{package} " in repack for package in docker.UPSTREAM_PACKAGES.split())


def test_a_host_of_another_suite_is_refused() -> None:
    hosts.demand(_host(), "trixie", "lab")
    with pytest.raises(LabError, match="dify-1 is there already, with --system debian13"):
        hosts.demand(_host(), "bookworm", "lab")


def test_hosts_sort_as_people_count() -> None:
    assert sorted(["dify-10", "dify-2", "lead"], key=hosts.natural) == ["dify-2", "dify-10", "lead"]


# Network


_ROUTES = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""


def test_subnet_avoids_this_machines_routes() -> None:
    assert str(network.free_subnet(_ROUTES)) == "10.213.0.0/16"
    vpn = "tun0\t0001D50A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"  # 10.213.1.0/24
    assert str(network.free_subnet(_ROUTES + vpn)) == "10.214.0.0/16"


def test_subnet_where_all_are_taken() -> None:
    with pytest.raises(LabError, match="no free network"):
        network.free_subnet(_ROUTES + "tun0\t0000000A\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0\n")  # 10.0.0.0/8


# The engine


_FIREWALL = """\
*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
:mine - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i eth0 -m comment --comment "not docker" -j mine
-A DOCKER-USER -j RETURN
COMMIT
*nat
:DOCKER - [0:0]
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A POSTROUTING -s 10.8.0.0/24 -o eth0 -j MASQUERADE
COMMIT
"""


def test_leftovers_of_docker_and_nothing_else() -> None:
    assert [" ".join(words) for words in engine.leftovers(_FIREWALL)] == [
        "-t filter -D FORWARD -j DOCKER-USER",
        "-t filter -D FORWARD -i docker0 ! -o docker0 -j ACCEPT",
        "-t nat -D POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
        "-t filter -F DOCKER",
        "-t filter -F DOCKER-USER",
        "-t nat -F DOCKER",
        "-t filter -X DOCKER",
        "-t filter -X DOCKER-USER",
        "-t nat -X DOCKER",
    ]


def test_what_a_person_needs_to_read_of_an_error() -> None:
    assert engine.last_line("first\nthe reason\n\n") == "the reason"
    assert engine.last_line(None) == "no message"


def test_registry_config_asks_for_no_password() -> None:
    import yaml

    config = yaml.safe_load((Path(__file__).parents[2] / "lab/images/registry/config.yml").read_text())
    assert "auth" not in config
    assert config["http"] == {"addr": ":5000"}
