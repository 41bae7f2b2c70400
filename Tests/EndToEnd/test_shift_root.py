"""shift-root: the owners of an image's files become those of a workspace of its user. What is made of an image by it: test_image.py."""

import os
import pathlib
import shutil
import socket
import struct
import subprocess

import pytest

from conftest import BINARY, USER, run

START, COUNT = 100000, 65536
CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)  # cap_net_raw=ep
OF_USER = struct.pack("<6I", 0x03000001, 1 << 13, 0, 0, 0, USER)


def shift(directory, *options, through=(), check=True):
    return run(*through, BINARY, "shift-root", "--user", str(USER), "--range", f"{START}:{COUNT}", *options, str(directory), check=check)


def owners(path):
    status = os.lstat(path)
    return status.st_uid, status.st_gid


def file(path, uid=0, gid=0, mode=0o644):
    path.write_text("")
    os.chown(path, uid, gid)
    os.chmod(path, mode)
    return path


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    return root


def test_each_owner_becomes_what_it_is_inside(tree):
    for uid, gid in ((0, 0), (1, 4), (0, 42), (1000, 0), (65534, 65534), (65535, 65535)):
        file(tree / f"{uid}-{gid}", uid, gid)
    moved = lambda id: USER if id == 0 else START + id - 1
    assert shift(tree).stdout.startswith("7 files shifted, 0 of them with setuid or setgid, 0 with capabilities; 0 were already")
    assert owners(tree) == (USER, USER)
    for path in tree.iterdir():
        uid, gid = map(int, path.name.split("-"))
        assert owners(path) == (moved(uid), moved(gid)), path


def test_bits_modes_and_capabilities_are_kept(tree):
    modes = {"setuid": 0o4755, "setgid": 0o2755, "both": 0o6711, "no-execute": 0o4644, "sticky": 0o1777, "closed": 0o000}
    for name, mode in modes.items():
        file(tree / name, 0, 42, mode)
    (tree / "mail").mkdir()
    os.chown(tree / "mail", 0, 8)
    os.chmod(tree / "mail", 0o2775)
    for name in ("ping", "of-user", "both-kinds"):
        os.setxattr(file(tree / name, mode=0o4755 if name == "both-kinds" else 0o755), "security.capability", OF_USER if name == "of-user" else CAPABILITY)
    assert "11 files shifted, 6 of them with setuid or setgid, 2 with capabilities" in shift(tree).stdout
    assert {name: os.stat(tree / name).st_mode & 0o7777 for name in modes} == modes
    assert os.stat(tree / "mail").st_mode & 0o7777 == 0o2775 and owners(tree / "mail") == (USER, START + 7)
    assert {os.getxattr(tree / name, "security.capability") for name in ("ping", "of-user", "both-kinds")} == {OF_USER}
    assert os.stat(tree / "both-kinds").st_mode & 0o7777 == 0o4755


def test_inside_they_are_whose_they_were_and_may_what_they_might(tree, workspace, lab):
    """In a workspace of the user: setuid of its root, and a capability, which counts in its user namespace only."""
    space = workspace("", user=USER).started()
    start, count = next(line.split(":")[1:] for line in lab.in_pod("cat", "/etc/subuid").stdout.splitlines() if line.startswith("wkuser:"))
    root = space.folder / "root"
    root.mkdir()
    for name in ("cat", "setuid-cat"):
        shutil.copy("/usr/bin/cat", root / name)
    os.chmod(root / "setuid-cat", 0o4755)
    os.setxattr(root / "cat", "security.capability", CAPABILITY)
    file(root / "of-33", 33, 4)
    run(BINARY, "shift-root", "--user", str(USER), "--range", f"{start}:{count}", str(root))
    assert space.exec("stat", "-c", "%u:%g", *map(str, (root, root / "cat", root / "of-33"))).stdout == "0:0\n0:0\n33:4\n"
    status = lambda program: {line.split(":")[0]: line.split()[1:] for line in space.exec(
        "setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups", str(root / program), "/proc/self/status").stdout.splitlines()}
    assert status("cat")["CapEff"] == [f"{1 << 13:016x}"] and status("cat")["Uid"] == ["1000"] * 4
    assert status("setuid-cat")["Uid"] == ["1000", "0", "0", "0"]
    outside = run("setpriv", "--reuid", "1000", "--clear-groups", root / "cat", "/proc/self/status").stdout
    assert "CapEff:\t0000000000000000\n" in outside


