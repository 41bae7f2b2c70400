"""workspacekit as the entry point of real containers. Needs Debian's docker.io and busybox-static."""

import collections
import importlib.util
import json
import os
import pathlib
import platform
import re
import shlex
import shutil
import subprocess
import time

import pytest

from conftest import BINARY, PYTHON, WORLD4, until
from containers import ALL, DEPLOY, GATEWAY, IDS, SECCOMP, TUN, UNMASKED, needs_docker, remapped_engine, removed_afterwards, running_engine
from images import busybox_root

pytestmark = needs_docker

CONFIG = """
tasks:
  - {name: hello, command: "echo hello from a task; exec sleep 1000"}
ports: [{port: 8400}]
workspacekit: {services: {web: {command: "httpd -f -p 8400 -h /workspace"}}}
"""


def workspace_root(place):
    """Two megabytes of busybox with a workspace in /workspace."""
    root = busybox_root(place)
    for name in ("usr/bin", "etc", "tmp", "run", "proc", "sys", "dev", "workspace", "var", "root"):
        (root / name).mkdir(parents=True)
    os.chmod(root / "tmp", 0o1777)
    shutil.copy(BINARY, root / "usr/bin/workspacekit")
    (root / "workspace/.gitpod.yml").write_text(CONFIG)
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\ngitpod:x:33333:33333::/workspace:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\ntty:x:5:\ngitpod:x:33333:\n")
    for name in ("hosts", "resolv.conf"):
        (root / "etc" / name).write_text("")
    return root


def import_image(engine):
    """As an image: workspace:1."""
    root = workspace_root(engine.folder / "root")
    subprocess.run(["tar", "--owner=0", "--group=0", "-C", root, "-cf", engine.folder / "image.tar", "."], check=True)
    engine("import", "-c", "WORKDIR /workspace", "-c", 'ENTRYPOINT ["/usr/bin/workspacekit","run"]', engine.folder / "image.tar", "workspace:1")


@pytest.fixture(scope="module")
def engine(lab, tmp_path_factory):
    with running_engine(lab, tmp_path_factory.mktemp("engine")) as engine:
        import_image(engine)
        yield engine


@pytest.fixture
def container(engine):
    """Starts one and removes it afterwards."""
    with removed_afterwards(engine) as name:
        def run(*flags, command=()):
            made = name()
            engine("run", "-d", "--name", made, *flags, "workspace:1", *command)
            return made
        yield run


def mode(engine, *flags):
    """What doctor finds under these flags, and what run makes of it: they agree."""
    asked = engine("run", "--rm", "--entrypoint", "/usr/bin/workspacekit", *flags, "workspace:1", "doctor", "--json", check=False)
    assert asked.returncode in (0, 1), asked.stderr
    return json.loads(asked.stdout)


# Root is the machine's in each container but that of another user.
LADDER = [
    ("nothing", [], "supervise-only", "host"),
    ("seccomp", [*IDS, *SECCOMP], "shared-pid", "sandbox, by a packet socket"),
    ("unmasked", [*IDS, *SECCOMP, *UNMASKED], "masked", "sandbox, by a packet socket"),
    ("tun", [*IDS, *SECCOMP, *UNMASKED, *TUN], "masked", "sandbox, by a tap device"),
    ("no-new-privileges", ALL, "masked", "sandbox, by a tap device"),
    ("user", [*SECCOMP, *UNMASKED, *TUN, "--user", "33333"], "full", "sandbox, by a tap device"),
    ("read-only", [*ALL, "--read-only", "--tmpfs", "/run", "--tmpfs", "/tmp"], "masked", "sandbox, by a tap device"),
    ("init", [*ALL, "--init"], "masked", "sandbox, by a tap device"),
]


@pytest.mark.parametrize("flags,isolation,network", [row[1:] for row in LADDER], ids=[row[0] for row in LADDER])
def test_each_flag_gives_what_doctor_says(engine, container, flags, isolation, network):
    check_workspace(engine, container, flags, isolation, network)


def test_under_userns_remap(lab):
    """As a pod with hostUsers: false. Ids are computed from what the container has, and the container has 65,536."""
    with remapped_engine(lab, number=1) as engine, removed_afterwards(engine) as name:
        import_image(engine)

        def container(*flags, command=()):
            made = name()
            engine("run", "-d", "--name", made, *flags, "workspace:1", *command)
            return made
        check_workspace(engine, container, ALL, "full", "sandbox, by a tap device")
        made = container(*ALL)
        until(lambda: "hello from a task" in engine.logs(made), 10, "the task")
        ids = engine("exec", made, "workspacekit", "exec", "--", "cat", "/proc/self/uid_map").stdout.split()
        assert ids == ["0", "0", "65535"], "of the container's own, but the stages'"
        outside = engine("exec", made, "cat", "/proc/self/uid_map").stdout.split()
        assert outside == ["0", "600000", "65536"]
        environment = {**os.environ, "DOCKER": str(engine.wrapper())}
        result = subprocess.run([DEPLOY / "docker-run.sh", "workspace:1", "--require", "full", "--", "sh", "-c", "id -u; exit 5"],
                                env=environment, capture_output=True, text=True, timeout=60)
        assert (result.returncode, result.stdout) == (5, "0\n"), result.stderr
        check_docker_inside(engine, name())


