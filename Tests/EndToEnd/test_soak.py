"""Many services that crash at random, for a while: SOAK_SECONDS (make soak: 120)."""

import os
import pathlib
import random
import signal
import time

from conftest import until

SECONDS = float(os.environ.get("SOAK_SECONDS", "12"))


def memory(pid):
    """Resident KiB of its own; the pages of its code come and go."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0])


def switches(pid):
    """How often it was given a processor."""
    return int(pathlib.Path(f"/proc/{pid}/schedstat").read_text().split()[2])


def test_three_hundred_services_that_crash_at_random(workspace):
    dice = random.Random(7)
    services = "\n".join(
        f"""    s{i}: {{command: "sh -c 'echo start; sleep 0.{dice.randint(1, 9)}; exit {dice.randint(0, 3)}'", restart: always}}"""
        for i in range(300))
    space = workspace(f"workspacekit:\n  services:\n{services}\n", arguments=["--network", "none"]).started()
    supervisor, ring2 = space.stage("supervise"), space.stage("ring2")
    until(lambda: all(unit["restarts"] >= 1 for unit in space.status().values()), 60, "each to have crashed once")
    before = memory(supervisor), memory(ring2)
    time.sleep(SECONDS)  # the load is the test
    after = memory(supervisor), memory(ring2)
    print(f"own memory before and after, KiB: supervisor {before[0]} {after[0]}, ring2 {before[1]} {after[1]}")
    assert after[0] < before[0] + 1024 and after[1] < before[1] + 128, (before, after)
    os.kill(supervisor, signal.SIGKILL)
    until(lambda: space.stage("supervise") != supervisor, 5, "another supervisor")
    names = list(space.status())
    space.cli("stop", *names)
    until(lambda: all(unit["state"] == "stopped" for unit in space.status().values()), 30, "all to be stopped")
    for name, unit in space.status().items():
        starts = (space.state / f"logs/{name}.log").read_text().count("start\n")
        assert starts == unit["restarts"] + 1, name
    for pid in (space.stage("supervise"), ring2):
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        assert not [child for child in children if pathlib.Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"]


def test_idle_stages_sleep(workspace):
    """Nothing wakes up when nothing happens; and the stages stay small."""
    space = workspace("tasks: [{name: t, command: exec sleep 1000}]", arguments=["--network", "none"]).started()
    pids = [space.process.pid] + [space.stage(name) for name in ("ring1", "ring2", "supervise")]
    until(lambda: space.status()["t"]["state"] == "running", 10, "the task")
    # The last of the answer may still be under way.
    def still():
        first = [switches(pid) for pid in pids]
        time.sleep(1.5)
        return first == [switches(pid) for pid in pids]
    until(still, 15, "a second and a half without a wake-up")
    pss = sum(int(pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().split("\nPss:")[1].split()[0]) for pid in pids)
    assert pss < 12 * 1024, pss
