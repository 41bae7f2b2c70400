"""The workspace as a whole: its view from inside, its endings, its tasks and services, and what is said of bad input."""

import json
import os
import pathlib
import pty
import re
import select
import shutil
import signal
import subprocess
import time

import pytest

from conftest import BINARY, MASKED_LINE, PLAIN_USER, PYTHON, USER, WORLD4, run, tagged, until

FOREVER = "tasks: [{name: sleeper, command: 'echo up; exec sleep 1000'}]\n"


# ---- the binary

def test_the_release_is_one_small_static_file():
    assert "not a dynamic executable" in run("ldd", BINARY, check=False).stderr + run("ldd", BINARY, check=False).stdout
    assert os.path.getsize(BINARY) <= 16 << 20


def test_every_stage_has_one_thread(workspace):
    space = workspace(FOREVER).started()
    pids = [space.process.pid] + [space.stage(name) for name in ("ring1", "ring2", "supervise", "slirp")]
    assert [len(os.listdir(f"/proc/{pid}/task")) for pid in pids] == [1] * 5


# ---- inside

def test_inside_one_is_root_and_workspacekit_is_pid_one(inside):
    result = inside("sh", "-c", "id -u; cat /proc/1/comm; echo $$; hostname; ls /proc | grep -c '^[0-9]'")
    uid, one, pid, host, processes = result.stdout.split()
    assert (uid, one) == ("0", "workspacekit")
    assert int(pid) < 20 and int(processes) < 10
    assert host == os.uname().nodename


def test_mounts_inside_are_the_workspaces_own(inside, lab):
    result = inside("sh", "-ec", """
        grep -c . /proc/self/mounts >/dev/null
        for file in /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /dev/net/tun /dev/ptmx /dev/shm /dev/mqueue; do
            test -e $file || echo missing $file; done
        head -c 1 /dev/urandom >/dev/null; echo x >/dev/null; echo shared >/dev/shm/x
        echo '# edited' >>/etc/resolv.conf; echo '127.0.0.1 edited.invalid' >>/etc/hosts; getent ahostsv4 edited.invalid | head -n 1
        hostname changed; hostname
        mount -t tmpfs tmpfs /mnt; touch /mnt/x
        cat /sys/class/net/tap0/mtu; grep -q cgroup2 /proc/self/mounts && echo cgroup2
        script -qec 'test -t 0 && tty' /dev/null </dev/null""")
    assert result.returncode == 0, result.stderr
    lines = [line.strip() for line in result.stdout.splitlines()]
    assert not [line for line in lines if line.startswith("missing")]
    assert lines[0].split()[0] == "127.0.0.1"
    assert lines[1:4] == ["changed", "1500", "cgroup2"] and lines[4].startswith("/dev/pts/")
    assert lab.in_pod("hostname").stdout.strip() == os.uname().nodename
    assert "edited" not in lab.in_pod("cat", "/etc/resolv.conf", "/etc/hosts").stdout
    assert not os.path.exists("/dev/shm/x") and not os.path.exists("/mnt/x")


def test_what_is_mounted_inside_has_its_restrictions_and_one_root(inside):
    rows = [line.split() for line in inside("cat", "/proc/self/mountinfo").stdout.splitlines()]
    assert [row[4] for row in rows].count("/") == 1, "the container's root is not there a second time"
    top = {row[4]: set(row[5].split(",")) for row in rows}
    restrictions = {"/proc": "nosuid nodev noexec", "/sys": "nosuid nodev noexec", "/sys/fs/cgroup": "nosuid nodev noexec",
                    "/dev": "nosuid", "/dev/pts": "nosuid noexec", "/dev/shm": "nosuid nodev", "/dev/mqueue": "nosuid nodev noexec"}
    for path, words in restrictions.items():
        assert set(words.split()) <= top[path], (path, top[path])


def test_namespaces_are_all_new(inside):
    mine = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")}
    theirs = inside("sh", "-c", "for kind in user mnt pid net ipc uts cgroup; do readlink /proc/self/ns/$kind; done").stdout.split()
    assert len(theirs) == 7 and not set(mine.values()) & set(theirs)


