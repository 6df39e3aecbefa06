#!/bin/bash
set -eu
[[ ${1:-} == opensearch-dashboards ]] || exec "$@"
exec python3 dashboards.py "$@"
