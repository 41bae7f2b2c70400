"""A name server of the world that behaves as told. argv: ADDRESS WORD...

Words: answer (A 198.18.0.1 and AAAA fd18::1 for every name), empty (no such name), refuse, fail (SERVFAIL), unable (NOTIMP), silent;
over TCP too, and there: absent (nothing listens), hang (accepts, never answers), end (closes the connection without an answer).
delay=MS waits before each answer. tcp=WORD is another word for TCP. forge sends four other answers before the true one, each
with 198.18.0.12: from another port, from the address 198.18.0.11, with another id, with another question. Prints "ready", then a line `udp NAME TYPE PORT ID` for each query."""

import socket
import struct
import sys
import threading
import time

ADDRESS, *WORDS = sys.argv[1:]
OPTIONS = dict(word.split("=") for word in WORDS if "=" in word)
WORD = next(word for word in WORDS if "=" not in word and word != "forge")
FORGES = "forge" in WORDS
DELAY = int(OPTIONS.get("delay", 0)) / 1000
CODES = {"answer": 0, "empty": 3, "refuse": 5, "fail": 2, "unable": 4}
family = socket.AF_INET6 if ":" in ADDRESS else socket.AF_INET
where = socket.getaddrinfo(ADDRESS, 53, family, socket.SOCK_DGRAM)[0][4]


def read(query):
    at, labels = 12, []
    while query[at]:
        labels.append(query[at + 1:at + 1 + query[at]].decode())
        at += query[at] + 1
    return ".".join(labels), struct.unpack(">H", query[at + 1:at + 3])[0], query[12:at + 5]


def reply(query, word=WORD, four="198.18.0.1"):
    _, kind, question = read(query)
    records = b""
    if word == "answer" and kind in (1, 28):
        data = socket.inet_aton(four) if kind == 1 else socket.inet_pton(socket.AF_INET6, "fd18::1")
        records = b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 60, len(data)) + data
    return query[:2] + struct.pack(">HHHHH", 0x8180 | CODES[word], 1, bool(records), 0, 0) + question + records


def tell(kind, query, port):
    name, type, _ = read(query)
    print(kind, name, type, port, struct.unpack(">H", query[:2])[0], flush=True)


def answer(listener, query, peer):
    time.sleep(DELAY)
    if FORGES:
        other_port = socket.socket(family, socket.SOCK_DGRAM)
        other_port.bind((ADDRESS, 0))
        other_host = socket.socket(family, socket.SOCK_DGRAM)
        other_host.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other_host.bind(("198.18.0.11", 53))
        false = reply(query, four="198.18.0.12")
        other_port.sendto(false, peer)
        other_host.sendto(false, peer)
        listener.sendto(bytes([false[0] ^ 1]) + false[1:], peer)
        listener.sendto(false.replace(b"\x04test\x00", b"\x04tesu\x00"), peer)
    listener.sendto(reply(query), peer)


def serve_tcp(listener, word):
    def one(connection, peer):
        stream = connection.makefile("rb")
        while len(head := stream.read(2)) == 2:
            query = stream.read(struct.unpack(">H", head)[0])
            tell("tcp", query, peer[1])
            if word == "end":
                break
            if word != "hang":
                message = reply(query, word)
                # In two parts: the length comes alone.
                connection.sendall(struct.pack(">H", len(message)))
                time.sleep(0.02)
                connection.sendall(message)
        connection.close()
    while True:
        threading.Thread(target=one, args=listener.accept(), daemon=True).start()


udp = socket.socket(family, socket.SOCK_DGRAM)
udp.bind(where)
over_tcp = OPTIONS.get("tcp", WORD)
if over_tcp not in ("absent", "silent"):
    tcp = socket.socket(family, socket.SOCK_STREAM)
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    tcp.bind(where)
    tcp.listen(64)
    threading.Thread(target=serve_tcp, args=(tcp, over_tcp), daemon=True).start()
print("ready", flush=True)
while True:
    query, peer = udp.recvfrom(4096)
    tell("udp", query, peer[1])
    if WORD != "silent":
        threading.Thread(target=answer, args=(udp, query, peer), daemon=True).start()
