"""The servers of `world`. argv: IPv4 IPv6.

TCP 7     echo
TCP 8000  HTTP: "hello from world"
TCP 9000  sink: reads to the end, answers with the length and sha256 of what came (a half-close each way)
TCP 9001  source: reads a line with a number, sends as many bytes of `stream()` and closes
TCP 9002  says "bye", closes its half, reads to the end; TCP 9003 tells the length and sha256 of what 9002 read last
UDP 7     echo
TCP 9004  tells the names that the name server was asked for, one on a line
UDP, TCP 53  DNS: A and AAAA of *.test; big.test TXT only fits TCP; anything else NXDOMAIN. In a name the first label
          at-198-18-0-10 or at-fd18--10 says which address, a label ttl3 the lifetime; alias.NAME is an alias of NAME"""

import hashlib
import socket
import struct
import sys
import threading

from payload import stream

V4, V6 = sys.argv[1:3]


def echo(connection):
    while data := connection.recv(1 << 16):
        connection.sendall(data)


def http(connection):
    connection.recv(4096)
    body = b"hello from world\n"
    connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


def sink(connection):
    digest, length = hashlib.sha256(), 0
    buffer = bytearray(1 << 20)
    while count := connection.recv_into(buffer):
        digest.update(memoryview(buffer)[:count])
        length += count
    connection.sendall(f"{length} {digest.hexdigest()}\n".encode())


def source(connection):
    line = b""
    while not line.endswith(b"\n"):
        line += connection.recv(64)
    for block in stream(int(line)):
        connection.sendall(block)


last_heard = "nothing"


def half_closer(connection):
    global last_heard
    last_heard = "nothing"
    connection.sendall(b"bye\n")
    connection.shutdown(socket.SHUT_WR)
    digest, length = hashlib.sha256(), 0
    while data := connection.recv(1 << 16):
        digest.update(data)
        length += len(data)
    last_heard = f"{length} {digest.hexdigest()}"


def tell(connection):
    connection.sendall(last_heard.encode())


def tell_names(connection):
    connection.sendall("".join(name + "\n" for name in asked).encode())


asked = []


def serve(family, address, port, handler):
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind((address, port))
    listener.listen(1024)

    def one(connection):
        with connection:
            try:
                connection.settimeout(120)
                handler(connection)
            except OSError:
                pass

    def loop():
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=one, args=(connection,), daemon=True).start()

    threading.Thread(target=loop, daemon=True).start()


def udp(family, address, port, handler):
    listener = socket.socket(family, socket.SOCK_DGRAM)
    listener.bind((address, port))

    def loop():
        while True:
            data, peer = listener.recvfrom(1 << 16)
            answer = handler(data)
            if answer is not None:
                listener.sendto(answer, peer)

    threading.Thread(target=loop, daemon=True).start()


def dns_answer(query, over_tcp):
    at, labels = 12, []
    while query[at]:
        labels.append(query[at + 1:at + 1 + query[at]].decode())
        at += query[at] + 1
    kind, = struct.unpack(">H", query[at + 1:at + 3])
    name, question = ".".join(labels).lower(), query[12:at + 5]
    asked.append(name)
    lifetime = next((int(label[3:]) for label in labels if label.startswith("ttl") and label[3:].isdigit()), 60)
    place = next((label[3:] for label in labels if label.startswith("at-")), None)
    four = place.replace("-", ".") if place and place[0] == "1" else V4
    six = place.replace("-", ":") if place and place[0] == "f" else V6

    def reply(flags, records=b"", count=0):
        return query[:2] + struct.pack(">HHHHH", flags, 1, count, 0, 0) + question + records

    def record(data, kind=kind, owner=b"\xc0\x0c"):
        return owner + struct.pack(">HHIH", kind, 1, lifetime, len(data)) + data

    if labels[0] == "alias" and kind in (1, 28):
        target = struct.pack(">H", 0xc000 | 12 + 1 + len("alias"))
        address = socket.inet_aton(four) if kind == 1 else socket.inet_pton(socket.AF_INET6, six)
        return reply(0x8180, record(target, 5) + record(address, owner=target), 2)

    if not name.endswith("test"):
        return reply(0x8183)
    if kind == 1:
        return reply(0x8180, record(socket.inet_aton(four)), 1)
    if kind == 28:
        return reply(0x8180, record(socket.inet_pton(socket.AF_INET6, six)), 1)
    if kind == 16 and name == "big.test":
        return reply(0x8180, record(b"\xfa" + b"x" * 250 + (b"\xfa" + b"y" * 250) * 7), 1) if over_tcp else reply(0x8380)
    return reply(0x8180)


def dns_tcp(connection):
    stream = connection.makefile("rb")
    length, = struct.unpack(">H", stream.read(2) or b"\0\0")
    if not length or len(query := stream.read(length)) < length:
        return
    answer = dns_answer(query, True)
    connection.sendall(struct.pack(">H", len(answer)) + answer)


for family, address in ((socket.AF_INET, V4), (socket.AF_INET6, V6)):
    for port, handler in ((7, echo), (8000, http), (9000, sink), (9001, source), (9002, half_closer), (9003, tell), (9004, tell_names), (53, dns_tcp)):
        # Port 53 of the other addresses is for the name servers that tests start.
        serve(family, address if port == 53 else "::" if family == socket.AF_INET6 else "0.0.0.0", port, handler)
    for place in (address, *("198.18.0.10", "198.18.0.11") * (address == "198.18.0.1")):
        udp(family, place, 7, lambda data: data)
    udp(family, address, 53, lambda data: dns_answer(data, False))
print("ready", flush=True)
threading.Event().wait()
