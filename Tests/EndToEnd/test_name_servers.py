"""The name server's address: which servers outside are asked, whose answers count, and what becomes of a query."""

import json
import os
import subprocess
import time

import pytest

from conftest import HERE, PYTHON, WORLD4, WORLD6, until
from test_net import flows

FIRST, SECOND, OTHER = "198.18.0.10", "198.18.0.11", "198.18.0.12"


@pytest.fixture
def resolver(lab):
    """Replaces the pod's resolv.conf, by rename; afterwards it is as before."""
    def replace(text):
        (lab.folder / "etc" / "resolv.new").write_text(text)
        os.rename(lab.folder / "etc" / "resolv.new", lab.folder / "etc" / "resolv.conf")
    yield replace
    replace(f"nameserver {WORLD4}\nsearch example.test\n")


@pytest.fixture
def servers(lab, resolver):
    """Starts name servers of the world, each by its address and words, and names them in this order."""
    made = []

    def start(plan, names=None):
        for address, words in plan.items():
            output = lab.folder / f"names-{address.replace(':', '-')}"
            with open(output, "wb") as file:
                process = lab.popen_in(lab.world, [PYTHON, str(HERE / "name_server.py"), address, *words.split()], stdout=file)
            made.append((address, process, output))
            until(lambda: b"ready" in output.read_bytes(), 10, f"the name server at {address}")
        resolver("".join(f"nameserver {name}\n" for name in names or plan))
    yield start
    for _, process, _ in made:
        process.kill()
        process.wait()


def asked(lab, address, transport="udp"):
    """The names that a server was asked for."""
    lines = (lab.folder / f"names-{address.replace(':', '-')}").read_text().splitlines()
    return [line.split()[1] for line in lines if line.startswith(transport)]


def dig(space, name, *options):
    return space.exec("dig", "+short", "+time=9", "+tries=1", "@10.0.2.3", name, *options, check=False).stdout.split()


def test_two_queries_from_one_port_are_two_queries(workspace, servers, lab):
    """A resolver sends A and AAAA at once from one port (glibc): the second is not the first one again. (slirp4netns 347)"""
    servers({FIRST: "answer delay=20", SECOND: "empty delay=20"})
    space = workspace("").started()
    for turn in range(5):
        found = space.exec("getent", "ahosts", f"host{turn}.test").stdout
        assert WORLD4 in found and WORLD6 in found
    assert sorted(asked(lab, FIRST)) == sorted([f"host{turn}.test" for turn in range(5)] * 2)
    assert asked(lab, SECOND) == [], "the first server has answered everything"


@pytest.mark.parametrize("word", ["refuse", "fail", "unable"])
@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
def test_a_server_that_refuses_is_followed_by_the_next(workspace, servers, lab, word, transport):
    """As resolvers do on SERVFAIL, NOTIMP and REFUSED (resolv.conf(5) with several servers, glibc's res_send)."""
    servers({FIRST: word, SECOND: "answer"})
    space = workspace("").started()
    assert dig(space, "a.test", transport) == [WORLD4]
    # It refuses this name; it may know others, so it is asked first again.
    assert dig(space, "b.test", transport) == [WORLD4]
    kind = transport[-3:] if transport == "+tcp" else "udp"
    assert asked(lab, FIRST, kind) == asked(lab, SECOND, kind) == ["a.test", "b.test"]


def test_that_there_is_no_such_name_is_an_answer(workspace, servers, lab):
    servers({FIRST: "empty", SECOND: "answer"})
    space = workspace("").started()
    for transport in ("+notcp", "+tcp"):
        result = space.exec("dig", "+time=9", "+tries=1", transport, "@10.0.2.3", "a.test").stdout
        assert "status: NXDOMAIN" in result
    assert asked(lab, SECOND) == asked(lab, SECOND, "tcp") == []


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
def test_where_all_refuse_the_refusal_is_passed_on(workspace, servers, transport):
    servers({FIRST: "refuse", SECOND: "fail"})
    space = workspace("").started()
    result = space.exec("dig", "+time=9", "+tries=1", transport, "@10.0.2.3", "a.test").stdout
    assert "status: SERVFAIL" in result and "QUERY: 1" in result


