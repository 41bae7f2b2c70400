import Kernel
import TestSupport
import Testing

@testable import Slirp

/// Bytes given as a span to a parser; for tests.
private func parse<T, E>(_ bytes: [UInt8], _ body: (RawSpan) throws(E) -> T) throws(E) -> T {
    let span = bytes.span
    return try body(span.bytes)
}

private func emit(_ count: Int, _ body: (inout MutableRawSpan) -> Void) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    var span = bytes.mutableSpan
    var raw = span.mutableBytes
    body(&raw)
    return bytes
}

private let a4 = IPAddress(v4: 0x0a00_0264), b4 = IPAddress(v4: 0xc612_0001)
private let a6 = IPAddress(high: 0xfd00_0000_0000_0000, low: 0x100), b6 = IPAddress(high: 0xfd18_0000_0000_0000, low: 1)

@Suite("Wire")
struct WireTests {
    @Test("headers survive a round trip")
    func roundTrips() throws {
        let ethernet = EthernetHeader(
            destination: HardwareAddress(value: 0x0257_4b00_0264), type: EthernetHeader.ipv4)
        #expect(try parse(emit(14) { ethernet.emit(into: &$0, at: 0) }) { try EthernetHeader(parsing: $0) } == ethernet)

        let arp = ARPPacket(
            operation: .request, senderHardware: .gateway, sender: a4, targetHardware: .broadcast, target: b4)
        #expect(try parse(emit(28) { arp.emit(into: &$0, at: 0) }) { try ARPPacket(parsing: $0) } == arp)

        let udp = UDPHeader(sourcePort: 1, destinationPort: 65535, datagramLength: 20)
        #expect(try parse(emit(20) { udp.emit(into: &$0, at: 0, checksum: 0) }) { try UDPHeader(parsing: $0) } == udp)

        for (source, destination) in [(a4, b4), (a6, b6)] {
            let length = IPEmitter.length(v4: source.isV4)
            let bytes = emit(length + 33) {
                IPEmitter.emit(
                    into: &$0, at: 0, source: source, destination: destination, proto: 17, payloadLength: 33,
                    timeToLive: 7)
            }
            let header = try parse(bytes) { try IPHeader(parsing: $0) }
            #expect(header.source == source && header.destination == destination && header.proto == 17)
            #expect(header.payloadLength == 33 && header.headerLength == length && header.timeToLive == 7)
            #expect(header.fragment == nil)
        }
    }

    @Test("a SYN's options and an ACK's SACK blocks survive a round trip")
    func tcp() throws {
        var syn = TCPHeader(
            sourcePort: 80, destinationPort: 40000, sequence: SequenceNumber(1), acknowledgement: SequenceNumber(2),
            flags: [.syn, .ack], window: 65535)
        syn.maximumSegment = 1460
        syn.windowScale = 8
        syn.sackPermitted = true
        syn.timestamps = TCPTimestamps(value: .max, echo: 7)
        var read = try parse(emit(syn.emittedLength) { syn.emit(into: &$0, at: 0, checksum: 0) }) {
            try TCPHeader(parsing: $0)
        }
        #expect(read.headerLength == syn.emittedLength)
        // The options stand as Linux has them: nothing tells the forwarder's SYN from a kernel's.
        var options = TCPHeader(
            sourcePort: 1, destinationPort: 2, sequence: SequenceNumber(0), acknowledgement: SequenceNumber(0),
            flags: .syn, window: 0)
        (options.maximumSegment, options.windowScale, options.sackPermitted) = (1460, 8, true)
        func emitted() -> [UInt8] {
            Array(emit(options.emittedLength) { options.emit(into: &$0, at: 0, checksum: 0) }[20...])
        }
        #expect(emitted() == [2, 4, 5, 180, 1, 1, 4, 2, 1, 3, 3, 8])
        options.timestamps = TCPTimestamps(value: 5, echo: 6)
        #expect(emitted() == [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 5, 0, 0, 0, 6, 1, 3, 3, 8])
        options.sackPermitted = false
        #expect(emitted() == [2, 4, 5, 180, 1, 1, 8, 10, 0, 0, 0, 5, 0, 0, 0, 6, 1, 3, 3, 8])
        read.headerLength = syn.headerLength
        #expect(read == syn)

        var ack = TCPHeader(
            sourcePort: 80, destinationPort: 40000, sequence: SequenceNumber(1), acknowledgement: SequenceNumber(2),
            flags: .ack, window: 1)
        ack.sack.append(SACKBlock(left: SequenceNumber(10), right: SequenceNumber(20)))
        ack.sack.append(SACKBlock(left: SequenceNumber(.max), right: SequenceNumber(4)))
        for timestamps in [nil, TCPTimestamps(value: 1, echo: .max)] {
            ack.timestamps = timestamps
            let bytes = emit(ack.emittedLength) { ack.emit(into: &$0, at: 0, checksum: 0) }
            let read = try parse(bytes) { try TCPHeader(parsing: $0) }
            #expect(read.sack == ack.sack && read.timestamps == timestamps)
            ack.sack.append(SACKBlock(left: SequenceNumber(30), right: SequenceNumber(40)))
        }
        ack.sack = SACKBlocks()
        let plain = emit(ack.emittedLength) { ack.emit(into: &$0, at: 0, checksum: 0) }
        let short = try parse(plain) { try TCPHeader(parsing: $0) }
        #expect(plain.count == 32 && short.timestamps == ack.timestamps)
    }