@pytest.mark.parametrize("user,ids", [(USER, "65536"), (PLAIN_USER, "1")])
def test_an_ordinary_user_gets_a_workspace(inside, user, ids):
    result = inside("sh", "-c", "id -u; awk '{n += $3} END {print n}' /proc/self/uid_map; ip -br addr show tap0; "
                    f"curl -sS -m 5 http://{WORLD4}:8000/; cat /proc/1/comm; touch made; mount -t tmpfs t /mnt && echo mounted", user=user)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0:2] == ["0", ids]
    for expected in ("10.0.2.100/24", "hello from world", "workspacekit", "mounted"):
        assert expected in result.stdout
    if user == PLAIN_USER:
        assert "only one user id is mapped" in result.stderr and "/etc/subuid" in result.stderr
    else:
        assert result.stderr == ""


def test_home_is_one_that_can_be_used(inside):
    for user, home in ((None, "/root"), (USER, "/tmp"), (PLAIN_USER, "/tmp")):
        result = inside("sh", "-c", 'touch "$HOME/.wk-test" && rm "$HOME/.wk-test" && echo "$HOME $USER"', user=user)
        assert (result.returncode, result.stdout) == (0, f"{home} root\n"), result.stderr


def test_other_users_can_be_had_with_a_range(inside):
    result = inside("sh", "-c", "touch mine && chown 33:33 mine && setpriv --reuid 33 --regid 33 --clear-groups id -u", user=USER)
    assert (result.returncode, result.stdout) == (0, "33\n"), result.stderr


# ---- endings

@pytest.mark.parametrize("command,code", [("exit 7", 7), ("exit 0", 0), ("kill -TERM $$", 143), ("kill -KILL $$", 137)])
def test_the_workspace_ends_with_the_commands_status(inside, command, code):
    assert inside("sh", "-c", command).returncode == code


def test_the_command_has_the_callers_streams(workspace):
    reading, writing = os.pipe()
    os.write(writing, b"through standard input\n")
    os.close(writing)
    space = workspace(FOREVER, command=["sh", "-c", "cat; echo to standard error >&2"], stdin=reading)
    assert space.wait() == 0
    assert space.stdout == "through standard input\n"
    assert space.stderr == MASKED_LINE + "to standard error\n"
    os.close(reading)


def test_an_interrupt_key_reaches_the_command_only(workspace):
    """Ctrl-C goes to the command, as in a shell, and not to the workspace."""
    space = workspace("", command=["true"])
    space.wait()
    script = f"trap 'echo interrupted; exit 5' INT; echo ready; sleep 30 & wait"
    command = f"{BINARY} run --workspace {space.folder} --state-dir {space.state} -- sh -c \"{script}\"; echo ended $?"
    child = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "script", "-qc", command, "/dev/null"], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, env=space.environment, text=True)
    read = ""
    while "ready" not in read:
        read += child.stdout.readline()
    child.stdin.write("\x03")
    child.stdin.flush()
    rest, _ = child.communicate(timeout=15)
    assert "interrupted" in rest and "ended 5" in rest


def test_a_shell_on_a_terminal_has_job_control(lab, workspace):
    space = workspace("", command=["true"])
    space.wait()
    pid, terminal = pty.fork()
    if pid == 0:
        command = f"{BINARY} run --workspace {space.folder} --state-dir {space.state} -- bash --norc --noprofile; echo ended $?"
        os.execvpe("sh", ["sh", "-c", command], space.environment)
    seen = ""

    def expect(pattern):
        nonlocal seen
        def look():
            nonlocal seen
            if select.select([terminal], [], [], 0.05)[0]:
                seen += os.read(terminal, 4096).decode(errors="replace")
            return re.search(pattern, seen)
        until(look, 10, f"{pattern!r} on the terminal")
        seen = seen[re.search(pattern, seen).end():]

    try:
        expect(r"\$ |# ")
        os.write(terminal, b"tty\n")
        expect(r"\n/dev/console")
        os.write(terminal, b"sleep 100\n")
        time.sleep(0.3)
        os.write(terminal, b"\x1a")
        expect(r"\[1\]\+ +Stopped")
        os.write(terminal, b"sleep 200\n")
        time.sleep(0.3)
        os.write(terminal, b"\x03")
        os.write(terminal, b"kill %1; echo still-here\n")
        expect(r"\nstill-here")
        os.write(terminal, b"exit 9\n")
        expect(r"ended 9")
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


