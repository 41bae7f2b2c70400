"""Where the workspace may connect to: by networks, ports, protocols and names."""

import json
import os
import re
import signal
import subprocess
import time

import pytest

from conftest import BINARY, POD4, PYTHON, USER, WORLD4, WORLD6, until
from test_net import flows, net

CONFIG = """
tasks: [{name: shell, command: exec sleep 1000}]
workspacekit:
  network:
    egress:
      default: deny
      allow:
        - "*.allowed.test:8000/tcp"
        - "Exact.test."
        - 198.18.0.11:7
        - "[fd18::10]:8000-8001/tcp"
        - 198.18.0.11/icmp
        - 169.254.169.254:8000
        - "*.both.test"
      deny: ["198.18.0.10:7/udp", "*.never.allowed.test"]
"""
TRY = """
import socket, sys, time
transport, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
started = time.monotonic()
try:
    kind = socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM
    family, _, _, _, address = socket.getaddrinfo(host, port, type=kind)[0]
    s = socket.socket(family, kind); s.settimeout(3); s.connect(address)
    s.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n"); print("ok" if s.recv(1000) else "nothing")
except OSError as error:
    print(type(error).__name__ if isinstance(error, socket.gaierror) else error.strerror or "timed out")
assert time.monotonic() - started < 2.5, "not at once"
"""
OK, REFUSED, PROHIBITED = "ok", "Connection refused", "No route to host"


def attempt(space, transport, host, port):
    return space.exec(PYTHON, "-c", TRY, transport, host, str(port)).stdout.strip()


def dig(space, name, *options):
    return space.exec("dig", "+time=2", "+tries=1", "@10.0.2.3", name, *options, check=False).stdout


def rules(space):
    return {(row["action"], row["rule"]): row for row in json.loads(net(space, "rules", "--json").stdout)}


def asked(lab):
    return lab.in_world(PYTHON, "-c", "import socket; print(socket.create_connection(('127.0.0.1', 9004)).makefile().read())").stdout.split()


@pytest.fixture
def space(workspace):
    return workspace(CONFIG).started()


def test_a_name_means_what_was_looked_up(space):
    assert attempt(space, "tcp", "198.18.0.10", 8000) == REFUSED, "nobody has looked it up"
    assert attempt(space, "tcp", "at-198-18-0-10.allowed.test", 8000) == OK
    assert attempt(space, "tcp", "198.18.0.10", 8000) == OK, "now it has been"
    assert attempt(space, "tcp", "198.18.0.10", 7) == REFUSED, "another port"
    assert attempt(space, "udp", "198.18.0.10", 8000) == PROHIBITED, "another protocol"
    assert attempt(space, "tcp", "198.18.0.12", 8000) == REFUSED, "another address"
    # An alias leads to the name that was asked for; a name is the same in capitals and with its dot.
    assert attempt(space, "tcp", "alias.at-198-18-0-12.allowed.test", 8000) == OK
    assert attempt(space, "tcp", "EXACT.test", 7) == OK and attempt(space, "udp", WORLD4, 7) == OK
    flow = subprocess.Popen([*space.lab.enter(space.lab.pod), *space.prefix, BINARY, "exec", "--state-dir", str(space.state), "--", PYTHON, "-c",
                             "import socket, time; s = socket.create_connection(('exact.test', 7)); print('up', flush=True); time.sleep(1000)"],
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=space.environment)
    try:
        assert flow.stdout.readline() == b"up\n"
        assert any(row.get("rule") == "exact.test" and row["remote"].endswith(":7") for row in flows(space)["flows"])
    finally:
        flow.terminate()
        flow.wait()


