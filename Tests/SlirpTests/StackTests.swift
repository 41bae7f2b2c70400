import Kernel
import TestSupport
import Testing

@testable import Slirp

private func n(_ value: UInt32) -> SequenceNumber { SequenceNumber(value) }

/// A TCP conversation as the workspace has it with us: it sends, and we look at what our state makes of it.
private struct Conversation {
    var state: TCPState
    var now = MonotonicInstant(nanoseconds: 1_000_000_000)

    /// Established: the workspace's next byte is 101, ours is 5001; both scale windows and know SACK.
    init(timestamp: UInt32? = nil) {
        var syn = TCPHeader(
            sourcePort: 40000, destinationPort: 80, sequence: n(100), acknowledgement: n(0), flags: .syn, window: 65535)
        syn.maximumSegment = 1460
        syn.windowScale = 7
        syn.sackPermitted = true
        syn.timestamps = timestamp.map { TCPTimestamps(value: $0, echo: 0) }
        state = TCPState(answering: syn, initialSequence: n(5000), mtuSegment: 1460)
        state.phase = .synReceived
        _ = state.openWindow(size: 1 << 20, queued: 0, ringFrames: 4096)
        state.sent(1, at: now)
        let opened = send(.ack, at: 101, ack: 5001)
        precondition(opened.opened && state.phase == .established)
    }

    mutating func send(
        _ flags: TCPFlags, at sequence: UInt32, ack: UInt32, count: Int = 0, window: UInt16 = 1000,
        sack: [(UInt32, UInt32)] = [], timestamp: UInt32? = nil, echo: UInt32 = 0
    ) -> TCPState.Received {
        var header = TCPHeader(
            sourcePort: 40000, destinationPort: 80, sequence: n(sequence), acknowledgement: n(ack), flags: flags,
            window: window)
        header.timestamps = timestamp.map { TCPTimestamps(value: $0, echo: echo) }
        for block in sack { header.sack.append(SACKBlock(left: n(block.0), right: n(block.1))) }
        return state.receive(header, count: count, at: now)
    }
}

@Suite("TCPState")
struct TCPStateTests {
    @Test("bytes in order are accepted, and acknowledged only once the socket has them")
    func upwards() {
        var c = Conversation()
        guard case .inOrder(skip: 0) = c.send([.ack, .psh], at: 101, ack: 5001, count: 500).payload else {
            Issue.record("not in order")
            return
        }
        c.state.accepted(300)  // the socket took these
        c.state.accepted(200)  // these went to the spill
        c.state.spilled = 200
        #expect(c.state.acknowledgement == n(401))
        c.state.spilled = 0
        #expect(c.state.acknowledgement == n(601))
    }

    @Test("what is known is skipped, what comes early is said to be early, what is old is answered")
    func order() {
        var c = Conversation()
        c.state.accepted(100)
        guard case .inOrder(skip: 50) = c.send(.ack, at: 151, ack: 5001, count: 100).payload else {
            Issue.record("overlap")
            return
        }
        guard case .outOfOrder(ahead: 1000) = c.send(.ack, at: 1201, ack: 5001, count: 100).payload else {
            Issue.record("early")
            return
        }
        c.state.marks.remove(.ackOwed)
        guard case .none = c.send(.ack, at: 101, ack: 5001, count: 100).payload else {
            Issue.record("old")
            return
        }
        #expect(c.state.marks.contains(.ackOwed))
    }

    @Test("the window's right edge never moves back, and follows the socket's room")
    func window() {
        var c = Conversation()
        let edge = c.state.windowEdge
        _ = c.state.openWindow(size: 1 << 20, queued: 1 << 19, ringFrames: 4096)
        #expect(c.state.windowEdge == edge)
        c.state.accepted(900_000)
        _ = c.state.openWindow(size: 1 << 20, queued: 900_000, ringFrames: 4096)
        #expect(c.state.windowEdge >= edge && c.state.windowEdge - c.state.acknowledgement < 100_000)
        _ = c.state.openWindow(size: 1 << 22, queued: 0, ringFrames: 100)
        #expect(c.state.windowEdge - c.state.acknowledgement <= 100 * 1460, "bounded by the link's ring")
    }

