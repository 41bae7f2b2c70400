"""Ports outside that always lead inside (workspacekit.network.forwards): both transports, ranges, addresses, edits."""

import json
import os
import re
import resource
import signal
import subprocess
import time

import pytest

from conftest import POD4, POD6, PYTHON, USER, WORLD4, until

SERVER = """
import select, socket, sys
sockets = {}
for text in sys.argv[1:]:
    port, kind = text.split("/")
    s = socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    s.setsockopt(1, 2, 1); s.bind(("0.0.0.0", int(port))); sockets[s] = text
    if kind == "tcp": s.listen(64)
print("serving", flush=True)
while True:
    for s in select.select(list(sockets), [], [])[0]:
        if s.type == socket.SOCK_STREAM:
            c, peer = s.accept(); c.sendall(f"{sockets[s]} {peer[0]}".encode()); c.close()
        else:
            data, peer = s.recvfrom(70000); s.sendto(f"{sockets[s]} {peer[0]} {len(data)}".encode(), peer)
"""


def ask(enter, address, port, udp=False, size=1):
    code = f"""
import socket
family = socket.AF_INET6 if ":" in "{address}" else socket.AF_INET
s = socket.socket(family, socket.{'SOCK_DGRAM' if udp else 'SOCK_STREAM'}); s.settimeout(3)
try:
    s.connect(("{address}", {port}))
    {f's.send(b"x" * {size})' if udp else ''}
    print(s.recv(200).decode())
except OSError as error: print(type(error).__name__)
"""
    return enter(PYTHON, "-c", code).stdout.strip()


def config(forwards, server, ports="80/tcp 90/tcp 6000/tcp 6001/tcp 6002/tcp 53/udp 6002/udp"):
    return f"""
tasks: [{{name: server, command: "exec {PYTHON} {server} {ports}"}}]
workspacekit: {{network: {{forwards: [{', '.join(forwards)}]}}}}
"""


def started(workspace, lab, forwards):
    folder = lab.folder / "forwards"
    folder.mkdir(exist_ok=True)
    (folder / "server.py").write_text(SERVER)
    space = workspace(config(forwards, folder / "server.py")).started()
    until(lambda: "[server] serving" in space.stdout, 10, "the server")
    # What listens inside is looked up ten times a second.
    until(lambda: all(row["state"] != "nothing listens inside" for row in shown(space)), 5, "the forwards")
    return space


def shown(space):
    return json.loads(space.cli("net forwards", "--json").stdout)


def test_tcp_udp_ranges_and_addresses(workspace, lab):
    space = started(workspace, lab, ['"8180:80"', '"127.0.0.1:8181:90"', '"7000-7001:6000-6001"', '"5353:53/udp"', '"7002:6002/udp"', f'"[{POD6}]:8182:80"'])
    world, pod = lab.in_world, lab.in_pod
    assert ask(world, POD4, 8180) == f"80/tcp {WORLD4}", "the server sees who it is"
    assert ask(world, POD4, 7000) == f"6000/tcp {WORLD4}" and ask(world, POD4, 7001) == f"6001/tcp {WORLD4}"
    assert ask(world, POD4, 8181) == "ConnectionRefusedError" and ask(pod, "127.0.0.1", 8181) == "90/tcp 127.0.0.1"
    assert ask(world, POD4, 5353, udp=True) == f"53/udp {WORLD4} 1" and ask(world, POD4, 7002, udp=True, size=20000) == f"6002/udp {WORLD4} 20000"
    assert ask(pod, "127.0.0.1", 5353, udp=True) == "53/udp 10.0.2.2 1"
    # Over IPv6 too, to a server that speaks IPv4: it sees the gateway.
    assert ask(world, POD6, 8180) == "80/tcp 10.0.2.2" and ask(world, POD6, 5353, udp=True) == "53/udp 10.0.2.2 1"
    assert space.stderr.count("network.forwards") == 0
    # Where nothing serves inside, clients are refused, until something does again.
    for _ in range(2):
        space.cli("stop", "server")
        until(lambda: {row["state"] for row in shown(space)} == {"nothing listens inside"}, 5, "its end")
        assert ask(world, POD4, 8180) == "ConnectionRefusedError" and ask(pod, "127.0.0.1", 8181) == "ConnectionRefusedError"
        space.cli("start", "server")
        until(lambda: ask(world, POD4, 8180) == f"80/tcp {WORLD4}", 5, "its next life")
    space.stop()
    assert ask(world, POD4, 8180) == "ConnectionRefusedError"


