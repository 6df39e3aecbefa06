"""The firewall's step and its program on the host, with stand-ins for iptables, Docker and systemd."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from stack.render import Stack
from tasks import firewall
from tasks.commands import script
from tests.unit.wanted import run_sh, stack_of

PROGRAM = (firewall.FOLDER / "dify-firewall").read_text()
UNIT = (firewall.FOLDER / "dify-firewall.service").read_text()
# Stand-ins: what they are asked stands in the file `said`; iptables-restore shows what it reads.
TOOLS = {
    "iptables": 'case "$*" in *--check*) exit 1 ;; esac; echo "iptables $*" >> "$said"',
    "ip6tables": 'case "$*" in *--check*) exit 1 ;; esac; echo "ip6tables $*" >> "$said"',
    "iptables-restore": 'sed "s/^/4 /" >> "$said"',
    "ip6tables-restore": 'sed "s/^/6 /" >> "$said"',
    "flock": "",
    "systemctl": "",
    "docker": 'case "$1" in ps) echo one ;; inspect) printf "%s\\n" "0.0.0.0 9200 80/tcp" ":: 9200 80/tcp" ":: 53 53/udp" ;; esac',
}


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A folder that is the program's host."""
    for name, body in TOOLS.items():
        tool = tmp_path / "bin" / name
        tool.parent.mkdir(exist_ok=True)
        tool.write_text(f"#!/bin/sh\nsaid={tmp_path}/said\n{body}\n")
        tool.chmod(0o755)
    (tmp_path / "lists").mkdir()
    return tmp_path


