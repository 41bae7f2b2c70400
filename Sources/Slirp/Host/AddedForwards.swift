internal import Kernel

/// A forward that was added while the forwarder runs: a socket of the outside's, and where it leads.
struct AddedForward {
    let isUDP: Bool
    let guest: Endpoint
    let socket: Descriptor
}

extension Forwarder {
    mutating func addForward(_ id: Int, _ forward: AddedForward) {
        removeForward(id)
        if forward.isUDP {
            let v4 = InternetSocket.localEndpoint(forward.socket.number)?.address.isV4 ?? true
            InternetSocket.prepareDatagrams(forward.socket.number, v4: v4)
        }
        do {
            try poller.add(
                forward.socket.number, .readable, token: Token.addedForward | UInt64(UInt32(truncatingIfNeeded: id)))
            addedForwards[id] = forward
        } catch { note("a forward to \(forward.guest) is not served: \(error)") }
    }

    /// Connections that it brought go on; clients of a UDP forward have nobody to answer them any more.
    mutating func removeForward(_ id: Int) {
        guard let forward = addedForwards.removeValue(forKey: id) else { return }
        poller.remove(forward.socket.number)
        guard forward.isUDP else { return }
        for index in 0..<table.highWater
        where table[index].kind == .inboundUDP && table[index].socket == forward.socket.number {
            closeDatagram(index)
        }
    }

    mutating func handleAddedForward(_ id: Int, _ readiness: Readiness) {
        guard let forward = addedForwards[id] else { return }
        if forward.isUDP {
            receiveDatagrams(of: forward, readiness)
        } else {
            acceptClients(of: forward.socket) { _ in forward.guest }
        }
    }

    private mutating func receiveDatagrams(of forward: AddedForward, _ readiness: Readiness) {
        let socket = forward.socket.number
        if readiness.contains(.failed) {
            // A client that is gone: the workspace would learn nothing from it.
            _ = InternetSocket.takeError(socket)
            for _ in 0..<16 where outgoing.receiveError(socket, at: 0, count: 512) == nil { break }
        }
        let v4 = forward.guest.address.isV4
        let offset = transportOffset(v4: v4) + UDPHeader.length
        for _ in 0..<Self.batch {
            var datagram = InternetSocket.Datagram(peer: forward.guest)
            guard case .bytes(let count) = outgoing.receiveDatagram(socket, at: offset, count: 65_535, &datagram),
                let index = inboundFlow(forward, client: datagram.peer)
            else { return }
            table[index].packetsDown += 1
            table[index].bytesDown += UInt64(count)
            table[index].activeAt = now.nanoseconds
            deliverDatagrams(index, from: datagram, count: count)
        }
    }

    /// The flow of a client, new if it is one; nil when there is no room for it.
    private mutating func inboundFlow(_ forward: AddedForward, client: Endpoint) -> Int? {
        let seen = seenAddress(of: client, v4: forward.guest.address.isV4)
        if let index = table.find(.inboundUDP, guest: forward.guest, remote: seen) {
            // Two clients that look the same inside: the one that spoke last is answered.
            table[index].target = client
            table[index].socket = forward.socket.number
            return index
        }
        var flow = Flow(
            kind: .inboundUDP, socket: forward.socket.number, guest: forward.guest, remote: seen, target: client,
            tcp: .unused)
        flow.createdAt = now.nanoseconds
        guard makeRoom(), let index = table.insert(flow) else {
            table.counters.refusedByLimit += 1
            return nil
        }
        wheel.schedule(index, at: (now + Self.idleTimeout).nanoseconds, in: table)
        return index
    }
}
