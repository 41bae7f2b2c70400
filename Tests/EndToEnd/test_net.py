"""The workspace's network, looked at and mended."""

import json
import os
import re
import select
import signal
import subprocess
import time

import pytest

from conftest import BINARY, POD4, PYTHON, WORLD4, until


def net(space, verb, *arguments, check=True):
    return space.cli(f"net {verb}", *arguments, check=check)


def packet_sockets(space):
    """Who captures: seen in the workspace's own network."""
    return len(space.exec("cat", "/proc/net/packet").stdout.splitlines()) - 1


def flows(space):
    return json.loads(net(space, "flows", "--json").stdout)


def test_flows_with_their_owners(workspace, lab):
    space = workspace(f"""
ports: [{{port: 8321}}]
tasks:
  - name: up
    command: |
      exec {PYTHON} -c 'import socket, time
      s = socket.create_connection(("{WORLD4}", 7)); u = socket.socket(2, 2)
      while True:
          s.sendall(bytes(1000)); n = 0
          while n < 1000: n += len(s.recv(1000))
          u.sendto(b"x", ("{WORLD4}", 7)); time.sleep(0.02)'
  - name: server
    command: |
      exec {PYTHON} -c 'import socket, time
      s = socket.socket(); s.setsockopt(1, 2, 1); s.bind(("0.0.0.0", 8321)); s.listen(5); c, _ = s.accept(); c.sendall(b"hello"); time.sleep(1000)'
""").started()
    client = None
    try:
        until(lambda: lab.in_world(PYTHON, "-c", f"import socket; s = socket.socket(); s.settimeout(2); print(s.connect_ex(('{POD4}', 8321)))").stdout == "0\n", 15, "the port")
        space.cli("restart", "server")
        def connected():
            nonlocal client
            client = lab.popen_in(lab.world, [PYTHON, "-c", f"import socket, time; s = socket.create_connection(('{POD4}', 8321), 3); s.settimeout(3); print(s.recv(5), flush=True); time.sleep(1000)"],
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            if client.stdout.readline() == b"b'hello'\n":
                return True
            client.wait()
        until(connected, 15, "a client")
        up = until(lambda: next((f for f in flows(space)["flows"] if f.get("unit") == "up" and f["bytesDown"] > 3000), None), 10, "the flow")
        assert up["transport"] == "tcp" and up["state"] == "established" and up["direction"] == "out"
        assert up["remote"] == f"{WORLD4}:7" and up["local"].startswith("10.0.2.100:") and up["bytesUp"] > 3000 and up["pid"] == space.status()["up"]["pid"]
        assert up["roundTripSeconds"] < 1 and up["ageSeconds"] > up["idleSeconds"] >= 0
        assert 0 < up["outsideRoundTripSeconds"] < 1 and up["rule"] == "everything else"
        inbound = next(f for f in flows(space)["flows"] if f["direction"] == "in" and f["state"] == "established")
        assert inbound["unit"] == "server" and inbound["local"] == "10.0.2.100:8321" and inbound["remote"].startswith(WORLD4 + ":")
        assert any(f["transport"] == "udp" and f["bytesUp"] > 0 for f in flows(space)["flows"])
        counters = flows(space)["counters"]
        assert counters["frames_in"] > 10 and counters["opened"] >= 3 and counters["malformed"] <= counters["frames_in"]
        table = net(space, "flows").stdout.splitlines()
        assert table[0].split() == ["PROTO", "DIR", "STATE", "LOCAL", "REMOTE", "AGE", "UP", "DOWN", "RTT", "OWNER"]
        assert any("established" in line and line.endswith(f"up python3 ({up['pid']})") for line in table[1:])
        # Another supervisor, and another forwarder.
        os.kill(space.stage("supervise"), signal.SIGKILL)
        until(lambda: space.cli("status", check=False).returncode == 0, 5, "the next supervisor")
        assert any(f["unit"] == "up" for f in flows(space)["flows"])
        os.kill(space.stage("slirp"), signal.SIGKILL)
        until(lambda: net(space, "flows", "--json", check=False).returncode == 0 and all(f["unit"] != "server" for f in flows(space)["flows"]), 10, "the new table")
        watcher = space.lab.popen_in(space.lab.pod, [*space.prefix, BINARY, "net", "flows", "--watch", "--state-dir", str(space.state)], env=space.environment, stdout=subprocess.PIPE, text=True)
        heads = 0
        while heads < 2:
            heads += watcher.stdout.readline().startswith("PROTO")
        space.cli("stop")
        assert watcher.wait(10) in (0, 69)
    finally:
        if client:
            client.kill()
            client.wait()


BREAK = {
    "the link is down": "ip link set tap0 down", "the addresses are gone": "ip addr flush dev tap0", "the routes are gone": "ip route flush table main; ip -6 route flush table main",
    "resolv.conf is empty": ": > /etc/resolv.conf", "another MTU": "ip link set tap0 mtu 1300", "all at once": "ip addr flush dev tap0; : > /etc/resolv.conf; ip link set tap0 down",
}


@pytest.mark.parametrize("how", BREAK)
@pytest.mark.parametrize("where", ["inside", "outside"])
def test_what_is_broken_is_said_and_mended(workspace, how, where):
    space = workspace("tasks: [{command: sleep 1000}]").started()
    fetch = lambda: space.exec("sh", "-c", f"curl -s -m 3 http://{WORLD4}:8000/ && getent ahostsv4 host.example.test >/dev/null && curl -s -m 3 -o /dev/null 'http://[fd18::1]:8000/' && echo all", check=False).stdout
    until(lambda: fetch().endswith("all\n"), 10, "the network")
    assert net(space, "status").stdout.splitlines()[-1].split(None, 1) == ["State", "as it was made"]
    space.exec("sh", "-c", BREAK[how])
    broken = net(space, "status", check=False)
    assert broken.returncode == 1 and "as it was made" not in broken.stdout and "net reset" in broken.stderr
    problems = json.loads(net(space, "status", "--json", check=False).stdout)["problems"]
    assert problems and json.loads(space.cli("status", "--json").stdout)["problems"] == problems
    assert f"network: {problems[0]}" in space.cli("status").stderr
    mended = space.exec(BINARY, "net", "reset", check=False) if where == "inside" else net(space, "reset", check=False)
    assert mended.returncode == 0 and "as it was made" in mended.stdout, mended
    until(lambda: fetch().endswith("all\n"), 10, "the network")
    assert "problems" not in json.loads(space.cli("status", "--json").stdout)


def test_without_a_network_of_its_own_it_is_said(workspace):
    space = workspace("tasks: [{command: sleep 1000}]", arguments=["--network", "none"]).started()
    for verb in ("status", "reset", "flows"):
        refused = net(space, verb, check=False)
        assert refused.returncode == 1 and "run --network sandbox" in refused.stderr


def test_capture_records_and_shows_what_passes(workspace, lab):
    """As scapy reads the file: everything once, with its times and directions; and a line for each packet without one."""
    space = workspace("tasks: [{name: shell, command: exec sleep 1000}]\n").started()
    file = space.folder / "trace.pcapng"
    def capture(*arguments):
        return lab.popen_in(lab.pod, [*space.prefix, BINARY, "net", "capture", "--state-dir", str(space.state), *arguments],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=space.environment)
    recorder = capture("-w", str(file), "tcp", "port", "8000")
    shower = capture("--count", "2", "udp port 53")
    until(lambda: packet_sockets(space) == 2, 5, "both")
    assert space.exec("dig", "+short", "+tries=1", "@10.0.2.3", "www.example.test").stdout.strip() == WORLD4
    assert space.exec("curl", "-sS", "-m", "5", f"http://{WORLD4}:8000").stdout == "hello from world\n"
    out, _ = shower.communicate(timeout=10)
    lines = out.splitlines()
    assert len(lines) == 2 and "out 10.0.2.100:" in lines[0] and "> 10.0.2.3:53 udp query www.example.test" in lines[0]
    assert " in  10.0.2.3:53 > " in lines[1] and f"udp answer www.example.test {WORLD4}" in lines[1]
    recorder.send_signal(signal.SIGINT)
    _, errors = recorder.communicate(timeout=10)
    shown = re.search(r"(\d+) of (\d+) packets captured, 0 lost", errors)
    assert shown, errors
    read = json.loads(lab.in_pod(PYTHON, "-c", f"""
import json
from scapy.all import PcapNgReader, TCP
packets = list(PcapNgReader({str(file)!r}))
flags = [str(p[TCP].flags) for p in packets]
print(json.dumps({{"count": len(packets), "first": flags[:3], "payload": b"".join(bytes(p[TCP].payload) for p in packets if p[TCP].sport == 8000).decode("latin1"), "time": float(packets[0].time)}}))
""").stdout)
    assert read["count"] == int(shown[1]) >= 8 and read["first"] == ["S", "SA", "A"]
    assert read["payload"].rstrip("\0").endswith("hello from world\n") and abs(read["time"] - time.time()) < 60
    assert file.stat().st_mode & 0o777 == 0o600
    # And as Wireshark does: both directions on one interface, a whole stream, nothing that it has to remark on.
    shark = lambda *arguments: subprocess.run(["tshark", "-n", "-r", str(file), *arguments], check=True, capture_output=True, text=True, timeout=60).stdout
    rows = [line.split("\t") for line in shark("-T", "fields", "-e", "frame.number", "-e", "frame.interface_name", "-e", "ip.src", "-e", "http.request.uri", "-e", "http.file_data").splitlines()]
    assert len(rows) == int(shown[1]) and {row[1] for row in rows} == {"tap0"} and {row[2] for row in rows} == {"10.0.2.100", WORLD4}
    assert [row[3] for row in rows if row[3]] == ["/"] and any("hello from world" in row[4] for row in rows)
    assert shark("-Y", "_ws.malformed or tcp.analysis.lost_segment or tcp.analysis.retransmission") == ""
    # Wrong words are said at once; strangers get nothing; the end of the workspace is the capture's.
    wrong = net(space, "capture", "port", "x", check=False)
    assert wrong.returncode == 64 and "\"port\" needs a number up to 65535" in wrong.stderr
    last = capture()
    until(lambda: space.exec("ping", "-c", "1", "-W", "1", "10.0.2.2").returncode == 0 and select.select([last.stdout], [], [], 0)[0], 5, "a line")
    space.cli("stop")
    last.communicate(timeout=15)
    assert last.returncode == 0
