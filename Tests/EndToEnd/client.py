"""What runs inside the workspace in the network tests. argv: VERB ARGUMENTS; prints one line of JSON."""

import errno
import hashlib
import json
import socket
import sys
import threading
import time

from payload import stream


def digest_of(count):
    digest = hashlib.sha256()
    for block in stream(count):
        digest.update(block)
    return digest.hexdigest()


def connect(host, port, seconds=30):
    return socket.create_connection((host, int(port)), seconds)


def upload(host, count):
    count = int(count)
    with connect(host, 9000, 300) as connection:
        digest = hashlib.sha256()
        for block in stream(count):
            digest.update(block)
            connection.sendall(block)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.makefile().readline().split()
    return {"length": int(answer[0]), "equal": answer[1] == digest.hexdigest()}


def download(host, count):
    count = int(count)
    digest, length = hashlib.sha256(), 0
    buffer = bytearray(1 << 20)
    with connect(host, 9001, 300) as connection:
        connection.sendall(b"%d\n" % count)
        connection.shutdown(socket.SHUT_WR)
        while got := connection.recv_into(buffer):
            digest.update(memoryview(buffer)[:got])
            length += got
    return {"length": length, "equal": digest.hexdigest() == digest_of(count)}


def heard_after_its_end(host, count):
    """Sends after the far side has closed its half; what did it hear?"""
    data = b"".join(stream(int(count)))
    with connect(host, 9002) as connection:
        assert connection.recv(100) == b"bye\n" and connection.recv(100) == b""
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        # Whether the far side has read to the end, only it can say.
        deadline, told = time.monotonic() + 30, ["nothing"]
        while told == ["nothing"] and time.monotonic() < deadline:
            with connect(host, 9003) as asking:
                told = asking.makefile().read().split()
    length, digest = told
    return {"length": int(length), "equal": digest == hashlib.sha256(data).hexdigest()}


def greeting(host):
    with connect(host, 9002, 5) as connection:
        return {"heard": connection.recv(100).decode(), "end": connection.recv(100) == b""}


def udp_echo(host, *sizes):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    result = {}
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(3)
        sock.connect((host, 7))
        for size in map(int, sizes):
            data = bytes(i * 7 & 255 for i in range(size))
            sock.send(data)
            try:
                result[size] = sock.recv(1 << 16) == data
            except OSError as error:
                result[size] = str(error)
    return result


def errno_of(host, port):
    start = time.monotonic()
    try:
        connect(host, port, 20).close()
        name = "connected"
    except OSError as error:
        name = errno.errorcode.get(error.errno, str(error))
    return {"errno": name, "seconds": time.monotonic() - start}


def udp_errno_of(host, port):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(3)
        sock.connect((host, int(port)))
        try:
            sock.send(b"x")
            sock.recv(100)
            return {"errno": "answered"}
        except OSError as error:
            return {"errno": errno.errorcode.get(error.errno, str(error))}


def many(host, count):
    """So many connections open at once, each echoing its own bytes."""
    failures = []
    barrier = threading.Barrier(int(count) + 1)

    def one(number):
        try:
            with connect(host, 7) as connection:
                barrier.wait(30)
                data = b"%06d" % number * 1000
                connection.sendall(data)
                received = b""
                while len(received) < len(data):
                    received += connection.recv(1 << 16)
                if received != data:
                    failures.append(number)
        except Exception as error:
            failures.append(f"{number}: {error}")
            barrier.abort()

    threads = [threading.Thread(target=one, args=(n,)) for n in range(int(count))]
    for thread in threads:
        thread.start()
    try:
        barrier.wait(30)
    except threading.BrokenBarrierError:
        pass
    for thread in threads:
        thread.join(30)
    return {"failures": failures[:5]}


def sequential(host, count):
    for number in range(int(count)):
        with connect(host, 7) as connection:
            connection.sendall(b"x")
            assert connection.recv(1) == b"x", number
    return {"done": int(count)}


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
