internal import Kernel
internal import SystemPackage

/// What crosses the channel between two stages.
///
///     parent                         child
///       | -- plan(RingPlan) ---------> |   what to build
///       | <-- link(tap, query) ------- |   ring1 only: the workspace's end of the network is made
///       | <-- note(text) ------------- |   something was done in a lesser way
///       | <-- ready ------------------ |   or failed(StageFailure)
///       | -- go ---------------------> |   start what was planned
///       | -- socketsWanted ----------> |   ring1 only: TCP sockets of the workspace's network, for the forwarder
///       | <-- sockets ---------------- |
///       | -- files ------------------> |   what stands in the workspace's own files from now on, for ring2
///       | -- (closed) ---------------> |   the parent is gone: end
enum RingMessage {
    case plan(RingPlan)
    case link(LinkHandles)
    case note(String)
    case ready
    case go
    case socketsWanted
    case sockets([Descriptor])
    case files([String: String])
    case failed(StageFailure)

    var encoded: ChannelMessage {
        switch self {
        case .plan(let plan): ChannelMessage("plan", plan.fields)
        case .link(let link):
            ChannelMessage(
                "link", ["\(link.checksum)", "\(link.tso)", "\(link.uso)", "\(link.isPacketLink)"],
                descriptors: [link.tap, link.listeners, link.routes])
        case .note(let text): ChannelMessage("note", [text])
        case .ready: ChannelMessage("ready")
        case .go: ChannelMessage("go")
        case .socketsWanted: ChannelMessage("sockets wanted")
        case .sockets(let sockets): ChannelMessage("sockets", descriptors: sockets)
        case .files(let texts): ChannelMessage("files", texts.flatMap { [$0.key, $0.value] })
        case .failed(let failure):
            ChannelMessage(
                "failed",
                [
                    failure.stage, failure.underlying.call, failure.underlying.subject,
                    "\(failure.underlying.errno.rawValue)",
                    failure.cure,
                ])
        }
    }

    init?(_ message: ChannelMessage) {
        let fields = message.fields
        switch message.kind {
        case "plan":
            guard let plan = RingPlan(fields: fields) else { return nil }
            self = .plan(plan)
        case "link":
            guard fields.count == 4, message.descriptors.count == 3 else { return nil }
            self = .link(
                LinkHandles(
                    tap: message.descriptors[0], listeners: message.descriptors[1],
                    routes: message.descriptors[2], checksum: fields[0] == "true",
                    tso: fields[1] == "true", uso: fields[2] == "true", isPacketLink: fields[3] == "true"))
        case "note" where fields.count == 1: self = .note(fields[0])
        case "ready": self = .ready
        case "go": self = .go
        case "sockets wanted": self = .socketsWanted
        case "sockets": self = .sockets(message.descriptors)
        case "files" where fields.count % 2 == 0:
            self = .files(
                Dictionary(
                    stride(from: 0, to: fields.count, by: 2).map { (fields[$0], fields[$0 + 1]) },
                    uniquingKeysWith: { $1 }))
        case "failed":
            guard fields.count == 5, let errno = CInt(fields[3]) else { return nil }
            self = .failed(
                StageFailure(
                    stage: fields[0],
                    underlying: KernelError(call: fields[1], subject: fields[2], errno: Errno(rawValue: errno)),
                    cure: fields[4]))
        default: return nil
        }
    }
}

extension Channel {
    func send(_ message: RingMessage) throws(KernelError) { try send(message.encoded) }

    /// What ``next()`` found.
    enum RingArrival {
        case message(RingMessage)
        case nothingYet, closed
    }

    /// The message of the protocol that is there. Never waits.
    func next() -> RingArrival {
        switch receive() {
        case .message(let raw): RingMessage(raw).map { .message($0) } ?? .closed
        case .nothingYet: .nothingYet
        case .closed: .closed
        }
    }

    /// Waits for the next message of the protocol, before there is a loop; nil when the other end is gone.
    func next(within deadline: Duration) throws(KernelError) -> RingMessage? {
        guard let raw = try receive(within: deadline) else { return nil }
        guard let message = RingMessage(raw) else {
            throw KernelError(call: "understand message", subject: raw.kind, errno: .badMessage)
        }
        return message
    }
}
