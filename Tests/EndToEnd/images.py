"""Root file systems for the tests' images."""

import os
import shutil

BUSYBOX_APPLETS = ("sh", "id", "wget", "httpd", "mkdir", "sleep", "cat", "ps", "ip", "mount", "setsid", "stat", "readlink", "df", "dd", "head", "nc", "ls", "ping")


def busybox_root(root):
    """Two megabytes that can do most of what a test wants."""
    (root / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for applet in BUSYBOX_APPLETS:
        os.symlink("busybox", root / "bin" / applet)
    return root
