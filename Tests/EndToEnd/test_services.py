"""Services and tasks that wait for each other: dependencies, healthchecks, readiness, socket activation, and the commands for them."""

import json
import os
import re
import signal
import socket
import subprocess
import time

import pytest

from conftest import BINARY, PYTHON, USER, comm, until


def state(space, name):
    return space.status()[name]


# ---- dependencies

def test_a_task_waits_for_a_healthy_service(workspace):
    space = workspace("""
tasks: [{name: client, command: 'cat marker; sleep 1000'}]
workspacekit:
  tasks: {client: {depends_on: {db: {condition: service_healthy}}}}
  services:
    db: {command: "sh -c 'sleep 1; echo here > marker; exec sleep 1000'", healthcheck: {test: "test -e marker", interval: 10s}}
""").started()
    assert state(space, "client")["state"] == "waiting" and state(space, "client")["waitsFor"] == ["db (healthy)"]
    assert re.search(r"^client +task +waiting +.* for db \(healthy\)$", space.cli("status").stdout, re.M)
    assert re.search(r"^db +service +starting ", space.cli("status").stdout, re.M)
    until(lambda: "[client] here" in space.stdout, 10, "the task")
    db = state(space, "db")
    assert db["isReady"] and db["isHealthy"] and re.search(r"^db +service +running .*healthy", space.cli("status").stdout, re.M)


def test_a_task_waits_for_another_to_complete(workspace):
    space = workspace("""
tasks:
  - {name: serve, command: 'cat built; sleep 1000'}
  - {name: build, command: 'sleep 0.5; echo fine > built'}
  - {name: never, command: 'echo never'}
  - {name: broken, command: 'exit 3'}
workspacekit:
  tasks:
    serve: {depends_on: {build: {condition: service_completed_successfully}}}
    never: {depends_on: {broken: {condition: service_completed_successfully}}}
""").started()
    until(lambda: "[serve] fine" in space.stdout, 10, "the second task")
    until(lambda: state(space, "never")["state"] == "blocked", 5, "the verdict")
    assert state(space, "never")["waitsFor"] == ["broken failed: exit status 3"]
    assert "[never]" not in space.stdout
    result = space.cli("wait", "never", check=False)
    assert (result.returncode, result.stderr) == (1, "workspacekit: never waits in vain: broken failed: exit status 3\n")


def test_a_phase_that_this_start_skips_counts_as_completed(workspace, lab):
    config = """
tasks:
  - {name: install, init: 'echo installing'}
  - {name: serve, command: 'echo serving; sleep 1000'}
workspacekit: {tasks: {serve: {depends_on: {install: {condition: service_completed_successfully}}}}}
"""
    space = workspace(config)
    until(lambda: "[serve] serving" in space.stdout, 10, "the first start")
    assert "[install] installing" in space.stdout
    space.cli("stop")
    space.wait(10)
    (space.folder / "output").unlink()
    again = lab.popen_in(lab.pod, [*space.prefix, BINARY, "run", "--workspace", str(space.folder), "--state-dir", str(space.state)],
                         stdout=open(space.output, "wb"), stderr=subprocess.DEVNULL, env=space.environment)
    try:
        until(lambda: "[serve] serving" in space.stdout, 10, "the second start")
        assert "installing" not in space.stdout
    finally:
        space.cli("stop", check=False)
        again.wait(15)


def test_who_depends_on_what_is_skipped_is_skipped_aloud(workspace):
    space = workspace("""
tasks: [{name: t, command: echo no}]
workspacekit:
  tasks: {t: {depends_on: [docker]}}
  services: {docker: {command: no-such-dockerd, requires: [no-such-dockerd]}}
""").started()
    until(lambda: "t: skipped: docker is skipped: no-such-dockerd not found" in space.stderr, 5, "the word about it")
    assert state(space, "t")["state"] == "skipped"


