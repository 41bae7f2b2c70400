#!/usr/bin/env python3
"""Writes the seccomp profile of containers in which a workspace runs, and what brings it to the nodes of a Kubernetes cluster:

    deploy/seccomp.py >deploy/seccomp.json
    deploy/seccomp.py kubernetes >deploy/kubernetes/seccomp-daemonset.yaml

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


DAEMON_SET = """\
# Brings the seccomp profile to every node, below the kubelet's directory: profiles/workspace.json. Made by deploy/seccomp.py.
apiVersion: v1
kind: ConfigMap
metadata:
  name: workspace-seccomp
data:
  workspace.json: |
    PROFILE
---
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: workspace-seccomp
  labels: {app.kubernetes.io/name: workspace-seccomp}
spec:
  selector:
    matchLabels: {app.kubernetes.io/name: workspace-seccomp}
  template:
    metadata:
      labels: {app.kubernetes.io/name: workspace-seccomp}
    spec:
      automountServiceAccountToken: false
      tolerations: [{operator: Exists}]
      initContainers:
        - name: copy
          image: busybox:1.36
          # Written beside it and renamed: a pod that starts meanwhile finds a whole file.
          command: [sh, -c, cp /profile/workspace.json /profiles/.workspace.json && mv /profiles/.workspace.json /profiles/workspace.json]
          securityContext:
            allowPrivilegeEscalation: false
            capabilities: {drop: [ALL]}
            seccompProfile: {type: RuntimeDefault}
          resources:
            requests: {cpu: 10m, memory: 8Mi}
            limits: {memory: 32Mi}
          volumeMounts:
            - {name: profile, mountPath: /profile, readOnly: true}
            - {name: profiles, mountPath: /profiles}
      containers:
        - name: pause
          image: registry.k8s.io/pause:3.10
          securityContext:
            runAsUser: 65534
            allowPrivilegeEscalation: false
            capabilities: {drop: [ALL]}
            seccompProfile: {type: RuntimeDefault}
          resources:
            requests: {cpu: 1m, memory: 1Mi}
            limits: {memory: 16Mi}
      volumes:
        - name: profile
          configMap: {name: workspace-seccomp}
        - name: profiles
          hostPath: {path: /var/lib/kubelet/seccomp/profiles, type: DirectoryOrCreate}
"""


if __name__ == "__main__":
    text = json.dumps(profile(), indent=2)
    if sys.argv[1:] == ["kubernetes"]:
        text = DAEMON_SET.replace("PROFILE\n", text.replace("\n", "\n    ") + "\n").rstrip("\n")
    print(text)
