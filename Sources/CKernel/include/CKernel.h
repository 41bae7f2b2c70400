/* CKernel.h - the Linux calls that Swift cannot make itself.
 * Every ck_ function that returns an int or long returns >= 0, or -errno. None but opendir allocates, none calls back
 * into Swift. */
#ifndef CKERNEL_H
#define CKERNEL_H
#include <stddef.h>
#include <stdint.h>

/* ---- constants that Swift's Glibc module does not show ---- */
enum {
    CK_CLONE_NEWNS = 0x00020000, CK_CLONE_NEWCGROUP = 0x02000000, CK_CLONE_NEWUTS = 0x04000000,
    CK_CLONE_NEWIPC = 0x08000000, CK_CLONE_NEWUSER = 0x10000000, CK_CLONE_NEWPID = 0x20000000,
    CK_CLONE_NEWNET = 0x40000000,
    CK_EPOLLIN = 0x001, CK_EPOLLOUT = 0x004, CK_EPOLLERR = 0x008, CK_EPOLLHUP = 0x010,
    CK_EPOLLRDHUP = 0x2000,
    CK_ETOOMANYREFS = 109,
    CK_O_WRONLY = 01, CK_O_NOCTTY = 0400, CK_O_NONBLOCK = 04000,
};
#define CK_EPOLLET 0x80000000u

/* ---- descriptors and files ---- */
int ck_open(const char *path, int flags, unsigned mode);                 /* open(2), always O_CLOEXEC */
int ck_open_directory(int at, const char *name);                         /* below an open one, never a link; -1: a path */
int ck_close(int fd);
long ck_read(int fd, void *buffer, size_t count);                        /* read(2), EINTR retried */
long ck_write(int fd, const void *buffer, size_t count);                 /* write(2), EINTR retried */
long ck_write_briefly(int fd, const void *buffer, size_t count);         /* -EAGAIN rather than waiting: for terminals */
long ck_read_at(int fd, void *buffer, size_t count, uint64_t offset);    /* pread(2) */
long ck_write_at(int fd, const void *buffer, size_t count, uint64_t offset); /* pwrite(2) */
int64_t ck_size(int fd);                                                 /* lseek(SEEK_END) */
int ck_readable(int fd);                                                 /* ioctl(FIONREAD) */
long ck_splice(int pipe, int file, uint64_t offset, size_t count);       /* splice(2) to an offset, without blocking */
long ck_splice_stream(int from, int to, size_t count);                   /* between a pipe and a socket, without blocking */
int ck_dup(int fd);                                                      /* a CLOEXEC duplicate, at least 10 */
int ck_set_nonblocking(int fd, int on);
int ck_pipe(int fds[2]);                                                 /* pipe2(O_CLOEXEC) */
int ck_socketpair(int type, int fds[2]);                                 /* AF_UNIX, CLOEXEC */
int ck_memfd(const char *name);                                          /* memfd_create(MFD_CLOEXEC | MFD_ALLOW_SEALING) */
int ck_ftruncate(int fd, uint64_t size);
int ck_map(int fd, size_t size, void **out);                             /* mmap shared (fd >= 0) or anonymous */
int ck_seal(int fd);                                                     /* size fixed, writable through the mappings that exist and no others */
int ck_unmap(void *address, size_t size);
int ck_discard(void *address, size_t size);                              /* madvise(MADV_DONTNEED) */
int ck_mkdir(const char *path, unsigned mode);
int ck_rmdir(const char *path);
int ck_unlink(const char *path);
int ck_rename(const char *from, const char *to);
int ck_symlink(const char *target, const char *path);
long ck_readlink(const char *path, char *buffer, size_t count);
int ck_chmod(const char *path, unsigned mode);
int ck_chown(const char *path, unsigned uid, unsigned gid);
unsigned ck_set_file_group(unsigned gid);                                 /* setfsgid(2): the one before */
int ck_access(const char *path, int mode);
struct ck_stat { uint64_t device, inode, size; uint32_t mode, uid, gid; uint64_t rdev; int64_t born_ns; };
int ck_stat(const char *path, int follow, struct ck_stat *out);
int ck_open_standard_streams(void);                                      /* /dev/null for each of 0 to 2 that is closed */
int ck_stat_open(int fd, struct ck_stat *out);                           /* of an open file, O_PATH too */
int ck_open_regular(const char *path, int flags, unsigned mode);         /* never waits; EISDIR or EINVAL for what is no regular file */
int ck_change_owner(int fd, unsigned uid, unsigned gid);                 /* of an open file, O_PATH too */
int ck_open_place(const char *path, int follow);                         /* O_PATH | O_DIRECTORY */
int ck_open_in(int root, const char *path);                             /* O_PATH; links end in the root (openat2(2)) */
int ck_open_reference(const char *path, int follow);                     /* O_PATH */
extern const int ck_read_only, ck_read_no_link, ck_append, ck_update, ck_update_existing; /* flags; what is written to is never a link */
int ck_close_range(int first, int last);                                 /* close_range(2), both included */
int ck_flock(int fd);                                                    /* LOCK_EX | LOCK_NB */
void *ck_directory_open(const char *path);                               /* opendir(3): NULL when it cannot */
const char *ck_directory_next(void *directory);                          /* readdir(3): NULL at the end */
void ck_directory_close(void *directory);

