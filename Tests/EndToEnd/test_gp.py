"""Called as gp: what tasks of real .gitpod.yml files call, inside a workspace."""

import json
import os
import subprocess

import pytest

from conftest import BINARY, PYTHON, USER, until


def gp(space, *words, **options):
    return space.exec("gp", *words, **options)


def test_tasks_wait_for_each_other(workspace):
    space = workspace("""
tasks:
  - {name: setup, command: "until test -e go; do sleep 0.05; done; echo prepared; gp sync-done setup; sleep 1000"}
  - {name: app, command: "gp sync-await setup && echo app starts; sleep 1000"}
""").started()
    until(lambda: space.status()["app"]["state"] == "running", 10, "the task")
    assert "app starts" not in space.stdout
    (space.folder / "go").touch()
    until(lambda: "[app] app starts" in space.stdout, 10, "the task that waits")
    assert space.stdout.index("prepared") < space.stdout.index("app starts")
    # Reached is reached, for those who come later too, and for the supervisor that follows.
    assert gp(space, "sync-await", "setup").returncode == 0
    os.kill(space.stage("supervise"), 9)
    assert gp(space, "sync-await", "setup").returncode == 0


def test_a_wait_ends_with_its_partner(workspace):
    """Gitpod #2186: a partner that ended, failed or was left out keeps nobody waiting."""
    config = """
tasks:
  - {name: once, init: "gp sync-done init-only", command: sleep 1000}
  - {name: fails, command: "exit 3; gp sync-done never"}
  - {name: ends, command: "false && gp sync-done also-never; true"}
  - {name: quoted, command: "until test -e go; do sleep 0.05; done; gp sync-done 'in quotes'"}
"""
    space = workspace(config).started()
    assert gp(space, "sync-await", "init-only").returncode == 0
    failed = gp(space, "sync-await", "never", check=False)
    assert failed.returncode == 1 and failed.stderr == "workspacekit: fails, which was to call sync-done, failed: exit status 3\n"
    assert gp(space, "sync-await", "also-never").returncode == 0
    space.cli("stop")
    assert space.wait() == 0
    again = workspace(config, folder=space.folder).started()
    assert gp(again, "sync-await", "init-only").returncode == 0


def test_ports_and_urls(workspace):
    space = workspace(f"""
ports: [{{port: 8123, name: web}}]
tasks: [{{name: web, command: "sleep 0.5; {PYTHON} -m http.server 8123 --bind 127.0.0.1"}}, {{name: t, command: "gp await-port 8123 && gp ports await 8123 && echo $(gp url 8123) $(gp url); sleep 1000"}}]
""").started()
    until(lambda: "[t] http://localhost:8123 http://localhost" in space.stdout, 20, "the port")
    listed = gp(space, "ports", "list").stdout
    assert "8123" in listed and "open" in listed and "web" in listed
    url = lambda *words: space.exec("env", "GITPOD_WORKSPACE_URL=https://owner-repo-id.ws.example.org", "gp", "url", *words).stdout
    assert url("3000") == "https://3000-owner-repo-id.ws.example.org\n" and url() == "https://owner-repo-id.ws.example.org\n"


def test_tasks_info_and_version(workspace):
    space = workspace("""
tasks: [{name: one, command: "echo hello; sleep 1000"}, {name: two, command: sleep 1000}]
workspacekit: {services: {s: {command: sleep 1000}}}
""").started()
    until(lambda: "[one] hello" in space.stdout, 10, "the task")
    listed = gp(space, "tasks", "list").stdout
    assert "one" in listed and "two" in listed and "\ns " not in listed
    info = json.loads(gp(space, "info", "-j").stdout)
    assert (info["tasks"], info["services"], info["state"]) == (2, 1, "running")
    pid = space.status()["one"]["pid"]
    gp(space, "tasks", "restart", "one")
    until(lambda: space.status()["one"].get("pid") not in (None, pid), 10, "the restart")
    gp(space, "tasks", "stop", "--all")
    until(lambda: all(space.status()[name]["state"] == "stopped" for name in ("one", "two")), 10, "the tasks' end")
    assert space.status()["s"]["state"] == "running"
    assert gp(space, "version").stdout.strip() == subprocess.run([BINARY, "--version"], capture_output=True, text=True).stdout.strip()
    assert gp(space, "validate").returncode == 0


