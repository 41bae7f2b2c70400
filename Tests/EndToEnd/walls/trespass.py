"""Tries, from inside the workspace, what would reach the stages or undo their mounts, and prints what was got as JSON.

`trespass.py processes NAME...`: the processes of these names. `trespass.py traces NAME...`: the same
without what goes by ids (signals, priorities, limits), which ends things where ids are equal. `trespass.py mounts DIRECTORY`: every mount in view, with a directory to put them in."""

import ctypes
import errno
import json
import os
import pathlib
import resource
import signal
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
MS_REMOUNT, MS_BIND, MS_MOVE, MS_REC, MNT_DETACH = 32, 4096, 8192, 16384, 2
PTRACE_SEIZE = 0x4206
CALLS = {
    "x86_64": {"process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "ioprio_set": 251, "pidfd_open": 434, "pidfd_getfd": 438,
               "open_tree": 428},
    "aarch64": {"process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272, "ioprio_set": 30, "pidfd_open": 434, "pidfd_getfd": 438,
                "open_tree": 428},
}[os.uname().machine]


def call(name, *arguments):
    ctypes.set_errno(0)
    result = LIBC.syscall(ctypes.c_long(CALLS[name]), *[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def libc(name, *arguments):
    if getattr(LIBC, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)


def opened(path, mode):
    with open(path, mode, buffering=0) as file:
        return file.read(1) if "r" in mode and "+" not in mode else None


def taken_descriptor(pid):
    handle = call("pidfd_open", pid, 0)
    try:
        return call("pidfd_getfd", handle, 0, 0)
    finally:
        os.close(handle)


def vector(pid, name):
    buffer = ctypes.create_string_buffer(8)
    local = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 8)
    remote = (ctypes.c_void_p * 2)(0x400000, 8)
    return call(name, pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)


def processes(names, with_ids):
    found = {}
    for entry in pathlib.Path("/proc").iterdir():
        try:
            name = (entry / "comm").read_text().strip() if entry.name.isdigit() else ""
        except OSError:
            continue
        if name in names:
            found[int(entry.name)] = name
    attempts = {
        "traced": lambda pid: libc("ptrace", PTRACE_SEIZE, pid, None, None),
        "its memory read": lambda pid: opened(f"/proc/{pid}/mem", "rb"),
        "its memory opened for writing": lambda pid: opened(f"/proc/{pid}/mem", "r+b"),
        "its environment read": lambda pid: opened(f"/proc/{pid}/environ", "rb"),
        "its maps read": lambda pid: opened(f"/proc/{pid}/maps", "rb"),
        "its system call read": lambda pid: opened(f"/proc/{pid}/syscall", "rb"),
        "its stack read": lambda pid: opened(f"/proc/{pid}/stack", "rb"),
        "a descriptor opened": lambda pid: opened(f"/proc/{pid}/fd/0", "rb"),
        "its root entered": lambda pid: os.listdir(f"/proc/{pid}/root/"),
        "its directory entered": lambda pid: os.listdir(f"/proc/{pid}/cwd/"),
        "its mounts entered": lambda pid: libc("setns", os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY), 0),
        "its user namespace entered": lambda pid: libc("setns", os.open(f"/proc/{pid}/ns/user", os.O_RDONLY), 0),
        "its mounts entered by its handle": lambda pid: libc("setns", call("pidfd_open", pid, 0), 0x00020000),
        "its memory read by a vector": lambda pid: vector(pid, "process_vm_readv"),
        "its memory written by a vector": lambda pid: vector(pid, "process_vm_writev"),
        "a descriptor taken": taken_descriptor,
        "compared": lambda pid: call("kcmp", pid, os.getpid(), 1, 0, 0),
    }
    by_ids = {
        "its descriptors listed": lambda pid: os.listdir(f"/proc/{pid}/fd"),
        "its timer slack changed": lambda pid: pathlib.Path(f"/proc/{pid}/timerslack_ns").write_text("1000000000"),
        "its badness changed": lambda pid: pathlib.Path(f"/proc/{pid}/oom_score_adj").write_text("1000"),
        "asked for its limits": lambda pid: resource.prlimit(pid, resource.RLIMIT_NOFILE),
        "given a limit": lambda pid: resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, 3)),
        "reniced": lambda pid: os.setpriority(os.PRIO_PROCESS, pid, 19),
        "scheduled": lambda pid: os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0)),
        "bound to a processor": lambda pid: os.sched_setaffinity(pid, os.sched_getaffinity(0)),
        "given a class of disk access": lambda pid: call("ioprio_set", 1, pid, 3 << 13),
        "sent SIGTERM": lambda pid: os.kill(pid, signal.SIGTERM),
        "stopped": lambda pid: os.kill(pid, signal.SIGSTOP),
        "killed": lambda pid: os.kill(pid, signal.SIGKILL),
    }
    attempts |= by_ids if with_ids else {}
    return {f"{name} ({pid}): {what}" for pid, name in found.items() for what, attempt in attempts.items() if worked(attempt, pid)}, found


def worked(attempt, *arguments):
    """In a child, so that what worked changes nothing for the attempts that follow."""
    child = os.fork()
    if child == 0:
        try:
            attempt(*arguments)
            os._exit(0)
        except (OSError, ValueError) as error:
            os._exit(2 if getattr(error, "errno", 0) == errno.ENOSYS else 1)
        except BaseException:
            os._exit(3)
    code = os.waitstatus_to_exitcode(os.wait()[1])
    return code not in (1, 2)


def mount(source, target, flags):
    libc("mount", source.encode(), target.encode(), None, ctypes.c_ulong(flags), None)


def mounts():
    lines = [line.split() for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines()]
    points = [line[4] for line in lines if not line[4].startswith("/mnt/")]
    beside = os.path.join(sys.argv[2], "below")
    os.makedirs(beside, exist_ok=True)
    got = set()
    for point in points:
        attempts = {
            "unmounted": lambda: libc("umount2", point.encode(), 0),
            "detached": lambda: libc("umount2", point.encode(), MNT_DETACH),
            "moved": lambda: mount(point, beside, MS_MOVE),
        }
        got |= {f"{point}: {what}" for what, attempt in attempts.items() if worked(in_own_copy(attempt))}
    got |= {
        f"/: bound {what}" for what, attempt in {
            "without what lies over it": lambda: mount("/", beside, MS_BIND),
            "by open_tree(2) without what lies over it": lambda: call("open_tree", -100, b"/", 1),
        }.items() if worked(in_own_copy(attempt))}
    return got, points


def in_own_copy(attempt):
    """In a mount namespace of its own: once in the same user namespace, and once in one below."""
    def both():
        failure = None
        for flags in (0x00020000, 0x00020000 | 0x10000000):
            child = os.fork()
            if child == 0:
                try:
                    libc("unshare", flags)
                except OSError:
                    os._exit(1)
                try:
                    attempt()
                    os._exit(0)
                except OSError:
                    os._exit(1)
            if os.waitstatus_to_exitcode(os.wait()[1]) == 0:
                return
            failure = OSError(errno.EPERM, "refused")
        raise failure
    return both


if __name__ == "__main__":
    got, tried = mounts() if sys.argv[1] == "mounts" else processes(sys.argv[2:], sys.argv[1] == "processes")
    print(json.dumps({"got": sorted(got), "tried": len(tried)}))
