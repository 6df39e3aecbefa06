"""The data folders: made when missing; ownership mended where it is Dify's to own, never where a database owns it."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra import host
from pyinfra.api import FactBase, StringCommand, operation

from stack.render import Folder
from tasks.commands import script

# One line for each folder that is not as wanted. Arguments: path, owner or "-", and so on.
LOOK = r"""
while test $# -gt 0; do
    if test ! -d "$root/$1"; then
        echo "missing $1"
    elif test "$2" != - && test -n "$(find "$root/$1" \( ! -uid "$2" -o ! -gid "$2" \) -print -quit)"; then
        echo "owner $1"
    fi
    shift 2
done
"""
# Nobody but root gets into volumes/ from the host's side: dumps and uploads are not for every local user.
MAKE = r"""
set -e
install -d -m 755 "$root"
test -d "$root/volumes" || install -d -m 700 "$root/volumes"
install -d -m 755 "$root/$path"
test "$owner" = - || chown "$owner:$owner" "$root/$path"
"""
# Links are changed themselves, not what they point to.
MEND = r"""find "$root/$path" \( ! -uid "$owner" -o ! -gid "$owner" \) -exec chown -h "$owner:$owner" {} +"""


class NotAsWanted(FactBase[dict[str, str]]):
    """{path of a folder: "missing", or "owner" when something in it belongs to somebody else}"""

    default = dict

    def command(self, root: str, folders: list[Folder]) -> StringCommand:
        arguments = [word for folder in folders for word in (folder.path, _word(folder.owner))]
        return StringCommand(script(LOOK, *arguments, root=root))

    def process(self, output: list[str]) -> dict[str, str]:
        return {path: what for what, _, path in (line.partition(" ") for line in output)}


def _word(owner: int | None) -> str:
    return "-" if owner is None else str(owner)


@operation()
def folders(root: str, wanted: list[Folder]) -> Generator[StringCommand, None, None]:
    """Every data folder is there; those with an owner belong to it all through.

    + root: folder of the deployment
    + wanted: folders below it
    """
    wrong = host.get_fact(NotAsWanted, root=root, folders=wanted)
    for folder in wanted:
        what = wrong.get(folder.path)
        if what == "missing":
            owner = folder.first_owner if folder.owner is None else folder.owner
            yield StringCommand(script(MAKE, root=root, path=folder.path, owner=_word(owner)))
        elif what == "owner":
            host.log(f"{folder.path}: some of it does not belong to {folder.owner}, mending that")
            yield StringCommand(script(MEND, root=root, path=folder.path, owner=_word(folder.owner)))
    if not wrong:
        host.noop("all data folders are as wanted")
