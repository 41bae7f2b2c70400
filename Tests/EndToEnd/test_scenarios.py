"""Scenarios that the test suites of other supervisors pin down, told for this one. What another file shows already is named
in ELSEWHERE; the rest is here, by the same numbers."""

import json
import os
import pathlib
import re
import signal
import time

import pytest

from conftest import until

ELSEWHERE = {
    2: "test_workspace.py::test_a_failing_service_shows_growing_delays",
    11: "test_services.py::test_a_task_waits_for_another_to_complete",
    18: "test_survival.py::test_nothing_that_runs_is_restarted",
    19: "test_services.py::test_readiness_by_a_line_of_the_log",
    21: "test_services.py::test_each_kind_of_probe",
    23: "test_services.py::test_readiness_by_a_newline",
    25: "test_services.py::test_the_stop_goes_against_the_dependencies",
    34: "test_processes.py::test_what_left_the_group_goes_too",
    36: "test_init.py::test_every_signal_goes_on",
    37: "test_init.py::test_whom_signals_reach",
    38: "test_terminals.py::test_typing_replay_resize_and_exit_code",
    39: "test_init.py::test_the_program_finds_signals_and_descriptors_as_we_found_them",
    40: "test_logs.py::test_files_move_on_when_they_are_full",
    45: "test_configuration.py::test_an_edit_changes_what_it_names_and_nothing_else",
    46: "test_configuration.py::test_a_bad_edit_changes_nothing_and_is_said_once",
}


def test_all_scenarios_are_somewhere():
    here = pathlib.Path(__file__)
    own = {int(number) for name in re.findall(r"^def test_(s[0-9_s]+)_", here.read_text(), re.M) for number in re.findall(r"\d+", name)}
    for place in ELSEWHERE.values():
        file, name = place.split("::")
        assert f"def {name}(" in (here.parent / file).read_text(), place
    assert own | set(ELSEWHERE) == set(range(1, 47)) and not own & set(ELSEWHERE)


def state(space, name, wanted, seconds=10):
    until(lambda: space.status()[name]["state"] == wanted, seconds, f"{name} {wanted}")
    return space.status()[name]


def refused(space, *words):
    result = space.cli(*words, check=False)
    assert result.returncode == 1, result
    return result.stderr


# Restart and backoff

def test_s01_a_task_that_ends_at_once_is_reported_with_its_last_words(workspace):
    space = workspace("tasks: [{name: t, command: 'echo out; echo last words >&2; exit 3'}]").started()
    assert state(space, "t", "failed")["exitCode"] == 3
    assert "[t] last words" in space.stdout and "t: ended: exit status 3" in space.stderr
    assert space.cli("logs", "-n", "1", "t").stdout == "last words\n"


def test_s03_a_stop_during_the_backoff_cancels_the_restart(workspace):
    space = workspace("workspacekit: {services: {s: {command: sh -c 'echo runs; exit 1', restart: always}}}").started()
    state(space, "s", "backing off")
    space.cli("stop", "s")
    count = space.status()["s"]["restarts"]
    time.sleep(1.2)
    assert space.status()["s"]["state"] == "stopped" and space.status()["s"]["restarts"] == count


def test_s04_the_number_of_restarts_is_honoured(workspace):
    space = workspace("workspacekit: {services: {s: {command: sh -c 'echo run; exit 1', restart: 'on-failure:2'}}}").started()
    state(space, "s", "failed", 15)
    assert space.stdout.count("[s] run") == 3 and "given up after 2 failures in a row" in space.stderr


def test_s05_an_exit_code_on_the_success_list_is_no_failure(workspace):
    space = workspace("""
tasks: [{name: after, command: sleep 1000}]
workspacekit:
  services:
    s: {command: sh -c 'exit 3', restart: on-failure, success_exit_codes: [3]}
    t: {command: "sh -c 'kill -TERM $$'", restart: on-failure, success_exit_codes: [143]}
  tasks: {after: {depends_on: {s: {condition: service_completed_successfully}, t: {condition: service_completed_successfully}}}}
""").started()
    state(space, "after", "running")
    units = space.status()
    assert (units["s"]["state"], units["s"]["exitCode"], units["s"]["restarts"]) == ("completed", 3, 0)
    assert (units["t"]["state"], units["t"]["exitCode"], units["t"]["reason"]) == ("completed", 143, "SIGTERM, a success")