def test_the_stop_goes_against_the_dependencies(workspace):
    trap = "sh -c 'trap \"echo stop {0} >> order; exit\" TERM; echo up {0} >> order; while :; do sleep 0.05; done'"
    space = workspace(f"""
tasks: [{{name: t, command: {json.dumps('exec ' + trap.format('t'))}}}]
workspacekit:
  services:
    web: {{command: {json.dumps(trap.format('web'))}, depends_on: [db]}}
    db: {{command: {json.dumps(trap.format('db'))}}}
""").started()
    order = space.folder / "order"
    until(lambda: order.exists() and order.read_text().count("up") == 3, 10, "all of them")
    space.cli("stop")
    assert space.wait(10) == 0
    assert [line for line in order.read_text().splitlines() if line.startswith("stop")] == ["stop t", "stop web", "stop db"]


# ---- health

SERVER = f"{PYTHON} -m http.server --bind"


@pytest.mark.parametrize("address,check", [
    ("127.0.0.1 7101", "port: 7101"), ("::1 7102", "port: 7102"), ("127.0.0.1 7103", "http: 'http://localhost:7103/'"),
    ("::1 7104", "http: 'http://[::1]:7104/?x'"), ("127.0.0.1 7105", "test: [CMD, curl, -sf, 'http://127.0.0.1:7105/']"),
    ("127.0.0.1 7106", "test: [CMD-SHELL, 'curl -sf http://127.0.0.1:7106/ && test $A = b']")])
def test_each_kind_of_probe(workspace, address, check):
    space = workspace(f"workspacekit: {{services: {{s: {{command: '{SERVER} {address}', environment: {{A: b}}, healthcheck: {{{check}}}}}}}}}\n").started()
    assert space.cli("wait", "s", "--for", "healthy", "--timeout", "15s").returncode == 0


@pytest.mark.parametrize("test", ["id -u > probed; id -u >> all", ["CMD", "sh", "-c", "id -u > probed"]], ids=["a shell's", "a program's"])
def test_a_probe_runs_as_its_units_user(workspace, test):
    space = workspace(f"workspacekit: {{services: {{s: {{command: sleep 1000, user: nobody, healthcheck: {{test: {json.dumps(test)}, interval: 200ms}}}}}}}}\n",
                      folder=None)
    space.folder.chmod(0o777)
    space.started()
    until(lambda: (space.folder / "probed").exists() and (space.folder / "probed").read_text(), 10, "the probe")
    assert (space.folder / "probed").read_text() == space.exec("id", "-u", "nobody").stdout


@pytest.mark.parametrize("check, reason", [
    ("port: 7110", "exit status 1: cannot connect to [::1]:7110: Connection refused"),
    ("http: 'http://localhost:7111/nothing'", "exit status 1: http://localhost:7111/nothing answers with status 404"),
    ("test: exit 1", "exit status 1"),
    ("test: [CMD, no-such-program]", "cannot find no-such-program: No such file or directory"),
    ("test: sleep 100", "no answer within 200 ms"),
])
def test_what_is_not_there_is_not_healthy(workspace, check, reason):
    space = workspace(f"""
workspacekit:
  services:
    server: {{command: '{SERVER} 127.0.0.1 7111'}}
    s: {{command: sleep 1000, healthcheck: {{{check}, interval: 300ms, timeout: 200ms, retries: 2}}}}
""").started()
    until(lambda: state(space, "s").get("isHealthy") is False, 10, "the verdict")
    assert f"s: unhealthy: 2 probes failed in a row: {reason}\n" in space.stderr
    assert re.search(r"^s +service +unhealthy ", space.cli("status").stdout, re.M)
    result = space.cli("wait", "s", "--for", "healthy", "--timeout", "200ms", check=False)
    assert (result.returncode, result.stderr) == (124, "workspacekit: s is not healthy yet: the time is over\n")


