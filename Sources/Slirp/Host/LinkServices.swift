internal import Kernel

/// What a router does on its own link: ARP, neighbour and router discovery, DHCP, and ICMP errors.
extension Forwarder {
    mutating func handleARP(_ arp: ARPPacket) {
        let layout = configuration.layout
        guard arp.operation == .request, layout.answersFor(arp.target), arp.target.isV4 else { return }
        // Whoever has no address yet asks whether one is free: of copied ones all are.
        if layout.isCopied, arp.sender == .any4 { return }
        let reply = ARPPacket(
            operation: .reply, senderHardware: .gateway, sender: arp.target, targetHardware: arp.senderHardware,
            target: arp.sender)
        send(reply, to: arp.senderHardware)
    }

    /// Asks for the workspace's hardware address (RFC 826): nothing reaches it before that is known.
    mutating func askForWorkspace() {
        let layout = configuration.layout
        let request = ARPPacket(
            operation: .request, senderHardware: .gateway, sender: layout.gateway4,
            targetHardware: HardwareAddress(value: 0), target: layout.guest4)
        send(request, to: .broadcast)
    }

    private mutating func send(_ packet: ARPPacket, to destination: HardwareAddress) {
        do {
            let pointer = unsafe outgoing.bytes
            var out = unsafe pointer.mutableBytes
            VirtioHeader().emit(into: &out)
            EthernetHeader(destination: destination, type: EthernetHeader.arp)
                .emit(into: &out, at: Self.frameOffset)
            packet.emit(into: &out, at: Self.frameOffset + EthernetHeader.length)
        }
        writeFrame(count: Self.frameOffset + EthernetHeader.length + ARPPacket.length)
    }

    mutating func handleNeighbour(_ ip: IPHeader, at offset: Int, count: Int) {
        guard let subnet6 = configuration.layout.subnet6 else { return }
        let bytes: [UInt8]
        do {
            let pointer = unsafe incoming.bytes
            bytes = unsafe pointer.bytes.array(offset..<offset + count)
        }
        guard NeighbourDiscovery.isValid(bytes, ip) else { return drop(\.malformed) }
        let discovery = NeighbourDiscovery(layout: configuration.layout, mtu: configuration.mtu)
        switch bytes[0] {
        case 133:
            let destination =
                ip.source == .any6 ? IPAddress(high: 0xff02_0000_0000_0000, low: 1) : ip.source
            sendBytes(
                discovery.routerAdvertisement(prefix: subnet6), source: NetworkLayout.linkLocalGateway,
                destination: destination, proto: TransportProtocol.icmpv6, checksumOffset: 2, timeToLive: 255)
        case 135:
            let word = { (range: Range<Int>) in bytes[range].reduce(UInt64(0)) { $0 << 8 | UInt64($1) } }
            let target = IPAddress(high: word(8..<16), low: word(16..<24))
            let isProbe = ip.source == .any6
            guard configuration.layout.answersFor(target), !target.isV4, !(isProbe && configuration.layout.isCopied)
            else { return }
            sendBytes(
                discovery.advertisement(for: target, solicited: !isProbe), source: target,
                destination: isProbe ? IPAddress(high: 0xff02_0000_0000_0000, low: 1) : ip.source,
                proto: TransportProtocol.icmpv6, checksumOffset: 2, timeToLive: 255)
        default: break
        }
    }

