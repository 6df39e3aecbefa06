#!/bin/bash
# As the real one: makes the tenant once, its root without a password unless OB_TENANT_PASSWORD is there, and says so.
set -eu
first="CREATE USER 'root@test'@'%' IDENTIFIED BY '${OB_TENANT_PASSWORD:-}';
GRANT ALL ON *.* TO 'root@test'@'%' WITH GRANT OPTION;
DROP USER 'root'@'localhost';"
mariadb-first-start /root/ob/store --port=2881 <<<"$first" &
server=$!
trap 'kill $server; wait $server' TERM INT
until (exec 3<>/dev/tcp/127.0.0.1/2881) 2>/dev/null; do
    kill -0 $server
    sleep 0.2
done
echo 'boot success!'
wait $server
