"""What supervising costs: of a core while a task forks, wake-ups and memory at rest, and how soon `status` answers."""

import pathlib
import re
import shutil
import statistics
import subprocess
import time

from conftest import Workspace, until


def ticks(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def switches(pid):
    return sum(int(number) for number in re.findall(r"ctxt_switches:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text()))


def stages(space):
    return [space.process.pid, *(space.stage(name) for name in ("ring1", "ring2", "supervise"))]


def forks(lab, folder, rate, orphans):
    """The part of a core that the stages take while a task forks, and how many forks a second there were."""
    compiler = shutil.which("cc") or shutil.which("clang")
    if compiler is None:
        return None
    subprocess.run([compiler, "-O2", "-static", "-o", folder / "forks", pathlib.Path(__file__).parent / "forks.c"], check=True)
    space = Workspace(lab, folder / f"forks-{orphans}", f"tasks: [{{name: t, command: 'exec ../forks 4 {rate}{' orphans' if orphans else ''}'}}]",
                      arguments=["--network", "none"]).started()
    try:
        time.sleep(0.5)
        pids = stages(space)
        before = sum(map(ticks, pids))
        time.sleep(3)
        spent = (sum(map(ticks, pids)) - before) / 100 / 3
        until(lambda: "forks" in space.stdout.split("[t] ")[-1], 5, "the count")
        return spent, int(re.search(r"(\d+) forks", space.stdout)[1]) / 4
    finally:
        space.stop()


def at_rest(lab, folder):
    """Wake-ups a second of all stages, and their memory (PSS) in MiB."""
    space = Workspace(lab, folder / "rest", "tasks: [{name: t, command: exec sleep 1000}]", arguments=["--network", "none"]).started()
    try:
        time.sleep(1)
        pids = stages(space)
        before = sum(map(switches, pids))
        time.sleep(3)
        wakeups = (sum(map(switches, pids)) - before) / 3
        pss = sum(int(pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().split("\nPss:")[1].split()[0]) for pid in pids)
        return wakeups, pss / 1024
    finally:
        space.stop()


def status_time(lab, folder, services):
    """Milliseconds from exec to exit of `status`, with so many services; the median of 20."""
    config = "workspacekit:\n  services:\n" + "".join(f"    s{index}: {{command: sleep 1000}}\n" for index in range(services))
    space = Workspace(lab, folder / "many", config, arguments=["--network", "none"]).started()
    try:
        until(lambda: all(unit["state"] == "running" for unit in space.status().values()), 20, "the services")
        times = []
        for _ in range(20):
            began = time.monotonic()
            space.cli("status")
            times.append((time.monotonic() - began) * 1000)
        return statistics.median(times)
    finally:
        space.stop()


def measure(lab, folder):
    wakeups, pss = at_rest(lab, folder)
    results = {"wakeups_per_second": wakeups, "pss_mib": pss, "status_300_ms": status_time(lab, folder, 300), "forks": {}}
    for name, orphans in (("children", False), ("half orphans", True)):
        measured = forks(lab, folder, 10_000, orphans)
        if measured:
            results["forks"][name] = {"core": measured[0], "per_second": measured[1]}
    return results


def table(results):
    lines = [f"at rest: {results['wakeups_per_second']:.1f} wake-ups a second of all stages, {results['pss_mib']:.1f} MiB (PSS); "
             f"status with 300 services {results['status_300_ms']:.0f} ms, nsenter included"]
    for name, forked in results["forks"].items():
        lines.append(f"{forked['per_second']:.0f} forks a second by a task ({name}): {forked['core'] * 100:.1f} % of a core for supervising them")
    return "\n".join(lines)
