"""pyinfra inventory.py tasks.middleware.show --dry: the settings for an api, worker and web that run beside the middleware."""

from __future__ import annotations

import click
from pyinfra import host, state
from pyinfra.api import DeployError, StringCommand

from stack.developer import API_FILE, WEB_FILE
from stack.middleware import MODE
from tasks.commands import private_look, script
from tasks.preflight import knobs_of

FILES = {"api": API_FILE, "web": WEB_FILE}


def show(only: str = "") -> None:
    """Print the settings that lie on the host as .env files, secrets and all; nothing else shows them.

    only: "api" or "web" for one of the two; both otherwise.
    Raises DeployError for a host that is not in middleware mode or was not deployed to yet.
    """
    knobs = knobs_of(host)
    if only not in ("", *FILES):
        raise DeployError(f"only={only}: allowed are {' and '.join(FILES)}; leave it out for both")
    if knobs.mode != MODE:
        raise DeployError(f'mode = "{knobs.mode}": there are settings for an api elsewhere only where mode = "{MODE}"')
    for path in [FILES[only]] if only else FILES.values():
        click.echo(_read(knobs.root, path))


def _read(root: str, path: str) -> str:
    try:
        text = private_look(state, host, StringCommand(script('cat "$file"', file=f"{root}/{path}")))
    except OSError:
        raise DeployError(f"{root}/{path} is not on the host yet: run pyinfra inventory.py deploy.py first") from None
    return f"# --- {host.name}: {path}\n{text}"
