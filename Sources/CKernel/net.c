#define _GNU_SOURCE
#include "CKernel.h"
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <linux/errqueue.h>
#include <linux/if_tun.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#define OR_ERRNO(call) ({ __typeof__(call) r_ = (call); r_ < 0 ? -errno : r_; })
#define RETRY(call) ({ __typeof__(call) r_; do r_ = (call); while (r_ < 0 && errno == EINTR); r_ < 0 ? -errno : r_; })
#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif
#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif
#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif
#ifndef IP_LOCAL_PORT_RANGE
#define IP_LOCAL_PORT_RANGE 51
#endif
#ifndef SO_MEMINFO
#define SO_MEMINFO 55
#endif

static int is_mapped(const struct ck_endpoint *e) { return e->high == 0 && e->low >> 32 == 0xffff; }

static socklen_t to_kernel(const struct ck_endpoint *e, int family, struct sockaddr_storage *out)
{
    memset(out, 0, sizeof *out);
    if (family == AF_INET) {
        struct sockaddr_in *in = (void *)out;
        in->sin_family = AF_INET;
        in->sin_port = htobe16(e->port);
        in->sin_addr.s_addr = htobe32((uint32_t)e->low);
        return sizeof *in;
    }
    struct sockaddr_in6 *in6 = (void *)out;
    uint64_t words[2] = { htobe64(e->high), htobe64(e->low) };
    in6->sin6_family = AF_INET6;
    in6->sin6_port = htobe16(e->port);
    in6->sin6_scope_id = e->scope;
    memcpy(&in6->sin6_addr, words, 16);
    return sizeof *in6;
}

static void from_kernel(const struct sockaddr_storage *a, struct ck_endpoint *out)
{
    *out = (struct ck_endpoint){ 0 };
    if (a->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const void *)a;
        out->low = 0xffff00000000 | be32toh(in->sin_addr.s_addr);
        out->port = be16toh(in->sin_port);
    } else if (a->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const void *)a;
        uint64_t words[2];
        memcpy(words, &in6->sin6_addr, 16);
        out->high = be64toh(words[0]);
        out->low = be64toh(words[1]);
        out->port = be16toh(in6->sin6_port);
        out->scope = in6->sin6_scope_id;
    }
}

int ck_socket(int domain, int type, int protocol)
{
    return OR_ERRNO(socket(domain, type | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol));
}

int ck_keep_urgent_inline(int fd) { return ck_set_option(fd, SOL_SOCKET, SO_OOBINLINE, 1); }

int ck_stream_socket(int domain)
{
    int fd = ck_socket(domain, SOCK_STREAM, 0);
    if (fd >= 0) ck_keep_urgent_inline(fd);
    return fd;
}

int ck_connect(int fd, const struct ck_endpoint *to)
{
    struct sockaddr_storage a;
    socklen_t n = to_kernel(to, is_mapped(to) ? AF_INET : AF_INET6, &a);
    return OR_ERRNO(connect(fd, (void *)&a, n));
}

int ck_bind(int fd, int family, const struct ck_endpoint *at)
{
    struct sockaddr_storage a;
    socklen_t n = to_kernel(at, family, &a);
    return OR_ERRNO(bind(fd, (void *)&a, n));
}

int ck_listen(int fd, int backlog) { return OR_ERRNO(listen(fd, backlog)); }

int ck_disconnect(int fd)
{
    struct sockaddr nobody = { .sa_family = AF_UNSPEC };
    return OR_ERRNO(connect(fd, &nobody, sizeof nobody));
}

int ck_bind_device(int fd, const char *interface)
{
    return OR_ERRNO(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, interface, (socklen_t)strlen(interface)));
}

int ck_bind_interface(int fd, int index)
{
    return OR_ERRNO(setsockopt(fd, SOL_SOCKET, SO_BINDTOIFINDEX, &index, sizeof index));
}

