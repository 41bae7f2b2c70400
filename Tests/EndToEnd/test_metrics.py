"""workspacekit metrics: Prometheus' text format, by its rules."""

import os
import re
import signal
import socket

import pytest

from conftest import PLAIN_USER, PYTHON, WORLD4, until

SAMPLE = re.compile(r'^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (-?[0-9.]+(?:e[+-]?[0-9]+)?)$')
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"')


def parsed(text):
    """Samples by name and labels; what promtool would complain of fails."""
    samples, family, types = {}, None, {}
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# HELP "):
            family = line.split()[2]
            assert family not in types and len(line.split(" ", 3)[3]) > 0
        elif line.startswith("# TYPE "):
            name, kind = line.split()[2:]
            assert name == family and kind in ("gauge", "counter")
            assert (kind == "counter") == name.endswith("_total")
            types[name] = kind
        else:
            match = SAMPLE.match(line)
            assert match and match[1] == family and family in types, line
            key = (match[1], tuple(sorted(LABEL.findall(match[2] or ""))))
            assert key not in samples, line
            samples[key] = float(match[3])
    assert all(name.startswith("workspacekit_") for name in types)
    return samples


def test_units_and_ports(workspace):
    space = workspace(f"""
tasks: [{{name: 'say "hi" \\ there', command: "exit 3"}}, {{name: web, command: "exec {PYTHON} -m http.server 8123"}}]
workspacekit:
  services:
    flaky: {{command: "false", restart: always}}
    fine: {{command: sleep 1000, healthcheck: {{test: "true"}}}}
""").started()
    until(lambda: space.status()["flaky"]["restarts"] >= 1 and space.status()["fine"].get("isHealthy"), 10, "a restart and a healthy service")
    until(lambda: parsed(space.cli("metrics").stdout)[("workspacekit_ports_listening", (("transport", "tcp"),))] >= 1, 10, "the port")
    samples = parsed(space.cli("metrics").stdout)
    value = lambda name, unit, kind: samples.get((f"workspacekit_unit_{name}", (("kind", kind), ("unit", unit))))
    odd = 'say \\"hi\\" \\\\ there'
    assert value("last_exit_code", odd, "task") == 3 and value("running", odd, "task") == 0
    assert value("running", "web", "task") == 1 and value("uptime_seconds", "web", "task") > 0
    assert value("restarts_total", "flaky", "service") >= 1
    assert value("healthy", "fine", "service") == 1 and value("ready", "fine", "service") == 1
    assert samples[("workspacekit_stopping", ())] == 0


def scrape(space, request=b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", path=None):
    """One request over the socket, from outside: status line, headers and body."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(path or space.state / "metrics.sock"))
        client.sendall(request)
        answer = b""
        while data := client.recv(65536):
            answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    return lines[0], dict(line.split(": ", 1) for line in lines[1:]), body.decode()


def test_scraped_over_http(workspace):
    space = workspace("workspacekit: {services: {web: {command: sleep 1000}}}").started()
    until(lambda: "workspacekit_start_stage" in space.cli("metrics").stdout, 10, "ring0's times")
    status, headers, body = scrape(space)
    assert status == "HTTP/1.1 200 OK" and headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert int(headers["Content-Length"]) == len(body) and headers["Connection"] == "close"
    samples = parsed(body)
    stages = {dict(labels)["stage"]: value for (name, labels), value in samples.items() if name == "workspacekit_start_stage_duration_seconds"}
    assert set(stages) >= {"configuration", "ring1", "forwarder", "ring2", "first task"} and all(0 <= value < 30 for value in stages.values())
    assert samples[("workspacekit_unit_processes", (("kind", "service"), ("unit", "web")))] == 1
    assert samples[("workspacekit_unit_memory_bytes", (("kind", "service"), ("unit", "web")))] > 0
    link = (("device", "tap0"),)
    before = samples[("workspacekit_network_transmit_bytes_total", link)]
    space.exec("curl", "-s", "-o", "/dev/null", f"http://{WORLD4}:8000/")
    assert parsed(scrape(space)[2])[("workspacekit_network_transmit_bytes_total", link)] > before
    # curl, as people try it, from inside.
    assert space.exec("curl", "-s", "--unix-socket", str(space.state / "metrics.sock"), "http://localhost/metrics").stdout.startswith("# HELP")
    # The next supervisor knows as much.
    os.kill(space.stage("supervise"), signal.SIGKILL)
    until(lambda: space.cli("status", check=False).returncode == 0, 5, "the next supervisor")
    assert 'stage="ring1"' in scrape(space)[2]
    space.cli("stop")
    space.wait(10)
    assert not (space.state / "metrics.sock").exists()


@pytest.mark.parametrize("request_, status", [
    (b"GET / HTTP/1.1\r\n\r\n", "404 Not Found"), (b"GET /metrics?x=1 HTTP/1.0\n\n", "200 OK"), (b"POST /metrics HTTP/1.1\r\n\r\n", "405 Method Not Allowed"),
    (b"nonsense\r\n\r\n", "400 Bad Request"), (b"\0\xff\r\n\r\n", "400 Bad Request"), (b"\r\n\r\n", "400 Bad Request"), (b"GET /metrics HTTP/1.1\r\n" + b"x" * 9000, "431 Request Header Fields Too Large"),
    (b"HEAD /metrics HTTP/1.1\r\n\r\n", "200 OK"),
])
def test_whatever_is_asked_is_answered(workspace, request_, status):
    space = workspace("tasks: [{command: sleep 1000}]", arguments=["--network", "none"]).started()
    line, headers, body = scrape(space, request_)
    assert line == "HTTP/1.1 " + status
    assert (body != "") == (status == "200 OK" and request_[:4] != b"HEAD")


def test_slow_scrapers_hold_nobody_up(workspace):
    services = "".join(f"    service-{index}: {{command: sleep 1000}}\n" for index in range(150))
    space = workspace("workspacekit:\n  services:\n" + services, arguments=["--network", "none"]).started()
    path = str(space.state / "metrics.sock")
    slow = []
    for index in range(40):
        client = socket.socket(socket.AF_UNIX)
        client.connect(path)
        client.sendall(b"GET /met" if index % 2 else b"GET /metrics HTTP/1.1\r\n\r\n")
        slow.append(client)
    parsed(scrape(space)[2])
    # One that reads at last has all of it.
    late = socket.socket(socket.AF_UNIX)
    late.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    late.settimeout(10)
    late.connect(path)
    late.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
    space.status()
    answer = b""
    while data := late.recv(1000):
        answer += data
    assert len(answer) > 100_000 and len(parsed(answer.partition(b"\r\n\r\n")[2].decode())) > 1000
    for client in slow:
        client.close()


def test_strangers_are_refused(workspace):
    space = workspace("tasks: [{command: sleep 1000}]", arguments=["--network", "none"]).started()
    command = ["setpriv", "--reuid", str(PLAIN_USER), "--regid", str(PLAIN_USER), "--clear-groups",
               "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", str(space.state / "metrics.sock"), "http://localhost/metrics"]
    assert space.lab.in_pod(*command, check=False).stdout == "403"
