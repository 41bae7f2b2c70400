"""Which ports are served inside, by whom, and waiting for one."""

import json
import subprocess
import time

from conftest import BINARY, PYTHON, run, until

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


SPEAK = """
import http.server, socket, threading
class Quiet(http.server.BaseHTTPRequestHandler):
    def do_GET(self): self.send_response(200); self.end_headers(); self.wfile.write(b"web")
    def log_message(self, *a): pass
for port in (4100, 4101, 4102, 4103, 8000):
    threading.Thread(target=http.server.HTTPServer(("127.0.0.1", port), Quiet).serve_forever).start()
greeting, once = socket.create_server(("127.0.0.1", 5432)), socket.create_server(("127.0.0.1", 4104))
def count():
    served = 0
    while True:
        client, _ = once.accept()
        served += 1
        print("client", served, flush=True)
        client.close()
threading.Thread(target=count).start()
while True:
    client, _ = greeting.accept()
    client.sendall(b"not HTTP")
    client.close()
"""


def test_a_url_is_for_what_a_browser_opens(workspace):
    """The configuration says where HTTP is, or the port is one of HTTP's. Servers are not asked: one that takes a single client
    would have had it."""
    space = workspace(f"""
ports: [{{port: 5432, name: db}}, {{port: 4100}}, {{port: 4101, protocol: http}}, {{port: 4102, protocol: https}}, {{port: 4103, onOpen: open-preview}},
  {{port: 4104, name: once}}, {{port: 8000}}]
tasks: [{{name: t, command: exec {PYTHON} speak.py}}]
""")
    (space.folder / "speak.py").write_text(SPEAK)
    space.started()
    schemes = {5432: None, 4100: None, 4101: "http", 4102: "https", 4103: "http", 4104: None, 8000: "http"}
    names = {5432: " (db)", 4104: " (once)"}
    for port, scheme in schemes.items():
        line = f"port {port}{names.get(port, '')} is forwarded: {scheme + '://' if scheme else ''}127.0.0.1:{port},"
        until(lambda: line in space.stderr, 10, lambda: f"{line} in {space.stderr}")
    assert {port["port"]: port.get("protocol") for port in json.loads(space.cli("ports", "--json").stdout)} == schemes
    table = {line.split()[0]: line.split()[2] for line in space.exec("gp", "ports", "list").stdout.splitlines()[1:]}
    assert table == {str(port): f"{scheme}://localhost:{port}" if scheme else "-" for port, scheme in schemes.items()}
    assert "client" not in space.stdout
    assert run("nsenter", f"--net=/proc/{space.lab.pod.pid}/ns/net", "curl", "-s", "--max-time", "5", "http://127.0.0.1:4101").stdout == "web"
