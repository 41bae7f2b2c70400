#define _GNU_SOURCE
#include "CKernel.h"
#include <endian.h>
#include <errno.h>
#include <linux/ethtool.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

static int packet_open(const char *name, int one)
{
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -errno;
    int version = TPACKET_V2;
    struct tpacket_req ring = {
        .tp_block_size = CK_RING_BLOCK, .tp_block_nr = CK_RING_BLOCKS, .tp_frame_size = CK_RING_FRAME,
        .tp_frame_nr = CK_RING_BLOCK / CK_RING_FRAME * CK_RING_BLOCKS,
    };
    struct sockaddr_ll where = { .sll_family = AF_PACKET, .sll_protocol = htobe16(ETH_P_ALL), .sll_ifindex = (int)if_nametoindex(name) };
    if (setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof one) < 0
        || setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof one) < 0
        || setsockopt(fd, SOL_PACKET, PACKET_VERSION, &version, sizeof version) < 0
        || setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &ring, sizeof ring) < 0
        || bind(fd, (struct sockaddr *)&where, sizeof where) < 0) {
        int e = errno;
        close(fd);
        return -e;
    }
    return fd;
}

int ck_packet_open(const char *name) { return packet_open(name, 1); }
int ck_capture_open(const char *name) { return packet_open(name, 0); }

int ck_packet_map(int fd, void **ring, size_t *count)
{
    *count = (size_t)CK_RING_BLOCK * CK_RING_BLOCKS;
    *ring = mmap(NULL, *count, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return *ring == MAP_FAILED ? -errno : 0;
}

static struct tpacket2_hdr *ring_slot(void *ring, unsigned slot)
{
    unsigned per_block = CK_RING_BLOCK / CK_RING_FRAME;
    return (void *)((char *)ring + (size_t)(slot / per_block) * CK_RING_BLOCK + (size_t)(slot % per_block) * CK_RING_FRAME);
}

static int is_filled(struct tpacket2_hdr *header) { return __atomic_load_n(&header->tp_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER; }

long ck_packet_find(void *ring)
{
    unsigned slots = CK_RING_BLOCK / CK_RING_FRAME * CK_RING_BLOCKS;
    int any = 0, before = is_filled(ring_slot(ring, slots - 1));
    for (unsigned slot = 0; slot < slots; slot++) {
        int filled = is_filled(ring_slot(ring, slot));
        if (filled && !before) return (long)slot;
        any |= filled;
        before = filled;
    }
    return any ? 0 : -EAGAIN;
}

long ck_packet_take(void *ring, unsigned slot, void *out, size_t capacity)
{
    struct tpacket2_hdr *header = ring_slot(ring, slot);
    char *frame = (char *)header;
    if (!is_filled(header)) return 0;
    long result = -EMSGSIZE;
    size_t count = header->tp_snaplen, start = header->tp_mac;
    /* A VLAN's tag is beside the frame; there are none on this link. */
    int is_whole = header->tp_snaplen == header->tp_len && !(header->tp_status & TP_STATUS_VLAN_VALID);
    if (is_whole && count > 0 && start >= 10 && start + count <= CK_RING_FRAME && count + 10 <= capacity) {
        memcpy(out, frame + start - 10, count + 10);
        result = (long)count + 10;
    }
    __atomic_store_n(&header->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
    return result;
}

long ck_capture_take(void *ring, unsigned slot, void *out, size_t capacity, struct ck_captured *meta)
{
    struct tpacket2_hdr *header = ring_slot(ring, slot);
    if (!is_filled(header)) return 0;
    struct sockaddr_ll *from = (void *)((char *)header + TPACKET_ALIGN(sizeof *header));
    size_t count = header->tp_snaplen, start = header->tp_mac;
    *meta = (struct ck_captured){ header->tp_sec * 1000000000ull + header->tp_nsec, header->tp_len, from->sll_pkttype == PACKET_OUTGOING };
    if (count > capacity) count = capacity;
    if (start + count > CK_RING_FRAME) count = 0;
    memcpy(out, (char *)header + start, count);
    __atomic_store_n(&header->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
    return count ? (long)count : -EMSGSIZE;
}

int ck_capture_statistics(int fd, uint32_t *packets, uint32_t *drops)
{
    struct tpacket_stats stats = { 0 };
    socklen_t n = sizeof stats;
    if (getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &stats, &n) < 0) return -errno;
    *packets = stats.tp_packets;
    *drops = stats.tp_drops;
    return 0;
}

int ck_segmentation_off(const char *name)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -errno;
    int result = 0;
    unsigned commands[] = { ETHTOOL_STSO, ETHTOOL_SGSO };
    for (int i = 0; i < 2 && result == 0; i++) {
        struct ethtool_value value = { .cmd = commands[i], .data = 0 };
        struct ifreq request = { 0 };
        strncpy(request.ifr_name, name, IFNAMSIZ - 1);
        request.ifr_data = (void *)&value;
        result = ioctl(fd, SIOCETHTOOL, &request) < 0 ? -errno : 0;
    }
    close(fd);
    return result;
}
