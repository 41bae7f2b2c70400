internal import Kernel

/// What the workspace receives: segments built around payload peeked from the outside socket, acknowledgements, window
/// updates, retransmissions and probes.
extension Forwarder {
    /// KERNEL: SO_PEEK_OFF works on TCP since Linux 6.9; before, each peek must skip what is under way.
    static func probePeekOffset() -> Bool {
        guard case .success(let socket) = InternetSocket.make(.tcp, v4: true) else { return false }
        defer { InternetSocket.close(socket) }
        return InternetSocket.setPeekOffset(socket, 0)
    }

    // MARK: to the workspace

    func makeHeader(_ index: Int, _ flags: TCPFlags, at sequence: SequenceNumber) -> TCPHeader {
        var header = TCPHeader(
            sourcePort: table[index].remote.port, destinationPort: table[index].guest.port, sequence: sequence,
            acknowledgement: table[index].tcp.acknowledgement, flags: flags, window: table[index].tcp.windowField)
        if table[index].tcp.marks.contains(.timestamps) { header.timestamps = table[index].tcp.timestamps(at: now) }
        return header
    }

    /// Sends a segment of a flow whose payload, if any, lies in the outgoing block behind a header of the flow's length.
    @inline(__always)
    mutating func send(_ header: TCPHeader, _ index: Int, count: Int) {
        table[index].packetsDown += 1
        table[index].tcp.acknowledged = header.acknowledgement
        let segment = Int(table[index].tcp.maximumSegment)
        emit(
            header, from: table[index].remote.address, to: table[index].guest.address, count: count, segment: segment)
    }

    @inline(__always)
    mutating func emit(
        _ header: TCPHeader, from source: IPAddress, to destination: IPAddress, count: Int, segment: Int
    ) {
        let v4 = source.isV4
        let start = transportOffset(v4: v4)
        let length = header.emittedLength
        var virtio = VirtioHeader()
        let pseudo = IPEmitter.pseudoHeader(source, destination, TransportProtocol.tcp, length + count)
        if configuration.checksumOffload {
            virtio.needsChecksum = true
            virtio.checksumStart = UInt16(truncatingIfNeeded: start - Self.frameOffset)
            virtio.checksumOffset = 16
            if count > segment {
                virtio.segmentation = v4 ? .tcp4 : .tcp6
                virtio.segmentSize = UInt16(truncatingIfNeeded: segment)
                virtio.headerLength = UInt16(truncatingIfNeeded: start - Self.frameOffset + length)
            }
        }
        emitHeaders(
            source: source, destination: destination, proto: TransportProtocol.tcp, payloadLength: length + count,
            virtio: virtio)
        do {
            let pointer = unsafe outgoing.bytes
            var out = unsafe pointer.mutableBytes
            header.emit(into: &out, at: start, checksum: configuration.checksumOffload ? pseudo.folded : 0)
        }
        if !configuration.checksumOffload {
            fillChecksum(
                source: source, destination: destination, proto: TransportProtocol.tcp, at: start,
                count: length + count, checksumOffset: 16)
        }
        writeFrame(count: start + length + count)
    }

    /// Largest payload of one frame: whole segments only, within IP's length.
    @inline(__always)
    func payloadLimit(_ index: Int) -> Int {
        let segment = Int(table[index].tcp.maximumSegment)
        guard configuration.segmentationOffload else { return segment }
        return max(1, 65_400 / segment) * segment
    }

    /// Peeks behind what is under way, straight into the next frame.
    @inline(__always)
    func peek(_ index: Int, skipping skip: Int, count: Int) -> IOOutcome {
        let offset = transportOffset(v4: table[index].guest.address.isV4) + table[index].tcp.headerLength
        if hasPeekOffset { return outgoing.peek(table[index].socket, at: offset, count: count) }
        return outgoing.peek(
            table[index].socket, skipping: min(skip, 1 << 24), scratch: scratch, at: offset, count: count)
    }