def test_edits_and_another_forwarder(workspace, lab):
    space = started(workspace, lab, ['"8180:80"', '"5353:53/udp"'])
    server = lab.folder / "forwards" / "server.py"
    (space.folder / ".gitpod.yml").write_text(config(['"8183:80"', '"5353:53/udp"'], server))
    until(lambda: ask(lab.in_world, POD4, 8183) == f"80/tcp {WORLD4}", 10, "the new forward")
    assert ask(lab.in_world, POD4, 8180) == "ConnectionRefusedError"
    assert set(states(space)) == {"*:8183", "*:5353"}, "what is gone is not shown"
    assert ask(lab.in_world, POD4, 5353, udp=True) == f"53/udp {WORLD4} 1"
    assert re.search("setting workspacekit.network.forwards: changed, without a restart", space.stderr) and space.status()["server"]["restarts"] == 0
    # The sockets stay while a forwarder that dies is followed by another.
    os.kill(space.stage("slirp"), signal.SIGKILL)
    until(lambda: ask(lab.in_world, POD4, 8183) == f"80/tcp {WORLD4}", 10, "the other forwarder")
    assert "ConnectionRefusedError" not in ask(lab.in_world, POD4, 8183)
    assert ask(lab.in_world, POD4, 5353, udp=True) == f"53/udp {WORLD4} 1"


def test_clients_that_come_while_no_descriptor_is_left_are_served_later(workspace, lab):
    """They wait in the kernel's queue, and the listener is tried again by itself."""
    space = started(workspace, lab, ['"8202:80"'])
    forwarder = space.stage("slirp")
    limits = resource.prlimit(forwarder, resource.RLIMIT_NOFILE)
    resource.prlimit(forwarder, resource.RLIMIT_NOFILE, (3, limits[1]))
    client = lab.popen_in(lab.world, [PYTHON, "-c", f"""
import socket
s = socket.create_connection(("{POD4}", 8202), 5); print("connected", flush=True)
s.settimeout(0.5)
try: print(s.recv(100).decode(), flush=True)
except TimeoutError: print("waits", flush=True)
s.settimeout(10); print(s.recv(100).decode())
"""], stdout=subprocess.PIPE, text=True)
    try:
        assert client.stdout.readline() == "connected\n" and client.stdout.readline() == "waits\n"
        resource.prlimit(forwarder, resource.RLIMIT_NOFILE, limits)
        assert client.stdout.readline() == f"80/tcp {WORLD4}\n" and client.wait(10) == 0
    finally:
        client.kill()
        client.wait()
    assert ask(lab.in_world, POD4, 8202) == f"80/tcp {WORLD4}"


