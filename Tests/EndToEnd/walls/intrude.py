"""Tries, from inside the workspace, to change what the outside uses, to get below a private root, and to reach sockets of the
outside. Prints what was got as JSON.

`intrude.py write PATH...`: replaces or changes these files, in every way. `intrude.py connect PATH...`: connects to these sockets.
`intrude.py mounts DIRECTORY PATH...`: undoes what lies over these places, with a directory to put mounts in."""

import ctypes
import json
import os
import shutil
import socket
import stat
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_MOVE, MS_REC, MNT_DETACH = 1, 32, 4096, 8192, 16384, 2
MARK = "written inside\n"


def mount(source, target, flags, kind=None, options=None):
    values = [None if text is None else text.encode() for text in (source, target, kind)]
    if LIBC.mount(*values, ctypes.c_ulong(flags), options and options.encode()) < 0:
        raise OSError(ctypes.get_errno(), "mount")


def unmount(target):
    if LIBC.umount2(target.encode(), MNT_DETACH) < 0:
        raise OSError(ctypes.get_errno(), "umount2")


def overwrite(path):
    with open(path, "r+") as file:
        file.write(MARK)


def replace(path):
    with open(path + ".new", "w") as file:
        file.write(MARK)
    os.chmod(path + ".new", 0o755)
    os.rename(path + ".new", path)


def remake(path):
    os.unlink(path)
    with open(path, "w") as file:
        file.write(MARK)


def link(path):
    os.link(path, path + ".link")
    overwrite(path + ".link")


def move_parent(path):
    parent = os.path.dirname(path)
    os.rename(parent, parent + ".moved")
    os.makedirs(parent)
    with open(path, "w") as file:
        file.write(MARK)


def remount(path):
    mount(None, path, MS_REMOUNT | MS_BIND)
    overwrite(path)


def uncover(path):
    unmount(path)
    overwrite(path)


def write(paths):
    ways = [overwrite, replace, remake, link, remount, uncover, move_parent]
    return {f"{path}: {way.__name__}" for path in paths for way in ways if worked(way, path)}


def worked(way, *arguments):
    child = os.fork()
    if child == 0:
        try:
            way(*arguments)
            os._exit(0)
        except (OSError, shutil.Error):
            os._exit(1)
        except BaseException:
            os._exit(3)
    return os.waitstatus_to_exitcode(os.wait()[1]) != 1


def connect(path):
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(3)
        client.connect(path)


def connects(paths):
    return {path for path in paths if worked(connect, path)}


def mounts(beside, paths):
    """Each in mount namespaces of its own: one of the workspace's user namespace, one of a user namespace below it."""
    os.makedirs(beside, exist_ok=True)
    ways = {
        "unmounted": lambda path: unmount(path),
        "moved": lambda path: mount(path, beside, MS_MOVE),
        "remounted writable": lambda path: mount(None, path, MS_REMOUNT | MS_BIND),
        "bound without what lies over it": lambda path: mount(path, beside, MS_BIND) or uncovered(path, beside),
        "its parent bound without what lies over it": lambda path: mount(os.path.dirname(path), beside, MS_BIND),
    }
    got = set()
    for path in paths:
        for what, way in ways.items():
            for flags in (0x00020000, 0x00020000 | 0x10000000):
                def attempt():
                    if LIBC.unshare(flags) < 0:
                        raise OSError(ctypes.get_errno(), "unshare")
                    way(path)
                if worked(attempt):
                    got.add(f"{path}: {what}")
    return got


def uncovered(path, beside):
    """A bind of the place itself shows what the place shows: that is nothing got."""
    same = sorted(os.listdir(path)) == sorted(os.listdir(beside)) if stat.S_ISDIR(os.stat(path).st_mode) else True
    if same:
        raise OSError("the same")


verb, *words = sys.argv[1:]
found = {"write": write, "connect": connects, "mounts": lambda w: mounts(w[0], w[1:])}[verb](words)
print(json.dumps(sorted(found)))
