"""The workspace's own /etc/resolv.conf and /etc/hosts: they follow the container's, whatever happens to those, and nothing of
the container's is ever written."""

import os

import pytest

from conftest import HERE, PYTHON, USER, WORLD4, until
from test_name_servers import asked, dig, servers, resolver  # noqa: F401 (fixtures)

OWN = "nameserver 10.0.2.3\n"


@pytest.fixture
def etc(lab):
    """The pod's /etc, as others outside see it; afterwards both files are as before."""
    etc = lab.folder / "etc"
    hosts = (etc / "hosts").read_text()
    yield etc
    for name, text in (("hosts", hosts), ("resolv.conf", f"nameserver {WORLD4}\nsearch example.test\n")):
        (etc / "new").write_text(text)
        os.rename(etc / "new", etc / name)


def replace(path, text):
    """As NetworkManager, resolvconf and dhclient do it."""
    new = path.parent / (path.name + ".new")
    new.write_text(text)
    os.rename(new, path)


def link(path, target):
    new = path.parent / (path.name + ".new")
    new.symlink_to(target)
    os.rename(new, path)


def inside(space, path="/etc/resolv.conf"):
    return space.exec("cat", path, check=False).stdout


def plain(etc):
    return etc / "resolv.conf"


def one_link(etc):
    (etc / "a").mkdir(exist_ok=True)
    (etc / "a/resolv.conf").write_text(f"nameserver {WORLD4}\n")
    link(etc / "resolv.conf", "/etc/a/resolv.conf")
    return etc / "a/resolv.conf"


def two_links(etc):
    last = one_link(etc)
    (etc / "b").mkdir(exist_ok=True)
    (etc / "b/link").unlink(missing_ok=True)
    (etc / "b/link").symlink_to("../a/resolv.conf")
    link(etc / "resolv.conf", "b/link")
    return last


def relative_link_through_a_linked_directory(etc):
    """As Debian's resolvconf has it: resolvconf/run/resolv.conf, where run is a link."""
    (etc / "c").mkdir(exist_ok=True)
    (etc / "c/run").unlink(missing_ok=True)
    (etc / "c/run").symlink_to("/etc/a")
    last = one_link(etc)
    link(etc / "resolv.conf", "c/run/resolv.conf")
    return last


WAYS = [plain, one_link, two_links, relative_link_through_a_linked_directory]


@pytest.mark.parametrize("way", WAYS)
def test_the_workspace_keeps_its_copy_whatever_happens_outside(workspace, etc, way):
    file = way(etc)
    replace(file, f"nameserver {WORLD4}\nsearch first.test\n")
    space = workspace("").started()
    assert inside(space) == OWN + "search first.test\n"
    # A loopback stub that only the outside has, other domains and options: by rename, twice, and by an edit.
    for turn in range(2):
        replace(file, f"nameserver 127.0.0.53\nnameserver {WORLD4}\noptions ndots:{turn}\nsearch second.test\n")
        until(lambda: inside(space) == f"{OWN}options ndots:{turn}\nsearch second.test\n", 10, lambda: inside(space))
    file.write_text(f"nameserver {WORLD4}\nsearch third.test\n")
    until(lambda: inside(space) == OWN + "search third.test\n", 10, lambda: inside(space))
    until(lambda: dig(space, "www.test") == [WORLD4], 10, "an answer")
    # Removed, and made again.
    file.unlink()
    replace(file, f"nameserver {WORLD4}\nsearch fourth.test\n")
    until(lambda: inside(space) == OWN + "search fourth.test\n", 10, lambda: inside(space))
    assert space.cli("net status").returncode == 0


def test_a_link_that_is_switched_leads_the_copy_with_it(workspace, etc):
    for name in ("a", "b"):
        (etc / name).mkdir(exist_ok=True)
        (etc / name / "resolv.conf").write_text(f"nameserver {WORLD4}\nsearch {name}.test\n")
    link(etc / "resolv.conf", "a/resolv.conf")
    space = workspace("").started()
    for name in ("b", "a", "b"):
        link(etc / "resolv.conf", f"/etc/{name}/resolv.conf")
        until(lambda: inside(space) == f"{OWN}search {name}.test\n", 10, lambda: inside(space))


def test_hosts_is_followed_too(workspace, etc):
    space = workspace("").started()
    for number in range(2):
        replace(etc / "hosts", f"127.0.0.1 localhost\n198.18.0.{number} host{number}.example\n")
        until(lambda: f"198.18.0.{number}" in space.exec("getent", "ahostsv4", f"host{number}.example", check=False).stdout and "host.workspacekit" in inside(space, "/etc/hosts"), 10, lambda: inside(space, "/etc/hosts"))


def test_what_was_edited_inside_stays_until_it_is_reset(workspace, etc):
    space = workspace("").started()
    space.exec("sh", "-c", "echo 'options timeout:1' >>/etc/resolv.conf")
    replace(etc / "resolv.conf", f"nameserver {WORLD4}\nsearch other.test\n")
    until(lambda: "was edited inside" in space.stderr, 10, "the note")
    assert "timeout:1" in inside(space) and "other.test" not in inside(space)
    space.cli("net reset")
    assert inside(space) == OWN + "search other.test\n"
    replace(etc / "resolv.conf", f"nameserver {WORLD4}\nsearch last.test\n")
    until(lambda: inside(space) == OWN + "search last.test\n", 10, lambda: inside(space))