    @Test("IPv4-mapped addresses in IPv6 packets are refused")
    func mapped() {
        let bytes = emit(40) {
            IPEmitter.emit(into: &$0, at: 0, source: a6, destination: b6, proto: 6, payloadLength: 0)
            $0.put64(0, 24)
            $0.put64(0xffff_7f00_0001, 32)
        }
        #expect(throws: PacketError.malformed) { try parse(bytes) { try IPHeader(parsing: $0) } }
    }

    @Test("every parser is total: any truncation, any bytes", arguments: 0..<40)
    func total(seed: Int) {
        var random = SeededGenerator(seed: UInt64(seed))
        for _ in 0..<500 {
            var bytes = (0..<Int.random(in: 0...120, using: &random)).map { _ in
                UInt8.random(in: 0...255, using: &random)
            }
            // Often enough the first bytes look right, so that what follows is reached.
            if !bytes.isEmpty, Bool.random(using: &random) {
                bytes[0] = [0x45, 0x4f, 0x60].randomElement(using: &random) ?? 0
            }
            if bytes.count > 6, Bool.random(using: &random) {
                bytes[6] = [0, 44, 60].randomElement(using: &random) ?? 0
            }
            for count in Set([0, 1, bytes.count / 2, max(0, bytes.count - 1), bytes.count]) where count <= bytes.count {
                let part = Array(bytes[..<count])
                _ = try? parse(part) { try VirtioHeader(parsing: $0) }
                _ = try? parse(part) { try EthernetHeader(parsing: $0) }
                if let header = try? parse(part, { try IPHeader(parsing: $0) }) {
                    #expect(header.headerLength + header.payloadLength <= part.count)
                }
                _ = try? parse(part) { try ARPPacket(parsing: $0) }
                if let header = try? parse(part, { try TCPHeader(parsing: $0) }) {
                    #expect(header.headerLength <= part.count)
                }
                if let header = try? parse(part, { try UDPHeader(parsing: $0) }) {
                    #expect(header.datagramLength <= part.count)
                }
                _ = try? parse(part) { try ICMPHeader(parsing: $0) }
                _ = try? parse(part + [UInt8](repeating: 0, count: 236)) { try DHCPRequest(parsing: $0) }
            }
        }
    }

    @Test("the checksum is that of RFC 1071's example, however the bytes are cut")
    func checksum() {
        let bytes: [UInt8] = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]
        var sum = Checksum()
        sum.add(bytes.span.bytes, 0..<8)
        #expect(sum.folded == 0xddf2)
        var parts = Checksum()
        parts.add(bytes.span.bytes, 0..<2)
        parts.add(bytes.span.bytes, 2..<8)
        #expect(parts.value == sum.value)
    }
}

