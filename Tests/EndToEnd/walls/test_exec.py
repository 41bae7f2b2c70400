"""What a program run by `exec` can do to the terminal of the operator who ran it."""

import os
import pty
import select
import subprocess

from conftest import BINARY, PYTHON, until

# Tells which of its streams are terminals, leaves a process behind that keeps its input, and ends.
KEEPS = """
import os, sys, time
print("terminals", [number for number in range(3) if os.isatty(number)], flush=True)
if os.fork() == 0:
    with open("kept", "w") as file:
        file.write("open"); file.flush()
        while not os.path.exists("read"): time.sleep(0.01)
        file.write(os.read(0, 100).decode() or "end"); file.flush()
    os._exit(0)
while not os.path.exists("kept"): time.sleep(0.01)
print("typed", sys.stdin.readline().strip(), flush=True)
open("read", "w").close()
print("error", file=sys.stderr, flush=True)
os._exit(5)
"""


def on_terminal(space, *arguments):
    """Starts `exec` on a terminal of its own; the process, and the terminal's master."""
    master, slave = pty.openpty()
    process = space.lab.popen_in(space.lab.pod, [*space.prefix, BINARY, "exec", "--state-dir", str(space.state), *arguments],
                                 env=space.environment, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    return process, master


def read_until(master, text, seconds=10):
    seen = b""
    def look():
        nonlocal seen
        if select.select([master], [], [], 0.05)[0]:
            try:
                seen += os.read(master, 4096)
            except OSError:  # the last one who had it open is gone
                return True
        return text in seen
    until(look, seconds, f"{text!r} on the terminal")
    return seen


def test_exec_without_t_does_not_hand_over_the_terminal(workspace):
    space = workspace("tasks:\n  - {name: idle, command: sleep 600}\n").started()
    process, master = on_terminal(space, "--", PYTHON, "-c", KEEPS)
    assert b"terminals []" in read_until(master, b"terminals [")
    os.write(master, b"a line\n")
    seen = read_until(master, b"error")
    assert b"typed a line" in seen and process.wait(10) == 5
    # What is typed afterwards does not reach the process that stayed.
    os.write(master, b"secret\n")
    until(lambda: (space.folder / "kept").read_text() == "openend", 10, "the end of its input")
    os.close(master)


def test_the_end_of_input_and_much_output_pass_through_the_pipes(workspace):
    space = workspace("tasks:\n  - {name: idle, command: sleep 600}\n").started()
    process, master = on_terminal(space, "--", "sh", "-c", "cat; head -c 300000 /dev/zero | tr '\\0' x; echo; echo done; exit 7")
    os.write(master, b"first\n\x04")
    seen = read_until(master, b"done")
    assert seen.count(b"x") == 300000 and seen.count(b"first") == 2 and process.wait(10) == 7
    os.close(master)


def test_what_is_no_terminal_is_handed_over_as_it_is(workspace):
    space = workspace("tasks:\n  - {name: idle, command: sleep 600}\n").started()
    result = subprocess.run([*space.lab.enter(space.lab.pod), *space.prefix, BINARY, "exec", "--state-dir", str(space.state), "--",
                             "sh", "-c", "cat; echo error >&2"], env=space.environment, input=b"through", capture_output=True, timeout=30)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"through", b"error\n")
