internal import CKernel
internal import SystemPackage

/// Calls that are made only to learn whether they are allowed. Each throws what the kernel said.
public enum Trials {
    /// chroot(2).
    public static func chroot() throws(KernelError) { _ = try check(ck_try_chroot(), "chroot") }

    /// A session keyring of one's own (keyctl(2)).
    public static func keyring() throws(KernelError) { _ = try check(ck_try_keyring(), "make a session keyring") }

    /// Filters that ask another process (seccomp_unotify(2)).
    public static func notification() throws(KernelError) {
        _ = try check(ck_try_notification(), "ask for seccomp notifications")
    }

    /// nftables in the current network namespace: NFT_MSG_GETGEN, which needs CAP_NET_ADMIN there and changes nothing.
    public static func netfilter() throws(KernelError) {
        let socket = OwnedDescriptor(owning: try check(ck_netlink(12), "open a netfilter socket"))
        // Subsystem nf_tables (10), message 16; NLM_F_REQUEST; nfgenmsg: family, version, resource.
        let bytes = NetlinkMessage(type: 10 << 8 | 16, flags: 1, body: [0, 0, 0, 0]).finished
        let sent = unsafe bytes.withUnsafeBytes { unsafe ck_netlink_send(socket.number, $0.baseAddress, $0.count) }
        _ = try check(sent, "ask nftables")
        var reply = [UInt8](repeating: 0, count: 4096)
        guard waitReadable(socket.number, .seconds(1)), case .bytes(let count) = socket.read(into: &reply), count >= 20
        else { throw KernelError(call: "ask nftables", errno: .timedOut) }
        guard reply[4] == 2, reply[5] == 0 else { return }
        let error = Int32(bitPattern: (0..<4).reduce(UInt32(0)) { $0 | UInt32(reply[16 + $1]) << UInt32(8 * $1) })
        if error < 0 { throw KernelError(call: "ask nftables", errno: Errno(rawValue: -error)) }
    }
}
