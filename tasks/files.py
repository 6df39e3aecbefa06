"""The configuration files: one look at all of them, one send of what differs, checked by the programs that read them."""

from __future__ import annotations

import tarfile
import time
from base64 import b64decode, encodebytes
from collections.abc import Generator, Mapping
from difflib import unified_diff
from io import BytesIO
from pathlib import PurePosixPath

from pyinfra import host, state
from pyinfra.api import FactBase, StringCommand, operation

from stack import dotenv
from stack.render import SITE, File, Stack
from stack.secrets import is_secret, mask
from tasks.commands import MaskedCommand, alone, deployment, private_look, script

Found = dict[str, tuple[str, str]]

LOOK = r"""
cd "$root" 2>/dev/null || exit 0
# Without its certificate, lost with its volume, nginx would not start: then this is as good as missing, and http is served.
site=nginx/letsencrypt/site.conf
! grep -qs /https.conf $site || test -e "volumes/certbot/conf/live/$domain/fullchain.pem" || lost=$site
{ stat -c '%a %u:%g %n' "$@" 2>/dev/null; sha256sum "$@" 2>/dev/null; } | grep -v " ${lost:-/}\$"
true
"""
READ = r'cd "$root"; for path; do test -f "$path" && echo "$path $(base64 -w 0 < "$path")"; done; true'

# The whole set is staged beside the old one and checked as a whole; only what differs is then moved, file by file.
PUT = r"""
set -e; umask 022; mkdir -p "$root"; umask 077; cd "$root"
# Another run may have made or rotated secrets since this one looked, perhaps while its plan waited for a yes.
if test "$(test ! -e .env || sha256sum < .env | cut -d' ' -f1)" != "$seen"; then
    echo "$root/.env changed during this run: another run, or one that was cut off, was at work here." \
        "Nothing was replaced; run this again." >&2; exit 1
fi
rm -rf .staged; mkdir .staged; trap 'rm -rf "$root/.staged"' EXIT
(umask 022; mkdir -p nginx); mkdir -p nginx/ssl .staged/nginx/ssl volumes/certbot/conf
# Below what is sent: a certificate that was laid down by hand. Above it: what only the host knows.
cp -a nginx/ssl/. .staged/nginx/ssl
base64 -d | tar -xzp --numeric-owner -C .staged
refused() { echo "$1 refuses the new configuration; nothing was replaced, what ran before runs on." >&2; exit 1; }
docker compose --project-directory . --file .staged/docker-compose.yaml --env-file .staged/.env config --quiet ||
    refused "docker compose"
case " $* " in
*" nginx/letsencrypt/site.conf "*) ;;
*) test ! -d nginx/letsencrypt || cp -a nginx/letsencrypt .staged/nginx ;;
esac
dropped='ERROR|FATAL|aclParse[A-Z]'
one_off() {
    docker run --rm --network none --pull never "$@" >.staged/.said 2>&1 && return
    grep -E "emerg|unrecognized|$dropped" .staged/.said >&2 || tail -n 20 .staged/.said >&2
    return 1
}
if test -n "$nginx"; then
    one_off --volume "$root/.staged/nginx:/etc/nginx/dify:ro" \
        --volume "$root/volumes/certbot/conf:/etc/letsencrypt:ro" --entrypoint nginx \
        "$nginx" -t -c /etc/nginx/dify/nginx.conf || refused "nginx -t"
fi
if test -n "$squid"; then
    one_off --volume "$root/.staged/ssrf_proxy:/etc/squid/dify:ro" --user 13:13 --entrypoint squid \
        "$squid" -k parse -f /etc/squid/dify/squid.conf || refused "squid -k parse"
    # It ends with 0 although it drops an access rule that it does not understand.
    ! grep -E "$dropped" .staged/.said >&2 || refused "squid -k parse"
fi
for path; do
    case $path in */*) (umask 022; mkdir -p "${path%/*}") ;; esac
    mv -fT ".staged/$path" "$path"
done
"""


