internal import Kernel
internal import SystemPackage

/// Listeners of forwards from which no client is accepted at present: their clients wait in the kernel's queue, as they would where
/// a server does not get round to them.
struct AcceptPause {
    private var listeners: Set<UInt32> = []
    /// When they are tried again; nil: none waits, or until something else happens.
    private(set) var endsAt: MonotonicInstant?
    /// So long where the machine or this process has no descriptor left.
    private static let length = Duration.milliseconds(100)

    /// Adds a listener, until sockets of the workspace's come.
    mutating func add(_ id: UInt32) { listeners.insert(id) }

    /// Adds a listener, for a moment.
    mutating func add(_ id: UInt32, from now: MonotonicInstant) {
        listeners.insert(id)
        endsAt = endsAt ?? now + Self.length
    }

    /// Ends it for all; returns them.
    mutating func end() -> Set<UInt32> {
        defer { self = AcceptPause() }
        return listeners
    }
}

/// Clients of the outside, from the kernel's queue to a flow.
extension Forwarder {
    mutating func acceptClients(of forward: InboundForward, _ id: UInt32) {
        guard let listener = forward.socket else { return }
        for _ in 0..<64 {
            if insideSockets.waiting.count >= waitingLimit {
                poller.remove(listener.number)
                return acceptPause.add(id)
            }
            switch InternetSocket.accept(listener.number) {
            case .success(let client)?: take(client.socket, of: client.peer, forward)
            case nil: return
            case .failure(let errno)?:
                // A client that is gone already is none; the next one is tried.
                if errno == .connectionAbort || errno == .connectionReset { continue }
                // The listener would be reported for ever, and nothing could be done about it.
                poller.remove(listener.number)
                return acceptPause.add(id, from: now)
            }
        }
    }

    private mutating func take(_ socket: Int32, of peer: Endpoint, _ forward: InboundForward) {
        InternetSocket.setNoDelay(socket)
        let isIn =
            switch forward.path(of: peer.address, configuration.layout) {
            case .link(let guest): offer(socket, of: peer, to: guest)
            case .splice(let guest): splice(socket, of: peer, to: guest)
            case .refused: false
            }
        if isIn {
            if let slot = forward.slot { table.countForward(slot, at: now) }
        } else {
            InternetSocket.setLingerZero(socket)
            InternetSocket.close(socket)
        }
    }

    /// Clients that wait for a socket of the workspace's at most; each has a descriptor.
    private var waitingLimit: Int { min(256, limits.total / 16) }

    /// Watches the listeners again from which no client was accepted.
    mutating func acceptAgain() {
        for id in acceptPause.end() {
            guard let forward = forwards[id], forward.state == .open, let socket = forward.socket else { continue }
            // One that was opened again meanwhile is watched already.
            try? poller.add(socket.number, .readable, token: Token.forward | UInt64(id))
        }
    }
}
