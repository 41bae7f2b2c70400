internal import Config
internal import Control
internal import Kernel
internal import SystemPackage

/// A supervisor that follows one which ended without meaning to: it goes on where that one was (``SavedState``), and
/// restarts nothing that still runs.
extension Supervisor {
    /// The units in the places that their records have, then those that have no record yet. A unit that the configuration
    /// no longer has is what its record says.
    ///
    /// A record that is lost is taken for that of the first unit without one.
    static func arrange(_ planned: [PlannedUnit], _ records: [UnitRecord?]) -> (units: [PlannedUnit], isKnown: [Bool]) {
        func key(_ kind: UnitSpec.Kind, _ name: String) -> String { "\(kind.rawValue) \(BoundedName.of(name))" }
        // Of several of one name, the first record is the first one's.
        var places: [String: [Int]] = [:]
        for (place, unit) in planned.enumerated().reversed() {
            places[key(unit.spec.kind, unit.spec.name), default: []].append(place)
        }
        let found = records.map { record in record.flatMap { places[key($0.kind, $0.name)]?.popLast() } }
        let taken = Set(found.compactMap { $0 })
        var others = planned.indices.filter { !taken.contains($0) }[...]
        var isKnown: [Bool] = []
        var units = zip(records, found).map { record, place -> PlannedUnit in
            if let place = place ?? (record == nil ? others.popFirst() : nil) {
                isKnown.append(true)
                return planned[place]
            }
            isKnown.append(false)
            let spec = record?.spec ?? UnitSpec(name: "lost", kind: .task)
            return PlannedUnit(spec: spec, arguments: [], environment: [], directory: "/", limits: [], aspects: [])
        }
        for place in others {
            units.append(planned[place])
            isKnown.append(true)
        }
        return (units, isKnown)
    }

    /// Goes on from what the supervisor before left.
    ///
    /// - Parameter lost: units whose state could not be read: what runs of them ends, and they start again.
    func takeOver(_ kept: [Keeper.Key: Descriptor], isKnown: [Bool], lost: [Int]) {
        isStopAnnounced = engine.isStopping
        events.write([WorkspaceEvent(.takenOver, kind: "workspace")])
        for (key, descriptor) in kept { take(key, descriptor) }
        for id in lost {
            console.notice(
                "\(units[id].spec.name): its state is lost: what runs of it is ended, and it is started again")
            for pid in strays(of: id) { send(.kill, to: pid) }
        }
        for id in units.indices {
            if engine.hasSockets(id) {
                do { try openListeners(id) } catch { console.notice("\(units[id].spec.name): \(error)") }
            }
            if case .running = engine.states[id] {
                killsBefore[id] = cgroups.outOfMemoryKills(cgroups.path(id, units[id].spec.name))
            }
            if case .log(let expression)? = units[id].readiness, case .running = engine.states[id],
                !engine.health[id].isNotified
            {
                readiness[id] = LineMatcher(expression).map { .log($0) }
            }
        }
        var ended: [(place: Int, pid: Int32, status: ExitStatus)] = []
        for (place, job) in saved.jobs.sorted(by: { $0.key < $1.key }) {
            let pid = job.count > 1 ? Int32(job[1]) : nil
            switch job.first {
            case "sync"?: if job.count > 1 { syncs.insert(job[1]) }
            case "stages"?: stages = Array(job.dropFirst())
            case "forwarder"?: forwarderEnds = (job.count > 1 ? Int(job[1]) ?? 0 : 0, place)
            case "wait"?, "await"?, "effect"?: resumeWait(place, job, kept)
            case "exec"?: resumeExecution(place, pid, kept)
            case "prestop"?: resumePreStop(place, job, pid)
            case "ended"?:
                if let pid, job.count > 2, case .exited(let status)? = Ending(text: job[2]) {
                    ended.append((place, pid, status))
                }
            default:
                // Nobody waits for the answer of that probe any more.
                if let pid, pid > 0 { send(.kill, to: -pid) }
                saved.removeJob(place)
            }
        }
        for id in units.indices where !isKnown[id] && !engine.isRemoved[id] {
            perform { engine, now, actions in engine.handle(.removed(id), at: now, into: &actions) }
        }
        for (place, pid, status) in ended {
            childEnded(pid, status)
            saved.removeJob(place)
        }
        perform { engine, now, actions in engine.advance(to: now, into: &actions) }
    }

