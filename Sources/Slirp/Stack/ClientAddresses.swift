internal import Kernel

/// Which clients of the outside can be known inside by their own address: those to whom the workspace would answer over
/// the link. To itself it answers itself (the bridge of a Docker inside has the address of the one outside), and what a
/// VPN inside carries comes out elsewhere.
///
/// Answers are kept for a second: for each datagram would be too often to ask.
struct ClientAddresses {
    private var known: [IPAddress: Bool] = [:]
    private var expiresAt: MonotonicInstant
    /// More are asked about anew.
    static let capacity = 1024
    static let lifetime = Duration.seconds(1)

    init(at now: MonotonicInstant) { expiresAt = now + Self.lifetime }

    /// Whether the workspace answers the address over the link, as `ask` says when it is not known yet.
    mutating func isAnswered(_ address: IPAddress, at now: MonotonicInstant, ask: (IPAddress) -> Bool) -> Bool {
        if now >= expiresAt || known.count >= Self.capacity {
            known.removeAll(keepingCapacity: true)
            expiresAt = now + Self.lifetime
        }
        if let answer = known[address] { return answer }
        let answer = ask(address)
        known[address] = answer
        return answer
    }
}

/// By which endpoints a client may be known inside. One that has its own address there has just that; of those that are all
/// known by the gateway's, two may have the same port: the second gets another.
struct ClientNames {
    let client: Endpoint
    /// The address that it is known by.
    let address: IPAddress

    /// How many there are.
    var count: Int { address == client.address ? 1 : 16 }

    /// One of them, by its number: its own port first, the others above those that servers have.
    subscript(_ number: Int) -> Endpoint {
        guard number > 0 else { return Endpoint(address, client.port) }
        // The same client gets the same ones, so that its datagrams find its flow.
        var mix = client.address.high ^ client.address.low &* 0x9e37_79b9_7f4a_7c15 &+ UInt64(client.port)
        mix = (mix ^ mix >> 29 &+ UInt64(number)) &* 0xbf58_476d_1ce4_e5b9
        return Endpoint(address, 32768 + UInt16(truncatingIfNeeded: (mix ^ mix >> 32) & 0x7fff))
    }
}
