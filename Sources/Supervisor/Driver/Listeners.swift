internal import Config
internal import Kernel
internal import SystemPackage

/// Socket activation: sockets made for a unit before it starts, and kept across its restarts (sd_listen_fds(3)).
extension Supervisor {
    /// Makes the sockets that the unit is to have; those that it has already stay.
    func openListeners(_ id: Int) throws(KernelError) {
        try keepListeners(id, units[id].listeners)
    }

    /// Makes a new unit's sockets. A unit that cannot have one is skipped.
    func openFirstListeners(_ id: Int) {
        do { try openListeners(id) } catch { units[id].spec.skipped = units[id].spec.skipped ?? "\(error)" }
    }

    /// Opens the sockets of units that have become active again, and closes those of units that have ended for good: a
    /// client must not wait for a unit that no connection starts.
    func settleListeners() {
        for id in engine.specs.indices where listeners[id] != nil || engine.specs[id].isSocketActivated {
            if !engine.hasSockets(id) {
                try? keepListeners(id, [])
            } else if listeners[id] == nil, engine.states[id] == .listening {
                do { try openListeners(id) } catch {
                    perform { engine, now, actions in
                        engine.handle(.listenFailed(id, reason: "\(error)"), at: now, into: &actions)
                    }
                }
            }
            watchListeners(id)
        }
    }

    private func keepListeners(_ id: Int, _ wanted: [ListenerSpec]) throws(KernelError) {
        var failure: KernelError?
        var kept: [ListenerSpec: Descriptor] = [:]
        for (spec, socket) in listeners[id] ?? [] {
            poller.remove(socket.number)
            if wanted.contains(spec) {
                kept[spec] = socket
            } else {
                // The keeper still holds it for a moment: another may take the path at once.
                if case .local(let path, _) = spec { LocalSocket.remove(path) }
                keeper.discard(.listener(id, checksum("\(spec)".utf8)))
            }
        }
        var open: [(spec: ListenerSpec, socket: Descriptor)] = []
        for spec in wanted {
            if let socket = kept[spec] {
                open.append((spec, socket))
                continue
            }
            do {
                let socket = try listen(spec, units[id].identity)
                keeper.keep(.listener(id, checksum("\(spec)".utf8)), socket)
                open.append((spec, socket))
            } catch {
                failure = failure ?? error
            }
        }
        listeners[id] = open.isEmpty ? nil : open
        watchedListeners.remove(id)
        watchListeners(id)
        if let failure { throw failure }
    }

    private func group(_ name: String) throws(KernelError) -> UInt32 {
        guard let group = UserDatabase.system.group(name) else {
            throw KernelError(call: "find group", subject: name, errno: .noSuchFileOrDirectory)
        }
        return group
    }

    private func listen(_ spec: ListenerSpec, _ identity: Identity?) throws(KernelError) -> Descriptor {
        switch spec {
        case .local(let path, let access):
            let owningGroup = try access.group.map(group) ?? identity?.gid
            let directory = "/" + path.split(separator: "/").dropLast().joined(separator: "/")
            try Files.makeDirectories(directory, mode: 0o755)
            // As systemd's SocketMode: whoever may enter the directory may connect.
            let socket = try LocalSocket.listen(path, mode: access.mode ?? 0o666)
            if let owningGroup {
                // The directory may be another user's, who can put another file in the socket's place.
                let file = try Files.reference(path, followLinks: false)
                defer { withExtendedLifetime(file) {} }
                guard Files.status(of: file)?.kind == .socket else {
                    throw KernelError(call: "listen at", subject: path, errno: .fileExists)
                }
                try Files.changeOwner(of: file.number, uid: identity?.uid ?? 0, gid: owningGroup)
            }
            // As systemd passes them; we never accept ourselves.
            try socket.setNonblocking(false)
            return socket
        case .internet(let address, let port, let transport):
            let endpoint = Endpoint(address.flatMap { IPAddress($0) } ?? .any6, port)
            let socket =
                try transport == .tcp
                ? InternetSocket.listen(endpoint) : InternetSocket.bind(.udp, endpoint)
            try socket.setNonblocking(false)
            return socket
        }
    }

    /// While the unit waits for a connection its sockets are watched, and only then: a connection that its process is
    /// about to take would wake us again and again.
    func watchListeners(_ id: Int) {
        let wants = engine.states.indices.contains(id) && engine.states[id] == .listening
        guard wants != watchedListeners.contains(id) else { return }
        for (_, socket) in listeners[id] ?? [] {
            if wants {
                try? poller.add(socket.number, .readable, token: Token.listeners | UInt64(id))
            } else {
                poller.remove(socket.number)
            }
        }
        if wants { watchedListeners.insert(id) } else { watchedListeners.remove(id) }
    }

    /// Adds the sockets to the unit's process, from descriptor 3 on.
    func passListeners(_ id: Int, _ spawnPlan: inout SpawnPlan) {
        guard let open = listeners[id] else { return }
        spawnPlan.descriptors += open.map(\.socket.number)
        spawnPlan.environment += [
            "LISTEN_FDS=\(open.count)", "LISTEN_PID=0000000000",
            "LISTEN_FDNAMES="
                + open.map { $0.spec.name.map { $0 == ":" ? "_" : String($0) }.joined() }
                .joined(separator: ":"),
        ]
        spawnPlan.writesListenPid = true
    }

    /// The sockets of units that are gone.
    func closeListeners() {
        for (_, open) in listeners {
            for case (.local(let path, _), _) in open { LocalSocket.remove(path) }
        }
        listeners = [:]
    }
}
