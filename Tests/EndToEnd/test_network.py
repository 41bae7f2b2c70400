"""The workspace's network: what gets out, what gets in, what does not, and what is said about it."""

import json
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess

import pytest

from conftest import MASKED_LINE, BINARY, HERE, POD4, POD6, PYTHON, WORLD4, WORLD6, tagged, until

CLIENT = str(HERE / "client.py")
GIB = str(1 << 30)


def ask(result):
    assert result.returncode == 0, result.stderr + result.stdout
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(params=["tap", "packet"])
def space(workspace, request):
    """A workspace with either kind of link: everything holds with both."""
    return workspace(f"workspacekit: {{network: {{link: {request.param}}}}}\n").started()


def client(space, verb, *arguments):
    return ask(space.exec(PYTHON, CLIENT, verb, *map(str, arguments)))


def test_inside_has_a_network_of_its_own(inside, lab):
    before = [lab.in_pod("ip", *what).stdout for what in (["-br", "addr"], ["route"], ["-6", "route"])]
    result = inside("sh", "-c", "ip -br addr; echo ==; ip route; echo ==; ip -6 route; echo ==; cat /etc/resolv.conf")
    addresses, four, six, resolver = result.stdout.split("==\n")
    assert re.search(r"^tap0 .*\b10\.0\.2\.100/24 .*\bfd00::[0-9a-f:]*/64", addresses, re.M)
    assert re.search(r"^lo .*127\.0\.0\.1/8 ::1/128", addresses, re.M)
    assert "default via 10.0.2.2 dev tap0" in four
    assert "default via fd00::2 dev tap0" in six
    assert resolver == "nameserver 10.0.2.3\nsearch example.test\n"
    assert before == [lab.in_pod("ip", *what).stdout for what in (["-br", "addr"], ["route"], ["-6", "route"])]


@pytest.mark.parametrize("host", [WORLD4, f"[{WORLD6}]"])
def test_http(inside, host):
    result = inside("curl", "-sS", "-m", "5", f"http://{host}:8000/")
    assert (result.returncode, result.stdout, result.stderr) == (0, "hello from world\n", MASKED_LINE)


@pytest.mark.parametrize("host", [WORLD4, WORLD6])
@pytest.mark.parametrize("verb", ["upload", "download"])
def test_a_gibibyte_arrives_whole(space, verb, host):
    assert client(space, verb, host, GIB) == {"length": 1 << 30, "equal": True}


@pytest.mark.parametrize("host", [WORLD4, WORLD6])
def test_iperf3_measures_both_ways(space, lab, host):
    """Streams both ways, one and several, and datagrams, as others measure them."""
    server = lab.popen_in(lab.world, ["iperf3", "-s", "-p", "5301", "--forceflush"], stdout=subprocess.PIPE, text=True)
    try:
        until(lambda: "listening" in server.stdout.readline(), 5, "iperf3")
        def measure(*options):
            found = json.loads(space.exec("iperf3", "-J", "-c", host, "-p", "5301", *options).stdout)
            assert "error" not in found, found
            return found["end"]
        # What is under way when the senders have sent all is not counted by the receivers.
        for options in ((), ("-R",), ("-P", "4"), ("-P", "4", "-R")):
            end = measure("-n", "64M", *options)
            assert end["sum_sent"]["bytes"] >= 64 << 20 and end["sum_received"]["bytes"] > 30_000_000, options
        for options in ((), ("-R",)):
            end = measure("-u", "-b", "20M", "-l", "1200", "-t", "1", *options)["sum"]
            assert end["packets"] > 1000 and end["lost_percent"] < 1, options
    finally:
        server.kill()
        server.wait()


# On arrival: what a sender's own kernel drops is an error of its send, and was never sent.
LOSS = """table inet loss { chain in { type filter hook prerouting priority -300;
iifname "%s" numgen random mod 100 == 0 counter drop; }; }"""


def kernel_gaps(enter):
    """Segments that came early at a network namespace's own TCP."""
    lines = [line.split() for line in enter("cat", "/proc/net/netstat").stdout.splitlines() if line.startswith("TcpExt:")]
    return int(dict(zip(lines[0][1:], lines[1][1:]))["TCPOFOQueue"])


