"""The configuration as its user meets it: checked, shown, described, begun, imported, and followed while the workspace runs."""

import json
import os
import pathlib
import pty
import re
import shutil
import subprocess
import sys

import pytest

from conftest import BINARY, POD4, until

GOLDEN = pathlib.Path(__file__).parents[1] / "ConfigTests" / "Golden"
IMPORTS = pathlib.Path(__file__).parents[1] / "ConfigTests" / "Imports"


def tool(*arguments, folder=None, **options):
    return subprocess.run([BINARY, *arguments], capture_output=True, text=True, timeout=60, cwd=folder, **options)


def write(path, text):
    """As an editor does it: a new file, put in the place of the old one."""
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    new.rename(path)


# ---- validate and config show

def test_show_prints_what_the_file_says_and_nothing_else(tmp_path):
    (tmp_path / ".gitpod.yml").write_text("image: a/b\ntasks:\n  - {init: make, env: {NUM: 1}}\nports: [{port: 3000-3001}, {port: '80'}]\n")
    result = tool("config", "show", "--json", folder=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout) == {
        "image": "a/b", "tasks": [{"init": "make", "env": {"NUM": 1}}], "ports": [{"port": "3000-3001"}, {"port": 80}]}
    yaml = tool("config", "show", "--yaml", folder=tmp_path).stdout
    assert yaml == tool("config", "show", folder=tmp_path).stdout
    assert yaml == "image: a/b\ntasks:\n  - init: make\n    env:\n      NUM: 1\nports:\n  - port: 3000-3001\n  - port: 80\n"
    (tmp_path / "again.yml").write_text(yaml)
    assert tool("config", "show", "--json", "again.yml", folder=tmp_path).stdout == result.stdout
    assert tool("config", "show", "--json", "--yaml", folder=tmp_path).returncode == 64


def test_show_with_defaults_tells_where_each_value_comes_from(tmp_path):
    (tmp_path / ".gitpod.yml").write_text("tasks: [{command: a}]\n")
    (tmp_path / ".workspacekit.yml").write_text("network:\n  mtu: 1400\n")
    yaml = tool("config", "show", "--defaults", folder=tmp_path).stdout
    assert "    mtu: 1400  # .workspacekit.yml:2\n" in yaml and "  - name: task-1  # default\n" in yaml
    data = json.loads(tool("config", "show", "--defaults", "--json", folder=tmp_path).stdout)
    assert data["workspacekit"]["network"]["mtu"] == {"value": 1400, "origin": ".workspacekit.yml:2"}
    assert data["workspacekit"]["shutdown"]["grace"] == {"value": "8s", "origin": "default"}


def test_show_of_a_wrong_file_says_why_on_standard_error(tmp_path):
    (tmp_path / ".gitpod.yml").write_text("tasks: 1\n")
    result = tool("config", "show", folder=tmp_path)
    assert (result.returncode, result.stdout) == (78, "")
    assert result.stderr == ".gitpod.yml:1:8: error: tasks: expected a list, found a number\n  tasks: 1\n         ^\n"
    assert tool("config", "show", folder="/").stderr == "workspacekit: cannot open .gitpod.yml: No such file or directory\n"


def test_colours_are_for_terminals_only(tmp_path):
    (tmp_path / ".gitpod.yml").write_text("tasks: 1\n")

    def on_a_terminal(**environment):
        main, terminal = pty.openpty()
        process = subprocess.Popen([BINARY, "validate"], cwd=tmp_path, stdout=terminal, stderr=terminal, env={**os.environ, **environment})
        os.close(terminal)
        process.wait(10)
        return os.read(main, 65536).decode()

    assert "\x1b[1;31merror:" in on_a_terminal(TERM="xterm")
    assert "\x1b" not in on_a_terminal(TERM="xterm", NO_COLOR="1")
    assert "\x1b" not in on_a_terminal(TERM="dumb")
    assert "\x1b" not in tool("validate", folder=tmp_path).stdout


def test_all_golden_files_from_the_command_line():
    names = sorted(GOLDEN.glob("*.yml"))
    assert len(names) > 40
    for file in names:
        said = file.with_suffix(".txt").read_text()
        result = tool("validate", file.name, folder=GOLDEN)
        for text in re.split(r"^(?=\S+\.yml:\d)", said, flags=re.M):
            assert text in result.stdout, (file, text)
        is_wrong = ": error: " in said
        assert result.returncode == (78 if is_wrong else 0), file
        if not is_wrong:
            shown = tool("config", "show", "--json", file.name, folder=GOLDEN)
            assert shown.stdout == file.with_suffix(".json").read_text(), file


