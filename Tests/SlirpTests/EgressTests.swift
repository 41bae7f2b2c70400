import Kernel
import TestSupport
import Testing

@testable import Slirp

/// A message of the parts: header with counts, a question, and whatever comes after.
private func message(
    _ name: String, type: UInt16 = 1, response: Bool = true, code: UInt8 = 0, answers: UInt16 = 0,
    additionals: UInt16 = 0, _ rest: [UInt8] = []
) -> [UInt8] {
    [0x12, 0x34, response ? 0x81 : 0x01, (response ? 0x80 : 0) | code, 0, 1, UInt8(answers >> 8), UInt8(answers & 255)]
        + [0, 0, UInt8(additionals >> 8), UInt8(additionals & 255)] + wire(name) + [
            UInt8(type >> 8), UInt8(type & 255), 0, 1,
        ] + rest
}

private func wire(_ name: String) -> [UInt8] {
    name.split(separator: ".").flatMap { [UInt8($0.utf8.count)] + Array($0.utf8) } + [0]
}

private func record(_ owner: [UInt8], _ type: UInt8, _ lifetime: UInt8, _ data: [UInt8]) -> [UInt8] {
    owner + [0, type, 0, 1, 0, 0, 0, lifetime, 0, UInt8(data.count)] + data
}

private func parse(_ bytes: [UInt8]) throws -> DNSMessage { try DNSMessage(parsing: bytes.span.bytes) }

private func at(_ seconds: Int64) -> MonotonicInstant { MonotonicInstant(nanoseconds: seconds * 1_000_000_000) }

@Suite("DNSMessage")
struct DNSMessageTests {
    private let pointer: [UInt8] = [0xc0, 12]

    @Test("a question is read, in lower case, and no label passes for two")
    func question() throws {
        let query = try parse(message("WWW.Example.org", type: 28, response: false))
        #expect(query.name == "www.example.org" && query.type == 28 && !query.isResponse)
        var odd = message("wwwxexample.org", response: false)
        odd[12 + 4] = UInt8(ascii: ".")
        #expect(try parse(odd).name == "www?example.org")
        #expect(try parse(message("", response: false)).name == "")
    }

    @Test("what is no message with one question is refused")
    func malformed() {
        var two = message("a.test")
        two[5] = 2
        #expect(throws: PacketError.malformed) { try parse(two) }
        var none = message("a.test")
        none[5] = 0
        #expect(throws: PacketError.malformed) { try parse(none) }
        var forwards = message("a.test")
        forwards[12] = 0xc0
        forwards[13] = 14
        #expect(throws: PacketError.malformed) { try parse(forwards) }
        var itself = message("a.test")
        itself[12] = 0xc0
        itself[13] = 12
        #expect(throws: PacketError.malformed) { try parse(itself) }
        let long = Array(repeating: String(repeating: "a", count: 63), count: 5).joined(separator: ".")
        #expect(throws: PacketError.malformed) { try parse(message(long)) }
        for length in 0..<message("a.test").count {
            #expect(throws: PacketError.self) { try parse(Array(message("a.test")[..<length])) }
        }
    }

    @Test("addresses are those of the name and of what it is an alias of, with the least lifetime")
    func addresses() throws {
        let six = [UInt8](repeating: 0xfd, count: 16)
        let bytes = message(
            "www.a.test", answers: 5,
            record(pointer, 5, 30, wire("cdn.test")) + record(wire("CDN.test"), 1, 60, [192, 0, 2, 1])
                + record(wire("cdn.test"), 1, 10, [192, 0, 2, 2]) + record(wire("other.test"), 1, 60, [192, 0, 2, 3])
                + record(wire("cdn.test"), 28, 60, six))
        let found = try parse(bytes).addresses(in: bytes.span.bytes)
        let texts = found.map { "\($0.address) \($0.timeToLive)" }
        #expect(texts == ["192.0.2.1 30", "192.0.2.2 10", "fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd 30"])
        // An alias of itself ends; a failure gives none; a query neither.
        let circle = message("a.test", answers: 1, record(pointer, 5, 30, pointer))
        #expect(try parse(circle).addresses(in: circle.span.bytes).isEmpty)
        var failure = bytes
        failure[3] |= 3
        #expect(try parse(failure).addresses(in: failure.span.bytes).isEmpty)
        // Cut anywhere it gives what is whole, and never traps.
        for length in message("www.a.test").count...bytes.count {
            let cut = Array(bytes[..<length])
            #expect(try parse(cut).addresses(in: cut.span.bytes).count <= 3)
        }
    }

