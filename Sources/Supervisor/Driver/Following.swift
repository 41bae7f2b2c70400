internal import Config
internal import Control
internal import Kernel
internal import SystemPackage

/// The configuration while the workspace runs: followed as it is edited, read again on request.
extension Supervisor {
    /// The files may have changed: they are read, and what follows is done and said. An edit that cannot be used keeps
    /// everything as it is, and is said once.
    func followConfiguration() {
        let sources: [Source]
        do { sources = try plan.files.read() } catch { return console.notice("\(plan.files.name): \(error)") }
        guard sources != lastSources else { return }
        if sources.isEmpty {
            lastSources = []
            return console.notice("\(plan.files.name) is gone: what runs stays as it is")
        }
        let (reloadPlan, apply) = self.reloadPlan(sources)
        for text in reloadPlan.diagnostics { console.text(text) }
        lastSources = sources
        guard reloadPlan.isValid else {
            return console.notice("\(plan.files.name) cannot be used: what runs stays as it is")
        }
        for change in reloadPlan.changes { console.notice("\(plan.files.name): \(change.sentence)") }
        apply()
    }

    /// Reads the files for `plan` and `reload`: what would happen, and the deed.
    func readAgain() -> (plan: ReloadPlan, apply: () -> Void) {
        do {
            // Nothing at all is no wish to stop everything.
            return reloadPlan(try plan.files.read(required: !plan.sources.isEmpty))
        } catch {
            var failed = ReloadPlan()
            failed.isValid = false
            failed.diagnostics = ["\(error)"]
            return (failed, {})
        }
    }

    private func reloadPlan(_ sources: [Source]) -> (plan: ReloadPlan, apply: () -> Void) {
        var result = ReloadPlan()
        let next = Reading(
            sources, on: .system, workspace: plan.workspaceDirectory,
            beside: plan.link?.containerNetworks ?? [])
        result.diagnostics = next.rendered(notes: false)
        result.isValid = !next.hasErrors
        guard result.isValid else { return (result, {}) }
        var nextPlanner = UnitPlanner(configuration: next.configuration, plan: plan)
        let reload = Reload(
            units: units, isRemoved: engine.isRemoved, wanted: nextPlanner.units(), from: reading.configuration,
            to: next.configuration, made: made)
        result.changes = reload.changes
        let planner = nextPlanner
        let sentences = result.changes.map(\.sentence)
        return (
            result,
            { [self] in
                if !sentences.isEmpty {
                    var event = WorkspaceEvent(.reloaded, kind: "workspace")
                    event.reason = sentences.joined(separator: "; ")
                    events.write([event])
                }
                reading = next
                self.planner = planner
                for note in planner.notes { console.notice(note) }
                for step in reload.steps { take(step) }
                adopt(sources)
                try? report.send(ChannelMessage("forwards", next.configuration.network.forwards.map(\.text)))
                try? report.send(ChannelMessage("ports", DeclaredPorts(next.configuration).fields))
            }
        )
    }

    private func take(_ step: Reload.Step) {
        switch step {
        case .add(let unit):
            units.append(unit)
            logs.append(Self.log(of: unit, state, console, outputBuffer, openLogs))
            openFirstListeners(units.count - 1)
            let spec = units[units.count - 1].spec
            perform { engine, now, actions in engine.handle(.added(spec), at: now, into: &actions) }
        case .redefine(let id, let unit):
            units[id] = unit
            openFirstListeners(id)
            let spec = units[id].spec
            perform { engine, now, actions in engine.handle(.redefined(id, spec), at: now, into: &actions) }
        case .adjust(let id, let unit):
            units[id] = unit
            logs[id].limit(unit.logSize, unit.logFiles)
            applyLimits(id)
            perform { engine, now, actions in engine.handle(.adjusted(id, unit.spec), at: now, into: &actions) }
        case .remove(let id):
            units[id].listeners = []
            openFirstListeners(id)
            perform { engine, now, actions in engine.handle(.removed(id), at: now, into: &actions) }
        }
    }
}