/* ---- a tree whose files get other owners; nothing follows a link ---- */
struct ck_node { uint64_t mount, device, inode; uint32_t mode, uid, gid; };
int ck_open_node(int at, const char *name, int readable);                /* O_PATH; readable: a regular file or a directory */
int ck_stat_node(int fd, struct ck_node *out);                           /* statx(2); mount: 0 before Linux 5.8 */
int ck_change_mode(int fd, unsigned mode);                               /* fchmod(2) */
long ck_get_attribute(int fd, const char *name, void *out, size_t count); /* fgetxattr(2); 0: there is none */
int ck_set_attribute(int fd, const char *name, const void *bytes, size_t count); /* fsetxattr(2) */
long ck_read_entries(int fd, void *out, size_t count);                   /* getdents64(2) */

/* ---- clock, random ---- */
int64_t ck_monotonic_ns(void);
int64_t ck_realtime_ns(void);
int ck_random(void *buffer, size_t count);

/* ---- epoll ---- */
struct ck_event { uint64_t token; uint32_t events; };
int ck_epoll_create(void);
int ck_epoll_add(int epoll, int fd, uint32_t events, uint64_t token);
int ck_epoll_change(int epoll, int fd, uint32_t events, uint64_t token);
int ck_epoll_remove(int epoll, int fd);
int ck_epoll_wait(int epoll, struct ck_event *events, int capacity, int timeout_ms);
int ck_poll(int fd, int events, int timeout_ms);                         /* poll(2) of one descriptor: revents */

/* ---- signals and processes; a signal set is a bit mask, bit n-1 for signal n ---- */
struct ck_signal { int number, pid, uid, code; };
struct ck_exit { int pid, code, status; };                               /* code is CLD_*, status as in siginfo */
int ck_block_signals(uint64_t mask);
int ck_signalfd(uint64_t mask);
int ck_signal_read(int fd, struct ck_signal *out);                       /* 1, 0 when empty */
int ck_ignore_signal(int number);
int ck_signal_is_ignored(int number);
int ck_wait_end(int pid);                                                /* waitid(2), blocking */
int ck_wait(int pid, int also_stopped, int leave, struct ck_exit *out);  /* pid, 0 none yet, -ECHILD; pid -1: any */
int ck_kill(int pid, int number);
int ck_getpid(void);
int ck_getppid(void);
const char *ck_executed_path(void);                                      /* getauxval(AT_EXECFN), may be NULL */
int ck_getuid(void);
int ck_geteuid(void);
int ck_seteuid(unsigned uid);
int ck_getgid(void);

