"""The database's schema: migrated by a step of its own, and proven by comparing revisions, not by an exit code."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from pyinfra import host
from pyinfra.api import FactBase, StringCommand, operation

from stack.render import Stack
from tasks.commands import MaskedCommand, script

BACKEND = ("api", "worker", "worker_beat")

# .migrated holds what the last successful migration proved: the image's id and the revision.
LOOK = r"""
command -v docker >/dev/null || exit 0
echo "image $(docker image inspect --format '{{.Id}}' "$image" 2>/dev/null)"
test -e "$root/.migrated" && echo "recorded $(cat "$root/.migrated")"
database=$(docker ps --quiet --filter "label=com.docker.compose.project=$project" \
    --filter label=com.docker.compose.service=db_postgres --filter label=com.docker.compose.oneoff=False 2>/dev/null)
test -n "$database" || exit 0
# psql ends with 2 when it does not get in: a database that is starting says nothing about its schema, and api must not stop.
revision=$(docker exec "$database" sh -c 'found=$(PGPASSWORD=$POSTGRES_PASSWORD \
    psql -U "$POSTGRES_USER" -d "$POSTGRES_DB" -tAc "select version_num from alembic_version")
    case $? in 0 | 1) echo "${found:-none}" ;; esac' 2>/dev/null)
test -z "$revision" || echo "revision $revision"
true
"""

# The image's own `flask upgrade-db` ends with 0 whatever happened, so current and heads are compared.
MIGRATE = r"""
set -e; cd "$root"
# A run whose controller died may still be at work here.
exec 9>"/run/lock/$project-migration"; flock 9
compose_run() { docker compose run --rm --no-deps -T "$@"; }
said=$(docker compose up --detach --wait --wait-timeout 180 --no-deps --pull never $stores 2>&1) || {
    printf '%s\n' "$said" | tail -n 3 >&2
    docker compose logs --no-color --tail 50 $stores >&2
    echo "$stores: not healthy, so the migration was not begun; the log stands above" >&2
    exit 1
}
running=$(for service; do docker ps --quiet --filter "label=com.docker.compose.project=$project" \
    --filter "label=com.docker.compose.service=$service" --filter label=com.docker.compose.oneoff=False; done)
# Whatever happens from here on, what ran before runs again; after a success the next step replaces it.
back() { test -z "$running" || docker start $running >/dev/null; }
trap 'status=$?; rm -f .migration.log; test $status = 0 || back; exit $status' EXIT
trap 'exit 1' HUP INT TERM PIPE
test -z "$running" || docker stop --time 30 $running >/dev/null
umask 077
compose_run --env MODE=migration --env MIGRATION_ENABLED=true api >.migration.log 2>&1 || true
revisions() { grep -E '^[0-9A-Za-z_]+( \(head\))?$' | cut -d' ' -f1 | sort; }
said=$(compose_run --entrypoint bash api -c 'flask db current; echo =====; flask db heads' 2>>.migration.log) || true
current=$(printf '%s\n' "$said" | sed '/^=====$/,$d' | revisions)
heads=$(printf '%s\n' "$said" | sed '1,/^=====$/d' | revisions)
if test -z "$heads" || test "$current" != "$heads"; then
    tail -n 50 .migration.log >&2
    echo "the migration failed: the database is at revision ${current:-(none)}, the image's migrations end at" \
        "${heads:-(unknown)}. What ran before was started again; the log stands above." >&2
    exit 1
fi
echo "$(docker image inspect --format '{{.Id}}' "$image") $current" > .migrated
"""


@dataclass(frozen=True)
class SchemaState:
    """What is known of the schema; None where it could not be looked at.

    image: id of the api image.
    recorded: (image id, revision) of the last successful migration.
    revision: what the database says.
    """

    image: str | None = None
    recorded: tuple[str, str] | None = None
    revision: str | None = None

    @property
    def is_current(self) -> bool:
        """Whether this image's migrations were proven to be in this database."""
        if not self.recorded or not self.image or self.recorded[0] != self.image:
            return False
        return self.revision in (None, self.recorded[1])


class Schema(FactBase[SchemaState]):
    """Revision of the database, and for which image it was proven."""

    @staticmethod
    def default() -> SchemaState:
        return SchemaState()

    def command(self, root: str, project: str, image: str) -> StringCommand:
        return StringCommand(script(LOOK, root=root, project=project, image=image))

    def process(self, output: list[str]) -> SchemaState:
        found = {key: value for key, _, value in (line.partition(" ") for line in output)}
        image, _, revision = found.get("recorded", "").partition(" ")
        recorded = (image, revision) if revision else None
        return SchemaState(found.get("image") or None, recorded, found.get("revision"))


@operation()
def migrated(stack: Stack) -> Generator[StringCommand, None, None]:
    """The database has the schema that the api's image wants.

    + stack: what was rendered
    """
    knobs = stack.settings.knobs
    image = stack.services["api"].image
    schema = host.get_fact(Schema, root=knobs.root, project=knobs.project, image=image)
    if schema.is_current:
        host.noop("the database's schema is the image's")
        return
    stores = " ".join(name for name in ("db_postgres", "redis") if name in stack.services)
    migrate = script(MIGRATE, *BACKEND, root=knobs.root, project=knobs.project, image=image, stores=stores)
    yield MaskedCommand(migrate, secrets=stack.settings.secrets)