@Suite("IPAddress")
struct IPAddressTests {
    @Test(arguments: [
        "10.0.2.3", "fd00::3", "::", "::1", "2001:db8:0:1:1:1:1:1", "fe80::1:0:0:1", "1:2:3:4:5:6:7:8", "fd18:1::",
    ])
    func texts(_ text: String) { #expect(IPAddress(text)?.description == text) }

    @Test(arguments: [
        "", "1.2.3", "1.2.3.256", "01234.1.1.1", ":", ":::", "1::2::3", "12345::", "1:2:3:4:5:6:7", "g::",
        "1:2:3:4:5:6:7:8:9", "::1.2.3", "1.2.3.4:5",
    ])
    func noAddresses(_ text: String) { #expect(IPAddress(text) == nil) }

    @Test("prefixes count from the version's own first bit")
    func prefixes() {
        #expect(Subnet("10.0.2.0/24")?.contains(IPAddress(v4: 0x0a00_02ff)) == true)
        #expect(Subnet("10.0.2.0/24")?.contains(IPAddress(v4: 0x0a00_0300)) == false)
        for (text, network) in [
            ("10.0.2.100/24", "10.0.2.0"), ("10.0.2.100/32", "10.0.2.100"), ("10.0.2.100/0", "0.0.0.0"),
            ("10.0.2.255/25", "10.0.2.128"), ("fd00::100/64", "fd00::"), ("fd00::ff00:1/112", "fd00::ff00:0"),
            ("fd00::1/128", "fd00::1"), ("fd00::1/0", "::"), ("fdff::1/9", "fd80::"),
        ] {
            #expect(Subnet(text)?.network == IPAddress(network))
        }
        #expect(Subnet("fd00::/64")?.contains(a6) == true && Subnet("fd00::/64")?.contains(b6) == false)
        #expect(Subnet("0.0.0.0/0")?.contains(b4) == true && Subnet("0.0.0.0/0")?.contains(b6) == false)
    }
}

@Suite("DHCPv6")
struct DHCPv6Tests {
    private let identity: [UInt8] = [0, 3, 0, 1, 0x52, 0x55, 0x0a, 0, 2, 2]
    private func option(_ code: UInt8, _ data: [UInt8]) -> [UInt8] { [0, code, 0, UInt8(data.count)] + data }
    private func ask(_ kind: UInt8, server: Bool = false, _ rest: [UInt8] = []) throws -> [UInt8]? {
        let bytes = [kind, 1, 2, 3] + option(1, [9, 9]) + (server ? option(2, identity) : []) + rest
        let request = try parse(bytes) { try DHCPv6Request(parsing: $0) }
        return DHCPv6Server(layout: NetworkLayout()).answer(request)
    }
    private let wanted: [UInt8] = [0, 3, 0, 12, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0]

    @Test("a client gets the workspace's one address, and where names are looked up")
    func answers() throws {
        let address = NetworkLayout().guest6.bytes
        let names = option(23, NetworkLayout().nameServer6.bytes)
        let advertised = try #require(try ask(1, wanted))
        #expect(advertised[..<4] == [2, 1, 2, 3] && Array(advertised.suffix(20)) == names)
        #expect(Array(advertised[4..<10]) == option(1, [9, 9]) && Array(advertised[10..<24]) == option(2, identity))
        #expect(Array(advertised[28..<32]) == [0, 0, 0, 7] && Array(advertised[44..<60]) == address)
        let rapid = try #require(try ask(1, option(14, []) + wanted))
        #expect(rapid[0] == 7)
        let second = try #require(try ask(3, server: true, wanted + wanted))
        #expect(
            second[0] == 7 && Array(second.suffix(26).prefix(6)) == option(13, [0, 2]), "there is no second address")
        let information = try #require(try ask(11))
        #expect(information[0] == 7 && information.count == 4 + 6 + 14 + 20)
        #expect(try ask(8, server: true)?.count == 4 + 6 + 14 + 6 + 20)
    }

    @Test("a message for another server, or of another kind, is not answered")
    func silence() throws {
        #expect(try ask(3, wanted) == nil, "a request names its server")
        #expect(try ask(1, server: true, wanted) == nil, "a solicitation names none")
        let other = [3, 1, 2, 3] + option(1, [9]) + option(2, [0, 3, 0, 1, 1, 2, 3, 4, 5, 6])
        let request = try parse(other) { try DHCPv6Request(parsing: $0) }
        #expect(DHCPv6Server(layout: NetworkLayout()).answer(request) == nil)
        for kind in [UInt8(0), 2, 7, 10, 12, 13, 255] {
            #expect(throws: PacketError.malformed) { try parse([kind, 1, 2, 3]) { try DHCPv6Request(parsing: $0) } }
        }
        let whole = [UInt8(1), 1, 2, 3] + option(1, [9, 9]) + wanted
        for length in 0..<whole.count where ![4, 10].contains(length) {
            #expect(throws: PacketError.self) {
                try parse(Array(whole[..<length])) { try DHCPv6Request(parsing: $0) }
            }
        }
    }
}
