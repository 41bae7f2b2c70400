internal import SystemPackage

/// Where packets to a network go. Plain data.
public struct Route: Hashable, Sendable, CustomStringConvertible {
    /// The network; of length 0 for everything.
    public var destination: Subnet
    /// Who carries them on; nil: the network is on the link.
    public var gateway: IPAddress?

    /// A route.
    public init(_ destination: Subnet, via gateway: IPAddress?) {
        self.destination = destination
        self.gateway = gateway
    }

    /// The default route of the gateway's family.
    public static func `default`(via gateway: IPAddress) -> Route {
        Route(Subnet(gateway.isV4 ? .any4 : .any6, 0), via: gateway)
    }

    /// Reads what ``description`` wrote; nil for anything else.
    public init?(_ text: some StringProtocol) {
        let words = text.split(separator: " ")
        guard words.count == 1 || (words.count == 3 && words[1] == "via"), let destination = Subnet(words[0]) else {
            return nil
        }
        self.destination = destination
        if words.count == 3 {
            guard let gateway = IPAddress(words[2]) else { return nil }
            self.gateway = gateway
        }
    }

    /// `0.0.0.0/0 via 10.0.2.2`.
    public var description: String { "\(destination)\(gateway.map { " via \($0)" } ?? "")" }
}

/// The addresses and routes of the interface by which a network namespace reaches everything else.
public struct InterfaceNetwork: Hashable, Sendable {
    /// Its addresses that mean something beyond the link, in the kernel's order.
    public var addresses: [Subnet]
    /// Its routes but those that come with addresses: first those without a gateway.
    public var routes: [Route]

    /// A network.
    public init(addresses: [Subnet], routes: [Route]) {
        self.addresses = addresses
        self.routes = routes
    }

    /// Of the interface with the best default route, by family; nil where there is none.
    public static func ofDefaultRoute() throws(KernelError) -> InterfaceNetwork? {
        let netlink = try RouteNetlink()
        var found: InterfaceNetwork?
        for family in [UInt8(2), 10] {
            let routes = try netlink.routes(family)
            guard let best = routes.filter({ $0.route.destination.length == 0 }).min(by: { $0.metric < $1.metric })
            else { continue }
            let addresses = try netlink.addresses(family, interface: best.interface)
            guard !addresses.isEmpty else { continue }
            // Of several default routes the best; of the rest all.
            let own = routes.filter { entry in
                entry.interface == best.interface && (entry.route.destination.length > 0 || entry.route == best.route)
            }
            var network = found ?? InterfaceNetwork(addresses: [], routes: [])
            network.addresses += addresses
            network.routes += own.map(\.route).sorted { $0.gateway == nil && $1.gateway != nil }
            found = network
        }
        return found
    }
}

extension RouteNetlink {
    /// The main table's unicast routes that did not come with an address.
    fileprivate borrowing func routes(_ family: UInt8) throws(KernelError) -> [(
        interface: UInt32, metric: UInt32, route: Route
    )] {
        var found: [(interface: UInt32, metric: UInt32, route: Route)] = []
        // rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags.
        try dump(26, [family] + [UInt8](repeating: 0, count: 11)) { head, attributes in
            let body = Array(head)
            let isOurs = body[0] == family && body[4] == 254 && body[5] != 2 && body[7] == 1
            // RTM_F_CLONED: of a cache.
            guard isOurs, body[9] & 2 == 0, let interface = attributes.number(4) else { return }
            let zero: IPAddress = family == 2 ? .any4 : .any6
            let destination = attributes.address(1) ?? zero
            found.append(
                (
                    interface, attributes.number(6) ?? 0,
                    Route(Subnet(destination, Int(body[1])), via: attributes.address(5))
                ))
        }
        return found
    }

    /// An interface's addresses of global scope.
    fileprivate borrowing func addresses(_ family: UInt8, interface: UInt32) throws(KernelError) -> [Subnet] {
        var found: [Subnet] = []
        // ifaddrmsg: family, prefix length, flags, scope, index.
        try dump(22, [family] + [UInt8](repeating: 0, count: 7)) { head, attributes in
            let body = Array(head)
            let index = (0..<4).reduce(UInt32(0)) { $0 | UInt32(body[4 + $1]) << (8 * UInt32($1)) }
            // IFA_F_TENTATIVE and IFA_F_DADFAILED: not its own yet, or not at all.
            guard body[0] == family, body[3] == 0, index == interface, body[2] & 0x48 == 0,
                let address = attributes.address(2) ?? attributes.address(1)
            else { return }
            found.append(Subnet(address, Int(body[1])))
        }
        return found
    }

    private borrowing func dump(
        _ type: UInt16, _ request: [UInt8], _ take: (_ body: ArraySlice<UInt8>, _ attributes: NetlinkAttributes) -> Void
    ) throws(KernelError) {
        try dumpNetlink(
            socket.number, NetlinkMessage(type: type, flags: 0x301, body: request), headLength: request.count, "routes",
            take)
    }
}
