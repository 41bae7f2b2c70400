import Glibc
import Testing

@testable import Kernel
@testable import Slirp

/// What happens outside.
enum Edge: String, CaseIterable, CustomTestStringConvertible {
    case data, end, dataAndEnd, failure, dataAndFailure, urgent
    var testDescription: String { rawValue }

    /// What the workspace is to read in the end.
    var bytes: [UInt8] {
        switch self {
        case .data, .dataAndEnd, .dataAndFailure: Array("words".utf8)
        case .urgent: Array("before!after".utf8)
        case .end, .failure: []
        }
    }
    var ends: Bool { self == .end || self == .dataAndEnd }
    var fails: Bool { self == .failure || self == .dataAndFailure }

    func happen(_ socket: Int32) {
        switch self {
        case .data: BenchOutside.write(socket, bytes)
        case .end: shutdown(socket, Int32(SHUT_WR))
        case .dataAndEnd:
            BenchOutside.write(socket, bytes)
            shutdown(socket, Int32(SHUT_WR))
        case .failure: BenchOutside.reset(socket)
        case .dataAndFailure:
            BenchOutside.write(socket, bytes)
            BenchOutside.reset(socket)
        case .urgent:
            BenchOutside.write(socket, Array("before".utf8))
            BenchOutside.write(socket, Array("!".utf8), urgent: true)
            BenchOutside.write(socket, Array("after".utf8))
        }
    }
}

/// What the connection is doing then.
enum EdgePhase: String, CaseIterable, CustomTestStringConvertible {
    /// From the workspace: our SYN-ACK is not answered; open; its window is closed; it has closed its half.
    case answered, established, closedWindow, guestEnded
    /// From outside: our SYN is not answered; open.
    case offered, accepted
    var testDescription: String { rawValue }
}

/// Every edge in every phase: none may be consumed without being acted on.
@Suite("Edges of outside sockets", .serialized)
struct EdgeTests {
    /// A connection in a phase: the workspace's end and the outside's.
    private func connection(_ bench: ForwarderBench, _ phase: EdgePhase) throws -> (peer: BenchPeer, outside: Int32) {
        switch phase {
        case .offered, .accepted:
            let forward = try InternetSocket.bind(.tcp, Endpoint(.loopback4, 0))
            try bench.ring0.send(
                SlirpCommand.addForward(
                    id: 1, isUDP: false, guest: Endpoint(bench.layout.guest4, 8085), origin: .requested, socket: forward
                ).message)
            bench.turn()
            guard case .success(let client) = InternetSocket.make(.tcp, v4: true) else {
                throw KernelError(call: "make", errno: .ioError)
            }
            #expect(InternetSocket.connect(client, to: Endpoint(.loopback4, BenchOutside.port(forward))) == nil)
            let peer = BenchPeer(bench, port: 8085, to: Endpoint(bench.layout.gateway4, 0))
            bench.until("the SYN") { !bench.segments.isEmpty }
            let syn = bench.segments.removeFirst().header
            #expect(syn.flags == .syn)
            peer.remote.port = syn.sourcePort
            peer.expected = syn.sequence + 1
            if phase == .accepted { answer(peer) }
            return (peer, client)
        default:
            let listener = try BenchOutside.listener()
            let peer = BenchPeer(bench, port: 40000, to: Endpoint(bench.layout.gateway4, BenchOutside.port(listener)))
            peer.send(.syn)
            var accepted: Int32 = -1
            peer.until("the SYN-ACK") {
                if case .success(let client)? = InternetSocket.accept(listener.number) { accepted = client.socket }
                return peer.gotSynAck && accepted >= 0
            }
            if phase == .closedWindow { peer.window = 0 }
            if phase != .answered { peer.send(.ack) }
            if phase == .guestEnded { peer.send([.ack, .fin]) }
            peer.run()
            if phase == .guestEnded { bench.until("the end") { BenchOutside.read(accepted) == nil } }
            return (peer, accepted)
        }
    }

    /// The workspace's SYN-ACK to a SYN of ours.
    private func answer(_ peer: BenchPeer) {
        peer.gotSynAck = true
        peer.send([.syn, .ack])
        peer.run()
    }

    @Test("an edge in any phase is acted on", arguments: EdgePhase.allCases, Edge.allCases)
    func edges(_ phase: EdgePhase, _ edge: Edge) throws { try check(phase, edge, peeksWithOffset: nil) }

    @Test("also where the kernel has no peek offset", arguments: EdgePhase.allCases, Edge.allCases)
    func edgesWithoutPeekOffset(_ phase: EdgePhase, _ edge: Edge) throws {
        try check(phase, edge, peeksWithOffset: false)
    }