def test_a_file_that_the_workspace_puts_in_the_copys_place_is_not_bound(workspace, etc):
    """Only the very file that was made is: what is written through its descriptor must be what is seen."""
    space = workspace("").started()
    space.exec("sh", "-ec", "cd /dev/.workspacekit; rm etc-resolv.conf; echo nameserver 198.18.0.99 > etc-resolv.conf")
    assert inside(space).startswith(OWN)
    replace(etc / "resolv.conf", f"nameserver {WORLD4}\nsearch later.test\n")
    until(lambda: "/etc/resolv.conf is the container's: the workspace has removed its copy" in space.stderr, 10, lambda: space.stderr)
    assert "198.18.0.99" not in inside(space)


def test_links_that_lead_in_a_circle_hold_nothing_up(workspace, etc):
    space = workspace("").started()
    link(etc / "circle-a", "circle-b")
    link(etc / "circle-b", "circle-a")
    link(etc / "resolv.conf", "circle-a")
    # ring0 goes on: it looks at both files, and follows what comes next.
    replace(etc / "hosts", "198.18.0.77 later.invalid\n")
    until(lambda: "later.invalid" in inside(space, "/etc/hosts"), 10, "the other file")
    replace(etc / "resolv.conf", f"nameserver {WORLD4}\nsearch after.test\n")
    until(lambda: "after.test" in inside(space), 10, "the file that came next")


def test_directories_that_lead_nowhere_any_more_are_not_watched(workspace, etc):
    space = workspace("").started()
    ring0 = f"/proc/{space.process.pid}/fdinfo"
    watches = lambda: sum(line.startswith("inotify ") for fd in os.listdir(ring0) for line in open(f"{ring0}/{fd}"))
    before = watches()
    for number in range(12):
        (etc / f"w{number}").mkdir()
        (etc / f"w{number}/resolv.conf").write_text(f"nameserver {WORLD4}\nsearch w{number}.test\n")
        link(etc / "resolv.conf", f"w{number}/resolv.conf")
        until(lambda: f"w{number}.test" in inside(space), 10, "the link")
    assert watches() <= before + 2


@pytest.mark.parametrize("way", WAYS)
def test_nothing_outside_is_written(workspace, etc, way):
    """Not after a rename outside, and not while the workspace's root takes the copy away again and again."""
    file = way(etc)
    space = workspace("").started()
    text = f"nameserver {WORLD4}\nsearch outside.test\n# the machine's\n"
    replace(file, text)
    for _ in range(5):
        space.cli("net reset", check=False)
        assert file.read_text() == text
    space.exec("sh", "-c", "(while :; do umount /etc/resolv.conf; done) </dev/null >/dev/null 2>&1 & echo $! >/run/umounts")
    for _ in range(20):
        space.cli("net reset", check=False)
        assert file.read_text() == text
    space.exec("sh", "-c", "kill $(cat /run/umounts)")
    # The workspace's copy of it removed, and what was bound anew after the rename unmounted: the container's file shows.
    space.exec("sh", "-c", "rm -rf /dev/.workspacekit/*")

    def is_seen():
        # It may have been bound once more meanwhile.
        space.exec("umount", "/etc/resolv.conf", check=False)
        return space.cli("net status", check=False).returncode == 1
    until(is_seen, 10, "the problem")
    assert "not the workspace's own" in space.cli("net status", check=False).stdout
    space.cli("net reset", check=False)
    assert file.read_text() == text


def test_the_copy_of_the_start_stays_where_it_is(workspace, etc):
    """Root inside does not get it out of the way: the mount is the stages'."""
    text = (etc / "resolv.conf").read_text()
    space = workspace("").started()
    space.exec("sh", "-c", "umount /etc/resolv.conf; umount -l /etc/resolv.conf; rm /etc/resolv.conf; mv /etc/resolv.conf /etc/moved", check=False)
    assert inside(space) == OWN + "search example.test\n"
    space.exec("sh", "-c", "echo nameserver 198.18.0.10 >/etc/resolv.conf")
    assert (etc / "resolv.conf").read_text() == text


@pytest.mark.parametrize("when", ["at the start", "later"])
def test_a_pipe_in_its_place_holds_nothing_up(workspace, etc, when):
    space = None if when == "at the start" else workspace("").started()
    for name in ("resolv.conf", "hosts"):
        os.mkfifo(etc / "new")
        os.rename(etc / "new", etc / name)
    space = space or workspace("").started()
    assert space.exec("echo", "here").stdout == "here\n"
    replace(etc / "resolv.conf", f"nameserver {WORLD4}\n")
    until(lambda: dig(space, "www.test", "+time=1") == [WORLD4], 20, "the name server")
    space.process.terminate()
    assert space.wait() == 0


# ---- which servers are asked

