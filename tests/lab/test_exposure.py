"""What another machine reaches of a host: a scan of every port, with the firewall off and on. The tests build on each other."""

from __future__ import annotations

import http.client

import pytest

from lab import hosts
from lab.hosts import Host
from tests.lab.checkout import Checkout, Run
from tests.lab.containers import containers, reached, replaced, sh, within
from tests.lab.scan import SSH, only_open, open_ports

# Somebody's own container, published without a thought on every address: TCP with an answer, UDP with an echo.
PLANTED = (9200, "9300/udp")
SERVE = (
    "import socket, threading\n"
    "tcp = socket.create_server(('', 9200)); udp = socket.socket(type=socket.SOCK_DGRAM); udp.bind(('', 9300))\n"
    "def echo():\n"
    "    while True: udp.sendto(*udp.recvfrom(100))\n"
    "threading.Thread(target=echo, daemon=True).start()\n"
    "while True:\n"
    "    asking, _ = tcp.accept()\n"
    "    try: asking.sendall(b'planted')\n"
    "    except OSError: pass\n"
    "    asking.close()\n"
)
DEBUG = "plugin_daemon_debug"
ASK = 'exec 3<>/dev/tcp/{}/9200; read -r -t 10 -N 7 said <&3; echo "$said"'


@pytest.fixture(scope="module")
def host(checkout: Checkout) -> Host:
    return checkout.hosts[0]


@pytest.fixture(scope="module")
def first(checkout: Checkout, host: Host) -> Run:
    """The first deploy, with a container of somebody else's beside it."""
    run = checkout.deploy().ok()
    host.run("cat > /srv/serve.py", stdin=SERVE)
    image = sh(host, "docker inspect --format '{{.Config.Image}}' dify-api-1")
    sh(
        host,
        "docker run --detach --restart always --name planted --publish 9200:9200 --publish 9300:9300/udp "
        f"--volume /srv:/planted:ro --entrypoint python3 {image} /planted/serve.py",
    )
    return run


def guarded(host: Host, *ports: int | str) -> None:
    """Exactly these are open, and what nobody declared is published all the same."""
    assert "0.0.0.0:9200->9200/tcp" in sh(host, "docker ps --format '{{.Ports}}' --filter name=planted")
    within(60, lambda: only_open(host, *ports))
    # Nothing of what containers do themselves is in the way.
    assert sh(host, f"bash -c '{ASK.format('127.0.0.1')}'") == "planted"
    assert sh(host, f"bash -c '{ASK.format('::1')}'") == "planted"
    assert sh(host, f"docker exec dify-plugin_daemon-1 bash -c '{ASK.format(host.address)}'") == "planted"
    reached(host, patience=120)


def rules(host: Host) -> str:
    return sh(host, "iptables-save | grep -c DIFY || true; ip6tables-save | grep -c DIFY || true")


def test_without_a_firewall_nginx_and_whatever_others_publish_is_open(first: Run, host: Host) -> None:
    guarded(host, 80, *PLANTED)
    assert rules(host) == "0\n0"


def test_with_it_nginx_alone_is(checkout: Checkout, first: Run, host: Host) -> None:
    before = containers(host)
    checkout.knobs["firewall"] = "docker-user"
    assert checkout.plan().ok().planned == ["Firewall"]
    assert checkout.deploy().ok().changed == ["Firewall"]
    guarded(host, 80)
    assert checkout.deploy().ok().changed == []
    assert containers(host) == before


def test_a_port_is_opened_by_name_to_whom_it_is_meant_for(checkout: Checkout, first: Run, host: Host) -> None:
    before = containers(host)
    checkout.knobs |= {
        "expose": {DEBUG: f"{host.address}:15003"},
        "firewall_allow": [f"{DEBUG} from 192.0.2.0/24", "9200"],
    }
    run = checkout.deploy().ok().says(f'expose["{DEBUG}"] = "{host.address}:15003": open to whoever reaches')
    assert run.changed == ["Configuration files", "Firewall", "Stack runs"]
    # The plugin daemon is published, the others are told where.
    assert replaced(before, containers(host)) == {"plugin_daemon", "api", "worker", "worker_beat"}
    told = sh(host, "docker exec dify-api-1 env")
    assert f"PLUGIN_REMOTE_INSTALL_HOST={host.address}\n" in told
    assert "PLUGIN_REMOTE_INSTALL_PORT=15003\n" in told
    guarded(host, 80, 9200)
    checkout.knobs["firewall_allow"] = []
    assert checkout.deploy().ok().changed == ["Firewall"]
    guarded(host, 80, "15003/tcp4")


def test_it_is_there_after_a_restart_of_docker(first: Run, host: Host) -> None:
    sh(host, "systemctl restart docker")
    guarded(host, 80, "15003/tcp4")


