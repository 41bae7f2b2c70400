"""`workspacekit.filesystem`: what runs in the workspace does not change what the outside uses, does not get below what lies over
it, and does not reach sockets of the outside. By the workspace's root and by an ordinary user of it; started by root, by an
ordinary user with a range of ids, and by one with a single id."""

import json
import os
import pathlib
import shutil
import socket

import pytest

from conftest import BINARY, PLAIN_USER, PYTHON, USER, until
from test_namespaces import trespass

# By its text, because a private root does not have the directory of the tests where that lies in /tmp.
INTRUDE = ["-c", (pathlib.Path(__file__).parent / "intrude.py").read_text()]
STARTED_BY = {"root": None, "range": USER, "single": PLAIN_USER}
ROOTS = ["private", "read-only"]


def intrude(space, *words, by="root"):
    change = [] if by == "root" else ["setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups"]
    return set(json.loads(space.exec(*change, PYTHON, *INTRUDE, *map(str, words)).stdout))


def open_to_all(folder):
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o777)


@pytest.fixture
def srv(lab):
    """/srv of the pod: programs, a configuration and a secret that every user may replace, as the attacker would wish."""
    folder = lab.folder / "srv"
    (folder / "bin").mkdir(parents=True)
    for name in ("bin/workspacekit", "bin/sh"):
        (folder / name).write_text("#!/bin/sh\necho outside\n")
    (folder / "etc").mkdir()
    (folder / "etc/config.yml").write_text("workspacekit: {network: {mode: none}}\n")
    (folder / "etc/preload").write_text("")
    (folder / "secret").mkdir()
    (folder / "secret/key").write_text("the key\n")
    open_to_all(folder)
    lab.in_pod("mount", "--bind", str(folder), "/srv")
    yield folder
    lab.in_pod("umount", "-l", "/srv")
    shutil.rmtree(folder)