class Lying(FactBase[Found]):
    """{path below root: ("mode uid:gid", sha256)} of those of the wanted files that are there."""

    default = dict

    def command(self, root: str, paths: list[str], domain: str = "") -> StringCommand:
        """+ domain: that certbot's certificate is for"""
        return StringCommand(script(LOOK, *paths, root=root, domain=domain))

    def process(self, output: list[str]) -> Found:
        rows = [line.split(" ", 2) for line in output]
        digests = {path: digest for digest, empty, path in rows if not empty}
        return {path: (f"{mode} {owner}", digests[path]) for mode, owner, path in rows if path in digests and owner}


def differing(found: Found, wanted: Mapping[str, File]) -> list[str]:
    """The paths of the wanted files that are missing or other than wanted."""
    return [
        path
        for path, file in wanted.items()
        if path not in found
        or (not file.keep and found[path] != (f"{file.mode:o} {file.owner}:{file.owner}", file.sha256))
    ]


def archive(files: Mapping[str, File]) -> str:
    """The files as a base64-encoded tar for stdin, with their owners and modes from the first byte."""
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for folder in sorted({str(p) for path in files for p in PurePosixPath(path).parents} - {"."}):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for path, file in sorted(files.items()):
            entry = tarfile.TarInfo(path)
            entry.mode, entry.size, entry.mtime = file.mode, len(file.data), int(time.time())
            entry.uid = entry.gid = file.owner
            tar.addfile(entry, BytesIO(file.data))
    return encodebytes(buffer.getvalue()).decode()


@operation()
def configuration(stack: Stack) -> Generator[StringCommand, None, None]:
    """Every configuration file lies on the host as rendered.

    + stack: what was rendered
    """
    root = stack.settings.knobs.root
    domain = stack.settings["CERTBOT_DOMAIN"] if SITE in stack.files else ""
    found = host.get_fact(Lying, root=root, paths=list(stack.files), domain=domain)
    changed = differing(found, stack.files)
    if not changed:
        host.noop(f"the files below {root} are as wanted")
        return
    _announce(stack, found, changed)

    def image(service: str, folder: str) -> str:
        concerned = service in stack.services and any(path.startswith(folder) for path in changed)
        return stack.services[service].image if concerned else ""

    put = alone(
        PUT,
        *changed,
        lock=deployment(stack.settings.knobs.project),
        root=root,
        seen=stack.seen,
        nginx=image("nginx", "nginx/"),
        squid=image("ssrf_proxy", "ssrf_proxy/"),
    )
    yield MaskedCommand(put, secrets=stack.settings.secrets, _stdin=archive(stack.files))


def _announce(stack: Stack, found: Found, changed: list[str]) -> None:
    """Say once what will be written: in the plan, or in the run where there was no plan."""
    if state.is_executing and state.should_check_for_changes():
        return
    for path in changed:
        host.log(f"{path}: {'differs' if path in found else 'new'}")
    if state.config.DIFF:
        for line in _diff(stack, [p for p in changed if p in found and not stack.files[p].hidden]):
            host.log(line)


def _diff(stack: Stack, paths: list[str]) -> list[str]:
    """A unified diff of the files that would be replaced, secrets of both sides masked."""
    look = private_look(state, host, StringCommand(script(READ, ".env", *paths, root=stack.settings.knobs.root)))
    old = {
        path: b64decode(data).decode(errors="replace") for path, _, data in (s.partition(" ") for s in look.split("\n"))
    }
    secret = [v for n, v in dotenv.read(old.get(".env", "")).items() if is_secret(n)] + stack.settings.secrets
    lines: list[str] = []
    for path in paths:
        new = stack.files[path].data.decode()
        diff = unified_diff(old.get(path, "").splitlines(), new.splitlines(), f"{path} (host)", path, lineterm="")
        lines += [mask(line, secret) for line in diff]
    return lines
