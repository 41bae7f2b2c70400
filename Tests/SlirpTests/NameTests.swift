import Kernel
import Testing

@testable import Slirp

private let a = NameServer(IPAddress(v4: 1)), b = NameServer(IPAddress(v4: 2)), c = NameServer(IPAddress(v4: 3))
private let start = MonotonicInstant(nanoseconds: 1_000_000_000)

/// A query for a name's addresses, or the answer with that code that repeats it.
private func message(_ name: String, id: UInt16, type: UInt8 = 1, code: UInt8? = nil) -> [UInt8] {
    let labels = name.split(separator: ".").flatMap { [UInt8($0.utf8.count)] + Array($0.utf8) }
    let flags: [UInt8] = code.map { [0x81, 0x80 | $0] } ?? [1, 0]
    return [UInt8(id >> 8), UInt8(truncatingIfNeeded: id)] + flags + [0, 1, 0, 0, 0, 0, 0, 0] + labels
        + [0, 0, type, 0, 1]
}

@Suite("NameServer")
struct NameServerTests {
    @Test("an address, and an interface where the address means nothing without one")
    func text() {
        #expect(NameServer("198.18.0.1") == NameServer(IPAddress(v4: 0xc612_0001)))
        #expect(NameServer("fe80::1%eth0")?.interface == "eth0")
        #expect(NameServer("fe80::1%eth0").map { "\($0)" } == "fe80::1%eth0")
        #expect(NameServer("fd00::1%eth0")?.interface == nil)
        for text in ["fe80::1", "fe80::1%", "fe80::1%../x", "fe80::1%0123456789abcdef", "", "%eth0", "dns.test"] {
            #expect(NameServer(text) == nil, "\(text)")
        }
    }
}

@Suite("NameServers")
struct NameServersTests {
    @Test("a silent server comes last, then one query asks it and the first at once, and its answer puts it back")
    func failOver() {
        var servers = NameServers([a, b, c])
        #expect(servers.plan(at: start) == ([a, b, c], 1))
        servers.wasSilent(a, at: start)
        servers.wasSilent(a, at: start + .seconds(1))
        #expect(servers.plan(at: start + .seconds(29)) == ([b, c, a], 1))
        let later = start + .seconds(30)
        #expect(servers.plan(at: later) == ([a, b, c], 2))
        #expect(servers.plan(at: later) == ([b, c, a], 1), "one query is enough")
        servers.answered(a)
        #expect(servers.plan(at: later) == ([a, b, c], 1))
    }

    @Test("where all are silent they are asked in their order")
    func allSilent() {
        var servers = NameServers([a, b])
        servers.wasSilent(b, at: start)
        servers.wasSilent(a, at: start)
        #expect(servers.plan(at: start + .seconds(60)) == ([a, b], 1))
        var none = NameServers([])
        #expect(none.isEmpty && none.plan(at: start).order.isEmpty)
    }

    @Test("new servers begin with the first, and what is known of those that stay is kept")
    func replacement() {
        var servers = NameServers([a, b])
        servers.wasSilent(a, at: start)
        servers.replace(with: [a, c])
        #expect(servers.order == [c, a])
        servers.replace(with: [b, c])
        #expect(servers.order == [b, c])
        servers.replace(with: (0..<20).map { NameServer(IPAddress(v4: $0)) })
        #expect(servers.order.count == NameServers.limit)
    }
}

@Suite("NameLookups")
struct NameLookupsTests {
    private let guest = Endpoint(IPAddress(v4: 10), 5000), remote = Endpoint(IPAddress(v4: 11), 53)

    private func query(_ name: String, id: UInt16, type: UInt8 = 1) throws -> (NameLookups.Query, [UInt8]) {
        let bytes = message(name, id: id, type: type)
        let read = try DNSMessage(parsing: bytes.span.bytes)
        return (.init(guest: guest, remote: remote, id: id, question: read.question(in: bytes.span.bytes)), bytes)
    }

