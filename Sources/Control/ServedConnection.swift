internal import FoundationEssentials
public import Kernel

/// # Theory of operation
///
/// The server's end of a control connection. The client may be hostile: it may send without reading, send lines without end,
/// and pass descriptors without being asked. The server never waits for it.
///
/// A request is read only when every answer before it has left, so that a client that does not read has one answer in memory
/// and costs nothing more. What the server sends unasked (the end of a wait) is bounded by what the client may ask for; past
/// ``outputLimit`` the connection is closed.
public final class ServedConnection {
    /// The most bytes that wait for the client.
    public static let outputLimit = 8 << 20
    /// The most descriptors that a client may pass before the request that takes them.
    private static let descriptorLimit = 8

    /// The socket.
    public let descriptor: Descriptor
    /// The client's user.
    public let peer: ControlPeer
    /// What is known of where the client runs.
    public enum Origin: Sendable {
        /// ring0 is asked; requests wait.
        case asked
        /// Nothing: it has to show it.
        case unknown
        /// In the workspace, or where that was started.
        case known
    }
    /// Where the client runs.
    public var origin: Origin
    /// The number of the question, while ring0 is asked.
    public var question = 0
    /// Descriptors that came and were not yet taken.
    public var received: [Descriptor] = []
    /// Nothing can be sent any more: the client is gone, or did not keep to a bound.
    public private(set) var isBroken = false

    private var lines = LineBuffer()
    private var output = OutputBuffer(limit: outputLimit)
    /// Bytes that have ever been appended and sent, and the descriptors that go with the byte at an offset.
    private var appended = 0, sent = 0
    private var attachments: [(offset: Int, descriptors: [Descriptor])] = []
    private var watched: Readiness?

    /// Takes over an accepted socket.
    public init(_ descriptor: Descriptor, peer: ControlPeer) {
        self.descriptor = descriptor
        self.peer = peer
        origin = peer.isInside ? .known : .unknown
    }

    /// Whether every answer has left.
    public var isDrained: Bool { output.isEmpty }

    /// Whether a part of a request is there.
    public var hasInput: Bool { lines.count > 0 }

    /// What a read brought.
    public enum Arrival: Sendable { case line([UInt8]), nothingYet, closed }

    /// The next request; nothing while an answer waits for the client.
    public func next() -> Arrival {
        if isBroken { return .closed }
        guard isDrained, origin != .asked else { return .nothingYet }
        while true {
            if let line = lines.next() { return .line(line) }
            if lines.count > peer.requestLimit || received.count > Self.descriptorLimit { return .closed }
            var chunk = [UInt8](repeating: 0, count: 16384)
            let outcome: IOOutcome
            if peer.mayPassDescriptors {
                let arrival = LocalSocket.receive(descriptor.number, into: &chunk)
                outcome = arrival.0
                received += arrival.1
            } else {
                outcome = LocalSocket.receiveBytes(descriptor.number, into: &chunk)
            }
            switch outcome {
            case .bytes(0), .failed: return .closed
            case .bytes(let count): lines.append(chunk[..<count])
            case .wouldBlock: return .nothingYet
            }
        }
    }

    /// Sends an object, with descriptors beside it, as far as the client takes it; the rest follows when it takes more.
    public func send(_ value: some Encodable, descriptors: [Descriptor] = []) {
        guard !isBroken, var bytes = (try? JSONEncoder().encode(value)).map(Array.init) else { return }
        bytes.append(10)
        guard output.append(bytes[...]) else {
            isBroken = true
            return
        }
        if !descriptors.isEmpty { attachments.append((appended, descriptors)) }
        appended += bytes.count
        flush()
    }

    /// Sends what the client takes now.
    public func flush() {
        guard !output.isEmpty, !isBroken else { return }
        let outcome = output.flush(piece: 1 << 20) { bytes, from, count in
            var count = count
            var numbers: [Int32] = []
            if let first = attachments.first {
                if first.offset == sent {
                    numbers = first.descriptors.map(\.number)
                    if attachments.count > 1 { count = min(count, attachments[1].offset - sent) }
                } else {
                    count = min(count, first.offset - sent)
                }
            }
            let outcome = LocalSocket.send(descriptor.number, bytes, from: from, count: count, descriptors: numbers)
            if case .bytes(let taken) = outcome, taken > 0 {
                sent += taken
                if !numbers.isEmpty { attachments.removeFirst() }
            }
            return outcome
        }
        if case .failed = outcome { isBroken = true }
    }

    /// Has the poller say what the connection waits for. `isWaitingForTurn`: a request is there and waits for its turn.
    public func settle(_ poller: borrowing Poller, token: UInt64, isWaitingForTurn: Bool) {
        flush()
        let interest: Readiness = !isDrained ? .writable : isWaitingForTurn || origin == .asked ? [] : .readable
        guard interest != watched else { return }
        do throws(KernelError) {
            if watched == nil {
                try poller.add(descriptor.number, interest, token: token)
            } else {
                try poller.change(descriptor.number, interest, token: token)
            }
            watched = interest
        } catch { isBroken = true }
    }

    /// Stops watching, before the socket is closed.
    public func end(_ poller: borrowing Poller) {
        if watched != nil { poller.remove(descriptor.number) }
    }
}

/// The user at the other end of a control connection, as far as bounds go.
public struct ControlPeer: Hashable, Sendable {
    /// The user, as the workspace numbers it.
    public let uid: UInt32
    /// A process of the workspace; else one of outside.
    public let isInside: Bool
    /// Another user than the workspace's root: it may look and wait.
    public let isGuest: Bool

    /// A user.
    public init(uid: UInt32, isInside: Bool, isGuest: Bool) {
        self.uid = uid
        self.isInside = isInside
        self.isGuest = isGuest
    }

    /// The most bytes of one request.
    var requestLimit: Int { isGuest ? 128 << 10 : 1 << 20 }
    /// No request of a guest's takes descriptors: the kernel drops those that come.
    var mayPassDescriptors: Bool { !isGuest }
}
