import Glibc

@testable import Kernel
@testable import Slirp

/// The forwarder's loop on frames that a workspace might send: its tap is a socket of whole messages, and its outside a
/// network namespace where every address is this process's own.
struct FrameTarget {
    private let world = World()

    /// The first byte picks the configuration; then frames, each behind two bytes of length. A length of 0 lets the world say
    /// something.
    func run(_ bytes: [UInt8]) {
        guard let choice = bytes.first else { return }
        guard let (inside, outside) = try? makeSocketPair(.sequencedPacket), let (ring0, channel) = try? Channel.pair(),
            let listeners = try? SocketDiagnosis.open(), let table = try? makeMemoryFile("fuzz", holding: [])
        else { return }
        for descriptor in [inside, outside] { try? descriptor.setNonblocking(true) }
        var configuration = SlirpConfiguration(
            layout: NetworkLayout(ipv6: choice & 2 == 0), mtu: 1500, forwards: PortSet([]),
            nameServers: [NameServer(World.address)],
            hostLoopback: choice & 4 == 0 ? .all : .ports([]), checksumOffload: choice & 1 != 0,
            segmentationOffload: choice & 1 != 0, datagramOffload: choice & 1 != 0)
        configuration.hasLinkHeader = choice & 1 != 0
        configuration.flowCapacity = 256
        if choice & 8 != 0 {
            configuration.egress.allowsByDefault = false
            configuration.egress.rules = [
                EgressPolicy.Rule(allows: true, .namesBelow("test")),
                EgressPolicy.Rule(allows: true, .network(Subnet(World.address, 15))),
            ]
        }
        guard
            var forwarder = try? Forwarder(
                configuration, tap: outside, listeners: listeners, table: table, report: channel)
        else { return }
        var rest = bytes.dropFirst()
        for _ in 0..<64 where rest.count >= 2 {
            let count = Int(rest[rest.startIndex]) << 8 | Int(rest[rest.startIndex + 1])
            let frame = Array(rest.dropFirst(2).prefix(count))
            rest = rest.dropFirst(2 + frame.count)
            if frame.isEmpty { world.speak(Array(rest.prefix(64))) }
            _ = LocalSocket.send(inside.number, frame, descriptors: [])
            for _ in 0..<3 {
                guard (try? forwarder.turn(waiting: Duration.zero)) == true else { break }
            }
            checkFrames(from: inside, hasLinkHeader: configuration.hasLinkHeader)
        }
        for index in 0..<forwarder.table.highWater
        where forwarder.table[index].kind == .tcp || forwarder.table[index].kind == .udp
            || forwarder.table[index].kind == .ping
        {
            InternetSocket.close(forwarder.table[index].socket)
        }
        withExtendedLifetime((inside, ring0)) {}
    }

    /// What the forwarder wrote is well formed, whatever it was given.
    private func checkFrames(from inside: Descriptor, hasLinkHeader: Bool) {
        var buffer = [UInt8](repeating: 0, count: 70_000)
        for _ in 0..<64 {
            guard case .bytes(let count) = LocalSocket.receive(inside.number, into: &buffer).0, count > 0 else {
                return
            }
            let frame = Array(buffer[(hasLinkHeader ? VirtioHeader.length : 0)..<count])
            let span = frame.span.bytes
            guard let ethernet = try? EthernetHeader(parsing: span) else { fatalError("a frame without a header") }
            let packet = span.extracting(EthernetHeader.length..<frame.count)
            if ethernet.type == EthernetHeader.arp {
                precondition((try? ARPPacket(parsing: packet)) != nil, "bad ARP")
                continue
            }
            guard let ip = try? IPHeader(parsing: packet) else { fatalError("bad IP") }
            precondition(ip.headerLength + ip.payloadLength == packet.byteCount, "IP's length is not the frame's")
            if ip.fragment != nil || hasLinkHeader { continue }
            let payload = packet.extracting(ip.headerLength..<packet.byteCount)
            var sum =
                ip.proto == TransportProtocol.icmp
                ? Checksum() : IPEmitter.pseudoHeader(ip.source, ip.destination, ip.proto, payload.byteCount)
            sum.add(payload, 0..<payload.byteCount)
            let isUnsummed = ip.proto == TransportProtocol.udp && payload.byteCount >= 8 && payload.u16(6) == 0
            precondition(sum.value == 0 || isUnsummed, "bad checksum")
            switch ip.proto {
            case TransportProtocol.tcp: precondition((try? TCPHeader(parsing: payload)) != nil, "bad TCP")
            case TransportProtocol.udp: precondition((try? UDPHeader(parsing: payload)) != nil, "bad UDP")
            default: precondition((try? ICMPHeader(parsing: payload)) != nil, "bad ICMP")
            }
        }
    }
}

/// The servers of the outside: TCP 80 takes connections, UDP 53 and 7 answer. They are this process's, in a namespace of
/// nothing else.
final class World {
    static let address = IPAddress(v4: 0xc612_0001)
    private var sockets: [Int32] = []
    private var listeners: [Int32] = []
    private var clients: [Int32] = []

    init() {
        // Nothing that this target makes the forwarder do may leave the machine.
        let devices = (Files.text("/proc/net/dev") ?? "").split(separator: "\n").dropFirst(2)
        guard devices.allSatisfy({ $0.contains("lo:") }), getenv("FUZZ_NAMESPACE") != nil else {
            fatalError("frames are sent in a network namespace of their own only: use make fuzz")
        }
        for v4 in [true, false] {
            let any = v4 ? IPAddress.any4 : .any6
            for port in [UInt16(53), 7] {
                guard case .success(let socket) = InternetSocket.make(.udp, v4: v4),
                    InternetSocket.bind(socket, v4: v4, to: Endpoint(any, port)) == nil
                else { continue }
                sockets.append(socket)
            }
            guard case .success(let listener) = InternetSocket.make(.tcp, v4: v4),
                InternetSocket.bind(listener, v4: v4, to: Endpoint(any, 80)) == nil, listen(listener, 64) == 0
            else { continue }
            listeners.append(listener)
        }
    }

    /// Answers what was asked with these bytes behind a DNS header, and says them to every client.
    func speak(_ bytes: [UInt8]) {
        var buffer = [UInt8](repeating: 0, count: 2048)
        for socket in sockets {
            var from = sockaddr_storage()
            for _ in 0..<8 {
                var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
                let count = withUnsafeMutablePointer(to: &from) {
                    $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                        recvfrom(socket, &buffer, buffer.count, Int32(MSG_DONTWAIT), $0, &length)
                    }
                }
                guard count > 0 else { break }
                var answer = Array(buffer[..<count])
                if answer.count > 8 {
                    answer[2] |= 0x80
                    answer[7] = bytes.first ?? 0
                }
                answer += bytes
                _ = withUnsafePointer(to: &from) {
                    $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                        sendto(socket, answer, answer.count, Int32(MSG_DONTWAIT), $0, length)
                    }
                }
            }
        }
        for listener in listeners {
            for _ in 0..<16 {
                guard case .success(let client)? = InternetSocket.accept(listener) else { break }
                clients.append(client.socket)
            }
        }
        for client in clients {
            _ = send(client, bytes, bytes.count, Int32(MSG_DONTWAIT) | Int32(MSG_NOSIGNAL))
        }
        while clients.count > 8 { close(clients.removeFirst()) }
    }
}
