internal import CKernel
public import SystemPackage

/// Sockets of the Internet families, always non-blocking and closed on exec. They throw nothing on the hot path.
public enum InternetSocket {
    /// The kind of a socket.
    public enum Kind: Sendable { case tcp, udp, ping }

    /// Makes a socket for IPv4 or IPv6; the errno when it cannot.
    public static func make(_ kind: Kind, v4: Bool) -> Result<Int32, Errno> {
        let domain: CInt = v4 ? 2 : 10
        let result =
            switch kind {
            case .tcp: ck_stream_socket(domain)
            case .udp: ck_socket(domain, 2, 0)
            case .ping: ck_socket(domain, 2, v4 ? 1 : 58)
            }
        return result < 0 ? .failure(Errno(rawValue: -result)) : .success(result)
    }

    /// connect(2): nil when connected or under way.
    public static func connect(_ socket: Int32, to endpoint: Endpoint) -> Errno? {
        var raw = endpoint.raw
        let result = unsafe ck_connect(socket, &raw)
        return result == 0 || result == -115 ? nil : Errno(rawValue: -result)
    }

    /// bind(2).
    public static func bind(_ socket: Int32, v4: Bool, to endpoint: Endpoint) -> Errno? {
        var raw = endpoint.raw
        let result = unsafe ck_bind(socket, v4 ? 2 : 10, &raw)
        return result == 0 ? nil : Errno(rawValue: -result)
    }

    /// A TCP listener on the port, for both families where the machine has IPv6; throws with the address it failed on.
    public static func listen(_ endpoint: Endpoint) throws(KernelError) -> Descriptor {
        let socket = try bind(.tcp, endpoint)
        try startListening(socket, endpoint)
        return socket
    }

    /// A socket on the port, for both families where the address is ``IPAddress/any6``; of TCP one that refuses until
    /// ``startListening(_:_:)``. With an interface only what comes in there arrives (SO_BINDTODEVICE, without a privilege
    /// since Linux 5.7).
    public static func bind(_ kind: Kind, _ endpoint: Endpoint, interface: String? = nil) throws(KernelError)
        -> Descriptor
    {
        let v4 = endpoint.address.isV4
        let owned = OwnedDescriptor(
            owning: try check(ck_socket(v4 ? 2 : 10, kind == .tcp ? 1 : 2, 0), "make a socket"))
        if kind == .tcp { _ = ck_set_option(owned.number, 1, 2, 1) }  // SO_REUSEADDR
        if !v4 { _ = ck_set_option(owned.number, 41, 26, 0) }  // IPV6_V6ONLY off
        if let interface {
            _ = try check(
                unsafe ck_bind_device(owned.number, interface), "listen on", "\(endpoint) of \(interface)")
        }
        var raw = endpoint.raw
        _ = try check(unsafe ck_bind(owned.number, v4 ? 2 : 10, &raw), "listen on", "\(endpoint)")
        return Descriptor(owned)
    }

    /// Whether the descriptor is a TCP socket that is not connected; then it no longer blocks. For descriptors from a process
    /// that is not trusted.
    public static func isUnconnectedStream(_ socket: Descriptor) -> Bool {
        ck_is_unconnected_tcp(socket.number) == 1 && (try? socket.setNonblocking(true)) != nil
    }

    /// listen(2).
    public static func startListening(_ socket: Descriptor, _ endpoint: Endpoint) throws(KernelError) {
        _ = try check(ck_listen(socket.number, 1024), "listen on", "\(endpoint)")
    }

    /// Makes a listener refuse again. KERNEL: connect(2) to AF_UNSPEC takes a TCP socket out of whatever state it is in and
    /// leaves it its port, so that it may listen again. (shutdown(2) does so to a listener, but marks a socket that is none,
    /// and whoever is accepted later reads an end.)
    public static func stopListening(_ socket: Descriptor) { _ = ck_disconnect(socket.number) }

    /// Sends and receives through an interface only, given by its name or its index (SO_BINDTODEVICE, SO_BINDTOIFINDEX; without a
    /// privilege since Linux 5.7). False when there is no such interface.
    public static func bind(_ socket: Int32, toInterface name: String) -> Bool {
        if let index = Int32(name) { return ck_bind_interface(socket, index) == 0 }
        return unsafe ck_bind_device(socket, name) == 0
    }