    mutating func handleDHCP(at offset: Int, count: Int) {
        let request: DHCPRequest
        do throws(PacketError) {
            let pointer = unsafe incoming.bytes
            let bytes = unsafe pointer.bytes.extracting(offset..<offset + count)
            let header = try UDPHeader(parsing: bytes)
            guard header.destinationPort == 67 else { return }
            request = try DHCPRequest(parsing: bytes.extracting(UDPHeader.length..<header.datagramLength))
        } catch { return drop(\.malformed) }
        let server = DHCPServer(layout: configuration.layout, mtu: configuration.mtu)
        guard let answer = server.answer(request) else { return }
        let length = UInt16(clamping: answer.count + UDPHeader.length)
        let header = [UInt16(67), 68, length, 0].flatMap { [UInt8($0 >> 8), UInt8(truncatingIfNeeded: $0)] }
        let hasAddress = request.clientAddress != .any4
        sendBytes(
            header + answer, source: configuration.layout.gateway4,
            destination: hasAddress ? request.clientAddress : IPAddress(v4: .max), proto: TransportProtocol.udp,
            checksumOffset: 6)
    }

    /// A DHCPv6 client's message, sent to all servers of the link.
    mutating func handleDHCPv6(_ ip: IPHeader, at offset: Int, count: Int) {
        guard configuration.layout.subnet6 != nil, ip.source.isLinkLocal6 else { return }
        let request: DHCPv6Request
        do throws(PacketError) {
            let pointer = unsafe incoming.bytes
            request = try unsafe DHCPv6Request(parsing: pointer.bytes.extracting(offset..<offset + count))
        } catch { return drop(\.malformed) }
        guard let answer = DHCPv6Server(layout: configuration.layout).answer(request) else { return }
        let length = UInt16(clamping: answer.count + UDPHeader.length)
        let header = [UInt16(547), 546, length, 0].flatMap { [UInt8($0 >> 8), UInt8(truncatingIfNeeded: $0)] }
        sendBytes(
            header + answer, source: NetworkLayout.linkLocalGateway, destination: ip.source,
            proto: TransportProtocol.udp, checksumOffset: 6)
    }

    /// Answers the packet at hand with an ICMP error.
    mutating func answer(_ reason: Unreachable, rest: UInt32 = 0, _ ip: IPHeader, _ place: TransportPlace) {
        let original: [UInt8]
        do {
            let pointer = unsafe incoming.bytes
            original = unsafe pointer.bytes.array(place.offset..<place.offset + min(place.count, 512))
        }
        sendError(
            reason.numbers(v4: ip.source.isV4), rest: rest, from: nil, guest: ip.source, remote: ip.destination,
            proto: ip.proto,
            original: original)
    }

    /// An ICMP or ICMPv6 error about a packet from `guest` to `remote` whose transport bytes begin with `original`.
    mutating func sendError(
        _ numbers: (type: UInt8, code: UInt8), rest: UInt32 = 0, from router: IPAddress?, guest: IPAddress,
        remote: IPAddress, proto: UInt8, original: [UInt8]
    ) {
        let v4 = guest.isV4
        let layout = configuration.layout
        // RFC 1812, 4.3.2.3 and RFC 4443, 2.4: as much of the packet as fits 576 or 1280 bytes.
        let quoted = original.prefix(v4 ? 520 : 1100)
        var message = [numbers.type, numbers.code, 0, 0]
        message += (0..<4).map { UInt8(truncatingIfNeeded: rest >> UInt32(24 - 8 * $0)) }
        let start = message.count
        message += [UInt8](repeating: 0, count: IPEmitter.length(v4: v4))
        message.withUnsafeMutableBytesSpan { out in
            IPEmitter.emit(
                into: &out, at: start, source: guest, destination: remote, proto: proto,
                payloadLength: original.count)
        }
        message += quoted
        sendBytes(
            message, source: router ?? (v4 ? layout.router4 : layout.isCopied ? layout.router6 : layout.gateway6),
            destination: guest,
            proto: v4 ? TransportProtocol.icmp : TransportProtocol.icmpv6, checksumOffset: 2)
    }
}

extension [UInt8] {
    /// The array's bytes as a span, for emitters.
    fileprivate mutating func withUnsafeMutableBytesSpan(_ body: (inout MutableRawSpan) -> Void) {
        unsafe withUnsafeMutableBytes { pointer in
            var span = unsafe pointer.mutableBytes
            body(&span)
        }
    }
}
