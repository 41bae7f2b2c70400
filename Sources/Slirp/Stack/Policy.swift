internal import Kernel

/// What of the outside's loopback answers at the gateway's address.
public enum HostLoopback: Hashable, Sendable {
    /// These ports; all else is refused.
    case ports(Set<LoopbackException>)
    /// All of it, as slirp4netns has it unless told otherwise.
    case all
    /// There is no way to it (slirp4netns --disable-host-loopback).
    case unreachable
}

/// A port of the container's loopback that the workspace may reach at the gateway's address.
public struct LoopbackException: Hashable, Sendable {
    /// The port.
    public var port: UInt16
    /// UDP; else TCP.
    public var isUDP: Bool

    /// An exception.
    public init(port: UInt16, isUDP: Bool) {
        self.port = port
        self.isUDP = isUDP
    }
}

/// What may be reached, decided once per flow before any socket is made. It judges the address that is about to be
/// connected to, so that no spelling of the container's loopback slips through. Pure.
struct Policy: Sendable {
    enum Route: Hashable, Sendable {
        /// Connect there.
        case outside(Endpoint)
        /// The container's own loopback, excepted.
        case loopback(Endpoint)
        /// One of the outside's name servers.
        case nameServer
        /// Refuse at once.
        case denied(Egress.Place)
        /// Nobody there.
        case unreachable
        /// No way there.
        case noNetwork
    }
    var layout: NetworkLayout
    var hostLoopback = HostLoopback.ports([])
    /// The name server's address is ours; else it is an address like any other.
    var answersNames = true
    /// Cloud metadata services are refused.
    var deniesMetadata = true

    /// Networks of cloud metadata services, which give credentials to every client. All of the link-local addresses of IPv4:
    /// besides 169.254.169.254 (AWS, GCP, Azure and others) they have those of AWS ECS and EKS, and a service there is meant for the
    /// container. Then AWS, GCP and Oracle over IPv6, Azure's wire server, Alibaba, Oracle.
    static let metadata: [Subnet] = [
        Subnet(IPAddress(v4: 0xa9fe_0000), 16), Subnet(IPAddress(high: 0xfd00_0ec2_0000_0000, low: 0), 32),
        Subnet(IPAddress(high: 0xfd20_00ce_0000_0000, low: 0x254), 128),
        Subnet(IPAddress(high: 0xfd00_00c1_0000_0000, low: 0xa9fe_a9fe), 128),
        Subnet(IPAddress(v4: 0xa83f_8110), 32), Subnet(IPAddress(v4: 0x6464_64c8), 32),
        Subnet(IPAddress(v4: 0xc000_00c0), 32),
    ]

    func route(_ destination: Endpoint, isUDP: Bool) -> Route {
        let address = destination.address
        if layout.isGateway(address) {
            switch hostLoopback {
            case .ports(let ports):
                let isExcepted = ports.contains(LoopbackException(port: destination.port, isUDP: isUDP))
                if !isExcepted { return .denied(.hostLoopback) }
            case .all: break
            case .unreachable: return .noNetwork
            }
            return .loopback(Endpoint(address.isV4 ? .loopback4 : .loopback6, destination.port))
        }
        if layout.isNameServer(address) {
            if !answersNames { return .outside(destination) }
            return destination.port == 53 ? .nameServer : .denied(.nowhere)
        }
        if layout.isNobody(address) { return .unreachable }
        if !Self.isOrdinary(address) { return .denied(.nowhere) }
        if deniesMetadata, Self.isMetadata(address) { return .denied(.metadata) }
        return .outside(destination)
    }

    /// Whether an address is a metadata service's, in any spelling.
    static func isMetadata(_ address: IPAddress) -> Bool {
        let address = embedded(address) ?? address
        return metadata.contains { $0.contains(address) }
    }

    /// The IPv4 address that an IPv6 address spells: 64:ff9b::/96 and ::ffff:0:0:0/96 (RFC 6052, RFC 2765).
    static func embedded(_ address: IPAddress) -> IPAddress? {
        let isNAT64 = address.high == 0x0064_ff9b_0000_0000 && address.low >> 32 == 0
        let isTranslated = address.high == 0 && address.low >> 48 == 0xffff
        return isNAT64 || isTranslated ? IPAddress(v4: UInt32(truncatingIfNeeded: address.low)) : nil
    }

    /// Whether an address may be a destination in the outside at all.
    static func isOrdinary(_ address: IPAddress) -> Bool {
        if address.isV4 {
            switch address.v4 >> 24 {
            case 0, 127, 224...255: return false
            default: return true
            }
        }
        // ::/96: unspecified, loopback and IPv4-compatible addresses (RFC 4291, 2.5.5.1).
        if address.high == 0, address.low >> 32 == 0 { return false }
        if let embedded = embedded(address) { return isOrdinary(embedded) }
        // Link-local and multicast mean nothing beyond the link.
        return !address.isLinkLocal6 && address.high >> 56 != 0xff
    }

    /// Whether an address is that of many stations, about which no errors are sent and which nobody answers for
    /// (RFC 1122, 3.2.2).
    func isGroup(_ address: IPAddress) -> Bool {
        guard address.isV4 else { return address.high >> 56 == 0xff }
        if address.v4 >> 28 >= 14 { return true }
        // RFC 3021: networks of two addresses have no broadcast, nor has one address.
        guard layout.subnet4.length < 31, layout.subnet4.contains(address) else { return false }
        let hosts = UInt32.max >> UInt32(layout.subnet4.length)
        return address.v4 & hosts == hosts
    }

    /// Whether a packet's source can be a station of the workspace's: its own address, or one routed behind it.
    func mayBeSource(_ address: IPAddress) -> Bool {
        if layout.isOurs(address) { return false }
        return Self.isOrdinary(address) || address.isLinkLocal6
    }
}