def test_a_service_that_turns_unhealthy_is_started_anew(workspace):
    space = workspace("""
workspacekit:
  services:
    s:
      command: sh -c 'echo start >> starts; touch well; exec sleep 1000'
      restart: always
      healthcheck: {test: test -e well, interval: 200ms, retries: 2}
""").started()
    space.cli("wait", "s", "--for", "healthy", "--timeout", "10s")
    first = state(space, "s")["pid"]
    (space.folder / "well").unlink()
    until(lambda: state(space, "s").get("pid") not in (None, first), 10, "the restart")
    assert "s: unhealthy: 2 probes failed in a row: exit status 1: stopped\n" in space.stderr
    assert (space.folder / "starts").read_text() == "start\nstart\n"
    space.cli("wait", "s", "--for", "healthy", "--timeout", "10s")


def test_a_probe_that_hangs_is_killed_with_all_that_it_started(workspace):
    space = workspace("""
workspacekit: {services: {s: {command: sleep 1000, healthcheck: {test: 'sleep 4321 & sleep 4321', interval: 200ms, timeout: 200ms, retries: 100}}}}
""").started()
    time.sleep(1.5)
    assert int(space.exec("sh", "-c", "pgrep -fc '^sleep 4321' || true").stdout) <= 2
    space.cli("stop", "s")
    until(lambda: space.exec("pgrep", "-f", "^sleep 4321", check=False).returncode == 1, 5, "the end of the probes")


# ---- readiness

def test_readiness_by_a_newline(workspace):
    space = workspace("""
workspacekit: {services: {s: {command: "sh -c 'test $NOTIFY_FD = 3 && sleep 1; echo >&3; exec sleep 1000'", ready: {notify: fd}}}}
""").started()
    assert state(space, "s")["isReady"] is False
    space.cli("wait", "s", "--timeout", "10s")
    assert state(space, "s")["isReady"]


NOTIFY = """
import os, socket, time
if os.path.exists("silent"): time.sleep(1000)
address = os.environ["NOTIFY_SOCKET"]
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect("\\0" + address[1:] if address[0] == "@" else address)
s.send(b"STATUS=loading 1 of 2")
time.sleep(1)
s.send(b"READY=1\\nSTATUS=serving")
time.sleep(1000)
"""


@pytest.mark.parametrize("user", ["", "user: nobody, "])
def test_readiness_by_sd_notify(workspace, user):
    service = f"{user}command: [{PYTHON}, -c, {json.dumps(NOTIFY)}], ready: {{notify: sd_notify}}"
    space = workspace(f"workspacekit: {{services: {{s: {{{service}}}}}}}\n").started()
    until(lambda: state(space, "s").get("statusText") == "loading 1 of 2", 5, "the status")
    assert state(space, "s")["isReady"] is False
    space.cli("wait", "s", "--for", "ready", "--timeout", "10s")
    assert "serving" in space.cli("status").stdout
    # What one process said is not another's word.
    (space.folder / "silent").touch()
    space.cli("restart", "s", "--no-wait")
    until(lambda: state(space, "s")["restarts"] > 0 or state(space, "s")["isReady"] is False, 10, "the restart")
    until(lambda: state(space, "s")["state"] == "running", 10, "the next process")
    assert "statusText" not in state(space, "s")


def test_readiness_by_a_line_of_the_log(workspace):
    space = workspace("""
tasks: [{name: after, command: echo came after}]
workspacekit:
  tasks: {after: {depends_on: {s: {condition: service_healthy}}}}
  services: {s: {command: "sh -c 'echo not yet; sleep 1; echo ready to accept 5 connections; exec sleep 1000'", ready: {log: "^ready( to accept)? [0-9]+"}}}
""").started()
    assert state(space, "s")["isReady"] is False
    until(lambda: "[after] came after" in space.stdout, 10, "the task")
    lines = space.stdout.splitlines()
    assert lines.index("[s] ready to accept 5 connections") < lines.index("[after] came after")


# ---- socket activation

