"""What belongs to a unit, wherever its processes went: it ends with it, in its own time, within limits where there are
cgroups, and when the kernel takes it for want of memory that is said."""

import os
import pathlib
import re
import signal
import time

import pytest

from conftest import tagged, until

SLOW = "import signal, time\\ndef end(*_):\\n    time.sleep(0.7)\\n    open('closed', 'w').close()\\n    raise SystemExit\\nsignal.signal(15, end)\\nopen('up', 'w').close()\\nwhile True: time.sleep(1)"


def running(space, name):
    """Pids, as the workspace numbers them, of the processes that a pattern of pgrep finds."""
    return space.exec("pgrep", "-f", name, check=False).stdout.split()


@pytest.mark.parametrize("how", ["stop the workspace", "stop the unit", "restart the unit"])
def test_what_a_shell_starts_may_end_in_order(workspace, how):
    space = workspace(f"""
tasks:
  - name: db
    command: |
      python3 -c "$(printf '%b' "{SLOW}")"
      echo never said
workspacekit: {{services: {{other: {{command: sleep 1000}}}}}}
""").started()
    until((space.folder / "up").exists, 10, "the program's start")
    if how == "stop the workspace":
        space.process.terminate()
        assert space.wait(10) == 0
    else:
        space.cli(how.split()[0], "--no-wait", "db")
        assert space.status()["db"]["state"] == "stopping"
        until(lambda: space.status()["db"]["state"] in ("stopped", "running"), 10, "its end")
    assert (space.folder / "closed").exists() and "never said" not in space.stdout


def test_what_holds_out_is_killed_when_the_grace_is_over(workspace):
    space = workspace("""
tasks: [{name: t, command: "sh -c 'trap : TERM; touch up; while :; do sleep 0.1; done'; true"}]
workspacekit: {tasks: {t: {stop_grace_period: 500ms}}}
""").started()
    until((space.folder / "up").exists, 10, "the program's start")
    began = time.monotonic()
    space.cli("stop", "t")
    until(lambda: space.status()["t"]["state"] == "stopped", 5, "its end")
    assert time.monotonic() - began >= 0.5
    assert "t: left processes that did not end within its grace: killed" in space.stderr
    assert not running(space, "touch up")


DAEMON = "sh -c 'setsid sh -c \"echo > up; exec sleep 4711\" & until test -e up; do sleep 0.02; done; {rest}'"


@pytest.mark.parametrize("how", ["stop", "crash", "stop, by another supervisor"])
def test_what_left_the_group_goes_too(workspace, how):
    space = workspace(f"""
workspacekit:
  services:
    a: {{command: "{DAEMON.format(rest='until test -e end; do sleep 0.02; done; exit 1').replace('"', chr(92) + '"')}", restart: no}}
    b: {{command: sh -c 'setsid sleep 4712 & exec sleep 1000'}}
""").started()
    until((space.folder / "up").exists, 10, "the program's start")
    assert len(running(space, "^sleep 4711")) == 1
    if "supervisor" in how:
        os.kill(space.stage("supervise"), signal.SIGKILL)
        until(lambda: space.cli("status", check=False).returncode == 0, 5, "the next supervisor")
    if how == "crash":
        (space.folder / "end").touch()
    else:
        space.cli("stop", "a")
    until(lambda: space.status()["a"]["state"] in ("stopped", "failed"), 5, "its end")
    until(lambda: not running(space, "^sleep 4711"), 5, "the end of what it left")
    # Nobody else's.
    assert len(running(space, "^sleep 4712")) == 1


def test_what_may_outlive_its_unit_does(workspace):
    space = workspace(f"""
workspacekit:
  services:
    a: {{command: "{DAEMON.format(rest='sleep 1000').replace('"', chr(92) + '"')}", restart: no, kill_mode: process-group}}
tasks: [{{name: t, command: "setsid sleep 4713 & sleep 0.2"}}]
""").started()
    until((space.folder / "up").exists, 10, "the program's start")
    space.cli("stop", "a")
    space.cli("wait", "t", "--for", "completed")
    until(lambda: space.status()["a"]["state"] == "stopped", 5, "its end")
    # A task that has done its work leaves what it started, as a shell does.
    assert len(running(space, "^sleep 4711")) == 1 and len(running(space, "^sleep 4713")) == 1


# cgroups

def unified():
    for line in pathlib.Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup2" and "rw" in options.split(","):
            return pathlib.Path(where)


@pytest.fixture
def cgroup():
    """A cgroup of the workspace's own, as a container has one."""
    if os.geteuid() != 0 or unified() is None:
        pytest.skip("no cgroup2 to make a cgroup in")
    path = unified() / f"wk-test-{os.getpid()}"
    path.mkdir()
    yield path
    # It ends with the workspace, whose processes the fixture behind this one has seen gone.
    deadline = time.monotonic() + 5
    while path.exists() and time.monotonic() < deadline:
        for folder in sorted(path.glob("**/"), key=lambda folder: -len(folder.parts)):
            try:
                folder.rmdir()
            except OSError:
                time.sleep(0.01)
    assert not path.exists()


def through(cgroup):
    return ["sh", "-c", f"echo $$ >{cgroup}/cgroup.procs && exec \"$@\"", "sh"]


