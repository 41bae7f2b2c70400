"""Container engines inside a workspace: the reason many people install one. `examples/docker/.gitpod.yml` as it is, run by
root and by an ordinary user; podman, containerd and runc alone. Needs Debian's docker.io and busybox-static."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import time

import pytest

from conftest import POD4, USER, WORLD4, tagged, until
from images import BUSYBOX_APPLETS, busybox_root

DOCKER = shutil.which("docker", path="/usr/bin:/usr/sbin")
pytestmark = pytest.mark.skipif(
    not (DOCKER and shutil.which("dockerd") and shutil.which("iptables")), reason="docker.io and iptables are not installed")

EXAMPLE = (pathlib.Path(__file__).parents[2] / "examples/docker/.gitpod.yml").read_text()
# Debian's client, whatever else is installed on the machine.
PATH = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    folder = tmp_path_factory.mktemp("image")
    for place in [folder, *folder.parents][:3]:  # ordinary users read it too
        place.chmod(0o755)
    busybox_root(folder / "root")
    subprocess.run(["tar", "--owner=0", "--group=0", "-C", folder / "root", "-cf", folder / "image.tar", "."], check=True)
    return folder / "image.tar"


def state(space):
    return space.status()["docker"]


@pytest.mark.parametrize("user", [None, USER], ids=["root", "ordinary-user"])
def test_docker_in_a_workspace(workspace, lab, image, user):
    space = workspace(EXAMPLE + "  network: {forwards: [\"8090\"]}\n", user=user, environment=PATH, arguments=["--require", "full"]).started()
    docker = lambda *arguments, check=True: space.exec("docker", *map(str, arguments), check=check)
    # The task was the first to ask; the daemon started for it, and it did not fail meanwhile.
    until(lambda: re.search(r"\[hello\] Docker \S+ answers inside", space.stdout), 30, lambda: "the task: " + space.stdout + space.stderr + space.cli("logs").stdout)
    until(lambda: state(space).get("isHealthy"), 15, "docker version")
    assert docker("info", "-f", "{{.Driver}}").stdout == "overlay2\n"
    assert space.exec("stat", "-Lc", "%a %G", "/var/run/docker.sock").stdout == "660 docker\n"
    docker("import", "-c", 'CMD ["/bin/sh"]', image, "base:1")

    # Run, build both ways, exec, stop.
    assert docker("run", "--rm", "base:1", "id", "-u").stdout == "0\n"
    context = space.folder / "context"
    context.mkdir()
    (context / "Dockerfile").write_text("ARG BASE=none\nFROM ${BASE}\nRUN echo built >/made\nCMD [\"cat\", \"/made\"]\n")
    for kit in ("0", "1"):
        space.exec("env", f"DOCKER_BUILDKIT={kit}", "docker", "build", "-q", "--build-arg", "BASE=base:1", "-t", f"made:{kit}", str(context))
        assert docker("run", "--rm", f"made:{kit}").stdout == "built\n"
    docker("run", "-d", "--name", "web", "-p", "8090:80", "base:1", "sh", "-c", "echo published >/index.html; exec httpd -f -p 80 -h /")
    assert docker("exec", "web", "id", "-u").stdout == "0\n"

    # Published ports, from the workspace, from the world through the container's own address, and between containers.
    fetch = lambda address: space.exec("curl", "-s", "-m", "2", f"http://{address}:8090/index.html", check=False).stdout
    until(lambda: fetch("127.0.0.1") == "published\n", 10, "the published port")
    until(lambda: lab.in_world("curl", "-s", "-m", "2", f"http://{POD4}:8090/index.html", check=False).stdout == "published\n", 5, "the port outside")
    docker("network", "create", "backend")
    docker("network", "connect", "backend", "web")
    assert docker("run", "--rm", "--network", "backend", "base:1", "wget", "-qO-", "http://web/index.html").stdout == "published\n"

    # To the world, with the link's MTU and its superpackets.
    assert docker("run", "--rm", "base:1", "wget", "-qO-", f"http://{WORLD4}:8000/").stdout == "hello from world\n"
    assert docker("run", "--rm", "base:1", "cat", "/sys/class/net/eth0/mtu").stdout == space.exec("cat", "/sys/class/net/tap0/mtu").stdout
    size = 64 << 20
    sent = docker("run", "--rm", "base:1", "sh", "-c", f"(head -c {size} /dev/zero) | nc {WORLD4} 9000").stdout
    assert sent.split()[0] == str(size), sent

    # Killed, it comes back: its containers run on, and nobody is refused.
    web = docker("inspect", "-f", "{{.State.StartedAt}}", "web").stdout
    before = state(space)["restarts"]
    space.exec("sh", "-c", "kill -9 $(cat /run/docker.pid)")
    for _ in range(10):
        assert docker("version", "-f", "{{.Server.Version}}").stdout
    until(lambda: state(space)["restarts"] == before + 1, 10, "the restart")
    assert docker("inspect", "-f", "{{.State.StartedAt}}", "web").stdout == web
    assert fetch("127.0.0.1") == "published\n"
    assert docker("stop", "-t", "1", "web").stdout == "web\n"
    docker("start", "web")

    # Its own chains are not ours: flushed, the link still works and the rest of the workspace too.
    space.exec("nft", "flush", "ruleset")
    space.exec("sh", "-c", "ip link set tap0 down; ip addr flush dev tap0; : >/etc/resolv.conf")
    assert space.exec("curl", "-s", "-m", "2", f"http://{WORLD4}:8000/", check=False).returncode != 0
    status = space.cli("net status", check=False)
    assert status.returncode == 1 and "tap0 is down" in status.stdout, status
    assert "tap0 is down" in space.cli("status").stderr
    space.cli("net reset")
    assert space.exec("curl", "-s", "-m", "5", f"http://{WORLD4}:8000/").stdout == "hello from world\n"
    assert space.exec("getent", "hosts", "web.test").returncode == 0
    space.cli("restart", "docker")
    until(lambda: state(space).get("isHealthy"), 15, "docker version")
    docker("restart", "-t", "1", "web")
    assert docker("run", "--rm", "base:1", "wget", "-qO-", f"http://{WORLD4}:8000/").stdout == "hello from world\n"

    # The workspace stops with containers running, in its time.
    begun = time.monotonic()
    space.process.terminate()
    assert space.wait(12) == 0
    assert time.monotonic() - begun < 9
    space.gone(2)