@pytest.fixture
def loopback_server(lab):
    """A name server of the container's own, on its loopback."""
    output = lab.folder / "names-127.0.0.53"
    with open(output, "wb") as file:
        process = lab.popen_in(lab.pod, [PYTHON, str(HERE / "name_server.py"), "127.0.0.53", "answer"], stdout=file)
    until(lambda: b"ready" in output.read_bytes(), 10, "the name server")
    yield "127.0.0.53"
    process.kill()
    process.wait()


def test_a_loopback_resolver_of_the_start_is_asked(workspace, etc, lab, loopback_server):
    replace(etc / "resolv.conf", f"nameserver {loopback_server}\n")
    space = workspace("").started()
    assert dig(space, "a.test") == [WORLD4] and asked(lab, loopback_server) == ["a.test"]
    # It goes and comes, as with a VPN.
    for server in (WORLD4, loopback_server):
        replace(etc / "resolv.conf", f"nameserver {server}\nsearch {server.replace('.', '-')}.test\n")
        until(lambda: server.replace(".", "-") in inside(space), 10, "the change")
    until(lambda: dig(space, "b.test") and "b.test" in asked(lab, loopback_server), 10, "a query")


def test_no_change_leads_to_loopback_or_to_a_metadata_service(workspace, etc, lab, servers, loopback_server):
    servers({"169.254.169.254": "answer"}, names=["198.18.0.1"])
    space = workspace("").started()
    for turn, bad in enumerate((loopback_server, "169.254.169.254", "::1", "fe80::1%eth0", "0.0.0.0")):
        replace(etc / "resolv.conf", f"nameserver {bad}\nnameserver {WORLD4}\n")
        until(lambda: f"names {bad} now" in space.stderr, 10, "the note")
        assert dig(space, f"{turn}.test", "+notcp") == dig(space, f"{turn}.test", "+tcp") == [WORLD4]
    for server in (loopback_server, "169.254.169.254"):
        assert asked(lab, server) == asked(lab, server, "tcp") == []


def test_a_metadata_address_of_the_start_is_asked(workspace, etc, lab, servers):
    """As on machines of Google's cloud."""
    servers({"169.254.169.254": "answer"})
    space = workspace("").started()
    assert dig(space, "a.test") == [WORLD4]


EGRESS = 'workspacekit: {network: {egress: {default: deny, allow: ["*.ok.test"]}}}\n'


def test_what_the_workspace_can_write_does_not_choose_the_servers_of_its_policy(workspace, etc, lab, servers):
    """The container's resolv.conf, a link that the workspace's root leads elsewhere."""
    servers({"198.18.0.10": "answer"}, names=[WORLD4])
    (etc / "real").write_text(f"nameserver {WORLD4}\n")
    link(etc / "resolv.conf", "real")
    space = workspace(EGRESS.replace("workspacekit: {", "workspacekit: {filesystem: {writable: [/etc]}, ")).started()
    space.exec("sh", "-ec", "echo nameserver 198.18.0.10 >/etc/theirs; ln -sfn theirs /etc/resolv.conf")
    assert (etc / "resolv.conf").read_text() == "nameserver 198.18.0.10\n", "outside it leads there"
    until(lambda: "is not followed" in space.stderr, 10, "the note")
    assert dig(space, "a.ok.test") == [WORLD4]
    assert asked(lab, "198.18.0.10") == []


@pytest.mark.parametrize("attack", [
    "ln -sfn theirs /etc/resolv.conf", "rm /etc/resolv.conf; cp /etc/theirs /etc/resolv.conf", "umount /etc/resolv.conf; cp /etc/theirs /etc/resolv.conf",
    "mv /etc /etc2; mkdir /etc; cp /etc2/theirs /etc/resolv.conf"])
def test_under_a_policy_it_writes_none_that_is_the_container_s(workspace, etc, lab, servers, attack):
    servers({"198.18.0.10": "answer"}, names=[WORLD4])
    before = sorted(path.name for path in etc.iterdir())
    space = workspace(EGRESS).started()
    space.exec("sh", "-c", f"echo nameserver 198.18.0.10 >/etc/theirs; {attack}", check=False)
    assert WORLD4 in (etc / "resolv.conf").read_text() and sorted(path.name for path in etc.iterdir()) == before
    assert dig(space, "a.ok.test", "@10.0.2.3") == [WORLD4] and asked(lab, "198.18.0.10") == []
    # Its root cannot write the file, so that changes of it are followed.
    replace(etc / "resolv.conf", "nameserver 198.18.0.10\n")
    until(lambda: dig(space, "b.ok.test", "@10.0.2.3", "+time=1") and "b.ok.test" in asked(lab, "198.18.0.10"), 10, "a query")


def test_what_it_cannot_write_is_followed_under_a_policy_too(workspace, etc):
    space = workspace(EGRESS, user=USER).started()
    replace(etc / "resolv.conf", "nameserver 198.18.0.77\nsearch now.test\n")
    until(lambda: "now.test" in inside(space), 10, "the change")
    assert dig(space, "a.ok.test", "+time=1") != [WORLD4]
