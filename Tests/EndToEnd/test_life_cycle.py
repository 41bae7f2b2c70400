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
        for pid in (path / "cgroup.procs").read_text().split():  # of a workspace whose test has failed
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
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
        refusal = space.cli("start", "b", check=False)
        assert refusal.returncode == 1 and "Resource temporarily unavailable: the next start is in" in refusal.stderr
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


# ---- commands return when their effect is there

SLOW = "sh -c 'trap \"sleep 0.5; exit 0\" TERM; while :; do sleep 0.02; done'"


def test_stop_start_and_restart_return_when_they_have_taken_effect(workspace):
    space = workspace(f"""
tasks: [{{name: t, command: "sh -c 'trap \\"sleep 0.5; touch closed; exit\\" TERM; while :; do sleep 0.02; done'; true"}}]
workspacekit:
  services:
    slow: {{command: {json.dumps(SLOW)}}}
    above: {{command: {json.dumps(SLOW)}, depends_on: [slow]}}
    late: {{command: "sh -c 'sleep 0.5; echo >&3; exec sleep 1000'", ready: {{notify: fd}}, restart: "no"}}
    missing: {{command: sleep 1000, restart: always, ready: {{notify: fd, timeout: 100ms}}}}
    other: {{command: sleep 1000}}
""").started()
    space.cli("start", "t", "other")
    for names in (["t"], ["slow", "above"]):
        space.cli("stop", *names)
        assert {state(space, name)["state"] for name in names} == {"stopped"}, space.status()
    # The process of the task's shell has ended first; what it started is waited for too.
    assert (space.folder / "closed").exists()
    space.cli("start", "above")
    assert state(space, "above")["state"] == state(space, "slow")["state"] == "running"
    before = state(space, "slow")["pid"]
    space.cli("restart", "slow")
    assert state(space, "slow")["state"] == "running" and state(space, "slow")["pid"] != before
    space.cli("stop", "--force", "slow")
    assert state(space, "slow")["state"] == state(space, "above")["state"] == "stopped"
    space.cli("restart", "late")
    assert state(space, "late")["isReady"] is True
    failed = space.cli("restart", "missing", check=False)
    assert failed.returncode == 1 and "missing: not ready in time: the next start is in" in failed.stderr, failed.stderr
    # Not waited for where that is asked for.
    space.cli("start", "slow")
    space.cli("stop", "--no-wait", "slow")
    assert state(space, "slow")["state"] == "stopping"
    space.cli("wait", "slow", "--for", "stopped", "--timeout", "20s")
    assert state(space, "slow")["state"] == "stopped"
    late = space.cli("wait", "other", "--for", "stopped", "--timeout", "50ms", check=False)
    assert (late.returncode, late.stderr) == (124, "workspacekit: other is not stopped yet: the time is over\n")


def test_a_start_that_cannot_be_is_an_error(workspace):
    space = workspace("""
tasks: [{name: bad, command: exit 3}, {name: after, command: echo after}]
workspacekit:
  tasks: {after: {depends_on: {bad: {condition: service_completed_successfully}}}}
  services: {gone: {command: ./gone}}
""")
    (space.folder / "gone").write_text("#!/bin/sh\nexec sleep 1000\n")
    (space.folder / "gone").chmod(0o755)
    space.started()
    space.cli("stop", "gone")
    (space.folder / "gone").unlink()
    failed = space.cli("start", "gone", check=False)
    assert failed.returncode == 1 and "No such file or directory" in failed.stderr, failed.stderr
    failed = space.cli("start", "after", check=False)
    assert failed.returncode == 1 and "after waits in vain: bad failed: exit status 3" in failed.stderr, failed.stderr
    # It ran and ended: that is no failure to start it.
    space.cli("start", "bad")
    until(lambda: state(space, "bad")["state"] == "failed", 10, "its end")


def test_reload_returns_when_the_edit_has_taken_effect(workspace):
    config = lambda command, names: "workspacekit:\n  services:\n" + "".join(f"    {name}: {{command: {json.dumps(command)}}}\n" for name in names)
    space = workspace(config(SLOW, ["a", "b"])).started()
    before = space.status()
    # No notification: the file is moved in and followed by `reload` alone, or by both; each way is as good.
    (space.folder / ".gitpod.yml").write_text(config(SLOW.replace("0.02", "0.03"), ["a", "c"]))
    space.cli("reload")
    after = space.status()
    assert after["a"]["state"] == after["c"]["state"] == "running" and after["a"]["pid"] != before["a"]["pid"] and "b" not in after, after


def test_a_stop_that_waits_outlives_the_supervisor(workspace):
    space = workspace("workspacekit: {services: {s: {command: \"sh -c 'trap \\\"until test -e go; do sleep 0.02; done; exit\\\" TERM; while :; do sleep 0.02; done'\", stop_grace_period: 1m}}}\n").started()
    stop = space.lab.popen_in(space.lab.pod, [*space.prefix, BINARY, "stop", "s", "--state-dir", str(space.state)], env=space.environment)
    until(lambda: state(space, "s")["state"] == "stopping", 10, "the stop")
    os.kill(space.stage("supervise"), signal.SIGKILL)
    until(lambda: "another takes over" in space.stderr and space.cli("status", check=False).returncode == 0, 10, "another supervisor")
    assert stop.poll() is None and state(space, "s")["state"] == "stopping"
    (space.folder / "go").touch()
    assert stop.wait(20) == 0 and state(space, "s")["state"] == "stopped"


@pytest.mark.parametrize("how", ["stop", "stop --no-wait"])
def test_another_workspace_runs_right_after_a_stop(workspace, how):
    """What dies with the workspace is slow to end, and the state directory is free once `stop` has returned."""
    slow = "tasks: [{name: t, command: \"sh -c 'trap \\\"sleep 0.5; exit\\\" TERM; while :; do sleep 0.02; done'; true\"}]\n"
    space = workspace(slow).started()
    for round in range(5):
        space.cli(*how.split())
        if "--no-wait" in how:
            space.cli("wait", "--for", "stopped", "--timeout", "20s")
        again = workspace(slow if round < 4 else None, folder=space.folder, command=[] if round < 4 else ["true"])
        if round == 4:
            assert again.wait(20) == 0, again.stderr
            break
        again.started()
        assert "another workspace runs" not in again.stderr
        assert space.wait(1) == 0
        space = again
    assert space.cli("wait", "--for", "stopped").returncode == 0, "nothing runs"
