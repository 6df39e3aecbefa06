#!/bin/bash
# As the real one: without ORACLE_PWD it makes a password up; when the database is open, it reads the start scripts.
export ORACLE_PWD=${ORACLE_PWD:-$(head -c 12 /dev/urandom | od -An -v -tx1 | tr -d ' \n')}
python3 /opt/oracle/oracle.py &
server=$!
trap 'kill $server' TERM INT
until /opt/oracle/checkDBStatus.sh; do
    kill -0 $server 2>/dev/null || exit 1
    sleep 0.2
done
echo "DATABASE IS READY TO USE!"
for script in /opt/oracle/scripts/startup/*; do
    case $script in
    *.sh) . "$script" ;;
    *.sql) sqlplus -s "/ as sysdba" @"$script" ;;
    esac
done
wait $server
