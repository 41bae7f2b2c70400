internal import Kernel
internal import SystemPackage

/// # Theory of operation
///
/// The connections of a forwarder that is gone. Outside the kernel has reset them, as their sockets were closed with
/// SO_LINGER 0; the workspace has not heard of it. The next forwarder reads them in the table of the one before, and resets them.
///
/// A reset counts only at the byte that the workspace expects next (RFC 5961). The table says which that was, unless
/// something was lost on the link or the forwarder died between sending and writing down. So a segment from before that byte
/// follows: the workspace answers it with the byte it expects, and what belongs to no flow is answered with a reset at it.
///
/// The workspace's hardware address is asked for first: a segment to all stations is dropped by its kernel.
struct LostConnections {
    struct Connection {
        let guest: Endpoint, remote: Endpoint
        /// The next byte of ours, and of the workspace's.
        let sequence: SequenceNumber, acknowledgement: SequenceNumber
    }
    private var rest: [Connection]
    private var questions = 0
    /// When there is something to do; nil: it is over.
    private(set) var nextAt: MonotonicInstant? = MonotonicInstant(nanoseconds: 0)
    private static let questionInterval = Duration.milliseconds(100), questionLimit = 100

    /// The connections of a table that has no writer any more.
    init(_ table: Descriptor) { self.init(FlowTable.flows(table.number)) }

    init(_ flows: [Flow]) {
        rest = flows.compactMap { flow in
            // A SYN that was not answered comes again.
            guard flow.kind == .tcp, flow.tcp.phase != .opening else { return nil }
            return Connection(
                guest: flow.guest, remote: flow.remote, sequence: flow.tcp.sendMaximum,
                acknowledgement: flow.tcp.receiveNext)
        }
    }

    func isDue(at now: MonotonicInstant) -> Bool { nextAt.map { $0 <= now } ?? false }

    /// The workspace is asked for its hardware address once more. False when it has been asked often enough.
    mutating func mayAsk(at now: MonotonicInstant) -> Bool {
        questions += 1
        nextAt = questions < Self.questionLimit ? now + Self.questionInterval : nil
        return nextAt != nil
    }

    /// The next one to be reset; nil when there is none any more.
    mutating func next() -> Connection? {
        if rest.isEmpty { nextAt = nil }
        return rest.popLast()
    }
}

extension Forwarder {
    /// Resets some of another forwarder's connections; the rest in the next turns.
    mutating func resetLost() {
        guard guestHardware != .broadcast else {
            if lost?.mayAsk(at: now) == true { askForWorkspace() }
            return
        }
        for _ in 0..<Self.batch {
            guard let connection = lost?.next() else { return }
            let (guest, remote) = (connection.guest, connection.remote)
            // The workspace may have opened it again.
            guard policy.mayBeSource(guest.address), guest.address.isV4 == remote.address.isV4,
                table.find(.tcp, guest: guest, remote: remote) == nil
            else { continue }
            var header = TCPHeader(
                sourcePort: remote.port, destinationPort: guest.port, sequence: connection.sequence,
                acknowledgement: connection.acknowledgement, flags: [.rst, .ack], window: 0)
            emit(header, from: remote.address, to: guest.address, count: 0, segment: 536)
            header.flags = .ack
            header.sequence += -1
            emit(header, from: remote.address, to: guest.address, count: 0, segment: 536)
        }
    }
}
