internal import Kernel

/// What a client of `start`, `stop`, `restart` or `reload` waits for: the request has taken effect.
///
/// As with systemctl: a start has taken effect when the unit runs (and has said that it is ready, where that is asked of
/// it), a stop when the last process of the unit has ended. A healthcheck is not waited for: `wait --for healthy` is.
enum Effect: String, Hashable {
    case started, stopped
    /// An edit: whatever was to stop has stopped, whatever can start has started.
    case applied
}

extension Engine {
    /// How far a request for several units has taken effect.
    func fulfilment(of effect: Effect, on ids: [UnitID]) -> Fulfilment {
        let each = ids.map { fulfilment(of: effect, on: $0) }
        if each.contains(.open) { return .open }
        let reasons = each.compactMap { found -> String? in
            switch found {
            case .failed(let reason), .skipped(let reason): reason
            case .met, .open: nil
            }
        }
        return reasons.isEmpty ? .met : .failed(reasons.joined(separator: "; "))
    }

    private func fulfilment(of effect: Effect, on id: UnitID) -> Fulfilment {
        if toStop.contains(id) { return .open }
        switch (states[id], effect) {
        case (.starting, _), (.stopping, _), (.leaving, _): return .open
        case (_, .applied), (.ended, .stopped), (.skipped, .stopped): return .met
        // Started again meanwhile, by another client.
        case (_, .stopped): return .met
        case (_, .started): return fulfilmentOfStart(id)
        }
    }

    private func fulfilmentOfStart(_ id: UnitID) -> Fulfilment {
        let name = specs[id].name
        switch states[id] {
        case .starting, .stopping, .leaving: return .open
        case .waiting:
            return isBlocked(id) ? .failed("\(name) waits in vain: " + waitsFor(id).joined(separator: ", ")) : .open
        case .running: return specs[id].awaitsReadiness && !health[id].isNotified ? .open : .met
        case .listening: return .met
        case .backingOff(_, let delay, let last):
            return .failed("\(name): \(last): the next start is in \(format(delay))")
        case .ended(let ending, let byRequest):
            if byRequest { return .failed("\(name) was stopped") }
            return isFailureToStart(ending, id) ? .failed("\(name): \(ending)") : .met
        case .skipped(let reason):
            return .skipped("\(name) is skipped: \(reason). hint: workspacekit reload looks again")
        }
    }

    /// A unit that ran and ended has been started; one that was to say that it is ready and did not, has not.
    private func isFailureToStart(_ ending: Ending, _ id: UnitID) -> Bool {
        !ending.wasStarted || (specs[id].awaitsReadiness && !health[id].isNotified)
    }
}