def test_networks_ports_and_protocols(space):
    assert attempt(space, "tcp", "198.18.0.11", 7) == OK and attempt(space, "udp", "198.18.0.11", 7) == OK
    assert attempt(space, "tcp", "198.18.0.11", 8000) == REFUSED
    assert attempt(space, "tcp", "fd18::10", 8000) == OK
    assert attempt(space, "tcp", "fd18::10", 7) == REFUSED and attempt(space, "tcp", WORLD6, 8000) == REFUSED
    assert attempt(space, "udp", WORLD6, 7) in ("Permission denied", PROHIBITED)
    # IPv4 in an IPv6 spelling is judged as what it is.
    assert attempt(space, "tcp", "64:ff9b::198.18.0.11", 8000) == REFUSED
    ping = lambda host: space.exec("ping", "-n", "-c", "1", "-W", "2", host, check=False).stdout
    assert "1 received" in ping("198.18.0.11") and "Packet filtered" in ping("198.18.0.10")
    # An address that is denied unless asked for by itself.
    assert attempt(space, "tcp", "169.254.169.254", 8000) == OK and attempt(space, "tcp", "169.254.169.254", 7) == REFUSED
    # What denies comes first.
    attempt(space, "tcp", "at-198-18-0-10.both.test", 7)
    assert attempt(space, "tcp", "198.18.0.10", 7) == OK and attempt(space, "udp", "198.18.0.10", 7) == PROHIBITED


def test_names_that_no_rule_allows_are_not_looked_up(space, lab):
    assert "ANSWER: 1" in dig(space, "www.allowed.test") and "ANSWER: 1" in dig(space, "www.allowed.test", "+tcp")
    refused = dig(space, "secret-data.exfiltrated.test")
    assert "status: REFUSED" in refused and "no rule of network.egress allows the name" in refused
    assert "status: REFUSED" in dig(space, "secret-data.allowed.test.exfiltrated.test", "TXT", "+noedns")
    assert "status: REFUSED" in dig(space, "secret-data.never.allowed.test")
    assert "status: REFUSED" in dig(space, "secret-datatest")
    assert "ANSWER" not in dig(space, "secret-data.exfiltrated.test", "+tcp")
    # A resolver that tries its search domains goes on only where there is no such name.
    assert "status: NXDOMAIN" in dig(space, "secret-data.example.test")
    assert space.exec(PYTHON, "-c", "import socket; print(socket.gethostbyname('exact.test'))", check=False).stdout.strip() == WORLD4
    assert not [name for name in asked(lab) if "secret" in name]
    assert "www.allowed.test" in asked(lab)


def test_of_several_search_lines_the_last_one_counts(workspace, lab):
    """As for resolvers (resolv.conf(5)): names in its domains do not exist, so that the next domain is tried; others are refused."""
    etc = lab.folder / "etc"
    try:
        (etc / "resolv.conf").write_text(f"nameserver {WORLD4}\nsearch first.test\nsearch second.test third.test\n")
        space = workspace(CONFIG, user=USER).started()  # who cannot write the file outside: it is followed
        status = lambda name: re.search(r"status: (\w+)", dig(space, name)).group(1)
        assert [status(f"www.{name}.test") for name in ("first", "second", "third")] == ["REFUSED", "NXDOMAIN", "NXDOMAIN"]
        (etc / "resolv.conf").write_text(f"nameserver {WORLD4}\nsearch fourth.test\n")
        until(lambda: status("www.fourth.test") == "NXDOMAIN", 10, "the other domain")
        assert status("www.second.test") == "REFUSED"
    finally:
        (etc / "resolv.conf").write_text(f"nameserver {WORLD4}\nsearch example.test\n")