@pytest.mark.parametrize("text", [
    "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(f"{c}: &{c} [{','.join(['*' + p] * 9)}]\n" for p, c in zip("abcdefgh", "bcdefghi")),
    "[" * (1 << 20), "{a: " * 200_000, "x" * ((1 << 20) + 1)], ids=["aliases", "brackets", "braces", "bytes"])
def test_a_bomb_is_an_error_and_costs_little(tmp_path, text):
    (tmp_path / ".gitpod.yml").write_text(text)
    # Address space, not time: a limit that a slow machine does not move.
    result = subprocess.run(["prlimit", "--as=400000000", BINARY, "validate"], cwd=tmp_path, capture_output=True, text=True, timeout=20)
    assert result.returncode == 78 and re.search("100 levels|100000 values|1 MiB", result.stdout), result


def test_both_places_at_once_are_refused(workspace):
    folder_text = "workspacekit: {network: {mtu: 1400}}\n"
    space = workspace(folder_text, command=["true"])
    assert space.wait(20) == 0
    (space.folder / ".workspacekit.yml").write_text("network: {mtu: 1500}\n")
    result = tool("validate", folder=space.folder)
    assert result.returncode == 78 and ".gitpod.yml:1:1: error: workspacekit: a .workspacekit.yml stands beside this file" in result.stdout


# ---- config schema

def test_the_schema_is_one_and_agrees_with_the_reader(tmp_path):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(tool("config", "schema").stdout)
    jsonschema.Draft7Validator.check_schema(schema)
    validator = jsonschema.Draft7Validator(schema)
    # What the reader takes the schema takes too.
    for file in sorted(GOLDEN.glob("*.json")):
        errors = [error for error in validator.iter_errors(json.loads(file.read_text()))]
        # Values of tasks are texts for an editor: it says so before the reader has to.
        assert not errors, (file, errors[0].message, list(errors[0].path))
    # What the reader refuses, or warns of, the schema refuses.
    wrong = [
        {"tasks": 1}, {"tasks": [{"nmae": "x"}]}, {"ports": [{}]}, {"ports": [{"port": "a"}]}, {"taks": []}, {"image": []},
        {"ports": [{"port": 1, "onOpen": "x"}]}, {"coreDump": {"enabled": "yes"}}, {"checkoutLocation": [1]},
        {"workspacekit": {"network": {"mtu": 9}}}, {"workspacekit": {"network": {"mode": "bridge"}}},
        {"workspacekit": {"services": {"a b": {"command": "x"}}}}, {"workspacekit": {"services": {"s": {}}}},
        {"workspacekit": {"services": {"s": {"command": "x", "restart": "sometimes"}}}},
        {"workspacekit": {"services": {"s": {"command": "x", "stop_grace_period": "5"}}}},
        {"workspacekit": {"services": {"s": {"command": "x", "healthcheck": {"interval": "1s"}}}}},
        {"workspacekit": {"services": {"s": {"command": "x", "ready": {"log": "x", "notify": "fd"}}}}},
        {"workspacekit": {"shutdown": {"grace": 8}}}, {"workspacekit": {"network": {"forwards": ["x:y"]}}},
    ]
    for document in wrong:
        assert list(validator.iter_errors(document)), document
        (tmp_path / ".gitpod.yml").write_text(json.dumps(document))
        assert tool("validate", "--strict", folder=tmp_path).returncode in (1, 78), document


# ---- config init

def test_init_writes_a_configuration_that_is_in_order_and_never_overwrites(tmp_path):
    (tmp_path / "package.json").write_text('{"scripts": {"dev": "vite"}, "devDependencies": {"vite": "^5"}}')
    (tmp_path / "go.mod").write_text("module x\n")
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    result = tool("config", "init", folder=tmp_path)
    assert result.returncode == 0 and "package.json, with npm; go.mod" in result.stdout
    text = (tmp_path / ".gitpod.yml").read_text()
    assert "    init: npm install\n    command: npm run dev\n" in text and "port: 5173" in text and text.count("#") > 4
    assert tool("validate", "--strict", folder=tmp_path).returncode == 0
    again = tool("config", "init", folder=tmp_path)
    assert again.returncode == 1 and "is there already" in again.stderr
    assert (tmp_path / ".gitpod.yml").read_text() == text
    assert tool("config", "init", "/no/such/folder").returncode == 64


def test_a_first_configuration_runs(workspace):
    space = workspace(None)
    assert "config init" in until(lambda: space.stderr, 10, "a hint")
    space.stop()
    tool("config", "init", folder=space.folder)
    second = workspace((space.folder / ".gitpod.yml").read_text())
    until(lambda: "[hello] edit .gitpod.yml" in second.stdout, 10, "the first task")


