#define _GNU_SOURCE
#include "CKernel.h"
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Filters of system calls (seccomp(2)). Each is a BPF program that this file puts together from four kinds of
 * instructions. Arguments are compared by their lower half, which is all that the kernel looks at for `int` arguments;
 * both supported architectures are little-endian. */

#if defined(__x86_64__)
#define OUR_ARCHITECTURE AUDIT_ARCH_X86_64
#define X32_BIT 0x40000000u /* __X32_SYSCALL_BIT of <asm/unistd.h>: the same calls under other numbers */
#elif defined(__aarch64__)
#define OUR_ARCHITECTURE AUDIT_ARCH_AARCH64
#else
#error "name this architecture's AUDIT_ARCH constant"
#endif

#define COUNT(list) ((int)(sizeof list / sizeof *list))
#define REFUSE(error) (SECCOMP_RET_ERRNO | ((error) & SECCOMP_RET_DATA))

struct program { int length; struct sock_filter code[192]; };

static void emit(struct program *p, struct sock_filter instruction)
{
    if (p->length < COUNT(p->code)) p->code[p->length] = instruction;
    p->length++;
}
static void load(struct program *p, unsigned offset) { emit(p, (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset)); }
static void load_number(struct program *p) { load(p, offsetof(struct seccomp_data, nr)); }
static void load_argument(struct program *p, int index)
{
    load(p, (unsigned)(offsetof(struct seccomp_data, args) + sizeof(__u64) * (unsigned)index));
}
static void mask(struct program *p, unsigned bits) { emit(p, (struct sock_filter)BPF_STMT(BPF_ALU | BPF_AND | BPF_K, bits)); }
static void answer(struct program *p, unsigned action) { emit(p, (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, action)); }
/* Skips the next `count` instructions unless what is loaded equals `value`. */
static void skip_unless(struct program *p, unsigned value, unsigned char count)
{
    emit(p, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, count));
}
static void answer_if(struct program *p, unsigned value, unsigned action)
{
    skip_unless(p, value, 1);
    answer(p, action);
}

/* Ends the process unless what is loaded is one of two values. */
static void require(struct program *p, unsigned a, unsigned b)
{
    emit(p, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, a, 2, 0));
    emit(p, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, b, 1, 0));
    answer(p, SECCOMP_RET_KILL_PROCESS);
}

/* Every other architecture, and the other numbers of this one, get `foreign`. Leaves the call's number loaded. */
static void begin(struct program *p, unsigned foreign)
{
    p->length = 0;
    load(p, offsetof(struct seccomp_data, arch));
    emit(p, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, OUR_ARCHITECTURE, 1, 0));
    answer(p, foreign);
    load_number(p);
#ifdef X32_BIT
    emit(p, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, X32_BIT, 0, 1));
    answer(p, foreign);
#endif
}

static void answer_all(struct program *p, const int *calls, int count, unsigned action)
{
    for (int i = 0; i < count; i++) answer_if(p, (unsigned)calls[i], action);
}

static int install(struct program *p)
{
    if (p->length > COUNT(p->code)) return -E2BIG;
    struct sock_fprog program = { (unsigned short)p->length, p->code };
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0 ? -errno : 0;
}

/* What the forwarder calls once it runs. Anything else ends the process: it parses what the workspace sends. */
static const int forwarder_calls[] = {
    /* its loop, the tap, the channel to ring0 */
    SYS_epoll_pwait, SYS_epoll_ctl, SYS_read, SYS_write, SYS_close, SYS_ppoll,
#ifdef SYS_epoll_wait
    SYS_epoll_wait, SYS_poll,
#endif
    /* outside sockets, and the query for listeners inside */
    SYS_connect, SYS_bind, SYS_listen, SYS_accept4, SYS_getsockname, SYS_getsockopt, SYS_setsockopt,
    SYS_sendto, SYS_recvfrom, SYS_sendmsg, SYS_recvmsg, SYS_shutdown, SYS_splice, SYS_pipe2,
    /* memory, time, random numbers, and an ordinary death */
    SYS_munmap, SYS_mremap, SYS_madvise, SYS_brk, SYS_futex, SYS_clock_gettime, SYS_getrandom,
    SYS_restart_syscall, SYS_rt_sigreturn, SYS_rt_sigprocmask, SYS_getpid, SYS_gettid, SYS_exit,
    SYS_exit_group,
};

int ck_seccomp_forwarder(void)
{
    struct program p;
    begin(&p, SECCOMP_RET_KILL_PROCESS);
    /* The most frequent calls come first, since each call walks the list. */
    answer_all(&p, forwarder_calls, COUNT(forwarder_calls), SECCOMP_RET_ALLOW);
    /* socket: TCP, UDP and ping over IPv4 and IPv6. */
    skip_unless(&p, SYS_socket, 10);
    load_argument(&p, 1);
    mask(&p, ~(unsigned)(SOCK_NONBLOCK | SOCK_CLOEXEC));
    require(&p, SOCK_STREAM, SOCK_DGRAM);
    load_argument(&p, 0);
    require(&p, AF_INET, AF_INET6);
    answer(&p, SECCOMP_RET_ALLOW);
    /* mmap: memory, never code. */
    skip_unless(&p, SYS_mmap, 6);
    load_argument(&p, 2);
    mask(&p, PROT_EXEC);
    require(&p, 0, 0);
    answer(&p, SECCOMP_RET_ALLOW);
    /* ioctl: how much of a socket is unread. */
    skip_unless(&p, SYS_ioctl, 5);
    load_argument(&p, 1);
    require(&p, FIONREAD, FIONREAD);
    answer(&p, SECCOMP_RET_ALLOW);
    /* tgkill: abort(3) signals the process itself. */
    skip_unless(&p, SYS_tgkill, 5);
    load_argument(&p, 0);
    require(&p, (unsigned)getpid(), (unsigned)getpid());
    answer(&p, SECCOMP_RET_ALLOW);
    answer(&p, SECCOMP_RET_KILL_PROCESS);
    return install(&p);
}

