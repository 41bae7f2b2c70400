"""What the documentation says and no other test shows: keys, exit codes, messages and figures."""

import datetime
import importlib.util
import json
import pathlib
import re
import shutil
import signal
import subprocess
import time

import pytest

from conftest import BINARY, run, until

ROOT = pathlib.Path(__file__).parents[2]


def test_the_links_size_and_a_network_without_ipv6(workspace):
    space = workspace("workspacekit: {network: {mtu: 1380, ipv6: false}}\n").started()
    link = json.loads(space.exec("ip", "-j", "addr", "show", "tap0").stdout)[0]
    assert link["mtu"] == 1380
    assert [address["family"] for address in link["addr_info"] if address["scope"] == "global"] == ["inet"]
    assert space.exec("ip", "-6", "route", "show", "default").stdout == ""


def test_where_tasks_run_without_a_checkout_location(workspace, lab):
    folder = lab.folder / "located"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner/all.code-workspace").write_text("{}")
    for number, location in enumerate(("inner", "inner/all.code-workspace")):
        space = workspace(f"workspaceLocation: {location}\ntasks: [{{name: t, command: pwd}}]\n", folder=folder, arguments=["--network", "none"])
        until(lambda: f"[t] {folder}/inner\n" in space.stdout, 10, lambda: f"the folder in {space.stdout} {space.stderr}")
        space.stop()


@pytest.mark.parametrize("config, limits", [
    ("coreDump: {enabled: true, softLimit: 1024, hardLimit: 4096}\n", ("2", "8")), ("coreDump: {enabled: false}\n", ("0", "0"))])
def test_limits_of_cores(inside, config, limits):
    # In blocks of 512 bytes, as POSIX has it for sh.
    assert inside("sh", "-c", "ulimit -S -c; ulimit -H -c", config=config).stdout.split() == list(limits)


def test_unless_stopped_is_always_but_for_a_stop(workspace):
    space = workspace("workspacekit: {services: {s: {command: sleep 1000, restart: unless-stopped}}}\n", arguments=["--network", "none"]).started()
    first = space.status()["s"]["pid"]
    space.exec("kill", "-9", str(first))
    until(lambda: space.status()["s"].get("pid", first) != first, 10, "another process")
    space.cli("stop", "s")
    space.cli("reload")
    assert space.status()["s"]["state"] == "stopped"


def test_exit_codes(workspace):
    space = workspace("tasks: [{name: lasts, command: sleep 1000}, {name: fails, command: exit 3}]\n", arguments=["--network", "none"]).started()
    code = lambda *words: space.cli(*words, check=False).returncode
    until(lambda: space.status()["fails"]["state"] == "failed", 10, "the failure")
    assert code("wait", "lasts", "--for", "completed", "--timeout", "100ms") == 124
    assert code("wait", "--for", "stopped", "--timeout", "100ms") == 124
    assert code("wait", "fails", "--for", "completed") == 1 and code("wait", "nothing") == 1 and code("logs", "nothing") == 1
    assert code("signal", "NOSUCH", "lasts") == 1 and code("exec", "-w", "/nowhere", "--", "true") == 127
    wrong = space.folder / "wrong.yml"
    wrong.write_text("tasks: hello\n")
    (space.folder / "wrong.json").write_text("{")
    for words in (["validate", wrong], ["config", "show", wrong], ["config", "import", space.folder / "wrong.json"], ["graph", wrong],
                  ["run", "--config", wrong, "--state-dir", space.folder / "other"]):
        assert run(BINARY, *words, check=False, cwd=space.folder).returncode == 78, words
    (space.folder / ".gitpod.yml").write_text("tasks: hello\n")
    assert (code("plan"), code("reload"), space.status()["lasts"]["state"]) == (78, 78, "running")
    space.cli("stop")
    assert space.wait() == 0 and code("status") == 69 and code("stop") == 69


