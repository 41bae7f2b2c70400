internal import Kernel
internal import SystemPackage

/// How the servers of a port can be reached inside.
struct Reachability: OptionSet, Hashable, Sendable {
    let rawValue: UInt8
    /// At the workspace's address.
    static let v4 = Reachability(rawValue: 1), v6 = Reachability(rawValue: 2)
    /// At its loopback.
    static let loopback4 = Reachability(rawValue: 4), loopback6 = Reachability(rawValue: 8)
    /// From anywhere.
    static let anywhere: Reachability = [.v4, .v6]

    /// By the port, of the sockets that wait inside.
    static func of(_ sockets: [ListeningSocket], _ layout: NetworkLayout) -> [UInt16: Reachability] {
        var found: [UInt16: Reachability] = [:]
        for socket in sockets {
            let reach: Reachability
            switch socket.endpoint.address {
            case .any4: reach = [.v4, .loopback4]
            case .any6: reach = socket.isV6Only ? [.v6, .loopback6] : [.v4, .v6, .loopback4, .loopback6]
            case layout.guest4: reach = .v4
            case layout.guest6: reach = .v6
            case .loopback4: reach = .loopback4
            case .loopback6: reach = .loopback6
            default: continue  // an address of the workspace's own making
            }
            found[socket.endpoint.port, default: []].formUnion(reach)
        }
        return found
    }
}

/// Why a port leads inside.
public enum ForwardOrigin: UInt8, Sendable {
    /// It is declared, and something listens there.
    case declared = 1
    /// The configuration wants it.
    case configured = 2
    /// Somebody asked for it by the API.
    case requested = 3
}

/// # Theory of operation
///
/// A port of the outside that leads inside. Declared ports and those of `network.forwards` follow what listens inside:
/// the outside listens while, and only while, somebody does there, so that refused means refused. What is asked for by
/// the API leads to one endpoint, come what may, as slirp4netns's do.
///
/// Whoever comes from the container's own loopback is led to the workspace's: bytes are passed from socket to socket,
/// and servers that listen on 127.0.0.1 only can be reached, by such clients only. Everybody else comes in over the link.
struct InboundForward {
    /// Where it leads; ``IPAddress/any6`` for whichever address something listens on.
    let guest: Endpoint
    let isUDP: Bool
    let origin: ForwardOrigin
    /// Where clients come to.
    let outside: Endpoint
    /// nil: it could not be opened.
    var socket: Descriptor?
    /// The interface that clients must come by; empty: every one, or the one that the socket is bound to.
    var interface = ""
    /// Where something listens inside, as last seen.
    var reach: Reachability = []
    /// What its socket does.
    enum State: Equatable {
        /// Another forwarder may have used it.
        case unknown
        /// Clients are waited for.
        case open
        /// Clients are refused, as there is nobody inside.
        case refusing
        /// It could not be opened.
        case failed(Errno)
    }
    var state = State.unknown
    /// Its place in the table.
    var slot: Int?

    /// It depends on what listens inside.
    var follows: Bool { guest.address == .any6 }

    /// Whether anybody who can come here would be served.
    var isServed: Bool {
        if !follows { return true }
        return !reach.isDisjoint(with: outside.address.isLoopback ? [.v4, .v6, .loopback4, .loopback6] : .anywhere)
    }

    /// How a client gets in.
    enum Path: Equatable {
        /// Over the link.
        case link(Endpoint)
        /// From socket to socket.
        case splice(Endpoint)
        /// There is nobody.
        case refused
    }

    func path(of client: IPAddress, _ layout: NetworkLayout) -> Path {
        guard follows else { return .link(guest) }
        var order: [(Reachability, IPAddress)] = [(.v4, layout.guest4), (.v6, layout.guest6)]
        let isLocal = client.isLoopback && !isUDP
        if isLocal {
            order = [(.loopback4, .loopback4), (.v4, layout.guest4), (.loopback6, .loopback6), (.v6, layout.guest6)]
        }
        // A client is answered in its own family where that can be.
        if !client.isV4 { order = order.filter { !$0.1.isV4 } + order.filter { $0.1.isV4 } }
        if layout.subnet6 == nil { order.removeAll { $0.1 == layout.guest6 } }
        guard let found = order.first(where: { reach.contains($0.0) })?.1 else {
            // A datagram that nobody takes is lost inside as well.
            return isUDP ? .link(Endpoint(layout.guest4, guest.port)) : .refused
        }
        return isLocal ? .splice(Endpoint(found, guest.port)) : .link(Endpoint(found, guest.port))
    }
}

extension IPAddress {
    /// 127.0.0.0/8 or ::1.
    var isLoopback: Bool { isV4 ? v4 >> 24 == 127 : self == .loopback6 }
}

/// A declared port's socket outside: whether it is for everybody or for the container's loopback.
struct DeclaredPort: Hashable, Comparable {
    enum Place: UInt32 { case everywhere, loopback4, loopback6 }
    let port: UInt16
    let isUDP: Bool
    let place: Place

    /// Its number among all forwards: above those that others give.
    var id: UInt32 { 1 << 31 | (isUDP ? 1 << 18 : 0) | place.rawValue << 16 | UInt32(port) }

    static func < (a: Self, b: Self) -> Bool { a.id < b.id }

    /// What is to be open for declared ports where these are served inside. Of ranges, UDP ports that clients are given
    /// (ip_local_port_range) are taken for clients'.
    /// A server on the loopback only is reached from the container's loopback, where the port is in `loopback`.
    static func wanted(
        _ declared: PortSet, loopback: PortSet, tcp: [UInt16: Reachability], udp: [UInt16: Reachability]
    ) -> Set<DeclaredPort> {
        var wanted: Set<DeclaredPort> = []
        for (port, reach) in tcp where declared.contains(port) {
            let isLocal = reach.isDisjoint(with: .anywhere)
            if isLocal, !loopback.contains(port) { continue }
            let places: [Place] = isLocal ? [.loopback4, .loopback6] : [.everywhere]
            for place in places { wanted.insert(DeclaredPort(port: port, isUDP: false, place: place)) }
        }
        for (port, reach) in udp where declared.contains(port) && !reach.isDisjoint(with: .anywhere) {
            let isSingle = declared.ranges.contains { $0.count == 1 && $0.contains(port) }
            if port >= 32768, !isSingle { continue }
            wanted.insert(DeclaredPort(port: port, isUDP: true, place: .everywhere))
        }
        return wanted
    }
}