def test_a_port_that_is_taken_is_said_and_the_rest_holds(workspace, lab):
    holder = lab.popen_in(lab.pod, [PYTHON, "-c", "import socket, time; s = socket.socket(); s.bind(('0.0.0.0', 8184)); s.listen(1); print('ready', flush=True); time.sleep(1000)"],
                          stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"ready\n"
    try:
        space = started(workspace, lab, ['"8184:80"', '"8185:90"'])
        assert re.search(r"network\.forwards: port 8184 is not forwarded: cannot listen on .*8184: Address already in use", space.stderr)
        assert ask(lab.in_world, POD4, 8185) == f"90/tcp {WORLD4}"
    finally:
        holder.kill()
        holder.wait()


def test_without_a_network_of_its_own_it_is_said(workspace):
    space = workspace("tasks: [{command: sleep 1000}]\nworkspacekit: {network: {mode: host, forwards: [\"8186:80\"]}}\n").started()
    assert "network.forwards has no effect: this workspace has no network of its own" in space.stderr


LOCAL = """
import socket, sys, threading
def serve(family, address, kind=socket.SOCK_STREAM):
    s = socket.socket(family, kind); s.setsockopt(1, 2, 1)
    if family == socket.AF_INET6: s.setsockopt(41, 26, 1)
    s.bind((address, int(sys.argv[1])))
    if kind == socket.SOCK_DGRAM:
        while True:
            data, peer = s.recvfrom(70000); s.sendto(data, peer)
    s.listen(64)
    while True:
        c, peer = s.accept()
        threading.Thread(target=talk, args=(c, peer)).start()
def talk(c, peer):
    c.sendall(f"{peer[0]}\\n".encode())
    count = 0
    while data := c.recv(1 << 20):
        count += len(data); c.sendall(data)
    c.sendall(f"end after {count}".encode()); c.close()
"""


def serving(workspace, lab, servers, ports="[{port: 4000}]", forwards="[]", number=4000, user=None):
    code = LOCAL + "\n".join(f"threading.Thread(target=serve, args=({args},)).start()" for args in servers) + "\nprint('serving', flush=True)\n"
    folder = lab.folder / "local"
    folder.mkdir(exist_ok=True)
    (folder / "server.py").write_text(code)
    space = workspace(f"""
ports: {ports}
tasks: [{{name: server, command: "exec {PYTHON} {folder}/server.py {number}"}}]
workspacekit: {{network: {{forwards: {forwards}}}}}
""", user=user).started()
    until(lambda: any(row["state"] == "open" for row in shown(space)), 10, "a forward")
    return space


TALK = """
import hashlib, os, socket, sys, threading
address, port, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
try: s = socket.create_connection((address, port), 5)
except OSError as error: print(type(error).__name__); raise SystemExit
s.settimeout(30)
f = s.makefile("rb")
try: seen = f.readline().decode().strip()
except OSError as error: print(type(error).__name__); raise SystemExit
data = os.urandom(1 << 20) * (size >> 20) + b"x" * (size & 0xfffff)
def send():
    try: s.sendall(data); s.shutdown(socket.SHUT_WR)
    except OSError: pass  # whoever reads hears of it
threading.Thread(target=send).start()
try: got = f.read()
except OSError as error: print(type(error).__name__); raise SystemExit
print(seen, hashlib.sha256(got[:size]).digest() == hashlib.sha256(data).digest(), got[size:].decode())
"""


def talk(enter, address, port, size=5):
    return enter(PYTHON, "-c", TALK, address, str(port), str(size)).stdout.strip()


def test_clients_of_the_loopback_are_joined_to_the_workspaces_loopback(workspace, lab):
    space = serving(workspace, lab, ["socket.AF_INET, '127.0.0.1'"])
    size = (64 << 20) + 12345
    assert talk(lab.in_pod, "127.0.0.1", 4000, size) == f"127.0.0.1 True end after {size}"
    assert talk(lab.in_pod, "127.0.0.1", 4000) == "127.0.0.1 True end after 5"
    # By the other family too, to where the server is.
    assert talk(lab.in_pod, "::1", 4000) == "127.0.0.1 True end after 5"
    # Whom the server does not listen to, it does not get.
    assert talk(lab.in_world, POD4, 4000) == "ConnectionRefusedError" and talk(lab.in_pod, POD4, 4000) == "ConnectionRefusedError"
    assert re.search(r"port 4000 is forwarded: http://127\.0\.0\.1:4000, from this machine only, as its server listens on the loopback only", space.stderr)
    assert [(row["outside"], row["state"], row["origin"]) for row in shown(space)] == [
        ("127.0.0.1:4000", "open", "declared"), ("[::1]:4000", "open", "declared")]
    assert [row["clients"] for row in shown(space)] == [2, 1]
    counters = json.loads(space.cli("net flows", "--json").stdout)["counters"]
    assert counters["spliced_bytes"] >= 2 * size and counters["frames_in"] < 1000, "nothing of it went over the link"


@pytest.mark.parametrize("user", [None, USER])
def test_bytes_go_both_ways_through_every_kind_of_forward(workspace, lab, user):
    space = serving(workspace, lab, ["socket.AF_INET, '0.0.0.0'"], forwards='["4010:4000"]', user=user)
    until(lambda: [row["state"] for row in shown(space)] == ["open", "open"], 5, "both")
    size = (3 << 20) + 17
    for _ in range(2):
        for port in (4000, 4010):
            assert talk(lab.in_world, POD4, port, size) == f"{WORLD4} True end after {size}"
            assert talk(lab.in_pod, "127.0.0.1", port, size) == f"127.0.0.1 True end after {size}"
        space.cli("restart", "server")
        until(lambda: talk(lab.in_world, POD4, 4010).startswith(WORLD4) and talk(lab.in_world, POD4, 4000).startswith(WORLD4), 5, "its next life")


def test_many_at_once_and_what_ends_them(workspace, lab):
    space = serving(workspace, lab, ["socket.AF_INET, '0.0.0.0'"])
    code = """
import socket, struct, sys, time
peers = [socket.create_connection(("127.0.0.1", 4000), 5) for _ in range(100)]
for s in peers: assert s.recv(100) == b"127.0.0.1\\n"
for s in peers: s.sendall(b"hello")
for s in peers: assert s.recv(100) == b"hello"
print(len(peers), flush=True)
sys.stdin.readline()
# Some end with a reset, some as is usual.
for n, s in enumerate(peers):
    if n % 2: s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()
"""
    clients = lab.popen_in(lab.pod, [PYTHON, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert clients.stdout.readline() == b"100\n"
    there = json.loads(space.cli("net flows", "--json").stdout)["flows"]
    assert len(there) == 100 and {(row["state"], row["direction"], row["local"], row["unit"]) for row in there} == {("spliced", "in", "127.0.0.1:4000", "server")}
    open_files = len(os.listdir(f"/proc/{space.stage('slirp')}/fd"))
    assert open_files > 600
    clients.communicate(b"go\n", 20)
    until(lambda: not json.loads(space.cli("net flows", "--json").stdout)["flows"], 5, "their end")
    until(lambda: len(os.listdir(f"/proc/{space.stage('slirp')}/fd")) < 60, 5, "their descriptors' end")
    # From elsewhere the same server is reached over the link, and sees who it is.
    assert talk(lab.in_world, POD4, 4000) == f"{WORLD4} True end after 5"
    # A server that dies takes its clients with it.
    victim = lab.popen_in(lab.pod, [PYTHON, "-c", 'import socket; s = socket.create_connection(("127.0.0.1", 4000)); s.recv(100); print("in", flush=True); s.settimeout(10)\ntry: print(s.recv(1))\nexcept OSError as e: print(type(e).__name__)'], stdout=subprocess.PIPE)
    assert victim.stdout.readline() == b"in\n"
    space.cli("stop", "server")
    assert victim.communicate(timeout=15)[0].strip() in (b"b''", b"ConnectionResetError")


def test_a_declared_port_is_open_for_datagrams_while_somebody_waits_for_them(workspace, lab):
    space = serving(workspace, lab, ["socket.AF_INET, '0.0.0.0', socket.SOCK_DGRAM"], ports='[{port: 4000}, {port: "33000-33010"}]')
    assert "port 4000/udp is forwarded" in space.stderr
    echo = f'import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(3); s.connect(("{POD4}", 4000)); s.send(b"ping"); print(s.recv(9))'
    assert lab.in_world(PYTHON, "-c", echo).stdout == "b'ping'\n"
    # A client's port in a declared range is no server's.
    space.exec(PYTHON, "-c", 'import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("0.0.0.0", 33005)); time.sleep(0.5)')
    assert "33005" not in space.stderr
    space.cli("stop", "server")
    until(lambda: "port 4000/udp is closed" in space.stderr, 5, "its end")
    assert "ConnectionRefused" in lab.in_world(PYTHON, "-c", f"try:\n exec({echo!r})\nexcept OSError as e: print(type(e).__name__)").stdout


def test_exclusions_and_an_interface(workspace, lab):
    space = started(workspace, lab, ['"7000-7002,~7001:6000-6002"', '"%eth0:8190:80"', '"127.0.0.1%lo:8191:90"'])
    assert ask(lab.in_world, POD4, 7000) == f"6000/tcp {WORLD4}" and ask(lab.in_world, POD4, 7001) == "ConnectionRefusedError"
    assert ask(lab.in_world, POD4, 8190) == f"80/tcp {WORLD4}" and ask(lab.in_pod, "127.0.0.1", 8190) == "ConnectionRefusedError"
    assert ask(lab.in_pod, "127.0.0.1", 8191) == "90/tcp 127.0.0.1"
    assert {row["outside"] for row in shown(space)} == {"*:7000", "*:7002", "*:8190 by eth0", "127.0.0.1:8191 by lo"}
    table = space.cli("net forwards").stdout
    assert re.search(r"^PROTO +OUTSIDE +INSIDE +STATE +ORIGIN +CLIENTS +LAST$", table, re.M)
    assert re.search(r"^tcp +\*:8190 by eth0 +80 +open +network\.forwards +1 +\d s ago$", table, re.M)


def test_an_interface_that_is_not_there_is_said(workspace, lab):
    space = started(workspace, lab, ['"%nowhere0:8192:80"', '"8193:80"'])
    assert re.search(r"network\.forwards: port 8192 is not forwarded: cannot listen on .*8192 of nowhere0: No such device", space.stderr)
    assert ask(lab.in_world, POD4, 8193) == f"80/tcp {WORLD4}"


def test_declared_ports_that_wait_and_such_that_are_taken_are_shown(workspace, lab):
    holder = lab.popen_in(lab.pod, [PYTHON, "-c", "import socket, time; s = socket.socket(); s.bind(('0.0.0.0', 4001)); s.listen(1); print('ready', flush=True); time.sleep(1000)"], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"ready\n"
    try:
        space = serving(workspace, lab, ["socket.AF_INET, '0.0.0.0'"], ports="[{port: 4001}, {port: 4002}]", forwards='["4003:4001"]', number=4001)
        until(lambda: len(shown(space)) == 3, 5, "all three")
        states = {row["outside"]: (row["state"], row["origin"]) for row in shown(space)}
        assert states == {"*:4001": ("failed: Address already in use", "declared"), "*:4002": ("nothing listens inside", "declared"), "*:4003": ("open", "network.forwards")}
    finally:
        holder.kill()
        holder.wait()
    # And open once it is free.
    until(lambda: {row["outside"]: row["state"] for row in shown(space)}["*:4001"] == "open", 5, "the port")


@pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])
def test_a_client_whose_address_means_something_else_inside_is_the_gateway(workspace, lab, udp):
    """As with a Docker inside, whose bridge has the address of the one outside; and as with a VPN that takes everything."""
    space = started(workspace, lab, ["8080:80", "5300:53/udp"])
    seen = lambda address: address in ask(lab.in_world, POD4, 5300 if udp else 8080, udp=udp).split()
    assert seen(WORLD4)
    space.exec("sh", "-c", f"ip link add bridge type bridge && ip addr add {WORLD4}/24 dev bridge && ip link set bridge up")
    until(lambda: seen("10.0.2.2"), 10, "the gateway's address")
    space.exec("ip", "link", "del", "bridge")
    until(lambda: seen(WORLD4), 10, "its own address")
    space.exec("sh", "-c", "ip link add vpn type veth peer name far && ip link set vpn up && ip route add 0.0.0.0/1 dev vpn && ip route add 128.0.0.0/1 dev vpn")
    until(lambda: seen("10.0.2.2"), 10, "the gateway's address")
    space.exec("ip", "link", "del", "vpn")
    space.exec("ip", "route", "del", "default")
    until(lambda: seen("10.0.2.2"), 10, "the gateway's address")


@pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])
def test_clients_of_one_port_that_are_all_known_by_the_gateway_are_told_apart(workspace, lab, udp):
    """Their addresses mean something else inside, so that only their ports are left; and those are the same."""
    folder = lab.folder / "namesakes"
    folder.mkdir(exist_ok=True)
    (folder / "server.py").write_text(NAMESAKES)
    space = workspace(f"tasks: [{{name: server, command: 'exec {PYTHON} {folder}/server.py'}}]\nworkspacekit: {{network: {{forwards: [4000, 4000/udp]}}}}\n").started()
    until(lambda: "[server] serving" in space.stdout, 10, "the server")
    space.exec("sh", "-c", f"ip link add bridge type bridge && ip addr add {WORLD4}/24 dev bridge && ip link set bridge up")
    time.sleep(1.2)  # for so long the forwarder may believe what was
    code = f"""
import socket
def client(address):
    s = socket.socket(socket.AF_INET, socket.{"SOCK_DGRAM" if udp else "SOCK_STREAM"}); s.settimeout(5)
    s.bind((address, 5600)); s.connect(("{POD4}", 4000)); return s
clients = [client(address) for address in ("{WORLD4}", "198.18.0.10", "198.18.0.11", "198.18.0.12")]
names = []
for round in range(3):
    for number, s in enumerate(clients): s.send(b"%d%d" % (round, number))
    for number, s in enumerate(clients):
        name, said = s.recv(100).decode().rsplit(" ", 1)
        assert said == f"{{round}}{{number}}", (said, round, number)
        names.append(name)
assert len(set(names)) == 4 and names[:4] == names[4:8] == names[8:], names
assert names[0] == "10.0.2.2 5600" and all(name.startswith("10.0.2.2 ") for name in names), names
print("told apart")
"""
    assert lab.in_world(PYTHON, "-c", code).stdout == "told apart\n"


