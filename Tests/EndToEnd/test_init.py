"""An init for any image: `workspacekit init`, and the same binary called as tini and dumb-init."""

import os
import pathlib
import pty
import re
import select
import signal
import subprocess
import time

import pytest

from conftest import BINARY, PYTHON, comm, die_with_parent, until


@pytest.fixture(scope="module")
def called(tmp_path_factory):
    """The command line of each part that the binary plays."""
    folder = tmp_path_factory.mktemp("init")
    for name in ("tini", "dumb-init"):
        (folder / name).symlink_to(BINARY)
    return {"init": [BINARY, "init"], "tini": [str(folder / "tini")], "dumb-init": [str(folder / "dumb-init")]}


def call(command, *arguments, env=None, **options):
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=30, env={**os.environ, **(env or {})}, **options)


def start(command, *arguments, env=None, **options):
    return subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env={**os.environ, **(env or {})}, preexec_fn=die_with_parent, **options)


ALL = pytest.mark.parametrize("name", ["init", "tini", "dumb-init"])


@ALL
def test_exit_codes_are_the_programs(called, name):
    for code in (0, 1, 2, 77, 127, 254, 255):
        assert call(called[name], "sh", "-c", f"exit {code}").returncode == code
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGUSR1):
        assert call(called[name], "sh", "-c", f"kill -{int(number)} $$").returncode == 128 + number
    # dumb-init has one code for every program that cannot be executed; tini's are the shell's.
    absent = call(called[name], "no-such-program")
    refused = call(called[name], "/etc/passwd")
    assert (absent.returncode, refused.returncode) == ((2, 2) if name == "dumb-init" else (127, 126))
    assert "no-such-program: No such file or directory" in absent.stderr and "/etc/passwd: Permission denied" in refused.stderr
    assert call(called[name]).returncode in (1, 64)


