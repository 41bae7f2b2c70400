internal import CKernel

/// An IPv4 or IPv6 address in one shape: 128 bits, IPv4 as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2). Plain data: it may live
/// in shared memory.
public struct IPAddress: Hashable, Sendable, CustomStringConvertible {
    /// The first and the last eight bytes, in host order.
    public var high: UInt64, low: UInt64

    /// An address from its two halves.
    @inlinable public init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }

    /// An IPv4 address from its 32 bits in host order.
    @inlinable public init(v4: UInt32) { self.init(high: 0, low: 0xffff_0000_0000 | UInt64(v4)) }

    /// Whether it is an IPv4 address.
    @inlinable public var isV4: Bool { high == 0 && low >> 32 == 0xffff }
    /// Its 32 bits, if ``isV4``.
    @inlinable public var v4: UInt32 { UInt32(truncatingIfNeeded: low) }

    /// Whether it is a link-local IPv6 address (fe80::/10), which means nothing without an interface.
    @inlinable public var isLinkLocal6: Bool { high >> 54 == 0x3fa }

    /// ::, and no address yet.
    public static let any6 = IPAddress(high: 0, low: 0)
    /// 0.0.0.0
    public static let any4 = IPAddress(v4: 0)
    /// 127.0.0.1
    public static let loopback4 = IPAddress(v4: 0x7f00_0001)
    /// ::1
    public static let loopback6 = IPAddress(high: 0, low: 1)

    /// Whether this address and `other` share the first `length` bits. For IPv4, `length` counts from its own first bit.
    @inlinable public func matches(_ other: IPAddress, prefix length: Int) -> Bool {
        guard isV4 == other.isV4 else { return false }
        let bits = isV4 ? length + 96 : length
        if bits <= 0 { return true }
        if bits <= 64 { return (high ^ other.high) >> UInt64(64 - bits) == 0 }
        return high == other.high && (bits >= 128 ? low == other.low : (low ^ other.low) >> UInt64(128 - bits) == 0)
    }

    /// Reads `10.0.2.3`, `fd00::3` or `::ffff:10.0.2.3` (RFC 4291, 2.2); nil for anything else.
    public init?(_ text: some StringProtocol) {
        if !text.contains(":") {
            guard let v4 = Self.dotted(text) else { return nil }
            self.init(v4: v4)
            return
        }
        var groups: [UInt16] = []
        var gap: Int?
        var rest = Array(text.split(separator: ":", omittingEmptySubsequences: false))
        if rest.first?.isEmpty == true {
            guard rest.count > 2, rest[1].isEmpty else { return nil }
            rest.removeFirst()
        }
        if rest.count > 1, rest.last?.isEmpty == true, rest[rest.count - 2].isEmpty { rest.removeLast() }
        for (index, part) in rest.enumerated() {
            if part.isEmpty {
                guard gap == nil else { return nil }
                gap = groups.count
            } else if index == rest.count - 1, part.contains(".") {
                guard let v4 = Self.dotted(part) else { return nil }
                groups += [UInt16(v4 >> 16), UInt16(truncatingIfNeeded: v4)]
            } else {
                guard part.utf8.count <= 4, let group = UInt16(part, radix: 16) else { return nil }
                groups.append(group)
            }
        }
        if let gap {
            guard groups.count < 8 else { return nil }
            groups.insert(contentsOf: [UInt16](repeating: 0, count: 8 - groups.count), at: gap)
        }
        guard groups.count == 8 else { return nil }
        self.init(
            high: groups[..<4].reduce(0) { $0 << 16 | UInt64($1) },
            low: groups[4...].reduce(0) { $0 << 16 | UInt64($1) })
    }

    private static func dotted(_ text: some StringProtocol) -> UInt32? {
        let parts = text.split(separator: ".", omittingEmptySubsequences: false)
        guard parts.count == 4 else { return nil }
        var value: UInt32 = 0
        for part in parts {
            guard part.utf8.count <= 3, part.allSatisfy({ $0.isASCII && $0.isNumber }), let byte = UInt8(part) else {
                return nil
            }
            value = value << 8 | UInt32(byte)
        }
        return value
    }

    /// As RFC 5952 writes it; dotted for IPv4.
    public var description: String {
        if isV4 { return (0..<4).map { String(v4 >> UInt32(24 - 8 * $0) & 255) }.joined(separator: ".") }
        let groups = (0..<8).map { UInt16(truncatingIfNeeded: ($0 < 4 ? high : low) >> UInt64(48 - 16 * ($0 % 4))) }
        var best = 0..<0
        var start = 0
        while start < 8 {
            var end = start
            while end < 8, groups[end] == 0 { end += 1 }
            if end - start > best.count, end - start > 1 { best = start..<end }
            start = max(end, start + 1)
        }
        func hex(_ range: Range<Int>) -> String { groups[range].map { String($0, radix: 16) }.joined(separator: ":") }
        return best.isEmpty ? hex(0..<8) : hex(0..<best.lowerBound) + "::" + hex(best.upperBound..<8)
    }

    /// The bytes in network order: 4 for IPv4, 16 for IPv6.
    public var bytes: [UInt8] {
        isV4
            ? (0..<4).map { UInt8(truncatingIfNeeded: v4 >> UInt32(24 - 8 * $0)) }
            : (0..<16).map { UInt8(truncatingIfNeeded: ($0 < 8 ? high : low) >> UInt64(56 - 8 * ($0 % 8))) }
    }
}