enum ck_spawn_step {
    CK_STEP_NONE, CK_STEP_FORK, CK_STEP_UNSHARE, CK_STEP_MAPS, CK_STEP_SESSION, CK_STEP_TERMINAL, CK_STEP_FDS,
    CK_STEP_LIMITS, CK_STEP_IDS, CK_STEP_CHDIR, CK_STEP_EXEC, CK_STEP_OOM_SCORE,
    CK_STEP_NICE, CK_STEP_INTERPRETER, CK_STEP_ENTER,
};
struct ck_limit { int resource; uint64_t soft, hard; };
struct ck_spawn_plan {
    char *const *candidates;        /* where the program may be: each is tried once everything else is in place */
    char *const *argv, *const *envp;
    const char *directory;          /* NULL: inherit */
    const int *fds; int fd_count;   /* descriptor i of the child is fds[i] */
    int unshare_flags;              /* CLONE_NEW*; with CLONE_NEWUSER the child waits for ck_spawn_go */
    int await_go;                   /* the child waits for ck_spawn_go before anything else; never with CLONE_NEWUSER */
    int new_session, new_group;     /* setsid(2), setpgid(0, 0) */
    int controlling_terminal;       /* after setsid: descriptor number in the child, or -1 */
    int foreground_terminal;        /* after setpgid: tcsetpgrp on this descriptor of the child, or -1 */
    int death_signal;               /* PR_SET_PDEATHSIG, 0: none */
    int become_root;                /* setresgid(0), setresuid(0) once the id maps are written */
    const int *enter; int enter_count; /* namespaces to setns(2) to, in order; without set_ids it is their root then */
    int set_ids; unsigned uid, gid; const unsigned *groups; int group_count;
    const struct ck_limit *limits; int limit_count; /* setrlimit(2) */
    int oom_score_adj, set_oom_score_adj;   /* proc_pid_oom_score_adj(5) */
    int set_nice, nice;             /* setpriority(2) */
    int set_umask; unsigned umask;  /* umask(2) */
    int no_new_privileges;
    int transparent; uint64_t signal_mask; /* signals and descriptors as the caller found them, this mask */
    int run_scripts;                /* ENOEXEC: /bin/sh runs it, as execvp(3) does */
    int listen_pid;                 /* write its pid over the digits of LISTEN_PID= in envp */
    int cgroup_procs;               /* descriptor of a cgroup.procs file to enter, or -1 */
};
struct ck_spawn_result { int pid, step; int status_fd, go_fd; };
int ck_spawn_begin(const struct ck_spawn_plan *plan, struct ck_spawn_result *result); /* 0; child may wait for go */
int ck_spawn_unshared(struct ck_spawn_result *result, int timeout_ms);   /* 0 once the child has its namespaces */
int ck_spawn_go(struct ck_spawn_result *result, int timeout_ms);         /* 0 once it has exec'ed */

/* ---- namespaces, mounts, credentials ---- */
/* Namespaces that a child has made and waits in, so that they can be opened under /proc/PID/ns. */
struct ck_namespace_child { int pid, go_fd; };
int ck_make_namespaces(int enter, int flags, int timeout_ms, struct ck_namespace_child *made); /* enter: setns(2) first, or -1 */
void ck_end_namespaces(struct ck_namespace_child *made);
int ck_set_keep_capabilities(int on);                                    /* PR_SET_KEEPCAPS */
int ck_set_user(unsigned uid);                                           /* setresuid(2), all three */
int ck_set_file_user(unsigned uid);                                      /* setfsuid(2) */
int ck_unshare(int flags);
int ck_setns(int fd, int kind);
int ck_mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data);
int ck_umount(const char *target, int flags);
int ck_mount_read_only(const char *target, int on, int recursive); /* mount_setattr(2) */
int ck_pivot_root(const char *new_root, const char *put_old);
int ck_chdir(const char *path);
/* Whether the kernel lets us: for who asks what a container allows. */
int ck_try_chroot(void);                                    /* chroot(2) to the root that it is */
int ck_try_keyring(void);                                   /* keyctl(2): a session keyring of one's own */
int ck_try_notification(void);                              /* seccomp(2) knows SECCOMP_RET_USER_NOTIF */
int ck_sethostname(const char *name);
int ck_set_death_signal(int number);
int ck_set_subreaper(void);
int ck_is_subreaper(void);                                   /* prctl(PR_GET_CHILD_SUBREAPER) */
int ck_set_name(const char *name);                                       /* PR_SET_NAME: comm, 15 bytes */
int ck_set_no_new_privileges(void);
int ck_getpgid(int pid);
int ck_set_dumpable(int on);
void ck_release_code(void);
long ck_page_size(void);
int ck_raise_nofile(void);                                 /* RLIMIT_NOFILE soft = hard; the limit then */
int ck_set_umask(unsigned mask);

