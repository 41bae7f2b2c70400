internal import Control
internal import Kernel

/// # Theory of operation
///
/// The connections of the control socket and the order in which they are served. Any user of the workspace may connect and send
/// what they like, so each user has bounds, and time goes round:
///
/// * A user has a number of connections, and of waits; so has the container's own user outside, who always finds room.
/// * Each turn serves one request after the other, those of the workspace's root first, each client once before any client
///   twice, until ``timePerTurn`` has passed. What is left comes in the next turn, after everything else that has happened.
final class ControlClients {
    /// How long a turn of the loop may serve requests.
    static let timePerTurn = Duration.milliseconds(10)
    /// Waits that one connection may have at the same time, and one user, and all.
    static let waitsPerConnection = 16, waitsPerUser = 256, waitsInAll = 1024
    /// Points of `sync-done` that one user may name who is not the workspace's root.
    static let pointsPerGuest = 256

    private var connections: [Int32: ServedConnection] = [:]
    private var counts: [ControlPeer: Int] = [:]
    /// Connections with something to read, which wait for their turn: of the workspace's root, and of others.
    private var owners: [Int32] = [], guests: [Int32] = []
    private var isWaitingForTurn: Set<Int32> = []
    /// Questions to ring0 are numbered: a descriptor's number may be another client's when the answer comes.
    var lastAsked = 0
    private var points: [ControlPeer: Int] = [:]
    private let perUser: Int, perGuest: Int, guestsInAll: Int

    /// - Parameter descriptors: how many descriptors the process may have.
    init(descriptors: Int) {
        perUser = min(256, max(8, descriptors / 8))
        perGuest = min(64, max(4, descriptors / 32))
        guestsInAll = min(256, max(8, descriptors / 8))
    }

    /// Whether there is none.
    var isEmpty: Bool { connections.isEmpty }

    /// The connection with that number.
    subscript(number: Int32) -> ServedConnection? { connections[number] }

    /// Takes the client in; false when its user has as many connections as one may have.
    func admit(_ connection: ServedConnection) -> Bool {
        let peer = connection.peer
        let others = counts.reduce(0) { $0 + ($1.key.isGuest ? $1.value : 0) }
        let hasRoom =
            peer.isGuest
            ? counts[peer, default: 0] < perGuest && others < guestsInAll : counts[peer, default: 0] < perUser
        guard hasRoom else { return false }
        add(connection)
        return true
    }

    /// Takes in a client of the supervisor before, which had admitted it.
    func add(_ connection: ServedConnection) {
        connections[connection.descriptor.number] = connection
        counts[connection.peer, default: 0] += 1
    }

    /// Lets the client go.
    func remove(_ number: Int32) {
        guard let connection = connections.removeValue(forKey: number) else { return }
        isWaitingForTurn.remove(number)
        let left = counts[connection.peer, default: 1] - 1
        counts[connection.peer] = left > 0 ? left : nil
    }

    /// There is something to read: the client is served when its turn comes.
    func arrived(_ number: Int32) {
        guard let connection = connections[number], isWaitingForTurn.insert(number).inserted else { return }
        if connection.peer.isGuest { guests.append(number) } else { owners.append(number) }
    }

    /// The client whose turn it is.
    func next() -> ServedConnection? {
        while let number = owners.isEmpty ? guests.first : owners.first {
            if owners.isEmpty { guests.removeFirst() } else { owners.removeFirst() }
            // A number may stand here from a connection that is gone.
            if isWaitingForTurn.remove(number) != nil, let connection = connections[number] { return connection }
        }
        return nil
    }

    /// Whether a client waits for its turn.
    var hasWork: Bool { !isWaitingForTurn.isEmpty }

    /// Sends what can be sent, and has the poller say what each client waits for; the numbers of those that are gone.
    func settle(_ poller: borrowing Poller, token: UInt64) -> [Int32] {
        var broken: [Int32] = []
        for (number, connection) in connections {
            let wasDrained = connection.isDrained
            connection.settle(
                poller, token: token | UInt64(UInt32(bitPattern: number)),
                isWaitingForTurn: isWaitingForTurn.contains(number))
            if connection.isBroken { broken.append(number) }
            // The rest of what it had sent was left until its answer had gone.
            if !wasDrained, connection.isDrained, connection.hasInput { arrived(number) }
        }
        return broken
    }

    /// Counts a point that a user names; false when the user has named as many as one may.
    func namesPoint(_ peer: ControlPeer) -> Bool {
        guard !peer.isGuest || points[peer, default: 0] < Self.pointsPerGuest else { return false }
        points[peer, default: 0] += 1
        return true
    }
}

extension Supervisor {
    func acceptConnections() {
        for _ in 0..<64 {
            guard let socket = LocalSocket.accept(listener.number) else { return }
            guard let peer = peer(of: socket) else {
                refuse(socket, "the workspace belongs to another user")
                continue
            }
            let connection = ServedConnection(socket, peer: peer)
            if !clients.admit(connection) {
                refuse(socket, "too many connections of this user: close some, or wait")
                continue
            }
            askForOrigin(connection)
        }
    }

    private static let foreignClient = "refused: this comes from another workspace, or from a user namespace inside"

