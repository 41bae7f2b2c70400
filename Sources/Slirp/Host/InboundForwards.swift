internal import Kernel
internal import SystemPackage

/// Declared ports: an outside listener exists while something listens inside, and no longer.
extension Forwarder {
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
                if notedForwards.insert(port).inserted {
                    note("port \(port) is not forwarded: \(error)\(hint(error, port))")
                }
            }
        }
    }

    func listenOutside(_ port: UInt16) throws(KernelError) -> Descriptor {
        do { return try InternetSocket.listen(Endpoint(.any6, port)) } catch {
            if error.errno == .addressInUse || error.errno == .permissionDenied { throw error }
            return try InternetSocket.listen(Endpoint(.any4, port))
        }
    }

    mutating func acceptForward(_ port: UInt16) {
        guard let listener = forwards[port] else { return }
        let layout = configuration.layout
        acceptClients(of: listener) { peer in
            Endpoint(peer.address.isV4 || layout.subnet6 == nil ? layout.guest4 : layout.guest6, port)
        }
    }

    /// What the workspace knows a client of the outside by: its own address, unless that means something else inside.
    func seenAddress(of client: Endpoint, v4: Bool) -> Endpoint {
        let layout = configuration.layout
        var seen = client
        let isInside = layout.subnet4.contains(client.address) || layout.subnet6?.contains(client.address) == true
        if isInside || client.address.isV4 != v4 || !Policy.isOrdinary(client.address) {
            seen.address = v4 ? layout.gateway4 : layout.gateway6
        }
        return seen
    }

    /// Leads those who wait at a listener to where `guest` says.
    mutating func acceptClients(of listener: Descriptor, to guest: (Endpoint) -> Endpoint) {
        for _ in 0..<64 {
            guard let (socket, peer) = InternetSocket.accept(listener.number) else { return }
            InternetSocket.setNoDelay(socket)
            let guest = guest(peer)
            let v4 = guest.address.isV4
            let remote = seenAddress(of: peer, v4: v4)
            guard makeRoom(), table.find(.tcp, guest: guest, remote: remote) == nil else {
                InternetSocket.setLingerZero(socket)
                InternetSocket.close(socket)
                continue
            }
            let (sequence, offset) = initialSequence(guest, remote)
            let state = TCPState(
                opening: sequence, mtuSegment: v4 ? mtuSegment4 : mtuSegment6, timestampOffset: offset)
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

    /// The forwarder has no capability to take a low port with.
    private func hint(_ error: KernelError, _ port: UInt16) -> String {
        guard error.errno == .permissionDenied, port < 1024 else { return "" }
        return " (allow it with the sysctl net.ipv4.ip_unprivileged_port_start=0 in the container)"
    }
}
