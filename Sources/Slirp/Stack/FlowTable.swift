internal import Kernel
internal import SystemPackage

/// One flow: plain data in the shared region, readable by another process.
struct Flow: Sendable {
    enum Kind: UInt8, Sendable {
        case free, tcp, udp, ping
        /// A client of a UDP forward: `target` is the client, `remote` what the workspace knows it by, and the socket the
        /// forward's.
        case inboundUDP
        /// A client from the container's loopback: `guest` is the server, `remote` the inside socket's own end, `target` the
        /// client.
        case spliced
        /// A query to a name server: `guest` and `remote` are the query's, `target` the server.
        case lookup
    }

    var kind = Kind.free
    /// Set while the flow waits in the driver's lists, so that it is there once.
    var isDirty = false, isReady = false
    /// The outside socket has something to read (edge-triggered).
    var isReadable = false
    /// The outside has said that no more comes after what is there, so that its end must be read.
    var isEnding = false
    /// The outside connection has failed: once what is there is passed on, the workspace is told.
    var isBroken = false
    /// The outside has sent urgent data: a read that brings less than was asked for may have ended before that byte.
    var isUrgent = false
    /// The rule that admitted it, by its place in the table's list; ``noRule`` for what no rule is about.
    var rule: UInt16 = Self.noRule
    static let noRule: UInt16 = .max
    /// The outside socket's hop limit and traffic class as last set, and whether what it sends may be cut.
    var timeToLive: UInt8 = 64
    var trafficClass: UInt8 = 0
    var isUncuttable = false
    /// Tells a late event of a closed socket from one of the flow's next life.
    var generation: UInt32 = 0
    /// The next flow of the same bucket, or of the free list; index + 1.
    var hashNext: UInt32 = 0
    /// The wheel's list, index + 1 each.
    var timerNext: UInt32 = 0, timerPrevious: UInt32 = 0
    /// The slot the flow waits in; -1: none.
    var timerSlot: Int32 = -1
    /// When it is to be looked at; 0: never. Kept lazily: the slot may come first.
    var deadline: Int64 = 0
    var socket: Int32 = -1
    /// In the workspace's words.
    var guest: Endpoint, remote: Endpoint
    /// Where the outside socket goes.
    var target: Endpoint
    /// Head and tail of the spill and head of the out-of-order list, chunk + 1 each.
    var spillHead: UInt32 = 0, spillTail: UInt32 = 0, gapHead: UInt32 = 0
    var gapChunks: UInt16 = 0
    var createdAt: Int64 = 0, activeAt: Int64 = 0
    var bytesUp: UInt64 = 0, bytesDown: UInt64 = 0
    var packetsUp: UInt64 = 0, packetsDown: UInt64 = 0
    /// The outside socket's round-trip time in nanoseconds when it was last asked for; 0: not yet.
    var outsideRoundTrip: Int64 = 0, outsideAskedAt: Int64 = 0
    var tcp: TCPState
}

/// What the whole stack counts. Plain data at the head of the region.
struct Counters: Sendable {
    var framesIn: UInt64 = 0, framesOut: UInt64 = 0, bytesIn: UInt64 = 0, bytesOut: UInt64 = 0
    var malformed: UInt64 = 0, martian: UInt64 = 0, denied: UInt64 = 0, refusedByLimit: UInt64 = 0
    var retransmitted: UInt64 = 0, outOfOrder: UInt64 = 0, poolExhausted: UInt64 = 0, linkRefused: UInt64 = 0
    var opened: UInt64 = 0, closed: UInt64 = 0
    /// What came from outside without a connection: datagrams, and errors about those sent.
    var datagramsIn: UInt64 = 0
    /// Turns of the loop that had events and came to nothing.
    var stalledTurns: UInt64 = 0
    /// Moved between the container's loopback and the workspace's.
    var splicedBytes: UInt64 = 0

    /// Grows with everything that brings the forwarder on.
    var progress: UInt64 { framesIn &+ framesOut &+ opened &+ closed &+ datagramsIn &+ linkRefused &+ splicedBytes }
}

/// # Theory of operation
///
/// All flows live in one memory file of fixed size: a header, the rules and the forwards with their counters, a bucket
/// array, and the flows, which a hash over kind, guest and remote finds through chains of indices. No pointer lies in it, so that any process may map it. Pages that
/// no flow ever used cost nothing; freed flows are used again first.
@safe struct FlowTable: ~Copyable {
    static let magic: UInt64 = 0x776b_666c_6f77_0004

    struct Header {
        var magic: UInt64
        var capacity: UInt32, count: UInt32
        /// Flows that were ever used; the first free one, index + 1.
        var highWater: UInt32, firstFree: UInt32
        var counters: Counters
        var rules: UInt32
        /// Places of forwards that were ever used.
        var forwards: UInt32
    }

