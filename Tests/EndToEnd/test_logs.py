"""What units printed: as it was, with times, from many units at once, through rotation, and when the disk is full."""

import datetime
import json
import os
import pathlib
import re
import select
import shutil
import signal
import subprocess
import time

import pytest

from conftest import BINARY, PYTHON, until

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def test_last_lines_times_and_json(workspace):
    space = workspace("""
tasks:
  - {name: a, command: 'for i in 1 2 3; do echo a$i; sleep 0.2; done'}
  - {name: b, command: 'sleep 0.1; for i in 1 2 3; do echo b$i; sleep 0.2; done; sleep 1000'}
""").started()
    space.cli("wait", "a", "--for", "completed")
    until(lambda: "[b] b3" in space.stdout, 10, "the output")
    assert space.cli("logs", "a").stdout == "a1\na2\na3\n"
    assert space.cli("logs", "-n", "2", "a").stdout == "a2\na3\n" and space.cli("logs", "--tail", "0", "a").stdout == ""
    # Of several units in the order of time.
    assert space.cli("logs", "-n", "9").stdout == "[a] a1\n[b] b1\n[a] a2\n[b] b2\n[a] a3\n[b] b3\n"
    timed = space.cli("logs", "-t", "a").stdout.splitlines()
    assert all(re.fullmatch(f"{TIME} a{index + 1}", line) for index, line in enumerate(timed)) and len(timed) == 3
    entries = [json.loads(line) for line in space.cli("logs", "--json").stdout.splitlines()]
    assert [(entry["unit"], entry["line"]) for entry in entries][:2] == [("a", "a1"), ("b", "b1")]
    moment = datetime.datetime.fromisoformat(entries[0]["time"].replace("Z", "+00:00"))
    assert abs((datetime.datetime.now(datetime.timezone.utc) - moment).total_seconds()) < 60
    assert space.cli("logs", "--since", entries[2]["time"], "a").stdout == "a2\na3\n"
    assert space.cli("logs", "--since", "1h", "a").stdout == "a1\na2\na3\n"
    time.sleep(0.01)
    assert space.cli("logs", "--since", "1ms", "a").stdout == ""
    assert space.cli("logs", "--since", "yesterday", check=False).returncode == 64
    # As readable after everything is over.
    space.cli("stop")
    space.wait(10)
    assert space.cli("logs", "-n", "1", "a").stdout == "a3\n"


def test_bytes_are_bytes(workspace):
    space = workspace("tasks: [{name: t, command: 'printf \"\\\\0\\\\377x\\\\n\\\\r\\\\nno end\"'}]\n")
    space.started().cli("wait", "t", "--for", "completed")
    raw = subprocess.run([*space.lab.enter(space.lab.pod), *space.prefix, BINARY, "logs", "--state-dir", str(space.state), "t"],
                         capture_output=True, timeout=20)
    assert raw.stdout == b"\0\xffx\n\r\nno end"
    assert (space.state / "logs" / "t.log").read_bytes() == raw.stdout


def test_files_move_on_when_they_are_full(workspace):
    space = workspace("""
tasks: [{name: t, command: 'for i in $(seq 1 3000); do echo "line $i $(printf %100s)"; done; sleep 1000'}]
workspacekit: {tasks: {t: {logging: {max-size: 64k, max-file: 3}}}}
""").started()
    until(lambda: "line 3000 " in space.stdout, 20, "the output")
    logs = space.state / "logs"
    sizes = {file.name: file.stat().st_size for file in logs.iterdir() if not file.name.endswith(".times") and file.name != ".begin"}
    assert set(sizes) == {"t.log", "t.log.1", "t.log.2"}
    assert all(size <= 128 << 10 for size in sizes.values())
    shown = space.cli("logs", "t").stdout.splitlines()
    numbers = [int(line.split()[1]) for line in shown if line.startswith("line ")]
    assert numbers == list(range(numbers[0], 3001)) and 500 < len(numbers) < 3000
    assert re.match(TIME, space.cli("logs", "-t", "-n", "1", "t").stdout)


