"""A reader of standard output or standard error that pauses: `run … | sleep 60`, Ctrl-S, a `docker attach` that is suspended,
a log driver that blocks. The workspace goes on, answers, and stops in order."""

import fcntl
import os
import pty
import re
import signal
import socket
import termios
import threading
import tty

import pytest

from conftest import until

NOISY = """
tasks:
  - name: noise
    command: trap 'echo told > {folder}/told; exit 0' TERM; while :; do seq 100000 101000; done
workspacekit:
  services:
    good: {{command: "sh -c 'trap \\"echo told > {folder}/good; exit 0\\" TERM; while :; do sleep 0.1; done'"}}
"""


class Reader:
    """The two ends of what is to be a standard stream; nobody reads it until `resume`."""

    def __init__(self, kind):
        self.kind = kind
        if kind == "pipe":
            self.ours, self.theirs = os.pipe()
        elif kind == "socket":
            self.sockets = socket.socketpair()
            self.ours, self.theirs = (end.fileno() for end in self.sockets)
        else:
            self.ours, self.theirs = pty.openpty()
            tty.setraw(self.theirs)
            if kind == "stopped terminal":
                termios.tcflow(self.theirs, termios.TCOOFF)  # Ctrl-S

    def flags(self):
        return fcntl.fcntl(self.theirs, fcntl.F_GETFL)

    def resume(self):
        if self.kind == "stopped terminal":
            termios.tcflow(self.theirs, termios.TCOON)
        self.text = b""
        if hasattr(self, "sockets"):
            os.set_blocking(self.theirs, True)

        def read():
            while True:
                try:
                    piece = os.read(self.ours, 65536)
                except OSError:
                    return
                if not piece:
                    return
                self.text += piece
        self.thread = threading.Thread(target=read, daemon=True)
        self.thread.start()


KINDS = ["pipe", "terminal", "stopped terminal", "socket"]


def has_rotated(space):
    return (space.state / "logs" / "noise.log.1").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_reads(workspace, lab, kind):
    """Standard output and standard error are the same; units print megabytes; status answers, and the stop is in order."""
    reader = Reader(kind)
    folder = lab.folder / f"r-{os.urandom(4).hex()}"
    space = workspace(NOISY.format(folder=folder), folder=folder, stdout=reader.theirs, stderr=reader.theirs)
    until(lambda: has_rotated(space), 60, "4 MiB in the log of a unit whose output nobody reads")
    assert space.status()["noise"]["state"] == "running"
    assert space.status()["good"]["state"] == "running"
    assert not reader.flags() & os.O_NONBLOCK, "the flags that the reader's other users share were changed"
    space.process.send_signal(signal.SIGTERM)
    code = space.wait(60)
    assert code != 137, "killed, since it did not stop"
    assert (folder / "told").read_text() == "told\n"
    assert (folder / "good").read_text() == "told\n"


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_standard_error_is_no_reason_to_ignore_a_signal(workspace, lab, kind):
    """Standard error alone is full before the start: ring0 and the supervisor have things to say, and go on."""
    reader = Reader(kind)
    if kind != "stopped terminal":
        os.set_blocking(reader.theirs, False)
        try:
            while os.write(reader.theirs, b"x" * 4096):
                pass
        except BlockingIOError:
            pass
        os.set_blocking(reader.theirs, True)
    folder = lab.folder / f"r-{os.urandom(4).hex()}"
    space = workspace(NOISY.format(folder=folder), folder=folder, stderr=reader.theirs)
    space.started(60)
    until(lambda: space.status()["good"]["state"] == "running", 30)
    space.process.send_signal(signal.SIGTERM)
    assert space.wait(60) != 137
    assert (folder / "good").read_text() == "told\n"


def test_what_is_not_shown_is_counted(workspace):
    """Every line is shown or counted, in order, and the count is said once the reader goes on."""
    total = 400000
    reader = Reader("pipe")
    space = workspace(f"tasks: [{{name: t, command: 'seq {total}; sleep 1000'}}]", stdout=reader.theirs, stderr=reader.theirs)
    log = space.state / "logs" / "t.log"
    until(lambda: log.exists() and log.read_bytes().endswith(f"\n{total}\n".encode()), 60, "the last line in the log")
    reader.resume()
    until(lambda: re.search(rb"(\d+) lines were not shown: the reader of standard output is too slow", reader.text), 30)
    space.process.send_signal(signal.SIGTERM)
    space.wait(60)
    os.close(reader.theirs)
    reader.thread.join(30)
    shown = [int(number) for number in re.findall(rb"^\[t\] (\d+)$", reader.text, re.M)]
    lost = sum(int(count) for count in re.findall(rb"(\d+) lines? (?:was|were) not shown", reader.text))
    assert shown == sorted(set(shown)) and lost > 0
    # Notices go the same way, and count when they are lost.
    assert total <= len(shown) + lost <= total + 10


def test_a_reader_that_reads_gets_everything_in_order(workspace):
    total = 300000
    reader = Reader("pipe")
    reader.resume()
    space = workspace(f"tasks: [{{name: t, command: 'seq {total}'}}]", stdout=reader.theirs, verb="run")
    until(lambda: space.started() and space.status()["t"]["state"] == "completed", 60)
    space.process.send_signal(signal.SIGTERM)
    space.wait(60)
    os.close(reader.theirs)
    reader.thread.join(30)
    shown = [int(number) for number in re.findall(rb"^\[t\] (\d+)$", reader.text, re.M)]
    lost = sum(int(count) for count in re.findall(r"(\d+) lines? (?:was|were) not shown", reader.text.decode() + space.stderr))
    assert shown == sorted(set(shown))
    assert len(shown) + lost == total


@pytest.mark.parametrize("user", [None, 47001])
def test_anothers_pipe_cannot_be_opened_again(workspace, user):
    """`sudo -u USER workspacekit run | less`: the pipe belongs to root, mode 0600. Still nothing blocks."""
    reader = Reader("pipe")
    space = workspace("tasks: [{name: noise, command: 'while :; do seq 100000 101000; done'}]", user=user,
                      stdout=reader.theirs, stderr=reader.theirs)
    until(lambda: has_rotated(space), 60, "4 MiB in the log")
    assert space.status()["noise"]["state"] == "running"
    space.process.send_signal(signal.SIGTERM)
    assert space.wait(60) != 137


@pytest.mark.parametrize("user", [None, 47001])
def test_anothers_terminal_cannot_be_opened_again(workspace, user):
    """As after su: the terminal is the user's before, mode 0620."""
    reader = Reader("stopped terminal")
    space = workspace("tasks: [{name: noise, command: 'while :; do seq 100000 101000; done'}]", user=user,
                      stdout=reader.theirs, stderr=reader.theirs)
    until(lambda: has_rotated(space), 60, "4 MiB in the log")
    assert space.status()["noise"]["state"] == "running"
    space.process.send_signal(signal.SIGTERM)
    assert space.wait(60) != 137


def test_a_reader_that_is_gone_is_no_reason_to_end(workspace, lab):
    reader = Reader("pipe")
    folder = lab.folder / f"r-{os.urandom(4).hex()}"
    space = workspace(NOISY.format(folder=folder), folder=folder, stdout=reader.theirs, stderr=reader.theirs)
    os.close(reader.ours)
    until(lambda: has_rotated(space), 60, "4 MiB in the log")
    assert space.status()["good"]["state"] == "running"
    space.process.send_signal(signal.SIGTERM)
    assert space.wait(60) != 137
    assert (folder / "good").read_text() == "told\n"
