internal import Kernel
internal import SystemPackage

/// UDP and ping: one outside socket for each workspace port (endpoint-independent mapping, RFC 4787) or echo identifier.
extension Forwarder {
    static let idleTimeout = Duration.seconds(30)
    private static let streamTimeout = Duration.seconds(120)

    // MARK: UDP from the workspace

    mutating func handleUDP(_ ip: IPHeader, _ place: TransportPlace) {
        let header: UDPHeader
        do throws(PacketError) {
            let pointer = unsafe incoming.bytes
            header = try unsafe UDPHeader(
                parsing: pointer.bytes.extracting(place.offset..<place.offset + place.count),
                coalesced: place.segmentSize > 0)
        } catch { return drop(\.malformed) }
        if header.destinationPort == 67, ip.source.isV4 { return handleDHCP(at: place.offset, count: place.count) }
        if header.destinationPort == 547, !ip.source.isV4, policy.isGroup(ip.destination) {
            let start = place.offset + UDPHeader.length
            return handleDHCPv6(ip, at: start, count: header.datagramLength - UDPHeader.length)
        }
        let guest = Endpoint(ip.source, header.sourcePort)
        let remote = Endpoint(ip.destination, header.destinationPort)
        // Multicast and broadcast of the link are not for us, and nobody expects an answer.
        if policy.isGroup(remote.address) { return }
        if ip.timeToLive <= 1, policy.layout.isHop(to: remote.address) {
            return answer(.timeExceeded, ip, place)
        }
        if !forwards.isEmpty, let index = table.find(.inboundUDP, guest: guest, remote: remote) {
            return sendDatagram(index, to: table[index].target, header, ip, place)
        }
        let mapped: Endpoint
        let target: Endpoint
        let (route, rule) = admit(.udp, guest: guest, remote: remote)
        switch route {
        case .outside(let endpoint):
            target = endpoint
            mapped = Endpoint(guest.address.isV4 ? .any4 : .any6, 0)
        case .loopback(let endpoint):
            target = endpoint
            mapped = remote
        case .nameServer: return askNameServer(header, guest: guest, remote: remote, ip, place)
        case .denied: return answer(.prohibited, ip, place)
        case .unreachable: return answer(.host, ip, place)
        case .noNetwork: return answer(.network, ip, place)
        }
        guard let index = datagramFlow(.udp, guest: guest, remote: mapped, v4: target.address.isV4, rule: rule) else {
            return answer(.prohibited, ip, place)
        }
        // One of the container's own ports has one server, which alone may answer.
        if mapped.port != 0 { table[index].target = target }
        passOn(ip, index)
        sendDatagram(index, to: target, header, ip, place)
    }

    mutating func sendDatagram(
        _ index: Int, to target: Endpoint, _ header: UDPHeader, _ ip: IPHeader, _ place: TransportPlace
    ) {
        let count = header.datagramLength - UDPHeader.length
        let offset = place.offset + UDPHeader.length
        // A client of a forward is of the family of the forward's socket.
        let v4 = target.address.isV4
        table[index].packetsUp += 1
        table[index].bytesUp += UInt64(count)
        table[index].activeAt = now.nanoseconds
        if place.segmentSize == 0, table[index].remote.port == 0 {
            return stage(index, to: target, at: offset, count: count)
        }
        let outcome = sendOrReport(
            index, v4: v4, at: offset, count: count,
            InternetSocket.Datagram(peer: target, segment: place.segmentSize), ip, place)
        guard case .failed(let errno) = outcome else { return }
        if place.segmentSize > 0, errno == .invalidArgument || errno == .ioError {
            // The outside interface cannot segment datagrams: one by one.
            var done = 0
            while done < count {
                let part = min(place.segmentSize, count - done)
                let outcome = incoming.sendDatagram(
                    table[index].socket, v4: v4, at: offset + done, count: part,
                    InternetSocket.Datagram(peer: target))
                if case .failed(.messageTooLong) = outcome {
                    handleErrors(index)
                    return
                }
                done += part
            }
            return
        }
        if let reason = Unreachable(errno), reason != .tooBig { answer(reason, ip, place) }
    }

