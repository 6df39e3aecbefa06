"""Secrets in a file beside the inventory, encrypted by the real age, or behind commands that stand in for a vault."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from lab.hosts import Host
from lab.inventory import data
from stack import dotenv, secret_store
from stack.rotation import FILE, Rotation
from stack.secrets import GENERATED
from tests.lab.checkout import Checkout
from tests.lab.containers import CORE, containers, reached, secrets_of, sh

pytestmark = pytest.mark.variants

KEY = "key.txt"
# The stand-in for a vault: a file for each host, and a note of each call.
VAULT = """\
#!/bin/sh
# Stands in for a vault.
echo "$(basename "$0") $DIFY_HOST" >> calls
"""
READ = VAULT + 'cat "entry-of-$DIFY_HOST" 2>/dev/null || true\n'
WRITE = VAULT + 'cat > "entry-of-$DIFY_HOST"\n'
FAILS = VAULT + 'cat >/dev/null\necho "looking for the token" >&2\necho "the stand-in vault is sealed" >&2\nexit 3\n'
COMMANDS = {"read": "./vault-read", "write": ["./vault-write"]}


@pytest.fixture(scope="module")
def kept(checkout: Checkout) -> Checkout:
    """A checkout that keeps the secrets of a host, which is bare still, in a file."""
    checkout.knobs = {"secrets": "file", "age_identity": KEY}
    subprocess.run(["age-keygen", "-o", checkout.folder / KEY], check=True, capture_output=True)
    vault(checkout)
    return checkout


@pytest.fixture(scope="module")
def host(kept: Checkout) -> Host:
    return kept.hosts[0]


def vault(checkout: Checkout, read: str = READ, write: str = WRITE) -> None:
    for name, text in (("vault-read", read), ("vault-write", write)):
        checkout.write(name, text)
        (checkout.folder / name).chmod(0o755)


def with_vault(checkout: Checkout) -> Checkout:
    """The same checkout with the vault instead of age."""
    return Checkout(checkout.folder, checkout.hosts, {"secrets": "file", "secrets_command": COMMANDS})


def file(checkout: Checkout) -> Path:
    return checkout.folder / f"secrets/{checkout.hosts[0].name}.age"


def age(checkout: Checkout, *words: str, given: bytes) -> bytes:
    command = ["age", *words, "--identity", str(checkout.folder / KEY)]
    return subprocess.run(command, input=given, stdout=subprocess.PIPE, check=True).stdout


def entry(checkout: Checkout) -> dict[str, str]:
    """What the file says, decrypted by age itself."""
    return dotenv.read(age(checkout, "--decrypt", given=file(checkout).read_bytes()).decode())


def put(checkout: Checkout, new: Mapping[str, str]) -> None:
    file(checkout).write_bytes(age(checkout, "--encrypt", given=secret_store.text(new).encode()))


def made(host: Host) -> dict[str, str]:
    """The secrets in the host's own .env that were made for it."""
    return {name: value for name, value in secrets_of(host).items() if name in GENERATED}


# --- A new host ---


def test_the_plan_says_what_would_be_kept_and_keeps_nothing(kept: Checkout, host: Host) -> None:
    run = kept.plan().ok().says(f"secrets/{host.name}.age: new: DB_PASSWORD, INIT_PASSWORD,")
    assert run.planned.index("Secrets kept") == run.planned.index("Configuration files") - 1
    assert not file(kept).parent.exists()


def test_a_host_gets_no_secret_that_nobody_kept(kept: Checkout, host: Host) -> None:
    vault(kept, write=FAILS)
    with_vault(kept).deploy().failed("vault-write ended with 3: the stand-in vault is sealed")
    assert sh(host, "ls -A /opt/dify | grep -F .env || true") == ""
    vault(kept)


@pytest.fixture(scope="module")
def first(kept: Checkout, host: Host) -> str:
    """What the first whole run printed with everything switched on."""
    output = kept.deploy("-vvv", "--debug", "--diff").ok().output
    assert set(containers(host)) == CORE
    reached(host)
    return output


