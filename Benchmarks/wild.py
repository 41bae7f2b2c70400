"""In the wild: a container's start beside tini, dockerd's beside RootlessKit, and what a fleet of workspaces takes. Medians,
interleaved."""

import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

from conftest import BINARY, USER, die_with_parent
from containers import ALL, DOCKER, running_engine
from images import busybox_root
from network import AS_USER


def median(values):
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


def container_times(lab, folder, rounds):
    """Milliseconds from `docker run` to the first line of the container's program: with nothing before it, under tini, and as
    the first task of a workspace; each with the flags of a whole workspace."""
    place = folder / "engine"
    place.mkdir()
    with running_engine(lab, place) as engine:
        root = busybox_root(place / "root")
        for name in ("usr/bin", "etc", "tmp", "run", "proc", "sys", "dev", "workspace"):
            (root / name).mkdir(parents=True)
        for name in ("hosts", "resolv.conf"):
            (root / "etc" / name).write_text("")
        shutil.copy(BINARY, root / "usr/bin/workspacekit")
        shutil.copy("/usr/bin/tini-static", root / "usr/bin/tini")
        program = "echo first; exec sleep 1000"
        (root / "workspace/.gitpod.yml").write_text(f"tasks: [{{name: t, command: '{program}'}}]\n")
        subprocess.run(["tar", "--owner=0", "--group=0", "-C", root, "-cf", place / "image.tar", "."], check=True)
        engine("import", "-c", "WORKDIR /workspace", place / "image.tar", "bench:1")
        commands = {"nothing": ["/bin/sh", "-c", program], "tini": ["/usr/bin/tini", "--", "/bin/sh", "-c", program], "workspacekit": ["/usr/bin/workspacekit", "run"]}
        times = {name: [] for name in commands}
        for number in range(rounds):
            for name, command in commands.items():
                container = f"{name}-{number}"
                begun = time.perf_counter()
                process = subprocess.Popen([DOCKER, "-H", f"unix://{place}/docker.sock", "run", "--rm", "--name", container, *ALL, "bench:1", *command],
                                           stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, preexec_fn=die_with_parent)
                line = process.stdout.readline()
                times[name].append((time.perf_counter() - begun) * 1000 if "first" in line else None)
                engine("rm", "-f", container, check=False)
                process.wait()
    return {name: median(values) for name, values in times.items()}


def dockerd_times(lab, folder, rounds):
    """Milliseconds from exec to the first answer of a `dockerd --rootless`, for an ordinary user, with an empty data root."""
    times = {"workspacekit": [], "rootlesskit": []}
    for number in range(rounds):
        for name in times:
            place = folder / f"dockerd-{name}-{number}"
            place.mkdir()
            os.chown(place, USER, USER)
            dockerd = f"dockerd --rootless --log-level error -H unix://{place}/docker.sock --data-root {place}/data --exec-root {place}/exec --pidfile {place}/pid"
            (place / ".gitpod.yml").write_text(f"workspacekit: {{writable: [/etc, /run], services: {{docker: {{command: {dockerd}}}}}}}\n")
            commands = {"workspacekit": [BINARY, "run", "--workspace", str(place), "--state-dir", str(place / "state")],
                        "rootlesskit": ["rootlesskit", "--net=slirp4netns", "--mtu=65520", "--disable-host-loopback", "--port-driver=builtin", "--copy-up=/etc", "--copy-up=/run",
                                        "--state-dir", str(place / "rk"), "sh", "-c", f"rm -rf /run/docker /run/xtables.lock; exec {dockerd}"]}
            environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(place), "XDG_RUNTIME_DIR": str(place)}
            begun = time.perf_counter()
            process = lab.popen_in(lab.pod, [*AS_USER, *commands[name]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
            found = None
            while found is None and time.perf_counter() - begun < 30 and process.poll() is None:
                if (place / "docker.sock").exists() and subprocess.run([DOCKER, "-H", f"unix://{place}/docker.sock", "version"], capture_output=True).returncode == 0:
                    found = (time.perf_counter() - begun) * 1000
                time.sleep(0.005)
            times[name].append(found)
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            shutil.rmtree(place, ignore_errors=True)
    return {name: median(values) for name, values in times.items()}


def descendants(pid):
    """The process and all that it has started."""
    children = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        todo += children.get(found[-1], [])
    return found


def usage(pids):
    """PSS in MiB and processor seconds of all of them."""
    pss = ticks = 0
    for pid in pids:
        try:
            rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
            stat = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        pss += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
        ticks += int(stat[11]) + int(stat[12])
    return pss / 1024, ticks / os.sysconf("SC_CLK_TCK")


def fleet(lab, folder, count):
    """What each of so many workspaces takes, with one service that sleeps, and how long it takes until all are up."""
    processes = []
    begun = time.perf_counter()
    for number in range(count):
        place = folder / f"fleet-{number}"
        place.mkdir()
        (place / ".gitpod.yml").write_text("workspacekit: {services: {idle: {command: sleep 1000}}}\n")
        processes.append(lab.popen_in(lab.pod, [BINARY, "run", "--workspace", str(place), "--state-dir", str(place / "state")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    answered = set()
    while len(answered) < count and time.perf_counter() - begun < 60:
        for number in set(range(count)) - answered:
            if lab.in_pod(BINARY, "status", "--ready", "--state-dir", str(folder / f"fleet-{number}/state"), check=False).returncode == 0:
                answered.add(number)
    seconds = time.perf_counter() - begun
    time.sleep(2)
    pids = [pid for process in processes for pid in descendants(process.pid)]
    memory, before = usage(pids)
    time.sleep(10)
    spent = usage(pids)[1] - before
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return {"workspaces": len(answered), "pss_mib_each": memory / count, "processor_percent_all": spent * 10, "all_up_s": seconds}


def measure(lab, folder, rounds=5, count=50):
    """All of it; what is not installed is left out."""
    results = {"fleet": fleet(lab, folder, count)}
    if DOCKER and os.path.exists("/usr/bin/tini-static"):
        results["container_ms"] = container_times(lab, folder, rounds)
    else:
        print("docker.io or tini is not installed: containers are not measured", file=sys.stderr)
    if DOCKER and shutil.which("rootlesskit"):
        results["dockerd_ms"] = dockerd_times(lab, folder, rounds)
    return results
