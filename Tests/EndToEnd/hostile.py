"""Hostile frames that no kernel sends, put on the link by hand; run inside a guest's network namespace.

    hostile.py WORLD4 WORLD6 PID...     prints a line for each case: ok or FAIL, its name, and what was wrong

After each case the processes live, and a datagram is still echoed by the world. Cases that expect something of their own
say so. Their station is one that the guest's kernel does not know, so that it answers nothing."""

import itertools
import os
import random
import socket
import sys
import time

from scapy.all import (ICMP, IP, TCP, UDP, Ether, ICMPv6EchoRequest, ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6ND_RA, ICMPv6ND_Redirect, ICMPv6ND_RS,
                       ICMPv6NDOptPrefixInfo, ICMPv6NDOptSrcLLAddr, IPOption, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop,
                       IPv6ExtHdrRouting, PadN, Raw, conf, in6_chksum)

WORLD4, WORLD6 = sys.argv[1:3]
PIDS = [int(pid) for pid in sys.argv[3:]]
MINE4, MINE6 = "10.0.2.60", "fd00::60"
HARDWARE, ROUTER = "02:11:22:33:44:66", "52:55:0a:00:02:02"
conf.verb = 0
dice = random.Random(5)


class Link:
    def __init__(self):
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.socket.bind(("tap0", 3))
        self.port = 20000

    def send(self, packet):
        frame = packet if isinstance(packet, bytes) else bytes(packet)
        try:
            self.socket.send(frame)
        except OSError:  # larger than the link
            pass

    def next_port(self):
        self.port += 1
        return self.port

    def receive(self, wanted, seconds=2.0):
        """The first packet from the router that is wanted; nil when the time is over."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                data, (_, _, kind, _, _) = self.socket.recvfrom(70000)
            except (TimeoutError, BlockingIOError):
                return None
            if kind == socket.PACKET_OUTGOING:
                continue
            packet = Ether(data)
            if wanted(packet):
                return packet
        return None

    def drain(self):
        self.socket.setblocking(False)
        while True:
            try:
                self.socket.recv(70000)
            except BlockingIOError:
                return


link = Link()


def ether(payload, kind=None):
    return Ether(src=HARDWARE, dst=ROUTER, **({"type": kind} if kind else {})) / payload


def ip4(**fields):
    return IP(src=MINE4, dst=WORLD4, **fields)


def ip6(**fields):
    return IPv6(src=MINE6, dst=WORLD6, **fields)


def echoed(port, payload, seconds=1.5, version=4):
    """Whether the world's echo of a datagram from that port came back, reassembled."""
    parts = {}

    def wanted(packet):
        layer = IP if version == 4 else IPv6
        if layer not in packet or packet[layer].dst != (MINE4 if version == 4 else MINE6):
            return False
        return UDP in packet and packet[UDP].dport == port and bytes(packet[UDP].payload) == payload
    return link.receive(wanted, seconds) is not None


cases, failures = 0, 0


def check(name, problem=None):
    """Ends a case: what was wrong with it, and whether everything goes on."""
    global cases, failures
    cases += 1
    problems = [problem] if problem else []
    for pid in PIDS:
        if not os.path.exists(f"/proc/{pid}"):
            problems.append("it is dead")
    port = link.next_port()
    canary = b"canary %d" % port
    for _ in range(3):
        link.send(ether(ip4() / UDP(sport=port, dport=7) / canary))
        if echoed(port, canary, 1.0):
            break
    else:
        problems.append("it does not forward any more")
    failures += bool(problems)
    print(("FAIL " if problems else "ok ") + name + (": " + "; ".join(problems) if problems else ""), flush=True)
    if "it is dead" in problems:
        sys.exit(1)


# Fragments

