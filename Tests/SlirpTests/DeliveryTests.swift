import Glibc
import Testing

@testable import Kernel
@testable import Slirp

/// What the workspace sends on a connection, on the two detours that it takes when it comes too early or the outside socket is
/// full.
@Suite("Delivery to the outside", .serialized)
struct DeliveryTests {
    /// A connection that the workspace has opened, and its outside end.
    private func connection(
        _ bench: ForwarderBench, port: UInt16 = 40000, room: Int32? = nil
    ) throws -> (BenchPeer, Int32) {
        let listener = try BenchOutside.listener()
        if var room {
            setsockopt(listener.number, SOL_SOCKET, SO_RCVBUF, &room, socklen_t(MemoryLayout<Int32>.size))
        }
        let peer = BenchPeer(bench, port: port, to: Endpoint(bench.layout.gateway4, BenchOutside.port(listener)))
        peer.send(.syn)
        var accepted: Int32 = -1
        peer.until("the connection") {
            if case .success(let client)? = InternetSocket.accept(listener.number) { accepted = client.socket }
            return peer.gotSynAck && accepted >= 0
        }
        peer.send(.ack)
        peer.run()
        return (peer, accepted)
    }

    /// Segments that a sender has cut anew overlap those that came before: each byte counts once, from its own place.
    @Test(
        "segments that overlap out of order are put together by their bytes",
        arguments: [[2..<6, 4..<8], [4..<8, 2..<6], [2..<8, 3..<5], [3..<5, 2..<8], [6..<8, 2..<4, 1..<7]])
    func overlaps(_ early: [Range<Int>]) throws {
        let bench = try ForwarderBench()
        let (peer, outside) = try connection(bench)
        let text = Array("abcdefgh".utf8)
        let start = peer.next
        for range in early { peer.send(.ack, Array(text[range]), at: start + range.lowerBound) }
        peer.run()
        #expect(BenchOutside.read(outside) == [])
        // What is still missing comes as a sender that knows only the acknowledgement sends it.
        var heard: [UInt8] = []
        peer.send(.ack, Array(text[0..<2]), at: start)
        for _ in 0..<20 where heard.count < text.count {
            peer.run()
            heard += BenchOutside.read(outside) ?? []
        }
        peer.send(.ack, text, at: start)
        peer.next = start + text.count
        bench.until("all of it") {
            heard += BenchOutside.read(outside) ?? []
            return heard.count >= text.count
        }
        #expect(heard == text)
        #expect(bench.forwarder.pool.used == 0)
        InternetSocket.close(outside)
    }

    /// Chunks that a flow holds are counted: what is lost here is lost for every connection after it.
    @Test("a connection that ends in any way gives back what it kept", arguments: ["reset inside", "reset outside"])
    func chunksComeBack(_ how: String) throws {
        let bench = try ForwarderBench()
        for port in UInt16(40000)..<40004 {
            let (peer, outside) = try connection(bench, port: port)
            for gap in 1...3 { peer.send(.ack, [7, 7], at: peer.next + gap * 10) }
            peer.run()
            #expect(bench.forwarder.pool.used == 3)
            if how == "reset inside" { peer.send(.rst) } else { BenchOutside.reset(outside) }
            peer.until("the end of the flow") { bench.forwarder.table.count == 0 }
            #expect(bench.forwarder.pool.used == 0)
            if how == "reset inside" { InternetSocket.close(outside) }
        }
    }

    /// The socket takes a part: the rest, and the end behind it, wait for its reader.
    @Test("an end behind bytes that the socket did not take is passed on with them")
    func endBehindSpill() throws {
        let bench = try ForwarderBench()
        let (peer, outside) = try connection(bench, room: 4096)
        var sent = 0
        // More than both sockets hold: what the window allows, until something is kept.
        for _ in 0..<20000 where bench.forwarder.pool.used == 0 {
            peer.send(.ack, [UInt8](repeating: 7, count: 1400))
            sent += 1400
            peer.run()
        }
        #expect(bench.forwarder.pool.used > 0)
        peer.send([.ack, .fin])
        peer.run()
        var heard = 0
        bench.until("all of it, and the end") {
            guard let more = BenchOutside.read(outside) else { return true }
            heard += more.count
            return false
        }
        #expect(heard == sent)
        #expect(bench.forwarder.pool.used == 0)
        InternetSocket.close(outside)
    }

    /// RFC 2018: with it the workspace sends again only what is missing.
    @Test("the workspace is told what came out of order, the latest first")
    func selectiveAcknowledgement() throws {
        let bench = try ForwarderBench()
        let (peer, outside) = try connection(bench)
        let start = peer.next
        bench.segments = []
        for gap in [10, 30, 20] { peer.send(.ack, [7, 7], at: start + gap) }
        bench.turn()
        let told = try #require(bench.segments.last).header
        #expect(told.acknowledgement == start && told.sack.count == 3)
        let blocks = (0..<Int(told.sack.count)).map { told.sack[$0].left - start }
        #expect(blocks.first == 20 && Set(blocks) == [10, 20, 30])
        #expect((0..<Int(told.sack.count)).allSatisfy { told.sack[$0].right - told.sack[$0].left == 2 })
        InternetSocket.close(outside)
    }
}
