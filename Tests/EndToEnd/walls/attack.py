"""Attacks from inside the workspace: `attack.py NAME SOCKET`. Prints `ready` once the attack stands, and holds it."""

import array
import json
import os
import socket
import sys
import time


def line(verb, **more):
    return json.dumps({"verb": verb, **more}).encode() + b"\n"


def connect(path):
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    client.setblocking(False)
    return client


def push(client, data, quiet=2.0, limit=64 << 20):
    """Sends the data again and again, until the other end has taken nothing for a while, or enough, or has hung up."""
    sent, last = 0, time.monotonic()
    while time.monotonic() - last < quiet and sent < limit:
        try:
            sent += client.send(data)
            last = time.monotonic()
        except BlockingIOError:
            time.sleep(0.01)
        except OSError:
            return sent
    return sent


def pipelined(path):
    held = []
    for _ in range(20):
        held.append(connect(path))
        push(held[-1], line("status") * 500, quiet=0.3)
    return held


def descriptors(path):
    held = []
    null = os.open("/dev/null", os.O_RDONLY)
    for _ in range(300):
        try:
            client = connect(path)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null] * 8))]
            client.sendmsg([b" "], rights)
            for _ in range(40):
                client.sendmsg([b" "], rights)
            held.append(client)
        except OSError:
            pass
    return held


def names(path):
    held = []
    for number in range(300):
        client = connect(path)
        client.setblocking(True)
        client.settimeout(10)
        try:
            client.sendall(line("syncDone", names=[str(number) + "n" * 900_000]))
            client.recv(4096)
        except OSError:
            pass
        client.close()
        try:  # and many short ones
            client = connect(path)
            client.setblocking(True)
            client.settimeout(10)
            client.sendall(b"".join(line("syncDone", names=[f"{number}-{more}"]) for more in range(40)))
            client.recv(65536)
            held.append(client)
        except OSError:
            pass
    return held


def waits(path):
    held = []
    for _ in range(5):
        client = connect(path)
        push(client, line("syncAwait", names=["never"]) * 500, limit=line("syncAwait", names=["never"]).__len__() * 20_000)
        held.append(client)
    return held


def connections(path):
    held = []
    for _ in range(2000):
        try:
            client = connect(path)
            client.send(b"{")
            held.append(client)
        except OSError:
            pass
    return held


def endless(path):
    client = connect(path)
    push(client, b"x" * 65536)
    return [client]


def scrapes(path):
    held = []
    for _ in range(200):
        try:
            client = connect(path.replace("control.sock", "metrics.sock"))
            client.send(b"GET /metrics HTTP/1.1\r\n\r\n" if len(held) % 2 else b"G")
            held.append(client)
        except OSError:
            pass
    return held


held = globals()[sys.argv[1]](sys.argv[2])
print("ready", flush=True)
time.sleep(600)
