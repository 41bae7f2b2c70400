internal import CKernel
internal import Glibc

/// A network that a network namespace reaches in a way of its own: by an address of its own, or by a route other than the
/// default one. Plain data.
public struct RoutedNetwork: Hashable, Sendable, CustomStringConvertible {
    /// The network.
    public var subnet: Subnet
    /// The interface that leads there; empty where several do.
    public var interface: String

    /// A network behind an interface.
    public init(_ subnet: Subnet, on interface: String) {
        self.subnet = subnet
        self.interface = interface
    }

    /// Reads `10.0.2.0/24 on eth0`; nil for anything else.
    public init?(_ text: some StringProtocol) {
        let words = text.split(separator: " ")
        guard let first = words.first, let subnet = Subnet(first), words.count == 1 || words.count == 3 else {
            return nil
        }
        self.init(subnet, on: words.count == 3 ? String(words[2]) : "")
    }

    /// `10.0.2.0/24 on eth0`.
    public var description: String { "\(subnet)\(interface.isEmpty ? "" : " on \(interface)")" }

    /// The networks of the calling process's network namespace, in the kernel's order. Those of the loopback and link-local
    /// ones are left out: they mean something else in each namespace.
    public static func all() throws(KernelError) -> [RoutedNetwork] {
        let netlink = try RouteNetlink()
        var found: [RoutedNetwork] = []
        var seen: Set<RoutedNetwork> = []
        var names: [UInt32: String] = [:]
        for family in [UInt8(2), 10] {
            // A router may have very many.
            for (subnet, index) in try netlink.routedNetworks(family).prefix(Self.limit) {
                let index = index ?? 0
                let name = names[index] ?? Self.interfaceName(index) ?? ""
                names[index] = name
                let network = RoutedNetwork(subnet, on: name)
                if seen.insert(network).inserted { found.append(network) }
            }
        }
        return found
    }

    private static let limit = 10_000

    private static func interfaceName(_ index: UInt32) -> String? {
        var name = [CChar](repeating: 0, count: Int(IF_NAMESIZE))
        let isThere = unsafe name.withUnsafeMutableBufferPointer { unsafe if_indextoname(index, $0.baseAddress) != nil }
        guard isThere else { return nil }
        return String(decoding: name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}

extension RouteNetlink {
    /// Routes of every table: policy routing (a VPN's) has its own.
    fileprivate borrowing func routedNetworks(_ family: UInt8) throws(KernelError) -> [(Subnet, interface: UInt32?)] {
        var found: [(Subnet, interface: UInt32?)] = []
        // rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags.
        let request = [family] + [UInt8](repeating: 0, count: 11)
        try dumpNetlink(
            socket.number, NetlinkMessage(type: 26, flags: 0x301, body: request), headLength: request.count, "routes"
        ) { head, attributes in
            let body = Array(head)
            // RTN_UNICAST, and RTN_LOCAL for addresses of its own; RTM_F_CLONED: of a cache.
            guard body[0] == family, body[7] == 1 || body[7] == 2, body[9] & 2 == 0,
                let destination = attributes.address(1)
            else { return }
            let subnet = Subnet(destination, Int(body[1]))
            if subnet.isPartOfAll || subnet.isOfOneNamespace { return }
            found.append((subnet, attributes.number(4)))
        }
        return found
    }
}

extension RouteNetlink {
    /// The bridge or other interface that an interface is part of; nil when it is part of none.
    public static func master(of name: String) -> UInt32? {
        guard let netlink = try? RouteNetlink() else { return nil }
        var found: UInt32?
        // ifinfomsg
        let request = NetlinkMessage(type: 18, flags: 0x301, body: [UInt8](repeating: 0, count: 16))
        try? dumpNetlink(netlink.socket.number, request, headLength: 16, "interfaces") { _, attributes in
            // IFLA_IFNAME, with its zero; IFLA_MASTER
            guard attributes.find(3).map({ Array($0.dropLast()) }) == Array(name.utf8) else { return }
            found = attributes.number(10)
        }
        return found == 0 ? nil : found
    }
}

extension Subnet {
    /// Whether the two have an address in common.
    public func overlaps(_ other: Subnet) -> Bool {
        guard address.isV4 == other.address.isV4 else { return false }
        return length <= other.length ? contains(other.address) : other.contains(address)
    }

    /// A default route, or a piece of one (0.0.0.0/1 and 128.0.0.0/1 of a VPN): it says of no network that it is near.
    fileprivate var isPartOfAll: Bool { length < (address.isV4 ? 8 : 7) }

    /// The loopback, and what is link-local in IPv6.
    fileprivate var isOfOneNamespace: Bool {
        address.isV4 ? address.v4 >> 24 == 127 : address == .loopback6 || address.isLinkLocal6
    }
}
