"""The Dockerfile's own image, on a Debian base: what the README says one starts with. Docker in it, its users, its files, and
that the machine's root is nowhere in it."""

import json
import os
import re
import shutil
import subprocess
import time

import pytest

from conftest import BINARY, PER_NAMESPACE, PYTHON, until
from containers import ALL, DEPLOY, GATEWAY, OF_USER, TUN, needs_docker, removed_afterwards, running_engine
from images import REPOSITORY, busybox_root, debian_tar, has_room, toolchain_context

pytestmark = needs_docker


@pytest.fixture(scope="module")
def engine(lab, tmp_path_factory):
    base = debian_tar()
    if base is None:
        pytest.skip("no Debian base: debootstrap is not installed or reaches no mirror, or the disk is full")
    with running_engine(lab, tmp_path_factory.mktemp("engine")) as engine:
        engine("import", base, "debian:1", timeout=240)
        yield engine


@pytest.fixture(scope="module")
def image(engine):
    """The Dockerfile's stages after the build's with the binary that is there; see test_the_dockerfile_builds_and_runs for all of it."""
    stages = (REPOSITORY / "Dockerfile").read_text().split("RUN make build\n")[1].replace("--from=build /src/dist/", "")
    context = engine.folder / "last"
    context.mkdir()
    shutil.copy(BINARY, context / "workspacekit")
    (context / "Dockerfile").write_text(f"ARG BASE=debian:1\n{stages}")
    # BuildKit, which is twice as fast at it; the other one by BuildKit's predecessor.
    engine("build", "-t", "workspace:1", context, timeout=400, env={**os.environ, "DOCKER_BUILDKIT": "1"})
    engine("build", "--target", "root", "-t", "root:1", context)
    return "workspace:1"


@pytest.fixture
def started(engine, image):
    """Starts a container with this .gitpod.yml in its workspace, a volume, and waits until it answers."""
    with removed_afterwards(engine) as name:
        def start(config, *flags, image=image, arguments=("--require", "full")):
            made = name()
            engine("create", "--name", made, "-v", f"{made}:/workspace", *flags, image, *arguments)
            folder = engine.folder / made
            folder.mkdir()
            (folder / ".gitpod.yml").write_text(config)
            engine("cp", f"{folder}/.", f"{made}:/workspace")
            engine("start", made)
            space = Container(engine, made)
            until(lambda: space.status(), 15, lambda: "the workspace: " + engine.logs(made))
            return space
        yield start


class Container:
    """A container whose entry point is a workspace."""

    def __init__(self, engine, name):
        self.engine, self.name = engine, name

    def cli(self, *arguments, check=True):
        return self.engine("exec", self.name, "workspacekit", *arguments, check=check)

    def exec(self, *command, check=True):
        return self.cli("exec", "--", *command, check=check)

    def status(self):
        result = self.cli("status", "--json", check=False)
        return json.loads(result.stdout) if result.returncode == 0 else None

    def address(self):
        return self.engine("inspect", "-f", "{{.NetworkSettings.IPAddress}}", self.name).stdout.strip()


# ---- Docker in it

EXAMPLE = (REPOSITORY / "examples/docker/.gitpod.yml").read_text() + "  network: {forwards: [\"8090\"]}\n"


@pytest.mark.parametrize("flags", [[*OF_USER, *TUN], OF_USER, [*OF_USER, *TUN, "--read-only", "--tmpfs", "/run:uid=33333,gid=33333", "--tmpfs", "/tmp"]],
                         ids=["least privileges", "no tun", "read-only root"])
