"""Called as slirp4netns: its command line, banner, descriptors, API and sandbox, as its clients and its own scripts know
them. The guest is a namespace of its own in the lab's pod."""

import json
import os
import pathlib
import re
import select
import signal
import socket
import subprocess
import time

import pytest

from conftest import BINARY, POD4, PYTHON, USER, WORLD4, WORLD6, die_with_parent, until


@pytest.fixture(scope="module")
def program(lab):
    """The binary by the name that its callers know."""
    folder = lab.folder / "bin"
    folder.mkdir(exist_ok=True)
    link = folder / "slirp4netns"
    if not link.exists():
        link.symlink_to(BINARY)
    return str(link)


def is_gone(pid):
    """It has ended; whether the machine's init has collected it is not ours."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


class Guest:
    """A user and network namespace that somebody wants to connect."""

    def __init__(self, lab, user=None, own_users=True):
        self.lab = lab
        self.prefix = ["setpriv", "--pdeathsig", "KILL"]
        if user:
            self.prefix += ["--reuid", str(user), "--regid", str(user), "--clear-groups"]
        flags = ["--user", "--map-root-user", "--net"] if own_users else ["--net"]
        # The namespaces are there once it speaks.
        self.holder = subprocess.Popen([*lab.enter(lab.pod), *self.prefix, "unshare", *flags, "sh", "-c", "echo ready; exec sleep 1000"],
                                       stdout=subprocess.PIPE, preexec_fn=die_with_parent)
        assert self.holder.stdout.readline() == b"ready\n"
        self.pid = self.holder.pid
        self.own_users = own_users

    def enter(self):
        users = ["--user", "--preserve-credentials"] if self.own_users else []
        return ["nsenter", "-t", str(self.pid), *users, "--net", "--mount"]

    def run(self, *command, check=True, **options):
        result = subprocess.run([*self.enter(), *command], capture_output=True, text=True, timeout=60, **options)
        assert not check or result.returncode == 0, result
        return result

    def popen(self, *command, **options):
        return subprocess.Popen([*self.enter(), *command], preexec_fn=die_with_parent, **options)

    def close(self):
        self.holder.kill()
        self.holder.wait()


class Forwarder:
    def __init__(self, lab, program, guest, *arguments, target=None, tap="tap0", exit_pipe=False, ready=True, user=None, positional=True, environment=None):
        self.lab = lab
        self.out = lab.folder / f"slirp4netns-{time.monotonic_ns()}"
        descriptors = []
        words = [*arguments]
        if ready:
            self.ready, theirs = os.pipe()
            descriptors.append(theirs)
            words += ["--ready-fd", str(theirs)]
        if exit_pipe:
            theirs, self.exit = os.pipe()
            descriptors.append(theirs)
            words += [f"--exit-fd={theirs}"]
        if positional:
            words += [str(target or guest.pid)] + ([tap] if tap else [])
        prefix = guest.prefix if guest else []
        # sh keeps the descriptors that nsenter and setpriv hand on.
        command = [*lab.enter(lab.pod), *prefix, program, *words]
        with open(self.out, "wb") as out, open(f"{self.out}.err", "wb") as err:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, pass_fds=descriptors, preexec_fn=die_with_parent,
                                            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **(environment or {})})
        for number in descriptors:
            os.close(number)

    @property
    def stdout(self):
        return pathlib.Path(self.out).read_text()

    @property
    def stderr(self):
        return pathlib.Path(f"{self.out}.err").read_text()

    def is_ready(self):
        assert select.select([self.ready], [], [], 10)[0], self.stderr
        assert os.read(self.ready, 10) == b"1", (self.stdout, self.stderr)
        # It is closed behind that one byte.
        assert select.select([self.ready], [], [], 5)[0] and os.read(self.ready, 10) == b""
        os.close(self.ready)
        return self

    def children(self):
        return [int(pid) for pid in pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()]

    def close(self):
        if self.process.poll() is None:
            children = self.children()
            self.process.kill()
            self.process.wait()
            until(lambda: all(is_gone(pid) for pid in children), 5, "the forwarder's end")


@pytest.fixture
def made(lab, program):
    """Makes guests and forwarders, and ends them."""
    things = []

    class Make:
        def guest(self, **options):
            things.append(Guest(lab, **options))
            return things[-1]

        def forwarder(self, guest, *arguments, **options):
            things.append(Forwarder(lab, program, guest, *arguments, **options))
            return things[-1]

        def connected(self, *arguments, **options):
            guest = self.guest()
            return guest, self.forwarder(guest, "-c", *arguments, **options).is_ready()

    yield Make()
    for thing in reversed(things):
        thing.close()


def call(program, *arguments):
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=20)


# The command line

def test_help_names_what_callers_look_for(program):
    result = call(program, "--help")
    assert result.returncode == 0
    # Podman's and RootlessKit's probes.
    for word in ("--disable-host-loopback", "--mtu", "--enable-sandbox", "--enable-seccomp", "--cidr", "--outbound-addr", "--enable-ipv6",
                 "--netns-type", "--api-socket", "--exit-fd", "--ready-fd", "--userns-path", "--disable-dns", "--macaddress", "--target-type"):
        assert re.search(rf"(?<![\w-]){word}(?![\w-])", result.stdout + result.stderr), word


def test_version_is_one_that_callers_understand(program):
    result = call(program, "-v")
    assert result.returncode == 0
    assert re.search(r"^slirp4netns version \d+\.\d+\.\d+", result.stdout) and "\ncommit: " in result.stdout
    assert int(re.search(r"^SLIRP_CONFIG_VERSION_MAX: (\d+)$", result.stdout, re.M)[1]) >= 3
    assert call(program, "--version").stdout == result.stdout
    # As a subcommand of the binary, too.
    assert subprocess.run([BINARY, "slirp4netns", "-v"], capture_output=True, text=True).stdout == result.stdout


@pytest.mark.parametrize("arguments, says", [
    ([], "please specify PID, PATH or FD"), (["--nonsense", "1"], "unrecognized option '--nonsense'"), (["-x", "1"], "invalid option -- 'x'"),
    (["--cidr"], "option '--cidr' requires an argument"), (["--configure=yes", "1"], "option '--configure' doesn't allow an argument"),
    (["--enable", "1"], "ambiguous option '--enable'"),
    (["-m", "0", "1"], "MTU must be a positive integer (< 65522)"), (["--mtu=65522", "1"], "MTU must be a positive integer (< 65522)"),
    (["-m", "many", "1"], "MTU must be a positive integer (< 65522)"),
    (["--cidr", "10.0.2.0", "1"], "invalid CIDR: 10.0.2.0"), (["--cidr", "x/24", "1"], "invalid CIDR: x/24"),
    (["--cidr=10.0.2.100/24", "1"], "CIDR needs to be a network address like 10.0.2.0/24, not like 10.0.2.100/24"),
    (["--cidr=10.0.2.0/26", "1"], "prefix length needs to be 1-25"), (["--cidr=0.0.0.0/0", "1"], "prefix length needs to be 1-25"),
    (["--macaddress=02:00:00:00:00:01", "1"], "--macaddress cannot be specified when --configure or -c is not specified"),
    (["-c", "--macaddress=0g:00:00:00:00:01", "1"], "macaddress has to be a valid MAC address"),
    (["--netns-type=name", "1"], "--netns-type must be one of"), (["--target-type=vm", "1"], "--target-type must be one of"),
    (["--target-type=bess", "-c", "/x"], "conflicts with -c"), (["--target-type=bess", "--netns-type=path", "/x"], "conflicts with --netns-type"),
    (["--target-type=bess", "--userns-path=/x", "/x"], "conflicts with --userns-path"),
    (["-a", "/" + "x" * 108, "1"], "too long"), (["zero"], "PID must be a positive integer"), (["0"], "PID must be a positive integer"),
    (["--exit-fd=x", "1"], "exit-fd must be a non-negative integer"), (["1", "an-interface-name"], "is no name for an interface"),
])
def test_what_cannot_be_is_refused(program, arguments, says):
    result = call(program, *arguments)
    assert result.returncode == 1 and says in result.stderr


@pytest.mark.parametrize("arguments, says", [
    (["999999999"], "/proc/999999999/ns/net"), (["--netns-type=path", "/no/such/file"], "/no/such/file"), (["--target-type=bess", "/no/such/socket"], "/no/such/socket"),
    (["--netns-type=tapfd", "77"], "descriptor 77"),
])
def test_what_is_not_there_is_named(program, arguments, says):
    result = call(program, *arguments)
    assert result.returncode == 1 and says in result.stderr


# The link

def test_configured_and_announced(made):
    guest, forwarder = made.connected()
    assert forwarder.stdout == """Starting slirp