NAMESAKES = """
import socket, threading
def stream(c, peer):
    while data := c.recv(100): c.sendall(f"{peer[0]} {peer[1]} ".encode() + data)
def datagrams():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("0.0.0.0", 4000))
    while True:
        data, peer = s.recvfrom(100); s.sendto(f"{peer[0]} {peer[1]} ".encode() + data, peer)
threading.Thread(target=datagrams, daemon=True).start()
listener = socket.socket(); listener.setsockopt(1, 2, 1); listener.bind(("0.0.0.0", 4000)); listener.listen(64)
print("serving", flush=True)
while True: threading.Thread(target=stream, args=listener.accept(), daemon=True).start()
"""


def states(space):
    return {row["outside"]: row["state"] for row in shown(space)}


def test_what_cannot_be_opened_is_shown_and_tried_again(workspace, lab):
    """An address and an interface that come later, and a port that another process has."""
    holder = lab.popen_in(lab.pod, [PYTHON, "-c", "import socket, time; s = socket.socket(); s.bind(('0.0.0.0', 9500)); s.listen(1); print('ready', flush=True); time.sleep(1000)"], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"ready\n"
    try:
        space = started(workspace, lab, ['"198.18.0.88:9088:80"', '"%wklate0:9444:90"', '"9500:80"', '"198.18.0.88:9053:53/udp"'])
        assert states(space) == {"198.18.0.88:9088": "failed: Cannot assign requested address", "*:9444 by wklate0": "failed: No such device",
                                 "*:9500": "failed: Address already in use", "198.18.0.88:9053": "failed: Cannot assign requested address"}
        lab.in_pod("ip", "addr", "add", "198.18.0.88/32", "dev", "lo")
        lab.in_pod("ip", "link", "add", "wklate0", "type", "veth", "peer", "name", "wklate1")
        holder.kill()
        holder.wait()
        until(lambda: set(states(space).values()) == {"open"}, 15, lambda: states(space))
        assert ask(lab.in_pod, "198.18.0.88", 9088).startswith("80/tcp") and ask(lab.in_world, POD4, 9500) == f"80/tcp {WORLD4}"
        assert ask(lab.in_pod, "198.18.0.88", 9053, udp=True).startswith("53/udp")
        assert "network.forwards: port 9500 is forwarded now" in space.stderr
        # The reason is said once, not each time it is tried.
        assert space.stderr.count("port 9500 is not forwarded") == 1
    finally:
        holder.kill()
        holder.wait()
        lab.in_pod("ip", "addr", "del", "198.18.0.88/32", "dev", "lo", check=False)
        lab.in_pod("ip", "link", "del", "wklate0", check=False)


def test_a_forward_of_an_interface_that_is_made_again_recovers(workspace, lab):
    """Its socket keeps the number of the interface that is gone, and hears nothing of the new one."""
    def make():
        lab.in_pod("ip", "link", "add", "wkgone0", "type", "veth", "peer", "name", "wkgone1", "netns", str(lab.world.pid))
        for enter, last, name in ((lab.in_pod, 1, "wkgone0"), (lab.in_world, 2, "wkgone1")):
            enter("ip", "addr", "add", f"198.18.9.{last}/24", "dev", name)
            enter("ip", "link", "set", name, "up")

    make()
    try:
        space = started(workspace, lab, ['"%wkgone0:8194:80"', '"%wkgone0:8195:53/udp"'])
        assert ask(lab.in_world, "198.18.9.1", 8194) == "80/tcp 198.18.9.2"
        lab.in_pod("ip", "link", "del", "wkgone0")
        until(lambda: set(states(space).values()) == {"failed: No such device"}, 10, lambda: states(space))
        make()
        until(lambda: set(states(space).values()) == {"open"}, 10, lambda: states(space))
        assert ask(lab.in_world, "198.18.9.1", 8194) == "80/tcp 198.18.9.2"
        assert ask(lab.in_world, "198.18.9.1", 8195, udp=True) == "53/udp 198.18.9.2 1"
        # Also when it is there again before anyone looked.
        lab.in_pod("ip", "link", "del", "wkgone0")
        make()
        until(lambda: ask(lab.in_world, "198.18.9.1", 8194) == "80/tcp 198.18.9.2", 10, "the new interface")
    finally:
        lab.in_pod("ip", "link", "del", "wkgone0", check=False)


def test_a_udp_forward_that_an_edit_removes_takes_its_flows_along(workspace, lab):
    """A flow that stayed would be on a descriptor that is closed, or another's by now."""
    space = started(workspace, lab, ['"5354:53/udp"', '"8196:80"'])
    assert ask(lab.in_world, POD4, 5354, udp=True) == f"53/udp {WORLD4} 1"
    inbound = lambda: [flow for flow in json.loads(space.cli("net flows", "--json").stdout)["flows"] if flow["transport"] == "udp" and flow["direction"] == "in"]
    assert inbound()
    (space.folder / ".gitpod.yml").write_text(config(['"8197:80"'], lab.folder / "forwards" / "server.py"))
    until(lambda: ask(lab.in_world, POD4, 8197) == f"80/tcp {WORLD4}", 10, "the edit")
    assert not inbound()


def test_a_reload_opens_no_low_ports_and_no_loopback_that_the_start_did_not_name(workspace, lab):
    """The workspace writes its configuration: it must not take the container's own ports."""
    space = started(workspace, lab, ['"180:80"', '"127.0.0.1:8198:80"'])
    server = lab.folder / "forwards" / "server.py"
    (space.folder / ".gitpod.yml").write_text(config(['"180:90"', '"122:80"', '"127.0.0.1:8199:80"', '"[::1]:8199:80"', '"%lo:8200:80"', '"127.9.9.9:8198:80"', '"8201:80"'], server)
                                              + "ports: [{port: 90}, {port: 6000}]\n")
    until(lambda: ask(lab.in_world, POD4, 8201) == f"80/tcp {WORLD4}", 10, "the edit")
    # What the start named may change its target.
    until(lambda: ask(lab.in_world, POD4, 180) == f"90/tcp {WORLD4}", 10, "the low port of the start")
    until(lambda: ask(lab.in_world, POD4, 6000) == f"6000/tcp {WORLD4}", 10, "the declared port")
    refused = {"*:122", "127.0.0.1:8199", "[::1]:8199", "*:8200 by lo", "127.9.9.9:8198"}
    assert {place for place, state in states(space).items() if state == "failed: Operation not permitted"} == refused, states(space)
    for port in (90, 122, 8200):
        assert ask(lab.in_world, POD4, port) == "ConnectionRefusedError", port
    assert ask(lab.in_pod, "127.0.0.1", 8199) == "ConnectionRefusedError" and ask(lab.in_pod, "127.9.9.9", 8198) == "ConnectionRefusedError"
    assert "port 90 is not forwarded: a reload opens ports below 1024 only" in space.stderr
    assert "network.forwards: port 122 is not forwarded: a reload opens" in space.stderr


def test_a_reload_opens_no_loopback_for_a_server_of_the_loopback(workspace, lab):
    server = f"exec {PYTHON} -c \"import socket, time; s = socket.socket(); s.bind(('127.0.0.1', 5432)); s.listen(1); print('serving', flush=True); time.sleep(1000)\""
    text = f"tasks: [{{name: server, command: {json.dumps(server)}}}]\n"
    space = workspace(text).started()
    until(lambda: "[server] serving" in space.stdout, 10, "the server")
    (space.folder / ".gitpod.yml").write_text(text + "ports: [{port: 5432}]\n")
    until(lambda: "port 5432 is not forwarded: its server listens on the loopback only" in space.stderr, 10, lambda: space.stderr)
    assert ask(lab.in_pod, "127.0.0.1", 5432) == "ConnectionRefusedError"
