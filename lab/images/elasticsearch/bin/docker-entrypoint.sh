#!/bin/bash
# As the real one: `eswrapper` starts the server, anything else is run as it is.
set -eu
[[ ${1:-eswrapper} == eswrapper ]] || exec "$@"
exec python3 /usr/share/elasticsearch/lib/elasticsearch.py
