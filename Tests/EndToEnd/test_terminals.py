"""Units on a terminal, and attach."""

import fcntl
import os
import select
import signal
import struct
import termios
import time

from conftest import BINARY, die_with_parent, until


class Screen:
    """A command on a terminal of the test's own."""

    def __init__(self, space, *words, rows=24, columns=80):
        self.master, terminal = os.openpty()
        self.resize(rows, columns)
        self.seen = b""

        def own_terminal():
            die_with_parent()
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = space.lab.popen_in(space.lab.pod, [*space.prefix, BINARY, words[0], "--state-dir", str(space.state), *words[1:]],
                                          env=space.environment, stdin=terminal, stdout=terminal, stderr=terminal, preexec_fn=own_terminal)
        os.close(terminal)

    def resize(self, rows, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, data):
        os.write(self.master, data)

    def text(self):
        while select.select([self.master], [], [], 0)[0]:
            try:
                data = os.read(self.master, 65536)
            except OSError:
                break
            if not data:
                break
            self.seen += data
        return self.seen

    def shows(self, what, seconds=10):
        until(lambda: what in self.text(), seconds, f"{what} on the screen ({self.seen!r})")

    def ends(self, seconds=10):
        code = until(lambda: (self.text(), self.process.poll())[1] is not None and [self.process.poll()], seconds, "the command's end")[0]
        self.text()
        return code


SHELL = """
workspacekit:
  services:
    shell: {command: "sh -c 'echo begins; while read line; do case $line in size) stty size;; end) exit 9;; *) echo got $line;; esac; done'", tty: true}
    plain: {command: sleep 1000}
"""


def running(space, name):
    until(lambda: space.status()[name]["state"] == "running", 10, name)


def test_typing_replay_resize_and_exit_code(workspace):
    space = workspace(SHELL).started()
    running(space, "shell")
    until(lambda: "[shell] begins" in space.stdout, 10, "its output in the console")
    screen = Screen(space, "attach", "shell", rows=33, columns=99)
    screen.shows(b"begins\r\n")  # printed before
    screen.type(b"hello\r")
    screen.shows(b"got hello\r\n")
    screen.type(b"size\r")
    screen.shows(b"33 99\r\n")
    screen.resize(40, 120)
    def resized():
        screen.type(b"size\r")
        time.sleep(0.05)
        return b"40 120\r\n" in screen.text()
    until(resized, 10, "the new size")
    screen.type(b"end\r")
    assert screen.ends() == 9
    assert "got hello" in space.cli("logs", "shell").stdout


def test_detaching_leaves_it_running(workspace):
    space = workspace(SHELL).started()
    running(space, "shell")
    pid = space.status()["shell"]["pid"]
    screen = Screen(space, "attach", "shell")
    screen.shows(b"begins")
    screen.type(b"\x10")  # held back: it may be the beginning of the detach keys
    screen.type(b"\x11")
    screen.shows(b"detached from shell")
    assert screen.ends() == 0
    assert space.status()["shell"]["pid"] == pid
    other = Screen(space, "attach", "--detach-keys", "ctrl-a,d", "shell")
    other.shows(b"begins")
    other.type(b"still here\r")
    other.shows(b"got still here")
    other.type(b"\x01d")
    assert other.ends() == 0
    wrong = space.cli("attach", "shell", "--detach-keys", "ctrl-", check=False)
    assert wrong.returncode == 64 and "no sequence of keys" in wrong.stderr


def test_several_look_and_one_types(workspace):
    space = workspace(SHELL).started()
    running(space, "shell")
    first = Screen(space, "attach", "shell")
    first.shows(b"begins")
    second = Screen(space, "attach", "shell")
    second.shows(b"somebody else types")
    second.type(b"ignored\r")
    first.type(b"one\r")
    first.shows(b"got one")
    second.shows(b"got one")
    assert b"ignored" not in first.text()
    first.type(b"\x10\x11")
    assert first.ends() == 0
    third = Screen(space, "attach", "shell")
    third.shows(b"got one")
    third.type(b"three\r")
    second.shows(b"got three")
    third.type(b"end\r")
    assert (second.ends(), third.ends()) == (9, 9)


