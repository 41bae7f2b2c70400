import Testing

@testable import Kernel
@testable import Slirp

/// What the forwarder answers on its link, and what it does not.
@Suite("Neighbours and headers")
struct HostileNeighbourTests {
    /// A neighbour solicitation for the gateway with these options, or anything in its place.
    private func solicitation(_ bench: ForwarderBench, type: UInt8 = 135, code: UInt8 = 0, options: [UInt8] = [])
        -> [UInt8]
    {
        [type, code, 0, 0, 0, 0, 0, 0] + (type == 135 ? bench.layout.gateway6.bytes : []) + options
    }

    private func answers(
        _ bench: ForwarderBench, _ message: [UInt8], from source: IPAddress, to destination: IPAddress? = nil,
        timeToLive: UInt8 = 255
    ) -> Int {
        bench.packets = []
        bench.send(
            message, proto: TransportProtocol.icmpv6, checksumOffset: 2, from: source,
            to: destination ?? bench.layout.gateway6, timeToLive: timeToLive)
        bench.turn()
        return bench.packets.count
    }

    @Test("solicitations are valid as RFC 4861, 7.1.1 and 6.1.1 want them, or are not answered")
    func solicitations() throws {
        let bench = try ForwarderBench(ipv6: true)
        let guest = bench.layout.guest6
        let group = IPAddress(high: 0xff02_0000_0000_0000, low: 0x1_ff00_0002)
        let allRouters = IPAddress(high: 0xff02_0000_0000_0000, low: 2)
        let hardware: [UInt8] = [1, 1, 2, 0, 0, 0, 0, 1]
        #expect(answers(bench, solicitation(bench), from: guest) == 1)
        #expect(answers(bench, solicitation(bench, options: hardware), from: guest) == 1)
        #expect(answers(bench, solicitation(bench, options: [14, 1, 0, 0, 0, 0, 0, 0]), from: guest) == 1, "a nonce")
        #expect(answers(bench, solicitation(bench), from: .any6, to: group) == 1, "is the address free?")
        // And now what is not valid.
        #expect(answers(bench, solicitation(bench), from: guest, timeToLive: 254) == 0)
        #expect(answers(bench, solicitation(bench, code: 1), from: guest) == 0)
        #expect(answers(bench, solicitation(bench, options: [1, 0, 2, 0, 0, 0, 0, 1]), from: guest) == 0, "length 0")
        #expect(
            answers(bench, solicitation(bench, options: [1, 2, 2, 0, 0, 0, 0, 1]), from: guest) == 0, "past the end")
        #expect(answers(bench, solicitation(bench, options: [1]), from: guest) == 0, "no length")
        #expect(answers(bench, solicitation(bench, options: hardware), from: .any6, to: group) == 0)
        #expect(answers(bench, solicitation(bench), from: .any6) == 0, "not to the group")
        let multicast = [135, 0, 0, 0, 0, 0, 0, 0] + group.bytes
        #expect(answers(bench, multicast, from: guest) == 0, "a group has no hardware address")
        #expect(answers(bench, Array(solicitation(bench).prefix(20)), from: guest) == 0)
        // Routers.
        #expect(answers(bench, solicitation(bench, type: 133), from: guest, to: allRouters) == 1)
        #expect(answers(bench, solicitation(bench, type: 133), from: .any6, to: allRouters) == 1)
        #expect(answers(bench, solicitation(bench, type: 133, options: hardware), from: .any6, to: allRouters) == 0)
        #expect(answers(bench, solicitation(bench, type: 133, options: [1, 0]), from: guest, to: allRouters) == 0)
    }

    @Test("a routing header with something left to visit is a parameter problem (RFC 5095), one without is passed")
    func routing() throws {
        let bench = try ForwarderBench(ipv6: true)
        func packet(left: UInt8, to destination: IPAddress) -> [UInt8] {
            let echo: [UInt8] = [128, 0, 0, 0, 0, 1, 0, 1]
            var sum = IPEmitter.pseudoHeader(bench.layout.guest6, destination, TransportProtocol.icmpv6, echo.count)
            sum.add(echo.span.bytes, 0..<echo.count)
            let routing: [UInt8] = [58, 2, 0, left, 0, 0, 0, 0] + bench.layout.gateway6.bytes
            var head = [UInt8](repeating: 0, count: 40)
            head.withUnsafeMutableBytes {
                var out = $0.mutableBytes
                IPEmitter.emit(
                    into: &out, at: 0, source: bench.layout.guest6, destination: destination, proto: 43,
                    payloadLength: routing.count + echo.count)
            }
            return head + routing + [128, 0, UInt8(sum.value >> 8), UInt8(sum.value & 255)] + echo[4...]
        }
        bench.send(packet: packet(left: 1, to: bench.layout.gateway6))
        bench.turn()
        let problem = try #require(bench.packets.first)
        let message = problem.bytes.dropFirst(problem.ip.headerLength)
        #expect(Array(message.prefix(2)) == [4, 0] && Array(message.dropFirst(4).prefix(4)) == [0, 0, 0, 42])
        // The packet is quoted from its own header on.
        #expect(Array(message.dropFirst(8 + 6).prefix(1)) == [43] && message.count == 8 + 40 + 24 + 8)
        bench.packets = []
        bench.send(packet: packet(left: 0, to: bench.layout.gateway6))
        bench.turn()
        #expect(bench.packets.first.map { $0.bytes[$0.ip.headerLength] } == 129, "an answer to the ping")
        bench.packets = []
        bench.send(packet: packet(left: 1, to: IPAddress(high: 0xff02_0000_0000_0000, low: 1)))
        bench.turn()
        #expect(bench.packets.isEmpty, "to a group nothing is said")
    }
}