def test_a_look_up_in_pieces_over_tcp_is_seen_whole(space, lab):
    script = f"""
import socket, struct, time
def query(name):
    body = bytes([7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]) + b"".join(bytes([len(l)]) + l.encode() for l in name.split(".")) + b"\\0\\0\\1\\0\\1"
    return struct.pack(">H", len(body)) + body
def ask(pieces, names):
    s = socket.create_connection(("10.0.2.3", 53)); s.settimeout(2); s.setsockopt(6, 1, 1)
    data = b"".join(map(query, names))
    try:
        for start in range(0, len(data), pieces):
            s.sendall(data[start:start + pieces]); time.sleep(0.002)
        return len(s.recv(1000))
    except OSError as error:
        return error.strerror
print(ask(1, ["at-198-18-0-12.allowed.test"]) > 40, ask(3, ["tell-me.hidden.test"]), ask(1000, ["ok.allowed.test", "tell-me.hidden.test"]))
print(ask(5, ["tell-me.hidden.test"]), socket.create_connection(("198.18.0.12", 8000), 2) and "reached")
"""
    lines = space.exec(PYTHON, "-c", script).stdout.splitlines()
    assert lines == ["True Connection reset by peer Connection reset by peer", "Connection reset by peer reached"]
    assert not [name for name in asked(lab) if "hidden" in name]


def test_an_answer_holds_for_its_lifetime(space):
    assert attempt(space, "tcp", "at-198-18-0-12.ttl1.allowed.test", 8000) == OK
    looked_up = time.monotonic()
    until(lambda: attempt(space, "tcp", "198.18.0.12", 8000) == REFUSED, 15, "the end of the answer's lifetime")
    assert time.monotonic() - looked_up > 3, "no client is that quick"


def test_datagrams_go_on_while_they_flow(space):
    script = """
import socket, time
s = socket.socket(2, 2); s.settimeout(2); s.connect(("at-198-18-0-11.ttl1.both.test", 7))
end = time.monotonic() + 7
while time.monotonic() < end:
    s.send(b"x"); s.recv(9); time.sleep(0.2)
print("went on")
"""
    assert space.exec(PYTHON, "-c", script).stdout == "went on\n"


def test_only_who_was_pinged_answers(space, lab):
    """A host that the rules do not name answers a ping of another one: it must not be heard."""
    forger = lab.popen_in(lab.world, [PYTHON, "-c", f"""
import socket
hear, say = (socket.socket(socket.AF_INET, socket.SOCK_RAW, 1) for _ in range(2))
hear.settimeout(20); say.bind(("198.18.0.10", 0)); print("ready", flush=True)
while True:
    packet = hear.recv(2000)
    if packet[16:20] != bytes([198, 18, 0, 11]) or packet[20] != 8: continue
    reply = bytearray(packet[20:]); reply[0] = 0; reply[2:4] = bytes(2)
    total = sum(int.from_bytes(reply[n:n + 2], "big") for n in range(0, len(reply), 2))
    total = (total & 0xffff) + (total >> 16); total = ~((total & 0xffff) + (total >> 16)) & 0xffff
    reply[2:4] = total.to_bytes(2, "big")
    say.sendto(bytes(reply), ("{POD4}", 0)); print("sent", flush=True)
"""], stdout=subprocess.PIPE, text=True)
    try:
        assert forger.stdout.readline() == "ready\n"
        result = space.exec("sh", "-c", f"""{PYTHON} -c '
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 1); s.settimeout(0.1)
deadline = time.monotonic() + 2.5
while time.monotonic() < deadline:
    try: packet, peer = s.recvfrom(2000)
    except TimeoutError: continue
    if packet[20] == 0: print(peer[0])
' & ping -c 3 -i 0.3 -s 56 -W 2 198.18.0.11 >/dev/null; wait""")
        assert forger.stdout.readline() == "sent\n", "the false answer"
        assert set(result.stdout.split()) == {"198.18.0.11"}, result.stdout
    finally:
        forger.kill()
        forger.wait()