int ck_bound_device(int fd, char name[16])
{
    socklen_t n = 16;
    memset(name, 0, 16);
    return OR_ERRNO(getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, name, &n));
}

int ck_accept(int fd, struct ck_endpoint *from)
{
    struct sockaddr_storage a;
    socklen_t n = sizeof a;
    int s = RETRY(accept4(fd, (void *)&a, &n, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (s >= 0) from_kernel(&a, from);
    return s;
}

int ck_local_endpoint(int fd, struct ck_endpoint *out)
{
    struct sockaddr_storage a;
    socklen_t n = sizeof a;
    if (getsockname(fd, (void *)&a, &n) < 0) return -errno;
    from_kernel(&a, out);
    return 0;
}

static int get_option(int fd, int level, int name)
{
    int value = 0;
    socklen_t n = sizeof value;
    return getsockopt(fd, level, name, &value, &n) < 0 ? -errno : value;
}

int ck_set_option(int fd, int level, int name, int value)
{
    return OR_ERRNO(setsockopt(fd, level, name, &value, sizeof value));
}

int ck_socket_error(int fd) { return get_option(fd, SOL_SOCKET, SO_ERROR); }

int ck_linger_zero(int fd)
{
    struct linger linger = { 1, 0 };
    return OR_ERRNO(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
}

/* From 1 to 65535: the low half of the option is the lower bound. */
int ck_use_any_port(int fd) { return ck_set_option(fd, IPPROTO_IP, IP_LOCAL_PORT_RANGE, (int)0xffff0001u); }

int ck_choose_port_late(int fd) { return ck_set_option(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1); }

int ck_linger_off(int fd)
{
    struct linger linger = { 0, 0 };
    return OR_ERRNO(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
}

int ck_shutdown_write(int fd) { return OR_ERRNO(shutdown(fd, SHUT_WR)); }

long ck_round_trip(int fd)
{
    struct tcp_info info;
    socklen_t n = sizeof info;
    memset(&info, 0, sizeof info);
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &n) < 0) return -errno;
    return info.tcpi_rtt;
}

int ck_send_buffer(int fd, uint32_t *size, uint32_t *queued)
{
    uint32_t info[SK_MEMINFO_VARS] = { 0 };
    socklen_t n = sizeof info;
    if (getsockopt(fd, SOL_SOCKET, SO_MEMINFO, info, &n) < 0) return -errno;
    *size = info[SK_MEMINFO_SNDBUF];
    *queued = info[SK_MEMINFO_WMEM_QUEUED];
    return 0;
}

long ck_send(int fd, const void *buffer, size_t count)
{
    return RETRY(send(fd, buffer, count, MSG_DONTWAIT | MSG_NOSIGNAL));
}
long ck_receive(int fd, void *buffer, size_t count) { return RETRY(recv(fd, buffer, count, MSG_DONTWAIT)); }
long ck_peek(int fd, void *buffer, size_t count) { return RETRY(recv(fd, buffer, count, MSG_PEEK | MSG_DONTWAIT)); }

long ck_peek_after(int fd, void *scratch, size_t skip, void *buffer, size_t count)
{
    struct iovec iov[2] = { { scratch, skip }, { buffer, count } };
    struct msghdr m = { .msg_iov = iov, .msg_iovlen = 2 };
    ssize_t n = RETRY(recvmsg(fd, &m, MSG_PEEK | MSG_DONTWAIT));
    if (n < 0) return n;
    return (size_t)n > skip ? n - (ssize_t)skip : n == 0 && skip == 0 ? 0 : -EAGAIN;
}

long ck_unread(int fd)
{
    int count = 0;
    return ioctl(fd, FIONREAD, &count) < 0 ? -errno : count;
}

long ck_discard_received(int fd, size_t count)
{
    /* KERNEL: a read ends before the byte of urgent data, and begins at it. There is one such byte at most. */
    size_t done = 0;
    while (done < count) {
        ssize_t n = RETRY(recv(fd, NULL, count - done, MSG_TRUNC | MSG_DONTWAIT));
        if (n <= 0) return done > 0 ? (long)done : n;
        done += (size_t)n;
    }
    return (long)done;
}

int ck_set_peek_offset(int fd, int offset) { return ck_set_option(fd, SOL_SOCKET, SO_PEEK_OFF, offset); }

/* "@name" is the abstract socket of that name (unix(7)). Returns the address's length. */
static int unix_address(const char *path, struct sockaddr_un *out)
{
    size_t length = strlen(path);
    if (length >= sizeof out->sun_path) return -ENAMETOOLONG;
    memset(out, 0, sizeof *out);
    out->sun_family = AF_UNIX;
    strcpy(out->sun_path, path);
    if (path[0] != '@') return sizeof *out;
    out->sun_path[0] = 0;
    return (int)(offsetof(struct sockaddr_un, sun_path) + length);
}

int ck_unix_bind(int fd, const char *path)
{
    struct sockaddr_un a;
    int r = unix_address(path, &a);
    return r < 0 ? r : OR_ERRNO(bind(fd, (void *)&a, (socklen_t)r));
}

int ck_unix_connect(int fd, const char *path)
{
    struct sockaddr_un a;
    int r = unix_address(path, &a);
    return r < 0 ? r : OR_ERRNO(connect(fd, (void *)&a, (socklen_t)r));
}

int ck_peer_credentials(int fd, int *pid, unsigned *uid, unsigned *gid)
{
    struct ucred c;
    socklen_t n = sizeof c;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &c, &n) < 0) return -errno;
    *pid = c.pid, *uid = c.uid, *gid = c.gid;
    return 0;
}

