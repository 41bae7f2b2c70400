"""Attacks on the forwarder by the workspace's root: its flow table, and what its process may call."""

import json
import pathlib

from conftest import PYTHON, WORLD4, until

# Tries everything that changes a memory file, on each descriptor of the flow table that root inside can open.
ATTACK = r"""
import ctypes, errno, json, mmap, os
libc = ctypes.CDLL(None, use_errno=True)

def attempt(change):
    try:
        change()
        return "changed"
    except OSError as error:
        return errno.errorcode[error.errno]

def punch(file):
    if libc.fallocate(file, 3, ctypes.c_long(0), ctypes.c_long(4096)) < 0:
        raise OSError(ctypes.get_errno(), "fallocate")

found = []
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        numbers = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        continue
    for number in numbers:
        path = f"/proc/{pid}/fd/{number}"
        try:
            if "workspacekit-flows" not in os.readlink(path):
                continue
            file = os.open(path, os.O_RDWR)
        except OSError:
            continue
        size = os.fstat(file).st_size
        found.append({
            "write": attempt(lambda: os.pwrite(file, b"\0" * 8, 0)),
            "truncate": attempt(lambda: os.ftruncate(file, 0)),
            "grow": attempt(lambda: os.ftruncate(file, size + 4096)),
            "hole": attempt(lambda: punch(file)),
            "map": attempt(lambda: mmap.mmap(file, 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)),
            "unseal": attempt(lambda: __import__("fcntl").fcntl(file, 1033, 0)),
        })
print(json.dumps(found))
"""


def test_root_inside_cannot_change_the_flow_table(workspace, lab):
    space = workspace("tasks:\n  - {name: idle, command: sleep 600}\n").started()
    until(lambda: space.cli("net flows", check=False).returncode == 0, what="the flow table")
    attempts = json.loads(space.exec(PYTHON, "-c", ATTACK).stdout)
    for attempt in attempts:
        assert set(attempt.values()) == {"EPERM"}, attempts
    # The forwarder lives, and its table can still be read.
    assert "7" in space.exec("bash", "-c", f"exec 3<>/dev/tcp/{WORLD4}/7; echo 7 >&3; head -1 <&3").stdout
    assert json.loads(space.cli("net flows", "--json").stdout) is not None


def test_the_table_of_a_restarted_forwarder_is_sealed_too(workspace, lab):
    space = workspace("tasks:\n  - {name: idle, command: sleep 600}\n").started()
    first = space.stage("slirp")
    space.lab.in_pod("kill", "-9", str(first))
    until(lambda: space.stage("slirp") != first, what="the next forwarder")

    def is_sealed():
        attempts = json.loads(space.exec(PYTHON, "-c", ATTACK).stdout)
        return all(set(attempt.values()) == {"EPERM"} for attempt in attempts)
    until(is_sealed, what="a sealed table")


def status_of(pid):
    lines = (line.partition(":") for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines())
    return {name: value.strip() for name, _, value in lines}


def test_ring0_keeps_only_the_rights_that_it_needs(workspace, lab):
    space = workspace("tasks:\n  - {name: idle, command: sleep 600}\n").started()
    ring0 = status_of(space.process.pid)
    kept = 1 << 5 | 1 << 10 | 1 << 31  # CAP_KILL, CAP_NET_BIND_SERVICE, CAP_SETFCAP
    assert int(ring0["CapEff"], 16) & ~kept == 0 and int(ring0["CapPrm"], 16) & ~kept == 0, ring0
    assert ring0["NoNewPrivs"] == "1" and ring0["Seccomp"] == "2", ring0
    # With so few rights it still starts the next forwarder in a root of its own.
    first = space.stage("slirp")
    lab.in_pod("kill", "-9", str(first))
    second = until(lambda: space.stage("slirp") if space.stage("slirp") != first else None, what="the next forwarder")
    # It has ring0's filter from the start, and drops its rights last.
    until(lambda: int(status_of(second)["CapPrm"], 16) == 0, what="the forwarder without rights")
    assert status_of(second)["Seccomp"] == "2"
    assert "keeps the container's root" not in space.stderr
    until(lambda: "7" in space.exec(
        "bash", "-c", f"exec 3<>/dev/tcp/{WORLD4}/7; echo 7 >&3; head -1 <&3", check=False).stdout, what="the network")
