internal import Config
internal import Control
internal import Kernel
internal import SystemPackage

/// What clients ask over the control socket.
extension Supervisor {
    func answer(_ request: ControlRequest, _ connection: ServedConnection) {
        let isForGuests = [.status, .usage, .metrics, .variables, .netStatus, .ports, .wait, .syncDone, .syncAwait]
            .contains(
                request.verb)
        guard isForGuests || !connection.peer.isGuest else {
            connection.send(ControlResponse(error: "only the workspace's root may do that: try sudo"))
            return
        }
        switch request.verb {
        case .status: connection.send(ControlResponse(status: status()))
        case .variables: answerVariables(request, connection)
        case .netStatus, .netReset: answerForLink(request, connection)
        case .netFlows: answerForFlows(connection)
        case .netCapture: answerForCapture(connection)
        case .metrics:
            var response = ControlResponse()
            response.text = metricsText()
            connection.send(response)
        case .usage:
            var response = ControlResponse()
            response.usage = usage()
            connection.send(response)
        case .stop where request.names == nil:
            connection.send(ControlResponse())
            perform { engine, now, actions in engine.handle(.shutdownRequested, at: now, into: &actions) }
        case .start, .stop, .restart, .signal, .wait, .attach: answerForUnits(request, connection)
        case .ports:
            do {
                var response = ControlResponse()
                response.ports = try ports()
                connection.send(response)
            } catch {
                connection.send(ControlResponse(error: "\(error)"))
            }
        case .syncDone, .syncAwait:
            answerForPoint(request, connection)
        case .tail:
            var response = ControlResponse()
            let asked = logs.filter { request.names?.contains($0.name) == true && !$0.ring.isEmpty }
            response.tails = Dictionary(asked.map { ($0.name, $0.ring) }, uniquingKeysWith: { a, _ in a })
            connection.send(response)
        case .plan:
            connection.send(ControlResponse(plan: readAgain().plan))
        case .reload:
            let (plan, apply) = readAgain()
            apply()
            connection.send(ControlResponse(plan: plan))
            if request.noWait != true { wait(for: .applied, Array(units.indices), connection) }
        case .exec:
            do {
                try execute(request, connection)
            } catch {
                // An unknown user is no program that is missing.
                let isUserKnown = request.user.map { planner.users.identity(for: $0) != nil } ?? true
                connection.send(ControlResponse(error: "\(error)", exitCode: isUserKnown ? error.shellCode : 126))
            }
            connection.received = []
        }
    }

    /// Requests about units that are named: all of them, or an error and none.
    private func answerForUnits(_ request: ControlRequest, _ connection: ServedConnection) {
        var ids: [Int] = []
        for name in request.names ?? [] {
            guard let id = visibleUnits.first(where: { units[$0].spec.name == name }) else {
                let names = visibleUnits.map { units[$0].spec.name }.joined(separator: ", ")
                connection.send(ControlResponse(error: "no unit \"\(name)\" (there are: \(names))"))
                return
            }
            if request.verb == .restart, case .skipped(let reason) = engine.states[id] {
                connection.send(
                    ControlResponse(error: "\(name) is skipped: \(reason). hint: workspacekit reload looks again"))
                return
            }
            ids.append(id)
        }
        switch request.verb {
        case .wait:
            guard let id = ids.first, let condition = request.condition else { break }
            return wait(
                .unit(id, condition), ["wait", BoundedName.of(units[id].spec.name), condition.rawValue], connection)
        case .attach:
            if let id = ids.first { attach(request, id, connection) }
            return
        case .signal:
            guard let signal = request.signal.flatMap({ Signal(name: $0) }) else {
                connection.send(ControlResponse(error: "unknown signal \"\(request.signal ?? "")\""))
                return
            }
            for id in ids {
                guard let pid = engine.states[id].pid else {
                    connection.send(ControlResponse(error: "\(units[id].spec.name) has no process"))
                    return
                }
                send(signal, to: request.mainOnly == true ? pid : -pid)
            }
        default:
            if request.verb == .stop {
                let others = engine.dependents(of: ids)
                guard others.isEmpty || request.force == true else {
                    let names = others.map { units[$0].spec.name }.joined(separator: ", ")
                    let verb = others.count == 1 ? "needs" : "need"
                    connection.send(
                        ControlResponse(error: "\(names) \(verb) what is to stop: name \(names) too, or use --force"))
                    return
                }
                ids += others
                perform { engine, now, actions in engine.handle(.stopRequested(ids), at: now, into: &actions) }
                if request.noWait != true { return wait(for: .stopped, ids, connection) }
                connection.send(ControlResponse())
                return
            }
            if request.runsInit == true, let problem = forgetInit(of: ids) {
                connection.send(ControlResponse(error: problem))
                return
            }
            perform { engine, now, actions in
                for id in ids {
                    switch request.verb {
                    case .start: engine.handle(.startRequested(id), at: now, into: &actions)
                    default: engine.handle(.restartRequested(id), at: now, into: &actions)
                    }
                }
            }
            if request.noWait != true { return wait(for: .started, ids, connection) }
        }
        connection.send(ControlResponse())
    }