def test_denials_are_told_and_counted(space):
    before = rules(space)
    attempt(space, "tcp", "198.18.0.12", 81)
    attempt(space, "udp", "198.18.0.10", 7)
    attempt(space, "tcp", "10.0.2.2", 5432)
    dig(space, "a.hidden.test")
    dig(space, "b.never.allowed.test")
    assert attempt(space, "tcp", "at-198-18-0-10.allowed.test", 8000) == OK
    attempt(space, "tcp", "198.18.0.10", 82)
    after = rules(space)
    grown = lambda action, rule: after[action, rule]["flows"] - before[action, rule]["flows"]
    assert grown("deny", "everything else") == 2 and grown("deny", "198.18.0.10:7/udp") == 1
    assert grown("deny", "other ports of the container's loopback") == 1
    assert grown("deny", "look-ups of other names") == 1 and grown("deny", "*.never.allowed.test") == 1
    assert grown("allow", "*.allowed.test:8000/tcp") == 1 and after["allow", "*.allowed.test:8000/tcp"]["lastSecondsAgo"] < 60
    table = net(space, "rules").stdout.splitlines()
    assert table[0].split() == ["ACTION", "RULE", "FLOWS", "LAST"] and table[-1].startswith("deny") and "everything else" in table[-1]
    told = [line for line in space.stderr.splitlines() if "workspacekit: denied" in line]
    for text in ("tcp from 10.0.2.100:", "to 198.18.0.12:81: no rule of network.egress allows it", "198.18.0.10:7: network.egress denies 198.18.0.10:7/udp",
                 "10.0.2.2:5432: network.hostLoopback does not name this port", "the look-up of a.hidden.test: no rule", "198.18.0.10:82 (at-198-18-0-10.allowed.test)"):
        assert any(text in line for line in told), text
    events = [json.loads(line) for line in space.cli("events", "--json").stdout.splitlines()]
    denied = [event for event in events if event["event"] == "denied"]
    assert len(denied) == len(told) and all(event["kind"] == "network" for event in denied)
    assert "network denied (the look-up of a.hidden.test" in space.cli("events").stdout


def test_a_flood_of_denials_is_told_in_few_lines(space):
    flood = f"import socket\nfor port in range(10000, 10400): socket.socket().connect_ex(('198.18.0.12', port))\ns = socket.socket(2, 2)\nfor _ in range(200): s.sendto(b'x', ('198.18.0.12', 9))"
    before = rules(space)["deny", "everything else"]["flows"]
    space.exec(PYTHON, "-c", flood)
    assert rules(space)["deny", "everything else"]["flows"] - before == 401, "each flow once"
    lines = lambda: [line for line in space.stderr.splitlines() if "workspacekit: denied" in line]
    assert 20 <= len(lines()) <= 40
    def left_out():
        space.exec(PYTHON, "-c", "import socket; socket.socket().connect_ex(('198.18.0.12', 1))")
        return any("before it that were not told" in line for line in lines())
    until(left_out, 10, "word of what was left out")


def test_whoever_edits_the_configuration_gets_no_further(space):
    file = space.folder / ".gitpod.yml"
    file.write_text(CONFIG.replace("default: deny", "default: allow").replace("exec sleep 1000", "exec sleep 1001"))
    reloaded = lambda: next((e["reason"] for e in map(json.loads, space.cli("events", "--json").stdout.splitlines()) if e["event"] == "reloaded"), None)
    assert "workspacekit.network" in until(reloaded, 10, "the edit")
    assert attempt(space, "tcp", "198.18.0.12", 8000) == REFUSED


def test_allowed_by_default(workspace, lab):
    space = workspace("""
tasks: [{name: shell, command: exec sleep 1000}]
workspacekit: {network: {egress: {deny: ["198.18.0.10/31:8000", "*.denied.test", "at-198-18-0-12.half.test:7", "[fd18::10]"]}}}
""").started()
    assert attempt(space, "tcp", WORLD4, 8000) == OK and attempt(space, "tcp", "198.18.0.10", 7) == OK
    assert attempt(space, "tcp", "198.18.0.11", 8000) == REFUSED and attempt(space, "tcp", "fd18::10", 7) == REFUSED
    assert attempt(space, "tcp", "www.denied.test.", 7) == "gaierror" and attempt(space, "tcp", "denied.test", 7) == OK
    assert attempt(space, "tcp", "198.18.0.12", 7) == OK
    assert attempt(space, "tcp", "at-198-18-0-12.half.test", 8000) == OK and attempt(space, "tcp", "198.18.0.12", 7) == REFUSED
    assert "www.denied.test" not in asked(lab)
    # The forwarder that comes after it enforces the same.
    os.kill(space.stage("slirp"), signal.SIGKILL)
    until(lambda: attempt(space, "tcp", WORLD4, 8000) == OK, 10, "another forwarder")
    assert attempt(space, "tcp", "198.18.0.11", 8000) == REFUSED


