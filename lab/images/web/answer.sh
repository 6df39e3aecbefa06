#!/bin/sh
# Answers one HTTP request on stdin. The pages of the real image all say the same here.

escape() {
    printf %s "$1" | sed -e 's/&/\&amp;/g' -e 's/</\&lt;/g' -e 's/>/\&gt;/g' -e 's/"/\&quot;/g'
}

page() {
    cat <<EOF
<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>Stand-in for langgenius/dify-web</title></head>
<body>
<h1>This is a stand-in for langgenius/dify-web</h1>
<p>The test lab serves this page in place of Dify's web console. It proves that requests reach the web service; it is not Dify.</p>
<ul>
<li>Version it stands in for: $(escape "$STAND_IN_VERSION")</li>
<li>CONSOLE_API_URL it got: "$(escape "${CONSOLE_API_URL:-}")"</li>
<li>Page asked for: $(escape "$path")</li>
</ul>
<p>What the api reached with its settings: <a href="/console/api/stand-in">/console/api/stand-in</a></p>
</body>
</html>
EOF
}

# In one write: who is stopped between two leaves half an answer.
send() {
    body=$2
    [ "$method" != HEAD ] || body=
    printf 'HTTP/1.1 %s\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: %s\r\nConnection: close\r\n\r\n%s' \
        "$1" "$(printf %s "$2" | wc -c)" "$body"
}

IFS=' ' read -r method target _
while read -r header && [ -n "${header%"$(printf '\r')"}" ]; do :; done
path=${target%%\?*}

case "$path" in
/ | /apps | /apps/* | /install | /signin | /explore | /explore/*) send '200 OK' "$(page)" ;;
*) send '404 Not Found' "$(page)" ;;
esac
