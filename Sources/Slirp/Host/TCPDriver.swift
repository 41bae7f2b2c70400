internal import Kernel
internal import SystemPackage

/// # Theory of operation
///
/// TCP: turns segments and socket events into events of ``TCPState``, and what it says into calls.
///
/// Outside sockets are watched edge-triggered: the kernel reports a change once. Each edge is written down in the flow
/// before anything else happens, in every phase, and stays there until it has been acted on:
///
///     edge                  remembered in                     acted on by
///     data                  isReadable                        transmit(), when established and the window is open;
///                                                             cleared only by a read that found the queue empty
///     end of file           isEnding, isReadable              transmit(): reads on until the end is read, then our FIN
///     failure               isBroken, isEnding, isReadable    opening: connected() reports it; synSent: reset at once;
///                                                             else transmit(): sends what the window takes, then resets
///     urgent data           isUrgent                          transmit(): a short read is no proof of an empty queue
///     room to write         the spill; the mark roomAsked     flushSpill(), the window's update; both only from
///                                                             synReceived on, as there is nothing to write before
///     connected             the phase opening                 connected()
///
/// What makes an edge that could not be acted on due again: the workspace's acknowledgement (handleTCP marks a flow ready that
/// is readable), a retransmission timeout, and, while its window is closed, the persist timer. A failure is acted on in any
/// case, since a closed window may never open.
extension Forwarder {
    /// What is watched on a TCP socket.
    static let streamEdges: Readiness = [.readable, .urgent, .writable, .peerClosed, .edgeTriggered]
    var mtuSegment4: Int { configuration.mtu - 40 }
    var mtuSegment6: Int { configuration.mtu - 60 }

    // MARK: from the workspace

    @inline(__always)
    mutating func handleTCP(_ ip: IPHeader, _ place: TransportPlace) {
        let header: TCPHeader
        do throws(PacketError) {
            let pointer = unsafe incoming.bytes
            header = try unsafe TCPHeader(parsing: pointer.bytes.extracting(place.offset..<place.offset + place.count))
        } catch { return drop(\.malformed) }
        let guest = Endpoint(ip.source, header.sourcePort)
        let remote = Endpoint(ip.destination, header.destinationPort)
        let count = place.count - header.headerLength
        guard let index = table.find(.tcp, guest: guest, remote: remote) else {
            if ip.timeToLive <= 1, policy.layout.isHop(to: remote.address) { return answer(.timeExceeded, ip, place) }
            if header.flags.intersection([.syn, .ack, .rst, .fin]) == .syn {
                openOutwards(header, guest: guest, remote: remote)
            } else {
                refuse(header, count: count, guest: guest, remote: remote)
            }
            return
        }
        table[index].packetsUp += 1
        if ip.trafficClass & 0xfc != table[index].trafficClass { setTrafficClass(index, ip.trafficClass & 0xfc) }
        // Whoever answers a question whether it is there is not asked again for long.
        if table[index].tcp.idleProbes > 0 { table[index].activeAt = now.nanoseconds }
        let result = table[index].tcp.receive(header, count: count, at: now)
        switch result.verdict {
        case .done: break
        case .challenge:
            table[index].tcp.marks.insert(.ackOwed)
            return markDirty(index)
        case .reset: return close(index, resetOutside: true, resetGuest: false)
        }
        if count > 0 || result.discard > 0 {
            table[index].activeAt = now.nanoseconds
            if now.nanoseconds - table[index].outsideAskedAt > Self.roundTripInterval { askRoundTrip(index) }
        } else if result.isProbe {
            keepAlive(index)
        }
        switch result.payload {
        case .none: break
        case .inOrder(let skip):
            let offset = place.offset + header.headerLength + skip
            if table[index].tcp.marks.contains(.inspected) {
                guard deliverQueries(index, at: offset, count: count - skip) else { return }
            } else {
                guard deliver(index, at: offset, count: count - skip) else { return }
            }
        case .outOfOrder where table[index].tcp.marks.contains(.inspected): break  // it comes again, in order
        case .outOfOrder(let ahead):
            storeGap(
                index, sequence: table[index].tcp.receiveNext + ahead, at: place.offset + header.headerLength,
                count: count)
        }
        // What the outside waits for goes first.
        if result.discard > 0 { InternetSocket.discard(table[index].socket, result.discard) }
        if table[index].tcp.isFinishInOrder {
            table[index].tcp.acceptedFinish()
            passFinishOn(index)
        }
        if result.retransmit { retransmitHole(index) }
        if result.mayTransmit, table[index].isReadable || table[index].tcp.marks.contains(.outsideEnded) {
            markReady(index)
        } else if result.discard > 0 || result.opened {
            arm(index)
        }
        if table[index].kind == .tcp,
            table[index].tcp.marks.contains(.ackOwed) || table[index].tcp.isFinished
        {
            markDirty(index)
        }
    }

