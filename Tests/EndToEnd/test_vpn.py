"""VPNs inside a workspace of an ordinary user's: TUN devices and routes of their own, with the other end in the world. Needs
Debian's wireguard-go, wireguard-tools, nebula and openvpn."""

import hashlib
import pathlib
import shutil
import subprocess

import pytest

from conftest import PYTHON, USER, WORLD4, until
from payload import stream

SIZE = 100 << 20
# Bound to the tunnel's device: the world answers for all of its addresses, also without a tunnel.
SEND = """
import socket, sys
sys.path.insert(0, sys.argv[4])
from payload import stream
s = socket.socket(); s.settimeout(100)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, sys.argv[1].encode())
s.connect((sys.argv[2], 9000))
for block in stream(int(sys.argv[3])): s.sendall(block)
s.shutdown(socket.SHUT_WR)
print(s.makefile().readline(), end="")
"""


@pytest.fixture
def in_the_world(lab, tmp_path):
    """Starts programs in the world, with a TUN device, and ends them."""
    started = []

    def start(*command):
        with open(tmp_path / f"log{len(started)}", "wb") as log:
            started.append(lab.popen_in(lab.world, list(command), stdout=log, stderr=log))
        return started[-1]
    yield start
    for process in started:
        process.kill()
        process.wait()


def needs(*programs):
    return pytest.mark.skipif(not all(shutil.which(program) for program in programs), reason=f"not all of {', '.join(programs)} are installed")


def up(workspace, lab, config, folder):
    space = workspace(config, user=USER, folder=folder).started()
    for file in folder.iterdir():
        if file.suffix in (".key", ".crt", ".yml"):
            file.chmod(0o644)
    return space


def carries(space, lab, device, peer):
    """The tunnel is what carries it: a ping bound to it, and then 100 MiB."""
    ping = lambda: space.exec("ping", "-c", "1", "-W", "1", "-I", device, peer, check=False)
    until(lambda: ping().returncode == 0, 15, lambda: f"a ping through {device}: {ping().stdout} {space.stdout} {space.stderr}")
    count = lambda: int(space.exec("cat", f"/sys/class/net/{device}/statistics/tx_bytes").stdout)
    before = count()
    digest = hashlib.sha256()
    for block in stream(SIZE):
        digest.update(block)
    sent = space.exec(PYTHON, "-c", SEND, device, peer, str(SIZE), str(lab.folder / "payload"))
    assert sent.stdout == f"{SIZE} {digest.hexdigest()}\n"
    assert count() - before > SIZE
    # The rest of the world is where it was.
    assert space.exec("curl", "-s", "-m", "5", f"http://{WORLD4}:8000/").stdout == "hello from world\n"


@pytest.fixture
def place(lab, request):
    """A folder that the ordinary user may read, with the stream's source in it."""
    (lab.folder / "payload").mkdir(exist_ok=True)
    shutil.copy(PAYLOAD, lab.folder / "payload")
    folder = lab.folder / f"vpn-{request.node.name}"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


PAYLOAD = __file__.replace("test_vpn.py", "payload.py")


@needs("wireguard-go", "wg")
def test_wireguard(workspace, lab, in_the_world, place):
    keys = {}
    for name in ("here", "there"):
        keys[name] = lab.in_world("wg", "genkey").stdout
        (place / f"{name}.key").write_text(keys[name])
    public = {name: lab.in_world("wg", "pubkey", input=key).stdout.strip() for name, key in keys.items()}
    in_the_world("wireguard-go", "-f", "wgworld")
    until(lambda: lab.in_world("wg", "show", "wgworld", check=False).returncode == 0, 10, "the world's end")
    lab.in_world("wg", "set", "wgworld", "listen-port", "51820", "private-key", f"{place}/there.key", "peer", public["here"], "allowed-ips", "10.8.0.2/32")
    lab.in_world("sh", "-c", "ip addr add 10.8.0.1/24 dev wgworld; ip link set wgworld up")
    space = up(workspace, lab, f"""
tasks:
  - name: routes
    command: |
      set -e
      until wg show wg0 >/dev/null 2>&1; do sleep 0.1; done
      wg set wg0 private-key {place}/here.key peer {public["there"]} allowed-ips 10.8.0.0/24 endpoint {WORLD4}:51820 persistent-keepalive 5
      ip addr add 10.8.0.2/24 dev wg0; ip link set wg0 up
workspacekit:
  filesystem: {{writable: [/run]}}
  services:
    wireguard: {{command: "sh -c 'mkdir -p /run/wireguard && exec wireguard-go -f wg0'", restart: always}}
""", place)
    carries(space, lab, "wg0", "10.8.0.1")


