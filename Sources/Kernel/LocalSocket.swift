internal import CKernel
internal import SystemPackage

/// Local sockets that carry descriptors (unix(7)).
public enum LocalSocket {
    /// Listens at a path with mode 0600. A socket there that nobody serves any more is replaced; anything else stays, and
    /// EADDRINUSE is thrown.
    public static func listen(_ path: String) throws(KernelError) -> Descriptor { try listen(path, mode: 0o600) }

    /// Listens at a path for the users that the mode lets connect.
    public static func listen(_ path: String, mode: UInt32) throws(KernelError) -> Descriptor {
        let owned = OwnedDescriptor(owning: try check(ck_socket(1, 1, 0), "make a socket"))
        if Files.status(path, followLinks: false)?.kind == .socket, !isServed(path) { try Files.remove(path) }
        // The mode it is made with: by its path it might be another file by then.
        let mask = ck_set_umask(0o777 & ~mode)
        let bound = unsafe ck_unix_bind(owned.number, path)
        _ = ck_set_umask(UInt32(bitPattern: mask))
        _ = try check(bound, "listen on", path)
        _ = try check(ck_listen(owned.number, 1024), "listen on", path)
        return Descriptor(owned)
    }

    /// Whether somebody listens at the path. Does not block: a full queue is an answer too.
    private static func isServed(_ path: String) -> Bool {
        let number = ck_socket(1, 1, 0)
        guard number >= 0 else { return true }
        defer { _ = ck_close(number) }
        return unsafe ck_unix_connect(number, path) != -Errno.connectionRefused.rawValue
    }

    /// Removes a socket; what else is there stays.
    public static func remove(_ path: String) {
        if Files.status(path, followLinks: false)?.kind == .socket { try? Files.remove(path) }
    }

    /// The process that sent a datagram, as the kernel says (SCM_CREDENTIALS); 0 for one that has no number here.
    public struct Sender: Hashable, Sendable {
        /// The process.
        public let pid: Int32
        /// Its user.
        public let uid: UInt32
    }

    /// The next datagram of a socket of ``datagrams(at:)`` and its sender; descriptors that came with it are dropped.
    public static func receiveDatagram(_ socket: Int32, into buffer: inout [UInt8]) -> (IOOutcome, Sender?) {
        var pid: CInt = 0
        var uid: UInt32 = 0
        let outcome = unsafe buffer.withUnsafeMutableBytes {
            unsafe IOOutcome(ck_receive_from_process(socket, $0.baseAddress, $0.count, &pid, &uid))
        }
        return (outcome, pid > 0 ? Sender(pid: pid, uid: uid) : nil)
    }

    /// Takes datagrams at a name; `@name` is an abstract one, which leaves no file. The kernel says who sends each of them.
    public static func datagrams(at name: String) throws(KernelError) -> Descriptor {
        let owned = OwnedDescriptor(owning: try check(ck_socket(1, 2, 0), "make a socket"))
        _ = try check(ck_pass_credentials(owned.number), "ask who sends messages at", name)
        _ = try check(unsafe ck_unix_bind(owned.number, name), "take messages at", name)
        return Descriptor(owned)
    }

    /// Connects to a path; the socket blocks.
    public static func connect(_ path: String) throws(KernelError) -> Descriptor {
        let owned = OwnedDescriptor(owning: try check(ck_socket(1, 1, 0), "make a socket"))
        try owned.setNonblocking(false)
        _ = try check(unsafe ck_unix_connect(owned.number, path), "connect to", path)
        return Descriptor(owned)
    }

    /// Connects to a path for whole messages (SOCK_SEQPACKET); the socket does not block.
    public static func connectForMessages(_ path: String) throws(KernelError) -> Descriptor {
        let owned = OwnedDescriptor(owning: try check(ck_socket(1, 5, 0), "make a socket"))
        _ = try check(unsafe ck_unix_connect(owned.number, path), "connect to", path)
        return Descriptor(owned)
    }

    /// accept(2) on a local socket; the connection does not block.
    public static func accept(_ listener: Int32) -> Descriptor? {
        var raw = ck_endpoint()
        let socket = unsafe ck_accept(listener, &raw)
        return socket < 0 ? nil : Descriptor(OwnedDescriptor(owning: socket))
    }

