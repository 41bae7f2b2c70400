"""workspacekit prebuild: what can be done before somebody comes, once, with an account of it."""

import json
import os
import signal

import pytest

from conftest import BINARY, until


def prebuild(workspace, config, *arguments, folder=None):
    return workspace(config, verb="prebuild", arguments=arguments, folder=folder)


CONFIG = """
tasks:
  - {name: deps, before: "echo before >> order", init: "echo init >> order; sleep 0.3", prebuild: "echo prebuild >> order", command: "echo command >> order; sleep 1000"}
  - {name: site, init: "test -s order && echo site-init >> order", command: "sleep 1000"}
  - {name: server, command: "sleep 1000"}
workspacekit:
  tasks:
    site: {depends_on: {deps: {condition: service_started}, db: {condition: service_healthy}}}
    server: {ready: {log: never}, healthcheck: {test: "false"}, essential: true}
  services:
    db: {command: "sh -c 'sleep 0.2; touch up; exec sleep 1000'", healthcheck: {test: "test -e up"}}
"""


def test_phases_in_order_with_a_summary(workspace):
    space = prebuild(workspace, CONFIG)
    assert space.wait(20) == 0
    assert (space.folder / "order").read_text() == "before\ninit\nprebuild\nsite-init\n"
    table = [line.split() for line in space.stdout.splitlines() if not line.startswith("[")]
    assert [row[:2] for row in table] == [["TASK", "RESULT"], ["deps", "done"], ["site", "done"], ["server", "done"]]
    space.gone(3)


def test_a_run_goes_on_after_it(workspace):
    space = prebuild(workspace, CONFIG)
    assert space.wait(20) == 0
    (space.folder / "order").write_text("")
    later = workspace(CONFIG, folder=space.folder)
    until(lambda: (space.folder / "order").read_text() == "before\ncommand\n", 10, "the run")
    later.stop()


@pytest.mark.parametrize("last", ["fails", "other"])
def test_a_failure_is_told(workspace, last):
    waits = {"fails": ("until test -e fine; do sleep 0.05; done; sleep 0.3; ", ""), "other": ("", "until test -e broken; do sleep 0.05; done; sleep 0.3; ")}[last]
    space = prebuild(workspace, f"""
tasks:
  - {{name: fails, init: "{waits[0]}touch broken; echo broken; exit 7", prebuild: "echo never"}}
  - {{name: needs, init: "echo never"}}
  - {{name: other, init: "{waits[1]}touch fine; echo fine"}}
workspacekit:
  tasks: {{needs: {{depends_on: {{fails: {{condition: service_completed_successfully}}}}}}}}
""", "--json")
    assert space.wait(20) == 1
    results = {result["name"]: result for result in json.loads(space.stdout)}
    assert (results["fails"]["exitCode"], results["fails"]["succeeded"], results["fails"]["reason"]) == (7, False, "exit status 7")
    assert results["other"]["succeeded"] and results["other"]["seconds"] >= 0
    assert "exitCode" not in results["needs"] and results["needs"]["reason"] == "fails failed: exit status 7"
    assert "never" not in (space.state / "logs/fails.log").read_text()
    # What failed has not been done: a run does it.
    later = workspace(None, folder=space.folder)
    until(lambda: "[fails] broken" in later.stdout, 10, "the init that is still to be done")


def test_a_killed_supervisor_does_not_spoil_it(workspace):
    space = prebuild(workspace, """
tasks:
  - {name: slow, init: "echo begins; until test -e go; do sleep 0.05; done; exit 4"}
  - {name: quick, init: "true"}
""").started()
    until(lambda: "[slow] begins" in space.stdout, 10, "the task")
    os.kill(space.stage("supervise"), signal.SIGKILL)
    (space.folder / "go").touch()
    assert space.wait(20) == 1
    assert [line.split()[:2] for line in space.stdout.splitlines()[-2:]] == [["slow", "failed"], ["quick", "done"]]


def test_nothing_to_do_and_nothing_to_read(workspace):
    space = prebuild(workspace, "ports: [{port: 3000}]")
    assert space.wait(20) == 0
    broken = prebuild(workspace, "tasks: 3")
    assert broken.wait(20) == 78 and "tasks: expected a list" in broken.stderr
