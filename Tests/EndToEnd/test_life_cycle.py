"""How units and the workspace end and start again: sockets of units that ended, resources that are exhausted, commands
that return when their effect is there, and the reasons that are given."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest

from conftest import BINARY, PYTHON, WORLD4, until


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


# ---- who gets the signals

# A main process that waits for its worker, which any signal would end.
MANAGER = """
import os, signal, sys, time
worker = os.fork()
if worker == 0:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    open('up', 'w').close()
    while not os.path.exists('done'): time.sleep(0.02)
    open('finished', 'w').close()
    os._exit(0)
signal.signal(signal.SIGHUP, lambda *_: open('reloaded', 'w').close())
def end(*_):
    open('asked', 'w').close()
    os.waitpid(worker, 0)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
while True: signal.pause()
"""


def manager(workspace, options):
    space = workspace(f"workspacekit: {{services: {{m: {{command: [{PYTHON}, -c, {json.dumps(MANAGER)}], stop_grace_period: 1m, {options}}}}}}}\n").started()
    until((space.folder / "up").exists, 10, "the worker")
    return space


def test_the_stop_signal_of_kill_mode_mixed_goes_to_the_main_process_only(workspace):
    space = manager(workspace, "kill_mode: mixed")
    space.cli("stop", "--no-wait", "m")
    until((space.folder / "asked").exists, 10, "the signal")
    (space.folder / "done").touch()
    space.cli("wait", "m", "--for", "stopped", "--timeout", "20s")
    assert (space.folder / "finished").exists(), "the worker has done its job"
    assert state(space, "m")["exitCode"] == 0


def test_what_kill_mode_mixed_leaves_is_killed_when_the_main_process_has_ended(workspace):
    """As systemd does: no grace for the rest."""
    space = workspace("""
workspacekit: {services: {m: {command: "sh -c 'sh -c \\"trap : TERM; touch up; while :; do sleep 0.02; done\\" & trap \\"exit 0\\" TERM; while :; do sleep 0.02; done'", kill_mode: mixed, stop_grace_period: 1m}}}
""").started()
    until((space.folder / "up").exists, 10, "the child")
    space.cli("stop", "m")
    assert not space.exec("pgrep", "-f", "touch up", check=False).stdout.split()


def test_the_stop_signal_goes_to_the_whole_group_by_default(workspace):
    space = manager(workspace, "restart: no")
    space.cli("stop", "m")
    assert not (space.folder / "finished").exists() and (space.folder / "asked").exists()


def test_a_signal_for_the_main_process_only(workspace):
    space = manager(workspace, "restart: no")
    space.cli("signal", "--main", "HUP", "m")
    until((space.folder / "reloaded").exists, 10, "the signal")
    (space.folder / "done").touch()
    until((space.folder / "finished").exists, 10, "the worker, which was spared")


@pytest.mark.parametrize("mode", ["control-group", "mixed"])
@pytest.mark.parametrize("how", ["unit", "workspace", "stray"])
def test_a_stopped_unit_takes_its_stop_signal(workspace, how, mode):
    """SIGCONT follows the stop signal, as with systemd: nobody waits for the end of a grace of ten minutes."""
    space = workspace(f"""
tasks: [{{name: t, command: "touch up; sleep 1000"}}]
workspacekit:
  shutdown: {{grace: 30m}}
  tasks: {{t: {{stop_grace_period: 10m, kill_mode: {mode}}}}}
""").started()
    until((space.folder / "up").exists, 10, "the start")
    if how == "stray":
        # Nobody's, when its shell has ended: PID 1 ends it with the workspace.
        space.exec("sh", "-c", "(trap 'touch ended; exit' TERM; touch stray; while :; do sleep 0.02; done) >/dev/null 2>&1 & until test -e stray; do sleep 0.02; done; kill -STOP $!")
        until((space.folder / "stray").exists, 10, "the stray")
    else:
        space.cli("signal", "STOP", "t")
        pid = state(space, "t")["pid"]
        until(lambda: "T" in space.exec("sed", "-n", "s/^State:\\t//p", f"/proc/{pid}/status").stdout, 10, "the stop")
    if how == "unit":
        space.cli("stop", "t")
        assert state(space, "t")["reason"] == "SIGTERM"
    else:
        space.cli("stop")
        assert space.wait(20) == 0
        assert how != "stray" or (space.folder / "ended").exists()


# ---- a terminal that is closed

CLOSING = """
import os, pty, signal, sys, time
os.chdir(sys.argv.pop(1))
pid, terminal = pty.fork()
if pid == 0:
    if sys.argv[1] == "nohup": signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.execvp(sys.argv[2], sys.argv[2:])
