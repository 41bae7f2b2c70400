internal import Control
internal import Kernel
internal import SystemPackage

/// What runs before a unit is asked to end (`pre_stop`): one command after the other, in the unit's surroundings, what it
/// prints in the unit's log.
struct PreStop: Hashable {
    let unit: Int
    /// Which of the commands.
    let index: Int
    let job: Int
}

extension Supervisor {
    /// Runs the next command of a unit's; true when there is none.
    func runPreStop(_ id: Int, from index: Int = 0) -> Bool {
        let unit = units[id]
        for (place, command) in unit.preStop.enumerated().dropFirst(index) {
            let job = saved.add(["prestop", "0", "\(id)", "\(place)"])
            do {
                let pid = try spawnPreStop(id, command) { [saved] pid in
                    saved.replaceJob(job, ["prestop", "\(pid)", "\(id)", "\(place)"])
                }
                preStops[pid] = PreStop(unit: id, index: place, job: job)
                return false
            } catch {
                saved.removeJob(job)
                console.notice("\(unit.spec.name): pre_stop: \(error)")
            }
        }
        return true
    }

    private func spawnPreStop(
        _ id: Int, _ command: [String], saving save: @escaping (Int32) -> Void
    ) throws(KernelError) -> Int32 {
        let unit = units[id]
        let null = try Files.open("/dev/null", flags: 2)
        // The unit's own pipe, whose other end is here: what is printed has its times, and belongs to the unit's user.
        let pipe =
            unit.hasTerminal ? nil : outputs[id].flatMap { try? Files.open("/proc/self/fd/\($0.number)", flags: 1) }
        let output = pipe ?? (try? Files.openForAppending(state.log(of: unit.spec.name), mode: 0o600)) ?? null
        var spawnPlan = SpawnPlan(
            command: command, environment: unit.environment,
            descriptors: [null.number, output.number, output.number])
        spawnPlan.identity = unit.identity
        spawnPlan.directory = unit.directory
        spawnPlan.entered = namespaces
        spawnPlan.newSession = true
        let pid = try spawn(spawnPlan) { (pid) throws(KernelError) in save(pid) }
        withExtendedLifetime((null, output)) {}
        return pid
    }

    /// A process ended; true when it was such a command.
    func finishPreStop(_ pid: Int32, _ status: ExitStatus) -> Bool {
        guard let ended = preStops.removeValue(forKey: pid) else { return false }
        send(.kill, to: -pid)
        saved.removeJob(ended.job)
        if !status.isSuccess { console.notice("\(units[ended.unit].spec.name): pre_stop: \(status)") }
        if runPreStop(ended.unit, from: ended.index + 1) { preStopEnded(ended.unit) }
        return true
    }

    private func preStopEnded(_ id: Int) {
        perform { engine, now, actions in engine.handle(.preStopEnded(id), at: now, into: &actions) }
    }

    func cancelPreStop(_ id: Int) {
        for (pid, command) in preStops where command.unit == id {
            send(.kill, to: -pid)
            preStops[pid] = nil
            saved.removeJob(command.job)
        }
    }

    /// Goes on where the supervisor before was: the command runs, or has never been started.
    func resumePreStop(_ place: Int, _ job: [String], _ pid: Int32?) {
        guard job.count == 4, let id = Int(job[2]), let index = Int(job[3]), units.indices.contains(id) else {
            return saved.removeJob(place)
        }
        engine.resumePreStop(id)
        if let pid, pid > 0 {
            preStops[pid] = PreStop(unit: id, index: index, job: place)
        } else {
            saved.removeJob(place)
            if runPreStop(id, from: index) { preStopEnded(id) }
        }
    }
}
