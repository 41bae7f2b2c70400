#define _GNU_SOURCE
#include "CKernel.h"
#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <limits.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <linux/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/auxv.h>
#include <sys/fsuid.h>
#include <sys/wait.h>
#include <unistd.h>

#define OR_ERRNO(call) ({ __typeof__(call) r_ = (call); r_ < 0 ? -errno : r_; })
#define RETRY(call) ({ __typeof__(call) r_; do r_ = (call); while (r_ < 0 && errno == EINTR); r_ < 0 ? -errno : r_; })

static sigset_t set_of(uint64_t mask)
{
    sigset_t set;
    sigemptyset(&set);
    for (int n = 1; n <= 64; n++)
        if (mask >> (n - 1) & 1) sigaddset(&set, n);
    return set;
}

int ck_block_signals(uint64_t mask)
{
    sigset_t set = set_of(mask);
    return OR_ERRNO(sigprocmask(SIG_SETMASK, &set, NULL));
}

int ck_signalfd(uint64_t mask)
{
    sigset_t set = set_of(mask);
    return OR_ERRNO(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
}

int ck_signal_read(int fd, struct ck_signal *out)
{
    struct signalfd_siginfo info;
    ssize_t n = RETRY(read(fd, &info, sizeof info));
    if (n == -EAGAIN) return 0;
    if (n < 0) return (int)n;
    *out = (struct ck_signal){ (int)info.ssi_signo, (int)info.ssi_pid, (int)info.ssi_uid, info.ssi_code };
    return 1;
}

int ck_ignore_signal(int number) { return signal(number, SIG_IGN) == SIG_ERR ? -errno : 0; }

int ck_signal_is_ignored(int number)
{
    struct sigaction old;
    return sigaction(number, NULL, &old) == 0 && old.sa_handler == SIG_IGN;
}

int ck_wait_end(int pid)
{
    siginfo_t info;
    return RETRY(waitid(P_PID, (id_t)pid, &info, WEXITED));
}

int ck_wait(int pid, int also_stopped, int leave, struct ck_exit *out)
{
    siginfo_t info = { 0 };
    int options = WEXITED | WNOHANG | (also_stopped ? WSTOPPED : 0) | (leave ? WNOWAIT : 0);
    int r = RETRY(waitid(pid < 0 ? P_ALL : P_PID, pid < 0 ? 0 : (id_t)pid, &info, options));
    if (r < 0) return r;
    *out = (struct ck_exit){ info.si_pid, info.si_code, info.si_status };
    return info.si_pid;
}

int ck_kill(int pid, int number) { return OR_ERRNO(kill(pid, number)); }
int ck_getpgid(int pid) { return OR_ERRNO(getpgid(pid)); }
int ck_getpid(void) { return getpid(); }
int ck_getppid(void) { return getppid(); }
const char *ck_executed_path(void) { return (const char *)getauxval(AT_EXECFN); }
int ck_getuid(void) { return (int)getuid(); }
int ck_geteuid(void) { return (int)geteuid(); }
int ck_seteuid(unsigned uid) { return OR_ERRNO(seteuid(uid)); }
int ck_getgid(void) { return (int)getgid(); }

/* ---- spawn ----
 * The child runs on a copy of the parent's memory and makes only async-signal-safe calls. It tells the parent, on a
 * CLOEXEC pipe: {0, 0} "I have my namespaces, write the maps", then {step, errno} if something fails; exec closes the pipe. */
struct report { int step, error; };

static void fail(int fd, int step)
{
    struct report report = { step, errno };
    ssize_t ignored = write(fd, &report, sizeof report);
    (void)ignored;
    _exit(127);
}

/* No printf: it is not async-signal-safe. */
static void set_oom_score_adj(int value, int pipe_end)
{
    char text[8];
    int at = sizeof text;
    unsigned rest = value < 0 ? -(unsigned)value : (unsigned)value;
    do text[--at] = (char)('0' + rest % 10);
    while ((rest /= 10) && at > 1);
    if (value < 0) text[--at] = '-';
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text + at, sizeof text - (size_t)at) < 0) fail(pipe_end, CK_STEP_OOM_SCORE);
    close(fd);
}

