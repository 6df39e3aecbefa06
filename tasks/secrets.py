"""pyinfra inventory.py tasks.secrets.rotate name=DB_PASSWORD         another value on both sides, and proof that the old is dead
pyinfra inventory.py tasks.secrets.show name=INIT_PASSWORD --dry   prints one secret of each host, on stdout and nowhere else
"""

from __future__ import annotations

from collections.abc import Generator
from functools import partial

import click
from pyinfra import host, state
from pyinfra.api import DeployError, StringCommand, operation
from pyinfra.api.host import Host

from stack import dotenv, rotation
from stack.errors import InvalidError, nearest
from stack.render import Stack
from stack.requirements import Machine
from stack.rotation import Rotation
from stack.secrets import is_secret
from stack.settings import Settings
from tasks import compose, files, gate, images, kernel, migrate, preflight, secret_store, volumes
from tasks.commands import MaskedCommand, private_look, script

READ = 'cat "$root/$file"'

# The new value lies safely on the host before anything knows it: whatever dies from here on can be finished.
NOTE = r"""
set -e; umask 077; cd "$root"
test ! -e "$file" || { echo "$root/$file appeared during this run: somebody else is at it too. Run this again." >&2; exit 1; }
trap 'rm -f "$file.new"' EXIT
cat >"$file.new"
test "$(tail -n 1 "$file.new")" = "$complete" || { echo "the new value did not arrive whole; nothing was changed" >&2; exit 1; }
sync "$file.new"
mv -T "$file.new" "$file"
sync .
"""

# What both of the next begin with. The values come in lines of base64 on stdin; half a line ends the script.
VALUES = r"""
set -e; cd "$root"
read -r old; read -r new
old=$(printf %s "$old" | base64 -d); new=$(printf %s "$new" | base64 -d)
container() {
    docker ps --quiet --filter "label=com.docker.compose.project=$project" \
        --filter "label=com.docker.compose.service=${through:-$service}" --filter label=com.docker.compose.oneoff=False | head -n 1
}
"""

# The password that the client logs in with is an environment variable, named only on the command line.
CHANGE = (
    VALUES
    + r"""
read -r statement
try() {
    printf %s "$statement" | base64 -d | MYSQL_PWD=$1 docker exec --interactive --env MYSQL_PWD "$(container)" sh -c "$client" 2>&1
}
# A run that died may have left it stopped, and it is asked by itself: its health check knows one of the two values only.
test -n "$(container)" || docker compose up --detach --no-deps --pull never "$service" >/dev/null 2>&1
deadline=$(($(date +%s) + patience))
until said=$(try "$old") || said=$(try "$new"); do
    case $said in *"Access denied"* | *"no password supplied"* | *ERROR:*) deadline=0 ;; esac
    test "$(date +%s)" -lt "$deadline" || {
        printf '%s\n' "$said" | tail -n 3 >&2
        echo "$service does not take the new password; it keeps the old one, and all runs on with that" >&2
        exit 1
    }
    sleep 2
done
"""
)
CLIENTS = {
    "postgresql": 'psql -X -q -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d "$POSTGRES_DB"',
    "mysql": "mysql --protocol=socket --user=root",
}
PATIENCE = 180  # seconds until a database that was killed has recovered

# try says yes or no, or what else came back.
PROVE = r"""
address=$(docker inspect --format '{{range .NetworkSettings.Networks}}{{println .IPAddress}}{{end}}' "$(container)" | head -n 1)
now=$(try "$new"); before=$(try "$old")
test "$now" = yes || { echo "$service does not take the new value: ${now:-no answer}" >&2; exit 1; }
test "$before" = no || { echo "$service still takes the old value: ${before:-no answer}" >&2; exit 1; }
"""
# By its own address: PostgreSQL's image lets everybody in who comes from 127.0.0.1.
TRY_POSTGRESQL = r"""
try() {
    said=$(PGPASSWORD=$1 docker exec --env PGPASSWORD "$(container)" sh -c \
        'psql -X -h "$0" -U "$POSTGRES_USER" -d "$POSTGRES_DB" -tAc "select 1"' "$address" 2>&1) && { echo yes; return; }
    case $said in *"password authentication failed"*) echo no ;; *) printf '%s\n' "$said" ;; esac
}
"""
TRY_MYSQL = r"""
try() {
    said=$(MYSQL_PWD=$1 docker exec --env MYSQL_PWD "$(container)" \
        mysql --protocol=tcp --host="$address" --user=root --execute='SELECT 1' 2>&1) && { echo yes; return; }
    case $said in *"Access denied"*) echo no ;; *) printf '%s\n' "$said" ;; esac
}
"""
TRY_REDIS = r"""
try() {
    said=$(REDISCLI_AUTH=$1 docker exec --env REDISCLI_AUTH "$(container)" redis-cli ping 2>&1) || true
    case $said in PONG) echo yes ;; *WRONGPASS* | *NOAUTH*) echo no ;; *) printf '%s\n' "$said" ;; esac
}
"""
TRY_HTTP = r"""
try() {
    value=$(printf %s "$1" | sed 's/[\\"]/\\&/g')
    status=$(printf 'header = "%s%s"\n' "$header" "$value" | curl --config - --silent --show-error --output /dev/null \
        --max-time 20 --noproxy '*' --write-out '%{http_code}' --header 'Content-Type: application/json' \
        ${data:+--data "$data"} "http://$address:$port$path" 2>&1) || true
    case $status in 2??) echo yes ;; 401 | 403) echo no ;; *) printf '%s\n' "$status" ;; esac
}
"""
TRY = {"postgresql": TRY_POSTGRESQL, "mysql": TRY_MYSQL, "redis": TRY_REDIS, "http": TRY_HTTP}
REMOVE = r'set -e; cd "$root"; rm -f "$file" "$file.new"'

