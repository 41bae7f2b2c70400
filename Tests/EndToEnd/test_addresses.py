"""The workspace's own network beside a container's that is the same one, as in a VirtualBox guest: another is chosen."""

import json
import re
import subprocess

import pytest

from conftest import BINARY, HERE, PYTHON, WORLD4, WORLD6, die_with_parent, until

NEIGHBOURS = f"""
ip link set lo up
for address in 10.0.2.2/24 10.0.2.3/24 {WORLD4}/32 198.18.0.10/32 198.18.0.11/32; do ip addr add $address dev eth0; done
for address in fd00::2/64 {WORLD6}/128; do ip addr add $address dev eth0 nodad; done
"""
CONTAINER = f"""
ip link set lo up; ip addr add 10.0.2.15/24 dev eth0; ip addr add fd00::15/64 dev eth0 nodad; ip link set eth0 up
ip route add default via 10.0.2.2; ip -6 route add default via fd00::2
sysctl -qw net.ipv4.ping_group_range='0 2147483647'
"""


class Guest:
    """A container's network that is 10.0.2.0/24 and fd00::/64, with neighbours in it that serve what `world` serves."""

    def __init__(self):
        hold = lambda: subprocess.Popen(["unshare", "--net", PYTHON, "-c", "import signal; print('ready', flush=True); signal.pause()"],
                                        stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent)
        self.holders = [hold(), hold()]
        for holder in self.holders:
            assert holder.stdout.readline() == b"ready\n"
        self.container, self.neighbours = (["nsenter", f"--net=/proc/{holder.pid}/ns/net", "--"] for holder in self.holders)
        self.at(self.neighbours, f"ip link add eth0 type veth peer name eth0 netns {self.holders[0].pid}; ip link set eth0 up")
        self.at(self.neighbours, NEIGHBOURS)
        self.at(self.container, CONTAINER)
        self.server = subprocess.Popen([*self.neighbours, PYTHON, str(HERE / "world.py"), WORLD4, WORLD6], stdout=subprocess.PIPE, preexec_fn=die_with_parent)
        assert self.server.stdout.readline() == b"ready\n"

    def at(self, where, script):
        return subprocess.run([*where, "sh", "-ec", script], check=True, capture_output=True, text=True, timeout=30).stdout

    def cli(self, space, *words):
        return subprocess.run([*self.container, BINARY, *words, "--state-dir", str(space.state)], check=True, capture_output=True, text=True, timeout=30).stdout

    def close(self):
        for process in (self.server, *self.holders):
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def guest():
    made = Guest()
    yield made
    made.close()


CONFIG = "tasks: [{name: server, command: exec python3 -m http.server 8300}]\nports: [{port: 8300}]\nworkspacekit: {network: {hostLoopback: [9078/tcp], link: %s%s}}\n"


