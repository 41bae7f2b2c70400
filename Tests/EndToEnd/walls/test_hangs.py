"""What a process inside can do to stop the supervisor's loop: each test starts an attack, as the workspace's root and as an
ordinary user of it, holds it, and then does what others of the workspace must be able to do."""

import os
import pathlib
import signal
import subprocess

import pytest

from conftest import die_with_parent, BINARY, PLAIN_USER, PYTHON, until

ATTACK = str(pathlib.Path(__file__).parent / "attack.py")
CONFIG = """
tasks:
  - name: waits
    command: trap 'echo told > {folder}/told; exit 0' TERM; while :; do sleep 0.1; done
"""
WHO = ["root", "user"]


class Attacked:
    def __init__(self, workspace, lab):
        self.folder = lab.folder / f"h-{os.urandom(4).hex()}"
        self.space = workspace(CONFIG.format(folder=self.folder), folder=self.folder).started()
        until(lambda: self.space.status()["waits"]["state"] == "running", 30)
        self.attacks = []

    def attack(self, who, *words):
        change = [] if who == "root" else ["setpriv", "--reuid", str(PLAIN_USER), "--regid", str(PLAIN_USER), "--clear-groups"]
        attack = self.space.lab.popen_in(
            self.space.lab.pod, [*self.space.prefix, BINARY, "exec", "--state-dir", str(self.space.state), "--", *change,
                                 PYTHON, ATTACK, *words], stdout=subprocess.PIPE, env=self.space.environment)
        self.attacks.append(attack)
        return attack

    def control(self, who, name):
        attack = self.attack(who, name, str(self.space.state / "control.sock"))
        assert attack.stdout.readline() == b"ready\n"

    def memory(self):
        text = pathlib.Path(f"/proc/{self.space.stage('supervise')}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0]) * 1024

    def works(self):
        """Another client is answered; a stop is in order, within its budget."""
        supervisor = self.space.stage("supervise")
        assert self.space.status()["waits"]["state"] == "running"
        assert self.space.exec("echo", "hello").stdout == "hello\n"
        self.space.cli("gp sync-done", "mine", check=False)
        assert self.space.status()["waits"]["state"] == "running"
        assert self.space.stage("supervise") == supervisor, "the supervisor was ended"
        self.space.process.send_signal(signal.SIGTERM)
        assert self.space.wait(60) != 137
        assert (self.folder / "told").read_text() == "told\n"
        for attack in self.attacks:
            attack.kill()
            attack.wait()


@pytest.fixture
def attacked(workspace, lab):
    return Attacked(workspace, lab)


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("name", ["pipelined", "descriptors", "waits", "connections", "endless", "scrapes"])
def test_a_client_that_floods(attacked, who, name):
    before = attacked.memory()
    attacked.control(who, name)
    assert attacked.memory() - before < 48 << 20
    supervisor = attacked.space.stage("supervise")
    assert len(os.listdir(f"/proc/{supervisor}/fd")) < 700
    attacked.works()


@pytest.mark.parametrize("who", WHO)
def test_names_of_points_are_bounded(attacked, who):
    before = attacked.memory()
    attacked.control(who, "names")
    assert attacked.memory() - before < 32 << 20
    attacked.works()


def test_a_user_does_not_take_anothers_connections(attacked):
    """While one user has all connections that it may have, another one's clients are answered, and so are root's scrapers."""
    attacked.control("user", "connections")
    attacked.control("user", "scrapes")
    other = ["setpriv", "--reuid", "47009", "--regid", "47009", "--clear-groups"]
    assert "waits" in attacked.space.exec(*other, BINARY, "status", "--state-dir", str(attacked.space.state)).stdout
    metrics = attacked.space.lab.in_pod("curl", "-sS", "--max-time", "20", "--unix-socket", str(attacked.space.state / "metrics.sock"),
                                        "http://localhost/metrics").stdout
    assert "workspacekit_" in metrics
    attacked.works()


def test_what_is_refused_is_said(attacked):
    """The client that goes past a bound is told so."""
    script = """if True:
        import json, socket, sys
        def ask(client, **request):
            client.sendall(json.dumps(request).encode() + b"\\n")
            return json.loads(client.makefile().readline())
        def new():
            client = socket.socket(socket.AF_UNIX); client.settimeout(10); client.connect(sys.argv[1]); return client
        client = new()
        for _ in range(17):
            client.sendall(json.dumps({"verb": "syncAwait", "names": ["never"]}).encode() + b"\\n")
        print(json.loads(client.makefile().readline())["error"])
        points = new()
        print([ask(points, verb="syncDone", names=[f"p{n}"]) for n in range(300)][-1]["error"])
        held = [new() for _ in range(300)]
        print(json.loads(held[-1].makefile().readline())["error"])
    """
    user = ["setpriv", "--reuid", str(PLAIN_USER), "--regid", str(PLAIN_USER), "--clear-groups"]
    said = attacked.space.exec(*user, PYTHON, "-c", script, str(attacked.space.state / "control.sock")).stdout.splitlines()
    assert said == ["too many waits on one connection", "256 names of one user are all that are kept",
                    "too many connections of this user: close some, or wait"]
    attacked.works()


PATIENT = """if True:
    import json, random, socket, sys
    def new():
        client = socket.socket(socket.AF_UNIX); client.settimeout(20); client.connect(sys.argv[1]); return client
    # One after the other, many more than there may be at a time.
    for _ in range(80):
        with new() as client:
            client.sendall(b'{"verb": "status"}\\n')
            answer = json.loads(client.makefile().readline()); assert "status" in answer, answer
    # Requests that come together, in pieces that end anywhere; after each piece every answer that is due is awaited.
    client = new()
    answers = client.makefile()
    for seed in range(20):
        random.seed(seed)
        rest = b"".join(json.dumps({"verb": "status", "names": ["x" * random.choice((1, 10, 400))]}).encode() + b"\\n" for _ in range(30))
        while rest:
            piece = rest[:random.choice((1, 50, 500, 1000))]
            rest = rest[len(piece):]
            client.sendall(piece)
            for _ in range(piece.count(b"\\n")):
                answer = json.loads(answers.readline()); assert "status" in answer, answer
    print("served")
"""


@pytest.mark.parametrize("who", WHO)
def test_a_client_that_asks_much_in_order_is_served(workspace, who):
    """32 connections of root's may be open at a time here, and 8 of another user's."""
    space = workspace("tasks: [{name: t, command: sleep 1000}]\n", through=["prlimit", "--nofile=256:256"]).started()
    supervisor = space.stage("supervise")
    change = [] if who == "root" else ["setpriv", "--reuid", str(PLAIN_USER), "--regid", str(PLAIN_USER), "--clear-groups"]
    assert space.exec(*change, PYTHON, "-c", PATIENT, str(space.state / "control.sock")).stdout == "served\n"
    assert space.stage("supervise") == supervisor


SPOOF = """if True:
    import os, socket, sys
    names = {line.split()[-1] for line in open("/proc/net/unix") if "@workspacekit-notify-" in line}
    for name in names:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        client.connect("\\0" + name[1:])
        client.send(b"READY=1\\nSTATUS=spoofed")
    print(len(names))
"""


@pytest.mark.parametrize("who", WHO)
def test_readiness_of_another_unit_cannot_be_claimed(workspace, lab, who):
    """The name of the notify socket is public; what is not of the unit is not believed, what is of it is."""
    folder = lab.folder / f"n-{os.urandom(4).hex()}"
    space = workspace(f"""
workspacekit:
  services:
    s: {{command: "sh -c 'until test -e {folder}/go; do sleep 0.05; done; systemd-notify --ready --status=mine; exec sleep 1000'", ready: {{notify: sd_notify}}}}
""", folder=folder).started()
    until(lambda: space.status()["s"].get("pid"), 30)
    change = [] if who == "root" else ["setpriv", "--reuid", str(PLAIN_USER), "--regid", str(PLAIN_USER), "--clear-groups"]
    assert space.exec(*change, PYTHON, "-c", SPOOF).stdout.strip() == "1"
    # Messages are taken in order: once the unit's own has been taken, the spoofed one would have been too.
    for _ in range(20):
        assert space.status()["s"]["isReady"] is False
        assert "statusText" not in space.status()["s"]
    (folder / "go").touch()
    until(lambda: space.status()["s"]["isReady"], 30)
    assert space.status()["s"]["statusText"] == "mine"


def test_neither_by_a_process_that_has_ended_before_it_is_looked_at(workspace, lab):
    """Nothing but its user is known of such a sender, and that is another than the unit's."""
    folder = lab.folder / f"n-{os.urandom(4).hex()}"
    space = workspace(f"""
tasks: [{{name: other, command: "until test -e {folder}/go; do sleep 0.05; done; {PYTHON} {folder}/spoof.py; touch {folder}/sent; sleep 1000"}}]
workspacekit:
  tasks: {{other: {{user: wkplain}}}}
  services:
    s: {{command: sleep 1000, ready: {{notify: sd_notify}}}}
""", folder=folder)
    (folder / "spoof.py").write_text("\n".join(line[4:] for line in SPOOF.splitlines()[1:]))
    folder.chmod(0o777)
    space.started()
    until(lambda: space.status()["s"].get("pid") and space.status()["other"]["state"] == "running", 30)
    supervisor = space.stage("supervise")
    os.kill(supervisor, signal.SIGSTOP)
    try:
        (folder / "go").touch()
        until(lambda: (folder / "sent").exists(), 30, "the message, and the end of its sender")
    finally:
        os.kill(supervisor, signal.SIGCONT)
    for _ in range(20):
        assert space.status()["s"]["isReady"] is False and "statusText" not in space.status()["s"]


FLOOD = str(pathlib.Path(__file__).parent / "flood.py")


def test_a_stopped_supervisor_and_a_flood_of_its_channels_hang_no_stage(workspace):
    """As the machine's root, because root inside does not reach the supervisor. ring0 goes on: it restarts the forwarder, and a
    signal ends the workspace within its budget."""
    space = workspace("tasks: [{name: t, command: sleep 1000}]\n").started()
    process = space.lab.popen_in(
        space.lab.pod, [PYTHON, FLOOD, str(space.stage("supervise"))], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said = process.stdout.readline()
    assert said.startswith(b"sent "), said
    for _ in range(3):
        forwarder = space.stage("slirp")
        os.kill(forwarder, signal.SIGKILL)
        until(lambda: space.stage("slirp") not in (None, forwarder), 30, "another forwarder")
    # What the first supervisor cannot say any more is said once.
    assert space.stderr.count("workspacekit: up in") == 1
    space.process.send_signal(signal.SIGTERM)
    space.wait(60)
    process.kill()
    process.wait()


@pytest.mark.parametrize("name", ["tini", "dumb-init"])
def test_an_init_whose_standard_error_is_full_passes_signals_on(lab, tmp_path, name):
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while os.write(writing, b"x" * 4096):
            pass
    except BlockingIOError:
        pass
    os.set_blocking(writing, True)
    link = tmp_path / name
    link.symlink_to(BINARY)
    # The shell too would wait to say that it was told.
    script = f"exec 2>/dev/null; trap 'echo told > {tmp_path}/told; exit 3' TERM; touch {tmp_path}/up; while :; do sleep 0.1; done"
    options = ["-vvv", "-s"] if name == "tini" else ["-v"]
    process = subprocess.Popen([str(link), *options, "--", "sh", "-c", script], stderr=writing)
    until(lambda: (tmp_path / "up").exists(), 30)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 3
    assert (tmp_path / "told").read_text() == "told\n"


@pytest.mark.parametrize("name", ["tini", "dumb-init"])
def test_an_init_whose_standard_error_has_no_reader_tells_its_program_nothing_of_it(tmp_path, name):
    """Each line that it cannot write raises SIGPIPE in it, and what is told of a signal is a line again."""
    reading, writing = os.pipe()
    os.close(reading)
    link = tmp_path / name
    link.symlink_to(BINARY)
    script = (f"exec 2>/dev/null; trap 'echo broken >> {tmp_path}/told' PIPE; trap 'echo asked >> {tmp_path}/told; exit 3' TERM; "
              f"touch {tmp_path}/up; while :; do sleep 0.1; done")
    options = ["-vvv", "-s"] if name == "tini" else ["-v"]
    process = subprocess.Popen([str(link), *options, "--", "sh", "-c", script], stderr=writing, preexec_fn=die_with_parent)
    os.close(writing)
    until(lambda: (tmp_path / "up").exists(), 30)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 3
    assert (tmp_path / "told").read_text() == "asked\n"
