internal import Kernel

/// The outside's name servers, and the queries that wait for an answer. A server that did not answer, or said that it
/// will not, is passed over: the next is asked at once, and is the first one asked from then on.
struct NameServers {
    /// How long a server has before the next is asked: less than a resolver's own patience (5 s, resolv.conf(5)).
    static let patience = Duration.milliseconds(1500)
    /// Longer queries are not kept; a resolver asks them again itself.
    static let queryLimit = 1232

    private var servers: [IPAddress]
    private var first = 0
    /// By flow.
    var queries: [Int: [UInt8]] = [:]

    init(_ servers: [IPAddress]) { self.servers = servers }

    /// Whom to ask; nil when there is nobody.
    var current: IPAddress? { servers.isEmpty ? nil : servers[first % servers.count] }

    /// That server is silent: if it is still the one to ask, the next is from now on.
    mutating func passOver(_ server: IPAddress) {
        if server == current { first = (first + 1) % servers.count }
    }

    /// resolv.conf says something else now.
    mutating func replace(with servers: [IPAddress]) {
        guard servers != self.servers else { return }
        self.servers = servers
        first = 0
    }
}
