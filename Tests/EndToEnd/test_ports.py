"""Which ports are served inside, by whom, and waiting for one."""

import json
import subprocess
import time

from conftest import BINARY, PYTHON, until

SERVE = """
import socket, time, sys
sockets = []
for family, kind, address in ((socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1"), (socket.AF_INET6, socket.SOCK_STREAM, "::1"), (socket.AF_INET, socket.SOCK_DGRAM, "0.0.0.0")):
    s = socket.socket(family, kind)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((address, 7300))
    if kind == socket.SOCK_STREAM: s.listen()
    sockets.append(s)
time.sleep(1000)
"""


def ports(space):
    return {f"{port['port']}/{port['transport']}": port for port in json.loads(space.cli("ports", "--json").stdout)}


def test_ports_with_their_process_unit_and_declaration(workspace):
    space = workspace(f"""
ports: [{{port: 7300, name: web, description: the shop}}, {{port: 7301, name: later}}, {{port: 7302-7310, name: range}}, {{port: 7311, onOpen: ignore-completely}}]
tasks: [{{name: server, command: 'sh -c "exec {PYTHON} serve.py" & exec {PYTHON} -m http.server 7305'}}]
workspacekit: {{services: {{other: {{command: "{PYTHON} -m http.server --bind 127.0.0.1 7311"}}}}}}
""")
    (space.folder / "serve.py").write_text(SERVE)
    space.started()
    until(lambda: {"7300/tcp", "7300/udp", "7305/tcp"} <= {name for name, port in ports(space).items() if port["isListening"]}, 10, "the servers")
    found = ports(space)
    assert found["7300/tcp"]["addresses"] == ["127.0.0.1", "::1"] and found["7300/tcp"]["name"] == "web"
    assert found["7300/tcp"]["unit"] == "server" and found["7300/tcp"]["process"].startswith("python3")
    assert found["7300/udp"]["unit"] == "server" and not found["7300/udp"]["isDeclared"]
    assert found["7305/tcp"]["name"] == "range" and found["7305/tcp"]["pid"] == space.status()["server"]["pid"]
    assert found["7301/tcp"] == {"port": 7301, "transport": "tcp", "isListening": False, "addresses": [], "isDeclared": True, "name": "later"}
    assert "7302/tcp" not in found and "7311/tcp" not in found
    table = space.cli("ports").stdout.splitlines()
    assert table[0].split() == ["PORT", "STATE", "NAME", "PROCESS", "UNIT", "ADDRESSES"]
    assert any(line.split()[:4] == ["7301/tcp", "not", "served", "later"] for line in table)


def test_awaiting_a_port(workspace):
    space = workspace(f"tasks: [{{name: t, command: 'sleep 1; exec {PYTHON} -m http.server 7320'}}]\n").started()

    def wait_for(*arguments):
        return space.lab.in_pod(*space.prefix, BINARY, "ports", "await", "--state-dir", str(space.state), *arguments, check=False, env=space.environment)

    assert wait_for("7321", "--timeout", "200ms").returncode == 124
    begun = time.monotonic()
    assert wait_for("7320", "--timeout", "20s").returncode == 0
    assert ports(space)["7320/tcp"]["isListening"] and time.monotonic() - begun < 20
    # From inside too, as tasks do.
    assert json.loads(space.exec(BINARY, "ports", "await", "7320", "--json").stdout)["isListening"] is True
    assert space.exec(BINARY, "ports", "await", "7320").returncode == 0
    assert wait_for("70000").returncode == 64


def test_watching_ports(workspace):
    space = workspace("tasks: [{name: t, command: sleep 1000}]\n").started()
    with open(space.folder / "watched", "wb") as out:
        watcher = space.lab.popen_in(space.lab.pod, [*space.prefix, BINARY, "ports", "--watch", "--state-dir", str(space.state)],
                                     env=space.environment, stdout=out)
    server = space.lab.popen_in(space.lab.pod, [*space.prefix, BINARY, "exec", "--state-dir", str(space.state), "--", PYTHON, "-m", "http.server", "7330"],
                                env=space.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: "+ 7330/tcp served by python3" in (space.folder / "watched").read_text(), 10, "the port")
    server.kill()
    server.wait()
    until(lambda: "- 7330/tcp" in (space.folder / "watched").read_text(), 10, "its end")
    space.cli("stop")
    assert watcher.wait(10) == 0


def test_a_url_is_for_what_a_browser_opens(workspace):
    """5432 is PostgreSQL's by IANA's registry; a file that says http or https is believed, whatever the number."""
    listen = "import socket, time; s = [socket.create_server((\"127.0.0.1\", p)) for p in (5432, 4100, 6379, 4443)]; time.sleep(1000)"
    space = workspace(f"""
tasks: [{{name: t, command: '{PYTHON} -c ''{listen}'''}}]
ports: [{{port: 5432, name: db}}, {{port: 4100}}, {{port: 6379, protocol: http}}, {{port: 4443, protocol: https}}]
""").started()
    for line in ("port 5432 (db) is forwarded: 127.0.0.1:5432,", "port 4100 is forwarded: http://127.0.0.1:4100,",
                 "port 6379 is forwarded: http://127.0.0.1:6379,", "port 4443 is forwarded: https://127.0.0.1:4443,"):
        until(lambda: line in space.stderr, 10, lambda: f"{line} in {space.stderr}")
