"""Container engines inside a workspace: the reason many people install one. `examples/docker/.gitpod.yml` as it is, run by
root and by an ordinary user; podman, containerd and runc alone. Needs Debian's docker.io and busybox-static."""

import os
import pathlib
import re
import shutil
import subprocess
import time

import pytest

from conftest import CONTAINERS_INSIDE, POD4, USER, WORLD4, tagged, until
from images import busybox_root, docker_archive

DOCKER = shutil.which("docker", path="/usr/bin:/usr/sbin")
pytestmark = pytest.mark.skipif(
    not (DOCKER and shutil.which("dockerd") and shutil.which("iptables")), reason="docker.io and iptables are not installed")

EXAMPLE = (pathlib.Path(__file__).parents[2] / "examples/docker/.gitpod.yml").read_text()
# Debian's client, whatever else is installed on the machine.
PATH = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


@pytest.fixture(scope="module")
def image(lab):
    folder = lab.folder / "image"  # which ordinary users read too
    folder.mkdir()
    busybox_root(folder / "root")
    subprocess.run(["tar", "--owner=0", "--group=0", "-C", folder / "root", "-cf", folder / "image.tar", "."], check=True)
    return folder / "image.tar"


def state(space):
    return space.status()["docker"]


@pytest.mark.parametrize("user", [None, USER], ids=["root", "ordinary-user"])
def test_docker_in_a_workspace(workspace, lab, image, user):
    # Another MTU than Docker would take by itself.
    space = workspace(EXAMPLE + "  network: {mtu: 1400, forwards: [\"8090\"]}\n", user=user, environment=PATH,
                      arguments=["--require", "full", *([] if user else CONTAINERS_INSIDE)]).started()
    docker = lambda *arguments, check=True: space.exec("docker", *map(str, arguments), check=check)
    # The task was the first to ask; the daemon started for it, and it did not fail meanwhile.
    until(lambda: re.search(r"\[hello\] Docker \S+ answers inside", space.stdout), 30, lambda: "the task: " + space.stdout + space.stderr + space.cli("logs").stdout)
    until(lambda: state(space).get("isHealthy"), 60, "docker version")
    assert docker("info", "-f", "{{.Driver}}").stdout == "overlay2\n"
    assert space.exec("stat", "-Lc", "%a %G", "/var/run/docker.sock").stdout == "660 docker\n"
    group = space.exec("sh", "-c", "getent group docker | cut -d: -f3").stdout.strip()
    as_member = ["setpriv", "--reuid", "33", "--regid", "33", "--groups", group, "env", "HOME=/tmp", "docker", "version"]
    assert space.exec(*as_member, check=False).returncode == 0
    as_stranger = [word if word != group else "33" for word in as_member]
    assert "permission denied" in space.exec(*as_stranger, check=False).stderr
    docker("import", "-c", 'CMD ["/bin/sh"]', image, "base:1")

    # Run, build both ways, exec, stop.
    assert docker("run", "--rm", "base:1", "id", "-u").stdout == "0\n"
    # Without cgroups of its own, as docs/operations.md says.
    refused = docker("run", "--rm", "--cpus", "1", "base:1", "id", "-u", check=False)
    assert refused.returncode != 0 and "executable file not found" not in refused.stderr and "CPU" in refused.stderr
    assert docker("run", "--rm", "-m", "64m", "base:1", "id", "-u").stdout == "0\n"
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
    assert docker("run", "--rm", "base:1", "wget", "-qO-", "http://anything.test:8000/").stdout == "hello from world\n"
    assert "nameserver 10.0.2.3" in docker("run", "--rm", "base:1", "cat", "/etc/resolv.conf").stdout
    assert docker("run", "--rm", "base:1", "cat", "/sys/class/net/eth0/mtu").stdout == "1400\n"
    size = 64 << 20
    sent = docker("run", "--rm", "base:1", "sh", "-c", f"(head -c {size} /dev/zero) | nc {WORLD4} 9000").stdout
    assert sent.split()[0] == str(size), sent
    came = docker("run", "--rm", "base:1", "sh", "-c", f"echo {size} | nc {WORLD4} 9001 | wc -c; cat /sys/class/net/eth0/statistics/rx_packets /sys/class/net/eth0/statistics/rx_bytes").stdout
    length, packets, carried = map(int, came.split())
    assert length == size and carried / packets > 5000, f"superpackets cross the bridge whole: {came}"
    assert space.exec("sh", "-c", "ulimit -n").stdout == space.exec("sh", "-c", "ulimit -Hn").stdout

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
    until(lambda: state(space).get("isHealthy"), 60, "docker version")
    docker("restart", "-t", "1", "web")
    assert docker("run", "--rm", "base:1", "wget", "-qO-", f"http://{WORLD4}:8000/").stdout == "hello from world\n"

    # The workspace stops with containers running, in its time.
    begun = time.monotonic()
    space.process.terminate()
    assert space.wait(12) == 0
    assert time.monotonic() - begun < 9
    space.gone(2)