/* sd_listen_fds(3) wants the process's own id, which nobody knows before it is there: the caller leaves room for it. */
static void write_listen_pid(char *const *envp)
{
    static const char name[] = "LISTEN_PID=";
    for (; *envp; envp++) {
        if (strncmp(*envp, name, sizeof name - 1) != 0) continue;
        char *digits = *envp + sizeof name - 1;
        size_t room = strlen(digits), at = room;
        for (unsigned rest = (unsigned)getpid(); at > 0; rest /= 10) digits[--at] = (char)('0' + rest % 10);
        size_t zeros = strspn(digits, "0");
        memmove(digits, digits + zeros, room - zeros + 1);
        return;
    }
}

static void execute_script(const struct ck_spawn_plan *plan, const char *path)
{
    size_t count = 0;
    while (plan->argv[count]) count++;
    if (count == 0) return;
    char *argv[count + 3];
    argv[0] = "/bin/sh";
    argv[1] = (char *)path;
    for (size_t i = 1; i <= count; i++) argv[i + 1] = plan->argv[i];
    argv[count + 1] = NULL;
    execve(argv[0], argv, plan->envp);
}

/* As execvp(3) does, with a shell for what has no format only where this is asked for: the first candidate that can be executed; what is there
 * and may not be executed counts for more than what is not there. */
static void execute(const struct ck_spawn_plan *plan, int pipe_end)
{
    int error = ENOENT, step = CK_STEP_EXEC;
    for (char *const *candidate = plan->candidates; *candidate; candidate++) {
        execve(*candidate, plan->argv, plan->envp);
        if (errno == ENOEXEC && plan->run_scripts) execute_script(plan, *candidate);
        int reason = errno;
        /* The file is there, what its first line names is not. */
        if (reason == ENOENT && access(*candidate, F_OK) == 0) step = CK_STEP_INTERPRETER;
        errno = reason;
        if (errno == EACCES) error = EACCES;
        else if (errno != ENOENT && errno != ENOTDIR && errno != ENAMETOOLONG && errno != ESTALE && errno != ENODEV) {
            error = errno;
            break;
        }
    }
    errno = error;
    fail(pipe_end, error == ENOENT ? step : CK_STEP_EXEC);
}