LISTENER = """
import socket, sys, time
held = []
for path in sys.argv[1:]:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    __import__("os").chmod(path, 0o777)
    held.append(listener)
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture
def sockets(lab, srv):
    """Servers of the outside: where Docker's socket is, where ssh-agent's is, and where others are."""
    paths = ["/run/docker.sock", f"/tmp/agent-{lab.pod.pid}.sock", "/srv/x.sock"]
    server = lab.popen_in(lab.pod, [PYTHON, "-c", LISTENER, *paths], stdout=-1)
    assert server.stdout.readline() == b"ready\n"
    yield paths
    server.kill()
    server.wait()
    lab.in_pod("rm", "-f", *paths)


def content(folder):
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*") if not path.is_socket()}


def places(folder):
    return [path for path in ("/srv/bin/workspacekit", "/srv/bin/sh", "/srv/etc/config.yml", "/srv/etc/preload")]


@pytest.mark.parametrize("start", STARTED_BY)
def test_a_shared_root_is_open_to_all_of_this(workspace, srv, sockets, start):
    """That the attacks work, where nothing keeps them."""
    before = content(srv)
    space = workspace("", user=STARTED_BY[start]).started()
    assert len(intrude(space, "write", *places(srv))) >= 12
    assert content(srv) != before
    assert intrude(space, "connect", *sockets) == set(sockets)


@pytest.mark.parametrize("by", ["root", "user"])
@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("start", STARTED_BY)
def test_what_the_outside_uses_stays_what_it_is(workspace, lab, srv, start, root, by):
    if (start, by) == ("single", "user"):
        pytest.skip("there is one user only")
    before, etc = content(srv), content(lab.folder / "etc")
    space = workspace(f"workspacekit: {{filesystem: {{root: {root}}}}}\n", user=STARTED_BY[start]).started()
    got = intrude(space, "write", *places(srv), "/etc/ld.so.preload", "/etc/resolv.conf", "/etc/passwd", by=by)
    made = f"/usr/bin/made-inside-{os.getpid()}"  # of what is the machine's own nothing is touched, should this fail
    space.exec("touch", made, check=False)
    # The copy of resolv.conf is the workspace's own.
    assert root == "private" or got <= {"/etc/resolv.conf: overwrite", "/etc/resolv.conf: remount"}, got
    assert content(srv) == before and content(lab.folder / "etc") == etc
    outside = pathlib.Path(made)
    assert not outside.exists() or outside.unlink()
    assert lab.in_pod("/srv/bin/workspacekit").stdout == "outside\n"
    space.stop()
    assert content(srv) == before


@pytest.mark.parametrize("by", ["root", "user"])
@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("start", STARTED_BY)
def test_sockets_of_the_outside_are_not_reached(workspace, srv, sockets, start, root, by):
    if (start, by) == ("single", "user"):
        pytest.skip("there is one user only")
    space = workspace(f"workspacekit: {{filesystem: {{root: {root}}}}}\n", user=STARTED_BY[start]).started()
    assert intrude(space, "connect", *sockets, by=by) == set()
    # A server that starts later is not reached either.
    later = srv / "later.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(later))
        later.chmod(0o777)
        listener.listen()
        assert intrude(space, "connect", "/srv/later.sock", by=by) == set()


def test_nor_in_a_volume_that_can_only_be_read(workspace, lab, srv, sockets):
    through = ["unshare", "--mount", "--propagation", "private", "sh", "-c", 'mount -o remount,ro,bind /srv && exec "$@"', "sh"]
    space = workspace("", arguments=["--network", "none"], through=through).started()
    assert intrude(space, "connect", *sockets) == set()
    assert space.exec("cat", "/srv/secret/key").stdout == "the key\n"
    assert intrude(space, "write", *places(srv)) == set()


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("start", STARTED_BY)
def test_root_inside_does_not_get_below_it(workspace, srv, start, root):
    config = f"workspacekit: {{filesystem: {{root: {root}, hidden: [/srv/secret, /srv/etc/config.yml]}}}}\n"
    space = workspace(config, user=STARTED_BY[start]).started()
    before = content(srv)
    got, tried = trespass(space, "mounts", str(space.folder))
    assert tried > 20 and got == set(), got
    got = intrude(space, "mounts", space.folder / "beside", "/usr", "/srv", "/etc", "/srv/secret", "/srv/etc/config.yml", space.state, "/tmp", "/run")
    # What is private is writable anyway, and so are the empty directories.
    assert {line for line in got if "remounted" not in line or root == "read-only" and not line.startswith(("/tmp", "/run"))} == set(), got
    assert content(srv) == before


@pytest.mark.parametrize("root", ["shared", *ROOTS])
def test_hidden_is_empty(workspace, srv, root):
    config = f"workspacekit: {{filesystem: {{root: {root}, hidden: [/srv/secret, /srv/etc/config.yml, /srv/none], writable: [/srv]}}}}\n"
    space = workspace(config, user=USER).started()
    assert space.exec("sh", "-c", "ls -A /srv/secret; cat /srv/etc/config.yml").stdout == ""
    for by in ("root", "user"):
        assert {line for line in intrude(space, "write", "/srv/secret/key", "/srv/secret/new", by=by) if "move_parent" not in line} == set()
    script = "umount -l /srv/secret || mount --move /srv/secret /mnt || mount --bind /srv /mnt || rmdir /srv/secret || mv /srv/secret /srv/s"
    assert space.exec("sh", "-c", script, check=False).returncode != 0
    assert (srv / "secret/key").read_text() == "the key\n"


def test_what_would_hide_the_workspace_is_refused(workspace, lab):
    space = workspace(f"workspacekit: {{filesystem: {{hidden: [{lab.folder}]}}}}\n", command=["true"])
    assert space.wait() == 78 and "cannot be hidden: the workspace needs" in space.stderr


@pytest.mark.parametrize("start", ["root", "range"])
def test_private_writes_end_with_the_workspace_and_those_in_places_stay(workspace, srv, start):
    (srv / "stays").mkdir()
    open_to_all(srv)
    config = "workspacekit: {filesystem: {root: private, writable: [/srv/stays]}}\n"
    script = "set -e; echo data >/srv/stays/f; echo data >/srv/f; mkdir /data-inside; echo x >/data-inside/x; echo x >/tmp/x; echo here >here"
    # The kernel copies no file into the layer whose owner has no id inside.
    script += "; rm /srv/bin/sh" if start == "root" else ""
    space = workspace(config, user=STARTED_BY[start], command=["sh", "-c", script])
    assert space.wait() == 0, space.stderr
    assert (srv / "stays/f").read_text() == "data\n" and (space.folder / "here").read_text() == "here\n"
    assert not (srv / "f").exists() and (srv / "bin/sh").exists() and not pathlib.Path("/data-inside").exists()
    again = workspace(config, user=STARTED_BY[start], command=["sh", "-c", "cat /srv/stays/f; ls -d /data-inside /srv/f /tmp/x; /srv/bin/sh"])
    again.wait()
    assert again.stdout == "data\noutside\n"


def test_a_read_only_root_takes_no_files_but_in_places(inside, srv):
    script = "touch /srv/x || touch /etc/x || mkdir /srv/bin/x; set -e; touch /tmp/x /run/x ./x /srv/etc/x"
    result = inside("sh", "-c", script, config="workspacekit: {filesystem: {root: read-only, writable: [/srv/etc]}}\n")
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("Read-only file system") == 3 and (srv / "etc/x").exists()


POLICIES = {"network none": "network: {mode: none}", "deny": "network: {egress: {default: deny}}", "a rule": "network: {egress: {deny: [198.18.0.9]}}"}


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_makes_the_root_private(workspace, srv, sockets, policy):
    space = workspace(f"workspacekit: {{{POLICIES[policy]}}}\n").started()
    before = content(srv)
    assert intrude(space, "connect", *sockets) == set()
    intrude(space, "write", *places(srv))
    assert content(srv) == before


def test_so_does_network_none_on_the_command_line(workspace, srv, sockets):
    space = workspace("", arguments=["--network", "none"]).started()
    before = content(srv)
    assert intrude(space, "connect", *sockets) == set()
    intrude(space, "write", *places(srv))
    assert content(srv) == before


@pytest.mark.parametrize("policy", POLICIES)
def test_a_shared_root_is_refused_with_a_policy(workspace, policy):
    space = workspace(f"workspacekit: {{{POLICIES[policy]}, filesystem: {{root: shared}}}}\n", command=["true"])
    assert space.wait() == 78 and "workspacekit.filesystem.root: cannot be shared with network." in space.stderr
    result = space.lab.in_pod(BINARY, "validate", "--elsewhere", str(space.folder / ".gitpod.yml"), check=False)
    assert result.returncode == 78 and "cannot be shared with" in result.stdout


def test_nor_with_network_none_on_the_command_line(workspace):
    space = workspace("workspacekit: {filesystem: {root: shared}}\n", command=["true"], arguments=["--network", "none"])
    assert space.wait() == 78 and "filesystem.root cannot be shared with --network none" in space.stderr


@pytest.mark.parametrize("by", ["root", "user"])
@pytest.mark.parametrize("start", STARTED_BY)
def test_the_policy_of_the_next_start_is_not_inside_s_to_write(workspace, srv, start, by):
    if (start, by) == ("single", "user"):
        pytest.skip("there is one user only")
    text = "workspacekit: {network: {egress: {default: deny}}}\n"
    space = workspace(text, user=STARTED_BY[start]).started()
    space.folder.chmod(0o777)
    (space.folder / ".gitpod.yml").chmod(0o666)
    assert intrude(space, "write", space.folder / ".gitpod.yml", by=by) == set()
    assert (space.folder / ".gitpod.yml").read_text() == text


def test_of_two_files_the_one_with_the_policy_is_kept(workspace, lab):
    folder = lab.folder / "two-files"
    folder.mkdir()
    (folder / ".workspacekit.yml").write_text("network: {egress: {default: deny}}\n")
    space = workspace("tasks: []\n", folder=folder).started()
    assert intrude(space, "write", folder / ".workspacekit.yml") == set()
    assert f"{folder}/.gitpod.yml: replace" in intrude(space, "write", folder / ".gitpod.yml")


@pytest.mark.parametrize("place", ["/srv/etc/config.yml", "conf/deep/config.yml"])
def test_a_configuration_that_is_named_is_kept_where_it_lies(workspace, lab, srv, place):
    folder = lab.folder / "named"
    (folder / "conf/deep").mkdir(parents=True)
    (folder / "conf/deep/config.yml").write_text((srv / "etc/config.yml").read_text())
    path = pathlib.Path(place) if place.startswith("/") else folder / place
    space = workspace(None, folder=folder, arguments=["--config", str(path)]).started()
    assert intrude(space, "write", path) == set()
    assert space.exec("mv", str(path.parent.parent), "/tmp/away", check=False).returncode != 0 or place.startswith("/")
    outside = srv / "etc/config.yml" if place.startswith("/") else path
    assert outside.read_text() == "workspacekit: {network: {mode: none}}\n"


def test_a_configuration_that_is_a_link_is_said(workspace, lab):
    folder = lab.folder / "linked"
    folder.mkdir()
    (folder / "real.yml").write_text("workspacekit: {network: {mode: none}}\n")
    (folder / ".gitpod.yml").symlink_to("real.yml")
    space = workspace(None, folder=folder, command=["true"])
    assert space.wait() == 0 and "is a link, which the workspace can replace" in space.stderr


@pytest.mark.parametrize("start", STARTED_BY)
def test_the_state_directory_is_used_and_not_changed(workspace, start):
    space = workspace("workspacekit: {filesystem: {root: private}}\ntasks: [{name: t, command: echo from the task; sleep 1000}]\n",
                      user=STARTED_BY[start]).started()
    until(lambda: "from the task" in space.cli("logs", "t").stdout)
    names = ("control.sock", "lock", "events.jsonl", "bin/.state-dir")
    assert intrude(space, "write", *(space.state / name for name in names)) == set()
    script = "gp ports list && workspacekit status >/dev/null; rm -rf $WORKSPACEKIT_STATE_DIR; true"
    assert space.exec("sh", "-c", script.replace("workspacekit ", f"{BINARY} ")).returncode == 0
    assert space.cli("restart", "t").returncode == 0 and space.status()["t"]["state"] == "running"


def test_the_supervisor_that_takes_over_has_the_state_directory_too(workspace):
    space = workspace("workspacekit: {filesystem: {root: private}}\n").started()
    until(lambda: space.stage("supervise"))
    before = space.stage("supervise")
    space.lab.in_pod("kill", "-9", str(before))
    until(lambda: space.cli("status", check=False).returncode == 0 and space.stage("supervise") != before)
    assert space.exec("echo", "here").stdout == "here\n"


def test_a_full_root_does_not_hurt_the_stages(workspace, srv):
    """The bound follows the memory of the container's cgroup."""
    limit = 'mount -t tmpfs t /sys/fs/cgroup && echo 134217728 >/sys/fs/cgroup/memory.max && exec "$@"'
    through = ["unshare", "--mount", "--propagation", "private", "sh", "-c", limit, "sh"]
    space = workspace("workspacekit: {filesystem: {root: private}}\ntasks: [{name: t, command: sleep 1000}]\n", through=through).started()
    filled = space.exec("sh", "-c", "for d in /tmp /srv /run; do head -c 100M /dev/zero >$d/fill; done; stat -c %s /tmp/fill", check=False)
    assert "No space left" in filled.stderr and int(filled.stdout) <= 64 << 20
    assert space.cli("restart", "t").returncode == 0
    assert space.exec("true").returncode == 0
    space.process.terminate()
    assert space.wait() in (0, 143)


