internal import Kernel
internal import SystemPackage

/// Queries to the name server's address, on their way to the outside's servers (``NameLookups``).
extension Forwarder {
    // MARK: from the workspace

    /// Takes a query, judges it, and asks the servers for it.
    mutating func askNameServer(
        _ header: UDPHeader, guest: Endpoint, remote: Endpoint, _ ip: IPHeader, _ place: TransportPlace
    ) {
        let offset = place.offset + UDPHeader.length
        let count = header.datagramLength - UDPHeader.length
        // Several in a superpacket: no resolver does that.
        guard place.segmentSize == 0, count <= NameLookups.messageLimit else { return drop(\.malformed) }
        let message: [UInt8]
        do {
            let pointer = unsafe incoming.bytes
            message = unsafe pointer.bytes.array(offset..<offset + count)
        }
        guard let read = unsafe try? DNSMessage(parsing: message.span.bytes), !read.isResponse else {
            return drop(\.malformed)
        }
        if egress.judgesNames, !admitsQuery(read, message, guest: guest, remote: remote) { return }
        if nameServers.isEmpty { return answer(.port, ip, place) }
        let query = NameLookups.Query(
            guest: guest, remote: remote, id: read.id, question: unsafe read.question(in: message.span.bytes))
        if let number = lookups.number(of: query) { return askAgain(number) }
        if let oldest = lookups.oldestBeyondLimit() {
            table.counters.refusedByLimit += 1
            endLookup(oldest)
        }
        let plan = nameServers.plan(at: now)
        let number = lookups.begin(query, message, name: read.name, servers: plan.order, at: now)
        for _ in 0..<plan.atOnce { askNext(number) }
        settleLookup(number)
    }

    /// The workspace has sent a query again: it has waited long enough for the servers that were asked.
    private mutating func askAgain(_ number: UInt64) {
        if askNext(number) { return }
        for attempt in lookups.attempts(number) { sendQuery(attempt) }
    }

    // MARK: to the servers

    /// Asks the next server that can be asked. False when there is none left.
    @discardableResult
    private mutating func askNext(_ number: UInt64) -> Bool {
        while let server = lookups.takeServer(number) {
            if let attempt = openAttempt(number, server) {
                sendQuery(attempt)
                wheel.schedule(attempt, at: (now + NameServers.patience).nanoseconds, in: table)
                return true
            }
            nameServers.wasSilent(server, at: now)
        }
        return false
    }

    /// A socket that hears of this server only, on a port that the kernel chose.
    private mutating func openAttempt(_ number: UInt64, _ server: NameServer) -> Int? {
        let v4 = server.address.isV4
        guard let query = lookups.query(number), makeRoom(),
            case .success(let socket) = InternetSocket.make(.udp, v4: v4)
        else {
            table.counters.refusedByLimit += 1
            return nil
        }
        InternetSocket.prepareDatagrams(socket, v4: v4)
        bindOutbound(socket, v4: v4)
        let target = Endpoint(server.address, 53)
        let isBound = server.interface.map { InternetSocket.bind(socket, toInterface: $0) } ?? true
        guard isBound, InternetSocket.connect(socket, to: target) == nil else {
            InternetSocket.close(socket)
            return nil
        }
        let flow = Flow(
            kind: .lookup, timeToLive: 64, socket: socket, guest: query.guest, remote: query.remote, target: target,
            tcp: .unused)
        guard let attempt = insert(flow, .readable, otherwise: { _ in }) else { return nil }
        lookups.add(attempt, to: number, server, id: UInt16(truncatingIfNeeded: randomUInt64()))
        return attempt
    }

    private mutating func sendQuery(_ attempt: Int) {
        guard let (number, _, id) = lookups.attempt(attempt), let message = lookups.message(number) else { return }
        do {
            let pointer = unsafe outgoing.bytes
            var out = unsafe pointer.mutableBytes
            out.put(message, 0)
            out.put([UInt8(id >> 8), UInt8(truncatingIfNeeded: id)], 0)
        }
        table[attempt].packetsUp += 1
        table[attempt].bytesUp += UInt64(message.count)
        // An error is an event of the socket's.
        _ = outgoing.sendDatagram(
            table[attempt].socket, v4: table[attempt].target.address.isV4, at: 0, count: message.count,
            InternetSocket.Datagram(peer: table[attempt].target))
    }

    // MARK: from the servers