    /// A rule's place: what it says, and the flows that it decided.
    struct RuleSlot {
        static let stride = 320, textLimit = 288
        static let capacity = EgressPolicy.ruleLimit + Egress.Place.builtIn
        var flows: UInt64, lastAt: Int64
        var allows: UInt8, length: UInt16
        // Its text follows, at ``textOffset``.
        static let textOffset = 32
    }
    static let rulesOffset = 4096
    static let forwardsOffset = rulesOffset + (RuleSlot.capacity * RuleSlot.stride + 4095) / 4096 * 4096
    static let bucketsOffset = forwardsOffset + ForwardSlot.capacity * ForwardSlot.stride

    private let region: Region
    private let header: UnsafeMutablePointer<Header>
    private let buckets: UnsafeMutablePointer<UInt32>
    private let flows: UnsafeMutablePointer<Flow>
    private let bucketMask: UInt32
    private let secret: UInt64

    /// Bytes for a table of `capacity` flows, a power of two.
    static func size(capacity: Int) -> Int { flowsOffset(capacity: capacity) + capacity * MemoryLayout<Flow>.stride }
    static func flowsOffset(capacity: Int) -> Int { bucketsOffset + capacity * 4 }

    /// An empty table in the memory file, or in private memory.
    init(capacity: Int, file: Descriptor?, secret: UInt64) throws(KernelError) {
        precondition(capacity > 0 && capacity & (capacity - 1) == 0)
        let region = try Region(count: Self.size(capacity: capacity), sharedWith: file)
        // The region is as large as size(capacity:) says, page-aligned, and outlives these.
        guard let base = unsafe region.bytes.baseAddress else { throw KernelError(call: "map", errno: .noMemory) }
        self.region = region
        unsafe header = base.bindMemory(to: Header.self, capacity: 1)
        unsafe buckets = (base + Self.bucketsOffset).bindMemory(to: UInt32.self, capacity: capacity)
        unsafe flows = (base + Self.flowsOffset(capacity: capacity)).bindMemory(to: Flow.self, capacity: capacity)
        bucketMask = UInt32(capacity - 1)
        self.secret = secret
        // The region reads as zero: no bucket is touched before a flow needs it.
        unsafe header.pointee = Header(
            magic: Self.magic, capacity: UInt32(capacity), count: 0, highWater: 0, firstFree: 0, counters: Counters(),
            rules: 0, forwards: 0)
    }

    // MARK: rules

    /// Writes down the rules that flows are decided by.
    func setRules(_ rules: [(allows: Bool, text: String)]) {
        for (place, rule) in rules.prefix(RuleSlot.capacity).enumerated() {
            let text = Array(rule.text.utf8.prefix(RuleSlot.textLimit))
            let slot = RuleSlot(flows: 0, lastAt: 0, allows: rule.allows ? 1 : 0, length: UInt16(text.count))
            let bytes = unsafe ruleBytes(place)
            unsafe bytes.storeBytes(of: slot, as: RuleSlot.self)
            for (offset, byte) in text.enumerated() { unsafe bytes[RuleSlot.textOffset + offset] = byte }
        }
        unsafe header.pointee.rules = UInt32(min(rules.count, RuleSlot.capacity))
    }

    /// Another flow that the rule at this place decided.
    func countRule(_ place: Int, at now: MonotonicInstant) {
        guard unsafe place < Int(header.pointee.rules) else { return }
        let bytes = unsafe ruleBytes(place)
        var slot = unsafe bytes.load(as: RuleSlot.self)
        slot.flows += 1
        slot.lastAt = now.nanoseconds
        unsafe bytes.storeBytes(of: slot, as: RuleSlot.self)
    }

    // MARK: forwards

    /// A place that no forward has; nil when all are taken.
    func freeForwardSlot() -> Int? {
        let used = unsafe Int(header.pointee.forwards)
        if let place = (0..<used).first(where: { unsafe forwardSlot($0).pointee.origin == 0 }) { return place }
        guard used < ForwardSlot.capacity else { return nil }
        unsafe header.pointee.forwards += 1
        return used
    }

    /// Writes down a forward; what its place has counted stays.
    func setForward(_ place: Int, _ slot: ForwardSlot) {
        var slot = slot
        let there = unsafe forwardSlot(place)
        unsafe slot.clients = there.pointee.clients
        unsafe slot.lastAt = there.pointee.lastAt
        unsafe there.pointee = slot
    }

    /// Another client came.
    func countForward(_ place: Int, at now: MonotonicInstant) {
        let there = unsafe forwardSlot(place)
        unsafe there.pointee.clients += 1
        unsafe there.pointee.lastAt = now.nanoseconds
    }

    /// The forward is over.
    func freeForward(_ place: Int) {
        unsafe UnsafeMutableRawPointer(forwardSlot(place)).initializeMemory(
            as: UInt8.self, repeating: 0, count: ForwardSlot.stride)
    }

    /// Within the region: `place` is below the capacity.
    private func forwardSlot(_ place: Int) -> UnsafeMutablePointer<ForwardSlot> {
        precondition(place >= 0 && place < ForwardSlot.capacity)
        return unsafe (UnsafeMutableRawPointer(header) + Self.forwardsOffset + place * ForwardSlot.stride)
            .assumingMemoryBound(to: ForwardSlot.self)
    }

