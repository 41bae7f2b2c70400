#define _GNU_SOURCE
#include "CKernel.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <linux/openat2.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/fsuid.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/xattr.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define OR_ERRNO(call) ({ __typeof__(call) r_ = (call); r_ < 0 ? -errno : r_; })
#define RETRY(call) ({ __typeof__(call) r_; do r_ = (call); while (r_ < 0 && errno == EINTR); r_ < 0 ? -errno : r_; })

int ck_open(const char *path, int flags, unsigned mode) { return RETRY(open(path, flags | O_CLOEXEC, mode)); }
int ck_open_directory(int at, const char *name)
{
    int flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NONBLOCK;
    return at < 0 ? RETRY(open(name, flags)) : RETRY(openat(at, name, flags | O_NOFOLLOW));
}
int ck_close(int fd) { return OR_ERRNO(close(fd)); }
long ck_read(int fd, void *buffer, size_t count) { return RETRY(read(fd, buffer, count)); }
long ck_write(int fd, const void *buffer, size_t count) { return RETRY(write(fd, buffer, count)); }

static void interrupt_only(int number) { (void)number; }

/* A terminal's room may be less than it polls for, and another process may take it first: then write(2) blocks. A timer
 * interrupts it, again and again in case it fires before the call. */
long ck_write_briefly(int fd, const void *buffer, size_t count)
{
    struct pollfd p = { .fd = fd, .events = POLLOUT };
    if (poll(&p, 1, 0) != 1 || !(p.revents & POLLOUT)) return p.revents & (POLLERR | POLLHUP | POLLNVAL) ? -EIO : -EAGAIN;
    struct sigaction action = { .sa_handler = interrupt_only }, before;
    struct itimerval timer = { { 0, 5000 }, { 0, 5000 } }, none = { { 0, 0 }, { 0, 0 } };
    if (sigaction(SIGALRM, &action, &before) < 0) return -errno;
    if (setitimer(ITIMER_REAL, &timer, NULL) < 0) return -errno;
    ssize_t n = write(fd, buffer, count);
    int reason = n < 0 ? errno : 0;
    setitimer(ITIMER_REAL, &none, NULL);
    sigaction(SIGALRM, &before, NULL);
    return n >= 0 ? n : reason == EINTR ? -EAGAIN : -reason;
}

long ck_read_at(int fd, void *buffer, size_t count, uint64_t offset)
{
    return RETRY(pread(fd, buffer, count, (off_t)offset));
}
long ck_write_at(int fd, const void *buffer, size_t count, uint64_t offset)
{
    return RETRY(pwrite(fd, buffer, count, (off_t)offset));
}
int64_t ck_size(int fd) { return OR_ERRNO(lseek(fd, 0, SEEK_END)); }
int ck_readable(int fd)
{
    int count = 0;
    return ioctl(fd, FIONREAD, &count) < 0 ? -errno : count;
}
long ck_splice_stream(int from, int to, size_t count)
{
    return RETRY(splice(from, NULL, to, NULL, count, SPLICE_F_NONBLOCK | SPLICE_F_MOVE));
}

long ck_splice(int pipe, int file, uint64_t offset, size_t count)
{
    off_t at = (off_t)offset;
    return RETRY(splice(pipe, NULL, file, &at, count, SPLICE_F_NONBLOCK | SPLICE_F_MOVE));
}
int ck_dup(int fd) { return OR_ERRNO(fcntl(fd, F_DUPFD_CLOEXEC, 10)); }

int ck_set_nonblocking(int fd, int on)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0) return -errno;
    return OR_ERRNO(fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK));
}

int ck_pipe(int fds[2]) { return OR_ERRNO(pipe2(fds, O_CLOEXEC)); }
int ck_socketpair(int type, int fds[2]) { return OR_ERRNO(socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, fds)); }
int ck_memfd(const char *name) { return OR_ERRNO(memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING)); }
int ck_ftruncate(int fd, uint64_t size) { return RETRY(ftruncate(fd, (off_t)size)); }

int ck_map(int fd, size_t size, void **out)
{
    int flags = fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void *address = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (address == MAP_FAILED) return -errno;
    *out = address;
    return 0;
}

int ck_seal(int fd) { return OR_ERRNO(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL)); }
int ck_unmap(void *address, size_t size) { return OR_ERRNO(munmap(address, size)); }
int ck_discard(void *address, size_t size) { return OR_ERRNO(madvise(address, size, MADV_DONTNEED)); }
int ck_mkdir(const char *path, unsigned mode) { return OR_ERRNO(mkdir(path, mode)); }
int ck_rmdir(const char *path) { return OR_ERRNO(rmdir(path)); }
int ck_unlink(const char *path) { return OR_ERRNO(unlink(path)); }
int ck_rename(const char *from, const char *to) { return OR_ERRNO(rename(from, to)); }
int ck_symlink(const char *target, const char *path) { return OR_ERRNO(symlink(target, path)); }
long ck_readlink(const char *path, char *buffer, size_t count) { return OR_ERRNO(readlink(path, buffer, count)); }
int ck_chmod(const char *path, unsigned mode) { return OR_ERRNO(chmod(path, mode)); }
int ck_chown(const char *path, unsigned uid, unsigned gid) { return OR_ERRNO(lchown(path, uid, gid)); }
unsigned ck_set_file_group(unsigned gid) { return (unsigned)setfsgid(gid); }
int ck_access(const char *path, int mode) { return OR_ERRNO(faccessat(AT_FDCWD, path, mode, AT_EACCESS)); }

