"""The workspace's network, looked at and mended."""

import json
import os
import signal
import subprocess

import pytest

from conftest import BINARY, POD4, PYTHON, WORLD4, until


def net(space, verb, *arguments, check=True):
    return space.lab.in_pod(*space.prefix, BINARY, "net", verb, "--state-dir", str(space.state), *arguments, check=check, env=space.environment)


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
        up = until(lambda: next((f for f in flows(space)["flows"] if f["unit"] == "up" and f["bytesDown"] > 3000), None), 10, "the flow")
        assert up["transport"] == "tcp" and up["state"] == "established" and up["direction"] == "out"
        assert up["remote"] == f"{WORLD4}:7" and up["local"].startswith("10.0.2.100:") and up["bytesUp"] > 3000 and up["pid"] == space.status()["up"]["pid"]
        assert up["roundTripSeconds"] < 1 and up["ageSeconds"] >= up["idleSeconds"] >= 0
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
