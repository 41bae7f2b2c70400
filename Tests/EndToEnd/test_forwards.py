"""Ports outside that always lead inside (workspacekit.network.forwards): both transports, ranges, addresses, edits."""

import os
import re
import signal
import subprocess

from conftest import POD4, POD6, PYTHON, WORLD4, until

SERVER = """
import select, socket, sys
sockets = {}
for text in sys.argv[1:]:
    port, kind = text.split("/")
    s = socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    s.setsockopt(1, 2, 1); s.bind(("0.0.0.0", int(port))); sockets[s] = text
    if kind == "tcp": s.listen(64)
print("serving", flush=True)
while True:
    for s in select.select(list(sockets), [], [])[0]:
        if s.type == socket.SOCK_STREAM:
            c, peer = s.accept(); c.sendall(f"{sockets[s]} {peer[0]}".encode()); c.close()
        else:
            data, peer = s.recvfrom(70000); s.sendto(f"{sockets[s]} {peer[0]} {len(data)}".encode(), peer)
"""


def ask(enter, address, port, udp=False, size=1):
    code = f"""
import socket
family = socket.AF_INET6 if ":" in "{address}" else socket.AF_INET
s = socket.socket(family, socket.{'SOCK_DGRAM' if udp else 'SOCK_STREAM'}); s.settimeout(3)
try:
    s.connect(("{address}", {port}))
    {f's.send(b"x" * {size})' if udp else ''}
    print(s.recv(200).decode())
except OSError as error: print(type(error).__name__)
"""
    return enter(PYTHON, "-c", code).stdout.strip()


def config(forwards, server, ports="80/tcp 90/tcp 6000/tcp 6001/tcp 53/udp 6002/udp"):
    return f"""
tasks: [{{name: server, command: "exec {PYTHON} {server} {ports}"}}]
workspacekit: {{network: {{forwards: [{', '.join(forwards)}]}}}}
"""


def started(workspace, lab, forwards):
    folder = lab.folder / "forwards"
    folder.mkdir(exist_ok=True)
    (folder / "server.py").write_text(SERVER)
    space = workspace(config(forwards, folder / "server.py")).started()
    until(lambda: "[server] serving" in space.stdout, 10, "the server")
    return space


def test_tcp_udp_ranges_and_addresses(workspace, lab):
    space = started(workspace, lab, ['"8180:80"', '"127.0.0.1:8181:90"', '"7000-7001:6000-6001"', '"5353:53/udp"', '"7002:6002/udp"', f'"[{POD6}]:8182:80"'])
    world, pod = lab.in_world, lab.in_pod
    assert ask(world, POD4, 8180) == f"80/tcp {WORLD4}", "the server sees who it is"
    assert ask(world, POD4, 7000) == f"6000/tcp {WORLD4}" and ask(world, POD4, 7001) == f"6001/tcp {WORLD4}"
    assert ask(world, POD4, 8181) == "ConnectionRefusedError" and ask(pod, "127.0.0.1", 8181) == "90/tcp 10.0.2.2"
    assert ask(world, POD4, 5353, udp=True) == f"53/udp {WORLD4} 1" and ask(world, POD4, 7002, udp=True, size=20000) == f"6002/udp {WORLD4} 20000"
    assert ask(pod, "127.0.0.1", 5353, udp=True) == "53/udp 10.0.2.2 1"
    # Over IPv6 too, to a server that speaks IPv4: it sees the gateway.
    assert ask(world, POD6, 8180) == "80/tcp 10.0.2.2" and ask(world, POD6, 5353, udp=True) == "53/udp 10.0.2.2 1"
    assert space.stderr.count("network.forwards") == 0
    # Where nothing serves inside, nobody is served.
    space.cli("stop", "server")
    until(lambda: space.status()["server"]["state"] == "stopped", 10, "its end")
    assert ask(world, POD4, 8180) in ("", "ConnectionResetError", "ConnectionRefusedError")
    space.stop()
    assert ask(world, POD4, 8180) == "ConnectionRefusedError"


def test_edits_and_another_forwarder(workspace, lab):
    space = started(workspace, lab, ['"8180:80"', '"5353:53/udp"'])
    server = lab.folder / "forwards" / "server.py"
    (space.folder / ".gitpod.yml").write_text(config(['"8183:80"', '"5353:53/udp"'], server))
    until(lambda: ask(lab.in_world, POD4, 8183) == f"80/tcp {WORLD4}", 10, "the new forward")
    assert ask(lab.in_world, POD4, 8180) == "ConnectionRefusedError"
    assert ask(lab.in_world, POD4, 5353, udp=True) == f"53/udp {WORLD4} 1"
    assert re.search("setting workspacekit.network.forwards: changed, without a restart", space.stderr) and space.status()["server"]["restarts"] == 0
    # The sockets stay while a forwarder that dies is followed by another.
    os.kill(space.stage("slirp"), signal.SIGKILL)
    until(lambda: ask(lab.in_world, POD4, 8183) == f"80/tcp {WORLD4}", 10, "the other forwarder")
    assert "ConnectionRefusedError" not in ask(lab.in_world, POD4, 8183)
    assert ask(lab.in_world, POD4, 5353, udp=True) == f"53/udp {WORLD4} 1"


def test_a_port_that_is_taken_is_said_and_the_rest_holds(workspace, lab):
    holder = lab.popen_in(lab.pod, [PYTHON, "-c", "import socket, time; s = socket.socket(); s.bind(('0.0.0.0', 8184)); s.listen(1); print('ready', flush=True); time.sleep(1000)"],
                          stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"ready\n"
    try:
        space = started(workspace, lab, ['"8184:80"', '"8185:90"'])
        assert re.search(r"network\.forwards: port 8184 is not forwarded: cannot listen on .*8184: Address already in use", space.stderr)
        assert ask(lab.in_world, POD4, 8185) == f"90/tcp {WORLD4}"
    finally:
        holder.kill()
        holder.wait()


def test_without_a_network_of_its_own_it_is_said(workspace):
    space = workspace("tasks: [{command: sleep 1000}]\nworkspacekit: {network: {mode: host, forwards: [\"8186:80\"]}}\n").started()
    assert "network.forwards has no effect: this workspace has no network of its own" in space.stderr