int ck_seccomp_forwarder(void);                              /* nothing but what a forwarder calls */
int ck_seccomp_forbid(void);                                 /* no programs, processes, mounts, kernels */
int ck_seccomp_ring0(void);                                  /* EPERM for other processes, kernels, file handles */
int ck_seccomp_workspace(int confined, int no_cgroups);      /* no AF_VSOCK; confined: nor by socketcall; no cgroup namespaces */

/* ---- sockets; an address is IPv6, IPv4 as ::ffff:a.b.c.d, in two host-order words ---- */
struct ck_endpoint { uint64_t high, low; uint32_t scope; uint16_t port; };
int ck_socket(int domain, int type, int protocol);                       /* CLOEXEC | NONBLOCK */
int ck_stream_socket(int domain);                           /* TCP, CLOEXEC | NONBLOCK, urgent data in line */
int ck_keep_urgent_inline(int fd);                          /* SO_OOBINLINE */
int ck_connect(int fd, const struct ck_endpoint *to);
int ck_bind(int fd, int family, const struct ck_endpoint *at);
int ck_listen(int fd, int backlog);
int ck_disconnect(int fd);                                  /* connect(2) to nobody; a listener refuses then */
int ck_bind_device(int fd, const char *interface);          /* SO_BINDTODEVICE */
int ck_bind_interface(int fd, int index);                   /* SO_BINDTOIFINDEX */
int ck_bound_device(int fd, char name[16]);
int ck_accept(int fd, struct ck_endpoint *from);
int ck_local_endpoint(int fd, struct ck_endpoint *out);
int ck_set_option(int fd, int level, int name, int value);
int ck_socket_error(int fd);                                             /* SO_ERROR as a positive errno, 0 none */
int ck_linger_zero(int fd);
int ck_linger_off(int fd);
int ck_use_any_port(int fd);                                /* IP_LOCAL_PORT_RANGE */
int ck_choose_port_late(int fd);                            /* IP_BIND_ADDRESS_NO_PORT */
int ck_shutdown_write(int fd);
int ck_send_buffer(int fd, uint32_t *size, uint32_t *queued);            /* SO_MEMINFO */
long ck_round_trip(int fd);                                              /* TCP_INFO, microseconds */
long ck_send(int fd, const void *buffer, size_t count);                  /* MSG_DONTWAIT | MSG_NOSIGNAL */
int ck_is_unconnected_tcp(int fd);                                       /* SO_DOMAIN, SO_TYPE, SO_PROTOCOL; 1 or 0 */
int ck_pass_credentials(int fd);                                          /* SO_PASSCRED */
long ck_receive_from_process(int fd, void *buffer, size_t count, int *pid, unsigned *uid); /* SCM_CREDENTIALS; else pid 0 */
long ck_receive(int fd, void *buffer, size_t count);                     /* MSG_DONTWAIT */
long ck_peek(int fd, void *buffer, size_t count);                        /* MSG_PEEK | MSG_DONTWAIT */
long ck_peek_after(int fd, void *scratch, size_t skip, void *buffer, size_t count); /* without SO_PEEK_OFF */
long ck_discard_received(int fd, size_t count);                          /* recv(NULL, MSG_TRUNC) */
long ck_unread(int fd);                                                  /* ioctl(FIONREAD) */
int ck_set_peek_offset(int fd, int offset);                              /* SO_PEEK_OFF */
int ck_unix_bind(int fd, const char *path);
int ck_unix_connect(int fd, const char *path);
int ck_parent_namespace(int fd);                            /* NS_GET_PARENT of ioctl_ns(2) */
int ck_peer_handle(int fd);                                 /* SO_PEERPIDFD: a descriptor, since Linux 6.5 */
int ck_peer_credentials(int fd, int *pid, unsigned *uid, unsigned *gid);
long ck_send_fds(int fd, const void *buffer, size_t count, const int *fds, int fd_count);
long ck_receive_fds(int fd, int waits, void *buffer, size_t count, int *fds, int capacity, int *fd_count);