def counters(space):
    return json.loads(space.cli("net flows", "--json").stdout)["counters"]


@pytest.mark.parametrize("verb", ["upload", "download"])
def test_a_gibibyte_with_one_percent_loss_on_the_uplink(space, lab, verb):
    enters = lab.in_world, lab.in_pod
    receiver = enters[verb == "download"]
    for enter in enters:
        enter("nft", "-f", "-", input=LOSS % "eth0")
    try:
        before = kernel_gaps(receiver)
        assert client(space, verb, WORLD4, GIB) == {"length": 1 << 30, "equal": True}
        assert kernel_gaps(receiver) > before, "no gap appeared: the test tests nothing"
    finally:
        for enter in enters:
            enter("nft", "delete", "table", "inet", "loss")


def test_a_gibibyte_down_with_one_percent_loss_on_the_tap(space):
    space.exec("nft", LOSS % "tap0")
    assert client(space, "download", WORLD4, GIB) == {"length": 1 << 30, "equal": True}
    assert counters(space)["retransmitted"] > 0, "no gap appeared: the test tests nothing"


# A network behind the workspace: what is dropped on the way through was sent, and is a gap for the forwarder.
BEHIND = """set -e
unshare --net sh -c 'echo ready; exec sleep 1000' > behind & pid=$!
until test -s behind; do sleep 0.01; done
ip link add near type veth peer name far netns $pid
ip addr add 10.9.0.1/24 dev near; ip link set near up
nsenter -t $pid --net sh -c 'ip addr add 10.9.0.2/24 dev far && ip link set far up && ip route add default via 10.9.0.1'
echo 1 > /proc/sys/net/ipv4/ip_forward
nft 'table ip behind { chain out { type nat hook postrouting priority 100; oifname "tap0" masquerade; }; }'
nft 'table inet loss { chain through { type filter hook forward priority 0; numgen random mod 100 == 0 counter drop; }; }'
trap 'kill $pid' EXIT
nsenter -t $pid --net "$@"
"""


@pytest.mark.parametrize("verb", ["upload", "download"])
def test_a_gibibyte_with_one_percent_loss_behind_the_workspace(space, verb):
    assert ask(space.exec("sh", "-c", BEHIND, "sh", PYTHON, CLIENT, verb, WORLD4, GIB)) == {"length": 1 << 30, "equal": True}
    found = counters(space)
    if verb == "upload":
        assert found["out_of_order"] > 0, "no gap appeared: the test tests nothing"
    else:
        assert found["retransmitted"] > 0, "no gap appeared: the test tests nothing"


# Reads nothing until the far side has sent all it may; then the update of its window is lost, and no other comes.
LATE_READER = """
import hashlib, json, socket, subprocess, sys, time
from client import digest_of
host, count = sys.argv[1], 20_000_000
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384); s.settimeout(120); s.connect((host, 9001))
s.sendall(b"%d\\n" % count)
def window():
    line = subprocess.run(["ss", "-tinH", "dst", host, "dport", "9001"], capture_output=True, text=True).stdout
    return int(line.split("rcv_wnd:")[1].split()[0]) if "rcv_wnd:" in line else -1
deadline, last = time.monotonic() + 30, None
def queued(): return int(subprocess.run(["ss", "-tnH", "dst", host, "dport", "9001"], capture_output=True, text=True).stdout.split()[1])
# Full when what waits has not grown for a while.
same = 0
while same < 20 and time.monotonic() < deadline:
    now = queued(); same = same + 1 if now == last and now > 0 else 0; last = now; time.sleep(0.02)
subprocess.run(["nft", 'table inet mute { chain out { type filter hook output priority 0; oifname "tap0" tcp dport 9001 counter drop; }; }'], check=True)
digest, length = hashlib.sha256(), 0
while length < last: data = s.recv(last - length); digest.update(data); length += len(data)
lost = int(subprocess.run(["nft", "list", "table", "inet", "mute"], capture_output=True, text=True).stdout.split("counter packets ")[1].split()[0])
subprocess.run(["nft", "delete", "table", "inet", "mute"], check=True)
while data := s.recv(1 << 16): digest.update(data); length += len(data)
print(json.dumps({"length": length, "equal": digest.hexdigest() == digest_of(count), "lost": lost > 0}))
"""