def test_what_cannot_be_enforced_is_an_error(workspace):
    for config, arguments in (("workspacekit: {network: {mode: host, egress: {default: deny}}}", ()), ("experimentalNetwork: false\nworkspacekit: {network: {egress: {deny: [10.0.0.0/8]}}}", ()),
                              ("workspacekit: {network: {egress: {default: deny}}}", ("--network", "host"))):
        space = workspace(config, arguments=arguments)
        assert space.wait() == 78 and "cannot be enforced" in space.stderr
    many = ", ".join(f"10.{i // 250}.{i % 250}.0/24" for i in range(401))
    space = workspace(f"workspacekit: {{network: {{egress: {{deny: [{many}]}}}}}}")
    assert space.wait() == 78 and "401 rules; at most 400 are possible" in space.stderr
    # As many as are possible, and long ones.
    names = ", ".join(f'"{i:03}{"x" * 57}.{"y" * 60}.{"z" * 60}.example.test:1-65535/tcp"' for i in range(400))
    space = workspace(f"tasks: [{{name: a, command: exec sleep 100}}]\nworkspacekit: {{network: {{egress: {{deny: [{names}]}}}}}}").started()
    assert len(rules(space)) == 405 and attempt(space, "tcp", WORLD4, 7) == OK


RECEIVE = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(20); s.bind(("", 4567))
s.sendto(b"question", ("198.18.0.10", 7)); print(s.recv(100).decode(), flush=True)
sys.stdin.readline()
print(s.recv(100).decode(), flush=True)
"""
SEND = """
import socket, sys
for source, text in (("198.18.0.12", b"denied"), ("198.18.0.10", b"expected")):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((source, 0)); s.sendto(text, ("198.18.0.2", int(sys.argv[1])))
"""


@pytest.mark.parametrize("egress,second", [
    ("{default: deny, allow: ['198.18.0.10:7/udp']}", "expected"),
    ("{default: allow, deny: [198.18.0.12]}", "expected"),
    ("{default: allow, deny: [198.18.0.11]}", "denied"),
])
def test_only_who_was_sent_to_answers_a_datagram(workspace, lab, egress, second):
    """A port that the workspace has opened by sending to one host is open to no other that it might not send to (RFC 4787, 5)."""
    space = workspace(f"workspacekit: {{network: {{egress: {egress}}}}}\n").started()
    process = subprocess.Popen(
        [*lab.enter(lab.pod), *space.prefix, BINARY, "exec", "--state-dir", str(space.state), "--", PYTHON, "-c", RECEIVE],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=space.environment)
    try:
        assert process.stdout.readline() == "question\n"
        # The forwarder's socket, by the only port of UDP that is in use there and not connected.
        ports = [line.split()[3].rsplit(":", 1)[1] for line in lab.in_pod("ss", "-Huna").stdout.splitlines()]
        assert len(ports) == 1, ports
        lab.in_world(PYTHON, "-c", SEND, ports[0])
        print("", file=process.stdin, flush=True)
        assert process.stdout.readline() == second + "\n"
    finally:
        process.kill()
        process.wait()


def test_a_rule_for_a_part_of_the_link_local_network_means_it(workspace):
    config = "workspacekit: {network: {egress: {default: deny, allow: [%s]}}}\n"
    for rule, reached in (("169.254.169.0/24", True), ("169.254.0.0/16", True), ("169.0.0.0/8", False), ("'*'", False)):
        space = workspace(config % rule).started()
        assert attempt(space, "tcp", "169.254.169.254", 8000) == (OK if reached else REFUSED), rule
        space.stop()
