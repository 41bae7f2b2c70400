"""Names that come from outside, where they become files, labels, keys and slots: short enough, one for each, and readable again."""

import json
import os
import re
import signal
import socket

from conftest import BINARY, PYTHON, until

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466"  # one grapheme of 25 bytes
NAMES = ["a/b", "a_b", "a%2Fb", "\U0001f680", "\U0001f681", ".hidden", "..", "größe 2", "x" * 250, FAMILY * 100, FAMILY * 101]


def quoted(text):
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\r", "\\r").replace("\n", "\\n") + '"'


def test_each_name_has_a_log_and_it_is_found(workspace):
    tasks = ", ".join(f'{{name: {quoted(name)}, command: "echo this is {index}"}}' for index, name in enumerate(NAMES))
    space = workspace(f"tasks: [{tasks}]\n").started()
    for name in NAMES:
        space.cli("wait", "--for", "completed", "--timeout", "20s", "--", name)
    for index, name in enumerate(NAMES):
        assert space.cli("logs", "--", name).stdout == f"this is {index}\n", name
    files = [file for file in os.listdir(space.state / "logs") if file.endswith(".log")]
    assert len(files) == len(NAMES) and max(len(os.fsencode(file + ".99.times")) for file in files) <= 255
    # Without names, each with its own; also when the workspace has ended.
    space.cli("stop")
    space.wait(10)
    listed = space.cli("logs").stdout
    assert sorted(listed.splitlines()) == sorted(f"[{name}] this is {index}" for index, name in enumerate(NAMES))
    missing = space.cli("logs", "nosuch", check=False)
    assert missing.returncode == 1 and all(name in missing.stderr for name in NAMES)


def test_logs_of_earlier_versions_are_read(workspace):
    space = workspace("tasks: [{command: 'true'}]\n").started()
    space.cli("stop")
    space.wait(10)
    (space.state / "logs/old_name.log").write_text("old\n")
    assert space.cli("logs", "old/name").stdout == "old\n" and space.cli("logs", "old_name").stdout == "old\n"


def test_a_supervisor_that_takes_over_knows_them(workspace):
    """STATUS= of 200 long graphemes, and the first of the units with a long name: no unit is started a second time."""
    talks = """
import os, socket, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect(chr(0) + os.environ["NOTIFY_SOCKET"][1:])
s.send(b"READY=1\\nSTATUS=" + ("a" + chr(0x301) * 9).encode() * 200)
time.sleep(1000)
"""
    names = [FAMILY * 100, FAMILY * 101, "a/b", "line\r\nfeed"]
    tasks = ", ".join(f'{{name: {quoted(name)}, command: "exec sleep 1000"}}' for name in names)
    space = workspace(f"""
tasks: [{tasks}]
workspacekit:
  services:
    talks: {{command: [{PYTHON}, talks.py], ready: {{notify: sd_notify}}}}
    last: {{command: sleep 1000}}
""")
    (space.folder / "talks.py").write_text(talks)
    space.started()
    space.cli("restart", "talks")
    space.cli("wait", "talks", "--timeout", "20s")
    space.exec("gp", "sync-done", FAMILY * 50)
    before = {name: unit["pid"] for name, unit in space.status().items()}
    assert set(before) == {*names, "talks", "last"}
    os.kill(space.stage("supervise"), signal.SIGKILL)
    until(lambda: "another takes over" in space.stderr, 10, "the next one")
    until(lambda: space.cli("status", check=False).returncode == 0, 10, "its answer")
    after = space.status()
    assert {name: unit["pid"] for name, unit in after.items()} == before
    assert all(unit["restarts"] == 0 for name, unit in after.items() if name != "talks")
    assert 0 < len(after["talks"]["statusText"].encode()) <= 512
    # A point with a long name is still reached.
    assert space.exec("gp", "sync-await", FAMILY * 50).returncode == 0
    # Labels: one line a sample, each unit's own, at most 255 bytes.
    space.lab.in_pod("sh", "-c", f"{BINARY} metrics --state-dir {space.state} > {space.folder}/metrics", env=space.environment)
    text = (space.folder / "metrics").read_bytes().decode()  # a carriage return stays what it is
    samples = [line for line in text.split("\n") if line.startswith("workspacekit_unit_running{")]
    assert not [line for line in samples if not re.fullmatch(r'workspacekit_unit_running\{unit="((?:[^"\\]|\\.)*)",kind="\w+"\} 1', line)]
    labels = [re.fullmatch(r'workspacekit_unit_running\{unit="((?:[^"\\]|\\.)*)",kind="\w+"\} 1', line).group(1) for line in samples]
    assert len(set(labels)) == len(before) and all(len(label.encode()) <= 260 for label in labels)
    assert "line\r\\nfeed" in labels


def test_points_that_users_make_up_are_bounded(workspace):
    space = workspace("tasks: [{command: sleep 1000}]\n", arguments=["--network", "none"]).started()
    with socket.socket(socket.AF_UNIX) as control:
        control.connect(str(space.state / "control.sock"))
        answers = control.makefile("r")

        def done(name):
            # What is outside shows its user namespace.
            with open("/proc/self/ns/user", "rb") as users:
                request = json.dumps({"verb": "syncDone", "names": [name], "hasProof": True}).encode() + b"\n"
                socket.send_fds(control, [request], [users.fileno()])
            return json.loads(answers.readline())

        assert [done(f"n{n}") for n in range(1024)] == [{}] * 1024
        assert done("one more") == {"error": "1024 names are all that are kept"} and done("n7") == {}