    /// The outside socket sends with the workspace's code point (RFC 2474); congestion marks are each half's own.
    private func setTrafficClass(_ index: Int, _ value: UInt8) {
        table[index].trafficClass = value
        InternetSocket.setTrafficClass(table[index].socket, v4: table[index].target.address.isV4, value)
    }

    /// A SYN that belongs to no flow: policy first, then a socket; the answer waits for the outside.
    mutating func openOutwards(_ syn: TCPHeader, guest: Endpoint, remote: Endpoint) {
        var target: Endpoint
        var stream: NameStream?
        let (route, rule) = admit(.tcp, guest: guest, remote: remote)
        switch route {
        case .outside(let endpoint), .loopback(let endpoint): target = endpoint
        case .nameServer:
            stream = NameStream(nameServers.order, at: now)
            guard let server = stream?.server else { return refuse(syn, count: 0, guest: guest, remote: remote) }
            target = Endpoint(server.address, 53)
            if nameStreams.count >= NameStream.limit {
                table.counters.refusedByLimit += 1
                return refuse(syn, count: 0, guest: guest, remote: remote)
            }
        case .denied: return refuse(syn, count: 0, guest: guest, remote: remote)
        case .unreachable: return reportUnreachable(.host, syn, guest: guest, remote: remote)
        case .noNetwork: return reportUnreachable(.network, syn, guest: guest, remote: remote)
        }
        guard limits.admits(target.address), makeRoom() else {
            table.counters.refusedByLimit += 1
            return refuse(syn, count: 0, guest: guest, remote: remote)
        }
        let socket: Int32
        if stream != nil {
            guard let connecting = connectToName(&stream) else {
                return refuse(syn, count: 0, guest: guest, remote: remote)
            }
            (socket, target) = connecting
        } else {
            guard case .success(let made) = InternetSocket.make(.tcp, v4: target.address.isV4) else {
                table.counters.refusedByLimit += 1
                return refuse(syn, count: 0, guest: guest, remote: remote)
            }
            socket = made
            InternetSocket.setNoDelay(socket)
            // A stream that is not at its end is never ended in order, not even by the death of this process.
            InternetSocket.setLingerZero(socket)
            InternetSocket.useAnyPort(socket)
            bindOutbound(socket, v4: target.address.isV4)
            if let errno = InternetSocket.connect(socket, to: target) {
                InternetSocket.close(socket)
                return reportFailure(errno, syn, guest: guest, remote: remote)
            }
        }
        let (sequence, offset) = initialSequence(guest, remote)
        var state = TCPState(
            answering: syn, initialSequence: sequence, mtuSegment: guest.address.isV4 ? mtuSegment4 : mtuSegment6,
            timestampOffset: offset)
        if stream != nil { state.marks.insert(.inspected) }
        let index = insert(
            Flow(kind: .tcp, rule: rule, socket: socket, guest: guest, remote: remote, target: target, tcp: state),
            Self.streamEdges
        ) { forwarder in forwarder.refuse(syn, count: 0, guest: guest, remote: remote) }
        guard let index else { return }
        limits.opened(target.address)
        guard let stream else { return }
        nameStreams[index] = stream
        arm(index)
    }

    /// Whether there is room for another flow, made if need be: the least recently used that nobody would miss gives way.
    mutating func makeRoom() -> Bool {
        // A splice has one flow and six descriptors.
        if table.count + splices.count * (Splice.cost - 1) + insideSockets.waiting.count < limits.total { return true }
        guard let idle = idleFlows.next(in: table, at: now) else { return false }
        closeDatagram(idle)
        return true
    }

    /// Gives a socket the address that it is to come from (`--outbound-addr`): wherever it leads, to the container's own
    /// loopback and to the name server too, as slirp4netns does.
    func bindOutbound(_ socket: Int32, v4: Bool) {
        guard let address = v4 ? configuration.outbound4 : configuration.outbound6 else { return }
        InternetSocket.choosePortLate(socket)
        // Where that cannot be, the outside's routes decide.
        _ = InternetSocket.bind(socket, v4: v4, to: Endpoint(address, 0))
    }

