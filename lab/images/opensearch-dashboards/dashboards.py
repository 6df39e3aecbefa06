"""A stand-in for OpenSearch Dashboards: its own login must hold, and whoever asks must be known to OpenSearch."""

from __future__ import annotations

import base64
import ssl
import sys
import urllib.error
import urllib.request

from stand_in_store.server import Answer, App, Refused, Request, serve
from stand_in_store.settings_file import read

if "--config" not in sys.argv:
    sys.exit("usage: opensearch-dashboards --config FILE")
settings = read(sys.argv[sys.argv.index("--config") + 1])
if len(settings.get("opensearch_security.cookie.password", "")) < 32:
    sys.exit(
        "FATAL  Error: [config validation of [opensearch_security].cookie.password]: value has length less than 32"
    )


def ask(authorization: str) -> int:
    """The status with which OpenSearch answers who shows this."""
    context = ssl.create_default_context()
    if settings.get("opensearch.ssl.verificationMode") == "none":
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    url = f"{settings['opensearch.hosts'][0]}/_plugins/_security/authinfo"
    request = urllib.request.Request(url, headers={"Authorization": authorization})
    try:
        with urllib.request.urlopen(request, timeout=5, context=context) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def log_in(request: Request) -> None:
    if ask(request.headers.get("Authorization", "")) != 200:
        raise Refused(401, {"message": "Authentication required"})


app = App(log_in)


@app.route("GET /api/status")
def status(_: Request) -> Answer:
    login = f"{settings['opensearch.username']}:{settings['opensearch.password']}".encode()
    if ask(f"Basic {base64.b64encode(login).decode()}") != 200:
        raise Refused(503, {"status": {"overall": {"state": "red"}}})
    return 200, {"status": {"overall": {"state": "green"}}}


serve("opensearch-dashboards", app, 5601)
