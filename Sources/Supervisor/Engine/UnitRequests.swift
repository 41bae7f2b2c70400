internal import Config
internal import Kernel

/// What somebody asks of one unit: to start, to stop, to start anew.
extension Engine {
    mutating func start(byRequest id: UnitID, _ actions: inout [Action]) {
        var seen: Set<UnitID> = []
        start(byRequest: id, &seen, &actions)
    }

    /// What it needs starts with it. Each unit is looked at once, so that this ends whoever waits for whom.
    private mutating func start(byRequest id: UnitID, _ seen: inout Set<UnitID>, _ actions: inout [Action]) {
        guard !isStopping, !isRemoved[id], seen.insert(id).inserted else { return }
        toStop.remove(id)
        for dependency in specs[id].dependencies where dependency.isRequired {
            guard let other = places[dependency.name], specs[other].skipped == nil else { continue }
            switch states[other] {
            case .ended(let ending, _) where dependency.condition != .completedSuccessfully || !ending.isSuccess:
                start(byRequest: other, &seen, &actions)
            case .skipped: start(byRequest: other, &seen, &actions)
            default: break
            }
        }
        switch states[id] {
        case .listening: spawn(id, &actions)
        case .backingOff, .ended, .skipped:
            backoffs[id] = Backoff()
            if lastEndings[id] != nil { restarts[id] += 1 }
            states[id] = .waiting
        case .stopping(_, _, .stay): states[id] = states[id].followed(by: .start)
        case .leaving(let left) where left.next == .stay: states[id] = states[id].followed(by: .start)
        case .waiting, .starting, .running, .stopping, .leaving: break
        }
    }

    /// Ends the unit for good; `reason` is what is said of one that never started.
    mutating func stop(
        byRequest id: UnitID, saying reason: String, at now: MonotonicInstant, _ actions: inout [Action]
    ) {
        switch states[id] {
        case .running: stop(id, at: now, then: .stay, &actions)
        case .stopping, .leaving: states[id] = states[id].followed(by: .stay)
        case .backingOff(_, _, let last): states[id] = .ended(last, byRequest: true)
        case .waiting, .listening: states[id] = unstarted(id, reason)
        case .starting, .ended, .skipped: break
        }
    }

    /// The state of a unit that is not started any more: how it ended last, or why it never started.
    func unstarted(_ id: UnitID, _ reason: String) -> UnitState {
        lastEndings[id].map { .ended($0, byRequest: true) } ?? .skipped(reason)
    }

    mutating func restart(_ id: UnitID, at now: MonotonicInstant, _ actions: inout [Action]) {
        guard !isStopping, !isRemoved[id] else { return }
        toStop.remove(id)
        switch states[id] {
        case .running: stop(id, at: now, then: .start, &actions)
        case .stopping, .leaving: states[id] = states[id].followed(by: .start)
        case .listening, .backingOff, .ended: start(byRequest: id, &actions)
        case .waiting, .starting, .skipped: break
        }
    }
}
