"""The same attacks in a container of runc, with the flags that are shipped."""

import json
import os
import pathlib
import socket
import subprocess

import pytest

from conftest import PYTHON
from containers import DEPLOY, needs_docker
from test_containers import engine  # noqa: F401, a fixture

pytestmark = needs_docker

HERE = pathlib.Path(__file__).parent
MOUNTED = [word for folder in ("/usr", "/lib", "/lib64", str(HERE)) for word in ("-v", f"{folder}:{folder}:ro")]
STARTED_AS = {"root": [], "user": ["--user", "33333", "-e", "HOME=/tmp", "--tmpfs", "/workspace:mode=1777"]}


def attack(engine, flags, script, *words, more=(), script_inside=None):
    environment = {**os.environ, "DOCKER": str(engine.wrapper()), "DOCKER_FLAGS": " ".join([*MOUNTED, *flags, "--entrypoint", "/workspacekit"])}
    binary = str(engine.folder / "root/usr/bin/workspacekit")
    environment["DOCKER_FLAGS"] += f" -v {binary}:/workspacekit:ro"
    result = subprocess.run(
        [DEPLOY / "docker-run.sh", "workspace:1", "run", "--require", "masked", "--workspace", "/workspace", "--state-dir", "/tmp/state", *more, "--", PYTHON,
         script_inside or HERE / script, *words], env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0 and "no layer over" not in result.stderr, result
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["tried"] > 1
    return set(found["got"])


@pytest.mark.parametrize("start", STARTED_AS)
def test_no_stage_is_reached(engine, start):
    assert attack(engine, STARTED_AS[start], "trespass.py", "processes" if start == "root" else "traces", "workspacekit", "supervisor") == set()


@pytest.mark.parametrize("start", STARTED_AS)
def test_no_mount_is_undone(engine, start):
    assert attack(engine, STARTED_AS[start], "trespass.py", "mounts", "/tmp") == set()


def test_nothing_of_the_machine_is_writable(engine):
    assert attack(engine, [], "machine.py", "/workspace") == set()


INTRUDE = """
import json, os, pathlib, socket, subprocess, sys
def words(*arguments):
    return json.loads(subprocess.run([sys.executable, "/volume/attacks.py", *arguments], capture_output=True, text=True).stdout)
listed = pathlib.Path("/proc/self/mounts").read_text()
print(json.dumps({"got": words("connect", "/run/docker.sock", "/volume/x.sock") + words("write", "/volume/file"), "tried": 3, "mounts": listed}))
"""


@pytest.mark.parametrize("start", STARTED_AS)
def test_a_private_root_keeps_the_container_s_sockets_and_files(engine, start):
    folder = engine.folder / f"volume-{start}"
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "file").write_text("outside\n")
    (folder / "file").chmod(0o666)
    (folder / "intrude.py").write_text(INTRUDE)
    (folder / "attacks.py").write_text((HERE / "intrude.py").read_text())
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "x.sock"))
        listener.listen()
        (folder / "x.sock").chmod(0o777)
        flags = [*STARTED_AS[start], "-v", f"{folder}:/volume", "-v", f"{folder}/x.sock:/run/docker.sock"]
        got = attack(engine, flags, folder / "intrude.py", more=["--network", "none"], script_inside="/volume/intrude.py")
    # What it writes, it writes to its own layer.
    assert {what for what in got if not what.startswith("/volume/file: ")} == set()
    assert (folder / "file").read_text() == "outside\n" and sorted(path.name for path in folder.iterdir()) == ["attacks.py", "file", "intrude.py", "x.sock"]
