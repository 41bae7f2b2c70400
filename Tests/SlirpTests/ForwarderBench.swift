import Glibc
import Testing

@testable import Kernel
@testable import Slirp

/// The time of a forwarder under test: it stands still unless the test moves it.
final class BenchClock: @unchecked Sendable {
    var now = MonotonicInstant(nanoseconds: 1_000_000_000_000)
}

/// A forwarder whose link is a pair of message sockets, whose outside is this machine's loopback, and whose time is the test's.
final class ForwarderBench {
    let clock = BenchClock()
    let link: Descriptor
    let ring0: Channel
    let layout: NetworkLayout
    var forwarder: Forwarder
    /// Segments of TCP and whole packets of anything else that the forwarder sent, oldest first.
    var segments: [BenchSegment] = [], packets: [(ip: IPHeader, bytes: [UInt8])] = []

    init(ipv6: Bool = false, peeksWithOffset: Bool? = nil) throws {
        let (inside, outside) = try makeSocketPair(.sequencedPacket)
        for descriptor in [inside, outside] { try descriptor.setNonblocking(true) }
        let (ring0, channel) = try Channel.pair()
        layout = NetworkLayout(ipv6: ipv6)
        var configuration = SlirpConfiguration(
            layout: layout, mtu: 1500, forwards: PortSet([]), nameServers: [], hostLoopback: .all,
            checksumOffload: false, segmentationOffload: false, datagramOffload: false)
        configuration.hasLinkHeader = false
        configuration.flowCapacity = 256
        let clock = clock
        forwarder = try Forwarder(
            configuration, tap: outside, listeners: SocketDiagnosis.open(), table: makeMemoryFile("bench", holding: []),
            report: channel, peeksWithOffset: peeksWithOffset, clock: { clock.now })
        link = inside
        self.ring0 = ring0
    }

    /// Lets the forwarder run, and takes what it sent.
    func turn() {
        for _ in 0..<4 { #expect((try? forwarder.turn(waiting: Duration.zero)) == true) }
        takeFrames()
    }

    /// Lets the forwarder run until something is so. The loopback delivers at once or nearly so.
    func until(_ what: String, _ condition: () -> Bool, location: SourceLocation = #_sourceLocation) {
        for round in 0..<5000 {
            turn()
            if condition() { return }
            if round > 10 { usleep(1000) }
        }
        Issue.record("\(what) did not come true", sourceLocation: location)
    }

    /// Lets time pass, in steps that a timer may be due in.
    func pass(_ seconds: Int) {
        for _ in 0..<(seconds * 10) {
            clock.now = clock.now + .milliseconds(100)
            turn()
        }
    }

    private func takeFrames() {
        var buffer = [UInt8](repeating: 0, count: 70_000)
        while case .bytes(let count) = LocalSocket.receive(link.number, into: &buffer).0, count > 0 {
            let frame = Array(buffer[..<count])
            let span = frame.span.bytes
            guard let ethernet = try? EthernetHeader(parsing: span), ethernet.type != EthernetHeader.arp,
                let ip = try? IPHeader(parsing: span.extracting(14..<count))
            else { continue }
            let start = 14 + ip.headerLength
            if ip.proto == TransportProtocol.tcp,
                let header = try? TCPHeader(parsing: span.extracting(start..<start + ip.payloadLength))
            {
                let payload = Array(frame[(start + header.headerLength)..<(start + ip.payloadLength)])
                segments.append(BenchSegment(header: header, payload: payload))
            } else {
                packets.append((ip, Array(frame[14...])))
            }
        }
    }

    /// Sends a whole packet, behind an Ethernet header, as the workspace.
    func send(packet: [UInt8]) {
        var frame = [UInt8](repeating: 0, count: 14)
        frame.withUnsafeMutableBytes {
            var out = $0.mutableBytes
            EthernetHeader(
                destination: .gateway, source: HardwareAddress(value: 0x0200_0000_0001),
                type: packet[0] >> 4 == 4 ? EthernetHeader.ipv4 : EthernetHeader.ipv6
            ).emit(into: &out, at: 0)
        }
        #expect(LocalSocket.send(link.number, frame + packet) == .bytes(14 + packet.count))
    }

    /// Sends a transport message with its checksum filled in, as the workspace.
    func send(
        _ message: [UInt8], proto: UInt8, checksumOffset: Int, from source: IPAddress, to destination: IPAddress,
        timeToLive: UInt8 = 64
    ) {
        var message = message
        let pseudo =
            proto == TransportProtocol.icmp
            ? Checksum() : IPEmitter.pseudoHeader(source, destination, proto, message.count)
        var sum = pseudo
        sum.add(message.span.bytes, 0..<message.count)
        message[checksumOffset] = UInt8(sum.value >> 8)
        message[checksumOffset + 1] = UInt8(sum.value & 255)
        var head = [UInt8](repeating: 0, count: IPEmitter.length(v4: source.isV4))
        head.withUnsafeMutableBytes {
            var out = $0.mutableBytes
            IPEmitter.emit(
                into: &out, at: 0, source: source, destination: destination, proto: proto,
                payloadLength: message.count, timeToLive: timeToLive)
        }
        send(packet: head + message)
    }
}

struct BenchSegment {
    var header: TCPHeader
    var payload: [UInt8]
}

/// A TCP of the workspace's that does only what the test says.
final class BenchPeer {
    let bench: ForwarderBench
    var local: Endpoint, remote: Endpoint
    /// The next byte we send, and the next one we expect.
    var next = SequenceNumber(1000), expected = SequenceNumber(0)
    var window: UInt16 = 65535
    /// Whether what comes is acknowledged as it comes.
    var acknowledges = true
    var received: [UInt8] = []
    var gotSynAck = false, gotEnd = false, gotReset = false