    @Test("an acknowledgement discards from the socket's queue, the FIN's number not")
    func downwards() {
        var c = Conversation()
        #expect(c.state.sendable == 1000 << 7)
        c.state.sent(1000, at: c.now)
        #expect(c.send(.ack, at: 101, ack: 5601).discard == 600)
        c.state.finSequence = c.state.sendNext
        c.state.marks.formUnion([.outsideEnded, .finSent])
        c.state.sent(1, at: c.now)
        let last = c.send(.ack, at: 101, ack: 6002)
        #expect(last.discard == 400 && c.state.marks.contains(.finAcknowledged))
        #expect(!c.state.isAwaitingAcknowledgement)
    }

    @Test("a FIN acknowledged after a timeout went back is still acknowledged")
    func finAfterGoBack() {
        var c = Conversation()
        c.state.sent(100, at: c.now)
        c.state.finSequence = c.state.sendNext
        c.state.marks.formUnion([.outsideEnded, .finSent])
        c.state.sent(1, at: c.now)
        #expect(c.state.timedOut() && c.state.sendNext == n(5001) && !c.state.marks.contains(.finSent))
        let late = c.send(.ack, at: 101, ack: 5102)
        #expect(late.discard == 100 && c.state.marks.isSuperset(of: [.finSent, .finAcknowledged]))
    }

    @Test("a SACK block proves a hole at once; without SACK three duplicates do")
    func fastRetransmit() {
        var c = Conversation()
        c.state.sent(30_000, at: c.now)
        let proven = c.send(.ack, at: 101, ack: 5001, sack: [(15_001, 20_001)])
        #expect(proven.retransmit && c.state.hole(limit: 65_000) == 10_000)
        #expect(!c.send(.ack, at: 101, ack: 5001, sack: [(15_001, 25_001)]).retransmit, "once per recovery")
        let partial = c.send(.ack, at: 101, ack: 20_001)
        #expect(partial.retransmit && partial.discard == 15_000, "a partial acknowledgement shows the next hole")
        #expect(!c.send(.ack, at: 101, ack: 35_001).retransmit)

        var plain = Conversation()
        plain.state.sent(30_000, at: plain.now)
        let answers = (0..<3).map { _ in plain.send(.ack, at: 101, ack: 5001).retransmit }
        #expect(answers == [false, false, true] && plain.state.hole(limit: 65_000) == 1460)
    }

    @Test("timeouts back off to a minute and give up after twelve")
    func timeouts() {
        var c = Conversation()
        c.state.sent(100, at: c.now)
        var last: Int64 = 0
        var fired = 0
        while c.state.timedOut() {
            fired += 1
            #expect(c.state.retransmissionTimeout >= last && c.state.retransmissionTimeout <= 60_000_000_000)
            last = c.state.retransmissionTimeout
            c.state.sent(100, at: c.now)
        }
        #expect(fired == 12)
    }

    @Test("resets count only where they must (RFC 5961), a SYN in a connection is challenged")
    func resets() {
        var c = Conversation()
        #expect(c.send(.rst, at: 101, ack: 0).verdict == .reset)
        #expect(c.send(.rst, at: 200, ack: 0).verdict == .challenge)
        #expect(c.send(.rst, at: 99, ack: 0).verdict == .done)
        #expect(c.send(.syn, at: 101, ack: 0).verdict == .challenge)
        #expect(c.send(.ack, at: 101, ack: 9999).verdict == .challenge)
    }

    @Test("a FIN is in order only behind its data")
    func finish() {
        var c = Conversation()
        #expect(!c.send([.ack, .fin], at: 201, ack: 5001).finish)
        #expect(c.send([.ack, .fin], at: 101, ack: 5001, count: 100).finish)
        c.state.accepted(100)
        c.state.acceptedFinish()
        #expect(c.state.acknowledgement == n(202))
        #expect(!c.send([.ack, .fin], at: 201, ack: 5001).finish && c.state.marks.contains(.ackOwed))
    }

