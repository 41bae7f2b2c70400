internal import Config
internal import Control
internal import Kernel

/// `gp sync-done NAME` and `gp sync-await NAME`: points of a task that others wait for.
///
/// Who waits need not wait for ever (as with Gitpod, where nothing ends the wait but the call): the task whose text has the
/// call is known, so its end counts, and so does a phase with it that this start leaves out.
extension Supervisor {
    /// How many points there may be: users of the workspace make them up.
    private static let syncLimit = 1024

    /// The point is reached, for good; the reason where that cannot be kept.
    func synchronize(_ name: String) -> String? {
        let name = BoundedName.of(name)
        guard !syncs.contains(name) else { return nil }
        guard syncs.count < Self.syncLimit else { return "\(Self.syncLimit) names are all that are kept" }
        syncs.insert(name)
        _ = saved.add(["sync", name])
        answerWaiters()
        return nil
    }

    /// - Parameter name: a bounded name.
    func fulfilment(ofSync name: String) -> Engine.Fulfilment {
        if syncs.contains(name) { return .met }
        let partners = reading.configuration.tasks.indices.compactMap { partner($0, of: name) }
        if partners.contains(.met) { return .met }
        return partners.contains(.open) ? .open : partners.first ?? .open
    }

    /// Where the point stands as far as one task can reach it; nil when it does not.
    private func partner(_ index: Int, of name: String) -> Engine.Fulfilment? {
        let task = reading.configuration.tasks[index]
        let unitName = taskName(task, index)
        let inInit = callsSyncDone(task.initialize ?? "", name)
        let elsewhere = [task.before, task.command].contains { callsSyncDone($0 ?? "", name) }
        guard inInit || elsewhere,
            let id = units.indices.first(where: {
                units[$0].spec.kind == .task && units[$0].spec.name == unitName && !engine.isRemoved[$0]
            })
        else { return nil }
        // `init` has succeeded, now or at an earlier start.
        if inInit, !elsewhere, let task = units[id].task, !task.isPrebuild, task.marker?.state != .pending {
            return .met
        }
        switch engine.states[id] {
        case .ended(let ending, _):
            return ending.isSuccess ? .met : .failed("\(unitName), which was to call sync-done, failed: \(ending)")
        case .skipped(let reason): return .failed("\(unitName), which was to call sync-done, is skipped: \(reason)")
        default: return .open
        }
    }
}

/// Whether a shell text has the call `sync-done NAME`, the name quoted or not.
func callsSyncDone(_ text: String, _ name: String) -> Bool {
    let words = text.split { " \t\n;&|(){}".contains($0) }.map { $0.filter { $0 != "\"" && $0 != "'" } }
    return zip(words, words.dropFirst()).contains { $0 == "sync-done" && BoundedName.of($1) == name }
}
