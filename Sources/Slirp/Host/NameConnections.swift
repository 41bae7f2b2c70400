internal import Kernel
internal import SystemPackage

/// Connections to the name server's address: the policy judges their queries, its pins follow their answers, and another
/// server takes the place of one that is silent, refuses, or ends without an answer (``NameStream``).
extension Forwarder {
    /// Payload for the name server, on its way there whole or not at all. False when the flow is gone.
    mutating func deliverQueries(_ index: Int, at offset: Int, count: Int) -> Bool {
        let end = table[index].tcp.receiveNext + count
        guard admitsQueries(index, at: offset, count: count) else {
            close(index, resetOutside: true, resetGuest: true)
            return false
        }
        if nameStreams[index]?.isConnecting == true {
            // It is kept, and goes out once the connection stands.
            table[index].bytesUp += UInt64(count)
            table[index].tcp.accepted(count)
            return true
        }
        guard deliver(index, at: offset, count: count) else { return false }
        arm(index)
        // What did not fit would come again, and be looked into twice.
        if table[index].tcp.receiveNext == end { return true }
        close(index, resetOutside: true, resetGuest: true)
        return false
    }

    private mutating func admitsQueries(_ index: Int, at offset: Int, count: Int) -> Bool {
        guard var stream = nameStreams.removeValue(forKey: index) else { return false }
        let guest = table[index].guest
        let pointer = unsafe incoming.bytes
        let bytes = unsafe pointer.bytes.extracting(offset..<offset + count)
        guard stream.record(bytes, at: now) else { return false }
        let isAllowed =
            !egress.judgesNames
            || stream.takeQueries(bytes) { query, message in refusal(of: query, message, from: guest) == nil }
        nameStreams[index] = stream
        return isAllowed
    }

    /// What becomes of bytes that a name server sent.
    enum NameDelivery { case passes, waits, isGone }

    /// Looks at `count` bytes that are to go to the workspace from the outgoing block.
    mutating func takeNameAnswer(_ index: Int, count: Int) -> NameDelivery {
        guard var stream = nameStreams.removeValue(forKey: index) else { return .passes }
        let start = transportOffset(v4: table[index].guest.address.isV4) + table[index].tcp.headerLength
        let beginning: NameStream.Beginning
        do {
            let pointer = unsafe outgoing.bytes
            beginning = unsafe stream.examine(pointer.bytes.extracting(start..<start + count))
        }
        nameStreams[index] = stream
        switch beginning {
        case .answer: break
        case .tooShort where !table[index].isEnding:
            if hasPeekOffset { _ = InternetSocket.setPeekOffset(table[index].socket, 0) }
            return .waits
        case .tooShort, .refusal:
            if failOver(index) { return .isGone }
        }
        learnAnswers(index, from: start, count: count)
        return .passes
    }

    /// Pins what the answers give the names that were asked for.
    private mutating func learnAnswers(_ index: Int, from start: Int, count: Int) {
        let known = max(0, table[index].tcp.sendMaximum - table[index].tcp.sendNext)
        guard egress.judgesNames, known < count, var stream = nameStreams.removeValue(forKey: index) else { return }
        let pointer = unsafe outgoing.bytes
        unsafe stream.takeAnswers(pointer.bytes.extracting(start + known..<start + count)) { name, answer, message in
            egress.pin(name, answer.addresses(in: message), at: now)
        }
        nameStreams[index] = stream
    }

    // MARK: failing over

    /// Leads the connection to the next server, if one may take this one's place.
    mutating func failOver(_ index: Int) -> Bool {
        while let server = nameStreams[index]?.failOver(at: now) {
            guard let socket = connect(to: server) else { continue }
            let token = Token.flow(index, generation: table[index].generation)
            guard (try? poller.add(socket, Self.streamEdges, token: token)) != nil else {
                InternetSocket.close(socket)
                continue
            }
            poller.remove(table[index].socket)
            let wasAnswered = table[index].tcp.phase != .opening
            InternetSocket.close(table[index].socket)
            limits.closed(table[index].target.address, wasAnswered: wasAnswered)
            table[index].socket = socket
            table[index].target = Endpoint(server.address, 53)
            limits.opened(server.address)
            if wasAnswered { limits.answered(server.address) }
            nameStreams[index]?.isConnecting = wasAnswered
            dropSpill(index)
            table[index].tcp.marks.remove(.finishPassedOn)
            table[index].isReadable = false
            table[index].isEnding = false
            table[index].isBroken = false
            table[index].isUrgent = false
            arm(index)
            return true
        }
        return false
    }

    /// A socket on its way to a server; nil when it cannot be reached.
    mutating func connect(to server: NameServer) -> Int32? {
        let v4 = server.address.isV4
        guard case .success(let socket) = InternetSocket.make(.tcp, v4: v4) else { return nil }
        InternetSocket.setNoDelay(socket)
        InternetSocket.setLingerZero(socket)
        bindOutbound(socket, v4: v4)
        let isBound = server.interface.map { InternetSocket.bind(socket, toInterface: $0) } ?? true
        guard isBound, InternetSocket.connect(socket, to: Endpoint(server.address, 53)) == nil else {
            InternetSocket.close(socket)
            return nil
        }
        return socket
    }

    /// A socket on its way to the first server of the stream's that can be tried, and where it goes.
    mutating func connectToName(_ stream: inout NameStream?) -> (socket: Int32, target: Endpoint)? {
        var server = stream?.server
        while let next = server {
            if let socket = connect(to: next) { return (socket, Endpoint(next.address, 53)) }
            server = stream?.failOver(at: now)
        }
        return nil
    }

    /// An event of a socket that another server's took the place of. False when there is nothing more to do for now.
    mutating func handleReconnection(_ index: Int, _ readiness: Readiness) -> Bool {
        guard nameStreams[index]?.isConnecting == true else { return true }
        guard !readiness.isDisjoint(with: [.writable, .failed, .hungUp]) else { return false }
        if InternetSocket.takeError(table[index].socket) != nil {
            if !failOver(index) { close(index, resetOutside: false, resetGuest: true) }
            return false
        }
        if hasPeekOffset { _ = InternetSocket.setPeekOffset(table[index].socket, 0) }
        nameStreams[index]?.connected(at: now)
        let sent = nameStreams[index]?.sent ?? []
        guard case .bytes(sent.count) = Kernel.write(table[index].socket, sent) else {
            close(index, resetOutside: true, resetGuest: true)
            return false
        }
        passFinishOn(index)
        arm(index)
        return true
    }

    /// When the server's time for an answer is over; nil when none is due.
    func nameDeadline(_ index: Int) -> MonotonicInstant? { nameStreams[index]?.deadline }

    /// The timer of a connection to the name server. False when the server's time is not yet over, or no other is left.
    mutating func handleNameTimer(_ index: Int) -> Bool {
        guard let stream = nameStreams[index], let deadline = stream.deadline, deadline <= now else { return false }
        nameServers.wasSilent(stream.server, at: now)
        return failOver(index)
    }
}