@pytest.mark.parametrize("code", [0, 7])
def test_s06_the_end_of_an_essential_unit_ends_everything_with_its_code(workspace, code):
    space = workspace(f"""
tasks: [{{name: other, command: sleep 1000}}]
workspacekit: {{services: {{s: {{command: sh -c 'sleep 0.3; exit {code}', essential: true}}}}}}
""")
    assert space.wait(15) == code


WAITING = """
tasks: [{name: web, command: sleep 1000}]
workspacekit:
  services: {gate: {command: sleep 1000, healthcheck: {test: test -e open, interval: 100ms}, restart: no}}
  tasks: {web: {depends_on: {gate: {condition: service_healthy}}}}
"""


def test_s07_a_restart_of_one_that_waits_does_not_start_it_early(workspace):
    space = workspace(WAITING).started()
    space.cli("restart", "--no-wait", "web")
    time.sleep(0.5)
    assert space.status()["web"]["state"] == "waiting" and space.status()["web"]["waitsFor"] == ["gate (healthy)"]
    (space.folder / "open").touch()
    state(space, "web", "running")


SLOW = "sh -c 'trap \"sleep 0.5; exit 0\" TERM; touch up; while :; do sleep 0.05; done'"


def test_s08_s09_s10_requests_that_meet(workspace):
    space = workspace(f"workspacekit: {{services: {{s: {{command: {json.dumps(SLOW)}, restart: always}}}}}}").started()
    until((space.folder / "up").exists, 10, "it")
    first = space.status()["s"]["pid"]
    # A start of what runs is nothing.
    space.cli("start", "s")
    assert space.status()["s"]["pid"] == first and space.status()["s"]["restarts"] == 0
    # Two restarts at once leave one process.
    space.cli("restart", "--no-wait", "s")
    space.cli("restart", "--no-wait", "s")
    until(lambda: space.status()["s"].get("pid") not in (None, first), 10, "the restart")
    assert space.status()["s"]["restarts"] == 1 and len(space.exec("pgrep", "-f", "trap .sleep 0.5").stdout.split()) == 1
    # A stop during a restart wins.
    space.cli("restart", "--no-wait", "s")
    space.cli("stop", "s")
    state(space, "s", "stopped")
    time.sleep(0.5)
    assert space.status()["s"]["state"] == "stopped"


# Order and dependencies

def test_s12_a_rhombus_starts_each_once(workspace):
    space = workspace("""
tasks:
  - {name: top, command: "echo top >> order"}
  - {name: left, command: "sleep 0.2; echo left >> order"}
  - {name: right, command: "echo right >> order"}
  - {name: bottom, command: "echo bottom >> order"}
  - {name: many, command: "echo many >> order"}
workspacekit:
  tasks:
    left: {depends_on: {top: {condition: service_completed_successfully}}}
    right: {depends_on: {top: {condition: service_completed_successfully}}}
    bottom: {depends_on: {left: {condition: service_completed_successfully}, right: {condition: service_completed_successfully}}}
    many: {depends_on: {top: {condition: service_completed_successfully}, left: {condition: service_completed_successfully}, right: {condition: service_completed_successfully}, bottom: {condition: service_completed_successfully}}}
""").started()
    space.cli("wait", "many", "--for", "completed")
    assert (space.folder / "order").read_text().split() == ["top", "right", "left", "bottom", "many"]


@pytest.mark.parametrize("config, says", [
    ("a: {depends_on: [b]}, b: {depends_on: [c]}, c: {depends_on: [a]}", r"a dependency cycle: a → b → c → a"),
    ("a: {depends_on: [nobody]}, b: {}, c: {}", r"\.gitpod\.yml:\d+:\d+: error: workspacekit.tasks.a.depends_on: no task or service is called \"nobody\""),
])
def test_s13_s14_what_cannot_be_is_refused_before_anything_starts(workspace, config, says):
    space = workspace("tasks: [{name: a, command: touch ran}, {name: b, command: touch ran}, {name: c, command: touch ran}]\n"
                      f"workspacekit: {{tasks: {{{config}}}}}\n")
    assert space.wait(10) == 78 and re.search(says, space.stderr)
    assert not (space.folder / "ran").exists() and not space.state.exists()


