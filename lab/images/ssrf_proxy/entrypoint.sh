#!/bin/sh
# The arguments are squid's, as in the real image; somebody who wants another program overrides the entrypoint.
set -eu
exec squid "$@"
