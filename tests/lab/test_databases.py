"""Dify on each database that is not PostgreSQL, from bare to answering. PostgreSQL is what all other tests run on."""

from __future__ import annotations

import pytest

from lab.hosts import Host
from stack import dotenv
from tests.lab.checkout import Checkout
from tests.lab.containers import CORE, containers, get, reached, secrets_of, sh
from tests.lab.stores import NASTY, is_settled

pytestmark = pytest.mark.variants

SERVICES = {"mysql": "db_mysql", "oceanbase": "oceanbase", "seekdb": "seekdb"}
# How one logs in inside of the container, with the password that it has.
LOGINS = {
    "mysql": 'MYSQL_PWD="$MYSQL_ROOT_PASSWORD" mysql --protocol=tcp -h127.0.0.1 -uroot',
    "oceanbase": '. /opt/dify/login.sh; as_root "$OB_TENANT_PASSWORD"',
    "seekdb": '. /opt/dify/login.sh; as_root "$ROOT_PASSWORD"',
}
REVISION = "select version_num from alembic_version"
AN_OLDER_ONE = "c47e5a8830f2"


@pytest.fixture(scope="module")
def host(checkout: Checkout) -> Host:
    return checkout.hosts[0]


def query(host: Host, kind: str, statement: str) -> str:
    """Run SQL in Dify's database."""
    command = f"{LOGINS[kind]} -N -B -D dify -e '{statement}'"
    return sh(host, f"docker exec -i dify-{SERVICES[kind]}-1 bash -s <<'END'\n{command}\nEND")


def wipe(host: Host) -> None:
    """Of the deployment nothing is left; Docker and the images stay."""
    sh(host, "if cd /opt/dify; then docker compose --profile '*' down --timeout 1; cd /; rm -rf /opt/dify; fi 2>&1")


@pytest.mark.parametrize("kind", SERVICES)
def test_from_bare_to_answering(checkout: Checkout, host: Host, kind: str) -> None:
    wipe(host)
    checkout.write(".env", f"DB_TYPE={kind}\nDB_PASSWORD={dotenv.quote(NASTY)}\n")
    run = checkout.deploy().ok()
    assert "Database schema" in run.changed
    assert not any(secret in run.output for secret in secrets_of(host).values())
    assert set(containers(host)) == (CORE - {"db_postgres"}) | {SERVICES[kind]}
    found = reached(host)
    assert f"on {kind} " in found["database"]["detail"]
    assert get(host, "/console/api/setup") == (200, '{"step":"not_started"}\n')
    is_settled(checkout, host)
    is_looked_at(checkout, host, kind)


def is_looked_at(checkout: Checkout, host: Host, kind: str) -> None:
    """A schema that is not the image's is seen in the database itself, whatever was recorded."""
    newest = query(host, kind, REVISION)
    query(host, kind, f'update alembic_version set version_num = "{AN_OLDER_ONE}"')
    planned = checkout.plan().ok().planned
    query(host, kind, f'update alembic_version set version_num = "{newest}"')
    assert "Database schema" in planned
    assert checkout.plan().ok().planned == []


def test_a_failing_migration_leaves_the_old_release_answering(checkout: Checkout, host: Host) -> None:
    before, newest = containers(host), query(host, "seekdb", REVISION)
    broken = {"api": "langgenius/dify-api:1.11.4-broken"}
    checkout.deploy(images=broken, allow_mixed_images=True).failed("the migration failed", newest)
    assert query(host, "seekdb", REVISION) == newest
    assert {name: id for name, (id, _) in containers(host).items()} == {name: id for name, (id, _) in before.items()}
    checkout.deploy().ok()
    reached(host)


@pytest.mark.parametrize("kind", ["mysql", "oceanbase", "postgresql"])
def test_another_database_beside_data_is_refused(checkout: Checkout, host: Host, kind: str) -> None:
    before = containers(host)
    checkout.write(".env", f"DB_TYPE={kind}\n")
    checkout.deploy().refused("DB_TYPE")
    assert containers(host) == before