@pytest.mark.parametrize("words,says", [
    (["preview", "http://localhost:1"], "gp preview: no browser here"), (["open", "README.md"], "gp open: no editor here"),
    (["ports", "expose", "3000"], "gp ports expose: declare the port"), (["timeout", "set", "1h"], "gp timeout: nothing stops"),
    (["snapshot"], "gp snapshot: nothing here")])
def test_what_cannot_be_says_why(workspace, words, says):
    space = workspace("tasks: [{command: sleep 1000}]").started()
    refused = gp(space, *words, check=False)
    assert refused.returncode == 1 and refused.stderr.startswith(f"workspacekit: {says}") and refused.stderr.count("\n") == 1


def test_preview_and_open_where_they_can(workspace):
    space = workspace("tasks: [{command: sleep 1000}]").started()
    assert space.exec("env", "BROWSER=echo opened", "gp", "preview", "http://x/", "--external").stdout == "opened http://x/\n"


def test_variables_are_kept(workspace):
    config = """
env: {FROM_FILE: file}
tasks: [{name: t, command: 'echo "now A=$A B=$B F=$FROM_FILE"; sleep 1000'}, {name: n, command: 'echo "nobody A=$A"; sleep 1000'}]
workspacekit: {tasks: {n: {user: nobody}}}
"""
    space = workspace(config).started()
    until(lambda: "[t] now A= B= F=file" in space.stdout, 10, "the task")
    assert gp(space, "env").stdout == ""
    odd = """it's "a" $x #y  """
    assert gp(space, "env", f"A={odd}", "B=2", "FROM_FILE=kept").stdout == f"A={odd}\nB=2\nFROM_FILE=kept\n"
    assert gp(space, "env").stdout == f"A={odd}\nB=2\nFROM_FILE=kept\n"
    exported = space.exec("sh", "-c", "unset A; eval \"$(gp env -e)\"; printf %s \"$A\"").stdout
    assert exported == odd
    assert space.exec("sh", "-c", "eval \"$(gp env -e C=3)\"; echo $C").stdout == "3\n"
    # For what is started from now on, and as the same user only; the file has the last word.
    assert space.exec("sh", "-c", 'printf "%s|$FROM_FILE" "$A"').stdout == odd + "|file"
    gp(space, "tasks", "restart", "t", "n")
    until(lambda: f"[t] now A={odd} B=2 F=file" in space.stdout, 10, "the task with them")
    until(lambda: space.stdout.count("[n] nobody A=\n") == 2, 10, "the other user's task")
    # Nothing of it is a change of the configuration.
    assert space.cli("plan").stdout == "nothing would change\n"
    assert gp(space, "env", "-e", "-u", "B").stdout == "unset B\n"
    as_nobody = lambda *words: space.cli("exec", "-u", "nobody", "--", *words, check=False)
    assert as_nobody("gp", "env").stdout == "" and as_nobody("gp", "env", "A=theirs").returncode == 0
    assert as_nobody("sh", "-c", "echo $A").stdout == "theirs\n" and gp(space, "env").stdout == f"A={odd}\nFROM_FILE=kept\nC=3\n"
    space.cli("stop")
    assert space.wait() == 0
    again = workspace(config, folder=space.folder).started()
    until(lambda: f"[t] now A={odd} B= F=file" in again.stdout, 10, "the task with them")
    assert subprocess.run(["git", "-C", str(space.folder), "init", "-q"]).returncode == 0
    assert ".workspacekit" not in subprocess.run(["git", "-C", str(space.folder), "status", "--porcelain", "-uall"], capture_output=True, text=True).stdout