def check_docker_inside(engine, name):
    """examples/docker with the machine's dockerd, in a container that is given the least privileges for it."""
    config = (DEPLOY.parent / "examples/docker/.gitpod.yml").read_text().replace(', group: docker', "")
    programs = [word for folder in ("/usr", "/lib", "/lib64", "/etc/alternatives") for word in ("-v", f"{folder}:{folder}:ro")]
    binary = engine.folder / "root/usr/bin/workspacekit"
    engine("create", "--name", name, *ALL, *programs, "-v", f"{binary}:/workspacekit:ro", "-v", f"{name}:/workspace", "--tmpfs", "/var/lib", "--entrypoint", "/workspacekit",
           "-e", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "workspace:1", "run", "--require", "full")
    (engine.folder / "docker-inside").mkdir()
    (engine.folder / "docker-inside/.gitpod.yml").write_text(config)
    shutil.copy(engine.folder / "image.tar", engine.folder / "docker-inside")
    engine("cp", f"{engine.folder}/docker-inside/.", f"{name}:/workspace")
    engine("start", name)
    until(lambda: re.search(r"\[hello\] Docker \S+ answers inside", engine.logs(name)), 30, lambda: "the task: " + engine.logs(name))
    docker = lambda *arguments: engine("exec", name, "/workspacekit", "exec", "--", "docker", *arguments).stdout
    docker("import", "/workspace/image.tar", "base:1")
    assert docker("run", "--rm", "base:1", "id", "-u") == "0\n"
    assert docker("run", "--rm", "base:1", "wget", "-qO-", f"http://{engine.gateway}:8000/") == "hello from world\n"


def check_workspace(engine, container, flags, isolation, network):
    report = mode(engine, *flags)
    assert (report["mode"], report["network"]) == (isolation, network)
    state = ["--state-dir", "/tmp/state"] if "--user" in flags else []
    name = container(*flags, command=state)
    until(lambda: "[hello] hello from a task" in engine.logs(name), 10, "the task: " + engine.logs(name))
    status = json.loads(engine("exec", name, "workspacekit", "status", "--json", *state).stdout)
    assert status["isolation"] == isolation
    assert {unit["name"]: unit["state"] for unit in status["units"]} == {"web": "running", "hello": "running"}
    # The network, both ways.
    inside = lambda *command: engine("exec", name, "workspacekit", "exec", *state, "--", *command).stdout
    assert inside("wget", "-qO-", f"http://{engine.gateway}:8000/") == "hello from world\n"
    address = engine("inspect", "-f", "{{.NetworkSettings.IPAddress}}", name).stdout.strip()
    until(lambda: engine.fetch(f"http://{address}:8400/.gitpod.yml") == CONFIG, 5, "the port")
    assert ("tap0" in inside("ip", "link")) == (isolation != "supervise-only")
    begun = time.monotonic()
    engine("stop", "-t", "9", name)
    assert time.monotonic() - begun < 6, "it stops in its own time, not in Docker's"
    assert engine("inspect", "-f", "{{.State.ExitCode}}", name).stdout.strip() == "0"


def test_the_shipped_script_gives_a_whole_workspace(engine):
    environment = {**os.environ, "DOCKER": str(engine.wrapper())}
    run = lambda *arguments, **more: subprocess.run([DEPLOY / "docker-run.sh", "workspace:1", *arguments], env={**environment, **more}, capture_output=True, text=True, timeout=60)
    result = run("--require", "masked", "--", "sh", "-c", f"id -u; wget -qO- http://{GATEWAY}:8000/; exit 5")
    assert (result.returncode, result.stdout) == (5, "0\nhello from world\n"), result.stderr
    report = run("doctor", "--json", DOCKER_FLAGS="--entrypoint /usr/bin/workspacekit")
    findings = {row["feature"]: row for row in json.loads(report.stdout)["findings"]}
    assert [name for name, row in findings.items() if row["state"] != "ok"][0] == "root of its own"
    for feature in ("user namespaces", "id maps", "fresh /proc", "fresh /sys", "pivot_root", "tap device", "ping", "overlayfs", "chroot", "runc inside", "nftables"):
        assert findings[feature]["state"] == "ok", findings[feature]