def test_a_lost_update_of_the_window_stalls_no_download(space):
    found = ask(space.exec("env", f"PYTHONPATH={HERE}", PYTHON, "-c", LATE_READER, WORLD4))
    assert found == {"length": 20_000_000, "equal": True, "lost": True}


def test_connections_to_one_endpoint_use_every_local_port_in_turn(space, lab):
    """Else the kernel tries every second port first, and searches all of them for each connection once they are used up."""
    before = lab.in_pod("cat", "/proc/sys/net/ipv4/ip_local_port_range").stdout
    lab.in_pod("sysctl", "-qw", "net.ipv4.ip_local_port_range=42000 42999")
    try:
        assert client(space, "many", "198.18.0.12", 40) == {"failures": []}
        seen = lab.in_pod("ss", "-tanH", "dst", "198.18.0.12").stdout
        ports = {int(line.split()[3].rpartition(":")[2]) for line in seen.splitlines()}
        assert len(ports) >= 40 and ports <= set(range(42000, 43000))
        assert {port % 2 for port in ports} == {0, 1}
    finally:
        lab.in_pod("sysctl", "-qw", f"net.ipv4.ip_local_port_range={' '.join(before.split())}")


@pytest.mark.parametrize("verb", ["upload", "download"])
def test_a_gibibyte_over_twenty_milliseconds(space, lab, verb):
    relay = subprocess.Popen(
        [PYTHON, str(HERE / "delay.py"), str(lab.pod.pid), str(lab.world.pid), "10"], stdout=subprocess.PIPE)
    try:
        assert relay.stdout.readline() == b"ready\n"
        ping = lab.in_pod("ping", "-c", "2", "-i", "0.2", "198.18.9.1").stdout
        assert float(re.search(r"rtt min/avg/max/mdev = ([\d.]+)", ping)[1]) >= 20
        assert client(space, verb, "198.18.9.1", GIB) == {"length": 1 << 30, "equal": True}
    finally:
        relay.kill()
        relay.wait()


@pytest.mark.parametrize("host", [WORLD4, WORLD6])
def test_two_hundred_connections_at_once(space, host):
    assert client(space, "many", host, 200) == {"failures": []}


@pytest.mark.parametrize("host", [WORLD4, WORLD6])
def test_datagrams_of_every_size(space, host):
    sizes = [1, 2, 100, 1400, 1452, 1453, 1472, 1473, 2000, 9000, 30000, 60000]
    assert client(space, "udp_echo", host, *sizes) == {str(size): True for size in sizes}


@pytest.mark.parametrize("host", [WORLD4, WORLD6])
def test_datagrams_that_come_at_once_keep_their_borders(space, host):
    """Outwards the forwarder sends those of one size together: a shorter one is the last of them."""
    found = json.loads(space.exec(PYTHON, "-c", f"""
import json, socket
s = socket.socket(socket.AF_INET6 if ":" in "{host}" else socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5); s.connect(("{host}", 7))
sizes = [700, 700, 600, 700, 1200, 700, 700, 1, 700, 700]
wrong = []
for _ in range(50):
    for number, size in enumerate(sizes): s.send(bytes([number]) * size)
    heard = [s.recv(65536) for _ in sizes]
    if heard != [bytes([number]) * size for number, size in enumerate(sizes)]: wrong.append([len(data) for data in heard])
print(json.dumps(wrong))
""").stdout)
    assert found == [], found[:3]


@pytest.mark.parametrize("kind,answer", [("A", WORLD4), ("AAAA", WORLD6)])
@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
def test_names(space, kind, answer, transport):
    result = space.exec("dig", "+short", "+time=3", "+tries=1", transport, "@10.0.2.3", "www.example.test", kind)
    assert result.stdout.strip() == answer


def test_a_truncated_answer_is_asked_again_over_tcp(space):
    result = space.exec("dig", "+short", "+time=3", "+tries=1", "@10.0.2.3", "big.test", "TXT")
    assert len(result.stdout) > 1500


