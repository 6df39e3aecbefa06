"""Dify on every host of the inventory:

pyinfra inventory.py deploy.py              show the plan, ask, do it
pyinfra inventory.py deploy.py --dry        show the plan only; with --diff the lines that would change
pyinfra inventory.py deploy.py -y           do it without asking
"""

from tasks import compose, docker, files, gate, images, migrate, preflight, volumes

# Preflight. No impact yet: settings, templates and hosts are checked, all hosts together.
stack = preflight.stack()
knobs = stack.settings.knobs

# From here on hosts change, but what runs on them goes on running.
docker.engine(name="Docker runs", knobs=knobs)
volumes.folders(name="Data folders", root=knobs.root, wanted=stack.folders)
images.pulled(name="Images", stack=stack)
files.configuration(name="Configuration files", stack=stack)

# From here on services are replaced.
migrate.migrated(name="Database schema", stack=stack)
compose.runs(name="Stack runs", stack=stack)
gate.answers(name="Dify answers", stack=stack)