def test_s15_s20_who_depends_on_what_failed_does_not_hang(workspace):
    space = workspace("""
tasks: [{name: t, command: touch ran}, {name: u, command: touch ran}, {name: v, command: touch ran}]
workspacekit:
  services:
    silent: {command: "sh -c 'sleep 0.3; exit 1'", ready: {log: never said}}
    fails: {command: "false"}
    absent: {command: x, requires: [no-such-program]}
  tasks: {t: {depends_on: {silent: {condition: service_healthy}}}, u: {depends_on: {fails: {condition: service_completed_successfully}}}, v: {depends_on: [absent]}}
""").started()
    began = time.monotonic()
    assert "t waits in vain: silent ended: exit status 1" in refused(space, "wait", "t", "--for", "started", "--timeout", "10s")
    assert "u waits in vain: fails failed: exit status 1" in refused(space, "wait", "u", "--for", "started", "--timeout", "10s")
    assert "v is skipped: absent is skipped" in refused(space, "wait", "v", "--for", "started", "--timeout", "10s")
    assert time.monotonic() - began < 8 and not (space.folder / "ran").exists()
    assert [space.status()[name]["state"] for name in "tuv"] == ["blocked", "blocked", "skipped"]


def test_s16_s31_a_start_brings_what_it_needs_and_a_stop_asks(workspace):
    space = workspace("""
workspacekit:
  services:
    db: {command: "sh -c 'trap \\"echo db ends; exit 0\\" TERM; while :; do sleep 0.05; done'"}
    api: {command: "sh -c 'trap \\"sleep 0.3; echo api ends; exit 0\\" TERM; while :; do sleep 0.05; done'", depends_on: [db]}
    web: {command: sleep 1000, depends_on: [api]}
    other: {command: sleep 1000}
""").started()
    for name in ("db", "api", "web"):
        state(space, name, "running")
    time.sleep(0.2)  # until the shells have their traps
    assert "api, web need what is to stop: name api, web too, or use --force" in refused(space, "stop", "db")
    assert "web needs what is to stop: name web too, or use --force" in refused(space, "stop", "api", "db")
    space.cli("stop", "--force", "db")
    state(space, "db", "stopped")
    assert space.stdout.index("[api] api ends") < space.stdout.index("[db] db ends")
    assert [space.status()[name]["state"] for name in ("api", "web", "other")] == ["stopped", "stopped", "running"]
    space.cli("start", "web")
    for name in ("db", "api", "web"):
        state(space, name, "running")


def test_s17_order_without_need(workspace):
    space = workspace("""
tasks: [{name: t, command: "test -e made && echo after"}, {name: u, command: "echo alone"}]
workspacekit:
  services:
    maker: {command: "sh -c 'sleep 0.3; touch made; exit 1'"}
    absent: {command: x, requires: [no-such-program]}
  tasks:
    t: {depends_on: {maker: {condition: service_completed_successfully, required: false}}}
    u: {depends_on: {absent: {condition: service_started, required: false}}}
""").started()
    space.cli("wait", "t", "--for", "completed")
    space.cli("wait", "u", "--for", "completed")
    assert "[t] after" in space.stdout and "[u] alone" in space.stdout


# Readiness

def test_s22_a_failing_check_restarts_and_waits_while_it_backs_off(workspace):
    space = workspace("""
workspacekit:
  services:
    s: {command: sh -c 'echo run; exec sleep 1000', restart: always, healthcheck: {test: "echo probe >> probes; false", interval: 100ms, retries: 2}}
""").started()
    until(lambda: space.stdout.count("[s] run") >= 3, 20, "two restarts")
    state(space, "s", "backing off")
    before = (space.folder / "probes").read_text().count("probe")
    time.sleep(0.3)
    assert space.status()["s"]["state"] == "backing off" and (space.folder / "probes").read_text().count("probe") == before
    assert space.status()["s"]["backoffSeconds"] > 0.9


def test_s24_a_start_that_takes_too_long_is_ended_and_said(workspace):
    space = workspace("""
workspacekit:
  services:
    never: {command: sleep 1000, ready: {notify: fd, timeout: 400ms}}
    late: {command: "sh -c 'test -e once && echo ready now; touch once; exec sleep 1000'", restart: always, ready: {log: ready now, timeout: 400ms}}
""").started()
    unit = state(space, "never", "failed")
    assert unit["reason"] == "not ready in time" and "never: not ready in time: stopped" in space.stderr
    space.cli("wait", "late", "--for", "ready", "--timeout", "10s")
    assert space.status()["late"]["restarts"] == 1
    time.sleep(0.6)
    assert space.status()["late"]["restarts"] == 1


# Shutdown