while not os.path.exists("up"): time.sleep(0.02)
os.close(terminal)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.mark.parametrize("how", ["plain", "nohup"])
def test_a_closed_terminal_stops_the_workspace_in_order(workspace, lab, how):
    config = "tasks: [{name: t, command: \"trap 'touch closed; exit' TERM; touch up; while :; do sleep 0.02; done\"}]\n"
    folder = lab.folder / f"closing-{how}"
    folder.mkdir()
    (folder / ".gitpod.yml").write_text(config)
    state_dir = folder / "state"
    runs = [BINARY, "run", "--network", "none", "--workspace", str(folder), "--state-dir", str(state_dir)]
    process = lab.popen_in(lab.pod, [PYTHON, "-c", CLOSING, str(folder), how, *runs], stdout=subprocess.PIPE)
    client = lambda *words, **options: lab.in_pod(BINARY, *words, "--state-dir", str(state_dir), **options)
    try:
        if how == "nohup":
            until((folder / "up").exists, 15, "the task")
            # It answers still, long after the terminal has gone: until it is asked to stop.
            for _ in range(20):
                assert client("status", check=False).returncode == 0 and not (folder / "closed").exists()
            client("stop")
        assert process.wait(20) == 0 and process.stdout.read().decode().strip() == "0"
        assert (folder / "closed").exists(), "the task had its signal and its time"
    finally:
        client("stop", check=False)
        process.wait(20)
        shutil.rmtree(folder, ignore_errors=True)


# ---- why something ended

def test_the_end_of_an_essential_unit_is_said_with_its_code(workspace):
    space = workspace("""
tasks: [{name: t, command: sleep 1000}]
workspacekit: {services: {db: {command: "sh -c 'until test -e go; do sleep 0.02; done; exit 3'", essential: true, restart: "no"}}}
""").started()
    (space.folder / "go").touch()
    assert space.wait(20) == 3
    assert "workspacekit: db is essential and has ended (exit status 3): the workspace ends with exit code 3\n" in space.stderr


def test_an_essential_unit_that_is_stopped_for_ill_health_is_no_success(workspace):
    space = workspace("""
workspacekit: {services: {db: {command: "sh -c 'trap \\"exit 0\\" TERM; while :; do sleep 0.02; done'", essential: true, restart: "on-failure:1",
  healthcheck: {test: "echo cannot reach it >&2; exit 4", interval: 100ms, retries: 1}}}}
""")
    assert space.wait(30) == 1
    assert "db is essential and has ended (unhealthy: exit status 4: cannot reach it): the workspace ends with exit code 1\n" in space.stderr


def test_the_failed_step_of_a_task_is_named(workspace):
    space = workspace("""
tasks:
  - {name: i, init: exit 5, command: echo never}
  - {name: c, init: "true", command: exit 6}
  - {name: b, before: exit 7, init: "true", command: echo never}
""").started()
    until(lambda: {state(space, name)["state"] for name in "icb"} == {"failed"}, 10, "their ends")
    assert "workspacekit: i: ended: exit status 5 (init)\n" in space.stderr, space.stderr
    assert "workspacekit: c: ended: exit status 6 (command)\n" in space.stderr
    assert "workspacekit: b: ended: exit status 7 (before or init)\n" in space.stderr


def test_the_code_of_a_unit_that_was_stopped_is_its_processs(workspace):
    space = workspace("""
workspacekit:
  services:
    ill: {command: sleep 1000, restart: always, healthcheck: {test: [CMD, "false"], interval: 100ms, retries: 1}}
    late: {command: sleep 1000, restart: "no", ready: {notify: fd, timeout: 100ms}}
    asked: {command: sleep 1000}
""").started()
    space.cli("stop", "asked")
    until(lambda: state(space, "late")["state"] == "failed" and state(space, "ill")["restarts"] > 0, 20, "the ends")
    until(lambda: state(space, "ill")["state"] == "backing off", 20, "the next end")
    assert {name: unit["exitCode"] for name, unit in space.status().items()} == {"ill": 143, "late": 143, "asked": 143}
    assert state(space, "ill")["reason"] == "unhealthy: exit status 1" and state(space, "late")["reason"] == "not ready in time"