    /// Has ring0 find out whether a client that is not in the workspace is in ring0's user namespace.
    private func askForOrigin(_ connection: ServedConnection) {
        guard plan.hasNamespaces else {
            connection.origin = .known
            return
        }
        let number = connection.descriptor.number
        guard !connection.peer.isInside, let handle = LocalSocket.peerHandle(number) else { return }
        clients.lastAsked += 1
        let question = ChannelMessage("client", ["\(number)", "\(clients.lastAsked)"], descriptors: [handle])
        guard (try? report.send(question)) != nil else { return }
        connection.origin = .asked
        connection.question = clients.lastAsked
    }

    /// What ring0 found: the client's descriptor, the question, and a ``Kinship``.
    func takeOrigin(_ fields: [String]) {
        guard fields.count == 3, let number = Int32(fields[0]), let connection = clients[number],
            connection.origin == .asked, connection.question == Int(fields[1])
        else { return }
        switch Kinship(rawValue: fields[2]) {
        case .equal?: connection.origin = .known
        case .below?:
            // It must not use up the connections of the user who started the workspace, and has the same id.
            connection.send(ControlResponse(error: Self.foreignClient))
            return endConnection(number)
        case .unknown?, nil: connection.origin = .unknown
        }
        clients.arrived(number)
    }

    private func refuse(_ socket: Descriptor, _ reason: String) {
        ServedConnection(socket, peer: ControlPeer(uid: 0, isInside: true, isGuest: true)).send(
            ControlResponse(error: reason))
    }

    /// Whoever runs the workspace may do everything: its root, who is the caller of `run`, inside and outside. Other users of
    /// the workspace, who have a number in its PID namespace, are guests, who may look and wait; any other user is refused.
    ///
    /// Ids are the same in each workspace of a container, so they do not say which one a process is of: its user namespace does.
    func peer(of socket: Descriptor) -> ControlPeer? {
        guard let peer = LocalSocket.peer(socket.number) else { return nil }
        let isInside: Bool
        if let users = namespaces.first.flatMap({ Files.status("/proc/self/fd/\($0)") }) {
            isInside = LocalSocket.peerUserNamespace(socket.number)?.isSameFile(as: users) == true
        } else {
            isInside = peer.pid != 0
        }
        if peer.uid == plan.owner {
            return ControlPeer(uid: peer.uid, isInside: isInside, isGuest: false)
        }
        guard CurrentProcess.parent == 1, isInside else { return nil }
        return ControlPeer(uid: peer.uid, isInside: true, isGuest: true)
    }

    /// Whether the client may ask. What is not in the workspace shows that it is in ring0's user namespace, by a descriptor of that.
    ///
    /// KERNEL: a process opens its own user namespace and, with ioctl_ns(2), those below it, never the one above.
    private func mayAsk(_ request: ControlRequest, _ connection: ServedConnection) -> Bool {
        let proof = request.hasProof == true ? connection.received.popLast() : nil
        if connection.origin == .unknown, let proof, Files.status(of: proof)?.identity == plan.outside {
            connection.origin = .known
        }
        return connection.origin == .known
    }

    /// Serves clients in turn, for as long as a turn of the loop may.
    func serveClients() {
        let end = MonotonicInstant.now + ControlClients.timePerTurn
        while let connection = clients.next() {
            switch connection.next() {
            case .nothingYet: break
            case .closed: endConnection(connection.descriptor.number)
            case .line(let line):
                let request = ControlConnection.decode(ControlRequest.self, line)
                if let request, mayAsk(request, connection) {
                    answer(request, connection)
                } else {
                    var response = ControlResponse(error: request == nil ? "not understood" : Self.foreignClient)
                    if request != nil, connection.origin == .unknown { response.wantsProof = true }
                    connection.send(response)
                }
                // Descriptors are passed with the request that takes them.
                if !connection.hasInput { connection.received = [] }
                clients.arrived(connection.descriptor.number)
            }
            if end <= .now { return }
        }
    }

    /// At the end of a turn: what is to be sent is sent, and who is gone is let go.
    func settleClients() {
        for number in clients.settle(poller, token: Token.connection) { endConnection(number) }
    }

    func endConnection(_ number: Int32) {
        clients[number]?.end(poller)
        clients.remove(number)
        viewers.removeAll { $0.connection == number }
        // The number is the next connection's: nothing of this one may be left under it.
        waiters.removeAll {
            if $0.connection == number { endJob($0.job) }
            return $0.connection == number
        }
        // Whoever waited for a program is gone: the program is told so, as by a closed terminal.
        for (pid, execution) in executions where execution.connection == number {
            send(.hangup, to: -pid)
            executions[pid]?.connection = -1
            keeper.discard(.client(execution.job))
        }
        // Answers need much code that is needed for nothing else.
        if clients.isEmpty { CurrentProcess.releaseCode() }
    }

    /// Why the client may not wait for one thing more; nil when it may.
    func refusalToWait(_ connection: ServedConnection) -> String? {
        let number = connection.descriptor.number
        let ofConnection = waiters.count { $0.connection == number }
        let ofUser = waiters.count { clients[$0.connection]?.peer == connection.peer }
        if ofConnection >= ControlClients.waitsPerConnection { return "too many waits on one connection" }
        if ofUser >= ControlClients.waitsPerUser || waiters.count >= ControlClients.waitsInAll {
            return "too many waits of this user: end some"
        }
        return nil
    }
}
