internal import CKernel
internal import SystemPackage

/// A socket that waits for others.
public struct ListeningSocket: Hashable, Sendable {
    /// Where.
    public let endpoint: Endpoint
    /// UDP; else TCP.
    public let isUDP: Bool
    /// Whose it is.
    public let uid: UInt32
    /// As /proc/PID/fd shows it: `socket:[INODE]`.
    public let inode: UInt32
    /// It is of IPv6 and takes no IPv4.
    public let isV6Only: Bool

    /// A socket that waits there.
    public init(endpoint: Endpoint, isUDP: Bool, uid: UInt32 = 0, inode: UInt32 = 0, isV6Only: Bool = false) {
        self.endpoint = endpoint
        self.isUDP = isUDP
        self.uid = uid
        self.inode = inode
        self.isV6Only = isV6Only
    }
}

/// What a connected TCP socket has carried.
public struct SocketTraffic: Hashable, Sendable {
    /// As /proc/PID/fd shows it: `socket:[INODE]`.
    public let inode: UInt32
    /// Bytes that came, and bytes that the other side has acknowledged.
    public let received: UInt64, sent: UInt64
    /// Its ends.
    public let local: Endpoint, remote: Endpoint

    /// A socket that has carried so much.
    public init(
        inode: UInt32, received: UInt64, sent: UInt64, local: Endpoint = Endpoint(.any4, 0),
        remote: Endpoint = Endpoint(.any4, 0)
    ) {
        self.inode = inode
        self.local = local
        self.remote = remote
        self.received = received
        self.sent = sent
    }
}

/// sock_diag(7): which sockets listen, and what others have carried. It answers for the network namespace it was opened in,
/// whoever holds it: made inside the workspace and handed out, it lets the forwarder look without entering.
public struct SocketDiagnosis {
    /// The open socket.
    public let descriptor: Descriptor

    /// Opens a query for the current network namespace.
    public static func open() throws(KernelError) -> SocketDiagnosis {
        SocketDiagnosis(
            descriptor: Descriptor(OwnedDescriptor(owning: try check(ck_netlink(4), "open a sock_diag socket"))))
    }

    /// Takes over a descriptor made by ``open()`` in another process.
    public init(descriptor: Descriptor) { self.descriptor = descriptor }

    /// tcp(7)'s states, by number, as a set of bits.
    private enum States {
        static let closed: UInt32 = 1 << 7, listening: UInt32 = 1 << 10
        /// All in which data may flow, or has.
        static let connected: UInt32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11
    }

    /// All sockets that wait for others: TCP sockets that listen, UDP sockets that are bound and not connected.
    public func sockets() throws(KernelError) -> [ListeningSocket] {
        try listeners(isUDP: false) + listeners(isUDP: true)
    }

    /// The sockets of one transport that wait for others.
    public func listeners(isUDP: Bool) throws(KernelError) -> [ListeningSocket] {
        var found: [ListeningSocket] = []
        for family in [UInt8(2), 10] { try collect(family, isUDP: isUDP, into: &found) }
        return found
    }

    /// INET_DIAG_SKV6ONLY, attribute 11, comes with every IPv6 socket that waits.
    private func collect(_ family: UInt8, isUDP: Bool, into found: inout [ListeningSocket]) throws(KernelError) {
        // A UDP socket without a peer is in the state "closed".
        try ask(family, isUDP ? 17 : 6, isUDP ? States.closed : States.listening) { message in
            found.append(
                ListeningSocket(
                    endpoint: message.endpoint(port: 4, address: 8), isUDP: isUDP, uid: message.number(64),
                    inode: message.number(68), isV6Only: message.attributes.find(11)?.first == 1))
        }
    }

    /// What the TCP connections that are there have carried.
    public func traffic() throws(KernelError) -> [SocketTraffic] {
        var found: [SocketTraffic] = []
        for family in [UInt8(2), 10] {
            // INET_DIAG_INFO: struct tcp_info.
            try ask(family, 6, States.connected, extensions: 1 << 1) { message in
                guard let info = message.attributes.find(2), info.count >= 136 else { return }
                func number(_ at: Int) -> UInt64 {
                    (0..<8).reduce(0) { $0 | UInt64(info[info.startIndex + at + $1]) << (8 * UInt64($1)) }
                }
                found.append(
                    SocketTraffic(
                        inode: message.number(68), received: number(128), sent: number(120),
                        local: message.endpoint(port: 4, address: 8),
                        remote: message.endpoint(port: 6, address: 24)))
            }
        }
        return found
    }

    /// struct inet_diag_msg: family, state, timer, retrans, then sport and dport in network order, source address, …; uid at
    /// 64 and inode at 68, both in the machine's order; attributes from 72 on.
    private struct Message {
        static let size = 72
        let bytes: ArraySlice<UInt8>
        let attributes: NetlinkAttributes

        func byte(_ at: Int) -> UInt8 { bytes[bytes.startIndex + at] }
        func number(_ at: Int) -> UInt32 { (0..<4).reduce(0) { $0 | UInt32(byte(at + $1)) << (8 * UInt32($1)) } }

        func endpoint(port: Int, address: Int) -> Endpoint {
            let bytes = (address..<(address + 16)).map { byte($0) }
            let ip =
                byte(0) == 2
                ? IPAddress(v4: bytes.prefix(4).reduce(0) { $0 << 8 | UInt32($1) })
                : IPAddress(
                    high: bytes.prefix(8).reduce(0) { $0 << 8 | UInt64($1) },
                    low: bytes.suffix(8).reduce(0) { $0 << 8 | UInt64($1) })
            return Endpoint(ip, UInt16(byte(port)) << 8 | UInt16(byte(port + 1)))
        }
    }

    private func ask(
        _ family: UInt8, _ proto: UInt8, _ states: UInt32, extensions: UInt8 = 0, _ take: (Message) -> Void
    ) throws(KernelError) {
        // inet_diag_req_v2: family, protocol, ext, pad, states, id of 48 bytes.
        let body: [UInt8] =
            [family, proto, extensions, 0] + NetlinkMessage.u32(states) + [UInt8](repeating: 0, count: 48)
        let request = NetlinkMessage(type: 20, flags: 0x301, body: body)
        try dumpNetlink(descriptor.number, request, headLength: Message.size, "sockets") { head, attributes in
            take(Message(bytes: head, attributes: attributes))
        }
    }
}