static void child(const struct ck_spawn_plan *plan, int status, int go)
{
    char byte;
    /* A parent that dies before it says so closes the pipe: then there was no child. */
    if (plan->await_go && RETRY(read(go, &byte, 1)) != 1) _exit(127);
    if (plan->unshare_flags) {
        if (unshare(plan->unshare_flags) < 0) fail(status, CK_STEP_UNSHARE);
        if (plan->unshare_flags & CLONE_NEWUSER) {
            struct report ready = { 0, 0 };
            if (write(status, &ready, sizeof ready) != sizeof ready) _exit(127);
            if (RETRY(read(go, &byte, 1)) != 1) _exit(127);
        }
    }
    if (plan->become_root) {
        if (setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0) fail(status, CK_STEP_MAPS);
    }
    if (plan->cgroup_procs >= 0 && write(plan->cgroup_procs, "0", 1) != 1) fail(status, CK_STEP_LIMITS);
    if (plan->new_session && setsid() < 0) fail(status, CK_STEP_SESSION);
    if (plan->new_group && setpgid(0, 0) < 0) fail(status, CK_STEP_SESSION);

    /* Lift every wanted descriptor above the range first, so that placing one never closes another. */
    int lifted[64], entered[4];
    if (plan->fd_count > 64 || plan->enter_count > 4) { errno = E2BIG; fail(status, CK_STEP_FDS); }
    int pipe_end = fcntl(status, F_DUPFD_CLOEXEC, 64);
    if (pipe_end < 0) fail(status, CK_STEP_FDS);
    for (int i = 0; i < plan->fd_count; i++)
        if ((lifted[i] = fcntl(plan->fds[i], F_DUPFD_CLOEXEC, 64)) < 0) fail(pipe_end, CK_STEP_FDS);
    for (int i = 0; i < plan->enter_count; i++)
        if ((entered[i] = fcntl(plan->enter[i], F_DUPFD_CLOEXEC, 64)) < 0) fail(pipe_end, CK_STEP_FDS);
    for (int i = 0; i < plan->fd_count; i++)
        if (dup2(lifted[i], i) < 0) fail(pipe_end, CK_STEP_FDS);
    /* Another session may have it, which a transparent start lets be. */
    if (plan->controlling_terminal >= 0 && ioctl(plan->controlling_terminal, TIOCSCTTY, 0) < 0 && !plan->transparent)
        fail(pipe_end, CK_STEP_TERMINAL);
    if (plan->foreground_terminal >= 0) {
        sigset_t set, old;
        sigemptyset(&set);
        sigaddset(&set, SIGTTOU);
        sigprocmask(SIG_BLOCK, &set, &old);
        tcsetpgrp(plan->foreground_terminal, getpid());
        sigprocmask(SIG_SETMASK, &old, NULL);
    }
    for (int i = 0; i < plan->limit_count; i++) {
        struct rlimit limit = { plan->limits[i].soft, plan->limits[i].hard };
        if (setrlimit((__rlimit_resource_t)plan->limits[i].resource, &limit) < 0) fail(pipe_end, CK_STEP_LIMITS);
    }
    if (plan->set_oom_score_adj) set_oom_score_adj(plan->oom_score_adj, pipe_end);
    if (plan->set_nice && setpriority(PRIO_PROCESS, 0, plan->nice) < 0) fail(pipe_end, CK_STEP_NICE);
    if (plan->set_umask) umask((mode_t)plan->umask);
    /* Until exec the child has a copy of our memory, and after setns(2) processes of the workspace may have its ids. They must
     * not read it. */
    if (plan->enter_count > 0 && prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0) fail(pipe_end, CK_STEP_ENTER);
    for (int i = 0; i < plan->enter_count; i++)
        if (setns(entered[i], 0) < 0) fail(pipe_end, CK_STEP_ENTER);
    if (plan->enter_count > 0 && !plan->set_ids && (setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0))
        fail(pipe_end, CK_STEP_IDS);
    if (plan->set_ids) {
        if (setgroups((size_t)plan->group_count, plan->groups) < 0 && errno != EPERM) fail(pipe_end, CK_STEP_IDS);
        if (setresgid(plan->gid, plan->gid, plan->gid) < 0) fail(pipe_end, CK_STEP_IDS);
        if (setresuid(plan->uid, plan->uid, plan->uid) < 0) fail(pipe_end, CK_STEP_IDS);
    }
    if (plan->directory && chdir(plan->directory) < 0) fail(pipe_end, CK_STEP_CHDIR);
    if (plan->no_new_privileges && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) fail(pipe_end, CK_STEP_IDS);
    /* After the ids: a change of ids clears it (prctl(2)). */
    if (plan->death_signal && prctl(PR_SET_PDEATHSIG, plan->death_signal) < 0) fail(pipe_end, CK_STEP_SESSION);

    sigset_t mask;
    if (plan->transparent) {
        mask = set_of(plan->signal_mask);
    } else {
        for (int n = 1; n < 65; n++) {
            struct sigaction action = { .sa_handler = SIG_DFL };
            sigaction(n, &action, NULL);
        }
        sigemptyset(&mask);
        /* Mark everything above the child's own descriptors close-on-exec, also what a library left open. */
        syscall(SYS_close_range, plan->fd_count, ~0U, 4 /* CLOSE_RANGE_CLOEXEC */);
    }
    sigprocmask(SIG_SETMASK, &mask, NULL);
    if (plan->listen_pid) write_listen_pid(plan->envp);
    execute(plan, pipe_end);
}

static void close_if_open(int fd)
{
    if (fd >= 0) close(fd);
}

int ck_spawn_begin(const struct ck_spawn_plan *plan, struct ck_spawn_result *result)
{
    int status[2], go[2] = { -1, -1 };
    *result = (struct ck_spawn_result){ -1, CK_STEP_NONE, -1, -1 };
    if (pipe2(status, O_CLOEXEC) < 0) return -errno;
    /* Only a child that waits reads; a write to any other would raise SIGPIPE. */
    if ((plan->await_go || (plan->unshare_flags & CLONE_NEWUSER)) && pipe2(go, O_CLOEXEC) < 0) {
        int e = errno;
        close(status[0]), close(status[1]);
        return -e;
    }
    /* No signal may run a handler or be lost between fork and exec. */
    sigset_t all, old;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &old);
    int pid = (int)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (pid == 0) {
        close(status[0]), close_if_open(go[1]);
        child(plan, status[1], go[0]);
    }
    int error = errno;
    sigprocmask(SIG_SETMASK, &old, NULL);
    close(status[1]), close_if_open(go[0]);
    if (pid < 0) {
        close(status[0]), close_if_open(go[1]);
        result->step = CK_STEP_FORK;
        return -error;
    }
    *result = (struct ck_spawn_result){ pid, CK_STEP_NONE, status[0], go[1] };
    return 0;
}

