internal import Kernel

/// # Theory of operation
///
/// The workspace's queries over UDP that wait for an answer. Each is asked with an id and a port of its own, from a socket
/// that is connected to one server, whatever id and port the workspace chose: what does not come from that server's address,
/// with that id and that question, is no answer (RFC 5452). A and AAAA that a resolver sends from one port are two queries.
///
///     query ──▶ attempt at the first server ──── answer ───────────────▶ the workspace, with its own id
///                    │ silent for the patience, unreachable, SERVFAIL, NOTIMP or REFUSED
///                    └─▶ attempt at the next ─── answer ───────────────▶ …
///                             └─▶ none is left: the last refusal, if there is one
///
/// An attempt stays open while later ones wait: the first answer counts, whichever server it is from. The query that the
/// workspace sends again is the same query (same port, id and question).
///
/// Pure: an attempt's number is its flow's, the driver's. Everything is bounded: the oldest query gives way.
struct NameLookups: Sendable {
    /// How long a query is kept without an answer: resolvers give up or ask again by then.
    static let lifetime = Duration.seconds(10)
    /// Longer queries over UDP are dropped; the largest that resolvers send have a few cookies and a long name.
    static let messageLimit = 1232
    private static let sendLimit = 3

    /// A query as the workspace knows it.
    struct Query: Hashable, Sendable {
        let guest: Endpoint, remote: Endpoint
        let id: UInt16
        /// ``DNSMessage/question(in:)``
        let question: [UInt8]
    }

    private struct Lookup: Sendable {
        let query: Query
        let message: [UInt8]
        let name: String
        let endsAt: MonotonicInstant
        /// Servers that were not yet asked.
        var pending: ArraySlice<NameServer>
        var attempts: [Int] = []
        var refusal: [UInt8]?
    }

    private struct Attempt: Sendable {
        let lookup: UInt64
        let server: NameServer
        let id: UInt16
        var sends = 1
        var isOverdue = false
    }

    /// Queries at a time.
    let limit: Int
    private var lookups: [UInt64: Lookup] = [:]
    private var numbers: [Query: UInt64] = [:]
    private var attempts: [Int: Attempt] = [:]
    private var oldest: UInt64 = 0, next: UInt64 = 0

    init(limit: Int) { self.limit = max(1, limit) }

    var count: Int { lookups.count }

    // MARK: queries

    /// The number of a query that waits already; nil for a new one.
    func number(of query: Query) -> UInt64? { numbers[query] }

    /// Enters a new query. The caller has made room: ``oldestBeyondLimit()``.
    mutating func begin(
        _ query: Query, _ message: [UInt8], name: String, servers: [NameServer], at now: MonotonicInstant
    ) -> UInt64 {
        let number = next
        next += 1
        lookups[number] = Lookup(
            query: query, message: message, name: name, endsAt: now + Self.lifetime, pending: servers[...])
        numbers[query] = number
        return number
    }

    /// The query that gives way to another one; nil while there is room.
    mutating func oldestBeyondLimit() -> UInt64? {
        guard lookups.count >= limit else { return nil }
        while oldest < next, lookups[oldest] == nil { oldest += 1 }
        return oldest
    }

    /// Takes a query out; its attempts, which the caller closes.
    mutating func remove(_ number: UInt64) -> [Int] {
        guard let lookup = lookups.removeValue(forKey: number) else { return [] }
        numbers[lookup.query] = nil
        for attempt in lookup.attempts { attempts[attempt] = nil }
        return lookup.attempts
    }

    func query(_ number: UInt64) -> Query? { lookups[number]?.query }
    func message(_ number: UInt64) -> [UInt8]? { lookups[number]?.message }
    func name(_ number: UInt64) -> String? { lookups[number]?.name }
    func attempts(_ number: UInt64) -> [Int] { lookups[number]?.attempts ?? [] }

    /// The next server to ask, which then counts as asked; nil when there is none left.
    mutating func takeServer(_ number: UInt64) -> NameServer? { lookups[number]?.pending.popFirst() }

    /// The refusal to pass on, once no server may still give an answer.
    func finalRefusal(_ number: UInt64) -> [UInt8]? {
        guard let lookup = lookups[number], lookup.pending.isEmpty,
            lookup.attempts.allSatisfy({ attempts[$0]?.isOverdue != false })
        else { return nil }
        return lookup.refusal
    }

    /// Whether nothing more can come of the query.
    func isFruitless(_ number: UInt64) -> Bool {
        guard let lookup = lookups[number] else { return false }
        return lookup.pending.isEmpty && lookup.attempts.isEmpty && lookup.refusal == nil
    }

    // MARK: attempts

    /// A server is being asked for a query.
    mutating func add(_ attempt: Int, to number: UInt64, _ server: NameServer, id: UInt16) {
        guard lookups[number] != nil else { return }
        lookups[number]?.attempts.append(attempt)
        attempts[attempt] = Attempt(lookup: number, server: server, id: id)
    }

    /// An attempt is over; the query that it was for.
    @discardableResult
    mutating func ended(_ attempt: Int) -> (number: UInt64, server: NameServer)? {
        guard let ended = attempts.removeValue(forKey: attempt) else { return nil }
        lookups[ended.lookup]?.attempts.removeAll { $0 == attempt }
        return (ended.lookup, ended.server)
    }

    /// What an attempt asks, and whom; nil for what is no attempt.
    func attempt(_ attempt: Int) -> (number: UInt64, server: NameServer, id: UInt16)? {
        attempts[attempt].map { ($0.lookup, $0.server, $0.id) }
    }

    /// What comes of a time without an answer.
    enum Delay: Hashable, Sendable {
        /// The query's time is over.
        case expired
        /// The next server is asked, if there is one, and this one once more where `resends`.
        case goOn(resends: Bool)
    }

    mutating func wasLate(_ attempt: Int, at now: MonotonicInstant) -> Delay {
        guard var late = attempts[attempt], let lookup = lookups[late.lookup], lookup.endsAt > now else {
            return .expired
        }
        late.isOverdue = true
        let resends = lookup.pending.isEmpty && late.sends < Self.sendLimit
        if resends { late.sends += 1 }
        attempts[attempt] = late
        return .goOn(resends: resends)
    }

    /// What a message is that an attempt's socket received.
    enum Reply: Hashable, Sendable {
        /// Not an answer to what was asked.
        case foreign
        /// The server will not say (SERVFAIL, NOTIMP, REFUSED); another one may.
        case refusal
        case answer
    }

    mutating func judge(_ bytes: RawSpan, for attempt: Int) -> Reply {
        guard let own = attempts[attempt], let lookup = lookups[own.lookup],
            DNSMessage.isReply(bytes, id: own.id, question: lookup.query.question)
        else { return .foreign }
        guard DNSMessage.isRefusal(code: bytes.u8(3) & 15) || bytes.u16(4) == 0 else { return .answer }
        lookups[own.lookup]?.refusal = bytes.array(0..<bytes.byteCount)
        return .refusal
    }
}