struct ck_datagram { struct ck_endpoint peer; uint16_t segment; uint8_t ttl, tos; };
long ck_send_datagram(int fd, int family, const void *buffer, size_t count, const struct ck_datagram *meta);
long ck_receive_datagram(int fd, void *buffer, size_t count, struct ck_datagram *meta);
/* One entry of the error queue (IP_RECVERR, IPV6_RECVERR): 1 and the peer it was for, 0 when empty. */
struct ck_datagram_error { struct ck_endpoint peer, offender; uint32_t error, info; uint8_t origin, type, code; };
int ck_receive_error(int fd, struct ck_datagram_error *out, void *buffer, size_t count, long *length);
int ck_udp_prepare(int fd, int family);                                  /* RECVERR, RECVTTL, PMTU, UDP_GRO */

/* ---- tap ---- */
enum { CK_OFFLOAD_CSUM = 1, CK_OFFLOAD_TSO = 2, CK_OFFLOAD_USO = 4 };
int ck_tap_open(const char *device, const char *name, int gso, int *offloads);
/* AF_PACKET on an interface, each frame behind a virtio_net_hdr, received through a ring (TPACKET_V2). */
enum { CK_RING_FRAME = 66048, CK_RING_BLOCK = 524288, CK_RING_BLOCKS = 24 };
int ck_packet_open(const char *name);
int ck_packet_map(int fd, void **ring, size_t *count);
/* The slot with the oldest frame, wherever the ring stands; -EAGAIN: there is none. */
long ck_packet_find(void *ring);
/* The frame in the ring's slot, copied with its header; 0: none yet, -EMSGSIZE: skipped, it was cut. */
long ck_packet_take(void *ring, unsigned slot, void *out, size_t capacity);
/* Everything that passes an interface, both ways, without headers before it; the ring is the same. */
struct ck_captured { uint64_t nanoseconds; uint32_t length; int outgoing; };
int ck_capture_open(const char *name);
long ck_capture_take(void *ring, unsigned slot, void *out, size_t capacity, struct ck_captured *meta);
int ck_capture_statistics(int fd, uint32_t *packets, uint32_t *drops);   /* since the last call */
int ck_segmentation_off(const char *name);                               /* ethtool -K NAME tso off gso off */
int ck_tap_has_header(int fd);                                            /* of an open tap: frames behind a virtio_net_hdr */
int ck_interface_address(const char *name, int family, struct ck_endpoint *out);
int ck_interface_has(const char *name, const struct ck_endpoint *address);

/* ---- netlink ---- */
int ck_netlink(int protocol);
int ck_interface_index(const char *name);
int ck_interface_state(const char *name, int *is_up, int *mtu);                                /* if_nametoindex(3) */
long ck_netlink_send(int fd, const void *buffer, size_t count);

/* ---- terminals ---- */
struct ck_window { uint16_t rows, columns; };
struct ck_terminal_state { unsigned char bytes[128]; };
int ck_is_terminal(int fd);
int ck_pty_open(int *master, int *terminal);
int ck_terminal_raw(int fd, struct ck_terminal_state *saved);
int ck_terminal_restore(int fd, const struct ck_terminal_state *saved);
int ck_window_get(int fd, struct ck_window *out);
int ck_window_set(int fd, const struct ck_window *window);
int ck_terminal_detach(int fd);                                          /* TIOCNOTTY, for a session leader only */
int ck_terminal_foreground(int fd, int group);                           /* tcsetpgrp with SIGTTOU blocked */
int ck_getpgrp(void);

int ck_inotify(const char *path, uint32_t mask);                         /* nonblocking, one watch */
int ck_inotify_add(int fd, const char *path, uint32_t mask);             /* the watch's number */
int ck_inotify_remove(int fd, int watch);
int ck_inotify_empty(void);                                              /* nonblocking, no watch */

#endif
