import Kernel
import Testing

@testable import Slirp

@Suite("Limits")
struct LimitTests {
    private func flow(_ port: UInt16) -> Flow {
        Flow(
            kind: .tcp, guest: Endpoint(IPAddress(v4: 1), port), remote: Endpoint(IPAddress(v4: 2), 80),
            target: Endpoint(IPAddress(v4: 2), 80), tcp: .unused)
    }

    @Test("connections are counted by where they go, and every count comes back to nothing")
    func limits() {
        var limits = FlowLimits(capacity: 65536, descriptors: 1064)
        #expect(limits.total == 1000 && limits.pending == 500 && limits.totalOfOne == 750 && limits.pendingOfOne == 125)
        let one = IPAddress(v4: 1)
        for round in 0..<3 {
            var open = 0
            while limits.admits(one), open < 2000 {
                limits.opened(one)
                open += 1
                if open % 2 == 0 { limits.answered(one) }
            }
            // Every second one waits, until 125 do.
            #expect(open == 249 || open == 250, "round \(round): \(open)")
            #expect(limits.admits(IPAddress(v4: 2)))
            for index in 1...open { limits.closed(one, wasAnswered: index <= open / 2) }
        }
        for host in UInt32(10)..<14 { for _ in 0..<125 { limits.opened(IPAddress(v4: host)) } }
        #expect(!limits.admits(one), "too many wait in all")
        for host in UInt32(10)..<14 { for _ in 0..<125 { limits.closed(IPAddress(v4: host), wasAnswered: false) } }
        for _ in 0..<750 {
            limits.opened(one)
            limits.answered(one)
        }
        #expect(!limits.admits(one) && limits.admits(IPAddress(v4: 2)), "one destination leaves room for others")
    }

    @Test("idle datagram flows give way in the order of their last use; others never do")
    func idle() throws {
        let table = try FlowTable(capacity: 256, file: nil, secret: 42)
        var ages: [(index: Int, activeAt: Int64)] = []
        for port in UInt16(1)...200 {
            var flow = flow(port)
            flow.kind = port % 4 == 0 ? .tcp : port % 4 == 1 ? .ping : .udp
            flow.activeAt = Int64(port) * 7919 % 211 * 10_000_000
            let (kind, activeAt) = (flow.kind, flow.activeAt)
            let inserted = table.insert(flow)
            if kind != .tcp { ages.append((try #require(inserted), activeAt)) }
        }
        var now = MonotonicInstant(nanoseconds: 2_000_000_000)
        let expected = ages.filter { $0.activeAt <= 1_000_000_000 }.sorted { $0.activeAt < $1.activeAt }.map(\.index)
        var idle = IdleFlows()
        var found: [Int] = []
        for _ in 0..<300 {
            if let index = idle.next(in: table, at: now) {
                found.append(index)
                table.remove(index)
            } else if found.count < expected.count {
                // The next look is some time away; nobody is used meanwhile, and nobody gets older than expected.
                idle = IdleFlows()
            }
        }
        #expect(found == expected)
        // Whoever is used after it was chosen stays.
        let rest = ages.map(\.index).filter { !found.contains($0) }
        now = MonotonicInstant(nanoseconds: 20_000_000_000)
        let first = idle.next(in: table, at: now)
        let second = try #require(first)
        table.remove(second)
        for index in rest where index != second { table[index].activeAt = now.nanoseconds }
        let none = idle.next(in: table, at: now)
        #expect(none == nil)
    }
}

@Suite("BusyPoll")
struct BusyPollTests {
    @Test("short waits after small messages are looked for, longer and longer; after a long one nothing is")
    func grows() {
        var poll = BusyPoll(processors: 2)
        #expect(poll.limit == 0)
        var limits: [Int64] = []
        for _ in 0..<4 {
            poll.waited(40_000, afterBytes: 120)
            limits.append(poll.limit)
        }
        // What is found within the limit needs no longer one.
        #expect(limits == [12_500, 25_000, 50_000, 50_000])
        poll.waited(20_000, afterBytes: 120)
        #expect(poll.limit == 50_000)
        poll.waited(BusyPoll.longest + 1, afterBytes: 120)
        #expect(poll.limit == 0)
    }

    @Test("bulk is never looked for, between its superpackets neither, and it is soon forgotten")
    func bulk() {
        var poll = BusyPoll(processors: 2)
        for turn in 0..<100 {
            poll.waited(20_000, afterBytes: turn % 10 == 0 ? 65536 : 66)
            #expect(poll.limit == 0)
        }
        for _ in 0..<30 { poll.waited(20_000, afterBytes: 66) }
        #expect(poll.limit > 0)
        // Some sizes that would not fit.
        poll.waited(1, afterBytes: .max)
        #expect(poll.limit == 0)
    }

    @Test("with one processor nothing is looked for")
    func alone() {
        var poll = BusyPoll(processors: 1)
        for _ in 0..<10 { poll.waited(20_000, afterBytes: 66) }
        #expect(poll.limit == 0)
    }
}