def fragments4(payload, cuts, identification, port):
    datagram = bytes(ip4(id=identification) / UDP(sport=port, dport=7) / payload)[20:]
    edges = [0, *cuts, len(datagram)]
    return [IP(src=MINE4, dst=WORLD4, id=identification, proto=17, frag=start // 8, flags=0 if end == len(datagram) else 1) / datagram[start:end]
            for start, end in zip(edges, edges[1:])]


def fragments6(payload, cuts, identification, port):
    datagram = UDP(sport=port, dport=7) / payload
    whole = bytes(ip6() / datagram)[40:]
    edges = [0, *cuts, len(whole)]
    return [IPv6(src=MINE6, dst=WORLD6, nh=44) / IPv6ExtHdrFragment(nh=17, id=identification, offset=start // 8, m=0 if end == len(whole) else 1) / Raw(whole[start:end])
            for start, end in zip(edges, edges[1:])]


def fragment_cases():
    payload = bytes(dice.randrange(256) for _ in range(1000))
    for make, version in ((fragments4, 4), (fragments6, 6)):
        for cuts in ([344, 688], [248, 496, 744]):
            for order in itertools.permutations(range(len(cuts) + 1)):
                port = link.next_port()
                parts = make(payload, cuts, dice.randrange(1, 65535), port)
                for index in order:
                    link.send(ether(parts[index]))
                check(f"IPv{version} fragments in the order {order}", None if echoed(port, payload, version=version) else "no echo")
        for index in range(3):
            port = link.next_port()
            parts = make(payload, [344, 688], dice.randrange(1, 65535), port)
            parts.insert(index, parts[index])
            for part in parts:
                link.send(ether(part))
            check(f"IPv{version} fragment {index} twice")
        for shift in range(8, 72, 8):
            for flip in (False, True):
                port, number = link.next_port(), dice.randrange(1, 65535)
                other = bytes(byte ^ 0xff for byte in payload)
                parts = make(payload, [344, 688], number, port)
                foreign = make(other, [344 - shift], number, port)[1]
                order = [parts[0], foreign, parts[1], parts[2]]
                for part in order[::-1] if flip else order:
                    link.send(ether(part))
                mixed = link.receive(lambda p: UDP in p and p[UDP].dport == port and bytes(p[UDP].payload) not in (payload, other), 0.05)
                # RFC 5722: nothing of an IPv6 packet with overlapping fragments counts; nowhere may parts be mixed.
                check(f"IPv{version} fragments that overlap by {shift}, {'backwards' if flip else 'forwards'}", "parts of two were mixed" if mixed else None)
        port = link.next_port()
        parts = make(payload, [8, 16], 77, port)
        for part in parts:
            link.send(ether(part))
        check(f"IPv{version} fragments of 8 bytes", None if echoed(port, payload, version=version) else "no echo")
        for number in range(600):
            link.send(ether(make(payload, [344], number + 1, 9)[0]))
        check(f"IPv{version}: 600 packets whose ends never come")
        for offset, length in ((8189, 64), (8191, 8), (8190, 1400), (8100, 1480), (1, 1)):
            if version == 4:
                link.send(ether(IP(src=MINE4, dst=WORLD4, id=99, proto=17, frag=offset, flags=0) / Raw(b"x" * length)))
            else:
                link.send(ether(IPv6(src=MINE6, dst=WORLD6, nh=44) / IPv6ExtHdrFragment(nh=17, id=99, offset=offset, m=0) / Raw(b"x" * length)))
            check(f"IPv{version} fragment of {length} bytes that ends beyond 65,535, at {offset}")
        for length in (1, 7, 9, 1399):
            if version == 4:
                link.send(ether(IP(src=MINE4, dst=WORLD4, id=98, proto=17, frag=0, flags=1) / Raw(b"x" * length)))
            else:
                link.send(ether(IPv6(src=MINE6, dst=WORLD6, nh=44) / IPv6ExtHdrFragment(nh=17, id=98, offset=0, m=1) / Raw(b"x" * length)))
            check(f"IPv{version} fragment of {length} bytes that is not the last")
    port = link.next_port()
    link.send(ether(IPv6(src=MINE6, dst=WORLD6) / IPv6ExtHdrFragment(nh=17, id=5, offset=0, m=0) / UDP(sport=port, dport=7) / b"atomic"))
    check("IPv6 atomic fragment", None if echoed(port, b"atomic", version=6) else "no echo")
    link.send(ether(IPv6(src=MINE6, dst=WORLD6) / IPv6ExtHdrFragment(id=5, offset=0, m=1) / IPv6ExtHdrFragment(nh=17, id=6, offset=1, m=1) / Raw(b"x" * 64)))
    check("IPv6 fragment of a fragment")


# TCP

class Connection:
    """Our own end of a TCP connection through the forwarder, segment by segment."""

    def __init__(self, dport=7, window=65535, options=(("MSS", 1460),)):
        self.sport, self.dport, self.window = link.next_port(), dport, window
        self.sent = self.first = dice.randrange(1 << 32)
        self.received = None
        self.data = b""
        self.largest = 0
        self.most = 0  # sent to us and not acknowledged
        link.send(ether(ip4() / self.segment("S", options=list(options), ack=0)))
        answer = self.hear(lambda t: t.flags & 0x12 == 0x12)
        if answer is not None:
            self.sent = (self.sent + 1) % (1 << 32)
            self.received = (answer.seq + 1) % (1 << 32)
            self.theirs = answer.seq
            self.send("A")

    def segment(self, flags, payload=b"", seq=None, ack=None, options=(), **fields):
        return TCP(sport=self.sport, dport=self.dport, flags=flags, seq=self.sent if seq is None else seq % (1 << 32),
                   ack=(self.received or 0) if ack is None else ack % (1 << 32), window=self.window, options=list(options), **fields) / Raw(payload)

    def send(self, flags, payload=b"", **fields):
        link.send(ether(ip4() / self.segment(flags, payload, **fields)))

    def say(self, payload):
        self.send("PA", payload)
        self.sent = (self.sent + len(payload)) % (1 << 32)

    def hear(self, wanted, seconds=2.0):
        packet = link.receive(lambda p: TCP in p and p[TCP].dport == self.sport and p[TCP].sport == self.dport and wanted(p[TCP]), seconds)
        return packet[TCP] if packet is not None else None

    def read(self, count, seconds=5.0, acknowledges=True):
        """Takes data in order until there is so much of it."""
        deadline = time.monotonic() + seconds
        while len(self.data) < count and time.monotonic() < deadline:
            segment = self.hear(lambda t: True, 0.5)
            if segment is None:
                continue
            if segment.flags & 4:
                return False
            payload = payload_of(segment)
            self.largest = max(self.largest, len(payload))
            if payload and segment.seq == self.received:
                self.data += payload
                self.received = (self.received + len(payload)) % (1 << 32)
                if acknowledges:
                    self.send("A")
        return len(self.data) >= count

    def echoes(self, payload=b"still here"):
        self.data = b""
        self.say(payload)
        return self.read(len(payload)) and self.data == payload

    def close(self):
        self.send("RA")
        link.drain()


def payload_of(segment):
    return bytes(segment.payload.load) if segment.payload and hasattr(segment.payload, "load") else b""


def tcp_cases():
    for mss in (1, 2, 3, 7, 8, 16, 64, 88, 128, 255, 536, 537, 1000, 1460, 8960, 65535):
        connection = Connection(dport=9001, options=(("MSS", mss),))
        count = min(3000, max(40, mss * 4))
        connection.say(b"%d\n" % count)
        arrived = connection.received is not None and connection.read(count, 10)
        problem = None if arrived else f"{len(connection.data)} of {count} bytes came"
        # Smaller ones than Linux makes them are asked for to do harm (CVE-2019-11479, net.ipv4.tcp_min_snd_mss).
        if connection.largest > max(mss, 48):
            problem = f"a segment of {connection.largest} bytes"
        connection.close()
        check(f"MSS {mss}", problem)
    for window in (1, 2, 10, 100, 536, 1460, 5000, 65535):
        connection = Connection(dport=9001, window=window)
        connection.say(b"20000\n")
        # Nothing is acknowledged: no more than the window may come, once each.
        highest, deadline = connection.received, time.monotonic() + 0.4
        while time.monotonic() < deadline:
            segment = connection.hear(lambda t: True, 0.1)
            if segment is not None and payload_of(segment):
                end = (segment.seq + len(payload_of(segment)) - connection.received) % (1 << 32)
                connection.most = max(connection.most, end)
        # One byte into a closed window is a probe (RFC 9293, 3.8.6.1).
        connection.close()
        check(f"a window of {window}", f"{connection.most} bytes came" if connection.most > window + 1 else None)
    connection = Connection(dport=9001, window=0)
    connection.say(b"1000\n")
    early = connection.hear(lambda t: len(payload_of(t)) > 1, 0.5)
    connection.window = 65535
    connection.send("A")
    check("a window that opens late", "data came too early" if early is not None else None if connection.read(1000) else "no data came")
    connection.close()
    for flags in ("R", "RA", "S", "SA"):
        for offset in (-1, 1, 100, 30000, -30000, 1 << 31, (1 << 31) + 1):
            connection = Connection()
            connection.send(flags, seq=connection.sent + offset)
            problem = None if connection.echoes() else "the connection is gone"
            connection.close()
            check(f"{flags} at {offset} of what is expected (RFC 5961)", problem)
    for flags in ("S", "SA"):
        connection = Connection()
        connection.send(flags)
        challenge = connection.hear(lambda t: t.flags & 0x16 == 0x10)
        problem = None if challenge is not None and connection.echoes() else "no challenge, or the connection is gone"
        connection.close()
        check(f"{flags} where data is expected (RFC 5961)", problem)
    timed = lambda value: [("NOP", None), ("NOP", None), ("Timestamp", (value, 0))]
    connection = Connection(options=(("MSS", 1460), *timed(1000)))
    connection.send("PA", b"an old one", options=timed(999))
    answer = connection.hear(lambda t: t.flags == 0x10)
    problem = "no answer" if answer is None else "it was taken" if answer.ack != connection.sent else None
    connection.send("PA", b"a new one", options=timed(1001))
    connection.sent = (connection.sent + 9) % (1 << 32)
    if problem is None and not (connection.read(9) and connection.data == b"a new one"):
        problem = "a newer one was not taken"
    connection.close()
    check("an older timestamp (PAWS, RFC 7323)", problem)
    connection = Connection()
    connection.send("R")
    link.drain()
    connection.send("A")
    check("RST where data is expected ends it", None if connection.hear(lambda t: t.flags & 4) is not None else "it goes on")
    for ahead in (1, 1000, 100_000, 1 << 30, -(1 << 30), -100_000):
        connection = Connection()
        connection.send("A", ack=connection.received + ahead)
        problem = None if connection.echoes() else "the connection is gone"
        connection.close()
        check(f"an acknowledgement of what is {ahead} ahead", problem)
    for pointer in (0, 1, 9, 10, 11, 1000, 65535):
        connection = Connection()
        connection.data = b""
        connection.send("PAU", b"0123456789", urgptr=pointer)
        connection.sent += 10
        connection.read(10)
        extra = connection.hear(lambda t: payload_of(t), 0.05)
        problem = None if connection.data == b"0123456789" and extra is None else f"{connection.data!r} came back"
        connection.close()
        check(f"an urgent pointer of {pointer}", problem)
    for order in itertools.permutations(range(3)):
        connection = Connection()
        start = connection.sent
        for index in order:
            connection.send("PA", b"abc"[index:index + 1] * 500, seq=start + 500 * index)
        connection.sent = start + 1500
        arrived = connection.read(1500)
        problem = None if arrived and connection.data == b"a" * 500 + b"b" * 500 + b"c" * 500 else f"{len(connection.data)} bytes came back"
        connection.close()
        check(f"segments in the order {order}", problem)
    connection = Connection()
    start = connection.sent
    connection.send("PA", b"first" * 20, seq=start)
    connection.send("PA", b"other" * 40, seq=start)
    connection.sent = start + 200
    arrived = connection.read(200)
    check("the same place with other data", None if arrived and connection.data == b"first" * 20 + b"other" * 20 else f"{connection.data[:30]!r} came back")
    connection.close()
    connection = Connection()
    start = connection.sent
    connection.send("FA", b"", seq=start + 5)
    connection.send("PA", b"hello", seq=start)
    connection.sent = start + 6
    check("FIN before the data", None if connection.read(5) and connection.data == b"hello" else "no data came back")
    connection.close()
    for bits in range(64):
        port = link.next_port()
        link.send(ether(ip4() / TCP(sport=port, dport=7, flags=bits, seq=9, ack=9) / Raw(b"x" if bits % 3 == 0 else b"")))
        opened = link.receive(lambda p: TCP in p and p[TCP].dport == port and p[TCP].flags & 0x12 == 0x12, 0.03)
        isOpening = bits & 0x17 == 2
        check(f"flags {bits:#04x} without a connection", "it was opened" if opened is not None and not isOpening else None)
        link.send(ether(ip4() / TCP(sport=port, dport=7, flags="R", seq=10)))
    for size in range(16):
        packet = ip4() / TCP(sport=link.next_port(), dport=7, flags="S", dataofs=size)
        link.send(ether(packet))
        check(f"a header of {size} words")
    for kind in (0, 1, 2, 3, 4, 5, 8, 30, 253, 255):
        for tail in (b"", b"\0", b"\1", b"\2", b"\xff", b"\4\0", b"\6ab", b"\x0a" + b"\xff" * 8):
            options = bytes([kind]) + tail
            options += b"\0" * (-len(options) % 4)
            header = bytearray(bytes(TCP(sport=link.next_port(), dport=7, flags="S", dataofs=5 + len(options) // 4)))
            segment = bytes(header[:20]) + options
            packet = IP(bytes(IP(src=MINE4, dst=WORLD4, proto=6) / Raw(segment)))
            raw = bytearray(bytes(packet))
            raw[36:38] = b"\0\0"
            raw[36:38] = checksum4(bytes(raw[20:])).to_bytes(2, "big")
            link.send(bytes(Ether(src=HARDWARE, dst=ROUTER, type=0x800)) + bytes(raw))
        check(f"option {kind} in eight wrong forms")


def checksum4(segment):
    data = socket.inet_aton(MINE4) + socket.inet_aton(WORLD4) + b"\0\6" + len(segment).to_bytes(2, "big") + segment
    data += b"\0" * (len(data) % 2)
    total = sum(int.from_bytes(data[i:i + 2], "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


# IPv6, its headers, neighbours

def extension_cases():
    def through(name, headers, expected=True):
        port = link.next_port()
        payload = b"ext %d" % port
        datagram = UDP(sport=port, dport=7) / payload
        datagram.chksum = in6_chksum(17, ip6(nh=17), bytes(UDP(sport=port, dport=7, chksum=0, len=8 + len(payload)) / payload))
        link.send(ether(headers / datagram))
        came = echoed(port, payload, 1.0 if expected else 0.05, version=6)
        check(name, "no echo" if expected and not came else "it was forwarded" if came and not expected else None)
    through("no extension header", ip6())
    through("hop-by-hop options", ip6() / IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)]))
    through("destination options", ip6() / IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)]))
    through("both, and destination options again", ip6() / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt())
    for count in (2, 7):
        headers = ip6()
        for _ in range(count):
            headers = headers / IPv6ExtHdrDestOpt()
        through(f"{count} destination options headers", headers)
    for count in (9, 20, 100):
        headers = ip6()
        for _ in range(count):
            headers = headers / IPv6ExtHdrDestOpt()
        through(f"{count} destination options headers", headers, False)
    for kind in (0, 1, 2, 3, 4, 253):
        for left in (0, 1, 200):
            # With nothing left to visit it is ignored, whatever its type (RFC 8200, 4.4; RFC 5095, 3).
            through(f"routing header of type {kind}, {left} left", ip6() / IPv6ExtHdrRouting(type=kind, segleft=left, addresses=["::1"]), left == 0)
    for number, name in ((51, "AH"), (50, "ESP"), (135, "mobility"), (139, "HIP"), (140, "shim6"), (59, "none"), (0xfe, "experimental"), (43, "routing, cut off"), (44, "fragment, cut off"), (0, "hop-by-hop, cut off"), (60, "options, cut off")):
        for body in (b"", b"\x11", b"\x11\0\0\0\0\0\0", b"\x11\xff" + b"\0" * 62):
            link.send(ether(IPv6(src=MINE6, dst=WORLD6, nh=number) / Raw(body)))
        check(f"next header {number} ({name}), in four lengths")
    for length in (0, 1, 7, 8, 100, 1400, 65535):
        link.send(ether(IPv6(src=MINE6, dst=WORLD6, nh=17, plen=length) / UDP(sport=9, dport=7) / (b"x" * 8)))
        check(f"a payload length of {length}")
    for source in ("::", "::1", "ff02::1", "::ffff:10.0.2.60", "::10.0.2.60", "fe80::60", "fd00::2", "fd00::3", "fe80::2", "64:ff9b::7f00:1"):
        port = link.next_port()
        link.send(ether(IPv6(src=source, dst=WORLD6) / UDP(sport=port, dport=7) / b"x"))
        check(f"IPv6 from {source}")
    for hops in (0, 1):
        link.send(ether(ip6(hlim=hops) / UDP(sport=link.next_port(), dport=7) / b"x"))
        answer = link.receive(lambda p: IPv6 in p and p[IPv6].nh == 58 and bytes(p[IPv6].payload)[:1] == b"\3", 1)
        check(f"IPv6 hop limit {hops}", None if answer is not None else "no time exceeded")
    for size in range(0, 54, 3):
        link.send(bytes(ether(ip6() / UDP(sport=9, dport=7) / (b"x" * 20)))[:14 + size])
        check(f"an IPv6 packet cut off after {size} bytes")


def neighbour_cases():
    everyone = "ff02::1"
    routers, target = "ff02::2", "fd00::2"
    good = IPv6(src="fe80::60", dst=routers, hlim=255) / ICMPv6ND_RS() / ICMPv6NDOptSrcLLAddr(lladdr=HARDWARE)
    link.send(ether(good))
    advertised = link.receive(lambda p: ICMPv6ND_RA in p, 1)
    check("router solicitation", None if advertised is not None and advertised[IPv6].hlim == 255 else "no advertisement")
    solicitation = IPv6(src="fe80::60", dst="ff02::1:ff00:2", hlim=255) / ICMPv6ND_NS(tgt=target) / ICMPv6NDOptSrcLLAddr(lladdr=HARDWARE)
    link.send(ether(solicitation))
    check("neighbour solicitation", None if link.receive(lambda p: ICMPv6ND_NA in p and p[ICMPv6ND_NA].tgt == target, 1) is not None else "no advertisement")
    answers = lambda p: ICMPv6ND_RA in p or ICMPv6ND_NA in p
    for name, packet in (
            ("hop limit 254", IPv6(src="fe80::60", dst=routers, hlim=254) / ICMPv6ND_RS()), ("hop limit 1", IPv6(src="fe80::60", dst=routers, hlim=1) / ICMPv6ND_RS()),
            ("code 1", IPv6(src="fe80::60", dst=routers, hlim=255) / ICMPv6ND_RS(code=1)), ("wrong checksum", IPv6(src="fe80::60", dst=routers, hlim=255) / ICMPv6ND_RS(cksum=1)),
            ("solicitation of hop limit 64", IPv6(src="fe80::60", dst="ff02::1:ff00:2", hlim=64) / ICMPv6ND_NS(tgt=target)),
            ("for somebody else", IPv6(src="fe80::60", dst="ff02::1:ff00:77", hlim=255) / ICMPv6ND_NS(tgt="fd00::77")),
            ("for a group", IPv6(src="fe80::60", dst="ff02::1:ff00:2", hlim=255) / ICMPv6ND_NS(tgt="ff02::2")),
            ("for the workspace's own", IPv6(src="::", dst="ff02::1:ff00:60", hlim=255) / ICMPv6ND_NS(tgt=MINE6)),
            ("for a mapped address", IPv6(src="fe80::60", dst="ff02::1:ff00:2", hlim=255) / ICMPv6ND_NS(tgt="::ffff:10.0.2.2"))):
        link.drain()
        link.send(ether(packet))
        check(f"solicitation that is none: {name}", "it was answered" if link.receive(answers, 0.05) is not None else None)
    for name, packet in (
            ("an advertisement of ours by the guest", IPv6(src="fe80::60", dst=everyone, hlim=255) / ICMPv6ND_NA(tgt=target, O=1) / ICMPv6NDOptSrcLLAddr(lladdr="02:00:00:00:00:99")),
            ("a router's advertisement by the guest", IPv6(src="fe80::60", dst=everyone, hlim=255) / ICMPv6ND_RA() / ICMPv6NDOptPrefixInfo(prefix="2001:db8::", prefixlen=64)),
            ("a redirect by the guest", IPv6(src="fe80::2", dst=MINE6, hlim=255) / ICMPv6ND_Redirect(tgt="fe80::60", dst=WORLD6)),
            ("an option of length 0", IPv6(src="fe80::60", dst=routers, hlim=255) / ICMPv6ND_RS() / Raw(b"\1\0" + b"x" * 6)),
            ("an option that is cut off", IPv6(src="fe80::60", dst=routers, hlim=255) / ICMPv6ND_RS() / Raw(b"\1\5" + b"x" * 6)),
            ("a hundred options", IPv6(src="fe80::60", dst=routers, hlim=255) / ICMPv6ND_RS() / Raw(b"\1\1xxxxxx" * 100))):
        link.send(ether(packet))
        check(name)
    for size in range(0, 72, 4):
        link.send(bytes(ether(solicitation))[:14 + size])
        check(f"a neighbour solicitation cut off after {size} bytes")
    for kind in range(128, 162):
        link.send(ether(IPv6(src="fe80::60", dst="fe80::2", hlim=255, nh=58) / Raw(icmp6("fe80::60", "fe80::2", bytes([kind, 0, 0, 0]) + b"\0" * 20))))
        check(f"ICMPv6 of type {kind}")
    for message in range(14):
        body = bytes([message]) + b"abc" + b"\0\1\0\2\0\3" + b"\0\6\0\4\0\x17\0\x18"
        for destination in ("ff02::1:2", "fd00::2", "fe80::2"):
            link.send(ether(IPv6(src="fe80::60", dst=destination, hlim=1 if destination[0] == "f" else 64) / UDP(sport=546, dport=547) / body))
        check(f"DHCPv6 message {message}")


def icmp6(source, destination, body):
    body = bytearray(body)
    body[2:4] = in6_chksum(58, IPv6(src=source, dst=destination, nh=58), bytes(body)).to_bytes(2, "big")
    return bytes(body)


# The outside's loopback, by every name

SPELLINGS4 = ["127.0.0.1", "127.0.0.2", "127.1.2.3", "127.255.255.254", "0.0.0.0", "0.0.0.1", "0.1.2.3", "10.0.2.2", "255.255.255.255", "224.0.0.1", "240.0.0.1"]
SPELLINGS6 = ["::1", "::", "::2", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:0:127.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b::7f00:1", "fd00::2", "fe80::2", "fe80::1", "ff02::1",
              "ff01::1", "::ffff:10.0.2.2", "64:ff9b::a00:202"]


def loopback_cases():
    for version, spellings in ((4, SPELLINGS4), (6, SPELLINGS6)):
        for address in spellings:
            layer = IP(src=MINE4, dst=address) if version == 4 else IPv6(src=MINE6, dst=address)
            port = link.next_port()
            link.send(ether(layer / TCP(sport=port, dport=7414, flags="S", seq=5)))
            opened = link.receive(lambda p: TCP in p and p[TCP].dport == port and p[TCP].flags & 0x12 == 0x12, 0.1)
            check(f"TCP to {address}", "it was opened" if opened is not None else None)
            link.send(ether(layer / UDP(sport=port, dport=7414) / b"knock"))
            answered = link.receive(lambda p: UDP in p and p[UDP].dport == port, 0.1)
            check(f"UDP to {address}", "it was answered" if answered is not None else None)
    hops = {"loose": b"\x83", "strict": b"\x89", "record": b"\x07"}
    for name, code in hops.items():
        for addresses in (["127.0.0.1"], [WORLD4, "127.0.0.1"], ["10.0.2.2", "127.0.0.1"], []):
            body = code + bytes([3 + 4 * len(addresses), 4]) + b"".join(map(socket.inet_aton, addresses))
            port = link.next_port()
            link.send(ether(IP(src=MINE4, dst=WORLD4, options=[IPOption(body + b"\0" * (-len(body) % 4))]) / UDP(sport=port, dport=7) / b"routed"))
            came = echoed(port, b"routed", 0.1)
            check(f"{name} route by {addresses}", "it was forwarded" if came and name != "record" else None)


if __name__ == "__main__":
    fragment_cases()
    tcp_cases()
    extension_cases()
    neighbour_cases()
    loopback_cases()
    print(f"== {cases} cases, {failures} failed")
    sys.exit(failures > 0)