@ALL
def test_a_file_is_looked_up_and_run_as_execvp_does(called, name, tmp_path):
    """A script without a first line goes to the shell, and a file in the working directory is none in PATH."""
    script = tmp_path / "wk-script"
    script.write_text("echo $0 $*\nexit 4\n")
    script.chmod(0o755)
    result = call(called[name], "./wk-script", "a", "b", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (4, "./wk-script a b\n")
    assert call(called[name], "wk-script", cwd=tmp_path).returncode == (2 if name == "dumb-init" else 127)
    result = call(called[name], "wk-script", "c", env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert (result.returncode, result.stdout) == (4, f"{script} c\n")
    script.write_text("#!/no/such/interpreter\n")
    assert call(called[name], str(script)).returncode == (2 if name == "dumb-init" else 127)


@ALL
def test_the_working_directory_is_the_programs_alone(called, name, tmp_path):
    """tini stays where it was started, as the original does."""
    result = call(called[name], "sh", "-c", "readlink /proc/$PPID/cwd /proc/$$/cwd", cwd=tmp_path)
    assert result.stdout == f"{tmp_path if name == 'tini' else '/'}\n{tmp_path}\n"


def test_exit_codes_that_count_as_success(called):
    for code in range(0, 256, 17):
        assert call(called["tini"], "-e", str(code), "-e", "143", "--", "sh", "-c", f"exit {code}").returncode == 0
    assert call(called["tini"], "-e", "5", "sh", "-c", "exit 6").returncode == 6
    assert call(called["tini"], "-e", "256", "true").returncode == 1


def test_help_version_and_wrong_options(called):
    assert "tini version" in call(called["tini"], "--version").stdout
    assert call(called["tini"], "-h").returncode == 0 and "PROGRAM" in call(called["tini"], "-h").stdout
    assert call(called["tini"], "-l").returncode == 0
    assert "supervision of a valid init process" in call(called["tini"]).stderr and "more verbose" in call(called["tini"]).stderr
    assert "Permission is hereby granted" in call(called["tini"], "-l").stdout
    assert "Received SIGCHLD" in call(called["tini"], "true", env={"TINI_VERBOSITY": "3"}).stderr
    assert call(called["tini"], "-p", "NOPE", "true").returncode == 1
    assert call(called["init"], "--nope", "true").returncode == 64
    for text in ("x", "15", "15:x", "0:1", "99:1", "1:2:3"):
        result = call(called["init"], "-r", text, "true")
        assert result.returncode == 64 and "not a valid signal rewrite" in result.stderr


def test_dumb_inits_texts(called):
    """On standard error, in the words that dumb-init's own suite compares."""
    program = called["dumb-init"]
    version = call(program, "-V")
    assert (version.returncode, version.stdout, version.stderr) == (0, "", "dumb-init v1.2.5\n")
    usage = call(program, "--help")
    assert (usage.returncode, usage.stdout) == (0, "") and usage.stderr.startswith(f"dumb-init v1.2.5\nUsage: {program[0]} [option] command [[arg] ...]\n")
    assert usage.stderr.endswith("Full help is available online at https://github.com/Yelp/dumb-init\n")
    # getopt_long(3) takes the beginning of an option for the option.
    assert call(program, "--vers").stderr == version.stderr
    nothing = call(program, env={"DUMB_INIT_DEBUG": "1"})
    assert (nothing.returncode, nothing.stderr) == (1, f"Usage: {program[0]} [option] program [args]\nTry {program[0]} --help for full usage.\n")
    for arguments, text in ((["--yolo"], "unrecognized option '--yolo'"), (["-q"], "invalid option -- 'q'"), (["-r"], "option requires an argument -- 'r'"),
                            (["--rewrite"], "option '--rewrite' requires an argument"), (["--help=1"], "option '--help' doesn't allow an argument"),
                            (["--ver"], "option '--ver' is ambiguous; possibilities: '--verbose' '--version'")):
        result = call(program, *arguments)
        assert (result.returncode, result.stderr) == (1, f"{program[0]}: {text}\n")
    for text in ("", "x", "x:y", "15", "15::12", "15:x", "0:1", "32:1", "1:32", "1:-1", "TERM:INT"):
        result = call(program, "-r", text, "true")
        assert (result.returncode, result.stdout) == (1, "") and result.stderr.startswith("Usage: -r option takes <signum>:<signum>, where <signum> is between 1 and 31.\n")
    assert call(program, "-r", "31:0", "-r", "1:31", "true").returncode == 0


def test_dumb_inits_verbose_lines(called):
    program = called["dumb-init"]
    ending = r"\[dumb-init\] Received signal 17\.\n\[dumb-init\] A child with PID (\d+) exited with exit status 0\.\n" \
             r"\[dumb-init\] Forwarded signal 15 to children\.\n\[dumb-init\] Child exited with status 0\. Goodbye\.\n"
    for option in ("-v", "--verbose"):
        assert re.fullmatch(r"\[dumb-init\] Child spawned with PID \d+\.\n" + ending, call(program, option, "-c", "true").stderr)
        assert re.search(r"\[dumb-init\] setsid complete\.\n\[dumb-init\] Child spawned with PID \d+\.\n" + ending + "$", call(program, option, "true").stderr)
    lines = call(program, "-r", "15:0", "true", env={"DUMB_INIT_DEBUG": "1", "DUMB_INIT_SETSID": "0"}).stderr
    assert lines.startswith("[dumb-init] Running in debug mode.\n[dumb-init] Not running in setsid mode.\n[dumb-init] Child spawned")
    # The signal at the end is rewritten as any other.
    assert "[dumb-init] Translating signal 15 to 0.\n[dumb-init] Not forwarding signal 0 to children (ignored).\n" in lines
    assert "A child with PID" in lines and "was terminated by signal 9." in call(program, "-v", "sh", "-c", "kill -9 $$").stderr


RECORD = """
import signal, sys, time
for number in range(1, 32):
    if number not in (9, 17, 19):
        signal.signal(number, lambda n, f: print(n, flush=True))
print("ready", flush=True)
while True: time.sleep(1)
"""


def children(pid):
    return [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def end(process):
    """An init that is killed leaves its program behind, as any parent does."""
    for pid in [*children(process.pid), process.pid]:
        os.kill(pid, signal.SIGKILL)
    process.wait()


@ALL
def test_every_signal_goes_on(called, name):
    """Those too that a program's own faults raise: tini itself ends at them, and leaves its program behind."""
    process = start(called[name], PYTHON, "-c", RECORD)
    assert process.stdout.readline() == "ready\n"
    numbers = [number for number in range(1, 32) if number not in (9, 17, 19, 20, 21, 22, 18)]
    for number in numbers:
        process.send_signal(number)
        assert process.stdout.readline() == f"{number}\n"
    end(process)


def test_rewritten_signals(called):
    for name, arguments in (("dumb-init", ["-r", "15:2", "--rewrite", "10:0"]), ("init", ["-r", "TERM:INT", "-r", "USR1:0"])):
        process = start(called[name], *arguments, PYTHON, "-c", RECORD)
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGUSR1)
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "2\n"
        end(process)


@pytest.mark.parametrize("name,arguments,env,group", [
    ("tini", [], {}, False), ("tini", ["-g"], {}, True), ("tini", [], {"TINI_KILL_PROCESS_GROUP": ""}, True),
    ("dumb-init", [], {}, True), ("dumb-init", ["-c"], {}, False), ("dumb-init", [], {"DUMB_INIT_SETSID": "0"}, False),
    ("init", ["-g"], {}, True)])
def test_whom_signals_reach(called, name, arguments, env, group):
    script = "trap 'echo parent' TERM; sh -c \"trap 'echo child; exit' TERM; echo up; while :; do sleep 0.05; done\" & while :; do wait; sleep 0.05; done"
    process = start(called[name], *arguments, "sh", "-c", script, env=env)
    assert process.stdout.readline() == "up\n"
    program = children(process.pid)[0]
    inner = until(lambda: children(program), 5, "the inner shell")
    process.terminate()
    lines = {process.stdout.readline()}
    if group:
        lines.add(process.stdout.readline())
    assert lines == ({"parent\n", "child\n"} if group else {"parent\n"})
    os.kill(program, signal.SIGKILL)
    process.wait(5)
    for pid in inner:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def test_orphans_are_reaped(called):
    script = "for i in $(seq 1 100); do (sleep 0.2 &) ; done; sleep 1; exit 9"
    for arguments, env in ((["-s", "-w"], {}), (["-w"], {"TINI_SUBREAPER": ""})):
        result = call(called["tini"], *arguments, "sh", "-c", script, env=env)
        assert result.returncode == 9 and len(re.findall(r"Reaped zombie process with pid=\d+", result.stderr)) >= 100
    warned = call(called["tini"], "true")
    assert "zombie reaping won't work" in warned.stderr
    # The caller's subreaper bit stays over exec: PR_SET_CHILD_SUBREAPER is 36.
    proxy = [PYTHON, "-c", "import ctypes, os, sys; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"]
    assert call([*proxy, *called["tini"]], "true").stderr == ""
    assert call(called["tini"], "true", env={"TINI_VERBOSITY": "0"}).stderr == ""


@ALL
def test_as_pid_one(called, name):
    result = call(["unshare", "--pid", "--fork", "--mount-proc", *called[name]], "sh", "-c", "for i in $(seq 1 50); do (sleep 0.1 &); done; sleep 0.5; ps -o stat= | grep -c Z; exit 4")
    assert (result.returncode, result.stdout.strip(), result.stderr) == (4, "0", "")


@ALL
def test_the_program_finds_signals_and_descriptors_as_we_found_them(called, name):
    code = ("import os, signal, subprocess, sys\n"
            "signal.signal(signal.SIGHUP, signal.SIG_IGN); signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])\n"
            "r, w = os.pipe(); os.dup2(w, 9, inheritable=True)\n"
            "os.execv(sys.argv[1], sys.argv[1:])")
    # grep, not a shell: dash clears the mask itself.
    result = call([PYTHON, "-c", code, *called[name]], "grep", "-E", "Sig(Blk|Ign)", "/proc/self/status")
    masks = dict(line.split(":\t") for line in result.stdout.splitlines() if ":\t" in line)
    assert int(masks["SigBlk"], 16) == 1 << (signal.SIGUSR2 - 1), result
    assert int(masks["SigIgn"], 16) & 1 == 1
    assert call([PYTHON, "-c", code, *called[name]], "test", "-e", "/proc/self/fd/9").returncode == 0


def test_the_parents_death_is_told(called):
    parent = subprocess.Popen([PYTHON, "-c", f"import subprocess, time; p = subprocess.Popen({[*called['tini'], '-p', 'USR1', '-s', PYTHON, '-c', RECORD]!r}); print(p.pid, flush=True); time.sleep(100)"],
                              stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent)
    lines = {parent.stdout.readline().strip(), parent.stdout.readline().strip()}
    assert "ready" in lines
    init = int((lines - {"ready"}).pop())
    parent.kill()
    assert parent.stdout.readline() == "10\n"
    os.kill(children(init)[0], signal.SIGKILL)


@ALL
def test_a_shell_on_a_terminal_has_job_control(called, name):
    main, terminal = pty.openpty()

    def session():
        os.setsid()
        import fcntl
        import termios
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
        die_with_parent()

    process = subprocess.Popen([*called[name], "bash", "--norc", "-i"], stdin=terminal, stdout=terminal, stderr=terminal, preexec_fn=session,
                               env={**os.environ, "PS1": "> ", "TINI_VERBOSITY": "0"})
    os.close(terminal)
    os.write(main, b"sleep 100\n")
    shell = until(lambda: children(process.pid), 10, "the shell")[0]
    job = until(lambda: [pid for pid in children(shell) if comm(pid) == "sleep"], 10, "the job")[0]
    os.write(main, b"\x1a")
    until(lambda: pathlib.Path(f"/proc/{job}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T", 10, "the stop")
    os.write(main, b"jobs; exit 6\nexit 6\n")
    out = b""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:  # the terminal says EIO once everyone has closed it
        if select.select([main], [], [], 0.1)[0]:
            try:
                out += os.read(main, 4096)
            except OSError:
                break
    assert process.wait(5) == 6 and b"Stopped" in out and b"no job control" not in out


def test_a_session_of_ones_own_without_the_terminal_when_another_has_it(called):
    """As from a shell: the terminal stays with the shell's session, and the program runs all the same."""
    main, terminal = pty.openpty()

    def session():
        os.setsid()
        import fcntl
        import termios
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
        die_with_parent()

    process = subprocess.Popen(["sh", "-c", f"{called['dumb-init'][0]} sh -c 'ps -o sid= -p $$; echo $$; exit 3'; echo code $?"],
                               stdin=terminal, stdout=terminal, stderr=terminal, preexec_fn=session)
    os.close(terminal)
    assert process.wait(10) == 0
    sid, pid, code = os.read(main, 4096).decode().split("\r\n")[:3]
    assert sid.strip() == pid and code == "code 3"