def test_a_workspace_in_a_workspace(workspace, lab):
    inner = lab.folder / "inner"
    space = workspace("", command=[BINARY, "run", "--network", "sandbox", "--state-dir", str(inner), "--workspace", "/tmp", "--", "sh", "-c",
                                   f"cat /proc/1/comm; ip -br addr show tap0; curl -sS -m 5 http://{WORLD4}:8000/; exit 4"])
    assert space.wait(20) == 4
    assert "workspacekit" in space.stdout and "hello from world" in space.stdout
    # Not the network of the workspace around it, whose gateway is its name server.
    assert re.search(r"10\.\d+\.\d+\.100/24", space.stdout) and "10.0.2.100" not in space.stdout


STUBBORN = """
tasks:
  - {name: polite, command: "trap 'echo got TERM; exit 0' TERM; echo polite up; while :; do sleep 0.1; done"}
  - {name: stubborn, command: "trap '' TERM; echo stubborn up; while :; do sleep 0.1; done"}
workspacekit:
  services:
    quick: {command: "sh -c 'trap \\"\\" TERM; echo quick up; while :; do sleep 0.1; done'", stop_grace_period: 300ms}
  shutdown: {grace: 4s}
"""


def test_sigterm_stops_everything_in_order_within_the_budget(workspace):
    space = workspace(STUBBORN)
    until(lambda: all(f"{name} up" in space.stdout for name in ("polite", "stubborn", "quick")), 10, "all units")
    started = time.monotonic()
    space.process.send_signal(signal.SIGTERM)
    assert space.wait(8) == 0
    assert time.monotonic() - started < 4.5
    assert "[polite] got TERM" in space.stdout
    assert "stopping" in space.stderr
    space.gone(1)


def test_a_service_outlives_the_tasks_at_a_stop(workspace):
    space = workspace("""
tasks:
  - {name: task, command: "trap 'sleep 0.5; echo task ends >>order; exit' TERM; echo task up; while :; do sleep 0.05; done"}
workspacekit:
  services:
    service: {command: "sh -c 'trap \\"echo service ends >>order; exit\\" TERM; echo service up; while :; do sleep 0.05; done'"}
""")
    until(lambda: "task up" in space.stdout and "service up" in space.stdout, 10, "both units")
    space.process.terminate()
    assert space.wait(8) == 0
    assert (space.folder / "order").read_text() == "task ends\nservice ends\n"


def test_ctrl_c_twice_stops_at_once(workspace):
    space = workspace("tasks: [{name: stubborn, command: \"trap '' TERM; echo up; while :; do sleep 0.1; done\"}]")
    until(lambda: "up" in space.stdout, 10, "the task")
    space.process.send_signal(signal.SIGINT)
    until(lambda: "stopping" in space.stderr, 5, "the stop")
    started = time.monotonic()
    space.process.send_signal(signal.SIGINT)
    space.wait(3)
    assert time.monotonic() - started < 2
    space.gone(1)


BUSY = """
tasks:
  - {name: one, command: "echo one up; setsid sleep 1000 & sleep 1000"}
  - {name: two, command: "echo two up; exec sleep 1000"}
"""


@pytest.mark.parametrize("stage,code", [("run", -9), ("ring1", 137), ("ring2", 137)])
def test_no_process_outlives_a_killed_stage(workspace, stage, code):
    space = workspace(BUSY).started()
    until(lambda: "one up" in space.stdout and "two up" in space.stdout, 10, "both tasks")
    slirp = space.stage("slirp")
    os.kill(space.process.pid if stage == "run" else space.stage(stage), signal.SIGKILL)
    assert space.wait(10) == code
    space.gone(3)
    until(lambda: not os.path.exists(f"/proc/{slirp}") or "Z" in pathlib.Path(f"/proc/{slirp}/stat").read_text(), 3, "the forwarder's end")
    if stage != "run":
        assert {"ring1": "ring1 was killed", "ring2": "ring2"}[stage] in space.stderr