    /// Enters a new flow and watches its socket; `otherwise` runs when there is no room.
    @discardableResult
    mutating func insert(
        _ flow: consuming Flow, _ interest: Readiness, otherwise: (inout Forwarder) -> Void
    ) -> Int? {
        let socket = flow.socket
        if flow.rule != Flow.noRule { table.countRule(Int(flow.rule), at: now) }
        flow.createdAt = now.nanoseconds
        flow.activeAt = now.nanoseconds
        guard let index = table.insert(flow) else {
            InternetSocket.close(socket)
            table.counters.refusedByLimit += 1
            otherwise(&self)
            return nil
        }
        do {
            try poller.add(socket, interest, token: Token.flow(index, generation: table[index].generation))
        } catch {
            InternetSocket.close(socket)
            table.remove(index)
            otherwise(&self)
            return nil
        }
        return index
    }

    /// RFC 6528: a keyed hash of the connection and a clock of 4 µs. The hash's other half is where the connection's
    /// timestamps start (RFC 7323, 7.1).
    func initialSequence(
        _ guest: Endpoint, _ remote: Endpoint
    ) -> (sequence: SequenceNumber, timestampOffset: UInt32) {
        var hash = Hasher()
        hash.combine(secret)
        hash.combine(guest)
        hash.combine(remote)
        let value = UInt64(bitPattern: Int64(hash.finalize()))
        let clock = UInt32(truncatingIfNeeded: now.nanoseconds >> 12)
        return (SequenceNumber(UInt32(truncatingIfNeeded: value) &+ clock), UInt32(value >> 32))
    }

    // MARK: from the outside

    mutating func handleSocketEvent(_ index: Int, _ readiness: Readiness) {
        // An edge comes once, so the flow remembers it before the phase decides what can be done about it now.
        let hasNews = !readiness.isDisjoint(with: [.readable, .peerClosed, .failed, .hungUp])
        if hasNews { table[index].isReadable = true }
        if !readiness.isDisjoint(with: [.peerClosed, .failed, .hungUp]) { table[index].isEnding = true }
        if readiness.contains(.failed) { table[index].isBroken = true }
        if readiness.contains(.urgent) { table[index].isUrgent = true }
        switch table[index].tcp.phase {
        case .opening:
            if !readiness.isDisjoint(with: [.writable, .failed, .hungUp]) { connected(index) }
        case .synSent:
            if table[index].isBroken { close(index, resetOutside: false, resetGuest: true) }
        case .synReceived, .established:
            if table[index].tcp.marks.contains(.inspected), !handleReconnection(index, readiness) { return }
            if readiness.contains(.writable) {
                guard flushSpill(index) else { return }
                // The edge that was asked for: the window may be told anew.
                if table[index].tcp.marks.remove(.roomAsked) != nil { markDirty(index) }
            }
            if hasNews { markReady(index) }
        }
    }

    private static let roundTripInterval: Int64 = 1_000_000_000

    /// Notes how far away the outside is, for those who look at flows.
    private mutating func askRoundTrip(_ index: Int) {
        table[index].outsideAskedAt = now.nanoseconds
        table[index].outsideRoundTrip = InternetSocket.roundTrip(table[index].socket)?.nanoseconds ?? 0
    }

    /// The workspace asks whether the far end is alive, which its kernel knows from us only: then the outside socket asks too,
    /// about as often.
    mutating func keepAlive(_ index: Int) {
        guard !table[index].tcp.marks.contains(.keepsAlive) else { return }
        table[index].tcp.marks.insert(.keepsAlive)
        let idle = (now.nanoseconds - table[index].activeAt) / 1_000_000_000
        InternetSocket.keepAlive(table[index].socket, idle: .seconds(max(1, min(idle, 7200))))
    }

    /// The outside connect is decided: SYN-ACK, or the truth about why not.
    mutating func connected(_ index: Int) {
        let failure = InternetSocket.takeError(table[index].socket)
        if failure == .connectionReset || failure == .brokenPipe {
            // It was connected first: a SYN that is refused is ECONNREFUSED. What came before the reset is passed on.
            table[index].isBroken = true
            table[index].isEnding = true
            table[index].isReadable = true
        } else if let errno = failure {
            if table[index].tcp.marks.contains(.inspected), failOver(index) { return }
            let flow = table[index]
            let syn = TCPHeader(
                sourcePort: flow.guest.port, destinationPort: flow.remote.port,
                sequence: flow.tcp.receiveNext + -1, acknowledgement: SequenceNumber(0), flags: .syn, window: 0)
            close(index, resetOutside: false, resetGuest: false)
            return reportFailure(errno, syn, guest: flow.guest, remote: flow.remote)
        }
        if hasPeekOffset { _ = InternetSocket.setPeekOffset(table[index].socket, 0) }
        limits.answered(table[index].target.address)
        if table[index].tcp.marks.contains(.inspected) { nameStreams[index]?.connected(at: now) }
        table[index].tcp.phase = .synReceived
        openWindow(index)
        sendSynAck(index)
        arm(index)
    }

