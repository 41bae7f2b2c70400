internal import Kernel

/// A DHCPv4 message as far as a server with one address to give needs it (RFC 2131, RFC 2132).
struct DHCPRequest: Hashable, Sendable {
    enum Kind: UInt8 { case discover = 1, request = 3, decline = 4, release = 7, inform = 8 }
    var kind: Kind
    var transaction: UInt32
    var flags: UInt16
    var clientAddress: IPAddress
    var hardware: HardwareAddress
    var requestedAddress: IPAddress?
    var serverIdentifier: IPAddress?

    /// Reads a client's message from the UDP payload.
    init(parsing bytes: RawSpan) throws(PacketError) {
        guard bytes.byteCount >= 240 else { throw .truncated }
        guard bytes.u8(0) == 1, bytes.u16(1) == 0x0106, bytes.u32(236) == 0x6382_5363 else { throw .malformed }
        transaction = bytes.u32(4)
        flags = bytes.u16(10)
        clientAddress = IPAddress(v4: bytes.u32(12))
        hardware = HardwareAddress(value: UInt64(bytes.u32(28)) << 16 | UInt64(bytes.u16(32)))
        var kind: Kind?
        var at = 240
        while at < bytes.byteCount, bytes.u8(at) != 255 {
            if bytes.u8(at) == 0 {
                at += 1
                continue
            }
            guard at + 2 <= bytes.byteCount, at + 2 + Int(bytes.u8(at + 1)) <= bytes.byteCount else { throw .truncated }
            switch (bytes.u8(at), bytes.u8(at + 1)) {
            case (53, 1): kind = Kind(rawValue: bytes.u8(at + 2))
            case (50, 4): requestedAddress = IPAddress(v4: bytes.u32(at + 2))
            case (54, 4): serverIdentifier = IPAddress(v4: bytes.u32(at + 2))
            default: break
            }
            at += 2 + Int(bytes.u8(at + 1))
        }
        guard let kind else { throw .malformed }
        self.kind = kind
    }
}

/// Answers DHCPv4 clients with the workspace's one address. Pure.
struct DHCPServer: Sendable {
    let layout: NetworkLayout
    let mtu: Int

    /// The answer's UDP payload; nil when none is due.
    func answer(_ request: DHCPRequest) -> [UInt8]? {
        let type: UInt8
        switch request.kind {
        case .discover: type = 2
        case .request:
            if let server = request.serverIdentifier, server != layout.gateway4 { return nil }
            let wanted = request.requestedAddress ?? request.clientAddress
            type = wanted == layout.leased4 ? 5 : 6
        case .inform: type = 5
        case .decline, .release: return nil
        }
        var reply: [UInt8] = [2, 1, 6, 0]
        func u32(_ value: UInt32) -> [UInt8] { (0..<4).map { UInt8(truncatingIfNeeded: value >> UInt32(24 - 8 * $0)) } }
        reply += u32(request.transaction) + [0, 0, UInt8(request.flags >> 8), UInt8(truncatingIfNeeded: request.flags)]
        reply += request.clientAddress.bytes
        reply += type == 6 || request.kind == .inform ? [0, 0, 0, 0] : layout.leased4.bytes
        reply += layout.gateway4.bytes + [0, 0, 0, 0]
        reply += (0..<6).map { UInt8(truncatingIfNeeded: request.hardware.value >> UInt64(40 - 8 * $0)) }
        reply += [UInt8](repeating: 0, count: 10 + 64 + 128) + u32(0x6382_5363)
        reply += [53, 1, type, 54, 4] + layout.gateway4.bytes
        if type != 6 {
            let mask = layout.subnet4.length == 0 ? 0 : UInt32.max << UInt32(32 - layout.subnet4.length)
            reply += [1, 4] + u32(mask) + [3, 4] + layout.router4.bytes + [6, 4] + layout.nameServer4.bytes
            reply += [26, 2, UInt8(truncatingIfNeeded: mtu >> 8), UInt8(truncatingIfNeeded: mtu)]
            if request.kind != .inform { reply += [51, 4] + u32(86400) }
        }
        reply.append(255)
        // RFC 951: a BOOTP message has at least 300 bytes.
        return reply + [UInt8](repeating: 0, count: max(0, 300 - reply.count))
    }
}