    private func take(_ key: Keeper.Key, _ descriptor: Descriptor) {
        func watch(_ token: UInt64) { try? poller.add(descriptor.number, .readable, token: token) }
        switch key {
        case .output(let id) where id < units.count:
            try? outputs.watch(id, descriptor)
        case .listener(let id, let sum) where id < units.count:
            if let spec = units[id].listeners.first(where: { checksum("\($0)".utf8) == sum }) {
                listeners[id, default: []].append((spec, descriptor))
            } else {
                keeper.discard(key)
            }
        case .newline(let id) where id < units.count:
            readiness[id] = .newline(reading: descriptor)
            watch(Token.readiness | UInt64(id))
        case .notifications(let id) where id < units.count:
            readiness[id] = .notifications(socket: descriptor)
            watch(Token.readiness | UInt64(id))
        case .control, .client, .metrics: break
        case .flowTable: flowTable = descriptor
        default: keeper.discard(key)
        }
    }

    private func resumeConnection(_ place: Int, _ kept: [Keeper.Key: Descriptor]) -> ServedConnection? {
        guard let socket = kept[.client(place)] else { return nil }
        guard let peer = peer(of: socket) else { return nil }
        let connection = ServedConnection(socket, peer: peer)
        // It was admitted by the supervisor before.
        connection.origin = .known
        clients.add(connection)
        return connection
    }

    private func resumeWait(_ place: Int, _ job: [String], _ kept: [Keeper.Key: Descriptor]) {
        var goal: Waiter.Goal?
        if job.first == "await" {
            goal = job.count > 1 ? .sync(job[1]) : nil
        } else if job.first == "effect" {
            guard job.count == 3, let effect = Effect(rawValue: job[1]) else { return endJob(place) }
            goal = .effect(effect, job[2].split(separator: " ").compactMap { Int($0) }.filter(units.indices.contains))
        } else if job.count == 3, let condition = WaitCondition(rawValue: job[2]),
            let id = units.firstIndex(where: { BoundedName.of($0.spec.name) == job[1] })
        {
            goal = .unit(id, condition)
        }
        guard let goal, let connection = resumeConnection(place, kept) else { return endJob(place) }
        waiters.append(Waiter(connection: connection.descriptor.number, goal: goal, job: place))
    }

    private func resumeExecution(_ place: Int, _ pid: Int32?, _ kept: [Keeper.Key: Descriptor]) {
        let connection = resumeConnection(place, kept)
        guard let pid, pid > 0 else {
            connection?.send(ControlResponse(error: "the supervisor ended before the program was started: try again"))
            return endJob(place)
        }
        executions[pid] = Execution(connection: connection?.descriptor.number ?? -1, job: place)
    }

    /// A job is done: nothing of it is kept any more.
    func endJob(_ place: Int) {
        keeper.discard(.client(place))
        saved.removeJob(place)
    }

    /// What is sent by ring2: the end of a process that an earlier supervisor had started, signals.
    func takeKeeperMessages() {
        while let (message, taken) = keeper.next() {
            switch message {
            case .ended(let pid, let status): childEnded(pid, status)
            case .stopped(let pid): childStopped(pid)
            case .signal(let signal): take(signal)
            default: break
            }
            taken()
        }
    }

    /// Writes what has changed to where the next supervisor finds it.
    func save() {
        for id in units.indices {
            save(UnitRecord(engine, id, statusText: statusTexts[id] ?? ""), of: id)
        }
        if engine.isStopping, !isStopAnnounced {
            isStopAnnounced = true
            events.write([WorkspaceEvent(.stopping, kind: "workspace")])
        }
        saved.save(whole: [hasReported ? "reported" : ""] + engine.phaseFields)
    }

    /// Tells what has changed, and writes it where the next supervisor finds it.
    func save(_ record: UnitRecord, of id: Int) {
        saved.save(record, at: id) { events.write(record.events(since: $0)) }
    }
}

/// A program run by `exec`.
struct Execution {
    /// The connection that waits for its end; -1 when that is gone.
    var connection: Int32
    let job: Int
}