* MTU:             1500
* Network:         10.0.2.0
* Netmask:         255.255.255.0
* Gateway:         10.0.2.2
* DNS:             10.0.2.3
* DHCP begin:      10.0.2.15
* DHCP end:        10.0.2.30
* Recommended IP:  10.0.2.100
WARNING: 127.0.0.1:* on the host is accessible as 10.0.2.2 (set --disable-host-loopback to prohibit connecting to 127.0.0.1:*)
"""
    assert "10.0.2.100/24" in guest.run("ip", "-4", "addr", "show", "tap0").stdout
    assert "default via 10.0.2.2" in guest.run("ip", "route").stdout and "mtu 1500" in guest.run("ip", "link", "show", "tap0").stdout
    assert "UP" in guest.run("ip", "link", "show", "lo").stdout
    assert guest.run("curl", "-s", f"http://{WORLD4}:8000/").stdout == "hello from world\n"
    guest.run("ping", "-c", "1", "-W", "2", "10.0.2.2")
    assert guest.run("dig", "+short", "+time=2", "@10.0.2.3", "host.example.test").stdout.strip()


def test_another_network_mtu_and_address(made):
    guest, forwarder = made.connected("--cidr=10.0.135.128/25", "-m", "65520", "--macaddress=02:11:22:33:44:55")
    assert "* Recommended IP:  10.0.135.228" in forwarder.stdout and "* MAC address:     02:11:22:33:44:55" in forwarder.stdout
    assert "10.0.135.228/25" in guest.run("ip", "-4", "addr", "show", "tap0").stdout
    link = guest.run("ip", "link", "show", "tap0").stdout
    assert "mtu 65520" in link and "02:11:22:33:44:55" in link
    assert guest.run("curl", "-s", f"http://{WORLD4}:8000/").stdout == "hello from world\n"
    # A large answer crosses the large link whole.
    total = guest.run(PYTHON, "-c", f"import socket\ns = socket.create_connection(('{WORLD4}', 9001)); s.settimeout(20); s.send(b'50000000\\n')\nn = 0\nwhile n < 50_000_000:\n    n += len(s.recv(1 << 20))\nprint(n)").stdout
    assert int(total) >= 50_000_000


def test_ipv6_comes_by_router_advertisement(made):
    guest = made.guest()
    forwarder = made.forwarder(guest, "-c", "--enable-ipv6").is_ready()
    until(lambda: re.search(r"inet6 fd00::\S+/64 .*scope global", guest.run("ip", "-6", "addr", "show", "tap0").stdout), 15, "the address")
    until(lambda: "default via fe80::2" in guest.run("ip", "-6", "route").stdout, 10, "the route")
    until(lambda: guest.run("curl", "-s", "-m", "3", f"http://[{WORLD6}]:8000/", check=False).stdout == "hello from world\n", 10, "the way out")
    assert forwarder.process.poll() is None


def test_an_interface_that_is_there_is_used_as_it_is(made):
    """As RootlessKit makes it: persistent, up and configured, and no -c."""
    guest = made.guest()
    for words in (["tuntap", "add", "mode", "tap", "name", "tap0"], ["addr", "add", "10.0.2.100/24", "dev", "tap0"], ["link", "set", "tap0", "up"],
                  ["link", "set", "lo", "up"], ["route", "add", "default", "via", "10.0.2.2"]):
        guest.run("ip", *words)
    made.forwarder(guest).is_ready()
    assert guest.run("curl", "-s", f"http://{WORLD4}:8000/").stdout == "hello from world\n"


def test_unconfigured_it_is_left_alone_and_dhcp_offers(made):
    guest = made.guest()
    made.forwarder(guest).is_ready()
    assert "inet " not in guest.run("ip", "addr", "show", "tap0").stdout
    guest.run("ip", "link", "set", "tap0", "up")
    offer = guest.run(PYTHON, "-c", """
