"""What the lab's stand-ins for stores share, and how the migration asks each kind of database."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tasks.commands import script
from tasks.migrate import ASK, MIGRATE

sys.path.insert(0, str(Path(__file__).parents[2] / "lab/images/_store"))

from stand_in_store.accounts import Accounts
from stand_in_store.documents import Documents
from stand_in_store.s3 import is_signed, sign
from stand_in_store.server import App, Refused, Request

# Passwords that are bound to data


def test_a_password_is_bound_to_the_data_it_was_made_with(tmp_path: Path) -> None:
    accounts = Accounts(tmp_path / "accounts.json")
    assert accounts.bind("root", "first")
    assert not Accounts(tmp_path / "accounts.json").bind("root", "second")
    assert accounts.check("root", "first")
    assert not accounts.check("root", "second")
    assert not accounts.check("nobody", "")
    assert "first" not in (tmp_path / "accounts.json").read_text()


def test_documents_are_found_by_nearness(tmp_path: Path) -> None:
    documents = Documents(tmp_path)
    documents.put("things", "../far", {"vector": [9.0, 9.0]})
    documents.put("things", "near", {"vector": [1.0, 0.0]})
    documents.put("things", "flat", {"vector": [1.0]})
    assert [key for key, _ in documents.nearest("things", [1.0, 1.0])] == ["near", "../far"]
    assert not (tmp_path.parent / "far.json").exists()
    assert documents.remove("things", "near")
    assert not documents.remove("things", "near")


@pytest.mark.parametrize("keys", [("access", "another-secret"), ("another", "secret-key")])
def test_s3_takes_what_was_signed_with_its_keys_only(keys: tuple[str, str]) -> None:
    request = sign("PUT", "http://minio:9000/a-bucket?acl=&x=a%20b", "access", "secret-key", b"body")
    headers = {name.lower(): value for name, value in request.header_items()}
    headers["Authorization"] = headers.pop("authorization")
    target = "/a-bucket?acl=&x=a%20b"
    assert is_signed("PUT", target, headers, "access", "secret-key")
    assert not is_signed("PUT", target, headers, *keys)
    assert not is_signed("DELETE", target, headers, "access", "secret-key")
    assert not is_signed("PUT", target, {}, "access", "secret-key")


def test_only_an_open_route_is_for_everybody() -> None:
    def nobody(_: Request) -> None:
        raise Refused(401, {})

    app = App(nobody)
    app.route("GET /alive", open=True)(lambda _: (200, "yes"))
    app.route("GET /things/{name}")(lambda _, name: (200, name))
    assert app.answer(Request("GET", "/alive", {})) == (200, "yes")
    for path in ("/things/one", "/nowhere"):
        with pytest.raises(Refused) as refused:
            app.answer(Request("GET", path, {}))
        assert refused.value.status == 401


# The revision in the database

CLIENTS = {"db_postgres": "psql", "db_mysql": "mysql", "oceanbase": "obclient", "seekdb": "mysql"}
DENIED = "ERROR 1045 (28000): Access denied for user 'root'@'localhost'"
NO_TABLE = "ERROR 1146 (42S02): Table 'dify.alembic_version' doesn't exist"


def ask(folder: Path, service: str, says: str, code: int) -> str:
    """What the look finds when the container's client prints and ends like this; the client is a stand-in."""
    client = folder / CLIENTS[service]
    client.write_text(f"#!/bin/sh\ncat <<'END' >&{1 if code == 0 else 2}\n{says}\nEND\nexit {code}\n")
    client.chmod(0o755)
    login = 'as_root() { shift; CLIENT "$@"; }'.replace("CLIENT", CLIENTS[service])
    script = ASK[service].replace(". /opt/dify/login.sh", login)
    environment = {"PATH": f"{folder}:/usr/bin:/bin"}
    words = ["bash", "-c", script, "ask", "dify"]
    return subprocess.run(words, env=environment, text=True, capture_output=True, check=True).stdout


@pytest.mark.parametrize("service", CLIENTS)
def test_the_revision_is_what_the_database_says(tmp_path: Path, service: str) -> None:
    assert ask(tmp_path, service, "288345cd01d1", 0) == "288345cd01d1\n"


@pytest.mark.parametrize("service", CLIENTS)
def test_a_database_without_the_table_has_no_revision(tmp_path: Path, service: str) -> None:
    assert ask(tmp_path, service, NO_TABLE, 1) == "none\n"


@pytest.mark.parametrize("service", CLIENTS)
def test_a_database_that_lets_nobody_in_says_nothing(tmp_path: Path, service: str) -> None:
    assert ask(tmp_path, service, DENIED, 2 if service == "db_postgres" else 1) == ""


def test_each_kind_of_local_database_is_asked() -> None:
    from stack.render import DATABASES

    assert set(ASK) == set(DATABASES)


# The migration waits for its stores

DOCKER = """#!/bin/sh
echo "$*" >> called
case $* in
    *"up "*) exit $(cat up) ;;
    *health=healthy*) case $* in *=$(cat healthy)\\ *) echo 0123abcd ;; esac ;;
    *"compose logs"*) echo "the log of $*" ;;
esac
"""


def migrate(folder: Path, up: str = "0") -> subprocess.CompletedProcess[str]:
    """A migration with a stand-in for Docker, whose Redis is healthy and nothing else."""
    for name, text in {"docker": DOCKER, "up": up, "healthy": "redis"}.items():
        (folder / name).write_text(text)
    (folder / "docker").chmod(0o755)
    names = {"root": str(folder), "project": "dify", "image": "api", "stores": "db_mysql redis", "patience": "180"}
    body = script(MIGRATE, "api", place="", **names)
    environment = {"PATH": f"{folder}:/usr/bin:/bin"}
    return subprocess.run(["sh", "-c", body], env=environment, text=True, capture_output=True, check=False)


@pytest.mark.parametrize("up", ["0", "1"])
def test_a_store_that_is_not_healthy_stops_the_migration_whatever_compose_ends_with(tmp_path: Path, up: str) -> None:
    """Seen with Compose 2.26.1: `up --wait` ended with 0 when its 180 seconds were over and MySQL was still starting."""
    done = migrate(tmp_path, up)
    assert done.returncode == 1
    assert done.stderr.endswith("db_mysql: not healthy, so the migration was not begun; the log stands above\n")
    called = (tmp_path / "called").read_text()
    assert "compose logs --no-color --tail 50 db_mysql\n" in called
    assert "compose run" not in called
    assert "stop" not in called