def test_git_and_packages_work_in_a_private_root(workspace, srv):
    space = workspace("workspacekit: {filesystem: {root: private}}\n", user=USER).started()
    script = "set -e; git init -q .; git config user.name n; git config user.email e@example.org; echo x >f; git add f; git commit -qm m; git log --oneline"
    assert space.exec("sh", "-c", script).stdout.endswith(" m\n")
    space = workspace("workspacekit: {filesystem: {root: private}}\n").started()
    script = "set -e; mv /srv/bin/sh /srv/bin/sh2; cp /srv/bin/sh2 /srv/bin/sh; rm -r /srv/secret; mkdir /srv/secret; ls /srv/secret; useradd somebody; id -un somebody"
    assert space.exec("sh", "-c", script).stdout == "somebody\n"


def test_in_a_directory_with_mounts_in_it_everything_is_there_too(workspace, lab, srv):
    """As /etc of a Docker container, in which single files are mounted."""
    (srv / "large").write_bytes(b"x" * (2 << 20))
    (srv / "link").symlink_to("bin/sh")
    setup = 'mount --bind /srv/etc/preload /srv/etc/config.yml && mount -t tmpfs t /srv/secret && exec "$@"'
    through = ["unshare", "--mount", "--propagation", "private", "sh", "-c", setup, "sh"]
    before = content(srv)
    space = workspace("workspacekit: {filesystem: {root: private}}\n", through=through).started()
    script = "set -e; wc -c </srv/large; /srv/link; echo new >>/srv/bin/sh; echo new >/srv/etc/preload; touch /srv/made /srv/secret/made; ls -A /srv/secret"
    assert space.exec("sh", "-c", script).stdout == f"{2 << 20}\noutside\nmade\n"
    got = intrude(space, "write", *places(srv))
    assert got and content(srv) == before