from scapy.all import *
conf.checkIPaddr = False
mac = get_if_hwaddr("tap0")
request = Ether(dst="ff:ff:ff:ff:ff:ff") / IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67) / BOOTP(chaddr=mac2str(mac), xid=7) / DHCP(options=[("message-type", "discover"), "end"])
answer = srp1(request, iface="tap0", timeout=5, verbose=0)
print(answer[BOOTP].yiaddr, dict(o for o in answer[DHCP].options if isinstance(o, tuple))["router"])
""").stdout
    assert offer == "10.0.2.15 10.0.2.2\n"


def test_namespaces_by_path(made, lab):
    guest = made.guest()
    made.forwarder(guest, f"--userns-path=/proc/{guest.pid}/ns/user", "--netns-type=path", target=f"/proc/{guest.pid}/ns/net", tap="tun11").is_ready()
    assert "inet " not in guest.run("ip", "addr", "show", "tun11").stdout


def test_an_inherited_device_without_a_header(made, lab, program):
    """--netns-type=tapfd, as `slirp4netns` itself is given one: frames without a virtio_net_hdr."""
    guest = made.guest(own_users=False)
    maker = r"""
import fcntl, os, struct, sys
fd = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(fd, 0x400454ca, struct.pack("16sH22x", b"tap7", 0x1002))
os.set_inheritable(fd, True)
import ctypes
assert ctypes.CDLL(None).setns(int(sys.argv[1]), 0x40000000) == 0
os.execv(sys.argv[2], [sys.argv[2], "--netns-type=tapfd", "-r", sys.argv[3], str(fd)])
"""
    ours, theirs = os.pipe()
    outside = os.open(f"/proc/{lab.pod.pid}/ns/net", os.O_RDONLY)
    process = subprocess.Popen([*guest.enter(), PYTHON, "-c", maker, str(outside), program, str(theirs)], pass_fds=[theirs, outside], preexec_fn=die_with_parent,
                               stdout=subprocess.DEVNULL)
    os.close(theirs)
    try:
        assert os.read(ours, 1) == b"1"
        guest.run("ip", "addr", "add", "10.0.2.100/24", "dev", "tap7")
        guest.run("ip", "link", "set", "tap7", "up")
        guest.run("ip", "route", "add", "default", "via", "10.0.2.2")
        assert guest.run("curl", "-s", f"http://{WORLD4}:8000/").stdout == "hello from world\n"
        assert guest.run(PYTHON, "-c", f"import socket\ns = socket.create_connection(('{WORLD4}', 9001)); s.settimeout(20); s.send(b'5000000\\n')\nn = 0\nwhile n < 5_000_000: n += len(s.recv(65536))\nprint('all')").stdout == "all\n"
    finally:
        process.kill()
        process.wait()
        os.close(ours), os.close(outside)


def test_a_socket_for_whole_frames(made, lab, tmp_path):
    """--target-type=bess: an ARP request, and its answer."""
    path = lab.folder / "bess.sock"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(path))
    listener.listen(1)
    forwarder = made.forwarder(None, "--target-type=bess", target=str(path), tap=None)
    connection, _ = listener.accept()
    forwarder.is_ready()
    connection.settimeout(10)
    connection.send(bytes.fromhex("ffffffffffff" "021122334455" "0806" "0001080006040001" "021122334455" "0a000264" "000000000000" "0a000202"))
    answer = connection.recv(2000)
    assert answer[:6] == bytes.fromhex("021122334455") and answer[12:14] == b"\x08\x06" and answer[20:22] == b"\0\x02" and answer[28:32] == bytes([10, 0, 2, 2])
    connection.close()
    listener.close()
    path.unlink()
    assert forwarder.process.wait(10) == 0


# The outside's loopback, names, and addresses to come from

def serve(lab, address, port, answer):
    code = f"""