@pytest.mark.parametrize("word", ["tcp=absent", "tcp=hang", "tcp=end"])
def test_another_server_takes_over_a_connection(workspace, servers, lab, word):
    """The first server's TCP is refused, silent, or closed without an answer."""
    servers({FIRST: f"answer {word}", SECOND: "answer"})
    space = workspace("").started()
    assert dig(space, "a.test", "+tcp") == [WORLD4]
    assert dig(space, "a.test") == [WORLD4]
    assert asked(lab, SECOND, "tcp") == ["a.test"]


@pytest.mark.parametrize("dead", ["198.18.0.77", "fd18::77"])
@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
def test_a_server_that_is_not_there_is_followed_by_the_next(workspace, servers, lab, dead, transport):
    servers({SECOND: "answer"}, names=[dead, SECOND])
    space = workspace("").started()
    assert dig(space, "a.test", transport) == [WORLD4]


def test_a_server_that_came_back_is_asked_first_again(workspace, servers, lab):
    """After half a minute one query asks it beside the other; once it has answered, it is the first again."""
    servers({SECOND: "answer delay=200"}, names=[FIRST, SECOND])
    space = workspace("").started()
    assert dig(space, "a.test") == [WORLD4]
    absent_since = time.monotonic()
    servers({FIRST: "answer"}, names=[FIRST, SECOND])
    assert dig(space, "b.test") == [WORLD4] and asked(lab, FIRST) == []
    time.sleep(max(0, absent_since + 30.5 - time.monotonic()))
    assert dig(space, "c.test") == dig(space, "d.test") == [WORLD4]
    until(lambda: asked(lab, FIRST) == ["c.test", "d.test"], 5, lambda: f"what the first was asked: {asked(lab, FIRST)}")
    assert asked(lab, SECOND) == ["a.test", "b.test", "c.test"]


def test_several_queries_of_one_connection_go_on_with_the_next_server(workspace, servers, lab):
    servers({FIRST: "answer tcp=end", SECOND: "answer"})
    space = workspace("").started()
    script = """
import socket, struct
s = socket.create_connection(("10.0.2.3", 53)); s.settimeout(20)
def query(id, name): return struct.pack(">HHHHHH", id, 0x100, 1, 0, 0, 0) + b"".join(bytes([len(l)]) + l.encode() for l in name.split(".")) + b"\\0\\0\\1\\0\\1"
for id, name in ((7, "a.test"), (8, "b.test")): s.sendall(struct.pack(">H", len(query(id, name))) + query(id, name))
s.shutdown(socket.SHUT_WR)
stream, ids = s.makefile("rb"), []
while head := stream.read(2): ids.append(struct.unpack(">H", stream.read(struct.unpack(">H", head)[0])[:2])[0])
print(ids)
"""
    assert space.exec(PYTHON, "-c", script).stdout == "[7, 8]\n"
    assert asked(lab, SECOND, "tcp") == ["a.test", "b.test"]


EGRESS = 'workspacekit: {network: {egress: {default: deny, allow: ["*.test"]}}}\n'


def test_only_the_server_that_was_asked_answers(workspace, servers, lab):
    """Answers from another port or host, with another id or question, reach nobody and open no address."""
    servers({FIRST: "answer forge"})
    space = workspace(EGRESS).started()
    script = """
import socket, struct
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(20)
s.sendto(struct.pack(">HHHHHH", 77, 0x100, 1, 0, 0, 0) + b"\\1a\\4test\\0\\0\\1\\0\\1", ("10.0.2.3", 53))
answer = s.recv(4096)  # the server sends the true one last
print(struct.unpack(">H", answer[:2])[0], socket.inet_ntoa(answer[-4:]))
"""
    assert space.exec(PYTHON, "-c", script).stdout == f"77 {WORLD4}\n"
    reach = lambda address: space.exec("curl", "-sS", "-m", "5", f"http://{address}:8000/", check=False)
    assert reach(WORLD4).stdout == "hello from world\n"
    assert reach(OTHER).returncode == 7, "refused"


