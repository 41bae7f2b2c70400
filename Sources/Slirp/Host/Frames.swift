internal import Kernel

/// Where the transport header of the frame at hand lies in the incoming block, and what is known of its checksum.
struct TransportPlace {
    var offset: Int
    var count: Int
    /// The checksum is the kernel's business, or was verified.
    var isTrusted: Bool
    /// Size of the parts of a superpacket; 0: one segment.
    var segmentSize = 0
}

extension Forwarder {
    /// Takes the frame that lies in the incoming block behind its virtio header.
    mutating func handleFrame(_ count: Int) {
        let pointer = unsafe incoming.bytes
        let all = unsafe pointer.bytes
        guard count > Self.frameOffset else { return drop(\.malformed) }
        let frame = all.extracting(Self.frameOffset..<count)
        guard let virtio = try? VirtioHeader(parsing: all), let ethernet = try? EthernetHeader(parsing: frame) else {
            return drop(\.malformed)
        }
        let packet = frame.extracting(EthernetHeader.length..<frame.byteCount)
        switch ethernet.type {
        case EthernetHeader.ipv4, EthernetHeader.ipv6:
            do throws(PacketError) {
                let ip = try IPHeader(parsing: packet)
                guard ip.source.isV4 == (ethernet.type == EthernetHeader.ipv4) else { return drop(\.malformed) }
                handlePacket(ip, ethernet, virtio)
            } catch { drop(\.malformed) }
        case EthernetHeader.arp:
            guard let arp = try? ARPPacket(parsing: packet) else { return drop(\.malformed) }
            if ethernet.source.isUnicast { guestHardware = ethernet.source }
            handleARP(arp)
        default: drop(\.malformed)
        }
    }

    mutating func drop(_ counter: WritableKeyPath<Counters, UInt64>) { table.counters[keyPath: counter] += 1 }

    private mutating func handlePacket(_ ip: IPHeader, _ ethernet: EthernetHeader, _ virtio: VirtioHeader) {
        if ethernet.source != guestHardware, ethernet.source.isUnicast { guestHardware = ethernet.source }
        let offset = Self.frameOffset + EthernetHeader.length + ip.headerLength
        guard policy.mayBeSource(ip.source) else {
            // A DHCP client has no address yet; a neighbour solicitation for a new one neither.
            if ip.proto == TransportProtocol.udp, ip.source == .any4 {
                return handleDHCP(at: offset, count: ip.payloadLength)
            }
            if ip.proto == TransportProtocol.icmpv6, ip.source == .any6 {
                return handleNeighbour(ip, at: offset, count: ip.payloadLength)
            }
            return drop(\.martian)
        }
        if let pointer = ip.unknownRouting {
            drop(\.malformed)
            guard !policy.isGroup(ip.destination) else { return }
            let place = TransportPlace(offset: offset, count: ip.payloadLength, isTrusted: false)
            return answer(.erroneousHeader, rest: UInt32(pointer), ip, place)
        }
        if let fragment = ip.fragment {
            let bytes: [UInt8]
            do {
                let pointer = unsafe incoming.bytes
                bytes = unsafe pointer.bytes.array(offset..<offset + ip.payloadLength)
            }
            guard let (assembled, payload) = reassembly.add(ip, fragment, bytes, at: now) else { return }
            var whole = assembled
            // What came in pieces may go in pieces.
            whole.isUncuttable = false
            put(payload, at: offset)
            return handleTransport(
                whole, TransportPlace(offset: offset, count: payload.count, isTrusted: false))
        }
        handleTransport(
            ip,
            TransportPlace(
                offset: offset, count: ip.payloadLength, isTrusted: virtio.needsChecksum || virtio.dataValid,
                segmentSize: virtio.segmentation == .datagrams ? Int(virtio.segmentSize) : 0))
    }

    /// Copies bytes into the incoming block, for packets put together from fragments.
    private func put(_ bytes: [UInt8], at offset: Int) {
        let pointer = unsafe incoming.bytes
        var span = unsafe pointer.mutableBytes
        span.put(bytes, offset)
    }

