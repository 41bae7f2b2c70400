internal import Kernel
internal import SystemPackage

/// Ports of the outside that lead inside: their sockets, and what listens inside for them.
extension Forwarder {
    /// Whether anything depends on what listens inside.
    var followsListeners: Bool { !configuration.forwards.isEmpty || forwards.contains { $0.value.follows } }

    /// Opens and closes outside sockets with what listens inside.
    mutating func followListeners() {
        let declared = configuration.forwards
        guard let tcp = served(isUDP: false) else { return }
        let wantsUDP = !declared.isEmpty || forwards.contains { $0.value.isUDP && $0.value.follows }
        guard let udp = wantsUDP ? served(isUDP: true) : [:] else { return }
        let loopback = configuration.loopbackForwards ?? declared
        for (port, reach) in tcp
        where declared.contains(port) && reach.isDisjoint(with: .anywhere) && !loopback.contains(port)
            && notedForwards.insert(port).inserted
        {
            note(
                "port \(port) is not forwarded: its server listens on the loopback only, and the configuration at the "
                    + "start did not name the port. hint: let the server listen on 0.0.0.0, or restart the workspace")
        }
        openDeclared(DeclaredPort.wanted(declared, loopback: loopback, tcp: tcp, udp: udp))
        for id in forwards.keys.sorted() {
            guard let forward = forwards[id], forward.follows else { continue }
            forwards[id]?.reach = (forward.isUDP ? udp : tcp)[forward.guest.port] ?? []
            if forward.isUDP {
                // Nobody can be told that there is nobody: what comes is lost inside.
                if case .failed = forward.state { continue }
                enter(id, forwards[id]?.isServed == true ? .open : .refusing)
            } else if forward.socket != nil {
                listen(id)
            }
        }
    }

    private func served(isUDP: Bool) -> [UInt16: Reachability]? {
        guard let sockets = try? listeners.listeners(isUDP: isUDP) else { return nil }
        return Reachability.of(sockets, configuration.layout)
    }

    // MARK: declared ports

    private mutating func openDeclared(_ ports: Set<DeclaredPort>) {
        let wanted = ports.filter { port in
            // The configuration leads it inside already.
            !forwards.contains {
                $0.value.origin == .configured && $0.value.outside.port == port.port && $0.value.isUDP == port.isUDP
            }
        }
        for port in declaredPorts.subtracting(wanted).sorted() {
            declaredPorts.remove(port)
            let wasOpen = forwards[port.id]?.socket != nil
            removeForward(port.id)
            if wasOpen, port.place != .loopback6 { tell(.closed(ForwardedPort(port))) }
        }
        for port in wanted.sorted() where forwards[port.id]?.socket == nil {
            declaredPorts.insert(port)
            do {
                let socket = try openOutside(port)
                addForward(port.id, forward(port, socket: socket))
                if port.place != .loopback6 { tell(.opened(ForwardedPort(port))) }
            } catch {
                if forwards[port.id] == nil {
                    forwards[port.id] = forward(port, socket: nil)
                    note(port, error)
                }
                enter(port.id, .failed(error.errno))
            }
        }
    }

    private func forward(_ port: DeclaredPort, socket: Descriptor?) -> InboundForward {
        InboundForward(
            guest: Endpoint(.any6, port.port), isUDP: port.isUDP, origin: .declared,
            outside: Endpoint(address(port), port.port), socket: socket)
    }

    private func address(_ port: DeclaredPort) -> IPAddress {
        switch port.place {
        case .everywhere: .any6
        case .loopback4: .loopback4
        case .loopback6: .loopback6
        }
    }

    private func openOutside(_ port: DeclaredPort) throws(KernelError) -> Descriptor {
        let kind = port.isUDP ? InternetSocket.Kind.udp : .tcp
        do { return try InternetSocket.bind(kind, Endpoint(address(port), port.port)) } catch {
            // Without IPv6 there is IPv4 still.
            let isTaken = error.errno == .addressInUse || error.errno == .permissionDenied
            if isTaken || port.place != .everywhere { throw error }
            return try InternetSocket.bind(kind, Endpoint(.any4, port.port))
        }
    }

    /// Said once for each port.
    private mutating func note(_ port: DeclaredPort, _ error: KernelError) {
        // A machine without IPv6 has no ::1.
        guard port.place != .loopback6, notedForwards.insert(port.port).inserted else { return }
        // The forwarder has no capability to take a low port with.
        let isPrivileged = error.errno == .permissionDenied && port.port < 1024
        let hint =
            isPrivileged
            ? " (allow it with the sysctl net.ipv4.ip_unprivileged_port_start=0 in the container)" : ""
        note("port \(port.port) is not forwarded: \(error)\(hint)")
    }

