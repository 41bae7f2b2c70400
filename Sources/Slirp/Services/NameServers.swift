public import Kernel

/// A name server of the outside: its address, and for a link-local one the interface that leads to it.
public struct NameServer: Hashable, Sendable, LosslessStringConvertible {
    /// The server's address.
    public let address: IPAddress
    /// The interface's name or index, for a link-local address.
    public let interface: String?

    /// A server at an address.
    public init(_ address: IPAddress, interface: String? = nil) {
        self.address = address
        self.interface = interface
    }

    /// Reads `198.18.0.1`, `fd00::1` or `fe80::1%eth0` (RFC 4007, 11). Nil for anything else, and for a link-local address
    /// without an interface, which names no server.
    public init?(_ text: String) {
        let parts = text.split(separator: "%", maxSplits: 1, omittingEmptySubsequences: false)
        guard let first = parts.first, let address = IPAddress(first) else { return nil }
        guard address.isLinkLocal6 else {
            self.init(address)
            return
        }
        guard parts.count == 2, (1...15).contains(parts[1].utf8.count), !parts[1].contains("/") else { return nil }
        self.init(address, interface: String(parts[1]))
    }

    /// Whether a server may be asked that was named only while the workspace ran: where the workspace itself might connect to,
    /// so neither loopback, nor a link-local address, nor a metadata service.
    public var mayBeFollowed: Bool { Policy.isOrdinary(address) && !Policy.isMetadata(address) }

    /// As ``init(_:)`` reads it.
    public var description: String { interface.map { "\(address)%\($0)" } ?? "\(address)" }
}

/// The outside's name servers in the order in which resolv.conf names them, and which of them were silent lately. Pure.
///
/// A server that is silent or cannot be reached is asked after the others for ``silence``; then one query asks it and the
/// next server at once, so that a server that came back is used again and one that did not costs no query any time. A
/// server that refuses a query is not silent: it may know other names, and stays where it is.
struct NameServers: Sendable {
    /// How long a server has before the next is asked too: less than a resolver's own patience (5 s, resolv.conf(5)).
    static let patience = Duration.milliseconds(1500)
    static let silence = Duration.seconds(30)
    /// Servers that count. glibc uses three (MAXNS), musl three, systemd-resolved more.
    static let limit = 8

    private var servers: [NameServer]
    private var silentUntil: [NameServer: MonotonicInstant] = [:]

    init(_ servers: [NameServer]) { self.servers = Array(servers.prefix(Self.limit)) }

    /// Whether there is any.
    var isEmpty: Bool { servers.isEmpty }

    /// The servers in the order in which they are asked.
    var order: [NameServer] {
        servers.filter { silentUntil[$0] == nil } + servers.filter { silentUntil[$0] != nil }
    }

    /// The order for one query, and how many of them are asked at once.
    mutating func plan(at now: MonotonicInstant) -> (order: [NameServer], atOnce: Int) {
        let order = order
        guard let first = order.first, silentUntil[first] == nil,
            let back = order.first(where: { silentUntil[$0].map { $0 <= now } ?? false })
        else { return (order, min(1, order.count)) }
        silentUntil[back] = now + Self.silence
        return ([back] + order.filter { $0 != back }, 2)
    }

    /// The server did not answer, or cannot be reached.
    mutating func wasSilent(_ server: NameServer, at now: MonotonicInstant) {
        if servers.contains(server), silentUntil[server] == nil { silentUntil[server] = now + Self.silence }
    }

    /// The server answered.
    mutating func answered(_ server: NameServer) { silentUntil[server] = nil }

    /// Takes other servers, as resolv.conf names others now.
    mutating func replace(with servers: [NameServer]) {
        let servers = Array(servers.prefix(Self.limit))
        guard servers != self.servers else { return }
        self.servers = servers
        silentUntil = silentUntil.filter { servers.contains($0.key) }
    }
}
