/* Traffic for the benchmarks, IPv4 only: servers of the outside, and clients that print one line of JSON.
 *
 *   traffic serve ADDRESS                 TCP 7000 echo, UDP 7001 echo, UDP 7002 counter and source, UDP 53 names
 *   traffic requests ADDRESS SECONDS      a byte there and back on one connection, again and again
 *   traffic connects ADDRESS SECONDS [RATE]   connect, a byte there and back, close, again and again; at most RATE a second
 *   traffic hold ADDRESS COUNT            opens COUNT connections, prints; for each line read it tries all of them again
 *   traffic up ADDRESS SECONDS SIZE RATE SEGMENTS     datagrams to the counter, RATE a second, SEGMENTS in a superpacket
 *   traffic down ADDRESS SECONDS SIZE RATE SEGMENTS   datagrams from the source
 *   traffic names ADDRESS SECONDS WINDOW  look-ups, WINDOW of them under way
 *   traffic first ADDRESS                 prints when the first connect succeeds */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { ECHO = 7000, DATAGRAM_ECHO, COUNTER, BUFFER = 4 << 20 };

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void fail(const char *what)
{
    printf("{\"error\": \"%s: %s\"}\n", what, strerror(errno));
    exit(1);
}

static struct sockaddr_in at(const char *address, int port)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
    inet_pton(AF_INET, address, &a.sin_addr);
    return a;
}

static int make(int type, const char *address, int port, int connects)
{
    int fd = socket(AF_INET, type, 0), one = 1, buffer = BUFFER;
    if (fd < 0) return -1;
    struct sockaddr_in a = at(address, port);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if ((type & 0xf) == SOCK_DGRAM) {
        setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof buffer);
        setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &buffer, sizeof buffer);
    } else {
        /* An end is a reset: no port waits for its end afterwards, here or where the forwarder connects from. */
        struct linger reset = { 1, 0 };
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    }
    int r = connects ? connect(fd, (void *)&a, sizeof a) : bind(fd, (void *)&a, sizeof a);
    if (r < 0 && errno != EINPROGRESS) {
        close(fd);
        return -1;
    }
    return fd;
}

/* What the counter and the source are told: the word, then numbers. */
struct order { uint32_t word; uint32_t milliseconds, size, rate, segments; };
enum { RESET = 0x57a71, REPORT, BLAST };
struct report { uint32_t word; uint64_t packets; };

/* Sends for a time at a rate, or as fast as it goes; how many datagrams. */
static uint64_t blast(int fd, const struct sockaddr_in *to, const struct order *o)
{
    static char data[65536];
    uint64_t sent = 0, start = now(), end = start + (uint64_t)o->milliseconds * 1000000u;
    int segment = (int)o->size;
    setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &segment, sizeof segment);
    unsigned batch = o->segments ? o->segments : 1;
    for (uint64_t t = start; t < end; t = now()) {
        uint64_t due = o->rate ? (t - start) * o->rate / 1000000000u : sent + batch * 16;
        if (sent + batch > due) {
            if (due - sent + 1 < batch) usleep(20);
            continue;
        }
        for (int i = 0; i < 64 && sent + batch <= due; i++) {
            ssize_t n = to ? sendto(fd, data, (size_t)o->size * batch, 0, (const void *)to, sizeof *to) : send(fd, data, (size_t)o->size * batch, 0);
            if (n < 0 && errno != ECONNREFUSED && errno != ENOBUFS && errno != EAGAIN) return sent;
            if (n > 0) sent += batch;
        }
    }
    segment = 0;
    setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &segment, sizeof segment);
    return sent;
}

