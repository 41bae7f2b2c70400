"""`network.addresses: copy`: the workspace has the container's own addresses and routes."""

import json
import re
import subprocess

import pytest

from conftest import BINARY, POD4, POD6, PYTHON, WORLD4, WORLD6, until

CONFIG = "tasks: [{name: server, command: exec python3 -m http.server 8300}]\nports: [{port: 8300}]\nworkspacekit: {network: {addresses: copy, hostLoopback: [9077/tcp], link: %s}}\n"


@pytest.fixture(params=["tap", "packet"])
def space(workspace, request, lab):
    # A route of the container's that is not the default one.
    lab.in_pod("ip", "route", "add", "198.18.77.0/24", "via", "198.18.0.10")
    try:
        yield workspace(CONFIG % request.param).started()
    finally:
        lab.in_pod("ip", "route", "del", "198.18.77.0/24")


def connect(enter, address, port, text="b'hello'", udp=False):
    code = f"""
import socket
s = socket.socket({'socket.AF_INET6' if ':' in address else 'socket.AF_INET'}, {'socket.SOCK_DGRAM' if udp else 'socket.SOCK_STREAM'}); s.settimeout(5)
try: s.connect(("{address}", {port})); s.sendall({text}); print(s.recv(100).decode(), s.getsockname()[0])
except OSError as error: print(type(error).__name__, error.errno)
"""
    return enter(PYTHON, "-c", code).stdout.strip()


def test_addresses_and_routes_are_the_containers(space, lab):
    def shown(enter, device):
        addresses = re.findall(r"inet6? (\S+)", enter("ip", "-o", "addr", "show", "dev", device, "scope", "global").stdout)
        routes = [line.split(" dev ")[0] for family in "46" for line in enter("ip", f"-{family}", "route", "show", "dev", device).stdout.splitlines()]
        plain = lambda line: line.split(" proto ")[0].split(" metric ")[0].replace(" onlink", "").strip()
        return addresses, sorted(line for line in map(plain, routes) if not line.startswith("fe80"))
    inside, outside = shown(space.exec, "tap0"), shown(lab.in_pod, "eth0")
    assert inside == outside and f"{POD4}/24" in inside[0] and f"{POD6}/64" in inside[0] and "198.18.77.0/24 via 198.18.0.10" in inside[1]


@pytest.mark.parametrize("udp", [False, True])
def test_neighbours_and_all_else_are_reached_from_it(space, udp):
    # On its link by name, and beyond.
    for address, own in ((WORLD4, POD4), ("198.18.0.10", POD4), (WORLD6, POD6)):
        assert connect(space.exec, address, 7, udp=udp) == f"hello {own}"
    assert connect(space.exec, "198.19.0.1", 7) == "OSError 113"
    assert connect(space.exec, "169.254.169.254", 7) in ("ConnectionRefusedError 111", "PermissionError 13", "OSError 113")
    until(lambda: "denied" in space.stderr, 5, "the word about it")


def test_ping_and_names(space):
    for address in (WORLD4, WORLD6, "198.18.0.11", "169.254.2.2"):
        assert " 0% packet loss" in space.exec("ping", "-n", "-c", "2", "-i", "0.1", address).stdout, address
    assert space.exec("cat", "/etc/resolv.conf").stdout == "nameserver 169.254.2.3\nsearch example.test\n"
    assert space.exec("getent", "ahostsv4", "at-198-18-0-12.example.test").stdout.split()[0] == "198.18.0.12"
    # Who is not there is not answered for by us, beyond the ARP of the link.
    assert connect(space.exec, "198.18.0.77", 7).startswith("OSError 11")