def test_it_may_be_repeated(tree):
    os.setxattr(file(tree / "file", 0, 42, 0o4755), "security.capability", CAPABILITY)
    shift(tree)
    before = {path: (os.stat(path), os.listxattr(path)) for path in (tree, tree / "file")}
    assert shift(tree).stdout.startswith("0 files shifted, 0 of them with setuid or setgid, 0 with capabilities; 2 were already")
    assert {path: (os.stat(path), os.listxattr(path)) for path in before} == before, "not even their times of change"
    file(tree / "later", 7)
    assert shift(tree).stdout.startswith("1 files shifted") and owners(tree / "later") == (START + 6, USER)


def test_a_file_with_two_names_is_shifted_once(tree):
    os.link(file(tree / "one", 1, 1, 0o4755), tree / "two")
    assert shift(tree).stdout.startswith("2 files shifted, 1 of them"), "the tree and the file"
    assert owners(tree / "two") == (START, START) and os.stat(tree / "one").st_mode & 0o7777 == 0o4755


def test_two_names_on_an_overlay_are_two_files_once_one_is_changed(tree, tmp_path):
    os.link(file(tree / "one", 1, 1), tree / "two")
    for name in ("upper", "work", "merged"):
        (tmp_path / name).mkdir()
    overlay = f'mount -t tmpfs t {tmp_path}/upper && mkdir {tmp_path}/upper/u {tmp_path}/upper/w && mount -t overlay o -o index=off,lowerdir={tree},upperdir={tmp_path}/upper/u,workdir={tmp_path}/upper/w {tmp_path}/merged'
    script = f'{overlay} && "$@" && stat -c %u {tmp_path}/merged/*'
    result = shift(f"{tmp_path}/merged", through=["unshare", "--mount", "sh", "-ec", script, "sh"])
    assert result.stdout.splitlines()[1:] == [str(START)] * 2 and owners(tree / "one") == (1, 1)


def test_links_and_special_files_are_shifted_themselves(tree, tmp_path):
    outside = file(tmp_path / "outside", 5, 5, 0o4755)
    (tmp_path / "folder").mkdir()
    file(tmp_path / "folder/inner", 5, 5)
    (tree / "to-file").symlink_to(outside)
    (tree / "to-folder").symlink_to(tmp_path / "folder")
    (tree / "up").symlink_to("..")
    (tree / "nowhere").symlink_to("gone")
    os.mkfifo(tree / "pipe")
    os.mknod(tree / "null", 0o020666, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tree / "socket"))
    assert shift(tree).stdout.startswith("8 files shifted, 0 of them")
    assert {owners(path) for path in tree.iterdir()} == {(USER, USER)}
    assert owners(outside) == (5, 5) and os.stat(outside).st_mode & 0o7777 == 0o4755 and owners(tmp_path / "folder/inner") == (5, 5)


def test_other_mounts_are_not_entered(tree, tmp_path):
    """Not by a bind of the same file system either, nor those of single files, as an engine puts over resolv.conf."""
    (tmp_path / "other").mkdir()
    file(tmp_path / "other/file", 5, 5)
    file(tmp_path / "resolv.conf", 5, 5)
    (tree / "bind").mkdir()
    (tree / "memory").mkdir()
    file(tree / "resolv.conf")
    script = (f"mount --bind {tmp_path}/other {tree}/bind; mount -t tmpfs t {tree}/memory; touch {tree}/memory/file; "
              f'mount --bind {tmp_path}/resolv.conf {tree}/resolv.conf; "$@"; stat -c %u {tree}/memory/file')
    result = shift(tree, through=["unshare", "--mount", "sh", "-ec", script, "sh"])
    assert "3 mounts not entered" in result.stdout and result.stdout.splitlines()[1] == "0"
    assert owners(tmp_path / "other/file") == owners(tmp_path / "resolv.conf") == (5, 5)


