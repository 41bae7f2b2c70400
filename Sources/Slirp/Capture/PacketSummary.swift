package import Kernel

/// What a line about a frame says, and what filters ask for. Pure.
package struct PacketSummary: Hashable, Sendable {
    package enum Kind: String, Hashable, Sendable { case tcp, udp, icmp, icmp6, arp, other }
    package private(set) var kind = Kind.other
    package private(set) var isIPv6 = false
    package private(set) var source: IPAddress?, destination: IPAddress?
    package private(set) var sourcePort: UInt16?, destinationPort: UInt16?
    /// What there is to say beyond addresses.
    private var details = ""

    /// Reads a frame as far as it goes.
    package init(_ frame: ArraySlice<UInt8>) {
        let bytes = Array(frame)
        let span = unsafe bytes.span.bytes
        guard let ethernet = try? EthernetHeader(parsing: span) else {
            details = "cut"
            return
        }
        let packet = span.extracting(EthernetHeader.length..<span.byteCount)
        switch ethernet.type {
        case EthernetHeader.arp:
            kind = .arp
            guard let arp = try? ARPPacket(parsing: packet) else { return }
            source = arp.sender
            destination = arp.target
            details = arp.operation == .request ? "who has \(arp.target)" : "\(arp.sender) is here"
        case EthernetHeader.ipv4, EthernetHeader.ipv6: readPacket(packet)
        default: details = "type 0x" + String(ethernet.type, radix: 16)
        }
    }

    private mutating func readPacket(_ packet: RawSpan) {
        guard let ip = try? IPHeader(parsing: packet) else {
            details = "malformed IP"
            return
        }
        source = ip.source
        destination = ip.destination
        isIPv6 = !ip.source.isV4
        let payload = packet.extracting(ip.headerLength..<ip.headerLength + ip.payloadLength)
        if let fragment = ip.fragment, fragment.offset > 0 {
            details = "protocol \(ip.proto), fragment at \(fragment.offset), length \(ip.payloadLength)"
            return
        }
        switch ip.proto {
        case TransportProtocol.tcp:
            kind = .tcp
            guard let tcp = try? TCPHeader(parsing: payload) else { return }
            sourcePort = tcp.sourcePort
            destinationPort = tcp.destinationPort
            let letters: [(TCPFlags, String)] = [(.syn, "S"), (.fin, "F"), (.rst, "R"), (.psh, "P"), (.ack, "A")]
            let flags = letters.filter { tcp.flags.contains($0.0) }.map(\.1).joined()
            details =
                "[\(flags)] seq \(tcp.sequence.value) ack \(tcp.acknowledgement.value) win \(tcp.window) length "
                + "\(payload.byteCount - tcp.headerLength)"
        case TransportProtocol.udp:
            kind = .udp
            guard let udp = try? UDPHeader(parsing: payload, coalesced: true) else { return }
            sourcePort = udp.sourcePort
            destinationPort = udp.destinationPort
            details = "length \(payload.byteCount - UDPHeader.length)"
            let content = payload.extracting(UDPHeader.length..<payload.byteCount)
            if udp.sourcePort == 53 || udp.destinationPort == 53, let names = try? DNSMessage(parsing: content) {
                let found = names.addresses(in: content).map { "\($0.address)" }
                details =
                    "\(names.isResponse ? "answer" : "query") \(names.name)"
                    + (names.responseCode == 0 ? "" : " code \(names.responseCode)")
                    + (found.isEmpty ? "" : " " + found.joined(separator: " "))
            }
        case TransportProtocol.icmp, TransportProtocol.icmpv6:
            kind = ip.proto == TransportProtocol.icmp ? .icmp : .icmp6
            guard let icmp = try? ICMPHeader(parsing: payload) else { return }
            details = "type \(icmp.type) code \(icmp.code) length \(payload.byteCount)"
        default: details = "protocol \(ip.proto), length \(ip.payloadLength)"
        }
    }

    /// `10.0.2.100:4242 > 198.51.100.7:443 tcp [S] seq …`
    package var text: String {
        func end(_ address: IPAddress?, _ port: UInt16?) -> String {
            guard let address else { return "?" }
            return port.map { Endpoint(address, $0).description } ?? address.description
        }
        let ends =
            source == nil ? "" : "\(end(source, sourcePort)) > \(end(destination, destinationPort)) "
        return ends + (kind == .other ? details : "\(kind.rawValue) \(details)")
    }
}