@pytest.mark.parametrize("user,rights", [("", True), ("0", True), ("root:root", True), ("33333", False), ("gitpod:gitpod", False)])
def test_the_shipped_script_gives_an_image_what_its_user_needs(tmp_path, user, rights):
    """Root gets what keeps it root and no new privileges; another user gets its id maps by file capabilities."""
    docker = tmp_path / "docker"
    # Another registry's image is not there before it is pulled.
    docker.write_text(f"""#!/bin/sh
case $1 in pull) touch {tmp_path}/pulled ;; image) test -e {tmp_path}/pulled && echo {shlex.quote(user)} ;; *) printf '%s\n' "$@" ;; esac
""")
    docker.chmod(0o755)
    flags = subprocess.run([DEPLOY / "docker-run.sh", "image", "argument"], env={**os.environ, "DOCKER": str(docker)}, check=True, capture_output=True, text=True).stdout.split("\n")
    given = {flags[at + 1] for at, word in enumerate(flags) if word == "--cap-add"}
    assert given == {"SETUID", "SETGID"} | ({"SETFCAP", "SYS_CHROOT"} if rights else set())
    assert ("no-new-privileges" in flags) == rights and flags[-3:] == ["image", "argument", ""]


def test_kill_leaves_nothing_and_orphans_are_reaped(engine, container):
    name = container(*ALL)
    until(lambda: "hello from a task" in engine.logs(name), 10, "the task")
    engine("exec", name, "workspacekit", "exec", "--", "sh", "-c", "for i in 1 2 3 4 5; do (setsid sleep 0.1 &); done")
    pid = int(engine("inspect", "-f", "{{.State.Pid}}", name).stdout)
    zombies = lambda: [line for line in engine("top", name, "-eo", "pid,stat,comm").stdout.splitlines()[1:] if line.split()[1].startswith("Z")]
    until(lambda: not zombies(), 5, "no zombies")
    engine("kill", name)
    assert engine("inspect", "-f", "{{.State.ExitCode}}", name).stdout.strip() == "137"
    assert pid > 1


def test_a_full_disk_is_said_and_the_workspace_goes_on(engine, container):
    name = container(*ALL, "--tmpfs", "/run:size=64k")
    until(lambda: engine("exec", name, "workspacekit", "status", check=False).returncode == 0, 10, "the workspace: " + engine.logs(name))
    engine("exec", name, "sh", "-c", "dd if=/dev/zero of=/run/filler bs=1k 2>/dev/null; true")
    status = json.loads(engine("exec", name, "workspacekit", "status", "--json").stdout)
    assert {unit["state"] for unit in status["units"]} == {"running"}
    assert engine("exec", name, "workspacekit", "exec", "--", "id", "-u").stdout == "0\n"
    engine("stop", "-t", "9", name)


def test_the_profile_is_what_its_rule_makes():
    made = subprocess.run([PYTHON, DEPLOY / "seccomp.py"], check=True, capture_output=True, text=True).stdout
    assert made == (DEPLOY / "seccomp.json").read_text()
    # What the README shows first are the flags for an image whose user is not root, and no others but the volume's and the name's.
    readme = (DEPLOY.parent / "README.md").read_text()
    shown = shlex.split(readme[readme.index("docker run"):readme.index("workspacekit: up in")].replace("\\\n", " "))
    assert shown[2:] == ["--rm", "--name", "dev", "-v", "dev:/workspace", *TUN, *IDS[:6], "--security-opt", "seccomp=deploy/seccomp.json", *UNMASKED, "workspace"]
    compose = (DEPLOY / "compose.yaml").read_text()
    script = (DEPLOY / "docker-run.sh").read_text()
    for flag in ("systempaths=unconfined", "apparmor=unconfined", "SETUID", "SETGID", "SETFCAP", "SYS_CHROOT", "ping_group_range", "/dev/net/tun", "seccomp.json"):
        assert flag in compose and flag in script, flag


def test_the_profile_lists_each_call_of_the_kernel_once():
    """No call is allowed because it was forgotten, and none is refused because it was."""
    spec = importlib.util.spec_from_file_location("seccomp", DEPLOY / "seccomp.py")
    rules = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rules)
    groups = [rules.ORDINARY, ["socket"], rules.OBSOLETE, *rules.OF_A_WORKSPACE.values(), *rules.DENIED.values(), *rules.ABSENT.values()]
    listed = collections.Counter(name for group in groups for name in group)
    assert [name for name, count in listed.items() if count > 1] == []
    tables = [path for path in pathlib.Path("/usr/include").glob("*/asm/unistd_*.h")] + [pathlib.Path("/usr/include/asm-generic/unistd.h")]
    known = {name for path in tables if path.exists() for name in re.findall(r"#define __NR(?:3264)?_(\w+)\s", path.read_text())}
    known -= {"syscalls", "arch_specific_syscall"}
    assert len(known) > 400, "the kernel's table"
    assert known - set(listed) == set()
    profile = rules.profile()
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO", "what is not listed fails"