    @Test("a query is known by port, id and question, whatever the case of the name")
    func identity() throws {
        var lookups = NameLookups(limit: 8)
        let (first, bytes) = try query("a.test", id: 1)
        let number = lookups.begin(first, bytes, name: "a.test", servers: [a], at: start)
        #expect(lookups.number(of: try query("A.tesT", id: 1).0) == number)
        #expect(lookups.number(of: try query("a.test", id: 2).0) == nil)
        #expect(lookups.number(of: try query("a.test", id: 1, type: 28).0) == nil)
        #expect(lookups.number(of: try query("a.test", id: 1, type: 0x41).0) == nil)
    }

    @Test("only the id and question that an attempt asks with are an answer")
    func answers() throws {
        var lookups = NameLookups(limit: 8)
        let (first, bytes) = try query("a.test", id: 1)
        let number = lookups.begin(first, bytes, name: "a.test", servers: [a, b], at: start)
        #expect(lookups.takeServer(number) == a)
        lookups.add(5, to: number, a, id: 700)
        func judge(_ bytes: [UInt8]) -> NameLookups.Reply { lookups.judge(bytes.span.bytes, for: 5) }
        #expect(judge(message("a.test", id: 700, code: 0)) == .answer)
        #expect(judge(message("A.TEST", id: 700, code: 3)) == .answer)
        #expect(judge(message("a.test", id: 1, code: 0)) == .foreign)
        #expect(judge(message("b.test", id: 700, code: 0)) == .foreign)
        #expect(judge(message("a.test", id: 700, type: 28, code: 0)) == .foreign)
        #expect(judge(message("a.test", id: 700)) == .foreign, "a query")
        #expect(judge([2, 188, 0x81, 0x80, 0, 0, 0, 0, 0, 0, 0, 0]) == .foreign, "no question, no error")
        #expect(judge([2, 188]) == .foreign)
        #expect(lookups.finalRefusal(number) == nil)
        #expect(judge([2, 188, 0x81, 0x81, 0, 0, 0, 0, 0, 0, 0, 0]) == .refusal)
        for code: UInt8 in [2, 4, 5] { #expect(judge(message("a.test", id: 700, code: code)) == .refusal) }
        #expect(lookups.judge(bytes.span.bytes, for: 6) == .foreign)
    }

    @Test("a refusal is passed on once no server may give an answer any more")
    func refusals() throws {
        var lookups = NameLookups(limit: 8)
        let (first, bytes) = try query("a.test", id: 1)
        let number = lookups.begin(first, bytes, name: "a.test", servers: [a, b], at: start)
        for (attempt, id) in [(5, UInt16(50)), (6, 60)] {
            let next = lookups.takeServer(number)
            let server = try #require(next)
            lookups.add(attempt, to: number, server, id: id)
        }
        #expect(lookups.takeServer(number) == nil)
        #expect(lookups.judge(message("a.test", id: 60, code: 5).span.bytes, for: 6) == .refusal)
        lookups.ended(6)
        #expect(lookups.finalRefusal(number) == nil, "the other server has time")
        #expect(lookups.wasLate(5, at: start + .seconds(2)) == .goOn(resends: true))
        #expect(lookups.finalRefusal(number) != nil)
        #expect(lookups.remove(number) == [5])
        #expect(lookups.count == 0 && lookups.attempt(5) == nil && lookups.number(of: first) == nil)
    }

    @Test("an attempt is sent three times at most, and a query ends with its time")
    func delays() throws {
        var lookups = NameLookups(limit: 8)
        let (first, bytes) = try query("a.test", id: 1)
        let number = lookups.begin(first, bytes, name: "a.test", servers: [a], at: start)
        _ = lookups.takeServer(number)
        lookups.add(5, to: number, a, id: 50)
        var resends: [Bool] = []
        for turn in 1...6 {
            if case .goOn(let again) = lookups.wasLate(5, at: start + .milliseconds(1500 * turn)) {
                resends.append(again)
            }
        }
        #expect(resends == [true, true, false, false, false, false])
        #expect(lookups.wasLate(5, at: start + NameLookups.lifetime) == .expired)
        #expect(!lookups.isFruitless(number))
        lookups.ended(5)
        #expect(lookups.isFruitless(number))
    }

    @Test("the oldest query gives way")
    func limit() throws {
        var lookups = NameLookups(limit: 3)
        for id: UInt16 in 0..<50 {
            if let oldest = lookups.oldestBeyondLimit() {
                #expect(lookups.query(oldest)?.id == id - 3)
                _ = lookups.remove(oldest)
            }
            let (query, bytes) = try query("a.test", id: id)
            _ = lookups.begin(query, bytes, name: "a.test", servers: [a], at: start)
        }
        #expect(lookups.count == 3)
    }
}

@Suite("NameStream")
struct NameStreamTests {
    private func framed(_ bytes: [UInt8]) -> [UInt8] { [UInt8(bytes.count >> 8), UInt8(bytes.count & 255)] + bytes }

