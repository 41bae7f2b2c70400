"""How programs are started: where they are looked up, what they inherit, whose their streams are, which phases run."""

import os

import pytest

from conftest import BINARY, PYTHON, USER, until


def script(path, text="#!/bin/sh\npwd\n", mode=0o755):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


@pytest.fixture
def files(lab):
    """A workspace directory with a program in it and in a directory below, and files that are no programs."""
    folder = lab.folder / "launch-files"
    script(folder / "ok.sh")
    script(folder / "sub/x.sh")
    script(folder / "sub/bin/tool")
    script(folder / "plain", mode=0o644)
    script(folder / "orphan", "#!/no/such/interpreter\n")
    return folder


PATHS = """
workspacekit:
  services:
    a: {command: ./ok.sh}
    b: {command: ./x.sh, working_dir: sub}
    c: {command: tool, working_dir: sub, environment: {PATH: "bin:/bin"}}
    plain: {command: ./plain}
    missing: {command: ./missing}
    orphan: {command: ./orphan}
    probed: {command: sleep 1000, working_dir: sub, healthcheck: {test: [CMD, ./x.sh], interval: 100ms}}
    stopped: {command: sleep 1000, working_dir: sub, pre_stop: ./x.sh}
    needs: {command: ./x.sh, working_dir: sub, requires: [./x.sh]}
"""


def test_programs_are_looked_up_where_they_run(workspace, files):
    space = workspace(PATHS, folder=files).started()
    names = ["a", "b", "c", "plain", "missing", "orphan", "needs"]
    units = until(lambda: all((now := space.status())[name]["state"] in ("completed", "failed") for name in names) and now, 10, "the ends")
    assert {name: units[name]["exitCode"] for name in names} == {
        "a": 0, "b": 0, "c": 0, "plain": 126, "missing": 127, "orphan": 127, "needs": 0}
    assert units["plain"]["reason"] == "cannot execute ./plain: Permission denied"
    assert units["missing"]["reason"] == "cannot find ./missing: No such file or directory"
    assert units["orphan"]["reason"] == "cannot find the interpreter of ./orphan: No such file or directory"
    logs = space.state / "logs"
    assert [(logs / f"{name}.log").read_text() for name in "abc"] == [f"{files}\n", f"{files}/sub\n", f"{files}/sub\n"]
    space.cli("wait", "probed", "--for", "healthy", "--timeout", "10s")
    space.cli("stop", "stopped")
    until(lambda: (logs / "stopped.log").read_text() == f"{files}/sub\n", 10, "what pre_stop prints")
    # exec: in the directory that is named, which is the workspace's or below it.
    assert space.cli("exec", "-w", "sub", "--", "./x.sh").stdout == f"{files}/sub\n"
    assert space.cli("exec", "-w", f"{files}/sub", "--", "./x.sh").stdout == f"{files}/sub\n"
    for command, code, text in (("./plain", 126, "cannot execute ./plain"), ("nosuch", 127, "cannot find nosuch"), ("./orphan", 127, "interpreter")):
        result = space.exec(command, check=False)
        assert (result.returncode, text in result.stderr) == (code, True), result
    assert space.cli("exec", "-w", "nowhere", "--", "true", check=False).returncode == 127


def test_the_command_too(workspace, files):
    for command, code in (("./ok.sh", 0), ("./plain", 126), ("./missing", 127)):
        space = workspace("", folder=files, command=[command])
        assert space.wait() == code, (command, space.stderr)
        space.gone()


def test_exec_knows_users_that_were_added_meanwhile(workspace, lab):
    space = workspace("tasks: [{command: exec sleep 1000}]").started()
    passwd = lab.folder / "etc/passwd"
    before = passwd.read_text()
    assert space.cli("exec", "-u", "wklater", "--", "true", check=False).stderr.startswith("workspacekit: cannot find user wklater")
    try:
        passwd.write_text(before + "wklater:x:47003:47003::/var/empty:/bin/sh\n")
        assert space.cli("exec", "-u", "wklater", "--", "sh", "-c", "echo $(id -u) $HOME $USER").stdout == "47003 /var/empty wklater\n"
    finally:
        passwd.write_text(before)