def test_the_libc_resolver_finds_names(space):
    result = space.exec("getent", "ahostsv4", "www.example.test")
    assert result.stdout.startswith(WORLD4)


@pytest.fixture
def resolver(lab):
    """Replaces the pod's resolv.conf, by rename; afterwards it is as before."""
    def replace(text):
        (lab.folder / "etc" / "resolv.new").write_text(text)
        os.rename(lab.folder / "etc" / "resolv.new", lab.folder / "etc" / "resolv.conf")
    yield replace
    replace(f"nameserver {WORLD4}\nsearch example.test\n")


# Refuses at once, and stays silent.
@pytest.mark.parametrize("dead", [POD4, "198.18.0.77"])
def test_the_next_name_server_is_asked(workspace, resolver, dead):
    resolver(f"nameserver {dead}\nnameserver {WORLD4}\n")
    space = workspace("").started()
    dig = lambda: space.exec("dig", "+short", "+time=4", "+tries=1", "@10.0.2.3", "www.example.test", check=False).stdout.strip()
    assert dig() == WORLD4
    assert dig() == WORLD4


def test_the_containers_resolv_conf_is_followed(workspace, resolver):
    resolver("nameserver 198.18.0.77\n")
    space = workspace("").started()
    dig = lambda: space.exec("dig", "+short", "+time=1", "+tries=1", "@10.0.2.3", "www.example.test", check=False).stdout.strip()
    assert dig() != WORLD4
    resolver(f"nameserver {WORLD4}\n")
    until(lambda: dig() == WORLD4, 5, "the new name server")


def test_an_edit_and_a_link_that_is_switched_are_followed_too(workspace, resolver, lab):
    """As systemd-resolved and NetworkManager have it: a link, to a file elsewhere, which is edited and later another one."""
    etc = lab.folder / "etc"
    dead, alive = "nameserver 198.18.0.77\n", f"nameserver {WORLD4}\n"
    for name in ("first", "second"):
        (etc / name).mkdir(exist_ok=True)
        (etc / name / "resolv.conf").write_text(dead)
    def link(target):
        (etc / "resolv.new").symlink_to(target)
        os.rename(etc / "resolv.new", etc / "resolv.conf")
    link("/etc/first/resolv.conf")
    space = workspace("").started()
    dig = lambda: space.exec("dig", "+short", "+time=1", "+tries=1", "@10.0.2.3", "www.example.test", check=False).stdout.strip()
    assert dig() != WORLD4
    (etc / "first/resolv.conf").write_text(alive)
    until(lambda: dig() == WORLD4, 5, "the edit of what the link leads to")
    link("/etc/second/resolv.conf")
    until(lambda: dig() != WORLD4, 5, "the other link")
    (etc / "second/resolv.conf").write_text(alive)
    until(lambda: dig() == WORLD4, 5, "the edit of what the other link leads to")


@pytest.mark.parametrize("host", ["10.0.2.2", WORLD4, "fd00::2", WORLD6])
def test_ping(space, host):
    result = space.exec("ping", "-c", "2", "-i", "0.2", "-W", "2", host)
    assert "0% packet loss" in result.stdout


def test_large_pings_are_fragmented_and_put_together(space):
    assert "0% packet loss" in space.exec("ping", "-c", "1", "-s", "8000", "-W", "2", WORLD4).stdout


@pytest.mark.parametrize("host", [WORLD4, WORLD6])
def test_a_refused_port_is_refused_at_once(space, host):
    answer = client(space, "errno_of", host, 81)
    assert answer["errno"] == "ECONNREFUSED" and answer["seconds"] < 1
    assert client(space, "udp_errno_of", host, 81) == {"errno": "ECONNREFUSED"}


@pytest.mark.parametrize("host", ["198.19.5.5", "fd19::5"])
def test_an_unreachable_network_says_so(space, lab, host):
    # The pod itself gets the reference answer.
    reference = json.loads(lab.in_pod(PYTHON, CLIENT, "errno_of", host, "80").stdout)
    answer = client(space, "errno_of", host, 80)
    assert answer["errno"] == reference["errno"] and answer["errno"] in ("EHOSTUNREACH", "ENETUNREACH")
    assert answer["seconds"] < 3