ECHO = """
import os, socket, sys
assert os.environ["LISTEN_PID"] == str(os.getpid()), os.environ["LISTEN_PID"]
names = os.environ["LISTEN_FDNAMES"].split(":")
assert int(os.environ["LISTEN_FDS"]) == len(names), names
print("serving", *names, flush=True)
import select
sockets = [socket.socket(fileno=fd) for fd in range(3, 3 + len(names))]
while True:
    for s in select.select(sockets, [], [])[0]:
        c, _ = s.accept()
        try:
            c.sendall(b"%d\\n" % os.getpid())
        except OSError:
            pass
        c.close()
"""


def test_a_service_starts_with_its_first_connection_and_refuses_none_while_it_restarts(workspace, lab):
    path = f"{lab.folder}/activated/echo.sock"
    space = workspace(f"""
workspacekit:
  services:
    s:
      command: [{PYTHON}, -c, {json.dumps(ECHO)}]
      listen: [{path}, "127.0.0.1:7200"]
      restart: always
""").started()
    assert state(space, "s")["state"] == "listening"
    ask = (f"import socket; s = socket.socket(socket.AF_UNIX); s.connect('{path}'); print(s.recv(100).decode().strip())\n"
           "s = socket.create_connection(('127.0.0.1', 7200)); print(s.recv(100).decode().strip())")
    first, same = space.exec(PYTHON, "-c", ask).stdout.split()
    assert first == same == str(state(space, "s")["pid"])
    assert f"[s] serving {path} 127.0.0.1_7200" in space.stdout
    space.exec("kill", "-9", first)
    # Half a second of backoff; whoever connects waits, and is served.
    second, same = space.exec(PYTHON, "-c", ask).stdout.split()
    assert second == same != first
    many = ("import socket\n"
            "for i in range(200):\n"
            f"    s = socket.socket(socket.AF_UNIX); s.connect('{path}'); s.close()\n")
    space.exec("kill", "-9", second)
    assert space.exec(PYTHON, "-c", many).returncode == 0
    space.cli("stop")
    space.wait(10)
    assert not os.path.exists(path)


def test_who_may_connect_to_a_socket(workspace, lab):
    path = f"{lab.folder}/guarded/echo.sock"
    config = lambda access: f"workspacekit: {{services: {{s: {{command: [{PYTHON}, -c, {json.dumps(ECHO)}], listen: [{{path: {path}, {access}}}]}}}}}}\n"
    space = workspace(config('mode: "0660", group: wkuser')).started()
    mode = lambda: space.exec("stat", "-c", "%a %g", path).stdout
    assert mode() == f"660 {USER}\n"
    ask = [PYTHON, "-c", f"import socket; s = socket.socket(socket.AF_UNIX); s.connect('{path}'); print(s.recv(9).decode())"]
    assert "PermissionError" in space.exec("setpriv", "--reuid", "47002", "--regid", "47002", "--clear-groups", *ask, check=False).stderr
    assert space.exec("setpriv", "--reuid", "47002", "--regid", str(USER), "--clear-groups", *ask).stdout.strip().isdigit()
    assert f"[s] serving {path}" in space.stdout
    (space.folder / ".gitpod.yml").write_text(config('mode: "0600"'))
    until(lambda: mode() == "600 0\n", 10, "the new mode")
    (space.folder / ".gitpod.yml").write_text(config("group: nobody-knows"))
    until(lambda: "nobody-knows" in (state(space, "s")["reason"] or ""), 10, lambda: f"the reason: {state(space, 's')}")


def test_a_datagram_starts_a_service(workspace):
    code = ("import os, socket, time; s = socket.socket(fileno=3)\n"
            "print('got', s.recv(100).decode(), os.environ['LISTEN_FDNAMES'], flush=True); time.sleep(1000)")
    space = workspace(f"workspacekit: {{services: {{s: {{command: [{PYTHON}, -c, {json.dumps(code)}], listen: [127.0.0.1:7210/udp]}}}}}}\n").started()
    assert state(space, "s")["state"] == "listening"
    space.exec(PYTHON, "-c", "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'hello', ('127.0.0.1', 7210))")
    until(lambda: "[s] got hello 127.0.0.1_7210/udp" in space.stdout, 10, "the datagram")