    /// Answers when a request has taken effect. The units are kept by their numbers, which outlive the supervisor.
    private func wait(for effect: Effect, _ ids: [Int], _ connection: ServedConnection) {
        wait(
            .effect(effect, ids), ["effect", effect.rawValue, ids.map(String.init).joined(separator: " ")], connection)
    }

    func wait(_ goal: Waiter.Goal, _ fields: [String], _ connection: ServedConnection) {
        if let refusal = refusalToWait(connection) { return connection.send(ControlResponse(error: refusal)) }
        let job = saved.add(fields)
        keeper.keep(.client(job), connection.descriptor)
        waiters.append(Waiter(connection: connection.descriptor.number, goal: goal, job: job))
        answerWaiters()
    }

    private func fulfilment(of goal: Waiter.Goal) -> Engine.Fulfilment {
        switch goal {
        case .unit(let id, let condition): engine.fulfilment(of: condition, by: id)
        case .effect(let effect, let ids): engine.fulfilment(of: effect, on: ids)
        case .sync(let name): fulfilment(ofSync: name)
        }
    }

    /// Tells those who wait what has come to pass.
    func answerWaiters() {
        waiters.removeAll { waiter in
            guard let connection = clients[waiter.connection] else {
                endJob(waiter.job)
                return true
            }
            switch fulfilment(of: waiter.goal) {
            case .open: return false
            case .met: connection.send(ControlResponse())
            case .failed(let reason), .skipped(let reason): connection.send(ControlResponse(error: reason))
            }
            endJob(waiter.job)
            return true
        }
    }

    private func execute(_ request: ControlRequest, _ connection: ServedConnection) throws(KernelError) {
        guard let command = request.command, !command.isEmpty else {
            throw KernelError(call: "execute", subject: "nothing", errno: .invalidArgument)
        }
        // Of now: a task may have added a user.
        var planner = self.planner
        planner.users = .system
        var identity: Identity?
        if let user = request.user {
            guard let found = planner.users.identity(for: user) else {
                throw KernelError(call: "find user", subject: user, errno: .invalidArgument)
            }
            identity = found
        }
        let environment =
            planner.withGitSettings(planner.environment(for: identity, adding: [])) + (request.environment ?? [])
        var spawnPlan = SpawnPlan(command: command, environment: environment)
        spawnPlan.directory = planner.inWorkspace(request.directory ?? "")
        spawnPlan.identity = identity
        spawnPlan.newSession = true
        spawnPlan.entered = namespaces
        spawnPlan.limits = [planner.coreLimit]
        var answerDescriptors: [Descriptor] = []
        var held: [Descriptor] = []
        if request.terminal == true {
            let (master, terminal) = try Terminal.open(rows: request.rows ?? 24, columns: request.columns ?? 80)
            if let identity { try? Files.changeOwner(of: terminal.number, uid: identity.uid, gid: identity.gid) }
            spawnPlan.descriptors = [terminal.number, terminal.number, terminal.number]
            spawnPlan.controllingTerminal = 0
            answerDescriptors = [master]
            held = [terminal]
        } else {
            guard connection.received.count >= 3 else {
                throw KernelError(call: "execute", subject: "without standard streams", errno: .badFileDescriptor)
            }
            held = Array(connection.received.prefix(3))
            spawnPlan.descriptors = held.map(\.number)
            // As runc does. A pipe is the caller's for this alone; a file or a terminal stays whose it is.
            for stream in held where Files.linkTarget("/proc/self/fd/\(stream.number)")?.hasPrefix("pipe:[") == true {
                guard let identity else { break }
                try? Files.changeOwner(of: stream.number, uid: identity.uid, gid: identity.gid)
            }
        }
        let job = saved.add(["exec", "0"])
        keeper.keep(.client(job), connection.descriptor)
        let pid: Int32
        do {
            pid = try spawn(spawnPlan) { [saved] (pid) throws(KernelError) in
                saved.replaceJob(job, ["exec", "\(pid)"])
            }
        } catch {
            endJob(job)
            throw error
        }
        withExtendedLifetime(held) {}
        executions[pid] = Execution(connection: connection.descriptor.number, job: job)
        connection.send(ControlResponse(), descriptors: answerDescriptors)
    }