def test_init_beside_a_compose_file_says_how_to_import_it(tmp_path):
    (tmp_path / "compose.yaml").write_text("services: {web: {command: sleep 1000}}\n")
    result = tool("config", "init", folder=tmp_path)
    assert result.returncode == 0 and 'hint: "workspacekit config import compose.yaml"' in result.stderr
    assert '# "workspacekit config import compose.yaml" prints them' in (tmp_path / ".gitpod.yml").read_text()
    assert tool("validate", "--strict", folder=tmp_path).returncode == 0
    assert tool("config", "import", "compose.yaml", folder=tmp_path).returncode == 0


def uncommented(text):
    """The file with the sample behind "Programs that are kept running" made real."""
    head, sample = re.split(r"^# Programs that are kept running.*\n", text, flags=re.M)
    return head + re.sub(r"^# ", "", sample, flags=re.M)


@pytest.mark.parametrize("user", [None, 47001], ids=["root", "an ordinary user"])
def test_the_sample_service_of_a_first_configuration_runs(workspace, tmp_path, user):
    """Where its program is not installed, another answers to its name: what the file says is tried all the same."""
    tool("config", "init", folder=tmp_path)
    text = uncommented((tmp_path / ".gitpod.yml").read_text())
    assert "redis-server" in text
    programs = tmp_path / "programs"
    environment = {}
    if not shutil.which("redis-server"):
        programs.mkdir()
        (programs / "redis-server").write_text(f"""#!{sys.executable}
import socket, sys, time
assert sys.argv[1:] == ["--port", "6379", "--save", "", "--dir", "/tmp"], sys.argv
server = socket.create_server(("127.0.0.1", 6379))
while True: server.accept()[0].close()
""")
        (programs / "redis-server").chmod(0o755)
        for folder in (programs, *programs.parents):
            if str(folder).startswith("/tmp/"):
                folder.chmod(folder.stat().st_mode | 0o055)
        environment["PATH"] = f"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:{programs}"
    space = workspace(text, user=user, environment=environment).started()
    space.cli("wait", "cache", "--for", "healthy", "--timeout", "30s")
    assert space.status()["cache"]["state"] == "running"


# ---- config import

def test_import_prints_a_configuration_and_says_what_is_lost(tmp_path):
    for file in [file for ending in ("*.json", "*.yaml") for file in sorted(IMPORTS.glob(ending))]:
        result = tool("config", "import", file.name, folder=IMPORTS)
        assert result.stderr == file.with_name(file.name + ".txt").read_text(), file
        expected = file.with_name(file.name + ".yml")
        assert result.returncode == (0 if expected.exists() else 78), file
        if expected.exists():
            assert result.stdout == expected.read_text()
            (tmp_path / "out.yml").write_text(result.stdout)
            assert tool("validate", "--elsewhere", "out.yml", folder=tmp_path).returncode == 0, file


def test_import_writes_a_file_once(tmp_path):
    (tmp_path / "devcontainer.json").write_text('{"postStartCommand": "echo hi", /* c */ }')
    command = ("config", "import", "devcontainer.json", "-o", ".gitpod.yml")
    assert tool(*command, folder=tmp_path).returncode == 0
    assert (tmp_path / ".gitpod.yml").read_text() == "tasks:\n  - name: devcontainer\n    command: echo hi\n"
    again = tool(*command, folder=tmp_path)
    assert again.returncode == 1 and "is there already" in again.stderr
    missing = tool("config", "import", "/no/such.yaml")
    assert missing.returncode == 78 and missing.stderr == "workspacekit: cannot open /no/such.yaml: No such file or directory\n"


def test_an_imported_devcontainer_runs(workspace):
    imported = tool("config", "import", "devcontainer.json", folder=IMPORTS).stdout
    text = "\n".join(line for line in imported.splitlines() if "user: node" not in line and line != "workspacekit:")
    text = text.replace("npm start", "echo B=$B; sleep 100").replace("npm ci --prefix 'my app'", "true").replace("npm run build", "true")
    space = workspace(text + "\n")
    until(lambda: "[devcontainer] B=\n" in space.stdout, 10, "the command, without the variable of another machine")
    assert "[devcontainer] it's" in space.stdout


