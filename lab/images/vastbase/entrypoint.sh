#!/bin/sh
# Vastbase's names for what PostgreSQL's script reads.
set -eu
export POSTGRES_USER="${VB_USERNAME:?}" POSTGRES_PASSWORD="${VB_PASSWORD:?}" POSTGRES_DB="${VB_DB:-vastbase}"
export PGDATA=/home/vastbase/data/vastbase
exec docker-entrypoint.sh postgres
