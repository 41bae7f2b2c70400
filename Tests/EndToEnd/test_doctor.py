"""What a container allows, found out and said; and what run makes of it: full, shared-pid, supervise-only."""

import json
import os
import pathlib
import re
import signal
import subprocess

import pytest

from conftest import BINARY, PLAIN_USER, PYTHON, USER, tagged, until

# A container that forbids user namespaces, by the sysctl and as a seccomp profile does.
NO_USERS = {
    "sysctl": ["unshare", "--user", "--map-root-user", "sh", "-c", 'echo 0 >/proc/sys/user/max_user_namespaces; exec "$@"', "sh"],
    "seccomp": ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=unshare", "-e", "inject=unshare:error=EPERM"],
}
MASKED = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", 'mount --bind /dev/null /proc/timer_list; "$@"', "sh"]
NO_TUN = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs /dev/net; exec "$@"', "sh"]


def doctor(lab, *through, user=None, silent=True):
    who = ["setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups"] if user else []
    shown = lab.in_pod(*who, *through, BINARY, "doctor", check=False)
    asked = lab.in_pod(*who, *through, BINARY, "doctor", "--json", check=False)
    assert shown.returncode == asked.returncode and (not silent or not shown.stderr), shown
    report = json.loads(asked.stdout)
    assert shown.stdout.splitlines()[-1] == f"run would choose: {report['mode']}, network {report['network']}"
    assert asked.returncode == (0 if report["mode"] == "full" else 1)
    return {row["feature"]: row for row in report["findings"]}, report, shown.stdout


def test_what_is_allowed_here(lab):
    before = [lab.in_pod(*what).stdout for what in (["ip", "-o", "link"], ["cat", "/proc/self/mounts"])]
    found, report, text = doctor(lab)
    assert report["mode"] == "masked" and report["network"] == "sandbox, by a tap device", "root is the machine's here"
    names = ["user namespaces", "id maps", "mounts", "pivot_root", "fresh /proc", "fresh /sys", "terminals", "tap device", "packet link",
             "nftables", "overlayfs", "cgroup2", "chroot", "runc inside", "nested namespaces", "seccomp notify", "ping"]
    assert {name: found[name]["state"] for name in names} == dict.fromkeys(names, "ok"), text
    assert all(len(line) <= 80 for line in text.splitlines())
    for row in found.values():
        assert (row["state"] == "ok") == ("cost" not in row) == ("cure" not in row), row
    # Nothing of it is left.
    assert before == [lab.in_pod(*what).stdout for what in (["ip", "-o", "link"], ["cat", "/proc/self/mounts"])]
    assert not list(pathlib.Path("/sys/fs/cgroup").rglob("workspacekit-doctor"))


def test_each_of_them_has_a_cure_for_everybody_who_starts_containers(lab):
    found, _, text = doctor(lab, *NO_USERS["seccomp"])
    lacking = [row for row in found.values() if row["state"] != "ok"]
    assert len(lacking) > 10
    for row in lacking:
        assert row["cost"] and ({"docker", "compose", "podman", "kubernetes"} <= set(row["cure"]) or set(row["cure"]) == {"host"}), row
    assert re.search(r"^missing +user namespaces +cannot make namespaces .*$", text, re.M)
    assert re.search(r"^ +docker: +--security-opt seccomp=deploy/seccomp\.json$", text, re.M) and re.search(r"^ +podman: +--security-opt seccomp=", text, re.M)


def test_a_masked_proc_and_a_missing_device(lab):
    found, report, _ = doctor(lab, *MASKED)
    assert report["mode"] == "shared-pid" and found["fresh /proc"]["state"] == "missing"
    assert found["fresh /proc"]["cure"]["docker"] == "--security-opt systempaths=unconfined" and "procMount: Unmasked" in found["fresh /proc"]["cure"]["kubernetes"]
    found, report, _ = doctor(lab, *NO_TUN)
    assert report["mode"] == "masked" and report["network"] == "sandbox, by a packet socket"
    assert found["tap device"]["found"] == "there is no /dev/net/tun" and found["tap device"]["cure"]["docker"] == "--device /dev/net/tun"


def test_on_a_machine_of_one_s_own_its_own_means_are_named_too(lab):
    """No flag of a container helps there. Each command is tried by its effect where that stays in the lab."""
    lab.in_pod("sysctl", "-qw", "net.ipv4.ping_group_range=1 0", "net.ipv4.ip_unprivileged_port_start=1024")
    try:
        found, _, text = doctor(lab, *NO_TUN, "prlimit", "--nofile=2000:2000", "--")
        host = {feature: found[feature]["cure"]["host"] for feature in ("tap device", "ping", "low ports", "open files", "root of its own")}
        assert "modprobe tun" in host["tap device"] and "limits.conf" in host["open files"] and "ordinary user" in host["root of its own"]
        for feature in ("ping", "low ports"):
            lab.in_pod("sh", "-c", host[feature])
        found, _, _ = doctor(lab)
        assert {found[feature]["state"] for feature in ("ping", "low ports")} == {"ok"}
    finally:
        lab.in_pod("sysctl", "-qw", "net.ipv4.ping_group_range=0 2147483647", "net.ipv4.ip_unprivileged_port_start=1024")
    assert re.search(r"^ +machine: +modprobe tun", text, re.M)