import socket
s = socket.socket(); s.setsockopt(1, 2, 1); s.bind(("{address}", {port})); s.listen(16); print("ready", flush=True)
while True:
    c, peer = s.accept()
    c.sendall(b"{answer} " + peer[0].encode()); c.close()
"""
    server = lab.popen_in(lab.pod, [PYTHON, "-c", code], stdout=subprocess.PIPE)
    assert server.stdout.readline() == b"ready\n"
    return server


def test_the_outsides_loopback_unless_it_is_disabled(made, lab):
    server = serve(lab, "127.0.0.1", 7411, "loopback")
    try:
        guest, _ = made.connected()
        connect = "import socket\ntry: print(socket.create_connection(('10.0.2.2', 7411), 5).recv(100).decode())\nexcept OSError as e: print(e.errno)"
        assert guest.run(PYTHON, "-c", connect).stdout == "loopback 127.0.0.1\n"
        shut, forwarder = made.connected("--disable-host-loopback")
        assert shut.run(PYTHON, "-c", connect).stdout == "101\n"  # ENETUNREACH
        shut.run("ping", "-c", "1", "-W", "2", "10.0.2.2")
        assert "WARNING" not in forwarder.stdout
        old, forwarder = made.connected("--no-host-loopback")
        assert old.run(PYTHON, "-c", connect).stdout == "101\n" and "WARNING: --no-host-loopback is deprecated" in forwarder.stderr
    finally:
        server.kill()
        server.wait()


def test_names_unless_they_are_disabled(made):
    guest, _ = made.connected()
    query = ["dig", "+short", "+time=1", "+tries=2", "@10.0.2.3", "host.example.test"]
    assert guest.run(*query).stdout != "" and guest.run(*query, "+tcp").stdout != ""
    mute, _ = made.connected("--disable-dns")
    assert mute.run(*query, check=False).returncode != 0


def test_the_address_to_come_from(made, lab):
    lab.in_pod("ip", "addr", "add", "198.18.0.77/24", "dev", "eth0")
    server = """
import socket
s = socket.socket(); s.bind(("0.0.0.0", 7412)); s.listen(16)
u = socket.socket(2, 2); u.bind(("0.0.0.0", 7412)); print("ready", flush=True)
while True:
    c, peer = s.accept(); c.sendall(peer[0].encode()); c.close()
    data, peer = u.recvfrom(100); u.sendto(peer[0].encode(), peer)
"""
    servers = [lab.popen_in(place, [PYTHON, "-c", server], stdout=subprocess.PIPE) for place in (lab.world, lab.pod)]
    assert [server.stdout.readline() for server in servers] == [b"ready\n"] * 2
    # The host's loopback too: it is reached from the address that was asked for.
    tell = f"""
import socket
for host in ('{WORLD4}', '10.0.2.2'):
    a = socket.create_connection((host, 7412), 5).recv(100).decode()
    u = socket.socket(2, 2); u.settimeout(5); u.sendto(b'x', (host, 7412)); print(a, u.recv(100).decode())
"""
    try:
        for value, address in (("198.18.0.77", "198.18.0.77"), ("eth0", POD4)):
            guest, forwarder = made.connected(f"--outbound-addr={value}")
            assert guest.run(PYTHON, "-c", tell).stdout.split() == [address] * 4
            assert f"* Outbound IPv4:    {value}" in forwarder.stdout
        refused = made.forwarder(made.guest(), "--outbound-addr=no-such-interface")
        assert refused.process.wait(10) == 1 and "no-such-interface" in refused.stderr
    finally:
        for server in servers:
            server.kill()
            server.wait()
        lab.in_pod("ip", "addr", "del", "198.18.0.77/24", "dev", "eth0")


def test_the_name_server_is_asked_from_the_address_to_come_from(made, lab):
    """It answers with the address that asked."""
    for last in ("77", "78"):
        lab.in_pod("ip", "addr", "add", f"198.18.0.{last}/32", "dev", "lo")
    server = lab.popen_in(lab.pod, [PYTHON, "-c", """