    init(_ bench: ForwarderBench, port: UInt16, to remote: Endpoint) {
        self.bench = bench
        local = Endpoint(bench.layout.guest4, port)
        self.remote = remote
    }

    func send(
        _ flags: TCPFlags, _ payload: [UInt8] = [], at sequence: SequenceNumber? = nil,
        acknowledging: SequenceNumber? = nil, sack: [SACKBlock] = []
    ) {
        var header = TCPHeader(
            sourcePort: local.port, destinationPort: remote.port, sequence: sequence ?? next,
            acknowledgement: acknowledging ?? expected, flags: flags, window: window)
        if flags.contains(.syn) { header.maximumSegment = 1460 }
        if flags.contains(.syn) { header.sackPermitted = true }
        for block in sack { header.sack.append(block) }
        var bytes = [UInt8](repeating: 0, count: header.emittedLength)
        bytes.withUnsafeMutableBytes {
            var out = $0.mutableBytes
            header.emit(into: &out, at: 0, checksum: 0)
        }
        bench.send(
            bytes + payload, proto: TransportProtocol.tcp, checksumOffset: 16, from: local.address, to: remote.address)
        if sequence == nil {
            next += payload.count + (flags.contains(.syn) ? 1 : 0) + (flags.contains(.fin) ? 1 : 0)
        }
    }

    /// Lets everything run, takes what came, and acknowledges it if that is wanted.
    func run() {
        bench.turn()
        let mine = bench.segments.filter { $0.header.destinationPort == local.port }
        bench.segments.removeAll { $0.header.destinationPort == local.port }
        for segment in mine { take(segment) }
        bench.turn()
    }

    private func take(_ segment: BenchSegment) {
        let header = segment.header
        if header.flags.contains(.rst) {
            // As RFC 5961 wants it: only at the byte that is expected, or as the answer to a SYN.
            if header.sequence == expected || !gotSynAck && header.acknowledgement == next { gotReset = true }
            return
        }
        if header.flags.contains(.syn) {
            gotSynAck = true
            expected = header.sequence + 1
            return
        }
        // What does not fit the window is dropped, as a kernel does.
        guard header.sequence == expected, segment.payload.count <= Int(window) else {
            if acknowledges, header.sequence != expected || !segment.payload.isEmpty { send(.ack) }
            return
        }
        received += segment.payload
        expected += segment.payload.count
        if header.flags.contains(.fin) {
            gotEnd = true
            expected += 1
        }
        if acknowledges, !segment.payload.isEmpty || header.flags.contains(.fin) { send(.ack) }
    }

    func until(_ what: String, _ condition: () -> Bool, location: SourceLocation = #_sourceLocation) {
        bench.until(
            what,
            {
                run()
                return condition()
            }, location: location)
    }
}

/// Sockets of the outside.
enum BenchOutside {
    static func listener() throws -> Descriptor {
        let socket = try InternetSocket.bind(.tcp, Endpoint(.loopback4, 0))
        try InternetSocket.startListening(socket, Endpoint(.loopback4, 0))
        return socket
    }

    static func port(_ socket: Descriptor) -> UInt16 { InternetSocket.localEndpoint(socket.number)?.port ?? 0 }

    static func write(_ socket: Int32, _ bytes: [UInt8], urgent: Bool = false) {
        #expect(
            send(socket, bytes, bytes.count, Int32(MSG_NOSIGNAL) | (urgent ? Int32(MSG_OOB) : 0))
                == bytes.count)
    }

    /// Everything that is there; nil: the end.
    static func read(_ socket: Int32) -> [UInt8]? {
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        let count = recv(socket, &buffer, buffer.count, Int32(MSG_DONTWAIT))
        return count == 0 ? nil : Array(buffer.prefix(max(0, count)))
    }

    static func reset(_ socket: Int32) {
        InternetSocket.setLingerZero(socket)
        InternetSocket.close(socket)
    }
}