def test_the_machine_s_own_gate_is_named(lab):
    found, report, text = doctor(lab, *NO_USERS["sysctl"])
    assert report["mode"] == "supervise-only" and report["network"] == "host"
    assert found["user namespaces"]["cure"] == {"host": "sysctl user.max_user_namespaces=15000"}
    assert re.search(r"^ +machine: +sysctl user\.max_user_namespaces=15000$", text, re.M)


def test_users(lab):
    found, report, _ = doctor(lab, user=USER)
    assert found["id maps"]["found"] == "65537 users, by newuidmap" and report["mode"] == "full"
    found, report, _ = doctor(lab, user=PLAIN_USER)
    assert found["id maps"]["state"] == "degraded" and "/etc/subuid" in found["id maps"]["cure"]["host"] and report["mode"] == "full"
    found, _, _ = doctor(lab, "prlimit", "--nofile=2000:2000", "--")
    assert found["open files"]["found"] == "2000 at most (RLIMIT_NOFILE)" and found["open files"]["cure"]["docker"] == "--ulimit nofile=1048576"
    lab.in_pod("sysctl", "-qw", "net.ipv4.ping_group_range=1 0")
    try:
        found, _, _ = doctor(lab)
        assert found["ping"]["state"] == "degraded" and "ping_group_range" in found["ping"]["cure"]["compose"]
    finally:
        lab.in_pod("sysctl", "-qw", "net.ipv4.ping_group_range=0 2147483647")


def test_a_newuidmap_that_cannot_leaves_one_user(workspace, lab):
    """Setuid programs are dead under no_new_privs, which many containers have."""
    found, report, _ = doctor(lab, "setpriv", "--no-new-privs", user=USER, silent=False)
    assert report["mode"] == "full" and found["id maps"]["state"] == "degraded"
    assert re.search("^one user only: cannot write /proc/.*with newuidmap|^one user only: cannot write /proc/.*with newgidmap", found["id maps"]["found"])
    space = workspace("", user=USER, through=["setpriv", "--no-new-privs"], command=["cat", "/proc/self/uid_map"])
    assert space.wait() == 0 and space.stdout.split() == ["0", "0", "1"]
    assert "only this user's own id is mapped" in space.stderr


CONFIG = """
tasks:
  - {name: once, command: "echo from the task; exit 3"}
  - {name: stray, command: "setsid sleep 1000 & echo started; exec sleep 1000"}
workspacekit: {services: {crash: {command: "sleep 0.2; exit 1", restart: always}}}
"""


@pytest.mark.parametrize("gate", NO_USERS)
def test_without_user_namespaces_tasks_are_supervised_still(workspace, gate):
    space = workspace(CONFIG, through=NO_USERS[gate]).started()
    assert re.search(r"ring0: cannot make namespaces .*\(this container may not make user namespaces: .*\): tasks and services are only supervised, "
                     r"with nothing of their own \(supervise-only\)", space.stderr)
    until(lambda: space.status()["once"]["state"] == "failed", 5, "the task's end")
    assert space.status()["once"]["exitCode"] == 3 and "[once] from the task" in space.stdout
    until(lambda: space.status()["crash"]["restarts"] >= 2, 10, "restarts")
    report = json.loads(space.cli("status", "--json").stdout)
    assert report["isolation"] == "supervise-only" and "problems" not in report
    assert "this workspace is supervise-only" in space.cli("status").stderr
    # It is the container as it is: its network, its files.
    assert space.exec("readlink", "/proc/self/ns/net").stdout == space.lab.in_pod("readlink", "/proc/self/ns/net").stdout
    refused = space.cli("net flows", check=False)
    assert refused.returncode == 1 and "no forwarder" in refused.stderr
    # The supervisor may be killed here too.
    os.kill(space.stage("supervise"), signal.SIGKILL)
    until(lambda: space.cli("status", check=False).returncode == 0 and space.status()["stray"]["state"] == "running", 10, "another supervisor")
    space.cli("stop")
    assert space.wait() == 0
    assert not tagged(space.tag), "nothing outlives it, strays neither"


def test_a_command_ends_it_with_its_status(workspace):
    space = workspace("", through=NO_USERS["sysctl"], command=["sh", "-c", "echo here; exit 7"])
    assert space.wait() == 7 and space.stdout == "here\n"


def test_what_is_required_is_not_given_up(workspace, lab):
    space = workspace("", through=NO_USERS["sysctl"], arguments=["--require", "masked"], command=["true"])
    assert space.wait() == 71 and "this is supervise-only at most, and --require asks for more" in space.stderr
    assert "max_user_namespaces" in space.stderr
    space = workspace("", through=MASKED, arguments=["--require", "masked"], command=["true"])
    assert space.wait() == 71 and "this is shared-pid at most" in space.stderr and "systempaths=unconfined" in space.stderr
    space = workspace("", through=MASKED, arguments=["--require", "shared-pid"], command=["echo", "here"])
    assert space.wait() == 0 and space.stdout == "here\n"
    space = workspace("", through=NO_USERS["sysctl"], arguments=["--require", "shared-pid"], command=["true"])
    assert space.wait() == 71
    assert workspace("", arguments=["--require", "all"]).wait() == 64


@pytest.mark.parametrize("config,arguments", [
    ("", ["--network", "none"]), ("workspacekit: {network: {mode: none}}\n", []), ("workspacekit: {network: {egress: {default: deny}}}\n", [])])
def test_whoever_is_to_be_kept_in_is_not_let_out(workspace, config, arguments):
    space = workspace(config, through=NO_USERS["sysctl"], arguments=arguments, command=["echo", "out"])
    assert space.wait() == 71 and space.stdout == "" and "cannot make namespaces" in space.stderr