import socket, struct
def answer(query, peer):
    return query[:2] + b"\\x81\\x80" + struct.pack(">HHHH", 1, 1, 0, 0) + query[12:] + b"\\xc0\\x0c" + struct.pack(">HHIH", 1, 1, 0, 4) + socket.inet_aton(peer[0])
s = socket.socket(); s.bind(("198.18.0.78", 53)); s.listen(16)
u = socket.socket(2, 2); u.bind(("198.18.0.78", 53)); print("ready", flush=True)
while True:
    query, peer = u.recvfrom(1000); u.sendto(answer(query, peer), peer)
    c, peer = s.accept(); query = c.recv(1000)[2:]; reply = answer(query, peer); c.sendall(struct.pack(">H", len(reply)) + reply); c.close()
"""], stdout=subprocess.PIPE)
    assert server.stdout.readline() == b"ready\n"
    ask = """
import socket, struct
query = struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0) + b"\\4here\\4test\\0" + struct.pack(">HH", 1, 1)
u = socket.socket(2, 2); u.settimeout(5); u.sendto(query, ("10.0.2.3", 53)); print(socket.inet_ntoa(u.recv(1000)[-4:]))
c = socket.create_connection(("10.0.2.3", 53), 5); c.sendall(struct.pack(">H", len(query)) + query); print(socket.inet_ntoa(c.makefile("rb").read()[-4:]))
"""
    resolver = lab.folder / "etc" / "resolv.conf"
    before = resolver.read_text()
    try:
        resolver.write_text("nameserver 198.18.0.78\n")
        guest, _ = made.connected("--outbound-addr=198.18.0.77")
        assert guest.run(PYTHON, "-c", ask).stdout.split() == ["198.18.0.77"] * 2
    finally:
        resolver.write_text(before)
        server.kill()
        server.wait()
        for last in ("77", "78"):
            lab.in_pod("ip", "addr", "del", f"198.18.0.{last}/32", "dev", "lo")


# Ends

def test_it_ends_with_the_exit_pipe(made):
    guest = made.guest()
    forwarder = made.forwarder(guest, "-c", exit_pipe=True).is_ready()
    children = forwarder.children()
    assert forwarder.process.poll() is None and children
    os.close(forwarder.exit)
    assert forwarder.process.wait(10) == 0
    until(lambda: all(is_gone(pid) for pid in children), 5, "the forwarder's end")


def test_an_exit_descriptor_that_is_closed_is_the_end(made):
    """As slirp4netns's own script has it: the number is not open, and a word too many is a warning."""
    guest = made.guest()
    forwarder = made.forwarder(guest, "-c", "--exit-fd=93", positional=False, ready=False, tap=None)
    assert forwarder.process.wait(10) == 1
    forwarder = made.forwarder(guest, "-c", "--exit-fd=93", str(guest.pid), "tap0", "/dev/fd/63", positional=False, ready=False)
    assert forwarder.process.wait(10) == 0 and "WARNING: too many arguments: /dev/fd/63" in forwarder.stderr


@pytest.mark.parametrize("whom", ["itself", "its forwarder"])
def test_nothing_outlives_the_other(made, whom):
    guest, forwarder = made.connected()
    (child,) = forwarder.children()
    os.kill(forwarder.process.pid if whom == "itself" else child, signal.SIGKILL)
    assert forwarder.process.wait(10) in (-9, 1)
    until(lambda: is_gone(child), 5, "the end of both")


# The sandbox

def test_sandbox_and_seccomp(made):
    guest, forwarder = made.connected("--enable-sandbox", "--enable-seccomp")
    pid = forwarder.process.pid
    status = dict(line.split(":\t") for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    capabilities = int(status["CapEff"], 16)
    assert capabilities & ~(1 << 10) == 0, "none but CAP_NET_BIND_SERVICE"
    assert status["Seccomp"].strip() == "2" and status["NoNewPrivs"].strip() == "1"
    assert sorted(entry.name for entry in pathlib.Path(f"/proc/{pid}/root").iterdir()) == ["etc", "run"]
    (child,) = forwarder.children()
    inner = dict(line.split(":\t") for line in pathlib.Path(f"/proc/{child}/status").read_text().splitlines() if ":\t" in line)
    assert int(inner["CapEff"], 16) == 0 and inner["Seccomp"].strip() == "2"
    assert guest.run("curl", "-s", f"http://{WORLD4}:8000/").stdout == "hello from world\n"


def test_the_forwarder_is_sandboxed_in_any_case(made):
    _, forwarder = made.connected()
    (child,) = forwarder.children()
    inner = dict(line.split(":\t") for line in pathlib.Path(f"/proc/{child}/status").read_text().splitlines() if ":\t" in line)
    assert int(inner["CapEff"], 16) == 0 and inner["Seccomp"].strip() == "2" and inner["NoNewPrivs"].strip() == "1"


def test_the_sandbox_unmounts_nothing(made, lab):
    lab.in_pod("mkdir", "-p", "/run/wk-shared/inner")
    lab.in_pod("mount", "-t", "tmpfs", "tmpfs", "/run/wk-shared/inner")
    try:
        guest, forwarder = made.connected("--enable-sandbox")
        forwarder.close()
        assert "/run/wk-shared/inner" in lab.in_pod("cat", "/proc/self/mounts").stdout
    finally:
        lab.in_pod("umount", "/run/wk-shared/inner")


# The API

@pytest.fixture
def served(made, lab):
    path = lab.folder / f"api-{time.monotonic_ns()}.sock"
    guest, forwarder = made.connected("--api-socket", str(path))
    assert f"* API Socket:      {path}" in forwarder.stdout
    guest.path, guest.forwarder = path, forwarder
    return guest


def ask(guest, request, end=True):
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(guest.path))
        client.sendall(request if isinstance(request, bytes) else json.dumps(request).encode())
        if end:
            client.shutdown(socket.SHUT_WR)
        answer = b""
        while data := client.recv(65536):
            answer += data
    return json.loads(answer)