def test_imported_variables_of_compose_mean_what_they_mean_there(workspace, tmp_path):
    """Reference: docs.docker.com, "Interpolation" and "environment": a name alone is resolved on the machine, `$$` is a
    dollar sign, and a variable that is not set there is not set."""
    (tmp_path / "compose.yaml").write_text("""
services:
  web:
    command: [sh, -c, 'echo from=$${FROMHOST-unset} none=$${NOTHERE-unset} homes=$$HOMES dollars=$$DOLLARS db=$$DB nested=$$NESTED alt=[$$ALT]; exec sleep 1000']
    environment: [FROMHOST, NOTHERE, "HOMES=$${HOME}", "DOLLARS=$$$$", "DB=${DB:-app}", "NESTED=${NONE:-${FROMHOST}}", "ALT=${FROMHOST:+yes}${NONE:+no}"]
    stop_signal: SIGRTMIN+3
""")
    result = tool("config", "import", "compose.yaml", folder=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    space = workspace(result.stdout, environment={"FROMHOST": "outside"}).started()
    until(lambda: "[web] from=outside none=unset homes=${HOME} dollars=$$ db=app nested=outside alt=[yes]" in space.stdout, 10, "the variables")
    (tmp_path / "null.yaml").write_text("services: {web: {command: env, environment: {FROMHOST: , NOTHERE: null}}}\n")
    imported = tool("config", "import", "null.yaml", folder=tmp_path).stdout
    second = workspace(imported, environment={"FROMHOST": "outside"})
    until(lambda: "[web] FROMHOST=outside" in second.stdout, 10, "the environment")
    assert "NOTHERE" not in second.stdout and "null" not in second.stdout


def test_a_real_time_signal_stops_a_service(workspace):
    space = workspace("""
workspacekit:
  services:
    s: {command: [bash, -c, 'trap "echo got it; exit 0" SIGRTMIN+3; echo ready; while :; do sleep 0.1; done'], stop_signal: SIGRTMIN+3, ready: {log: ready}}
""").started()
    space.cli("wait", "s", "--for", "ready")
    space.cli("stop", "s")
    until(lambda: "[s] got it" in space.stdout, 10, "the trap")
    assert space.status()["s"]["exitCode"] == 0


def test_variables_of_a_devcontainer_have_values(workspace, tmp_path):
    (tmp_path / "devcontainer.json").write_text(json.dumps({
        "containerEnv": {"PLAIN": "1"},
        "remoteEnv": {"PATH": "${containerEnv:PATH}:/opt/x", "MINE": "${localEnv:USER}"},
        "postStartCommand": "echo at=${containerWorkspaceFolder}; echo path=$PATH mine=${MINE-unset}; git --version"}))
    result = tool("config", "import", "devcontainer.json", folder=tmp_path)
    assert result.returncode == 0 and "remoteEnv.MINE: not carried over: ${localEnv:USER} has no value here" in result.stderr
    space = workspace(result.stdout).started()
    until(lambda: "[devcontainer] git version" in space.stdout, 10, "git, which is in PATH still")
    assert f"[devcontainer] at={space.folder}\n" in space.stdout
    path = re.search(r"path=(\S+) mine=unset\n", space.stdout).group(1)
    assert path.startswith("/usr/local/sbin:") and path.endswith(":/opt/x")


def test_the_variables_of_gitpod_that_mean_something(workspace):
    """GITPOD_REPO_ROOT is where tasks run; the others are those that Gitpod's workspaces have and that exist here."""
    space = workspace("""
checkoutLocation: sub
gitConfig: {user.name: Ada, user.email: ada@example.org}
tasks: [{name: t, command: 'cd /; cd $GITPOD_REPO_ROOT; pwd; echo $GITPOD_HEADLESS $GITPOD_GIT_USER_NAME $GITPOD_GIT_USER_EMAIL $GITPOD_CPU_COUNT $GITPOD_MEMORY ${GITPOD_WORKSPACE_URL-none}; sleep 1000'}]
""", folder=None, environment={"GITPOD_REPO_ROOT": "/of/another"})
    (space.folder / "sub").mkdir(exist_ok=True)
    space.started()
    space.cli("reload")
    space.cli("restart", "t")
    until(lambda: f"[t] {space.folder}/sub\n" in space.stdout, 10, "the directory")
    assert re.search(r"\[t\] false Ada ada@example.org [1-9]\d* [1-9]\d* none\n", space.stdout), space.stdout
    assert space.exec("sh", "-c", "echo $GITPOD_REPO_ROOT").stdout == f"{space.folder}/sub\n"


# ---- what the keys do

def test_units_have_their_files_limits_and_order_of_death(workspace):
    space = workspace("""
tasks: [{name: t, command: 'ulimit -n; cat /proc/self/oom_score_adj; echo A=$A; pwd; sleep 100', env: {A: own}}]
workspacekit:
  tasks: {t: {ulimits: {nofile: 555}, oom_score_adj: 300, env_file: vars, working_dir: sub}}
  services:
    s: {command: "sh -c 'ulimit -n; ulimit -Hn; echo $A-$B; exec sleep 100'", ulimits: {nofile: {soft: 77, hard: 88}}, env_file: [vars, more], environment: {B: last}}
    none: {command: sleep 1, env_file: missing}
    bad: {command: sleep 1, env_file: broken}
""")
    (space.folder / "sub").mkdir(exist_ok=True)
    (space.folder / "vars").write_text("A=file\nB=file\n")
    (space.folder / "more").write_text("# c\nexport A='more'\n")
    (space.folder / "broken").write_text("A=1\nno assignment\n")
    space.started()
    space.cli("reload")
    space.cli("restart", "t")
    until(lambda: "[t] A=own" in space.stdout and "[s] more-last" in space.stdout, 10, "the output")
    lines = space.stdout.splitlines()
    assert "[t] 555" in lines and "[t] 300" in lines and f"[t] {space.folder}/sub" in lines
    assert "[s] 77" in lines and "[s] 88" in lines
    status = space.status()
    assert status["none"]["state"] == "skipped" and status["none"]["reason"].startswith("cannot read its env_file")
    assert status["bad"]["reason"].endswith("broken:2: expected NAME=value")


def test_a_task_may_have_a_restart_policy_and_be_essential(workspace):
    space = workspace("""
tasks: [{name: again, command: echo round}, {name: last, command: 'sleep 2; exit 9'}]
workspacekit: {tasks: {again: {restart: always}, last: {essential: true}}}
""")
    assert space.wait(20) == 9
    assert space.stdout.count("[again] round") >= 2


# ---- followed while it runs

LIVE = """tasks:
  - {name: kept, command: 'echo kept; exec sleep 1000'}
  - {name: edited, command: 'echo first; exec sleep 1000'}
  - {name: dropped, command: 'exec sleep 1000'}
workspacekit:
  services:
    policy: {command: sleep 1000}
    moved: {command: sleep 1000, environment: {A: 1}}
"""
EDITED = """tasks:
  - {name: kept, command: 'echo kept; exec sleep 1000'}
  - {name: edited, command: 'echo second; exec sleep 1000'}
  - {name: added, command: 'echo added; exec sleep 1000'}
workspacekit:
  services:
    policy: {command: sleep 1000, restart: always, stop_grace_period: 2s}
    moved: {command: sleep 1000, environment: {A: 2}}
"""


def pids(space):
    return {name: unit.get("pid") for name, unit in space.status().items()}


def test_an_edit_changes_what_it_names_and_nothing_else(workspace):
    space = workspace(LIVE).started()
    until(lambda: "[edited] first" in space.stdout, 10, "the tasks")
    before = pids(space)
    write(space.folder / ".gitpod.yml", EDITED)
    until(lambda: "[edited] second" in space.stdout and "[added] added" in space.stdout, 10, "the edit")
    until(lambda: "dropped" not in space.status(), 10, "the end of the task that was removed")
    until(lambda: pids(space)["moved"] not in (None, before["moved"]), 10, "the restart of the service")
    after = pids(space)
    assert (after["kept"], after["policy"]) == (before["kept"], before["policy"])
    assert set(after) == {"kept", "edited", "added", "policy", "moved"}
    for line in ("task edited: restart (command)", "task added: start", "task dropped: stop", "service moved: restart (environment)",
                 "service policy: changed, without a restart (restart, stop_grace_period)"):
        assert f"workspacekit: .gitpod.yml: {line}\n" in space.stderr, space.stderr
    assert "kept" not in space.stderr
    # The new policy holds: what was adjusted comes back.
    space.exec("sh", "-c", f"kill -9 {after['policy']}")
    until(lambda: pids(space)["policy"] not in (None, after["policy"]), 10, "the restart by the new policy")
    # What was removed may return.
    write(space.folder / ".gitpod.yml", LIVE)
    until(lambda: space.status().get("dropped", {}).get("state") == "running", 10, "the task's return")


def test_a_bad_edit_changes_nothing_and_is_said_once(workspace):
    space = workspace(LIVE).started()
    before = pids(space)
    path = space.folder / ".gitpod.yml"
    path.write_text("tasks: 1\n")
    until(lambda: "cannot be used: what runs stays as it is" in space.stderr, 10, "the word about it")
    assert ".gitpod.yml:1:8: error: tasks: expected a list, found a number\n  tasks: 1\n         ^\n" in space.stderr
    # The same again says nothing; another one does.
    path.write_text("tasks: 1\n")
    write(path, "tasks: 2\n")
    until(lambda: "\n  tasks: 2\n" in space.stderr, 10, "the word about the second")
    assert space.stderr.count("what runs stays as it is") == 2 and pids(space) == before
    path.unlink()
    until(lambda: ".gitpod.yml is gone: what runs stays as it is" in space.stderr, 10, "the word about its absence")
    write(path, EDITED)
    until(lambda: "[added] added" in space.stdout, 10, "the good edit")
    assert pids(space)["kept"] == before["kept"]


def test_plan_shows_what_reload_does(workspace):
    # A directory that cannot be watched from here: the file is elsewhere, reached through a link.
    space = workspace(LIVE).started()
    assert space.cli("plan").stdout == "nothing would change\n"
    elsewhere = space.folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "real.yml").write_text("tasks: 1\n")
    path = space.folder / ".gitpod.yml"
    path.unlink()
    path.symlink_to("elsewhere/real.yml")
    until(lambda: "cannot be used: what runs stays as it is" in space.stderr, 10, "the link to be followed")
    before = pids(space)
    (elsewhere / "real.yml").write_text(EDITED + "  network: {mtu: 1400}\n")
    plan = space.cli("plan").stdout.splitlines()
    assert plan == [
        "service policy: changed, without a restart (restart, stop_grace_period)", "service moved: restart (environment)",
        "task edited: restart (command)", "task added: start", "task dropped: stop",
        "setting workspacekit.network: takes effect at the next start of the workspace"]
    assert pids(space) == before
    data = json.loads(space.cli("plan", "--json").stdout)
    assert data["isValid"] and data["changes"][2] == {"kind": "task", "name": "edited", "action": "restart", "because": ["command"]}
    assert space.cli("reload").stdout.splitlines() == plan
    until(lambda: "[added] added" in space.stdout, 10, "the reload")
    # What waits for the next start is said as long as it does.
    assert space.cli("plan").stdout.splitlines() == space.cli("reload").stdout.splitlines() == plan[-1:]
    (elsewhere / "real.yml").write_text(EDITED)
    assert space.cli("plan").stdout == "nothing would change\n" and space.cli("reload").stdout == "nothing changed\n"
    (elsewhere / "real.yml").write_text("tasks: 1\n")
    for verb in ("plan", "reload"):
        result = space.cli(verb, check=False)
        assert result.returncode == 78 and ".gitpod.yml:1:8: error: tasks" in result.stderr
    assert space.cli("status", check=False).returncode == 0


