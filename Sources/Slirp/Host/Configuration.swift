public import Kernel

/// What the forwarder is told at its start.
public struct SlirpConfiguration: Sendable {
    /// Its network.
    public var layout: NetworkLayout
    /// The link's MTU.
    public var mtu: Int
    /// Ports of the outside that lead to the same ports of the workspace while something listens there.
    public var forwards: PortSet
    /// Those of them whose server may listen on the workspace's loopback only, and which are open on the container's then;
    /// nil: all.
    public var loopbackForwards: PortSet?
    /// The outside's name servers.
    public var nameServers: [NameServer]
    /// What of the container's loopback the gateway's address leads to.
    public var hostLoopback: HostLoopback
    /// The name server's address answers.
    public var answersNames = true
    /// Cloud metadata services are refused.
    public var deniesMetadata = true
    /// The outside's addresses to connect from; nil: as the outside routes.
    public var outbound4: IPAddress?, outbound6: IPAddress?
    /// Frames come behind a virtio_net_hdr.
    public var hasLinkHeader = true
    /// The link is a packet socket with a ring (``PacketLink``); else a tap device.
    public var isPacketLink = false
    /// What the link can do.
    public var checksumOffload: Bool, segmentationOffload: Bool, datagramOffload: Bool
    /// Clients from the container's loopback are joined to the workspace's; sockets for it are made by whoever configures.
    public var splicesLoopback = false
    /// Where the workspace may connect to.
    public var egress = EgressPolicy()
    /// Domains that the workspace's resolver appends to names.
    public var searchDomains: [String] = []
    /// Flows at most; a power of two.
    public var flowCapacity = 65536
    /// Descriptors that the process may open.
    public var descriptorLimit = 1 << 20
    /// Processors that it and whoever it serves may use.
    public var processors = 1

    /// A configuration for a tap with those abilities.
    public init(
        layout: NetworkLayout, mtu: Int, forwards: PortSet, nameServers: [NameServer],
        hostLoopback: HostLoopback, checksumOffload: Bool, segmentationOffload: Bool, datagramOffload: Bool
    ) {
        self.layout = layout
        self.mtu = mtu
        self.forwards = forwards
        self.nameServers = nameServers
        self.hostLoopback = hostLoopback
        self.checksumOffload = checksumOffload
        self.segmentationOffload = segmentationOffload
        self.datagramOffload = datagramOffload
    }

    /// The configuration as a channel message; the descriptors are the tap's, the listener query's, the table's and, where
    /// there is one, that of a ``RouteQuery`` of the workspace's network.
    public func message(tap: Descriptor, listeners: Descriptor, table: Descriptor, routes: Descriptor? = nil)
        -> ChannelMessage
    {
        ChannelMessage(
            "configure",
            [
                layout.text, "\(mtu)",
                forwards.description,
                nameServers.map(\.description).joined(separator: " "),
                hostLoopback.text,
                "\(checksumOffload)", "\(segmentationOffload)", "\(datagramOffload)",
                "\(answersNames)", "\(deniesMetadata)", outbound4?.description ?? "",
                outbound6?.description ?? "", "\(hasLinkHeader)",
                searchDomains.joined(separator: " "), "\(isPacketLink)", "\(splicesLoopback)",
                (loopbackForwards ?? forwards).description,
            ] + egress.fields, descriptors: [tap, listeners, table] + (routes.map { [$0] } ?? []))
    }

    /// What may come before the configuration: the table of a forwarder that is gone, whose connections are to be reset.
    public static func message(previousTable table: Descriptor) -> ChannelMessage {
        ChannelMessage("previous table", descriptors: [table])
    }

    /// The table of such a message; nil for anything else.
    static func previousTable(_ message: ChannelMessage) -> Descriptor? {
        message.kind == "previous table" ? message.descriptors.first : nil
    }

    /// Reads what ``message(tap:listeners:table:)`` wrote; nil for anything else.
    init?(_ message: ChannelMessage) {
        let f = message.fields
        guard message.kind == "configure", f.count > 17, (3...4).contains(message.descriptors.count),
            let layout = NetworkLayout(text: f[0]), let mtu = Int(f[1]), let egress = EgressPolicy(fields: f[17...])
        else { return nil }
        self.init(
            layout: layout, mtu: mtu,
            forwards: PortSet(text: f[2]),
            nameServers: f[3].split(separator: " ").compactMap { NameServer(String($0)) },
            hostLoopback: HostLoopback(text: f[4]), checksumOffload: f[5] == "true",
            segmentationOffload: f[6] == "true", datagramOffload: f[7] == "true")
        answersNames = f[8] == "true"
        deniesMetadata = f[9] == "true"
        outbound4 = IPAddress(f[10])
        outbound6 = IPAddress(f[11])
        hasLinkHeader = f[12] == "true"
        searchDomains = f[13].split(separator: " ").map(String.init)
        isPacketLink = f[14] == "true"
        splicesLoopback = f[15] == "true"
        loopbackForwards = PortSet(text: f[16])
        self.egress = egress
    }
}

extension HostLoopback {
    /// `all`, `unreachable`, or ports as `5432/tcp 53/udp`.
    fileprivate var text: String {
        switch self {
        case .all: "all"
        case .unreachable: "unreachable"
        case .ports(let ports): ports.map { "\($0.port)/\($0.isUDP ? "udp" : "tcp")" }.joined(separator: " ")
        }
    }