def test_nobody_guesses_what_a_query_looks_like_outside(workspace, servers, lab):
    """Neither the port nor the id that a query leaves with is the workspace's choice."""
    servers({FIRST: "answer"})
    space = workspace("").started()
    script = """
import socket, struct
for i in range(40):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(10)
    s.sendto(struct.pack(">HHHHHH", 4242, 0x100, 1, 0, 0, 0) + b"\\1a\\4test\\0\\0\\1\\0\\1", ("10.0.2.3", 53))
    assert s.recv(4096)[:2] == struct.pack(">H", 4242); s.close()
"""
    space.exec(PYTHON, "-c", script)
    lines = (lab.folder / f"names-{FIRST}").read_text().splitlines()[1:]
    assert len(lines) == 40
    for what, place in (("ports", 3), ("ids", 4)):
        assert len({line.split()[place] for line in lines}) > 30, what


def test_an_answered_look_up_takes_nothing(workspace, servers, lab):
    """4,000 look-ups with a port each, where the forwarder may open 1,024 files. (gvisor-tap-vsock 622)"""
    servers({FIRST: "answer"})
    space = workspace("", through=["prlimit", "--nofile=1024:1024"]).started()
    script = """
import socket, struct
failed = 0
for i in range(4000):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(9)
    s.sendto(struct.pack(">HHHHHH", i, 0x100, 1, 0, 0, 0) + b"\\1a\\4test\\0\\0\\1\\0\\1", ("10.0.2.3", 53))
    try: s.recv(4096)
    except OSError: failed += 1
    s.close()
for i in range(20): socket.create_connection(("198.18.0.1", 7)).close()
print(failed)
"""
    assert space.exec(PYTHON, "-c", script).stdout == "0\n"
    assert [flow for flow in flows(space)["flows"] if flow["transport"] == "udp"] == []


def test_many_unanswered_look_ups_leave_room_for_everything_else(workspace, servers, lab):
    """A server that is silent, and 2,000 queries for it: connections are made, and later queries are answered."""
    servers({FIRST: "silent"})
    space = workspace("", through=["prlimit", "--nofile=1024:1024"]).started()
    script = """
import socket, struct
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for i in range(2000): s.sendto(struct.pack(">HHHHHH", i, 0x100, 1, 0, 0, 0) + b"\\1a\\4test\\0\\0\\1\\0\\1", ("10.0.2.3", 53))
for i in range(100): socket.create_connection(("198.18.0.1", 7)).close()
print("connected")
"""
    assert space.exec(PYTHON, "-c", script).stdout == "connected\n"


def test_a_link_local_server_is_asked_through_its_interface(workspace, lab, servers, resolver):
    """`nameserver fe80::1%eth0`, as router advertisements give it. (podman 10158)"""
    lab.in_world("ip", "addr", "add", "fe80::53/64", "dev", "eth0", "nodad")
    try:
        servers({"fe80::53%eth0": "answer"})
        space = workspace("").started()
        for transport in ("+notcp", "+tcp"):
            assert dig(space, "a.test", transport) == [WORLD4]
        index = json.loads(lab.in_pod("ip", "-j", "link", "show", "eth0").stdout)[0]["ifindex"]
        resolver(f"nameserver fe80::53%{index}\n")
        assert dig(workspace("").started(), "b.test") == [WORLD4], "by the interface's index"
    finally:
        lab.in_world("ip", "addr", "del", "fe80::53/64", "dev", "eth0")
