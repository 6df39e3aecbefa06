"""The first account, made through Dify's own API before nginx lets anybody in: no stranger meets an open /install page."""

from __future__ import annotations

import sys
from collections.abc import Generator
from dataclasses import dataclass

import click
from pyinfra import host, state
from pyinfra.api import FactBase, StringCommand, operation

from stack import accounts
from stack.render import Stack
from tasks.commands import MaskedCommand, alone, deployment, private_look, script
from tasks.migrate import FIRST_START, database_service

# Only api itself knows. Where it does not run, it is started and asked.
LOOK = r"""
test -s "$root/.admin-password" && echo "password yes"
command -v docker >/dev/null || exit 0
container=$(docker ps --quiet --filter "label=com.docker.compose.project=$project" \
    --filter label=com.docker.compose.service=api --filter label=com.docker.compose.oneoff=False 2>/dev/null)
test -z "$container" || docker exec "$container" curl --silent --max-time 10 --noproxy '*' \
    "http://127.0.0.1:$port/console/api/setup" 2>/dev/null | tr -d '\n' | sed 's/^/setup /'
true
"""

# In api's container. Bodies come on stdin and the session goes through a pipe, so that no process has them as arguments.
TALK = r"""
IFS= read -r init; IFS= read -r account
call() { curl --silent --show-error --max-time 120 --noproxy '*' --header 'Content-Type: application/json' --data-binary @- "$@"; }
base=http://127.0.0.1:$1/console/api
answer=$(printf %s "$init" | call --include "$base/init") || exit
case $answer in *init_validate_failed*) echo "Dify refuses the INIT_PASSWORD of .env" >&2; exit 1 ;; esac
# A jar would not give a cookie that is for https only to an address that is not.
cookie=$(printf '%s\n' "$answer" | tr -d '\r' | sed -n 's/^[Ss]et-[Cc]ookie: *\([^;]*\).*/\1/p' | paste -s -d ';' -)
answer=$(printf %s "$account" | call --config <(printf 'header = "Cookie: %s"\n' "$cookie") \
    --write-out '\n%{http_code}' "$base/setup") || exit
test "${answer##*$'\n'}" = 201 || { printf '%s\n' "$answer" >&2; exit 1; }
"""

# The password lies on the host before the account is there, so that a run which dies in between loses nothing.
MAKE = r"""
set -e; cd "$root"
IFS= read -r password; IFS= read -r init; IFS= read -r account
begin() {
    said=$(docker compose up --detach --wait --wait-timeout "$patience" --no-deps --pull never "$@" </dev/null 2>&1) && return
    printf '%s\n' "$said" | tail -n 3 >&2
    docker compose logs --no-color --tail 50 "$@" </dev/null >&2
    echo "$*: not healthy, so the first account was not made; the log stands above" >&2
    exit 1
}
test -z "$stores" || begin $stores
begin api
container=$(docker compose ps --quiet api </dev/null)
ask() { docker exec "$container" curl --silent --max-time 10 --noproxy '*' "http://127.0.0.1:$port/console/api/setup" </dev/null; }
step=$(ask) || {
    docker compose logs --no-color --tail 50 api </dev/null >&2
    echo "api does not answer, so the first account was not made; its log stands above" >&2; exit 1; }
case $step in *'"finished"'*) exit 0 ;; esac
umask 077; printf '%s\n' "$password" > .admin-password.new; mv .admin-password.new .admin-password
printf '%s\n' "$init" "$account" | docker exec --interactive "$container" bash -c "$talk" talk "$port" || {
    echo "the first account was not made; what Dify answered stands above" >&2; exit 1; }
"""
READ = '! test -s "$file" || cat "$file"'
# Of hosts whose account was there when the run began: their api may be stopped when it is this step's turn.
_finished: set[str] = set()


@dataclass(frozen=True)
class Account:
    """What was found of the first account.

    finished: whether somebody made it.
    password: whether the password that we made for it still lies on the host.
    """

    finished: bool = False
    password: bool = False


class FirstAccount(FactBase[Account]):
    """Whether Dify has its first account; not, as far as can be told, where api does not run."""

    @staticmethod
    def default() -> Account:
        return Account()

    def command(self, root: str, project: str, port: str) -> StringCommand:
        return StringCommand(script(LOOK, root=root, project=project, port=port))

    def process(self, output: list[str]) -> Account:
        found = {key: value for key, _, value in (line.partition(" ") for line in output)}
        return Account('"finished"' in found.get("setup", ""), "password" in found)


@operation()
def made(stack: Stack) -> Generator[StringCommand, None, None]:
    """Dify has its first account, and whoever deploys was told its password.

    + stack: what was rendered; its knob admin says whom the account is for
    """
    file = f"{stack.settings.knobs.root}/.admin-password"
    found = _look(stack)
    if not found.finished:
        yield _make(stack, file)
        found = _look(stack)
    elif not found.password or not _on_terminal():
        host.noop("Dify has its first account")
    if not found.password:
        return
    if not _on_terminal():
        if state.is_executing:
            host.log(f"the first account's password lies in {file} on the host; read it there, then delete the file")
        return
    if state.is_executing:
        _show(stack, file)
    yield StringCommand(script('rm -f "$file"', file=file))


def _look(stack: Stack) -> Account:
    knobs = stack.settings.knobs
    found: Account = host.get_fact(
        FirstAccount, root=knobs.root, project=knobs.project, port=stack.settings["DIFY_PORT"]
    )
    if found.finished:
        _finished.add(host.name)
    return Account(host.name in _finished, found.password)


def _make(stack: Stack, file: str) -> StringCommand:
    settings = stack.settings
    assert settings.knobs.admin
    service = database_service(stack)
    # An earlier run may have made the account with it and died before it heard so.
    password = (_read(file) if state.is_executing else "") or accounts.make_password()
    init, account = accounts.bodies(settings.knobs.admin, settings["INIT_PASSWORD"], password)
    make = alone(
        MAKE,
        lock=deployment(settings.knobs.project),
        root=settings.knobs.root,
        port=settings["DIFY_PORT"],
        stores=" ".join(name for name in (service, "redis") if name in stack.services),
        patience=str(FIRST_START.get(service, 180)),
        talk=TALK,
    )
    return MaskedCommand(make, secrets=[*settings.secrets, password], _stdin=f"{password}\n{init}\n{account}")


def _on_terminal() -> bool:
    return sys.stdout.isatty()


def _read(file: str) -> str:
    return private_look(state, host, StringCommand(script(READ, file=file))).strip()


def _show(stack: Stack, file: str) -> None:
    """Print the password on the terminal, and nowhere else."""
    admin = stack.settings.knobs.admin
    assert admin
    click.echo(
        f"{host.print_prefix}first account: {admin.email}, password {_read(file)} (shown this once: keep it now)"
    )