def add(guest, **arguments):
    return ask(guest, {"execute": "add_hostfwd", "arguments": arguments})


def fetch(lab, port, address=POD4, where=None):
    code = f"import socket\ntry:\n  s = socket.create_connection(('{address}', {port}), 5); s.settimeout(5); print(s.recv(100).decode())\nexcept OSError as e: print(e.errno)"
    return (where or lab.in_world)(PYTHON, "-c", code).stdout.strip()


def tell_peer(guest, port, udp=False):
    """A server in the guest that says whom it sees."""
    code = f"""
import socket
s = socket.socket(socket.AF_INET, socket.{'SOCK_DGRAM' if udp else 'SOCK_STREAM'}); s.setsockopt(1, 2, 1); s.bind(("0.0.0.0", {port}))
{'' if udp else 's.listen(16)'}
print("ready", flush=True)
while True:
    {'data, peer = s.recvfrom(70000); s.sendto(peer[0].encode() + b" " + data[:20] + b" %d" % len(data), peer)' if udp else 'c, peer = s.accept(); c.sendall(peer[0].encode()); c.close()'}
"""
    server = guest.popen(PYTHON, "-c", code, stdout=subprocess.PIPE)
    assert server.stdout.readline() == b"ready\n"
    return server


def test_an_end_that_comes_before_the_guest_has_answered_is_passed_on(served, lab):
    from test_endings import ASKING, COUNTING, LEAVING
    server = served.popen(PYTHON, "-c", COUNTING, "80", stdout=subprocess.PIPE)
    try:
        assert server.stdout.readline() == b"serving\n"
        assert add(served, proto="tcp", host_addr="0.0.0.0", host_port=8095, guest_port=80) == {"return": {"id": 1}}
        for enter, host in ((lab.in_world, POD4), (lab.in_pod, "127.0.0.1")):
            assert enter(PYTHON, "-c", ASKING, host, "8095", "100").stdout == "100\n"
            enter(PYTHON, "-c", LEAVING, host, "8095", "300")
        until(lambda: not served.run("ss", "-tnH", "state", "established", "sport", "=", "80").stdout, 20, "no connection inside")
    finally:
        server.kill()
        server.wait()


def test_tcp_ports_are_added_listed_and_removed(served, lab):
    server = tell_peer(served, 80)
    try:
        assert add(served, proto="tcp", host_addr="0.0.0.0", host_port=8091, guest_addr="10.0.2.100", guest_port=80) == {"return": {"id": 1}}
        # As Podman asks: empty texts mean the defaults.
        assert add(served, proto="tcp", host_addr="", host_port=8092, guest_addr="", guest_port=80) == {"return": {"id": 2}}
        assert add(served, proto="tcp", host_port=8093, guest_port=80) == {"return": {"id": 3}}
        assert add(served, proto="tcp", host_addr="127.0.0.1", host_port=8094, guest_port=80) == {"return": {"id": 4}}
        for port in (8091, 8092, 8093):
            assert fetch(lab, port) == WORLD4, "the guest sees who it is"
        assert fetch(lab, 8094) == "111" and fetch(lab, 8094, "127.0.0.1", lab.in_pod) == "10.0.2.2"
        listed = ask(served, {"execute": "list_hostfwd"})
        assert listed["entries"] == listed["return"]["entries"] and [entry["id"] for entry in listed["entries"]] == [1, 2, 3, 4]
        assert listed["entries"][1] == {"id": 2, "proto": "tcp", "host_addr": "0.0.0.0", "host_port": 8092, "guest_addr": "10.0.2.100", "guest_port": 80}
        assert ask(served, {"execute": "remove_hostfwd", "arguments": {"id": 2}}) == {"return": {}}
        until(lambda: fetch(lab, 8092) == "111", 5, "the port's end")
        assert [entry["id"] for entry in ask(served, {"execute": "list_hostfwd"})["entries"]] == [1, 3, 4]
        # A taken port.
        assert add(served, proto="tcp", host_port=8091, guest_port=80) == {"error": {"desc": "bad request: add_hostfwd: slirp_add_hostfwd failed"}}
        assert add(served, proto="tcp", host_port=8092, guest_port=80) == {"return": {"id": 5}}
        assert fetch(lab, 8092) == WORLD4
    finally:
        server.kill()
        server.wait()
    # Refused inside is refused outside.
    assert fetch(lab, 8091) in ("104", "111", "")
    served.forwarder.close()


