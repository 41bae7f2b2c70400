"""The link itself, seen with raw frames and with ordinary clients of its services."""

import os
import pathlib
import re
import subprocess
import textwrap

import pytest

from conftest import PYTHON, WORLD4, until


@pytest.fixture
def space(workspace):
    return workspace("").started()


def python(space, code):
    path = space.folder / "script.py"
    path.write_text(RAW + textwrap.dedent(code))
    return space.exec(PYTHON, str(path)).stdout


RAW = """
import os, random, socket, struct, time
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
raw.bind(("tap0", 0))
raw.settimeout(0.5)
OWN = raw.getsockname()[4]
GATEWAY = bytes.fromhex("52550a000202")

def exchange(frame, matches, seconds=0.5):
    raw.send(frame)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            answer = raw.recv(65536)
        except TimeoutError:
            return None
        if answer[6:12] != OWN and matches(answer):
            return answer

def checksum(data):
    data += b"\\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff

def ipv4(source, destination, proto, payload, ttl=64):
    header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, ttl, proto, 0, socket.inet_aton(source), socket.inet_aton(destination))
    header = header[:10] + struct.pack(">H", checksum(header)) + header[12:]
    return GATEWAY + OWN + b"\\x08\\0" + header + payload
"""


def test_arp_answers_for_the_gateway_and_the_name_server_only(space):
    out = python(space, """
        for target in ("10.0.2.2", "10.0.2.3", "10.0.2.4", "10.0.2.50", "198.18.0.1"):
            request = b"\\xff" * 6 + OWN + bytes.fromhex("08060001080006040001") + OWN + socket.inet_aton("10.0.2.100") + bytes(6) + socket.inet_aton(target)
            answer = exchange(request, lambda f: f[12:14] == b"\\x08\\x06" and f[28:32] == socket.inet_aton(target), 0.3)
            print(target, answer[22:28].hex() if answer else None)
        """)
    assert out.split() == ["10.0.2.2", "52550a000202", "10.0.2.3", "52550a000202", "10.0.2.4", "None", "10.0.2.50", "None",
                           "198.18.0.1", "None"]


def test_a_dhcp_client_gets_the_workspaces_address(space):
    script = space.folder / "udhcpc.sh"
    script.write_text("#!/bin/sh\n[ \"$1\" = bound ] && echo got $ip/$mask $router $dns $mtu\nexit 0\n")
    script.chmod(0o755)
    result = space.exec("sh", "-c", f"ip addr flush dev tap0; busybox udhcpc -i tap0 -n -q -f -t 3 -s {script}")
    assert "got 10.0.2.100/24 10.0.2.2 10.0.2.3 1500" in result.stdout


def test_a_router_advertisement_configures_a_client(space):
    space.exec("sh", "-c", "ip addr flush dev tap0; sysctl -qw net.ipv6.conf.tap0.accept_ra=2; ip link set tap0 down; ip link set tap0 up")
    def configured():
        addresses = space.exec("ip", "-6", "addr", "show", "dev", "tap0").stdout
        return re.search(r"inet6 fd00::[0-9a-f:]+/64 scope global dynamic", addresses)
    until(configured, 10, "an address by SLAAC")
    assert "default via fe80::2 dev tap0 proto ra" in space.exec("ip", "-6", "route").stdout
    assert "0% packet loss" in space.exec("ping", "-c", "1", "-W", "2", "fd00::2").stdout


def test_a_dhcpv6_client_gets_the_workspaces_address(space):
    script = space.folder / "dhclient.sh"
    script.write_text("#!/bin/sh\n[ \"$reason\" = BOUND6 ] && echo got $new_ip6_address/$new_ip6_prefixlen $new_dhcp6_name_servers\n"
                      "[ -n \"$new_dhcp6_name_servers\" ] && echo names $new_dhcp6_name_servers\nexit 0\n")
    script.chmod(0o755)
    until(lambda: "tentative" not in space.exec("ip", "-6", "addr", "show", "dev", "tap0", "scope", "link").stdout, 10, "the link's own address")
    client = lambda *options: space.exec("timeout", "4", "dhclient", "-6", "-1", "-d", *options, "-sf", str(script), "-lf", str(space.folder / "leases6"), "-pf", str(space.folder / "pid6"), "tap0", check=False).stdout
    # It stays to renew what it has: the word is enough.
    assert "names fd00::3" in client("-S")
    assert "got fd00::100/128 fd00::3" in client()


def test_a_dhcp_client_of_another_kind(space):
    script = space.folder / "dhclient.sh"
    script.write_text("#!/bin/sh\n[ \"$reason\" = BOUND ] && echo got $new_ip_address $new_subnet_mask $new_routers $new_domain_name_servers $new_interface_mtu\nexit 0\n")
    script.chmod(0o755)
    result = space.exec("timeout", "5", "dhclient", "-4", "-1", "-d", "-sf", str(script), "-lf", str(space.folder / "leases4"), "-pf", str(space.folder / "pid4"), "tap0", check=False)
    assert "got 10.0.2.100 255.255.255.0 10.0.2.2 10.0.2.3 1500" in result.stdout


def test_time_to_live_is_counted(space):
    out = python(space, """
        udp = struct.pack(">HHHH", 4000, 33434, 12, 0) + b"data"
        answer = exchange(ipv4("10.0.2.100", "198.18.0.1", 17, udp, ttl=1), lambda f: f[23] == 1)
        print(socket.inet_ntoa(answer[26:30]), answer[34], answer[35], answer[42:].startswith(b"\\x45") and answer[62:66].hex())
        """)
    assert out.split() == ["10.0.2.2", "11", "0", "0fa0829a"]


