#!/bin/bash
set -eu
[[ ${1:-} == couchbase-server ]] || exec "$@"
exec python3 /opt/couchbase/lib/couchbase.py