static int stat_at(int fd, const char *path, int flags, struct ck_stat *out)
{
    struct statx st;
    if (statx(fd, path, AT_STATX_SYNC_AS_STAT | flags, STATX_BASIC_STATS | STATX_BTIME, &st) < 0) return -errno;
    *out = (struct ck_stat){
        makedev(st.stx_dev_major, st.stx_dev_minor), st.stx_ino, st.stx_size, st.stx_mode, st.stx_uid, st.stx_gid,
        makedev(st.stx_rdev_major, st.stx_rdev_minor),
        st.stx_mask & STATX_BTIME ? st.stx_btime.tv_sec * 1000000000LL + st.stx_btime.tv_nsec : 0 };
    return 0;
}

int ck_open_standard_streams(void)
{
    for (int fd = 0; fd < 3; fd++) {
        if (fcntl(fd, F_GETFD) >= 0) continue;
        /* The lowest number that is free: those below it are open. */
        if (open("/dev/null", fd == 0 ? O_RDONLY : O_WRONLY) < 0) return -errno;
    }
    return 0;
}

int ck_stat(const char *path, int follow, struct ck_stat *out)
{
    return stat_at(AT_FDCWD, path, follow ? 0 : AT_SYMLINK_NOFOLLOW, out);
}
int ck_stat_open(int fd, struct ck_stat *out) { return stat_at(fd, "", AT_EMPTY_PATH, out); }

/* O_NONBLOCK: opening a pipe or a device does not wait; what is no regular file is closed again unread. */
int ck_open_regular(const char *path, int flags, unsigned mode)
{
    int fd = RETRY(open(path, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, mode));
    if (fd < 0) return fd;
    struct stat st;
    int error = fstat(fd, &st) < 0 ? errno : S_ISREG(st.st_mode) ? 0 : S_ISDIR(st.st_mode) ? EISDIR : EINVAL;
    if (!error) return fd;
    close(fd);
    return -error;
}
const int ck_read_only = O_RDONLY, ck_read_no_link = O_RDONLY | O_NOFOLLOW, ck_append = O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW,
          ck_update = O_RDWR | O_CREAT | O_NOFOLLOW, ck_update_existing = O_RDWR | O_NOFOLLOW;
int ck_change_owner(int fd, unsigned uid, unsigned gid) { return OR_ERRNO(fchownat(fd, "", uid, gid, AT_EMPTY_PATH)); }
int ck_open_place(const char *path, int follow)
{
    return RETRY(open(path, O_PATH | O_DIRECTORY | O_CLOEXEC | (follow ? 0 : O_NOFOLLOW)));
}
int ck_open_reference(const char *path, int follow) { return RETRY(open(path, O_PATH | O_CLOEXEC | (follow ? 0 : O_NOFOLLOW))); }

int ck_open_in(int root, const char *path)
{
    struct open_how how = { .flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT };
    return RETRY((int)syscall(SYS_openat2, root, path, &how, sizeof how));
}

int ck_close_range(int first, int last) { return OR_ERRNO((int)syscall(SYS_close_range, first, last, 0)); }
int ck_flock(int fd) { return RETRY(flock(fd, LOCK_EX | LOCK_NB)); }

static int64_t clock_ns(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}
int64_t ck_monotonic_ns(void) { return clock_ns(CLOCK_MONOTONIC); }
int64_t ck_realtime_ns(void) { return clock_ns(CLOCK_REALTIME); }

int ck_random(void *buffer, size_t count)
{
    return RETRY(getrandom(buffer, count, 0)) == (ssize_t)count ? 0 : -EIO;
}

int ck_epoll_create(void) { return OR_ERRNO(epoll_create1(EPOLL_CLOEXEC)); }

static int control(int epoll, int operation, int fd, uint32_t events, uint64_t token)
{
    struct epoll_event event = { .events = events, .data.u64 = token };
    return OR_ERRNO(epoll_ctl(epoll, operation, fd, &event));
}
int ck_epoll_add(int epoll, int fd, uint32_t events, uint64_t token)
{
    return control(epoll, EPOLL_CTL_ADD, fd, events, token);
}
int ck_epoll_change(int epoll, int fd, uint32_t events, uint64_t token)
{
    return control(epoll, EPOLL_CTL_MOD, fd, events, token);
}
int ck_epoll_remove(int epoll, int fd) { return control(epoll, EPOLL_CTL_DEL, fd, 0, 0); }