/* Between entering namespaces and exec, root in there may stop the child. It goes on at once, each time. */
enum { NUDGE_MS = 20 };

static int read_report(struct ck_spawn_result *result, int timeout_ms, struct report *report)
{
    struct pollfd p = { .fd = result->status_fd, .events = POLLIN };
    int n = 0;
    for (int left = timeout_ms; n == 0 && left > 0; left -= NUDGE_MS) {
        n = RETRY(poll(&p, 1, left < NUDGE_MS ? left : NUDGE_MS));
        if (n == 0) kill(result->pid, SIGCONT);
    }
    if (n == 0) return -ETIMEDOUT;
    if (n < 0) return n;
    ssize_t got = RETRY(read(result->status_fd, report, sizeof *report));
    return got < 0 ? (int)got : got == 0 ? 0 : got == sizeof *report ? 1 : -EPROTO;
}

static int finish(struct ck_spawn_result *result, int outcome)
{
    close(result->status_fd), close_if_open(result->go_fd);
    result->status_fd = result->go_fd = -1;
    if (outcome < 0) {
        kill(result->pid, SIGKILL);
        waitpid(result->pid, NULL, 0);
    }
    return outcome;
}

int ck_spawn_unshared(struct ck_spawn_result *result, int timeout_ms)
{
    struct report report;
    int n = read_report(result, timeout_ms, &report);
    if (n == 1 && report.step == 0) return 0;
    if (n == 1) result->step = report.step;
    return finish(result, n == 1 ? -report.error : n == 0 ? -ECHILD : n);
}

int ck_spawn_go(struct ck_spawn_result *result, int timeout_ms)
{
    struct report report;
    if (result->go_fd >= 0 && write(result->go_fd, "g", 1) != 1) return finish(result, -errno);
    int n = read_report(result, timeout_ms, &report);
    if (n == 0) return finish(result, 0);
    if (n == 1) result->step = report.step;
    return finish(result, n == 1 ? -report.error : n);
}

/* ---- namespaces, mounts, credentials ---- */
int ck_make_namespaces(int enter, int flags, int timeout_ms, struct ck_namespace_child *made)
{
    int status[2], go[2];
    if (pipe2(status, O_CLOEXEC) < 0) return -errno;
    if (pipe2(go, O_CLOEXEC) < 0) {
        int e = errno;
        close(status[0]), close(status[1]);
        return -e;
    }
    int pid = (int)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (pid == 0) {
        close(status[0]), close(go[1]);
        int error = 0;
        if (enter >= 0 && setns(enter, 0) < 0) error = errno;
        if (error == 0 && unshare(flags) < 0) error = errno;
        char byte;
        if (write(status[1], &error, sizeof error) == sizeof error) RETRY(read(go[0], &byte, 1));
        _exit(0);
    }
    int error = pid < 0 ? errno : ETIMEDOUT;
    close(status[1]), close(go[0]);
    *made = (struct ck_namespace_child){ pid, go[1] };
    struct pollfd p = { .fd = status[0], .events = POLLIN };
    if (pid > 0 && RETRY(poll(&p, 1, timeout_ms)) > 0 && RETRY(read(status[0], &error, sizeof error)) != sizeof error)
        error = ECHILD;
    close(status[0]);
    if (pid < 0) close(go[1]);
    else if (error) ck_end_namespaces(made);
    return -error;
}

void ck_end_namespaces(struct ck_namespace_child *made)
{
    close(made->go_fd);
    kill(made->pid, SIGKILL);
    RETRY(waitpid(made->pid, NULL, 0));
}

