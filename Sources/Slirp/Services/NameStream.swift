internal import Kernel

/// A connection to the name server: which server it leads to, what the workspace sent, and which questions wait for an
/// answer. Until an answer has begun, another server can take the first one's place, as nothing of it has reached the
/// workspace: the queries are kept that long. Pure.
struct NameStream: Sendable {
    /// Connections that are looked into. What each holds is bounded, and so is what all hold.
    static let limit = 256
    /// Bytes of queries that are kept for another server; more than that stay with the server that has them.
    private static let keptLimit = 8192
    private static let questionLimit = 64

    /// The server.
    private(set) var server: NameServer
    private var others: ArraySlice<NameServer>
    /// What the workspace sent before the first answer.
    private(set) var sent: [UInt8] = []
    /// An answer has begun, or too much was sent: the server is the connection's for good.
    private(set) var isSettled = false
    /// The connection to another server is under way while the workspace's stands.
    var isConnecting = false
    /// When the next server is asked; nil while no answer is due or there is no other server.
    private(set) var deadline: MonotonicInstant?
    private var queries = DNSStream(limit: 4096)
    private var answers = DNSStream(limit: 65_535)
    private struct Question: Hashable { let id: UInt16, question: [UInt8] }
    /// Questions that were passed on, with the names in them.
    private var names: [Question: String] = [:]

    /// A connection to the first of some servers; nil when there is none.
    init?(_ servers: [NameServer], at now: MonotonicInstant) {
        guard let first = servers.first else { return nil }
        server = first
        others = servers.dropFirst()
        startClock(at: now)
    }

    private mutating func startClock(at now: MonotonicInstant) {
        deadline = others.isEmpty || isSettled ? nil : now + NameServers.patience
    }

    /// The connection stands: the clock stops until something is asked.
    mutating func connected(at now: MonotonicInstant) {
        isConnecting = false
        if sent.isEmpty { deadline = nil } else { startClock(at: now) }
    }

    /// Another server takes the place of this one; nil when none may or none is left.
    mutating func failOver(at now: MonotonicInstant) -> NameServer? {
        guard !isSettled, let next = others.popFirst() else { return nil }
        server = next
        startClock(at: now)
        return next
    }

    /// Whether queries wait for their first answer.
    var awaitsAnswer: Bool { !isSettled && !sent.isEmpty }

    /// The workspace sends these bytes. False when they can be kept no more and the connection to another server is not yet
    /// there to take them.
    mutating func record(_ bytes: RawSpan, at now: MonotonicInstant) -> Bool {
        if isSettled { return true }
        if sent.isEmpty { startClock(at: now) }
        sent += bytes.array(0..<bytes.byteCount)
        if sent.count > Self.keptLimit { settle() }
        return !(isSettled && isConnecting)
    }

    private mutating func settle() {
        isSettled = true
        sent = []
        deadline = nil
    }

    /// Takes queries apart and gives each to `isAllowed`. False when one is denied, malformed or one too many.
    mutating func takeQueries(_ bytes: RawSpan, _ isAllowed: (DNSMessage, RawSpan) -> Bool) -> Bool {
        var asked: [(Question, String)] = []
        let isWhole = queries.take(bytes) { message in
            guard let query = try? DNSMessage(parsing: message), !query.isResponse, isAllowed(query, message) else {
                return false
            }
            asked.append((Question(id: query.id, question: query.question(in: message)), query.name))
            return true
        }
        for (question, name) in asked { names[question] = name }
        return isWhole && names.count <= Self.questionLimit
    }

    /// Takes answers apart and gives `learn` each that answers a question, with the name.
    mutating func takeAnswers(_ bytes: RawSpan, _ learn: (String, DNSMessage, RawSpan) -> Void) {
        var names = names
        _ = answers.take(bytes) { message in
            guard let answer = try? DNSMessage(parsing: message), answer.isResponse else { return true }
            let question = Question(id: answer.id, question: answer.question(in: message))
            guard let name = names[question] else { return true }
            learn(name, answer, message)
            // A zone transfer's answer goes on in further messages (RFC 5936, 2.2); those give no addresses to connect to.
            names[question] = nil
            return true
        }
        self.names = names
    }

    /// What the first bytes of an answer mean.
    enum Beginning: Hashable, Sendable { case tooShort, refusal, answer }

    /// Looks at the beginning of what the server sends. Once it is an answer, the server is the connection's for good.
    mutating func examine(_ bytes: RawSpan) -> Beginning {
        if isSettled { return .answer }
        // The length, and a header as far as its code.
        guard bytes.byteCount >= 6 else { return .tooShort }
        if !others.isEmpty, DNSMessage.isRefusal(code: bytes.u8(5) & 15) { return .refusal }
        settle()
        return .answer
    }
}
