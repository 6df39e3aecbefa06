"""The host keeps itself safe: security updates come by themselves, but for Docker's, and its clock is right.

Everything here lies in files of our own; nothing of the operator's is changed. A host that upgrades itself already goes on doing
it in its own way. What was set up stays when the knob `harden` is taken back.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from hashlib import sha256

from pyinfra import host
from pyinfra.api import FactBase, StringCommand, operation

from stack import docker
from tasks.commands import script

# After the system's own 50unattended-upgrades, whose lists it takes the place of.
APT_FILE = "/etc/apt/apt.conf.d/60dify-security-updates"
DNF_FILE = "/etc/dnf/dify-security-updates.conf"
DNF_DROP_IN = "/etc/systemd/system/dnf-automatic.service.d/dify.conf"

# A new Docker, containerd or runc stops every container of the host: when, is for a person to say.
APT_NOT_DOCKER = """\
// Written by pyinfra, knob harden. Docker is upgraded by hand: it stops all containers.
Unattended-Upgrade::Package-Blacklist { "docker"; "moby"; "containerd"; "runc"; };
"""
APT_UPGRADES = """\
#clear Unattended-Upgrade::Allowed-Origins;
#clear Unattended-Upgrade::Origins-Pattern;
Unattended-Upgrade::Origins-Pattern {
    "origin=Debian,codename=${distro_codename}-security,label=Debian-Security";
    "origin=Ubuntu,archive=${distro_codename}-security";
    "origin=UbuntuESM,archive=${distro_codename}-infra-security";
    "origin=UbuntuESMApps,archive=${distro_codename}-apps-security";
};
Unattended-Upgrade::Automatic-Reboot "false";
APT::Periodic::Update-Package-Lists "1";
APT::Periodic::Unattended-Upgrade "1";
"""
DNF_UPGRADES = """\
# Written by pyinfra, knob harden. Docker is upgraded by hand: it stops all containers.
[commands]
upgrade_type = security
download_updates = yes
apply_updates = yes
reboot = never
[emitters]
emit_via = stdio
[base]
excludepkgs = docker*, moby*, containerd*, runc*
"""
DNF_SERVICE = f"""\
# Written by pyinfra, knob harden.
[Service]
ExecStart=
ExecStart=/usr/bin/dnf-automatic {DNF_FILE} --timer
"""

LOOK = r"""
enabled() { systemctl is-enabled --quiet "$1" 2>/dev/null; }
if command -v apt-get >/dev/null; then
    echo "manager apt"
    command -v unattended-upgrade >/dev/null && echo "installed yes"
    # What apt is told without our own file: whether this host upgraded itself before.
    parts=$(mktemp -d); cp -a /etc/apt/apt.conf.d/. "$parts"; rm -f "$parts/${apt_file##*/}"
    echo "Dir::Etc::parts \"$parts\";" > "$parts/alone"
    on=$(APT_CONFIG=$parts/alone apt-config shell on APT::Periodic::Unattended-Upgrade); rm -rf "$parts"
    case $on in "" | "on='0'") ;; *) echo "theirs yes" ;; esac
    enabled apt-daily.timer && enabled apt-daily-upgrade.timer && echo "timer yes"
    grep -qs Origins-Pattern "$apt_file" && echo "ours yes"
    set -- "$apt_file"
elif command -v dnf >/dev/null; then
    echo "manager dnf"
    command -v dnf-automatic >/dev/null && echo "installed yes"
    for timer in dnf-automatic dnf-automatic-install dnf5-automatic; do
        enabled $timer.timer && echo "theirs yes" && echo "timer yes"
    done
    test -e "$dnf_file" && echo "ours yes"
    set -- "$dnf_file" "$dnf_drop_in"
fi
for file; do test -e "$file" && echo "file $(sha256sum < "$file" | cut -d' ' -f1) $file"; done
for unit in systemd-timesyncd chrony chronyd ntp ntpd ntpsec openntpd; do enabled $unit && echo "clock yes"; done
true
"""
APT = """
set -e
apt_install unattended-upgrades
systemctl enable --quiet --now apt-daily.timer apt-daily-upgrade.timer
"""
APT_CLOCK = """
set -e
apt_install systemd-timesyncd
systemctl enable --quiet --now systemd-timesyncd
"""
DNF = """
set -e
dnf -q -y install dnf-automatic
test -x /usr/bin/dnf-automatic || {
    echo "this system has no /usr/bin/dnf-automatic: set up security updates by hand, and leave harden = False" >&2; exit 1; }
systemctl daemon-reload
systemctl enable --quiet --now dnf-automatic.timer
"""
DNF_CLOCK = "set -e; dnf -q -y install chrony; systemctl enable --quiet --now chronyd"
PUT = 'umask 022; mkdir -p "${file%/*}"; printf %s "$text" > "$file.new" && mv "$file.new" "$file"'


@dataclass(frozen=True)
class HygieneState:
    """What was found.

    manager: apt, dnf or empty.
    installed: whether what upgrades is there; timer: whether it is started by itself.
    theirs: whether the host upgrades itself without what is ours; ours: whether it does so since this was here.
    clock: whether something keeps the time.
    files: {our path: sha256}
    """

    manager: str = ""
    installed: bool = False
    timer: bool = False
    theirs: bool = False
    ours: bool = False
    clock: bool = False
    files: tuple[tuple[str, str], ...] = ()


class Hygiene(FactBase[HygieneState]):
    """How the host is kept up to date, and its clock right."""

    @staticmethod
    def default() -> HygieneState:
        return HygieneState()

    def command(self) -> StringCommand:
        return StringCommand(script(LOOK, apt_file=APT_FILE, dnf_file=DNF_FILE, dnf_drop_in=DNF_DROP_IN))

    def process(self, output: list[str]) -> HygieneState:
        rows = [line.split() for line in output]
        found = {row[0]: row[1] for row in rows}
        flags = {name: name in found for name in ("installed", "timer", "theirs", "ours", "clock")}
        files = tuple((row[2], row[1]) for row in rows if row[0] == "file")
        return HygieneState(manager=found.get("manager", ""), files=files, **flags)


def wanted(found: HygieneState) -> dict[str, str]:
    """{path: text} of the files that the host shall have.

    found: what it has. A package that upgrades switches itself on when it is installed: whose it is, is decided before.
    """
    ours = found.ours or not found.theirs
    if found.manager == "apt":
        return {APT_FILE: APT_NOT_DOCKER + (APT_UPGRADES if ours else "")}
    return {DNF_FILE: DNF_UPGRADES, DNF_DROP_IN: DNF_SERVICE} if ours else {}


def digest(text: str) -> str:
    """As sha256sum shows it."""
    return sha256(text.encode()).hexdigest()


@operation()
def kept() -> Generator[StringCommand, None, None]:
    """Security updates come by themselves, and the clock is right."""
    found = host.get_fact(Hygiene)
    if not found.manager:
        yield StringCommand("echo 'neither apt nor dnf is here: leave harden = False' >&2; exit 1")
        return
    files = {path: text for path, text in wanted(found).items() if dict(found.files).get(path) != digest(text)}
    for path, text in files.items():
        yield StringCommand(script(PUT, file=path, text=text))
    apt = found.manager == "apt"
    updates = not (found.installed and found.timer)
    if updates or (files and not apt):
        yield StringCommand(docker.APT + APT if apt else DNF)
    if not found.clock:
        yield StringCommand(docker.APT + APT_CLOCK if apt else DNF_CLOCK)
    if not (files or updates) and found.clock:
        host.noop("the host keeps itself safe")