static int serve(const char *address)
{
    int epoll = epoll_create1(0), listener = make(SOCK_STREAM | SOCK_NONBLOCK, address, ECHO, 0);
    int echo = make(SOCK_DGRAM | SOCK_NONBLOCK, address, DATAGRAM_ECHO, 0), counter = make(SOCK_DGRAM | SOCK_NONBLOCK, address, COUNTER, 0);
    int names = make(SOCK_DGRAM | SOCK_NONBLOCK, address, 53, 0);
    if (listener < 0 || listen(listener, 4096) < 0 || echo < 0 || counter < 0) fail("listen");
    int fds[] = { listener, echo, counter, names };
    for (int i = 0; i < 4; i++) {
        struct epoll_event e = { .events = EPOLLIN, .data.fd = fds[i] };
        if (fds[i] >= 0) epoll_ctl(epoll, EPOLL_CTL_ADD, fds[i], &e);
    }
    int one = 1;
    setsockopt(counter, IPPROTO_UDP, UDP_GRO, &one, sizeof one);
    printf("ready\n");
    fflush(stdout);
    signal(SIGCHLD, SIG_IGN);
    static char data[65536];
    uint64_t packets = 0;
    for (;;) {
        struct epoll_event events[256];
        int count = epoll_wait(epoll, events, 256, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            struct sockaddr_in peer;
            socklen_t length = sizeof peer;
            if (fd == listener) {
                for (int client; (client = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
                    struct epoll_event e = { .events = EPOLLIN, .data.fd = client };
                    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                    epoll_ctl(epoll, EPOLL_CTL_ADD, client, &e);
                }
            } else if (fd == echo || fd == names) {
                ssize_t n;
                for (int k = 0; k < 64 && (n = recvfrom(fd, data, sizeof data - 16, 0, (void *)&peer, &length)) >= 0; k++) {
                    if (fd == names && n >= 12) {
                        /* The question again, and one address of ten seconds. */
                        static const char answer[] = { (char)0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 10, 0, 4, (char)198, 18, 0, 1 };
                        data[2] |= (char)0x80;
                        data[7] = 1;
                        memcpy(data + n, answer, sizeof answer);
                        n += (ssize_t)sizeof answer;
                    }
                    sendto(fd, data, (size_t)n, 0, (void *)&peer, length);
                }
            } else if (fd == counter) {
                for (int k = 0; k < 256; k++) {
                    char control[64];
                    struct iovec v = { data, sizeof data };
                    struct msghdr m = { .msg_name = &peer, .msg_namelen = sizeof peer, .msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
                    ssize_t n = recvmsg(fd, &m, 0);
                    if (n < 0) break;
                    struct order o;
                    memcpy(&o, data, sizeof o < (size_t)n ? sizeof o : (size_t)n);
                    if (n == sizeof o && (o.word == RESET || o.word == REPORT)) {
                        if (o.word == RESET) packets = 0;
                        struct report r = { o.word, packets };
                        sendto(fd, &r, sizeof r, 0, (void *)&peer, sizeof peer);
                    } else if (n == sizeof o && o.word == BLAST) {
                        if (fork() == 0) {
                            prctl(PR_SET_PDEATHSIG, SIGKILL);
                            uint64_t sent = blast(fd, &peer, &o);
                            usleep(100000);
                            struct report r = { REPORT, sent };
                            for (int again = 0; again < 20; again++, usleep(10000)) sendto(fd, &r, sizeof r, 0, (void *)&peer, sizeof peer);
                            _exit(0);
                        }
                    } else {
                        int segment = 0;
                        for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c))
                            if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO) memcpy(&segment, CMSG_DATA(c), sizeof segment);
                        packets += segment ? (uint64_t)((n + segment - 1) / segment) : 1;
                    }
                }
            } else {
                ssize_t n = read(fd, data, sizeof data);
                if (n <= 0 || write(fd, data, (size_t)n) < 0) close(fd);
            }
        }
    }
}

static uint32_t *samples;
static size_t sample_count;
enum { SAMPLES = 1 << 22 };

static void sample(uint64_t since)
{
    if (!samples) samples = malloc(SAMPLES * sizeof *samples);
    if (samples && sample_count < SAMPLES) samples[sample_count++] = (uint32_t)(now() - since);
}

