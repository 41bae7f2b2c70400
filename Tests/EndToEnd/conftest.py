"""The lab: `pod` stands for the container's network, `world` for everything beyond; a veth pair joins them, with
addresses from 198.18.0.0/15 and fd00::/8. No packet leaves it. Both live as long as a process that dies with pytest, so
a killed test run leaves no namespace, mount or process behind."""

import ctypes
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid

import pytest

HERE = pathlib.Path(__file__).parent
BINARY = os.environ.get("WORKSPACEKIT_BIN", str(HERE.parents[1] / "dist" / "workspacekit"))
PYTHON = "/usr/bin/python3"
POD4, WORLD4 = "198.18.0.2", "198.18.0.1"
POD6, WORLD6 = "fd18::2", "fd18::1"
USER, PLAIN_USER = 47001, 47002  # with and without a range in /etc/subuid
# Root here is the machine's root. Containers inside need what such a workspace is kept from.
CONTAINERS_INSIDE = ["--allow-machine-root"]
MASKED_LINE = ("workspacekit: root inside is this machine's root: /proc/sys, /sys and cgroups are read-only, and no containers run inside "
               "(masked). \"workspacekit doctor\" says what would help\n")
# Settings of an IPC, UTS or PID namespace, which its owner may change.
PER_NAMESPACE = {f"/proc/sys/kernel/{name}" for name in (
    "auto_msgmni", "msg_next_id", "msgmax", "msgmnb", "msgmni", "sem", "sem_next_id", "shm_next_id", "shm_rmid_forced", "shmall", "shmmax",
    "shmmni", "pid_max", "domainname", "hostname", "ns_last_pid")}
LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG = 1


# A caller such as nohup(1) ignores it, and what is ignored stays so in every program that the tests start.
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def die_with_parent():
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def until(condition, seconds=10.0, what="the condition"):
    """Waits for an event by looking often; never longer than `seconds`. `what` may be a function that tells it then."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"{what() if callable(what) else what} did not come true within {seconds} s")


def run(*command, check=True, **options):
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, **options)
    assert not check or result.returncode == 0, (command, result.returncode, result.stdout, result.stderr)
    return result


def tagged(tag):
    """Processes that carry the tag in their environment, zombies left out."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if tag.encode() in (entry / "environ").read_bytes():
                state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
                if state != "Z":
                    found.append(int(entry.name))
        except (OSError, IndexError):
            continue
    return found