def test_many_sockets_for_one_service(workspace, lab):
    paths = [f"{lab.folder}/many/{index}.sock" for index in range(40)]
    space = workspace(f"workspacekit: {{services: {{s: {{command: \"sh -c 'echo $LISTEN_FDS; exec sleep 1000'\", listen: {json.dumps(paths)}}}}}}}\n").started()
    space.cli("start", "s")
    until(lambda: "[s] 40" in space.stdout, 10, "the service")


def test_what_is_in_the_way_of_a_socket_stays(workspace, lab):
    """A file, and a socket that somebody else serves: neither is taken away. One that nobody serves is replaced."""
    folder = lab.folder / "in-the-way"
    folder.mkdir()
    (folder / "file").write_text("precious")
    served = socket.socket(socket.AF_UNIX)
    served.bind(str(folder / "served"))
    served.listen()
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(folder / "stale"))
    stale.close()
    space = workspace(f"""
workspacekit:
  services:
    a: {{command: sleep 1000, listen: [{folder}/file]}}
    b: {{command: sleep 1000, listen: [{folder}/served]}}
    c: {{command: sleep 1000, listen: [{folder}/stale]}}
""").started()
    assert (folder / "file").read_text() == "precious"
    for name, path in (("a", "file"), ("b", "served")):
        assert state(space, name)["state"] == "skipped" and "Address already in use" in state(space, name)["reason"], state(space, name)
    assert state(space, "c")["state"] == "listening"
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(folder / "served"))
    served.close()


def test_who_depends_on_a_listening_service_starts_it(workspace, lab):
    space = workspace(f"""
tasks: [{{name: t, command: 'echo started; sleep 1000'}}]
workspacekit:
  tasks: {{t: {{depends_on: [s]}}}}
  services: {{s: {{command: sleep 1000, listen: [{lab.folder}/other.sock]}}}}
""").started()
    until(lambda: "[t] started" in space.stdout, 10, "the task")
    assert state(space, "s")["state"] == "running"


# ---- commands

def test_start_stop_restart_signal_and_wait(workspace):
    space = workspace("""
tasks:
  - {name: once, command: 'echo ran; exit 0'}
  - {name: bad, command: exit 4}
workspacekit:
  services:
    a: {command: sleep 1000, restart: always}
    b: {command: "sh -c 'trap \\"echo hup\\" HUP; while :; do sleep 0.05; done'"}
""").started()
    space.cli("wait", "once", "--for", "completed", "--timeout", "10s")
    failed = space.cli("wait", "bad", "--for", "completed", "--timeout", "10s", check=False)
    assert (failed.returncode, failed.stderr) == (1, "workspacekit: bad ended: exit status 4\n")
    first = state(space, "a")["pid"]
    space.cli("stop", "a", "b")
    until(lambda: state(space, "a")["state"] == "stopped", 5, "the stop")
    time.sleep(1)
    assert state(space, "a")["state"] == "stopped", "it stays so, whatever its policy"
    space.cli("start", "a", "b", "once")
    until(lambda: state(space, "a").get("pid") not in (None, first), 5, "the start")
    until(lambda: space.stdout.count("[once] ran") == 2, 5, "the task's second run")
    time.sleep(0.3)
    space.cli("signal", "HUP", "b")
    until(lambda: "[b] hup" in space.stdout, 5, "the signal")
    assert space.cli("signal", "NOPE", "b", check=False).stderr == 'workspacekit: unknown signal "NOPE"\n'
    for verb in ("start", "restart", "stop"):
        result = space.cli(verb, "a", "nothing", check=False)
        assert result.returncode == 1 and 'no unit "nothing" (there are: a, b, once, bad)' in result.stderr
    # What came of it, for scripts.
    for words in (("stop", "b"), ("start", "a"), ("restart", "a"), ("signal", "CONT", "a"), ("wait", "a")):
        (unit,) = json.loads(space.cli(*words, "--json").stdout)
        assert unit["name"] == words[-1] and unit["kind"] == "service" and unit["state"]
    assert space.cli("wait", "a", "--for", "whenever", check=False).returncode == 64
    assert space.cli("wait", "a", "--timeout", "soon", check=False).returncode == 64


