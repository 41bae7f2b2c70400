"""How connections end, and what ends early: every end, reset and urgent byte on one side is one on the other side."""

import hashlib
import json
import os
import signal
import subprocess

import pytest

from conftest import BINARY, POD4, PYTHON, WORLD4, until

# Reads to the end, answers with the number of bytes and closes.
COUNTING = """
import socket, sys, threading
s = socket.socket(); s.setsockopt(1, 2, 1); s.bind(("0.0.0.0", int(sys.argv[1]))); s.listen(1024)
print("serving", flush=True)
def talk(c):
    count = 0
    try:
        while data := c.recv(1 << 16): count += len(data)
        c.sendall(b"%d\\n" % count)
    except OSError: pass
    c.close()
while True: threading.Thread(target=talk, args=(s.accept()[0],), daemon=True).start()
"""

# So many clients, one after the other: each sends five bytes and its end at once, and reads the answer.
ASKING = """
import socket, sys
host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
answered = 0
for _ in range(count):
    with socket.create_connection((host, port), 10) as s:
        s.sendall(b"hello"); s.shutdown(socket.SHUT_WR)
        try: answered += s.makefile().read() == "5\\n"
        except OSError: break
print(answered)
"""

# So many clients that send nine bytes and close.
LEAVING = """
import socket, sys
for _ in range(int(sys.argv[3])):
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), 10) as s: s.sendall(b"nine byte")
"""


def script(lab, name, text):
    path = lab.folder / f"{name}.py"
    path.write_text(text)
    path.chmod(0o644)
    return str(path)


def flows(space):
    return json.loads(space.cli("net flows", "--json").stdout)["flows"]


def start(space, lab, where, *command):
    """A program inside (`where` None) or in one of the lab's namespaces, once it has said that it serves."""
    argv = [*command]
    options = {}
    if where is None:
        where, argv = lab.pod, [*space.prefix, BINARY, "exec", "--state-dir", str(space.state), "--", *command]
        options = {"env": space.environment}
    process = lab.popen_in(where, argv, stdout=subprocess.PIPE, text=True, **options)
    assert process.stdout.readline() == "serving\n"
    return process


def end(*processes):
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def counting(workspace, lab):
    server = script(lab, "counting", COUNTING)
    space = workspace(f"""
ports: [{{port: 8085}}]
tasks: [{{name: server, command: "exec {PYTHON} {server} 8085"}}]
workspacekit: {{network: {{forwards: ["8086:8085"]}}}}
""").started()
    until(lambda: "port 8085 is forwarded" in space.stderr, 10, "the forwarded port")
    until(lambda: all(row["state"] == "open" for row in json.loads(space.cli("net forwards", "--json").stdout)), 10, "the other")
    return space


# Over the link, and from socket to socket.
@pytest.mark.parametrize("place", ["world", "loopback"])
@pytest.mark.parametrize("port", [8085, 8086])
def test_an_end_that_comes_before_the_inside_has_answered_is_passed_on(counting, lab, place, port):
    enter, host = (lab.in_world, POD4) if place == "world" else (lab.in_pod, "127.0.0.1")
    asked = enter(PYTHON, "-c", ASKING, host, str(port), "100", check=False)
    assert asked.stdout == "100\n", asked.stderr + counting.stderr
    enter(PYTHON, "-c", LEAVING, host, str(port), "500")
    until(lambda: not flows(counting), 20, lambda: f"an empty table ({flows(counting)[:3]})")
    left = lambda: counting.exec("ss", "-tnH", "state", "established", "sport", "=", "8085").stdout
    until(lambda: not left(), 10, "no connection inside")


# A server and a client on two sides; argv: ROLE VERB ADDRESS PORT. Prints what it met.
ENDING = """
import errno, select, socket, struct, sys
role, verb, host, port = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
def reset(s):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)); s.close()
def met(s):
    try:
        data = b""
        while chunk := s.recv(100): data += chunk
        return "end after %r" % data
    except OSError as error: return errno.errorcode[error.errno] + " after %r" % data
def met_after_the_end(s):
    poll = select.poll(); poll.register(s, 0)  # errors and hang-ups only
    return errno.errorcode.get(s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)) if poll.poll(20000) else "nothing"
if role == "server":
    l = socket.socket(); l.setsockopt(1, 2, 1); l.bind(("0.0.0.0", port)); l.listen(8)
    print("serving", flush=True)
    s = l.accept()[0]
else:
    s = socket.create_connection((host, port), 10)
s.settimeout(20)
# Each side has heard the other before anything ends.
s.sendall(b"+"); assert s.recv(1) == b"+"
actor = verb.split("-")[0] == role
if verb.endswith("-half"):
    # The one that is to be told has closed its half, and that has arrived.
    if actor: assert s.recv(1) == b""
    else: s.shutdown(socket.SHUT_WR)
if verb.endswith("-own"):
    # The one that resets has closed its half, and that has arrived; then it hears something, and resets.
    if actor: s.shutdown(socket.SHUT_WR); assert s.recv(1) == b"."
    else: assert s.recv(1) == b""; s.sendall(b".")
if actor:
    if verb.endswith("-end"): s.sendall(b"last"); s.close()
    else: reset(s)
    print("done", flush=True)
elif verb.endswith("-own"): print(met_after_the_end(s), flush=True)
else: print(met(s), flush=True)
"""