def test_udp_ports_answer_each_client(served, lab):
    server = tell_peer(served, 5300, udp=True)
    try:
        assert add(served, proto="udp", host_port=5301, guest_port=5300) == {"return": {"id": 1}}
        client = """
import socket, sys
found = []
clients = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(int(sys.argv[3]))]
for number, s in enumerate(clients):
    s.settimeout(5); s.connect((sys.argv[1], int(sys.argv[2]))); s.send(b"client %d" % number)
for s in clients: found.append(s.recv(100).decode())
big = clients[0]; big.send(b"x" * 20000); found.append(big.recv(100).decode())
print(found)
"""
        answers = eval(lab.in_world(PYTHON, "-c", client, POD4, "5301", "20").stdout)
        assert answers[:20] == [f"{WORLD4} client {number} {len(f'client {number}')}" for number in range(20)] and answers[20].endswith(" 20000")
        # Also those of the outside's own loopback.
        answers = eval(lab.in_pod(PYTHON, "-c", client, "127.0.0.1", "5301", "3").stdout)
        assert answers[:3] == [f"10.0.2.2 client {number} 8" for number in range(3)]
        assert ask(served, {"execute": "remove_hostfwd", "arguments": {"id": 1}}) == {"return": {}}
        until(lambda: add(served, proto="udp", host_port=5301, guest_port=5300).get("return"), 5, "the port's end")
    finally:
        server.kill()
        server.wait()


def test_udp_from_loopback_where_the_outsides_is_shut(made, lab):
    """libslirp answers nobody there."""
    path = lab.folder / "api-shut.sock"
    guest, forwarder = made.connected("--disable-host-loopback", "--api-socket", str(path))
    guest.path = path
    server = tell_peer(guest, 5300, udp=True)
    try:
        assert add(guest, proto="udp", host_port=5302, guest_port=5300) == {"return": {"id": 1}}
        code = "import socket; s = socket.socket(2, 2); s.settimeout(5); s.connect(('127.0.0.1', 5302)); s.send(b'hello'); print(s.recv(100).decode())"
        assert lab.in_pod(PYTHON, "-c", code).stdout == "10.0.2.2 hello 5\n"
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize("request_, desc", [
    (b"", None), (b"nonsense", "cannot parse JSON"), (b"[1]", "cannot parse JSON"), (b"{", "cannot parse JSON"), (b"{}", "no execute found"),
    (b'{"execute": 5}', "no execute found"), (b'{"execute": "x"}', "unknown execute"), (b"\0\xff", "cannot parse JSON"),
    (b'{"execute": "add_hostfwd"}', "add_hostfwd: bad arguments.proto"), (b'{"execute": "add_hostfwd", "arguments": 7}', "add_hostfwd: bad arguments.proto"),
    (b'{"execute": "add_hostfwd", "arguments": {"proto": "sctp", "host_port": 1, "guest_port": 1}}', "add_hostfwd: bad arguments.proto"),
    (b'{"execute": "add_hostfwd", "arguments": {"proto": "tcp", "host_addr": "x", "host_port": 1, "guest_port": 1}}', "add_hostfwd: bad arguments.host_addr"),
    (b'{"execute": "add_hostfwd", "arguments": {"proto": "tcp", "host_port": 0, "guest_port": 1}}', "add_hostfwd: bad arguments.host_port"),
    (b'{"execute": "add_hostfwd", "arguments": {"proto": "tcp", "host_port": 65536, "guest_port": 1}}', "add_hostfwd: bad arguments.host_port"),
    (b'{"execute": "add_hostfwd", "arguments": {"proto": "tcp", "host_port": 1.5, "guest_port": 1}}', "add_hostfwd: bad arguments.host_port"),
    (b'{"execute": "add_hostfwd", "arguments": {"proto": "tcp", "host_port": 8095, "guest_addr": "fd00::1", "guest_port": 1}}', "add_hostfwd: bad arguments.guest_addr"),
    (b'{"execute": "add_hostfwd", "arguments": {"proto": "tcp", "host_port": 8095}}', "add_hostfwd: bad arguments.guest_port"),
    (b'{"execute": "remove_hostfwd"}', "remove_hostfwd: bad arguments.id"), (b'{"execute": "remove_hostfwd", "arguments": {"id": 9}}', "remove_hostfwd: bad arguments.id"),
    pytest.param(b"x" * 4096, "too large message", id="4096 bytes"), pytest.param(b" " * 5000, "too large message", id="5000 blanks"),
    pytest.param(b"[" * 4000, "cannot parse JSON", id="4000 brackets"),
])
def test_wrong_requests_have_their_answers(served, request_, desc):
    if desc is None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(served.path))
            client.shutdown(socket.SHUT_WR)
            client.settimeout(5)
            assert client.recv(100) == b""
    else:
        assert ask(served, request_) == {"error": {"desc": "bad request: " + desc}}
    assert ask(served, {"execute": "list_hostfwd"})["entries"] == []


