internal import Kernel
internal import SystemPackage

/// # Theory of operation
///
/// A client from the container's loopback is joined to a server inside by two sockets, the one it was accepted on and one
/// of the workspace's, and two pipes between them: bytes go from a socket through a pipe to the other socket and are
/// never copied (splice(2)). No stack of ours, no link.
///
///     client ── accepted socket ══ pipe ══▶ inside socket ── server
///                               ◀══ pipe ══
///
/// The forwarder cannot make sockets inside: ring1 makes them, a few in advance, and a client that comes when none is left
/// waits until they arrive.
///
/// Both sockets are watched edge-triggered. Edges of data, ends and room need no memory: each turn of a splice tries both ways
/// until both sockets say that they would block, and one that comes before the server has taken the connection is found by the
/// turn that this starts. Failures and urgent data are remembered in the way that the socket is the source of.
struct Splice {
    /// One way: what has been taken from the source and not yet given to the sink lies in the pipe.
    struct Way {
        let pipe: (reading: Descriptor, writing: Descriptor)
        var held = 0
        /// The source has ended; and the sink has been told.
        var hasEnded = false, hasPassedEnd = false
        /// The source has failed: once what it had is passed on as far as the sink takes it, both are reset.
        var isBroken = false
        /// The source has had urgent data.
        var isUrgent = false

        init() throws(KernelError) { pipe = try makePipe() }
    }
    /// Descriptors that one uses: two sockets, and two pipes of two ends each.
    static let cost = 6
    let inside: Descriptor
    var inwards: Way, outwards: Way
    /// The server has taken the connection.
    var isConnected = false
}

/// Sockets of the workspace's that are not used yet, and who waits for one.
struct InsideSockets {
    struct Waiting {
        let socket: Int32, client: Endpoint, server: Endpoint
    }
    var v4: [Descriptor] = [], v6: [Descriptor] = []
    var isAskedFor = false
    var waiting: [Waiting] = []

    mutating func take(v4 isV4: Bool) -> Descriptor? { isV4 ? v4.popLast() : v6.popLast() }
}

extension Forwarder {
    /// Asks for sockets of the workspace's before none is left.
    mutating func wantSockets() {
        guard configuration.splicesLoopback, !insideSockets.isAskedFor,
            insideSockets.v4.count < 4 || insideSockets.v6.count < 2
        else { return }
        insideSockets.isAskedFor = true
        tell(.socketsWanted)
    }

    /// Sockets of the workspace's have come: whoever waited for one goes first.
    mutating func takeSockets(_ sockets: [Descriptor]) {
        insideSockets.isAskedFor = false
        for socket in sockets {
            // Whoever is not connected has the unspecified address of its family.
            if InternetSocket.localEndpoint(socket.number)?.address == .any4 {
                insideSockets.v4.append(socket)
            } else {
                insideSockets.v6.append(socket)
            }
        }
        let waiting = insideSockets.waiting
        insideSockets.waiting = []
        for client in waiting where !splice(client.socket, of: client.client, to: client.server) {
            InternetSocket.setLingerZero(client.socket)
            InternetSocket.close(client.socket)
        }
        acceptAgain()
    }

    /// Joins an accepted connection to a server inside. False when that cannot be.
    mutating func splice(_ socket: Int32, of client: Endpoint, to server: Endpoint) -> Bool {
        guard configuration.splicesLoopback else { return false }
        guard let inside = insideSockets.take(v4: server.address.isV4) else {
            wantSockets()
            insideSockets.waiting.append(.init(socket: socket, client: client, server: server))
            return true
        }
        defer { wantSockets() }
        guard clientLimits.admits(client.address, cost: Splice.cost), makeRoom() else {
            table.counters.refusedByLimit += 1
            return false
        }
        InternetSocket.setNoDelay(inside.number)
        InternetSocket.setLingerZero(inside.number)
        if InternetSocket.connect(inside.number, to: server) != nil { return false }
        guard let local = InternetSocket.localEndpoint(inside.number) else { return false }
        let joined: Splice
        do throws(KernelError) {
            joined = Splice(inside: inside, inwards: try Splice.Way(), outwards: try Splice.Way())
        } catch { return false }
        let flow = Flow(kind: .spliced, socket: socket, guest: server, remote: local, target: client, tcp: .unused)
        guard let index = insert(flow, Self.streamEdges, otherwise: { _ in }) else { return true }  // and closed
        splices[index] = joined
        clientLimits.opened(client.address, cost: Splice.cost)
        do throws(KernelError) {
            try poller.add(
                inside.number, Self.streamEdges,
                token: Token.flow(index, generation: table[index].generation) ^ Token.flow ^ Token.inside)
        } catch { closeSplice(index, reset: true) }
        return true
    }

