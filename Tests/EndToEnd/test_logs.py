"""What units printed: as it was, with times, from many units at once, through rotation, and when the disk is full."""

import datetime
import json
import os
import pathlib
import re
import subprocess
import time

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
    sizes = {file.name: file.stat().st_size for file in logs.iterdir() if not file.name.endswith(".times")}
    assert set(sizes) == {"t.log", "t.log.1", "t.log.2"}
    assert all(size <= 128 << 10 for size in sizes.values())
    shown = space.cli("logs", "t").stdout.splitlines()
    numbers = [int(line.split()[1]) for line in shown if line.startswith("line ")]
    assert numbers == list(range(numbers[0], 3001)) and 500 < len(numbers) < 3000
    assert re.match(TIME, space.cli("logs", "-t", "-n", "1", "t").stdout)


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


def test_open_files_are_bounded_whatever_the_units(workspace):
    """120 units at a hard limit of 256 files; and units that come and go with edits leave no file open."""
    def services(names):
        return "workspacekit: {services: {" + ", ".join(f"{name}: {{command: [sh, -c, 'echo up; exec sleep 1000']}}" for name in names) + "}}\n"

    space = workspace(services([f"s{n}" for n in range(120)]), arguments=["--network", "none"], through=["prlimit", "--nofile=256:256"]).started()
    until(lambda: [unit["state"] for unit in space.status().values()] == ["running"] * 120, 60, "all units")
    assert space.stdout.count("] up\n") == 120 and "Too many open files" not in space.stderr
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
