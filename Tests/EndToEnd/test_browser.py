"""A browser inside, with its own sandbox: it makes user namespaces in the workspace's."""

import shutil

import pytest

from conftest import WORLD4, until

pytestmark = pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")


def test_chromium_shows_a_page_with_its_sandbox_on(inside):
    page = ["chromium", "--headless", "--disable-gpu", "--no-first-run", "--virtual-time-budget=3000", "--dump-dom"]
    # Not as root, whom it refuses its sandbox.
    as_user = ["setpriv", "--reuid", "33", "--regid", "33", "--clear-groups", "env", "HOME=/tmp/browser"]
    script = "mkdir -p /tmp/browser && chown 33:33 /tmp/browser && exec \"$@\""
    fetched = inside("sh", "-c", script, "sh", *as_user, *page, f"http://{WORLD4}:8000/", seconds=90)
    assert fetched.returncode == 0 and "hello from world" in fetched.stdout, fetched.stderr[-2000:]


def test_its_renderers_are_in_namespaces_and_under_a_filter_of_their_own(workspace):
    space = workspace("""
workspacekit:
  services:
    browser: {user: "33:33", environment: {HOME: /tmp/browser-home}, command: "sh -c 'mkdir -p $HOME; exec chromium --headless --disable-gpu --no-first-run --remote-debugging-port=0 about:blank'"}
""").started()
    look = r"""
for pid in $(ls /proc | grep -E '^[0-9]+$'); do
  grep -q '[c]hromium.*--type=renderer' /proc/$pid/cmdline 2>/dev/null || continue
  echo $(readlink /proc/$pid/ns/user /proc/$pid/ns/net /proc/$pid/ns/pid) $(sed -n 's/^Seccomp:\s*//p' /proc/$pid/status)
done
readlink /proc/self/ns/user /proc/self/ns/net /proc/self/ns/pid
"""
    def renderers():
        *found, user, net, pid = space.exec("sh", "-c", look).stdout.splitlines()
        return [line.split() for line in found], [user, net, pid]
    until(lambda: renderers()[0], 60, lambda: "a renderer: " + space.stdout + space.stderr)
    found, own = renderers()
    for *namespaces, filtered in found:
        assert not set(namespaces) & set(own) and filtered == "2"
