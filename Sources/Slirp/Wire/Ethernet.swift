/// A hardware address: its 48 bits.
struct HardwareAddress: Hashable, Sendable {
    var value: UInt64

    static let broadcast = HardwareAddress(value: 0xffff_ffff_ffff)
    /// The forwarder's own: slirp4netns' number, 52:55 and 10.0.2.2.
    static let gateway = HardwareAddress(value: 0x5255_0a00_0202)

    /// Whether it names one station.
    var isUnicast: Bool { value >> 40 & 1 == 0 && value != 0 }
}

/// The header every frame begins with (IEEE 802.3); VLAN tags are another type and so refused.
struct EthernetHeader: Hashable, Sendable {
    static let length = 14
    var destination: HardwareAddress, source: HardwareAddress
    var type: UInt16

    static let ipv4: UInt16 = 0x0800
    static let arp: UInt16 = 0x0806
    static let ipv6: UInt16 = 0x86dd

    init(destination: HardwareAddress, source: HardwareAddress = .gateway, type: UInt16) {
        self.destination = destination
        self.source = source
        self.type = type
    }

    init(parsing bytes: RawSpan) throws(PacketError) {
        guard bytes.byteCount >= Self.length else { throw .truncated }
        destination = HardwareAddress(value: UInt64(bytes.u32(0)) << 16 | UInt64(bytes.u16(4)))
        source = HardwareAddress(value: UInt64(bytes.u16(6)) << 32 | UInt64(bytes.u32(8)))
        type = bytes.u16(12)
    }

    @inline(__always)
    func emit(into out: inout MutableRawSpan, at offset: Int) {
        out.put32(UInt32(truncatingIfNeeded: destination.value >> 16), offset)
        out.put16(UInt16(truncatingIfNeeded: destination.value), offset + 4)
        out.put16(UInt16(truncatingIfNeeded: source.value >> 32), offset + 6)
        out.put32(UInt32(truncatingIfNeeded: source.value), offset + 8)
        out.put16(type, offset + 12)
    }
}

/// virtio_net_hdr, which lies before each frame on the tap (virtio 1.2, 5.1.6); fields in host order.
struct VirtioHeader: Hashable, Sendable {
    static let length = 10
    enum Segmentation: UInt8 { case none = 0, tcp4 = 1, udp = 3, tcp6 = 4, datagrams = 5 }
    /// The checksum field holds only the pseudo-header's sum.
    var needsChecksum = false
    /// Checksums were verified.
    var dataValid = false
    var segmentation = Segmentation.none
    var headerLength: UInt16 = 0, segmentSize: UInt16 = 0, checksumStart: UInt16 = 0, checksumOffset: UInt16 = 0

    init() {}

    init(parsing bytes: RawSpan) throws(PacketError) {
        guard bytes.byteCount >= Self.length else { throw .truncated }
        needsChecksum = bytes.u8(0) & 1 != 0
        dataValid = bytes.u8(0) & 2 != 0
        guard let kind = Segmentation(rawValue: bytes.u8(1) & 0x7f) else { throw .malformed }
        segmentation = kind
        headerLength = bytes.u16(2).byteSwapped
        segmentSize = bytes.u16(4).byteSwapped
        checksumStart = bytes.u16(6).byteSwapped
        checksumOffset = bytes.u16(8).byteSwapped
    }

    @inline(__always)
    func emit(into out: inout MutableRawSpan) {
        out.put8((needsChecksum ? 1 : 0) | (dataValid ? 2 : 0), 0)
        out.put8(segmentation.rawValue, 1)
        out.put16(headerLength.byteSwapped, 2)
        out.put16(segmentSize.byteSwapped, 4)
        out.put16(checksumStart.byteSwapped, 6)
        out.put16(checksumOffset.byteSwapped, 8)
    }
}
