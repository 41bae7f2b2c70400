"""Bulk, short connections, datagrams and look-ups at once for LOAD_SECONDS (10; `make load` takes ten minutes): afterwards
everything is as it was before."""

import json
import os
import pathlib
import shutil
import subprocess
import time

import pytest

from conftest import BINARY, HERE, PYTHON, WORLD4, die_with_parent, until

SECONDS = int(os.environ.get("LOAD_SECONDS", "10"))
# A flow on which datagrams went both ways is kept for two minutes: only the long run waits for that.
IS_LONG = SECONDS > 60
CLIENTS = 32
BULK = """
import socket, sys, time
end, down = time.monotonic() + float(sys.argv[1]), sys.argv[2] == "down"
block, total = bytes(1 << 18), 0
while time.monotonic() < end:
    with socket.create_connection(("198.18.0.1", 9001 if down else 9000), 10) as s:
        s.settimeout(30)
        if down:
            s.sendall(b"200000000\\n")
            while data := s.recv(1 << 18): total += len(data)
        else:
            for _ in range(800): s.sendall(block)
            s.shutdown(1); assert s.recv(100).startswith(b"209715200 "); total += 800 << 18
print(total)
"""


def measure(space):
    pid = space.stage("slirp")
    rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    pss = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss_Anon:"))
    table = json.loads(space.lab.in_pod(*space.prefix, BINARY, "net", "flows", "--json", "--state-dir", str(space.state)).stdout)
    kinds = [flow["transport"] for flow in table["flows"]]
    ticks = sum(map(int, pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]))
    return {"pid": pid, "anonymous_kib": pss, "descriptors": len(os.listdir(f"/proc/{pid}/fd")), "tcp": kinds.count("tcp"), "udp": len(kinds) - kinds.count("tcp"),
            "ticks": ticks, **table["counters"]}


@pytest.fixture
def traffic(lab):
    compiler = shutil.which("cc") or shutil.which("clang")
    source = HERE.parents[1] / "Benchmarks" / "traffic.c"
    if compiler is None or not source.exists():
        pytest.skip("no C compiler")
    tool = lab.folder / "traffic"
    subprocess.run([compiler, "-O2", "-o", tool, source], check=True)
    server = lab.popen_in(lab.world, [str(tool), "serve", "0.0.0.0"], stdout=subprocess.PIPE)
    assert server.stdout.readline() == b"ready\n"
    yield str(tool)
    server.kill()
    server.wait()


def test_load_leaves_nothing_behind(workspace, lab, traffic):
    space = workspace("tasks: [{command: exec sleep 100000}]\n").started()
    enter = ["nsenter", f"--net=/proc/{space.stage('ring2')}/ns/net", "--"]
    spawn = lambda *command: subprocess.Popen([*enter, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent)

    def load(seconds):
        clients = [spawn(PYTHON, "-c", BULK, seconds, "down" if number % 2 else "up") for number in range(8)]
        # 2,000 a second are asked for: each client waits for one connection after the other.
        short = [spawn(traffic, "connects", WORLD4, seconds, 2000 // CLIENTS) for _ in range(CLIENTS)]
        datagrams = spawn(traffic, "up", WORLD4, seconds, 1400, 2000)
        names = spawn(traffic, "names", "10.0.2.3", seconds, 2)
        outputs = [process.communicate(timeout=seconds + 120) for process in (*clients, datagrams, names, *short)]
        totals = [int(out) if out.strip() else pytest.fail(error) for out, error in outputs[:8]]
        datagrams, names, *short = (json.loads(out) for out, _ in outputs[8:])
        return totals, {"rate": sum(client["rate"] for client in short), "p50_us": sorted(client["p50_us"] for client in short)[CLIENTS // 2]}, datagrams, names

    load(2)  # what is allocated once, is
    alone = json.loads(spawn(traffic, "connects", WORLD4, 1).communicate(timeout=60)[0])
    before = until(lambda: (found := measure(space))["tcp"] == 0 and found, 20, "the end of all connections")
    totals, short, datagrams, names = load(SECONDS)
    assert all(total > 100_000_000 for total in totals) and names["rate"] > 5
    # Nobody waits long behind the bulk of others.
    assert short["rate"] > alone["rate"] / 100, (short, alone)
    assert datagrams["arrived"] > 0.5 * datagrams["sent"] > 100, datagrams
    until(lambda: measure(space)["tcp"] == 0, 20, "the end of all connections")
    if IS_LONG:
        until(lambda: measure(space)["udp"] == 0, 200, "the end of all datagram flows")
    idle = measure(space)
    time.sleep(1)
    after = measure(space)
    print(json.dumps({"seconds": SECONDS, "before": before, "after": after, "bulk_gib": sum(totals) / (1 << 30), "short": short, "datagrams": datagrams, "names": names}))
    assert after["pid"] == before["pid"], "the forwarder was started again"
    assert after["descriptors"] <= before["descriptors"] + (0 if IS_LONG else 8)
    assert after["anonymous_kib"] <= before["anonymous_kib"] + 1024
    assert after["tcp"] == 0 and after["refused_by_limit"] == 0 and after["pool_exhausted"] == before["pool_exhausted"]
    # No event repeats without progress, least of all when nothing happens.
    assert after["ticks"] - idle["ticks"] <= 5 and after["stalled_turns"] - idle["stalled_turns"] < 50
    assert "repeats without progress" not in space.stderr
