#!/bin/bash
# openGauss' own script, as far as a script that reads it can tell: the same functions, the same variables, run as the same
# user. A database without a password of a certain strength is refused, as there.

docker_setup_env() {
    export GS_USER=omm PGDATA="${PGDATA:-/var/lib/opengauss/data}"
    export PATH=/usr/local/opengauss/bin:/usr/lib/postgresql/17/bin:$PATH
    : "${GS_DB:=postgres}" "${GS_PORT:=5432}"
    export GS_DB GS_PORT
    DATABASE_ALREADY_EXISTS=
    test ! -s "$PGDATA/PG_VERSION" || DATABASE_ALREADY_EXISTS=true
}

docker_create_db_directories() {
    mkdir -p "$PGDATA" /run/postgresql
    chmod 700 "$PGDATA"
    test "$(id -u)" != 0 || find "$PGDATA" /run/postgresql \! -user omm -exec chown omm:omm {} +
}

docker_verify_minimum_env() {
    local kinds=0 kind
    for kind in '[a-z]' '[A-Z]' '[0-9]' '[^a-zA-Z0-9]'; do
        [[ ! $GS_PASSWORD =~ $kind ]] || kinds=$((kinds + 1))
    done
    if ((${#GS_PASSWORD} < 8 || kinds < 3)); then
        echo "Error: GS_PASSWORD needs 8 characters at least, of three kinds at least" >&2
        exit 1
    fi
}

docker_process_sql() {
    gsql -v ON_ERROR_STOP=1 --username "$GS_USER" --dbname "$GS_DB" --port "$GS_PORT" "$@"
}

docker_setup_db() {
    test "$GS_DB" = postgres || GS_DB=postgres docker_process_sql --set db="$GS_DB" <<<'CREATE DATABASE :"db";'
}

docker_setup_user() {
    docker_process_sql --set user="$GS_USERNAME" --set password="$GS_PASSWORD" --set db="$GS_DB" <<'SQL'
CREATE USER :"user" LOGIN PASSWORD :'password';
ALTER DATABASE :"db" OWNER TO :"user";
SQL
}

_main() {
    docker_setup_env
    docker_create_db_directories
    if [ "$(id -u)" = 0 ]; then
        exec gosu omm "$BASH_SOURCE" "$@"
    fi
    if [ -z "$DATABASE_ALREADY_EXISTS" ]; then
        docker_verify_minimum_env
        initdb --username=omm --encoding=UTF8 --locale=C.UTF-8 --auth-local=trust --auth-host=scram-sha-256
        echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
        echo "listen_addresses = '*'" >>"$PGDATA/postgresql.conf"
        pg_ctl --wait -o "-c listen_addresses='' -p $GS_PORT" start
        docker_setup_db
        docker_setup_user
        pg_ctl --wait -m fast stop
    fi
    exec gaussdb -p "$GS_PORT"
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    _main "$@"
fi
