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
            event = .spawnFailed(id, reason: "\(error)", isTemporary: error.isShortage)
        }
        engine.handle(event, at: .now, into: &actions)
        if !hasReported, case .spawned = event {
            hasReported = true
            try? report.send(ChannelMessage("started", ["\(MonotonicInstant.now.nanoseconds)"]))
        }
    }

    private func spawnUnit(_ id: Int) throws(KernelError) -> Int32 {
        let unit = units[id]
        guard let program = findExecutable(unit.arguments[0], path: unit.path) else {
            throw KernelError(call: "find", subject: unit.arguments[0], errno: .noSuchFileOrDirectory)
        }
        var spawnPlan = SpawnPlan(
            path: program, arguments: unit.arguments, environment: unit.environment, descriptors: [0, 1, 2])
        spawnPlan.directory = unit.directory
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
        if let marker = unit.initMarker { try makeMarkerDirectory(marker, unit.identity) }
        let reading: Descriptor
        let writing: Descriptor
        let input: Descriptor
        if unit.hasTerminal {
            (reading, writing) = try Terminal.open()
            input = writing
            spawnPlan.controllingTerminal = 0
            // As login(1) does: programs open it by its name too.
            if let identity = unit.identity, let name = Files.linkTarget("/proc/self/fd/\(writing.number)") {
                try? Files.changeOwner(name, uid: identity.uid, gid: identity.gid)
            }
            if !spawnPlan.environment.contains(where: { $0.hasPrefix("TERM=") }) {
                spawnPlan.environment.append("TERM=xterm-256color")
            }
        } else {
            input = try Files.open("/dev/null", flags: 0)
            (reading, writing) = try makePipe()
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
            save(record, of: id)
        }
    }

    /// The workspace remembers which tasks' `init` has run, out of version control's sight.
    private func makeMarkerDirectory(_ marker: String, _ identity: Identity?) throws(KernelError) {
        try makeMemoryDirectory()
        let directory = plan.workspaceDirectory + "/.workspacekit/init"
        try Files.makeDirectory(directory)
        if let identity { try Files.changeOwner(directory, uid: identity.uid, gid: identity.gid) }
    }

    /// Where the workspace remembers things, out of version control's sight.
    func makeMemoryDirectory() throws(KernelError) {
        let root = plan.workspaceDirectory + "/.workspacekit"
        try Files.makeDirectory(root)
        let ignore = root + "/.gitignore"
        if Files.status(ignore) == nil { try Files.write(ignore, Array("*\n".utf8)) }
    }
}