def test_it_outlives_the_supervisor(workspace):
    space = workspace(SHELL).started()
    running(space, "shell")
    screen = Screen(space, "attach", "shell")
    screen.shows(b"begins")
    old = space.stage("supervise")
    os.kill(old, signal.SIGKILL)
    until(lambda: space.stage("supervise") != old, 5, "another supervisor")
    running(space, "shell")
    until(lambda: (screen.type(b"after\r"), time.sleep(0.1), b"got after" in screen.text())[2], 10, "the terminal with the next supervisor")
    assert screen.text().count(b"begins") == 1
    screen.type(b"\x10\x11")
    assert screen.ends() == 0


def test_a_viewer_that_does_not_read_holds_nobody_up(workspace):
    space = workspace("""
workspacekit:
  services:
    loud: {command: "sh -c 'read go; i=0; while [ $i -lt 40000 ]; do i=$((i+1)); echo a line of output with the number $i; done; echo finished; sleep 1000'", tty: true}
""").started()
    running(space, "loud")
    screen = Screen(space, "attach", "loud")
    screen.type(b"\r")
    until(lambda: "finished" in space.cli("logs", "-n", "1", "loud").stdout, 30, "its output, whoever reads")
    os.close(screen.master)  # hangs up
    until(lambda: screen.process.poll() is not None, 10, "the viewer's end with its terminal")


def test_what_cannot_be_attached_to_says_why(workspace):
    space = workspace(SHELL).started()
    running(space, "plain")
    refused = space.cli("attach", "plain", check=False)
    assert refused.returncode == 1
    assert refused.stderr == 'workspacekit: plain has no terminal (tty: true gives it one): see "workspacekit logs -f plain"\n'
    space.cli("stop", "shell")
    until(lambda: space.status()["shell"]["state"] == "stopped", 10, "its end")
    assert "shell does not run" in space.cli("attach", "shell", check=False).stderr
    assert 'no unit "x"' in space.cli("attach", "x", check=False).stderr


def test_job_control_and_the_user_own_the_terminal(workspace):
    space = workspace("""
tasks: [{name: t, command: "stty size; tty; test -w $(tty) && echo writable; ps -o tpgid= -p $$; sleep 1000"}]
workspacekit: {tasks: {t: {tty: true, user: nobody}}}
""").started()
    until(lambda: "writable" in space.stdout and "/dev/pts/" in space.stdout, 10, "the terminal")
    screen = Screen(space, "attach", "t")
    screen.shows(b"writable")
    screen.type(b"\x03")  # Ctrl-C reaches the foreground job
    assert screen.ends() == 130


def test_a_full_disk_loses_nothing_of_a_terminal(workspace, lab):
    """What the log does not take is kept in memory, and said, as for any other unit."""
    state = lab.folder / "full-state"
    state.mkdir(exist_ok=True)
    lab.in_pod("mount", "-t", "tmpfs", "-o", "size=96k,mode=711", "tmpfs", str(state))
    try:
        space = workspace("""
workspacekit:
  services:
    loud: {command: "sh -c 'i=0; while [ $i -lt 6000 ]; do i=$((i+1)); echo a line with the number $i; done; echo finished; sleep 1000'", tty: true}
""", arguments=["--state-dir", str(state)])
        until(lambda: "[loud] finished" in space.stdout, 20, "its output")
        assert "loud: its log is not written, the last 256 KiB are kept in memory: no space left" in space.stderr
        assert "finished" in lab.in_pod(BINARY, "logs", "--state-dir", str(state), "-n", "1", "loud").stdout
        space.stop()
    finally:
        lab.in_pod("umount", "-l", str(state), check=False)