def test_a_wait_ends_with_the_workspace(workspace):
    space = workspace("workspacekit: {services: {s: {command: sleep 1000, ready: {notify: fd}}}}\n").started()
    waiting = space.lab.popen_in(space.lab.pod, [*space.prefix, BINARY, "wait", "s", "--state-dir", str(space.state)],
                                 env=space.environment, stderr=subprocess.PIPE)
    time.sleep(0.3)
    space.cli("stop")
    assert waiting.wait(10) == 1 and waiting.stderr.read() == b"workspacekit: s ended: SIGTERM\n"


def test_a_wait_that_was_given_up_answers_nobody_else(workspace):
    """The next connection has the same descriptor number: it must not get the answer that another waited for."""
    space = workspace("""
workspacekit:
  services:
    a: {command: "sh -c 'until test -e go; do sleep 0.05; done; echo >&3; exec sleep 1000'", ready: {notify: fd}}
    b: {command: sleep 1000, ready: {notify: fd}}
""").started()
    waits = lambda name: space.lab.popen_in(space.lab.pod, [*space.prefix, BINARY, "wait", name, "--state-dir", str(space.state)], env=space.environment)
    supervisor = space.stage("supervise")
    first = waits("a")
    # setpriv(1) comes first. The name of the file is whatever WORKSPACEKIT_BIN says.
    until(lambda: os.path.samefile(f"/proc/{first.pid}/exe", BINARY) and open(f"/proc/{first.pid}/stat").read().rsplit(")", 1)[1].split()[0] == "S", 5, "the first to wait")
    space.status()  # answered after the request before it
    # The end of the one and the coming of the other are news of one moment.
    os.kill(supervisor, signal.SIGSTOP)
    first.kill()
    first.wait()
    second = waits("b")
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(0.3)
    os.kill(supervisor, signal.SIGCONT)
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(0.3)
    (space.folder / "go").touch()
    until(lambda: state(space, "a")["isReady"], 10, "the other unit")
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(0.3)
    second.kill()
    second.wait()


def test_an_edit_of_health_and_dependencies_needs_no_restart(workspace):
    text = "workspacekit: {services: {a: {command: sleep 1000}, s: {command: sleep 1000%s}}}\n"
    space = workspace(text % "").started()
    before = state(space, "s")["pid"]
    (space.folder / ".gitpod.yml").write_text(text % ", depends_on: [a], healthcheck: {test: 'true'}")
    until(lambda: state(space, "s").get("isHealthy"), 10, "the healthcheck")
    assert state(space, "s")["pid"] == before
    assert "service s: changed, without a restart (depends_on, healthcheck)" in space.stderr


# ---- what a process is given

def test_nice_umask_and_variables(workspace):
    space = workspace("""
tasks: [{name: t, command: "echo $LITERAL; umask; nice; sleep 1000", env: {LITERAL: "${HOME}/x"}}]
workspacekit:
  tasks: {t: {nice: 5, umask: "027"}}
  services:
    s: {command: "sh -c 'echo $DIR $PLAIN; pwd; sleep 1000'", environment: {DIR: "${HOME}/${NONE:-none}", PLAIN: "$$HOME"}, working_dir: "${WHERE:-sub}"}
    wants: {command: "true", environment: {A: "${TOKEN:?make one at example.org}"}}
""", environment={"NONE": ""})
    (space.folder / "sub").mkdir(exist_ok=True)
    space.started()
    until(lambda: "[t] 5" in space.stdout, 10, "the task")
    # A task's env is Gitpod's: nothing is put in there.
    assert "[t] ${HOME}/x\n[t] 0027\n[t] 5\n" in space.stdout
    assert state(space, "wants")["state"] == "skipped" and state(space, "wants")["reason"] == "its environment wants TOKEN: make one at example.org"
    space.cli("restart", "s")
    until(lambda: f"[s] {space.folder}/sub" in space.stdout, 10, "the service")
    assert re.search(r"^\[s\] /\S*/none \$HOME$", space.stdout, re.M)