def test_each_unit_has_a_cgroup_that_nothing_leaves(cgroup, workspace):
    space = workspace("""
workspacekit:
  services:
    web: {command: "sh -c 'env -i setsid sleep 4714 & exec sleep 1000'"}
    big: {command: sleep 1000, mem_limit: 64m, cpus: 0.5, pids_limit: 5}
tasks: [{name: t, command: sleep 1000}]
""", through=through(cgroup)).started()
    until(lambda: running(space, "^sleep 4714"), 10, "the daemon")
    assert space.exec("cat", "/proc/self/cgroup").stdout.splitlines()[-1] == "0::/workspacekit"
    pid = space.status()["web"]["pid"]
    assert "0::/units/0-web" in space.exec("cat", f"/proc/{pid}/cgroup").stdout
    assert sorted(folder.name for folder in (cgroup / "units").iterdir() if folder.is_dir()) == ["0-web", "1-big", "2-t"]
    assert (cgroup / "cgroup.procs").read_text() == ""
    assert str(space.process.pid) in (cgroup / "workspacekit/cgroup.procs").read_text().split()
    # It has no mark, no session and no parent any more: the cgroup knows it.
    space.cli("restart", "web")
    until(lambda: space.status()["web"]["pid"] not in (None, pid) and len(running(space, "^sleep 4714")) == 1, 5, "the new daemon")
    controllers = (cgroup / "cgroup.controllers").read_text().split()
    for key, controller, name, value in (("mem_limit", "memory", "memory.max", "67108864"), ("cpus", "cpu", "cpu.max", "50000 100000"),
                                         ("pids_limit", "pids", "pids.max", "5")):
        if controller in controllers:
            assert (cgroup / "units/1-big" / name).read_text().strip() == value
        else:
            assert f"big: {key} has no effect: the container has no {controller} controller to hand on" in space.stderr
    # The next supervisor goes on with them.
    os.kill(space.stage("supervise"), signal.SIGKILL)
    until(lambda: space.cli("status", check=False).returncode == 0, 5, "the next supervisor")
    space.cli("stop", "web")
    until(lambda: not running(space, "^sleep 4714"), 5, "the daemon's end")
    space.cli("stop")
    assert space.wait(10) == 0


def test_memory_limit_of_its_own(cgroup, workspace):
    if "memory" not in (cgroup / "cgroup.controllers").read_text():
        pytest.skip("this machine's cgroup2 has no memory controller")
    space = workspace("""
workspacekit: {services: {eater: {command: "python3 -c 'x = bytearray(200 << 20)'", mem_limit: 32m, restart: no}}}
""", through=through(cgroup)).started()
    until(lambda: space.status()["eater"]["state"] == "failed", 20, "its end")
    assert space.status()["eater"]["reason"] == "SIGKILL, out of memory"


def test_a_cgroup_that_others_are_in_stays_as_it_is(workspace):
    space = workspace("workspacekit: {services: {a: {command: sleep 1000, mem_limit: 64m}}}").started()
    assert "a: mem_limit has no effect: cgroup2 is not delegated to this container" in space.stderr
    assert "/units/" not in space.exec("cat", "/proc/self/cgroup").stdout


def test_killed_for_want_of_memory_is_told_apart(workspace):
    memory = pathlib.Path("/sys/fs/cgroup/memory")
    if os.geteuid() != 0 or not os.access(memory / "cgroup.procs", os.W_OK):
        pytest.skip("no memory cgroup of the first version to make memory scarce in")
    space = workspace("""
workspacekit:
  services:
    eater: {command: "python3 -c 'import os, time\\nwhile not os.path.exists(\\"go\\"): time.sleep(0.05)\\nx = bytearray(200 << 20)'", restart: no}
    other: {command: sleep 1000, restart: no}
""").started()
    scarce = memory / f"wk-test-{os.getpid()}"
    scarce.mkdir()
    try:
        (scarce / "memory.limit_in_bytes").write_text(str(48 << 20))
        eater = until(lambda: next((pid for pid in tagged(space.tag) if b"bytearray" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()), None), 10, "it")
        (scarce / "cgroup.procs").write_text(str(eater))
        # Killed by somebody, and not by the kernel.
        space.cli("signal", "KILL", "other")
        until(lambda: space.status()["other"]["state"] == "failed", 10, "its end")
        assert space.status()["other"]["reason"] == "SIGKILL" and "isOutOfMemory" not in space.status()["other"]
        (space.folder / "go").touch()
        until(lambda: space.status()["eater"]["state"] == "failed", 20, "its end")
        unit = space.status()["eater"]
        assert (unit["reason"], unit["isOutOfMemory"], unit["outOfMemoryKills"], unit["exitCode"]) == ("SIGKILL, probably out of memory", True, 1, 137)
        assert "eater: ended: SIGKILL, probably out of memory" in space.stderr
        assert re.search(r'^workspacekit_unit_oom_kills_total\{unit="eater",kind="service"\} 1$', space.cli("metrics").stdout, re.M)
    finally:
        until(lambda: not (scarce / "cgroup.procs").read_text(), 5, "the end of what was in it")
        scarce.rmdir()
