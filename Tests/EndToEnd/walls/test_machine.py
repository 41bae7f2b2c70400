"""A workspace that root starts without a user namespace of the container's has the machine's root inside: it changes nothing
of the machine, and lifts no limit of the container."""

import json
import pathlib

import pytest

from conftest import BINARY, MASKED_LINE, PER_NAMESPACE, PYTHON, USER
from test_doctor import MASKED, doctor

# By its text, because a private root does not have the directory of the tests where that lies in /tmp.
MACHINE = ["-c", (pathlib.Path(__file__).parent / "machine.py").read_text()]


def attack(space, by="root"):
    change = [] if by == "root" else ["setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups"]
    found = json.loads(space.exec(*change, PYTHON, *MACHINE, str(space.folder) if by == "root" else "/tmp").stdout)
    assert found["tried"] > 500
    return set(found["got"])


@pytest.mark.parametrize("by", ["root", "user"])
@pytest.mark.parametrize("network", ["sandbox", "none", "host"])
def test_nothing_of_the_machine_is_writable(workspace, network, by):
    space = workspace("", arguments=["--network", network]).started()
    assert space.stderr.count(MASKED_LINE) == 1
    assert attack(space, by) == set()
    assert json.loads(space.cli("status", "--json").stdout)["isolation"] == "masked"
    assert "this workspace is masked" in space.cli("status").stderr


def test_nor_where_process_numbers_are_shared(workspace):
    space = workspace("", through=MASKED).started()
    assert json.loads(space.cli("status", "--json").stdout)["isolation"] == "shared-pid"
    assert attack(space) == set()


def test_nor_in_a_workspace_in_it(workspace):
    space = workspace("").started()
    inner = [BINARY, "run", "--workspace", str(space.folder), "--state-dir", f"{space.folder}/inner", "--", PYTHON, *MACHINE, str(space.folder)]
    result = space.exec(*inner)
    assert json.loads(result.stdout)["got"] == [], result
    assert "shared-pid" in result.stderr, "its /proc is that of the outer one, whose covers are locked"


def test_an_ordinary_user_s_workspace_is_not_masked_and_gets_nothing_either(workspace):
    space = workspace("", user=USER).started()
    assert MASKED_LINE not in space.stderr and json.loads(space.cli("status", "--json").stdout)["isolation"] == "full"
    # Its own cgroups, its own /proc and /sys, and settings of its own user and IPC namespace.
    own = ("mounted ", "made ", "/sys/fs/cgroup", "/proc/sys/user/", "/proc/sys/fs/mqueue/", "/proc/sys/kernel/")
    got = attack(space)
    assert {path for path in got if not path.startswith(own)} == set()
    assert {path for path in got if path.startswith("/proc/sys/kernel/")} - PER_NAMESPACE == set()


def test_what_still_works(workspace):
    """Settings of its own network, threads (their callers must do without clone3), units in cgroups where these can be had."""
    space = workspace("tasks: [{name: waits, command: sleep 1000}]\n").started()
    script = """set -e
    echo 1 > /proc/sys/net/ipv4/ip_forward
    test "$(cat /proc/sys/net/ipv4/ip_forward)" = 1
    unshare --user --map-root-user --mount --net --ipc --uts true
    ls /sys/class/net/tap0 >/dev/null"""
    assert space.exec("sh", "-c", script, check=False).returncode == 0
    threads = "import threading; t = threading.Thread(target=print, args=('thread',)); t.start(); t.join()"
    assert space.exec(PYTHON, "-c", threads).stdout == "thread\n"


def test_the_way_out_is_named_and_asked_for(workspace, lab):
    space = workspace("", arguments=["--require", "full"], command=["true"])
    assert space.wait() == 71
    assert "root inside would be this machine's root: this is masked at most, and --require asks for more" in space.stderr
    space = workspace("", arguments=["--require", "masked"], command=["echo", "here"])
    assert space.wait() == 0 and space.stdout == "here\n"
    found, report, _ = doctor(lab)
    assert report["mode"] == "masked" and found["root of its own"]["state"] == "degraded"
    assert "hostUsers: false" in found["root of its own"]["cure"]["kubernetes"]


def test_allowed_by_name_it_is_said_aloud(workspace):
    space = workspace("", arguments=["--allow-machine-root", "--require", "full"]).started()
    assert "--allow-machine-root: root inside can change this machine's settings" in space.stderr and MASKED_LINE not in space.stderr
    assert space.exec("sh", "-c", "exec 3<>/proc/sys/kernel/core_pattern").returncode == 0
    assert space.exec("unshare", "--cgroup", "true").returncode == 0
