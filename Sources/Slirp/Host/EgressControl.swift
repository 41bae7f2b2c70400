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

    /// Whether a datagram from outside may reach the workspace's port. A denial is counted, but not told: the sender is not the
    /// workspace.
    mutating func admitsArrival(_ transport: EgressPolicy.Transport, from source: Endpoint, to guest: Endpoint) -> Bool
    {
        if egress.policy.isOpen { return true }
        let port = transport == .icmp ? 0 : source.port
        if egress.admits(transport, from: Endpoint(source.address, port), to: guest, at: now) { return true }
        table.counters.denied += 1
        return false
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
        case .metadata?: "link-local addresses and cloud metadata services are denied unless network.egress names them"
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
            case .metadata: (false, "link-local addresses and cloud metadata services")
            case .hostLoopback: (false, "other ports of the container's loopback")
            case .nowhere: (false, "addresses that lead nowhere")
            case .lookups: (false, "look-ups of other names")
            }
        }
        table.setRules(builtIn + egress.policy.rules.map { ($0.allows, $0.description) })
    }

    // MARK: names

    /// The answer in the name server's place to a query that is denied; nil: it is allowed.
    mutating func refusal(of query: DNSMessage, _ bytes: RawSpan, from guest: Endpoint) -> [UInt8]? {
        let code: UInt8
        let place: Int
        switch egress.judge(query.name) {
        case .allowed: return nil
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
        return query.refusal(of: bytes, code: code, reason: "workspacekit: \(reason(place))")
    }

    /// Whether a query may go to the name server; else it is answered in its place.
    mutating func admitsQuery(_ query: DNSMessage, _ message: [UInt8], guest: Endpoint, remote: Endpoint) -> Bool {
        guard let refusal = unsafe refusal(of: query, message.span.bytes, from: guest) else { return true }
        let header = [remote.port, guest.port, UInt16(clamping: refusal.count + UDPHeader.length), 0].flatMap {
            [UInt8($0 >> 8), UInt8(truncatingIfNeeded: $0)]
        }
        sendBytes(
            header + refusal, source: remote.address, destination: guest.address, proto: TransportProtocol.udp,
            checksumOffset: 6)
        return false
    }

    /// Pins what an answer in the outgoing block gives the name that was asked for.
    mutating func learn(_ name: String, at offset: Int, count: Int) {
        let pointer = unsafe outgoing.bytes
        let bytes = unsafe pointer.bytes.extracting(offset..<offset + count)
        guard let answer = try? DNSMessage(parsing: bytes) else { return }
        egress.pin(name, answer.addresses(in: bytes), at: now)
    }
}
