"""Started as root without CAP_SETFCAP: root inside is user 1000 of the container. The workspace comes up, and what was opened
to that user is the state directory and nothing else."""

import json
import os
import stat

import pytest

from conftest import BINARY, until

OTHER = 1000
WITHOUT = "-setfcap"
LEAST = "-all,+setuid,+setgid,+sys_chroot"
TASK = "tasks: [{name: a, command: 'cat /proc/self/uid_map; echo from $ROUND; sleep 1000'}]\n"


def limited(capabilities):
    return ["setpriv", f"--bounding-set={capabilities}", f"--inh-caps={capabilities}"]


def start(workspace, capabilities=WITHOUT, **options):
    return workspace(TASK, through=limited(capabilities) if capabilities else [], arguments=["--network", "none"], **options).started()


def outside(space, capabilities, *arguments, check=True):
    """A command of the container's root, with as few capabilities as the workspace was started with."""
    return space.lab.in_pod(*limited(capabilities), BINARY, arguments[0], "--state-dir", str(space.state), *arguments[1:], check=check,
                            env=space.environment)


@pytest.mark.parametrize("capabilities", [WITHOUT, LEAST], ids=["all the others", "as few as can be"])
def test_it_comes_up_and_obeys_the_containers_root(workspace, capabilities):
    space = start(workspace, capabilities, environment={"ROUND": "1"})
    assert "root inside is user 1000 outside" in space.stderr
    status = json.loads(outside(space, capabilities, "status", "--json").stdout)
    assert (status["isolation"], status["rootOutside"], status["units"][0]["state"]) == ("full", OTHER, "running")
    assert "root inside is user 1000 outside" in outside(space, capabilities, "status").stderr
    script = "echo $(id -u); gp info; touch /tmp/of-root-inside-$$; stat -c %u /tmp/of-root-inside-$$; rm /tmp/of-root-inside-$$"
    result = outside(space, capabilities, "exec", "--", "sh", "-c", script).stdout.split("\n")
    assert (result[0], result[-2]) == ("0", "0") and any("Tasks" in line for line in result)
    logs = outside(space, capabilities, "logs", "a", check=False)
    if capabilities == LEAST:  # no CAP_DAC_OVERRIDE
        assert (logs.returncode, "Permission denied" in logs.stderr) == (1, True), logs
    else:
        assert "1001       1001" in logs.stdout, "of the stages, whose root is user 1000"
    scrape = ["curl", "-s", "--unix-socket", str(space.state / "metrics.sock"), "http://x/metrics"]
    user = ["setpriv", "--reuid", str(OTHER), "--regid", str(OTHER), "--clear-groups"]
    assert "workspacekit_info" not in space.lab.in_pod(*scrape, check=False).stdout
    assert "workspacekit_info" in space.lab.in_pod(*user, *scrape).stdout
    outside(space, capabilities, "stop")
    assert space.wait() == 0
    left = {entry.name for entry in space.state.iterdir()}
    assert left == {"logs", "events.jsonl"} and stat.S_IMODE(space.state.stat().st_mode) == 0o711, left


def test_the_state_directory_serves_both_kinds_of_start(workspace, lab):
    folder = lab.folder / "both-kinds"
    for round, capabilities in enumerate([None, WITHOUT, None, LEAST]):
        space = start(workspace, capabilities, folder=folder, environment={"ROUND": str(round)})
        assert json.loads(space.cli("status", "--json").stdout).get("rootOutside") == (OTHER if capabilities else None)
        until(lambda: f"[a] from {round}\n" in space.stdout, 10, "the task's output")
        space.cli("stop")
        space.wait()
        assert f"from {round}\n" in (space.state / "logs/a.log").read_text() and "cannot" not in space.stderr


def test_it_starts_again_where_ring0_was_killed(workspace, lab):
    folder = lab.folder / "ring0-killed"
    space = start(workspace, folder=folder)
    space.process.kill()
    space.process.wait()
    space.gone()
    assert stat.S_IMODE(space.state.stat().st_mode) == 0o3771
    again = start(workspace, folder=folder)
    assert again.status()["a"]["state"] == "running"


def test_the_workspace_cannot_take_what_is_ring0s(workspace):
    space = start(workspace)
    lock = (space.state / "lock").stat().st_ino
    script = f"cd {space.state}; rm -f lock; mv lock other; rmdir rings; mv rings other; chmod 777 . ; chown 0 . ; echo x > lock; ls"
    listing = space.exec("sh", "-c", script, check=False).stdout.split()
    assert {"lock", "rings"} <= set(listing) and (space.state / "lock").stat().st_ino == lock
    assert (space.state / "lock").read_bytes() == b"" and stat.S_IMODE(space.state.stat().st_mode) == 0o3771


@pytest.mark.parametrize("uid", [1001, 65534])
def test_other_users_of_the_container_gain_nothing(workspace, uid):
    """65534 is what the container's own root shows as inside."""
    space = start(workspace)
    user = ["setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups"]
    answer = space.lab.in_pod(*user, BINARY, "exec", "--state-dir", str(space.state), "--", "id", check=False, env=space.environment)
    assert answer.returncode != 0 and "uid=" not in answer.stdout
    attempt = space.lab.in_pod(*user, "sh", "-c", f"cd {space.state} && echo x > mine || ls; cat logs/a.log", check=False)
    assert attempt.stdout == "" and not (space.state / "mine").exists()


def test_a_link_that_a_workspace_leaves_opens_nothing_at_the_next_start(workspace, lab):
    folder = lab.folder / "links"
    space = start(workspace, folder=folder)
    space.cli("stop")
    space.wait()
    foreign = folder / "foreign"
    foreign.mkdir(mode=0o755)
    (space.state / "logs").rename(folder / "former")
    (space.state / "logs").symlink_to(foreign)
    again = workspace(TASK, through=limited(WITHOUT), arguments=["--network", "none"], folder=folder)
    until(lambda: "up in" in again.stderr or again.process.poll() is not None, what="a start, or a refusal")
    status = foreign.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode), list(foreign.iterdir())) == (0, 0, 0o755, [])