    @Test("a closed window stops us, and small pieces wait for company")
    func peerWindow() {
        var c = Conversation()
        c.state.sent(1000, at: c.now)
        _ = c.send(.ack, at: 101, ack: 5001, window: 8)  // 1024 bytes, 1000 under way
        #expect(c.state.sendable == 0)
        _ = c.send(.ack, at: 101, ack: 6001, window: 0)
        #expect(c.state.sendable == 0)
        #expect(c.send(.ack, at: 101, ack: 6001, window: 8).mayTransmit && c.state.sendable == 1024)
    }

    @Test("a segment with an older timestamp is a duplicate from long ago (PAWS), whatever its sequence number")
    func oldDuplicates() {
        var c = Conversation(timestamp: .max - 5)
        #expect(c.state.maximumSegment == 1448 && c.state.headerLength == 32)
        guard case .inOrder = c.send(.ack, at: 101, ack: 5001, count: 100, timestamp: .max - 2).payload else {
            Issue.record("newer")
            return
        }
        c.state.accepted(100)
        c.state.acknowledged = c.state.acknowledgement
        #expect(c.state.timestamps(at: c.now).echo == UInt32.max - 2)
        // Past the end of the number, and from now on older ones are dropped and answered.
        guard case .inOrder = c.send(.ack, at: 201, ack: 5001, count: 100, timestamp: 3).payload else {
            Issue.record("newer, modulo 2^32")
            return
        }
        c.state.accepted(100)
        c.state.acknowledged = c.state.acknowledgement
        c.state.marks.remove(.ackOwed)
        guard case .none = c.send(.ack, at: 301, ack: 5001, count: 100, timestamp: 2).payload else {
            Issue.record("older")
            return
        }
        #expect(c.state.marks.contains(.ackOwed) && c.state.recentTimestamp == 3)
        // What comes early says nothing of what came in order; a reset counts whatever its timestamp.
        _ = c.send(.ack, at: 1301, ack: 5001, count: 100, timestamp: 50)
        #expect(c.state.recentTimestamp == 3)
        let reset = c.send(.rst, at: 301, ack: 0, timestamp: 1)
        #expect(reset.verdict == .reset)
        // After 24 days the number has gone round.
        c.now = c.now + .seconds(25 * 86_400)
        guard case .inOrder = c.send(.ack, at: 301, ack: 5001, count: 100, timestamp: 2).payload else {
            Issue.record("after 24 days")
            return
        }
    }

    @Test("after a retransmission the echo tells how long the way takes")
    func echoes() {
        var c = Conversation(timestamp: 7)
        c.state.sent(100, at: c.now)
        _ = c.state.timedOut()
        let sentAt = c.state.timestamps(at: c.now).value
        c.state.sent(100, at: c.now)
        c.now = c.now + .milliseconds(40)
        c.state.smoothedRoundTrip = 0
        _ = c.send(.ack, at: 101, ack: 5101, timestamp: 8, echo: sentAt)
        #expect(c.state.smoothedRoundTrip == 40_000_000)
    }

    @Test("a question whether we are there is told apart from data")
    func probes() {
        var c = Conversation()
        let answers = [(UInt32(100), 0), (100, 1), (101, 0), (101, 1)].map {
            c.send(.ack, at: $0.0, ack: 5001, count: $0.1).isProbe
        }
        #expect(answers == [true, true, false, false])
    }

    @Test("a workspace that says nothing for two hours is asked nine times, and an answer ends the asking")
    func idle() {
        var c = Conversation()
        let early = c.state.ask(afterIdle: .seconds(7199))
        let asked = (0..<9).map { _ in c.state.ask(afterIdle: .seconds(7200)) }
        #expect(early == .fine && asked == Array(repeating: .ask, count: 9))
        let late = c.state.ask(afterIdle: .seconds(7900))
        #expect(late == .gone)
        _ = c.send(.ack, at: 101, ack: 5001)
        let again = c.state.ask(afterIdle: .seconds(7900))
        #expect(again == .ask)
    }