def test_it_is_there_after_a_reboot(checkout: Checkout, first: Run, host: Host) -> None:
    hosts.reboot(host.name)
    assert sh(host, "systemctl show dify-firewall --property ActiveState") == "ActiveState=active"
    # Microseconds since the boot.
    show = "systemctl show --value --property {} {}"
    in_force = int(sh(host, show.format("ActiveEnterTimestampMonotonic", "dify-firewall")))
    assert 0 < in_force < int(sh(host, show.format("ExecMainStartTimestampMonotonic", "docker")))
    guarded(host, 80, "15003/tcp4")
    assert checkout.deploy().ok().changed == []


def plant(host: Host, name: str, *places: str) -> None:
    """Start another container of somebody else's, published at these places."""
    image = sh(host, "docker inspect --format '{{.Config.Image}}' dify-api-1")
    publish = " ".join(f"--publish '{place}:9200'" for place in places)
    sh(
        host,
        f"docker run --detach --name {name} {publish} --volume /srv:/planted:ro "
        f"--entrypoint python3 {image} /planted/serve.py",
    )


def test_what_somebody_starts_later_is_closed_too(first: Run, host: Host) -> None:
    plant(host, "later", "9400")
    within(60, lambda: only_open(host, 80, "15003/tcp4"))
    sh(host, "docker rm --force later")


def test_sshd_at_another_address_of_a_containers_port_stays_open(first: Run, host: Host) -> None:
    plant(host, "beside", "[::1]:2222", f"[{host.address6}]:2223")
    sshd = f"/usr/sbin/sshd -D -o PidFile=none -o 'ListenAddress=[{host.address6}]:2222'"
    sh(host, f"systemd-run --unit beside {sshd}")

    def is_right() -> None:
        assert open_ports(host)[host.address6] == {SSH, "80/tcp", "2222/tcp"}

    within(60, is_right)
    assert f"-d {host.address6}/128 -p tcp -m tcp --dport 2223 -j DROP" in sh(host, "ip6tables-save --table mangle")
    sh(host, "systemctl stop beside && docker rm --force beside")


def test_no_other_user_can_hold_its_lock(first: Run, host: Host) -> None:
    done = host.run("runuser -u nobody -- flock --nonblock /run/dify-firewall.alone echo held")
    assert done.stdout == ""
    assert "Permission denied" in done.stderr


def test_rules_that_somebody_took_away_come_back(checkout: Checkout, first: Run, host: Host) -> None:
    sh(
        host,
        "systemctl stop dify-firewall && iptables --flush DOCKER-USER && ip6tables --flush DIFY-FIREWALL --table mangle",
    )
    assert "9200/tcp" in open_ports(host)[host.address]
    assert "9200/tcp" in open_ports(host)[host.address6]
    assert checkout.deploy().ok().changed == ["Firewall"]
    guarded(host, 80, "15003/tcp4")


def test_a_connection_that_is_open_goes_on(checkout: Checkout, first: Run, host: Host) -> None:
    browser = http.client.HTTPConnection(host.address, timeout=60)
    for command in ("true", "dify-firewall set", "for at in 1 2 3; do dify-firewall set & done; wait"):
        sh(host, command)
        browser.request("GET", "/console/api/setup")
        socket = browser.sock
        assert browser.getresponse().read()
        assert browser.sock is socket, "nginx closed it"
    sh(host, "dify-firewall check")


def test_switched_off_nothing_of_it_is_left(checkout: Checkout, first: Run, host: Host) -> None:
    before = containers(host)
    checkout.knobs["firewall"] = "off"
    assert checkout.deploy().ok().changed == ["Firewall"]
    assert rules(host) == "0\n0"
    assert (
        sh(host, "find /etc /usr/local /var/lib /run -xdev -name '*dify-firewall*' -not -path '/var/lib/docker/*'")
        == ""
    )
    guarded(host, 80, "15003/tcp4", *PLANTED)
    assert containers(host) == before


def test_what_is_open_without_it_is_the_same_after_restarts(first: Run, host: Host) -> None:
    sh(host, "systemctl restart docker")
    guarded(host, 80, "15003/tcp4", *PLANTED)
    hosts.reboot(host.name)
    guarded(host, 80, "15003/tcp4", *PLANTED)
    assert rules(host) == "0\n0"


def test_a_docker_that_keeps_no_rules_is_refused(checkout: Checkout, first: Run, host: Host) -> None:
    sh(host, "cp /etc/docker/daemon.json /root/ && sed -i '1s/{/{\"iptables\": false,/' /etc/docker/daemon.json")
    run = checkout.deploy(firewall="docker-user")
    sh(host, "cp /root/daemon.json /etc/docker/daemon.json")
    run.refused('firewall = "docker-user": Docker here keeps no DOCKER-USER, as "iptables": false stands in')


def test_the_deployment_takes_its_rules_with_it(checkout: Checkout, first: Run, host: Host) -> None:
    checkout.knobs["firewall"] = "docker-user"
    assert checkout.deploy().ok().changed == ["Firewall"]
    removed = checkout.pyinfra("inventory.py", "tasks.stack.remove", "-y").ok()
    assert removed.changed == ["Deployment is gone", "Firewall lets go"]
    assert rules(host) == "0\n0"
    only_open(host, *PLANTED)
