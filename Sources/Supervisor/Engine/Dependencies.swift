internal import Config
internal import Control
internal import Kernel

/// Who waits for whom. Compose's conditions: what depends on a unit starts once that unit was started, is healthy, or has
/// completed with success. A condition counts when it is looked at: a unit that was healthy once and no longer is keeps
/// nobody waiting who started already.
extension Engine {
    /// Where a dependency stands.
    enum Fulfilment: Hashable {
        case met
        /// It may still come.
        case open
        /// As things are it will not; somebody would have to start it anew.
        case failed(String)
        /// The unit is skipped, so that its dependents are too.
        case skipped(String)
    }

    /// The units that are wanted, by name; of several of one name the first.
    static func places(_ specs: [UnitSpec], _ isRemoved: [Bool]) -> [String: UnitID] {
        let wanted = specs.indices.filter { !isRemoved[$0] }.map { (specs[$0].name, $0) }
        return Dictionary(wanted, uniquingKeysWith: { first, _ in first })
    }

    func fulfilment(of dependency: UnitDependency) -> Fulfilment {
        switch requiredFulfilment(of: dependency) {
        case .failed, .skipped: dependency.isRequired ? requiredFulfilment(of: dependency) : .met
        case let found: found
        }
    }

    private func requiredFulfilment(of dependency: UnitDependency) -> Fulfilment {
        guard let id = places[dependency.name] else { return .skipped("there is no \"\(dependency.name)\"") }
        switch states[id] {
        case .listening:
            // Its process has ended before; a connection starts it again.
            switch (dependency.condition, lastEndings[id]) {
            case (_, nil), (.healthy, _): return .open
            case (.started, let last?): return last.wasStarted ? .met : .open
            case (.completedSuccessfully, let last?):
                return last.isSuccess ? .met : .failed("\(dependency.name) failed: \(last)")
            }
        case .waiting, .starting: return .open
        case .skipped(let reason): return .skipped("\(dependency.name) is skipped: \(reason)")
        case .backingOff(_, _, let last): return dependency.condition == .started && last.wasStarted ? .met : .open
        case .running, .stopping, .leaving:
            switch dependency.condition {
            case .started: return .met
            case .healthy: return isHealthy(id) ? .met : .open
            case .completedSuccessfully: return .open
            }
        case .ended(let ending, _):
            switch dependency.condition {
            case .started: return ending.wasStarted ? .met : .failed("\(dependency.name): \(ending)")
            case .completedSuccessfully:
                return ending.isSuccess ? .met : .failed("\(dependency.name) failed: \(ending)")
            case .healthy: return .failed("\(dependency.name) ended: \(ending)")
            }
        }
    }

    /// The units with a process that need one of these, or one that needs them, and are not among them.
    public func dependents(of ids: [UnitID]) -> [UnitID] {
        var all = Set(ids)
        var isChanged = true
        // Each round adds a unit.
        while isChanged {
            let more = specs.indices.filter { !all.contains($0) && states[$0].hasProcess && needs($0, oneOf: all) }
            isChanged = !more.isEmpty
            all.formUnion(more)
        }
        return all.subtracting(ids).sorted()
    }

    /// What has completed is not needed any more once that is so.
    private func needs(_ id: UnitID, oneOf others: Set<UnitID>) -> Bool {
        specs[id].dependencies.contains { dependency in
            guard dependency.isRequired, dependency.condition != .completedSuccessfully,
                let other = places[dependency.name]
            else { return false }
            return others.contains(other) && states[other].hasProcess
        }
    }

    /// Stops those that are to stop, each once none of the others needs it any more.
    mutating func stopWhatMay(at now: MonotonicInstant, _ actions: inout [Action]) {
        for id in toStop.sorted() {
            let isNeeded = specs.indices.contains { $0 != id && isStopping($0) && needs($0, oneOf: [id]) }
            // One that is being started can be asked to end once there is something to ask.
            if isNeeded || states[id] == .starting { continue }
            toStop.remove(id)
            stop(byRequest: id, saying: "stopped before its start", at: now, &actions)
        }
    }

    private func isStopping(_ id: UnitID) -> Bool {
        switch states[id] {
        case .stopping(_, _, .stay): true
        case .leaving(let left): left.next == .stay
        default: toStop.contains(id) && states[id].hasProcess
        }
    }