    /// Sends what lies in the incoming block. An error that waited in the socket is of a datagram before it: it is passed on,
    /// and this one is sent again.
    mutating func sendOrReport(
        _ index: Int, v4: Bool, at offset: Int, count: Int, _ datagram: InternetSocket.Datagram, _ ip: IPHeader,
        _ place: TransportPlace
    ) -> IOOutcome {
        let first = incoming.sendDatagram(table[index].socket, v4: v4, at: offset, count: count, datagram)
        guard case .failed(let errno) = first, errno != .invalidArgument, errno != .ioError else { return first }
        let pathSize = handleErrors(index, isSending: true)
        if errno == .messageTooLong {
            if let pathSize { answer(.tooBig, rest: pathSize, ip, place) }
            return .wouldBlock
        }
        guard table[index].kind != .free else { return .wouldBlock }
        return incoming.sendDatagram(table[index].socket, v4: v4, at: offset, count: count, datagram)
    }

    /// The flow, made with its socket if it is new; nil when there is no room for one.
    mutating func datagramFlow(
        _ kind: Flow.Kind, guest: Endpoint, remote: Endpoint, v4: Bool, rule: UInt16 = Flow.noRule
    ) -> Int? {
        if let index = table.find(kind, guest: guest, remote: remote) { return index }
        guard makeRoom(), case .success(let socket) = InternetSocket.make(kind == .ping ? .ping : .udp, v4: v4) else {
            table.counters.refusedByLimit += 1
            return nil
        }
        InternetSocket.prepareDatagrams(socket, v4: v4)
        bindOutbound(socket, v4: v4)
        let flow = Flow(
            kind: kind, rule: rule, timeToLive: 64, socket: socket, guest: guest, remote: remote,
            target: Endpoint(v4 ? .any4 : .any6, 0), tcp: .unused)
        guard let index = insert(flow, .readable, otherwise: { _ in }) else { return nil }
        wheel.schedule(index, at: (now + Self.idleTimeout).nanoseconds, in: table)
        return index
    }

    /// What the workspace said in IP's header, the outside socket says too, one hop further on.
    mutating func passOn(_ ip: IPHeader, _ index: Int) {
        let v4 = table[index].guest.address.isV4
        let timeToLive = max(1, ip.timeToLive - (policy.layout.isCopied || ip.timeToLive == 0 ? 0 : 1))
        let isSame =
            table[index].timeToLive == timeToLive && table[index].trafficClass == ip.trafficClass
            && table[index].isUncuttable == ip.isUncuttable
        if isSame { return }
        // What is staged goes as it was meant.
        sendRun()
        if table[index].timeToLive != timeToLive {
            table[index].timeToLive = timeToLive
            InternetSocket.setTimeToLive(table[index].socket, v4: v4, timeToLive)
        }
        if table[index].trafficClass != ip.trafficClass {
            table[index].trafficClass = ip.trafficClass
            InternetSocket.setTrafficClass(table[index].socket, v4: v4, ip.trafficClass)
        }
        if table[index].isUncuttable != ip.isUncuttable {
            table[index].isUncuttable = ip.isUncuttable
            InternetSocket.setUncuttable(table[index].socket, v4: v4, ip.isUncuttable)
        }
    }

    // MARK: from the outside

