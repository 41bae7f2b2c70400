"""What runs in the workspace reaches no stage, and undoes no mount of theirs: by the workspace's root, and by an ordinary user
of it; started by root, by an ordinary user with a range of ids, by one with a single id, and in a workspace in a workspace."""

import json
import pathlib
import shlex
import signal

import pytest

from conftest import BINARY, PLAIN_USER, PYTHON, USER, until
from test_doctor import MASKED

# By its text, because a private root does not have the directory of the tests where that lies in /tmp.
TRESPASS = ["-c", (pathlib.Path(__file__).parent / "trespass.py").read_text()]
STARTED_BY = {"root": None, "range": USER, "single": PLAIN_USER}
def trespass(space, *words, by="root"):
    change = [] if by == "root" else ["setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups"]
    result = space.exec(*change, PYTHON, *TRESPASS, *words)
    found = json.loads(result.stdout)
    return set(found["got"]), found["tried"]


@pytest.mark.parametrize("by", ["root", "user"])
@pytest.mark.parametrize("start", STARTED_BY)
def test_the_stages_inside_are_out_of_reach(workspace, start, by):
    if (start, by) == ("single", "user"):
        pytest.skip("there is one user only")
    space = workspace("", user=STARTED_BY[start]).started()
    supervisor = space.stage("supervise")
    # With a single id the supervisor has the workspace root's: signals and priorities go by ids, whatever the namespaces.
    got, tried = trespass(space, "traces" if start == "single" else "processes", "workspacekit", "supervisor", by=by)
    assert tried == 2, "ring2 and the supervisor"
    assert got == set(), got
    assert space.stage("supervise") == supervisor, "nobody had to take over"


@pytest.mark.parametrize("by", ["root", "user"])
def test_so_are_all_of_them_where_process_numbers_are_shared(workspace, by):
    space = workspace("", through=MASKED).started()
    assert json.loads(space.cli("status", "--json").stdout)["isolation"] == "shared-pid"
    got, tried = trespass(space, "processes", "workspacekit", "supervisor", by=by)
    assert tried == 2 and got == set(), got
    # The workspace's root is outside who started it, as ring0 and the forwarder are: signals go by ids.
    got, tried = trespass(space, "traces", "ring0", "ring1", "slirp", by=by)
    assert tried >= 3 and got == set(), got


@pytest.mark.parametrize("start", STARTED_BY)
def test_what_the_stages_mounted_stays_where_it_is(workspace, start):
    space = workspace("", user=STARTED_BY[start]).started()
    got, tried = trespass(space, "mounts", str(space.folder))
    assert tried > 10 and got == set(), got


def test_all_processes_killed_by_root_inside_are_all_but_the_stages(workspace):
    space = workspace("tasks: [{name: waits, command: sleep 1000}]\n").started()
    until(lambda: space.status()["waits"]["state"] == "running")
    supervisor, first = space.stage("supervise"), space.stage("ring2")
    assert space.exec("sh", "-c", "kill -9 -1; kill -9 1", check=False).returncode != 70
    until(lambda: space.status()["waits"]["state"] == "failed")
    assert space.exec("echo", "here").stdout == "here\n"
    assert (space.stage("supervise"), space.stage("ring2")) == (supervisor, first)


# Every process that it sees is stopped again and again: also a unit's between its coming into the workspace and its exec.
STOPPER = """
import os, pathlib, signal, time
print("ready", flush=True)
end = time.monotonic() + 30
while time.monotonic() < end:
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                os.kill(int(entry), signal.SIGSTOP)
            except OSError:
                pass
"""


def test_stopping_all_that_starts_stops_not_the_supervisor(workspace):
    space = workspace("services: {starts: {command: sleep 0.01, restart: always}}\ntasks: [{name: waits, command: sleep 1000}]\n").started()
    attack = space.lab.popen_in(
        space.lab.pod, [*space.prefix, BINARY, "exec", "--state-dir", str(space.state), "--", PYTHON, "-c", STOPPER],
        stdout=-1, env=space.environment)
    assert attack.stdout.readline() == b"ready\n"
    for _ in range(20):
        space.cli("status")
        space.cli("restart", "--no-wait", "starts", check=False)
    attack.kill()
    attack.wait()
    space.process.send_signal(signal.SIGTERM)
    assert space.wait(30) != 137


def test_a_workspace_in_a_workspace_holds_as_well(workspace):
    space = workspace("").started()
    inner = f"{BINARY} run --workspace {space.folder} --state-dir {space.folder}/inner --quiet -- {shlex.join([PYTHON, *TRESPASS])}"
    inner = inner.replace("--quiet ", "")
    for words in ("processes workspacekit supervisor", f"mounts {space.folder}"):
        found = json.loads(space.exec("sh", "-c", f"{inner} {words}").stdout)
        assert found["tried"] > 1 and found["got"] == [], found


def test_network_and_containers_are_the_workspaces_own(workspace):
    """What its root may do is as before: its user namespace owns its network, host name and mounts."""
    space = workspace("", user=USER).started()
    script = f"""set -e
    ip tuntap add other mode tap; ip link set other up; ip link del other
    echo 1 > /proc/sys/net/ipv4/ip_forward
    hostname inner; test "$(hostname)" = inner
    mkdir -p {space.folder}/m; mount -t tmpfs tmpfs {space.folder}/m; umount {space.folder}/m
    unshare --user --map-root-user --mount --pid --fork --mount-proc --net --ipc --uts --cgroup sh -c '
      mount -t sysfs sysfs /sys; mount -t tmpfs tmpfs /tmp; ip link set lo up; test $$ = 1'
    unshare --mount --pid --fork --mount-proc true
    """
    assert space.exec("sh", "-c", script, check=False).returncode == 0
