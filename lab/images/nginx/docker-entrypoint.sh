#!/bin/sh
# Runs what lies in /docker-entrypoint.d before nginx, as the official image allows; its template step (envsubst) is not here.
set -eu
case "${1:-}" in
nginx | nginx-debug)
    for step in /docker-entrypoint.d/*.sh; do
        [ -x "$step" ] && "$step"
    done
    ;;
esac
exec "$@"