static int ascending(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static void tell(uint64_t start)
{
    if (!sample_count) fail("no answer");
    qsort(samples, sample_count, sizeof *samples, ascending);
    printf("{\"rate\": %.1f, \"p50_us\": %.1f, \"p99_us\": %.1f}\n", (double)sample_count / ((double)(now() - start) / 1e9),
           samples[sample_count / 2] / 1e3, samples[sample_count * 99 / 100] / 1e3);
}

static int requests(const char *address, double seconds, int reconnects, double rate)
{
    uint64_t start = now(), end = start + (uint64_t)(seconds * 1e9);
    int fd = -1;
    char byte = 'x';
    while (now() < end) {
        uint64_t begun = now();
        if (rate > 0 && (double)sample_count > (double)(begun - start) / 1e9 * rate) {
            usleep(200);
            continue;
        }
        if (fd < 0 && (fd = make(SOCK_STREAM, address, ECHO, 1)) < 0) fail("connect");
        if (write(fd, &byte, 1) != 1 || read(fd, &byte, 1) != 1) fail("echo");
        if (reconnects) {
            close(fd);
            fd = -1;
        }
        sample(begun);
    }
    tell(start);
    return 0;
}

static int hold(const char *address, int count)
{
    enum { WINDOW = 256 };
    int epoll = epoll_create1(0), opened = 0, done = 0, failed = 0;
    int *fds = calloc((size_t)count, sizeof *fds);
    uint64_t start = now();
    while (done + failed < count && now() - start < 60000000000u) {
        while (opened < count && opened - done - failed < WINDOW) {
            int fd = make(SOCK_STREAM | SOCK_NONBLOCK, address, ECHO, 1);
            fds[opened++] = fd;
            if (fd < 0) {
                failed++;
                continue;
            }
            struct epoll_event e = { .events = EPOLLOUT | EPOLLONESHOT, .data.u32 = (uint32_t)opened - 1 };
            epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e);
        }
        struct epoll_event events[256];
        int ready = epoll_wait(epoll, events, 256, 1000);
        for (int i = 0; i < ready; i++) {
            int *fd = &fds[events[i].data.u32], error = 0;
            socklen_t length = sizeof error;
            getsockopt(*fd, SOL_SOCKET, SO_ERROR, &error, &length);
            if (error) {
                close(*fd);
                *fd = -1;
                failed++;
            } else done++;
        }
    }
    printf("{\"connected\": %d, \"seconds\": %.4f}\n", done, (double)(now() - start) / 1e9);
    fflush(stdout);
    for (char line[16]; fgets(line, sizeof line, stdin);) {
        int alive = 0;
        uint64_t since = now();
        for (int i = 0; i < count && now() - since < 10000000000u; i++) {
            char byte = 'x';
            struct pollfd p = { fds[i], POLLIN, 0 };
            if (fds[i] >= 0 && write(fds[i], &byte, 1) == 1 && poll(&p, 1, 1000) == 1 && read(fds[i], &byte, 1) == 1) alive++;
        }
        printf("{\"alive\": %d}\n", alive);
        fflush(stdout);
    }
    return 0;
}

static uint64_t ask(int fd, struct order o)
{
    for (int try = 0; try < 50; try++) {
        send(fd, &o, sizeof o, 0);
        struct pollfd p = { fd, POLLIN, 0 };
        struct report r;
        while (poll(&p, 1, 100) == 1)
            if (recv(fd, &r, sizeof r, 0) == sizeof r && r.word == o.word) return r.packets;
    }
    fail("the counter");
    return 0;
}

static int up(const char *address, struct order o)
{
    int fd = make(SOCK_DGRAM, address, COUNTER, 1);
    if (fd < 0) fail("socket");
    ask(fd, (struct order){ .word = RESET });
    uint64_t start = now(), sent = blast(fd, NULL, &o);
    double seconds = (double)(now() - start) / 1e9;
    usleep(150000);
    uint64_t arrived = ask(fd, (struct order){ .word = REPORT });
    printf("{\"sent\": %lu, \"arrived\": %lu, \"rate\": %.0f}\n", sent, arrived, (double)arrived / seconds);
    return 0;
}