@pytest.mark.parametrize("verb", ["server-reset", "client-reset", "server-half", "client-half", "server-own", "client-own", "server-end", "client-end"])
@pytest.mark.parametrize("path", ["out", "in", "splice"])
def test_a_reset_is_a_reset_and_an_end_an_end(workspace, lab, path, verb):
    program = script(lab, "ending", ENDING)
    space = workspace("ports: [{port: 8087}]").started()
    if path == "out":
        host, inside, outside = WORLD4, "client", lab.world
    else:
        host, inside, outside = (POD4, "server", lab.world) if path == "in" else ("127.0.0.1", "server", lab.pod)
    server = start(space, lab, None if inside == "server" else outside, PYTHON, program, "server", verb, host, "8087")
    if path != "out":
        until(lambda: "port 8087 is forwarded" in space.stderr, 10, "the forwarded port")
    if inside == "client":
        client = space.exec(PYTHON, program, "client", verb, host, "8087").stdout
    else:
        enter = lab.in_world if path == "in" else lab.in_pod
        client = enter(PYTHON, program, "client", verb, host, "8087").stdout
    heard = {"client": client.strip(), "server": server.communicate(timeout=30)[0].strip()}
    told = "client" if verb.startswith("server") else "server"
    assert heard.pop("server" if told == "client" else "client") == "done"
    # After the end a reset is EPIPE, as the kernel has it.
    assert heard[told] == {"end": "end after b'last'", "own": "EPIPE"}.get(verb.split("-")[1], "ECONNRESET after b''")
    until(lambda: not flows(space), 10, "the end of the flow")


# Sends blocks with urgent bytes between; the digest is of everything in order, as SO_OOBINLINE gives it.
URGENT = """
import hashlib, socket, sys, threading
pieces = {"one": [1_000_000, -1, 2_000_000], "many": [100_000, -1] * 20 + [5], "last": [1000, -1], "first": [-1, 300_000]}[sys.argv[2]]
l = socket.socket(); l.setsockopt(1, 2, 1); l.bind(("0.0.0.0", int(sys.argv[1]))); l.listen(8)
print("serving", flush=True)
def talk(s):
    s.recv(1)
    for number, piece in enumerate(pieces):
        if piece < 0: s.send(b"!", socket.MSG_OOB)
        else: s.sendall(bytes([65 + number]) * piece)
    s.shutdown(socket.SHUT_WR)
while True: threading.Thread(target=talk, args=(l.accept()[0],), daemon=True).start()
"""
READING = """
import hashlib, socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 20) as s:
    s.sendall(b"x")
    digest, length = hashlib.sha256(), 0
    while data := s.recv(1 << 16): digest.update(data); length += len(data)
print(length, digest.hexdigest())
"""


def urgent_answer(verb):
    pieces = {"one": [1_000_000, -1, 2_000_000], "many": [100_000, -1] * 20 + [5], "last": [1000, -1], "first": [-1, 300_000]}[verb]
    data = b"".join(b"!" if piece < 0 else bytes([65 + number]) * piece for number, piece in enumerate(pieces))
    return f"{len(data)} {hashlib.sha256(data).hexdigest()}\n"


@pytest.mark.parametrize("verb", ["one", "many", "last", "first"])
@pytest.mark.parametrize("path", ["out", "in", "splice"])
def test_urgent_data_stays_in_its_place(workspace, lab, path, verb):
    program = script(lab, "urgent", URGENT)
    space = workspace("ports: [{port: 8088}]").started()
    server = start(space, lab, lab.world if path == "out" else None, PYTHON, program, "8088", verb)
    try:
        if path != "out":
            until(lambda: "port 8088 is forwarded" in space.stderr, 10, "the forwarded port")
        for _ in range(3):
            if path == "out":
                heard = space.exec(PYTHON, "-c", READING, WORLD4, "8088").stdout
            elif path == "in":
                heard = lab.in_world(PYTHON, "-c", READING, POD4, "8088").stdout
            else:
                heard = lab.in_pod(PYTHON, "-c", READING, "127.0.0.1", "8088").stdout
            assert heard == urgent_answer(verb)
    finally:
        end(server)


