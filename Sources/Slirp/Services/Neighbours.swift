internal import Kernel

/// Builds the ICMPv6 messages of neighbour discovery (RFC 4861) and router advertisement (RFC 4861, RFC 8106). Pure.
struct NeighbourDiscovery: Sendable {
    let layout: NetworkLayout
    let mtu: Int

    private static func u32(_ value: UInt32) -> [UInt8] {
        (0..<4).map { UInt8(truncatingIfNeeded: value >> UInt32(24 - 8 * $0)) }
    }
    private static var hardware: [UInt8] {
        (0..<6).map { UInt8(truncatingIfNeeded: HardwareAddress.gateway.value >> UInt64(40 - 8 * $0)) }
    }

    /// Whether a router's or a neighbour's solicitation is valid (RFC 4861, 6.1.1 and 7.1.1). The checksum was verified.
    static func isValid(_ message: [UInt8], _ ip: IPHeader) -> Bool {
        // Nothing that crossed a router.
        guard message.count >= 8, message[1] == 0, ip.timeToLive == 255 else { return false }
        let isNeighbour = message[0] == 135
        var at = isNeighbour ? 24 : 8
        guard message.count >= at, !isNeighbour || message[8] != 0xff else { return false }
        var namesSource = false
        while at < message.count {
            guard at + 1 < message.count, message[at + 1] > 0, at + Int(message[at + 1]) * 8 <= message.count else {
                return false
            }
            if message[at] == 1 { namesSource = true }
            at += Int(message[at + 1]) * 8
        }
        guard ip.source == .any6 else { return true }
        // The solicited-node multicast addresses: ff02::1:ff00:0/104.
        let isToGroup = ip.destination.high == 0xff02_0000_0000_0000 && ip.destination.low >> 24 == 0x1ff
        return !namesSource && (isToGroup || !isNeighbour)
    }

    /// A neighbour advertisement for one of our addresses: router, solicited, override.
    func advertisement(for target: IPAddress, solicited: Bool) -> [UInt8] {
        [136, 0, 0, 0, solicited ? 0xe0 : 0xa0, 0, 0, 0] + target.bytes + [2, 1] + Self.hardware
    }

    /// A router advertisement: default route, prefix for autoconfiguration, MTU, name server; more by DHCPv6, for who asks.
    func routerAdvertisement(prefix: Subnet) -> [UInt8] {
        var message: [UInt8] = [134, 0, 0, 0, 64, 0x40, 0x07, 0x08 /* 1800 s */, 0, 0, 0, 0, 0, 0, 0, 0]
        message += [1, 1] + Self.hardware
        message += [5, 1, 0, 0] + Self.u32(UInt32(mtu))
        message += [3, 4, UInt8(prefix.length), 0xc0] + Self.u32(86400) + Self.u32(14400) + [0, 0, 0, 0]
        message += prefix.address.bytes
        message += [25, 3, 0, 0] + Self.u32(1200) + layout.nameServer6.bytes
        return message
    }
}