_changes: dict[str, Rotation] = {}


def rotate(name: str = "", force: str = "no") -> None:
    """Give a running deployment another value of one secret.

    name: of the secret, as DB_PASSWORD. The new value is random, or the one that the operator's settings give now.
    force: "yes" for a secret that stored data is encrypted with.
    Run again after it died, it goes on where it stopped. Raises DeployError when it cannot be, before anything is changed.
    """
    try:
        rotation.refuse_unknown(name)
    except InvalidError as wrong:
        raise DeployError(wrong.lines[0]) from None
    stack = preflight.stack(partial(_replaced, name, str(force).lower() in ("yes", "true")))
    knobs, change = stack.settings.knobs, _changes[host.name]
    # As in a deploy: images are here before anything stops.
    kernel.settings(name="Kernel settings", stack=stack)
    volumes.folders(name="Data folders", root=knobs.root, wanted=stack.folders)
    images.pulled(name="Images", stack=stack)
    if knobs.secrets == "file":
        secret_store.kept(name="New value kept", stack=stack, change=change)
    noted(name="New value noted on the host", stack=stack, change=change)
    # From here on new logins fail until their side has the new value too.
    taken(name="Server has the new value", stack=stack, change=change)
    files.configuration(name="Configuration files", stack=stack)
    migrate.migrated(name="Database schema", stack=stack)
    compose.runs(name="Stack runs", stack=stack)
    gate.answers(name="Middleware is well" if knobs.mode == "middleware" else "Dify answers", stack=stack)
    finished(name="Old value is refused", stack=stack, change=change)
    if knobs.secrets == "file":
        secret_store.kept(name="Old value no longer kept", stack=stack)


def _replaced(
    name: str, force: bool, one: Host, draft: Settings, machine: Machine, kept: dict[str, str]
) -> dict[str, str]:
    """What the host keeps, with the new value instead of the old; notes what changes."""
    root = draft.knobs.root
    begun = None
    if machine.rotation:
        look = StringCommand(script(READ, root=root, file=rotation.FILE))
        begun = rotation.read(private_look(state, one, look))
    _changes[one.name] = rotation.planned(name, draft, kept, begun, force)
    return rotation.replaced(kept, _changes[one.name])


@operation()
def noted(stack: Stack, change: Rotation) -> Generator[StringCommand, None, None]:
    """The old and the new value lie on the host, for root only.

    + stack: what was rendered
    + change: from what to what
    """
    if change.pending:
        host.noop(f"an earlier run noted the new value of {change.name}")
        return
    note = script(NOTE, root=stack.settings.knobs.root, file=rotation.FILE, complete=rotation.COMPLETE)
    yield _masked(note, stack, change, change.text())


@operation()
def taken(stack: Stack, change: Rotation) -> Generator[StringCommand, None, None]:
    """The server that keeps this password itself has the new one.

    + stack: what was rendered
    + change: from what to what
    """
    service, kind = rotation.server(change.name, stack.settings)
    if not service:
        host.noop(f"{change.name} is configuration only")
        return
    knobs = stack.settings.knobs
    variables = {"root": knobs.root, "project": knobs.project, "service": service}
    alter = script(CHANGE, **variables, client=CLIENTS[kind], patience=str(PATIENCE))
    yield _masked(alter, stack, change, _lines(change.old, change.new, rotation.statement(kind, change.new)))


@operation()
def finished(stack: Stack, change: Rotation) -> Generator[StringCommand, None, None]:
    """The real server takes the new value and refuses the old one.

    + stack: what runs
    + change: from what to what
    """
    knobs = stack.settings.knobs
    trial = rotation.trial(change.name, stack.settings)
    if trial:
        variables = {name: str(value) for name, value in vars(trial).items() if name != "kind"}
        body = VALUES + TRY[trial.kind] + PROVE
        prove = script(body, root=knobs.root, project=knobs.project, **variables)
        yield _masked(prove, stack, change, _lines(change.old, change.new))
    if state.is_executing:
        proof = (
            f"{trial.service} refuses the old value"
            if trial
            else "not proven: no server is known to try the old one on"
        )
        host.log(f"{change.name} was changed; {proof}")
    yield StringCommand(script(REMOVE, root=knobs.root, file=rotation.FILE))


def _masked(command: str, stack: Stack, change: Rotation, stdin: str) -> MaskedCommand:
    secrets = [*stack.settings.secrets, change.old, change.new]
    return MaskedCommand(command, secrets=secrets, _stdin=stdin)


def _lines(*values: str) -> str:
    return "".join(f"{rotation.encoded(value)}\n" for value in values)


def show(name: str = "") -> None:
    """Print one secret of each host as `host: value`, on stdout.

    name: of a secret in the host's .env.
    Raises DeployError for a name that is not there, and for a host that was not deployed to yet.
    """
    root = preflight.knobs_of(host).root
    try:
        text = private_look(state, host, StringCommand(script(READ, root=root, file=".env")))
    except OSError:
        raise DeployError(f"{root}/.env is not on the host yet: run pyinfra inventory.py deploy.py first") from None
    known = {key: value for key, value in dotenv.read(text).items() if is_secret(key)}
    if name not in known:
        raise DeployError(
            f"name={name}: no such secret in {root}/.env{nearest(name, known) or '.'} There are {', '.join(sorted(known))}"
        )
    click.echo(f"{host.name}: {known[name]}")
