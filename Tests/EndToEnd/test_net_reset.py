"""`net reset` returns when the network works again: the first packets after it are answered, without one sent twice."""

import json

import pytest

from conftest import BINARY, POD4, PYTHON, WORLD4, WORLD6, until

# What is done to the network inside, and how often.
BREAK = {
    "down": (50, "ip link set tap0 down"),
    "addresses": (50, "ip addr flush dev tap0"),
    "routes": (50, "ip route flush table main; ip -6 route flush table main"),
    "resolver": (50, ": >/etc/resolv.conf"),
    "nftables": (50, "nft flush ruleset"),
    "all at once": (50, "ip addr flush dev tap0; : >/etc/resolv.conf; ip link set tap0 down"),
    "flapping": (10, "for i in 1 2 3; do ip link set tap0 down; ip link set tap0 up; done; ip link set tap0 down"),
    "MTU": (10, "ip link set tap0 mtu 576"),
    "no ARP": (10, "ip link set tap0 arp off; ip neigh flush dev tap0"),
    "another gateway": (10, "ip route replace default via 10.0.2.77; ip -6 route replace default via fd00::77 dev tap0"),
    "another gateway before ours": (10, "ip route del default; ip route add default via 10.0.2.77; ip route append default via 10.0.2.2; ip -6 route append default via fd00::77 dev tap0"),
    "another interface": (10, "ip link add other type veth peer name other0; ip link set other up; ip route replace default dev other"),
    "unreachable": (10, "ip route replace unreachable default; ip -6 route replace unreachable default"),
    "IPv6 is off": (10, "echo 1 >/proc/sys/net/ipv6/conf/tap0/disable_ipv6"),
    "rules": (10, "ip rule flush; ip -6 rule flush"),
    "a bridge": (10, "ip link add bridge0 type bridge; ip link set tap0 master bridge0"),
    "the loopback is down": (10, "ip link set lo down"),
    "the loopback's addresses": (10, "ip addr flush dev lo"),
    "a longer prefix": (10, "ip addr flush dev tap0; ip addr add 10.0.2.100/32 dev tap0"),
}
PROBE = """
import json, socket, struct, subprocess, sys
binary, world4, world6, breaks = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])

def connect(family, address):
    with socket.socket(family, 1) as s:
        s.settimeout(10)
        s.connect((address, 7)); s.sendall(b"x")
        assert s.recv(1) == b"x"
        sent_twice, = struct.unpack_from("I", s.getsockopt(6, 11, 104), 100)  # TCP_INFO, tcpi_total_retrans
        assert not sent_twice, f"{sent_twice} segments to {address} were sent twice"

def look_up():
    server = next(line.split()[1] for line in open("/etc/resolv.conf") if line.startswith("nameserver"))
    with socket.socket(2, 2) as u:
        u.settimeout(5)
        u.sendto(b"\\x12\\x34\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\3www\\4test\\0\\0\\1\\0\\1", (server, 53))
        assert u.recv(512)[:2] == b"\\x12\\x34"

def loopback():
    with socket.socket() as l, socket.socket() as c:
        l.bind(("127.0.0.1", 0)); l.listen(1); c.settimeout(5); c.connect(l.getsockname())

found = {}
for name, (rounds, how) in breaks.items():
    bad = found.setdefault(name, [])
    for number in range(rounds):
        subprocess.run(["sh", "-c", how], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        said = subprocess.run([binary, "net", "status"], capture_output=True, text=True)
        if said.returncode != (name != "nftables") and name != "no ARP":
            bad.append(f"net status: {said.returncode}: {said.stdout}")
        mended = subprocess.run([binary, "net", "reset"], capture_output=True, text=True)
        if mended.returncode:
            bad.append(f"net reset: {mended.returncode}: {mended.stdout}{mended.stderr}")
        for check, arguments in ((connect, (2, world4)), (connect, (10, world6)), (look_up, ()), (loopback, ())):
            try:
                check(*arguments)
            except Exception as error:
                bad.append(f"round {number}, {check.__name__}: {error!r}")
        if len(bad) > 3:
            break
print(json.dumps({name: bad for name, bad in found.items() if bad}))
"""


@pytest.mark.parametrize("link", ["tap", "packet"])
def test_net_reset_returns_when_packets_pass(workspace, link):
    space = workspace("tasks: [{command: exec sleep 1000}]\nworkspacekit: {network: {link: %s}}\n" % link).started()
    bad = json.loads(space.exec(PYTHON, "-c", PROBE, BINARY, WORLD4, WORLD6, json.dumps(BREAK)).stdout)
    assert not bad, json.dumps(bad, indent=1)


def test_what_cannot_be_mended_is_said(workspace):
    space = workspace("tasks: [{command: exec sleep 1000}]\n").started()
    space.exec("ip", "link", "del", "tap0")
    lost = space.cli("net reset", check=False)
    assert lost.returncode == 1 and "tap0" in lost.stdout + lost.stderr


def test_ports_follow_a_reload_which_does_not_wait_for_them(workspace, lab):
    """Its help says so: the forwarder, another process, has them a moment later."""
    base = "tasks: [{name: server, command: exec python3 -m http.server 8400}]\n"
    space = workspace(base).started()
    answers = lambda port: lab.in_pod("curl", "-s", "-m", "5", "-o", "/dev/null", f"http://{POD4}:{port}/", check=False).returncode
    until(lambda: space.exec("curl", "-s", "127.0.0.1:8400", check=False).returncode == 0, 10, "the server")
    assert "ports outside are opened and closed a moment later" in " ".join(lab.in_pod(BINARY, "reload", "--help").stdout.split())
    for port, text in ((8400, "ports: [{port: 8400}]\n"), (9400, 'workspacekit: {network: {forwards: ["9400:8400"]}}\n')):
        for extra, wanted in ((text, 0), ("", 7)):
            (space.folder / ".gitpod.yml").write_text(base + extra)
            space.cli("reload")
            until(lambda: answers(port) == wanted, 2, f"port {port}")
