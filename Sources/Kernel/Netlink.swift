internal import CKernel
internal import SystemPackage

/// A netlink message under construction (netlink(7)): header, fixed part, attributes.
struct NetlinkMessage {
    private(set) var bytes: [UInt8]

    init(type: UInt16, flags: UInt16, body: [UInt8]) {
        bytes = [0, 0, 0, 0] + Self.u16(type) + Self.u16(flags) + Self.u32(1) + Self.u32(0) + body
    }

    static func u16(_ value: UInt16) -> [UInt8] { [UInt8(truncatingIfNeeded: value), UInt8(value >> 8)] }
    static func u32(_ value: UInt32) -> [UInt8] { (0..<4).map { UInt8(truncatingIfNeeded: value >> UInt32(8 * $0)) } }

    /// The same of another type.
    func ofType(_ type: UInt16, flags: UInt16) -> NetlinkMessage {
        var copy = self
        copy.bytes.replaceSubrange(4..<8, with: Self.u16(type) + Self.u16(flags))
        return copy
    }

    /// Adds an attribute (struct rtattr), padded to four bytes.
    mutating func add(_ type: UInt16, _ payload: [UInt8]) {
        bytes += Self.u16(UInt16(payload.count + 4)) + Self.u16(type) + payload
        while bytes.count % 4 != 0 { bytes.append(0) }
    }

    /// The message with its length filled in.
    var finished: [UInt8] {
        var copy = bytes
        copy.replaceSubrange(0..<4, with: Self.u32(UInt32(bytes.count)))
        return copy
    }
}

/// The attributes of a netlink message (struct rtattr).
struct NetlinkAttributes {
    let bytes: ArraySlice<UInt8>