@pytest.mark.parametrize("link", ["tap", "packet"])
def test_another_network_is_chosen_and_neighbours_are_reached(workspace, lab, guest, link):
    space = workspace(CONFIG % (link, ""), through=guest.container).started()
    for url in ("http://10.0.2.2:8000/", "http://10.0.2.3:8000/", "http://[fd00::2]:8000/", f"http://{WORLD4}:8000/"):
        assert space.exec("curl", "-sS", "-g", "-m", "5", url).stdout == "hello from world\n", url
    # The addresses follow everywhere.
    assert space.exec("cat", "/etc/resolv.conf").stdout == "nameserver 10.219.2.3\nsearch example.test\n"
    assert space.exec("getent", "ahostsv4", "at-10-0-2-3.example.test").stdout.split()[0] == "10.0.2.3"
    assert space.exec("getent", "ahostsv4", "host.workspacekit.internal").stdout.split()[0] == "10.219.2.2"
    shown = json.loads(space.cli("net status", "--json").stdout)
    assert shown["addresses"] == ["10.219.2.100/24", "fd00:0:0:2::100/64"] and shown["gateways"] == ["10.219.2.2", "fd00:0:0:2::2"]
    assert " 0% packet loss" in space.exec("ping", "-n", "-c", "1", "10.219.2.2").stdout
    assert " 0% packet loss" in space.exec("ping", "-n", "-c", "1", "10.0.2.2").stdout
    # The container's loopback by the gateway, and its ports from its neighbours.
    loopback = subprocess.Popen([*guest.container, PYTHON, "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(space.folder), "9078"],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=die_with_parent)
    try:
        until(lambda: "Directory listing" in space.exec("curl", "-s", "-m", "5", "http://10.219.2.2:9078/", check=False).stdout, 10, "the container's loopback")
    finally:
        loopback.kill()
        loopback.wait()
    until(lambda: "port 8300 is forwarded" in space.stderr, 10, "the forward")
    assert "Directory listing" in guest.at(guest.neighbours, "curl -sS -m 5 http://10.0.2.15:8300/")
    assert "overlaps" not in space.stderr
    # A route of the container's that comes later is seen from outside.
    assert json.loads(guest.cli(space, "net", "status", "--json"))["hidden"] == [] and "Hidden" not in guest.cli(space, "net", "status")
    guest.at(guest.container, "ip route add 10.219.0.0/16 via 10.0.2.3")
    late = guest.cli(space, "net", "status")
    guest.at(guest.container, "ip route del 10.219.0.0/16 via 10.0.2.3")
    assert re.search(r"^Hidden +10\.219\.0\.0/16 on eth0: not reached from inside$", late, re.M)
    # What is broken is put back as it was chosen; another forwarder keeps it.
    space.exec("sh", "-c", "ip addr flush dev tap0; : >/etc/resolv.conf")
    assert "as it was made" in space.cli("net reset").stdout
    assert space.exec("cat", "/etc/resolv.conf").stdout.startswith("nameserver 10.219.2.3\n")
    subprocess.run(["kill", "-9", str(space.stage("slirp"))], check=True)
    until(lambda: space.exec("curl", "-sS", "-m", "5", "http://10.0.2.2:8000/", check=False).stdout == "hello from world\n", 10, "the next forwarder")
    space.cli("reload")
    assert "would change" in space.cli("plan").stdout
    assert space.exec("curl", "-sS", "-m", "5", "http://10.0.2.3:8000/").stdout == "hello from world\n"


def test_a_configured_overlap_is_said(workspace, lab, guest):
    space = workspace(CONFIG % ("auto", ", cidr: 10.0.2.0/24"), through=guest.container).started()
    said = re.findall(r".*overlaps.*", space.stderr)
    assert len(said) == 1 and re.search(r"\.gitpod\.yml:3:\d+: warning: .*cidr.* overlaps the container's 10\.0\.2\.0/24 on eth0, 10\.0\.2\.15/32 on eth0", said[0]), said
    status = guest.cli(space, "net", "status")
    assert "10.0.2.100/24" in status and re.search(r"^Hidden +10\.0\.2\.0/24 on eth0, 10\.0\.2\.15/32 on eth0: not reached", status, re.M)
    assert "Hidden" not in space.exec(BINARY, "net", "status").stdout
    # An edit is judged by the container's networks too, not by the workspace's.
    (space.folder / ".gitpod.yml").write_text(CONFIG % ("auto", ", cidr: 10.0.0.0/16"))
    planned = space.cli("plan")
    assert "overlaps the container's 10.0.2.0/24 on eth0" in planned.stderr and "takes effect" in planned.stdout
    (space.folder / ".gitpod.yml").write_text(CONFIG % ("auto", ", cidr: 10.3.0.0/24"))
    assert "overlaps" not in space.cli("plan").stderr

    def doctor(*arguments):
        shown = subprocess.run([*guest.container, BINARY, "doctor", *arguments], capture_output=True, text=True, cwd=space.folder, timeout=30)
        assert shown.returncode in (0, 1), shown  # what else this machine lacks is not asked here
        return shown.stdout
    row = lambda text: next(row for row in json.loads(text)["findings"] if row["feature"] == "addresses")
    assert row(doctor("--json"))["state"] == "ok"
    other = space.folder / "other.yml"
    other.write_text(CONFIG % ("auto", ", cidr: 10.0.2.0/24"))
    found = row(doctor("--json", "--config", str(other)))
    assert found["state"] == "degraded" and "10.0.2.0/24, fd00:0:0:2::/64: overlaps the container's 10.0.2.0/24 on eth0" in found["found"]
    assert found["cost"] == "the workspace cannot reach what the container reaches there" and set(found["cure"]) == {"configuration"}
    text = doctor("--config", str(other))
    assert re.search(r"^degraded  addresses ", text, re.M) and re.search(r"^ +config: +network\.cidr: auto", text, re.M)
    assert all(len(line) <= 80 for line in text.splitlines())
    other.write_text("")
    assert row(doctor("--json", "--config", str(other)))["found"].startswith("10.219.2.0/24, fd00:0:0:2::/64, beside the container's 10.0.2.0/24 on eth0")


def test_routes_count_and_a_default_one_does_not(workspace, guest):
    """A VPN's route to all of 10.0.0.0/8 is a network of its own; the two halves of everything are a default route."""
    guest.at(guest.container, "ip route add 10.0.0.0/8 via 10.0.2.3; ip route add 192.168.0.0/16 via 10.0.2.3 table 77; ip route add 0.0.0.0/1 via 10.0.2.2; ip route add 128.0.0.0/1 via 10.0.2.2")
    try:
        space = workspace("tasks: [{command: exec sleep 1000}]\n", through=guest.container).started()
        assert "172.31.219.100/24" in space.cli("net status").stdout
        assert space.exec("curl", "-sS", "-m", "5", f"http://{WORLD4}:8000/").stdout == "hello from world\n"
        space.stop()
        # Where nothing is free it is said.
        guest.at(guest.container, "ip route add 172.16.0.0/12 via 10.0.2.3; ip route add 100.64.0.0/10 via 10.0.2.3")
        space = workspace("tasks: [{command: exec sleep 1000}]\n", through=guest.container).started()
        assert "10.0.2.100/24" in space.cli("net status").stdout
        assert "the workspace cannot reach the container's 10.0.0.0/8 on eth0" in space.stderr
    finally:
        guest.at(guest.container, "for r in 10.0.0.0/8 172.16.0.0/12 100.64.0.0/10 0.0.0.0/1 128.0.0.0/1; do ip route del $r || :; done; ip route flush table 77")


def test_copied_addresses_keep_their_neighbours(workspace, guest):
    """Gateway and name server of IPv6 are neighbours of the container's here: ours are elsewhere."""
    space = workspace("tasks: [{command: exec sleep 1000}]\nworkspacekit: {network: {addresses: copy}}\n", through=guest.container).started()
    for url in ("http://10.0.2.2:8000/", "http://[fd00::2]:8000/"):
        assert space.exec("curl", "-sS", "-g", "-m", "5", url).stdout == "hello from world\n", url
    assert space.exec("cat", "/etc/resolv.conf").stdout.startswith("nameserver 169.254.2.3\n")
    assert space.exec("getent", "ahostsv4", "at-198-18-0-12.example.test").stdout.split()[0] == "198.18.0.12"


def test_a_workspace_in_a_workspace_reaches_the_outer_ones_network(workspace, lab):
    """The outer one's gateway and name server are neighbours of the inner one, which has a network beside."""
    server = lab.popen_in(lab.pod, [PYTHON, "-m", "http.server", "--bind", "127.0.0.1", "--directory", "/var/empty", "9079"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    script = f"""ip -br addr show tap0; cat /etc/resolv.conf; curl -sS -m 5 -o /dev/null -w 'outer %{{http_code}}\\n' http://10.0.2.2:9079/
dig +short +tries=1 +time=3 @10.0.2.3 at-198-18-0-12.example.test | sed 's/^/asked outer /'; getent ahostsv4 at-198-18-0-11.example.test; curl -sS -m 5 http://{WORLD4}:8000/"""
    try:
        space = workspace("workspacekit: {network: {hostLoopback: [9079/tcp]}}\n", command=[
            BINARY, "run", "--network", "sandbox", "--state-dir", str(lab.folder / "inner-addresses"), "--workspace", "/tmp", "--", "sh", "-c", script])
        assert space.wait(30) == 0, space.stderr
        assert "10.219.2.100/24" in space.stdout and "nameserver 10.219.2.3" in space.stdout
        assert re.search(r"^outer [234]\d\d$", space.stdout, re.M), space.stdout
        assert "asked outer 198.18.0.12" in space.stdout and "198.18.0.11" in space.stdout and "hello from world" in space.stdout
    finally:
        server.kill()
        server.wait()
