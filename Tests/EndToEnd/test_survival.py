"""A supervisor that is killed: what runs runs on, and another one takes over units, logs, sockets, waits and programs."""

import os
import signal
import socket
import subprocess

from conftest import BINARY, PYTHON, until


def kill_supervisor(space):
    """Kills the supervisor; returns the pid of the next one once it answers."""
    old = space.stage("supervise")
    os.kill(old, signal.SIGKILL)
    until(lambda: space.stage("supervise") != old, 5, "another supervisor")
    return until(lambda: space.cli("status", check=False).returncode == 0, 5, "the other supervisor's answer")


def connected(pid):
    """Whether a command has opened its connection to the workspace."""
    try:
        return any(os.readlink(f"/proc/{pid}/fd/{number}").startswith("socket:") for number in os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return False


def pids(space):
    return {name: unit.get("pid") for name, unit in space.status().items()}


def test_nothing_that_runs_is_restarted(workspace):
    space = workspace("""
tasks: [{name: build, command: "echo building; sleep 1000"}, {name: done, command: "true"}]
workspacekit:
  services:
    web: {command: "sh -c 'echo up; exec sleep 1000'", restart: always}
    flaky: {command: "sh -c 'sleep 0.1; exit 3'", restart: always}
    sick: {command: sleep 1000, healthcheck: {test: "test -e well", interval: 1h, start_interval: 100ms, start_period: 1h}}
""").started()
    until(lambda: space.status()["flaky"]["restarts"] >= 1 and space.status()["done"]["state"] == "completed", 10, "a restart")
    before, restarts = pids(space), space.status()["flaky"]["restarts"]
    kill_supervisor(space)
    after = pids(space)
    assert all(after[name] == before[name] for name in ("build", "web", "sick"))
    assert "the supervisor was ended by SIGKILL: another takes over" in space.stderr
    status = space.status()
    assert status["done"]["state"] == "completed" and status["done"]["exitCode"] == 0
    assert status["flaky"]["restarts"] >= restarts
    until(lambda: space.status()["flaky"]["restarts"] >= restarts + 1, 20, "the service that fails to be tried again")
    # What it started before, it still looks after: restarts, health, stops.
    space.exec("kill", "-9", str(before["web"]))
    until(lambda: (space.status()["web"].get("pid") or before["web"]) != before["web"], 10, "the restart of a unit that was taken over")
    (space.folder / "well").touch()
    until(lambda: space.status()["sick"].get("isHealthy"), 10, "the healthcheck of a unit that was taken over")
    space.cli("stop", "build")
    until(lambda: space.status()["build"]["state"] == "stopped", 10, "the stop of a unit that was taken over")


def test_no_line_of_a_log_is_lost_or_doubled(workspace):
    space = workspace("""
workspacekit:
  services:
    count: {command: "sh -c 'i=0; while [ $i -lt 30000 ]; do i=$((i+1)); echo line $i; done; echo end; exec sleep 1000'"}
""").started()
    for _ in range(15):
        kill_supervisor(space)
    until(lambda: "\nend\n" in space.cli("logs", "count").stdout, 30, "the last line")
    assert space.cli("logs", "count").stdout.split("\n") == [f"line {i}" for i in range(1, 30001)] + ["end", ""]


def test_a_shutdown_goes_on_and_ends_with_its_status(workspace):
    space = workspace("""
workspacekit:
  services:
    slow: {command: "sh -c 'trap \\"sleep 1; echo ended in order; exit 0\\" TERM; echo up; while :; do sleep 0.05; done'"}
""").started()
    until(lambda: "[slow] up" in space.stdout, 10, "the service")
    space.process.terminate()
    until(lambda: space.cli("status").stdout.find("stopping") >= 0, 5, "the stop")
    os.kill(space.stage("supervise"), signal.SIGKILL)
    assert space.wait(10) == 0
    assert "[slow] ended in order" in space.stdout
    space.gone(3)


def test_waits_and_programs_outlive_it(workspace):
    space = workspace("""
workspacekit:
  services:
    late: {command: "sh -c 'until test -e go; do sleep 0.05; done; echo >&3; exec sleep 1000'", ready: {notify: fd}}
    notifies: {command: "sh -c 'until test -e go; do sleep 0.05; done; systemd-notify --ready --status=fine; exec sleep 1000'", ready: {notify: sd_notify}}
    lines: {command: "sh -c 'until test -e go; do sleep 0.05; done; echo now serving; exec sleep 1000'", ready: {log: "now serving"}}
""").started()
    client = lambda *words, **more: space.lab.popen_in(space.lab.pod, [*space.prefix, BINARY, words[0], "--state-dir", str(space.state), *words[1:]],
                                                       env=space.environment, **more)
    waits = [client("wait", name) for name in ("late", "lines")]
    program = client("exec", "--", "sh", "-c", "echo began; until test -e go; do sleep 0.05; done; echo over; exit 7", stdout=subprocess.PIPE)
    assert program.stdout.readline() == b"began\n"
    until(lambda: all(connected(w.pid) for w in waits), 5, "the waits")
    space.status(), space.status()
    for _ in range(3):
        kill_supervisor(space)
    assert all(w.poll() is None for w in waits) and program.poll() is None
    (space.folder / "go").touch()
    assert [w.wait(10) for w in waits] == [0, 0]
    assert program.wait(10) == 7 and program.stdout.read() == b"over\n"


def test_commands_under_way_go_on(workspace):
    space = workspace("""
tasks: [{name: t, command: "until test -e go; do sleep 0.05; done; echo went; sleep 1000"}]
""").started()
    client = lambda *words: space.lab.popen_in(space.lab.pod, [*space.prefix, BINARY, *words, "--state-dir", str(space.state)],
                                               env=space.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    follower, awaiting = client("logs", "-f", "t"), client("ports", "await", "8123")
    until(lambda: all(connected(c.pid) for c in (follower, awaiting)), 5, "the commands")
    # Asked of one that does not answer any more, answered by the next.
    old = space.stage("supervise")
    os.kill(old, signal.SIGSTOP)
    asking = client("status", "--json")
    until(lambda: connected(asking.pid), 5, "the question")
    os.kill(old, signal.SIGKILL)
    answer, errors = asking.communicate(timeout=10)
    assert asking.returncode == 0 and b'"t"' in answer, errors
    (space.folder / "go").touch()
    assert follower.stdout.readline().endswith(b"went\n")
    server = space.lab.popen_in(space.lab.pod, [*space.prefix, BINARY, "exec", "--state-dir", str(space.state), "--", PYTHON, "-m", "http.server", "8123"],
                                env=space.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert awaiting.wait(10) == 0
    stopping = client("stop")
    assert stopping.wait(15) == 0 and space.wait(10) == 0
    assert follower.wait(5) == 0
    server.wait(5)


def test_no_connection_is_refused(workspace):
    path = f"/tmp/wk-survival-{os.getpid()}.sock"
    server = "import socket\\ns=socket.socket(fileno=3)\\nwhile True:\\n c,_=s.accept(); c.sendall(c.recv(9)); c.close()"
    space = workspace(f"""
workspacekit:
  services:
    echo: {{command: ["{PYTHON}", "-c", "{server}"], listen: ["{path}"]}}
""").started()
    def ask():
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(path)
            client.sendall(b"x")
            return client.recv(9)
    kill_supervisor(space)
    assert space.status()["echo"]["state"] == "listening"
    assert ask() == b"x"
    pid = space.status()["echo"]["pid"]
    old = space.stage("supervise")
    os.kill(old, signal.SIGKILL)
    assert ask() == b"x"
    until(lambda: space.stage("supervise") != old, 5, "another supervisor")
    assert space.status()["echo"]["pid"] == pid


def test_an_edit_made_meanwhile_is_followed(workspace):
    space = workspace("tasks: [{name: a, command: 'echo one; sleep 1000'}, {name: b, command: 'sleep 1000'}]").started()
    until(lambda: "[a] one" in space.stdout, 10, "the task")
    before = pids(space)
    supervisor = space.stage("supervise")
    os.kill(supervisor, signal.SIGSTOP)
    (space.folder / ".gitpod.yml").write_text("tasks: [{name: a, command: 'echo two; sleep 1000'}, {name: b, command: 'sleep 1000'}]")
    os.kill(supervisor, signal.SIGKILL)
    until(lambda: "[a] two" in space.stdout, 10, "the edited task")
    assert pids(space)["b"] == before["b"]
    # What was adopted counts for the next one too.
    kill_supervisor(space)
    after = pids(space)
    kill_supervisor(space)
    assert pids(space) == after and space.stdout.count("[a] two") == 1


def test_a_hundred_kills_under_load(workspace):
    units = "\n".join(f"""    s{i}: {{command: "sh -c 'echo start; while :; do sleep 0.0{i + 1}; (exit 0) & wait; done'"}}""" for i in range(8))
    crash = "\n".join(f"""    c{i}: {{command: "sh -c 'echo start; sleep 0.{i + 1}; exit 1'", restart: always}}""" for i in range(4))
    space = workspace(f"""
tasks: [{{name: forks, command: "while :; do (setsid sleep 0.01 &) ; sleep 0.005; done"}}]
workspacekit:
  services:
{units}
{crash}
""").started()
    until(lambda: all(unit.get("pid") or unit["state"] == "backing off" for unit in space.status().values()), 10, "all units")
    before = pids(space)
    last = None
    for _ in range(100):
        last = until(lambda: space.stage("supervise") not in (None, last) and space.stage("supervise"), 5, "another supervisor")
        os.kill(last, signal.SIGKILL)
    until(lambda: space.stage("supervise") != last, 5, "the last supervisor")
    until(lambda: space.cli("status", check=False).returncode == 0, 5, "its answer")
    after = pids(space)
    steady = [name for name in before if not name.startswith("c")]
    assert {name: after[name] for name in steady} == {name: before[name] for name in steady}
    def starts():
        return {name: space.cli("logs", name).stdout.count("start\n") for name in after if name[0] in "sc"}
    # Each start is counted: none was doubled, none was lost.
    for name in (f"s{i}" for i in range(8)):
        assert starts()[name] == 1
    for name in (f"c{i}" for i in range(4)):
        until(lambda: abs(starts()[name] - space.status()[name]["restarts"] - 1) <= 1, 10, f"{name}'s starts to be its restarts and one")
    ring2 = space.stage("ring2")
    def zombies():
        children = open(f"/proc/{ring2}/task/{ring2}/children").read().split() + open(
            f"/proc/{space.stage('supervise')}/task/{space.stage('supervise')}/children").read().split()
        return [pid for pid in children if os.path.exists(f"/proc/{pid}/stat")
                and open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] == "Z"]
    first = set(zombies())
    until(lambda: not (first & set(zombies())), 5, "zombies to be reaped")
    space.process.terminate()
    assert space.wait(10) == 0, space.stderr
    space.gone(3)


def test_the_command_of_a_run_outlives_it(workspace):
    space = workspace("", command=["sh", "-c", "echo begins; until test -e go; do sleep 0.05; done; echo over; exit 5"])
    until(lambda: "begins" in space.stdout, 10, "the command")
    for _ in range(2):
        kill_supervisor(space)
    (space.folder / "go").touch()
    assert space.wait(10) == 5 and space.stdout == "begins\nover\n"


def test_what_a_service_is_given_more_than_once_stays_itself(workspace):
    """A unit that restarts, is stopped and started by name, under supervisors that follow each other."""
    space = workspace("""
workspacekit:
  services:
    a: {command: "sh -c 'echo start; exec sleep 1000'", restart: always}
    b: {command: "sh -c 'echo start; exec sleep 1000'", depends_on: [a]}
""").started()
    until(lambda: all(unit["state"] == "running" for unit in space.status().values()), 10, "both")
    for round in range(5):
        before = pids(space)
        kill_supervisor(space)
        space.cli("restart", "a")
        kill_supervisor(space)
        until(lambda: space.status()["a"].get("pid") not in (None, before["a"]), 10, "the restart")
        assert pids(space)["b"] == before["b"]
    space.cli("stop", "b")
    kill_supervisor(space)
    until(lambda: space.status()["b"]["state"] == "stopped", 10, "the stop")
    kill_supervisor(space)
    assert space.status()["b"]["state"] == "stopped"
    space.cli("start", "b")
    until(lambda: space.status()["b"]["state"] == "running", 10, "the start")
    assert space.cli("logs", "a").stdout.count("start") == 6 and space.cli("logs", "b").stdout.count("start") == 2


def test_supervisors_that_cannot_take_over_end_the_workspace(workspace):
    """What they would take over from is spoiled: after eight of them everything is stopped, and that is said."""
    space = workspace("tasks: [{name: t, command: \"trap 'echo asked to end; exit 0' TERM; echo up; while :; do sleep 0.05; done\"}]").started()
    until(lambda: "[t] up" in space.stdout, 10, "the task")
    folder = f"/proc/{space.stage('ring2')}/fd"
    memory = next(f"{folder}/{number}" for number in os.listdir(folder) if "workspacekit-state" in os.readlink(f"{folder}/{number}"))
    with open(memory, "r+b") as file:
        file.write(bytes(64))
    os.kill(space.stage("supervise"), signal.SIGKILL)
    assert space.wait(20) == 70
    assert space.stderr.count("another takes over") == 8 and "the supervisor was ended by exit status 70: everything is stopped" in space.stderr
    space.gone()
