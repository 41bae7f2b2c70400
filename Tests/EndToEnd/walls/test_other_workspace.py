"""From inside, another workspace of the same user is not controlled: ids are the same, the user namespace is not. Nor is the
workspace around a workspace."""

import json
import pathlib

import pytest

from conftest import BINARY, PYTHON, USER, until

CONFIG = "tasks: [{name: waits, command: sleep 1000}]\n"
REFUSED = "refused: this comes from another workspace"
ASKED = [["exec", "--", "id"], ["exec", "-t", "--", "id"], ["status"], ["stop"], ["restart", "waits"], ["signal", "KILL", "waits"], ["net", "capture"],
         ["reload"]]

# A client of its own making: it says that it comes from outside, and shows each user namespace that it can come by.
FORGER = r"""
import array, fcntl, json, os, socket, sys
shown = [os.open(path, os.O_RDONLY) for path in ("/proc/self/ns/user", "/proc/self/ns/net", "/proc/self/ns/pid", "/dev/null")]
NS_GET_USERNS, NS_GET_PARENT = 0xb701, 0xb702
for of in list(shown[:3]):
    for ask in (NS_GET_USERNS, NS_GET_PARENT):
        try:
            shown.append(fcntl.ioctl(of, ask))
        except OSError:
            pass
for entry in os.listdir("/proc"):
    try:
        shown.append(os.open(f"/proc/{entry}/ns/user", os.O_RDONLY))
    except OSError:
        pass
answers = set()
for descriptor in [None, *shown]:
    client = socket.socket(socket.AF_UNIX)
    client.connect(sys.argv[1])
    request = json.dumps({"verb": "stop", "names": ["waits"], "hasProof": True}).encode() + b"\n"
    client.sendmsg([request], [] if descriptor is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))])
    answers.add(client.makefile().readline())
print(len(shown), json.dumps(sorted(answers)))
"""


@pytest.fixture(params=[None, USER], ids=["root", "range"])
def two(workspace, lab, request):
    return [workspace(CONFIG, folder=lab.folder / f"ws-{name}", user=request.param).started() for name in ("one", "other")]


def test_another_workspace_is_not_controlled(two):
    one, other = two
    until(lambda: other.status()["waits"]["state"] == "running")
    for words in ASKED:
        verb = words[:2] if words[0] == "net" else words[:1]
        result = one.exec(BINARY, *verb, "--state-dir", str(other.state), *words[len(verb):], check=False)
        assert result.returncode != 0 and REFUSED in result.stderr + result.stdout, (words, result)
    count, answers = one.exec(PYTHON, "-c", FORGER, str(other.state / "control.sock")).stdout.split(" ", 1)
    assert int(count) > 4 and all(REFUSED in answer for answer in json.loads(answers)), answers
    assert other.status()["waits"]["state"] == "running" and other.status()["waits"]["restarts"] == 0
    # Each is obeyed from within, and both from outside.
    for space in two:
        assert space.exec(BINARY, "exec", "--state-dir", str(space.state), "--", "echo", "mine").stdout == "mine\n"


def test_nor_by_another_user_of_it(two):
    one, other = two
    user = ["setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups"]
    for words in (["status"], ["wait", "waits"]):
        result = one.exec(*user, BINARY, words[0], "--state-dir", str(other.state), *words[1:], check=False)
        assert result.returncode == 1 and "belongs to another user" in result.stderr, result


def test_the_workspace_around_a_workspace_is_not_controlled(workspace):
    space = workspace(CONFIG).started()
    inner = f"{BINARY} run --workspace {space.folder} --config {space.folder}/none.yml --state-dir {space.folder}/inner -- "
    (space.folder / "none.yml").write_text("{}\n")
    for words in ("exec --state-dir {} -- id", "stop --state-dir {} waits"):
        result = space.exec("sh", "-c", inner + f"{BINARY} {words.format(space.state)}", check=False)
        assert result.returncode != 0 and REFUSED in result.stderr and "uid=" not in result.stdout, result
    assert space.status()["waits"]["state"] == "running"
    # Nor from a user namespace of its own making.
    result = space.exec("unshare", "--user", "--map-root-user", BINARY, "stop", "--state-dir", str(space.state), "waits", check=False)
    assert result.returncode != 0 and REFUSED in result.stderr, result


def test_after_a_takeover_too(two):
    one, other = two
    supervisor = other.stage("supervise")
    other.lab.in_pod("kill", "-9", str(supervisor))
    until(lambda: other.stage("supervise") != supervisor and other.cli("status", check=False).returncode == 0)
    result = one.exec(BINARY, "exec", "--state-dir", str(other.state), "--", "id", check=False)
    assert result.returncode != 0 and REFUSED in result.stderr
