internal import Control
internal import Kernel
internal import SystemPackage

/// How a unit's process comes to be.
extension Supervisor {
    func start(_ id: Int, _ actions: inout [Engine.Action]) {
        let event: Engine.Event
        do {
            // A unit that was stopped has no sockets until it starts again.
            try openListeners(id)
            event = .spawned(id, pid: try spawnUnit(id))
        } catch {
            event = .spawnFailed(
                id, reason: "\(error)", code: error.shellCode, isTemporary: error.isShortage)
        }
        engine.handle(event, at: .now, into: &actions)
        if !hasReported, case .spawned = event {
            hasReported = true
            try? report.send(ChannelMessage("started", ["\(MonotonicInstant.now.nanoseconds)"]))
        }
    }

    private func spawnUnit(_ id: Int) throws(KernelError) -> Int32 {
        let unit = units[id]
        let arguments = try unit.task.map { (task) throws(KernelError) in try begin(task, unit) } ?? unit.arguments
        var spawnPlan = SpawnPlan(
            command: arguments, environment: planner.withGitSettings(unit.environment), descriptors: [0, 1, 2])
        spawnPlan.directory = unit.directory
        spawnPlan.entered = namespaces
        spawnPlan.identity = unit.identity
        spawnPlan.limits = unit.limits
        spawnPlan.outOfMemoryAdjustment = unit.outOfMemoryAdjustment
        spawnPlan.nice = unit.nice
        spawnPlan.fileMask = unit.fileMask
        let entrance = enterCGroup(id, &spawnPlan)
        defer { withExtendedLifetime(entrance) {} }
        if unit.spec.kind == .command {
            // A job of the caller's terminal, as a shell would start it.
            spawnPlan.newGroup = true
            if Terminal.isTerminal(0) { spawnPlan.foregroundTerminal = 0 }
            return try spawnKnown(id, spawnPlan)
        }
        let reading: Descriptor
        let writing: Descriptor
        let input: Descriptor
        if unit.hasTerminal {
            (reading, writing) = try Terminal.open()
            input = writing
            spawnPlan.controllingTerminal = 0
            if !spawnPlan.environment.contains(where: { $0.hasPrefix("TERM=") }) {
                spawnPlan.environment.append("TERM=xterm-256color")
            }
        } else {
            input = try Files.open("/dev/null", flags: 0)
            (reading, writing) = try makePipe()
        }
        // As login(1) and runc do: programs open what they were started with by its name too (/dev/stderr, /dev/tty).
        if let identity = unit.identity {
            try? Files.changeOwner(of: writing.number, uid: identity.uid, gid: identity.gid)
        }
        spawnPlan.newSession = true
        spawnPlan.descriptors = [input.number, writing.number, writing.number]
        passListeners(id, &spawnPlan)
        let notifying = try prepareReadiness(id, &spawnPlan)
        try reading.setNonblocking(true)
        try outputs.watch(id, reading)
        keeper.keep(.output(id), reading)
        let pid = try spawnKnown(id, spawnPlan)
        withExtendedLifetime((input, writing, notifying)) {}
        return pid
    }

    /// Starts a unit's process. It runs nothing before its pid is where the next supervisor finds it: there is never one
    /// that nobody knows.
    private func spawnKnown(_ id: Int, _ spawnPlan: SpawnPlan) throws(KernelError) -> Int32 {
        try spawn(spawnPlan) { [self] (pid) throws(KernelError) in
            var record = UnitRecord(engine, id, statusText: "")
            record.state = .running(pid: pid, since: .now)
            record.isNotified = false
            record.wasHealthy = false
            record.isHealthy = nil
            record.isReady = false
            record.isAnnounced = true
            saved.announce(record, at: id)
        }
    }

    /// The `init` of these tasks is to run at their next start; the reason where that cannot be.
    func forgetInit(of ids: [Int]) -> String? {
        if let id = ids.first(where: { units[$0].task?.marker == nil }) {
            return "\(units[id].spec.name) has no init"
        }
        do {
            for id in ids { try units[id].task?.marker?.forget() }
            return nil
        } catch { return "\(error)" }
    }

    /// The command line of a task's start. Whether its `init` runs is decided now, not when the configuration was read.
    private func begin(_ task: PlannedTask, _ unit: PlannedUnit) throws(KernelError) -> [String] {
        let state = task.marker?.state ?? .done
        let runsInit = task.isPrebuild || state == .pending
        if let marker = task.marker {
            if runsInit {
                try marker.prepare(for: unit.identity)
            } else if state == .doneOtherwise {
                console.notice(
                    "\(unit.spec.name): its init has changed since it succeeded, and does not run again (hint: workspacekit restart --init \(quote(unit.spec.name)))"
                )
            }
        }
        let shell = UnitPlanner.shell
        return [shell, "-c", InteractiveEnvironment.adding(to: task.script(runsInit: runsInit), for: shell)]
    }
}
