internal import Control
internal import Kernel

/// What the environment of a unit's processes says: whose they are, wherever they went.
struct UnitMark {
    static let name = "WORKSPACEKIT_UNIT"
    let text: String

    init(_ unit: String) { text = "\(Self.name)=\(BoundedName.of(unit))" }
}

/// What of a unit is left when its process has ended.
extension Supervisor {
    /// Tells the engine which groups that it asked for are empty. Ended processes have to be collected: they count too.
    func lookForGroups() {
        let groups = groupsToLookFor
        groupsToLookFor = []
        for (id, group) in groups where !groupExists(group) {
            perform { engine, now, actions in engine.handle(.groupEnded(id), at: now, into: &actions) }
        }
    }

    /// The steps of a task of which one has failed; nil where there is only one, or where none has failed. Whether `init` has
    /// succeeded tells them apart.
    func failedStep(of id: Int, _ ending: Ending) -> String? {
        guard let task = units[id].task, !task.isPrebuild, !ending.isSuccess, ending.wasStarted else { return nil }
        func isThere(_ step: (name: String, text: String?)) -> Bool { step.text.map { !isBlank($0) } ?? false }
        let before = ("before", task.before), initialize = ("init", task.initialize),
            command = ("command", task.command)
        guard [before, initialize, command].count(where: isThere) > 1 else { return nil }
        let candidates = task.marker?.state == .pending ? [before, initialize] : [before, command]
        return candidates.filter(isThere).map(\.0).joined(separator: " or ")
    }

    /// Sends a stop signal to a process or, with a negative number, to a group; and SIGCONT, as systemd does: a stopped
    /// process takes the signal only once it continues.
    func askToEnd(_ target: Int32, _ signal: Signal) {
        send(signal, to: target)
        send(.resume, to: target)
    }

    /// Kills the unit's process group, and all else that it has started: its cgroup where it has one; else those that are
    /// ours by now, because whoever started them has ended, and still carry the unit's mark, with all below them.
    func killRest(of id: Int, _ group: Int32) {
        let strays = units[id].killsGroupOnly ? [] : strays(of: id)
        send(.kill, to: -group)
        for pid in strays { send(.kill, to: pid) }
    }

    func strays(of id: Int) -> [Int32] {
        let name = units[id].spec.name
        if cgroups.kill(cgroups.path(id, name)) { return [] }
        let mark = Array(UnitMark(name).text.utf8)
        var found: [Int32] = []
        // Those of a supervisor before are ring2's now.
        let orphans = children(of: CurrentProcess.id) + children(of: CurrentProcess.parent)
        var next = orphans.filter { pid in
            guard pid != CurrentProcess.id else { return false }
            let environment = (try? Files.read("/proc/\(pid)/environ", limit: 1 << 22)) ?? []
            return environment.split(separator: 0).contains { $0.elementsEqual(mark) }
        }
        // Each process has one parent, and no more than are there are looked at.
        while let pid = next.popLast(), found.count < 100_000 {
            found.append(pid)
            next += children(of: pid)
        }
        return found
    }

    func children(of pid: Int32) -> [Int32] {
        Files.entries("/proc/\(pid)/task").flatMap { task in
            Files.text("/proc/\(pid)/task/\(task)/children")?.split(separator: " ").compactMap { Int32($0) } ?? []
        }
    }
}