def test_values_of_several_lines_are_kept(workspace):
    value = "line\nnext 'quoted' \"twice\"\n\\ $HOME `x` =\n"
    config = "tasks: [{name: t, command: 'printf %s \"$KEY\" > seen; exec sleep 1000'}]"
    space = workspace(config).started()
    gp(space, "env", f"KEY={value}", "B=2")
    assert space.exec("sh", "-c", 'printf %s "$KEY"').stdout == value and gp(space, "env").stdout == f"KEY={value}\nB=2\n"
    assert space.exec("sh", "-c", 'unset KEY; eval "$(gp env -e)"; printf %s "$KEY"').stdout == value
    space.stop()
    # At a later start; and what an earlier version had put down is understood.
    again = workspace(None, folder=space.folder).started()
    until(lambda: (space.folder / "seen").read_bytes() == value.encode(), 10, "the task")
    again.stop()
    (space.folder / ".workspacekit/env-0").write_text('KEY="old one"\n')
    workspace(None, folder=space.folder).started()
    until(lambda: (space.folder / "seen").read_text() == "old one", 10, "the task")


@pytest.mark.parametrize("words", [["A"], ["=b"], ["1A=b"], ["A B=c"], ["A=" + "x" * 70000]])
def test_what_is_no_variable_is_refused(workspace, words):
    space = workspace("tasks: [{command: sleep 1000}]", arguments=["--network", "none"]).started()
    refused = gp(space, "env", *words, check=False)
    assert refused.returncode == 1 and refused.stderr.count("\n") <= 2 and gp(space, "env").stdout == ""


def test_other_users_may_look_and_wait(workspace):
    space = workspace("""
tasks:
  - {name: setup, command: "gp sync-done ready; sleep 1000"}
workspacekit:
  tasks: {setup: {user: nobody}}
""").started()
    until(lambda: space.status()["setup"]["state"] == "running", 10, "the task")
    assert gp(space, "sync-await", "ready").returncode == 0
    as_nobody = lambda *words: space.cli("exec", "-u", "nobody", "--", *words, check=False)
    assert as_nobody("gp", "tasks", "list").returncode == 0
    refused = as_nobody("gp", "tasks", "stop", "setup")
    assert refused.returncode == 1 and "only the workspace's root may do that" in refused.stderr
    assert space.status()["setup"]["state"] == "running"
    # From outside, another user is nobody of the workspace's.
    outside = space.lab.in_pod("setpriv", "--reuid", str(USER), "--clear-groups", BINARY, "status", "--state-dir", str(space.state), check=False)
    assert outside.returncode != 0 and ("belongs to another user" in outside.stderr or "Permission denied" in outside.stderr)


def test_a_gp_of_the_image_is_the_one_that_was_meant(workspace):
    space = workspace("tasks: [{command: sleep 1000}]").started()
    (space.folder / "bin").mkdir()
    (space.folder / "bin/gp").write_text("#!/bin/sh\necho the calculator\n")
    os.chmod(space.folder / "bin/gp", 0o755)
    assert space.exec("sh", "-c", f"PATH={space.folder}/bin:$PATH gp x").stdout == "the calculator\n"
    assert space.exec("sh", "-c", "command -v gp").stdout in (f"{space.state}/bin/gp\n", "/usr/local/sbin/gp\n")
    space.stop()
    # One in a directory of the standard PATH too, whichever shell looks.
    space.lab.in_pod("mount", "-t", "tmpfs", "tmpfs", "/usr/local/bin")
    try:
        space.lab.in_pod("cp", "-p", str(space.folder / "bin/gp"), "/usr/local/bin/gp")
        space = workspace("tasks: [{command: sleep 1000}]").started()
        for shell in (["sh", "-c"], ["bash", "-lc"], ["env", "-i", "sh", "-lc"]):
            assert space.exec(*shell, "gp x").stdout == "the calculator\n", shell
        space.stop()
    finally:
        space.lab.in_pod("umount", "/usr/local/bin")