def test_datagrams_that_come_at_once_keep_their_time_to_live(space, lab):
    """The forwarder sends several of one size together: not those that differ in what their headers say."""
    server = lab.popen_in(lab.world, [PYTHON, "-c", """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.setsockopt(0, 12, 1); s.bind(("198.18.0.10", 4714)); s.settimeout(10); print("ready", flush=True)
for _ in range(200):
    data, control, _, _ = s.recvmsg(2000, 100)
    print(data[0], int.from_bytes(control[0][2][:4], "little"), flush=True)
"""], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout.readline() == "ready\n"
        space.exec(PYTHON, "-c", """
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(("198.18.0.10", 4714))
for _ in range(50):
    for hops in (60, 60, 30, 60): s.setsockopt(0, 2, hops); s.send(bytes([hops]) * 700)
    time.sleep(0.002)
""")
        pairs = [tuple(map(int, server.stdout.readline().split())) for _ in range(200)]
        assert set(pairs) == {(60, 59), (30, 29)}
    finally:
        server.kill()
        server.wait()


def test_a_segment_of_no_connection_is_reset(space):
    out = python(space, """
        tcp = struct.pack(">HHIIBBHHH", 4001, 80, 1000, 7777, 0x50, 0x10, 1000, 0, 0)
        pseudo = socket.inet_aton("10.0.2.100") + socket.inet_aton("198.18.0.1") + struct.pack(">BBH", 0, 6, 20)
        tcp = tcp[:16] + struct.pack(">H", checksum(pseudo + tcp)) + tcp[18:]
        os.system("ip route add blackhole 203.0.113.0/24")
        answer = exchange(ipv4("10.0.2.100", "198.18.0.1", 6, tcp), lambda f: f[23] == 6)
        print(answer[47], int.from_bytes(answer[38:42], "big"))
        """)
    assert out.split() == ["4", "7777"]


def test_frames_of_any_bytes_leave_the_forwarder_alive(space):
    before = space.stage("slirp")
    python(space, """
        random.seed(7)
        base = [ipv4("10.0.2.100", "198.18.0.1", proto, os.urandom(40)) for proto in (1, 6, 17, 58, 99)]
        base.append(GATEWAY + OWN + b"\\x86\\xdd" + bytes.fromhex("6000000000402c40") + bytes(15) + b"\\1" + bytes(16) + os.urandom(64))
        base.append(b"\\xff" * 6 + OWN + b"\\x08\\x06" + os.urandom(28))
        sent = 0
        for _ in range(20000):
            frame = bytearray(random.choice(base))
            for _ in range(random.randrange(1, 6)):
                frame[random.randrange(12 if random.random() < 0.9 else 0, len(frame))] = random.randrange(256)
            frame = frame[:random.randrange(14, len(frame) + 1)] if random.random() < 0.3 else frame
            if random.random() < 0.5 and frame[12:14] == b"\\x08\\0" and len(frame) >= 34:
                frame[24:26] = b"\\0\\0"
                frame[24:26] = struct.pack(">H", checksum(bytes(frame[14:34])))
            try:
                raw.send(bytes(frame))
                sent += 1
            except OSError:
                pass
        print(sent)
        """)
    assert space.exec("curl", "-sS", "-m", "5", f"http://{WORLD4}:8000/").stdout == "hello from world\n"
    assert space.stage("slirp") == before and "the forwarder ended" not in space.stderr


def test_ping_without_permission_is_said(workspace, lab):
    lab.in_pod("sysctl", "-qw", "net.ipv4.ping_group_range=1 0")
    try:
        space = workspace("").started()
        assert "Packet filtered" in space.exec("ping", "-c", "1", "-W", "2", WORLD4, check=False).stdout
        assert "0% packet loss" in space.exec("ping", "-c", "1", "-W", "2", "10.0.2.2").stdout
        until(lambda: "ping_group_range" in space.stderr, 5, "the line that says what to set")
    finally:
        lab.in_pod("sysctl", "-qw", "net.ipv4.ping_group_range=0 2147483647")


def test_the_forwarder_has_no_privileges_no_files_and_few_calls(space):
    pid = space.stage("slirp")
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    for line in ("CapPrm", "CapEff", "CapInh", "CapAmb"):
        assert re.search(rf"^{line}:\s+0+$", status, re.M), status
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.M) and re.search(r"^Seccomp:\s+2$", status, re.M)
    assert list(pathlib.Path(f"/proc/{pid}/root/").iterdir()) == []
    for namespace in ("user", "mnt"):
        assert os.readlink(f"/proc/{pid}/ns/{namespace}") != os.readlink(f"/proc/{space.process.pid}/ns/{namespace}")
    assert os.readlink(f"/proc/{pid}/ns/net") == os.readlink(f"/proc/{space.process.pid}/ns/net")


def test_a_low_port_that_may_not_be_taken_is_said(workspace):
    space = workspace("ports: [{port: 81}]").started()
    space.exec("sh", "-c", f"setsid {PYTHON} -m http.server 81 >/dev/null 2>&1 </dev/null &")
    until(lambda: "port 81 is not forwarded" in space.stderr and "ip_unprivileged_port_start=0" in space.stderr, 5, "the line")