def test_clients_that_say_nothing_stall_nobody(served, lab):
    silent = []
    for _ in range(200):
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(served.path))
        silent.append(client)
    silent[-1].send(b'{"execute": "list')
    assert served.run("curl", "-s", f"http://{WORLD4}:8000/").stdout == "hello from world\n"
    assert ask(served, {"execute": "list_hostfwd"}, end=False)["entries"] == []
    silent[-1].send(b'_hostfwd"}')
    silent[-1].settimeout(5)
    assert b"entries" in silent[-1].recv(1000)
    for client in silent:
        client.close()


def test_the_socket_goes_with_it(made, lab):
    path = lab.folder / "api-gone.sock"
    guest = made.guest()
    forwarder = made.forwarder(guest, "-c", "-a", str(path), exit_pipe=True).is_ready()
    assert path.exists()
    os.close(forwarder.exit)
    assert forwarder.process.wait(10) == 0 and not path.exists()


# Ordinary users

def test_an_ordinary_user_for_a_namespace_of_its_own(made, lab):
    guest = made.guest(user=USER)
    forwarder = made.forwarder(guest, "-c", "--enable-sandbox", "--enable-seccomp").is_ready()
    assert guest.run("curl", "-s", f"http://{WORLD4}:8000/").stdout == "hello from world\n"
    pid = forwarder.process.pid
    status = dict(line.split(":\t") for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    assert int(status["CapEff"], 16) & ~(1 << 10) == 0 and sorted(os.listdir(f"/proc/{pid}/root")) == ["etc", "run"]


# Hostile frames

HOSTILE = pathlib.Path(__file__).parents[3] / "shared" / "lab" / "run-hostile.sh"


def test_frames_that_are_meant_to_hurt(lab):
    """A suite of hostile frames that stands outside the repository: after each it lives and forwards, nothing has reached the
    world that must not, and its own frames are in order; and 95 % of the answers are those that the RFCs want."""
    if not HOSTILE.exists():
        pytest.skip(f"{HOSTILE} is not there")
    out = lab.folder / "hostile"
    result = subprocess.run(["bash", str(HOSTILE), BINARY, "slirp4netns"], capture_output=True, text=True, timeout=300, preexec_fn=die_with_parent,
                            env={**os.environ, "PYTHON": PYTHON, "OUT": str(out), "LIMIT": "280", "SLIRP_OPTS": "--disable-host-loopback --disable-offload"})
    summary = re.search(r"== (\d+) cases: (\d+) passed, (\d+) failed \((\d+) killed the forwarder\); expectations (\d+)/(\d+) met", result.stdout)
    assert summary, result.stdout[-3000:] + result.stderr[-1000:]
    cases, passed, failed, killed, met, wanted = map(int, summary.groups())
    assert (passed, failed, killed) == (cases, 0, 0) and cases >= 456, re.findall("^FAIL .*", result.stdout, re.M)
    assert met >= 0.95 * wanted, re.findall("^note .*", result.stdout, re.M)


def test_frames_of_our_own_that_are_meant_to_hurt(made, lab):
    """Fragments in every order, TCP with a state, IPv6 and its headers, neighbours, and the outside's loopback by every name."""
    server = lab.popen_in(lab.pod, [PYTHON, "-c", """
import select, socket
sockets = []
for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        s = socket.socket(family, kind); s.setsockopt(1, 2, 1); s.bind((address, 7414)); sockets.append(s)
        if kind == socket.SOCK_STREAM: s.listen(16)
print("ready", flush=True)
while True:
    for s in select.select(sockets, [], [])[0]:
        print("reached", s.getsockname(), flush=True)
        s.accept() if s.type == socket.SOCK_STREAM else s.recv(100)
"""], stdout=subprocess.PIPE, text=True)
    assert server.stdout.readline() == "ready\n"
    try:
        guest = made.guest()
        forwarder = made.forwarder(guest, "-c", "-6", "--disable-host-loopback", "--disable-offload").is_ready()
        pids = [forwarder.process.pid, *forwarder.children()]
        script = str(pathlib.Path(__file__).parent / "hostile.py")
        result = subprocess.run([*guest.enter(), PYTHON, script, WORLD4, WORLD6, *map(str, pids)], capture_output=True, text=True, timeout=250, preexec_fn=die_with_parent)
        failed = [line for line in result.stdout.splitlines() if line.startswith("FAIL")]
        summary = re.search(r"== (\d+) cases, 0 failed", result.stdout)
        assert summary and not failed, "\n".join(failed) or result.stdout[-1000:] + result.stderr[-2000:]
        assert int(summary[1]) >= 400
        assert not select.select([server.stdout], [], [], 0)[0], server.stdout.readline()
    finally:
        server.kill()
        server.wait()