    mutating func handleDatagramEvent(_ index: Int, _ readiness: Readiness) {
        if table[index].kind == .lookup { return handleLookupEvent(index, readiness) }
        if readiness.contains(.failed) { handleErrors(index) }
        guard table[index].kind != .free, readiness.contains(.readable) else { return }
        if table[index].kind == .udp { return receiveDatagrams(index) }
        let offset = transportOffset(v4: table[index].guest.address.isV4)
        for _ in 0..<Self.batch {
            var datagram = InternetSocket.Datagram(peer: table[index].guest)
            guard
                case .bytes(let count) = outgoing.receiveDatagram(
                    table[index].socket, at: offset, count: 65_535, &datagram)
            else { return }
            table.counters.datagramsIn += 1
            table[index].packetsDown += 1
            table[index].bytesDown += UInt64(count)
            table[index].activeAt = now.nanoseconds
            deliverEcho(index, from: datagram, count: count)
        }
    }

    /// Gives the workspace what one recvmsg brought: a datagram, or several of one size as a superpacket or one by one.
    mutating func deliverDatagrams(_ index: Int, from datagram: InternetSocket.Datagram, count: Int) {
        var source = datagram.peer
        if table[index].kind == .inboundUDP {
            // A client, known inside by an endpoint of its own: the port may be another one too.
            source = table[index].remote
        } else if table[index].remote.port != 0 {
            // An excepted port of the container's: the workspace knows it by another address, and its server only.
            // Asked from an outbound address, a server of all addresses answers from whichever the kernel chooses.
            let hasOutbound = (source.address.isV4 ? configuration.outbound4 : configuration.outbound6) != nil
            let target = table[index].target
            guard source.address == target.address || hasOutbound && source.port == target.port else { return }
            source = Endpoint(table[index].remote.address, source.port)
        } else if table[index].kind == .udp, !admitsArrival(.udp, from: source, to: table[index].guest) {
            return
        }
        let guest = table[index].guest
        let start = transportOffset(v4: guest.address.isV4)
        guard datagram.segment > 0, count > datagram.segment else {
            return deliver(from: source, to: guest, at: start, count: count)
        }
        let fits = datagram.segment + UDPHeader.length + IPEmitter.length(v4: guest.address.isV4) <= configuration.mtu
        if configuration.datagramOffload, fits {
            return deliver(from: source, to: guest, at: start, count: count, segment: datagram.segment)
        }
        // One by one, each moved to where headers have room before it.
        var done = 0
        let payload = start + UDPHeader.length
        while done < count {
            let part = min(datagram.segment, count - done)
            if done > 0 { outgoing.move(from: payload + done, count: part, to: payload) }
            deliver(from: source, to: guest, at: start, count: part)
            done += part
        }
    }

    /// Writes the headers before a payload that lies in the outgoing block, and sends the datagram.
    mutating func deliver(
        from source: Endpoint, to guest: Endpoint, at start: Int, count: Int, segment: Int = 0
    ) {
        let v4 = guest.address.isV4
        let length = count + UDPHeader.length
        let header = UDPHeader(sourcePort: source.port, destinationPort: guest.port, datagramLength: length)
        let fits = length + IPEmitter.length(v4: v4) <= configuration.mtu || segment > 0
        if configuration.checksumOffload, fits {
            var virtio = VirtioHeader()
            virtio.needsChecksum = true
            virtio.checksumStart = UInt16(truncatingIfNeeded: start - Self.frameOffset)
            virtio.checksumOffset = 6
            if segment > 0 {
                virtio.segmentation = .datagrams
                virtio.segmentSize = UInt16(truncatingIfNeeded: segment)
                virtio.headerLength = UInt16(truncatingIfNeeded: start - Self.frameOffset + UDPHeader.length)
            }
            let pseudo = IPEmitter.pseudoHeader(source.address, guest.address, TransportProtocol.udp, length)
            emit(header, at: start, checksum: pseudo.folded)
            emitHeaders(
                source: source.address, destination: guest.address, proto: TransportProtocol.udp,
                payloadLength: length, virtio: virtio)
            return writeFrame(count: start + length)
        }
        emit(header, at: start, checksum: 0)
        fillChecksum(
            source: source.address, destination: guest.address, proto: TransportProtocol.udp, at: start,
            count: length, checksumOffset: 6)
        sendPacket(source: source.address, destination: guest.address, proto: TransportProtocol.udp, count: length)
    }

