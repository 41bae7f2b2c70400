internal import CKernel

/// Keys of the files that ring2 keeps for the supervisor from the start.
public enum KeptFile {
    /// The workspace's /etc/resolv.conf, and what is to stand in it.
    public static let resolverCopy: UInt64 = 9 << 56, resolverMade: UInt64 = 10 << 56
    /// The root directory as the workspace sees it.
    public static let workspaceRoot: UInt64 = 11 << 56
}

/// What a process and the keeper of what must outlive it tell each other: messages of one size, so that the keeper, which
/// is a PID 1, allocates nothing for them.
///
///     process                            keeper
///       | <-- kept(key) + descriptor ---- |   at its start: what the one before it left
///       | <-- allKept ------------------- |
///       | -- ready ---------------------> |   it has taken over
///       | -- keep(key) + descriptor ----> |   in place of the one under that key
///       | -- discard(key) --------------> |
///       | <-- ended(pid, status) -------- |   a process that the one before it had started
///       | <-- stopped(pid) -------------- |
///       | <-- signal(signal) ------------ |
///       | -- finished ------------------> |   its end is meant
public enum KeeperMessage: Hashable, Sendable {
    case keep(UInt64)
    case discard(UInt64)
    case ready
    case finished
    case kept(UInt64)
    case allKept
    case ended(pid: Int32, ExitStatus)
    case stopped(pid: Int32)
    case signal(Signal)

    /// The key that something is kept or discarded under; nil for other messages.
    public var key: UInt64? {
        switch self {
        case .keep(let key), .discard(let key): key
        default: nil
        }
    }

    private var words: (UInt32, Int32, UInt64) {
        switch self {
        case .keep(let key): (1, 0, key)
        case .discard(let key): (2, 0, key)
        case .ready: (3, 0, 0)
        case .finished: (4, 0, 0)
        case .kept(let key): (5, 0, key)
        case .allKept: (6, 0, 0)
        case .ended(let pid, .exited(let code)): (7, pid, UInt64(code))
        case .ended(let pid, .signalled(let signal, let core)):
            (7, pid, UInt64(UInt32(bitPattern: signal.rawValue)) | 1 << 32 | (core ? 1 << 33 : 0))
        case .stopped(let pid): (8, pid, 0)
        case .signal(let signal): (9, signal.rawValue, 0)
        }
    }

    private init?(_ words: (UInt32, Int32, UInt64)) {
        switch words.0 {
        case 1: self = .keep(words.2)
        case 2: self = .discard(words.2)
        case 3: self = .ready
        case 4: self = .finished
        case 5: self = .kept(words.2)
        case 6: self = .allKept
        case 7 where words.2 & 1 << 32 == 0:
            self = .ended(pid: words.1, .exited(UInt8(truncatingIfNeeded: words.2)))
        case 7:
            let signal = Signal(rawValue: Int32(truncatingIfNeeded: words.2 & 0xffff))
            self = .ended(pid: words.1, .signalled(signal, coreDumped: words.2 & 1 << 33 != 0))
        case 8: self = .stopped(pid: words.1)
        case 9: self = .signal(Signal(rawValue: words.1))
        default: return nil
        }
    }

    /// Sends the message over a SOCK_SEQPACKET socket, with a descriptor unless it is -1. False when it takes none now.
    public func send(over socket: Int32, descriptor: Int32 = -1) -> Bool {
        var words = words
        var descriptor = descriptor
        let count: CInt = descriptor < 0 ? 0 : 1
        return unsafe withUnsafeBytes(of: &words) { bytes in
            unsafe ck_send_fds(socket, bytes.baseAddress, bytes.count, &descriptor, count) == bytes.count
        }
    }

    /// What ``receive(from:)`` found.
    public enum Arrival: Sendable {
        /// A message, and the number of the descriptor that came with it, which is the caller's now; -1 for none.
        case message(KeeperMessage, descriptor: Int32)
        /// There is none.
        case nothingYet
        /// The other end is closed, or it speaks something else.
        case closed
    }

    /// The next message, which stays: one that must not be lost is taken only once what follows from it is done.
    public static func peek(from socket: Int32) -> KeeperMessage? {
        var words: (UInt32, Int32, UInt64) = (0, 0, 0)
        let size = unsafe withUnsafeMutableBytes(of: &words) { unsafe ck_peek(socket, $0.baseAddress, $0.count) }
        return size == MemoryLayout.size(ofValue: words) ? KeeperMessage(words) : nil
    }

    /// The next message. The socket must not block.
    public static func receive(from socket: Int32) -> Arrival {
        var words: (UInt32, Int32, UInt64) = (0, 0, 0)
        var descriptor: Int32 = -1
        var count: CInt = 0
        let size = unsafe withUnsafeMutableBytes(of: &words) { bytes in
            unsafe ck_receive_fds(socket, 0, bytes.baseAddress, bytes.count, &descriptor, 1, &count)
        }
        if size == -11 { return .nothingYet }
        guard size == MemoryLayout.size(ofValue: words), let message = KeeperMessage(words) else {
            if count == 1 { _ = ck_close(descriptor) }
            return .closed
        }
        return .message(message, descriptor: count == 1 ? descriptor : -1)
    }
}