def test_a_log_of_one_file_is_bounded(workspace):
    space = workspace("""
tasks: [{name: t, command: 'for i in $(seq 1 3000); do echo "line $i $(printf %100s)"; done; sleep 1000'}]
workspacekit: {tasks: {t: {logging: {max-size: 64k, max-file: 1}}}}
""").started()
    until(lambda: "line 3000 " in space.stdout, 20, "the output")
    logs = space.state / "logs"
    assert {file.name for file in logs.iterdir()} - {".begin"} == {"t.log", "t.log.times"}
    assert (logs / "t.log").stat().st_size <= 128 << 10
    assert space.cli("logs", "-n", "1", "t").stdout.startswith("line 3000 ")
    assert re.match(TIME, space.cli("logs", "-t", "-n", "1", "t").stdout)


def test_a_line_without_an_end_takes_no_memory(workspace):
    space = workspace("""
tasks: [{name: t, command: "until test -e go; do sleep 0.1; done; head -c 30000000 /dev/zero | tr '\\\\0' x; echo; echo the end; exec sleep 1000"}]
""").started()

    def resident():
        text = pathlib.Path(f"/proc/{space.stage('supervise')}/status").read_text()
        return int(re.search(r"^RssAnon:\s+(\d+) kB", text, re.M).group(1))

    before = resident()
    (space.folder / "go").touch()
    most = 0
    def ended():
        nonlocal most
        most = max(most, resident())
        return "the end\n" in space.cli("logs", "-n", "1", "t").stdout
    until(ended, 60, "the end")
    assert most - before < 8192
    # On the console it comes in pieces.
    until(lambda: "[t] the end\n" in space.stdout[-4096:], 30, "the console")
    assert max(len(line) for line in space.stdout.splitlines()) < 9000


def test_follow_goes_on_through_rotation(workspace):
    space = workspace("""
tasks: [{name: t, command: 'for i in $(seq 1 400); do echo "line $i $(printf %200s)"; sleep 0.005; done; sleep 1000'}]
workspacekit: {tasks: {t: {logging: {max-size: 16k, max-file: 2}}}}
""").started()
    follower = space.lab.popen_in(space.lab.pod, [*space.prefix, BINARY, "logs", "-f", "--json", "--state-dir", str(space.state), "t"],
                                  env=space.environment, stdout=open(space.folder / "followed", "wb"), stderr=subprocess.PIPE)
    until(lambda: "line 400 " in space.stdout, 20, "the output")
    space.cli("stop")
    _, errors = follower.communicate(timeout=20)
    numbers = [int(json.loads(line)["line"].split()[1]) for line in (space.folder / "followed").read_text().splitlines()]
    assert numbers == list(range(numbers[0], 401)) and len(numbers) > 300 and errors == b""


