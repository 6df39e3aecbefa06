#!/bin/bash
# As the real one: root has no password at first unless ROOT_PASSWORD is there; its agent listens on a socket in the data.
set -eu
home=/var/lib/oceanbase
mkdir -p $home/run
first="CREATE USER 'root'@'%' IDENTIFIED BY '${ROOT_PASSWORD:-}';
GRANT ALL ON *.* TO 'root'@'%' WITH GRANT OPTION;
DROP USER 'root'@'localhost';"
python3 /root/obshell.py $home/run/obshell.sock &
{
    until (exec 3<>/dev/tcp/127.0.0.1/2881) 2>/dev/null; do sleep 0.2; done
    touch $home/.initialized
} &
exec mariadb-first-start $home/store --port=2881 <<<"$first"