    /// Who is at the other end (SO_PEERCRED).
    public static func peer(_ socket: Int32) -> (pid: Int32, uid: UInt32, gid: UInt32)? {
        var pid: CInt = 0
        var uid: UInt32 = 0
        var gid: UInt32 = 0
        return unsafe ck_peer_credentials(socket, &pid, &uid, &gid) == 0 ? (pid, uid, gid) : nil
    }

    /// The user namespace of the process that connected, told by its number in this process's PID namespace; nil where it has
    /// none, has ended, or may not be looked into.
    ///
    /// KERNEL: the number may be another process's by now; the handle of the one that connected (SO_PEERPIDFD, since Linux 6.5)
    /// says whether it has ended.
    public static func peerUserNamespace(_ socket: Int32) -> FileStatus? {
        guard let pid = peer(socket)?.pid, pid > 0 else { return nil }
        let handle = ck_peer_handle(socket)
        defer { if handle >= 0 { _ = OwnedDescriptor(owning: handle) } }
        guard let users = Files.status("/proc/\(pid)/ns/user") else { return nil }
        let hasEnded = handle >= 0 && ck_poll(handle, 1 /* POLLIN */, 0) != 0
        return hasEnded ? nil : users
    }

    /// A handle of the process that connected (SO_PEERPIDFD, since Linux 6.5); nil where the kernel gives none.
    public static func peerHandle(_ socket: Int32) -> Descriptor? {
        let handle = ck_peer_handle(socket)
        return handle < 0 ? nil : Descriptor(OwnedDescriptor(owning: handle))
    }

    /// Whether the process that listens is known to be in a user namespace that is neither this process's nor right below it.
    public static func isServedFromFarBelow(_ socket: Int32) -> Bool {
        guard let pid = peer(socket)?.pid, pid > 0, let own = Files.status("/proc/self/ns/user"),
            let users = try? Files.open("/proc/\(pid)/ns/user", flags: 0), let served = Files.status(of: users),
            !served.isSameFile(as: own)
        else { return false }
        let parent = ck_parent_namespace(users.number)
        guard parent >= 0 else { return true }
        return Files.status(of: Descriptor(OwnedDescriptor(owning: parent)))?.isSameFile(as: own) != true
    }

    /// Sends bytes, with descriptors beside the first of them (SCM_RIGHTS); at most 8 descriptors. Never waits for room.
    public static func send(_ socket: Int32, _ bytes: [UInt8], descriptors: [Int32] = []) -> IOOutcome {
        send(socket, bytes, from: 0, count: bytes.count, descriptors: descriptors)
    }

    /// Sends `bytes[from..<from + count]` in the same way.
    public static func send(
        _ socket: Int32, _ bytes: [UInt8], from: Int, count: Int, descriptors: [Int32] = []
    ) -> IOOutcome {
        precondition(from >= 0 && count >= 0 && from + count <= bytes.count)
        return unsafe bytes.withUnsafeBytes { data in
            unsafe descriptors.withUnsafeBufferPointer { fds in
                unsafe IOOutcome(
                    ck_send_fds(
                        socket, data.baseAddress?.advanced(by: from), count, fds.baseAddress, CInt(fds.count)))
            }
        }
    }

    /// Receives bytes without descriptors: those that came with them are dropped by the kernel.
    ///
    /// KERNEL: without room for control messages they are released, not closed, so that no filesystem of the sender's (FUSE)
    /// is asked anything.
    public static func receiveBytes(_ socket: Int32, into buffer: inout [UInt8]) -> IOOutcome {
        unsafe buffer.withUnsafeMutableBytes { unsafe IOOutcome(ck_receive(socket, $0.baseAddress, $0.count)) }
    }

    /// Receives bytes and the descriptors that came with them; with `waits` on a socket that blocks also what comes later.
    public static func receive(
        _ socket: Int32, into buffer: inout [UInt8], waits: Bool = false
    ) -> (IOOutcome, [Descriptor]) {
        var fds = [Int32](repeating: -1, count: 8)
        var count: CInt = 0
        let outcome = unsafe buffer.withUnsafeMutableBytes { data in
            unsafe fds.withUnsafeMutableBufferPointer {
                unsafe IOOutcome(
                    ck_receive_fds(
                        socket, waits ? 1 : 0, data.baseAddress, data.count, $0.baseAddress, 8, &count))
            }
        }
        return (outcome, fds[..<Int(count)].map { Descriptor(OwnedDescriptor(owning: $0)) })
    }
}
