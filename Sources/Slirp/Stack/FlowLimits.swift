internal import Kernel

/// # Theory of operation
///
/// How many flows there may be. A limit is for what would otherwise take everything: one destination leaves room for others
/// (a scan of a network that swallows SYNs, a service that never closes), and connections that are not yet answered leave
/// room for those that are. Whoever comes over a limit is refused at once; when there is no room in all, the flow without
/// a connection that was used least recently gives way, if it has been idle.
///
/// Connections are counted by where their outside socket goes. Clients from outside have limits of their own, by the address
/// they come from: at most half of all flows, so that no number of them takes what the workspace needs to connect itself.
///
/// Pure: the driver reports each flow that opens and closes.
struct FlowLimits {
    /// Flows in all, each with a socket; connections that the outside has not answered.
    let total: Int, pending: Int
    /// Of them towards one address.
    let totalOfOne: Int, pendingOfOne: Int
    private struct Count {
        var open = 0, pending = 0
    }
    private var destinations: [IPAddress: Count] = [:]
    private var pendingNow = 0, openNow = 0
    /// Descriptors that are no flow's: the loop's, the link's, and forwards'.
    static let reserve = 64

    /// Limits for a table and a process of that size.
    init(capacity: Int, descriptors: Int) {
        total = max(16, min(capacity, descriptors - Self.reserve))
        pending = total / 2
        totalOfOne = total * 3 / 4
        pendingOfOne = min(4096, total / 8)
    }

    /// Limits for clients from outside, beside those for everything. The workspace answers a client at once or not at all, so
    /// there is none for unanswered ones.
    init(clientsBeside all: FlowLimits) {
        total = all.total / 2
        pending = .max
        totalOfOne = total * 3 / 4
        pendingOfOne = .max
    }

    /// Whether another connection, that uses so many descriptors, may be tried.
    func admits(_ target: IPAddress, cost: Int = 1) -> Bool {
        guard pendingNow < pending, openNow + cost <= total else { return false }
        guard let count = destinations[target] else { return cost <= totalOfOne }
        return count.pending < pendingOfOne && count.open + cost <= totalOfOne
    }

    /// A connection is tried.
    mutating func opened(_ target: IPAddress, cost: Int = 1) {
        pendingNow += 1
        openNow += cost
        destinations[target, default: Count()].open += cost
        destinations[target, default: Count()].pending += 1
    }

    /// The outside has answered it.
    mutating func answered(_ target: IPAddress) {
        pendingNow -= 1
        destinations[target]?.pending -= 1
    }

    /// It is over, answered or not.
    mutating func closed(_ target: IPAddress, wasAnswered: Bool, cost: Int = 1) {
        if !wasAnswered { answered(target) }
        openNow -= cost
        guard var count = destinations[target] else { return }
        count.open -= cost
        destinations[target] = count.open > 0 ? count : nil
    }
}

/// Flows without a connection that may give way, least recently used first. The table is searched when somebody needs
/// room and nobody is known who could make it; when there are few, at most ten times a second.
struct IdleFlows {
    private struct Candidate {
        let index: Int, generation: UInt32, activeAt: Int64
    }
    /// Most recently used first: taken from the end.
    private var candidates: [Candidate] = []
    private var nextSearch = MonotonicInstant(nanoseconds: 0)
    /// Only clients from outside give way.
    private let areClients: Bool
    /// Idle so long; whoever was used since is not.
    static let leastIdle = Duration.seconds(1)
    private static let batch = 64

    init(areClients: Bool = false) { self.areClients = areClients }

    /// The flow that gives way next; nil when all are in use.
    mutating func next(in table: borrowing FlowTable, at now: MonotonicInstant) -> Int? {
        if let index = take(in: table) { return index }
        guard nextSearch <= now else { return nil }
        search(table, now)
        // A search that found fewer than it could has found all there are.
        if candidates.count < Self.batch { nextSearch = now + .milliseconds(100) }
        return take(in: table)
    }

    private mutating func take(in table: borrowing FlowTable) -> Int? {
        while let found = candidates.popLast() {
            let flow = table[found.index]
            // Another life of the place, or used again.
            if flow.hasNoConnection, flow.generation == found.generation, flow.activeAt == found.activeAt {
                return found.index
            }
        }
        return nil
    }

    private mutating func search(_ table: borrowing FlowTable, _ now: MonotonicInstant) {
        let latest = now.nanoseconds - Self.leastIdle.nanoseconds
        var found: [Candidate] = []
        for index in 0..<table.highWater
        where table[index].hasNoConnection && table[index].activeAt <= latest
            && (!areClients || table[index].kind == .inboundUDP)
        {
            found.append(
                Candidate(index: index, generation: table[index].generation, activeAt: table[index].activeAt))
        }
        found.sort { $0.activeAt < $1.activeAt }
        candidates = found.prefix(Self.batch).reversed()
    }
}

extension Flow {
    /// UDP or ping: nobody is told when it ends, and the next packet makes it anew.
    fileprivate var hasNoConnection: Bool { kind == .udp || kind == .ping || kind == .inboundUDP }
}
