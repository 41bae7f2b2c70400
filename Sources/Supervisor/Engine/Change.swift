internal import Kernel

/// Units that change while the workspace runs.
extension Engine {
    mutating func add(_ spec: UnitSpec) {
        specs.append(spec)
        states.append(isStopping ? .skipped("the workspace stopped first") : .waiting)
        health.append(UnitHealth())
        restarts.append(0)
        outOfMemoryKills.append(0)
        lastEndings.append(nil)
        backoffs.append(Backoff())
        activations.append(ActivationLimit())
        isRemoved.append(false)
        places = Self.places(specs, isRemoved)
    }

    mutating func redefine(
        _ id: UnitID, _ spec: UnitSpec, at now: MonotonicInstant, _ actions: inout [Action]
    ) {
        let old = specs[id]
        specs[id] = spec
        isRemoved[id] = false
        places = Self.places(specs, isRemoved)
        guard !isStopping else { return }
        backoffs[id] = Backoff()
        switch states[id] {
        case .running(let pid, _):
            // What runs is asked to end in the way that it was started for.
            cancelProbe(id, &actions)
            askToEnd(id, pid, old, &actions)
            states[id] = .stopping(pid: pid, killAt: now + old.stopGrace, then: .start)
        case .stopping, .leaving: states[id] = states[id].followed(by: .start)
        case .starting: break
        case .waiting, .listening, .backingOff, .ended, .skipped:
            if lastEndings[id] != nil { restarts[id] += 1 }
            states[id] = .waiting
        }
    }

    mutating func adjust(_ id: UnitID, _ spec: UnitSpec, at now: MonotonicInstant, _ actions: inout [Action]) {
        let oldCheck = specs[id].healthcheck
        var spec = spec
        // Whether it is skipped is decided at its start.
        spec.skipped = specs[id].skipped
        specs[id] = spec
        guard case .running = states[id], oldCheck != spec.healthcheck else { return }
        cancelProbe(id, &actions)
        let before = health[id]
        health[id].begin(spec, at: now)
        // It is the same process: what it said of itself and what was found once still holds.
        health[id].isNotified = before.isNotified
        health[id].wasHealthy = before.wasHealthy
    }

    mutating func remove(_ id: UnitID, at now: MonotonicInstant, _ actions: inout [Action]) {
        isRemoved[id] = true
        places = Self.places(specs, isRemoved)
        stop(byRequest: id, saying: "no longer wanted", at: now, &actions)
    }
}