def test_a_killed_forwarder_is_reported_and_started_again(workspace):
    space = workspace(FOREVER).started()
    fetch = lambda: space.exec("curl", "-sS", "-m", "2", f"http://{WORLD4}:8000/", check=False).stdout
    assert fetch() == "hello from world\n"
    first = space.stage("slirp")
    os.kill(first, signal.SIGKILL)
    until(lambda: "the forwarder ended (SIGKILL): it is started again" in space.stderr, 5, "the report")
    until(lambda: fetch() == "hello from world\n", 10, "the network's return")
    assert space.stage("slirp") != first
    # One that came up is no failure: the next ones come as soon, however often.
    for _ in range(6):
        last, begun = space.stage("slirp"), time.monotonic()
        os.kill(last, signal.SIGKILL)
        until(lambda: space.stage("slirp") != last, 10, "another forwarder")
        until(lambda: fetch() == "hello from world\n", 10, "the network's return")
    assert time.monotonic() - begun < 2.5


def test_two_thousand_orphans_leave_no_zombie(workspace):
    space = workspace("").started()
    space.exec("sh", "-c", "i=0; while [ $i -lt 1000 ]; do (sleep 0.2 &) ; (setsid sh -c 'sleep 0.1 & exit' &); i=$((i+1)); done")
    def zombies():
        listing = space.exec("sh", "-c", "cat /proc/[0-9]*/stat 2>/dev/null").stdout
        return [line for line in listing.splitlines() if line.rsplit(")", 1)[1].split()[0] == "Z"]
    time.sleep(1)
    assert zombies() == []
    until(lambda: "sleep" not in space.exec("sh", "-c", "cat /proc/[0-9]*/comm").stdout, 10, "the end of the orphans")
    assert zombies() == []


# ---- tasks

PHASES = """
env: {GREETING: hello, NUMBER: 8080, OBJECT: {a: 1}}
tasks:
  - name: phases
    before: echo before; export SEEN=from-before
    init: echo init
    command: echo "command $SEEN $GREETING $NUMBER $OBJECT $OWN"
    env: {OWN: mine}
"""


def test_phases_run_in_order_and_init_only_once(workspace):
    space = workspace(PHASES)
    until(lambda: "[phases] command" in space.stdout, 10, "the command phase")
    lines = [line for line in space.stdout.splitlines() if line.startswith("[phases]")]
    assert lines == ["[phases] before", "[phases] init", '[phases] command from-before hello 8080 {"a":1} mine']
    space.stop()
    # The same workspace directory, started again.
    process = space.lab.popen_in(space.lab.pod, [BINARY, "run", "--workspace", str(space.folder), "--state-dir", str(space.state)],
                                 stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=space.environment, text=True)
    try:
        assert [process.stdout.readline().strip() for _ in range(2)] == [
            "[phases] before", '[phases] command from-before hello 8080 {"a":1} mine']
    finally:
        process.terminate()
        process.wait(10)


def test_a_failed_before_ends_the_task_with_its_code(workspace):
    space = workspace("tasks: [{name: t, before: exit 4, init: echo init, command: echo command}]").started()
    until(lambda: space.status()["t"]["state"] == "failed", 10, "the failure")
    assert space.status()["t"]["exitCode"] == 4
    assert "init" not in space.stdout and "command" not in space.stdout
    assert " 4 " in space.cli("status").stdout


def test_each_task_has_a_session_of_its_own(workspace):
    space = workspace("tasks: [{name: a, command: ps -o sid= -p $$; sleep 100}, {name: b, command: ps -o sid= -p $$; sleep 100}]")
    until(lambda: len(re.findall(r"\[[ab]\] +\d+", space.stdout)) == 2, 10, "both tasks")
    sessions = re.findall(r"\[[ab]\] +(\d+)", space.stdout)
    assert sessions[0] != sessions[1]