def test_a_port_that_is_declared_later_is_forwarded_and_closed_again(lab, workspace):
    serve = "exec python3 -m http.server 8765"
    space = workspace(f"tasks: [{{name: web, command: '{serve}'}}]\n").started()

    def reachable():
        return lab.in_world("curl", "-s", "-m", "2", "-o", "/dev/null", f"http://{POD4}:8765/", check=False).returncode == 0

    until(lambda: space.exec("curl", "-s", "-o", "/dev/null", "http://127.0.0.1:8765", check=False).returncode == 0, 10, "the server")
    assert not reachable()
    write(space.folder / ".gitpod.yml", f"tasks: [{{name: web, command: '{serve}'}}]\nports: [{{port: 8000-9000, name: range, protocol: https}}]\n")
    until(reachable, 10, "the forward")
    assert "port 8765 (range) is forwarded: https://" in space.stderr
    write(space.folder / ".gitpod.yml", f"tasks: [{{name: web, command: '{serve}'}}]\nports: [{{port: 8000-9000}}, {{port: 8765, onOpen: ignore-completely}}]\n")
    until(lambda: not reachable(), 10, "the end of the forward")


def test_all_ports_may_be_declared_at_once(lab, workspace):
    space = workspace("tasks: [{name: web, command: 'exec python3 -m http.server 8766'}]\nports: [{port: 1-65535, name: all}]\n").started()
    until(lambda: lab.in_world("curl", "-s", "-m", "2", "-o", "/dev/null", f"http://{POD4}:8766/", check=False).returncode == 0, 10, "the forward")
    assert "port 8766 (all) is forwarded" in space.stderr