    @inline(__always)
    private mutating func handleTransport(_ ip: IPHeader, _ place: TransportPlace) {
        switch ip.proto {
        case TransportProtocol.tcp:
            if !place.isTrusted, !isChecksumValid(ip, place) { return drop(\.malformed) }
            handleTCP(ip, place)
        case TransportProtocol.udp:
            if !place.isTrusted, !isChecksumValid(ip, place) { return drop(\.malformed) }
            handleUDP(ip, place)
        case TransportProtocol.icmp where ip.source.isV4, TransportProtocol.icmpv6 where !ip.source.isV4:
            // The workspace's kernel leaves no checksum of these to others.
            guard isChecksumValid(ip, place) else { return drop(\.malformed) }
            if !ip.source.isV4, place.count > 0, isNeighbourDiscovery(place) {
                handleNeighbour(ip, at: place.offset, count: place.count)
            } else {
                handleEcho(ip, place)
            }
        default:
            // Nobody here speaks that: as the host would say to whom it was for (RFC 1122, 3.2.2.1; RFC 8200, 4).
            guard !policy.isGroup(ip.destination) else { return }
            drop(\.malformed)
            answer(.protocolNumber, rest: ip.source.isV4 ? 0 : 6, ip, place)
        }
    }

    private func isNeighbourDiscovery(_ place: TransportPlace) -> Bool {
        let pointer = unsafe incoming.bytes
        return unsafe (133...137).contains(pointer.bytes.u8(place.offset))
    }

    private func isChecksumValid(_ ip: IPHeader, _ place: TransportPlace) -> Bool {
        let pointer = unsafe incoming.bytes
        let bytes = unsafe pointer.bytes
        if ip.proto == TransportProtocol.udp, ip.source.isV4, place.count >= 8, bytes.u16(place.offset + 6) == 0 {
            return true
        }
        var length = place.count
        // What UDP's length leaves over is padding of the packet, not of the checksum.
        if ip.proto == TransportProtocol.udp, place.count >= 8 {
            length = min(length, max(8, Int(bytes.u16(place.offset + 4))))
        }
        var sum =
            ip.proto == TransportProtocol.icmp
            ? Checksum() : IPEmitter.pseudoHeader(ip.source, ip.destination, ip.proto, length)
        sum.add(bytes, place.offset..<place.offset + length)
        return sum.value == 0
    }

    // MARK: writing

    /// Where a transport header lies in the outgoing block.
    @inline(__always)
    func transportOffset(v4: Bool) -> Int { Self.frameOffset + EthernetHeader.length + IPEmitter.length(v4: v4) }

    /// Writes the virtio header, the Ethernet header and the IP header of a whole packet to the outgoing block.
    @inline(__always)
    func emitHeaders(
        source: IPAddress, destination: IPAddress, proto: UInt8, payloadLength: Int, virtio: VirtioHeader,
        timeToLive: UInt8 = 64, identification: UInt16 = 0, fragmentBits: UInt16 = 0x4000
    ) {
        let pointer = unsafe outgoing.bytes
        var out = unsafe pointer.mutableBytes
        virtio.emit(into: &out)
        EthernetHeader(
            destination: guestHardware, type: source.isV4 ? EthernetHeader.ipv4 : EthernetHeader.ipv6
        ).emit(into: &out, at: Self.frameOffset)
        IPEmitter.emit(
            into: &out, at: Self.frameOffset + EthernetHeader.length, source: source, destination: destination,
            proto: proto, payloadLength: payloadLength, timeToLive: timeToLive, identification: identification,
            fragmentBits: fragmentBits)
    }

