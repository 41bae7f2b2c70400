"""What others have put where we look: directories, sockets, links and pipes that are not ours are neither used, nor written,
nor shown."""

import os
import pathlib
import shutil
import socket

import pytest

from conftest import BINARY, PLAIN_USER, USER, until

PLACE = pathlib.Path(f"/tmp/workspacekit-{USER}")


def as_user(lab, *arguments, user=USER, **options):
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/tmp"}
    return lab.in_pod("setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups", BINARY, *arguments, check=False,
                      env=environment, **options)


@pytest.fixture
def place():
    """/tmp/workspacekit-UID, where a user without a runtime directory has the state directory."""
    def clear():
        if PLACE.is_symlink():
            PLACE.unlink()
        shutil.rmtree(PLACE, ignore_errors=True)
    clear()
    yield PLACE
    clear()


def listen(path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(8)
    listener.setblocking(False)
    os.chmod(path, 0o666)
    return listener


VERBS = [("status",), ("exec", "--", "true"), ("stop",), ("logs",), ("net", "flows"), ("attach", "x"), ("metrics",)]


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
@pytest.mark.parametrize("how", ["another user's", "open to all", "a link"])
def test_a_client_tells_nothing_to_a_socket_of_anothers(lab, place, verb, how):
    directory = lab.folder / "elsewhere"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    if how == "a link":
        place.symlink_to(directory)
        os.lchown(place, PLAIN_USER, PLAIN_USER)
    else:
        place.mkdir()
        directory = place
    listener = listen(directory / "control.sock")
    os.chown(directory, *((USER, USER) if how == "open to all" else (PLAIN_USER, PLAIN_USER)))
    os.chmod(directory, 0o777 if how == "open to all" else 0o755)
    result = as_user(lab, *verb)
    with pytest.raises(BlockingIOError):
        listener.accept()
    assert result.returncode != 0
    if verb[0] != "logs":
        assert "cannot use the state directory" in result.stderr and "hint:" in result.stderr


def test_root_tells_nothing_to_a_users_socket(lab):
    place = lab.folder / "root's"
    place.mkdir()
    listener = listen(place / "control.sock")
    os.chown(place, PLAIN_USER, PLAIN_USER)
    result = lab.in_pod(BINARY, "exec", "--state-dir", str(place), "--", "true", check=False)
    with pytest.raises(BlockingIOError):
        listener.accept()
    assert "belongs to another user" in result.stderr


def test_a_link_in_the_state_directorys_place_leads_a_start_nowhere(lab, place, tmp_path):
    """`run` had removed what it knows by name from wherever the link led."""
    victim = lab.folder / "victim"
    (victim / "bin").mkdir(parents=True)
    (victim / "rings").mkdir()
    files = [victim / name for name in ("control.sock", "lock", "bin/gp")]
    for file in files:
        file.write_text("precious")
    for path in (victim, *victim.iterdir(), *files):
        os.chown(path, USER, USER)
    place.symlink_to(victim)
    os.lchown(place, PLAIN_USER, PLAIN_USER)
    result = as_user(lab, "run", "--workspace", "/var", "--", "true")
    assert result.returncode == 64 and "but a link or a file" in result.stderr
    assert [file.read_text() for file in files] == ["precious"] * 3 and (victim / "rings").is_dir()


@pytest.mark.parametrize("mode, group", [(0o777, USER), (0o1777, USER), (0o775, PLAIN_USER)])
def test_a_state_directory_that_others_write_in_is_not_used(lab, place, mode, group):
    place.mkdir()
    os.chown(place, USER, group)
    os.chmod(place, mode)
    result = as_user(lab, "run", "--workspace", "/var", "--", "true")
    assert result.returncode == 64 and "other users may change what is in it" in result.stderr


def test_an_owner_who_is_not_mapped_is_not_believed_where_others_may_make_directories(lab):
    """In a user namespace every such owner shows as one: in /tmp, anybody can have made it; in a closed directory nobody can."""
    closed = lab.folder / "closed-parent"
    closed.mkdir(mode=0o755)
    open_parent = lab.folder / "open-parent"
    open_parent.mkdir()
    open_parent.chmod(0o1777)
    said = {}
    for parent in (closed, open_parent):
        directory = parent / "state"
        directory.mkdir()
        os.chown(directory, PLAIN_USER, PLAIN_USER)
        said[parent] = lab.in_pod("unshare", "--user", "--map-root-user", BINARY, "status", "--state-dir", str(directory), check=False).stderr
    assert "belongs to another user" in said[open_parent] and "belongs to another user" not in said[closed], said


def test_a_lock_that_is_a_link_makes_no_file(lab, workspace):
    space = workspace("", command=["true"])
    assert space.wait() == 0
    space.state.mkdir(exist_ok=True)
    target = lab.folder / "made-by-a-link"
    (space.state / "lock").symlink_to(target)
    again = workspace("", folder=space.folder, command=["true"])
    assert again.wait() != 0 and not target.exists()
    (again.state / "lock").unlink()


def test_what_the_workspace_makes_of_its_state_directory_leads_its_end_nowhere(lab, workspace):
    outside = lab.folder / "outside"
    (outside / "rings").mkdir(parents=True)
    for name in ("gp", "control.sock", "lock"):
        (outside / name).write_text("precious")
    space = workspace("").started()
    space.exec("sh", "-ec", f"rm -rf {space.state}/bin; ln -s {outside} {space.state}/bin")
    space.stop()
    assert sorted(path.name for path in outside.iterdir()) == ["control.sock", "gp", "lock", "rings"]


@pytest.mark.parametrize("what", ["a variable", "a task's init"])
def test_a_link_in_the_workspace_directory_leads_what_is_remembered_nowhere(lab, workspace, what):
    """The workspace directory is its user's; what remembers things in it is root."""
    outside = lab.folder / f"memory-{what[2]}"
    (outside / "init").mkdir(parents=True)
    config = "tasks: [{name: t, init: 'true', command: sleep 1000}]\nworkspacekit: {tasks: {t: {user: wkuser}}}\n" if what != "a variable" else ""
    folder = lab.folder / f"linked-{what[2]}"
    folder.mkdir()
    (folder / ".workspacekit").symlink_to(outside)
    space = workspace(config, folder=folder).started()
    if what == "a variable":
        assert space.exec("gp", "env", "A=b", check=False).returncode != 0
    else:
        until(lambda: space.status()["t"]["state"] not in ("waiting", "starting"), 10, lambda: space.status())
    assert [path.name for path in outside.iterdir()] == ["init"] and os.stat(outside / "init").st_uid == 0


# ---- configurations

SECRET = "root:$6$salt$precious:19000:0:99999:7:::\n"


@pytest.fixture
def shadow(lab):
    """A file that only root may read, and that is no configuration."""
    file = lab.folder / "etc" / "secret"
    file.write_text(SECRET)
    file.chmod(0o600)
    return "/etc/secret"


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("name", [".gitpod.yml", ".workspacekit.yml"])
def test_a_configuration_that_leads_elsewhere_is_not_shown(lab, workspace, shadow, name, beside):
    folder = lab.folder / f"leads-{name[1]}{int(beside)}"
    folder.mkdir()
    (folder / name).symlink_to(shadow)
    if beside:  # a directory whose name only begins as that of the configuration's
        (lab.folder / f"{folder.name}-other").mkdir()
        shutil.move(lab.folder / "etc" / "secret", lab.folder / f"{folder.name}-other" / "secret")
        (folder / name).unlink()
        (folder / name).symlink_to(f"../{folder.name}-other/secret")
    space = workspace(None, folder=folder)
    assert space.wait() == 78
    assert "leads out of its directory" in space.stderr and "precious" not in space.stderr + space.stdout
    for verb in ("validate", "graph"):
        result = lab.in_pod(BINARY, verb, cwd=folder, check=False)
        assert result.returncode == 78 and "precious" not in result.stderr + result.stdout


@pytest.mark.parametrize("name", [".gitpod.yml", ".workspacekit.yml"])
def test_a_pipe_as_configuration_holds_nothing_up(lab, workspace, name):
    folder = lab.folder / f"pipe-{name[1]}"
    folder.mkdir()
    os.mkfifo(folder / name)
    space = workspace(None, folder=folder)
    assert space.wait() == 78 and "is no regular file" in space.stderr
    assert lab.in_pod(BINARY, "validate", cwd=folder, check=False).returncode == 78


def test_neither_does_an_edit(lab, workspace, shadow):
    space = workspace("tasks: [{name: t, command: sleep 1000}]\n").started()
    said = lambda: space.stdout + space.stderr
    for make, words in ((lambda new: new.symlink_to(shadow), "leads out of its directory"), (lambda new: os.mkfifo(new), "is no regular file")):
        new = space.folder / "new"
        make(new)
        os.rename(new, space.folder / ".gitpod.yml")
        until(lambda: words in said(), 10, words)
        assert space.status()["t"]["state"] == "running"
        assert "precious" not in said() + space.cli("events").stdout + space.cli("reload", check=False).stderr


def test_links_that_stay_and_files_that_are_named_are_read(lab, workspace, tmp_path):
    config = "tasks: [{name: t, command: 'true'}]\n"
    folder = lab.folder / "stays"
    (folder / "config").mkdir(parents=True)
    (folder / "config/real.yml").write_text(config)
    (folder / ".gitpod.yml").symlink_to("config/real.yml")
    assert workspace(None, folder=folder, verb="prebuild").wait() == 0
    elsewhere = lab.folder / "named.yml"
    elsewhere.write_text(config)
    (folder / "link.yml").symlink_to(elsewhere)
    space = workspace(None, folder=folder, verb="prebuild", arguments=["--config", str(folder / "link.yml")])
    assert space.wait() == 0, space.stderr
    # An open file that a shell names.
    assert "1 task" in lab.in_pod("bash", "-c", f"{BINARY} validate <(cat {elsewhere})").stdout
    assert "1 task" in lab.in_pod("bash", "-c", f"cat {elsewhere} | {BINARY} validate /dev/stdin").stdout
