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
    /// How far away the outside is, by its socket; nil before it was asked.
    public let outsideRoundTrip: Duration?
    /// The rule that admitted it, as an index of the rules read with it; nil when no rule is about it.
    public let rule: Int?
}

/// A rule of the forwarder's, and what it has decided.
public struct RuleSnapshot: Hashable, Sendable {
    /// It allows; else it denies.
    public let allows: Bool
    /// As the configuration writes it, or what is built in.
    public let text: String
    /// Flows that it decided, and when the last one came; nil: none yet.
    public let flows: UInt64, lastAt: MonotonicInstant?
    /// It is built in: no rule of the configuration's.
    public let isBuiltIn: Bool
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

/// A forwarder's table at a moment.
public struct ForwarderSnapshot: Hashable, Sendable {
    /// What is connected.
    public let flows: [FlowSnapshot]
    /// What was counted.
    public let counters: ForwarderCounters
    /// What flows are decided by: the default, what else is built in, and the configuration's.
    public let rules: [RuleSnapshot]
    /// Ports of the outside that lead inside.
    public let forwards: [ForwardSnapshot]
}

extension FlowTable {
    /// Reads the table of a forwarder that goes on meanwhile: what it changes just then may be read half; nil when the file
    /// is none.
    static func snapshot(_ file: Int32) -> ForwarderSnapshot? {
        guard let head = read(file, at: 0, count: MemoryLayout<Header>.size) else { return nil }
        let header = unsafe head.withUnsafeBytes { unsafe $0.loadUnaligned(as: Header.self) }
        guard header.magic == magic, header.capacity > 0, header.highWater <= header.capacity else { return nil }
        guard let all = flows(file, header) else { return nil }
        let flows = all.map(FlowSnapshot.init)
        let c = header.counters
        let values: [(String, UInt64)] = [
            ("frames_in", c.framesIn), ("frames_out", c.framesOut), ("bytes_in", c.bytesIn), ("bytes_out", c.bytesOut),
            ("malformed", c.malformed), ("martian", c.martian), ("denied", c.denied),
            ("refused_by_limit", c.refusedByLimit), ("retransmitted", c.retransmitted),
            ("out_of_order", c.outOfOrder), ("pool_exhausted", c.poolExhausted), ("link_refused", c.linkRefused),
            ("opened", c.opened), ("closed", c.closed), ("datagrams_in", c.datagramsIn),
            ("stalled_turns", c.stalledTurns), ("spliced_bytes", c.splicedBytes),
        ]
        let places = min(Int(header.rules), RuleSlot.capacity)
        guard var ruleBytes = read(file, at: rulesOffset, count: places * RuleSlot.stride) else { return nil }
        let rules = (0..<places).compactMap { place -> RuleSnapshot? in
            let slot = unsafe ruleBytes.withUnsafeMutableBytes {
                unsafe rule(
                    in: UnsafeMutableRawBufferPointer(
                        rebasing: $0[place * RuleSlot.stride..<(place + 1) * RuleSlot.stride]))
            }
            return slot.map {
                RuleSnapshot(
                    allows: $0.allows, text: $0.text, flows: $0.flows,
                    lastAt: $0.flows == 0 ? nil : MonotonicInstant(nanoseconds: $0.lastAt),
                    isBuiltIn: place < Egress.Place.builtIn)
            }
        }
        let used = min(Int(header.forwards), ForwardSlot.capacity)
        guard let slots = read(file, at: forwardsOffset, count: used * ForwardSlot.stride) else { return nil }
        let forwards = (0..<used).compactMap { place in
            ForwardSnapshot(
                unsafe slots.withUnsafeBytes {
                    unsafe $0.loadUnaligned(fromByteOffset: place * ForwardSlot.stride, as: ForwardSlot.self)
                })
        }
        return ForwarderSnapshot(
            flows: flows, counters: ForwarderCounters(values: values.map { (name: $0.0, value: $0.1) }), rules: rules,
            forwards: forwards)
    }

    /// The flows that are there, as they stand.
    private static func flows(_ file: Int32, _ header: Header) -> [Flow]? {
        let stride = MemoryLayout<Flow>.stride
        let count = Int(header.highWater)
        guard let bytes = read(file, at: flowsOffset(capacity: Int(header.capacity)), count: count * stride) else {
            return nil
        }
        return (0..<count).compactMap { index in
            let flow = unsafe bytes.withUnsafeBytes {
                unsafe $0.loadUnaligned(fromByteOffset: index * stride, as: Flow.self)
            }
            return flow.kind == .free ? nil : flow
        }
    }

    /// The flows of a forwarder that is gone; none when the file is no table.
    static func flows(_ file: Int32) -> [Flow] {
        guard let head = read(file, at: 0, count: MemoryLayout<Header>.size) else { return [] }
        let header = unsafe head.withUnsafeBytes { unsafe $0.loadUnaligned(as: Header.self) }
        guard header.magic == magic, header.capacity > 0, header.highWater <= header.capacity else { return [] }
        return flows(file, header) ?? []
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
        case .tcp, .spliced: transport = "tcp"
        case .ping: transport = "ping"
        default: transport = "udp"
        }
        let isTCP = flow.kind == .tcp
        state = isTCP ? flow.tcp.word : flow.kind == .spliced ? "spliced" : ""
        guest = flow.guest
        remote = flow.remote
        target = flow.target
        isInbound =
            flow.kind == .inboundUDP || flow.kind == .spliced || (isTCP && flow.tcp.marks.contains(.fromOutside))
        createdAt = MonotonicInstant(nanoseconds: flow.createdAt)
        activeAt = MonotonicInstant(nanoseconds: flow.activeAt)
        bytesUp = flow.bytesUp
        bytesDown = flow.bytesDown
        packetsUp = flow.packetsUp
        packetsDown = flow.packetsDown
        outsideRoundTrip = isTCP && flow.outsideRoundTrip > 0 ? .nanoseconds(flow.outsideRoundTrip) : nil
        rule = flow.rule == Flow.noRule ? nil : Int(flow.rule)
        roundTrip = isTCP && flow.tcp.smoothedRoundTrip > 0 ? .nanoseconds(flow.tcp.smoothedRoundTrip) : nil
    }
}

/// The table of a running forwarder, looked at from another process.
public enum ForwarderTable {
    /// Its flows and counters; nil when the descriptor is of something else.
    public static func read(_ file: Descriptor) -> ForwarderSnapshot? {
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
