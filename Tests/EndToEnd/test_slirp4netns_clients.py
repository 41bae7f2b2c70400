"""Debian's Podman and RootlessKit, unchanged, with this binary in slirp4netns's place."""

import os
import pathlib
import shutil
import subprocess
import time

import pytest

from conftest import BINARY, POD4, PYTHON, USER, WORLD4, die_with_parent, until

PODMAN, ROOTLESSKIT = shutil.which("podman"), shutil.which("rootlesskit")

CONFIGURATION = """
[containers]
cgroups = "disabled"
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
runtime = "crun"
events_logger = "file"
network_cmd_path = "{program}"
"""


def forwarders(program):
    """Pids of processes that were called by that name."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "cmdline").read_bytes().split(b"\0")[0].decode() == program:
                    found.append(int(entry.name))
            except (OSError, UnicodeDecodeError):
                continue
    return found


@pytest.fixture(scope="module")
def program(lab):
    folder = lab.folder / "clients"
    folder.mkdir(exist_ok=True)
    os.chmod(folder, 0o755)
    (folder / "slirp4netns").symlink_to(BINARY)
    return str(folder / "slirp4netns")


class Podman:
    """Podman of root's, or of the lab's ordinary user who has a range in /etc/subuid."""

    def __init__(self, lab, program, user=0):
        self.lab, self.program, self.user = lab, program, user
        self.folder = pathlib.Path(program).parent / f"podman-{user}"
        self.rootfs = self.folder / "rootfs"
        (self.folder / "run").mkdir(parents=True)
        for name in ("bin", "etc", "proc", "sys", "dev", "tmp", "www", "run"):
            (self.rootfs / name).mkdir(parents=True)
        shutil.copy("/bin/busybox", self.rootfs / "bin/busybox")
        for applet in ("sh", "wget", "httpd", "sleep", "ip", "nc", "nslookup", "cat"):
            (self.rootfs / "bin" / applet).symlink_to("busybox")
        (self.rootfs / "www/index.html").write_text("published\n")
        (self.rootfs / "bin/pause").write_text("#!/bin/sh\nexec sleep 1000\n")
        (self.rootfs / "bin/pause").chmod(0o755)
        (self.folder / "containers.conf").write_text(CONFIGURATION.format(program=program))
        for entry in [self.folder, *self.folder.rglob("*")]:
            os.chown(entry, user, user, follow_symlinks=False)
        # crun wants one hierarchy of cgroups: a mount namespace has it, and everything of Podman's lives in that.
        self.holder = subprocess.Popen(
            [*lab.enter(lab.pod), "unshare", "--mount", "--propagation", "private", "sh", "-c",
             "mount -t cgroup2 cgroup2 /sys/fs/cgroup && echo ready && exec sleep 1000"], stdout=subprocess.PIPE, preexec_fn=die_with_parent)
        assert self.holder.stdout.readline() == b"ready\n"

    def command(self, *arguments):
        state = [f"--root={self.folder}/root", f"--runroot={self.folder}/run", f"--tmpdir={self.folder}/tmp", "--storage-driver=vfs"]
        user = ["setpriv", f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups"] if self.user else []
        return ["nsenter", "-t", str(self.holder.pid), "--mount", "--net", *user, "env", f"CONTAINERS_CONF={self.folder}/containers.conf",
                f"HOME={self.folder}", f"XDG_RUNTIME_DIR={self.folder}/run", PODMAN, *state, *arguments]

    def __call__(self, *arguments, check=True):
        result = subprocess.run(self.command(*arguments), capture_output=True, text=True, timeout=60)
        assert not check or result.returncode == 0, result
        return result

    def run(self, *options, command, network="slirp4netns", check=True):
        return self("run", "--network", network, *options, "--rootfs", str(self.rootfs), *command, check=check)

    def close(self):
        self("rm", "-f", "-t", "0", "-a", check=False)
        self.holder.kill()
        self.holder.wait()


@pytest.fixture(scope="module")
def podman(lab, program):
    if not PODMAN or not shutil.which("crun"):
        pytest.skip("podman and crun are not installed")
    made = Podman(lab, program)
    yield made
    made.close()


def test_podman_reaches_the_world_by_name_and_both_families(podman):
    script = "ip addr show tap0; cat /etc/resolv.conf; wget -qO- http://%s:8000/; nslookup host.example.test 10.0.2.3" % WORLD4
    out = podman.run("--rm", command=["sh", "-c", script]).stdout
    assert "inet 10.0.2.100/24" in out and "mtu 65520" in out and "nameserver 10.0.2.3" in out
    assert "hello from world" in out and "host.example.test" in out
    assert "inet6 fd00::" in out
    until(lambda: not forwarders(podman.program), 10, "its forwarder's end")


@pytest.fixture(scope="module")
def rootless(lab, program):
    if not PODMAN or not shutil.which("crun") or not shutil.which("newuidmap"):
        pytest.skip("podman, crun and newuidmap are not installed")
    made = Podman(lab, program, USER)
    yield made
    made.close()


FETCH = ["wget", "-qO-", f"http://{WORLD4}:8000/"]


@pytest.mark.parametrize("mapping", [[], ["--userns=keep-id"], ["--userns=nomap"], ["--uidmap=0:1:1000", "--gidmap=0:1:1000"]],
                         ids=["host", "keep-id", "nomap", "uidmap"])
def test_rootless_podman_has_a_network_whatever_its_user_namespace(rootless, mapping):
    """The container's process is not dumpable there: its namespaces can be opened from Podman's user namespace only."""
    result = rootless.run("--rm", *mapping, command=FETCH, check=False)
    assert result.returncode == 0 and "hello from world" in result.stdout, result
    until(lambda: not forwarders(rootless.program), 10, "its forwarder's end")


def test_rootless_podman_has_a_network_in_images_and_pods_with_ids_of_their_own(rootless):
    archive = rootless.folder / "image.tar"
    subprocess.run(["tar", "-C", str(rootless.rootfs), "-cf", str(archive), "."], check=True)
    os.chown(archive, USER, USER)
    rootless("import", str(archive), "lab/busybox")
    # Podman computes the ids of --userns=auto for images only.
    result = rootless("run", "--rm", "--userns=auto", "--network=slirp4netns", "lab/busybox", *FETCH, check=False)
    assert result.returncode == 0 and "hello from world" in result.stdout, result
    rootless("pod", "create", "--userns=keep-id", "--network=slirp4netns", "--infra-image=lab/busybox", "--infra-command=/bin/pause", "--name=kept")
    result = rootless("run", "--rm", "--pod=kept", "lab/busybox", *FETCH, check=False)
    assert result.returncode == 0 and "hello from world" in result.stdout, result
    rootless("pod", "rm", "-f", "-t", "0", "kept")
    until(lambda: not forwarders(rootless.program), 10, "its forwarder's end")


def test_podman_has_another_network(podman):
    out = podman.run("--rm", network="slirp4netns:cidr=10.7.0.0/24,mtu=1500", command=["ip", "addr", "show", "tap0"]).stdout
    assert "inet 10.7.0.100/24" in out and "mtu 1500" in out


@pytest.fixture
def loopback_server(lab):
    server = lab.popen_in(lab.pod, [PYTHON, "-c", """
