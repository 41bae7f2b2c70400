public import Kernel

/// One flow as others see it who look into the forwarder's table.
public struct FlowSnapshot: Hashable, Sendable {
    /// `tcp`, `udp` or `ping`.
    public let transport: String
    /// What a TCP flow is doing; empty for others.
    public let state: String
    /// In the workspace's words; and where the outside socket goes.
    public let guest: Endpoint, remote: Endpoint, target: Endpoint
    /// It came from outside.
    public let isInbound: Bool
    /// When it began, and when it last carried something.
    public let createdAt: MonotonicInstant, activeAt: MonotonicInstant
    /// What went out of the workspace, and what came.
    public let bytesUp: UInt64, bytesDown: UInt64, packetsUp: UInt64, packetsDown: UInt64
    /// How long the workspace takes to acknowledge; nil before it was measured.
    public let roundTrip: Duration?
}

/// What the forwarder has counted.
public struct ForwarderCounters: Hashable, Sendable {
    /// By their names, in a fixed order.
    public let values: [(name: String, value: UInt64)]

    /// The same numbers.
    public static func == (a: Self, b: Self) -> Bool { a.values.elementsEqual(b.values) { $0 == $1 } }
    /// By the numbers.
    public func hash(into hasher: inout Hasher) { for value in values { hasher.combine(value.value) } }
}

extension FlowTable {
    /// Reads the table of a forwarder that goes on meanwhile: what it changes just then may be read half; nil when the file
    /// is none.
    static func snapshot(_ file: Int32) -> (flows: [FlowSnapshot], counters: ForwarderCounters)? {
        guard let head = read(file, at: 0, count: MemoryLayout<Header>.size) else { return nil }
        let header = unsafe head.withUnsafeBytes { unsafe $0.loadUnaligned(as: Header.self) }
        guard header.magic == magic, header.capacity > 0, header.highWater <= header.capacity else { return nil }
        let stride = MemoryLayout<Flow>.stride
        let start = 4096 + Int(header.capacity) * 4
        let count = Int(header.highWater)
        guard let bytes = read(file, at: start, count: count * stride) else { return nil }
        let flows = (0..<count).compactMap { index -> FlowSnapshot? in
            let flow = unsafe bytes.withUnsafeBytes {
                unsafe $0.loadUnaligned(fromByteOffset: index * stride, as: Flow.self)
            }
            return flow.kind == .free ? nil : FlowSnapshot(flow)
        }
        let c = header.counters
        let values: [(String, UInt64)] = [
            ("frames_in", c.framesIn), ("frames_out", c.framesOut), ("bytes_in", c.bytesIn), ("bytes_out", c.bytesOut),
            ("malformed", c.malformed), ("martian", c.martian), ("denied", c.denied),
            ("refused_by_limit", c.refusedByLimit), ("retransmitted", c.retransmitted),
            ("out_of_order", c.outOfOrder), ("pool_exhausted", c.poolExhausted), ("link_refused", c.linkRefused),
            ("opened", c.opened), ("closed", c.closed),
        ]
        return (flows, ForwarderCounters(values: values.map { (name: $0.0, value: $0.1) }))
    }

    private static func read(_ file: Int32, at offset: Int, count: Int) -> [UInt8]? {
        var bytes = [UInt8](repeating: 0, count: count)
        if count == 0 { return bytes }
        guard case .bytes(count) = Kernel.read(file, at: offset, into: &bytes) else { return nil }
        return bytes
    }
}

extension FlowSnapshot {
    fileprivate init(_ flow: Flow) {
        switch flow.kind {
        case .tcp: transport = "tcp"
        case .ping: transport = "ping"
        default: transport = "udp"
        }
        let isTCP = flow.kind == .tcp
        state = isTCP ? flow.tcp.word : ""
        guest = flow.guest
        remote = flow.remote
        target = flow.target
        isInbound = flow.kind == .inboundUDP || (isTCP && flow.tcp.marks.contains(.fromOutside))
        createdAt = MonotonicInstant(nanoseconds: flow.createdAt)
        activeAt = MonotonicInstant(nanoseconds: flow.activeAt)
        bytesUp = flow.bytesUp
        bytesDown = flow.bytesDown
        packetsUp = flow.packetsUp
        packetsDown = flow.packetsDown
        roundTrip = isTCP && flow.tcp.smoothedRoundTrip > 0 ? .nanoseconds(flow.tcp.smoothedRoundTrip) : nil
    }
}

/// The table of a running forwarder, looked at from another process.
public enum ForwarderTable {
    /// Its flows and counters; nil when the descriptor is of something else.
    public static func read(_ file: Descriptor) -> (flows: [FlowSnapshot], counters: ForwarderCounters)? {
        FlowTable.snapshot(file.number)
    }
}

extension TCPState {
    /// The phase, and which halves are closed, in a word.
    fileprivate var word: String {
        switch phase {
        case .opening: "connecting"
        case .synReceived: "answered"
        case .synSent: "offered"
        case .established:
            switch (marks.contains(.peerFinished), marks.contains(.outsideEnded)) {
            case (false, false): "established"
            case (true, true): "closing"
            default: "half-closed"
            }
        }
    }
}