int ck_set_keep_capabilities(int on) { return OR_ERRNO(prctl(PR_SET_KEEPCAPS, on, 0, 0, 0)); }
int ck_set_user(unsigned uid) { return OR_ERRNO(setresuid(uid, uid, uid)); }
/* setfsuid(2) returns the id before and says nothing of failure: asked once more, it tells what holds. */
int ck_set_file_user(unsigned uid)
{
    setfsuid(uid);
    return setfsuid((uid_t)-1) == (int)uid ? 0 : -EPERM;
}
int ck_unshare(int flags) { return OR_ERRNO(unshare(flags)); }
int ck_setns(int fd, int kind) { return OR_ERRNO(setns(fd, kind)); }
int ck_mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data)
{
    return OR_ERRNO(mount(source, target, type, flags, data));
}
int ck_umount(const char *target, int flags) { return OR_ERRNO(umount2(target, flags)); }
int ck_mount_read_only(const char *target, int on, int recursive)
{
    struct mount_attr attributes = { .attr_set = on ? MOUNT_ATTR_RDONLY : 0, .attr_clr = on ? 0 : MOUNT_ATTR_RDONLY };
    return OR_ERRNO((int)syscall(SYS_mount_setattr, AT_FDCWD, target, recursive ? AT_RECURSIVE : 0, &attributes, sizeof attributes));
}
int ck_pivot_root(const char *new_root, const char *put_old)
{
    return OR_ERRNO((int)syscall(SYS_pivot_root, new_root, put_old));
}
int ck_chdir(const char *path) { return OR_ERRNO(chdir(path)); }
int ck_try_chroot(void) { return OR_ERRNO(chroot("/")); }
int ck_try_keyring(void) { return OR_ERRNO((int)syscall(SYS_keyctl, 1 /* KEYCTL_JOIN_SESSION_KEYRING */, NULL)); }
int ck_try_notification(void)
{
    unsigned action = 0x7fc00000u; /* SECCOMP_RET_USER_NOTIF */
    return OR_ERRNO((int)syscall(SYS_seccomp, 2 /* SECCOMP_GET_ACTION_AVAIL */, 0, &action));
}
int ck_sethostname(const char *name) { return OR_ERRNO(sethostname(name, strlen(name))); }
int ck_set_death_signal(int number) { return OR_ERRNO(prctl(PR_SET_PDEATHSIG, number)); }
int ck_set_subreaper(void) { return OR_ERRNO(prctl(PR_SET_CHILD_SUBREAPER, 1)); }
int ck_is_subreaper(void)
{
    int is = 0;
    return prctl(PR_GET_CHILD_SUBREAPER, &is) < 0 ? -errno : is;
}
int ck_set_name(const char *name) { return OR_ERRNO(prctl(PR_SET_NAME, name)); }
int ck_set_no_new_privileges(void) { return OR_ERRNO(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)); }
int ck_set_dumpable(int on) { return OR_ERRNO(prctl(PR_SET_DUMPABLE, on, 0, 0, 0)); }

/* Only segments that nobody writes: what is between RELRO's bounds was written once, and would be lost. */
void ck_release_code(void)
{
    extern const char __ehdr_start[];
    const Elf64_Ehdr *header = (const void *)__ehdr_start;
    const Elf64_Phdr *segments = (const void *)(__ehdr_start + header->e_phoff);
    uintptr_t base = 0, page = (uintptr_t)sysconf(_SC_PAGESIZE);
    for (int i = 0; i < header->e_phnum; i++)
        if (segments[i].p_type == PT_LOAD && segments[i].p_offset == 0) base = (uintptr_t)__ehdr_start - segments[i].p_vaddr;
    for (int i = 0; i < header->e_phnum; i++) {
        if (segments[i].p_type != PT_LOAD || segments[i].p_flags & PF_W) continue;
        uintptr_t start = base + segments[i].p_vaddr, end = start + segments[i].p_memsz;
        start &= ~(page - 1);
        /* A page shared with the next segment stays. */
        end &= ~(page - 1);
        if (end > start) madvise((void *)start, end - start, MADV_DONTNEED);
    }
}
long ck_page_size(void) { return sysconf(_SC_PAGESIZE); }
int ck_set_umask(unsigned mask) { return (int)umask(mask); }

int ck_raise_nofile(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0) return -errno;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0) return -errno;
    return limit.rlim_cur > INT_MAX ? INT_MAX : (int)limit.rlim_cur;
}

int ck_terminal_detach(int fd)
{
    if (getsid(0) != getpid()) return -EPERM;
    return OR_ERRNO(ioctl(fd, TIOCNOTTY));
}

int ck_terminal_foreground(int fd, int group)
{
    sigset_t set, old;
    sigemptyset(&set);
    sigaddset(&set, SIGTTOU);
    sigprocmask(SIG_BLOCK, &set, &old);
    int r = OR_ERRNO(tcsetpgrp(fd, group));
    sigprocmask(SIG_SETMASK, &old, NULL);
    return r;
}