def test_reload_starts_what_was_skipped_for_want_of_a_program(workspace, lab):
    folder = lab.folder / "late-programs"
    folder.mkdir()
    space = workspace(f"""
env: {{PATH: '/usr/bin:/bin:{folder}'}}
workspacekit: {{services: {{late: {{command: late-program, requires: [late-program], restart: always}}}}}}
""").started()
    assert space.status()["late"]["state"] == "skipped"
    (folder / "late-program").write_text("#!/bin/sh\nexec sleep 1000\n")
    (folder / "late-program").chmod(0o755)
    assert "service late: start (no longer: late-program not found)" in space.cli("reload").stdout
    until(lambda: space.status()["late"]["state"] == "running", 5, "the service")


def test_the_extension_file_is_followed_too(workspace):
    space = workspace("tasks: [{name: t, command: sleep 1000}]\n").started()
    (space.folder / ".workspacekit.yml").write_text("services: {s: {command: sleep 1000}}\n")
    until(lambda: space.status().get("s", {}).get("state") == "running", 10, "the service")


def test_a_configuration_may_appear_later(workspace):
    space = workspace(None).started()
    write(space.folder / ".gitpod.yml", "tasks: [{name: late, command: 'echo here; sleep 1000'}]\n")
    until(lambda: "[late] here" in space.stdout, 10, "the task")