    /// Where a condition of `workspacekit wait` stands.
    func fulfilment(of condition: WaitCondition, by id: UnitID) -> Fulfilment {
        let name = specs[id].name
        if isRemoved[id], condition != .stopped { return .failed("\(name) is no longer in the configuration") }
        switch states[id] {
        case .ended where condition == .stopped, .skipped where condition == .stopped: return .met
        case _ where condition == .stopped: return .open
        case .skipped(let reason): return .skipped("\(name) is skipped: \(reason)")
        case .waiting:
            return isBlocked(id) ? .failed("\(name) waits in vain: " + waitsFor(id).joined(separator: ", ")) : .open
        case .listening:
            switch (condition, lastEndings[id]) {
            case (.completed, let last?) where last.isSuccess: return .met
            case (.started, let last?) where last.wasStarted: return .met
            default: return .open
            }
        case .starting: return .open
        case .backingOff(_, _, let last): return condition == .started && last.wasStarted ? .met : .open
        case .running, .stopping, .leaving:
            switch condition {
            case .started: return .met
            case .ready: return isReady(id) ? .met : .open
            case .healthy: return isHealthy(id) ? .met : .open
            case .completed, .stopped: return .open
            }
        case .ended(let ending, _):
            switch condition {
            case .completed where ending.isSuccess, .started where ending.wasStarted: return .met
            default: return .failed("\(name) ended: \(ending)")
            }
        }
    }

    /// It waits for something that has failed: as things are it will not start. Somebody may still start that anew.
    public func isBlocked(_ id: UnitID) -> Bool {
        var seen: Set<UnitID> = []
        return isBlocked(id, &seen)
    }

    /// What waits for the blocked is blocked too. Each unit is looked at once, so that this ends whoever waits for whom.
    private func isBlocked(_ id: UnitID, _ seen: inout Set<UnitID>) -> Bool {
        guard states[id] == .waiting, seen.insert(id).inserted else { return false }
        for dependency in specs[id].dependencies {
            if case .failed = fulfilment(of: dependency) { return true }
            if let other = places[dependency.name], isBlocked(other, &seen) { return true }
        }
        return false
    }

    /// What a waiting unit waits for, in words; empty for nothing.
    public func waitsFor(_ id: UnitID) -> [String] {
        specs[id].dependencies.compactMap { dependency in
            switch fulfilment(of: dependency) {
            case .met: nil
            case .open: "\(dependency.name) (\(dependency.condition.word))"
            case .failed(let reason), .skipped(let reason): reason
            }
        }
    }

    /// Starts every waiting unit whose dependencies are met; skips those that could never start. Services come before
    /// tasks: a task is likely to need one.
    mutating func startWhatMay(at now: MonotonicInstant, _ actions: inout [Action]) {
        var isChanged = true
        // Skipping one may skip the next: each round settles at least one unit, so this ends.
        while isChanged {
            isChanged = false
            for wantsService in [true, false] {
                for id in specs.indices where states[id] == .waiting && (specs[id].kind == .service) == wantsService {
                    isChanged = startIfItMay(id, at: now, &actions) || isChanged
                }
            }
        }
    }

    private mutating func startIfItMay(_ id: UnitID, at now: MonotonicInstant, _ actions: inout [Action]) -> Bool {
        if let reason = specs[id].skipped { return skip(id, reason, &actions) }
        for dependency in specs[id].dependencies {
            switch fulfilment(of: dependency) {
            case .met: continue
            case .open:
                // Who needs it is somebody who connects.
                guard let other = places[dependency.name], states[other] == .listening else { return false }
                activate(other, at: now, &actions)
                return true
            case .failed: return false
            case .skipped(let reason): return skip(id, reason, &actions)
            }
        }
        if specs[id].isSocketActivated, lastEndings[id] == nil {
            states[id] = .listening
        } else {
            spawn(id, &actions)
        }
        return true
    }

    private mutating func skip(_ id: UnitID, _ reason: String, _ actions: inout [Action]) -> Bool {
        states[id] = .skipped(reason)
        actions.append(.report(id, "skipped: \(reason)"))
        return true
    }
}
