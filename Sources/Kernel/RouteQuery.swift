internal import CKernel
internal import SystemPackage

/// Asks a network namespace where it would send packets (rtnetlink(7), RTM_GETROUTE). It answers for the namespace it was
/// opened in, whoever holds it.
public struct RouteQuery {
    /// The open socket.
    public let descriptor: Descriptor

    /// Opens a query for the current network namespace.
    public static func open() throws(KernelError) -> RouteQuery {
        RouteQuery(descriptor: Descriptor(OwnedDescriptor(owning: try check(ck_netlink(0), "open a netlink socket"))))
    }

    /// Takes over a descriptor made by ``open()`` in another process.
    public init(descriptor: Descriptor) { self.descriptor = descriptor }

    /// The interface by which packets leave for the address; nil where they stay (the address is one of its own) or cannot
    /// leave.
    public func interface(towards address: IPAddress) -> UInt32? {
        // RTN_UNICAST
        guard let route = look(address), route.type == 1 else { return nil }
        return route.interface
    }

    /// Whether packets to the address are received here. KERNEL: an IPv6 address that was added is one of the interface's at
    /// once, and sends; it receives only when a work queue of the kernel's has come to it, also without duplicate detection.
    public func receives(at address: IPAddress) -> Bool {
        // RTN_LOCAL
        look(address)?.type == 2
    }

    private func look(_ address: IPAddress) -> (type: UInt8, interface: UInt32?)? {
        // rtmsg: family, length of the destination, and nothing else that counts.
        let body: [UInt8] = [address.isV4 ? 2 : 10, address.isV4 ? 32 : 128, 0, 0, 0, 0, 0, 0] + NetlinkMessage.u32(0)
        var message = NetlinkMessage(type: 26, flags: 1, body: body)
        message.add(1, address.bytes)  // RTA_DST
        let bytes = message.finished
        let sent = unsafe bytes.withUnsafeBytes {
            unsafe ck_netlink_send(descriptor.number, $0.baseAddress, $0.count)
        }
        var reply = [UInt8](repeating: 0, count: 1024)
        // KERNEL: the answer is there when the request has been sent.
        guard sent >= 0, case .bytes(let count) = read(descriptor.number, into: &reply), count >= 28 else { return nil }
        let type = UInt16(reply[4]) | UInt16(reply[5]) << 8
        // RTM_NEWROUTE, RTA_OIF
        guard type == 24 else { return nil }
        return (reply[16 + 7], NetlinkAttributes(bytes: reply[28..<count]).number(4))
    }
}