def test_a_user_of_the_unit_owns_its_streams(workspace):
    write = "sh -c 'echo one >/dev/stdout; echo two >/dev/stderr; exec sleep 1000'"
    space = workspace(f"""
tasks: [{{name: task, command: "echo one >/dev/stdout; echo two >/dev/stderr"}}]
workspacekit:
  user: wkuser
  services:
    piped: {{user: wkuser, command: "{write}", pre_stop: "sh -c 'echo three >/dev/stderr'"}}
    seen: {{user: wkuser, tty: true, command: "{write}"}}
""").started()
    logs = space.state / "logs"
    for name in ("task", "piped", "seen"):
        until(lambda: (logs / f"{name}.log").exists() and (logs / f"{name}.log").read_text().split() == ["one", "two"], 10, name)
    space.cli("stop", "piped")
    until(lambda: (logs / "piped.log").read_text() == "one\ntwo\nthree\n", 10, "what pre_stop prints")
    result = space.cli("exec", "-u", "wkuser", "--", "sh", "-c", "echo out >/dev/stdout; echo err >/dev/stderr; id -u")
    assert (result.stdout, result.stderr) == (f"out\n{USER}\n", "err\n")
    # A file is not the program's to keep.
    with open(space.folder / "result", "w") as file:
        space.lab.popen_in(space.lab.pod, [BINARY, "exec", "--state-dir", str(space.state), "-u", "wkuser", "--", "id", "-u"],
                           stdout=file, env=space.environment).wait()
    assert (space.folder / "result").read_text() == f"{USER}\n" and (space.folder / "result").stat().st_uid == 0


def test_children_have_three_descriptors(workspace):
    """None of ours, whatever is open, also when standard input was closed; the fourth is that of ls."""
    space = workspace("""
tasks: [{name: task, command: "ls /proc/self/fd > fds-task; readlink /proc/$$/fd/0 > stdin-task"}]
workspacekit:
  services:
    unit: {command: [sh, -c, "ls /proc/self/fd > fds-unit; exec sleep 1000"], healthcheck: {test: "ls /proc/self/fd > fds-probe", interval: 100ms}, pre_stop: "sh -c 'ls /proc/self/fd > fds-stop'"}
""", through=["sh", "-c", 'exec "$@" <&-', "sh"]).started()

    def read(name):
        path = space.folder / name
        return path.read_text().split() if path.exists() else None

    expected = ["0", "1", "2", "3"]
    for name in ("fds-unit", "fds-probe", "fds-task"):
        assert until(lambda: read(name), 10, name) == expected, name
    assert until(lambda: read("stdin-task"), 10, "the task") == ["/dev/null"]
    assert space.exec("ls", "/proc/self/fd").stdout.split() == expected
    closed = ["sh", "-c", 'exec "$@" <&-', "sh", BINARY]
    for command in (["exec", "--state-dir", str(space.state), "--"], ["init", "--"]):
        result = space.lab.in_pod(*closed, *command, "ls", "/proc/self/fd", env=space.environment)
        assert result.stdout.split() == expected, result
    space.cli("stop", "unit")
    assert until(lambda: read("fds-stop"), 10, "pre_stop") == expected


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&- 2>&-"])
def test_closed_streams_are_dev_null(workspace, closed):
    """The number of a stream that is closed must not be that of a file of ours."""
    space = workspace("", through=["sh", "-c", f'exec "$@" {closed}', "sh"],
                      command=[PYTHON, "-c", "import os; names = [os.readlink(f'/proc/self/fd/{n}') for n in range(3)]; open('streams', 'w').write(' '.join(names))"])
    assert space.wait() == 0
    streams = (space.folder / "streams").read_text().split()
    assert len(streams) == 3 and not [path for path in streams if "lock" in path or "socket" in path or "memfd" in path], streams
    for number, mark in enumerate(("<&-", ">&-", "2>&-")):
        assert mark not in closed.split() or streams[number] == "/dev/null", streams


DB = '{name: db, init: "echo INIT >> ran", command: "echo run >> ran; exec sleep 1000"}'


def ran(space):
    path = space.folder / "ran"
    return path.read_text().split() if path.exists() else []


