import Glibc
import Testing

@testable import Kernel
@testable import Slirp

/// Timers that are due after minutes or hours, with a clock that the test moves.
@Suite("Rare timers", .serialized)
struct TimerTests {
    private func datagram(_ bench: ForwarderBench, to port: UInt16, _ payload: [UInt8]) {
        let numbers = [40000, port, UInt16(8 + payload.count), 0].flatMap { [UInt8($0 >> 8), UInt8($0 & 255)] }
        bench.send(
            numbers + payload, proto: TransportProtocol.udp, checksumOffset: 6, from: bench.layout.guest4,
            to: bench.layout.gateway4)
        bench.turn()
    }

    /// RFC 4787, 4.3: a mapping lives two minutes; a single question that nobody answers less.
    @Test("a conversation over UDP lives two minutes after its last datagram, a question half a minute")
    func datagrams() throws {
        let bench = try ForwarderBench()
        let server = try InternetSocket.bind(.udp, Endpoint(.loopback4, 0))
        let port = BenchOutside.port(server)
        datagram(bench, to: port, [1])
        #expect(bench.forwarder.table.count == 1)
        bench.pass(29)
        #expect(bench.forwarder.table.count == 1)
        bench.pass(3)
        #expect(bench.forwarder.table.count == 0)

        for number in UInt8(0)..<4 {
            datagram(bench, to: port, [number])
            var from = sockaddr_in()
            var length = socklen_t(MemoryLayout<sockaddr_in>.size)
            var byte: UInt8 = 255
            bench.until("the datagram") {
                withUnsafeMutablePointer(to: &from) {
                    $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                        recvfrom(server.number, &byte, 1, Int32(MSG_DONTWAIT), $0, &length) == 1
                    }
                } && byte == number
            }
            withUnsafePointer(to: &from) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    _ = sendto(server.number, &byte, 1, 0, $0, length)
                }
            }
            bench.until("the answer") { bench.packets.count == Int(number) + 1 }
        }
        bench.pass(110)
        #expect(bench.forwarder.table.count == 1)
        bench.pass(15)
        #expect(bench.forwarder.table.count == 0)
    }

    /// As Linux asks (tcp(7)): after two hours, nine times, 75 s apart.
    @Test("a connection whose station is gone without a word is asked, and ends on both sides")
    func deadStation() throws {
        let bench = try ForwarderBench()
        let listener = try BenchOutside.listener()
        let peer = BenchPeer(bench, port: 40000, to: Endpoint(bench.layout.gateway4, BenchOutside.port(listener)))
        peer.send(.syn)
        var outside: Int32 = -1
        peer.until("the connection") {
            if case .success(let client)? = InternetSocket.accept(listener.number) { outside = client.socket }
            return peer.gotSynAck && outside >= 0
        }
        peer.send(.ack)
        peer.run()
        func pass(minutes: Int) {
            for _ in 0..<minutes * 6 {
                bench.clock.now = bench.clock.now + .seconds(10)
                bench.turn()
            }
        }
        pass(minutes: 130)
        // It was asked, and answers: then it stays.
        #expect(bench.segments.contains { $0.payload.isEmpty && $0.header.sequence + 1 == peer.expected })
        bench.segments = []
        peer.send(.ack)
        pass(minutes: 60)
        #expect(bench.forwarder.table.count == 1)
        pass(minutes: 60 + 30)
        #expect(bench.forwarder.table.count == 0)
        bench.until("the reset") {
            var byte: UInt8 = 0
            return recv(outside, &byte, 1, Int32(MSG_DONTWAIT)) < 0 && errno == ECONNRESET
        }
        InternetSocket.close(outside)
    }

    /// RFC 9293, 3.8.1; as often as Linux does for a server that does not answer.
    @Test("a client's SYN that is lost on the link is sent again, ever later, and given up")
    func lostSyn() throws {
        let bench = try ForwarderBench()
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
        bench.until("the SYN") { !bench.segments.isEmpty }
        bench.pass(4)
        let flags = bench.segments.map(\.header.flags)
        #expect(flags.count >= 2 && flags.allSatisfy { $0 == .syn }, "\(flags)")
        bench.pass(300)
        #expect(bench.segments.count <= 8)
        #expect(bench.forwarder.table.count == 0)
        bench.until("the reset") {
            var byte: UInt8 = 0
            return recv(client, &byte, 1, Int32(MSG_DONTWAIT)) < 0 && errno == ECONNRESET
        }
        InternetSocket.close(client)
    }
}