    private func check(_ phase: EdgePhase, _ edge: Edge, peeksWithOffset: Bool?) throws {
        let bench = try ForwarderBench(peeksWithOffset: peeksWithOffset)
        let (peer, outside) = try connection(bench, phase)
        edge.happen(outside)
        for _ in 0..<5 { peer.run() }  // the edge is taken in this phase
        switch phase {
        case .answered:
            peer.send(.ack)
        case .offered:
            if edge.fails { break }  // at once
            answer(peer)
        case .closedWindow:
            if edge.fails { break }  // the window may never open
            #expect(peer.received.isEmpty && !peer.gotEnd)
            peer.window = 65535
            peer.send(.ack)
        case .established, .accepted, .guestEnded: break
        }
        peer.until("what happened: \(phase) \(edge) \(peer.received) \(peer.gotEnd) \(peer.gotReset)") {
            edge.fails ? peer.gotReset : peer.received == edge.bytes && peer.gotEnd == edge.ends
        }
        if edge.fails {
            #expect(bench.forwarder.table.count == 0)
            return
        }
        #expect(!peer.gotReset)
        if !edge.ends { shutdown(outside, Int32(SHUT_WR)) }
        peer.until("the end") { peer.gotEnd }
        if phase != .guestEnded {
            #expect(bench.forwarder.table.count == 1)
            peer.send([.ack, .fin])
        }
        peer.until("an empty table") { bench.forwarder.table.count == 0 }
        bench.until("the outside's end") { BenchOutside.read(outside) == nil }
        InternetSocket.close(outside)
    }

    @Test(
        "a failure after the outside's end is told, whether our FIN is acknowledged or not", arguments: [true, false])
    func failureAfterTheEnd(_ isAcknowledged: Bool) throws {
        let bench = try ForwarderBench()
        let (peer, outside) = try connection(bench, .established)
        peer.acknowledges = isAcknowledged
        shutdown(outside, Int32(SHUT_WR))
        peer.until("the end") { peer.gotEnd }
        peer.run()
        BenchOutside.reset(outside)
        peer.until("the reset") { peer.gotReset }
        #expect(bench.forwarder.table.count == 0)
    }

    @Test("a lost update of the window stalls nothing: the window is asked after", arguments: [false, true])
    func persist(_ ends: Bool) throws {
        let bench = try ForwarderBench()
        let (peer, outside) = try connection(bench, .closedWindow)
        let bytes = [UInt8](repeating: 7, count: 5000)
        BenchOutside.write(outside, bytes)
        if ends { shutdown(outside, Int32(SHUT_WR)) }
        for _ in 0..<5 { peer.run() }
        #expect(peer.received.isEmpty)
        // The update is lost: nothing is sent when the window opens.
        peer.window = 65535
        for _ in 0..<100 where peer.received.count < bytes.count {
            bench.pass(1)
            peer.run()
        }
        peer.until("all of it") { peer.received == bytes && peer.gotEnd == ends }
        // And a window that stays closed is asked after for ever, but ever more rarely.
        InternetSocket.close(outside)
    }

    @Test("a reset of the workspace's is one outside, in every phase", arguments: EdgePhase.allCases)
    func resetInside(_ phase: EdgePhase) throws {
        let bench = try ForwarderBench()
        let (peer, outside) = try connection(bench, phase)
        if phase == .offered { peer.send([.rst, .ack], at: SequenceNumber(0)) } else { peer.send(.rst) }
        peer.until("the end of the flow") { bench.forwarder.table.count == 0 }
        bench.until("the reset") {
            var byte: UInt8 = 0
            return recv(outside, &byte, 1, Int32(MSG_DONTWAIT)) < 0 && errno == ECONNRESET
                || phase == .guestEnded && InternetSocket.takeError(outside) == .brokenPipe
        }
        InternetSocket.close(outside)
    }

    @Test("a FIN that comes before what it ends is kept")
    func earlyFinish() throws {
        let bench = try ForwarderBench()
        let (peer, outside) = try connection(bench, .established)
        let start = peer.next
        peer.send([.ack, .psh, .fin], Array("cd".utf8), at: start + 2)
        peer.run()
        #expect(BenchOutside.read(outside) == [])
        peer.send(.ack, Array("ab".utf8), at: start)
        peer.next = start + 5
        var heard: [UInt8] = []
        bench.until("all of it, and the end") {
            guard let more = BenchOutside.read(outside) else { return true }
            heard += more
            return false
        }
        #expect(heard == Array("abcd".utf8))
        #expect(bench.segments.last?.header.acknowledgement == start + 5)
        InternetSocket.close(outside)
        peer.until("an empty table") { bench.forwarder.table.count == 0 }
    }

    @Test("a server that takes a connection, says something and resets it has not refused it")
    func resetWhileOpening() throws {
        let bench = try ForwarderBench()
        let listener = try BenchOutside.listener()
        let peer = BenchPeer(bench, port: 40000, to: Endpoint(bench.layout.gateway4, BenchOutside.port(listener)))
        peer.send(.syn)
        // The SYN is read, and the connection is there before the forwarder looks again.
        #expect(try bench.forwarder.turn(waiting: Duration.zero))
        guard case .success(let client)? = InternetSocket.accept(listener.number) else {
            Issue.record("no connection")
            return
        }
        BenchOutside.write(client.socket, Array("words".utf8))
        BenchOutside.reset(client.socket)
        peer.until("the SYN-ACK") { peer.gotSynAck }
        peer.send(.ack)
        peer.until("the reset") { peer.gotReset }
        #expect(peer.received == Array("words".utf8) && bench.forwarder.table.count == 0)
    }