def test_the_file_holds_what_the_host_has(kept: Checkout, host: Host, first: str) -> None:
    assert entry(kept) == made(host)
    assert {"SECRET_KEY", "DB_PASSWORD", "WEAVIATE_API_KEY"} <= entry(kept).keys()


def test_nobody_reads_along(kept: Checkout, host: Host, first: str) -> None:
    sealed = file(kept).read_bytes()
    assert oct(file(kept).stat().st_mode)[-3:] == "600"
    assert [path.name for path in file(kept).parent.iterdir()] == [file(kept).name]
    for name, value in secrets_of(host).items():
        assert value not in first, f"{name} was printed"
        assert value.encode() not in sealed, f"{name} is not encrypted"


def test_another_run_is_silent_and_leaves_every_byte(kept: Checkout, host: Host, first: str) -> None:
    before, ran = file(kept).read_bytes(), containers(host)
    assert kept.deploy().ok().changed == []
    assert (file(kept).read_bytes(), containers(host)) == (before, ran)


def test_a_lost_file_is_made_again_from_the_host(kept: Checkout, host: Host, first: str) -> None:
    before, ran = entry(kept), containers(host)
    file(kept).unlink()
    run = kept.deploy().ok()
    assert run.changed == ["Secrets kept"]
    assert (entry(kept), containers(host)) == (before, ran)


# --- Two that disagree ---


def test_values_that_differ_are_refused_without_showing_them(kept: Checkout, host: Host, first: str) -> None:
    before, ran, other = entry(kept), containers(host), "AnotherValueThatSomebodyPutThere"
    put(kept, {**before, "REDIS_PASSWORD": other})
    sealed = file(kept).read_bytes()
    run = kept.deploy("-vvv", "--debug").refused(
        f"{host.name}: REDIS_PASSWORD: differs between /opt/dify/.env on the host and secrets/{host.name}.age: to go on"
    )
    assert [value for value in (other, *before.values()) if value in run.output] == []
    assert (file(kept).read_bytes(), containers(host)) == (sealed, ran)
    put(kept, before)
    assert kept.deploy().ok().changed == []


def test_a_file_that_is_none_is_refused(kept: Checkout, host: Host, first: str) -> None:
    before = file(kept).read_bytes()
    file(kept).write_bytes(before[:100])
    kept.deploy().refused(f"secrets/{host.name}.age: age ended with 1: age: error:")
    file(kept).write_bytes(before)


# --- Another value ---


def test_the_plan_of_a_change_says_both_writes(kept: Checkout, host: Host, first: str) -> None:
    before = file(kept).read_bytes()
    run = kept.pyinfra("inventory.py", "tasks.secrets.rotate", "name=DB_PASSWORD", "--dry").ok()
    assert [step for step in run.planned if step.endswith("kept")] == ["New value kept", "Old value no longer kept"]
    run.says("age: new: OLD_DB_PASSWORD", "age: another value: DB_PASSWORD", "age: taken out: OLD_DB_PASSWORD")
    assert file(kept).read_bytes() == before


def test_a_change_reaches_both(kept: Checkout, host: Host, first: str) -> None:
    before = entry(kept)
    run = kept.pyinfra("inventory.py", "tasks.secrets.rotate", "name=DB_PASSWORD", "-y", "-vvv", "--debug").ok()
    run.says("refuses the old value", f"secrets/{host.name}.age: new: OLD_DB_PASSWORD")
    after = entry(kept)
    assert after == made(host)
    assert {name for name in after.keys() | before.keys() if after.get(name) != before.get(name)} == {"DB_PASSWORD"}
    assert [value for value in (before["DB_PASSWORD"], after["DB_PASSWORD"]) if value in run.output] == []
    reached(host)
    assert kept.deploy().ok().changed == []