/* Calls by which a process that was taken over would go on to other processes, kernels or files. */
#define REACHING_CALLS \
    SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev, SYS_pidfd_getfd, SYS_setns, \
    SYS_open_tree, SYS_move_mount, SYS_fsopen, SYS_fspick, SYS_fsconfig, SYS_fsmount, \
    SYS_name_to_handle_at, SYS_open_by_handle_at, SYS_init_module, SYS_finit_module, SYS_delete_module, \
    SYS_kexec_load, SYS_kexec_file_load, SYS_reboot, SYS_bpf, SYS_perf_event_open, SYS_userfaultfd, SYS_io_uring_setup

/* What ends a process that serves a forwarder and still opens files and sockets. */
static const int dangerous_calls[] = {
    REACHING_CALLS, SYS_execve, SYS_execveat, SYS_pidfd_open, SYS_pidfd_send_signal, SYS_unshare, SYS_chroot,
    SYS_pivot_root, SYS_mount, SYS_umount2, SYS_prctl,
};

int ck_seccomp_forbid(void)
{
    struct program p;
    begin(&p, SECCOMP_RET_KILL_PROCESS);
    answer_all(&p, dangerous_calls, COUNT(dangerous_calls), SECCOMP_RET_KILL_PROCESS);
    answer(&p, SECCOMP_RET_ALLOW);
    return install(&p);
}

static const int reaching_calls[] = { REACHING_CALLS };

int ck_seccomp_ring0(void)
{
    struct program p;
    begin(&p, REFUSE(EPERM));
    answer_all(&p, reaching_calls, COUNT(reaching_calls), REFUSE(EPERM));
    answer(&p, SECCOMP_RET_ALLOW);
    return install(&p);
}

/* What the workspace's programs may call. Calls come by the numbers of this architecture, of x32, and of the 32-bit
 * programs that the kernel may run. */
#if defined(__x86_64__)
enum { COMPAT_ARCHITECTURE = (int)AUDIT_ARCH_I386, COMPAT_SOCKET = 359, COMPAT_SOCKETCALL = 102, COMPAT_CLONE = 120, COMPAT_UNSHARE = 310 };
#else
enum { COMPAT_ARCHITECTURE = (int)AUDIT_ARCH_ARM, COMPAT_SOCKET = 281, COMPAT_SOCKETCALL = 102, COMPAT_CLONE = 120, COMPAT_UNSHARE = 337 };
#endif
enum { CLONE3 = 435, IO_URING_SETUP = 425 /* the same for every architecture */, SOCKETCALL_SOCKET = 1 /* SYS_SOCKET of <linux/net.h> */ };

/* Sockets to the hypervisor (vsock(7)) know no network namespace: a process would leave its own by them. The answer is that
 * of a kernel without them; every other call is allowed. i386's socketcall(2) hides the family in memory, which a filter
 * cannot read, so that a confined workspace gets no socket by it. */
static void refuse_vsock(struct program *p, unsigned socket_call)
{
    skip_unless(p, socket_call, 3);
    load_argument(p, 0);
    answer_if(p, AF_VSOCK, REFUSE(EAFNOSUPPORT));
    answer(p, SECCOMP_RET_ALLOW);
}

/* A cgroup namespace of its own would let the machine's root mount the container's cgroups and lift their limits. The flags
 * of clone3(2) are in memory: callers use clone(2) where it is not there. */
static void refuse_cgroup_namespaces(struct program *p, unsigned clone_call, unsigned unshare_call)
{
    const unsigned calls[] = { clone_call, unshare_call };
    for (int i = 0; i < COUNT(calls); i++) {
        skip_unless(p, calls[i], 5);
        load_argument(p, 0);
        mask(p, CLONE_NEWCGROUP);
        answer_if(p, CLONE_NEWCGROUP, REFUSE(EPERM));
        answer(p, SECCOMP_RET_ALLOW);
    }
    answer_if(p, CLONE3, REFUSE(ENOSYS));
}

/* io_uring makes and connects sockets by requests in memory, which no filter sees. Callers do without it, as in containers of
 * Docker's default. */
static void refuse_rings(struct program *p) { answer_if(p, IO_URING_SETUP, REFUSE(ENOSYS)); }

static void refuse_compat(struct program *p, int confined, int no_cgroups)
{
    refuse_rings(p);
    if (confined) {
        skip_unless(p, COMPAT_SOCKETCALL, 4);
        load_argument(p, 0);
        answer_if(p, SOCKETCALL_SOCKET, REFUSE(ENOSYS));
        load_number(p);
    }
    if (no_cgroups) refuse_cgroup_namespaces(p, COMPAT_CLONE, COMPAT_UNSHARE);
    refuse_vsock(p, COMPAT_SOCKET);
}

int ck_seccomp_workspace(int confined, int no_cgroups)
{
    struct program p = { 0 }, compat = { 0 };
    refuse_compat(&compat, confined, no_cgroups);
    load(&p, offsetof(struct seccomp_data, arch));
    skip_unless(&p, (unsigned)COMPAT_ARCHITECTURE, (unsigned char)(compat.length + 1));
    load_number(&p);
    refuse_compat(&p, confined, no_cgroups);
    load_number(&p);
#ifdef X32_BIT
    mask(&p, ~X32_BIT);
#endif
    refuse_rings(&p);
    if (no_cgroups) refuse_cgroup_namespaces(&p, SYS_clone, SYS_unshare);
    refuse_vsock(&p, SYS_socket);
    return install(&p);
}
