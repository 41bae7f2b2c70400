public import Kernel

/// The workspace's networks where the configuration names none: the first that the container does not reach in a way of its own,
/// so that its neighbours can be reached from inside. Pure.
public struct NetworkChoice: Hashable, Sendable {
    /// The networks.
    public let subnet4: Subnet, subnet6: Subnet
    /// The container's networks that an unavoidable choice hides.
    public let hidden: [RoutedNetwork]

    /// slirp4netns's networks, which are chosen where they are free.
    public static let standard4 = Subnet(IPAddress(v4: 0x0a00_0200), 24)
    /// Likewise.
    public static let standard6 = Subnet(IPAddress(high: 0xfd00_0000_0000_0000, low: 0), 64)

    /// Both.
    public static let standard = [standard4, standard6]

    /// From different private ranges, since a container often has a route to a whole one (a VPN's to 10.0.0.0/8). The last is
    /// of the range for carriers (RFC 6598).
    private static let candidates4 = [
        standard4, Subnet(IPAddress(v4: 0x0adb_0200), 24), Subnet(IPAddress(v4: 0xc0a8_db00), 24),
        Subnet(IPAddress(v4: 0xac1f_db00), 24), Subnet(IPAddress(v4: 0x647f_db00), 24),
    ]
    /// Gateway and name server beside copied addresses: link-local ones, since the workspace knows the container's networks as
    /// its own.
    private static let services4 = [
        Subnet(IPAddress(v4: 0xa9fe_0200), 24), Subnet(IPAddress(v4: 0xa9fe_db00), 24),
    ]
    private static let candidates6 =
        [0xfd00_0000_0000_0000, 0xfd00_0000_0000_0002, 0xfdfd_0002_0000_0002]
        .map { Subnet(IPAddress(high: $0, low: 0), 64) } + [Subnet(IPAddress(high: 0xfec0_0000_0000_0002, low: 0), 64)]

    /// Networks for a workspace beside what its container reaches. `cidr`: the configuration has named the first one.
    public init(cidr: Subnet? = nil, besideCopies: Bool = false, taken: [RoutedNetwork]) {
        let candidates = cidr.map { [$0] } ?? (besideCopies ? Self.services4 + Self.candidates4 : Self.candidates4)
        subnet4 = Self.firstFree(candidates, taken)
        subnet6 = Self.firstFree(Self.candidates6, taken)
        let chosen = cidr == nil ? [subnet4, subnet6] : [subnet6]
        hidden = taken.filter { network in chosen.contains { $0.overlaps(network.subnet) } }
    }

    private static func firstFree(_ candidates: [Subnet], _ taken: [RoutedNetwork]) -> Subnet {
        candidates.first { candidate in !taken.contains { $0.subnet.overlaps(candidate) } } ?? candidates[0]
    }
}