def test_a_follower_that_is_too_slow_is_told(workspace):
    space = workspace("""
tasks: [{name: t, command: 'sleep 1; for i in $(seq 1 2000); do echo "line $i $(printf %200s)"; sleep 0.001; done; sleep 1000'}]
workspacekit: {tasks: {t: {logging: {max-size: 16k, max-file: 2}}}}
""").started()
    follower = space.lab.popen_in(space.lab.pod, [*space.prefix, BINARY, "logs", "-f", "--state-dir", str(space.state), "t"],
                                  env=space.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until(lambda: "line 2000 " in space.stdout, 20, "the output")
    space.cli("stop")
    out, errors = follower.communicate(timeout=20)
    assert b"line 2000 " in out and out.count(b"\n") < 2000
    assert b"some output is missing here: it came faster than it was read" in errors


def test_a_full_disk_loses_nothing_silently(workspace, lab):
    small = lab.folder / "small"
    small.mkdir(exist_ok=True)
    lab.in_pod("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small))
    try:
        space = workspace("tasks: [{name: t, command: 'for i in $(seq 1 2000); do echo \"line $i $(printf %80s)\"; done; until test -e go; do sleep 0.1; done; while :; do echo again; sleep 1; done'}]\n",
                          arguments=["--state-dir", str(small / "state")])
        space.state = small / "state"
        space.started()
        until(lambda: "line 2000 " in space.stdout, 20, "the output")
        assert "t: its log is not written, the last 256 KiB are kept in memory:" in space.stderr
        assert "line 2000 " in space.cli("logs", "-n", "1", "t").stdout
        lab.in_pod("mount", "-o", "remount,size=8m", str(small))
        (space.folder / "go").touch()
        until(lambda: re.search(r"t: its log is written again; \d+ bytes are missing in it", space.stderr), 20, "the file's return")
        until(lambda: space.cli("logs", "-n", "1", "t").stdout == "again\n", 10, "the new output")
        space.cli("stop")
        space.wait(10)
    finally:
        lab.in_pod("umount", "-l", str(small))


def test_a_reader_that_goes_away_is_no_error(workspace):
    space = workspace("tasks: [{name: t, command: 'seq 1 100000; sleep 1000'}]\n").started()
    until(lambda: "[t] 100000" in space.stdout, 20, "the output")
    result = space.lab.in_pod("sh", "-c", f"{BINARY} logs --state-dir {space.state} t | head -n 1", env=space.environment)
    assert (result.stdout, result.stderr) == ("1\n", "")


def test_every_line_has_its_time_across_rotations(workspace):
    space = workspace(f"""
tasks: [{{name: t, command: "exec {PYTHON} -u lines.py"}}]
workspacekit: {{tasks: {{t: {{logging: {{max-size: 16k, max-file: 9}}}}}}}}
""")
    (space.folder / "lines.py").write_text("""
import time
for n in range(600):
    print(n, time.time_ns() // 1000000, "x" * 100)
    time.sleep(0.001)
time.sleep(1000)
""")
    space.started()
    space.cli("restart", "t")
    until(lambda: "[t] 599 " in space.stdout, 20, "the output")
    assert len([file for file in (space.state / "logs").iterdir() if re.fullmatch(r"t\.log\.\d+", file.name)]) >= 2
    shown = [json.loads(line) for line in space.cli("logs", "--json", "t").stdout.splitlines()]
    assert all("time" in entry for entry in shown)
    times = [datetime.datetime.fromisoformat(entry["time"].replace("Z", "+00:00")).timestamp() * 1000 for entry in shown]
    assert times == sorted(times)
    # Nothing comes before it was printed, and each before the next hundred was.
    printed = [(int(entry["line"].split()[0]), int(entry["line"].split()[1])) for entry in shown if re.match(r"\d+ \d+ x+$", entry["line"])]
    assert [number for number, _ in printed][-600:] == list(range(600))
    for (_, at), seen in zip(printed[-600:], times[-600:]):
        assert seen >= at - 1


def test_the_last_output_in_memory_is_bounded(workspace, lab):
    small = lab.folder / "tiny"
    small.mkdir(exist_ok=True)
    lab.in_pod("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small))
    try:
        space = workspace("tasks: [{name: t, command: 'until test -e go; do sleep 0.1; done; yes 0123456789abcdef | head -c 20000000; echo the end; exec sleep 1000'}]\n",
                          arguments=["--state-dir", str(small / "state")])
        space.state = small / "state"
        space.started()

        def resident():
            text = pathlib.Path(f"/proc/{space.stage('supervise')}/status").read_text()
            return int(re.search(r"^RssAnon:\s+(\d+) kB", text, re.M).group(1))

        before = resident()
        (space.folder / "go").touch()
        until(lambda: "the end\n" in space.stdout[-4096:], 60, "the output")
        assert "its log is not written, the last 256 KiB are kept in memory" in space.stderr
        assert resident() - before < 8192
        kept = space.cli("logs", "t").stdout
        assert kept.endswith("the end\n") and len(kept) < 512 << 10
        space.cli("stop")
        space.wait(10)
    finally:
        lab.in_pod("umount", "-l", str(small))


def test_lines_are_written_in_batches(workspace):
    """30,000 lines of two bytes each lie in the unit's pipe. To the log, to the times and to the console that is some 60 writes,
    not one for each line; what the machine is busy with makes no difference."""
    program = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)\nfor _ in range(30000): os.write(1, b'x\\n')\nopen('written', 'w'); time.sleep(1000)"
    space = workspace(f"tasks: [{{name: t, command: exec {PYTHON} lines.py}}]\n", arguments=["--network", "none"])
    (space.folder / "lines.py").write_text(program)
    space.started()
    supervisor = space.stage("supervise")

    def writes():
        return int(re.search(r"^syscw: (\d+)$", pathlib.Path(f"/proc/{supervisor}/io").read_text(), re.M).group(1))

    os.kill(supervisor, signal.SIGSTOP)
    try:
        (space.folder / "go").touch()
        until((space.folder / "written").exists, 20, "the lines")
        before = writes()
    finally:
        os.kill(supervisor, signal.SIGCONT)
    until(lambda: space.stdout.count("[t] x\n") == 30000, 30, "all lines on the console")
    assert writes() - before < 300
    assert (space.state / "logs/t.log").read_bytes() == b"x\n" * 30000


def test_commands_are_answered_between_pieces_of_output(workspace):
    """20 units print as fast as they are read. What the supervisor reads of them between a request and its answer is bounded,
    which is counted in bytes: a busy machine is slow at both."""
    tasks = ", ".join(f"{{name: y{n}, command: exec yes}}" for n in range(20))
    space = workspace(f"tasks: [{tasks}]\n", arguments=["--network", "none"], stdout=subprocess.DEVNULL).started()
    supervisor = space.stage("supervise")

    def printed():
        return int(re.search(r"^wchar: (\d+)$", pathlib.Path(f"/proc/{supervisor}/io").read_text(), re.M).group(1))

    until(lambda: printed() > 10 << 20, 60, "output")
    between = []
    for _ in range(10):
        before = printed()
        assert len(space.status()) == 20
        between.append(printed() - before)
    assert min(between) < 8 << 20, between


def test_open_files_are_bounded_whatever_the_units(workspace):
    """120 units at a hard limit of 256 files; and units that come and go with edits leave no file open."""
    def services(names):
        return "workspacekit: {services: {" + ", ".join(f"{name}: {{command: [sh, -c, 'echo up; exec sleep 1000']}}" for name in names) + "}}\n"

    space = workspace(services([f"s{n}" for n in range(120)]), arguments=["--network", "none"], through=["prlimit", "--nofile=256:256"]).started()
    until(lambda: [unit["state"] for unit in space.status().values()] == ["running"] * 120, 60, "all units")
    until(lambda: space.stdout.count("] up\n") == 120, 20, "all that they print")
    assert "Too many open files" not in space.stderr
    space.stop()

    def open_logs():
        folder = f"/proc/{renamed.stage('supervise')}/fd"
        return [path for path in (os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder)) if "/logs/" in path]

    renamed = workspace(services(["first"]), arguments=["--network", "none"]).started()
    for n in range(60):
        (renamed.folder / ".gitpod.yml").write_text(services([f"name{n}"]))
        renamed.cli("reload")
    until(lambda: [name for name, unit in renamed.status().items() if unit["state"] == "running"] == ["name59"], 30, "the last name")
    assert len(open_logs()) <= 32
    assert renamed.cli("logs", "name3").stdout == "up\n"


COLOURED = r"""
tasks:
  - {name: web, command: 'printf "\033[2J\033[Hcleared\033]0;title\007 \033[31mred\n10%%\r100%%\n"; sleep 1000'}
  - {name: longer, command: 'echo plain; sleep 1000'}
"""


def on_a_terminal(space, *arguments, environment=None):
    """What a command of the workspace's prints on a terminal of its own, to its end."""
    master, terminal = os.openpty()
    process = space.lab.popen_in(space.lab.pod, [*space.prefix, BINARY, *arguments, "--state-dir", str(space.state)],
                                 env={**space.environment, **(environment or {})}, stdout=terminal, stderr=terminal)
    os.close(terminal)
    seen = b""
    while True:
        try:
            data = os.read(master, 65536)
        except OSError:
            break
        if not data:
            break
        seen += data
    assert process.wait(10) == 0
    os.close(master)
    return seen.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("environment, colours", [({"TERM": "xterm"}, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_the_console_on_a_terminal(lab, environment, colours):
    folder = lab.folder / f"console-{environment['TERM']}-{len(environment)}"
    folder.mkdir()
    (folder / ".gitpod.yml").write_text(COLOURED)
    master, terminal = os.openpty()
    process = lab.popen_in(lab.pod, [BINARY, "run", "--workspace", str(folder), "--state-dir", str(folder / "state"), "--network", "none"],
                           stdout=terminal, stderr=terminal, env={"PATH": os.environ["PATH"], **environment})
    os.close(terminal)
    seen = b""
    try:
        def has_all():
            nonlocal seen
            while select.select([master], [], [], 0)[0]:
                seen += os.read(master, 65536)
            return b"plain\r\n" in seen and b"100%\r\n" in seen
        until(has_all, 20, "the lines")
    finally:
        process.terminate()
        process.wait(20)
        os.close(master)
        shutil.rmtree(folder)
    text = seen.decode().replace("\r\n", "\n")
    for moves in ("\x1b[2J", "\x1b[H", "\x1b]0;", "\x07", "\r"):
        assert moves not in text
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text).split("\n")
    # All lines begin in one column; the unit's own colour is kept, and ends with its line.
    assert "[web]    cleared red" in plain and "[web]    100%" in plain and "[longer] plain" in plain
    assert "\x1b[31mred\x1b[0m\n" in text
    names = re.findall(r"\x1b\[(\d+)m\[(web|longer)\]\x1b\[0m", text)
    assert (len({colour for colour, _ in names}) == 2) if colours else not names


def test_control_sequences_are_for_the_log_files_only(workspace):
    space = workspace(COLOURED).started()
    until(lambda: "[longer] plain" in space.stdout and "100%" in space.stdout, 10, "the output")
    # Where a program reads, names stand as they were; what moves a cursor is left out there too: its reader may be a terminal.
    assert "[web] cleared \x1b[31mred\x1b[0m\n" in space.stdout and "\x1b[2J" not in space.stdout
    assert "\x1b[2J\x1b[Hcleared\x1b]0;title\x07" in space.cli("logs", "web").stdout
    shown = on_a_terminal(space, "logs", "web")
    assert shown == "cleared \x1b[31mred\x1b[0m\n100%\n"
    assert "[web] cleared" in on_a_terminal(space, "logs")


EVIL = "\x1b]0;owned\x07\x1b[2J"


def test_no_text_from_inside_reaches_a_terminal_raw(workspace):
    """Names of tasks, STATUS=, comm and notes are text of the workspace's: an operator's terminal must not act on it."""
    name = "evil\\e]0;owned\\a\\e[2J"
    space = workspace(f"""
tasks:
  - name: "{name}"
    command: 'sleep 1000'
workspacekit:
  services:
    speaks:
      command: [python3, -c, 'import os, socket, time; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.connect(os.environ["NOTIFY_SOCKET"]); s.send(b"READY=1\\nSTATUS=st\\x1b]0;owned\\x07\\x1b[2Jatus\\x9b2J"); time.sleep(1000)']
      ready: {{notify: sd_notify}}
    named:
      command: [python3, -c, 'import socket, time; open("/proc/self/comm", "w").write("x\\x1b[2Jcomm"); s = socket.create_server(("127.0.0.1", 4711)); time.sleep(1000)']
ports: [{{port: 4711, name: "port\\e[2J"}}]
""").started()
    until(lambda: "status" in space.cli("status").stdout, 10, lambda: "the status text in " + space.cli("status").stdout)
    until(lambda: "4711/tcp" in space.cli("ports").stdout, 10, "the port")
    space.cli("stop", "speaks")
    for command in (["status"], ["ps"], ["ports"], ["top", "--once", "-i", "200ms"], ["events"], ["net", "flows"], ["plan"], ["logs"], ["status", "--json"],
                    ["ports", "--json"], ["events", "--json"], ["stop", "no such unit"]):
        result = space.cli(*command, check=False)
        for text in (result.stdout, result.stderr):
            assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", text), (command, text)
    assert not re.search("[\x07\x1b\x9b]", space.stdout + space.stderr), space.stderr


def test_logs_are_those_of_this_workspace(workspace):
    first = workspace("tasks: [{name: old, command: echo of the first}, {name: both, command: echo first}]\n").started()
    first.cli("wait", "old", "--for", "completed")
    until(lambda: "[both] first" in first.stdout, 10, "the output")
    first.stop()
    # The last one's are shown as long as no other has started.
    assert "[old] of the first" in first.cli("logs").stdout
    second = workspace("tasks: [{name: new, command: echo of the second}, {name: both, command: echo second}]\n", folder=first.folder).started()
    until(lambda: "[new] of the second" in second.stdout and "[both] second" in second.stdout, 10, "the output")
    assert sorted(second.cli("logs").stdout.splitlines()) == ["[both] second", "[new] of the second"]
    assert sorted(second.cli("logs", "--all").stdout.splitlines()) == ["[both] second", "[new] of the second", "[old] of the first"]
    assert second.cli("logs", "old").stdout == "of the first\n"
    second.cli("stop")
    assert sorted(second.cli("logs").stdout.splitlines()) == ["[both] second", "[new] of the second"]
