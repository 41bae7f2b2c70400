internal import Kernel

/// Transport protocol numbers (IANA).
enum TransportProtocol {
    static let icmp: UInt8 = 1
    static let tcp: UInt8 = 6
    static let udp: UInt8 = 17
    static let icmpv6: UInt8 = 58
}

/// What both versions of IP say of a packet.
struct IPHeader: Hashable, Sendable {
    /// A fragment's place in its packet.
    struct Fragment: Hashable, Sendable {
        var identification: UInt32
        var offset: Int
        var more: Bool
    }
    var source: IPAddress, destination: IPAddress
    var proto: UInt8
    var timeToLive: UInt8
    var trafficClass: UInt8
    /// Where the transport header begins, from the start of this header, options and extension headers passed.
    var headerLength: Int
    /// Bytes from there on; what lies behind in the frame is padding.
    var payloadLength: Int
    /// nil for a whole packet.
    var fragment: Fragment?
    /// No router may cut it: IPv4's DF, and IPv6 always.
    var isUncuttable: Bool
    /// Where a routing type lies that would have to be known, from the start of this header; the packet is refused.
    var unknownRouting: Int?

    /// Reads either version from the first byte of the packet on.
    init(parsing bytes: RawSpan) throws(PacketError) {
        guard bytes.byteCount >= 1 else { throw .truncated }
        switch bytes.u8(0) >> 4 {
        case 4: try self.init(v4: bytes)
        case 6: try self.init(v6: bytes)
        default: throw .malformed
        }
    }

    /// RFC 791.
    private init(v4 bytes: RawSpan) throws(PacketError) {
        guard bytes.byteCount >= 20 else { throw .truncated }
        let length = Int(bytes.u8(0) & 15) * 4
        let total = Int(bytes.u16(2))
        guard length >= 20, total >= length else { throw .malformed }
        guard bytes.byteCount >= total else { throw .truncated }
        var sum = Checksum()
        sum.add(bytes, 0..<length)
        guard sum.value == 0 else { throw .badChecksum }
        if length > 20, Self.hasSourceRoute(bytes, to: length) { throw .malformed }
        source = IPAddress(v4: bytes.u32(12))
        destination = IPAddress(v4: bytes.u32(16))
        proto = bytes.u8(9)
        timeToLive = bytes.u8(8)
        trafficClass = bytes.u8(1)
        headerLength = length
        payloadLength = total - length
        let bits = bytes.u16(6)
        isUncuttable = bits & 0x4000 != 0
        if bits & 0x3fff != 0 {
            fragment = Fragment(
                identification: UInt32(bytes.u16(4)), offset: Int(bits & 0x1fff) * 8, more: bits & 0x2000 != 0)
        }
    }

    /// Whether a packet says itself which way it goes: nobody's business but the routers' (RFC 7126, 4.3 and 4.4). Options
    /// that end in the middle are passed over.
    private static func hasSourceRoute(_ bytes: RawSpan, to end: Int) -> Bool {
        var at = 20
        while at < end, bytes.u8(at) != 0 {
            if [131, 137].contains(bytes.u8(at)) { return true }
            if bytes.u8(at) == 1 {
                at += 1
                continue
            }
            guard at + 1 < end, bytes.u8(at + 1) >= 2 else { return false }
            at += Int(bytes.u8(at + 1))
        }
        return false
    }