    private func emit(_ header: UDPHeader, at start: Int, checksum: UInt16) {
        let pointer = unsafe outgoing.bytes
        var out = unsafe pointer.mutableBytes
        header.emit(into: &out, at: start, checksum: checksum)
    }

    /// Errors that the outside reported become the same errors inside. While something is sent, that it is too large is for
    /// the caller to say: the path's MTU is returned.
    @discardableResult
    mutating func handleErrors(_ index: Int, isSending: Bool = false) -> UInt32? {
        var pathSize: UInt32?
        _ = InternetSocket.takeError(table[index].socket)
        for _ in 0..<16 {
            guard let (error, length) = outgoing.receiveError(table[index].socket, at: 0, count: 512) else {
                return pathSize
            }
            table.counters.datagramsIn += 1
            if isSending, error.origin == 1, error.errno == .messageTooLong {
                pathSize = error.info
                continue
            }
            let guest = table[index].guest
            let remote = table[index].remote.port != 0 ? table[index].remote : error.peer
            guard let numbers = icmpNumbers(error, v4: guest.address.isV4) else { continue }
            var payload: [UInt8]
            do {
                let pointer = unsafe outgoing.bytes
                payload = unsafe pointer.bytes.array(0..<min(length, 512))
            }
            if table[index].kind == .ping {
                if payload.count >= 6 {
                    payload[4] = UInt8(guest.port >> 8)
                    payload[5] = UInt8(truncatingIfNeeded: guest.port)
                }
            } else {
                let total = length + 8
                payload =
                    [guest.port, remote.port, UInt16(clamping: total), 0].flatMap {
                        [UInt8($0 >> 8), UInt8(truncatingIfNeeded: $0)]
                    } + payload
            }
            let proto: UInt8 =
                table[index].kind == .udp
                ? TransportProtocol.udp : guest.address.isV4 ? TransportProtocol.icmp : TransportProtocol.icmpv6
            sendError(
                numbers, rest: error.errno == .messageTooLong ? error.info : 0,
                from: error.offender == .any6 || error.offender.isV4 != guest.address.isV4 ? nil : error.offender,
                guest: guest.address, remote: remote.address, proto: proto, original: payload)
        }
        return pathSize
    }

    private func icmpNumbers(_ error: InternetSocket.DatagramError, v4: Bool) -> (type: UInt8, code: UInt8)? {
        if error.origin == 2 && v4 || error.origin == 3 && !v4 { return (error.type, error.code) }
        switch error.errno {
        case .connectionRefused: return Unreachable.port.numbers(v4: v4)
        case .networkUnreachable: return Unreachable.network.numbers(v4: v4)
        case .noRouteToHost, .hostIsDown: return Unreachable.host.numbers(v4: v4)
        case .messageTooLong: return Unreachable.tooBig.numbers(v4: v4)
        default: return nil
        }
    }

    mutating func handleDatagramTimer(_ index: Int) {
        let flow = table[index]
        if flow.kind == .lookup { return handleLookupTimer(index) }
        let isStream = flow.packetsUp > 2 && flow.packetsDown > 0
        let timeout = isStream ? Self.streamTimeout : Self.idleTimeout
        let deadline = flow.activeAt + timeout.nanoseconds
        if deadline <= now.nanoseconds { return closeDatagram(index) }
        wheel.schedule(index, at: deadline, in: table)
    }

    mutating func closeDatagram(_ index: Int) {
        if stagedRun?.index == index { stagedRun = nil }
        if table[index].kind == .lookup { lookups.ended(index) }
        if table[index].kind == .inboundUDP {
            clientLimits.closed(table[index].target.address, wasAnswered: false)
        } else {
            InternetSocket.close(table[index].socket)
        }
        wheel.cancel(index, in: table)
        table.remove(index)
    }
}
