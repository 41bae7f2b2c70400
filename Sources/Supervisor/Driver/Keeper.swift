internal import Kernel
internal import SystemPackage

/// ring2 as the supervisor sees it: it keeps descriptors that must outlive the supervisor, and tells of processes that an
/// earlier supervisor had started (``KeeperMessage``).
final class Keeper {
    let socket: Descriptor
    /// What ring2 has not taken yet.
    private var backlog: [(message: KeeperMessage, descriptor: Descriptor?)] = []
    private var isWatchedForRoom = false

    init(_ socket: Descriptor) { self.socket = socket }

    /// What is kept.
    enum Key: Hashable {
        /// The control socket, listening.
        case control
        /// The reading end of a unit's output.
        case output(Int)
        /// A socket that a unit is activated by; with a checksum of what it listens on.
        case listener(Int, UInt32)
        /// Where a unit says that it is ready: a pipe, or a socket for sd_notify(3).
        case newline(Int), notifications(Int)
        /// The connection of a client that waits, by its job's place.
        case client(Int)
        /// The socket for metrics, listening.
        case metrics
        /// The forwarder's table of flows.
        case flowTable
        /// ``KeptFile``
        case resolverCopy, resolverMade, workspaceRoot

        var rawValue: UInt64 {
            func value(_ kind: UInt64, _ id: Int, _ rest: UInt32 = 0) -> UInt64 {
                kind << 56 | UInt64(id & 0xff_ffff) << 32 | UInt64(rest)
            }
            return switch self {
            case .control: value(1, 0)
            case .output(let id): value(2, id)
            case .listener(let id, let rest): value(3, id, rest)
            case .newline(let id): value(4, id)
            case .notifications(let id): value(5, id)
            case .client(let place): value(6, place)
            case .metrics: value(7, 0)
            case .flowTable: value(8, 0)
            case .resolverCopy: KeptFile.resolverCopy
            case .resolverMade: KeptFile.resolverMade
            case .workspaceRoot: KeptFile.workspaceRoot
            }
        }

        init?(rawValue: UInt64) {
            let id = Int(rawValue >> 32 & 0xff_ffff)
            switch rawValue >> 56 {
            case 1: self = .control
            case 2: self = .output(id)
            case 3: self = .listener(id, UInt32(truncatingIfNeeded: rawValue))
            case 4: self = .newline(id)
            case 5: self = .notifications(id)
            case 6: self = .client(id)
            case 7: self = .metrics
            case 8: self = .flowTable
            case KeptFile.resolverCopy >> 56: self = .resolverCopy
            case KeptFile.resolverMade >> 56: self = .resolverMade
            case KeptFile.workspaceRoot >> 56: self = .workspaceRoot
            default: return nil
            }
        }
    }

    /// What the supervisor before left; empty for the first one. `early` gets what that one was told and did not take.
    func takeKept(early: (KeeperMessage) -> Void) throws(KernelError) -> [Key: Descriptor] {
        var kept: [Key: Descriptor] = [:]
        while true {
            if let message = KeeperMessage.peek(from: socket.number) { early(message) }
            switch KeeperMessage.receive(from: socket.number) {
            case .message(.kept(let raw), let number) where number >= 0:
                let descriptor = Descriptor(OwnedDescriptor(owning: number))
                if let key = Key(rawValue: raw) { kept[key] = descriptor }
            case .message(.allKept, _): return kept
            case .message: continue
            case .nothingYet:
                guard waitReadable(socket.number, .seconds(5)) else {
                    throw KernelError(call: "hear from ring2", errno: .timedOut)
                }
            case .closed: throw KernelError(call: "hear from ring2", errno: .connectionReset)
            }
        }
    }

    /// The descriptor outlives this process, in place of the one under that key.
    func keep(_ key: Key, _ descriptor: Descriptor) { send(.keep(key.rawValue), descriptor) }
    func discard(_ key: Key) { send(.discard(key.rawValue), nil) }
    /// Everything that was there has been taken over.
    func ready() { send(.ready, nil) }
    /// The end that follows is meant; what ring2 has not taken is waited for, but not for ever.
    func finished() {
        send(.finished, nil)
        let end = MonotonicInstant.now + .seconds(1)
        while !backlog.isEmpty, waitWritable(socket.number, max(.zero, end - .now)) { flush() }
    }

    /// Never waits: ring2 may be slow, or stopped from outside.
    private func send(_ message: KeeperMessage, _ descriptor: Descriptor?) {
        if backlog.isEmpty, message.send(over: socket.number, descriptor: descriptor?.number ?? -1) { return }
        // One discards what another keeps: of those that wait, the last one for a key counts.
        backlog.removeAll { $0.message.key != nil && $0.message.key == message.key }
        backlog.append((message, descriptor))
    }

    private func flush() {
        var sent = 0
        for (message, descriptor) in backlog {
            guard message.send(over: socket.number, descriptor: descriptor?.number ?? -1) else { break }
            sent += 1
        }
        backlog.removeFirst(sent)
    }

    /// Sends what waits, and has the poller say when ring2 takes more.
    func settle(_ poller: borrowing Poller, token: UInt64) {
        if !backlog.isEmpty { flush() }
        guard isWatchedForRoom == backlog.isEmpty else { return }
        let interest: Readiness = backlog.isEmpty ? .readable : [.readable, .writable]
        if (try? poller.change(socket.number, interest, token: token)) != nil { isWatchedForRoom = !backlog.isEmpty }
    }

    /// The next message while running, and what to call once it is dealt with: it is there for the next supervisor until
    /// then.
    func next() -> (message: KeeperMessage, taken: () -> Void)? {
        guard let message = KeeperMessage.peek(from: socket.number) else { return nil }
        return (
            message,
            { [socket] in
                if case .message(_, let number) = KeeperMessage.receive(from: socket.number), number >= 0 {
                    _ = OwnedDescriptor(owning: number)
                }
            }
        )
    }
}