def test_another_forwarder_goes_on_where_the_link_stands(space):
    """Also in the middle of the ring that a packet socket has."""
    for _ in range(3):
        assert client(space, "download", WORLD4, 30_000_000)["equal"]
        os.kill(space.stage("slirp"), signal.SIGKILL)
        until(lambda: space.exec("ping", "-c", "1", "-W", "1", WORLD4, check=False).returncode == 0, 10, "the next forwarder")
        assert client(space, "upload", WORLD6, 30_000_000)["equal"]


@pytest.mark.parametrize("link", ["tap", "packet"])
def test_single_segments(workspace, link):
    space = workspace(f"workspacekit: {{network: {{link: {link}, gso: false}}}}\n").started()
    assert client(space, "upload", WORLD4, 50_000_000)["equal"] and client(space, "download", WORLD4, 50_000_000)["equal"]
    # Each frame was one segment.
    counters = json.loads(space.lab.in_pod(*space.prefix, BINARY, "net", "flows", "--json", "--state-dir", str(space.state)).stdout)["counters"]
    assert counters["bytes_in"] / counters["frames_in"] < 1600 and counters["bytes_out"] / counters["frames_out"] < 1600


@pytest.mark.parametrize("host", [WORLD4, WORLD6])
def test_half_close_both_ways(space, host):
    # upload and download: we close our half first, then read.
    assert client(space, "upload", host, 100_000) == {"length": 100_000, "equal": True}
    assert client(space, "download", host, 100_000) == {"length": 100_000, "equal": True}
    # The far side closes its half first, and still hears us.
    assert client(space, "heard_after_its_end", host, 3_000_000) == {"length": 3_000_000, "equal": True}


def test_a_server_that_speaks_first_is_heard_by_a_late_forwarder(space, lab):
    """The forwarder is held while the connection comes about: its words arrive with the news that it stands."""
    relay = subprocess.Popen(
        [PYTHON, str(HERE / "delay.py"), str(lab.pod.pid), str(lab.world.pid), "100"], stdout=subprocess.PIPE)
    slirp = space.stage("slirp")
    asking = None
    try:
        assert relay.stdout.readline() == b"ready\n"
        lab.in_pod("ping", "-c", "1", "198.18.9.1")
        asking = subprocess.Popen([*lab.enter(lab.pod), *space.prefix, BINARY, "exec", "--state-dir", str(space.state), "--",
                                   PYTHON, CLIENT, "greeting", "198.18.9.1"], stdout=subprocess.PIPE, text=True)
        until(lambda: "198.18.9.1:9002" in lab.in_pod("ss", "-tnH", "state", "syn-sent").stdout, 5, "the outside connect")
        os.kill(slirp, signal.SIGSTOP)
        until(lambda: re.search(r"^4 +0 .*198\.18\.9\.1:9002", lab.in_pod("ss", "-tnH", "state", "close-wait").stdout, re.M)
              or re.search(r"^5 +0 .*198\.18\.9\.1:9002", lab.in_pod("ss", "-tnH", "state", "close-wait").stdout, re.M),
              5, "the server's words, and its end")
        os.kill(slirp, signal.SIGCONT)
        assert json.loads(asking.communicate(timeout=10)[0]) == {"heard": "bye\n", "end": True}
    finally:
        os.kill(slirp, signal.SIGCONT)
        for process in filter(None, (relay, asking)):
            process.kill()
            process.wait()


