internal import Kernel

/// A DHCPv6 message as far as a server with one address to give needs it (RFC 8415).
struct DHCPv6Request: Hashable, Sendable {
    enum Kind: UInt8 {
        case solicit = 1, request = 3, confirm = 4, renew = 5, rebind = 6, release = 8, decline = 9
        case informationRequest = 11
    }
    var kind: Kind
    /// Three bytes that the answer has too.
    var transaction: [UInt8]
    /// DUIDs: the client's, and the server's that it means.
    var client: [UInt8]?, server: [UInt8]?
    /// The identities that want an address (IA_NA).
    var associations: [UInt32] = []
    /// A reply is taken at once.
    var isRapid = false

    /// Reads a client's message from the UDP payload; options that are cut make it malformed.
    init(parsing bytes: RawSpan) throws(PacketError) {
        guard bytes.byteCount >= 4 else { throw .truncated }
        guard let kind = Kind(rawValue: bytes.u8(0)) else { throw .malformed }
        self.kind = kind
        transaction = bytes.array(1..<4)
        var at = 4
        while at < bytes.byteCount {
            guard at + 4 <= bytes.byteCount else { throw .truncated }
            let length = Int(bytes.u16(at + 2))
            let start = at + 4
            guard start + length <= bytes.byteCount else { throw .truncated }
            switch bytes.u16(at) {
            case 1: client = bytes.array(start..<start + length)
            case 2: server = bytes.array(start..<start + length)
            case 3:
                guard length >= 12 else { throw .malformed }
                if associations.count < 8 { associations.append(bytes.u32(start)) }
            case 14: isRapid = true
            default: break
            }
            at = start + length
        }
    }
}

/// Answers DHCPv6 clients with the workspace's one address, or only with where names are looked up. Pure.
struct DHCPv6Server: Sendable {
    let layout: NetworkLayout

    /// DUID-LL (RFC 8415, 11.4): Ethernet, and the gateway's hardware address.
    private static let identity: [UInt8] =
        [0, 3, 0, 1] + (0..<6).map { UInt8(truncatingIfNeeded: HardwareAddress.gateway.value >> UInt64(40 - 8 * $0)) }

    private static func option(_ code: UInt8, _ data: [UInt8]) -> [UInt8] {
        [0, code, UInt8(truncatingIfNeeded: data.count >> 8), UInt8(truncatingIfNeeded: data.count)] + data
    }
    private static func u32(_ value: UInt32) -> [UInt8] {
        (0..<4).map { UInt8(truncatingIfNeeded: value >> UInt32(24 - 8 * $0)) }
    }

    /// The answer's UDP payload; nil when none is due.
    func answer(_ request: DHCPv6Request) -> [UInt8]? {
        // RFC 8415, 16: who asks everybody names no server, and who names one means it.
        let isForAll = [.solicit, .confirm, .rebind].contains(request.kind)
        if let server = request.server, isForAll || server != Self.identity { return nil }
        if request.server == nil, !isForAll, request.kind != .informationRequest { return nil }
        if request.client == nil, request.kind != .informationRequest { return nil }
        let isAdvertised = request.kind == .solicit && !request.isRapid
        var reply: [UInt8] = [isAdvertised ? 2 : 7] + request.transaction
        if let client = request.client { reply += Self.option(1, client) }
        reply += Self.option(2, Self.identity)
        switch request.kind {
        case .solicit, .request, .renew, .rebind:
            if request.kind == .solicit, request.isRapid { reply += Self.option(14, []) }
            for (place, association) in request.associations.enumerated() {
                // One address for the first; there is no other (NoAddrsAvail).
                let content =
                    place == 0
                    ? Self.option(5, layout.guest6.bytes + Self.u32(14400) + Self.u32(86400))
                    : Self.option(13, [0, 2])
                reply += Self.option(3, Self.u32(association) + Self.u32(7200) + Self.u32(11520) + content)
            }
        case .confirm, .release, .decline: reply += Self.option(13, [0, 0])
        case .informationRequest: break
        }
        return reply + Self.option(23, layout.nameServer6.bytes)
    }
}