def comm(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


class Lab:
    def __init__(self, folder):
        self.folder = folder
        holder = "import signal, sys; print('ready', flush=True); signal.pause()"

        def hold(*flags):
            process = subprocess.Popen(
                ["unshare", *flags, PYTHON, "-c", holder], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL,
                preexec_fn=die_with_parent)
            assert process.stdout.readline() == b"ready\n"
            return process

        self.world = hold("--net")
        self.pod = hold("--net", "--mount", "--propagation", "private")
        self.servers = []
        self.make_links()
        self.make_files()
        self.serve()

    def make_links(self):
        pod, world = str(self.pod.pid), str(self.world.pid)
        self.in_world("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", pod)
        for enter, four, six in ((self.in_pod, POD4, POD6), (self.in_world, WORLD4, WORLD6)):
            enter("ip", "link", "set", "lo", "up")
            enter("ip", "addr", "add", f"{four}/24", "dev", "eth0")
            enter("ip", "-6", "addr", "add", f"{six}/64", "dev", "eth0", "nodad")
            enter("ip", "link", "set", "eth0", "up")
        # More of the world than its first address: servers of TCP and UDP 7 answer on all of them.
        for extra in ("198.18.0.10/32", "198.18.0.11/32", "198.18.0.12/32", "169.254.169.254/32", "fd18::10/128"):
            self.in_world("ip", "addr", "add", extra, "dev", "eth0", *(["nodad", "preferred_lft", "0"] if ":" in extra else []))
        self.in_pod("ip", "route", "add", "default", "via", WORLD4)
        self.in_pod("ip", "-6", "route", "add", "default", "via", WORLD6)
        # Beyond the world's own network nothing is reachable, and it says so.
        self.in_world("ip", "route", "add", "unreachable", "198.19.0.0/16")
        self.in_world("ip", "-6", "route", "add", "unreachable", "fd19::/64")
        self.in_world("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1",
                      # What a test hears must not depend on how many errors the one before it heard.
                      "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0")
        self.in_pod("sysctl", "-qw", "net.ipv4.ping_group_range=0 2147483647")
        # The kernels of some test machines know congestion controls that other namespaces may not use.
        for enter in (self.in_pod, self.in_world):
            enter("sysctl", "-qw", "net.ipv4.tcp_congestion_control=reno")

    def make_files(self):
        """A device node that ordinary users may open, a /run and an /etc of the pod's own."""
        (self.folder / "tun").unlink(missing_ok=True)
        os.mknod(self.folder / "tun", 0o666 | 0o020000, os.makedev(10, 200))
        os.chmod(self.folder / "tun", 0o666)
        self.in_pod("mount", "--bind", str(self.folder / "tun"), "/dev/net/tun")
        etc = self.folder / "etc"
        subprocess.run(["cp", "-a", "/etc/.", str(etc)], check=True)
        with open(etc / "passwd", "a") as file:
            file.write(f"wkuser:x:{USER}:{USER}::/tmp:/bin/bash\nwkplain:x:{PLAIN_USER}:{PLAIN_USER}::/tmp:/bin/bash\n")
        with open(etc / "group", "a") as file:
            file.write(f"wkuser:x:{USER}:\nwkplain:x:{PLAIN_USER}:\n")
        for name in ("subuid", "subgid"):
            (etc / name).write_text("wkuser:500000:65536\n")
        (etc / "resolv.conf").unlink(missing_ok=True)
        (etc / "resolv.conf").write_text(f"nameserver {WORLD4}\nsearch example.test\n")
        self.in_pod("mount", "--bind", str(etc), "/etc")
        self.in_pod("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
        if os.path.exists("/root/.bashrc"):  # tasks read it, and what this machine's does is not to be seen in tests
            self.in_pod("mount", "--bind", "/dev/null", "/root/.bashrc")

    def serve(self):
        server = self.popen_in(self.world, [PYTHON, str(HERE / "world.py"), WORLD4, WORLD6], stdout=subprocess.PIPE)
        assert server.stdout.readline() == b"ready\n"
        self.servers.append(server)

    def enter(self, process):
        return ["nsenter", f"--net=/proc/{process.pid}/ns/net", f"--mount=/proc/{process.pid}/ns/mnt", "--"]

    def popen_in(self, process, command, **options):
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("preexec_fn", die_with_parent)
        return subprocess.Popen([*self.enter(process), *command], **options)

    def in_pod(self, *command, **options):
        return run(*self.enter(self.pod), *command, **options)

    def in_world(self, *command, **options):
        return run(*self.enter(self.world), *command, **options)

    def close(self):
        for process in [*self.servers, self.pod, self.world]:
            process.kill()
            process.wait()


class Workspace:
    """A `workspacekit run` in the pod, and the ways to look at it."""

    def __init__(self, lab, folder, config="", arguments=(), command=(), user=None, environment=None, tun=True, stdin=None, verb="run", through=(),
                 stdout=None, stderr=None):
        self.lab = lab
        self.tag = f"WK_TEST={uuid.uuid4()}"
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        if config is not None:
            (folder / ".gitpod.yml").write_text(config)
        if user:
            os.chown(folder, user, user)
        self.state = folder / "state"
        self.prefix = ["setpriv", "--pdeathsig", "KILL"]
        if user:
            self.prefix += ["--reuid", str(user), "--regid", str(user), "--clear-groups"]
        name, _, value = self.tag.partition("=")
        self.environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/tmp", name: value}
        self.environment.update(environment or {})
        argv = [*self.prefix, *through, BINARY, verb, "--workspace", str(folder), "--state-dir", str(self.state), *arguments]
        if command:
            argv += ["--", *command]
        self.output = folder / "output"
        with open(self.output, "wb") as out, open(folder / "errors", "wb") as errors:
            self.process = lab.popen_in(lab.pod, argv, stdout=out if stdout is None else stdout,
                                        stderr=errors if stderr is None else stderr, env=self.environment, stdin=stdin or subprocess.DEVNULL)

    @property
    def stdout(self):
        return self.output.read_text(errors="replace")

    @property
    def stderr(self):
        return (self.folder / "errors").read_text(errors="replace")

    def wait(self, seconds=30):
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds} s: {self.stdout}\n{self.stderr}")

    def cli(self, verb, *arguments, check=True, **options):
        return self.lab.in_pod(*self.prefix, BINARY, *verb.split(), "--state-dir", str(self.state), *arguments, check=check,
                               env=self.environment, **options)

    def status(self):
        return {unit["name"]: unit for unit in json.loads(self.cli("status", "--json").stdout)["units"]}

    def exec(self, *command, check=True, **options):
        return self.cli("exec", "--", *command, check=check, **options)

    def started(self, seconds=15):
        def answers():
            assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.stderr}"
            return self.cli("status", check=False).returncode == 0
        until(answers, seconds, "the workspace's control socket")
        return self

    def stage(self, name):
        """The pid, outside, of a stage by its name in ps; ring2's is the workspace's PID 1."""
        def find():
            for pid in tagged(self.tag):
                try:
                    arguments = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                except OSError:  # gone meanwhile
                    continue
                if len(arguments) > 1 and arguments[1].decode() == name:
                    return pid
        if name == "slirp":  # it has no environment: a child of ring0's
            def find():
                children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
                return next((int(pid) for pid in children if comm(pid) == "slirp"), None)
        return until(find, 5, f"stage {name}")

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def gone(self, seconds=5):
        until(lambda: not tagged(self.tag), seconds, "the end of every process of the workspace")


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    if os.geteuid() != 0:
        pytest.skip("the lab needs root to make network namespaces")
    for old in pathlib.Path("/tmp").glob("wk-lab-*"):  # of runs that were killed: files, nothing else, is left of those
        if not os.path.exists(f"/proc/{old.name.split('-')[-1]}"):
            shutil.rmtree(old, ignore_errors=True)
    folder = pathlib.Path("/tmp") / f"wk-lab-{os.getpid()}"
    folder.mkdir(mode=0o755)
    made = Lab(folder)
    yield made
    made.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def workspace(lab, request):
    """A function that starts workspaces; afterwards all of them are stopped and must be gone without a trace."""
    name = re.sub(r"\W+", "-", request.node.name)[:60]
    made = []

    def make(config="", folder=None, **options):
        folder = folder or lab.folder / f"{name}-{len(made)}"
        space = Workspace(lab, folder, config, **options)
        made.append(space)
        return space

    yield make
    for space in made:
        space.stop()
    for space in made:
        space.gone()
        leftovers = [line for line in lab.in_pod("cat", "/proc/self/mounts").stdout.splitlines() if str(space.folder) in line]
        assert not leftovers, "mounts left behind"
        shutil.rmtree(space.folder, ignore_errors=True)


@pytest.fixture
def inside(workspace):
    """Runs a command as `run -- COMMAND` and gives its result: returncode, stdout, stderr."""
    def call(*command, config="", seconds=60, **options):
        space = workspace(config, command=command, **options)
        code = space.wait(seconds)
        return subprocess.CompletedProcess(command, code, space.stdout, space.stderr)
    return call