    /// Sends what the outside has and the workspace takes, up to the flow's share of a turn, which it takes from the budget.
    mutating func transmit(_ index: Int, budget: inout Int) {
        guard table[index].tcp.phase == .established else { return }
        let limit = payloadLimit(index)
        var share = Self.share
        while share > 0 {
            let room = min(table[index].tcp.sendable, limit)
            if room <= 0 || !table[index].tcp.marks.isDisjoint(with: [.finSent, .finAcknowledged]) {
                // A failed connection has no peer that could wait for the window, and may fail after its end.
                if table[index].isBroken { return close(index, resetOutside: false, resetGuest: true) }
                return arm(index)
            }
            let underWay = table[index].tcp.sendNext - table[index].tcp.sendUnacknowledged
            switch peek(index, skipping: underWay, count: room) {
            case .bytes(0):
                if nameStreams[index]?.awaitsAnswer == true, failOver(index) { return }
                if table[index].isBroken { return close(index, resetOutside: false, resetGuest: true) }
                return finish(index)
            case .bytes(let count):
                if table[index].tcp.marks.contains(.inspected) {
                    switch takeNameAnswer(index, count: count) {
                    case .passes: break
                    case .isGone: return
                    case .waits:
                        table[index].isReadable = false
                        return arm(index)
                    }
                }
                table[index].bytesDown += UInt64(count)
                table[index].activeAt = now.nanoseconds
                // The last of what is readable, or of what the window takes now, is pushed (RFC 9293, 3.9.1.2).
                let isLast =
                    count < room || room < limit
                    || InternetSocket.unread(table[index].socket) <= underWay + count
                let flags: TCPFlags = isLast ? [.ack, .psh] : .ack
                send(makeHeader(index, flags, at: table[index].tcp.sendNext), index, count: count)
                table[index].tcp.sent(count, at: now)
                share -= count + Self.frameCost
                budget -= count + Self.frameCost
                // Less than was asked for is all there is; what comes later, an end too, is another event (epoll(7)).
                if count < room, !table[index].isEnding, !table[index].isUrgent {
                    table[index].isReadable = false
                    return arm(index)
                }
            case .wouldBlock:
                // Where what is under way must be skipped, an end behind it, and what lies behind urgent data, shows only once
                // that is acknowledged.
                let mayHide = !hasPeekOffset && underWay > 0 && (table[index].isEnding || table[index].isUrgent)
                if !mayHide { table[index].isReadable = false }
                return arm(index)
            case .failed:
                if nameStreams[index]?.awaitsAnswer == true, failOver(index) { return }
                return close(index, resetOutside: false, resetGuest: true)
            }
        }
        arm(index)
        markReady(index)
    }

    /// The outside is at its end and everything before it is sent: our FIN.
    mutating func finish(_ index: Int) {
        table[index].isReadable = false
        table[index].tcp.finSequence = table[index].tcp.sendNext
        table[index].tcp.marks.formUnion([.outsideEnded, .finSent])
        send(makeHeader(index, [.ack, .fin], at: table[index].tcp.sendNext), index, count: 0)
        table[index].tcp.sent(1, at: now)
        arm(index)
    }

    /// Sends the first hole again, all of it: what a SACK block lies behind is lost, as the tap does not reorder.
    mutating func retransmitHole(_ index: Int) {
        let state = table[index].tcp
        var data = state.sendNext - state.sendUnacknowledged
        if state.marks.contains(.finSent) { data -= 1 }
        let limit = payloadLimit(index)
        let count = min(state.hole(limit: max(limit, Self.share / 4)), data)
        table.counters.retransmitted += 1
        if count > 0 {
            if hasPeekOffset { _ = InternetSocket.setPeekOffset(table[index].socket, 0) }
            var done = 0
            while done < count, case .bytes(let n) = peek(index, skipping: done, count: min(limit, count - done)), n > 0
            {
                done += n
                let flags: TCPFlags = done == data ? [.ack, .psh] : .ack
                send(makeHeader(index, flags, at: state.sendUnacknowledged + (done - n)), index, count: n)
            }
            if hasPeekOffset { _ = InternetSocket.setPeekOffset(table[index].socket, data) }
        } else if state.marks.contains(.finSent) {
            send(makeHeader(index, [.ack, .fin], at: state.sendUnacknowledged), index, count: 0)
        }
        arm(index)
    }

    /// Sets the flow's timer to what it waits for.
    @inline(__always)
    mutating func arm(_ index: Int) {
        guard table[index].kind == .tcp else { return }
        let waits = table[index].tcp.isAwaitingAcknowledgement
        let blocked = table[index].tcp.sendWindow == 0 && table[index].isReadable
        if waits || blocked {
            wheel.schedule(index, at: now.nanoseconds + table[index].tcp.retransmissionTimeout, in: table)
        } else if table[index].tcp.marks.contains(.inspected), let due = nameDeadline(index) {
            wheel.schedule(index, at: due.nanoseconds, in: table)
        } else {
            table[index].deadline = 0
        }
    }