static int down(const char *address, struct order o)
{
    int fd = make(SOCK_DGRAM, address, COUNTER, 1), one = 1;
    if (fd < 0) fail("socket");
    setsockopt(fd, IPPROTO_UDP, UDP_GRO, &one, sizeof one);
    o.word = BLAST;
    send(fd, &o, sizeof o, 0);
    static char data[65536];
    uint64_t arrived = 0, sent = 0;
    struct pollfd p = { fd, POLLIN, 0 };
    while (!sent && poll(&p, 1, 3000) == 1) {
        char control[64];
        struct iovec v = { data, sizeof data };
        struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
        ssize_t n = recvmsg(fd, &m, 0);
        struct report r;
        if (n == sizeof r && (memcpy(&r, data, sizeof r), r.word == REPORT)) sent = r.packets;
        else if (n > 0) {
            int segment = 0;
            for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c))
                if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO) memcpy(&segment, CMSG_DATA(c), sizeof segment);
            arrived += segment ? (uint64_t)((n + segment - 1) / segment) : 1;
        }
    }
    printf("{\"sent\": %lu, \"arrived\": %lu, \"rate\": %.0f}\n", sent, arrived, (double)arrived / (o.milliseconds / 1e3));
    return 0;
}

static int names(const char *address, double seconds, int window)
{
    int fd = make(SOCK_DGRAM, address, 53, 1);
    static uint64_t asked[65536];
    unsigned char query[] = { 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 3, 'w', 'w', 'w', 4, 't', 'e', 's', 't', 0, 0, 1, 0, 1 }, answer[512];
    uint16_t id = 0;
    int under_way = 0;
    uint64_t start = now(), end = start + (uint64_t)(seconds * 1e9);
    while (now() < end) {
        for (; under_way < window; under_way++) {
            query[0] = (unsigned char)(++id >> 8);
            query[1] = (unsigned char)id;
            asked[id] = now();
            send(fd, query, sizeof query, 0);
        }
        struct pollfd p = { fd, POLLIN, 0 };
        if (poll(&p, 1, 200) != 1) {
            under_way = 0;  /* lost */
            continue;
        }
        ssize_t n = recv(fd, answer, sizeof answer, 0);
        uint16_t number = (uint16_t)(answer[0] << 8 | answer[1]);
        if (n > 12 && asked[number]) {
            sample(asked[number]);
            asked[number] = 0;
            if (under_way > 0) under_way--;
        }
    }
    tell(start);
    return 0;
}

static int first(const char *address)
{
    for (int try = 0; try < 200000; try++) {
        int fd = make(SOCK_STREAM, address, ECHO, 1);
        if (fd >= 0) {
            struct timespec t;
            clock_gettime(CLOCK_REALTIME, &t);
            printf("{\"at\": %.6f}\n", (double)t.tv_sec + (double)t.tv_nsec / 1e9);
            return 0;
        }
        usleep(100);
    }
    fail("connect");
    return 1;
}

int main(int argc, char **argv)
{
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    signal(SIGPIPE, SIG_IGN);
    const char *verb = argc > 2 ? argv[1] : "", *address = argc > 2 ? argv[2] : "";
    double number = argc > 3 ? atof(argv[3]) : 0;
    struct order o = { .milliseconds = (uint32_t)(number * 1000), .size = argc > 4 ? (uint32_t)atoi(argv[4]) : 0,
                       .rate = argc > 5 ? (uint32_t)atoi(argv[5]) : 0, .segments = argc > 6 ? (uint32_t)atoi(argv[6]) : 0 };
    if (!strcmp(verb, "serve")) return serve(address);
    if (!strcmp(verb, "requests")) return requests(address, number, 0, 0);
    if (!strcmp(verb, "connects")) return requests(address, number, 1, argc > 4 ? atof(argv[4]) : 0);
    if (!strcmp(verb, "hold")) return hold(address, (int)number);
    if (!strcmp(verb, "up")) return up(address, o);
    if (!strcmp(verb, "down")) return down(address, o);
    if (!strcmp(verb, "names")) return names(address, number, argc > 4 ? atoi(argv[4]) : 1);
    if (!strcmp(verb, "first")) return first(address);
    fprintf(stderr, "traffic: see the head of traffic.c\n");
    return 2;
}