def test_a_skipped_unit_starts_after_a_reload_when_its_program_is_there(workspace):
    space = workspace("workspacekit: {services: {s: {command: late, requires: [late]}}}\n", arguments=["--network", "none"],
                      environment={"PATH": "/usr/bin:/bin:/tmp/wk-late"}).started()
    refused = space.cli("start", "s", check=False)
    assert (refused.returncode, refused.stderr) == (1, "workspacekit: s is skipped: late not found. hint: workspacekit reload looks again\n")
    refused = space.cli("restart", "s", check=False)
    assert refused.returncode == 1 and "hint: workspacekit reload" in refused.stderr


def test_a_command_that_only_a_shell_understands_is_a_warning(tmp_path):
    (tmp_path / ".gitpod.yml").write_text("workspacekit: {services: {s: {command: cd x && make}}}\n")
    found = json.loads(run(BINARY, "validate", "--json", "--elsewhere", cwd=tmp_path).stdout)
    assert "WK1016" in json.dumps(found)


def test_a_deleted_link_is_said_and_needs_another_start(workspace):
    space = workspace("tasks: [{name: t, command: sleep 1000}]\n").started()
    space.exec("ip", "link", "del", "tap0")
    assert space.cli("status").stderr.endswith("workspacekit: network: tap0 is gone: restart the workspace\n")
    status = space.cli("net status", check=False)
    assert (status.returncode, status.stderr) == (1, "") and "tap0 is gone: restart the workspace" in status.stdout
    reset = space.cli("net reset", check=False)
    assert (reset.returncode, reset.stderr) == (1, "workspacekit: tap0 is gone: restart the workspace\n")
    assert space.status()["t"]["state"] == "running"


@pytest.mark.parametrize("capabilities, said, isolation", [
    ("-setuid,-setgid", "only one user id is mapped, so apt, sudo and dockerd do not work inside: add CAP_SETUID and CAP_SETGID\n", "full"),
    ("-setuid,-setgid,-setfcap", "tasks and services are only supervised, with nothing of their own (supervise-only)\n", "supervise-only")])
def test_what_missing_capabilities_cost_root(workspace, capabilities, said, isolation):
    space = workspace("tasks: [{name: t, command: cat /proc/self/uid_map}]\n",
                      through=["setpriv", f"--bounding-set={capabilities}", f"--inh-caps={capabilities}"]).started()
    assert said in space.stderr and json.loads(space.cli("status", "--json").stdout)["isolation"] == isolation


@pytest.mark.parametrize("again", [signal.SIGINT, signal.SIGQUIT])
def test_a_second_signal_ends_the_workspace_at_once(workspace, again):
    space = workspace("workspacekit: {services: {s: {command: [sh, -c, \"trap '' TERM; echo up; while :; do sleep 1; done\"], stop_grace_period: 7s}}}\n",
                      arguments=["--network", "none"])
    until(lambda: "[s] up" in space.stdout, 10, "the service")
    space.process.terminate()
    until(lambda: "stopping (again to stop at once)" in space.stderr, 5, "the stop")
    space.process.send_signal(again)
    assert space.wait(5) == 137 and "stopped at once" in space.stderr


