"""What happened in a workspace, as it happens and afterwards."""

import json
import os
import re
import signal
import subprocess
import time

from conftest import BINARY, until

CONFIG = """
tasks: [{name: job, command: 'sleep 0.2; exit 3'}]
workspacekit:
  services:
    web:
      command: sh -c 'until test -e sick; do sleep 0.05; done; sleep 1000'
      healthcheck: {test: "! test -e sick", interval: 100ms, retries: 1}
      restart: always
    crashing: {command: sh -c 'exit 7', restart: always}
    missing: {command: /nonexistent/program, restart: no}
    absent: {command: sleep 1, requires: [no-such-program]}
"""


def read(space, *arguments):
    return [json.loads(line) for line in space.cli("events", "--json", *arguments).stdout.splitlines()]


def names(events):
    return [event["event"] for event in events]


def test_what_happened_is_told_in_order(workspace):
    space = workspace(CONFIG).started()
    space.cli("wait", "web", "--for", "healthy", "--timeout", "10s")
    until(lambda: len([e for e in read(space, "crashing") if e["event"] == "started"]) > 1, 10, "a second start")
    job = read(space, "job")
    assert names(job) == ["started", "ready", "exited", "failed"]
    assert job[2]["exitCode"] == 3 and job[2]["pid"] == job[0]["pid"] and job[0]["kind"] == "task"
    crashing = read(space, "crashing")
    assert names(crashing)[:5] == ["started", "ready", "exited", "backing-off", "started"]
    assert 0.5 <= crashing[3]["delaySeconds"] < 0.6 and crashing[4]["pid"] != crashing[0]["pid"]
    assert names(read(space, "missing")) == ["not-started", "failed"]
    absent = read(space, "absent")
    assert names(absent) == ["skipped"] and "no-such-program" in absent[0]["reason"]
    (space.folder / "sick").touch()
    until(lambda: "backing-off" in names(read(space, "web")), 10, "the news")
    web = names(read(space, "web"))
    assert web[:3] == ["started", "ready", "healthy"] and web.index("unhealthy") < web.index("stopping") < web.index("exited")
    times = [event["time"] for event in read(space)]
    assert times == sorted(times) and read(space)[0]["kind"] == "workspace"
    # People's form, the last ones only, and none of before a moment.
    line = space.cli("events", "job").stdout.splitlines()[2]
    assert line == f"{job[2]['time']} task job exited (pid {job[0]['pid']}, exit code 3)"
    assert len(read(space, "-n", "2")) == 2
    time.sleep(0.01)
    assert read(space, "--since", "1ms", "job") == []
    assert len(read(space, "--since", "1h", "job")) == 4
    space.cli("stop")
    space.wait(20)
    # After the end as well.
    assert [(e["event"], e.get("exitCode")) for e in read(space)][-1] == ("exited", 0)
    assert "workspace stopping" in space.cli("events").stdout
    # The next start tells its own story.
    (space.folder / "sick").unlink()
    again = workspace(CONFIG, folder=space.folder).started()
    assert names(read(again)).count("exited") < len(crashing) and "stopping" not in names(read(again))


def test_followers_hear_at_once_and_through_another_supervisor(workspace):
    space = workspace("""
workspacekit: {services: {a: {command: sleep 1000}, b: {command: sleep 1000}}}
""").started()
    follower = space.lab.popen_in(space.lab.pod, [*space.prefix, BINARY, "events", "-f", "--json", "--state-dir", str(space.state)],
                                  env=space.environment, stdout=subprocess.PIPE, text=True)
    seen = []

    def hear(event, unit):
        while True:
            seen.append(json.loads(follower.stdout.readline()))
            if (seen[-1]["event"], seen[-1].get("unit")) == (event, unit):
                return seen[-1]

    first = hear("ready", "b")
    space.cli("restart", "b")
    assert hear("started", "b")["pid"] != first.get("pid")
    # It runs now: a start that a kill cuts short is told, and told again by who makes it good.
    hear("ready", "b")
    os.kill(space.stage("supervise"), signal.SIGKILL)
    hear("taken-over", None)
    space.cli("stop", "a")
    hear("stopped", "a")
    (space.folder / ".gitpod.yml").write_text("workspacekit: {services: {b: {command: sleep 2000}}}\n")
    assert "a: stop" in hear("reloaded", None)["reason"]
    hear("ready", "b")
    space.cli("stop")
    rest = [json.loads(line) for line in follower.stdout]
    assert follower.wait(10) == 0 and rest[-1]["event"] == "exited"
    # Nothing was told twice, and every start once.
    everything = seen + rest
    assert len(everything) == len({json.dumps(event, sort_keys=True) for event in everything})
    starts = [event["pid"] for event in everything if event["event"] == "started" and event.get("unit")]
    assert len(starts) == len(set(starts)) == 4 and everything == read(space)


def test_the_file_is_bounded_and_what_came_before_is_shown_too(workspace):
    space = workspace("tasks: [{name: t, command: sleep 1000}]\n").started()
    file = space.state / "events.jsonl"
    # As after weeks: full but for a few bytes, found by a supervisor that takes over.
    old = json.dumps({"event": "denied", "kind": "network", "reason": "x" * 900, "time": read(space)[0]["time"]}).encode() + b"\n"
    with open(file, "ab") as events:
        events.write(old * ((1 << 20) // len(old)))
    supervisor = space.stage("supervise")
    os.kill(supervisor, signal.SIGKILL)
    until(lambda: space.stage("supervise") not in (None, supervisor), 10, "another supervisor")
    for _ in range(5):
        space.cli("restart", "t")
    until(lambda: (space.state / "events.jsonl.1").exists(), 10, "the next file")
    assert file.stat().st_size < 1 << 16
    assert names(read(space)).count("denied") == (1 << 20) // len(old) and names(read(space, "t")).count("exited") == 5


def test_no_workspace_no_events(lab, tmp_path):
    result = lab.in_pod(BINARY, "events", "--state-dir", str(tmp_path), check=False)
    assert result.returncode == 1 and "no events in" in result.stderr


def test_a_full_disk_loses_events_and_says_so(workspace, lab):
    small = lab.folder / "small-events"
    small.mkdir(exist_ok=True)
    lab.in_pod("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small))
    try:
        space = workspace("workspacekit: {services: {a: {command: sleep 1000}}}", arguments=["--state-dir", str(small / "state")])
        space.state = small / "state"
        space.started()
        lab.in_pod("sh", "-c", f"cat /dev/zero > {small}/filler", check=False)
        until(lambda: space.cli("restart", "a") and "events cannot be written" in space.stderr, 20, "the notice")
        lab.in_pod("rm", str(small / "filler"))
        space.cli("restart", "a")
        until(lambda: re.search(r"events are written again; \d+ are missing", space.stderr), 10, "the notice")
        # What was cut short spoils no line but its own: a line with an end is whole.
        lines = lab.in_pod("cat", str(space.state / "events.jsonl")).stdout.splitlines()
        assert [json.loads(line)["event"] for line in lines if line.endswith("}")][-1] == "ready"
        before = len(read(space, "a"))
        space.cli("restart", "a")
        until(lambda: "started" in names(read(space, "a")[before:]), 10, "what comes next")
        space.cli("stop")
        space.wait(10)
    finally:
        lab.in_pod("umount", "-l", str(small))