    func find(_ type: UInt16) -> ArraySlice<UInt8>? {
        var at = bytes.startIndex
        while at + 4 <= bytes.endIndex {
            let length = Int(bytes[at]) | Int(bytes[at + 1]) << 8
            guard length >= 4, at + length <= bytes.endIndex else { return nil }
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

/// The kernel's answer, which is there: nothing is waited for, also in a loop.
///
/// KERNEL: netlink requests are dealt with in sendmsg(2), and the next part of a dump in the recvmsg(2) before it.
private func receiveAnswer(_ socket: Int32, into buffer: inout [UInt8]) -> IOOutcome {
    unsafe buffer.withUnsafeMutableBytes { unsafe IOOutcome(ck_receive(socket, $0.baseAddress, $0.count)) }
}

/// Asks for a dump and hands on each message: what comes first in it, so many bytes, and its attributes.
func dumpNetlink(
    _ socket: Int32, _ request: NetlinkMessage, headLength: Int, _ what: String,
    _ take: (_ head: ArraySlice<UInt8>, _ attributes: NetlinkAttributes) -> Void
) throws(KernelError) {
    let bytes = request.finished
    let sent = unsafe bytes.withUnsafeBytes { unsafe ck_netlink_send(socket, $0.baseAddress, $0.count) }
    _ = try check(sent, "ask the kernel for", what)
    var buffer = [UInt8](repeating: 0, count: 32768)
    for _ in 0..<1000 {
        guard case .bytes(let count) = receiveAnswer(socket, into: &buffer) else {
            throw KernelError(call: "ask the kernel for", subject: what, errno: .timedOut)
        }
        var offset = 0
        while offset + 16 <= count {
            let length = Int(buffer[offset]) | Int(buffer[offset + 1]) << 8 | Int(buffer[offset + 2]) << 16
            let type = UInt16(buffer[offset + 4]) | UInt16(buffer[offset + 5]) << 8
            if type == 3 || type == 2 { return }  // NLMSG_DONE, NLMSG_ERROR
            guard length >= 16, offset + length <= count else { return }
            let start = offset + 16
            if length >= 16 + headLength {
                take(
                    buffer[start..<start + headLength],
                    NetlinkAttributes(bytes: buffer[start + headLength..<offset + length]))
            }
            offset += (length + 3) & ~3
        }
    }
}

/// rtnetlink(7): links, addresses and routes of the calling process's network namespace.
public struct RouteNetlink: ~Copyable {
    let socket: OwnedDescriptor

    /// Opens a socket in the current network namespace.
    public init() throws(KernelError) {
        socket = OwnedDescriptor(owning: try check(ck_netlink(0), "open a netlink socket"))
    }

    private borrowing func request(_ message: NetlinkMessage, _ what: String, accept: Errno? = nil) throws(KernelError)
    {
        let bytes = message.finished
        let sent = unsafe bytes.withUnsafeBytes { unsafe ck_netlink_send(socket.number, $0.baseAddress, $0.count) }
        _ = try check(sent, "send to netlink")
        var reply = [UInt8](repeating: 0, count: 8192)
        guard case .bytes(let n) = receiveAnswer(socket.number, into: &reply), n >= 20 else {
            throw KernelError(call: what, errno: .timedOut)
        }
        // NLMSG_ERROR: a negative errno behind the header, 0 for success.
        let error = Int32(bitPattern: (0..<4).reduce(UInt32(0)) { $0 | UInt32(reply[16 + $1]) << UInt32(8 * $1) })
        if error < 0, accept?.rawValue != -error { throw KernelError(call: what, errno: Errno(rawValue: -error)) }
    }

    /// Whether an interface is up, and its MTU (netdevice(7)), asked of the network namespace itself: a /sys may be another
    /// one's. nil when there is none of that name.
    public static func state(of name: String) -> (isUp: Bool, mtu: Int)? {
        var isUp: CInt = 0
        var mtu: CInt = 0
        return unsafe ck_interface_state(name, &isUp, &mtu) == 0 ? (isUp == 1, Int(mtu)) : nil
    }

    /// The index of an interface; nil when there is none of that name.
    public static func index(of name: String) -> UInt32? {
        let index = unsafe ck_interface_index(name)
        return index > 0 ? UInt32(index) : nil
    }

    private static func ifinfomsg(index: UInt32, flags: UInt32, change: UInt32) -> [UInt8] {
        [0, 0, 0, 0] + NetlinkMessage.u32(index) + NetlinkMessage.u32(flags) + NetlinkMessage.u32(change)
    }

    /// Sets what is given of an interface by name and brings it up. `freed`: it is taken out of a bridge.
    public borrowing func bringUp(
        _ name: String, mtu: Int? = nil, address: [UInt8]? = nil, queueLength: Int? = nil, freed: Bool = false
    ) throws(KernelError) {
        var message = NetlinkMessage(type: 16, flags: 5, body: Self.ifinfomsg(index: 0, flags: 1, change: 1))
        message.add(3, Array(name.utf8) + [0])  // IFLA_IFNAME
        if let mtu { message.add(4, NetlinkMessage.u32(UInt32(mtu))) }
        if let address { message.add(1, address) }
        if let queueLength { message.add(13, NetlinkMessage.u32(UInt32(queueLength))) }
        if freed { message.add(10, NetlinkMessage.u32(0)) }  // IFLA_MASTER
        try request(message, "bring up \(name)")
    }

    /// Makes a pair of interfaces: one here, its other end in another network namespace, by a descriptor of that one.
    public borrowing func addPair(_ name: String, peer: String, in namespace: Descriptor) throws(KernelError) {
        func attribute(_ type: UInt16, _ payload: [UInt8]) -> [UInt8] {
            NetlinkMessage.u16(UInt16(payload.count + 4)) + NetlinkMessage.u16(type) + payload
                + [UInt8](repeating: 0, count: (4 - payload.count % 4) % 4)
        }
        var message = NetlinkMessage(type: 16, flags: 0x605, body: Self.ifinfomsg(index: 0, flags: 0, change: 0))
        message.add(3, Array(name.utf8) + [0])
        // VETH_INFO_PEER: an interface message of its own, with its name and namespace (IFLA_NET_NS_FD).
        let other =
            Self.ifinfomsg(index: 0, flags: 0, change: 0) + attribute(3, Array(peer.utf8) + [0])
            + attribute(28, NetlinkMessage.u32(UInt32(namespace.number)))
        message.add(18, attribute(1, Array("veth".utf8)) + attribute(2, attribute(1, other)))
        try request(message, "make the pair of interfaces \(name) and \(peer)")
    }

    /// Adds an address; one that is there already is no error. IPv6 addresses skip duplicate detection.
    public borrowing func addAddress(_ subnet: Subnet, interface index: UInt32) throws(KernelError) {
        let v4 = subnet.address.isV4
        // ifaddrmsg: family, prefix length, flags (IFA_F_NODAD), scope, index
        let body: [UInt8] = [v4 ? 2 : 10, UInt8(subnet.length), v4 ? 0 : 2, 0] + NetlinkMessage.u32(index)
        var message = NetlinkMessage(type: 20, flags: 0x605, body: body)
        message.add(2, subnet.address.bytes)  // IFA_LOCAL
        message.add(1, subnet.address.bytes)  // IFA_ADDRESS
        try request(message, "add address \(subnet)", accept: .fileExists)
    }

    /// Adds the route to an address's own network, which comes with the address and may be lost without it; one that is
    /// there already is no error.
    public borrowing func addLinkRoute(_ subnet: Subnet, interface index: UInt32) throws(KernelError) {
        let v4 = subnet.address.isV4
        // rtmsg: family, dst_len, src_len, tos, table main, protocol kernel, scope link (universe for IPv6), type unicast
        let body: [UInt8] =
            [v4 ? 2 : 10, UInt8(subnet.length), 0, 0, 254, 2, v4 ? 253 : 0, 1] + NetlinkMessage.u32(0)
        var message = NetlinkMessage(type: 24, flags: 0x605, body: body)
        message.add(1, subnet.network.bytes)  // RTA_DST
        message.add(4, NetlinkMessage.u32(index))  // RTA_OIF
        if v4 { message.add(7, subnet.address.bytes) }  // RTA_PREFSRC
        try request(message, "add the route to \(subnet)", accept: .fileExists)
    }

    /// Adds a route; one that is there already is no error. The gateway need not lie in a network of the interface's.
    /// `replacing`: in the place of another one to the same network.
    public borrowing func addRoute(
        _ route: Route, interface index: UInt32, replacing: Bool = false
    ) throws(KernelError) {
        let v4 = route.destination.address.isV4
        // rtmsg: family, dst_len, src_len, tos, table main, protocol static, scope (link without a gateway), type unicast,
        // flags (RTNH_F_ONLINK)
        let body: [UInt8] =
            [v4 ? 2 : 10, UInt8(route.destination.length), 0, 0, 254, 4, route.gateway == nil && v4 ? 253 : 0, 1]
            + NetlinkMessage.u32(route.gateway == nil ? 0 : 4)
        // NLM_F_CREATE with NLM_F_REPLACE or NLM_F_EXCL
        var message = NetlinkMessage(type: 24, flags: replacing ? 0x505 : 0x605, body: body)
        if route.destination.length > 0 { message.add(1, route.destination.network.bytes) }  // RTA_DST
        if let gateway = route.gateway { message.add(5, gateway.bytes) }  // RTA_GATEWAY
        message.add(4, NetlinkMessage.u32(index))  // RTA_OIF
        // KERNEL: a route that is there behind another one is not replaced into its place.
        if replacing, (try? request(message.ofType(25, flags: 5), "remove the route to \(route)")) != nil {
            return try request(message, "add the route to \(route)")
        }
        try request(message, "add the route to \(route)", accept: .fileExists)
    }

    /// Adds the rules that every network namespace begins with: the tables local and main are looked up.
    public borrowing func addStandardRules(v4: Bool) throws(KernelError) {
        for (table, priority) in [(UInt8(255), UInt32(0)), (254, 32766)] {
            // fib_rule_hdr: family, dst_len, src_len, tos, table, two reserved, FR_ACT_TO_TBL, flags
            let body: [UInt8] = [v4 ? 2 : 10, 0, 0, 0, table, 0, 0, 1] + NetlinkMessage.u32(0)
            var message = NetlinkMessage(type: 32, flags: 0x605, body: body)
            message.add(6, NetlinkMessage.u32(priority))  // FRA_PRIORITY
            try request(message, "add the rule for table \(table)", accept: .fileExists)
        }
    }
}

/// Watches a directory for files written, created, moved or removed in it (inotify(7)); the descriptor becomes readable.
public func watchDirectory(_ path: String) throws(KernelError) -> Descriptor {
    Descriptor(OwnedDescriptor(owning: try check(unsafe ck_inotify(path, 0x3ca), "watch", path)))
}

/// A watch of no directory yet.
public func makeDirectoryWatch() throws(KernelError) -> Descriptor {
    Descriptor(OwnedDescriptor(owning: try check(ck_inotify_empty(), "watch files")))
}

/// Watches another directory by the same descriptor; the watch's number, which one that it watches already keeps.
public func watchDirectory(_ path: String, by watch: Descriptor) throws(KernelError) -> Int32 {
    try check(unsafe ck_inotify_add(watch.number, path, 0x3ca), "watch", path)
}

/// Watches a directory no more.
public func stopWatching(_ number: Int32, by watch: Descriptor) { _ = ck_inotify_remove(watch.number, number) }
