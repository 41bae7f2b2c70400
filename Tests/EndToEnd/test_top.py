"""What units use: as a table, as JSON, live on a terminal, and as gp shows it."""

import json
import signal
import time

import pytest

from conftest import WORLD4, until
from test_terminals import Screen

CONFIG = f"""
tasks:
  - {{name: busy, command: "while :; do :; done"}}
  - name: net
    command: |
      python3 -c 'import socket
      s = socket.create_connection(("{WORLD4}", 7)); s.settimeout(20)
      for i in range(10**9):
          s.sendall(bytes(1 << 16)); n = 0
          while n < 1 << 16: n += len(s.recv(1 << 16))'
  - {{name: memory, command: "python3 -c 'x = bytes(range(256)) * (200 << 12); import time; time.sleep(1000)'"}}
workspacekit:
  services:
    idle: {{command: sleep 1000}}
    stray: {{command: "sh -c 'setsid sh -c \\"while :; do :; done\\" & exec sleep 1000'"}}
"""


def look(space):
    return {row["name"]: row for row in json.loads(space.cli("top", "--json", "-i", "1s").stdout)}


def test_each_unit_with_what_it_uses(workspace):
    space = workspace(CONFIG).started()
    until(lambda: look(space)["memory"]["memoryBytes"] > 200 << 20, 20, "the memory")
    rows = look(space)
    assert rows["busy"]["processorPercent"] > 20 and rows["idle"]["processorPercent"] < 5
    # Also what has left the session is whose it was.
    assert rows["stray"]["processorPercent"] > 20 and rows["stray"]["processes"] == 2
    assert rows["net"]["receivedPerSecond"] > 1 << 16 and rows["net"]["sentPerSecond"] > 1 << 16
    assert rows["idle"]["receivedPerSecond"] == 0 and rows["memory"]["memoryBytes"] < 400 << 20
    assert rows["idle"]["pid"] == space.status()["idle"]["pid"] and rows["idle"]["kind"] == "service"
    table = space.cli("top", "-i", "200ms").stdout.splitlines()
    assert table[0].startswith("5 units, running; cpu ") and table[1].split()[:5] == ["NAME", "STATE", "PID", "CPU%", "MEM"]
    assert [line.split()[0] for line in table[2:]] == ["idle", "stray", "busy", "net", "memory"]
    # gp's: everything together.
    facts = json.loads(space.exec("gp", "top", "-j").stdout)["resources"]
    assert facts["cpu"]["used"] > 500 and facts["cpu"]["limit"] >= 1000
    assert facts["memory"]["used"] > 200 << 20 and facts["memory"]["limit"] > facts["memory"]["used"]
    assert "millicores" in space.exec("gp", "top").stdout
    assert space.cli("top", "-i", "1ms", check=False).returncode == 64


def test_live_on_a_terminal(workspace):
    space = workspace("""
tasks: [{name: talk, command: 'while :; do echo "line $((n = n + 1))"; sleep 0.05; done'}]
workspacekit: {services: {a: {command: sleep 1000}, b: {command: sleep 1000}}}
""").started()
    screen = Screen(space, "top", "-i", "200ms", rows=12, columns=80)
    screen.shows(b"> a")
    screen.type(b"j")
    screen.shows(b"> b")
    screen.type(b"\x1b[B")
    screen.shows(b"> talk")
    screen.type(b"l")
    screen.shows(b"log of talk")
    screen.shows(b"line 30")
    screen.type(b" ")
    screen.type(b"k")
    first = space.status()["b"]["pid"]
    screen.type(b"r")
    screen.shows(b"restart b: asked for")
    until(lambda: space.status()["b"]["pid"] not in (None, first), 10, "the restart")
    screen.type(b"s")
    until(lambda: space.status()["b"]["state"] == "stopped", 10, "the stop")
    screen.shows(b"stopped")
    screen.type(b"S")
    until(lambda: space.status()["b"]["state"] == "running", 10, "the start")
    # No line is wider than the terminal, and there are no more of them than it has.
    frame = screen.text().split(b"\x1b[H")[-2]
    lines = frame.replace(b"\x1b[K", b"").split(b"\r\n")
    assert len(lines) == 12 and max(map(len, lines)) <= 80
    screen.resize(5, 30)
    screen.process.send_signal(signal.SIGWINCH)
    until(lambda: screen.text().split(b"\x1b[H")[-2].count(b"\r\n") == 4, 10, "the smaller picture")
    screen.type(b"q")
    assert screen.ends() == 0
    # The terminal is as it was.
    assert screen.text().endswith(b"\x1b[?25h\x1b[?1049l")


@pytest.mark.parametrize("how", ["ctrl-c", "SIGTERM", "the workspace ends"])
def test_the_terminal_is_given_back(workspace, how):
    space = workspace("workspacekit: {services: {a: {command: sleep 1000}}}").started()
    screen = Screen(space, "top", "-i", "200ms")
    screen.shows(b"> a")
    if how == "ctrl-c":
        screen.type(b"\x03")
    elif how == "SIGTERM":
        screen.process.terminate()
    else:
        space.cli("stop")
    assert screen.ends() == (69 if how == "the workspace ends" else 0)
    assert b"\x1b[?25h\x1b[?1049l" in screen.text()


@pytest.mark.parametrize("columns", [40, 60, 100])
def test_a_narrow_terminal_has_fewer_columns_and_none_is_cut(workspace, columns):
    space = workspace("""
tasks: [{name: "a task with a name that is long and says what it is", command: "printf '\\\\033[33mwarn\\\\033[0m of \\\\033[2Jthis\\\\n'; sleep 1000"}]
workspacekit: {services: {db: {command: sleep 1000}}}
""").started()
    screen = Screen(space, "top", "-i", "200ms", rows=10, columns=columns)
    until(lambda: screen.text().count(b"\x1b[H") > 2 and b"> db" in screen.text(), 10, "the picture")

    def frame():
        picture = screen.text().split(b"\x1b[H")[-2].replace(b"\x1b[K", b"").decode()
        return [line for line in picture.split("\r\n")]

    lines = frame()
    assert all(len(line) <= columns for line in lines), lines
    head = lines[1].split()
    assert head[:2] == ["NAME", "STATE"] and {"CPU%", "MEM"} <= set(head)
    assert set(head) <= {"NAME", "STATE", "PID", "CPU%", "MEM", "PROCS", "RX/s", "TX/s", "RESTARTS"}
    assert len(head) < 9 if columns < 100 else "PID" in head
    assert lines[2].split()[2] == "running"
    # The log of a coloured unit: its text, and nothing of its escapes.
    screen.type(b"j")
    screen.type(b"l")
    screen.shows(b"warn of this")
    assert b"[33m" not in screen.text() and b"[2J" not in screen.text()
    screen.type(b" q")
    assert screen.ends() == 0
