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
