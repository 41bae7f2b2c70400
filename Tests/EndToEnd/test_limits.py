"""What a workspace can take of the forwarder: at a limit new flows are refused at once, idle datagrams' flows give way, and
nothing else suffers. The process may open 400 files here, which makes 336 flows, 168 unanswered connections, and of these
252 and 42 for one destination."""

import json
import subprocess

import pytest

from conftest import POD4, PYTHON, WORLD4, until
from test_name_servers import resolver, servers  # noqa: F401 (fixtures)

TOTAL, OF_ONE, PENDING_OF_ONE = 336, 252, 42


@pytest.fixture
def space(workspace):
    return workspace("", through=["prlimit", "--nofile=400:400"]).started()


def inside(space, code):
    result = space.exec(PYTHON, "-c", "import errno, select, socket, sys, time\n" + code, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def flows(space):
    return json.loads(space.cli("net flows", "--json").stdout)


DATAGRAMS = f"""
def ask(s, text=b"x"):
    s.settimeout(3)
    s.sendto(text, ("{WORLD4}", 7))
    try: return s.recv(100) == text
    except OSError as error: return type(error).__name__
"""


def test_the_least_recently_used_datagram_flow_gives_way(space):
    found = inside(space, DATAGRAMS + f"""
def speak(s):
    return ask(s) is True
kept = socket.create_connection(("{WORLD4}", 7), 3)
sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range({TOTAL} - 1)]
first = [speak(s) for s in sockets]
time.sleep(1.2)
again = [speak(s) for s in sockets[:100]]
# Room for as many as are idle: those that spoke just now stay.
gone = [s.getsockname()[1] for s in sockets[100:250]]
for s in sockets[100:250]: s.close()
more = []
while len(more) < 150:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("", 20000 + len(more))); more.append(s)
later = [speak(s) for s in more]
ports = [s.getsockname()[1] for s in sockets[:100] + more], gone
kept.sendall(b"still here")
import json; print(json.dumps([all(first), all(again), all(later), ports, kept.recv(100).decode()]))
""")
    assert found[0] and found[1] and found[2] and found[4] == "still here"
    stayed, gone = found[3]
    there = {int(flow["local"].rpartition(":")[2]) for flow in flows(space)["flows"] if flow["transport"] == "udp"}
    assert set(stayed) <= there, "who spoke last is there"
    assert not there & set(gone), "the oldest have given way, and no others"


def test_when_all_are_in_use_new_ones_are_refused_at_once_and_room_is_used_again(space):
    found = inside(space, f"""
import json
import subprocess
held = []
for address in ("{WORLD4}", "198.18.0.10"):
    while True:
        s = socket.socket(); s.settimeout(3)
        begin = time.monotonic()
        try: s.connect((address, 7))
        except OSError as error:
            refused = type(error).__name__, time.monotonic() - begin
            break
        held.append(s)
        if len(held) > 1000: break
    held.append((address, len(held), *refused))
sockets = [s for s in held if isinstance(s, socket.socket)]
alive = 0
for s in sockets:
    s.sendall(b"alive"); alive += s.recv(10) == b"alive"
for s in sockets[:50]: s.close()
time.sleep(0.5)
after = 0
for _ in range(50):
    s = socket.create_connection(("{WORLD4}", 7), 3); sockets.append(s); after += 1
print(json.dumps([[h for h in held if isinstance(h, tuple)], alive, after]))
""")
    (first, second), alive, after = found
    assert first[1] == OF_ONE and first[2] == "ConnectionRefusedError" and first[3] < 1, "one destination leaves room for others"
    assert second[1] - 1 == TOTAL and second[2] == "ConnectionRefusedError" and second[3] < 1
    assert alive == TOTAL and after == 50
    until(lambda: not flows(space)["flows"], 5, "the end of all of them")
    assert flows(space)["counters"]["refused_by_limit"] >= 2


def test_unanswered_connections_to_one_destination_leave_others_alone(space, lab):
    # A host that swallows what it is sent.
    lab.in_world("nft", "-f", "-", input='table inet swallow { chain in { type filter hook input priority -300; ip daddr 198.18.0.11 tcp dport 7 drop; }; }')
    try:
        found = inside(space, f"""
import json
import subprocess
waiting = []
for _ in range(100):
    s = socket.socket(); s.setblocking(False); s.connect_ex(("198.18.0.11", 7)); waiting.append(s)
time.sleep(1)
refused = sum(s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED for s in waiting)
others = 0
for _ in range(60):
    s = socket.create_connection(("{WORLD4}", 7), 3); s.sendall(b"x"); others += s.recv(1) == b"x"
print(json.dumps([len(waiting) - refused, others]))
""")
        assert found == [PENDING_OF_ONE, 60]
    finally:
        lab.in_world("nft", "delete", "table", "inet", "swallow")
    # Those that were given up count no longer.
    until(lambda: not flows(space)["flows"], 5, "their end")
    assert inside(space, f"import json; print(json.dumps(sum(1 for _ in range(60) if socket.create_connection(('198.18.0.11', 7), 3))))") == 60


CLIENTS, CLIENTS_OF_ONE, SPLICE = TOTAL // 2, TOTAL // 2 * 3 // 4, 6

# TCP: greets, and says what it is told; UDP: says what it is told.


def test_connections_that_are_refused_take_nothing(space):
    """However many there were, one after the other."""
    found = inside(space, f"""
import json
refused = 0
for _ in range({TOTAL} // 2 + 20):
    try: socket.create_connection(("{WORLD4}", 9), 5)
    except ConnectionRefusedError: refused += 1
with socket.create_connection(("{WORLD4}", 7), 5) as s: s.sendall(b"x"); answer = s.recv(1).decode()
print(json.dumps([refused, answer]))
""")
    assert found == [TOTAL // 2 + 20, "x"]


def test_a_name_server_that_another_takes_the_place_of_takes_nothing(workspace, lab, servers):
    """The first server's connection is closed when the next one is asked: it counts no longer, however often."""
    servers({"198.18.0.10": "answer tcp=absent", "198.18.0.11": "answer"})
    space = workspace("", through=["prlimit", "--nofile=400:400"]).started()
    query = b"\1\2\1\0\0\1\0\0\0\0\0\0\1a\4test\0\0\1\0\1"
    found = inside(space, f"""
import json
answered = 0
for _ in range({PENDING_OF_ONE} + 20):
    with socket.create_connection(("10.0.2.3", 53), 5) as s:
        s.sendall(len({query}).to_bytes(2, "big") + {query})
        answered += s.makefile("rb").read(2) != b""
print(json.dumps(answered))
""")
    assert found == PENDING_OF_ONE + 20


SERVER = """
import selectors, socket
poll = selectors.DefaultSelector()
tcp, udp = socket.socket(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for s in (tcp, udp): s.setsockopt(1, 2, 1); s.bind(("0.0.0.0", 8090)); poll.register(s, selectors.EVENT_READ)
tcp.listen(1024); print("serving", flush=True)
while True:
    for key, _ in poll.select():
        s = key.fileobj
        if s is udp: data, peer = s.recvfrom(2048); s.sendto(data, peer)
        elif s is tcp: c, _ = s.accept(); c.sendall(b"+"); poll.register(c, selectors.EVENT_READ)
        else:
            try: data = s.recv(2048)
            except OSError: data = b""
            if data: s.sendall(data)
            else: poll.unregister(s); s.close()
"""

# Clients of each address until one is refused, 400 at most; a line of JSON says how many were served. They stay until the end of
# stdin.
CLIENTS_OUTSIDE = """
import json, socket, sys
held, counts, refusals = [], [], []
for address in sys.argv[2:]:
    count = 0
    while count < 400:
        s = socket.socket(); s.settimeout(10); s.bind((address, 0))
        try:
            s.connect((sys.argv[1], 8090))
            if s.recv(1) != b"+": raise ConnectionError
        except OSError as error: refusals.append(type(error).__name__); break
        held.append(s); count += 1
    counts.append(count)
def serves(s): s.sendall(b"still here"); return s.recv(100) == b"still here"
print(json.dumps([counts, refusals]), flush=True)
sys.stdin.readline()
print(json.dumps(all(serves(s) for s in held)), flush=True)
sys.stdin.readline()
"""

OUTBOUND = f"""
import json
import subprocess
def answered():
    with socket.create_connection(("{WORLD4}", 7), 5) as s: s.sendall(b"x"); return s.recv(1) == b"x"
print(json.dumps([answered() for _ in range(100)].count(True)))
"""


@pytest.mark.parametrize("place", ["world", "loopback"])
def test_clients_from_outside_leave_room_for_what_the_workspace_connects_to(workspace, lab, place):
    path = lab.folder / "limits-server.py"
    path.write_text(SERVER)
    space = workspace(f"ports: [{{port: 8090}}]\ntasks: [{{name: server, command: 'exec {PYTHON} {path}'}}]\n",
                      through=["prlimit", "--nofile=400:400"]).started()
    until(lambda: "port 8090 is forwarded" in space.stderr, 10, "the forwarded port")
    where, host, addresses = (lab.world, POD4, [WORLD4, "198.18.0.10"]) if place == "world" else (lab.pod, "127.0.0.1", ["127.0.0.1", "127.0.0.2"])
    for _ in range(2):
        clients = lab.popen_in(where, [PYTHON, "-c", CLIENTS_OUTSIDE, host, *addresses], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            counts, refusals = json.loads(clients.stdout.readline())
            one, other = CLIENTS_OF_ONE, CLIENTS - CLIENTS_OF_ONE
            if place == "loopback":
                one //= SPLICE
                other = (CLIENTS - one * SPLICE) // SPLICE
            assert counts == [one, other] and set(refusals) <= {"ConnectionResetError", "BrokenPipeError"}
            assert inside(space, OUTBOUND) == 100, "what the workspace connects to itself"
            clients.stdin.write("\n")
            clients.stdin.flush()
            assert json.loads(clients.stdout.readline()) is True, "those that were let in are served"
        finally:
            clients.stdin.close()
            clients.wait(10)
        until(lambda: not flows(space)["flows"], 10, "the end of all of them")
    assert flows(space)["counters"]["refused_by_limit"] >= 4


def test_clients_of_a_datagram_forward_are_bounded_too(workspace, lab):
    path = lab.folder / "limits-server.py"
    path.write_text(SERVER)
    space = workspace(f"tasks: [{{name: server, command: 'exec {PYTHON} {path}'}}]\nworkspacekit: {{network: {{forwards: [\"8090:8090/udp\"]}}}}\n",
                      through=["prlimit", "--nofile=400:400"]).started()
    until(lambda: [row["state"] for row in json.loads(space.cli("net forwards", "--json").stdout)] == ["open"], 10, "the forward")
    code = f"""
import json, socket, time
sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range({CLIENTS_OF_ONE} + 20)]
def ask(s, seconds):
    s.settimeout(seconds); s.sendto(b"x", ("{POD4}", 8090))
    try: return s.recv(100) == b"x"
    except OSError: return False
first = [ask(s, 5) for s in sockets[:{CLIENTS_OF_ONE}]]
print(json.dumps(all(first)), flush=True)
# Those that said nothing for a second give way.
deadline = time.monotonic() + 30
last = sockets[-1]
while not ask(last, 0.3) and time.monotonic() < deadline: pass
print(json.dumps(ask(last, 5)))
"""
    result = lab.in_world(PYTHON, "-c", code).stdout.split()
    assert result == ["true", "true"]
    assert inside(space, OUTBOUND) == 100
    inbound = [flow for flow in flows(space)["flows"] if flow["transport"] == "udp"]
    assert 0 < len(inbound) <= CLIENTS_OF_ONE


def test_ports_of_ended_connections_serve_others_after_a_second(workspace):
    """Else many short connections to one endpoint search the workspace's ports for long, and find none in the end."""
    space = workspace("tasks: [{command: exec sleep 1000}]\n").started()
    space.exec("sh", "-c", "echo '40000 40099' >/proc/sys/net/ipv4/ip_local_port_range")
    shown = space.exec(PYTHON, "-c", f"""
import socket, time
def connect(count):
    done = 0
    for _ in range(count):
        with socket.socket() as s:
            s.settimeout(10)
            try:
                s.connect(("{WORLD4}", 7)); s.sendall(b"x"); done += s.recv(1) == b"x"
                s.shutdown(socket.SHUT_WR); s.recv(1)
            except OSError as error:
                print(error)
                break
    return done
first = connect(100)
time.sleep(2.2)
print(first, connect(90))
""").stdout
    assert shown == "100 90\n", shown