# ---- healthchecks

@pytest.mark.parametrize("test, reason", [
    ('[CMD, curll, "http://127.0.0.1/"]', "cannot find curll: No such file or directory"),
    ('"echo nothing here; echo why >&2; exit 3"', "exit status 3: why"),
    ('"kill -9 $$"', "SIGKILL"),
    ('"printf \'\\\\033[31mred\\\\033[0m\\\\n\\\\n\'; exit 1"', "exit status 1: [31mred[0m"),
    ('"yes; exit 1"', "no answer within 300 ms"),
])
def test_the_reason_of_a_failed_probe_is_given(workspace, test, reason):
    space = workspace(f"""
workspacekit:
  services:
    ill: {{command: sleep 1000, restart: "no", healthcheck: {{test: {test}, interval: 300ms, timeout: 300ms, retries: 1}}}}
""").started()
    until(lambda: state(space, "ill").get("isHealthy") is False, 20, "the verdict")
    assert state(space, "ill")["probeFailure"] == reason
    assert f"workspacekit: ill: unhealthy: a probe failed: {reason}\n" in space.stderr
    assert f"last probe: {reason}" in space.cli("status").stdout
    events = [json.loads(line) for line in space.cli("events", "--json").stdout.splitlines()]
    assert [event["reason"] for event in events if event["event"] == "unhealthy"] == [reason]


@pytest.mark.parametrize("check, reason", [
    ("port: 7299", "exit status 1: cannot connect to [::1]:7299: Connection refused"),
    ("http: http://127.0.0.1:7298/missing", "exit status 1: http://127.0.0.1:7298/missing answers with status 404"),
])
def test_the_reason_of_a_failed_network_probe_is_given(workspace, check, reason):
    space = workspace(f"""
workspacekit:
  services:
    ill: {{command: "{PYTHON} -m http.server 7298", restart: "no", healthcheck: {{{check}, interval: 300ms, retries: 5}}}}
""").started()
    until(lambda: state(space, "ill").get("isHealthy") is False, 20, "the verdict")
    assert state(space, "ill")["probeFailure"] == reason


# ---- time that was not ours

WATCHED = """
import os, socket, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect('\\0' + os.environ['NOTIFY_SOCKET'][1:])
s.send(b'READY=1')
while True:
    try: s.send(b'WATCHDOG=1', socket.MSG_DONTWAIT)
    except BlockingIOError: pass
    time.sleep(0.05)
"""


@pytest.mark.parametrize("how", ["supervisor", "workspace"])
def test_time_stopped_or_frozen_is_no_silence_of_the_units(workspace, how):
    """Twice the watchdog, the probe's timeout and the time to be ready pass while the supervisor, or all of it, is stopped.
    Without the correction each of the three units is killed as soon as it goes on."""
    config = f"""
workspacekit:
  services:
    fed: {{command: [{PYTHON}, -c, {json.dumps(WATCHED)}], restart: always, ready: {{notify: sd_notify, watchdog: 1500ms}}}}
    probed: {{command: sleep 1000, restart: always, healthcheck: {{test: "touch asked; until test -e answer; do sleep 0.02; done", interval: 2s, timeout: 2s, retries: 1}}}}
    late: {{command: "sh -c 'until test -e answer; do sleep 0.02; done; echo >&3; exec sleep 1000'", restart: always, ready: {{notify: fd, timeout: 6s}}}}
"""
    with contextlib.ExitStack() as stack:
        cgroup = stack.enter_context(controlled("freezer")) if how == "workspace" else None
        space = workspace(config, through=through(cgroup) if cgroup else ()).started()
        until(lambda: state(space, "fed")["isReady"], 10, "the start")
        before = {name: unit["pid"] for name, unit in space.status().items()}
        until((space.folder / "asked").exists, 10, "a probe")
        if cgroup:
            (cgroup / "freezer.state").write_text("FROZEN")
            until(lambda: (cgroup / "freezer.state").read_text() == "FROZEN\n", 10, "the freeze")
        else:
            os.kill(space.stage("supervise"), signal.SIGSTOP)
        time.sleep(8)  # the time that is not to count
        if cgroup:
            (cgroup / "freezer.state").write_text("THAWED")
        else:
            os.kill(space.stage("supervise"), signal.SIGCONT)
        space.status()
        (space.folder / "answer").touch()
        until(lambda: state(space, "late")["isReady"] and state(space, "probed")["isReady"], 10, "the answers")
        assert {name: unit.get("pid") for name, unit in space.status().items()} == before, space.stderr
        space.stop()


