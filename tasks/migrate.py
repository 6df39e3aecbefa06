"""The database's schema: migrated by a step of its own, and proven by comparing revisions, not by an exit code."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from pyinfra import host
from pyinfra.api import FactBase, StringCommand, operation

from stack.render import Stack
from tasks import nginx
from tasks.commands import MaskedCommand, alone, deployment, script

BACKEND = ("api", "worker", "worker_beat")
# The services that are not called as DB_TYPE is.
SERVICES = {"postgresql": "db_postgres", "mysql": "db_mysql"}
# Seconds that a database may need to get well, where 180 are not enough: OceanBase's first start takes five minutes.
FIRST_START = {"oceanbase": 600}

# .migrated holds what the last successful migration proved: the image's id and the revision, and below it where the
# database is when it runs elsewhere: in another one nothing was proven.
LOOK = r"""
command -v docker >/dev/null || exit 0
echo "image $(docker image inspect --format '{{.Id}}' "$image" 2>/dev/null)"
test -e "$root/.migrated" && test "$(sed -n 2p "$root/.migrated")" = "$place" && echo "recorded $(head -n 1 "$root/.migrated")"
test -n "$service" || exit 0
container=$(docker ps --quiet --filter "label=com.docker.compose.project=$project" \
    --filter "label=com.docker.compose.service=$service" --filter label=com.docker.compose.oneoff=False 2>/dev/null)
test -n "$container" || exit 0
revision=$(docker exec "$container" $shell -c "$ask" ask "$database" 2>/dev/null)
test -z "$revision" || echo "revision $revision"
true
"""

# What a database's container is asked; $1 is the database's name. A database that lets nobody in, because it is starting,
# says nothing about its schema, and api must not stop for that. One without the table says "none".
PSQL = r"""
# It ends with 2 when it does not get in.
found=$(PGPASSWORD=$POSTGRES_PASSWORD psql -U "$POSTGRES_USER" -d "$1" -tAc "select version_num from alembic_version")
case $? in 0 | 1) echo "${found:-none}" ;; esac
"""
# Its client ends with 1 whatever is wrong: 1146 is no such table, 1049 no such database.
MYSQL = r"""
said=$(client -N -B -D "$1" -e "select version_num from alembic_version" 2>&1) && {
    printf '%s\n' "${said:-none}" | tail -n 1
    exit
}
case $said in *"ERROR 1146 "* | *"ERROR 1049 "*) echo none ;; esac
"""
# By service: how its client logs in, with the password that the container has. login.sh is ours, see templates/.
ASK = {
    "db_postgres": PSQL,
    "db_mysql": 'client() { MYSQL_PWD=$MYSQL_ROOT_PASSWORD mysql --protocol=tcp -h127.0.0.1 -uroot "$@"; }' + MYSQL,
    "oceanbase": '. /opt/dify/login.sh; client() { as_root "$OB_TENANT_PASSWORD" "$@"; }' + MYSQL,
    "seekdb": '. /opt/dify/login.sh; client() { as_root "$ROOT_PASSWORD" "$@"; }' + MYSQL,
}

# The image's own `flask upgrade-db` ends with 0 whatever happened, so current and heads are compared.
MIGRATE = r"""
set -e; cd "$root"
compose_run() { docker compose run --rm --no-deps -T "$@"; }
of() { docker ps --quiet --filter "label=com.docker.compose.project=$project" \
    --filter "label=com.docker.compose.service=$1" --filter label=com.docker.compose.oneoff=False $2; }
# Without names, `up` would start everything. Its exit code says nothing: 0 also when time is up (Compose 2.26.1 does that).
said=$(test -z "$stores" || docker compose up --detach --wait --wait-timeout "$patience" --no-deps --pull never $stores 2>&1) || :
unwell=$(for store in $stores; do test -n "$(of "$store" "--filter health=healthy")" || echo "$store"; done)
if test -n "$unwell"; then
    printf '%s\n' "$said" | tail -n 3 >&2
    docker compose logs --no-color --tail 50 $unwell >&2
    echo "$(echo $unwell): not healthy, so the migration was not begun; the log stands above" >&2
    exit 1
fi
running=$(for service; do of "$service"; done)
# Whatever happens from here on, what ran before runs again; after a success the next step replaces it.
back() { test -z "$running" || docker start $running >/dev/null; rm -f "$closed"; }
trap 'status=$?; rm -f .migration.log; test $status = 0 || back; exit $status' EXIT
trap 'exit 1' HUP INT TERM PIPE
# Until "Stack runs" is through, nginx tells everybody to come back in a moment.
test -z "$running" || { : >"$closed"; docker stop --time 30 $running >/dev/null; }
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
{ echo "$(docker image inspect --format '{{.Id}}' "$image") $current"; test -z "$place" || echo "$place"; } > .migrated
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

    def command(
        self, root: str, project: str, image: str, service: str = "", database: str = "", place: str = ""
    ) -> StringCommand:
        """+ service: the database's; empty for one that runs elsewhere, which is not asked. + database: Dify's own.
        + place: where it runs elsewhere
        """
        # What is asked of all but PostgreSQL, whose image may have no bash, is written for bash.
        how = {"ask": ASK.get(service, ""), "shell": "sh" if service == "db_postgres" else "bash"}
        return StringCommand(
            script(
                LOOK, root=root, project=project, image=image, service=service, database=database, place=place, **how
            )
        )

    def process(self, output: list[str]) -> SchemaState:
        found = {key: value for key, _, value in (line.partition(" ") for line in output)}
        image, _, revision = found.get("recorded", "").partition(" ")
        recorded = (image, revision) if revision else None
        return SchemaState(found.get("image") or None, recorded, found.get("revision"))


def database_service(stack: Stack) -> str:
    """The service that holds Dify's database; empty when it runs elsewhere."""
    kind = stack.settings["DB_TYPE"]
    service = SERVICES.get(kind, kind)
    return service if f"DB_TYPE={kind}" in stack.settings.chosen.local and service in stack.services else ""


@operation()
def migrated(stack: Stack) -> Generator[StringCommand, None, None]:
    """The database has the schema that the api's image wants.

    + stack: what was rendered
    """
    if "api" not in stack.services:
        host.noop("an api that runs elsewhere migrates for itself")
        return
    knobs = stack.settings.knobs
    image = stack.services["api"].image
    service, database = database_service(stack), stack.settings["DB_DATABASE"]
    same = {"root": knobs.root, "project": knobs.project, "image": image}
    place = "" if service else f"{stack.settings['DB_HOST']}:{stack.settings['DB_PORT']}/{database}"
    schema = host.get_fact(Schema, service=service, database=database, place=place, **same)
    if schema.is_current:
        host.noop("the database's schema is the image's")
        return
    stores = " ".join(name for name in (service, "redis") if name in stack.services)
    patience = str(FIRST_START.get(service, 180))
    more = {"stores": stores, "patience": patience, "place": place, "closed": nginx.CLOSED}
    migrate = alone(MIGRATE, *BACKEND, lock=deployment(knobs.project), **more, **same)
    yield MaskedCommand(migrate, secrets=stack.settings.secrets)