def test_s26_kill_comes_after_the_grace_whatever_a_trap_does(workspace):
    space = workspace("""
workspacekit: {services: {s: {command: "sh -c 'trap \\"sleep 100\\" TERM; touch up; while :; do sleep 0.05; done'", stop_grace_period: 500ms}}}
""").started()
    until((space.folder / "up").exists, 10, "it")
    began = time.monotonic()
    space.cli("stop", "s")
    unit = state(space, "s", "stopped")
    assert 0.45 <= time.monotonic() - began < 4 and unit["exitCode"] == 137
    assert "s: did not end within its grace: killed" in space.stderr


def test_s27_what_runs_before_the_stop(workspace):
    """A command, then the signal; one that fails or hangs keeps nobody from ending."""
    space = workspace("""
tasks: [{name: t, command: "trap 'echo got TERM; exit 0' TERM; while :; do sleep 0.05; done"}]
workspacekit:
  services:
    own: {command: "sh -c 'until test -e asked; do sleep 0.05; done; exit 4'", pre_stop: sh -c 'touch asked; sleep 0.5'}
    signalled: {command: "sh -c 'trap \\"echo got INT; exit 5\\" INT; while :; do sleep 0.05; done'", stop_signal: SIGINT, pre_stop: [{command: "false"}, {command: [sh, -c, echo second of $NAME]}], environment: {NAME: signalled}}
    hangs: {command: sleep 1000, pre_stop: sh -c 'sleep 4715', stop_grace_period: 400ms}
    missing: {command: sleep 1000, pre_stop: /no/such/program}
  tasks: {t: {pre_stop: sh -c 'sleep 0.3; echo drained'}}
""").started()
    time.sleep(0.3)  # until the shells have their traps
    space.cli("stop", "own", "signalled", "hangs", "missing", "t")
    assert state(space, "own", "stopped")["exitCode"] == 4
    assert state(space, "signalled", "stopped")["exitCode"] == 5 and "signalled: pre_stop: exit status 1" in space.stderr
    assert state(space, "hangs", "stopped")["exitCode"] == 137 and space.exec("pgrep", "-f", "^sleep 4715", check=False).stdout == ""
    assert state(space, "missing", "stopped")["exitCode"] == 143 and "missing: pre_stop: cannot find /no/such/program" in space.stderr
    state(space, "t", "stopped")
    assert "second of signalled" in space.cli("logs", "signalled").stdout
    assert [line for line in space.cli("logs", "t").stdout.splitlines() if line != "Terminated"] == ["drained", "got TERM"]


def test_s27_a_stop_under_way_outlives_the_supervisor(workspace):
    space = workspace("""
workspacekit: {services: {s: {command: "sh -c 'trap \\"echo got TERM; exit 6\\" TERM; while :; do sleep 0.05; done'", pre_stop: [{command: "sh -c 'touch begun; sleep 1; echo first'"}, {command: echo second}]}}}
""").started()
    time.sleep(0.3)
    space.cli("stop", "s")
    until((space.folder / "begun").exists, 5, "the command")
    os.kill(space.stage("supervise"), signal.SIGKILL)
    until(lambda: space.cli("status", check=False).returncode == 0, 5, "the next supervisor")
    assert state(space, "s", "stopped")["exitCode"] == 6
    assert [line for line in space.cli("logs", "s").stdout.splitlines() if line != "Terminated"] == ["first", "second", "got TERM"]


def test_s28_the_budget_of_a_stop_bounds_everything(workspace):
    space = workspace("""
workspacekit:
  shutdown: {grace: 2s}
  services:
    a: {command: "sh -c 'trap : TERM; while :; do sleep 0.05; done'", stop_grace_period: 60s}
    b: {command: "sh -c 'trap : TERM; while :; do sleep 0.05; done'", stop_grace_period: 60s, depends_on: [a], pre_stop: sleep 1000}
""").started()
    state(space, "b", "running")
    began = time.monotonic()
    space.process.terminate()
    space.wait(10)
    assert time.monotonic() - began < 6


def test_s29_a_stop_while_units_wait_ends_at_once(workspace):
    space = workspace(WAITING).started()
    began = time.monotonic()
    space.cli("stop")
    assert space.wait(10) == 0 and time.monotonic() - began < 3