    // MARK: all forwards

    mutating func addForward(_ id: UInt32, _ forward: InboundForward) {
        removeForward(id)
        guard let socket = forward.socket else { return }
        forwards[id] = forward
        if forward.isUDP {
            InternetSocket.prepareDatagrams(socket.number, v4: forward.outside.address.isV4)
            do {
                try poller.add(socket.number, .readable, token: Token.forward | UInt64(id))
                enter(id, forward.isServed ? .open : .refusing)
            } catch { fail(id, error) }
        } else if !forward.follows {
            listen(id)
        }
        // What listens inside is looked up at once.
        nextListenerLook = now
    }

    /// Shows a forward that could not be opened, with the reason, until it is added or removed.
    mutating func showFailure(_ failure: FailedForward) {
        removeForward(failure.id)
        var forward = InboundForward(
            guest: failure.guest, isUDP: failure.isUDP, origin: .configured, outside: failure.outside, socket: nil)
        forward.interface = failure.interface
        forwards[failure.id] = forward
        enter(failure.id, .failed(failure.errno))
    }

    /// Listens, or refuses, as somebody is there or not.
    private mutating func listen(_ id: UInt32) {
        guard let forward = forwards[id], let socket = forward.socket else { return }
        switch (forward.state, forward.isServed) {
        case (.open, true), (.refusing, false): return
        case (_, true):
            do throws(KernelError) {
                // Clients inherit both: see ``openOutwards(_:guest:remote:)``.
                InternetSocket.keepUrgentInline(socket.number)
                InternetSocket.setLingerZero(socket.number)
                try InternetSocket.startListening(socket, forward.outside)
                try poller.add(socket.number, .readable, token: Token.forward | UInt64(id))
                enter(id, .open)
                if forward.follows { wantSockets() }
            } catch { fail(id, error) }
        case (_, false):
            if forward.state == .open { poller.remove(socket.number) }
            InternetSocket.stopListening(socket)
            enter(id, .refusing)
        }
    }

    /// It is tried again; said is it once.
    private mutating func fail(_ id: UInt32, _ error: KernelError) {
        guard let forward = forwards[id] else { return }
        if forward.state != .failed(error.errno) { note("port \(forward.outside.port) is not forwarded: \(error)") }
        enter(id, .failed(error.errno))
    }

    /// Connections that it brought go on; clients of a UDP forward have nobody to answer them any more.
    mutating func removeForward(_ id: UInt32) {
        guard let forward = forwards.removeValue(forKey: id) else { return }
        if let slot = forward.slot { table.freeForward(slot) }
        guard let socket = forward.socket else { return }
        if forward.state == .open || forward.isUDP { poller.remove(socket.number) }
        guard forward.isUDP else { return }
        for index in 0..<table.highWater
        where table[index].kind == .inboundUDP && table[index].socket == socket.number {
            closeDatagram(index)
        }
    }

    mutating func handleForward(_ id: UInt32, _ readiness: Readiness) {
        guard let forward = forwards[id] else { return }
        if forward.isUDP {
            receiveDatagrams(of: forward, readiness)
        } else {
            acceptClients(of: forward, id)
        }
    }

    /// Its socket does that now: it is written down for those who look into the table.
    private mutating func enter(_ id: UInt32, _ state: InboundForward.State) {
        guard forwards[id]?.state != state else { return }
        forwards[id]?.state = state
        guard let forward = forwards[id], let slot = forward.slot ?? table.freeForwardSlot() else { return }
        forwards[id]?.slot = slot
        let interface = forward.socket.flatMap { InternetSocket.interface(of: $0.number) }
        table.setForward(slot, ForwardSlot(forward, interface: interface ?? forward.interface))
    }

    func tell(_ report: SlirpReport) { try? self.report.send(report.message) }

    // MARK: clients

    /// What the workspace knows a client of the outside by: its own address, unless that means something else inside.
    private mutating func names(of client: Endpoint, v4: Bool) -> ClientNames {
        let layout = configuration.layout
        var seen = client.address
        if layout.isNobody(client.address) || layout.isOurs(client.address) || client.address.isV4 != v4
            || !Policy.isOrdinary(client.address) || !isAnswered(client.address)
        {
            seen = v4 ? layout.gateway4 : layout.gateway6
        }
        return ClientNames(client: client, address: seen)
    }