int ck_peer_handle(int fd)
{
    int handle = -1;
    socklen_t n = sizeof handle;
    return getsockopt(fd, SOL_SOCKET, 77 /* SO_PEERPIDFD */, &handle, &n) < 0 ? -errno : handle;
}

int ck_parent_namespace(int fd) { return OR_ERRNO(ioctl(fd, 0xb702 /* NS_GET_PARENT */)); }

int ck_is_unconnected_tcp(int fd)
{
    static const int names[] = { SO_DOMAIN, SO_TYPE, SO_PROTOCOL, SO_ACCEPTCONN };
    int values[4];
    for (int i = 0; i < 4; i++) {
        socklen_t n = sizeof values[i];
        if (getsockopt(fd, SOL_SOCKET, names[i], &values[i], &n) < 0) return 0;
    }
    struct sockaddr_storage peer;
    socklen_t n = sizeof peer;
    return (values[0] == AF_INET || values[0] == AF_INET6) && values[1] == SOCK_STREAM && values[2] == IPPROTO_TCP
        && !values[3] && getpeername(fd, (void *)&peer, &n) < 0 && errno == ENOTCONN;
}

int ck_pass_credentials(int fd) { return ck_set_option(fd, SOL_SOCKET, SO_PASSCRED, 1); }

/* KERNEL: credentials come first; descriptors, for which there is no room, are dropped (unix(7)). */
long ck_receive_from_process(int fd, void *buffer, size_t count, int *pid, unsigned *uid)
{
    union { char bytes[CMSG_SPACE(sizeof(struct ucred))]; struct cmsghdr align; } control;
    struct iovec iov = { buffer, count };
    struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control };
    *pid = 0, *uid = 0;
    ssize_t n = RETRY(recvmsg(fd, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT));
    if (n < 0) return n;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
        if (c->cmsg_level != SOL_SOCKET) continue;
        if (c->cmsg_type == SCM_CREDENTIALS && c->cmsg_len >= CMSG_LEN(sizeof(struct ucred))) {
            struct ucred sender;
            memcpy(&sender, CMSG_DATA(c), sizeof sender);
            *pid = sender.pid, *uid = sender.uid;
        } else if (c->cmsg_type == SCM_RIGHTS && c->cmsg_len >= CMSG_LEN(0)) {
            for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
                int one;
                memcpy(&one, CMSG_DATA(c) + i * sizeof(int), sizeof one);
                close(one);
            }
        }
    }
    return n;
}

