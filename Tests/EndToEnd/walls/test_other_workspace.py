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
    try:
        client.sendmsg([request], [] if descriptor is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))])
    except BrokenPipeError:
        pass  # refused already: the answer is there
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


# A server of its own in place of the control socket: it keeps each descriptor that a client shows it, and shows it to another
# workspace.
THIEF = r"""
import json, os, socket, sys, time
mine, other = sys.argv[1:3]
os.rename(mine + "/control.sock", mine + "/former.sock")
server = socket.socket(socket.AF_UNIX)
server.bind(mine + "/control.sock")
os.chmod(mine + "/control.sock", 0o666)
server.listen()
print("ready", flush=True)
client, _ = server.accept()
held, answers = [], []
client.settimeout(10)
data, descriptors, _, _ = socket.recv_fds(client, 65536, 8)
held += descriptors
client.sendall(json.dumps({"error": "refused", "wantsProof": True}).encode() + b"\n")
try:
    data, descriptors, _, _ = socket.recv_fds(client, 65536, 8)
    held += descriptors
except OSError:
    pass
client.close()
for shown in [[]] + [[descriptor] for descriptor in held]:
    attempt = socket.socket(socket.AF_UNIX)
    attempt.connect(other + "/control.sock")
    request = json.dumps({"verb": "stop", "names": ["waits"], "hasProof": True}).encode() + b"\n"
    try:
        socket.send_fds(attempt, [request], shown)
    except BrokenPipeError:
        pass  # refused already: the answer is there
    answers.append(attempt.makefile().readline())
os.rename(mine + "/former.sock", mine + "/control.sock")
print(json.dumps([len(held), answers]), flush=True)
"""


def test_what_a_client_shows_to_a_false_server_opens_no_other_workspace(two):
    one, other = two
    until(lambda: other.status()["waits"]["state"] == "running")
    thief = one.lab.popen_in(
        one.lab.pod, [*one.prefix, BINARY, "exec", "--state-dir", str(one.state), "--", PYTHON, "-c", THIEF, str(one.state), str(other.state)],
        stdout=-1, env=one.environment)
    assert thief.stdout.readline() == b"ready\n"
    one.cli("status", check=False)
    held, answers = json.loads(thief.stdout.readline())
    assert held == 0 and all(REFUSED in answer for answer in answers), answers
    thief.wait()
    assert other.status()["waits"]["state"] == "running"


def test_a_link_in_place_of_the_socket_leads_nowhere(two):
    one, other = two
    one.exec("sh", "-c", f"cd {one.state}; mv control.sock real; ln -s {other.state}/control.sock control.sock")
    result = one.cli("exec", "--", "id", check=False)
    assert result.returncode != 0 and "uid=" not in result.stdout, result
    one.lab.in_pod("sh", "-c", f"cd {one.state}; mv real control.sock")


# As many descriptors in messages that nobody reads as the kernel lets a user have.
IN_FLIGHT = r"""
import array, os, resource, socket, time
resource.setrlimit(resource.RLIMIT_NOFILE, (min(20000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2)
null = os.open("/dev/null", os.O_RDONLY)
pairs, sent = [], 0
try:
    for _ in range(400):
        pairs.append(socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM))
        pairs[-1][0].setblocking(False)
        try:
            for _ in range(200):
                pairs[-1][0].sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null] * 253))])
                sent += 253
        except BlockingIOError:
            pass
except OSError as error:
    print("full", error.errno, sent, flush=True)
else:
    print("sent", sent, flush=True)
time.sleep(60)
"""


def test_descriptors_in_flight_keep_nobody_from_asking(workspace):
    """The kernel counts them by the user outside, whom the workspace's root is."""
    space = workspace(CONFIG, user=USER).started()
    attack = space.lab.popen_in(
        space.lab.pod, [*space.prefix, BINARY, "exec", "--state-dir", str(space.state), "--", PYTHON, "-c", IN_FLIGHT], stdout=-1,
        env=space.environment)
    assert attack.stdout.readline().split()[0] in (b"full", b"sent")
    assert space.status()["waits"]["state"] == "running"
    assert space.cli("stop", "waits").returncode == 0
    attack.kill()
    attack.wait()


CROWD = r"""
import socket, sys, time
held = []
for _ in range(600):
    client = socket.socket(socket.AF_UNIX)
    client.connect(sys.argv[1])
    held.append(client)
print("ready", flush=True)
time.sleep(60)
"""


def test_it_does_not_use_up_the_connections_of_the_user_who_started_the_other(two):
    one, other = two
    crowd = one.lab.popen_in(
        one.lab.pod, [*one.prefix, BINARY, "exec", "--state-dir", str(one.state), "--", PYTHON, "-c", CROWD, str(other.state / "control.sock")], stdout=-1,
        env=one.environment)
    assert crowd.stdout.readline() == b"ready\n"
    until(lambda: other.cli("status", check=False).returncode == 0, 10, "an answer")
    crowd.kill()
    crowd.wait()