def test_s30_one_that_restarts_does_not_come_back_during_a_stop(workspace):
    space = workspace("""
tasks: [{name: slow, command: "trap 'sleep 1.5; exit 0' TERM; touch up; while :; do sleep 0.05; done"}]
workspacekit: {services: {s: {command: "sh -c 'echo run >> runs; exit 1'", restart: always}}}
""").started()
    until((space.folder / "up").exists, 10, "the task")
    state(space, "s", "backing off")
    before = (space.folder / "runs").read_text().count("run")
    space.process.terminate()
    assert space.wait(10) == 0
    assert (space.folder / "runs").read_text().count("run") <= before + 1


# Orphans and zombies

def test_s32_a_grandchild_that_holds_the_output_does_not_hang_the_stop(workspace):
    space = workspace("tasks: [{name: t, command: 'setsid sleep 4716 & echo up; exec sleep 1000'}]").started()
    until(lambda: "[t] up" in space.stdout, 10, "it")
    began = time.monotonic()
    space.cli("stop", "t")
    state(space, "t", "stopped")
    space.cli("stop")
    space.wait(10)
    assert time.monotonic() - began < 4


def test_s33_s35_orphans_are_reaped_and_no_units_end_is_lost(workspace):
    tasks = "".join(f"  - {{name: t{index}, command: 'sleep 0.{index % 10}; exit {index}'}}\n" for index in range(40))
    space = workspace(f"""
tasks:
  - {{name: orphans, command: 'for i in $(seq 1 400); do (sleep 0.2 & sleep 0 &); done; echo made'}}
{tasks}""").started()
    until(lambda: "[orphans] made" in space.stdout and all(unit["state"] in ("completed", "failed") for unit in space.status().values()), 30, "all ends")
    assert [space.status()[f"t{index}"]["exitCode"] for index in range(40)] == list(range(40))
    until(lambda: " Z" not in space.exec("ps", "-eo", "pid,stat").stdout, 5, "the end of the last zombie")


# Logs, environment, files

def test_s41_a_last_line_without_a_newline_and_one_that_blocks_nobody(workspace):
    space = workspace("""
tasks:
  - {name: partial, command: printf 'one\\ntwo'}
  - {name: flood, command: "yes | head -c 20000000 >/dev/stdout; echo; echo flooded"}
  - {name: calm, command: "for i in 1 2 3; do echo calm $i; sleep 0.1; done"}
""").started()
    space.cli("wait", "partial", "--for", "completed")
    space.cli("wait", "calm", "--for", "completed", "--timeout", "10s")
    until(lambda: "[partial] two" in space.stdout and "[calm] calm 3" in space.stdout, 10, "the lines")
    assert space.cli("logs", "partial").stdout == "one\ntwo"


def test_s42_s43_the_environment_has_an_order_and_values_are_texts(workspace):
    space = workspace("""
env: {A: global, B: global, C: global, D: global}
tasks:
  - name: t
    command: 'echo "A=$A B=$B C=$C D=[$D]"; echo "$NUMBER $FLAG $MAP $LIST [$NOTHING]"'
    env: {C: task, NUMBER: 10, FLAG: true, MAP: {a: 1, b: [x]}, LIST: [1, two], NOTHING: ""}
workspacekit: {tasks: {t: {env_file: [more.env]}}}
""", folder=None, arguments=["--network", "none"])
    space.stop()
    (space.folder / "more.env").write_text("B=file\nC=file\nD=\n")
    again = workspace((space.folder / ".gitpod.yml").read_text(), folder=space.folder, arguments=["--network", "none"]).started()
    again.cli("wait", "t", "--for", "completed")
    until(lambda: again.stdout.count("[t] ") == 2, 5, "the lines")
    assert "[t] A=global B=file C=task D=[]" in again.stdout
    assert '[t] 10 true {"a":1,"b":["x"]} [1,"two"] []' in again.stdout
    assert again.cli("exec", "-e", "A=line", "--", "sh", "-c", "echo $A $B").stdout == "line global\n"


def test_s44_a_missing_directory_or_user_is_named(workspace):
    space = workspace("workspacekit: {services: {where: {command: sleep 1000, working_dir: no/such/directory}}}").started()
    assert "no/such/directory" in state(space, "where", "failed")["reason"]
    other = workspace("workspacekit: {services: {who: {command: touch ran, user: nobody-of-that-name}}}")
    assert other.wait(10) == 78 and re.search(r'\.gitpod\.yml:1:\d+: error: .*unknown user "nobody-of-that-name"', other.stderr)
    assert not (other.folder / "ran").exists()