def test_runc_and_crun_alone(workspace, image):
    space = workspace(environment=PATH, arguments=["--require", "full", *CONTAINERS_INSIDE]).started()
    for runtime in ("runc", "crun"):
        bundle = space.folder / runtime
        (bundle / "rootfs").mkdir(parents=True)
        subprocess.run(["tar", "-C", bundle / "rootfs", "-xf", image], check=True)
        script = f"cd {bundle} && {runtime} spec && sed -i 's/\"terminal\": true/\"terminal\": false/; s/\"sh\"/\"id\",\"-u\"/' config.json && {runtime} --root {bundle}/state run alone"
        assert space.exec("sh", "-c", script).stdout == "0\n", runtime


def test_containerd_alone(workspace, image, lab):
    place = lab.folder / "containerd"
    config = f"""
workspacekit:
  services:
    containerd:
      command: containerd --config {place}/config.toml
      healthcheck: {{test: [CMD, ctr, --address, {place}/sock, version]}}
"""
    place.mkdir(exist_ok=True)
    (place / "config.toml").write_text(f"""
version = 2
root = "{place}/root"
state = "{place}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{place}/sock"
""")
    space = workspace(config, environment=PATH, arguments=CONTAINERS_INSIDE).started()
    until(lambda: space.status()["containerd"].get("isHealthy"), 20, lambda: "containerd: " + space.stdout)
    ctr = lambda *arguments: space.exec("ctr", "--address", f"{place}/sock", *map(str, arguments)).stdout
    # An image as docker save and skopeo write them: one layer and its configuration.
    docker_archive(image, place / "archive.tar")
    ctr("images", "import", place / "archive.tar")
    assert ctr("run", "--rm", "--cgroup", "", "--cpu-shares", "0", "docker.io/library/base:1", "one", "id", "-u") == "0\n"
    assert ctr("run", "--rm", "--net-host", "--cgroup", "", "--cpu-shares", "0", "docker.io/library/base:1", "two", "wget", "-qO-", f"http://{WORLD4}:8000/") == "hello from world\n"
    space.stop()
    shutil.rmtree(place, ignore_errors=True)


@pytest.mark.skipif(not shutil.which("podman") or not os.path.exists("/usr/lib/podman/netavark"), reason="podman and netavark are not installed")
@pytest.mark.parametrize("user", [None, USER], ids=["root", "ordinary-user"])
def test_podman_alone(workspace, lab, image, user):
    home = lab.folder / f"home-{user}"
    home.mkdir()
    os.chown(home, user or 0, user or 0)
    space = workspace("workspacekit: {filesystem: {writable: [/etc, /run, /var/lib, /var/cache]}, network: {forwards: [\"8091\"]}}\n", environment={**PATH, "HOME": str(home)}, user=user,
                      arguments=["--require", "full", *([] if user else CONTAINERS_INSIDE)]).started()
    place = space.folder / "podman"
    podman = lambda *arguments: space.exec("podman", "--root", str(place), "--runroot", "/run/podman-test", "--network-backend", "netavark", *map(str, arguments)).stdout
    podman("import", image, "base:1")
    run = ["run", "--rm", "--cgroups=disabled"]
    assert podman(*run, "base:1", "id", "-u") == "0\n"
    assert podman(*run, "base:1", "wget", "-qO-", f"http://{WORLD4}:8000/") == "hello from world\n"
    podman("run", "-d", "--name", "web", "--cgroups=disabled", "-p", "8091:80", "base:1", "sh", "-c", "echo by podman >/index.html; exec httpd -f -p 80 -h /")
    until(lambda: space.exec("curl", "-s", "-m", "2", "http://127.0.0.1:8091/", check=False).stdout == "by podman\n", 10, "the published port")
    until(lambda: lab.in_world("curl", "-s", "-m", "2", f"http://{POD4}:8091/", check=False).stdout == "by podman\n", 5, "the port outside")
    (space.folder / "Containerfile").write_text("FROM localhost/base:1\nRUN echo built >/made\nCMD [\"cat\", \"/made\"]\n")
    podman("build", "-q", "--cgroupns", "host", "-t", "made:1", "-f", space.folder / "Containerfile", space.folder / "state")
    assert podman(*run, "localhost/made:1") == "built\n"
    podman("stop", "-t", "1", "web")
