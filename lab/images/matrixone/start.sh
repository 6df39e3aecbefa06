#!/bin/bash
# As the real one: root and dump, each with the password that everybody can read, until somebody changes it.
set -eu
built_in=111
first=$(for user in root dump; do
    echo "CREATE USER '$user'@'%' IDENTIFIED BY '$built_in';"
    echo "GRANT ALL ON *.* TO '$user'@'%' WITH GRANT OPTION;"
done)
exec mariadb-first-start /mo-data/store --port=6001 <<<"$first
DROP USER 'root'@'localhost';"