def test_a_niceness_that_is_not_to_be_had_is_said(workspace):
    space = workspace("""
workspacekit: {services: {s: {command: sleep 1000, nice: -20}}}
""", user=47001).started()
    until(lambda: state(space, "s")["state"] == "failed", 10, "the failure")
    assert "cannot set the nice value of" in state(space, "s")["reason"]


def test_a_watchdog_that_is_not_fed(workspace):
    program = "import os,socket,time\\ns=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM)\\ns.connect(chr(0)+os.environ['NOTIFY_SOCKET'][1:])\\ns.send(b'READY=1')\\nprint('every',os.environ['WATCHDOG_USEC'],flush=True)\\nfor i in range(12):\\n s.send(b'WATCHDOG=1'); time.sleep(0.1)\\nprint('silent',flush=True)\\ntime.sleep(1000)"
    space = workspace(f"""
workspacekit:
  services:
    s: {{command: ["{PYTHON}", "-c", "{program}"], restart: always, ready: {{notify: sd_notify, watchdog: 600ms}}}}
""").started()
    until(lambda: "[s] every 600000" in space.stdout, 10, "the start")
    until(lambda: space.stdout.count("[s] every") >= 2, 15, "another start")
    assert "s: unhealthy: no WATCHDOG=1 in time: stopped" in space.stderr
    # As long as it was fed it lived, and that was longer than the watchdog's time.
    assert space.stdout.index("[s] silent") < space.stdout.rindex("[s] every")


DAEMON = '''
import os, socket, sys, time
def say(text):
    name = os.environ["NOTIFY_SOCKET"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s: s.sendto(text.encode(), "\\0" + name[1:])
reading, writing = os.pipe()
pid = os.fork()
if pid:
    os.read(reading, 1)
    say(f"MAINPID={pid if sys.argv[1] != 'nonsense' else 1}\\nREADY=1")
    os._exit(0)
if sys.argv[1] != "same group": os.setsid()
os.write(writing, b"x")
time.sleep(0.5 if sys.argv[1] == "ends" else 1000)
os._exit(3)
'''


def test_a_daemon_that_forks_is_followed(workspace):
    services = "\n".join(
        f"    {name}: {{command: [{PYTHON}, -c, {json.dumps(DAEMON)}, {json.dumps(how)}], restart: no, ready: {{notify: sd_notify}}}}"
        for name, how in (("a", "stays"), ("b", "ends"), ("c", "same group"), ("d", "nonsense")))
    space = workspace("workspacekit:\n  services:\n" + services + "\n").started()
    space.cli("wait", "a", "--for", "ready")
    until(lambda: space.status()["b"]["state"] == "failed", 10, "the end of the daemon")
    assert space.status()["b"]["exitCode"] == 3
    unit = space.status()["a"]
    assert unit["state"] == "running" and unit["isReady"] and unit["restarts"] == 0
    assert space.exec("ps", "-o", "sid=", "-p", str(unit["pid"])).stdout.strip() == str(unit["pid"])
    # One that leads no group, or is none of ours, is not taken for it: the process that was started has ended.
    assert [space.status()[name]["state"] for name in "cd"] == ["completed", "completed"]
    os.kill(space.stage("supervise"), signal.SIGKILL)
    until(lambda: space.cli("status", check=False).returncode == 0, 5, "the next supervisor")
    assert space.status()["a"]["pid"] == unit["pid"]
    space.cli("stop", "a")
    until(lambda: space.status()["a"]["state"] == "stopped", 5, "its end")
    assert space.status()["a"]["reason"] == "SIGTERM"
    told = [json.loads(line) for line in space.cli("events", "--json", "a").stdout.splitlines()]
    assert [event["event"] for event in told] == ["started", "ready", "replaced", "stopping", "exited", "stopped"]