/* Never waits for room: -EAGAIN, also on a socket that blocks. */
long ck_send_fds(int fd, const void *buffer, size_t count, const int *fds, int fd_count)
{
    union { char bytes[CMSG_SPACE(8 * sizeof(int))]; struct cmsghdr align; } control;
    struct iovec iov = { (void *)buffer, count };
    struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
    if (fd_count > 8) return -E2BIG;
    if (fd_count > 0) {
        memset(&control, 0, sizeof control);
        m.msg_control = &control;
        m.msg_controllen = CMSG_SPACE((size_t)fd_count * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN((size_t)fd_count * sizeof(int));
        memcpy(CMSG_DATA(c), fds, (size_t)fd_count * sizeof(int));
    }
    return RETRY(sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT));
}

long ck_receive_fds(int fd, int waits, void *buffer, size_t count, int *fds, int capacity, int *fd_count)
{
    union { char bytes[CMSG_SPACE(8 * sizeof(int))]; struct cmsghdr align; } control;
    struct iovec iov = { buffer, count };
    struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control };
    *fd_count = 0;
    ssize_t n = RETRY(recvmsg(fd, &m, MSG_CMSG_CLOEXEC | (waits ? 0 : MSG_DONTWAIT)));
    if (n < 0) return n;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
        size_t total = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < total; i++) {
            int one;
            memcpy(&one, CMSG_DATA(c) + i * sizeof(int), sizeof one);
            if (*fd_count < capacity) fds[(*fd_count)++] = one;
            else close(one);
        }
    }
    return n;
}

int ck_udp_prepare(int fd, int family)
{
    int on = 1, result;
    if (family == AF_INET) {
        result = OR_ERRNO(setsockopt(fd, IPPROTO_IP, IP_RECVERR, &on, sizeof on));
        setsockopt(fd, IPPROTO_IP, IP_RECVTTL, &on, sizeof on);
        int pmtu = IP_PMTUDISC_DONT;
        setsockopt(fd, IPPROTO_IP, IP_MTU_DISCOVER, &pmtu, sizeof pmtu);
    } else {
        result = OR_ERRNO(setsockopt(fd, IPPROTO_IPV6, IPV6_RECVERR, &on, sizeof on));
        setsockopt(fd, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, &on, sizeof on);
        int pmtu = IPV6_PMTUDISC_DONT;
        setsockopt(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, &pmtu, sizeof pmtu);
    }
    setsockopt(fd, IPPROTO_UDP, UDP_GRO, &on, sizeof on);
    /* What comes while we do not run waits there; the kernel allows net.core.rmem_max of it. */
    int room = 4 << 20;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    return result;
}

long ck_send_datagram(int fd, int family, const void *buffer, size_t count, const struct ck_datagram *meta)
{
    struct sockaddr_storage a;
    union { char bytes[128]; struct cmsghdr align; } control;
    struct iovec iov = { (void *)buffer, count };
    struct msghdr m = { .msg_name = &a, .msg_iov = &iov, .msg_iovlen = 1 };
    m.msg_namelen = to_kernel(&meta->peer, family, &a);
    memset(&control, 0, sizeof control);
    m.msg_control = &control;
    m.msg_controllen = sizeof control;
    size_t used = 0;
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    if (meta->ttl) {
        int ttl = meta->ttl;
        c->cmsg_level = family == AF_INET ? IPPROTO_IP : IPPROTO_IPV6;
        c->cmsg_type = family == AF_INET ? IP_TTL : IPV6_HOPLIMIT;
        c->cmsg_len = CMSG_LEN(sizeof ttl);
        memcpy(CMSG_DATA(c), &ttl, sizeof ttl);
        used += CMSG_SPACE(sizeof ttl);
        c = CMSG_NXTHDR(&m, c);
    }
    if (meta->segment && meta->segment < count) {
        uint16_t segment = meta->segment;
        c->cmsg_level = IPPROTO_UDP;
        c->cmsg_type = UDP_SEGMENT;
        c->cmsg_len = CMSG_LEN(sizeof segment);
        memcpy(CMSG_DATA(c), &segment, sizeof segment);
        used += CMSG_SPACE(sizeof segment);
    }
    m.msg_controllen = used;
    if (!used) m.msg_control = NULL;
    return RETRY(sendmsg(fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL));
}

