"""dockerd as a service inside: the reason many people want such a workspace. Needs Debian's docker.io and busybox-static."""

import os
import shutil
import subprocess

import pytest

from conftest import WORLD4, tagged, until

DOCKER = shutil.which("docker", path="/usr/bin:/usr/sbin")
pytestmark = pytest.mark.skipif(
    not (DOCKER and shutil.which("dockerd") and shutil.which("iptables")), reason="docker.io and iptables are not installed")

CONFIG = """
workspacekit:
  services:
    docker:
      command: dockerd --rootless --data-root {0}/data --exec-root {0}/exec --pidfile {0}/pid -H unix://{0}/docker.sock
      requires: [dockerd, iptables]
      restart: always
      stop_grace_period: 3s
      kill_mode: process-group
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    folder = tmp_path_factory.mktemp("image")
    (folder / "root" / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", folder / "root/bin/busybox")
    for applet in ("sh", "id", "wget", "httpd", "mkdir", "sleep"):
        os.symlink("busybox", folder / "root/bin" / applet)
    subprocess.run(["tar", "--owner=0", "--group=0", "-C", folder / "root", "-cf", folder / "image.tar", "."], check=True)
    return folder / "image.tar"


def test_containers_run_build_reach_the_world_and_publish_ports(workspace, lab, image):
    space = workspace(CONFIG.format(lab.folder / "docker")).started()
    docker = lambda *arguments, check=True: space.exec(DOCKER, "-H", f"unix://{lab.folder}/docker/docker.sock", *arguments, check=check)
    until(lambda: docker("version", check=False).returncode == 0, 20, "dockerd")
    docker("import", "-c", 'CMD ["/bin/sh"]', str(image), "base:1")
    assert docker("run", "--rm", "base:1", "id", "-u").stdout == "0\n"
    assert docker("run", "--rm", "base:1", "wget", "-qO-", f"http://{WORLD4}:8000/").stdout == "hello from world\n"
    context = lab.folder / "context"
    context.mkdir()
    (context / "Dockerfile").write_text("ARG BASE=none\nFROM ${BASE}\nRUN echo built >/made\nCMD [\"sh\", \"-c\", \"read x </made; echo $x\"]\n")
    docker("build", "-q", "--build-arg", "BASE=base:1", "-t", "made:1", str(context))
    assert docker("run", "--rm", "made:1").stdout == "built\n"
    docker("run", "-d", "-p", "8090:80", "base:1", "sh", "-c", "mkdir /www; echo published >/www/index.html; httpd -f -p 80 -h /www")
    until(lambda: space.exec("curl", "-s", "-m", "2", "http://127.0.0.1:8090/", check=False).stdout == "published\n", 10, "the published port")
    space.process.terminate()
    assert space.wait(9) == 0
    space.gone(2)