    /// The interface that a socket was bound to; nil: all.
    public static func interface(of socket: Int32) -> String? {
        var name = [CChar](repeating: 0, count: 16)
        guard unsafe ck_bound_device(socket, &name) == 0, name[0] != 0 else { return nil }
        return String(decoding: name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// A connection that was accepted, and its peer.
    public struct Client: Sendable {
        /// The connection.
        public let socket: Int32
        /// Where it comes from.
        public let peer: Endpoint
    }

    /// accept(2): the connection and its peer, or the errno; nil when none waits.
    public static func accept(_ listener: Int32) -> Result<Client, Errno>? {
        var raw = ck_endpoint()
        let socket = unsafe ck_accept(listener, &raw)
        if socket >= 0 { return .success(Client(socket: socket, peer: Endpoint(raw))) }
        return socket == -11 ? nil : .failure(Errno(rawValue: -socket))
    }

    /// The first address of an interface that one may connect from; nil when it has none.
    public static func address(ofInterface name: String, v4: Bool) -> IPAddress? {
        var raw = ck_endpoint()
        return unsafe ck_interface_address(name, v4 ? 2 : 10, &raw) == 0 ? Endpoint(raw).address : nil
    }

    /// Whether an interface has this address.
    public static func interface(_ name: String, has address: IPAddress) -> Bool {
        var raw = Endpoint(address, 0).raw
        return unsafe ck_interface_has(name, &raw) == 1
    }

    /// The local address of a socket (getsockname(2)).
    public static func localEndpoint(_ socket: Int32) -> Endpoint? {
        var raw = ck_endpoint()
        return unsafe ck_local_endpoint(socket, &raw) == 0 ? Endpoint(raw) : nil
    }

    /// Takes the pending error (SO_ERROR); nil when there is none.
    @inline(__always)
    public static func takeError(_ socket: Int32) -> Errno? {
        let error = ck_socket_error(socket)
        return error == 0 ? nil : Errno(rawValue: abs(error))
    }

    /// Lets connect(2) choose among all local ports in turn.
    ///
    /// KERNEL: otherwise it tries every second port before any of the others (net/ipv4/inet_hashtables.c), so that from some
    /// 14,000 connections to one endpoint on each connect(2) searches as many ports first, for as long as those before are in
    /// TIME_WAIT. A socket with a range of its own (IP_LOCAL_PORT_RANGE, since Linux 6.3) has no such preference; bounds beyond
    /// the namespace's range mean nothing.
    public static func useAnyPort(_ socket: Int32) { _ = ck_use_any_port(socket) }
    /// Lets connect(2) choose the port of a socket that is bound to an address only (IP_BIND_ADDRESS_NO_PORT): one port then
    /// serves connections to many endpoints.
    public static func choosePortLate(_ socket: Int32) { _ = ck_choose_port_late(socket) }

    /// TCP_NODELAY: each send goes out at once; the workspace's own TCP has coalesced already.
    public static func setNoDelay(_ socket: Int32) { _ = ck_set_option(socket, 6, 1, 1) }
    /// Asks the far end whether it is there, first after `idle`, then four times as often, nine times (tcp(7)).
    public static func keepAlive(_ socket: Int32, idle: Duration) {
        let seconds = Int32(clamping: max(1, idle.nanoseconds / 1_000_000_000))
        for (name, value) in [(Int32(4), seconds), (5, max(1, min(seconds / 4, 75))), (6, 9)] {
            _ = ck_set_option(socket, 6, name, value)
        }
        _ = ck_set_option(socket, 1, 9, 1)
    }
    /// The connection's smoothed round-trip time (TCP_INFO); nil before it is known.
    public static func roundTrip(_ socket: Int32) -> Duration? {
        let microseconds = ck_round_trip(socket)
        return microseconds > 0 ? .microseconds(microseconds) : nil
    }
    /// Makes close(2), and the end of the process, send a reset; what is accepted inherits it.
    public static func setLingerZero(_ socket: Int32) { _ = ck_linger_zero(socket) }
    /// shutdown(2) of the writing half: what was written is all. From then on close(2) leaves the rest to the kernel.
    @inline(__always) public static func finishWriting(_ socket: Int32) {
        _ = ck_linger_off(socket)
        _ = ck_shutdown_write(socket)
    }
    /// close(2).
    @inline(__always) public static func close(_ socket: Int32) { _ = ck_close(socket) }

    /// Size and use of the send buffer in bytes of memory (SO_MEMINFO).
    @inline(__always)
    public static func sendBuffer(_ socket: Int32) -> (size: Int, queued: Int) {
        var size: UInt32 = 0
        var queued: UInt32 = 0
        _ = unsafe ck_send_buffer(socket, &size, &queued)
        return (Int(size), Int(queued))
    }

    /// Asks poll(2) for room to write. This sets SOCK_NOSPACE, without which the kernel does not grow the send buffer.
    @inline(__always) public static func askForRoom(_ socket: Int32) { _ = ck_poll(socket, 4, 0) }

    /// SO_PEEK_OFF: where the next peek starts. False where the kernel has none for TCP (before 6.9).
    @inline(__always)
    public static func setPeekOffset(_ socket: Int32, _ offset: Int) -> Bool {
        ck_set_peek_offset(socket, Int32(clamping: offset)) == 0
    }

    /// Drops bytes from the head of the receive queue, uncopied (MSG_TRUNC).
    @inline(__always)
    public static func discard(_ socket: Int32, _ count: Int) { _ = ck_discard_received(socket, count) }

    /// So many bytes lie in the receive queue, peeked at or not.
    public static func unread(_ socket: Int32) -> Int { max(0, ck_unread(socket)) }

    /// Keeps the byte of urgent data in the stream (SO_OOBINLINE). TCP sockets that ``make(_:v4:)`` makes do so from the start;
    /// connections inherit it from their listener.
    public static func keepUrgentInline(_ socket: Int32) { _ = ck_keep_urgent_inline(socket) }

    /// Wants ICMP errors, TTLs and coalesced datagrams (RECVERR, RECVTTL, UDP_GRO), no path MTU games.
    public static func prepareDatagrams(_ socket: Int32, v4: Bool) { _ = ck_udp_prepare(socket, v4 ? 2 : 10) }

    /// A datagram's facts besides its payload.
    public struct Datagram: Sendable {
        /// Whom it comes from or goes to.
        public var peer: Endpoint
        /// Size of each but the last datagram when several lie one behind the other (GSO, GRO); 0: one datagram.
        public var segment: Int
        /// Time to live, 0: unknown or the default.
        public var timeToLive: UInt8

        /// Facts of a datagram to be sent.
        public init(peer: Endpoint, segment: Int = 0, timeToLive: UInt8 = 0) {
            self.peer = peer
            self.segment = segment
            self.timeToLive = timeToLive
        }
    }

    /// An entry of a socket's error queue (ip(7), IP_RECVERR).
    public struct DatagramError: Sendable {
        /// Whom the failed datagram was for.
        public let peer: Endpoint
        /// Who reported it; the zero address when it was this machine.
        public let offender: IPAddress
        /// The error.
        public let errno: Errno
        /// 2: ICMP, 3: ICMPv6, 1: local.
        public let origin: UInt8
        public let type: UInt8, code: UInt8
        /// The path MTU for EMSGSIZE.
        public let info: UInt32
    }
}

extension InternetSocket {
    /// Sets the type of service or traffic class of what the socket sends.
    public static func setTrafficClass(_ socket: Int32, v4: Bool, _ value: UInt8) {
        _ = v4 ? ck_set_option(socket, 0, 1, Int32(value)) : ck_set_option(socket, 41, 67, Int32(value))
    }
    /// Whether what is too big for a path is to fail with EMSGSIZE and the path's MTU (IP_PMTUDISC_DO); else it is cut.
    public static func setUncuttable(_ socket: Int32, v4: Bool, _ value: Bool) {
        _ = v4 ? ck_set_option(socket, 0, 10, value ? 2 : 0) : ck_set_option(socket, 41, 23, value ? 2 : 0)
    }
    /// Sets the time to live or hop limit of what the socket sends.
    public static func setTimeToLive(_ socket: Int32, v4: Bool, _ value: UInt8) {
        _ = v4 ? ck_set_option(socket, 0, 2, Int32(value)) : ck_set_option(socket, 41, 16, Int32(value))
    }
}