long ck_receive_datagram(int fd, void *buffer, size_t count, struct ck_datagram *meta)
{
    struct sockaddr_storage a;
    union { char bytes[256]; struct cmsghdr align; } control;
    struct iovec iov = { buffer, count };
    struct msghdr m = { .msg_name = &a, .msg_namelen = sizeof a, .msg_iov = &iov, .msg_iovlen = 1,
                        .msg_control = &control, .msg_controllen = sizeof control };
    ssize_t n = RETRY(recvmsg(fd, &m, MSG_DONTWAIT));
    if (n < 0) return n;
    memset(meta, 0, sizeof *meta);
    from_kernel(&a, &meta->peer);
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
        int value = 0;
        if (c->cmsg_len < CMSG_LEN(sizeof value)) continue;
        memcpy(&value, CMSG_DATA(c), sizeof value);
        if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO) meta->segment = (uint16_t)value;
        if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_TTL) meta->ttl = (uint8_t)value;
        if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_HOPLIMIT) meta->ttl = (uint8_t)value;
    }
    return n;
}

int ck_receive_error(int fd, struct ck_datagram_error *out, void *buffer, size_t count, long *length)
{
    struct sockaddr_storage a;
    union { char bytes[512]; struct cmsghdr align; } control;
    struct iovec iov = { buffer, count };
    struct msghdr m = { .msg_name = &a, .msg_namelen = sizeof a, .msg_iov = &iov, .msg_iovlen = 1,
                        .msg_control = &control, .msg_controllen = sizeof control };
    ssize_t n = RETRY(recvmsg(fd, &m, MSG_ERRQUEUE | MSG_DONTWAIT));
    if (n == -EAGAIN) return 0;
    if (n < 0) return (int)n;
    memset(out, 0, sizeof *out);
    from_kernel(&a, &out->peer);
    *length = n;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
        int ours = (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_RECVERR)
            || (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_RECVERR);
        struct sock_extended_err e;
        if (!ours || c->cmsg_len < CMSG_LEN(sizeof e)) continue;
        memcpy(&e, CMSG_DATA(c), sizeof e);
        out->error = e.ee_errno, out->info = e.ee_info;
        out->origin = e.ee_origin, out->type = e.ee_type, out->code = e.ee_code;
        struct sockaddr_storage offender = { 0 };
        size_t room = c->cmsg_len - CMSG_LEN(sizeof e);
        memcpy(&offender, CMSG_DATA(c) + sizeof e, room < sizeof offender ? room : sizeof offender);
        from_kernel(&offender, &out->offender);
    }
    return 1;
}

