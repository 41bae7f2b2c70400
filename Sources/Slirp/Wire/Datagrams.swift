internal import Kernel

/// A UDP header (RFC 768).
struct UDPHeader: Hashable, Sendable {
    static let length = 8
    var sourcePort: UInt16, destinationPort: UInt16
    /// Header and payload.
    var datagramLength: Int

    init(sourcePort: UInt16, destinationPort: UInt16, datagramLength: Int) {
        self.sourcePort = sourcePort
        self.destinationPort = destinationPort
        self.datagramLength = datagramLength
    }

    /// Reads the header; of a superpacket (`coalesced`) the length field counts for nothing.
    init(parsing bytes: RawSpan, coalesced: Bool = false) throws(PacketError) {
        guard bytes.byteCount >= Self.length else { throw .truncated }
        sourcePort = bytes.u16(0)
        destinationPort = bytes.u16(2)
        datagramLength = coalesced ? bytes.byteCount : Int(bytes.u16(4))
        guard datagramLength >= Self.length else { throw .malformed }
        guard bytes.byteCount >= datagramLength else { throw .truncated }
        guard destinationPort != 0 else { throw .malformed }
    }

    func emit(into out: inout MutableRawSpan, at offset: Int, checksum: UInt16) {
        out.put16(sourcePort, offset)
        out.put16(destinationPort, offset + 2)
        out.put16(UInt16(truncatingIfNeeded: datagramLength), offset + 4)
        out.put16(checksum, offset + 6)
    }
}

/// An ARP packet for IPv4 over Ethernet (RFC 826).
struct ARPPacket: Hashable, Sendable {
    static let length = 28
    enum Operation: UInt16 { case request = 1, reply = 2 }
    var operation: Operation
    var senderHardware: HardwareAddress, sender: IPAddress
    var targetHardware: HardwareAddress, target: IPAddress

    init(
        operation: Operation, senderHardware: HardwareAddress, sender: IPAddress, targetHardware: HardwareAddress,
        target: IPAddress
    ) {
        self.operation = operation
        self.senderHardware = senderHardware
        self.sender = sender
        self.targetHardware = targetHardware
        self.target = target
    }

    init(parsing bytes: RawSpan) throws(PacketError) {
        guard bytes.byteCount >= Self.length else { throw .truncated }
        guard bytes.u32(0) == 0x0001_0800, bytes.u16(4) == 0x0604, let operation = Operation(rawValue: bytes.u16(6))
        else { throw .malformed }
        self.operation = operation
        senderHardware = HardwareAddress(value: UInt64(bytes.u32(8)) << 16 | UInt64(bytes.u16(12)))
        sender = IPAddress(v4: bytes.u32(14))
        targetHardware = HardwareAddress(value: UInt64(bytes.u16(18)) << 32 | UInt64(bytes.u32(20)))
        target = IPAddress(v4: bytes.u32(24))
    }

    func emit(into out: inout MutableRawSpan, at offset: Int) {
        out.put32(0x0001_0800, offset)
        out.put16(0x0604, offset + 4)
        out.put16(operation.rawValue, offset + 6)
        out.put32(UInt32(truncatingIfNeeded: senderHardware.value >> 16), offset + 8)
        out.put16(UInt16(truncatingIfNeeded: senderHardware.value), offset + 12)
        out.put32(sender.v4, offset + 14)
        out.put16(UInt16(truncatingIfNeeded: targetHardware.value >> 32), offset + 18)
        out.put32(UInt32(truncatingIfNeeded: targetHardware.value), offset + 20)
        out.put32(target.v4, offset + 24)
    }
}

/// The first four bytes of ICMP (RFC 792) and ICMPv6 (RFC 4443), and the four that vary.
struct ICMPHeader: Hashable, Sendable {
    static let length = 8
    var type: UInt8, code: UInt8
    /// Identifier and sequence number, unused, or MTU.
    var rest: UInt32

    init(type: UInt8, code: UInt8, rest: UInt32) {
        self.type = type
        self.code = code
        self.rest = rest
    }

    init(parsing bytes: RawSpan) throws(PacketError) {
        guard bytes.byteCount >= Self.length else { throw .truncated }
        type = bytes.u8(0)
        code = bytes.u8(1)
        rest = bytes.u32(4)
    }

    func emit(into out: inout MutableRawSpan, at offset: Int, checksum: UInt16 = 0) {
        out.put8(type, offset)
        out.put8(code, offset + 1)
        out.put16(checksum, offset + 2)
        out.put32(rest, offset + 4)
    }

    static func echoRequest(v4: Bool) -> UInt8 { v4 ? 8 : 128 }
    static func echoReply(v4: Bool) -> UInt8 { v4 ? 0 : 129 }
}

/// Why a packet could not be delivered, in the words of both ICMP versions.
enum Unreachable: Hashable, Sendable {
    case network, host, port, protocolNumber, prohibited, timeExceeded, tooBig, erroneousHeader

    /// Type and code (RFC 792, RFC 1812 5.2.7, RFC 4443).
    func numbers(v4: Bool) -> (type: UInt8, code: UInt8) {
        switch self {
        case .network: v4 ? (3, 0) : (1, 0)
        case .host: v4 ? (3, 1) : (1, 3)
        case .port: v4 ? (3, 3) : (1, 4)
        case .protocolNumber: v4 ? (3, 2) : (4, 1)
        case .prohibited: v4 ? (3, 13) : (1, 1)
        case .timeExceeded: v4 ? (11, 0) : (3, 0)
        case .tooBig: v4 ? (3, 4) : (2, 0)
        case .erroneousHeader: v4 ? (12, 0) : (4, 0)
        }
    }
}
