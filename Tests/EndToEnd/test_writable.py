"""`writable`: directories in which root inside may make files though the container does not let it."""

import os
import socket

import pytest

from conftest import PLAIN_USER, USER, until


@pytest.fixture
def place(lab):
    """A directory of the lab's root, as one's machine or a container's root has them."""
    place = lab.folder / "place"
    (place / "deep/er").mkdir(parents=True)
    (place / "small").write_text("small\n")
    (place / "deep/er/file").write_text("far down\n")
    (place / "large").write_bytes(b"x" * 100_000)
    (place / "secret").write_text("nobody's business\n")
    (place / "secret").chmod(0o600)
    (place / "closed").mkdir(mode=0o700)
    (place / "program").write_text("#!/bin/sh\necho it runs\n")
    (place / "program").chmod(0o755)
    os.symlink("small", place / "link")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place / "socket"))
    (place / "socket").chmod(0o600)
    (place / "theirs").mkdir()
    os.chown(place / "theirs", USER, USER)
    yield place
    lab.in_pod("rm", "-rf", str(place))


CHECK = r"""
set -e
cd "$1"
echo more >>small; echo new >new; cat small new
echo changed >deep/er/file; cat deep/er/file link
wc -c <large; readlink large
./program
test ! -e secret; test ! -e socket; mkdir closed/inner
touch theirs/made
mkdir -p deep/er/still/deeper
rm program; test ! -e program
"""


@pytest.mark.parametrize("user", [USER, PLAIN_USER], ids=["with a range", "one id"])
def test_an_ordinary_user_writes_where_nobody_outside_lets_them(inside, place, user):
    before = sorted(str(path) for path in place.rglob("*"))
    result = inside("sh", "-c", CHECK.replace("touch theirs/made", "touch theirs/made" if user == USER else ":"), "sh", str(place),
                    config=f"workspacekit: {{filesystem: {{writable: [{place}]}}}}\n", user=user)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["small", "more", "new", "changed", "small", "more", "100000", f"{place}/.below/large", "it runs"]
    # Outside nothing has changed, but where the user may write anyway.
    made = [str(place / "theirs/made")] if user == USER else []
    assert sorted(str(path) for path in place.rglob("*")) == sorted(before + made)
    assert (place / "small").read_text() == "small\n" and (place / "deep/er/file").read_text() == "far down\n"


def test_root_writes_where_it_may_and_on_a_read_only_place_beside_it(inside, lab, place):
    config = f"workspacekit: {{filesystem: {{writable: [{place}]}}}}\n"
    assert inside("sh", "-c", f"touch {place}/by-root; test ! -e {place}/.below", config=config).returncode == 0
    assert (place / "by-root").exists()
    through = ["unshare", "--mount", "--propagation", "private", "sh", "-c", f'mount --bind -o ro {place} {place} && mount -o remount,ro,bind {place} && exec "$@"', "sh"]
    result = inside("sh", "-c", f"touch {place}/kept-inside && cat {place}/by-root && ls {place}/.below", config=config, through=through)
    assert result.returncode == 0, result.stderr
    assert not (place / "kept-inside").exists()


def test_a_large_tree_is_linked_beyond_a_bound(inside, place):
    """Ten thousand entries are made again; a start must not take longer the more there are."""
    for number in range(12):
        (place / f"many{number:02}").mkdir()
        for file in range(1000):
            (place / f"many{number:02}" / str(file)).touch()
    result = inside("sh", "-c", f"cd {place}; find . -path ./.below -prune -o -type f -print | wc -l; find many* -maxdepth 0 -type l | wc -l; cat many*/999 | wc -c",
                    config=f"workspacekit: {{writable: [{place}]}}\n", user=USER)
    files, links, _ = map(int, result.stdout.split())
    assert 9000 < files <= 11_000 and links >= 1, result.stdout


def test_a_directory_that_is_not_there_is_said(inside):
    result = inside("true", config="workspacekit: {filesystem: {writable: [/there/is/none]}}\n")
    assert result.returncode == 0
    assert "writable: there is no directory /there/is/none in the container" in result.stderr


@pytest.mark.parametrize("path", ["/", "/dev", "/proc"])
def test_what_cannot_be_covered_is_said(inside, path):
    result = inside("sh", "-c", "test -e /dev/null && test -e /proc/self", config=f"workspacekit: {{filesystem: {{writable: [{path}]}}}}\n", user=USER)
    assert result.returncode == 0, result.stderr
    assert f"writable: {path} cannot be covered" in result.stderr


def test_an_edit_of_it_takes_effect_at_the_next_start(workspace):
    space = workspace("workspacekit: {filesystem: {writable: [/srv]}}\n").started()
    (space.folder / ".gitpod.yml").write_text("workspacekit: {filesystem: {writable: [/srv, /opt]}}\n")
    until(lambda: "workspacekit.filesystem: takes effect at the next start of the workspace" in space.stderr, 10, lambda: space.stderr)