/// An address and a port. Plain data.
public struct Endpoint: Hashable, Sendable, CustomStringConvertible {
    /// The address.
    public var address: IPAddress
    /// The port.
    public var port: UInt16

    /// An endpoint.
    @inlinable public init(_ address: IPAddress, _ port: UInt16) {
        self.address = address
        self.port = port
    }

    /// `10.0.2.3:53` or `[fd00::3]:53`.
    public var description: String { address.isV4 ? "\(address):\(port)" : "[\(address)]:\(port)" }

    @inline(__always)
    var raw: ck_endpoint { ck_endpoint(high: address.high, low: address.low, scope: 0, port: port) }

    @inline(__always)
    init(_ raw: ck_endpoint) { self.init(IPAddress(high: raw.high, low: raw.low), raw.port) }
}

/// A network: an address and the length of its prefix.
public struct Subnet: Hashable, Sendable, CustomStringConvertible {
    /// Any address of the network.
    public var address: IPAddress
    /// Bits of the prefix, from the version's own first bit.
    public var length: Int

    /// A network.
    public init(_ address: IPAddress, _ length: Int) {
        self.address = address
        self.length = length
    }

    /// Reads `10.0.2.0/24` or `fd00::/64`; nil for anything else.
    public init?(_ text: some StringProtocol) {
        let parts = text.split(separator: "/", omittingEmptySubsequences: false)
        guard parts.count == 2, let address = IPAddress(parts[0]), let length = Int(parts[1]), length >= 0,
            length <= (address.isV4 ? 32 : 128)
        else { return nil }
        self.init(address, length)
    }

    /// The network's first address.
    public var network: IPAddress {
        if address.isV4 {
            return IPAddress(v4: length <= 0 ? 0 : address.v4 & (.max << UInt32(max(0, 32 - length))))
        }
        func mask(_ bits: Int) -> UInt64 { bits <= 0 ? 0 : bits >= 64 ? .max : .max << UInt64(64 - bits) }
        return IPAddress(high: address.high & mask(length), low: address.low & mask(length - 64))
    }

    /// Whether the address lies in the network.
    @inlinable public func contains(_ other: IPAddress) -> Bool { other.matches(address, prefix: length) }

    /// `10.0.2.0/24`.
    public var description: String { "\(address)/\(length)" }
}