def test_init_runs_once_wherever_the_task_stands(workspace):
    first = workspace(f"tasks: [{DB}]").started()
    until(lambda: ran(first) == ["INIT", "run"], 10, "the first start")
    first.cli("restart", "db")
    until(lambda: ran(first) == ["INIT", "run", "run"], 10, "a restart")
    # Live: another task before it.
    (first.folder / ".gitpod.yml").write_text(f"tasks: [{{name: new, command: exec sleep 1000}}, {DB}]")
    first.cli("reload")
    first.cli("restart", "db")
    until(lambda: ran(first) == ["INIT"] + ["run"] * 3, 10, "a restart after the edit")
    first.stop()
    later = workspace(None, folder=first.folder).started()
    until(lambda: ran(later) == ["INIT"] + ["run"] * 4, 10, "a later start")


def test_a_changed_init_is_said_and_runs_when_asked(workspace):
    space = workspace(f"tasks: [{DB}]").started()
    until(lambda: ran(space) == ["INIT", "run"], 10, "the first start")
    (space.folder / ".gitpod.yml").write_text(f"tasks: [{DB.replace('INIT', 'OTHER')}]")
    space.cli("reload")
    until(lambda: ran(space) == ["INIT", "run", "run"], 10, "the restart")
    said = "db: its init has changed since it succeeded, and does not run again (hint: workspacekit restart --init 'db')"
    until(lambda: said in space.stderr, 10, "the notice")
    space.cli("restart", "--init", "db")
    until(lambda: ran(space) == ["INIT", "run", "run", "OTHER", "run"], 10, "the init")
    space.cli("restart", "db")
    until(lambda: ran(space)[-2:] == ["run", "run"] and len(ran(space)) == 6, 10, "a restart")
    assert space.stderr.count(said) == 1
    refused = space.cli("restart", "--init", "db", "nosuch", check=False)
    assert refused.returncode == 1 and 'no unit "nosuch"' in refused.stderr


def test_markers_of_earlier_versions_count(workspace, lab):
    folder = lab.folder / "old-markers"
    old = folder / ".workspacekit/init"
    old.mkdir(parents=True)
    for name in ("1-db", "2-a_b", "3-task-3"):
        (old / name).touch()
    task = lambda name: f'{{{name}init: "echo INIT {name[6:-2]} >> ran", command: "echo done >> ran"}}'
    # db moved; a/b and a_b had one name, and position tells them apart; the third has none.
    space = workspace(f"tasks: [{task('name: a_b, ')}, {task('name: a/b, ')}, {task('')}, {task('name: db, ')}]", folder=folder).started()
    until(lambda: ran(space).count("done") == 4, 10, "all tasks")
    assert [word for word in ran(space) if word != "done"] == ["INIT", "a_b"]


def test_tasks_of_several_users_and_links_in_the_way(workspace, lab):
    folder = lab.folder / "marker-links"
    (folder / ".workspacekit").mkdir(parents=True)
    outside = folder / "outside"
    outside.mkdir()
    os.symlink(outside, folder / ".workspacekit/init")
    space = workspace(f"tasks: [{DB}]", folder=folder).started()
    until(lambda: space.status()["db"]["state"] == "failed", 10, "the refusal")
    assert not list(outside.iterdir()) and outside.stat().st_uid == 0
    space.stop()
    os.unlink(folder / ".workspacekit/init")
    # A pipe in the place of a file holds nothing up.
    (folder / ".workspacekit/init").mkdir()
    os.mkfifo(folder / ".workspacekit/init/db")
    (folder / "ran").touch()
    (folder / "ran").chmod(0o666)
    space = workspace(f"""
tasks: [{DB}, {{name: other, init: "echo OTHER >> ran; id -u > who", command: "true"}}]
workspacekit: {{tasks: {{other: {{user: wkuser}}}}}}
""", folder=folder)
    folder.chmod(0o777)
    space.started()
    until(lambda: space.status()["other"]["state"] == "completed", 10, "the other user's task")
    assert (folder / "who").read_text() == f"{USER}\n"
    assert (folder / ".workspacekit/init/other").read_text().strip() and (folder / ".workspacekit/init").stat().st_uid == 0