# Idle and downloading connections to the world; says how each ended, and when all have.
HOLDING = """
import errno, selectors, socket, sys, time
poll, held = selectors.DefaultSelector(), 0
for number in range(40):
    s = socket.create_connection((sys.argv[1], 7 if number % 2 else 9001), 10)
    s.sendall(b"x" if number % 2 else b"100000000000\\n")
    if number % 2: assert s.recv(1) == b"x"
    poll.register(s, selectors.EVENT_READ); held += 1
print("serving", flush=True)
ends = []
deadline = time.monotonic() + 60
while held and time.monotonic() < deadline:
    for key, _ in poll.select(1):
        try: word = "data" if key.fileobj.recv(65536) else "end"
        except OSError as error: word = errno.errorcode[error.errno]
        if word != "data": ends.append(word); poll.unregister(key.fileobj); held -= 1
print(sorted(set(ends)), len(ends), flush=True)
"""
# Takes connections; says how each ended.
HEARING = """
import errno, selectors, socket, sys, time
l = socket.socket(); l.setsockopt(1, 2, 1); l.bind((sys.argv[1], 8091)); l.listen(64)
print("serving", flush=True)
poll = selectors.DefaultSelector()
for _ in range(10): poll.register(l.accept()[0], selectors.EVENT_READ)
print("all", flush=True)
ends = []
while len(ends) < 10:
    for key, _ in poll.select():
        try: word = "data" if key.fileobj.recv(65536) else "end"
        except OSError as error: word = errno.errorcode[error.errno]
        if word != "data": ends.append(word); poll.unregister(key.fileobj)
print(sorted(set(ends)), len(ends), flush=True)
"""
OPENING = """
import socket, sys, time
held = [socket.create_connection((sys.argv[1], 8091), 10) for _ in range(10)]
for s in held: s.sendall(b"half of what there is")
print("serving", flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("link", ["tap", "packet"])
def test_every_connection_of_a_forwarder_that_is_killed_is_reset_on_both_sides(workspace, lab, link):
    space = workspace(f"ports: [{{port: 8091}}]\nworkspacekit: {{network: {{link: {link}}}}}\n").started()
    programs = []
    def program(name, text, where, *arguments):
        programs.append(start(space, lab, where, PYTHON, script(lab, name, text), *arguments))
        return programs[-1]
    try:
        holding = program("holding", HOLDING, None, WORLD4)
        # A part of a stream must not be taken for the whole: the outside hears a reset, no end.
        hearing = program("hearing", HEARING, lab.world, WORLD4)
        program("opening", OPENING, None, WORLD4)
        assert hearing.stdout.readline() == "all\n"
        slirp = space.stage("slirp")
        os.kill(slirp, signal.SIGKILL)
        assert hearing.stdout.readline() == "['ECONNRESET'] 10\n"
        assert holding.stdout.readline() == "['ECONNRESET'] 40\n"
        until(lambda: space.stage("slirp") != slirp, 10, "another forwarder")
        assert "it is started again, open connections are reset" in space.stderr
        events = [json.loads(line) for line in space.cli("events", "--json").stdout.splitlines()]
        found = [event for event in events if event["event"] == "forwarder-ended"]
        assert [(event["kind"], event["reason"]) for event in found] == [("network", "SIGKILL")]
        assert json.loads(space.cli("status", "--json").stdout)["forwarderRestarts"] == 1
        assert "the forwarder ended once and was started again" in space.cli("status").stderr
        assert "workspacekit_forwarder_restarts_total 1" in space.cli("metrics").stdout
        # And that outlives the supervisor.
        os.kill(space.stage("supervise"), signal.SIGKILL)
        until(lambda: space.cli("status", check=False).returncode == 0, 10, "another supervisor")
        assert json.loads(space.cli("status", "--json").stdout)["forwarderRestarts"] == 1
        # A new connection of the next forwarder's is not among those of the one before.
        assert space.exec(PYTHON, "-c", ASKING.replace('"5\\n"', '"hello"'), WORLD4, "7", "3").stdout == "3\n"
    finally:
        end(*programs)


def test_so_are_those_of_the_forwarders_after_it(workspace, lab):
    space = workspace("").started()
    for _ in range(3):
        holding = start(space, lab, None, PYTHON, script(lab, "holding", HOLDING), WORLD4)
        try:
            slirp = space.stage("slirp")
            os.kill(slirp, signal.SIGKILL)
            assert holding.stdout.readline() == "['ECONNRESET'] 40\n"
            until(lambda: space.stage("slirp") != slirp, 10, "another forwarder")
        finally:
            end(holding)
