"""A certificate from Let's Encrypt or another ACME server: asked for when it is lacking, served by nginx, renewed by a timer."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Generator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from pyinfra import host
from pyinfra.api import FactBase, StringCommand, operation

from stack import acme
from stack.external import CERTIFICATES
from stack.render import SITE, Stack, site
from tasks.commands import MaskedCommand, script
from tasks.nginx import RELOAD

SCRIPT = "certificates.sh"
UNITS = "/etc/systemd/system"
BODY = Path(__file__).with_name(SCRIPT).read_text()
HEAD = """\
#!/bin/sh
# Written by pyinfra. The certificate is renewed when it ends soon and loaded by nginx when it is new; a timer does so twice a day.
#   sh {root}/{script}                          now, if it is due
#   sh {root}/{script} renew --force-renewal    now, in any case; authorities limit how often
"""
# What runs in certbot's container. requests knows one list of authorities only: the usual ones and ours are made one.
INSIDE = r"""
if test -s $own; then
    { python3 -c 'import requests.certs; print(open(requests.certs.where()).read())'; cat $own; } >/tmp/authorities.pem
    export REQUESTS_CA_BUNDLE=/tmp/authorities.pem
fi
exec certbot certonly --non-interactive --agree-tos --no-eff-email --email "$CERTBOT_EMAIL" \
    --webroot --webroot-path /var/www/html --domain "$CERTBOT_DOMAIN" \
    --keep-until-expiring --renew-with-new-domains "$@" $CERTBOT_OPTIONS
"""
SERVICE = """\
[Unit]
Description=Certificate of {project}: renewed when it is due
After=docker.service network-online.target
Wants=network-online.target

[Service]
Type=oneshot
ExecStart=/bin/sh {root}/{script}
"""
# Twice a day and at no fixed minute, as Let's Encrypt asks for; missed while the host was off: soon after it is on.
TIMER = """\
[Unit]
Description=Certificate of {project}: looked at twice a day

[Timer]
OnCalendar=*-*-* 00,12:00:00
RandomizedDelaySec=11h
Persistent=true

