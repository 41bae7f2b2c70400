internal import Config
internal import Control
internal import Kernel

/// `gp sync-done NAME` and `gp sync-await NAME`: points of a task that others wait for.
///
/// Who waits need not wait for ever (as with Gitpod, where nothing ends the wait but the call): the task whose text has the
/// call is known, so its end counts, and so does a phase with it that this start leaves out.
extension Supervisor {
    /// The number of points that there may be: users of the workspace make them up.
    private static let syncLimit = 1024

    /// `syncDone` and `syncAwait`. A user names a bounded number of points, which are kept for good.
    func answerForPoint(_ request: ControlRequest, _ connection: ServedConnection) {
        guard let name = request.names?.first.map(BoundedName.of) else {
            return connection.send(ControlResponse(error: "no name"))
        }
        if request.verb == .syncAwait { return wait(.sync(name), ["await", name], connection) }
        if !syncs.contains(name) {
            guard syncs.count < Self.syncLimit else {
                return connection.send(ControlResponse(error: "\(Self.syncLimit) names are all that are kept"))
            }
            guard clients.namesPoint(connection.peer) else {
                let error = "\(ControlClients.pointsPerGuest) names of one user are all that are kept"
                return connection.send(ControlResponse(error: error))
            }
            synchronize(name)
        }
        connection.send(ControlResponse())
    }

    /// The point is reached, for good.
    private func synchronize(_ name: String) {
        syncs.insert(name)
        _ = saved.add(["sync", name])
        answerWaiters()
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