    /// Something has happened on either of the two sockets.
    mutating func handleSplice(_ index: Int, _ readiness: Readiness, isInside: Bool) {
        guard let joined = splices[index] else { return }
        if isInside, !joined.isConnected, !readiness.isDisjoint(with: [.writable, .failed, .hungUp]) {
            if InternetSocket.takeError(joined.inside.number) != nil { return closeSplice(index, reset: true) }
            splices[index]?.isConnected = true
        }
        let source = isInside ? \Splice.outwards : \Splice.inwards
        if readiness.contains(.failed) { splices[index]?[keyPath: source].isBroken = true }
        if readiness.contains(.urgent) { splices[index]?[keyPath: source].isUrgent = true }
        markReady(index)
    }

    /// Moves what there is both ways, within the turn's budget.
    mutating func runSplice(_ index: Int, budget: inout Int) {
        guard var joined = splices[index] else { return }
        guard joined.isConnected else {
            if joined.inwards.isBroken { closeSplice(index, reset: true) }
            return
        }
        let outside = table[index].socket
        var share = Self.share
        let inwards = pump(&joined.inwards, from: outside, to: joined.inside.number, &share)
        let outwards =
            inwards.map { _ in pump(&joined.outwards, from: joined.inside.number, to: outside, &share) } ?? nil
        splices[index] = joined
        guard let inwards, let outwards else { return closeSplice(index, reset: true) }
        budget -= inwards + outwards
        if inwards + outwards > 0 {
            table[index].activeAt = now.nanoseconds
            table[index].bytesDown += UInt64(inwards)
            table[index].bytesUp += UInt64(outwards)
            table.counters.splicedBytes &+= UInt64(inwards + outwards)
        }
        if joined.inwards.hasPassedEnd, joined.outwards.hasPassedEnd { return closeSplice(index, reset: false) }
        if share <= 0 { return markReady(index) }
        if joined.inwards.isBroken || joined.outwards.isBroken { closeSplice(index, reset: true) }
    }

    /// Moves bytes until either side would block; how many reached the sink, or nil when a side is broken.
    private mutating func pump(_ way: inout Splice.Way, from source: Int32, to sink: Int32, _ share: inout Int) -> Int?
    {
        var passed = 0
        while share > 0 {
            var isStuck = true
            if !way.hasEnded {
                switch Kernel.splice(from: source, to: way.pipe.writing.number, limit: 1 << 20) {
                case .bytes(let count) where count > 0:
                    way.held += count
                    isStuck = false
                case .bytes: if !readInLine(&way, from: source, &isStuck) { return nil }
                case .wouldBlock:
                    if way.isUrgent, !readInLine(&way, from: source, &isStuck) { return nil }
                case .failed: return nil
                }
            }
            if way.held > 0 {
                switch Kernel.splice(from: way.pipe.reading.number, to: sink, limit: way.held) {
                case .bytes(let count):
                    way.held -= count
                    passed += count
                    share -= count
                    if count > 0 { isStuck = false }
                case .wouldBlock: break
                case .failed: return nil
                }
            }
            if isStuck { break }
        }
        if way.hasEnded, way.held == 0, !way.hasPassedEnd {
            way.hasPassedEnd = true
            InternetSocket.finishWriting(sink)
        }
        return passed
    }

    /// Reads into an empty pipe what splice(2) does not bring: the end, or urgent data. False when the source has failed.
    ///
    /// KERNEL: splice(2) never gets past the byte of urgent data, and takes it for the end where the peer has closed; recv(2)
    /// reads it in line.
    private func readInLine(_ way: inout Splice.Way, from source: Int32, _ isStuck: inout Bool) -> Bool {
        guard way.held == 0 else { return true }  // once the sink has taken that
        // So much always fits an empty pipe (pipe(7), PIPE_BUF).
        switch scratch.receive(source, at: 0, count: 4096) {
        case .bytes(0): way.hasEnded = true
        case .bytes(let count):
            guard scratch.write(way.pipe.writing.number, at: 0, count: count) == .bytes(count) else { return false }
            way.held = count
            isStuck = false
        case .wouldBlock: break
        case .failed: return false
        }
        return true
    }

    /// Ends a joined pair.
    mutating func closeSplice(_ index: Int, reset: Bool) {
        guard let joined = splices.removeValue(forKey: index) else { return }
        if reset {
            InternetSocket.setLingerZero(table[index].socket)
            InternetSocket.setLingerZero(joined.inside.number)
        }
        clientLimits.closed(table[index].target.address, wasAnswered: false, cost: Splice.cost)
        poller.remove(joined.inside.number)
        InternetSocket.close(table[index].socket)
        table.remove(index)
    }
}
