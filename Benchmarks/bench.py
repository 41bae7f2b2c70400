#!/usr/bin/python3
"""Side by side: native veth, Debian's slirp4netns, Debian's pasta, and workspacekit; and the start of a workspace beside
RootlessKit's. One interleaved run in the lab of the end-to-end tests; what counts are ratios, not Gbit/s.

    make bench                      3 rounds
    Benchmarks/bench.py --rounds 5 --seconds 3"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "Tests" / "EndToEnd"))

import conftest  # noqa: E402
import supervision  # noqa: E402
from conftest import BINARY, Lab, USER, WORLD4, die_with_parent, until  # noqa: E402

TICK = os.sysconf("SC_CLK_TCK")
PORT = "5201"
DEFAULT_CONGESTION = "--default-congestion" in sys.argv
# Every forwarder runs as the same ordinary user, as it would in the field.
AS_USER = ["setpriv", "--pdeathsig", "KILL", "--reuid", str(USER), "--regid", str(USER), "--clear-groups"]


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


class Native:
    name = "native veth"

    def __init__(self, lab):
        self.lab, self.forwarder = lab, None

    def enter(self):
        return self.lab.enter(self.lab.pod)

    def close(self):
        pass


class Peer:
    """A forwarder of others' on a namespace of its own, MTU 1500."""

    def __init__(self, lab):
        self.lab = lab
        self.guest = subprocess.Popen([*lab.enter(lab.pod), *AS_USER, "unshare", "--user", "--map-root-user", "--net", "sleep", "1000"],
                                      preexec_fn=die_with_parent)
        until(lambda: os.readlink(f"/proc/{self.guest.pid}/ns/net") != os.readlink(f"/proc/{lab.pod.pid}/ns/net")
              and os.readlink(f"/proc/{self.guest.pid}/ns/net") != os.readlink("/proc/self/ns/net"), 5, "the namespace")
        self.forwarder = subprocess.Popen([*lab.enter(lab.pod), *AS_USER, *self.command(self.guest.pid)], preexec_fn=die_with_parent,
                                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid
        until(lambda: conftest.run(*self.enter(), "ip", "route", "get", WORLD4, check=False).returncode == 0, 10, f"{self.name}'s route")

        # The same congestion control in every namespace, unless the peers are to have the kernel's default.
        if not DEFAULT_CONGESTION:
            conftest.run(*self.enter(), "sysctl", "-qw", "net.ipv4.tcp_congestion_control=reno")

    def enter(self):
        return ["nsenter", f"--net=/proc/{self.guest.pid}/ns/net", "--"]

    def close(self):
        os.kill(self.forwarder, signal.SIGKILL)
        self.guest.kill()
        self.guest.wait()


class Slirp4netns(Peer):
    name = "slirp4netns"

    def command(self, pid):
        return ["slirp4netns", "-c", "-m", "1500", str(pid), "tap0"]


class Pasta(Peer):
    name = "pasta"

    def command(self, pid):
        return ["pasta", "-f", "--config-net", "-m", "1500", "-t", "none", "-u", "none", "-T", "none", "-U", "none", "--no-map-gw", str(pid)]


class Ours:
    name = "workspacekit"

    def __init__(self, lab):
        self.folder = lab.folder / f"bench-{time.monotonic_ns()}"
        self.space = conftest.Workspace(lab, self.folder, "", user=USER).started()
        self.forwarder = self.space.stage("slirp")

    def enter(self):
        return ["nsenter", f"--net=/proc/{self.space.stage('ring2')}/ns/net", "--"]

    def close(self):
        self.space.stop()
        shutil.rmtree(self.folder)


def bulk(tool, direction, seconds):
    """Gbit/s, and the forwarder's CPU seconds per GiB."""
    before = cpu_seconds(tool.forwarder) if tool.forwarder else 0
    flags = ["-R"] if direction == "down" else []
    result = subprocess.run([*tool.enter(), "iperf3", "-J", "-c", WORLD4, "-p", PORT, "-t", str(seconds), *flags],
                            capture_output=True, text=True, timeout=60)
    end = json.loads(result.stdout)["end"]
    gib = end["sum_received"]["bytes"] / (1 << 30)
    used = cpu_seconds(tool.forwarder) - before if tool.forwarder else 0
    return end["sum_received"]["bits_per_second"] / 1e9, used / gib if gib else float("nan")


def start_times(lab, rounds):
    """Milliseconds from exec to the first instruction of the command, for an ordinary user with a subuid range."""
    runtime = lab.folder / "runtime"
    runtime.mkdir()
    os.chown(runtime, USER, USER)
    environment = {"PATH": os.environ["PATH"], "HOME": str(runtime), "XDG_RUNTIME_DIR": str(runtime)}
    commands = {
        "workspacekit": [BINARY, "run", "--workspace", str(runtime), "--state-dir", str(runtime / "state"), "--", "date", "+%s%N"],
        "rootlesskit": ["rootlesskit", "--net=slirp4netns", "--disable-host-loopback", "--copy-up=/etc", "--state-dir",
                        str(runtime / "rk"), "date", "+%s%N"],
    }
    times = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            shutil.rmtree(runtime / "rk", ignore_errors=True)
            begun = time.time_ns()
            result = subprocess.run([*lab.enter(lab.pod), *AS_USER, *command], capture_output=True, text=True, env=environment, timeout=60)
            if result.returncode == 0:
                times[name].append((int(result.stdout.split()[-1]) - begun) / 1e6)
            else:
                times[name].append(float("nan"))
                print(f"{name}: {result.stderr.strip()[-300:]}", file=sys.stderr)
    return {name: statistics.median(values) for name, values in times.items()}


def reading_times(folder, rounds):
    """Milliseconds from exec to exit, medians, interleaved: a configuration checked, beside what reads it elsewhere."""
    (folder / "typical.yml").write_bytes((HERE.parent / "Tests" / "ConfigTests" / "Golden" / "whole-gitpod.yml").read_bytes())
    (folder / "long.yml").write_text("tasks:\n" + "".join(
        f"  - name: t{index}\n    before: cd x\n    init: |\n      npm ci\n      npm run build\n    command: npm start\n"
        f"    env: {{A: {index}, B: x}}\n" for index in range(1430)))
    commands = {
        "true": ["true"], "typical": [BINARY, "validate", "typical.yml"], "10,000 lines": [BINARY, "validate", "long.yml"],
        "python": ["/usr/bin/python3", "-c", "import yaml; yaml.load(open('long.yml'), yaml.CSafeLoader)"]}
    times = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            begun = time.perf_counter()
            subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, check=True)
            times[name].append((time.perf_counter() - begun) * 1000)
    return {name: statistics.median(found) for name, found in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--default-congestion", action="store_true", help="leave the peers' namespaces the kernel's default instead of reno")
    options = parser.parse_args()
    folder = pathlib.Path("/tmp") / f"wk-bench-{os.getpid()}"
    folder.mkdir(mode=0o755)
    lab = Lab(folder)
    server = lab.popen_in(lab.world, ["iperf3", "-s", "-p", PORT], stdout=subprocess.DEVNULL)
    results = {}
    try:
        until(lambda: lab.in_pod("sh", "-c", f"exec 3<>/dev/tcp/{WORLD4}/{PORT}", check=False).returncode in (0, 2), 5, "iperf3")
        time.sleep(0.3)
        for number in range(options.rounds):
            for kind in (Native, Slirp4netns, Pasta, Ours):
                tool = kind(lab)
                try:
                    for direction in ("up", "down"):
                        speed, cost = bulk(tool, direction, options.seconds)
                        results.setdefault(tool.name, {}).setdefault(direction, []).append((speed, cost))
                        print(f"round {number + 1}: {tool.name:13} {direction:5} {speed:6.2f} Gbit/s  {cost:6.2f} CPU s/GiB", flush=True)
                finally:
                    tool.close()
        starts = start_times(lab, 10)
        readings = reading_times(folder, 20)
        costs = supervision.measure(lab, folder)
    finally:
        server.kill()
        server.wait()
        lab.close()
        shutil.rmtree(folder, ignore_errors=True)

    def median(name, direction, which):
        return statistics.median(pair[which] for pair in results[name][direction])

    print("\nTCP, one flow, MTU 1500, medians; ratios to native, and of workspacekit to the better peer")
    print(f"{'':14}{'up':>18}{'CPU s/GiB':>11}{'down':>18}{'CPU s/GiB':>11}")
    for name in results:
        row = f"{name:14}"
        for direction in ("up", "down"):
            speed = median(name, direction, 0)
            row += f"{speed:8.2f} ({speed / median('native veth', direction, 0):5.3f} x)"
            row += f"{median(name, direction, 1):11.2f}" if name != "native veth" else f"{'-':>11}"
        print(row)
    factors = {direction: median("workspacekit", direction, 0) / max(median(peer, direction, 0) for peer in ("slirp4netns", "pasta"))
               for direction in ("up", "down")}
    print(f"workspacekit is {factors['up']:.1f} x (up) and {factors['down']:.1f} x (down) the better peer")
    print(f"start to first command, ordinary user: workspacekit {starts['workspacekit']:.1f} ms, "
          f"rootlesskit with slirp4netns {starts['rootlesskit']:.1f} ms ({starts['rootlesskit'] / starts['workspacekit']:.1f} x)")
    print(f"configuration, from exec to exit: validate of a typical file {readings['typical']:.1f} ms (true(1) {readings['true']:.1f} ms); "
          f"of 10,000 lines {readings['10,000 lines']:.1f} ms, Python with libyaml {readings['python']:.1f} ms "
          f"({readings['python'] / readings['10,000 lines']:.1f} x)")
    print(supervision.table(costs))
    (HERE / "results.json").write_text(json.dumps({"bulk": results, "factors": factors, "start_ms": starts, "reading_ms": readings, "supervision": costs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
