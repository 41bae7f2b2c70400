internal import Kernel

/// The policy at work: flows are admitted or denied where they begin, look-ups where they go to the name server, and
/// what the name server says of names is remembered before the workspace hears it.
extension Forwarder {
    /// Where a flow goes, and the rule that let it. A denial is counted and told.
    @inline(__always)
    mutating func admit(
        _ transport: EgressPolicy.Transport, guest: Endpoint, remote: Endpoint
    ) -> (route: Policy.Route, rule: UInt16) {
        let route = policy.route(remote, isUDP: transport != .tcp)
        switch route {
        case .outside:
            return egress.policy.isOpen
                ? (route, UInt16(Egress.Place.byDefault.rawValue)) : judge(transport, guest, remote)
        case .denied(.metadata) where egress.names(remote.address, transport, remote.port):
            return judge(transport, guest, remote)
        case .denied(let place):
            deny(place.rawValue, DenialLog.Key(transport: transport, guest: guest, remote: remote))
            return (route, Flow.noRule)
        case .loopback, .nameServer, .unreachable, .noNetwork: return (route, Flow.noRule)
        }
    }

    private mutating func judge(
        _ transport: EgressPolicy.Transport, _ guest: Endpoint, _ remote: Endpoint
    ) -> (Policy.Route, UInt16) {
        let verdict =
            transport == .udp
            ? egress.decideDatagram(guest: guest, remote: remote, at: now)
            : egress.decide(transport, remote, at: now)
        switch verdict {
        case .allowed(let place): return (.outside(remote), UInt16(place))
        case .denied(let place):
            deny(place, DenialLog.Key(transport: transport, guest: guest, remote: remote))
            return (.denied(.byDefault), Flow.noRule)
        }
    }

    private mutating func deny(_ place: Int, _ key: DenialLog.Key) {
        table.counters.denied += 1
        guard denials.isNew(key, at: now) else { return }
        table.countRule(place, at: now)
        let isPing = key.transport == .icmp
        let name = egress.name(of: key.remote.address).map { " (\($0))" } ?? ""
        let source = isPing ? key.guest.address.description : key.guest.description
        let target = isPing ? key.remote.address.description : key.remote.description
        tell("\(key.transport.rawValue) from \(source) to \(target)\(name): \(reason(place))")
    }

    private mutating func tell(_ denial: String) {
        guard let line = denials.line(denial, at: now) else { return }
        try? report.send(SlirpReport.denied(line).message)
    }

    private func reason(_ place: Int) -> String {
        switch Egress.Place(rawValue: place) {
        case .byDefault?: "no rule of network.egress allows it"
        case .metadata?: "cloud metadata services are denied unless network.egress allows their very address"
        case .hostLoopback?: "network.hostLoopback does not name this port of the container's"
        case .nowhere?: "such an address leads nowhere"
        case .lookups?: "no rule of network.egress allows the name"
        case nil: "network.egress denies \(egress.policy.rules[place - Egress.Place.builtIn])"
        }
    }

    /// Writes the rules down where others can read what they decided.
    func listRules() {
        let builtIn = Egress.Place.allCases.map { place -> (allows: Bool, text: String) in
            switch place {
            case .byDefault: (egress.policy.allowsByDefault, "everything else")
            case .metadata: (false, "cloud metadata services")
            case .hostLoopback: (false, "other ports of the container's loopback")
            case .nowhere: (false, "addresses that lead nowhere")
            case .lookups: (false, "look-ups of other names")
            }
        }
        table.setRules(builtIn + egress.policy.rules.map { ($0.allows, $0.description) })
    }

    // MARK: names

    private enum QueryVerdict {
        case allowed
        /// Answered in the name server's place.
        case refused([UInt8])
        case malformed
    }

    private mutating func judgeQuery(_ bytes: RawSpan, from guest: Endpoint) -> QueryVerdict {
        guard let query = try? DNSMessage(parsing: bytes), !query.isResponse else { return .malformed }
        let code: UInt8
        let place: Int
        switch egress.judge(query.name) {
        case .allowed: return .allowed
        case .refused(let rule): (code, place) = (DNSMessage.refused, rule)
        case .noSuchName(let rule): (code, place) = (DNSMessage.nameError, rule)
        }
        table.counters.denied += 1
        // A name is asked for again and again, from other ports: once for each is enough.
        var hasher = Hasher()
        hasher.combine(query.name)
        let name = Endpoint(IPAddress(high: UInt64(bitPattern: Int64(hasher.finalize())), low: 0), 53)
        let station = Endpoint(guest.address, 0)
        if denials.isNew(DenialLog.Key(transport: .udp, guest: station, remote: name), at: now) {
            table.countRule(place, at: now)
            tell("the look-up of \(query.name.isEmpty ? "." : query.name): \(reason(place))")
        }
        return .refused(query.refusal(of: bytes, code: code, reason: "workspacekit: \(reason(place))"))
    }

