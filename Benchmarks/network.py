"""The network's part of the benchmarks: native veth, Debian's slirp4netns and pasta at MTU 65520 and at 1500, and
workspacekit with either link, interleaved, in the lab of the end-to-end tests. Ratios count, not Gbit/s."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import conftest
from conftest import USER, WORLD4, POD4, die_with_parent, until

TICK = os.sysconf("SC_CLK_TCK")
HERE = pathlib.Path(__file__).parent
PORT, INBOUND = "5201", "5202"
# Every forwarder runs as the same ordinary user, as it would in the field.
AS_USER = ["setpriv", "--pdeathsig", "KILL", "--reuid", str(USER), "--regid", str(USER), "--clear-groups"]


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def pss_mib(pid):
    rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) / 1024


class Native:
    name = "native"
    forwarder = None
    names = WORLD4

    def __init__(self, lab, options):
        self.lab = lab

    def enter(self):
        return self.lab.enter(self.lab.pod)

    def inbound_address(self):
        return POD4, INBOUND

    def close(self):
        pass


class Peer:
    """A forwarder of others' on a namespace of its own."""

    def __init__(self, lab, options):
        self.lab = lab
        self.folder = lab.folder / f"peer-{time.monotonic_ns()}"
        self.folder.mkdir()
        os.chown(self.folder, USER, USER)
        self.guest = subprocess.Popen([*lab.enter(lab.pod), *AS_USER, "unshare", "--user", "--map-root-user", "--net", "sleep", "1000"], preexec_fn=die_with_parent)
        until(lambda: os.readlink(f"/proc/{self.guest.pid}/ns/net") not in (os.readlink(f"/proc/{lab.pod.pid}/ns/net"), os.readlink("/proc/self/ns/net")), 5, "the namespace")
        self.started = time.time()
        self.process = subprocess.Popen([*lab.enter(lab.pod), *AS_USER, *self.command(self.guest.pid)], preexec_fn=die_with_parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.forwarder = self.process.pid
        if options.start_only:
            return
        until(lambda: conftest.run(*self.enter(), "ip", "route", "get", WORLD4, check=False).returncode == 0, 10, f"{self.name}'s route")
        conftest.run(*self.enter(), "ip", "link", "set", "lo", "up")
        # The same congestion control in every namespace, unless the peers are to have the kernel's default.
        if not options.default_congestion:
            conftest.run(*self.enter(), "sysctl", "-qw", "net.ipv4.tcp_congestion_control=reno")

    def enter(self):
        return ["nsenter", f"--net=/proc/{self.guest.pid}/ns/net", "--"]

    def inbound_address(self):
        return POD4, INBOUND

    def close(self):
        self.process.kill()
        self.process.wait()
        self.guest.kill()
        self.guest.wait()
        shutil.rmtree(self.folder)


class Slirp4netns(Peer):
    name, mtu, names = "slirp4netns", 65520, "10.0.2.3"

    def command(self, pid):
        return ["slirp4netns", "-c", "-m", str(self.mtu), "-a", str(self.folder / "api"), str(pid), "tap0"]

    def inbound_address(self):
        import socket
        api = socket.socket(socket.AF_UNIX)
        api.connect(str(self.folder / "api"))
        api.sendall(json.dumps({"execute": "add_hostfwd", "arguments": {"proto": "tcp", "host_addr": "0.0.0.0", "host_port": int(INBOUND), "guest_port": int(INBOUND)}}).encode())
        api.shutdown(socket.SHUT_WR)
        api.recv(1000)
        return POD4, INBOUND


class Slirp4netns1500(Slirp4netns):
    name, mtu = "slirp4netns, MTU 1500", 1500


class Pasta(Peer):
    name, mtu, names = "pasta", 65520, WORLD4

    def command(self, pid):
        return ["pasta", "-f", "--config-net", "-m", str(self.mtu), "-t", INBOUND, "-u", "none", "-T", "none", "-U", "none", "--no-map-gw", str(pid)]


class Pasta1500(Pasta):
    name, mtu = "pasta, MTU 1500", 1500


class Ours:
    name, link, names = "workspacekit", "tap", "10.0.2.3"

    def __init__(self, lab, options):
        self.folder = lab.folder / f"bench-{time.monotonic_ns()}"
        self.started = time.time()
        config = f"workspacekit: {{network: {{link: {self.link}, forwards: ['{INBOUND}:{INBOUND}']}}}}\n"
        self.space = conftest.Workspace(lab, self.folder, config, user=USER)
        if options.start_only:
            return
        self.space.started()
        self.forwarder = self.space.stage("slirp")

    def enter(self):
        return ["nsenter", f"--net=/proc/{self.space.stage('ring2')}/ns/net", "--"]

    def inbound_address(self):
        return POD4, INBOUND

    def close(self):
        self.space.stop()
        shutil.rmtree(self.folder)


class OursDropIn(Peer):
    """Called as slirp4netns: for what can be compared with it alone."""
    name = "workspacekit slirp4netns"

    def command(self, pid):
        return [conftest.BINARY, "slirp4netns", "-c", "-m", "1500", str(pid), "tap0"]


class OursPacket(Ours):
    name, link = "workspacekit, packet link", "packet"


def say(*words):
    print(*words, flush=True)


def iperf(enter, tool, address, port, seconds, flows=1, down=False):
    """Gbit/s, and the forwarder's CPU seconds per GiB."""
    before = cpu_seconds(tool.forwarder) if tool.forwarder else 0
    result = subprocess.run([*enter, "iperf3", "-J", "-c", address, "-p", port, "-t", str(seconds), "-P", str(flows), *(["-R"] if down else [])],
                            capture_output=True, text=True, timeout=60)
    end = json.loads(result.stdout)["end"]
    gib = end["sum_received"]["bytes"] / (1 << 30)
    used = cpu_seconds(tool.forwarder) - before if tool.forwarder else 0
    return {"gbits": end["sum_received"]["bits_per_second"] / 1e9, "cpu_s_per_gib": used / gib if gib else float("nan")}


class Nested:
    """A container's place: a namespace behind a bridge with masquerade, as dockerd makes it."""

    def __init__(self, tool):
        self.tool = tool
        inside = lambda *command: conftest.run(*tool.enter(), *command)
        self.holder = subprocess.Popen([*tool.enter(), "unshare", "--net", "sleep", "1000"], preexec_fn=die_with_parent)
        own = lambda: os.readlink(f"/proc/{self.holder.pid}/ns/net")
        outer = conftest.run(*tool.enter(), "readlink", "/proc/self/ns/net").stdout.strip()
        until(lambda: own() != outer and own() != os.readlink("/proc/self/ns/net"), 5, "the nested namespace")
        for command in ("ip link add br0 type bridge", "ip addr add 172.30.0.1/24 dev br0", "ip link set br0 up",
                        f"ip link add veth0 type veth peer name eth0 netns {self.holder.pid}", "ip link set veth0 master br0 up",
                        "sysctl -qw net.ipv4.ip_forward=1"):
            inside(*command.split())
        inside("nft", "add table ip nested; add chain ip nested out { type nat hook postrouting priority 100; }; add rule ip nested out ip saddr 172.30.0.0/24 masquerade")
        for command in ("ip link set lo up", "ip addr add 172.30.0.2/24 dev eth0", "ip link set eth0 up", "ip route add default via 172.30.0.1",
                        "sysctl -qw net.ipv4.tcp_congestion_control=reno"):
            conftest.run(*self.enter(), *command.split())

    def enter(self):
        return ["nsenter", f"--net=/proc/{self.holder.pid}/ns/net", "--"]

    def close(self):
        self.holder.kill()
        self.holder.wait()
        conftest.run(*self.tool.enter(), "nft", "delete", "table", "ip", "nested", check=False)
        conftest.run(*self.tool.enter(), "ip", "link", "del", "br0", check=False)
        conftest.run(*self.tool.enter(), "ip", "link", "del", "veth0", check=False)


class Network:
    def __init__(self, lab, options):
        self.lab, self.options, self.results = lab, options, {}
        self.traffic = lab.folder / "traffic"
        subprocess.run([shutil.which("cc") or shutil.which("clang"), "-O2", "-o", self.traffic, HERE / "traffic.c"], check=True)
        for server in lab.servers:  # its name server's place is needed
            server.kill()
            server.wait()
        lab.servers.clear()
        self.servers = [lab.popen_in(lab.world, ["iperf3", "-s", "-p", PORT], stdout=subprocess.DEVNULL),
                        lab.popen_in(lab.world, [str(self.traffic), "serve", "0.0.0.0"], stdout=subprocess.PIPE)]
        assert self.servers[1].stdout.readline() == b"ready\n"
        time.sleep(0.3)

    def close(self):
        for server in self.servers:
            server.kill()
            server.wait()

    def note(self, tool, measure, value):
        self.results.setdefault(measure, {}).setdefault(tool.name, []).append(value)
        say(f"  {tool.name:26} {measure:20} " + " ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in value.items()))

    def call(self, enter, *arguments):
        result = subprocess.run([*enter, str(self.traffic), *map(str, arguments)], capture_output=True, text=True, timeout=90)
        return json.loads(result.stdout.splitlines()[-1])

    def bulk(self, tool):
        for flows in (1, 8):
            for way in ("up", "down"):
                self.note(tool, f"bulk {way}, {flows}", iperf(tool.enter(), tool, WORLD4, PORT, self.options.seconds, flows, way == "down"))

    def nested(self, tool):
        nested = Nested(tool)
        try:
            for way in ("up", "down"):
                self.note(tool, f"nested {way}", iperf(nested.enter(), tool, WORLD4, PORT, self.options.seconds, 1, way == "down"))
        finally:
            nested.close()

    def inbound(self, tool):
        server = subprocess.Popen([*tool.enter(), "iperf3", "-s", "-p", INBOUND], stdout=subprocess.DEVNULL, preexec_fn=die_with_parent)
        try:
            address, port = tool.inbound_address()
            time.sleep(0.5)
            for way, down in (("to the workspace", False), ("from the workspace", True)):
                self.note(tool, f"inbound {way}", iperf(self.lab.enter(self.lab.world), tool, address, port, self.options.seconds, 1, down))
        finally:
            server.kill()
            server.wait()

    def latency(self, tool):
        self.note(tool, "requests", self.call(tool.enter(), "requests", WORLD4, 1.5))
        self.note(tool, "connects", self.call(tool.enter(), "connects", WORLD4, 1.5))
        for window in (1, 16):
            self.note(tool, f"names, {window}", self.call(tool.enter(), "names", tool.names, 1, window))

    def datagrams(self, tool):
        """The highest rate at which less than one in a hundred is lost."""
        for way in ("up", "down"):
            for size, segments in ((64, 1), (1400, 1), (1400, 40)):
                def attempt(rate):
                    found = self.call(tool.enter(), way, WORLD4, 0.4, size, int(rate), segments)
                    return found["rate"] if found["sent"] and found["arrived"] >= 0.99 * found["sent"] else None
                best, low, high = 0.0, 2000.0, 4_000_000.0 if segments > 1 else 1_000_000.0
                for _ in range(10):
                    middle = (low * high) ** 0.5
                    rate = attempt(middle)
                    if rate and rate > best:
                        best = rate
                    # What cannot be sent as quickly as it was asked for is no reason to ask for more.
                    if rate and rate > middle * 0.9:
                        low = middle
                    else:
                        high = middle
                self.note(tool, f"datagrams {way}, {size} B{', GSO' if segments > 1 else ''}", {"rate": best})

    def memory(self, tool):
        idle = pss_mib(tool.forwarder) if tool.forwarder else 0.0
        client = subprocess.Popen(["prlimit", "--nofile=20000", *tool.enter(), str(self.traffic), "hold", WORLD4, "10000"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent)
        try:
            opened = json.loads(client.stdout.readline())
            held = pss_mib(tool.forwarder) if tool.forwarder and pathlib.Path(f"/proc/{tool.forwarder}/smaps_rollup").exists() else 0.0
            client.stdin.write("again\n")
            client.stdin.flush()
            alive = json.loads(client.stdout.readline())
            self.note(tool, "held", {"idle_mib": idle, "held_mib": held, **opened, **alive})
        finally:
            client.kill()
            client.wait()

    def first_connect(self, kind):
        self.options.start_only = True
        tool = kind(self.lab, self.options)
        try:
            if isinstance(tool, Ours):
                # The workspace's own first program: its namespace is not known before.
                tool.close()
                begun = time.time()
                folder = self.lab.folder / f"first-{time.monotonic_ns()}"
                space = conftest.Workspace(self.lab, folder, "", user=USER, command=[str(self.traffic), "first", WORLD4])
                assert space.wait() == 0, space.stderr
                at = json.loads(space.stdout)["at"]
                space.stop()
                shutil.rmtree(folder)
            else:
                begun = tool.started
                at = self.call(tool.enter(), "first", WORLD4)["at"]
                tool.close()
            self.note(tool, "first connect", {"ms": (at - begun) * 1000})
        finally:
            self.options.start_only = False

    def lossy(self, tool):
        """20 ms and one lost in a hundred on the way out."""
        relay = subprocess.Popen([sys.executable, str(HERE.parent / "Tests" / "EndToEnd" / "delay.py"), str(self.lab.pod.pid), str(self.lab.world.pid), "10"],
                                 stdout=subprocess.PIPE, preexec_fn=die_with_parent)
        rules = ('table inet loss { chain in { type filter hook prerouting priority -300; iifname "delay0" numgen random mod 100 == 0 drop; }; '
                 'chain out { type filter hook postrouting priority 300; oifname "delay0" numgen random mod 100 == 0 drop; }; }')
        try:
            assert relay.stdout.readline() == b"ready\n"
            self.lab.in_world("nft", "-f", "-", input=rules)
            for way in ("up", "down"):
                found = iperf(tool.enter(), tool, "198.18.9.1", PORT, max(4, self.options.seconds), 1, way == "down")
                self.note(tool, f"lossy {way}", found)
        finally:
            self.lab.in_world("nft", "delete", "table", "inet", "loss", check=False)
            relay.kill()
            relay.wait()

    def run(self):
        """One round after the other, and in each all tools."""
        measures = {
            Native: ("bulk", "nested", "inbound", "latency", "datagrams", "memory", "lossy"),
            Slirp4netns: ("bulk", "inbound", "latency", "datagrams", "memory"), Slirp4netns1500: ("bulk", "nested"),
            Pasta: ("bulk", "inbound", "latency", "datagrams", "memory"), Pasta1500: ("bulk", "nested"),
            Ours: ("bulk", "nested", "inbound", "latency", "datagrams", "memory", "lossy"), OursPacket: ("bulk", "nested"),
        }
        wanted = self.options.measures.split(",") if self.options.measures else None
        for number in range(self.options.rounds):
            say(f"round {number + 1}")
            for kind, names in measures.items():
                if self.options.tools and kind.__name__ not in self.options.tools.split(","):
                    continue
                tool = kind(self.lab, self.options)
                try:
                    for name in names:
                        if wanted and name not in wanted:
                            continue
                        try:
                            getattr(self, name)(tool)
                        except (subprocess.SubprocessError, json.JSONDecodeError, KeyError, OSError, AssertionError) as error:
                            say(f"  {tool.name:26} {name:20} failed: {type(error).__name__} {str(error)[:100]}")
                finally:
                    tool.close()
            if not wanted or "first" in wanted:
                for kind in (Slirp4netns, Pasta, OursDropIn, Ours):
                    for _ in range(3):
                        self.first_connect(kind)
        return self.results