    func finishExecution(_ pid: Int32, _ status: ExitStatus) {
        guard let execution = executions.removeValue(forKey: pid) else { return }
        clients[execution.connection]?.send(ControlResponse(exitCode: status.code))
        endJob(execution.job)
    }

    /// All but those that the configuration no longer has, once they ended.
    var visibleUnits: [Int] {
        units.indices.filter { id in
            if !engine.isRemoved[id] { return true }
            switch engine.states[id] {
            case .running, .stopping, .leaving: return true
            default: return false
            }
        }
    }

    func status() -> WorkspaceStatus {
        let now = MonotonicInstant.now
        func seconds(_ duration: Duration) -> Double { Double(duration.nanoseconds / 1_000_000) / 1000 }
        let list = visibleUnits.map { id in
            var unit = UnitStatus(
                name: units[id].spec.name, kind: units[id].spec.kind.rawValue, state: "", restarts: engine.restarts[id])
            unit.exitCode = engine.lastEndings[id]?.code
            if units[id].hasTerminal { unit.hasTerminal = true }
            unit.reason = engine.lastEndings[id]?.description
            if case .outOfMemory? = engine.lastEndings[id] { unit.isOutOfMemory = true }
            unit.outOfMemoryKills = engine.outOfMemoryKills[id]
            switch engine.states[id] {
            case .waiting, .starting:
                unit.state = engine.isBlocked(id) ? "blocked" : "waiting"
                unit.waitsFor = engine.waitsFor(id)
            case .listening: unit.state = "listening"
            case .running(let pid, let since):
                unit.state = "running"
                unit.isReady = engine.isReady(id)
                if engine.specs[id].healthcheck != nil { unit.isHealthy = engine.health[id].isHealthy }
                unit.probeFailure = engine.health[id].lastFailure
                unit.statusText = statusTexts[id]
                unit.pid = pid
                unit.uptimeSeconds = seconds(now - since)
            case .backingOff(let until, let delay, _):
                unit.state = "backing off"
                unit.backoffSeconds = seconds(delay)
                unit.nextTrySeconds = max(0, seconds(until - now))
            case .stopping(let pid, let killAt, _):
                unit.state = "stopping"
                unit.pid = pid
                unit.killSeconds = max(0, seconds(killAt - now))
            case .leaving(let left):
                unit.state = "stopping"
                unit.killSeconds = max(0, seconds(left.killAt - now))
            case .ended(let ending, let byRequest):
                unit.state = byRequest ? "stopped" : ending.isSuccess ? "completed" : "failed"
            case .skipped(let reason):
                unit.state = "skipped"
                unit.reason = reason
            }
            return unit
        }
        var status = WorkspaceStatus(
            state: engine.isStopping ? "stopping" : "running", isolation: plan.isolation, units: list)
        if let link = plan.link { status.problems = link.problems(resolver) }
        if status.problems?.isEmpty == true { status.problems = nil }
        status.rootOutside = substituteRoot(Files.text("/proc/self/uid_map") ?? "")
        if forwarderEnds.count > 0 { status.forwarderRestarts = forwarderEnds.count }
        return status
    }
}

/// A client that waits for something.
struct Waiter {
    enum Goal {
        case unit(Int, WaitCondition)
        /// A request for units takes effect.
        case effect(Effect, [Int])
        /// A point that a task reaches.
        case sync(String)
    }
    let connection: Int32
    let goal: Goal
    let job: Int
}