def test_a_change_that_died_before_the_host_knew_of_it_is_taken_back(kept: Checkout, host: Host, first: str) -> None:
    before = entry(kept)
    put(kept, {**before, "REDIS_PASSWORD": "TheNewValue", "OLD_REDIS_PASSWORD": before["REDIS_PASSWORD"]})
    assert kept.deploy().ok().changed == ["Secrets kept"]
    assert (entry(kept), made(host)) == (before, before)


def test_a_change_that_died_later_is_finished(kept: Checkout, host: Host, first: str) -> None:
    before, new = entry(kept), "TheNewValue"
    change = Rotation("REDIS_PASSWORD", before["REDIS_PASSWORD"], new)
    assert host.run(f"umask 077; cat > /opt/dify/{FILE}", stdin=change.text()).returncode == 0
    put(kept, {**before, "REDIS_PASSWORD": new, "OLD_REDIS_PASSWORD": change.old})
    refused = kept.deploy().refused("the change of REDIS_PASSWORD was not finished")
    assert "differs between" not in refused.output
    kept.pyinfra("inventory.py", "tasks.secrets.rotate", "name=REDIS_PASSWORD", "-y").ok().says("refuses the old value")
    assert entry(kept) == made(host) == {**before, "REDIS_PASSWORD": new}


# --- A lost host ---


def test_a_host_that_is_made_again_has_the_same_secrets(kept: Checkout, host: Host, first: str) -> None:
    before, sealed = entry(kept), file(kept).read_bytes()
    kept.pyinfra("inventory.py", "tasks.stack.remove", "data=delete", "confirm=dify", "-y").ok()
    sh(host, "test ! -e /opt/dify")
    assert kept.deploy().ok().changed.count("Secrets kept") == 0
    assert made(host) == before
    reached(host)
    assert file(kept).read_bytes() == sealed


# --- A vault ---


def test_commands_take_the_place_of_age(kept: Checkout, host: Host, first: str) -> None:
    other, ran, name = with_vault(kept), containers(host), host.name
    (kept.folder / "calls").unlink()
    assert other.deploy().ok().changed == ["Secrets kept"]
    assert dotenv.read((kept.folder / f"entry-of-{name}").read_text()) == made(host)
    assert calls(kept) == [f"vault-read {name}", f"vault-write {name}", f"vault-read {name}"]
    assert other.deploy().ok().changed == []
    assert calls(kept)[3:] == [f"vault-read {name}"]
    assert containers(host) == ran


def calls(checkout: Checkout) -> list[str]:
    return (checkout.folder / "calls").read_text().splitlines()


def test_every_host_of_the_run_is_read_once_and_no_other(kept: Checkout, host: Host, first: str) -> None:
    other = with_vault(kept)
    two = {**data(host), "project": "dify-two", "root": "/opt/two", "EXPOSE_NGINX_PORT": 8080}
    (kept.folder / "calls").unlink()
    other.write_inventory({"two": two})
    plan = other.pyinfra("inventory.py", "deploy.py", "--dry", inventory=False).ok()
    plan.says("secrets_command's entry of two: new: DB_PASSWORD")
    assert sorted(calls(kept)) == sorted([f"vault-read {host.name}", "vault-read two"])
    other.pyinfra("inventory.py", "deploy.py", "--dry", "--limit", "two", inventory=False).ok()
    assert calls(kept)[2:] == ["vault-read two"]


def test_a_vault_that_does_not_answer_is_one_line(kept: Checkout, host: Host, first: str) -> None:
    ran = containers(host)
    vault(kept, read=FAILS)
    with_vault(kept).deploy().refused(
        f"{host.name}: secrets_command, read of {host.name}: ./vault-read ended with 3: the stand-in vault is sealed"
    )
    vault(kept)
    assert containers(host) == ran


def test_one_is_printed_on_demand_as_before(kept: Checkout, host: Host, first: str) -> None:
    shown = kept.pyinfra("inventory.py", "tasks.secrets.show", "name=INIT_PASSWORD", "--dry").ok()
    assert f"{host.name}: {entry(kept)['INIT_PASSWORD']}" in shown.output.splitlines()
