"""Dify on every host of the inventory:

pyinfra inventory.py deploy.py              show the plan, ask, do it
pyinfra inventory.py deploy.py --dry        show the plan only; with --diff the lines that would change
pyinfra inventory.py deploy.py -y           do it without asking
"""

from tasks import (
    admin,
    compose,
    docker,
    external,
    files,
    firewall,
    gate,
    hygiene,
    images,
    kernel,
    migrate,
    preflight,
    secret_store,
    tls,
    volumes,
)

# Preflight. No impact yet: settings, templates and hosts are checked, all hosts together.
stack = preflight.stack()
knobs = stack.settings.knobs

# From here on hosts change, but what runs on them goes on running.
docker.engine(name="Docker runs", knobs=knobs)
if knobs.harden:
    hygiene.kept(name="Host hygiene")
kernel.settings(name="Kernel settings", stack=stack)
volumes.folders(name="Data folders", root=knobs.root, wanted=stack.folders)
images.pulled(name="Images", stack=stack)
external.ready(name="External services", stack=stack)
if knobs.secrets == "file":
    secret_store.kept(name="Secrets kept", stack=stack)
tls.at_hand(name="Certificate at hand", stack=stack)
files.configuration(name="Configuration files", stack=stack)

# From here on services are replaced.
migrate.migrated(name="Database schema", stack=stack)
if knobs.admin and knobs.mode == "dify":
    admin.made(name="First account", stack=stack)
firewall.guards(name="Firewall", stack=stack)
compose.runs(name="Stack runs", stack=stack)
if knobs.mode == "middleware":
    gate.answers(name="Middleware is well", stack=stack)
else:
    gate.answers(name="Dify answers", stack=stack)
tls.certificate(name="Certificate", stack=stack)
