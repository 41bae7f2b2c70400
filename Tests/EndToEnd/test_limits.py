"""What a workspace can take of the forwarder: at a limit new flows are refused at once, idle datagrams' flows give way, and
nothing else suffers. The process may open 400 files here, which makes 336 flows, 168 unanswered connections, and of these
252 and 42 for one destination."""

import json

import pytest

from conftest import PYTHON, WORLD4, until

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