def test_tasks_run_in_the_checkout_location(lab):
    folder = lab.folder / "checkout-test"
    (folder / "project").mkdir(parents=True)
    (folder / "c.yml").write_text("checkoutLocation: project\n")
    result = lab.in_pod(BINARY, "run", "--workspace", str(folder), "--state-dir", str(folder / "state"), "--config",
                        str(folder / "c.yml"), "--", "pwd")
    assert result.stdout == f"{folder}/project\n"


# ---- services

def test_a_killed_service_comes_back_after_its_backoff(workspace):
    space = workspace("workspacekit: {services: {s: {command: sleep 1000, restart: always}}}").started()
    until(lambda: space.status()["s"]["state"] == "running", 10, "the service")
    first = space.status()["s"]["pid"]
    space.exec("kill", "-9", str(first))
    until(lambda: space.status()["s"]["state"] == "backing off", 5, "the backoff")
    until(lambda: space.status()["s"]["state"] == "running", 5, "the return")
    unit = space.status()["s"]
    assert unit["pid"] != first and unit["restarts"] == 1 and unit["exitCode"] == 137


def test_a_failing_service_shows_growing_delays(workspace):
    space = workspace("workspacekit: {services: {s: {command: 'false', restart: on-failure}}}").started()
    delays = []
    def grown():
        unit = space.status()["s"]
        delay = unit.get("backoffSeconds")
        if delay and (not delays or delay != delays[-1]):
            assert 0 <= unit["nextTrySeconds"] <= delay
            delays.append(delay)
        return len(delays) >= 3
    until(grown, 10, "three delays")
    assert 0.5 <= delays[0] <= 0.55 and delays[1] >= 1.0 and delays[2] >= 2.0
    assert "next try in" in space.cli("status").stdout


def test_a_service_without_its_executable_is_skipped_aloud(workspace):
    space = workspace("workspacekit: {services: {d: {command: no-such-daemon -x, requires: [no-such-daemon]}}}").started()
    assert space.status()["d"]["state"] == "skipped"
    assert "workspacekit: d: skipped: no-such-daemon not found" in space.stderr


def test_a_service_has_its_user_environment_and_signal(workspace):
    space = workspace("""
env: {SHARED: everywhere}
workspacekit:
  services:
    s:
      command: ["sh", "-c", "trap 'echo got USR1; exit 0' USR1; echo $(id -u) $SHARED $OWN $HOME; while :; do sleep 0.05; done"]
      user: wkuser
      environment: [OWN=own]
      stop_signal: SIGUSR1
""")
    until(lambda: "[s] " in space.stdout, 10, "the service")
    assert f"[s] {USER} everywhere own /tmp" in space.stdout
    space.process.terminate()
    space.wait()
    assert "[s] got USR1" in space.stdout


def test_an_essential_service_ends_the_workspace_with_its_status(workspace):
    space = workspace("workspacekit: {services: {s: {command: sh -c 'sleep 0.2; exit 9', essential: true}}}")
    assert space.wait(10) == 9


# ---- control

def test_status_logs_restart_exec_and_stop(workspace):
    space = workspace("tasks: [{name: talker, command: 'echo said $$; exec sleep 1000'}]").started()
    until(lambda: "said" in space.stdout, 10, "the task")
    table = space.cli("status").stdout
    assert re.search(r"^talker +task +running +\d+ +0 ", table, re.M)
    assert space.cli("logs", "talker").stdout.startswith("said ")
    before = space.status()["talker"]["pid"]
    space.cli("restart", "talker")
    until(lambda: space.status()["talker"].get("pid") not in (None, before), 5, "the restart")
    until(lambda: space.stdout.count("said ") == 2, 10, "the next process's word")
    assert space.exec("sh", "-c", "exit 6", check=False).returncode == 6
    assert space.exec("cat", input="through\n").stdout == "through\n"
    space.cli("stop")
    assert space.wait(5) == 0
    assert space.cli("logs", "talker").stdout.count("said ") == 2  # the logs stay


