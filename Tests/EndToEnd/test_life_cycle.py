"""How units and the workspace end and start again: sockets of units that ended, resources that are exhausted, commands
that return when their effect is there, and the reasons that are given."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess

import pytest

from conftest import BINARY, PYTHON, WORLD4, tagged, until


def state(space, name):
    return space.status()[name]


# ---- socket activation

ONCE = """
import os, socket, sys
s = socket.socket(fileno=3)
c, _ = s.accept()
c.sendall(b"%d" % os.getpid())
c.close()
sys.exit(int(sys.argv[1]))
"""
ASK = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.settimeout(20); s.connect(sys.argv[1]); print(s.recv(100).decode())"


@pytest.mark.parametrize("restart, code", [("no", 0), ("on-failure", 0), ("no", 3)])
def test_a_socket_service_that_ended_listens_again(workspace, lab, restart, code):
    """As with inetd (wait) and systemd: the process serves one client and ends, and the next client starts it again. In
    systemd a failed service leaves its socket listening too."""
    path = f"{lab.folder}/again/s.sock"
    space = workspace(f"""
workspacekit:
  services:
    s: {{command: [{PYTHON}, -c, {json.dumps(ONCE)}, "{code}"], listen: [{path}], restart: "{restart}"}}
""").started()
    pids = set()
    for count in range(1, 4):
        pids.add(space.exec(PYTHON, "-c", ASK, path).stdout.strip())
        until(lambda: state(space, "s")["state"] == "listening", 10, "the state after the client")
        assert state(space, "s")["exitCode"] == code and len(pids) == count
    assert f"s: exit status {code}: listening again" in space.stderr


def refused(space, path):
    return "ConnectionRefusedError" in space.exec(PYTHON, "-c", ASK, path, check=False).stderr or not os.path.exists(path)


def test_a_service_that_ended_for_good_closes_its_socket(workspace, lab):
    paths = {name: f"{lab.folder}/for-good/{name}.sock" for name in ("stopped", "given-up", "loop", "missing")}
    space = workspace(f"""
workspacekit:
  services:
    stopped: {{command: [{PYTHON}, -c, {json.dumps(ONCE)}, "0"], listen: [{paths["stopped"]}], restart: always}}
    given-up: {{command: "sh -c 'exit 3'", listen: [{paths["given-up"]}], restart: "on-failure:1"}}
    # Never accepts: systemd puts the socket into the failed state after 20 activations in 2 seconds.
    loop: {{command: "true", listen: [{paths["loop"]}], restart: "no"}}
""").started()
    for name, path in paths.items():
        assert name == "missing" or os.path.exists(path)
    # A client in the queue is not left waiting: the end of the socket reaches it.
    for name in ("given-up", "loop"):
        client = space.exec(PYTHON, "-c", ASK, paths[name], check=False)
        assert "timed out" not in client.stderr, client.stderr
        until(lambda: state(space, name)["state"] == "failed", 10, f"the end of {name}")
        assert refused(space, paths[name])
    assert "connections started it more than 20 times within 2 s" in state(space, "loop")["reason"]
    space.cli("stop", "stopped")
    until(lambda: state(space, "stopped")["state"] == "skipped", 10, "the stop")
    assert refused(space, paths["stopped"])
    # Started again, it has its socket again; so it has after another supervisor has taken over.
    space.cli("start", "stopped")
    assert space.exec(PYTHON, "-c", ASK, paths["stopped"]).stdout.strip()
    space.cli("stop", "stopped")
    until(lambda: state(space, "stopped")["state"] == "stopped", 10, "the stop")
    assert refused(space, paths["stopped"])
    os.kill(space.stage("supervise"), signal.SIGKILL)
    until(lambda: "another takes over" in space.stderr and space.cli("status", check=False).returncode == 0, 10, "another supervisor")
    assert state(space, "stopped")["state"] == "stopped" and refused(space, paths["stopped"])
    space.cli("start", "stopped")
    assert space.exec(PYTHON, "-c", ASK, paths["stopped"]).stdout.strip()


def test_a_dependent_of_a_socket_service_that_completes_starts_it_once(workspace, lab):
    space = workspace(f"""
tasks: [{{name: t, command: 'echo after; sleep 1000'}}]
workspacekit:
  tasks: {{t: {{depends_on: {{s: {{condition: service_completed_successfully}}}}}}}}
  services: {{s: {{command: "sh -c 'echo ran'", listen: [{lab.folder}/once.sock], restart: "no"}}}}
""").started()
    until(lambda: "[t] after" in space.stdout, 10, "the task")
    assert space.stdout.count("[s] ran") == 1 and state(space, "s")["state"] == "listening"
    space.cli("wait", "s", "--for", "completed")


# ---- exhausted resources

@contextlib.contextmanager
def controlled(controller):
    """A cgroup of the first version, for the processes that a test starts."""
    path = pathlib.Path(f"/sys/fs/cgroup/{controller}/wk-test-{os.getpid()}")
    if os.geteuid() != 0 or not os.access(path.parent / "cgroup.procs", os.W_OK):
        pytest.skip(f"no {controller} cgroup of the first version to make one in")
    path.mkdir()
    try:
        yield path
    finally:
        for folder in sorted(path.glob("**/"), key=lambda folder: -len(folder.parts)):
            until(lambda: not (folder / "cgroup.procs").read_text(), 10, "the end of what was in the cgroup")
            folder.rmdir()


def through(cgroup):
    return ["sh", "-c", f"echo $$ >{cgroup}/cgroup.procs && exec \"$@\"", "sh"]


def test_nothing_ends_when_no_process_can_be_had(workspace):
    """The limit of processes is reached while the forwarder, the supervisor and a unit's process are killed: each of them
    comes back once there is room."""
    with controlled("pids") as cgroup:
        space = workspace("""
tasks: [{name: t, command: sleep 1000}]
workspacekit: {services: {a: {command: sleep 1000, restart: always}, b: {command: sleep 1000, restart: "no"}}}
""", through=through(cgroup)).started()
        fetch = lambda: space.exec("curl", "-sS", "-m", "2", f"http://{WORLD4}:8000/", check=False).stdout
        until(lambda: fetch() == "hello from world\n", 10, "the network")
        before = space.status()
        space.cli("stop", "b")
        until(lambda: state(space, "b")["state"] == "stopped", 10, "the stop")
        (cgroup / "pids.max").write_text("1")
        space.cli("start", "b")
        space.cli("signal", "KILL", "a")
        until(lambda: state(space, "b")["state"] == state(space, "a")["state"] == "backing off", 10, "both to wait for another start")
        assert "Resource temporarily unavailable" in state(space, "b")["reason"]
        os.kill(space.stage("slirp"), signal.SIGKILL)
        until(lambda: "the forwarder is started again in" in space.stderr, 10, "the forwarder's failed start")
        os.kill(space.stage("supervise"), signal.SIGKILL)
        until(lambda: "another takes over" in space.stderr, 10, "the news of the supervisor")
        (cgroup / "pids.max").write_text("max")
        until(lambda: space.cli("status", check=False).returncode == 0, 20, "another supervisor")
        until(lambda: state(space, "a")["state"] == state(space, "b")["state"] == "running", 20, "both units")
        until(lambda: fetch() == "hello from world\n", 20, "the network's return")
        assert state(space, "t")["pid"] == before["t"]["pid"]
        space.stop()
        assert space.wait() == 0