    fileprivate init(text: String) {
        switch text {
        case "all": self = .all
        case "unreachable": self = .unreachable
        default:
            let ports = text.split(separator: " ").compactMap { text -> LoopbackException? in
                let parts = text.split(separator: "/")
                guard parts.count == 2, let port = UInt16(parts[0]) else { return nil }
                return LoopbackException(port: port, isUDP: parts[1] == "udp")
            }
            self = .ports(Set(ports))
        }
    }
}

/// What the forwarder tells ring0.
public enum SlirpReport: Sendable {
    /// It forwards.
    case ready
    /// The outside port leads inside now, or no longer.
    case opened(ForwardedPort), closed(ForwardedPort)
    /// Sockets of the workspace's are needed, see ``SlirpCommand/sockets(_:)``.
    case socketsWanted
    /// Something a user should know.
    case note(String)
    /// A flow or a look-up was denied: which, and why.
    case denied(String)

    var message: ChannelMessage {
        switch self {
        case .ready: ChannelMessage("ready")
        case .opened(let port): ChannelMessage("opened", port.fields)
        case .closed(let port): ChannelMessage("closed", port.fields)
        case .socketsWanted: ChannelMessage("sockets wanted")
        case .note(let text): ChannelMessage("note", [text])
        case .denied(let text): ChannelMessage("denied", [text])
        }
    }

    /// Reads a message of the forwarder's; nil for anything else.
    public init?(_ message: ChannelMessage) {
        switch (message.kind, message.fields.first) {
        case ("ready", _): self = .ready
        case ("opened", _):
            guard let port = ForwardedPort(fields: message.fields) else { return nil }
            self = .opened(port)
        case ("closed", _):
            guard let port = ForwardedPort(fields: message.fields) else { return nil }
            self = .closed(port)
        case ("sockets wanted", _): self = .socketsWanted
        case ("note", let text?): self = .note(text)
        case ("denied", let text?): self = .denied(text)
        default: return nil
        }
    }
}

/// A declared port that leads inside.
public struct ForwardedPort: Hashable, Sendable {
    /// The port, outside and inside.
    public let port: UInt16
    /// UDP; else TCP.
    public let isUDP: Bool
    /// Only those who come from the container's loopback are let in, as the server listens on the workspace's only.
    public let isLocal: Bool

    init(_ port: DeclaredPort) {
        self.port = port.port
        isUDP = port.isUDP
        isLocal = port.place != .everywhere
    }

    var fields: [String] { ["\(port)", isUDP ? "udp" : "tcp", isLocal ? "local" : "everywhere"] }

    init?(fields: [String]) {
        guard fields.count == 3, let port = UInt16(fields[0]) else { return nil }
        self.port = port
        isUDP = fields[1] == "udp"
        isLocal = fields[2] == "local"
    }
}

/// What ring0 tells the forwarder while it runs.
public enum SlirpCommand {
    /// The outside's name servers are these now.
    case nameServers([NameServer])
    /// The workspace's resolver appends these domains to names now.
    case searchDomains([String])
    /// These ports of the outside lead inside while something listens there.
    case forwards(PortSet)
    /// What comes to this bound socket of the outside's leads to the workspace's endpoint; with the address
    /// ``IPAddress/any6`` to whichever address of the workspace's something listens on, and is refused while nothing does.
    /// `id` is the caller's, below 2³¹.
    case addForward(id: UInt32, isUDP: Bool, guest: Endpoint, origin: ForwardOrigin, socket: Descriptor)
    /// That forward is wanted and could not be opened; it is shown with the reason.
    case failedForward(FailedForward)
    /// That forward is over, and its socket closed.
    case removeForward(id: UInt32)
    /// TCP sockets that were made inside the workspace's network, not connected.
    case sockets([Descriptor])

    /// The command as a channel message.
    public var message: ChannelMessage {
        switch self {
        case .addForward(let id, let isUDP, let guest, let origin, let socket):
            ChannelMessage(
                "add forward",
                ["\(id)", isUDP ? "udp" : "tcp", guest.address.description, "\(guest.port)", "\(origin.rawValue)"],
                descriptors: [socket])
        case .failedForward(let failure): ChannelMessage("failed forward", failure.fields)
        case .sockets(let sockets): ChannelMessage("sockets", descriptors: sockets)
        case .removeForward(let id): ChannelMessage("remove forward", ["\(id)"])
        case .nameServers(let servers): ChannelMessage("name servers", servers.map(\.description))
        case .searchDomains(let domains): ChannelMessage("search domains", domains)
        case .forwards(let ports): ChannelMessage("forwards", [ports.description])
        }
    }

    /// Reads a message of ring0's; nil for anything else.
    init?(_ message: ChannelMessage) {
        switch message.kind {
        case "name servers": self = .nameServers(message.fields.compactMap { NameServer($0) })
        case "search domains": self = .searchDomains(message.fields)
        case "forwards": self = .forwards(PortSet(text: message.fields.first ?? ""))
        case "add forward":
            let f = message.fields
            guard f.count == 5, let id = UInt32(f[0]), let address = IPAddress(f[2]), let port = UInt16(f[3]),
                let origin = UInt8(f[4]).flatMap({ ForwardOrigin(rawValue: $0) }),
                let socket = message.descriptors.first
            else { return nil }
            self = .addForward(
                id: id, isUDP: f[1] == "udp", guest: Endpoint(address, port), origin: origin, socket: socket)
        case "failed forward":
            guard let failure = FailedForward(fields: message.fields) else { return nil }
            self = .failedForward(failure)
        case "sockets": self = .sockets(message.descriptors)
        case "remove forward":
            guard let id = message.fields.first.flatMap({ UInt32($0) }) else { return nil }
            self = .removeForward(id: id)
        default: return nil
        }
    }
}