def test_the_control_socket_is_reachable_from_inside_and_private(workspace):
    space = workspace(FOREVER).started()
    result = space.exec(BINARY, "status", "--json")
    assert json.loads(result.stdout)["state"] == "running"
    os.chmod(space.state, 0o755)  # even so: the peer's credentials count
    other = space.lab.in_pod("setpriv", "--reuid", "47002", "--regid", "47002", "--clear-groups", BINARY, "status",
                             "--state-dir", str(space.state), check=False)
    assert other.returncode == 1 and "belongs to another user" in other.stderr, other.stderr


def test_what_units_print_and_what_happened_is_for_their_owner_only(workspace):
    space = workspace("tasks: [{name: t, command: 'echo secret; sleep 1000'}]\n").started()
    until(lambda: "[t] secret" in space.stdout, 10, "the output")
    os.chmod(space.state, 0o755)
    read = lambda name: space.lab.in_pod("setpriv", "--reuid", "47002", "--regid", "47002", "--clear-groups", "cat", str(space.state / name), check=False).returncode
    names = ["logs/t.log", "logs/t.log.times", "events.jsonl"]
    assert [read(name) for name in names] == [1, 1, 1]
    modes = {name: (space.state / name).stat().st_mode & 0o777 for name in ["logs", *names]}
    assert modes == {"logs": 0o700, **{name: 0o600 for name in names}}


def test_exec_with_a_terminal(workspace):
    """It has the caller's size from the start, however late the caller hears of the start."""
    space = workspace(FOREVER).started()
    command = f"{BINARY} exec --state-dir {space.state} -t -- sh -c 'test -t 0 && tty; stty size; exit 3'; echo code $?"
    late = "strace -f -o /dev/null -e trace=recvmsg -e inject=recvmsg:delay_exit=300000 "
    reading, writing = os.pipe()  # script(1) types an end of file where its standard input has ended
    try:
        for slow in ("", late):
            result = run("script", "-qc", f"stty rows 33 columns 99; {slow}{command}", "/dev/null", stdin=reading)
            assert re.search(r"/dev/pts/\d+\r?\n33 99\r?\ncode 3", result.stdout), result.stdout
    finally:
        os.close(reading)
        os.close(writing)


def test_logs_follow_until_the_end(workspace):
    space = workspace("tasks: [{name: t, command: 'for i in 1 2 3 4 5; do echo line $i; sleep 0.2; done; exec sleep 1000'}]").started()
    follower = subprocess.Popen(space.lab.enter(space.lab.pod) + [BINARY, "logs", "--state-dir", str(space.state), "-f", "t"],
                                stdout=subprocess.PIPE, text=True)
    assert [follower.stdout.readline() for _ in range(5)] == [f"line {i}\n" for i in range(1, 6)]
    space.stop()
    assert follower.wait(5) == 0


def test_two_workspaces_side_by_side(workspace):
    config = "tasks: [{name: t, command: 'echo $MARK >here; exec sleep 1000'}]\n"
    spaces = [workspace(config, environment={"MARK": mark}).started() for mark in ("first", "second")]
    for space, mark in zip(spaces, ("first", "second")):
        until(lambda: (space.folder / "here").exists() and (space.folder / "here").read_text() == f"{mark}\n", 5, "the task")
        assert "hello from world" in space.exec("curl", "-sS", "-m", "5", f"http://{WORLD4}:8000/").stdout
    networks = {space.exec("readlink", "/proc/self/ns/net").stdout for space in spaces}
    assert len(networks) == 2


def test_a_state_directory_serves_one_workspace(workspace, lab):
    space = workspace(FOREVER).started()
    second = lab.in_pod(BINARY, "run", "--workspace", str(space.folder), "--state-dir", str(space.state), "--", "true", check=False)
    assert second.returncode == 64
    assert "another workspace runs at" in second.stderr and "--state-dir" in second.stderr
    assert space.status()["sleeper"]["state"] == "running"


