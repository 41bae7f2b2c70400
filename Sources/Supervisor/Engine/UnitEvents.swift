internal import Config
internal import Control
internal import Kernel

extension UnitRecord {
    /// What happened to a unit between two of its records, in the order in which it must have happened; nil: it was not
    /// known before.
    func events(since old: UnitRecord?) -> [WorkspaceEvent] {
        var events: [WorkspaceEvent] = []
        func add(_ name: WorkspaceEvent.Name, _ fill: (inout WorkspaceEvent) -> Void = { _ in }) {
            var event = WorkspaceEvent(name, kind: kind.rawValue, unit: self.name)
            fill(&event)
            events.append(event)
        }
        let before = old?.state ?? .waiting
        var isNotStarted = false
        if case .notStarted? = lastEnding { isNotStarted = true }
        var isReplaced = false
        if case .running(let pid, let since) = state, case .running(let other, since) = before, pid != other {
            isReplaced = true
            add(.replaced) { $0.pid = pid }
        }
        if let pid = before.pid, pid != state.pid, !isNotStarted, !isReplaced {
            add(.exited) {
                $0.pid = pid
                $0.exitCode = lastEnding?.code
                $0.reason = lastEnding?.description
            }
        }
        // Tried once more and failed in the same way: more failures in a row, or a start that somebody asked for.
        let isTriedAgain = failures > (old?.failures ?? 0) || (restarts != old?.restarts && isAtRest)
        if case .notStarted(let reason, _)? = lastEnding, old?.lastEnding != lastEnding || isTriedAgain {
            add(.notStarted) { $0.reason = reason }
        }
        let isNew = state.pid != nil && state.pid != before.pid && !isReplaced
        if isNew { add(.started) { $0.pid = state.pid } }
        if isReady, isNew || old?.isReady != true { add(.ready) }
        if let isHealthy, isNew || old?.isHealthy != isHealthy {
            add(isHealthy ? .healthy : .unhealthy) { $0.reason = isHealthy ? nil : probeFailure }
        }
        switch (state, before) {
        case (.stopping(let pid, _, _), _):
            if case .stopping(pid, _, _) = before { break }
            add(.stopping) { $0.pid = pid }
        case (.backingOff(let until, let delay, _), _):
            if case .backingOff(until, _, _) = before { break }
            add(.backingOff) { $0.delaySeconds = Double(delay.nanoseconds / 1_000_000) / 1000 }
        case (.listening, .listening), (.ended, .ended), (.skipped, .skipped): break
        case (.listening, _): add(.listening)
        case (.ended(let ending, let byRequest), _): add(byRequest ? .stopped : ending.isSuccess ? .completed : .failed)
        case (.skipped(let reason), _): add(.skipped) { $0.reason = reason }
        case (.waiting, _), (.starting, _), (.running, _), (.leaving, _): break
        }
        if isRemoved, old?.isRemoved == false { add(.removed) }
        return events
    }

    private var isAtRest: Bool { if case .ended = state { true } else { false } }
}
