#!/usr/bin/env python3
"""Writes the seccomp profile of containers in which a workspace runs, and what brings it to the nodes of a Kubernetes cluster:

    deploy/seccomp.py >deploy/seccomp.json
    deploy/seccomp.py kubernetes >deploy/kubernetes/seccomp-daemonset.yaml

The profile is a list of what is allowed, so that a call that is not listed fails, also one that a later kernel brings. The rule
by which a call is listed:

  ORDINARY        the calls of a program without privileges: files, memory, processes, signals, time, sockets. Docker's default
                  profile allows these too.
  OF_A_WORKSPACE  the calls beyond Docker's default profile that a workspace needs, each group with its reason. To its users a
                  workspace is a machine of their own: they make namespaces, mount, run containers and debuggers. The kernel
                  allows these calls to root of a user namespace, within it.
  DENIED          calls that no workspace has a use for that the kernel would grant it. They fail with EPERM, as they would
                  without privileges, because programs expect that answer.
  ABSENT          fail with ENOSYS, so that programs fall back to what they did before. So does everything that is not listed.
  OBSOLETE        numbers without a call behind them in any kernel that workspacekit runs on; named so that the test which
                  compares these lists with the kernel's table finds each call in exactly one of them.
"""

import json
import sys

ORDINARY = """
    _llseek _newselect accept accept4 access alarm arch_prctl arm_fadvise64_64 arm_sync_file_range bind breakpoint brk cacheflush
    cachestat capget capset chdir chmod chown chown32 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep
    clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl
    epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat
    faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl
    fcntl64 fdatasync fgetxattr file_getattr file_setattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat
    fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake
    futimesat get_robust_list get_thread_area get_tls getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 getgid
    getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32
    getresuid getresuid32 getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getuid32 getxattr getxattrat
    inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents
    io_pgetevents_time64 io_setup io_submit ioctl ioprio_get ioprio_set ipc kill landlock_add_rule landlock_create_ruleset
    landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listxattr listxattrat llistxattr llseek lremovexattr lseek
    lsetxattr lsm_get_self_attr lsm_list_modules lsm_set_self_attr lstat lstat64 madvise map_shadow_stack membarrier memfd_create
    memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 modify_ldt mprotect mq_getsetattr mq_notify
    mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv
    msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat nice oldfstat oldlstat oldolduname oldstat
    olduname open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll
    ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read
    readahead readdir readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr
    removexattrat rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo
    rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max
    sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
    sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl
    semget semop semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto set_robust_list set_thread_area
    set_tid_address set_tls setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid
    setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid setsockopt
    setuid setuid32 setxattr setxattrat sgetmask shmat shmctl shmdt shmget shutdown sigaction sigaltstack signal signalfd signalfd4
    sigpending sigprocmask sigreturn sigsuspend socketcall socketpair splice ssetmask stat stat64 statfs statfs64 statx symlink
    symlinkat sync sync_file_range sync_file_range2 syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun
    timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime
    timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime utimensat
    utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev
""".split()
OF_A_WORKSPACE = {
    "mounts of its own mount namespace: ring1 and ring2 build the root, engines inside mount images": [
        "chroot", "fsconfig", "fsmount", "fsopen", "fspick", "mount", "mount_setattr", "move_mount", "open_tree", "open_tree_attr",
        "pivot_root", "umount", "umount2"],
    "namespaces: the rings, and containers inside": ["clone", "clone3", "setdomainname", "sethostname", "setns", "unshare"],
    "keyrings of its own: runc joins a session keyring for each container": ["add_key", "keyctl", "request_key"],
    "debuggers, also between processes of one user: gdb, strace, CRIU, 32-bit personalities": [
        "kcmp", "personality", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace"],
    "placement of its own memory: databases and JVMs ask for it": [
        "get_mempolicy", "mbind", "migrate_pages", "move_pages", "set_mempolicy", "set_mempolicy_home_node"],
    "watching its own files and mounts": ["fanotify_init", "listmount", "statmount"],
}
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
ABSENT = {"io_uring: its requests pass no filter of calls": ["io_uring_enter", "io_uring_register", "io_uring_setup"]}
OBSOLETE = """
    afs_syscall bdflush break ftime getpmsg gtty idle lock mpx prof profil putpmsg security stty tuxcall ulimit vserver
""".split()
EPERM, ENOSYS, EAFNOSUPPORT, AF_VSOCK = 1, 38, 97, 40


def profile():
    allowed = [{"names": names, "action": "SCMP_ACT_ALLOW", "comment": why}
               for why, names in [("a program without privileges", ORDINARY), *OF_A_WORKSPACE.items()]]
    # Sockets to the hypervisor know no network namespace.
    allowed.append({"names": ["socket"], "action": "SCMP_ACT_ALLOW", "comment": "sockets, but those to the hypervisor",
                    "args": [{"index": 0, "value": AF_VSOCK, "op": "SCMP_CMP_NE"}]})
    refused = [{"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": EAFNOSUPPORT, "comment": "sockets to the hypervisor",
                "args": [{"index": 0, "value": AF_VSOCK, "op": "SCMP_CMP_EQ"}]}]
    refused += [{"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": EPERM, "comment": why} for why, names in DENIED.items()]
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": ENOSYS,
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}],
        # Engines that do not know defaultErrnoRet answer EPERM for what is not listed; for these calls the answer matters.
        "syscalls": allowed + refused + [{"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS, "comment": why}
                                         for why, names in ABSENT.items()],
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