def test_a_state_directory_of_another_users_is_refused(lab, workspace):
    foreign = lab.folder / "foreign"
    foreign.mkdir()
    os.chown(foreign, PLAIN_USER, PLAIN_USER)
    result = lab.in_pod(BINARY, "run", "--workspace", "/tmp", "--state-dir", str(foreign), "--", "true", check=False)
    assert result.returncode == 64 and "belongs to another user" in result.stderr
    assert list(foreign.iterdir()) == []


# ---- bad input: one clear line, the documented code, nothing left, nothing written

BAD = [
    ("tasks:\n  - command: [unclosed\n", 78, r"\.gitpod\.yml:3:1: error: .*flow sequence"),
    ("tasks: hello\n", 78, r"\.gitpod\.yml:1:8: error: tasks: expected a list, found a string"),
    ("ports:\n  - port: many\n", 78, r"\.gitpod\.yml:2:11: error: ports\[0\]\.port: expected a port number.*found \"many\""),
    ("workspacekit: {services: {s: {command: x, user: nobody-here}}}\n", 78, r":1:\d+: error: workspacekit\.services\.s\.user: unknown user \"nobody-here\""),
    ("workspacekit: {network: {mode: sandbax}}\n", 78, r"did you mean \"sandbox\"\?"),
]


@pytest.mark.parametrize("config,code,pattern", BAD)
def test_a_bad_configuration_is_refused_with_its_place(workspace, config, code, pattern):
    space = workspace(config)
    assert space.wait(5) == code
    assert re.search(pattern, space.stderr), space.stderr
    assert not space.state.exists()


def test_an_unknown_key_is_a_warning_and_the_rest_counts(workspace):
    space = workspace("taks: []\ntasks: [{name: t, command: 'echo ran; sleep 100'}]\n")
    until(lambda: "[t] ran" in space.stdout, 10, "the task")
    assert '.gitpod.yml:1:1: warning: unknown key "taks" (did you mean "tasks"?)' in space.stderr


def test_validate_says_everything_and_runs_nothing(lab):
    file = lab.folder / "validate.yml"
    validate = lambda *flags: lab.in_pod(BINARY, "validate", *flags, str(file), check=False)
    file.write_text("tasks: [{name: t, command: exit 9}]\nports: [{port: 80}]\n")
    result = validate("--strict")
    assert (result.returncode, result.stdout) == (0, f"{file}: in order (1 task, 1 port, 0 services)\n")
    file.write_text("taks: []\n")
    assert (validate().returncode, validate("--strict").returncode) == (0, 1)
    assert 'unknown key "taks" (did you mean "tasks"?)\n  taks: []\n  ^~~~\n' in validate().stdout
    file.write_text("tasks: 1\nworkspacekit: {services: {s: {command: x, stop_signal: SIGNOPE}}}\n")
    result = validate("--json")
    assert result.returncode == 78
    assert [(d["line"], d["code"], d["severity"], d["path"]) for d in json.loads(result.stdout)] == [
        (1, "WK1003", "error", "tasks"), (2, "WK1006", "error", "workspacekit.services.s.stop_signal")]
    assert lab.in_pod(BINARY, "validate", "/no/such.yml", check=False).returncode == 78


def test_no_such_configuration(workspace):
    space = workspace("", arguments=["--config", "/no/such/file.yml"])
    assert space.wait(5) == 78
    assert space.stderr == "workspacekit: cannot open /no/such/file.yml: No such file or directory\n"
    assert not space.state.exists()


def test_no_such_workspace_directory(workspace):
    space = workspace("", arguments=["--workspace", "/no/such/folder"])
    assert space.wait(5) == 64
    assert "the workspace directory /no/such/folder does not exist" in space.stderr
    assert not space.state.exists()


def test_a_workspace_without_configuration_says_so(workspace):
    space = workspace(None, command=["true"])
    assert space.wait(10) == 0
    assert re.fullmatch(r"workspacekit: no \.gitpod\.yml in \S+: a workspace without tasks \(\"workspacekit config init\" writes one\)\n", space.stderr.replace(MASKED_LINE, ""))