/* Opens the tap with the virtio header and as many offloads as the kernel takes; *offloads says which. */
int ck_tap_open(const char *device, const char *name, int gso, int *offloads)
{
    int fd = RETRY(open(device, O_RDWR | O_CLOEXEC | O_NONBLOCK));
    if (fd < 0) return fd;
    struct ifreq request = { 0 };
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    int size = 10;
    if (ioctl(fd, TUNSETIFF, &request) < 0 || ioctl(fd, TUNSETVNETHDRSZ, &size) < 0) {
        int e = errno;
        close(fd);
        return -e;
    }
    unsigned csum = TUN_F_CSUM, tso = TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN, uso = TUN_F_USO4 | TUN_F_USO6;
    *offloads = 0;
    if (gso && ioctl(fd, TUNSETOFFLOAD, csum | tso | uso) == 0) *offloads = CK_OFFLOAD_CSUM | CK_OFFLOAD_TSO | CK_OFFLOAD_USO;
    else if (gso && ioctl(fd, TUNSETOFFLOAD, csum | tso) == 0) *offloads = CK_OFFLOAD_CSUM | CK_OFFLOAD_TSO;
    else if (ioctl(fd, TUNSETOFFLOAD, csum) == 0) *offloads = CK_OFFLOAD_CSUM;
    return fd;
}

int ck_tap_has_header(int fd)
{
    struct ifreq request = { 0 };
    if (ioctl(fd, TUNGETIFF, &request) < 0) return -errno;
    return request.ifr_flags & IFF_VNET_HDR ? 1 : 0;
}

int ck_interface_address(const char *name, int family, struct ck_endpoint *out)
{
    struct ifaddrs *all;
    if (getifaddrs(&all) < 0) return -errno;
    int result = -ENODEV;
    for (struct ifaddrs *a = all; a; a = a->ifa_next) {
        if (!a->ifa_addr || a->ifa_addr->sa_family != family || strcmp(a->ifa_name, name) != 0) continue;
        struct sockaddr_storage copy = { 0 };
        memcpy(&copy, a->ifa_addr, family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6));
        /* A link-local address is no address to connect from. */
        if (family == AF_INET6 && IN6_IS_ADDR_LINKLOCAL(&((struct sockaddr_in6 *)&copy)->sin6_addr)) continue;
        from_kernel(&copy, out);
        result = 0;
        break;
    }
    freeifaddrs(all);
    return result;
}

int ck_interface_has(const char *name, const struct ck_endpoint *address)
{
    struct ifaddrs *all;
    if (getifaddrs(&all) < 0) return 0;
    int found = 0;
    for (struct ifaddrs *a = all; a && !found; a = a->ifa_next) {
        int family = a->ifa_addr ? a->ifa_addr->sa_family : 0;
        if ((family != AF_INET && family != AF_INET6) || strcmp(a->ifa_name, name) != 0) continue;
        struct sockaddr_storage copy = { 0 };
        memcpy(&copy, a->ifa_addr, family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6));
        struct ck_endpoint endpoint;
        from_kernel(&copy, &endpoint);
        found = endpoint.high == address->high && endpoint.low == address->low;
    }
    freeifaddrs(all);
    return found;
}

int ck_netlink(int protocol)
{
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
    if (fd < 0) return -errno;
    struct sockaddr_nl a = { .nl_family = AF_NETLINK };
    if (bind(fd, (void *)&a, sizeof a) < 0) {
        int e = errno;
        close(fd);
        return -e;
    }
    return fd;
}

long ck_netlink_send(int fd, const void *buffer, size_t count)
{
    struct sockaddr_nl a = { .nl_family = AF_NETLINK };
    return RETRY(sendto(fd, buffer, count, MSG_NOSIGNAL, (void *)&a, sizeof a));
}

int ck_interface_state(const char *name, int *is_up, int *mtu)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -errno;
    struct ifreq request = { 0 };
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    int result = 0;
    if (ioctl(fd, SIOCGIFFLAGS, &request) < 0) result = -errno;
    *is_up = request.ifr_flags & IFF_UP ? 1 : 0;
    if (result == 0 && ioctl(fd, SIOCGIFMTU, &request) < 0) result = -errno;
    *mtu = request.ifr_mtu;
    close(fd);
    return result;
}

int ck_interface_index(const char *name)
{
    unsigned index = if_nametoindex(name);
    return index ? (int)index : -errno;
}
