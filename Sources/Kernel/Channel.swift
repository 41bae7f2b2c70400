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
public struct Channel {
    /// The socket.
    public let descriptor: Descriptor
    private static let limit = 131072

    /// Takes over one end.
    public init(_ descriptor: Descriptor) { self.descriptor = descriptor }

    /// Both ends of a new channel.
    public static func pair() throws(KernelError) -> (Channel, Channel) {
        let (a, b) = try makeSocketPair(.sequencedPacket)
        return (Channel(a), Channel(b))
    }

    /// Sends a message. An error means that the other end is gone.
    public func send(_ message: ChannelMessage) throws(KernelError) {
        let outcome = LocalSocket.send(
            descriptor.number, message.encoded, descriptors: message.descriptors.map(\.number))
        if case .failed(let errno) = outcome {
            throw KernelError(call: "send \(message.kind) to the other stage", errno: errno)
        }
    }

    /// Waits for a message; nil when the other end is closed. Throws ETIMEDOUT when none comes in time.
    public func receive(within deadline: Duration?) throws(KernelError) -> ChannelMessage? {
        guard waitReadable(descriptor.number, deadline) else {
            throw KernelError(call: "hear from the other stage", errno: .timedOut)
        }
        var buffer = [UInt8](repeating: 0, count: Self.limit)
        let (outcome, descriptors) = LocalSocket.receive(descriptor.number, into: &buffer)
        switch outcome {
        case .bytes(0), .failed(.connectionReset): return nil
        case .bytes(let n):
            guard let message = ChannelMessage(decoding: buffer[..<n], descriptors: descriptors) else {
                throw KernelError(call: "understand the other stage", errno: .badMessage)
            }
            return message
        case .wouldBlock: throw KernelError(call: "hear from the other stage", errno: .timedOut)
        case .failed(let errno): throw KernelError(call: "hear from the other stage", errno: errno)
        }
    }
}