# Calls by their x86-64 numbers, with arguments that have no effect where a call is allowed; 400 is a number without a call.
CALLS = """
import ctypes, errno, json
libc = ctypes.CDLL(None, use_errno=True)
def answer(*call):
    return "ok" if libc.syscall(*map(ctypes.c_long, call)) >= 0 else errno.errorcode[ctypes.get_errno()]
print(json.dumps({"vsock": answer(41, 40, 1, 0), "inet": answer(41, 2, 1, 0), "bpf": answer(321, -1, 0, 0), "io_uring_setup": answer(425, 0, 0),
                  "open_by_handle_at": answer(304, -1, 0, 0), "swapoff": answer(168, 0), "none": answer(400), "get_mempolicy": answer(239, 0, 0, 0, 0, 0)}))
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of calls")
def test_the_profile_refuses_what_it_does_not_list(engine):
    programs = [word for folder in ("/usr", "/lib", "/lib64") for word in ("-v", f"{folder}:{folder}:ro")]
    result = engine("run", "--rm", "--entrypoint", PYTHON, *ALL, *programs, "workspace:1", "-c", CALLS)
    # An engine that does not know defaultErrnoRet says EPERM for what is not listed.
    assert json.loads(result.stdout) in [
        {"vsock": "EAFNOSUPPORT", "inet": "ok", "bpf": "EPERM", "io_uring_setup": "ENOSYS", "open_by_handle_at": "EPERM", "swapoff": "EPERM",
         "none": none, "get_mempolicy": "ok"} for none in ("ENOSYS", "EPERM")]


@pytest.mark.skipif(not shutil.which("podman"), reason="podman is not installed")
def test_podman_with_the_flags_that_doctor_names(lab, tmp_path_factory):
    """Each flag is taken from doctor's answer, one after the other, until nothing is missing."""
    folder = tmp_path_factory.mktemp("podman")
    root = workspace_root(folder / "root")
    podman = lambda *arguments, check=True: lab.in_pod(
        # crun starts nothing where both versions of cgroups are seen.
        "unshare", "--mount", "sh", "-c", 'umount /sys/fs/cgroup/unified 2>/dev/null; exec "$@"', "sh", "podman", "--root", f"{folder}/store", "--runroot", f"{folder}/run", "--cgroup-manager", "cgroupfs", "--events-backend", "none", *map(str, arguments), check=check)
    # The container's network is the lab's pod, which leads to the lab's world only, and whose sysctls are not Podman's to set.
    run = lambda flags, *arguments: podman("run", "--rm", "--cgroups=disabled", "--network", "host", "--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096", *flags, "--rootfs", root, "/usr/bin/workspacekit", *arguments, check=False)

    def report(flags):
        result = run(flags, "doctor", "--json")
        assert result.stdout.startswith("{"), (flags, result.stderr)
        return json.loads(result.stdout)
    flags = []
    assert report(flags)["mode"] not in ("full", "masked")
    for _ in range(5):
        found = report(flags)
        if found["mode"] == "masked" and found["network"] == "sandbox, by a tap device":
            break
        cures = [shlex.split(row["cure"]["podman"]) for row in found["findings"]
                 if row["state"] != "ok" and row["feature"] not in ("open files", "cgroup controllers", "overlayfs", "/dev/fuse", "ping", "low ports", "root of its own") and row.get("cure", {}).get("podman", "").startswith("--")]
        fresh = [word.replace("deploy/seccomp.json", str(DEPLOY / "seccomp.json")) for cure in cures for word in cure]
        assert fresh and fresh != flags, found
        flags += fresh
    else:
        raise AssertionError((flags, found))
    result = run(flags, "run", "--require", "masked", "--workspace", "/workspace", "--", "sh", "-c", f"id -u; wget -qO- http://{WORLD4}:8000/")
    assert (result.returncode, result.stdout) == (0, "0\nhello from world\n"), result.stderr
    # With users of its own, as by --userns=auto, it is all there; a root directory must belong to them.
    mapped = lab.folder / "podman-mapped"
    subprocess.run(["cp", "-a", root, mapped], check=True)
    subprocess.run(["chown", "-hR", "600000:600000", mapped], check=True)
    root = mapped
    flags += ["--uidmap", "0:600000:65536", "--gidmap", "0:600000:65536"]
    result = run(flags, "run", "--require", "full", "--workspace", "/workspace", "--", "sh", "-c", f"cat /proc/self/uid_map; wget -qO- http://{WORLD4}:8000/")
    assert (result.returncode, result.stdout.split()) == (0, [*"0 0 65535".split(), *"hello from world".split()]), result