    /// RFC 8200; hop-by-hop, destination options and a fragment header are passed. No routing type is known (RFC 5095): a routing
    /// header with nothing left to visit is passed, any other is reported.
    private init(v6 bytes: RawSpan) throws(PacketError) {
        guard bytes.byteCount >= 40 else { throw .truncated }
        let end = 40 + Int(bytes.u16(4))
        guard bytes.byteCount >= end else { throw .truncated }
        source = IPAddress(high: bytes.u64(8), low: bytes.u64(16))
        destination = IPAddress(high: bytes.u64(24), low: bytes.u64(32))
        // An IPv4-mapped address has no place in a packet (RFC 4291, 2.5.5.2), and to us it would be the IPv4 address.
        guard !source.isV4, !destination.isV4 else { throw .malformed }
        timeToLive = bytes.u8(7)
        trafficClass = UInt8(truncatingIfNeeded: bytes.u16(0) >> 4)
        isUncuttable = true
        var next = bytes.u8(6)
        var at = 40
        for _ in 0..<8 {
            switch next {
            case 0, 60:
                guard end - at >= 8 else { throw .truncated }
                let length = (Int(bytes.u8(at + 1)) + 1) * 8
                guard end - at >= length else { throw .truncated }
                next = bytes.u8(at)
                at += length
            case 44:
                guard end - at >= 8 else { throw .truncated }
                let bits = bytes.u16(at + 2)
                let part = Fragment(
                    identification: bytes.u32(at + 4), offset: Int(bits & 0xfff8), more: bits & 1 != 0)
                next = bytes.u8(at)
                at += 8
                // An atomic fragment (RFC 6946) is a whole packet.
                if part.offset != 0 || part.more { fragment = part }
                if part.offset != 0 {
                    proto = next
                    headerLength = at
                    payloadLength = end - at
                    return
                }
            case 43:
                guard end - at >= 8 else { throw .truncated }
                let length = (Int(bytes.u8(at + 1)) + 1) * 8
                guard end - at >= length else { throw .truncated }
                if bytes.u8(at + 3) != 0 {
                    unknownRouting = at + 2
                    proto = bytes.u8(6)
                    headerLength = 40
                    payloadLength = end - 40
                    return
                }
                next = bytes.u8(at)
                at += length
            case 51, 135, 139, 140: throw .malformed
            default:
                proto = next
                headerLength = at
                payloadLength = end - at
                return
            }
        }
        throw .malformed
    }
}

/// Writes IP headers.
enum IPEmitter {
    /// Length of the header written for an address's version.
    @inline(__always) static func length(v4: Bool) -> Int { v4 ? 20 : 40 }

    /// Writes the header of a whole packet with `payloadLength` bytes behind it.
    @inline(__always)
    static func emit(
        into out: inout MutableRawSpan, at offset: Int, source: IPAddress, destination: IPAddress, proto: UInt8,
        payloadLength: Int, timeToLive: UInt8 = 64, identification: UInt16 = 0, fragmentBits: UInt16 = 0x4000
    ) {
        if source.isV4 {
            out.put16(0x4500, offset)
            out.put16(UInt16(truncatingIfNeeded: 20 + payloadLength), offset + 2)
            out.put16(identification, offset + 4)
            out.put16(fragmentBits, offset + 6)
            out.put8(timeToLive, offset + 8)
            out.put8(proto, offset + 9)
            out.put32(source.v4, offset + 12)
            out.put32(destination.v4, offset + 16)
            var sum = Checksum()
            sum.add(UInt16(0x4500))
            sum.add(UInt16(truncatingIfNeeded: 20 + payloadLength))
            sum.add(identification)
            sum.add(fragmentBits)
            sum.add(UInt16(timeToLive) << 8 | UInt16(proto))
            sum.add(UInt64(source.v4) << 32 | UInt64(destination.v4))
            out.put16(sum.value, offset + 10)
        } else {
            out.put32(0x6000_0000, offset)
            out.put16(UInt16(truncatingIfNeeded: payloadLength), offset + 4)
            out.put8(proto, offset + 6)
            out.put8(timeToLive, offset + 7)
            out.put64(source.high, offset + 8)
            out.put64(source.low, offset + 16)
            out.put64(destination.high, offset + 24)
            out.put64(destination.low, offset + 32)
        }
    }

    /// The sum over the pseudo-header (RFC 9293, 3.1; RFC 8200, 8.1).
    @inline(__always)
    static func pseudoHeader(_ source: IPAddress, _ destination: IPAddress, _ proto: UInt8, _ length: Int) -> Checksum {
        var sum = Checksum()
        if source.isV4 {
            sum.add(UInt64(source.v4) << 32 | UInt64(destination.v4))
        } else {
            sum.add(source.high)
            sum.add(source.low)
            sum.add(destination.high)
            sum.add(destination.low)
        }
        sum.add(UInt16(proto))
        sum.add(UInt64(UInt32(truncatingIfNeeded: length)))
        return sum
    }
}