def test_where_nothing_can_be_mounted_it_is_an_error(workspace):
    through = ["unshare", "--user", "--map-root-user", "sh", "-c", 'echo 0 >/proc/sys/user/max_user_namespaces; exec "$@"', "sh"]
    for keys in ("root: private", "root: read-only", "hidden: [/srv]"):
        space = workspace(f"workspacekit: {{filesystem: {{{keys}}}}}\n", through=through, command=["true"])
        assert space.wait() == 71, space.stderr
        assert "supervise-only" not in space.stderr


def test_a_workspace_in_a_private_one_is_private_too(workspace, srv, sockets):
    space = workspace("workspacekit: {filesystem: {root: private, writable: [/srv/etc]}}\n").started()
    (space.folder / "inner").mkdir()
    (space.folder / "inner/intrude.py").write_text(INTRUDE[1])
    script = f"""set -e; echo 'workspacekit: {{filesystem: {{root: private}}}}' >inner/.gitpod.yml
    {BINARY} run --workspace inner --state-dir $PWD/state-of-inner -- sh -c 'echo x >/srv/etc/x; echo x >/srv/bin/sh; {PYTHON} intrude.py connect {" ".join(sockets)}'
    cat /srv/bin/sh; ls /srv/etc"""
    result = space.exec("sh", "-c", script)
    assert result.stdout == "[]\n#!/bin/sh\necho outside\nconfig.yml\npreload\n", result
    assert "no layer over" not in result.stderr


def test_a_program_in_tmp_is_there_and_home_is_what_it_is_without(workspace, lab):
    binary = lab.folder / "program"
    shutil.copy(BINARY, binary)
    command = ["run", "--workspace", ".", "--state-dir", "st", "--network", "none", "--", "sh", "-c", "gp --version; echo $HOME; touch $0", str(binary)]
    for user in (USER, PLAIN_USER):
        folder = lab.folder / f"home-of-a-program-{user}"
        folder.mkdir()
        folder.chmod(0o777)
        result = lab.in_pod("setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups", "env", "-C", str(folder), f"HOME={folder}",
                            str(binary), *command, check=False)
        assert result.stdout.splitlines()[-1] == str(folder) and len(result.stdout.splitlines()) == 2, result
        assert result.returncode != 0 and "cannot touch" in result.stderr


def test_the_former_name_of_writable_is_read(inside, srv):
    result = inside("touch", "/srv/etc/x", config="workspacekit: {writable: [/srv/etc], filesystem: {root: private}}\n")
    assert result.returncode == 0 and (srv / "etc/x").exists()
    assert "workspacekit.writable: deprecated: write it as workspacekit.filesystem.writable" in result.stderr