def test_docker_in_a_container(engine, started, flags):
    space = started(EXAMPLE, *flags)
    until(lambda: re.search(r"\[hello\] Docker \S+ answers inside", engine.logs(space.name)), 30, lambda: "the task: " + engine.logs(space.name))
    assert space.status()["isolation"] == "full"
    docker = lambda *arguments: space.exec("docker", *arguments).stdout
    assert docker("info", "-f", "{{.Driver}}") == "overlay2\n"
    root = busybox_root(engine.folder / space.name / "root")
    subprocess.run(["tar", "--owner=0", "--group=0", "-C", root, "-cf", engine.folder / "busybox.tar", "."], check=True)
    engine("cp", engine.folder / "busybox.tar", f"{space.name}:/workspace/busybox.tar")
    docker("import", "/workspace/busybox.tar", "base:1")
    assert docker("run", "--rm", "base:1", "id", "-u") == "0\n"
    assert docker("run", "--rm", "base:1", "wget", "-qO-", f"http://{GATEWAY}:8000/") == "hello from world\n"
    docker("run", "-d", "--name", "web", "-p", "8090:80", "base:1", "sh", "-c", "echo published >/index.html; exec httpd -f -p 80 -h /")
    until(lambda: engine.fetch(f"http://{space.address()}:8090/") == "published\n", 10, lambda: "the published port: " + repr([space.exec("curl", "-sS", "-m", "2", "http://127.0.0.1:8090/", check=False), space.cli("net", "forwards"), space.exec("ip", "addr"), engine.logs(space.name)]))
    space.exec("sh", "-c", "printf 'FROM base:1\nRUN echo built >/made\nCMD cat /made\n' | docker build -q -t made:1 -")
    assert docker("run", "--rm", "made:1") == "built\n"
    begun = time.monotonic()
    engine("stop", "-t", "12", space.name)
    assert time.monotonic() - begun < 9
    assert engine("inspect", "-f", "{{.State.ExitCode}}", space.name).stdout == "0\n"


# ---- users

def test_packages_users_and_setuid_programs(engine, started):
    space = started("tasks: [{command: sleep 1000}]\n", *OF_USER, "--sysctl", "net.ipv4.ping_group_range=0 65535")
    run = lambda script: space.exec("sh", "-ec", script).stdout
    assert run("id -u; echo $HOME; touch $HOME/file /etc/file /usr/file /var/lib/file /workspace/file; stat -c %U:%G /etc/shadow /var/mail") == "0\n/root\nroot:shadow\nroot:mail\n"
    run("adduser --quiet --disabled-password --gecos '' dev; echo 'dev ALL=(ALL) NOPASSWD:ALL' >/etc/sudoers.d/dev; echo dev:secret | chpasswd")
    assert run("su - dev -c 'id -un; echo $HOME'") == "dev\n/home/dev\n"
    assert run("su dev -c 'sudo -n id -u; sudo -n -u nobody id -un'") == "0\nnobody\n"
    assert run("su dev -c 'echo secret | su dev -c id\\ -un' 2>/dev/null") == "dev\n"
    assert run("install -m 4755 /usr/bin/id /usr/local/bin/id-of-root; su dev -c /usr/local/bin/id-of-root").startswith("uid=1000(dev) gid=1000(dev) euid=0(root)")
    assert "1 received" in run(f"su dev -c 'ping -c 1 -W 2 {GATEWAY}'")
    # A capability that is given inside counts inside.
    assert run("cp /usr/bin/cat /usr/local/bin/netcat; setcap cap_net_raw=ep /usr/local/bin/netcat; su dev -c 'netcat /proc/self/status' | grep CapEff") == "CapEff:\t0000000000002000\n"
    # What the engine makes or mounts, and what the outside runs.
    of_the_engine = {"/", "/.dockerenv", "/dev", "/proc", "/sys", "/etc/hostname", "/etc/hosts", "/etc/mtab", "/etc/resolv.conf"}
    assert set(run("find / -xdev -uid 65534").split()) - of_the_engine == {"/usr/bin/newuidmap", "/usr/bin/newgidmap"}
    # apt drops its privileges, dpkg unpacks files of many owners.
    package = ("mkdir -p /tmp/p/DEBIAN /tmp/p/usr/share/hello; echo hi >/tmp/p/usr/share/hello/file; chown www-data /tmp/p/usr/share/hello/file\n"
               "printf 'Package: hello-there\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n' >/tmp/p/DEBIAN/control\n"
               "printf '#!/bin/sh\nadduser --quiet --system --group hello-there\n' >/tmp/p/DEBIAN/postinst; chmod 755 /tmp/p/DEBIAN/postinst\n"
               "dpkg-deb -b /tmp/p /tmp/hello-there.deb >/dev/null\n")
    run(package + "apt-get install -y -qq /tmp/hello-there.deb >/dev/null")
    assert run("stat -c %U /usr/share/hello/file; id -un hello-there") == "www-data\nhello-there\n"
    assert run("apt-get remove -y -qq hello-there >/dev/null; test ! -e /usr/share/hello/file && echo gone") == "gone\n"
    # What was installed is there after a restart of the container.
    engine("restart", "-t", "12", space.name)
    until(lambda: space.status(), 15, lambda: "the workspace: " + engine.logs(space.name))
    assert space.status()["isolation"] == "full" and run("su dev -c 'sudo -n id -u'") == "0\n"