import socket
s = socket.socket(); s.setsockopt(1, 2, 1); s.bind(("127.0.0.1", 7413)); s.listen(16); print("ready", flush=True)
while True:
    c, _ = s.accept(); c.sendall(b"loopback"); c.close()
"""], stdout=subprocess.PIPE)
    assert server.stdout.readline() == b"ready\n"
    yield server
    server.kill()
    server.wait()


def test_podman_shuts_the_loopback_unless_it_is_to_be_open(podman, loopback_server):
    command = ["sh", "-c", "nc -w 3 10.0.2.2 7413 </dev/null"]
    assert "loopback" not in podman.run("--rm", command=command, check=False).stdout
    assert podman.run("--rm", network="slirp4netns:allow_host_loopback=true", command=command, check=False).stdout == "loopback"


def test_podman_publishes_ports(podman, lab):
    network = "slirp4netns:port_handler=slirp4netns"
    container = podman.run("-d", "-p", "8097:80", "-p", "127.0.0.1:8098:80", network=network, command=["httpd", "-f", "-p", "80", "-h", "/www"]).stdout.strip()
    until(lambda: lab.in_world("curl", "-s", "-m", "3", f"http://{POD4}:8097/", check=False).stdout == "published\n", 10, "the published port")
    assert lab.in_world("curl", "-s", "-m", "3", f"http://{POD4}:8098/", check=False).returncode == 7
    assert lab.in_pod("curl", "-s", "-m", "3", "http://127.0.0.1:8098/").stdout == "published\n"
    assert len(forwarders(podman.program)) == 1
    # A port that is taken keeps the container from starting, and says so.
    taken = podman.run("--rm", "-p", "8097:80", network=network, command=["sh", "-c", "true"], check=False)
    assert taken.returncode != 0 and "add_hostfwd" in taken.stderr
    # Its end is the container's.
    podman("rm", "-f", "-t", "0", container)
    until(lambda: not forwarders(podman.program), 10, "its forwarder's end")
    assert lab.in_world("curl", "-s", "-m", "3", f"http://{POD4}:8097/", check=False).returncode != 0


@pytest.mark.parametrize("driver", ["builtin", "slirp4netns"])
def test_rootlesskit(lab, program, driver):
    if not ROOTLESSKIT:
        pytest.skip("rootlesskit is not installed")
    home = lab.folder / f"rootlesskit-{driver}"
    home.mkdir()
    os.chown(home, USER, USER)
    options = ["--net=slirp4netns", f"--slirp4netns-binary={program}", "--mtu=65520", "--slirp4netns-sandbox=true", "--slirp4netns-seccomp=true", "--disable-host-loopback",
               "--copy-up=/etc", f"--port-driver={driver}", "-p", "0.0.0.0:8099:80/tcp", f"--state-dir={home}/state"]
    script = f"ip addr show tap0; cat /etc/resolv.conf; curl -s http://{WORLD4}:8000/; exec busybox httpd -f -p 80 -h {lab.folder / 'www'}"
    (lab.folder / "www").mkdir(exist_ok=True)
    (lab.folder / "www" / "index.html").write_text("published\n")
    os.chmod(lab.folder / "www", 0o755)
    output = home / "output"
    with open(output, "wb") as file:
        process = subprocess.Popen([*lab.enter(lab.pod), "setpriv", "--pdeathsig", "KILL", "--reuid", str(USER), "--regid", str(USER), "--clear-groups",
                                    ROOTLESSKIT, *options, "sh", "-c", script], stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                                   preexec_fn=die_with_parent, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(home), "XDG_RUNTIME_DIR": str(home)})
    try:
        def is_published():
            assert process.poll() is None, output.read_text()
            return lab.in_world("curl", "-s", "-m", "3", f"http://{POD4}:8099/", check=False).stdout == "published\n"
        until(is_published, 20, "the published port")
        text = output.read_text()
        assert "inet 10.0.2.100/24" in text and "mtu 65520" in text and "nameserver 10.0.2.3" in text and "hello from world" in text, text
        (forwarder,) = forwarders(program)
        assert sorted(os.listdir(f"/proc/{forwarder}/root")) == ["etc", "run"]
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    until(lambda: not forwarders(program), 10, "its forwarder's end")
