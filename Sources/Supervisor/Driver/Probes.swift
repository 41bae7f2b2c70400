internal import Config
internal import Kernel
internal import SystemPackage

/// Healthchecks: each probe is a process of its own, in the unit's surroundings.
extension Supervisor {
    func probe(_ id: Int, _ number: Int, _ actions: inout [Engine.Action]) {
        do {
            let pid = try spawnProbe(id)
            probes[pid] = RunningProbe(unit: id, number: number, job: saved.add(["probe", "\(pid)"]))
        } catch {
            engine.handle(.probed(id, number: number, succeeded: false), at: .now, into: &actions)
        }
    }

    private func spawnProbe(_ id: Int) throws(KernelError) -> Int32 {
        let unit = units[id]
        guard let check = unit.spec.healthcheck else {
            throw KernelError(call: "probe", subject: unit.spec.name, errno: .invalidArgument)
        }
        let null = try Files.open("/dev/null", flags: 2)
        var spawnPlan = SpawnPlan(
            path: "/proc/self/exe", arguments: [], environment: unit.environment,
            descriptors: [null.number, null.number, null.number])
        switch check.probe {
        case .port, .http: spawnPlan.arguments = NetworkProbe.arguments(check.probe) ?? []
        case .shell(let text):
            spawnPlan.path = "/bin/sh"
            spawnPlan.arguments = ["sh", "-c", text]
            spawnPlan.identity = unit.identity
        case .program(let words):
            spawnPlan = SpawnPlan(
                command: words, environment: unit.environment, descriptors: spawnPlan.descriptors)
            spawnPlan.identity = unit.identity
        }
        spawnPlan.directory = unit.directory
        spawnPlan.newSession = true
        spawnPlan.deathSignal = .kill
        let pid = try spawn(spawnPlan)
        withExtendedLifetime(null) {}
        return pid
    }

    /// Its time is over, or nobody wants to know any more.
    func cancelProbe(_ id: Int, _ number: Int) {
        for (pid, probe) in probes where probe.unit == id && probe.number == number {
            send(.kill, to: -pid)
            probes[pid] = nil
            saved.removeJob(probe.job)
        }
    }

    /// A process ended; true when it was a probe.
    func finishProbe(_ pid: Int32, _ status: ExitStatus) -> Bool {
        guard let probe = probes.removeValue(forKey: pid) else { return false }
        // What it left running goes with it.
        send(.kill, to: -pid)
        saved.removeJob(probe.job)
        perform { engine, now, actions in
            engine.handle(
                .probed(probe.unit, number: probe.number, succeeded: status.isSuccess), at: now, into: &actions)
        }
        return true
    }
}

/// A probe under way.
struct RunningProbe: Hashable {
    let unit: Int
    let number: Int
    let job: Int
}
