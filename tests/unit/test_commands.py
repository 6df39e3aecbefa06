"""Scripts that run on a host: valid shell, every value quoted, files put in place as a whole or not at all."""

from __future__ import annotations

import base64
import io
import json
import os
import stat
import subprocess
import tarfile
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stack.render import SITE, File, site
from stack.settings import Login
from tasks import compose, docker, files, gate, images, migrate, nginx, preflight, volumes
from tasks.commands import alone, deployment, script
from tests.unit.wanted import plain, run_sh

SCRIPTS = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module, names in (
        (compose, ("LOOK", "REMOVE", "UP")),
        (docker, ("LOOK", "PUT_DAEMON", "PUT_DROP_IN", "REMOVE_DROP_IN", "RESTART", "CHECK")),
        (files, ("LOOK", "READ", "PUT")),
        (gate, ("LOOK", "REPORT")),
        (images, ("LOOK", "PULL")),
        (migrate, ("LOOK", "MIGRATE")),
        (nginx, ("RELOAD", "LOOK", "LOAD", "OPEN")),
        (preflight, ("LOOK",)),
        (volumes, ("LOOK", "MAKE", "MEND")),
    )
    for name in names
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_valid_shell(name: str) -> None:
    assert run_sh("sh -n", script(SCRIPTS[name], "an argument", name="it's a value")).stderr == ""


values = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


