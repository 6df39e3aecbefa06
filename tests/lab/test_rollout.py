"""One host from bare to answering, and what later runs do to it. The tests build on each other, in this order."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from datetime import datetime

import pytest

from lab import hosts
from lab.hosts import Host
from tests.lab.checkout import Checkout
from tests.lab.containers import CORE, answers_within, containers, get, reached, replaced, secrets_of, sh, sql

FIRST_STEPS = ["Docker runs", "Data folders", "Images", "Configuration files", "Database schema", "Stack runs"]


@pytest.fixture(scope="module")
def host(checkout: Checkout) -> Host:
    return checkout.hosts[0]


@pytest.fixture(autouse=True)
def data_survives(request: pytest.FixtureRequest, host: Host) -> Iterator[None]:
    """A row in PostgreSQL and a file in storage are there after every test but the first."""
    yield
    if request.node.name not in (
        "test_the_plan_for_a_bare_host_touches_nothing",
        "test_the_first_run_ends_with_dify_answering",
    ):
        assert sql(host, "select word from kept") == "row"
        assert sh(host, "cat /opt/dify/volumes/app/storage/kept") == "file"


def test_the_plan_for_a_bare_host_touches_nothing(checkout: Checkout, host: Host) -> None:
    assert checkout.plan().ok().planned == FIRST_STEPS
    assert host.run("command -v docker || test -e /opt/dify").returncode != 0


def test_the_first_run_ends_with_dify_answering(checkout: Checkout, host: Host) -> None:
    run = checkout.deploy().ok()
    assert run.changed == FIRST_STEPS
    assert f"Dify 1.11.4 answers at http://{host.address}" in run.output
    assert "image 10 of 10" in run.output
    assert set(containers(host)) == CORE
    assert get(host, "/console/api/setup") == (200, '{"step":"not_started"}\n')
    assert get(host, "/")[0] == 200
    reached(host)
    sql(host, "create table kept (word text); insert into kept values ('row')")
    sh(host, "echo file > /opt/dify/volumes/app/storage/kept && chown 1001:1001 /opt/dify/volumes/app/storage/kept")


def test_a_second_run_changes_and_restarts_nothing(checkout: Checkout, host: Host) -> None:
    before = containers(host)
    assert checkout.plan().ok().planned == []
    assert checkout.deploy().ok().changed == []
    assert containers(host) == before


def test_a_database_that_lets_nobody_in_is_no_reason_to_migrate(checkout: Checkout, host: Host) -> None:
    allow = "docker exec dify-db_postgres-1 psql -U postgres -d postgres -c 'alter database dify allow_connections {}'"
    sh(host, allow.format("false"))
    planned = checkout.plan().ok().planned
    sh(host, allow.format("true"))
    assert planned == []


def test_a_changed_setting_recreates_exactly_the_services_that_read_it(checkout: Checkout, host: Host) -> None:
    before = containers(host)
    checkout.write(".env", "PM2_INSTANCES=3\n")
    plan = checkout.plan("--diff").ok()
    assert plan.planned == ["Configuration files", "Stack runs"]
    assert "+PM2_INSTANCES=3" in plan.output
    assert containers(host) == before
    assert checkout.deploy().ok().changed == plan.planned
    assert replaced(before, containers(host)) == {"web"}


def test_a_changed_nginx_setting_recreates_nothing_and_is_live(checkout: Checkout, host: Host) -> None:
    before = containers(host)
    checkout.write("env/dify.env", "NGINX_KEEPALIVE_TIMEOUT=33\n")
    assert checkout.deploy().ok().changed == ["Configuration files", "Stack runs"]
    assert containers(host) == before
    wanted = sh(host, "grep -o '[0-9a-f]\\{16\\}' /opt/dify/nginx/version.conf")
    assert f"configuration={wanted}" in sh(host, "docker exec dify-nginx-1 curl --silent http://127.0.0.1/nginx-health")
    assert "keepalive_timeout 33;" in sh(host, "cat /opt/dify/nginx/nginx.conf")


def test_a_hand_edited_file_is_put_right(checkout: Checkout, host: Host) -> None:
    before = containers(host)
    sh(host, "echo '# by hand' >> /opt/dify/nginx/routes.conf && chmod 666 /opt/dify/docker-compose.yaml")
    run = checkout.deploy().ok()
    assert run.changed == ["Configuration files"]
    assert replaced(before, containers(host)) == set()
    assert host.run("grep -q 'by hand' /opt/dify/nginx/routes.conf").returncode == 1
    assert sh(host, "stat -c %a /opt/dify/docker-compose.yaml") == "644"


@pytest.mark.parametrize("service", ["worker", "redis", "db_postgres"])
@pytest.mark.parametrize("what", ["kill", "rm --force"])
def test_a_killed_or_removed_container_comes_back_alone(
    checkout: Checkout, host: Host, service: str, what: str
) -> None:
    before = containers(host)
    sh(host, f"docker {what} dify-{service}-1")
    assert checkout.plan().ok().planned == ["Stack runs"]
    assert checkout.deploy().ok().changed == ["Stack runs"]
    assert replaced(before, containers(host)) == {service}
    reached(host)


def test_a_file_of_root_in_storage_goes_back_to_dify(checkout: Checkout, host: Host) -> None:
    before = containers(host)
    storage = "/opt/dify/volumes/app/storage"
    sh(host, f"mkdir -p {storage}/deep && touch {storage}/deep/file && ln -s /etc/hostname {storage}/deep/link")
    assert checkout.deploy().ok().changed == ["Data folders"]
    assert sh(host, f"find {storage} ! -uid 1001 -o ! -gid 1001") == ""
    assert sh(host, "stat -c %u /etc/hostname") == "0"
    assert containers(host) == before


def test_databases_keep_the_owner_they_gave_themselves(checkout: Checkout, host: Host) -> None:
    owner = sh(host, "stat -c %u /opt/dify/volumes/db/data/pgdata")
    assert owner == "70"
    assert checkout.deploy().ok().changed == []


def test_an_unchosen_store_is_removed_and_its_data_kept(checkout: Checkout, host: Host) -> None:
    before = containers(host)
    sh(host, "echo vectors > /opt/dify/volumes/weaviate/kept")
    checkout.write("env/dify.env", "VECTOR_STORE=qdrant\nNGINX_KEEPALIVE_TIMEOUT=33\n")
    run = checkout.deploy().ok().says("removing, data kept: weaviate")
    assert "weaviate" not in containers(host)
    assert {"db_postgres", "redis", "nginx", "web"}.isdisjoint(replaced(before, containers(host)))
    assert run.changed == ["Data folders", "Images", "Configuration files", "Stack runs"]
    checkout.write("env/dify.env", "NGINX_KEEPALIVE_TIMEOUT=33\n")
    checkout.deploy().ok()
    assert sh(host, "cat /opt/dify/volumes/weaviate/kept") == "vectors"
    reached(host)


def test_a_recreated_api_gives_no_502_once_it_is_well(host: Host) -> None:
    nginx = containers(host)["nginx"]
    sh(host, "cd /opt/dify && docker compose up --detach --force-recreate --no-deps --wait api")
    answers = [get(host, path)[0] for _ in range(20) for path in ("/console/api/setup", "/v1/", "/")]
    assert 502 not in answers
    assert containers(host)["nginx"] == nginx


def test_a_new_release_migrates_the_database_first(checkout: Checkout, host: Host) -> None:
    before = containers(host)
    old = sql(host, "select version_num from alembic_version")
    checkout.knobs |= {"images": {"api": "langgenius/dify-api:1.11.4-next"}, "allow_mixed_images": True}
    run = checkout.deploy().ok()
    assert run.changed == ["Images", "Configuration files", "Database schema", "Stack runs"]
    assert sql(host, "select version_num from alembic_version") != old
    assert replaced(before, containers(host)) == {"api", "worker", "worker_beat"}
    assert '"version":"1.11.4-next"' in sh(host, "docker exec dify-api-1 curl -s http://127.0.0.1:5001/health").replace(
        " ", ""
    )
    assert checkout.deploy().ok().changed == []


def test_a_failing_migration_leaves_the_old_release_answering(checkout: Checkout, host: Host) -> None:
    before = containers(host)
    old = sql(host, "select version_num from alembic_version")
    run = checkout.deploy(images={"api": "langgenius/dify-api:1.11.4-broken"}, allow_mixed_images=True)
    run.failed("the migration failed", old)
    assert sql(host, "select version_num from alembic_version") == old
    assert {name: id for name, (id, _) in containers(host).items()} == {name: id for name, (id, _) in before.items()}
    assert answers_within(host, 60)
    assert not any(secret in run.output for secret in secrets_of(host).values())
    checkout.deploy().ok()
    reached(host)


def test_a_wrong_registry_leaves_the_old_stack_serving(checkout: Checkout, host: Host) -> None:
    before = containers(host)
    checkout.deploy(image_registry="registry:5000/nowhere").failed("cannot be pulled", "image_registry")
    assert containers(host) == before
    assert checkout.deploy().ok().changed == []


def test_a_configuration_that_nginx_refuses_replaces_nothing(checkout: Checkout, host: Host) -> None:
    before, config = (
        containers(host),
        sh(host, "sha256sum /opt/dify/nginx/*.conf /opt/dify/.env /opt/dify/docker-compose.yaml"),
    )
    template = checkout.folder / "templates/nginx/routes.conf.j2"
    good = template.read_text()
    template.write_text(good + "upload_limit 100M;\n")
    checkout.deploy().failed("nginx -t refuses the new configuration", "upload_limit")
    assert containers(host) == before
    assert sh(host, "sha256sum /opt/dify/nginx/*.conf /opt/dify/.env /opt/dify/docker-compose.yaml") == config
    assert host.run("test -e /opt/dify/.staged").returncode == 1
    template.write_text(good)
    assert checkout.deploy().ok().changed == []


def test_a_configuration_that_squid_refuses_replaces_nothing(checkout: Checkout, host: Host) -> None:
    before = containers(host)
    template = checkout.folder / "templates/ssrf_proxy/squid.conf.j2"
    good = template.read_text()
    template.write_text(good + "http_access maybe localnet\n")
    checkout.deploy().failed("squid -k parse refuses the new configuration", "maybe")
    assert containers(host) == before
    template.write_text(good)
    assert checkout.deploy().ok().changed == []


def test_a_service_that_never_gets_well_is_named_with_its_log(checkout: Checkout, host: Host) -> None:
    before = containers(host)
    ill = {"api": "langgenius/dify-api:1.11.4-next", "web": "redis:6-alpine"}
    run = checkout.deploy(images=ill, allow_mixed_images=True, answer_timeout=25)
    run.failed("waiting for web (", "Dify does not answer after 25 s: web (", "web: ", "the last 50 lines of its log:")
    # What Redis says without the powers that web's container is not given.
    run.says("setpriv: setresuid failed")
    assert replaced(before, containers(host)) == {"web"}
    assert checkout.deploy().ok().changed == ["Configuration files", "Stack runs"]


def test_the_rendering_without_a_host_is_what_the_host_got(checkout: Checkout, host: Host) -> None:
    import subprocess
    import sys

    checkout.write("host.env", sh(host, "cat /opt/dify/.env") + "\n")
    words = [sys.executable, "-m", "stack", "render", "--host", host.name, "--out", "rendered", "--secrets", "host.env"]
    subprocess.run(words, cwd=checkout.folder, check=True)
    for path in sh(host, "cd /opt/dify && find . -type f -not -path './volumes/*' -not -name .migrated").splitlines():
        assert (checkout.folder / "rendered" / host.name / path).read_text().rstrip("\n") == sh(
            host, f"cat /opt/dify/{path}"
        )


def test_health_is_asked_for_often_at_first_and_seldom_then(host: Host) -> None:
    sh(host, "docker restart dify-web-1")
    deadline = time.monotonic() + 180
    while len(asked := _asked_for_health(host, "web")) < 3 or asked[-1] - asked[-2] < 29:
        assert time.monotonic() < deadline, asked
        time.sleep(5)
    # Docker keeps the last five: those at first may be gone where a start takes long.
    assert min(after - before for before, after in itertools.pairwise(asked)) < 25


def _asked_for_health(host: Host, service: str) -> list[float]:
    """When a container was started, and Docker asked for its health since: seconds."""
    state = json.loads(sh(host, f"docker inspect --format '{{{{json .State}}}}' dify-{service}-1"))
    started, *asked = (
        datetime.fromisoformat(one[:19]).timestamp()
        for one in (state["StartedAt"], *(one["Start"] for one in state["Health"]["Log"]))
    )
    return [started, *(one for one in asked if one > started)]


def test_everything_comes_back_by_itself_after_a_reboot(checkout: Checkout, host: Host) -> None:
    hosts.reboot(host.name)
    assert answers_within(host, 120)
    assert checkout.deploy().ok().changed == []
    reached(host)