# ---- the machine's root

WALLS = REPOSITORY / "Tests/EndToEnd/walls"
# The image has no Python; the machine's is of the same Debian.
PROGRAMS = [word for folder in ("/usr", "/lib", "/lib64", WALLS) for word in ("-v", f"{folder}:/machine{folder}:ro")]


@pytest.fixture
def attacked(engine, image):
    def attack(script, *words):
        """In the image as docker-run.sh starts it."""
        flags = [*PROGRAMS, "-e", "LD_LIBRARY_PATH=/machine/usr/lib/x86_64-linux-gnu:/machine/usr/lib/aarch64-linux-gnu", "-e", "PYTHONHOME=/machine/usr"]
        result = subprocess.run([DEPLOY / "docker-run.sh", image, "--require", "full", "--", f"/machine{PYTHON}", f"/machine{WALLS}/{script}", *words],
                                env={**os.environ, "DOCKER": str(engine.wrapper()), "DOCKER_FLAGS": " ".join(flags)}, capture_output=True, text=True, timeout=120)
        assert result.returncode == 0, result
        found = json.loads(result.stdout.splitlines()[-1])
        assert found["tried"] > 1
        return set(found["got"])
    return attack


def test_no_stage_is_reached(attacked):
    assert attacked("trespass.py", "processes", "workspacekit", "supervisor") == set()


def test_no_mount_is_undone(attacked):
    assert attacked("trespass.py", "mounts", "/tmp") == set()


def test_nothing_of_the_machine_is_writable(attacked):
    got = attacked("machine.py", "/tmp")
    # Its own cgroups, /proc and /sys, and settings of its own namespaces.
    own = ("mounted ", "made ", "/sys/fs/cgroup", "/proc/sys/user/", "/proc/sys/fs/mqueue/")
    assert {path for path in got if not path.startswith(own)} - PER_NAMESPACE == set()


def test_nothing_inside_is_the_machine_s_root(engine, started):
    space = started("tasks: [{command: sleep 1000}]\n", *OF_USER)
    outside = engine("top", space.name, "-eo", "pid,uid,gid,comm").stdout.splitlines()[1:]
    assert len(outside) > 4 and not [line for line in outside if "0" in line.split()[1:3]], outside
    for place in ("/proc/sys/kernel/core_pattern", "/proc/sys/vm/swappiness", "/proc/sysrq-trigger"):
        assert space.exec("sh", "-c", f"exec 3<>{place}", check=False).returncode != 0, place




def test_the_image_for_root_is_masked_where_the_engine_has_no_user_namespaces(engine, image):
    run = lambda least: subprocess.run([DEPLOY / "docker-run.sh", "root:1", "--require", least, "--", "sh", "-c", "exec 3<>/proc/sys/kernel/core_pattern"],
                                       env={**os.environ, "DOCKER": str(engine.wrapper())}, capture_output=True, text=True, timeout=60)
    assert run("full").returncode == 71
    masked = run("masked")
    assert masked.returncode == 2 and "Read-only file system" in masked.stderr, masked


# ---- files

def config_map(folder, value, number):
    """A volume as the kubelet writes it: files are links through ..data, which is switched at once."""
    real = folder / f"..2026_{number}"
    real.mkdir()
    (real / "key").write_text(value)
    link = folder / "..data_new"
    link.symlink_to(real.name)
    os.rename(link, folder / "..data")
    if not (folder / "key").is_symlink():
        (folder / "key").symlink_to("..data/key")