    /// The place's bytes, within the region: `place` is below the capacity.
    private func ruleBytes(_ place: Int) -> UnsafeMutableRawBufferPointer {
        precondition(place >= 0 && place < RuleSlot.capacity)
        return unsafe UnsafeMutableRawBufferPointer(
            rebasing: region.bytes[
                Self.rulesOffset + place * RuleSlot.stride..<Self.rulesOffset + (place + 1) * RuleSlot.stride])
    }

    /// What a place's bytes say; nil for anything else.
    static func rule(in bytes: UnsafeMutableRawBufferPointer) -> (
        allows: Bool, text: String, flows: UInt64, lastAt: Int64
    )? {
        guard bytes.count == RuleSlot.stride else { return nil }
        let slot = unsafe bytes.load(as: RuleSlot.self)
        guard Int(slot.length) <= RuleSlot.textLimit else { return nil }
        let text = unsafe String(
            decoding: bytes[RuleSlot.textOffset..<RuleSlot.textOffset + Int(slot.length)], as: UTF8.self)
        return (slot.allows == 1, text, slot.flows, slot.lastAt)
    }

    var count: Int { unsafe Int(header.pointee.count) }
    var highWater: Int { unsafe Int(header.pointee.highWater) }

    var counters: Counters {
        @inline(__always) _read { yield unsafe header.pointee.counters }
        @inline(__always) nonmutating _modify { yield unsafe &header.pointee.counters }
    }

    /// The flow at an index below ``highWater``, in place.
    subscript(index: Int) -> Flow {
        @inline(__always) _read {
            precondition(index >= 0 && index <= Int(bucketMask))
            yield unsafe flows[index]
        }
        @inline(__always) nonmutating _modify {
            precondition(index >= 0 && index <= Int(bucketMask))
            yield unsafe &flows[index]
        }
    }

    @inline(__always)
    private func bucket(_ kind: Flow.Kind, _ guest: Endpoint, _ remote: Endpoint) -> Int {
        @inline(__always) func mix(_ h: UInt64, _ word: UInt64) -> UInt64 {
            let product = (h ^ word).multipliedFullWidth(by: 0x9e37_79b9_7f4a_7c15)
            return product.high ^ product.low
        }
        var h = mix(secret, UInt64(kind.rawValue) << 32 | UInt64(guest.port) << 16 | UInt64(remote.port))
        h = mix(h, guest.address.high ^ guest.address.low)
        h = mix(h, remote.address.high)
        h = mix(h, remote.address.low)
        return Int(UInt32(truncatingIfNeeded: h >> 32) & bucketMask)
    }

    /// The index of a flow.
    @inline(__always)
    func find(_ kind: Flow.Kind, guest: Endpoint, remote: Endpoint) -> Int? {
        var next = unsafe buckets[bucket(kind, guest, remote)]
        while next != 0 {
            let index = Int(next - 1)
            if unsafe flows[index].kind == kind && flows[index].guest == guest && flows[index].remote == remote {
                return index
            }
            next = unsafe flows[index].hashNext
        }
        return nil
    }

    /// Puts a flow into the table; nil when it is full. The generation goes on from the place's last life.
    func insert(_ flow: consuming Flow) -> Int? {
        let place: Int
        if unsafe header.pointee.firstFree != 0 {
            place = unsafe Int(header.pointee.firstFree - 1)
            unsafe header.pointee.firstFree = flows[place].hashNext
            flow.generation = unsafe (flows[place].generation &+ 1) & 0xff_ffff
        } else {
            guard unsafe header.pointee.highWater <= bucketMask else { return nil }
            place = unsafe Int(header.pointee.highWater)
            unsafe header.pointee.highWater += 1
            flow.generation = 0
        }
        let slot = bucket(flow.kind, flow.guest, flow.remote)
        flow.hashNext = unsafe buckets[slot]
        unsafe buckets[slot] = UInt32(place + 1)
        unsafe flows[place] = flow
        unsafe header.pointee.count += 1
        unsafe header.pointee.counters.opened += 1
        return place
    }

    /// Takes a flow out of the table.
    func remove(_ index: Int) {
        let slot = unsafe bucket(flows[index].kind, flows[index].guest, flows[index].remote)
        if unsafe buckets[slot] == UInt32(index + 1) {
            unsafe buckets[slot] = flows[index].hashNext
        } else {
            var at = unsafe Int(buckets[slot])
            while at != 0, unsafe flows[at - 1].hashNext != UInt32(index + 1) {
                at = unsafe Int(flows[at - 1].hashNext)
            }
            if at != 0 { unsafe flows[at - 1].hashNext = flows[index].hashNext }
        }
        unsafe flows[index].kind = .free
        unsafe flows[index].hashNext = header.pointee.firstFree
        unsafe header.pointee.firstFree = UInt32(index + 1)
        unsafe header.pointee.count -= 1
        unsafe header.pointee.counters.closed += 1
    }
}