@needs("nebula", "nebula-cert")
def test_nebula(workspace, lab, in_the_world, place):
    def certify(*arguments):
        subprocess.run(["nebula-cert", *arguments], cwd=place, check=True, capture_output=True)
    certify("ca", "-name", "test")
    for name, address in (("there", "10.9.0.1/24"), ("here", "10.9.0.2/24")):
        certify("sign", "-name", name, "-ip", address)
    common = lambda name, lighthouse, port: f"""
pki: {{ca: {place}/ca.crt, cert: {place}/{name}.crt, key: {place}/{name}.key}}
static_host_map: {{"10.9.0.1": ["{WORLD4}:4242"]}}
lighthouse: {{am_lighthouse: {str(lighthouse).lower()}, hosts: [{'' if lighthouse else '"10.9.0.1"'}]}}
listen: {{host: 0.0.0.0, port: {port}}}
tun: {{dev: neb{name}, mtu: 1300}}
firewall: {{outbound: [{{port: any, proto: any, host: any}}], inbound: [{{port: any, proto: any, host: any}}]}}
"""
    (place / "there.yml").write_text(common("there", True, 4242))
    (place / "here.yml").write_text(common("here", False, 0))
    in_the_world("nebula", "-config", f"{place}/there.yml")
    space = up(workspace, lab, f"workspacekit: {{services: {{nebula: {{command: nebula -config {place}/here.yml, restart: always}}}}}}\n", place)
    carries(space, lab, "nebhere", "10.9.0.1")


@needs("openvpn")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_openvpn(workspace, lab, in_the_world, place, transport):
    subprocess.run(["openvpn", "--genkey", "secret", place / "static.key"], check=True)
    common = ["--dev-type", "tun", "--secret", f"{place}/static.key", "--cipher", "AES-256-CBC", "--port", "1194"]
    proto = {"udp": ("udp", "udp"), "tcp": ("tcp-server", "tcp-client")}[transport]
    in_the_world("openvpn", "--dev", "ovworld", "--proto", proto[0], "--ifconfig", "10.7.0.1", "10.7.0.2", *common)
    space = up(workspace, lab, f"""
workspacekit:
  services:
    openvpn:
      command: openvpn --dev ov0 --remote {WORLD4} --proto {proto[1]} --ifconfig 10.7.0.2 10.7.0.1 --route 10.78.0.0 255.255.0.0 {' '.join(common)}
      restart: always
""", place)
    carries(space, lab, "ov0", "10.7.0.1")
    assert "10.78.0.0/16 via 10.7.0.1 dev ov0" in space.exec("ip", "route").stdout


TAILSCALE = (pathlib.Path(__file__).parents[2] / "examples/tailscale/.gitpod.yml").read_text()
# Debian has no tailscale. What stands in takes its command line, keeps a state where it is told and answers at its socket.
TAILSCALED = """#!/usr/bin/python3
import os, socket, sys
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
state = options["--statedir"] + "/tailscaled.state"
if not os.path.exists(state): open(state, "w").write("a machine of its own\\n")
os.close(os.open("/dev/net/tun", os.O_RDWR))
s = socket.socket(socket.AF_UNIX); s.bind(options["--socket"]); s.listen()
while True: s.accept()[0].sendall(open(state, "rb").read())
"""
CLIENT = """#!/usr/bin/python3
import socket, sys
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[sys.argv.index("--socket") + 1])
print(sys.argv[3], s.recv(100).decode().strip(), *sys.argv[4:])
"""


def test_the_tailscale_example_is_skipped_aloud_where_there_is_none(workspace):
    space = workspace(TAILSCALE, environment={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}).started()
    assert space.status()["tailscaled"]["state"] == "skipped" and "tailscaled" in space.status()["tailscaled"]["reason"]
    assert space.status()["tailscale"]["state"] == "skipped"


@pytest.mark.parametrize("user", [None, USER], ids=["root", "ordinary-user"])
def test_the_tailscale_example_keeps_its_state_in_the_workspace(workspace, lab, place, user):
    for name, text in (("tailscaled", TAILSCALED), ("tailscale", CLIENT)):
        (place / name).write_text(text)
        (place / name).chmod(0o755)
    folder = lab.folder / f"tailscale-{user}"
    options = {"user": user, "folder": folder, "environment": {"PATH": f"{place}:/usr/sbin:/usr/bin:/sbin:/bin", "TAILSCALE_AUTHKEY": "tskey-1", "TAILSCALE_HOSTNAME": "my-machine"}}
    for _ in range(2):
        space = workspace(TAILSCALE, **options)
        until(lambda: "[tailscale] up a machine of its own --ssh --hostname my-machine --authkey tskey-1" in space.stdout, 15, lambda: space.stdout + space.stderr)
        until(lambda: "[tailscale] ip a machine of its own" in space.stdout, 5, lambda: space.stdout)
        assert (folder / ".tailscale/tailscaled.state").read_text() == "a machine of its own\n"
        space.stop()