def test_gp_is_found_by_any_shell(workspace):
    space = workspace("""
tasks: [{name: own, env: {PATH: "/usr/bin:/bin"}, command: "gp version > own-path; exec sleep 1000"}]
""").started()
    version = space.exec("gp", "version").stdout
    for shell in (["bash", "-lc", "gp version"], ["env", "-i", "sh", "-lc", "gp version"],
                  ["su", "-", "www-data", "-s", "/bin/sh", "-c", "gp version"], ["env", "-i", "PATH=/usr/local/bin:/usr/bin:/bin:/usr/games", "sh", "-c", "gp version"]):
        assert space.exec(*shell).stdout == version, shell
    # It knows its workspace without any variable.
    assert "own" in space.exec("su", "-", "www-data", "-s", "/bin/sh", "-c", "gp tasks list").stdout
    assert "own" in space.exec("env", "-i", "/usr/local/sbin/gp", "tasks", "list").stdout
    until(lambda: (space.folder / "own-path").exists() and (space.folder / "own-path").read_text() == version, 10, "the task")
    # Nothing of it is in the container.
    for folder in ("/usr/local/sbin", "/usr/local/games", "/usr/games"):
        assert space.lab.in_pod("sh", "-c", f"ls -A {folder} 2>/dev/null | grep -x gp", check=False).stdout == ""


def test_no_command_of_the_container_is_hidden(workspace, lab):
    """Directories with something in them stay as they are; one of the others has gp."""
    full = "/usr/local/sbin"
    lab.in_pod("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", full)
    try:
        lab.in_pod("sh", "-c", f"printf '#!/bin/sh\\necho mine\\n' > {full}/wk-mine; chmod 755 {full}/wk-mine")
        space = workspace("tasks: [{name: t, command: sleep 1000}]\n").started()
        assert space.exec("env", "-i", "/bin/sh", "-c", f"{full}/wk-mine; ls {full}").stdout == "mine\nwk-mine\n"
        assert space.exec("/usr/local/games/gp", "version").stdout
        space.stop()
    finally:
        lab.in_pod("umount", "-l", full)


BASHRC = """
case $- in *i*) ;; *) return;; esac
shopt -s extglob
tool() { case $1 in @(use|install)) echo "tool $1 $2";; esac; }
export FROM_RC='a "quoted" $value'
list=(one "two words")
readonly FIXED=1
alias tr='echo aliased'
echo hello from rc
echo and its errors >&2
sleep 1000 &
"""


def test_tasks_have_what_an_interactive_shell_has(workspace, lab):
    folder = lab.folder / "bashrc"
    (folder / "home").mkdir(parents=True)
    (folder / "home/.bashrc").write_text(BASHRC)
    (folder / "ends").mkdir()
    (folder / "ends/.bashrc").write_text("exit 3\n")
    (folder / "moves").mkdir()
    (folder / "moves/.bashrc").write_text("cd /usr\nif broken; then\n")
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere/.bashrc").write_text("cd /usr\n")
    foreground = f'{PYTHON} -c "import os; print(os.tcgetpgrp(0) == os.getpgrp(), os.isatty(1), *os.get_terminal_size())"'
    space = workspace(f"""
tasks:
  - {{name: t, env: {{HOME: {folder}/home}}, before: "tool use default", command: 'echo "$FROM_RC, ${{list[1]}}, $-"; ls /proc/$$/fd > fds; echo $(cat fds); while :; do sleep 1000; done'}}
  - {{name: ends, env: {{HOME: {folder}/ends}}, command: "echo still here"}}
  - {{name: moves, env: {{HOME: {folder}/moves}}, command: "pwd"}}
  - {{name: elsewhere, env: {{HOME: {folder}/elsewhere}}, command: "pwd"}}
  - {{name: none, env: {{HOME: /nonexistent}}, command: "echo none"}}
  - {{name: seen, env: {{HOME: {folder}/home}}, command: '{foreground}; exec sleep 1000'}}
workspacekit: {{tasks: {{seen: {{tty: true}}}}}}
""", folder=folder).started()
    log = lambda name: (space.state / f"logs/{name}.log").read_text()
    until(lambda: log("t").count("\n") >= 5, 20, lambda: log("t"))
    lines = log("t").splitlines()
    assert sorted(lines[:2]) == ["and its errors", "hello from rc"]
    said, flags = lines[3].rsplit(", ", 1)
    assert lines[2] == "tool use default" and said == 'a "quoted" $value, two words' and "i" not in flags
    assert lines[4].split() == ["0", "1", "2"]
    for name, text in (("ends", "still here\n"), ("elsewhere", "/usr\n"), ("none", "none\n")):
        until(lambda: log(name) == text, 10, name)
    until(lambda: log("moves").splitlines()[-1:] == [str(folder)] or log("moves").splitlines()[-1:] == ["/usr"], 10, "moves")
    until(lambda: "True True 80 24" in log("seen"), 10, lambda: log("seen"))
    # The shell itself is no interactive one: it ends when it is asked to.
    space.cli("stop", "t")
    assert space.status()["t"]["exitCode"] == 143


