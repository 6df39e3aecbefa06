#!/bin/sh
# MariaDB as MySQL's official image starts MySQL: a new data folder gets root's password and one database.
set -eu

case "${1:-mysqld}" in
-*) set -- mysqld "$@" ;;
esac
[ "${1:-mysqld}" = mysqld ] || exec "$@"
[ $# = 0 ] || shift

# As the official image does it: between quotes, as it is. Who gives the password must have escaped it.
text() { printf "'%s'" "$1"; }
name() { printf '`%s`' "$(printf %s "$1" | sed 's/`/``/g')"; }

# printf, because dash's echo reads backslashes.
first_sql() {
    if [ -z "${MYSQL_ROOT_PASSWORD:-}" ]; then
        echo "Database is uninitialized and password option is not specified: MYSQL_ROOT_PASSWORD" >&2
        exit 1
    fi
    printf '%s\n' "ALTER USER 'root'@'localhost' IDENTIFIED BY $(text "$MYSQL_ROOT_PASSWORD");"
    printf '%s\n' "CREATE USER 'root'@'%' IDENTIFIED BY $(text "$MYSQL_ROOT_PASSWORD");"
    echo "GRANT ALL ON *.* TO 'root'@'%' WITH GRANT OPTION;"
    [ -z "${MYSQL_DATABASE:-}" ] || echo "CREATE DATABASE IF NOT EXISTS $(name "$MYSQL_DATABASE");"
}

statements=
[ -d /var/lib/mysql/mysql ] || statements=$(first_sql)
unset MYSQL_ROOT_PASSWORD
# As a here-document, which no process list shows.
exec mariadb-first-start /var/lib/mysql "$@" <<SQL
$statements
SQL
