#!/bin/bash
# As the real one: makes the demonstration's configuration unless told not to, then starts the server.
set -eu
if [[ ${DISABLE_INSTALL_DEMO_CONFIG:-} != true ]]; then
    bash plugins/opensearch-security/tools/install_demo_configuration.sh -y -i -s
fi
exec python3 lib/opensearch.py