def test_a_configuration_of_a_volume_is_followed(workspace, lab):
    """As the kubelet writes it: the file is a link through ..data, which is switched at once to another directory."""
    def switch(folder, version):
        (folder / f"..{version}").mkdir(parents=True)
        (folder / f"..{version}" / ".gitpod.yml").write_text(f"tasks: [{{name: t, command: 'echo {version}; sleep 1000'}}]\n")
        (folder / "..data_new").symlink_to(f"..{version}")
        os.rename(folder / "..data_new", folder / "..data")

    folder = lab.folder / "volume"
    switch(folder, "first")
    (folder / ".gitpod.yml").symlink_to("..data/.gitpod.yml")
    space = workspace(None, folder=folder).started()
    until(lambda: "[t] first" in space.stdout, 10, "the task")
    switch(folder, "second")
    until(lambda: "[t] second" in space.stdout, 10, "the other configuration")


def test_an_edit_of_a_logs_limits_holds_at_once(workspace):
    config = lambda limits: f"tasks: [{{name: t, command: 'while :; do echo $(printf %100s | tr \" \" x); sleep 0.002; done'}}]\nworkspacekit: {{tasks: {{t: {{logging: {limits}}}}}}}\n"
    space = workspace(config("{max-size: 1m}")).started()
    pid = space.status()["t"]["pid"]
    log = space.state / "logs" / "t.log"
    until(lambda: log.exists() and log.stat().st_size > 32 << 10, 20, "the output")
    write(space.folder / ".gitpod.yml", config("{max-size: 16k, max-file: 2}"))
    until(lambda: log.with_name("t.log.1").exists() and log.stat().st_size < 32 << 10, 10, "the new limit")
    assert space.status()["t"]["pid"] == pid and not log.with_name("t.log.2").exists()