# ---- nothing outlives the workspace where no PID namespace ends its processes

NO_USERS = ["unshare", "--user", "--map-root-user", "sh", "-c", "echo 0 >/proc/sys/user/max_user_namespaces && exec \"$@\"", "sh"]


@pytest.mark.parametrize("stages", [["run"], ["ring1"], ["ring2"], ["run", "ring1"]], ids="-".join)
def test_nothing_outlives_a_killed_stage_of_a_workspace_that_is_only_supervised(workspace, stages):
    sleep = f"sleep {time.monotonic_ns() // 1000}"  # nobody else's
    space = workspace(f"""
tasks: [{{name: t, command: "setsid sh -c 'trap : TERM HUP; touch up; while :; do sleep 0.05; done' & sleep 1000"}}]
workspacekit: {{services: {{s: {{command: "sh -c 'env -i setsid {sleep} & exec sleep 1000'"}}}}}}
""", through=NO_USERS).started()
    assert json.loads(space.cli("status", "--json").stdout)["isolation"] == "supervise-only"
    until((space.folder / "up").exists, 10, "the task")
    stray = until(lambda: [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if cmdline(pid) == sleep], 10, "the stray")
    pids = [space.process.pid if stage == "run" else space.stage(stage) for stage in stages]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    space.wait(10)
    space.gone(10)
    until(lambda: not any(cmdline(pid) for pid in stray), 10, "the end of what cleared its environment")


def cmdline(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


# ---- a state directory that is removed; a stop that takes its time

@pytest.mark.parametrize("how", ["killed", "left alone"])
def test_the_workspace_goes_on_when_its_state_directory_is_removed(workspace, how):
    space = workspace("""
tasks: [{name: t, command: "while :; do echo tick; sleep 0.1; done"}]
workspacekit: {services: {s: {command: sleep 1000}}}
""").started()
    before = {name: unit["pid"] for name, unit in space.status().items()}
    shutil.rmtree(space.state, ignore_errors=True)  # the mount point in it stays
    assert not (space.state / "control.sock").exists()
    if how == "killed":
        os.kill(space.stage("supervise"), signal.SIGKILL)
    until(lambda: space.cli("status", check=False).returncode == 0, 15, "its control socket")
    assert {name: unit["pid"] for name, unit in space.status().items()} == before
    assert f"workspacekit: {space.state} was removed: it is made again, without the logs so far\n" in space.stderr
    until(lambda: "tick" in space.cli("logs", "t").stdout, 10, "the log")
    until(lambda: "started" in space.cli("events", check=False).stdout or "taken-over" in space.cli("events", "--json").stdout, 10, "events")
    assert space.exec("sh", "-c", "command -v gp").stdout.strip()
    space.cli("stop")
    assert space.wait(15) == 0


def test_a_stop_that_takes_its_time_says_what_it_waits_for(workspace):
    space = workspace("""
tasks: [{name: t, command: "trap : TERM; touch up; until test -e go; do sleep 0.05; done"}]
workspacekit: {shutdown: {grace: 5m}, tasks: {t: {stop_grace_period: 3m}}, services: {db: {command: sleep 1000}}}
""").started()
    until((space.folder / "up").exists, 10, "the task")
    space.cli("stop", "--no-wait", "t")
    until(lambda: "killed in 2" in space.cli("status").stdout or "killed in 17" in space.cli("status").stdout, 10, lambda: space.cli("status").stdout)
    assert 0 < state(space, "t")["killSeconds"] <= 180
    space.cli("stop", "--no-wait")
    said = until(lambda: [line for line in space.stderr.splitlines() if "the stop waits for" in line], 20, "the news")
    assert said[0].startswith("workspacekit: the stop waits for db, t (1") and said[0].endswith(" s left)"), said
    (space.folder / "go").touch()
    assert space.wait(20) == 0