def test_a_far_end_that_is_gone_is_noticed(workspace, lab):
    """The workspace's keepalive reaches the far end, not only the forwarder; and timestamps are agreed on."""
    space = workspace("tasks: [{command: exec sleep 1000}]\n").started()
    client = subprocess.Popen([*lab.enter(lab.pod), *space.prefix, BINARY, "exec", "--state-dir", str(space.state), "--", PYTHON, "-c", """
import socket
s = socket.create_connection(("198.18.0.12", 7)); s.sendall(b"x"); s.recv(1)
for level, name, value in ((1, 9, 1), (6, 4, 1), (6, 5, 1), (6, 6, 20)): s.setsockopt(level, name, value)
print("up", flush=True)
try: s.recv(1)
except OSError as error: print(error.strerror, flush=True)
"""], env=space.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        assert client.stdout.readline() == "up\n"
        assert "mss:1448 " in space.exec("ss", "-tinH", "dst", "198.18.0.12").stdout
        lab.in_world("ip", "addr", "del", "198.18.0.12/32", "dev", "eth0")
        assert client.wait(30) == 0 and client.stdout.read() in ("Connection reset by peer\n", "No route to host\n")
    finally:
        client.kill()
        client.wait()
        lab.in_world("ip", "addr", "replace", "198.18.0.12/32", "dev", "eth0")


def test_five_thousand_connections_leak_nothing(space):
    slirp = space.stage("slirp")
    count = lambda: len(os.listdir(f"/proc/{slirp}/fd"))
    client(space, "sequential", WORLD4, 50)
    until(lambda: count() < 40, 5, "the end of the first connections")
    before = count()
    assert client(space, "sequential", WORLD4, 5000) == {"done": 5000}
    until(lambda: count() <= before + 2, 10, f"as few descriptors as before ({before}, now {count()})")
    until(lambda: flow_count(space) <= 2, 10, "an empty flow table")


def flow_count(space):
    """From the head of the forwarder's flow table, a memory file that ring0 holds too."""
    for entry in pathlib.Path(f"/proc/{space.process.pid}/fd").iterdir():
        if "workspacekit-flows" in os.readlink(entry):
            with open(entry, "rb") as file:
                magic, capacity, count = struct.unpack("<QII", file.read(16))
            assert magic == 0x776B666C6F770004 and capacity == 65536
            return count


def test_the_flow_table_counts_what_is_open(space):
    holder = subprocess.Popen([*space.lab.enter(space.lab.pod), *space.prefix, BINARY, "exec", "--state-dir", str(space.state), "--",
                               PYTHON, "-c", f"import socket, time; s = [socket.create_connection(('{WORLD4}', 7)) for _ in range(30)]; "
                               "print('open', flush=True); time.sleep(60)"], stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"open\n"
        assert 30 <= flow_count(space) <= 32
    finally:
        holder.kill()
        holder.wait()


def test_the_containers_loopback_is_out_of_reach(space, lab):
    server = lab.popen_in(lab.pod, [PYTHON, "-m", "http.server", "--bind", "127.0.0.1", "8123"],
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: lab.in_pod("curl", "-s", "http://127.0.0.1:8123/", check=False).returncode == 0, 5, "the server")
        for host in ("10.0.2.2", "fd00::2"):
            answer = client(space, "errno_of", host, 8123)
            assert answer["errno"] == "ECONNREFUSED" and answer["seconds"] < 1
    finally:
        server.kill()
        server.wait()


def test_a_named_port_of_the_containers_loopback_is_reachable(workspace, lab):
    space = workspace("workspacekit: {network: {hostLoopback: [8124/tcp]}}").started()
    server = lab.popen_in(lab.pod, [PYTHON, "-m", "http.server", "--bind", "127.0.0.1", "8124"],
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: lab.in_pod("curl", "-s", "http://127.0.0.1:8124/", check=False).returncode == 0, 5, "the server")
        assert client(space, "errno_of", "10.0.2.2", 8124)["errno"] == "connected"
        assert client(space, "errno_of", "10.0.2.2", 8125)["errno"] == "ECONNREFUSED"
    finally:
        server.kill()
        server.wait()


# AWS, its containers (ECS, EKS), the rest of 169.254/16, GCP, Azure, Alibaba, Oracle.
@pytest.mark.parametrize("host", ["169.254.169.254", "169.254.170.2", "169.254.170.23", "169.254.0.1", "fd00:ec2::254", "fd00:ec2::23",
                                  "fd20:ce::254", "168.63.129.16", "100.100.100.200", "192.0.0.192", "64:ff9b::a9fe:aa02"])
def test_cloud_metadata_is_rejected_at_once(space, host):
    answer = client(space, "errno_of", host, 80)
    assert answer["errno"] in ("ECONNREFUSED", "EACCES") and answer["seconds"] < 1


DECLARED = "ports: [{port: 8085, name: web}]\n"


@pytest.mark.parametrize("host", [POD4, POD6])
def test_a_declared_port_is_reached_while_something_listens(workspace, lab, host):
    space = workspace(DECLARED).started()
    url = f"http://[{host}]:8085/" if ":" in host else f"http://{host}:8085/"
    fetch = lambda: lab.in_world("curl", "-sS", "-m", "3", url, check=False)
    assert "refused" in fetch().stderr.lower() or fetch().returncode == 7
    space.exec("sh", "-c", f"cd {space.folder} && echo served >index.html && "
               f"setsid {PYTHON} -m http.server --bind :: 8085 >http.log 2>&1 </dev/null & echo $! >{space.folder}/pid")
    until(lambda: fetch().stdout == "served\n", 5, "the forwarded port")
    # The server sees who asked.
    peer = WORLD6 if ":" in host else WORLD4
    assert peer in (space.folder / "http.log").read_text()
    space.exec("sh", "-c", f"kill -9 $(cat {space.folder}/pid)")
    until(lambda: fetch().returncode == 7, 5, "refusal once nothing listens")


def test_a_forward_carries_much_both_ways(workspace, lab):
    workspace("ports: [{port: 9000}, {port: 9001}]\n", command=[PYTHON, str(HERE / "world.py"), "0.0.0.0", "::1"]).started()
    until(lambda: json.loads(lab.in_world(PYTHON, CLIENT, "errno_of", POD4, "9001").stdout)["errno"] == "connected", 5, "the forward")
    for verb in ("upload", "download"):
        result = lab.in_world(PYTHON, CLIENT, verb, POD4, str(1 << 28))
        assert json.loads(result.stdout) == {"length": 1 << 28, "equal": True}


@pytest.mark.parametrize("config,arguments", [
    ("workspacekit: {network: {mode: host}}", []), ("experimentalNetwork: false", []), ("", ["--network", "host"])])
def test_host_mode_shares_the_containers_network(workspace, lab, config, arguments):
    space = workspace(config, arguments=arguments).started()
    assert space.exec("readlink", "/proc/self/ns/net").stdout == lab.in_pod("readlink", "/proc/self/ns/net").stdout
    assert "hello from world" in space.exec("curl", "-sS", "-m", "5", f"http://{WORLD4}:8000/").stdout
    assert forwarders(space) == []


def test_none_mode_has_lo_only(workspace):
    space = workspace("workspacekit: {network: {mode: none}}").started()
    assert re.fullmatch(r"lo +UNKNOWN +127\.0\.0\.1/8 ::1/128 *\n", space.exec("ip", "-br", "addr").stdout)
    assert forwarders(space) == []


def forwarders(space):
    pid = space.process.pid
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [child for child in children if pathlib.Path(f"/proc/{child}/comm").read_text().strip() == "slirp"]


def test_the_mode_of_the_command_line_wins(workspace):
    space = workspace("workspacekit: {network: {mode: host}}", arguments=["--network", "none"]).started()
    assert "tap0" not in space.exec("ip", "-br", "addr").stdout
    assert forwarders(space) == []


def test_a_datagram_server_of_the_containers_loopback_answers_and_nobody_else_does(workspace, lab):
    server = lab.popen_in(lab.pod, [PYTHON, "-c", """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("127.0.0.1", 8125)); print("ready", flush=True)
data, peer = s.recvfrom(100)
for port in (0, 8125):
    other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); other.bind(("127.0.0.9", port)); other.sendto(b"forged", peer)
s.sendto(b"answer to " + data, peer)
"""], stdout=subprocess.PIPE)
    assert server.stdout.readline() == b"ready\n"
    space = workspace("workspacekit: {network: {hostLoopback: [8125/udp]}}").started()
    result = space.exec(PYTHON, "-c", """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5); s.sendto(b"x", ("10.0.2.2", 8125))
print(*s.recvfrom(100))
""")
    assert result.stdout == "b'answer to x' ('10.0.2.2', 8125)\n"
    server.wait(5)