def run(host: Path, verb: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the program with the folder in place of its own."""
    text = PROGRAM.replace("/etc/dify-firewall", f"{host}/lists").replace("/run/", f"{host}/")
    text = text.replace("/var/lib/", f"{host}/").replace("/proc/sys/net/ipv6", str(host))
    return run_sh(f"set -- {verb}\n{text}", path=host / "bin", check=check)


def program(host: Path, verb: str) -> list[str]:
    """What the stand-ins were asked and given; the program must succeed."""
    run(host, verb)
    return (host / "said").read_text().splitlines()


def docker_says(host: Path, running: str, published: str, status: int = 0) -> None:
    """What docker ps and docker inspect answer, and what the latter ends with."""
    body = f'case "$1" in ps) echo "{running}" ;; inspect) printf "%b" "{published}"; exit {status} ;; esac'
    (host / "bin/docker").write_text(f"#!/bin/sh\n{body}\n")


def closed(said: list[str]) -> list[str]:
    """What is closed of the host's own IPv6."""
    lines = [line for line in rules(said, 6, "mangle") if line.endswith("-j DROP")]
    return [line.removeprefix("-A DIFY-FIREWALL ").removesuffix(" -j DROP") for line in lines]


def rules(said: list[str], family: int, table: str) -> list[str]:
    """The rules that were restored into a table."""
    lines = [line[2:] for line in said if line.startswith(f"{family} ")]
    begin = lines.index(f"*{table}")
    return lines[begin + 2 : lines.index("COMMIT", begin)]


def test_a_chain_is_replaced_in_one_step_and_asked_first(host: Path) -> None:
    (host / "lists/dify").write_text("tcp 80 - -\n")
    said = program(host, "set")
    assert said.index("4 COMMIT") < said.index(
        "iptables --wait 30 --table filter --insert DOCKER-USER -j DIFY-FIREWALL"
    )
    assert "6 COMMIT" in said
    assert [line for line in said if " INPUT" in line or "--flush" in line] == []


def test_of_what_is_forwarded_only_the_listed_comes_through(host: Path) -> None:
    (host / "lists/dify").write_text("tcp 80 - -\ntcp 5003 10.0.0.5 203.0.113.0/24\ntcp 5003 2001:db8::5 -\n")
    (host / "lists/two").write_text("tcp 80 - -\nudp 53 - 2001:db8::/32\n")
    said = program(host, "set")
    four, six = ([line for line in rules(said, family, "filter") if " -i " not in line] for family in (4, 6))
    begin = [
        "-A DIFY-FIREWALL -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN",
        "-A DIFY-FIREWALL -m conntrack ! --ctstate DNAT -j RETURN",
    ]
    assert four == [
        *begin,
        "-A DIFY-FIREWALL -p tcp -s 203.0.113.0/24 -m conntrack --ctorigdstport 5003 --ctorigdst 10.0.0.5 -j RETURN",
        "-A DIFY-FIREWALL -p tcp -m conntrack --ctorigdstport 80 -j RETURN",
        "-A DIFY-FIREWALL -j DROP",
    ]
    assert six == [
        *begin,
        "-A DIFY-FIREWALL -p tcp -m conntrack --ctorigdstport 5003 --ctorigdst 2001:db8::5 -j RETURN",
        "-A DIFY-FIREWALL -p tcp -m conntrack --ctorigdstport 80 -j RETURN",
        "-A DIFY-FIREWALL -p udp -s 2001:db8::/32 -m conntrack --ctorigdstport 53 -j RETURN",
        "-A DIFY-FIREWALL -j DROP",
    ]


def test_of_the_hosts_own_ipv6_only_what_docker_publishes_is_closed(host: Path) -> None:
    (host / "lists/dify").write_text("tcp 80 - -\n")
    found = [line for line in rules(program(host, "set"), 6, "mangle") if " -i " not in line]
    assert found == [
        "-A DIFY-FIREWALL -m conntrack ! --ctstate NEW -j RETURN",
        "-A DIFY-FIREWALL -p tcp --dport 80 -j RETURN",
        "-A DIFY-FIREWALL -p tcp --dport 9200 -j DROP",
        "-A DIFY-FIREWALL -p udp --dport 53 -j DROP",
    ]


def test_before_docker_is_up_the_last_known_ports_are_closed(host: Path) -> None:
    (host / "lists/dify").write_text("tcp 80 - -\n")
    (host / "dify-firewall.published6").write_text("tcp 9300\n")
    (host / "bin/systemctl").write_text("#!/bin/sh\nexit 3\n")
    (host / "bin/docker").write_text("#!/bin/sh\necho asked >&2\nsleep 60\n")
    assert "-A DIFY-FIREWALL -p tcp --dport 9300 -j DROP" in rules(program(host, "set"), 6, "mangle")


def test_a_port_is_closed_at_the_address_that_docker_publishes_and_nowhere_else(host: Path) -> None:
    """sshd may listen at the same port of another address."""
    docker_says(host, "one", "2001:db8::2 22 22/tcp\\n::1 2222 22/tcp\\n:: 9200 80/tcp\\n127.0.0.1 80 80/tcp\\n")
    assert closed(program(host, "set")) == ["-p tcp -d 2001:db8::2 --dport 22", "-p tcp --dport 9200"]


@pytest.mark.parametrize(
    ("published", "status", "wanted"),
    [
        ("", 124, ["-p tcp --dport 9300"]),
        # A container that went meanwhile: of the others it tells.
        (":: 9200 80/tcp\\n", 1, ["-p tcp --dport 9200", "-p tcp --dport 9300"]),
        ("\\n", 0, []),
    ],
)
def test_a_docker_that_says_less_than_there_is_opens_nothing(
    host: Path, published: str, status: int, wanted: list[str]
) -> None:
    (host / "dify-firewall.published6").write_text("tcp 9300 -\n")
    docker_says(host, "one", published, status)
    assert closed(program(host, "set")) == wanted


def test_without_containers_nothing_is_closed(host: Path) -> None:
    (host / "dify-firewall.published6").write_text("tcp 9300 -\n")
    docker_says(host, "", "", 1)
    assert closed(program(host, "set")) == []


def test_nobody_else_can_hold_the_lock(host: Path) -> None:
    """Whoever can read a file can lock it. What an older version left can be read by everybody."""
    (host / "dify-firewall.lock").touch(mode=0o644)
    tool = host / "bin/flock"
    tool.write_text(f"#!/bin/sh\nreadlink /proc/$$/fd/9 > {host}/locked\n")
    program(host, "set")
    assert Path((host / "locked").read_text().strip()).stat().st_mode & 0o777 == 0o600


def test_what_does_not_get_the_lock_says_so_and_changes_nothing(host: Path) -> None:
    (host / "bin/flock").write_text('#!/bin/sh\ntest "$1" != -w\n')
    done = run(host, "set", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("dify-firewall: another one has been at work for a minute")
    assert "find /proc/[0-9]*/fd -lname /" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (host / "said").exists()


def test_a_kernel_without_ipv6_has_no_such_rules(host: Path) -> None:
    (host / "lists/dify").write_text("tcp 80 - -\n")
    text = PROGRAM.replace("/proc/sys/net/ipv6", "/nowhere")
    assert text != PROGRAM
    text = (
        text.replace("/etc/dify-firewall", f"{host}/lists")
        .replace("/run/", f"{host}/")
        .replace("/var/lib/", f"{host}/")
    )
    run_sh(f"set -- set\n{text}", path=host / "bin")
    assert not [line for line in (host / "said").read_text().splitlines() if line.startswith("6 ")]


def test_the_rules_are_in_force_before_docker_and_again_with_it() -> None:
    assert "\nBefore=docker.service\n" in UNIT
    assert "\nPartOf=docker.service\n" in UNIT
    assert "\nWantedBy=docker.service\n" in UNIT
    assert f"ExecStartPre={firewall.PROGRAM} set\n" in UNIT


# --- The step ---


def test_without_the_knob_there_is_no_list() -> None:
    assert firewall.wanted(stack_of()) == ""
    assert firewall.wanted(stack_of(firewall="docker-user")) == "tcp 80 - -\n"


def look(host: Path, project: str = "dify") -> firewall.State:
    """What the fact makes of the folder."""
    places = {"lists": f"{host}/lists", "program": f"{host}/program", "unit": f"{host}/unit"}
    done = run_sh(script(firewall.LOOK, project=project, **places), path=host / "bin")
    return firewall.Firewall().process(done.stdout.splitlines())


def test_what_lies_there_is_found(host: Path) -> None:
    stack: Stack = stack_of(firewall="docker-user")
    (host / "lists/dify").write_text(firewall.wanted(stack))
    (host / "program").write_text(PROGRAM)
    (host / "unit").write_text(UNIT)
    assert look(host) == firewall.State(
        firewall._digest(firewall.wanted(stack)), firewall._digest(PROGRAM + UNIT), in_force=False
    )
    (host / "program").write_text("#!/bin/sh\nexit 0\n")
    (host / "program").chmod(0o755)
    assert look(host).in_force
    assert look(host, "two").listed == ""


def test_a_host_without_a_firewall_has_nothing(host: Path) -> None:
    (host / "lists").rmdir()
    assert look(host) == firewall.State()


def test_the_last_deployment_takes_all_away(host: Path) -> None:
    for name in ("program", "unit"):
        (host / name).write_text("#!/bin/sh\necho $* >> ${0%/*}/asked\n")
        (host / name).chmod(0o755)
    places = {"lists": f"{host}/lists", "program": f"{host}/program", "unit": f"{host}/unit"}
    for project in ("dify", "two"):
        (host / "lists" / project).write_text("tcp 80 - -\n")
    run_sh(script(firewall.REMOVE, project="two", **places), path=host / "bin")
    assert (host / "asked").read_text() == "set\n"
    assert (host / "lists/dify").exists()
    run_sh(script(firewall.REMOVE, project="dify", **places), path=host / "bin")
    assert (host / "asked").read_text() == "set\noff\n"
    assert not [name for name in ("lists", "program", "unit") if (host / name).exists()]
