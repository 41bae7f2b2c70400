#!/usr/bin/env python3
"""Writes deploy/seccomp.json, the seccomp profile of containers in which a workspace runs: deploy/seccomp.py >deploy/seccomp.json

The rule. To its users a workspace is a machine of their own: they make namespaces, mount, run containers and debuggers. So
everything is allowed but three kinds of calls, which no workspace has a use for that the kernel would grant it:

  1. those that configure the machine, of which there is one for all containers: its clock, modules, swap, accounting;
  2. those that load code into the kernel or watch it from within;
  3. those that reach past namespaces, or that nobody has used for twenty years.

They end with EPERM, as they would without privileges; io_uring with ENOSYS, so that programs fall back to what they did
before. What is allowed is decided by the kernel as for any process without privileges in a user namespace.
"""

import json
import sys

DENIED = {
    "the machine's own settings": [
        "acct", "adjtimex", "clock_adjtime", "clock_adjtime64", "clock_settime", "clock_settime64", "nfsservctl", "quotactl", "quotactl_fd",
        "reboot", "settimeofday", "stime", "swapoff", "swapon", "syslog", "vhangup"],
    "code in the kernel, and looking into it": [
        "bpf", "create_module", "delete_module", "finit_module", "get_kernel_syms", "init_module", "kexec_file_load", "kexec_load",
        "lookup_dcookie", "perf_event_open", "query_module", "userfaultfd"],
    "past the namespaces, or past its time": [
        "_sysctl", "ioperm", "iopl", "open_by_handle_at", "sysfs", "uselib", "ustat", "vm86", "vm86old"],
}
ABSENT = {"rings of requests, which have had a way out of containers again and again": ["io_uring_enter", "io_uring_register", "io_uring_setup"]}
EPERM, ENOSYS, AF_VSOCK = 1, 38, 40


def profile():
    calls = [{"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": EPERM, "comment": why} for why, names in DENIED.items()]
    calls += [{"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS, "comment": why} for why, names in ABSENT.items()]
    # Sockets to the hypervisor know no network namespace.
    calls.append({"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": EPERM, "comment": "sockets to the hypervisor",
                  "args": [{"index": 0, "value": AF_VSOCK, "op": "SCMP_CMP_EQ"}]})
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}],
        "syscalls": calls,
    }


if __name__ == "__main__":
    json.dump(profile(), sys.stdout, indent=2)
    print()