def test_ready_by_a_coloured_line_on_a_terminal_of_the_usual_size(workspace):
    space = workspace("""
workspacekit:
  services:
    vite: {tty: true, ready: {log: "^ *VITE v[0-9.]+ +ready in"}, command: [sh, -c, "stty size > size; printf '\\\\n  \\\\033[32m\\\\033[1mVITE\\\\033[22m v5.4.1\\\\033[39m  \\\\033[2mready in \\\\033[0m\\\\033[1m300\\\\033[22m ms\\\\033]0;title\\\\007\\\\n'; exec sleep 1000"]}
""").started()
    space.cli("wait", "vite", "--for", "ready", "--timeout", "20s")
    assert (space.folder / "size").read_text() == "24 80\n"


@pytest.mark.parametrize("home", [None, "/", "/no/such/home", "/root", "usable"])
def test_a_user_that_the_image_does_not_know_has_a_home(workspace, lab, home):
    """As OpenShift starts containers: any uid, group 0."""
    folder = lab.folder / f"openshift-{str(home).strip('/').replace('/', '-')}"
    (folder / "usable").mkdir(parents=True)
    for path in (folder, folder / "usable"):
        os.chown(path, 1000660000, 0)
    given = str(folder / "usable") if home == "usable" else home
    space = workspace("", folder=folder, command=["sh", "-c", 'touch "$HOME/file" && printf %s "$HOME"'], tun=False, arguments=["--network", "none"],
                      through=["setpriv", "--reuid", "1000660000", "--regid", "0", "--clear-groups", "env", *(["-u", "HOME"] if given is None else [f"HOME={given}"])])
    assert space.wait() == 0, space.stderr
    assert space.stdout == (given if home == "usable" else f"{folder}/.workspacekit/home")


def test_pipes_in_the_place_of_files_hold_nothing_up(workspace, lab):
    """Users of the workspace can put a pipe where the supervisor reads or writes a file: an open(2) of one waits."""
    folder = lab.folder / "pipes"
    (folder / ".workspacekit").mkdir(parents=True)
    (folder / "more.env").write_text("MORE=1\n")
    configuration = """
tasks: [{name: t, init: "true", command: 'echo up; while read -r line; do echo "$line"; done < feed; exec sleep 1000'}]
workspacekit: {tasks: {t: {env_file: more.env}}}
"""
    os.mkfifo(folder / "feed")
    feed = os.open(folder / "feed", os.O_RDWR)
    space = workspace(configuration, folder=folder).started()
    log = space.state / "logs/t.log"
    until(lambda: log.read_text() == "up\n", 10, "the task")
    for path in (folder / ".workspacekit/init/t", folder / ".workspacekit/env-0", folder / ".workspacekit.yml", folder / "more.env",
                 space.state / "logs/t.log.times", space.state / "events.jsonl"):
        path.unlink(missing_ok=True)
        os.mkfifo(path)
    passwd = lab.folder / "etc/passwd"
    before = passwd.read_text()
    passwd.unlink()
    os.mkfifo(passwd)
    try:
        space.cli("exec", "-u", "0", "--", "true", check=False)
        assert space.exec("true").returncode == 0
        space.cli("reload", check=False)
        space.cli("restart", "t", "--no-wait")
        os.write(feed, b"more\n")
        for _ in range(3):  # each is another turn of the loop
            space.status()
        space.exec("gp", "env")
    finally:
        passwd.unlink()
        passwd.write_text(before)
        os.close(feed)
    space.cli("stop")
    assert space.wait(20) == 0