def test_in_by_forwards_and_what_is_of_the_containers_loopback(space, lab):
    until(lambda: "port 8300 is forwarded" in space.stderr, 10, "the forward")
    for url in (f"http://{POD4}:8300/", f"http://[{POD6}]:8300/"):
        assert "Directory listing" in lab.in_world("curl", "-s", "-m", "5", url).stdout
    # The container itself by its own address: known inside as the gateway, since the address is the workspace's too.
    assert "Directory listing" in lab.in_pod("curl", "-s", "-m", "5", f"http://{POD4}:8300/").stdout
    until(lambda: "169.254.2.2" in space.stdout and WORLD4 in space.stdout, 5, "who came")
    holder = lab.popen_in(lab.pod, [PYTHON, "-c", """
import socket
s = socket.socket(); s.setsockopt(1, 2, 1); s.bind(("127.0.0.1", 9077)); s.listen(9); print("ready", flush=True)
while True:
    c, _ = s.accept(); c.sendall(b"loopback"); c.close()
"""], stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"ready\n"
        assert connect(space.exec, "169.254.2.2", 9077, "b''").startswith("loopback")
        assert connect(space.exec, "127.0.0.1", 9077) == "ConnectionRefusedError 111"
        # Its own address is the workspace's own.
        assert connect(space.exec, POD4, 9077) == "ConnectionRefusedError 111"
    finally:
        holder.kill()
        holder.wait()
    assert space.exec("getent", "ahostsv4", "host.workspacekit.internal").stdout.split()[0] == "169.254.2.2"


def test_what_is_broken_is_said_and_mended(space):
    space.exec("sh", "-c", "ip route flush dev tap0; ip addr flush dev tap0; ip -6 route flush dev tap0")
    problems = json.loads(space.cli("net status", "--json", check=False).stdout)["problems"]
    assert f"tap0 has lost its address {POD4}" in problems and "there is no route to 198.18.77.0/24 via 198.18.0.10" in problems
    assert f"there is no default route via {WORLD4}" in problems
    assert "as it was made" in space.cli("net reset").stdout
    assert connect(space.exec, WORLD4, 7) == f"hello {POD4}" and connect(space.exec, WORLD6, 7) == f"hello {POD6}"


def test_an_ordinary_client_is_given_the_same_address(space):
    """DHCP in the workspace: what it has already, so that whoever asks keeps it."""
    lease = space.exec("sh", "-c", f"""cat > /tmp/lease.sh <<'END'
#!/bin/sh
echo "reason=$reason address=$new_ip_address mask=$new_subnet_mask router=$new_routers dns=$new_domain_name_servers"
END
chmod +x /tmp/lease.sh; exec dhclient -1 -v -d -sf /tmp/lease.sh -lf /tmp/leases -pf /tmp/pid --no-pid tap0 & sleep 3; kill $!""", check=False)
    assert f"address={POD4} mask=255.255.255.0 router={WORLD4} dns=169.254.2.3" in lease.stdout + lease.stderr


NETWORK = """
ip link set lo up; ip link add dummy0 type veth peer name other; ip link set other up; ip addr add 198.18.9.9/32 dev dummy0; ip link set dummy0 up
ip route add 169.254.1.1 dev dummy0 scope link; ip route add default via 169.254.1.1 dev dummy0; exec "$@"
"""


def test_one_address_and_a_gateway_that_is_in_no_network(workspace):
    """As Calico sets up pods."""
    space = workspace("tasks: [{command: exec sleep 1000}]\nworkspacekit: {network: {addresses: copy}}\n", through=["unshare", "--net", "sh", "-c", NETWORK, "sh"])
    until(lambda: "up in" in space.stderr, 10, "the start")
    pid = space.stage("supervise")
    look = lambda *command: subprocess.run(["nsenter", f"--net=/proc/{pid}/ns/net", "--", *command], check=True, capture_output=True, text=True).stdout
    assert re.findall(r"inet (\S+)", look("ip", "-4", "-o", "addr", "show", "dev", "tap0")) == ["198.18.9.9/32"]
    routes = look("ip", "-4", "route", "show", "dev", "tap0")
    assert re.search(r"^default via 169\.254\.1\.1 ", routes, re.M) and re.search(r"^169\.254\.1\.1 .*scope link", routes, re.M)
    assert "fd" not in look("ip", "-6", "-o", "addr", "show", "dev", "tap0", "scope", "global")
    # Its router is there, as far as the link goes.
    assert re.search(r"169\.254\.1\.1 lladdr", look("sh", "-c", "ping -c1 -W1 169.254.1.1 >/dev/null; ip neigh show dev tap0"))


def test_where_there_is_nothing_to_copy_it_is_said(workspace):
    space = workspace("tasks: [{command: exec sleep 1000}]\nworkspacekit: {network: {addresses: copy}}\n", through=["unshare", "--net", "--"])
    until(lambda: "up in" in space.stderr, 10, "the start")
    assert "network.addresses: the container has no default route to copy: the workspace has addresses of its own" in space.stderr
    pid = space.stage("supervise")
    shown = subprocess.run(["nsenter", f"--net=/proc/{pid}/ns/net", "ip", "-o", "addr"], check=True, capture_output=True, text=True).stdout
    assert "10.0.2.100/24" in shown