[Install]
WantedBy=timers.target
"""
LOOK = r"""
cd "$root" 2>/dev/null || exit 0
echo "now $(date +%s)"
sha256sum "$@" 2>/dev/null | sed 's/^/file /'
for ask in is-enabled is-active; do echo "timer $(systemctl $ask "$project-certificates.timer" 2>/dev/null)"; done
echo "site $(base64 -w 0 "$site" 2>/dev/null)"
echo "chain $(base64 -w 0 "volumes/certbot/conf/live/$domain/fullchain.pem" 2>/dev/null)"
sed -n 's/^server = /server /p' "volumes/certbot/conf/renewal/$domain.conf" 2>/dev/null
container=$(nginx_container 2>/dev/null); test -n "$container" || exit 0
said=$(health "$container")
printf '%s\n' "$said" | sed -n 's/.* certificate=\([^ ]*\).*/loaded \1/p'
grep -qs "/live/$domain/" nginx/https.conf && exit 0
docker port "$container" "$port/tcp" | grep -Fqx "$published" || exit 0
case "$said " in *" challenges=yes "*) echo "answers_for_another yes" ;; esac
"""
SCHEDULE = r"""
set -e; umask 022
put() { printf '%s' "$2" > "$1.new" && mv -f "$1.new" "$1"; }
put "$root/$script" "$text"
put "$units/$project-certificates.service" "$service"
put "$units/$project-certificates.timer" "$timer"
systemctl daemon-reload
systemctl enable --quiet --now "$project-certificates.timer"
"""
IS_SCHEDULED = 'test ! -e "$units/$project-certificates.timer" || echo yes'
UNSCHEDULE = r"""
set -e
systemctl disable --quiet --now "$project-certificates.timer"
rm -f "$units/$project-certificates.timer" "$units/$project-certificates.service"
systemctl daemon-reload
"""


@dataclass(frozen=True)
class Kept:
    """What there is on a host.

    files: {path: sha256} of the script and the units.
    timer: whether it is on, now and after a reboot.
    """

    certificate: acme.Found = field(default_factory=acme.Found)
    files: dict[str, str] = field(default_factory=dict)
    timer: bool = False


class Certificate(FactBase[Kept]):
    """The certificate, what nginx has loaded of it, and what renews it."""

    @staticmethod
    def default() -> Kept:
        return Kept()

    def command(self, root: str, project: str, port: str, domain: str, published: str) -> StringCommand:
        """+ port: the one that nginx listens at inside. + published: where authorities reach it, as Docker says it"""
        names = {"root": root, "project": project, "port": port, "site": SITE, "domain": domain, "published": published}
        return StringCommand(script(RELOAD + LOOK, *paths(root, project), **names))

    def process(self, output: list[str]) -> Kept:
        rows = [line.partition(" ") for line in output]
        said = {key: value for key, _, value in rows}
        files = dict(value.split("  ", 1)[::-1] for key, _, value in rows if key == "file")
        found = acme.Found(
            now=int(said.get("now") or 0),
            chain=b64decode(said.get("chain", "")).decode(errors="replace"),
            server=said.get("server", ""),
            site=b64decode(said.get("site", "")).decode(errors="replace"),
            loaded=said.get("loaded", ""),
            answers_for_another=said.get("answers_for_another") == "yes",
        )
        timer = [value for key, _, value in rows if key == "timer"] == ["enabled", "active"]
        return Kept(found, files, timer)


class Scheduled(FactBase[bool]):
    """Whether a timer of ours is there."""

    default = bool

    def command(self, project: str) -> StringCommand:
        return StringCommand(script(IS_SCHEDULED, units=UNITS, project=project))

    def process(self, output: list[str]) -> bool:
        return output == ["yes"]


def paths(root: str, project: str) -> list[str]:
    """Where script, service and timer lie."""
    return [f"{root}/{SCRIPT}", f"{UNITS}/{project}-certificates.service", f"{UNITS}/{project}-certificates.timer"]


def texts(stack: Stack, wanted: acme.Wish) -> list[str]:
    """What stands in script, service and timer."""
    knobs, settings, own = stack.settings.knobs, stack.settings, f"{CERTIFICATES}/ca.pem"
    values = {"root": knobs.root, "project": knobs.project, "port": settings["NGINX_PORT"], "site": SITE}
    values |= {"domain": wanted.domain, "server": wanted.server, "https": site("https", "@")}
    values |= {"https_address": wanted.https_address, "https_port": wanted.https_port}
    values |= {"check": "yes" if wanted.check else "no", "inside": script(INSIDE, own=own), "own": own}
    values |= {"email": settings["CERTBOT_EMAIL"], "options": settings["CERTBOT_OPTIONS"]}
    certbot = stack.services["certbot"]
    values |= {"image": certbot.image, "powers": " ".join(certbot.needs.capabilities or ())}
    values |= {"processes": str(certbot.needs.processes)}
    names = {"root": knobs.root, "project": knobs.project, "script": SCRIPT}
    text = HEAD.format_map(names) + script(RELOAD + BODY, **values) + "\n"
    return [text, SERVICE.format_map(names), TIMER.format_map(names)]


@operation()
def at_hand(stack: Stack) -> Generator[StringCommand, None, None]:
    """There is a certificate for a new name before the site that runs is replaced; one that fails leaves that site as it is.

    Not where nothing runs that could answer the authority: there `certificate` asks, when nginx is up.

    + stack: what shall run
    """
    wanted = acme.wish(stack)
    found = _found(stack, wanted).certificate if wanted else acme.Found()
    if wanted and found.answers_for_another and (why := acme.lacking(found, wanted)):
        _say(wanted, why)
        run = script('sh -c "$text" certificates obtain', text=texts(stack, wanted)[0])
        authorities = stack.settings.knobs.ca_certificates
        yield MaskedCommand(run, secrets=stack.settings.secrets, _stdin=authorities)
    else:
        host.noop("no running site waits for a certificate")


@operation()
def certificate(stack: Stack) -> Generator[StringCommand, None, None]:
    """The host has a certificate for its name, nginx serves it, and a timer renews it; without tls = "letsencrypt", no timer.

    + stack: what runs
    """
    wanted = acme.wish(stack)
    yield from _kept(stack, wanted) if wanted else _unscheduled(stack.settings.knobs.project)


@operation()
def unscheduled(project: str) -> Generator[StringCommand, None, None]:
    """No timer renews a certificate of the deployment; the certificate itself stays.

    + project: its name
    """
    yield from _unscheduled(project)


def _unscheduled(project: str) -> Generator[StringCommand, None, None]:
    if host.get_fact(Scheduled, project=project):
        yield StringCommand(script(UNSCHEDULE, units=UNITS, project=project))
    else:
        host.noop("no certificate is renewed")


def _found(stack: Stack, wanted: acme.Wish) -> Kept:
    knobs, at = stack.settings.knobs, stack.settings["EXPOSE_NGINX_PORT"]
    names = {"root": knobs.root, "project": knobs.project, "domain": wanted.domain}
    names |= {"port": stack.settings["NGINX_PORT"], "published": at if ":" in at else f"0.0.0.0:{at}"}
    found: Kept = host.get_fact(Certificate, **names)
    return found


def _say(wanted: acme.Wish, why: str) -> None:
    host.log(f"asking {wanted.server} for a certificate for {wanted.domain}: {why}")


def _kept(stack: Stack, wanted: acme.Wish) -> Generator[StringCommand, None, None]:
    knobs = stack.settings.knobs
    names = {"root": knobs.root, "project": knobs.project}
    found = _found(stack, wanted)
    contents = texts(stack, wanted)
    lie = [found.files.get(path) for path in paths(**names)]
    right = lie == [sha256(text.encode()).hexdigest() for text in contents] and found.timer
    if not right:
        given = dict(zip(("text", "service", "timer"), contents, strict=True))
        yield StringCommand(script(SCHEDULE, units=UNITS, script=SCRIPT, **names, **given))
    why = acme.lacking(found.certificate, wanted)
    if why:
        _say(wanted, why)
    if why or not found.certificate.is_served:
        run = script('sh "$root/$script" "$job"', root=knobs.root, script=SCRIPT, job="issue" if why else "load")
        yield MaskedCommand(run, secrets=stack.settings.secrets)
    elif right:
        host.noop(f"{wanted.domain} has its certificate")