    @Test("the last segment of what is readable is pushed, those before are not")
    func push() throws {
        let bench = try ForwarderBench()
        let (peer, outside) = try connection(bench, .established)
        peer.acknowledges = false
        BenchOutside.write(outside, [UInt8](repeating: 7, count: 4000))
        for _ in 0..<5 { bench.turn() }
        let flags = bench.segments.filter { !$0.payload.isEmpty }.map(\.header.flags)
        #expect(flags == [.ack, .ack, [.ack, .psh]])
        InternetSocket.close(outside)
    }

    @Test("what ends with a whole segment is pushed too; with more behind it not", arguments: [1, 2, 5])
    func pushOfWholeSegments(_ count: Int) throws {
        let bench = try ForwarderBench()
        let (peer, outside) = try connection(bench, .established)
        peer.acknowledges = false
        BenchOutside.write(outside, [UInt8](repeating: 7, count: count * 1460))
        for _ in 0..<5 { bench.turn() }
        let flags = bench.segments.filter { !$0.payload.isEmpty }.map(\.header.flags)
        #expect(flags == [TCPFlags](repeating: .ack, count: count - 1) + [[.ack, .psh]])
        InternetSocket.close(outside)
    }

    /// Four segments are under way, of which the workspace's kernel says what it says.
    private func retransmissions(_ offset: Bool?, _ says: (BenchPeer) -> Void) throws -> [Int] {
        let bench = try ForwarderBench(peeksWithOffset: offset)
        let (peer, outside) = try connection(bench, .established)
        peer.acknowledges = false
        BenchOutside.write(outside, (0..<5840).map { UInt8($0 / 1460) })
        for _ in 0..<5 { bench.turn() }
        bench.segments = []
        says(peer)
        for _ in 0..<5 { bench.turn() }
        InternetSocket.close(outside)
        return bench.segments.filter { !$0.payload.isEmpty }.map { segment in
            #expect(Set(segment.payload) == [UInt8((segment.header.sequence - peer.expected) / 1460)])
            return segment.header.sequence - peer.expected
        }
    }

    @Test("three duplicate acknowledgements, or a SACK block, make the hole sent again", arguments: [nil, false])
    func fastRetransmit(_ offset: Bool?) throws {
        let twice = try retransmissions(offset) { peer in for _ in 0..<2 { peer.send(.ack) } }
        #expect(twice.isEmpty)
        let thrice = try retransmissions(offset) { peer in for _ in 0..<3 { peer.send(.ack) } }
        #expect(thrice == [0])
        let first = try retransmissions(offset) { peer in
            let start = peer.expected
            peer.send(.ack, sack: [SACKBlock(left: start + 1460, right: start + 5840)])
        }
        #expect(first == [0])
        // A hole of several segments is sent whole: what lies before a block is lost (RFC 6675).
        let three = try retransmissions(offset) { peer in
            let start = peer.expected
            peer.send(.ack, sack: [SACKBlock(left: start + 4380, right: start + 5840)])
        }
        #expect(three == [0, 1460, 2920])
        // A partial acknowledgement names the next hole.
        let partial = try retransmissions(offset) { peer in
            let start = peer.expected
            peer.send(.ack, sack: [SACKBlock(left: start + 1460, right: start + 2920)])
            peer.bench.turn()
            peer.bench.segments = []
            peer.send(
                .ack, acknowledging: start + 2920, sack: [SACKBlock(left: start + 4380, right: start + 5840)])
        }
        #expect(partial == [2920])
    }

    @Test("connections of a forwarder that is gone are reset in the next one", arguments: [0, 100])
    func lostConnections(_ lostOnTheLink: Int) throws {
        let old = try ForwarderBench()
        let (peer, outside) = try connection(old, .established)
        BenchOutside.write(outside, [UInt8](repeating: 7, count: 1000))
        peer.until("the bytes") { peer.received.count == 1000 }
        var flows = (0..<old.forwarder.table.highWater).map { old.forwarder.table[$0] }
        #expect(flows.count == 1)
        // What was lost on the link was sent, and is not what the workspace expects.
        flows[0].tcp.sendMaximum += lostOnTheLink
        let bench = try ForwarderBench()
        let next = BenchPeer(bench, port: 40000, to: peer.remote)
        next.gotSynAck = true
        next.next = peer.next
        next.expected = peer.expected
        bench.forwarder.lost = LostConnections(flows)
        // Nothing is known of the workspace's hardware address before it says something.
        next.run()
        #expect(bench.segments.isEmpty && !next.gotReset)
        bench.send(
            [8, 0, 0, 0, 0, 1, 0, 1], proto: 1, checksumOffset: 2, from: next.local.address, to: bench.layout.gateway4)
        bench.clock.now = bench.clock.now + .milliseconds(200)
        next.until("the reset") { next.gotReset }
        #expect(bench.forwarder.lost?.nextAt == nil)
        InternetSocket.close(outside)
    }
}