def test_volumes_of_kubernetes_and_names_stay_right(engine, started):
    folder = engine.folder / "volumes"
    (folder / "map").mkdir(parents=True)
    config_map(folder / "map", "first", 1)
    (folder / "token").write_text("secret token")
    (folder / "app.conf").write_text("by subPath")
    (folder / "token").chmod(0o400)
    os.chown(folder / "token", 33333, 33333)  # fsGroup and the like are the cluster's to set
    space = started("tasks: [{command: sleep 1000}]\n", *OF_USER, *TUN, "-v", f"{folder}/map:/etc/config:ro", "--mount", f"type=bind,src={folder}/token,dst=/run/secrets/token,readonly",
                    "-v", f"{folder}/app.conf:/etc/app/app.conf:ro", "--hostname", "my-workspace", "--add-host", "registry.local:198.18.0.1", "--tmpfs", "/root:size=8m,uid=33333,gid=33333")
    run = lambda script, check=True: space.exec("sh", "-c", script, check=check)
    assert run("cat /etc/config/key /run/secrets/token /etc/app/app.conf").stdout == "firstsecret tokenby subPath"
    config_map(folder / "map", "second", 2)
    assert run("cat /etc/config/key").stdout == "second"
    for path in ("/etc/config/x", "/etc/app/app.conf", "/run/secrets/token"):
        refused = run(f"echo no >{path}", check=False)
        assert refused.returncode != 0 and "Read-only" in refused.stderr, path
    # Not even root inside can lift it: the mount is the container's.
    assert run("mount -o remount,rw,bind /etc/config 2>/dev/null; echo no >/etc/config/x", check=False).returncode != 0
    assert run("hostname; cat /etc/hostname").stdout == "my-workspace\n" * 2
    assert "198.18.0.1" in run("getent hosts registry.local").stdout and "my-workspace" in run("getent hosts my-workspace").stdout
    assert run("hostname other && hostname").stdout == "other\n"
    assert engine("exec", space.name, "hostname").stdout == "my-workspace\n"
    # A home of memory.
    assert run("cd && touch file && stat -f -c %T . && df -k . | tail -1").stdout.split()[0] == "tmpfs"


# ---- what is shipped

def test_the_compose_file_gives_a_whole_workspace(engine, started):
    yaml = pytest.importorskip("yaml")
    service = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["workspace"]
    flags = []
    for key, flag in (("cap_drop", "--cap-drop"), ("cap_add", "--cap-add"), ("devices", "--device"), ("security_opt", "--security-opt")):
        for value in service.pop(key):
            flags += [flag, value.replace("./seccomp.json", str(DEPLOY / "seccomp.json"))]
    for name, value in service.pop("sysctls").items():
        flags += ["--sysctl", f"{name}={value}"]
    assert service.pop("image") and service.pop("stop_grace_period") == "15s" and service.pop("volumes") == ["workspace:/workspace"]
    assert not service, "keys that this test does not translate"
    space = started("tasks: [{command: sleep 1000}]\n", *flags)
    assert space.status()["isolation"] == "full"
    assert "cannot open /dev/net/tun" not in engine.logs(space.name)
    assert "1 received" in space.exec("ping", "-c", "1", "-W", "2", GATEWAY).stdout
    assert space.exec("curl", "-s", f"http://{GATEWAY}:8000/").stdout == "hello from world\n"


# ---- all of the Dockerfile

@pytest.mark.skipif(not shutil.which("swiftc"), reason="no Swift toolchain to put into the build stage")
def test_the_dockerfile_builds_and_runs(engine):
    if not has_room(engine.folder, 8):
        pytest.skip("the disk has no room for a build stage with a toolchain")
    context = engine.folder / "toolchain"
    toolchain_context(context, "debian:1")
    engine("build", "-t", "toolchain:1", context, timeout=600)
    shutil.rmtree(context)
    engine("build", "--build-arg", "BUILD_BASE=toolchain:1", "--build-arg", "BASE=debian:1", "-t", "built:1", REPOSITORY, timeout=1800)
    result = subprocess.run([DEPLOY / "docker-run.sh", "built:1", "--require", "full", "--", "sh", "-c", "workspacekit --version; exit 5"],
                            env={**os.environ, "DOCKER": str(engine.wrapper())}, capture_output=True, text=True, timeout=60)
    assert result.returncode == 5 and re.match(r"[0-9.]+\n", result.stdout), (result.stdout, result.stderr)
