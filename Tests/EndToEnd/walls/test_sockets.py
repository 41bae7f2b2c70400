"""Ways around the network namespace: sockets that know none."""

import platform

import pytest

from conftest import PYTHON, USER

# KERNEL: AF_VSOCK sockets belong to no network namespace (vsock(7)). Made by each number that x86-64 has for socket(2).
ATTACK = r"""
import ctypes, errno, platform
libc = ctypes.CDLL(None, use_errno=True)
numbers = {"x86_64": [41, 0x40000000 + 41], "aarch64": [198]}[platform.machine()]
for number in numbers:
    made = libc.syscall(ctypes.c_long(number), 40, 1, 0)
    print("made" if made >= 0 else errno.errorcode[ctypes.get_errno()])
made = libc.syscall(ctypes.c_long(numbers[0]), 2, 1, 0)
print("inet", "made" if made >= 0 else errno.errorcode[ctypes.get_errno()])
"""


@pytest.mark.parametrize("network", ["none", "sandbox"])
@pytest.mark.parametrize("user", [None, USER], ids=["root", "user"])
def test_no_socket_reaches_the_hypervisor(inside, network, user):
    result = inside(PYTHON, "-c", ATTACK, arguments=["--network", network], user=user)
    *vsock, inet = result.stdout.splitlines()
    # The filter answers before a kernel without x32 does.
    assert set(vsock) == {"EAFNOSUPPORT"}, result
    assert inet == "inet made", result


@pytest.mark.parametrize("network", ["none", "sandbox"])
@pytest.mark.parametrize("user", [None, USER], ids=["root", "user"])
def test_no_ring_of_requests_makes_sockets_past_the_filter(inside, network, user):
    """io_uring_setup(2) has the same number on every architecture; 0x80 calls use it too."""
    script = "import ctypes; libc = ctypes.CDLL(None, use_errno=True); buffer = ctypes.create_string_buffer(256); " \
        "print(libc.syscall(ctypes.c_long(425), 4, buffer), ctypes.get_errno())"
    result = inside(PYTHON, "-c", script, arguments=["--network", network], user=user)
    assert result.stdout == "-1 38\n", result


# int $0x80 calls by i386's numbers, also from a 64-bit program: socket(2) is 359, socketcall(2) is 102.
COMPAT_ATTACK = r"""
import ctypes, errno, mmap, os, struct, sys
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
low = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40)  # MAP_32BIT: arguments that 32 bits reach
def call(number, a, b, c):
    code.seek(0)
    code.write(b"\x53\xb8" + struct.pack("<I", number) + b"\xbb" + struct.pack("<I", a) + b"\xb9" + struct.pack("<I", b)
               + b"\xba" + struct.pack("<I", c) + b"\xcd\x80\x5b\xc3")
    made = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
    return "made" if made >= 0 else errno.errorcode[-made]
if os.fork() == 0:  # a kernel without IA32_EMULATION ends the process
    call(20, 0, 0, 0)
    os._exit(0)
if os.wait()[1]:
    print("absent")
    sys.exit()
low.write(struct.pack("<III", 40, 1, 0))
arguments = ctypes.addressof(ctypes.c_char.from_buffer(low))
print(call(359, 40, 1, 0), call(102, 1, arguments, 0), call(359, 2, 1, 0))
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="calls by i386's numbers")
@pytest.mark.parametrize("network, by_socketcall", [("none", ["ENOSYS"]), ("sandbox", ["made", "EAFNOSUPPORT"])])
def test_no_socket_reaches_the_hypervisor_by_the_numbers_of_i386(inside, network, by_socketcall):
    result = inside(PYTHON, "-c", COMPAT_ATTACK, arguments=["--network", network])
    if result.stdout == "absent\n":
        pytest.skip("this kernel runs no 32-bit programs")
    vsock, socketcall, inet = result.stdout.split()
    assert (vsock, inet) == ("EAFNOSUPPORT", "made") and socketcall in by_socketcall, result