    /// Sends a packet whose transport bytes, header and correct checksum included, lie at ``transportOffset(v4:)``.
    /// Larger ones than the MTU go in fragments, whose headers are written over what has been sent already.
    mutating func sendPacket(
        source: IPAddress, destination: IPAddress, proto: UInt8, count: Int, timeToLive: UInt8 = 64
    ) {
        let v4 = source.isV4
        let start = transportOffset(v4: v4)
        if count + IPEmitter.length(v4: v4) <= configuration.mtu {
            emitHeaders(
                source: source, destination: destination, proto: proto, payloadLength: count, virtio: VirtioHeader(),
                timeToLive: timeToLive)
            return writeFrame(count: start + count)
        }
        identification = identification == .max ? 1 : identification + 1
        let headers = Self.frameOffset + EthernetHeader.length + (v4 ? 20 : 48)
        let room = (configuration.mtu - (v4 ? 20 : 48)) & ~7
        if !v4 {
            // The fragment header needs eight bytes more before the first fragment.
            outgoing.move(from: start, count: count, to: start + 8)
        }
        let first = v4 ? start : start + 8
        var done = 0
        while done < count {
            let part = min(room, count - done)
            let more = done + part < count
            emitFragment(
                at: first + done - headers, v4: v4, source: source, destination: destination, proto: proto,
                offset: done, count: part, more: more, timeToLive: timeToLive)
            writeFrame(from: first + done - headers, count: headers + part)
            done += part
        }
    }

    /// Writes all headers of a fragment so that they end where its payload begins.
    private func emitFragment(
        at start: Int, v4: Bool, source: IPAddress, destination: IPAddress, proto: UInt8, offset: Int, count: Int,
        more: Bool, timeToLive: UInt8
    ) {
        let pointer = unsafe outgoing.bytes
        let rest = unsafe UnsafeMutableRawBufferPointer(rebasing: pointer[start...])
        var out = unsafe rest.mutableBytes
        VirtioHeader().emit(into: &out)
        EthernetHeader(destination: guestHardware, type: v4 ? EthernetHeader.ipv4 : EthernetHeader.ipv6)
            .emit(into: &out, at: Self.frameOffset)
        let ip = Self.frameOffset + EthernetHeader.length
        let bits = UInt16(truncatingIfNeeded: offset / 8)
        if v4 {
            IPEmitter.emit(
                into: &out, at: ip, source: source, destination: destination, proto: proto, payloadLength: count,
                timeToLive: timeToLive, identification: identification, fragmentBits: bits | (more ? 0x2000 : 0))
        } else {
            IPEmitter.emit(
                into: &out, at: ip, source: source, destination: destination, proto: 44, payloadLength: count + 8,
                timeToLive: timeToLive)
            out.put8(proto, ip + 40)
            out.put8(0, ip + 41)
            out.put16(bits << 3 | (more ? 1 : 0), ip + 42)
            out.put32(UInt32(identification), ip + 44)
        }
    }

    /// Copies transport bytes to the outgoing block, fills in their checksum at `checksumOffset`, and sends them.
    mutating func sendBytes(
        _ bytes: [UInt8], source: IPAddress, destination: IPAddress, proto: UInt8, checksumOffset: Int,
        timeToLive: UInt8 = 64
    ) {
        let start = transportOffset(v4: source.isV4)
        do {
            let pointer = unsafe outgoing.bytes
            var out = unsafe pointer.mutableBytes
            out.put(bytes, start)
            out.put16(0, start + checksumOffset)
        }
        fillChecksum(
            source: source, destination: destination, proto: proto, at: start, count: bytes.count,
            checksumOffset: checksumOffset)
        sendPacket(
            source: source, destination: destination, proto: proto, count: bytes.count, timeToLive: timeToLive)
    }

    /// Computes the whole checksum over the outgoing block's transport bytes, whose checksum field holds zero.
    func fillChecksum(
        source: IPAddress, destination: IPAddress, proto: UInt8, at start: Int, count: Int, checksumOffset: Int
    ) {
        let pointer = unsafe outgoing.bytes
        var sum =
            proto == TransportProtocol.icmp
            ? Checksum() : IPEmitter.pseudoHeader(source, destination, proto, count)
        unsafe sum.add(pointer.bytes, start..<start + count)
        var out = unsafe pointer.mutableBytes
        let value = sum.value
        out.put16(value == 0 && proto == TransportProtocol.udp ? 0xffff : value, start + checksumOffset)
    }
}