@settings(max_examples=60)
@given(values, st.lists(values, max_size=4))
def test_any_value_comes_through_a_real_shell(value: str, arguments: list[str]) -> None:
    shown = script(r"""printf '%s\0' "$value" "$@" """, *arguments, value=value)
    done = subprocess.run(["sh", "-c", shown], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == [value, *arguments]


# --- One after the other ---


def alone_below(folder: Path, body: str) -> str:
    return alone(body, lock=deployment("dify")).replace("/run/", f"{folder}/", 1)


def test_nobody_but_root_can_hold_the_lock(tmp_path: Path) -> None:
    """Whoever can read a file can lock it, and in /run/lock anybody can make one first."""
    said = run_sh("umask 022\n" + alone_below(tmp_path, "readlink /proc/$$/fd/9; umask")).stdout
    assert said == f"{tmp_path}/dify-deployment.lock\n0022\n"
    assert (tmp_path / "dify-deployment.lock").stat().st_mode & 0o777 == 0o600
    assert "lock=/run/dify-deployment.lock" in alone("", lock=deployment("dify"))


def test_a_second_one_waits_for_the_first(tmp_path: Path) -> None:
    text = alone_below(tmp_path, f"echo begins >>{tmp_path}/said; sleep 0.3; echo ends >>{tmp_path}/said")
    both = [subprocess.Popen(["sh", "-c", text]) for _ in range(2)]
    assert [one.wait() for one in both] == [0, 0]
    assert (tmp_path / "said").read_text().split() == ["begins", "ends"] * 2


def test_the_command_of_that_line_finds_who_holds_it(tmp_path: Path) -> None:
    """With what every host has: fuser is a package of its own, and lslocks does not know of a lock whose flock has ended."""
    text = alone_below(tmp_path, "echo held; read end")
    with subprocess.Popen(["sh", "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout and holder.stdin
        assert holder.stdout.readline() == "held\n"
        found = run_sh(f"find /proc/[0-9]*/fd -lname {tmp_path}/dify-deployment.lock 2>/dev/null", check=False).stdout
        holder.stdin.close()
    assert found == f"/proc/{holder.pid}/fd/9\n"


def test_a_lock_that_is_not_let_go_ends_with_a_line(tmp_path: Path) -> None:
    (tmp_path / "flock").write_text('#!/bin/sh\ntest "$1" != -w\n')
    (tmp_path / "flock").chmod(0o755)
    done = run_sh(alone_below(tmp_path, "echo goes on"), path=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("another run is at work here, for ten minutes now: deploy again when it is through.")
    assert f"find /proc/[0-9]*/fd -lname {tmp_path}/dify-deployment.lock" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_daemon_json_that_is_as_wanted_already_is_not_replaced_by_itself(tmp_path: Path) -> None:
    """Two names of one machine come to the same file, one after the other; what was before both must stay beside it."""
    file = tmp_path / "daemon.json"
    file.write_text("{}\n")
    (tmp_path / "dockerd").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "dockerd").chmod(0o755)
    put = script(docker.PUT_DAEMON.replace("mkdir -p /etc/docker;", ""), file=str(file))
    for _ in range(2):
        run_sh(put, '{"ipv6": true}\n', tmp_path)
    assert file.read_text() == '{"ipv6": true}\n'
    assert (tmp_path / "daemon.json.before").read_text() == "{}\n"


def test_the_body_of_a_script_never_holds_a_value() -> None:
    assert script('echo "$value"', "an argument", value="a value").splitlines() == [
        "value='a value'",
        "set -- 'an argument'",
        'echo "$value"',
    ]


# --- What differs ---

FILE = File(b"x", 0o644)
ROOTS = ("644 0:0", FILE.sha256)


@pytest.mark.parametrize(
    ("found", "wanted", "differs"),
    [
        ({}, {}, []),
        ({}, {"a": FILE}, ["a"]),
        ({"a": ROOTS}, {"a": FILE}, []),
        ({"a": ROOTS, "b": ROOTS}, {"a": FILE}, []),
        ({"a": ("644 0:0", "another")}, {"a": FILE}, ["a"]),
        ({"a": ("600 0:0", FILE.sha256)}, {"a": FILE}, ["a"]),
        ({"a": ("644 0:0", FILE.sha256)}, {"a": File(b"x", 0o600)}, ["a"]),
        ({"a": ("644 1000:0", FILE.sha256)}, {"a": FILE}, ["a"]),
        ({"a": ("644 0:1000", FILE.sha256)}, {"a": FILE}, ["a"]),
        ({"a": ("4644 0:0", FILE.sha256)}, {"a": FILE}, ["a"]),
        ({}, {"a": File(b"", keep=True)}, ["a"]),
        ({"a": ("666 5:5", "the operator's")}, {"a": File(b"", keep=True)}, []),
    ],
)
def test_a_file_differs_in_content_mode_or_owner(
    found: files.Found, wanted: dict[str, File], differs: list[str]
) -> None:
    assert files.differing(found, wanted) == differs


# --- The archive ---


def members(archive: str) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(archive))) as tar:
        return {member.name: member for member in tar.getmembers()}


def test_the_archive_holds_every_file_with_its_owner_and_mode() -> None:
    found = members(files.archive(plain().files))
    assert {name: member.mode for name, member in found.items() if member.isfile()} == {
        path: file.mode for path, file in plain().files.items()
    }
    owned = {name: member.uid for name, member in found.items() if (member.uid, member.gid) != (0, 0)}
    assert owned == {"ssrf_proxy/upstream.conf": 13}


def test_nothing_in_the_archive_is_writable_or_a_secret_readable_by_others() -> None:
    secret = plain().settings.secrets
    for name, member in members(files.archive(plain().files)).items():
        assert member.mode & 0o022 == 0, name
        if member.isfile() and any(value in plain().files[name].data.decode() for value in secret):
            assert member.mode & 0o077 == 0, name


def test_the_archive_makes_a_folder_before_what_lies_in_it() -> None:
    names = list(members(files.archive(plain().files)))
    for name in names:
        parent = str(Path(name).parent)
        assert parent == "." or names.index(parent) < names.index(name)


# --- Files put in place, by the script itself in a folder of this machine ---


class Root:
    """The deployment's folder, and a docker that says yes or no."""

    def __init__(self, folder: Path) -> None:
        self.path, self.programs = folder / "dify", folder / "bin"
        self.programs.mkdir()
        self.docker("exit 0")

    def docker(self, body: str) -> None:
        (self.programs / "docker").write_text(f"#!/bin/sh\n{body}\n")
        (self.programs / "docker").chmod(0o755)

    def put(
        self,
        wanted: dict[str, File],
        *changed: str,
        seen: str | None = None,
        nginx: str = "nginx:1",
        squid: str = "",
    ) -> str:
        """Run the script; returns what it said when it failed.

        seen: sha256 of the .env that was looked at; None for the one that lies there.
        """
        arguments = changed or tuple(wanted)
        if seen is None:
            seen = self.digest(".env")
        body = script(files.PUT, *arguments, root=str(self.path), seen=seen, nginx=nginx, squid=squid)
        done = run_sh(body, files.archive(wanted), self.programs, check=False)
        assert bool(done.returncode) is bool(done.stderr), done
        return done.stderr

    def digest(self, path: str) -> str:
        file = self.path / path
        return sha256(file.read_bytes()).hexdigest() if file.exists() else ""

    @property
    def files(self) -> dict[str, str]:
        return {
            str(file.relative_to(self.path)): oct(stat.S_IMODE(file.stat().st_mode))
            for file in sorted(self.path.rglob("*"))
            if file.is_file()
        }

    def mode(self, path: str) -> str:
        return oct(stat.S_IMODE((self.path / path).stat().st_mode))


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(tmp_path)


def test_files_are_put_in_place_with_their_modes(root: Root) -> None:
    assert root.put(plain().files) == ""
    assert root.files == {path: oct(file.mode) for path, file in plain().files.items()}
    assert (root.path / ".env").read_bytes() == plain().files[".env"].data
    assert not (root.path / ".staged").exists()


def test_only_what_changed_is_replaced(root: Root) -> None:
    root.put(plain().files)
    (root.path / "nginx/routes.conf").write_text("by hand")
    (root.path / "nginx/proxy.conf").write_text("by hand")
    root.put(plain().files, "nginx/routes.conf")
    assert (root.path / "nginx/routes.conf").read_bytes() == plain().files["nginx/routes.conf"].data
    assert (root.path / "nginx/proxy.conf").read_text() == "by hand"


@pytest.mark.parametrize("lost", [False, True])
def test_what_the_host_knows_of_its_certificate_is_kept_unless_it_is_lost(root: Root, lost: bool) -> None:
    wanted = {**plain().files, SITE: File(site("http", "none").encode(), keep=True)}
    root.put(wanted)
    (root.path / SITE).write_text(site("https", "0123456789abcdef"))
    root.docker(f'case "$*" in *" -t "*) grep -h include {root.path}/.staged/{SITE} >{root.path}/.tested ;; esac')
    changed = ["nginx/routes.conf", *([SITE] if lost else [])]
    assert root.put(wanted, *changed) == ""
    served = "http" if lost else "https"
    assert (root.path / ".tested").read_text() == f"include /etc/nginx/dify/{served}.conf;\n"
    assert f"/{served}.conf;" in (root.path / SITE).read_text()


@pytest.mark.parametrize(
    ("docker_says", "reason"),
    [
        ('case "$*" in *config*) echo why >&2; exit 1 ;; esac', "docker compose refuses the new configuration"),
        ('case "$*" in *" -t "*) echo why >&2; exit 1 ;; esac', "nginx -t refuses the new configuration"),
        ('case "$*" in *"-k parse"*) echo why >&2; exit 1 ;; esac', "squid -k parse refuses the new configuration"),
    ],
)
def test_what_a_program_refuses_replaces_nothing(root: Root, docker_says: str, reason: str) -> None:
    root.put(plain().files)
    before = {path: (root.path / path).stat().st_ino for path in root.files}
    root.docker(docker_says)
    said = root.put(plain().files, squid="squid:1")
    assert "why\n" in said
    assert reason in said
    assert {path: (root.path / path).stat().st_ino for path in root.files} == before
    assert not (root.path / ".staged").exists()


@pytest.mark.parametrize("seen", ["", sha256(b"DB_PASSWORD=before\n").hexdigest()], ids=["appeared", "changed"])
def test_an_env_of_another_run_is_not_replaced(root: Root, seen: str) -> None:
    root.path.mkdir()
    (root.path / ".env").write_text("DB_PASSWORD=of-another-run\n")
    said = root.put(plain().files, seen=seen)
    assert said == (
        f"{root.path}/.env changed during this run: another run, or one that was cut off, was at work here."
        " Nothing was replaced; run this again.\n"
    )
    assert root.files == {".env": "0o644"}
    assert (root.path / ".env").read_text() == "DB_PASSWORD=of-another-run\n"


def test_an_env_that_went_away_meanwhile_is_not_made_anew(root: Root) -> None:
    """Its secrets are those of the data; whoever removed it has to say what shall be."""
    root.path.mkdir()
    assert "/.env changed during this run" in root.put(plain().files, seen="0123")
    assert root.files == {}


def test_data_stays_closed_to_other_users_of_the_host(root: Root) -> None:
    run_sh(script(volumes.MAKE, root=str(root.path), path="volumes/db/data", owner="-"))
    assert root.mode("volumes") == "0o700"
    root.put(plain().files)
    assert root.mode("volumes") == "0o700"


def test_squid_can_read_its_folder_and_nobody_but_root_the_private_keys(root: Root) -> None:
    root.put(plain().files)
    assert (root.mode("ssrf_proxy"), root.mode("nginx/ssl")) == ("0o755", "0o700")


# --- Folders ---


def test_a_folder_is_made_and_nothing_in_it_is_touched(root: Root) -> None:
    make = script(volumes.MAKE, root=str(root.path), path="volumes/db/data", owner="-")
    run_sh(make)
    (root.path / "volumes/db/data/row").write_text("x")
    (root.path / "volumes/db/data/row").chmod(0o600)
    run_sh(make)
    assert root.files == {"volumes/db/data/row": "0o600"}


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_what_is_not_difys_in_its_folder_becomes_difys_and_links_stay(root: Root) -> None:
    outside = root.path.parent / "outside"
    outside.touch()
    run_sh(script(volumes.MAKE, root=str(root.path), path="storage", owner="1001"))
    (root.path / "storage/deep").mkdir()
    (root.path / "storage/deep/file").touch()
    (root.path / "storage/link").symlink_to(outside)
    run_sh(script(volumes.MEND, root=str(root.path), path="storage", owner="1001"))
    owners = {entry.lstat().st_uid for entry in (root.path / "storage").rglob("*")}
    assert owners == {1001}
    assert outside.stat().st_uid == 0


# --- Logins ---


@pytest.mark.parametrize(
    ("registry", "key"),
    [
        ("registry.lan:5000", "registry.lan:5000"),
        ("ghcr.io", "ghcr.io"),
        # The one registry that docker itself files under another name.
        ("docker.io", "https://index.docker.io/v1/"),
    ],
)
def test_a_login_is_written_as_docker_login_writes_it(registry: str, key: str) -> None:
    config = json.loads(images.docker_config({registry: Login(username="me", password="p:ss 'é\"")}))
    assert list(config) == ["auths"]
    assert list(config["auths"]) == [key]
    assert base64.b64decode(config["auths"][key]["auth"]).decode() == "me:p:ss 'é\""


def test_without_a_login_there_is_none() -> None:
    assert images.docker_config({}) == ""
