"""Settings of which each is right and that cannot be together. Those of services and databases stand in stack/wiring.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from stack import egress
from stack.release import Release

# (setting, value): what must be given too, because Dify or the server would not start without, or with the release's example.
NEEDS = {
    ("NGINX_ENABLE_CERTBOT_CHALLENGE", "true"): ("CERTBOT_DOMAIN", "CERTBOT_EMAIL"),
    ("MAIL_TYPE", "smtp"): ("SMTP_SERVER",),
    ("MAIL_TYPE", "sendgrid"): ("SENDGRID_API_KEY",),
    ("NOTION_INTEGRATION_TYPE", "internal"): ("NOTION_INTERNAL_SECRET",),
    ("CLICKZETTA_VOLUME_TYPE", "external"): ("CLICKZETTA_VOLUME_NAME",),
    ("PLUGIN_SENTRY_ENABLED", "true"): ("PLUGIN_SENTRY_DSN",),
}
# (setting, value): what it asks of another, and why.
ASKS = {
    ("SMTP_OPPORTUNISTIC_TLS", "true"): ("SMTP_USE_TLS", "true", "Dify does not start otherwise"),
}
# The first must not be above the second.
ORDERED = (
    ("GRAPH_ENGINE_MIN_WORKERS", "GRAPH_ENGINE_MAX_WORKERS"),
    ("CELERY_MIN_WORKERS", "CELERY_MAX_WORKERS"),
    ("ANNOTATION_IMPORT_MIN_RECORDS", "ANNOTATION_IMPORT_MAX_RECORDS"),
    ("OPENSEARCH_JAVA_OPTS_MIN", "OPENSEARCH_JAVA_OPTS_MAX"),
    *(
        (f"{store}_MIN_CONNECTION", f"{store}_MAX_CONNECTION")
        for store in ("PGVECTOR", "VASTBASE", "OPENGAUSS", "ANALYTICDB", "IRIS")
    ),
)
# Two servers cannot listen at one port.
APART = (("NGINX_PORT", "NGINX_SSL_PORT"), ("EXPOSE_NGINX_PORT", "EXPOSE_NGINX_SSL_PORT"))
# (settings, what has something read them, how that is turned on): alone they do nothing.
IDLE = (
    (("CERTBOT_DOMAIN", "CERTBOT_EMAIL"), "NGINX_ENABLE_CERTBOT_CHALLENGE", "letsencrypt"),
    (("NGINX_SSL_CERT_FILENAME", "NGINX_SSL_CERT_KEY_FILENAME"), "NGINX_HTTPS_ENABLED", "own"),
)
_FACTORS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def contradictions(release: Release, given: Mapping[str, str]) -> Iterator[str]:
    """A line for each pair of settings that cannot be together.

    given: what the operator set, each value right by itself.
    """

    def get(name: str) -> str:
        return given.get(name) or (release.default(name) if name in release.settings else "")

    for (name, value), needed in NEEDS.items():
        missing = [one for one in needed if one not in given]
        if given.get(name) == value and missing:
            yield f"{name}={value}: needs {' and '.join(missing)}; give {'them' if len(missing) > 1 else 'it'} too"
    for (name, value), (other, right, why) in ASKS.items():
        if given.get(name) == value and get(other) != right:
            yield f"{name}={value}: needs {other}={right}, which is {get(other)}; {why}"
    for least, most in ORDERED:
        if (least in given or most in given) and get(least) and get(most) and _bytes(get(least)) > _bytes(get(most)):
            name, other = (least, most) if least in given else (most, least)
            yield f"{name}={get(name)}: {least} must not be above {most}, and {other} is {get(other)}"
    yield from egress.problems(release, given)
    for one, other in APART if get("NGINX_HTTPS_ENABLED") == "true" else ():
        if get(one) == get(other):
            name = one if one in given else other
            yield f"{name}={get(name)}: {one} and {other} are one port, and NGINX_HTTPS_ENABLED=true needs two"


def without_effect(release: Release, given: Mapping[str, str], values: Mapping[str, str]) -> Iterator[str]:
    """A line for each setting that nothing will read.

    given: what the operator set. values: what counts, with what follows from knobs.
    """
    certbot = "certbot" in values.get("COMPOSE_PROFILES", "").split(",")
    for names, switch, mode in IDLE:
        if values.get(switch) == "true" or (certbot and mode == "letsencrypt"):
            continue
        for name in names:
            if name in given and given[name] != release.default(name):
                yield f'{name}={given[name]}: nothing reads it while {switch} is false; set tls = "{mode}", or take it out'


def _bytes(value: str) -> int:
    number = value.rstrip("kKmMgGtT")
    return int(number) * _FACTORS[value[len(number) :].lower()]
