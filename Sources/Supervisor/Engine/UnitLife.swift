internal import Config
internal import Kernel

/// One unit from the start of its process to what follows its end.
extension Engine {
    /// Asks for the unit's process.
    mutating func spawn(_ id: UnitID, _ actions: inout [Action]) {
        states[id] = .starting
        actions.append(.spawn(id))
    }

    mutating func exited(
        _ pid: Int32, _ ending: Ending, at now: MonotonicInstant, _ actions: inout [Action]
    ) {
        for id in specs.indices {
            var ending = ending
            if case .exited(let status) = ending, specs[id].successCodes.contains(status.code) {
                ending = .succeeded(status)
            }
            switch states[id] {
            case .running(pid, let since):
                if specs[id].kind == .service { actions.append(.kill(id, group: pid)) }
                cancelProbe(id, &actions)
                if case .outOfMemory = ending { outOfMemoryKills[id] += 1 }
                return ended(id, ending, uptime: now - since, at: now, &actions)
            case .stopping(pid, let killAt, let next):
                cancelPreStop(id, &actions)
                lastEndings[id] = ending
                if specs[id].kind == .command { exitCode = ending.code }
                let left = Leftovers(
                    group: pid, killAt: killAt, lookAt: now + Leftovers.lookInterval, next: next, ending: ending)
                // Its main process has waited for those that it wanted to wait for.
                if specs[id].stopsMainOnly { return settle(id, left, at: now, &actions) }
                states[id] = .leaving(left)
                return actions.append(.lookForGroup(id, group: pid))
            default: continue
            }
        }
    }

    mutating func advance(
        _ id: UnitID, _ left: Leftovers, at now: MonotonicInstant, _ actions: inout [Action]
    ) {
        if left.killAt <= now {
            actions.append(.report(id, "left processes that did not end within its grace: killed"))
            settle(id, left, at: now, &actions)
        } else if left.lookAt <= now {
            var left = left
            left.lookAt = now + Leftovers.lookInterval
            states[id] = .leaving(left)
            actions.append(.lookForGroup(id, group: left.group))
        }
    }

    /// A unit that was asked to end has ended, its group with it or by force; whatever escaped from that goes too.
    mutating func settle(_ id: UnitID, _ left: Leftovers, at now: MonotonicInstant, _ actions: inout [Action]) {
        actions.append(.kill(id, group: left.group))
        states[id] = .ended(left.ending, byRequest: true)
        if isStopping { return }
        switch left.next {
        case .stay: break
        case .start:
            restarts[id] += 1
            states[id] = .waiting
        case .unhealthy, .notReady:
            // Not its uptime counts but that it was unhealthy: else a service that fails late would never slow down.
            states[id] = .waiting
            let status = left.ending.status ?? .exited(1)
            let ending: Ending =
                left.next == .notReady ? .notReady(status) : .unhealthy(status, because: health[id].lastFailure ?? "")
            ended(id, ending, uptime: .zero, at: now, &actions)
        }
    }

    mutating func ended(
        _ id: UnitID, _ ending: Ending, uptime: Duration, at now: MonotonicInstant, _ actions: inout [Action]
    ) {
        let spec = specs[id]
        lastEndings[id] = ending
        let again: Bool =
            switch spec.restart {
            case .no: false
            case .always, .unlessStopped: true
            case .onFailure: !ending.isSuccess
            }
        if again, !isStopping, !isRemoved[id] {
            if case .onFailure(let limit) = spec.restart, backoffs[id].failures(ranFor: uptime) >= limit {
                actions.append(.report(id, "\(ending): given up after \(limit) failures in a row"))
            } else {
                let delay = backoffs[id].next(ranFor: uptime, random: nextRandom())
                return backOff(id, ending, delay, at: now, &actions)
            }
        } else if listensAgain(id, after: ending) {
            states[id] = .listening
            return actions.append(.report(id, "\(ending): listening again"))
        } else if spec.kind != .command, !ending.isSuccess || spec.kind == .service {
            actions.append(.reportEnd(id, ending))
        }
        if case .notStarted(let reason, _) = ending, spec.kind == .command { actions.append(.report(id, reason)) }
        finish(id, ending, at: now, &actions)
    }

    /// Tries again after a delay.
    mutating func backOff(
        _ id: UnitID, _ ending: Ending, _ delay: Duration, at now: MonotonicInstant, _ actions: inout [Action]
    ) {
        lastEndings[id] = ending
        states[id] = .backingOff(until: now + delay, delay: delay, last: ending)
        actions.append(.report(id, "\(ending): next start in \(format(delay))"))
    }

    /// Ends a unit for good that has no process, whatever its policy.
    mutating func end(_ id: UnitID, _ ending: Ending, at now: MonotonicInstant, _ actions: inout [Action]) {
        lastEndings[id] = ending
        actions.append(.reportEnd(id, ending))
        finish(id, ending, at: now, &actions)
    }

    private mutating func finish(
        _ id: UnitID, _ ending: Ending, at now: MonotonicInstant, _ actions: inout [Action]
    ) {
        states[id] = .ended(ending, byRequest: false)
        guard specs[id].kind == .command || specs[id].isEssential, !isRemoved[id], !isStopping else { return }
        // A unit that was stopped for a failure may have exited with 0.
        let code = ending.isSuccess ? ending.code : max(ending.code, 1)
        if specs[id].isEssential {
            actions.append(
                .announce(
                    "\(specs[id].name) is essential and has ended (\(ending)): the workspace ends with exit code \(code)"
                ))
        }
        beginShutdown(code: code, at: now, &actions)
    }

    /// Asks a running unit to end.
    mutating func stop(
        _ id: UnitID, at now: MonotonicInstant, then next: AfterStop, _ actions: inout [Action]
    ) {
        guard case .running(let pid, _) = states[id] else { return }
        cancelProbe(id, &actions)
        askToEnd(id, pid, specs[id], &actions)
        states[id] = .stopping(pid: pid, killAt: now + specs[id].stopGrace, then: next)
    }

    /// The way in which a process that was started by `spec` is asked to end.
    mutating func askToEnd(_ id: UnitID, _ pid: Int32, _ spec: UnitSpec, _ actions: inout [Action]) {
        if spec.hasPreStop {
            preStopping.insert(id)
            actions.append(.preStop(id))
        } else {
            actions.append(stopSignal(spec, pid))
        }
    }

    func stopSignal(_ spec: UnitSpec, _ pid: Int32) -> Action {
        spec.stopsMainOnly ? .signalMain(pid: pid, spec.stopSignal) : .signal(pid: pid, spec.stopSignal)
    }

    /// Whatever was to run first is not waited for any more.
    mutating func cancelPreStop(_ id: UnitID, _ actions: inout [Action]) {
        if preStopping.remove(id) != nil { actions.append(.cancelPreStop(id)) }
    }
}