    @Test("nothing that the dice bring traps")
    func random() {
        var dice = SeededGenerator(seed: 53)
        let seed = message(
            "www.a.test", answers: 2,
            record(pointer, 5, 30, wire("b.test")) + record(wire("b.test"), 1, 60, [1, 2, 3, 4]))
        for _ in 0..<20_000 {
            var bytes = seed
            for _ in 0..<Int.random(in: 1...6, using: &dice) {
                bytes[Int.random(in: 0..<bytes.count, using: &dice)] = UInt8.random(in: 0...255, using: &dice)
            }
            bytes.removeLast(Int.random(in: 0..<bytes.count, using: &dice) / 4)
            guard let read = try? parse(bytes) else { continue }
            #expect(read.name.utf8.count <= 255)
            _ = read.addresses(in: bytes.span.bytes)
            _ = read.refusal(of: bytes.span.bytes, code: 5, reason: "no")
        }
    }

    @Test("a refusal has the question, and the reason where the client understands one")
    func refusal() throws {
        let plain = message("a.test", response: false)
        let answer = try parse(plain).refusal(of: plain.span.bytes, code: 5, reason: "no")
        #expect(answer[..<4] == [0x12, 0x34, 0x81, 0x85] && Array(answer[4...]) == Array(plain[4...]))
        let option: [UInt8] = [0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0]
        let modern = message("a.test", response: false, additionals: 1, option)
        let explained = try parse(modern).refusal(of: modern.span.bytes, code: 3, reason: "no")
        #expect(explained[11] == 1 && explained.suffix(8) == [0, 15, 0, 4, 0, 15, 0x6e, 0x6f])
        #expect(explained[3] & 15 == 3 && explained.count == plain.count + 11 + 8)
    }

    @Test("a stream gives the same messages in whatever portions it comes")
    func stream() {
        let messages = ["a.test", "a-longer-name.test", ""].map { message($0, response: false) }
        let bytes = messages.flatMap { [UInt8($0.count >> 8), UInt8($0.count & 255)] + $0 }
        for portion in [1, 2, 3, 7, 20, 1000] {
            var stream = DNSStream(limit: 100)
            var heard: [[UInt8]] = []
            for start in stride(from: 0, to: bytes.count, by: portion) {
                let part = Array(bytes[start..<min(start + portion, bytes.count)])
                let goesOn = stream.take(part.span.bytes) { span in
                    heard.append(span.array(0..<span.byteCount))
                    return true
                }
                #expect(goesOn)
            }
            #expect(heard == messages)
        }
        var stream = DNSStream(limit: 100)
        let isTaken = stream.take([0, 101].span.bytes) { _ in true }
        #expect(!isTaken, "too long")
    }
}

