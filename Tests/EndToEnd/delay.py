"""A line with delay between two taps: 198.18.9.2 in the pod, 198.18.9.1 in the world. The kernels of the test machines
have no netem. argv: POD-PID WORLD-PID MILLISECONDS (each way). Frames pass as they are, superpackets too."""

import collections
import ctypes
import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import time

TUNSETIFF, TUNSETOFFLOAD, TUNSETVNETHDRSZ = 0x400454CA, 0x400454D0, 0x400454D8
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.prctl(1, signal.SIGKILL)
DELAY = float(sys.argv[3]) / 1000


def tap_in(pid, address):
    own = os.open("/proc/self/ns/net", os.O_RDONLY)
    other = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    assert LIBC.setns(other, 0) == 0
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", b"delay0", 0x0002 | 0x1000 | 0x4000))
    fcntl.ioctl(tap, TUNSETVNETHDRSZ, struct.pack("i", 10))
    fcntl.ioctl(tap, TUNSETOFFLOAD, 1 | 2 | 4)
    subprocess.run(["ip", "addr", "add", f"{address}/24", "dev", "delay0"], check=True)
    subprocess.run(["ip", "link", "set", "delay0", "txqueuelen", "10000", "up"], check=True)
    assert LIBC.setns(own, 0) == 0
    return tap


taps = [tap_in(sys.argv[1], "198.18.9.2"), tap_in(sys.argv[2], "198.18.9.1")]
other = {taps[0]: taps[1], taps[1]: taps[0]}
queue = collections.deque()
print("ready", flush=True)
while True:
    now = time.monotonic()
    while queue and queue[0][0] <= now:
        _, tap, frame = queue.popleft()
        try:
            os.write(tap, frame)
        except OSError:
            pass
    timeout = max(0.0, queue[0][0] - now) if queue else None
    for tap in select.select(taps, [], [], timeout)[0]:
        for _ in range(64):
            try:
                frame = os.read(tap, 70000)
            except OSError:
                break
            queue.append((time.monotonic() + DELAY, other[tap], frame))