    @Test("queries are kept for the next server until an answer begins")
    func failOver() throws {
        var stream = try #require(NameStream([a, b], at: start))
        #expect(stream.deadline == start + NameServers.patience)
        stream.connected(at: start)
        #expect(stream.deadline == nil && !stream.awaitsAnswer)
        let query = framed(message("a.test", id: 1))
        #expect(stream.record(query.span.bytes, at: start + .seconds(5)) == true)
        #expect(stream.awaitsAnswer && stream.deadline == start + .seconds(5) + NameServers.patience)
        #expect(stream.examine(framed([]).span.bytes) == .tooShort)
        #expect(stream.examine(framed(message("a.test", id: 1, code: 5)).span.bytes) == .refusal)
        #expect(stream.failOver(at: start + .seconds(6)) == b)
        #expect(stream.server == b && stream.sent == query && stream.deadline == nil, "none is left")
        #expect(stream.examine(framed(message("a.test", id: 1, code: 5)).span.bytes) == .answer, "the last refusal")
        #expect(stream.isSettled && stream.sent.isEmpty && stream.failOver(at: start) == nil)
    }

    @Test("an answer settles the server, and so do more queries than are kept")
    func settling() throws {
        var answered = try #require(NameStream([a, b], at: start))
        #expect(answered.examine(framed(message("a.test", id: 1, code: 3)).span.bytes) == .answer)
        #expect(answered.failOver(at: start) == nil)
        var long = try #require(NameStream([a, b], at: start))
        let many = [UInt8](repeating: 0, count: 9000)
        #expect(long.record(many.span.bytes, at: start) == true)
        #expect(long.isSettled)
        var connecting = try #require(NameStream([a, b], at: start))
        connecting.isConnecting = true
        #expect(connecting.record(many.span.bytes, at: start) == false)
        #expect(NameStream([], at: start) == nil)
    }

    @Test("an answer that no question was asked for is not learned from")
    func questions() throws {
        var stream = try #require(NameStream([a], at: start))
        let queries = framed(message("A.test", id: 7)) + framed(message("b.test", id: 8))
        let isTaken = stream.takeQueries(queries.span.bytes) { _, _ in true }
        #expect(isTaken)
        var learned: [String] = []
        let answers = [
            message("a.test", id: 9, code: 0), message("c.test", id: 7, code: 0), message("b.test", id: 8, code: 0),
            message("b.test", id: 8, code: 0), message("a.test", id: 7, code: 0),
        ].flatMap(framed)
        stream.takeAnswers(answers.span.bytes) { name, _, _ in learned.append(name) }
        #expect(learned == ["b.test", "a.test"])
        let denied = framed(message("d.test", id: 1))
        let isDeniedTaken = stream.takeQueries(denied.span.bytes) { _, _ in false }
        #expect(!isDeniedTaken)
        var flood = try #require(NameStream([a], at: start))
        let many = (0..<UInt16(70)).flatMap { framed(message("a.test", id: $0)) }
        let isFloodTaken = flood.takeQueries(many.span.bytes) { _, _ in true }
        #expect(!isFloodTaken)
    }
}