    mutating func handleLookupEvent(_ attempt: Int, _ readiness: Readiness) {
        if readiness.contains(.failed), hasFailed(attempt) { return attemptFailed(attempt) }
        guard readiness.contains(.readable), let (number, server, _) = lookups.attempt(attempt),
            let query = lookups.query(number)
        else { return }
        let start = transportOffset(v4: query.guest.address.isV4)
        let payload = start + UDPHeader.length
        for _ in 0..<Self.batch {
            var datagram = InternetSocket.Datagram(peer: query.guest)
            guard
                case .bytes(let received) = outgoing.receiveDatagram(
                    table[attempt].socket, at: payload, count: 65_535, &datagram)
            else { return }
            table.counters.datagramsIn += 1
            let count = datagram.segment > 0 ? min(datagram.segment, received) : received
            let reply: NameLookups.Reply
            do {
                let pointer = unsafe outgoing.bytes
                reply = unsafe lookups.judge(pointer.bytes.extracting(payload..<payload + count), for: attempt)
            }
            switch reply {
            case .foreign: continue
            case .refusal:
                nameServers.answered(server)
                closeDatagram(attempt)
                askNext(number)
                return settleLookup(number)
            case .answer:
                nameServers.answered(server)
                if egress.judgesNames { learn(lookups.name(number) ?? "", at: payload, count: count) }
                table[attempt].packetsDown += 1
                table[attempt].bytesDown += UInt64(count)
                passOn(query, count: count)
                return endLookup(number)
            }
        }
    }

    /// Gives the workspace the answer in the outgoing block, with the id that it asked with.
    private mutating func passOn(_ query: NameLookups.Query, count: Int) {
        let start = transportOffset(v4: query.guest.address.isV4)
        do {
            let pointer = unsafe outgoing.bytes
            var out = unsafe pointer.mutableBytes
            out.put([UInt8(query.id >> 8), UInt8(truncatingIfNeeded: query.id)], start + UDPHeader.length)
        }
        deliver(from: query.remote, to: query.guest, at: start, count: count)
    }

    /// Whether an error says that the server cannot be reached; others are of no concern.
    private mutating func hasFailed(_ attempt: Int) -> Bool {
        var failed = InternetSocket.takeError(table[attempt].socket) != nil
        for _ in 0..<16 {
            guard let (error, _) = outgoing.receiveError(table[attempt].socket, at: 0, count: 512) else { break }
            table.counters.datagramsIn += 1
            if error.errno != .messageTooLong { failed = true }
        }
        return failed
    }

    private mutating func attemptFailed(_ attempt: Int) {
        guard let (number, server, _) = lookups.attempt(attempt) else { return }
        nameServers.wasSilent(server, at: now)
        closeDatagram(attempt)
        askNext(number)
        settleLookup(number)
    }

    /// The attempt has had its time.
    mutating func handleLookupTimer(_ attempt: Int) {
        guard let (number, server, _) = lookups.attempt(attempt) else { return closeDatagram(attempt) }
        switch lookups.wasLate(attempt, at: now) {
        case .expired: endLookup(number)
        case .goOn(let resends):
            nameServers.wasSilent(server, at: now)
            askNext(number)
            if resends { sendQuery(attempt) }
            wheel.schedule(attempt, at: (now + NameServers.patience).nanoseconds, in: table)
            settleLookup(number)
        }
    }

    // MARK: endings

    /// Ends a query of which nothing more can come: with the refusal that there is, or as a port without a listener.
    private mutating func settleLookup(_ number: UInt64) {
        guard let query = lookups.query(number) else { return }
        if let refusal = lookups.finalRefusal(number) {
            let payload = transportOffset(v4: query.guest.address.isV4) + UDPHeader.length
            do {
                let pointer = unsafe outgoing.bytes
                var out = unsafe pointer.mutableBytes
                out.put(refusal, payload)
            }
            passOn(query, count: refusal.count)
            return endLookup(number)
        }
        guard lookups.isFruitless(number), let message = lookups.message(number) else { return }
        let header = [query.guest.port, query.remote.port, UInt16(clamping: message.count + UDPHeader.length), 0]
        sendError(
            Unreachable.port.numbers(v4: query.guest.address.isV4), rest: 0, from: nil, guest: query.guest.address,
            remote: query.remote.address, proto: TransportProtocol.udp,
            original: header.flatMap { [UInt8($0 >> 8), UInt8(truncatingIfNeeded: $0)] } + message.prefix(512))
        endLookup(number)
    }

    private mutating func endLookup(_ number: UInt64) {
        for attempt in lookups.remove(number) { closeDatagram(attempt) }
    }
}