def test_git_settings_hold_inside_and_no_file_is_written(workspace, tmp_path):
    """A .gitpod.yml that could write the global configuration would decide what git runs outside, later."""
    own = tmp_path / "gitconfig"
    own.write_text("[user]\n\tname = Mine\n\temail = mine@example.org\n")
    text = """
gitConfig: {user.name: A B, alias.x: "!echo 'y'", nosection: z}
tasks: [{name: t, command: 'git config user.name; git config --global user.name; git config user.email; git x; git config of.caller; sleep 1000'}]
"""
    space = workspace(text, environment={
        "GIT_CONFIG_GLOBAL": str(own), "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "of.caller", "GIT_CONFIG_VALUE_0": "kept"}).started()
    until(lambda: "[t] kept" in space.stdout, 10, lambda: space.stdout)
    assert [line for line in space.stdout.splitlines() if line.startswith("[t]")] == [
        "[t] A B", "[t] Mine", "[t] mine@example.org", "[t] y", "[t] kept"]
    assert "gitConfig: nosection: not a key of git's" in space.stderr
    write(space.folder / ".gitpod.yml", text.replace("A B", "C D"))
    until(lambda: "setting gitConfig: changed" in space.stderr, 10, "the edit")
    assert space.exec("git", "config", "user.name").stdout == "C D\n"
    assert own.read_text() == "[user]\n\tname = Mine\n\temail = mine@example.org\n"


def test_name_servers_and_search_domains_of_ones_own(inside):
    config = "workspacekit: {network: {dns: {servers: [198.18.0.1], search: [own.test, more.test]}}}\n"
    result = inside("cat", "/etc/resolv.conf", config=config)
    assert result.stdout.splitlines()[:2] == ["nameserver 10.0.2.3", "search own.test more.test"]
    asked = inside("dig", "+short", "+time=2", "+tries=1", "www.example.test", config=config)
    assert asked.stdout == "198.18.0.1\n"
    silent = inside("dig", "+short", "+time=1", "+tries=1", "www.example.test", config="workspacekit: {network: {dns: {servers: [198.18.0.77]}}}\n")
    assert silent.returncode == 9


def test_validate_says_what_run_says(workspace):
    text = "workspacekit: {user: nobody-here}\n"
    space = workspace(text)
    said = 'error: workspacekit.user: unknown user "nobody-here" on this machine\n'
    assert space.wait(10) == 78 and said in space.stderr
    result = tool("validate", folder=space.folder)
    assert result.returncode == 78 and said in result.stdout
    # What only shows the file does not look at the machine, and one may ask for the same.
    for command in (("validate", "--elsewhere", "--strict"), ("config", "show"), ("graph",)):
        assert tool(*command, folder=space.folder).returncode == 0, command


def test_an_env_file_that_cannot_be_read_is_said_before_and_at_the_start(workspace):
    space = workspace("""
tasks: [{name: t, command: sleep 1000}]
workspacekit:
  tasks: {t: {env_file: broken}}
  services: {none: {command: sleep 1000, env_file: [missing]}, other: {command: sleep 1000, env_file: [{path: absent, required: false}]}}
""", arguments=["--network", "none"])
    (space.folder / "broken").write_text("A=1\nno assignment\n")
    space.started()
    missing = f"warning: workspacekit.services.none.env_file: cannot read its env_file {space.folder}/missing: until it can be read"
    broken = f"warning: workspacekit.tasks.t.env_file: its env_file {space.folder}/broken:2: expected NAME=value: until it can be read"
    assert missing in space.stderr
    result = tool("validate", folder=space.folder)
    assert result.returncode == 0 and missing in result.stdout and broken in result.stdout
    assert tool("validate", "--strict", folder=space.folder).returncode == 1
    assert tool("validate", "--elsewhere", "--strict", folder=space.folder).returncode == 0
    assert space.status()["none"]["state"] == "skipped" and space.status()["other"]["state"] == "running" and "other.env_file" not in space.stderr
    (space.folder / "missing").write_text("A=1\n")
    space.cli("reload")
    until(lambda: space.status()["none"]["state"] == "running", 10, "the service, once its file is there")
    assert "missing" not in tool("validate", folder=space.folder).stdout


def test_a_setting_that_waits_for_the_next_start_is_said_as_long_as_it_waits(workspace):
    space = workspace(LIVE).started()
    path = space.folder / ".gitpod.yml"
    waiting = "setting workspacekit.network: takes effect at the next start of the workspace"
    write(path, LIVE.replace("  services:", "  network: {mtu: 1400}\n  services:"))
    until(lambda: waiting in space.stderr, 10, "the word about it")
    assert waiting in space.cli("plan").stdout and waiting in space.cli("reload").stdout and waiting in space.cli("plan").stdout
    write(path, LIVE)
    until(lambda: "would change" in space.cli("plan").stdout, 10, "nothing that waits")
    assert space.cli("plan").stdout == "nothing would change\n"


@pytest.mark.parametrize("key", ["network: {egress: {default: deny}}", "egress: {default: deny}", "workspacekit: {egress: {default: deny}}",
                                 "workspacekit: {network: {egress: {defualt: deny}}}", "workspacekit: {network: {deny: [10.0.0.0/8]}}",
                                 "workspacekit: {network: {egres: {default: deny}}}"])
def test_a_policy_in_the_wrong_place_starts_nothing(workspace, key):
    space = workspace(key + "\ntasks: [{name: t, command: echo it ran}]\n")
    assert space.wait(10) == 78 and "error:" in space.stderr and "unknown key" in space.stderr
    assert "it ran" not in space.stdout


def test_the_graph_of_who_waits_for_whom(tmp_path):
    (tmp_path / ".gitpod.yml").write_text("""
tasks: [{name: web, command: a}, {command: b}]
workspacekit:
  tasks: {web: {depends_on: {db: {condition: service_healthy}, cache: {condition: service_started}}}}
  services: {cache: {command: c, depends_on: [db]}, db: {command: d, healthcheck: {port: 1}}}
""")
    assert tool("graph", folder=tmp_path).stdout == (
        "service db\ntask task-2\nservice cache after db (started)\ntask web after db (healthy), cache (started)\n")
    dot = tool("graph", "--dot", folder=tmp_path).stdout
    assert dot.startswith("digraph workspace {") and '"web" -> "db" [label="healthy"];' in dot and '"cache" [shape=box];' in dot
    (tmp_path / ".gitpod.yml").write_text("tasks: 1\n")
    assert tool("graph", folder=tmp_path).returncode == 78


def test_graph_as_json(tmp_path):
    file = tmp_path / ".gitpod.yml"
    file.write_text("""
tasks: [{name: web, command: x}]
workspacekit:
  services: {db: {command: x, healthcheck: {port: 5432}}}
  tasks: {web: {depends_on: {db: {condition: service_healthy}}}}
""")
    result = subprocess.run([BINARY, "graph", "--json", str(file)], capture_output=True, text=True)
    assert json.loads(result.stdout) == [
        {"name": "db", "kind": "service", "depends_on": {}},
        {"name": "web", "kind": "task", "depends_on": {"db": {"condition": "service_healthy"}}}]
