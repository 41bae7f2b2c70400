#define _GNU_SOURCE
#include "CKernel.h"
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define OUR_ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define OUR_ARCHITECTURE AUDIT_ARCH_AARCH64
#else
#error "name this architecture's AUDIT_ARCH constant"
#endif

/* What the forwarder calls once it runs. Anything else ends the process: it parses what the workspace sends. */
static const int forwarder_calls[] = {
    /* its loop, the tap, the channel to ring0 */
    SYS_epoll_pwait, SYS_epoll_ctl, SYS_read, SYS_write, SYS_close, SYS_ppoll,
#ifdef SYS_epoll_wait
    SYS_epoll_wait, SYS_poll,
#endif
    /* outside sockets, and the query for listeners inside */
    SYS_socket, SYS_connect, SYS_bind, SYS_listen, SYS_accept4, SYS_getsockname, SYS_getsockopt, SYS_setsockopt,
    SYS_sendto, SYS_recvfrom, SYS_sendmsg, SYS_recvmsg, SYS_shutdown, SYS_splice, SYS_pipe2,
    /* memory, time, random numbers, and an ordinary death */
    SYS_mmap, SYS_munmap, SYS_mremap, SYS_madvise, SYS_brk, SYS_futex, SYS_clock_gettime, SYS_getrandom,
    SYS_restart_syscall, SYS_rt_sigreturn, SYS_rt_sigprocmask, SYS_getpid, SYS_gettid, SYS_tgkill, SYS_exit,
    SYS_exit_group,
};

/* A filter with one answer for the calls of a list and another for all else. */
static int filter_calls(const int *calls, int count, unsigned listed, unsigned otherwise)
{
    struct sock_filter filter[2 * 64 + 5];
    if (count > 64) return -E2BIG;
    int at = 0;
    filter[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
    filter[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, OUR_ARCHITECTURE, 1, 0);
    filter[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    filter[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (int i = 0; i < count; i++) {
        filter[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)calls[i], 0, 1);
        filter[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, listed);
    }
    filter[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, otherwise);
    struct sock_fprog program = { (unsigned short)at, filter };
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0 ? -errno : 0;
}

int ck_seccomp_forwarder(void)
{
    return filter_calls(
        forwarder_calls, sizeof forwarder_calls / sizeof *forwarder_calls, SECCOMP_RET_ALLOW, SECCOMP_RET_KILL_PROCESS);
}

/* What ends a process that serves a forwarder and still opens files and sockets: the calls by which one that was taken over
 * would go on to other programs, processes, mounts or kernels. */
static const int dangerous_calls[] = {
    SYS_execve, SYS_execveat, SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev, SYS_pidfd_open,
    SYS_pidfd_getfd, SYS_pidfd_send_signal, SYS_setns, SYS_unshare, SYS_chroot, SYS_pivot_root, SYS_mount, SYS_umount2,
    SYS_move_mount, SYS_open_tree, SYS_fsopen, SYS_fspick, SYS_fsconfig, SYS_fsmount, SYS_name_to_handle_at,
    SYS_open_by_handle_at, SYS_init_module, SYS_finit_module, SYS_delete_module, SYS_kexec_load, SYS_kexec_file_load,
    SYS_reboot, SYS_prctl, SYS_bpf, SYS_userfaultfd, SYS_io_uring_setup,
};

int ck_seccomp_forbid(void)
{
    return filter_calls(
        dangerous_calls, sizeof dangerous_calls / sizeof *dangerous_calls, SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_ALLOW);
}
