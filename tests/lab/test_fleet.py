"""Several hosts in one run, and inventories that name nobody."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from lab.hosts import Host
from stack import dotenv
from tests.lab.checkout import Checkout
from tests.lab.containers import CORE, containers, reached, secrets_of, sh

UNREACHABLE = {"gone": {"ssh_hostname": "127.0.0.1", "ssh_port": 1, "ssh_user": "root"}}


@pytest.fixture(scope="module")
def pair(checkout: Checkout, new_host: Callable[..., Host]) -> list[Host]:
    checkout.hosts.append(new_host("b"))
    return checkout.hosts


# Every character that .env files, Compose, YAML, shells, URLs or SQL read in a way of their own.
NASTY = r"""p@ss:w/rd#$%'" \${HOME} &;`x`"""


def test_two_bare_hosts_in_one_run_each_with_secrets_of_its_own(checkout: Checkout, pair: list[Host]) -> None:
    nasty = {
        name: f"{number}{NASTY}" for number, name in enumerate(("DB_PASSWORD", "REDIS_PASSWORD", "WEAVIATE_API_KEY"))
    }
    checkout.write(
        f"env/{pair[1].name}.env", "".join(f"{name}={dotenv.quote(value)}\n" for name, value in nasty.items())
    )
    checkout.deploy().ok()
    for host in pair:
        assert set(containers(host)) == CORE
        reached(host)
    one, other = (secrets_of(host) for host in pair)
    assert one.keys() == other.keys()
    assert not set(one.values()) & set(other.values())
    assert nasty.items() <= other.items()
    arrived = json.loads(sh(pair[1], "docker inspect --format '{{json .Config.Env}}' dify-db_postgres-1"))
    assert f"POSTGRES_PASSWORD={nasty['DB_PASSWORD']}" in arrived
    assert checkout.deploy().ok().changed == []


def test_a_setting_for_one_host_reaches_only_that_host(checkout: Checkout, pair: list[Host]) -> None:
    before = [containers(host) for host in pair]
    own = checkout.folder / f"env/{pair[1].name}.env"
    own.write_text(own.read_text() + "PM2_INSTANCES=1\n")
    checkout.deploy().ok()
    assert containers(pair[0]) == before[0]
    assert containers(pair[1]) != before[1]


def test_an_unreachable_host_stops_nobody_else_but_the_exit_code_tells(checkout: Checkout, pair: list[Host]) -> None:
    checkout.write(f"env/{pair[0].name}.env", "PM2_INSTANCES=1\n")
    before = containers(pair[0])
    checkout.write_inventory(UNREACHABLE)
    run = checkout.pyinfra("inventory.py", "deploy.py", "-y", inventory=False)
    assert run.code == 1
    run.says(
        "[gone]", f"Dify 1.11.4 answers at http://{pair[0].address}", f"Dify 1.11.4 answers at http://{pair[1].address}"
    )
    assert containers(pair[0]) != before
    (checkout.folder / f"env/{pair[0].name}.env").unlink()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--limit", "nobody"), "--limit nobody: no such host or group"),
        (("--limit", "dify,"), "did you mean dify?"),
        (("--exclude", "nobody"), "--exclude nobody: no such host or group"),
    ],
)
def test_a_limit_that_matches_nothing_is_an_error(checkout: Checkout, arguments: tuple[str, ...], words: str) -> None:
    checkout.plan(*arguments).refused(words)


def test_a_file_for_an_unknown_group_is_an_error(checkout: Checkout) -> None:
    checkout.write("env/wbe.env", "LOG_LEVEL=DEBUG\n")
    checkout.write("group_data/difi.py", "min_cpus = 1\n")
    checkout.plan().refused(
        "env/wbe.env: the inventory has no group or host 'wbe'", "group_data/difi.py", "did you mean dify?"
    )
    (checkout.folder / "env/wbe.env").unlink()
    (checkout.folder / "group_data/difi.py").unlink()


def test_an_empty_inventory_is_an_error(checkout: Checkout) -> None:
    checkout.write("inventory.py", "dify = []\n")
    checkout.pyinfra("inventory.py", "deploy.py", "-y", inventory=False).refused("the inventory names no host")


def test_a_mistyped_inventory_file_is_an_error(checkout: Checkout) -> None:
    checkout.pyinfra("inventroy.py", "deploy.py", "-y").refused(
        "no inventory file inventroy.py", "did you mean inventory.py?"
    )


def test_a_question_nobody_can_answer_is_an_error(checkout: Checkout) -> None:
    checkout.pyinfra("inventory.py", "deploy.py").refused("add -y to do it, or --dry to look")
