public import Kernel

/// The addresses of the workspace's network and of what the forwarder plays in it. The defaults are slirp4netns's.
public struct NetworkLayout: Hashable, Sendable {
    public var subnet4: Subnet, gateway4: IPAddress, nameServer4: IPAddress, guest4: IPAddress
    /// What DHCP gives.
    public var leased4: IPAddress
    /// nil: no IPv6.
    public var subnet6: Subnet?
    public var gateway6: IPAddress, nameServer6: IPAddress, guest6: IPAddress
    /// The workspace has the container's own addresses: whom it knows on its link are the container's neighbours, and no
    /// router of ours lies between. Gateway and name server are services of the forwarder's then, at addresses beside.
    public private(set) var isCopied = false
    /// Who carries packets on, as the workspace knows it.
    public private(set) var router4: IPAddress, router6: IPAddress
    /// Addresses that the workspace has besides ``guest4`` and ``guest6``.
    public private(set) var otherGuests: [IPAddress] = []

    /// `.2` the gateway, `.3` the name server, `.100` the workspace, in an IPv4 network of at most 25 bits; in an IPv6 network
    /// of 64 bits `::2`, `::3` and `::100`.
    public init(
        subnet4: Subnet = NetworkChoice.standard4, subnet6 prefix: Subnet = NetworkChoice.standard6, ipv6: Bool = true
    ) {
        let base = subnet4.address.v4 & (subnet4.length == 0 ? 0 : ~0 << UInt32(32 - subnet4.length))
        self.subnet4 = Subnet(IPAddress(v4: base), subnet4.length)
        gateway4 = IPAddress(v4: base | 2)
        nameServer4 = IPAddress(v4: base | 3)
        guest4 = IPAddress(v4: base | 100)
        leased4 = guest4
        router4 = gateway4
        let high = prefix.address.high
        subnet6 = ipv6 ? Subnet(IPAddress(high: high, low: 0), 64) : nil
        gateway6 = IPAddress(high: high, low: 2)
        nameServer6 = IPAddress(high: high, low: 3)
        guest6 = IPAddress(high: high, low: 0x100)
        router6 = Self.linkLocalGateway
    }

    /// The container's own addresses; gateway and name server in the networks of `services`. nil where there is none to copy of
    /// IPv4.
    public init?(copying network: InterfaceNetwork, services: NetworkChoice, ipv6: Bool) {
        let own4 = network.addresses.filter(\.address.isV4)
        let own6 = ipv6 ? network.addresses.filter { !$0.address.isV4 } : []
        guard let first = own4.first else { return nil }
        self.init(subnet4: services.subnet4, subnet6: services.subnet6, ipv6: ipv6)
        isCopied = true
        subnet4 = first
        guest4 = first.address
        leased4 = guest4
        subnet6 = own6.first
        guest6 = own6.first?.address ?? guest6
        otherGuests = (own4.dropFirst() + own6.dropFirst()).map(\.address)
        func router(v4: Bool) -> IPAddress? {
            network.routes.first { $0.destination.length == 0 && $0.destination.address.isV4 == v4 }?.gateway
        }
        router4 = router(v4: true) ?? gateway4
        router6 = router(v4: false) ?? Self.linkLocalGateway
    }

    /// The router's link-local address.
    static let linkLocalGateway = IPAddress(high: 0xfe80_0000_0000_0000, low: 2)

    func isGateway(_ address: IPAddress) -> Bool { address == gateway4 || address == gateway6 }
    func isNameServer(_ address: IPAddress) -> Bool { address == nameServer4 || address == nameServer6 }
    /// Addresses of the forwarder's own.
    func isOurs(_ address: IPAddress) -> Bool {
        isGateway(address) || isNameServer(address) || address == Self.linkLocalGateway
    }
    func isGuest(_ address: IPAddress) -> Bool {
        address == guest4 || address == guest6 || otherGuests.contains(address)
    }

    /// Addresses whose frames the forwarder takes (ARP, NDP): its own; of copied ones everybody's but the workspace's, as
    /// the neighbours are behind it. Link-local addresses mean nothing beyond the link, but the router's.
    func answersFor(_ address: IPAddress) -> Bool {
        if isOurs(address) || address == router4 || address == router6 { return true }
        return isCopied && !isGuest(address) && (address.isV4 || !address.isLinkLocal6)
    }

    /// Addresses at which there is nobody that could be reached: of a network of our own all but ours.
    func isNobody(_ address: IPAddress) -> Bool {
        if isCopied { return isGuest(address) }
        return subnet4.contains(address) || subnet6?.contains(address) == true
    }

    /// Whether packets take a hop at the forwarder on their way there.
    func isHop(to address: IPAddress) -> Bool { !isCopied && !isOurs(address) }

    /// For the way from one process to another.
    var text: String {
        let addresses = [
            gateway4, nameServer4, guest4, leased4, gateway6, nameServer6, guest6, router4, router6,
        ]
        return
            ([subnet4.description, subnet6?.description ?? "-", "\(isCopied)"]
            + (addresses + otherGuests)
            .map(\.description)).joined(separator: " ")
    }

    /// Reads what ``text`` wrote; nil for anything else.
    init?(text: String) {
        let words = text.split(separator: " ")
        let addresses = words.dropFirst(3).compactMap { IPAddress($0) }
        guard words.count >= 12, addresses.count == words.count - 3, let subnet4 = Subnet(words[0]) else { return nil }
        self.init(subnet4: subnet4)
        self.subnet4 = subnet4
        subnet6 = words[1] == "-" ? nil : Subnet(words[1])
        isCopied = words[2] == "true"
        (gateway4, nameServer4, guest4, leased4) = (addresses[0], addresses[1], addresses[2], addresses[3])
        (gateway6, nameServer6, guest6) = (addresses[4], addresses[5], addresses[6])
        (router4, router6) = (addresses[7], addresses[8])
        otherGuests = Array(addresses[9...])
    }
}
