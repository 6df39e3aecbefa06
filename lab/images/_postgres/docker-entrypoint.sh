#!/bin/sh
# PostgreSQL as the official image runs it: own PGDATA, become postgres (70), make the cluster once, then serve.
# The password goes from the environment to a file or to stdin: an argument could be read by anybody on the host.
set -eu

: "${PGDATA:?PGDATA must name the data folder}"
: "${POSTGRES_USER:=postgres}"
: "${POSTGRES_DB:=$POSTGRES_USER}"

take_ownership() {
    mkdir -p "$PGDATA"
    chmod 0700 "$PGDATA"
    find "$PGDATA" \! -user postgres -exec chown postgres:postgres {} +
    chown postgres:postgres /run/postgresql
}

make_cluster() {
    if [ -z "${POSTGRES_PASSWORD:-}" ] && [ "${POSTGRES_HOST_AUTH_METHOD:-}" != trust ]; then
        echo "POSTGRES_PASSWORD is empty: a new database needs one." >&2
        exit 1
    fi
    password_file=$(mktemp)
    printf '%s\n' "${POSTGRES_PASSWORD:-}" >"$password_file"
    initdb --username="$POSTGRES_USER" --encoding=UTF8 --locale=C.UTF-8 --auth-local=trust --auth-host=scram-sha-256 \
        ${POSTGRES_PASSWORD:+--pwfile="$password_file"}
    rm -f "$password_file"
    echo "host all all all ${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}" >>"$PGDATA/pg_hba.conf"
    echo "listen_addresses = '*'" >>"$PGDATA/postgresql.conf"
}

# Single-user mode: nothing listens while the database is being made, so no client can see it half done.
make_database() {
    [ "$POSTGRES_DB" = postgres ] && return
    printf 'CREATE DATABASE "%s";\n' "$(printf %s "$POSTGRES_DB" | sed 's/"/""/g')" |
        postgres --single -D "$PGDATA" postgres >/dev/null
}

case "${1:-postgres}" in
-*) set -- postgres "$@" ;;
esac

if [ "${1:-}" = postgres ]; then
    if [ "$(id -u)" = 0 ]; then
        take_ownership
        exec setpriv --reuid=postgres --regid=postgres --clear-groups "$0" "$@"
    fi
    if [ ! -s "$PGDATA/PG_VERSION" ]; then
        make_cluster
        make_database
        echo "PostgreSQL init process complete; ready for start up."
    fi
fi

exec "$@"