int ck_epoll_wait(int epoll, struct ck_event *events, int capacity, int timeout_ms)
{
    struct epoll_event raw[64];
    if (capacity > 64) capacity = 64;
    int n = epoll_wait(epoll, raw, capacity, timeout_ms);
    if (n < 0) return errno == EINTR ? 0 : -errno;
    for (int i = 0; i < n; i++) events[i] = (struct ck_event){ raw[i].data.u64, raw[i].events };
    return n;
}

int ck_poll(int fd, int events, int timeout_ms)
{
    struct pollfd p = { .fd = fd, .events = (short)events };
    int n = RETRY(poll(&p, 1, timeout_ms));
    return n <= 0 ? n : p.revents;
}

int ck_is_terminal(int fd) { return isatty(fd); }
int ck_getpgrp(void) { return getpgrp(); }

int ck_pty_open(int *master, int *terminal)
{
    int m = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (m < 0) return -errno;
    int unlock = 0;
    int t = -1;
    if (ioctl(m, TIOCSPTLCK, &unlock) < 0 || (t = ioctl(m, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC)) < 0) {
        int e = errno;
        close(m);
        return -e;
    }
    *master = m;
    *terminal = t;
    return 0;
}

_Static_assert(sizeof(struct termios) <= sizeof(struct ck_terminal_state), "termios fits");

int ck_terminal_raw(int fd, struct ck_terminal_state *saved)
{
    struct termios t;
    if (tcgetattr(fd, &t) < 0) return -errno;
    __builtin_memcpy(saved->bytes, &t, sizeof t);
    cfmakeraw(&t);
    return OR_ERRNO(tcsetattr(fd, TCSADRAIN, &t));
}

int ck_terminal_restore(int fd, const struct ck_terminal_state *saved)
{
    struct termios t;
    __builtin_memcpy(&t, saved->bytes, sizeof t);
    return OR_ERRNO(tcsetattr(fd, TCSADRAIN, &t));
}

int ck_window_get(int fd, struct ck_window *out)
{
    struct winsize w;
    if (ioctl(fd, TIOCGWINSZ, &w) < 0) return -errno;
    *out = (struct ck_window){ w.ws_row, w.ws_col };
    return 0;
}

int ck_window_set(int fd, const struct ck_window *window)
{
    struct winsize w = { .ws_row = window->rows, .ws_col = window->columns };
    return OR_ERRNO(ioctl(fd, TIOCSWINSZ, &w));
}

int ck_inotify(const char *path, uint32_t mask)
{
    int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (fd < 0) return -errno;
    if (inotify_add_watch(fd, path, mask) < 0) {
        int e = errno;
        close(fd);
        return -e;
    }
    return fd;
}

int ck_inotify_empty(void) { return OR_ERRNO(inotify_init1(IN_CLOEXEC | IN_NONBLOCK)); }
int ck_inotify_remove(int fd, int watch) { return OR_ERRNO(inotify_rm_watch(fd, watch)); }
int ck_inotify_add(int fd, const char *path, uint32_t mask) { return OR_ERRNO(inotify_add_watch(fd, path, mask)); }

void *ck_directory_open(const char *path) { return opendir(path); }
const char *ck_directory_next(void *directory)
{
    struct dirent *entry = readdir(directory);
    return entry ? entry->d_name : NULL;
}
void ck_directory_close(void *directory) { closedir(directory); }

/* Opening a device or a pipe for reading has effects; what is opened so was seen to be neither, and O_NONBLOCK is for what
 * took its place meanwhile. */
int ck_open_node(int at, const char *name, int readable)
{
    return RETRY(openat(at, name, (readable ? O_RDONLY | O_NONBLOCK | O_NOCTTY : O_PATH) | O_NOFOLLOW | O_CLOEXEC));
}

#ifndef STATX_MNT_ID
#define STATX_MNT_ID 0x1000U
#endif

int ck_stat_node(int fd, struct ck_node *out)
{
    struct statx st;
    if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_SYNC_AS_STAT, STATX_BASIC_STATS | STATX_MNT_ID, &st) < 0) return -errno;
    *out = (struct ck_node){
        st.stx_mask & STATX_MNT_ID ? st.stx_mnt_id : 0, makedev(st.stx_dev_major, st.stx_dev_minor), st.stx_ino, st.stx_mode,
        st.stx_uid, st.stx_gid };
    return 0;
}

int ck_change_mode(int fd, unsigned mode) { return OR_ERRNO(fchmod(fd, mode)); }

long ck_get_attribute(int fd, const char *name, void *out, size_t count)
{
    ssize_t n = fgetxattr(fd, name, out, count);
    return n >= 0 ? n : errno == ENODATA || errno == ENOTSUP ? 0 : -errno;
}

int ck_set_attribute(int fd, const char *name, const void *bytes, size_t count)
{
    return OR_ERRNO(fsetxattr(fd, name, bytes, count, 0));
}

long ck_read_entries(int fd, void *out, size_t count) { return OR_ERRNO(syscall(SYS_getdents64, fd, out, count)); }