def test_no_user_namespaces(workspace, lab):
    """seccomp and sysctls forbid them in the field; here a namespace whose limit is 0 does."""
    folder = lab.folder / "no-userns"
    folder.mkdir()
    result = lab.in_pod("unshare", "--user", "--map-root-user", "sh", "-c",
                        f"echo 0 >/proc/sys/user/max_user_namespaces && exec {BINARY} run --require masked --workspace {folder} "
                        f"--state-dir {folder}/state -- true", check=False)
    assert result.returncode == 71
    assert "ring0: cannot make namespaces user+mnt" in result.stderr
    assert "this container may not make user namespaces" in result.stderr
    assert not (folder / "state").exists()


def test_no_tun_device(workspace, lab):
    folder = lab.folder / "no-tun"
    folder.mkdir()
    result = lab.in_pod("unshare", "--mount", "sh", "-c",
                        f"mount --bind /dev/zero /dev/net/tun; umount /dev/net/tun; umount /dev/net/tun; "
                        f"mount -t tmpfs tmpfs /dev/net; exec {BINARY} run --workspace {folder} --state-dir {folder}/state -- curl -sS --max-time 5 http://{WORLD4}:8000",
                        check=False)
    assert (result.returncode, result.stdout) == (0, "hello from world\n"), result.stderr
    assert "cannot open /dev/net/tun: No such file or directory: the link is a pair of interfaces and a packet socket instead" in result.stderr
    (folder / ".gitpod.yml").write_text("workspacekit: {network: {link: tap}}\n")
    result = lab.in_pod("unshare", "--mount", "sh", "-c",
                        f"mount -t tmpfs tmpfs /dev/net; exec {BINARY} run --workspace {folder} --state-dir {folder}/other -- true",
                        check=False)
    assert result.returncode == 71
    assert "ring1: cannot open /dev/net/tun: No such file or directory (run the container with --device /dev/net/tun" in result.stderr
    assert not (folder / "other").exists()
    host = lab.in_pod("unshare", "--mount", "sh", "-c",
                      f"mount -t tmpfs tmpfs /dev/net; exec {BINARY} run --network none --workspace {folder} "
                      f"--state-dir {folder}/state -- echo works", check=False)
    assert (host.returncode, host.stdout) == (0, "works\n")


def test_a_masked_proc_degrades_aloud(workspace, lab):
    """As in a container without systempaths=unconfined."""
    folder = lab.folder / "masked"
    folder.mkdir()
    result = lab.in_pod("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c",
                        f"mount --bind /dev/null /proc/timer_list; {BINARY} run --workspace {folder} --state-dir {folder}/state "
                        f"-- sh -c 'id -u; {BINARY} net status >/dev/null; echo link $?; (setsid sleep 1000 &); exit 6'; echo code $?; sleep 0.3; cat /proc/[0-9]*/comm", check=False)
    assert "the container's /proc is masked" in result.stderr and "systempaths=unconfined" in result.stderr
    assert "shares the container's process numbers" in result.stderr
    assert result.stdout.splitlines()[:3] == ["0", "link 0", "code 6"]
    assert "sleep" not in result.stdout


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
@pytest.mark.parametrize("call,network", [("setns", "sandbox"), ("mount", "none"), ("pivot_root", "none")])
def test_a_stage_that_dies_without_a_word_is_missed_at_once(lab, call, network):
    """A signal at one of its calls stands for the OOM killer."""
    state = lab.folder / f"died-{call}"
    started = time.monotonic()
    result = lab.in_pod("strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when=1",
                        BINARY, "run", "--network", network, "--workspace", "/tmp", "--state-dir", str(state), "--", "true", check=False)
    assert time.monotonic() - started < 5
    assert result.returncode == 71 and "ring1: cannot hear from the stage" in result.stderr and "it ended" in result.stderr
    assert not state.exists()


def test_a_wrong_argument_is_a_usage_error(lab):
    result = lab.in_pod(BINARY, "run", "--network", "bridge", check=False)
    assert result.returncode == 64 and "'bridge' is no network mode: sandbox, host or none" in result.stderr
    assert lab.in_pod(BINARY, "status", "--state-dir", "/tmp/none", check=False).returncode == 69