    mutating func handleTCPTimer(_ index: Int) {
        let state = table[index].tcp
        if state.marks.contains(.inspected) {
            if handleNameTimer(index) { return }
            // It was the server's clock, which the answer has stopped.
            if state.phase == .established, !state.isAwaitingAcknowledgement, state.sendWindow > 0 { return arm(index) }
        }
        if state.phase == .opening { return }
        if state.phase == .established, state.sendWindow == 0 { return probeWindow(index) }
        guard table[index].tcp.timedOut() else { return close(index, resetOutside: true, resetGuest: true) }
        table.counters.retransmitted += 1
        switch state.phase {
        case .synReceived: sendSynAck(index)
        case .synSent: sendSyn(index)
        case .established:
            if hasPeekOffset { _ = InternetSocket.setPeekOffset(table[index].socket, 0) }
            table[index].isReadable = true
            markReady(index)
        case .opening: break
        }
        arm(index)
    }

    /// Whether flows on which nothing was said for long are still wanted: a station behind the workspace may be gone without
    /// a word.
    mutating func lookAfterIdleFlows() {
        var isAsking = false
        for index in 0..<table.highWater where table[index].kind == .tcp {
            switch table[index].tcp.ask(afterIdle: .nanoseconds(now.nanoseconds - table[index].activeAt)) {
            case .fine: break
            case .ask:
                isAsking = true
                send(makeHeader(index, [.ack], at: table[index].tcp.sendNext + -1), index, count: 0)
            case .gone: close(index, resetOutside: true, resetGuest: true)
            }
        }
        nextIdleLook = now + (isAsking ? TCPState.idleProbeInterval : Self.idleLookInterval)
    }

    /// A closed window is asked after with one byte (RFC 9293, 3.8.6.1), ever more rarely, never given up.
    mutating func probeWindow(_ index: Int) {
        table[index].tcp.retries = min(table[index].tcp.retries + 1, 8)
        table[index].tcp.goBack()
        if hasPeekOffset { _ = InternetSocket.setPeekOffset(table[index].socket, 0) }
        // What is looked into passes there once, and in order.
        let mayCarry = !table[index].tcp.marks.contains(.inspected)
        if mayCarry, case .bytes(let n) = peek(index, skipping: 0, count: 1), n == 1 {
            send(makeHeader(index, [.ack], at: table[index].tcp.sendNext), index, count: 1)
            table[index].tcp.sendMaximum = max(table[index].tcp.sendMaximum, table[index].tcp.sendNext + 1)
        } else {
            send(makeHeader(index, [.ack], at: table[index].tcp.sendNext + -1), index, count: 0)
        }
        if hasPeekOffset { _ = InternetSocket.setPeekOffset(table[index].socket, 0) }
        wheel.schedule(index, at: now.nanoseconds + table[index].tcp.retransmissionTimeout, in: table)
    }

    /// Tells the socket's room as the window. True when it is worth an ACK of its own.
    @discardableResult
    mutating func openWindow(_ index: Int) -> Bool {
        let (size, queued) = InternetSocket.sendBuffer(table[index].socket)
        let worth = table[index].tcp.openWindow(
            size: size, queued: queued, ringFrames: ringFrames, linkWindow: linkWindow)
        if table[index].tcp.wantsRoom(size: size) {
            InternetSocket.askForRoom(table[index].socket)
            table[index].tcp.marks.insert(.roomAsked)
        }
        return worth
    }

    /// The end of a batch for a flow: the window is looked at once, and one ACK says everything.
    mutating func settle(_ index: Int) {
        guard table[index].tcp.phase == .synReceived || table[index].tcp.phase == .established else { return }
        let wasClosed = table[index].tcp.marks.contains(.windowClosed)
        let worth = openWindow(index)
        let reopened = wasClosed && !table[index].tcp.marks.contains(.windowClosed)
        if table[index].tcp.phase == .synReceived {
            if table[index].tcp.marks.contains(.ackOwed) { sendSynAck(index) }
            table[index].tcp.marks.remove(.ackOwed)
            return
        }
        if table[index].tcp.marks.contains(.ackOwed) || worth || reopened {
            table[index].tcp.marks.remove(.ackOwed)
            var header = makeHeader(index, [.ack], at: table[index].tcp.sendNext)
            header.sack = sackBlocks(index)
            send(header, index, count: 0)
        }
        if table[index].tcp.isFinished { close(index, resetOutside: false, resetGuest: false) }
    }
}

private func max(_ a: SequenceNumber, _ b: SequenceNumber) -> SequenceNumber { a < b ? b : a }