    @Test("both may open at once")
    func simultaneousOpen() {
        var state = TCPState(opening: n(9000), mtuSegment: 1460)
        state.sendMaximum = n(9001)
        let now = MonotonicInstant(nanoseconds: 1)
        let syn = TCPHeader(
            sourcePort: 80, destinationPort: 5555, sequence: n(300), acknowledgement: n(0), flags: .syn, window: 100)
        let crossed = state.receive(syn, count: 0, at: now)
        #expect(!crossed.opened && state.phase == .synReceived && state.marks.contains(.ackOwed))
        var answer = syn
        answer.flags = [.syn, .ack]
        answer.acknowledgement = n(9001)
        let opened = state.receive(answer, count: 0, at: now)
        #expect(opened.opened && state.phase == .established && state.sendWindow == 100)
        #expect(state.receiveNext == n(301) && state.sendUnacknowledged == n(9001))
    }

    @Test("an inbound connection opens with the workspace's SYN-ACK")
    func inbound() {
        var state = TCPState(opening: n(9000), mtuSegment: 1460)
        state.sendMaximum = n(9001)
        var answer = TCPHeader(
            sourcePort: 80, destinationPort: 5555, sequence: n(300), acknowledgement: n(9001), flags: [.syn, .ack],
            window: 100)
        answer.maximumSegment = 1000
        let opened = state.receive(answer, count: 0, at: MonotonicInstant(nanoseconds: 1))
        #expect(opened.opened && state.phase == .established && state.receiveNext == n(301))
        #expect(state.sendUnacknowledged == n(9001) && state.maximumSegment == 1000 && !state.marks.contains(.scaling))
    }

    /// Every byte arrives once and in order, whatever the link does to segments.
    @Test("loss, reordering and duplication on the way up lose nothing", arguments: 0..<60)
    func grid(seed: Int) {
        var random = SeededGenerator(seed: UInt64(seed))
        var c = Conversation()
        var received: [UInt32] = []
        var flying: [(sequence: UInt32, count: Int)] = []
        var next: UInt32 = 101
        let end: UInt32 = 101 + 20_000
        for _ in 0..<20_000 where c.state.acknowledgement.value < end {
            if next < end, flying.count < 10 {
                flying.append((next, 100))
                next += 100
            } else if flying.isEmpty {
                next = c.state.acknowledgement.value  // the sender's timeout
                continue
            }
            let pick = Int.random(in: 0..<flying.count, using: &random)
            let segment = flying[pick]
            if Int.random(in: 0..<10, using: &random) != 0 { flying.remove(at: pick) }
            if Int.random(in: 0..<20, using: &random) == 0 { continue }
            let result = c.send(.ack, at: segment.sequence, ack: 5001, count: segment.count)
            if case .inOrder(let skip) = result.payload {
                received.append(segment.sequence + UInt32(skip))
                #expect(c.state.receiveNext == n(segment.sequence + UInt32(skip)))
                c.state.accepted(segment.count - skip)
            }
            _ = c.state.openWindow(size: 1 << 20, queued: 0, ringFrames: 4096)
        }
        #expect(c.state.acknowledgement == n(end))
        #expect(received == received.sorted() && Set(received).count == received.count)
    }
}

@Suite("Reassembly")
struct ReassemblyTests {
    private let now = MonotonicInstant(nanoseconds: 1)

    private func header(_ identification: UInt32 = 1) -> IPHeader {
        var bytes = [UInt8](repeating: 0, count: 20)
        var span = bytes.mutableSpan
        var raw = span.mutableBytes
        IPEmitter.emit(
            into: &raw, at: 0, source: IPAddress(v4: 1 << 24 | 5), destination: IPAddress(v4: 1 << 24 | 9), proto: 17,
            payloadLength: 0)
        guard let header = try? IPHeader(parsing: bytes.span.bytes) else { preconditionFailure("our own header") }
        return header
    }

    private func fragment(_ offset: Int, more: Bool, id: UInt32 = 1) -> IPHeader.Fragment {
        IPHeader.Fragment(identification: id, offset: offset, more: more)
    }

    @Test(
        "three fragments make the packet in every order",
        arguments: [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])
    func orders(_ order: [Int]) {
        let bytes = (0..<20).map { UInt8($0) }
        let parts = [(0, 0..<8, true), (8, 8..<16, true), (16, 16..<20, false)]
        var reassembly = Reassembly()
        var whole: [UInt8]?
        for index in order {
            let (offset, range, more) = parts[index]
            if let (header, payload) = reassembly.add(
                header(), fragment(offset, more: more), Array(bytes[range]), at: now)
            {
                #expect(header.fragment == nil && header.payloadLength == 20)
                whole = payload
            }
        }
        #expect(whole == bytes)
    }

