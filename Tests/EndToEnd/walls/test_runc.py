"""The same attacks in a container of runc, with the flags that are shipped."""

import json
import os
import pathlib
import subprocess

import pytest

from conftest import PYTHON
from containers import DEPLOY, needs_docker
from test_containers import engine  # noqa: F401, a fixture

pytestmark = needs_docker

HERE = pathlib.Path(__file__).parent
MOUNTED = [word for folder in ("/usr", "/lib", "/lib64", str(HERE)) for word in ("-v", f"{folder}:{folder}:ro")]
STARTED_AS = {"root": [], "user": ["--user", "33333", "-e", "HOME=/tmp", "--tmpfs", "/workspace:mode=1777"]}


def attack(engine, flags, script, *words):
    environment = {**os.environ, "DOCKER": str(engine.wrapper()), "DOCKER_FLAGS": " ".join([*MOUNTED, *flags, "--entrypoint", "/workspacekit"])}
    binary = str(engine.folder / "root/usr/bin/workspacekit")
    environment["DOCKER_FLAGS"] += f" -v {binary}:/workspacekit:ro"
    result = subprocess.run(
        [DEPLOY / "docker-run.sh", "workspace:1", "run", "--require", "masked", "--workspace", "/workspace", "--state-dir", "/tmp/state", "--", PYTHON, HERE / script,
         *words], env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result
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
