internal import CKernel
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
        try dump(26, [family] + [UInt8](repeating: 0, count: 11)) { body, attributes in
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
        try dump(22, [family] + [UInt8](repeating: 0, count: 7)) { body, attributes in
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
        _ type: UInt16, _ request: [UInt8], _ take: (_ body: [UInt8], _ attributes: Attributes) -> Void
    ) throws(KernelError) {
        let bytes = NetlinkMessage(type: type, flags: 0x301, body: request).finished
        let sent = unsafe bytes.withUnsafeBytes { unsafe ck_netlink_send(socket.number, $0.baseAddress, $0.count) }
        _ = try check(sent, "send to netlink")
        var buffer = [UInt8](repeating: 0, count: 32768)
        for _ in 0..<1000 {
            guard waitReadable(socket.number, .seconds(5)), case .bytes(let count) = socket.read(into: &buffer) else {
                throw KernelError(call: "read from netlink", errno: .timedOut)
            }
            var offset = 0
            while offset + 16 <= count {
                let length = Int(buffer[offset]) | Int(buffer[offset + 1]) << 8 | Int(buffer[offset + 2]) << 16
                let kind = UInt16(buffer[offset + 4]) | UInt16(buffer[offset + 5]) << 8
                if kind == 3 || kind == 2 { return }  // NLMSG_DONE, NLMSG_ERROR
                guard length >= 16, offset + length <= count else { return }
                if length >= 16 + request.count {
                    let start = offset + 16
                    take(
                        Array(buffer[start..<start + request.count]),
                        Attributes(bytes: Array(buffer[start + request.count..<offset + length])))
                }
                offset += (length + 3) & ~3
            }
        }
    }
}

/// The attributes of a netlink message (struct rtattr).
private struct Attributes {
    let bytes: [UInt8]

    func find(_ type: UInt16) -> ArraySlice<UInt8>? {
        var at = 0
        while at + 4 <= bytes.count {
            let length = Int(bytes[at]) | Int(bytes[at + 1]) << 8
            guard length >= 4, at + length <= bytes.count else { return nil }
            if UInt16(bytes[at + 2]) | UInt16(bytes[at + 3]) << 8 == type { return bytes[at + 4..<at + length] }
            at += (length + 3) & ~3
        }
        return nil
    }

    func number(_ type: UInt16) -> UInt32? {
        guard let found = find(type), found.count >= 4 else { return nil }
        return found.prefix(4).reversed().reduce(0) { $0 << 8 | UInt32($1) }
    }

    func address(_ type: UInt16) -> IPAddress? {
        guard let found = find(type) else { return nil }
        switch found.count {
        case 4: return IPAddress(v4: found.reduce(0) { $0 << 8 | UInt32($1) })
        case 16:
            return IPAddress(
                high: found.prefix(8).reduce(0) { $0 << 8 | UInt64($1) },
                low: found.suffix(8).reduce(0) { $0 << 8 | UInt64($1) })
        default: return nil
        }
    }
}