@Suite("Egress")
struct EgressTests {
    private func policy(_ allowsByDefault: Bool, _ rules: [EgressPolicy.Rule]) -> EgressPolicy {
        var policy = EgressPolicy()
        policy.allowsByDefault = allowsByDefault
        policy.rules = rules
        return policy
    }
    private func rule(
        _ allows: Bool, _ destination: EgressPolicy.Destination, _ ports: ClosedRange<UInt16>? = nil,
        _ transport: EgressPolicy.Transport? = nil
    ) -> EgressPolicy.Rule {
        var rule = EgressPolicy.Rule(allows: allows, destination)
        rule.ports = ports
        rule.transport = transport
        return rule
    }
    private func network(_ text: String) throws -> EgressPolicy.Destination { .network(try #require(Subnet(text))) }
    private func endpoint(_ text: String, _ port: UInt16) throws -> Endpoint {
        Endpoint(try #require(IPAddress(text)), port)
    }
    private let first = Egress.Place.builtIn

    @Test("a rule that denies comes before one that allows, and both before the default")
    func order() throws {
        let egress = Egress(
            policy(
                false,
                [
                    rule(true, try network("10.0.0.0/8")), rule(false, try network("10.1.0.0/16"), 25...25, .tcp),
                    rule(true, .everything, 443...443, .tcp), rule(true, try network("fd00::/8")),
                ]))
        func verdict(_ transport: EgressPolicy.Transport, _ text: String, _ port: UInt16) throws -> Egress.Verdict {
            egress.decide(transport, try endpoint(text, port), at: at(1))
        }
        #expect(try verdict(.tcp, "10.1.2.3", 25) == .denied(place: first + 1))
        #expect(try verdict(.udp, "10.1.2.3", 25) == .allowed(place: first))
        #expect(try verdict(.icmp, "10.1.2.3", 0) == .allowed(place: first))
        #expect(try verdict(.tcp, "192.0.2.1", 443) == .allowed(place: first + 2))
        #expect(try verdict(.udp, "192.0.2.1", 443) == .denied(place: 0))
        #expect(try verdict(.udp, "fd12::1", 443) == .allowed(place: first + 3))
        // The same IPv4 address in IPv6's spelling.
        #expect(try verdict(.tcp, "64:ff9b::10.1.2.3", 25) == .denied(place: first + 1))
        #expect(try verdict(.tcp, "64:ff9b::10.2.2.3", 25) == .allowed(place: first))
    }

    @Test("an address belongs to the names it was an answer for, while the answer lives")
    func names() throws {
        var egress = Egress(
            policy(false, [rule(true, .namesBelow("a.test"), 443...443), rule(true, .name("b.test"))]))
        let address = try #require(IPAddress("192.0.2.1"))
        func isAllowed(_ port: UInt16, _ seconds: Int64) -> Bool {
            egress.decide(.tcp, Endpoint(address, port), at: at(seconds)) != .denied(place: 0)
        }
        #expect(!isAllowed(443, 10))
        egress.pin("www.a.test", [(address, 60)], at: at(10))
        #expect(isAllowed(443, 11) && !isAllowed(80, 11) && isAllowed(443, 69) && !isAllowed(443, 71))
        egress.pin("b.test", [(address, 0)], at: at(20))
        #expect(isAllowed(80, 24), "a client needs some time to connect")
        #expect(!isAllowed(80, 26))
        // A shorter answer takes nothing from a longer one.
        egress.pin("www.a.test", [(address, 1)], at: at(30))
        #expect(isAllowed(443, 69))
        egress.pin("a.test", [(address, 600)], at: at(30))
        #expect(!isAllowed(443, 80), "the name itself is not below itself")
        #expect(egress.name(of: address) == "a.test")
    }

    @Test("names that no rule allows are refused, or do not exist where a search must go on")
    func lookups() throws {
        let closed = Egress(
            policy(
                false,
                [
                    rule(true, .namesBelow("a.test")), rule(false, .namesBelow("x.a.test")),
                    rule(false, .name("p.a.test"), 25...25), rule(true, try network("10.0.0.0/8")),
                ]),
            searchDomains: ["Corp.Example"])
        #expect(closed.judge("www.a.test") == .allowed && closed.judge("p.a.test") == .allowed)
        #expect(closed.judge("a.test") == .refused(place: Egress.Place.lookups.rawValue))
        #expect(closed.judge("evil-a.test") == .refused(place: Egress.Place.lookups.rawValue))
        #expect(closed.judge("y.x.a.test") == .refused(place: first + 1))
        #expect(closed.judge("www.a.test.corp.example") == .noSuchName(place: Egress.Place.lookups.rawValue))
        #expect(closed.judge("") == .refused(place: Egress.Place.lookups.rawValue))
        let open = Egress(policy(true, [rule(false, .name("a.test"))]))
        #expect(open.judge("b.test") == .allowed && open.judge("a.test") == .refused(place: first))
        #expect(Egress(policy(false, [rule(true, .everything, 443...443)])).judge("any.test") == .allowed)
        #expect(Egress(policy(false, [rule(true, try network("0.0.0.0/0"))])).judge("any.test") == .allowed)
        #expect(!Egress(EgressPolicy()).judgesNames && open.judgesNames)
    }

    @Test("datagrams that were admitted go on while they flow, and others are decided anew")
    func datagrams() throws {
        var egress = Egress(policy(false, [rule(true, .name("a.test"))]))
        let guest = try endpoint("10.0.2.100", 4000)
        let remote = try endpoint("192.0.2.1", 53)
        egress.pin("a.test", [(remote.address, 1)], at: at(0))
        var verdict: Egress.Verdict
        for seconds in stride(from: Int64(1), to: 1000, by: 100) {
            verdict = egress.decideDatagram(guest: guest, remote: remote, at: at(seconds))
            #expect(verdict == .allowed(place: first))
        }
        let other = try endpoint("10.0.2.100", 4001)
        verdict = egress.decideDatagram(guest: other, remote: remote, at: at(950))
        #expect(verdict == .denied(place: 0))
        verdict = egress.decideDatagram(guest: guest, remote: remote, at: at(1100))
        #expect(verdict == .denied(place: 0), "it has ended")
    }

    @Test("what is pinned is bounded: what ends first goes first")
    func bounds() throws {
        var egress = Egress(policy(false, [rule(true, .namesBelow("test"))]))
        let last = try endpoint("192.0.2.1", 80)
        egress.pin("last.test", [(last.address, 3600)], at: at(0))
        for number in 0..<UInt32(2 * Egress.pinLimit) {
            egress.pin("a.test", [(IPAddress(v4: 0x0a00_0000 + number), 60)], at: at(0))
        }
        #expect(egress.decide(.tcp, last, at: at(1)) == .allowed(place: first))
        for number in 0..<100 { egress.pin("n\(number).other", [(last.address, 10)], at: at(0)) }
        #expect(egress.decide(.tcp, last, at: at(1)) == .allowed(place: first), "a name that lasts stays")
    }

    @Test("a policy arrives whole or not at all")
    func fields() throws {
        let policy = policy(
            false,
            [
                rule(true, try network("10.0.0.0/8"), 1...65535, .udp), rule(false, try network("fd00::/64"), 25...25),
                rule(true, .namesBelow("a.test")), rule(false, .name("b.test"), nil, .icmp), rule(true, .everything),
            ])
        #expect(EgressPolicy(fields: policy.fields) == policy)
        let texts = ["10.0.0.0/8:1-65535/udp", "[fd00::/64]:25", "*.a.test", "b.test/icmp", "*"]
        #expect(policy.rules.map(\.description) == texts)
        for broken in ["", "allow", "allow network x * *", "allow name a.test 5-4 *", "allow name a.test * sctp"] {
            #expect(EgressPolicy(fields: ["deny", broken]) == nil)
        }
        #expect(EgressPolicy(fields: [String]()) == nil)
    }

    @Test("each denied flow is told once, and no more than somebody can read")
    func denials() throws {
        var log = DenialLog()
        let key = DenialLog.Key(
            transport: .udp, guest: try endpoint("10.0.2.100", 1), remote: try endpoint("192.0.2.1", 2))
        let news = [100, 110, 131].map { log.isNew(key, at: at($0)) }
        #expect(news == [true, false, true])
        let told = (0..<100).filter { log.line("\($0)", at: at(200)) != nil }
        #expect(told == Array(0..<20))
        let later = ["later", "then"].map { log.line($0, at: at(203)) }
        #expect(later == ["later (and 80 before it that were not told)", "then"])
    }
}
