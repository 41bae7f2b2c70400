#!/usr/bin/python3
"""Side by side: native veth, Debian's slirp4netns, Debian's pasta, and workspacekit; the start of a workspace beside
RootlessKit's; and what supervision costs. One interleaved run in the lab of the end-to-end tests; what counts are ratios, not
Gbit/s. Writes Benchmarks/results.json, docs/performance.md and its plots.

    make bench                      2 rounds, about twelve minutes
    Benchmarks/bench.py --wild      only containers, dockerd and a fleet, into the results that are there
    Benchmarks/bench.py --measures bulk,nested --tools Native,Ours,Pasta --rounds 5 --seconds 3     some of it, nothing written"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "Tests" / "EndToEnd"))

import network  # noqa: E402
import report  # noqa: E402
import supervision  # noqa: E402
import wild  # noqa: E402
from conftest import BINARY, Lab, USER  # noqa: E402
from network import AS_USER  # noqa: E402

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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--measures", default="", help="of the network: bulk, nested, inbound, latency, datagrams, memory, lossy, first")
    parser.add_argument("--tools", default="", help="Native, Slirp4netns, Slirp4netns1500, Pasta, Pasta1500, Ours, OursPacket")
    parser.add_argument("--default-congestion", action="store_true", help="leave the peers' namespaces the kernel's default instead of reno")
    parser.add_argument("--wild", action="store_true", help="only containers, dockerd and a fleet, into the results that are there")
    options = parser.parse_args()
    options.start_only = False
    is_whole = not options.measures and not options.tools
    folder = pathlib.Path("/tmp") / f"wk-bench-{os.getpid()}"
    folder.mkdir(mode=0o755)
    lab = Lab(folder)
    results = {"rounds": options.rounds, "processors": os.cpu_count()}
    if options.wild:
        results = json.loads((HERE / "results.json").read_text())
        try:
            results["wild"] = wild.measure(lab, folder)
        finally:
            lab.close()
            shutil.rmtree(folder, ignore_errors=True)
        print("\n".join(report.wild_lines(results["wild"])))
        (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        return report.write(results)
    try:
        measured = network.Network(lab, options)
        try:
            results["network"] = measured.run()
        finally:
            measured.close()
        if is_whole:
            results["start_ms"] = start_times(lab, 10)
            results["reading_ms"] = reading_times(folder, 20)
            results["supervision"] = supervision.measure(lab, folder)
            results["wild"] = wild.measure(lab, folder)
    finally:
        lab.close()
        shutil.rmtree(folder, ignore_errors=True)
    for title, value, bound, met in report.lines(report.Results(results["network"])):
        if met is not None:
            print(f"{'ok    ' if met else 'MISSED'} {title:48} {value:40} {bound}")
    if not is_whole:
        return
    starts, readings = results["start_ms"], results["reading_ms"]
    print(f"start to first command, ordinary user: workspacekit {starts['workspacekit']:.1f} ms, "
          f"rootlesskit with slirp4netns {starts['rootlesskit']:.1f} ms ({starts['rootlesskit'] / starts['workspacekit']:.1f} x)")
    print(f"configuration, from exec to exit: validate of a typical file {readings['typical']:.1f} ms (true(1) {readings['true']:.1f} ms); "
          f"of 10,000 lines {readings['10,000 lines']:.1f} ms, Python with libyaml {readings['python']:.1f} ms "
          f"({readings['python'] / readings['10,000 lines']:.1f} x)")
    print(supervision.table(results["supervision"]))
    print("\n".join(report.wild_lines(results["wild"])))
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    report.write(results)


if __name__ == "__main__":
    main()