@pytest.fixture
def report(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "Benchmarks"))
    specification = importlib.util.spec_from_file_location("report", ROOT / "Benchmarks/report.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


RESULTS = json.loads((ROOT / "Benchmarks/results.json").read_text())


def test_performance_md_is_what_was_measured(report, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "DOCS", tmp_path)
    report.write(RESULTS)
    assert (tmp_path / "performance.md").read_text() == (ROOT / "docs/performance.md").read_text()


def test_the_figures_of_readme_are_what_was_measured():
    text = " ".join((ROOT / "README.md").read_text().split())
    supervision, wild, reading = RESULTS["supervision"], RESULTS["wild"], RESULTS["reading_ms"]
    containers, dockerd = wild["container_ms"], wild["dockerd_ms"]
    for sentence in (
        f"the four together take {supervision['pss_mib']:.0f} MiB (PSS)", f"`status` with 300 services answers in {supervision['status_300_ms']:.0f} ms",
        f"runs {containers['workspacekit'] / containers['tini']:.2f} times as long after `docker run` as under tini",
        f"as soon as RootlessKit's ({dockerd['workspacekit'] / dockerd['rootlesskit']:.2f})",
        f"take {wild['fleet']['pss_mib_each']:.1f} MiB each", f"up in {wild['fleet']['all_up_s']:.0f} s",
        f"{RESULTS['start_ms']['workspacekit']:.0f} ms, beside {RESULTS['start_ms']['rootlesskit']:.0f} ms of `rootlesskit",
        f"10,000 lines is checked in {reading['10,000 lines']:.0f} ms"):
        assert sentence in text, sentence
    table = (ROOT / "docs/performance.md").read_text()
    figure = lambda line: re.search(rf"^\| {re.escape(line)} \| ([0-9.]+)", table, re.M).group(1)
    up, down = figure("TCP, 1 flow up"), figure("TCP, 1 flow down")
    costs = figure("forwarder's CPU, bulk up, 1"), figure("forwarder's CPU, bulk down, 1")
    assert f"| **workspacekit** | **{up}** | **{down}** | **{costs[0]} / {costs[1]}** |" in text


def test_json_of_what_commands_did(workspace):
    space = workspace("tasks: [{name: t, command: sleep 1000}]\nworkspacekit: {services: {s: {command: sleep 1000}}}\n").started()
    until(lambda: space.status()["s"]["state"] == "running", 10, "the service")

    def told(verb, *words):
        return [(unit["name"], unit["state"]) for unit in json.loads(space.cli(verb, *words, "--json").stdout)]

    assert told("wait", "s", "--for", "started") == [("s", "running")]
    assert told("stop", "s") == [("s", "stopped")] and told("start", "s") == [("s", "running")]
    assert told("restart", "s", "t") == [("s", "running"), ("t", "running")] and told("signal", "CONT", "t") == [("t", "running")]
    (space.folder / ".gitpod.yml").write_text("tasks: [{name: t, command: sleep 1001}]\n")
    reloaded = json.loads(space.cli("reload", "--json").stdout)
    assert reloaded["isValid"] and {"s", "t"} == {change["name"] for change in reloaded["changes"]}
    space.exec("ip", "link", "set", "tap0", "down")
    assert json.loads(space.cli("net reset", "--json").stdout)["problems"] == []


def test_some_of_the_events(workspace):
    space = workspace("tasks: [{name: t, command: sleep 1000}]\n", arguments=["--network", "none"]).started()
    until(lambda: space.status()["t"]["state"] == "running", 10, "the task")
    lines = space.cli("events").stdout.splitlines()
    assert len(lines) >= 3 and space.cli("events", "-n", "1").stdout.splitlines() == lines[-1:]
    assert space.cli("events", "--since", "1h").stdout.splitlines() == lines
    assert space.cli("events", "--since", "2000-01-01T00:00:00Z", "t").stdout.splitlines() == [line for line in lines if " task t " in line]
    time.sleep(1.1)
    assert space.cli("events", "--since", "1s").stdout == ""
    mark = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    space.cli("restart", "t")
    new = space.cli("events", "--since", mark).stdout.splitlines()
    assert new and all(" task t " in line for line in new) and space.cli("events").stdout.splitlines() == lines + new


@pytest.mark.skipif(not shutil.which("tshark"), reason="tshark is not installed")
def test_a_capture_keeps_the_beginning_of_packets(workspace, tmp_path):
    space = workspace("tasks: [{name: t, command: sleep 1000}]\n").started()
    file = tmp_path / "trace.pcapng"
    capture = space.lab.popen_in(space.lab.pod, [*space.prefix, BINARY, "net", "capture", "--state-dir", str(space.state), "-w", str(file), "--snap", "60", "-c", "2", "icmp"],
                                 env=space.environment, stderr=subprocess.PIPE)
    until(lambda: file.exists() and file.stat().st_size > 0, 10, "the capture")
    space.exec("ping", "-c", "1", "-s", "500", "10.0.2.2")
    assert capture.wait(10) == 0
    lengths = [(int(a), int(b)) for a, b in re.findall(r"^(\d+)\t(\d+)$", run("tshark", "-r", file, "-T", "fields", "-e", "frame.cap_len", "-e", "frame.len").stdout, re.M)]
    assert lengths == [(60, 542), (60, 542)]
