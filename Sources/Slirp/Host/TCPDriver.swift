internal import Kernel
internal import SystemPackage

/// TCP: turns segments and socket events into events of ``TCPState``, and what it says into calls.
extension Forwarder {
    private var mtuSegment4: Int { configuration.mtu - 40 }
    private var mtuSegment6: Int { configuration.mtu - 60 }

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
            if header.flags.intersection([.syn, .ack, .rst, .fin]) == .syn {
                openOutwards(header, guest: guest, remote: remote)
            } else {
                refuse(header, count: count, guest: guest, remote: remote)
            }
            return
        }
        table[index].packetsUp += 1
        let result = table[index].tcp.receive(header, count: count, at: now)
        switch result.verdict {
        case .done: break
        case .challenge:
            table[index].tcp.marks.insert(.ackOwed)
            return markDirty(index)
        case .reset: return close(index, resetOutside: true, resetGuest: false)
        }
        if result.opened { opened(index) }
        if result.discard > 0 {
            InternetSocket.discard(table[index].socket, result.discard)
        }
        switch result.payload {
        case .none: break
        case .inOrder(let skip):
            guard deliver(index, at: place.offset + header.headerLength + skip, count: count - skip) else { return }
        case .outOfOrder(let ahead):
            storeGap(
                index, sequence: table[index].tcp.receiveNext + ahead, at: place.offset + header.headerLength,
                count: count)
        }
        if result.finish, header.sequence + count == table[index].tcp.receiveNext {
            table[index].tcp.acceptedFinish()
            passFinishOn(index)
        }
        if result.retransmit { retransmitHole(index) }
        if result.mayTransmit, table[index].isReadable || table[index].tcp.marks.contains(.outsideEnded) {
            transmit(index)
        } else if result.discard > 0 || result.opened {
            arm(index)
        }
        if table[index].kind == .tcp,
            table[index].tcp.marks.contains(.ackOwed) || table[index].tcp.isFinished
        {
            markDirty(index)
        }
    }

    /// A SYN that belongs to no flow: policy first, then a socket; the answer waits for the outside.
    private mutating func openOutwards(_ syn: TCPHeader, guest: Endpoint, remote: Endpoint) {
        let target: Endpoint
        switch policy.route(remote, isUDP: false) {
        case .outside(let endpoint), .loopback(let endpoint): target = endpoint
        case .nameServer:
            guard let server = nameServers.current else {
                return refuse(syn, count: 0, guest: guest, remote: remote)
            }
            target = Endpoint(server, 53)
        case .denied:
            table.counters.denied += 1
            return refuse(syn, count: 0, guest: guest, remote: remote)
        case .unreachable: return reportUnreachable(.host, syn, guest: guest, remote: remote)
        }
        guard case .success(let socket) = InternetSocket.make(.tcp, v4: target.address.isV4) else {
            table.counters.refusedByLimit += 1
            return refuse(syn, count: 0, guest: guest, remote: remote)
        }
        InternetSocket.setNoDelay(socket)
        if let errno = InternetSocket.connect(socket, to: target) {
            InternetSocket.close(socket)
            return reportFailure(errno, syn, guest: guest, remote: remote)
        }
        let state = TCPState(
            answering: syn, initialSequence: initialSequence(guest, remote),
            mtuSegment: guest.address.isV4 ? mtuSegment4 : mtuSegment6)
        insert(
            Flow(kind: .tcp, socket: socket, guest: guest, remote: remote, target: target, tcp: state),
            [.readable, .writable, .peerClosed, .edgeTriggered]
        ) { forwarder in forwarder.refuse(syn, count: 0, guest: guest, remote: remote) }
    }

    /// Enters a new flow and watches its socket; `otherwise` runs when there is no room.
    @discardableResult
    mutating func insert(
        _ flow: consuming Flow, _ interest: Readiness, otherwise: (inout Forwarder) -> Void
    ) -> Int? {
        let socket = flow.socket
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

    /// RFC 6528: a keyed hash of the connection and a clock of 4 µs.
    mutating func initialSequence(_ guest: Endpoint, _ remote: Endpoint) -> SequenceNumber {
        var hash = Hasher()
        hash.combine(secret)
        hash.combine(guest)
        hash.combine(remote)
        return SequenceNumber(
            UInt32(truncatingIfNeeded: hash.finalize()) &+ UInt32(truncatingIfNeeded: now.nanoseconds >> 12))
    }

    private mutating func opened(_ index: Int) {
        table[index].tcp.retries = 0
    }

    /// Moves payload that is next in order from the incoming block to the socket, the rest to the spill.
    /// False when the flow is gone.
    @inline(__always)
    private mutating func deliver(_ index: Int, at offset: Int, count: Int) -> Bool {
        var sent = 0
        table[index].bytesUp += UInt64(count)
        if table[index].tcp.spilled == 0 {
            switch incoming.send(table[index].socket, at: offset, count: count) {
            case .bytes(let n): sent = n
            case .wouldBlock: break
            case .failed:
                // The outside has closed: EPIPE, ECONNRESET. The truth is a reset.
                close(index, resetOutside: false, resetGuest: true)
                return false
            }
        }
        table[index].tcp.accepted(sent)
        if sent < count { spill(index, from: offset + sent, count: count - sent) }
        if table[index].gapHead != 0 { return closeGaps(index) }
        return true
    }

    /// Keeps bytes that the socket did not take. They were promised room by the window, so they are not dropped.
    private mutating func spill(_ index: Int, from offset: Int, count: Int) {
        var done = 0
        while done < count {
            var tail = table[index].spillTail
            let fitted =
                tail == 0 ? 0 : pool.append(tail, from: incoming, at: offset + done, count: count - done)
            if fitted == 0 {
                guard let fresh = pool.allocate() else {
                    table.counters.poolExhausted += 1
                    break  // not accepted, so not acknowledged: the workspace sends it again
                }
                linkSpill(index, fresh)
                tail = fresh
                continue
            }
            done += fitted
        }
        table[index].tcp.spilled += Int32(done)
        table[index].tcp.accepted(done)
    }

    private mutating func linkSpill(_ index: Int, _ chunk: UInt32) {
        pool[chunk].next = 0
        if table[index].spillTail != 0 {
            pool[table[index].spillTail].next = chunk
        } else {
            table[index].spillHead = chunk
        }
        table[index].spillTail = chunk
    }

    /// The socket has room: the spill goes first. False when the flow is gone.
    private mutating func flushSpill(_ index: Int) -> Bool {
        while table[index].spillHead != 0 {
            let chunk = table[index].spillHead
            let count = Int(pool[chunk].count)
            switch pool.memory.send(table[index].socket, at: pool.offset(chunk) + Int(pool[chunk].start), count: count)
            {
            case .bytes(let n):
                table[index].tcp.spilled -= Int32(n)
                table[index].tcp.marks.insert(.ackOwed)
                if n < count {
                    pool[chunk].start += UInt32(n)
                    pool[chunk].count -= UInt32(n)
                    return true
                }
                table[index].spillHead = pool[chunk].next
                if table[index].spillHead == 0 { table[index].spillTail = 0 }
                pool.free(chunk)
            case .wouldBlock: return true
            case .failed:
                close(index, resetOutside: false, resetGuest: true)
                return false
            }
        }
        passFinishOn(index)
        return true
    }

    /// The workspace's FIN becomes the socket's, once everything before it is in the socket.
    private mutating func passFinishOn(_ index: Int) {
        let marks = table[index].tcp.marks
        guard marks.contains(.peerFinished), !marks.contains(.finishPassedOn), table[index].tcp.spilled == 0 else {
            return
        }
        InternetSocket.shutdownWrite(table[index].socket)
        table[index].tcp.marks.formUnion([.finishPassedOn, .ackOwed])
    }

    // MARK: the out-of-order queue

    /// Keeps a segment that came too early, sorted, without overlap.
    private mutating func storeGap(_ index: Int, sequence: SequenceNumber, at offset: Int, count: Int) {
        table.counters.outOfOrder += 1
        var sequence = sequence
        var offset = offset
        var count = count
        var previous: UInt32 = 0
        var next = table[index].gapHead
        while next != 0, pool[next].sequence <= sequence {
            previous = next
            next = pool[next].next
        }
        if previous != 0 {
            let known = pool[previous].sequence + Int(pool[previous].count) - sequence
            if known > 0 {
                guard known < count else { return }
                sequence += known
                offset += known
                count -= known
            }
        }
        if next != 0 { count = min(count, pool[next].sequence - sequence) }
        guard count > 0 else { return }
        if previous != 0, pool[previous].sequence + Int(pool[previous].count) == sequence {
            let fitted = pool.append(previous, from: incoming, at: offset, count: count)
            if fitted == count { return }
            sequence += fitted
            offset += fitted
            count -= fitted
        }
        guard table[index].gapChunks < 128, let fresh = pool.allocate() else {
            table.counters.poolExhausted += 1
            return
        }
        pool[fresh].sequence = sequence
        _ = pool.append(fresh, from: incoming, at: offset, count: count)
        pool[fresh].next = next
        if previous != 0 { pool[previous].next = fresh } else { table[index].gapHead = fresh }
        table[index].gapChunks += 1
    }

    /// What has become next in order goes to the socket by way of the spill. False when the flow is gone.
    private mutating func closeGaps(_ index: Int) -> Bool {
        var moved = false
        while table[index].gapHead != 0 {
            let chunk = table[index].gapHead
            let known = table[index].tcp.receiveNext - pool[chunk].sequence
            guard known >= 0 else { break }
            table[index].gapHead = pool[chunk].next
            table[index].gapChunks -= 1
            guard known < Int(pool[chunk].count) else {
                pool.free(chunk)
                continue
            }
            pool[chunk].start += UInt32(known)
            pool[chunk].count -= UInt32(known)
            let count = Int(pool[chunk].count)
            linkSpill(index, chunk)
            table[index].tcp.spilled += Int32(count)
            table[index].tcp.accepted(count)
            moved = true
        }
        return moved ? flushSpill(index) : true
    }

    /// SACK blocks for what is stored: the one with the latest segment first (RFC 2018, 4).
    private func sackBlocks(_ index: Int) -> SACKBlocks {
        var blocks = SACKBlocks()
        guard table[index].gapHead != 0, table[index].tcp.marks.contains(.sack) else { return blocks }
        let latest = table[index].tcp.latestGap
        for wantsLatest in [true, false] {
            var chunk = table[index].gapHead
            while chunk != 0, blocks.count < 3 {
                let left = pool[chunk].sequence
                var right = left + Int(pool[chunk].count)
                chunk = pool[chunk].next
                while chunk != 0, pool[chunk].sequence == right {
                    right += Int(pool[chunk].count)
                    chunk = pool[chunk].next
                }
                if (left <= latest && latest < right) == wantsLatest {
                    blocks.append(SACKBlock(left: left, right: right))
                }
            }
        }
        return blocks
    }

    // MARK: from the outside

    mutating func handleSocketEvent(_ index: Int, _ readiness: Readiness) {
        switch table[index].tcp.phase {
        case .opening:
            guard !readiness.isDisjoint(with: [.writable, .failed, .hungUp]) else { return }
            // A server that speaks first may have spoken already, and this edge is the only news of it.
            table[index].isReadable = !readiness.isDisjoint(with: [.readable, .peerClosed, .hungUp])
            connected(index)
        case .synSent:
            if !readiness.isDisjoint(with: [.failed, .hungUp]) { close(index, resetOutside: false, resetGuest: true) }
        case .synReceived, .established:
            if readiness.contains(.writable) {
                guard flushSpill(index) else { return }
                // The edge that was asked for: the window may be told anew.
                if table[index].tcp.marks.remove(.roomAsked) != nil { markDirty(index) }
            }
            if !readiness.isDisjoint(with: [.readable, .peerClosed, .failed, .hungUp]) {
                table[index].isReadable = true
                transmit(index)
            }
        }
    }

    /// The outside connect is decided: SYN-ACK, or the truth about why not.
    private mutating func connected(_ index: Int) {
        if let errno = InternetSocket.takeError(table[index].socket) {
            let flow = table[index]
            let syn = TCPHeader(
                sourcePort: flow.guest.port, destinationPort: flow.remote.port,
                sequence: flow.tcp.receiveNext + -1, acknowledgement: SequenceNumber(0), flags: .syn, window: 0)
            close(index, resetOutside: false, resetGuest: false)
            return reportFailure(errno, syn, guest: flow.guest, remote: flow.remote)
        }
        if hasPeekOffset { _ = InternetSocket.setPeekOffset(table[index].socket, 0) }
        table[index].tcp.phase = .synReceived
        openWindow(index)
        sendSynAck(index)
        arm(index)
    }

    private mutating func sendSynAck(_ index: Int) {
        var header = makeHeader(index, [.syn, .ack], at: table[index].tcp.sendUnacknowledged)
        header.window = UInt16(clamping: max(0, table[index].tcp.windowEdge - table[index].tcp.acknowledgement))
        header.maximumSegment = UInt16(clamping: table[index].guest.address.isV4 ? mtuSegment4 : mtuSegment6)
        if table[index].tcp.marks.contains(.scaling) { header.windowScale = TCPState.scale }
        header.sackPermitted = table[index].tcp.marks.contains(.sack)
        if table[index].tcp.sendNext == table[index].tcp.sendUnacknowledged { table[index].tcp.sent(1, at: now) }
        send(header, index, count: 0)
    }

    private mutating func sendSyn(_ index: Int) {
        var header = makeHeader(index, [.syn], at: table[index].tcp.sendUnacknowledged)
        header.acknowledgement = SequenceNumber(0)
        header.window = 0xffff
        header.maximumSegment = UInt16(clamping: table[index].guest.address.isV4 ? mtuSegment4 : mtuSegment6)
        header.windowScale = TCPState.scale
        header.sackPermitted = true
        send(header, index, count: 0)
    }

    // MARK: to the workspace

    private func makeHeader(_ index: Int, _ flags: TCPFlags, at sequence: SequenceNumber) -> TCPHeader {
        TCPHeader(
            sourcePort: table[index].remote.port, destinationPort: table[index].guest.port, sequence: sequence,
            acknowledgement: table[index].tcp.acknowledgement, flags: flags, window: table[index].tcp.windowField)
    }

    /// Sends a segment of a flow whose payload, if any, lies in the outgoing block behind a header without options.
    @inline(__always)
    private mutating func send(_ header: TCPHeader, _ index: Int, count: Int) {
        table[index].packetsDown += 1
        table[index].tcp.acknowledged = header.acknowledgement
        let segment = Int(table[index].tcp.maximumSegment)
        emit(
            header, from: table[index].remote.address, to: table[index].guest.address, count: count, segment: segment)
    }

    @inline(__always)
    private mutating func emit(
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
    private func payloadLimit(_ index: Int) -> Int {
        let segment = Int(table[index].tcp.maximumSegment)
        guard configuration.segmentationOffload else { return segment }
        return max(1, 65_400 / segment) * segment
    }

    /// Peeks behind what is under way, straight into the next frame.
    @inline(__always)
    private func peek(_ index: Int, skipping skip: Int, count: Int) -> IOOutcome {
        let offset = transportOffset(v4: table[index].guest.address.isV4) + 20
        if hasPeekOffset { return outgoing.peek(table[index].socket, at: offset, count: count) }
        return outgoing.peek(
            table[index].socket, skipping: min(skip, 1 << 24), scratch: scratch, at: offset, count: count)
    }

    /// Sends what the outside has and the workspace takes, up to one burst.
    mutating func transmit(_ index: Int) {
        guard table[index].tcp.phase == .established else { return }
        let limit = payloadLimit(index)
        for _ in 0..<Self.burst {
            if !table[index].tcp.marks.isDisjoint(with: [.finSent, .finAcknowledged]) { return arm(index) }
            let room = min(table[index].tcp.sendable, limit)
            if room <= 0 { return arm(index) }
            let underWay = table[index].tcp.sendNext - table[index].tcp.sendUnacknowledged
            switch peek(index, skipping: underWay, count: room) {
            case .bytes(0): return finish(index)
            case .bytes(let count):
                table[index].bytesDown += UInt64(count)
                send(makeHeader(index, [.ack, .psh], at: table[index].tcp.sendNext), index, count: count)
                table[index].tcp.sent(count, at: now)
            case .wouldBlock:
                table[index].isReadable = false
                return arm(index)
            case .failed:
                return close(index, resetOutside: false, resetGuest: true)
            }
        }
        arm(index)
        markReady(index)
    }

    /// The outside is at its end and everything before it is sent: our FIN.
    private mutating func finish(_ index: Int) {
        table[index].isReadable = false
        table[index].tcp.finSequence = table[index].tcp.sendNext
        table[index].tcp.marks.formUnion([.outsideEnded, .finSent])
        send(makeHeader(index, [.ack, .fin], at: table[index].tcp.sendNext), index, count: 0)
        table[index].tcp.sent(1, at: now)
        arm(index)
    }

    private mutating func retransmitHole(_ index: Int) {
        let state = table[index].tcp
        var data = state.sendNext - state.sendUnacknowledged
        if state.marks.contains(.finSent) { data -= 1 }
        let count = min(state.hole(limit: payloadLimit(index)), data)
        table.counters.retransmitted += 1
        if count > 0 {
            if hasPeekOffset { _ = InternetSocket.setPeekOffset(table[index].socket, 0) }
            if case .bytes(let n) = peek(index, skipping: 0, count: count), n > 0 {
                send(makeHeader(index, [.ack, .psh], at: state.sendUnacknowledged), index, count: n)
            }
            if hasPeekOffset { _ = InternetSocket.setPeekOffset(table[index].socket, data) }
        } else if state.marks.contains(.finSent) {
            send(makeHeader(index, [.ack, .fin], at: state.sendUnacknowledged), index, count: 0)
        }
        arm(index)
    }

    /// Sets the flow's timer to what it waits for.
    @inline(__always)
    private mutating func arm(_ index: Int) {
        guard table[index].kind == .tcp else { return }
        let waits = table[index].tcp.isAwaitingAcknowledgement
        let blocked = table[index].tcp.sendWindow == 0 && table[index].isReadable
        if waits || blocked {
            wheel.schedule(index, at: now.nanoseconds + table[index].tcp.retransmissionTimeout, in: table)
        } else {
            table[index].deadline = 0
        }
    }

    mutating func handleTCPTimer(_ index: Int) {
        let state = table[index].tcp
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
            transmit(index)
        case .opening: break
        }
        arm(index)
    }

    /// A closed window is asked after with one byte (RFC 9293, 3.8.6.1), ever more rarely, never given up.
    private mutating func probeWindow(_ index: Int) {
        table[index].tcp.retries = min(table[index].tcp.retries + 1, 8)
        table[index].tcp.sendNext = table[index].tcp.sendUnacknowledged
        if hasPeekOffset { _ = InternetSocket.setPeekOffset(table[index].socket, 0) }
        if case .bytes(let n) = peek(index, skipping: 0, count: 1), n == 1 {
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
    private mutating func openWindow(_ index: Int) -> Bool {
        let (size, queued) = InternetSocket.sendBuffer(table[index].socket)
        let worth = table[index].tcp.openWindow(size: size, queued: queued, ringFrames: Self.ringFrames)
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

    // MARK: endings

    /// Ends a flow: frees what it holds and closes its socket, with a reset on either side if asked.
    mutating func close(_ index: Int, resetOutside: Bool, resetGuest: Bool) {
        if resetGuest, table[index].tcp.phase != .opening {
            var header = makeHeader(index, [.rst, .ack], at: table[index].tcp.sendMaximum)
            if table[index].tcp.phase == .synSent { header.flags = .rst }
            send(header, index, count: 0)
        }
        if resetOutside { InternetSocket.setLingerZero(table[index].socket) }
        while table[index].spillHead != 0 {
            let chunk = table[index].spillHead
            table[index].spillHead = pool[chunk].next
            pool.free(chunk)
        }
        while table[index].gapHead != 0 {
            let chunk = table[index].gapHead
            table[index].gapHead = pool[chunk].next
            pool.free(chunk)
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
    private mutating func reportFailure(_ errno: Errno, _ syn: TCPHeader, guest: Endpoint, remote: Endpoint) {
        switch errno {
        case .networkUnreachable: reportUnreachable(.network, syn, guest: guest, remote: remote)
        case .noRouteToHost, .timedOut, .hostIsDown: reportUnreachable(.host, syn, guest: guest, remote: remote)
        case .permissionDenied, .notPermitted: reportUnreachable(.prohibited, syn, guest: guest, remote: remote)
        default: refuse(syn, count: 0, guest: guest, remote: remote)
        }
    }

    private mutating func reportUnreachable(
        _ reason: Unreachable, _ syn: TCPHeader, guest: Endpoint, remote: Endpoint
    ) {
        let ports = [syn.sourcePort, syn.destinationPort].flatMap { [UInt8($0 >> 8), UInt8(truncatingIfNeeded: $0)] }
        let sequence = (0..<4).map { UInt8(truncatingIfNeeded: syn.sequence.value >> UInt32(24 - 8 * $0)) }
        sendError(
            reason.numbers(v4: guest.address.isV4), from: nil, guest: guest.address, remote: remote.address,
            proto: TransportProtocol.tcp, original: ports + sequence + [UInt8](repeating: 0, count: 12))
    }

    // MARK: inbound forwards

    /// Opens and closes outside listeners with what listens inside: refused means refused.
    mutating func followListeners() {
        guard let found = try? listeners.listeners() else { return }
        let layout = configuration.layout
        var open: Set<UInt16> = []
        for endpoint in found where configuration.forwards.contains(endpoint.port) {
            let address = endpoint.address
            if address == .any4 || address == .any6 || address == layout.guest4 || address == layout.guest6 {
                open.insert(endpoint.port)
            }
        }
        for port in forwards.keys where !open.contains(port) {
            forwards[port] = nil
            try? report.send(SlirpReport.closed(port).message)
        }
        for port in open.sorted() where forwards[port] == nil {
            do {
                let listener = try listenOutside(port)
                try poller.add(listener.number, .readable, token: Token.forward | UInt64(port))
                forwards[port] = listener
                try? report.send(SlirpReport.opened(port).message)
            } catch {
                if notedForwards.insert(port).inserted { note("port \(port) is not forwarded: \(error)") }
            }
        }
    }

    private func listenOutside(_ port: UInt16) throws(KernelError) -> Descriptor {
        do { return try InternetSocket.listen(Endpoint(.any6, port)) } catch {
            if error.errno == .addressInUse || error.errno == .permissionDenied { throw error }
            return try InternetSocket.listen(Endpoint(.any4, port))
        }
    }

    /// A client of the outside: the workspace sees its address, unless that address means something else inside.
    mutating func acceptForward(_ port: UInt16) {
        guard let listener = forwards[port] else { return }
        for _ in 0..<64 {
            guard let (socket, peer) = InternetSocket.accept(listener.number) else { return }
            InternetSocket.setNoDelay(socket)
            let layout = configuration.layout
            let v4 = peer.address.isV4 || layout.subnet6 == nil
            let guest = Endpoint(v4 ? layout.guest4 : layout.guest6, port)
            var remote = peer
            let isInside = layout.subnet4.contains(peer.address) || layout.subnet6?.contains(peer.address) == true
            if isInside || peer.address.isV4 != v4 || !Policy.isOrdinary(peer.address) {
                remote.address = v4 ? layout.gateway4 : layout.gateway6
            }
            guard table.find(.tcp, guest: guest, remote: remote) == nil else {
                InternetSocket.setLingerZero(socket)
                InternetSocket.close(socket)
                continue
            }
            let state = TCPState(
                opening: initialSequence(guest, remote), mtuSegment: v4 ? mtuSegment4 : mtuSegment6)
            let flow = Flow(kind: .tcp, socket: socket, guest: guest, remote: remote, target: peer, tcp: state)
            guard let index = insert(flow, [.readable, .writable, .peerClosed, .edgeTriggered], otherwise: { _ in })
            else { continue }
            if hasPeekOffset { _ = InternetSocket.setPeekOffset(socket, 0) }
            table[index].isReadable = true
            table[index].tcp.sendMaximum = table[index].tcp.sendUnacknowledged + 1
            sendSyn(index)
            arm(index)
        }
    }
}

private func max(_ a: SequenceNumber, _ b: SequenceNumber) -> SequenceNumber { a < b ? b : a }
