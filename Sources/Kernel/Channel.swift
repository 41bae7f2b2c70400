internal import CKernel
internal import SystemPackage

/// A message between two stages: a word for its kind, text fields, and descriptors that travel with it.
public struct ChannelMessage {
    /// What the message is.
    public var kind: String
    /// Its contents.
    public var fields: [String]
    /// What travels with it.
    public var descriptors: [Descriptor]

    /// A message of that kind.
    public init(_ kind: String, _ fields: [String] = [], descriptors: [Descriptor] = []) {
        self.kind = kind
        self.fields = fields
        self.descriptors = descriptors
    }

    /// Kind and fields, each behind its length in four bytes.
    public var encoded: [UInt8] {
        ([kind] + fields).flatMap { text in
            let bytes = Array(text.utf8)
            return (0..<4).map { UInt8(truncatingIfNeeded: bytes.count >> (8 * $0)) } + bytes
        }
    }

    /// Reads what ``encoded`` wrote; nil for any other bytes.
    public init?(decoding bytes: some Collection<UInt8>, descriptors: [Descriptor] = []) {
        var texts: [String] = []
        var rest = Array(bytes)[...]
        while !rest.isEmpty {
            guard rest.count >= 4 else { return nil }
            let count = rest.prefix(4).reversed().reduce(0) { $0 << 8 | Int($1) }
            rest = rest.dropFirst(4)
            guard count <= rest.count else { return nil }
            texts.append(String(decoding: rest.prefix(count), as: UTF8.self))
            rest = rest.dropFirst(count)
        }
        guard !texts.isEmpty else { return nil }
        self.init(texts[0], Array(texts.dropFirst()), descriptors: descriptors)
    }
}

/// One end of a SOCK_SEQPACKET pair between two stages. Messages arrive whole; the other end's death shows as the end.
///
/// Sending never waits: the other end may be stopped, or be in the hands of someone who floods it. What it does not take is
/// kept, up to a bound, and follows when it takes more: a loop calls ``settle(_:interest:token:)`` at the end of each turn.
public final class Channel {
    /// The socket.
    public let descriptor: Descriptor
    private static let limit = 131072
    private static let tooManyReferences = Errno(rawValue: CInt(CK_ETOOMANYREFS))
    /// Messages and bytes that wait for the other end at most.
    private static let backlogLimit = 8192, backlogBytesLimit = 4 << 20
    private var backlog: [(bytes: [UInt8], descriptors: [Descriptor])] = []
    private var backlogBytes = 0
    private var isWatchedForRoom = false
    /// Messages that were dropped, because the other end took none for so long.
    public private(set) var dropped = 0

    /// Takes over one end.
    public init(_ descriptor: Descriptor) { self.descriptor = descriptor }

    /// Both ends of a new channel.
    public static func pair() throws(KernelError) -> (Channel, Channel) {
        let (a, b) = try makeSocketPair(.sequencedPacket)
        return (Channel(a), Channel(b))
    }

    /// Sends nothing more: the other end hears the same as when this stage has ended.
    public func shutDown() { _ = ck_shutdown_write(descriptor.number) }

    /// Whether messages wait for the other end.
    public var hasBacklog: Bool { !backlog.isEmpty }

    /// Sends a message, now or when the other end takes it. An error means that the other end is gone, or that too much waits
    /// for it: then the message is dropped.
    public func send(_ message: ChannelMessage) throws(KernelError) {
        let bytes = message.encoded
        func fail(_ errno: Errno) -> KernelError {
            KernelError(call: "send \(message.kind) to the other stage", errno: errno)
        }
        if backlog.isEmpty {
            switch LocalSocket.send(descriptor.number, bytes, descriptors: message.descriptors.map(\.number)) {
            case .bytes: return
            // KERNEL: a user may have so many descriptors under way (ETOOMANYREFS), until some of them are taken.
            case .wouldBlock, .failed(Self.tooManyReferences): break
            case .failed(let errno): throw fail(errno)
            }
        }
        guard backlog.count < Self.backlogLimit, backlogBytes + bytes.count <= Self.backlogBytesLimit else {
            dropped += 1
            throw fail(.noBufferSpace)
        }
        backlog.append((bytes, message.descriptors))
        backlogBytes += bytes.count
    }

    /// Sends what waits, as far as the other end takes it.
    public func flush() {
        var sent = 0
        loop: for (bytes, descriptors) in backlog {
            switch LocalSocket.send(descriptor.number, bytes, descriptors: descriptors.map(\.number)) {
            case .wouldBlock, .failed(Self.tooManyReferences): break loop
            case .bytes, .failed: sent += 1
            }
            backlogBytes -= bytes.count
        }
        if sent > 0 { backlog.removeFirst(sent) }
    }

    /// Sends what waits, and has the poller say when the other end takes more, if something is left. For a channel that the
    /// poller watches with `interest`.
    public func settle(_ poller: borrowing Poller, interest: Readiness = .readable, token: UInt64) {
        if !backlog.isEmpty { flush() }
        guard hasBacklog != isWatchedForRoom else { return }
        let wanted = hasBacklog ? interest.union(.writable) : interest
        if (try? poller.change(descriptor.number, wanted, token: token)) != nil { isWatchedForRoom = hasBacklog }
    }

    /// What ``receive()`` found.
    public enum Arrival {
        case message(ChannelMessage)
        /// There is none.
        case nothingYet
        /// The other end is closed, or it speaks something else.
        case closed
    }

    /// The message that is there. Never waits.
    public func receive() -> Arrival {
        var buffer = [UInt8](repeating: 0, count: Self.limit)
        let (outcome, descriptors) = LocalSocket.receive(descriptor.number, into: &buffer)
        switch outcome {
        case .bytes(let n) where n > 0:
            return ChannelMessage(decoding: buffer[..<n], descriptors: descriptors).map { .message($0) } ?? .closed
        case .wouldBlock: return .nothingYet
        case .bytes, .failed: return .closed
        }
    }

    /// Waits for a message, before there is a loop; nil when the other end is closed. Throws ETIMEDOUT when none comes in time.
    public func receive(within deadline: Duration) throws(KernelError) -> ChannelMessage? {
        let end = MonotonicInstant.now + deadline
        while hasBacklog, waitWritable(descriptor.number, max(.zero, end - .now)) { flush() }
        guard waitReadable(descriptor.number, max(.zero, end - .now)) else {
            throw KernelError(call: "hear from the other stage", errno: .timedOut)
        }
        switch receive() {
        case .message(let message): return message
        case .closed: return nil
        case .nothingYet: throw KernelError(call: "hear from the other stage", errno: .timedOut)
        }
    }
}