    @Test("an overlap spoils the packet, a duplicate does not")
    func overlap() {
        var reassembly = Reassembly()
        let eight = [UInt8](repeating: 1, count: 8), sixteen = [UInt8](repeating: 2, count: 16)
        #expect(reassembly.add(header(), fragment(0, more: true), eight, at: now) == nil)
        #expect(reassembly.add(header(), fragment(0, more: true), eight, at: now) == nil)
        #expect(reassembly.add(header(), fragment(8, more: false), eight, at: now) != nil)
        _ = reassembly.add(header(), fragment(0, more: true, id: 2), sixteen, at: now)
        _ = reassembly.add(header(), fragment(8, more: true, id: 2), eight, at: now)
        #expect(reassembly.add(header(), fragment(16, more: false, id: 2), eight, at: now) == nil)
    }

    @Test("sizes beyond IP's and pieces that are no multiple of eight are refused, and the number is bounded")
    func bounds() {
        var reassembly = Reassembly(limit: 4)
        #expect(
            reassembly.add(header(), fragment(65_512, more: false), [UInt8](repeating: 0, count: 100), at: now) == nil)
        #expect(reassembly.add(header(), fragment(0, more: true), [1, 2, 3], at: now) == nil)
        for id in UInt32(0)..<100 {
            let later = now + .seconds(Int64(id) / 10)
            _ = reassembly.add(header(), fragment(0, more: true, id: id), [UInt8](repeating: 0, count: 8), at: later)
        }
        #expect(reassembly.add(header(), fragment(8, more: false, id: 99), [1], at: now) != nil)
        #expect(reassembly.add(header(), fragment(8, more: false, id: 1), [1], at: now) == nil)
    }
}

@Suite("FlowTable and TimerWheel")
struct TableTests {
    private func flow(_ port: UInt16) -> Flow {
        Flow(
            kind: .tcp, guest: Endpoint(IPAddress(v4: 1), port), remote: Endpoint(IPAddress(v4: 2), 80),
            target: Endpoint(IPAddress(v4: 2), 80), tcp: .unused)
    }

    private func endpoints(_ port: UInt16) -> (Endpoint, Endpoint) {
        (Endpoint(IPAddress(v4: 1), port), Endpoint(IPAddress(v4: 2), 80))
    }

