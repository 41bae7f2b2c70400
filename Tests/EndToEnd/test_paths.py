"""Ways through routers: who is on them, how large a packet they take, and what IP's header says on them."""

import re
import subprocess

import pytest

from conftest import PYTHON, WORLD4, die_with_parent

FAR4, FAR6 = "198.18.21.2", "fd21::2"
ECHO = """
import socket, threading
def serve(family, address):
    u = socket.socket(family, socket.SOCK_DGRAM); u.bind((address, 7))
    while True: d, a = u.recvfrom(1 << 16); u.sendto(b"%d" % len(d), a)
def streams(family, address):
    l = socket.socket(family); l.setsockopt(1, 2, 1)
    l.bind((address, 9000)); l.listen(9)
    while True:
        c, _ = l.accept(); n = 0
        while d := c.recv(1 << 16): n += len(d)
        c.sendall(b"%d" % n); c.close()
for family, address in ((2, "198.18.21.2"), (10, "fd21::2")):
    for server in (serve, streams): threading.Thread(target=server, args=(family, address), daemon=True).start()
print("ready", flush=True)
threading.Event().wait()
"""


@pytest.fixture(scope="module")
def far(lab):
    """pod -- world -- middle -- far: two routers, and 1400 bytes at most between them."""
    def hold():
        process = subprocess.Popen(["unshare", "--net", PYTHON, "-c", "import signal; print('ready', flush=True); signal.pause()"],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, preexec_fn=die_with_parent)
        assert process.stdout.readline() == b"ready\n"
        return process
    middle, host = hold(), hold()
    inside = lambda process, *command: subprocess.run(["nsenter", f"--net=/proc/{process.pid}/ns/net", "--", *command], check=True, capture_output=True)
    server = None
    try:
        lab.in_world("ip", "link", "add", "inner", "mtu", "1400", "type", "veth", "peer", "name", "outer", "netns", str(middle.pid))
        inside(middle, *"ip link add inner type veth peer name outer netns".split(), str(host.pid))
        for enter, device, four, six in ((lab.in_world, "inner", "198.18.20.1", "fd20::1"), (lambda *c: inside(middle, *c), "outer", "198.18.20.2", "fd20::2"),
                                         (lambda *c: inside(middle, *c), "inner", "198.18.21.1", "fd21::1"), (lambda *c: inside(host, *c), "outer", FAR4, FAR6)):
            enter("ip", "addr", "add", f"{four}/24", "dev", device)
            enter("ip", "-6", "addr", "add", f"{six}/64", "dev", device, "nodad")
            enter("ip", "link", "set", device, "up", *(["mtu", "1400"] if "20" in four.split(".")[2] else []))
        for process, four, six in ((middle, "198.18.20.1", "fd20::1"), (host, "198.18.21.1", "fd21::1")):
            inside(process, "ip", "link", "set", "lo", "up")
            inside(process, "ip", "route", "add", "default", "via", four)
            inside(process, "ip", "-6", "route", "add", "default", "via", six)
        inside(middle, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0")
        inside(host, "sysctl", "-qw", "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0")
        lab.in_world("ip", "route", "add", "198.18.21.0/24", "via", "198.18.20.2")
        lab.in_world("ip", "-6", "route", "add", "fd21::/64", "via", "fd20::2")
        server = subprocess.Popen(["nsenter", f"--net=/proc/{host.pid}/ns/net", "--", PYTHON, "-c", ECHO], stdout=subprocess.PIPE, preexec_fn=die_with_parent)
        assert server.stdout.readline() == b"ready\n"
        yield host
    finally:
        for process in filter(None, (server, middle, host)):
            process.kill()
            process.wait()
        lab.in_world("ip", "link", "del", "inner", check=False)


@pytest.fixture
def space(workspace, far):
    return workspace("tasks: [{command: exec sleep 1000}]\n").started()


@pytest.mark.parametrize("family,far_address,hops", [("-4", FAR4, ["10.0.2.2", WORLD4, "198.18.20.2", FAR4]), ("-6", FAR6, ["fd00::2", "fd18::1", "fd20::2", FAR6])])
def test_traceroute_and_mtr_show_every_hop(space, family, far_address, hops):
    for options in ((), ("-I",)):
        trace = space.exec("traceroute", family, "-n", "-q", "1", "-w", "2", "-m", "8", *options, far_address).stdout.splitlines()[1:]
        assert [line.split()[1] for line in trace] == hops, options
    report = space.exec("mtr", family, "--report", "-n", "-c", "1", "-G", "2", far_address).stdout
    assert re.findall(r"\|-- (\S+)", report) == hops


@pytest.mark.parametrize("family,far_address,hops", [("-4", FAR4, [WORLD4, "198.18.20.2", FAR4]), ("-6", FAR6, ["fd18::1", "fd20::2", FAR6])])
def test_with_copied_addresses_the_forwarder_is_no_hop(workspace, far, family, far_address, hops):
    space = workspace("tasks: [{command: exec sleep 1000}]\nworkspacekit: {network: {addresses: copy}}\n").started()
    for options in ((), ("-I",)):
        trace = space.exec("traceroute", family, "-n", "-q", "1", "-w", "2", "-m", "8", *options, far_address).stdout.splitlines()[1:]
        assert [line.split()[1] for line in trace] == hops, options
    report = space.exec("mtr", family, "--report", "-n", "-c", "1", "-G", "2", far_address).stdout
    assert re.findall(r"\|-- (\S+)", report) == hops


@pytest.mark.parametrize("family,address,overhead", [(2, FAR4, 28), (10, FAR6, 48)])
def test_datagrams_learn_the_size_of_the_path(space, family, address, overhead):
    """As behind any router: the first is lost, its sender hears why, and what comes after is cut or made to fit."""
    script = f"""
import errno, socket, time
level, discover, mtu = (0, 10, 14) if {family} == 2 else (41, 23, 24)
s = socket.socket({family}, 2); s.settimeout(0.3); s.setsockopt(level, discover, 2); s.connect(("{address}", 7))
heard = []
for attempt in range(10):
    try: s.send(bytes(1500 - {overhead})); heard.append(s.recv(9))
    except OSError as error: heard.append(error.errno)
    if heard[-1] == errno.EMSGSIZE: break
print("EMSGSIZE" if heard[-1] == errno.EMSGSIZE else heard, s.getsockopt(level, mtu))
s.settimeout(3); s.send(bytes(1400 - {overhead})); print(s.recv(9))
o = socket.socket({family}, 2); o.settimeout(3); o.sendto(bytes(1500 - {overhead}), ("{address}", 7)); print(o.recv(9))
o.sendto(bytes(5000), ("{address}", 7)); print(o.recv(9))
"""
    lines = space.exec(PYTHON, "-c", script).stdout.splitlines()
    assert lines == ["EMSGSIZE 1400", f"b'{1400 - overhead}'", f"b'{1500 - overhead}'", "b'5000'"]


@pytest.mark.parametrize("address", [FAR4, FAR6])
def test_streams_fit_the_path(space, address):
    script = f"import socket; s = socket.create_connection(('{address}', 9000), 5); s.sendall(bytes(3_000_000)); s.shutdown(1); print(s.recv(20))"
    assert space.exec(PYTHON, "-c", script).stdout == "b'3000000'\n"


def test_a_ping_too_large_for_the_path_says_so(space):
    tried = space.exec("ping", "-M", "do", "-s", "1472", "-c", "3", "-i", "0.2", "-W", "1", FAR4, check=False).stdout
    assert "frag needed" in tried.lower() or "message too long" in tried.lower(), tried
    assert "1 received" in space.exec("ping", "-M", "dont", "-s", "1472", "-c", "1", "-W", "2", FAR4).stdout


def test_the_traffic_class_is_carried(space, lab):
    """What the workspace says in IP's header the outside sees: for datagrams and streams, of both families."""
    watch = lab.popen_in(lab.world, [PYTHON, "-c", """
import socket
raw = socket.socket(17, 3, socket.htons(3)); raw.bind(("eth0", 0)); raw.settimeout(10); print("ready", flush=True)
seen = set()
while len(seen) < 4:
    f = raw.recv(100)
    if f[12:14] == b"\\x08\\0" and f[15] == 0xb8: seen.add((4, f[23]))
    if f[12:14] == b"\\x86\\xdd" and int.from_bytes(f[14:16], "big") >> 4 & 0xff == 0xb8: seen.add((6, f[20]))
print(sorted(seen))
"""], stdout=subprocess.PIPE, text=True)
    try:
        assert watch.stdout.readline() == "ready\n"
        space.exec(PYTHON, "-c", """
import socket
for family, address, level, name in ((2, "198.18.0.1", 0, 1), (10, "fd18::1", 41, 67)):
    for kind in (2, 1):
        s = socket.socket(family, kind); s.settimeout(3); s.setsockopt(level, name, 0xb8); s.connect((address, 7))
        for _ in range(3): s.send(b"x"); s.recv(9)
""")
        assert watch.stdout.readline() == "[(4, 6), (4, 17), (6, 6), (6, 17)]\n"
    finally:
        watch.kill()
        watch.wait()