def test_what_has_no_place_in_the_range_stays_and_is_counted(tree):
    file(tree / "far", 70000, 0)
    file(tree / "far-group", 70000, 70000)
    assert "; 0 were already, 2 belong to an id beyond the range" in shift(tree).stdout
    assert owners(tree / "far") == (70000, USER) and owners(tree / "far-group") == (70000, 70000)


def test_a_dry_run_changes_nothing(tree):
    os.setxattr(file(tree / "file", 0, 42, 0o4755), "security.capability", CAPABILITY)
    assert shift(tree, "--dry-run").stdout.startswith("2 files to shift, 1 of them with setuid or setgid, 1 with capabilities")
    assert owners(tree / "file") == (0, 42) and os.getxattr(tree / "file", "security.capability") == CAPABILITY


def test_names_are_bytes(tree):
    name = os.fsencode(tree) + b"/\xff\xfe \n"
    os.close(os.open(name, os.O_CREAT))
    file(tree / ("x" * 255))
    shift(tree)
    assert {owners(path) for path in tree.iterdir()} == {(USER, USER)}


def test_many_files_and_deep_folders(tree, request):
    for number in range(3000):
        (tree / f"{number:0100}").touch()
    deep = os.open(tree, os.O_RDONLY)
    for _ in range(1000):
        os.mkdir("d", dir_fd=deep)
        below = os.open("d", os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = below
    os.close(deep)
    request.addfinalizer(lambda: run("rm", "-rf", str(tree)))
    result = shift(tree, through=["prlimit", "--nofile=128:4096"], check=False)
    assert result.returncode == 71 and result.stderr.count("File name too long") == 1 and "1 files could not be shifted" in result.stderr
    assert len([path for path in tree.iterdir() if owners(path) == (USER, USER)]) == 3001


def test_failures_are_named_and_the_rest_is_done(tree):
    """Without the right to change owners, or in a user namespace that lacks the range."""
    file(tree / "file", 1)
    os.chmod(tree.parent, 0o755)
    result = shift(tree, through=["setpriv", "--bounding-set", "-chown"], check=False)
    assert result.returncode == 71 and f"cannot change the owner of {tree}/file: Operation not permitted" in result.stderr
    assert "2 files could not be shifted" in result.stderr and "--target root" in result.stderr
    narrow = shift(tree, through=["unshare", "--user", "--map-root-user"], check=False)
    assert narrow.returncode == 71 and "Invalid argument" in narrow.stderr
    for number in range(50):
        file(tree / str(number), 1)
    result = shift(tree, through=["setpriv", "--bounding-set", "-chown"], check=False)
    assert "52 files could not be shifted" in result.stderr and result.stderr.count("cannot change the owner") == 20


@pytest.mark.parametrize("options,reason", [
    (["--user", "0"], "--user is root"), (["--range", "65535:65536"], "--range begins below its length"), (["--range", "100000:10"], "fewer than 1000"),
    (["--user", "100001"], "the user in it"), (["--range", "4294967000:65536"], "beyond the last id"), (["--user", "x"], "no UID"), (["--range", "5"], "no range"),
    (["--user", "1:2:3"], "no UID"), (["--user", "-1"], "user"), (["--user", ""], "no UID")])
def test_what_makes_no_shift_is_refused(tree, options, reason):
    named = dict(zip(options[::2], options[1::2]))
    values = {"--user": str(USER), "--range": f"{START}:{COUNT}", **named}
    result = run(BINARY, "shift-root", *[word for pair in values.items() for word in pair], str(tree), check=False)
    assert result.returncode == 64 and reason in result.stderr, result
    assert owners(tree) == (0, 0)


def test_the_machine_s_root_is_refused():
    if os.readlink("/proc/self/ns/pid") != "pid:[4026531836]":
        pytest.skip("this is not the machine's first PID namespace")
    for path in ("/", "/usr/.."):
        result = shift(path, "--dry-run", check=False)
        assert result.returncode == 64 and "it is this machine's root" in result.stderr
    missing = shift("/nowhere/at/all", check=False)
    assert missing.returncode == 71 and "cannot open /nowhere/at/all: No such file or directory" in missing.stderr
    assert "Not a directory" in shift(pathlib.Path(__file__), check=False).stderr
