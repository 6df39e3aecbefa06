#!/bin/sh
# One shell per connection is slow and simple: a stand-in for a web server needs no more.
echo "stand-in for langgenius/dify-web $STAND_IN_VERSION: listening on port 3000"
nc -ll -p 3000 -e /app/web/answer.sh &
server=$!
# Process 1 gets no default signal handling: without this, stopping the container takes ten seconds.
trap 'kill "$server"; exit 0' TERM INT
wait "$server"