    mutating func sendSynAck(_ index: Int) {
        var header = makeHeader(index, [.syn, .ack], at: table[index].tcp.sendUnacknowledged)
        header.window = UInt16(clamping: max(0, table[index].tcp.windowEdge - table[index].tcp.acknowledgement))
        header.maximumSegment = UInt16(clamping: table[index].guest.address.isV4 ? mtuSegment4 : mtuSegment6)
        if table[index].tcp.marks.contains(.scaling) { header.windowScale = TCPState.scale }
        header.sackPermitted = table[index].tcp.marks.contains(.sack)
        if table[index].tcp.sendNext == table[index].tcp.sendUnacknowledged { table[index].tcp.sent(1, at: now) }
        send(header, index, count: 0)
    }

    mutating func sendSyn(_ index: Int) {
        var header = makeHeader(index, [.syn], at: table[index].tcp.sendUnacknowledged)
        header.acknowledgement = SequenceNumber(0)
        header.window = 0xffff
        header.maximumSegment = UInt16(clamping: table[index].guest.address.isV4 ? mtuSegment4 : mtuSegment6)
        header.windowScale = TCPState.scale
        header.sackPermitted = true
        header.timestamps = table[index].tcp.timestamps(at: now)
        send(header, index, count: 0)
    }

    // MARK: endings

    /// Ends a flow: frees what it holds and closes its socket, with a reset on either side if asked.
    mutating func close(_ index: Int, resetOutside: Bool, resetGuest: Bool) {
        if resetGuest, table[index].tcp.phase != .opening {
            var header = makeHeader(index, [.rst, .ack], at: table[index].tcp.sendMaximum)
            if table[index].tcp.phase == .synSent { header.flags = .rst }
            send(header, index, count: 0)
        }
        if resetOutside { InternetSocket.setLingerZero(table[index].socket) }
        dropSpill(index)
        while table[index].gapHead != 0 {
            let chunk = table[index].gapHead
            table[index].gapHead = pool[chunk].next
            pool.free(chunk)
        }
        if table[index].tcp.marks.contains(.inspected) { nameStreams[index] = nil }
        if table[index].tcp.marks.contains(.fromOutside) {
            clientLimits.closed(table[index].target.address, wasAnswered: false)
        } else {
            limits.closed(table[index].target.address, wasAnswered: table[index].tcp.phase != .opening)
        }
        InternetSocket.close(table[index].socket)
        wheel.cancel(index, in: table)
        table.remove(index)
    }

    /// Answers a segment that belongs to no flow with RST (RFC 9293, 3.10.7.1).
    mutating func refuse(_ segment: TCPHeader, count: Int, guest: Endpoint, remote: Endpoint) {
        if segment.flags.contains(.rst) { return }
        var header = TCPHeader(
            sourcePort: remote.port, destinationPort: guest.port, sequence: segment.acknowledgement,
            acknowledgement: SequenceNumber(0), flags: .rst, window: 0)
        if !segment.flags.contains(.ack) {
            let length = count + (segment.flags.contains(.syn) ? 1 : 0) + (segment.flags.contains(.fin) ? 1 : 0)
            header.sequence = SequenceNumber(0)
            header.acknowledgement = segment.sequence + length
            header.flags = [.rst, .ack]
        }
        emit(header, from: remote.address, to: guest.address, count: 0, segment: 536)
    }

    /// What a failed connect means to the workspace: refused is RST, unreachable is ICMP.
    mutating func reportFailure(_ errno: Errno, _ syn: TCPHeader, guest: Endpoint, remote: Endpoint) {
        switch errno {
        case .networkUnreachable: reportUnreachable(.network, syn, guest: guest, remote: remote)
        case .noRouteToHost, .timedOut, .hostIsDown: reportUnreachable(.host, syn, guest: guest, remote: remote)
        case .permissionDenied, .notPermitted: reportUnreachable(.prohibited, syn, guest: guest, remote: remote)
        default: refuse(syn, count: 0, guest: guest, remote: remote)
        }
    }

    mutating func reportUnreachable(
        _ reason: Unreachable, _ syn: TCPHeader, guest: Endpoint, remote: Endpoint
    ) {
        let ports = [syn.sourcePort, syn.destinationPort].flatMap { [UInt8($0 >> 8), UInt8(truncatingIfNeeded: $0)] }
        let sequence = (0..<4).map { UInt8(truncatingIfNeeded: syn.sequence.value >> UInt32(24 - 8 * $0)) }
        sendError(
            reason.numbers(v4: guest.address.isV4), from: nil, guest: guest.address, remote: remote.address,
            proto: TransportProtocol.tcp, original: ports + sequence + [UInt8](repeating: 0, count: 12))
    }
}