    /// Whether a query that lies in the incoming block may go to the name server; else it is answered or dropped.
    mutating func admitsQuery(at offset: Int, count: Int, _ place: TransportPlace, guest: Endpoint, remote: Endpoint)
        -> Bool
    {
        // Several in a superpacket: no resolver does that.
        guard place.segmentSize == 0 else {
            drop(\.malformed)
            return false
        }
        let pointer = unsafe incoming.bytes
        switch unsafe judgeQuery(pointer.bytes.extracting(offset..<offset + count), from: guest) {
        case .allowed: return true
        case .malformed: drop(\.malformed)
        case .refused(let answer):
            let length = UInt16(clamping: answer.count + UDPHeader.length)
            let header = [remote.port, guest.port, length, 0].flatMap {
                [UInt8($0 >> 8), UInt8(truncatingIfNeeded: $0)]
            }
            sendBytes(
                header + answer, source: remote.address, destination: guest.address, proto: TransportProtocol.udp,
                checksumOffset: 6)
        }
        return false
    }

    /// Remembers what an answer says that lies in the outgoing block; one of several where `segment` is not 0.
    mutating func learnNames(at offset: Int, count: Int, segment: Int) {
        let pointer = unsafe outgoing.bytes
        let all = unsafe pointer.bytes
        var at = offset
        while at < offset + count {
            let part = min(segment > 0 ? segment : count, offset + count - at)
            learn(all.extracting(at..<at + part))
            at += part
        }
    }

    private mutating func learn(_ bytes: RawSpan) {
        guard let answer = try? DNSMessage(parsing: bytes), answer.isResponse else { return }
        // What was never to be asked is no answer.
        guard case .allowed = egress.judge(answer.name) else { return }
        egress.pin(answer.name, answer.addresses(in: bytes), at: now)
    }

    /// What passes a connection to the name server.
    struct NameStreams {
        /// Longer queries are nobody's.
        var queries = DNSStream(limit: 4096)
        var answers = DNSStream(limit: 65_535)
        /// Connections looked into at most, so that what they hold is bounded.
        static let limit = 256
    }

    /// Payload for the name server is looked into before it goes on, whole or not at all. False when the flow is gone.
    mutating func deliverQueries(_ index: Int, at offset: Int, count: Int) -> Bool {
        let end = table[index].tcp.receiveNext + count
        guard admitsQueries(index, at: offset, count: count) else {
            close(index, resetOutside: true, resetGuest: true)
            return false
        }
        guard deliver(index, at: offset, count: count) else { return false }
        // What did not fit would come again, and be looked into twice.
        if table[index].tcp.receiveNext == end { return true }
        close(index, resetOutside: true, resetGuest: true)
        return false
    }

    private mutating func admitsQueries(_ index: Int, at offset: Int, count: Int) -> Bool {
        guard var streams = nameStreams.removeValue(forKey: index) else { return false }
        let guest = table[index].guest
        let pointer = unsafe incoming.bytes
        let isAllowed = unsafe streams.queries.take(pointer.bytes.extracting(offset..<offset + count)) { message in
            if case .allowed = judgeQuery(message, from: guest) { return true }
            return false
        }
        nameStreams[index] = streams
        return isAllowed
    }

    /// Remembers what the `count` bytes say that are to go to the workspace from the outgoing block.
    mutating func learnAnswers(_ index: Int, count: Int) {
        let known = max(0, table[index].tcp.sendMaximum - table[index].tcp.sendNext)
        guard known < count, var streams = nameStreams.removeValue(forKey: index) else { return }
        let start = transportOffset(v4: table[index].guest.address.isV4) + table[index].tcp.headerLength
        let pointer = unsafe outgoing.bytes
        _ = unsafe streams.answers.take(pointer.bytes.extracting(start + known..<start + count)) { message in
            learn(message)
            return true
        }
        nameStreams[index] = streams
    }
}
