internal import Kernel

/// A shutdown goes against the dependencies: a unit is asked to end when nothing that needs it has a process any more.
/// Tasks and the command need every service, said or not, so that a task may still use a service while it ends; but for
/// those that a service waits for itself. Each unit gets its stop signal, then SIGKILL after its own grace; the budget
/// for everything ends with SIGKILL for all. It is over when no unit has a process.
extension Engine {
    /// Ends the units whose turn has come, or the shutdown.
    mutating func proceedShutdown(at now: MonotonicInstant, _ actions: inout [Action]) {
        guard case .stopping = phase else { return }
        let busy = specs.indices.filter { states[$0].hasProcess }
        if busy.isEmpty { return finish(&actions) }
        let needed = Set(busy.flatMap { specs[$0].dependencies.map(\.name) })
        let waitedForByServices = Set(
            specs.filter { $0.kind == .service }.flatMap { $0.dependencies.map(\.name) })
        let hasTasks = busy.contains { specs[$0].kind != .service && !waitedForByServices.contains(specs[$0].name) }
        for id in busy.reversed() {
            guard case .running = states[id], !needed.contains(specs[id].name) else { continue }
            if specs[id].kind == .service, hasTasks { continue }
            stop(id, at: now, then: .stay, &actions)
        }
    }

    var shutdownDeadline: MonotonicInstant? {
        guard case .stopping(let deadline, let wasKilled) = phase else { return nil }
        let end = wasKilled ? deadline + .seconds(1) : deadline
        return min(end, stopNews.dueAt ?? end)
    }

    /// The budget is over: everything is killed; a second later it is over in any case.
    mutating func advanceShutdown(at now: MonotonicInstant, _ actions: inout [Action]) {
        guard case .stopping(let deadline, _) = phase else { return }
        if stopNews.isDue(at: now), deadline > now {
            actions.append(.announce("the stop waits for \(waitedFor(at: now))"))
        }
        guard deadline <= now else { return }
        for id in specs.indices {
            switch states[id] {
            case .running(let pid, _), .stopping(let pid, _, _):
                cancelPreStop(id, &actions)
                actions.append(.kill(id, group: pid))
                states[id] = .stopping(pid: pid, killAt: now + .seconds(5), then: .stay)
            case .leaving(let left): settle(id, left, at: now, &actions)
            default: break
            }
        }
        if deadline + .seconds(1) <= now {
            finish(&actions)
        } else {
            phase = .stopping(deadline: deadline, wasKilled: true)
        }
    }

    private mutating func finish(_ actions: inout [Action]) {
        guard phase != .finished else { return }
        phase = .finished
        actions.append(.finish(exitCode))
    }
}