    private mutating func isAnswered(_ address: IPAddress) -> Bool {
        guard let routes else { return true }
        let gateway = address.isV4 ? configuration.layout.gateway4 : configuration.layout.gateway6
        return clientAddresses.isAnswered(address, at: now) { address in
            guard let link = routes.interface(towards: gateway) else { return true }
            return routes.interface(towards: address) == link
        }
    }

    /// Offers an accepted connection to a server over the link. False when that cannot be.
    mutating func offer(_ socket: Int32, of peer: Endpoint, to guest: Endpoint) -> Bool {
        let v4 = guest.address.isV4
        let names = names(of: peer, v4: v4)
        guard clientLimits.admits(peer.address), makeRoom() else {
            table.counters.refusedByLimit += 1
            return false
        }
        guard
            let remote = (0..<names.count).lazy.map({ names[$0] })
                .first(where: { table.find(.tcp, guest: guest, remote: $0) == nil })
        else { return false }
        let (sequence, offset) = initialSequence(guest, remote)
        let state = TCPState(
            opening: sequence, mtuSegment: v4 ? mtuSegment4 : mtuSegment6, timestampOffset: offset)
        let flow = Flow(kind: .tcp, socket: socket, guest: guest, remote: remote, target: peer, tcp: state)
        guard let index = insert(flow, Self.streamEdges, otherwise: { _ in })
        else { return true }  // and closed
        clientLimits.opened(peer.address)
        if hasPeekOffset { _ = InternetSocket.setPeekOffset(socket, 0) }
        table[index].isReadable = true
        table[index].tcp.sendMaximum = table[index].tcp.sendUnacknowledged + 1
        sendSyn(index)
        arm(index)
        return true
    }

    private mutating func receiveDatagrams(of forward: InboundForward, _ readiness: Readiness) {
        guard let socket = forward.socket?.number else { return }
        if readiness.contains(.failed) {
            // A client that is gone: the workspace would learn nothing from it.
            _ = InternetSocket.takeError(socket)
            for _ in 0..<16 where outgoing.receiveError(socket, at: 0, count: 512) == nil { break }
        }
        // The payload is read behind headers before it is known who it comes from, and so, which headers.
        let v4 = forward.follows ? !forward.reach.isDisjoint(with: .v4) : forward.guest.address.isV4
        let offset = transportOffset(v4: v4) + UDPHeader.length
        for _ in 0..<Self.batch {
            var datagram = InternetSocket.Datagram(peer: forward.guest)
            guard case .bytes(let count) = outgoing.receiveDatagram(socket, at: offset, count: 65_535, &datagram),
                case .link(let guest) = forward.path(of: datagram.peer.address, configuration.layout),
                let index = inboundFlow(forward, to: guest, client: datagram.peer)
            else { return }
            let start = transportOffset(v4: guest.address.isV4) + UDPHeader.length
            if start != offset { outgoing.move(from: offset, count: count, to: start) }
            table[index].packetsDown += 1
            table[index].bytesDown += UInt64(count)
            table[index].activeAt = now.nanoseconds
            deliverDatagrams(index, from: datagram, count: count)
        }
    }

    /// The flow of a client, new if it is one; nil when there is no room for it.
    private mutating func inboundFlow(_ forward: InboundForward, to guest: Endpoint, client: Endpoint) -> Int? {
        guard let socket = forward.socket?.number else { return nil }
        let names = names(of: client, v4: guest.address.isV4)
        var free: Endpoint?
        for number in 0..<names.count {
            let name = names[number]
            guard let index = table.find(.inboundUDP, guest: guest, remote: name) else {
                // Once it had to take a later one it keeps that while it lasts.
                free = free ?? name
                continue
            }
            guard table[index].target == client else { continue }
            table[index].socket = socket
            return index
        }
        guard let seen = free else { return nil }
        var flow = Flow(
            kind: .inboundUDP, socket: socket, guest: guest, remote: seen, target: client, tcp: .unused)
        flow.createdAt = now.nanoseconds
        if !clientLimits.admits(client.address), let idle = idleClients.next(in: table, at: now) { closeDatagram(idle) }
        guard clientLimits.admits(client.address), makeRoom(), let index = table.insert(flow) else {
            table.counters.refusedByLimit += 1
            return nil
        }
        clientLimits.opened(client.address)
        if let slot = forward.slot { table.countForward(slot, at: now) }
        wheel.schedule(index, at: (now + Self.idleTimeout).nanoseconds, in: table)
        return index
    }
}
