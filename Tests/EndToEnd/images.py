"""Root file systems for the tests' images."""

import hashlib
import io
import json
import os
import pathlib
import shutil
import tarfile

BUSYBOX_APPLETS = ("sh", "id", "wget", "httpd", "mkdir", "sleep", "cat", "ps", "ip", "mount", "setsid", "stat", "readlink", "df", "dd", "head", "nc", "ls", "ping")


def busybox_root(root):
    """Two megabytes that can do most of what a test wants."""
    (root / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for applet in BUSYBOX_APPLETS:
        os.symlink("busybox", root / "bin" / applet)
    return root


def docker_archive(layer, archive):
    """The tar of a root file system as an image that `docker load` and `ctr images import` take."""
    data = pathlib.Path(layer).read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    configuration = json.dumps({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]},
                                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]}}).encode()
    name = hashlib.sha256(configuration).hexdigest() + ".json"
    manifest = json.dumps([{"Config": name, "RepoTags": ["docker.io/library/base:1"], "Layers": ["layer.tar"]}]).encode()
    with tarfile.open(archive, "w") as tar:
        for path, content in ((name, configuration), ("layer.tar", data), ("manifest.json", manifest)):
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