    @Test("flows are found until removed, a full table refuses, and places are used again with a new generation")
    func table() throws {
        let table = try FlowTable(capacity: 256, file: nil, secret: 42)
        var indices: [Int] = []
        for port in UInt16(1)...256 {
            let index = table.insert(flow(port))
            indices.append(try #require(index))
        }
        let refused = table.insert(flow(300))
        #expect(refused == nil)
        var count = table.count
        #expect(count == 256)
        for (port, index) in zip(UInt16(1)...256, indices) {
            let found = table.find(.tcp, guest: endpoints(port).0, remote: endpoints(port).1)
            #expect(found == index)
        }
        for index in indices where index % 2 == 0 { table.remove(index) }
        count = table.count
        #expect(count == 128)
        let kept = table.find(.tcp, guest: endpoints(2).0, remote: endpoints(2).1)
        #expect(kept == indices[1])
        let removed = table.find(.tcp, guest: endpoints(1).0, remote: endpoints(1).1)
        #expect(removed == nil)
        let inserted = table.insert(flow(1000))
        let again = try #require(inserted)
        let generation = table[again].generation
        #expect(generation == 1 && again % 2 == 0)
    }

    @Test("another process sees the flows in the file, and nothing in any other file")
    func snapshot() throws {
        let file = try makeMemoryFile("flows", holding: [])
        #expect(ForwarderTable.read(file) == nil)
        let table = try FlowTable(capacity: 64, file: file, secret: 7)
        let guest = Endpoint(IPAddress(v4: 0x0a00_0264), 5000)
        let remote = Endpoint(IPAddress(v4: 0xc612_0001), 80)
        var flow = Flow(
            kind: .tcp, guest: guest, remote: remote, target: remote,
            tcp: TCPState(opening: SequenceNumber(1), mtuSegment: 1460))
        flow.bytesUp = 7
        flow.createdAt = 5
        _ = table.insert(flow)
        _ = table.insert(Flow(kind: .inboundUDP, guest: guest, remote: remote, target: remote, tcp: .unused))
        let inserted = table.insert(Flow(kind: .udp, guest: remote, remote: guest, target: guest, tcp: .unused))
        table.remove(try #require(inserted))
        let snapshot = try #require(ForwarderTable.read(file))
        let (flows, counters) = (snapshot.flows, snapshot.counters)
        #expect(flows.map(\.transport) == ["tcp", "udp"] && flows.map(\.isInbound) == [true, true])
        #expect(flows[0].guest == guest && flows[0].remote == remote && flows[0].state == "offered")
        #expect(flows[0].bytesUp == 7 && flows[0].createdAt.nanoseconds == 5 && flows[0].roundTrip == nil)
        #expect(counters.values.first { $0.name == "opened" }?.value == 3)
        #expect(ForwarderTable.read(try makeMemoryFile("other", holding: [UInt8](repeating: 1, count: 9000))) == nil)
    }

    @Test("each deadline comes once, in time, also far ones and moved ones")
    func wheel() throws {
        let table = try FlowTable(capacity: 256, file: nil, secret: 1)
        var now = MonotonicInstant(nanoseconds: 1_000_000_000)
        var wheel = TimerWheel(at: now)
        var due: [Int: Int64] = [:]
        for port in UInt16(1)...200 {
            let inserted = table.insert(flow(port))
            let index = try #require(inserted)
            let deadline = now.nanoseconds + Int64(port) * 250_000_000
            wheel.schedule(index, at: deadline, in: table)
            due[index] = deadline
        }
        for index in 0..<50 {
            wheel.schedule(index, at: now.nanoseconds + 70_000_000_000, in: table)
            due[index] = now.nanoseconds + 70_000_000_000
        }
        for index in 50..<60 {
            wheel.cancel(index, in: table)
            due[index] = nil
        }
        for _ in 0..<10_000 where !due.isEmpty {
            guard let next = wheel.nextDeadline() else { break }
            now = max(next, now + .milliseconds(1))
            while let index = wheel.next(at: now, in: table) {
                let removed = due.removeValue(forKey: index)
                let deadline = try #require(removed)
                #expect(deadline <= now.nanoseconds && now.nanoseconds - deadline < 60_000_000)
            }
        }
        let left = wheel.nextDeadline()
        #expect(due.isEmpty && left == nil)
    }
}

@Suite("DHCP")
struct DHCPTests {
    private func request(_ kind: UInt8, options: [UInt8] = []) -> [UInt8] {
        var bytes: [UInt8] = [1, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef] + [UInt8](repeating: 0, count: 20)
        bytes += [2, 0x57, 0x4b, 0, 2, 0x64] + [UInt8](repeating: 0, count: 10 + 64 + 128)
        return bytes + [0x63, 0x82, 0x53, 0x63, 53, 1, kind] + options + [255]
    }

    @Test("discover is offered the address, request is acknowledged, a wrong address is refused")
    func answers() throws {
        let server = DHCPServer(layout: NetworkLayout(), mtu: 1500)
        func answer(_ bytes: [UInt8]) throws -> [UInt8]? { server.answer(try DHCPRequest(parsing: bytes.span.bytes)) }
        let offer = try #require(try answer(request(1)))
        #expect(Array(offer[16..<20]) == [10, 0, 2, 100] && Array(offer[4..<8]) == [0xde, 0xad, 0xbe, 0xef])
        #expect(Array(offer[240..<243]) == [53, 1, 2])
        #expect(try answer(request(3, options: [50, 4, 10, 0, 2, 100]))?[242] == 5)
        #expect(try answer(request(3, options: [50, 4, 10, 0, 2, 99]))?[242] == 6)
        #expect(try answer(request(3, options: [54, 4, 9, 9, 9, 9])) == nil)
        #expect(try answer(request(7)) == nil)
    }
}
