"""A dockerd of the test's own, in namespaces of its own, with a way to the lab's world and to nowhere else; and the flags of
`docker run` that the shipped files give."""

import contextlib
import os
import pathlib
import shutil
import subprocess
import time

import pytest

from conftest import die_with_parent, until

DEPLOY = pathlib.Path(__file__).parents[2] / "deploy"
# Debian's client, whatever else is installed on the machine.
DOCKER = shutil.which("docker", path="/usr/bin:/usr/sbin")
needs_docker = pytest.mark.skipif(
    not (DOCKER and shutil.which("dockerd") and shutil.which("iptables")), reason="docker.io and iptables are not installed")

GATEWAY = "198.18.30.1"  # of the first engine
IDS = ["--cap-drop", "ALL", "--cap-add", "SETUID", "--cap-add", "SETGID", "--cap-add", "SETFCAP", "--cap-add", "SYS_CHROOT"]
SECCOMP = ["--security-opt", f"seccomp={DEPLOY}/seccomp.json"]
UNMASKED = ["--security-opt", "systempaths=unconfined"]
TUN = ["--device", "/dev/net/tun"]
OF_USER = ["--cap-drop", "ALL", "--cap-add", "SETUID", "--cap-add", "SETGID", *SECCOMP, *UNMASKED]  # an image whose user is not root
ALL = [*IDS, "--security-opt", "no-new-privileges", *SECCOMP, *UNMASKED, *TUN]


def remove_cgroups(own=None):
    """Those of an engine that has ended, and those of test runs that were killed."""
    for top in pathlib.Path("/sys/fs/cgroup").glob("**/wk-engine-*"):
        if top.name != own and os.path.exists(f"/proc/{top.name.split('-')[-1]}"):
            continue
        for folder, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)


class Engine:
    """dockerd in its own PID, mount and network namespaces: all of it ends with the process that holds them."""

    def __init__(self, lab, folder, *flags, prepare="", number=0):
        self.folder = folder
        self.gateway, self.link = f"198.18.{30 + number}.1", f"engine{number}"
        address = f"198.18.{30 + number}.2"
        os.mknod(folder / "tun", 0o666 | 0o020000, os.makedev(10, 200))
        os.chmod(folder / "tun", 0o666)
        self.cgroup = f"wk-engine-{os.getpid()}"
        remove_cgroups()
        script = f"""
cp -a /etc {folder}/own-etc; mount --bind {folder}/own-etc /etc
mount --bind {folder}/tun /dev/net/tun; mount -t tmpfs tmpfs /run; {prepare or ":"}; ip link set lo up
echo ready; read go
exec dockerd --data-root {folder}/data --exec-root /run/docker-exec --pidfile /run/docker.pid --cgroup-parent /{self.cgroup} -H unix://{folder}/docker.sock {" ".join(flags)} >{folder}/log 2>&1
"""
        self.process = subprocess.Popen(["unshare", "--net", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent)
        assert self.process.stdout.readline() == "ready\n"
        self.inside = int(pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()[0])
        lab.in_world("ip", "link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", str(self.inside))
        lab.in_world("ip", "addr", "add", f"{self.gateway}/24", "dev", self.link)
        lab.in_world("ip", "link", "set", self.link, "up")
        for command in (f"ip addr add {address}/24 dev eth0", "ip link set eth0 up", f"ip route add default via {self.gateway}"):
            subprocess.run(["nsenter", f"--net=/proc/{self.inside}/ns/net", "--", *command.split()], check=True)
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        until(lambda: self("version", check=False).returncode == 0, 30, "dockerd")

    def __call__(self, *arguments, check=True, timeout=60, **options):
        result = subprocess.run([DOCKER, "-H", f"unix://{self.folder}/docker.sock", *map(str, arguments)], capture_output=True, text=True, timeout=timeout, **options)
        assert not check or result.returncode == 0, (arguments, result.stdout, result.stderr)
        return result

    def logs(self, name):
        result = self("logs", name)
        return result.stdout + result.stderr

    def wrapper(self):
        """A program that is this engine's docker, for scripts that call one."""
        wrapper = self.folder / "docker"
        wrapper.write_text(f'#!/bin/sh\nexec {DOCKER} -H unix://{self.folder}/docker.sock "$@"\n')
        wrapper.chmod(0o755)
        return wrapper

    def fetch(self, url):
        """What is there for one beside the containers, on the engine's machine."""
        return subprocess.run(["nsenter", f"--net=/proc/{self.inside}/ns/net", "curl", "-s", "-m", "3", url], capture_output=True, text=True).stdout

    def close(self):
        self.process.kill()
        self.process.wait()
        # All that was in its PID namespace goes with it, and then what was mounted.
        until(lambda: not os.path.exists(f"/proc/{self.inside}"), 10, "the end of the namespaces")
        remove_cgroups(self.cgroup)


@contextlib.contextmanager
def running_engine(lab, folder, *flags, **options):
    """One engine, and none of it is left afterwards."""
    engine = Engine(lab, folder, *flags, **options)
    try:
        yield engine
    finally:
        engine.close()
        lab.in_world("ip", "link", "del", engine.link, check=False)
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def removed_afterwards(engine):
    """A function that makes names for containers; those are removed in the end."""
    names = []

    def name():
        names.append(f"ws-{time.monotonic_ns()}")
        return names[-1]
    yield name
    for each in names:
        engine("rm", "-f", each, check=False)


@contextlib.contextmanager
def remapped_engine(lab, number):
    """One whose containers have users of their own (userns-remap), as pods with hostUsers: false have: 65,536 from 600000 on."""
    folder = lab.folder / f"remapped-{number}"
    folder.mkdir(mode=0o755)
    (folder / "ids").write_text("daemon:600000:65536\n")
    prepare = f"mount --bind {folder}/ids /etc/subuid; mount --bind {folder}/ids /etc/subgid"
    with running_engine(lab, folder, "--userns-remap=daemon", prepare=prepare, number=number) as engine:
        yield engine
