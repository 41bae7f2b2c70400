internal import Control
internal import Kernel

/// What all processes of a unit may have together; nil for as much as there is.
struct CGroupLimits: Hashable {
    /// Bytes.
    var memory: UInt64?
    /// Thousandths of a processor.
    var processors: Int?
    /// Processes and threads.
    var processes: Int?

    /// The key of each limit that is set, the controller that it needs, its file and what is written to it (cgroups(7)).
    var settings: [(key: String, controller: String, file: String, value: String)] {
        var settings: [(String, String, String, String)] = []
        if let memory { settings.append(("mem_limit", "memory", "memory.max", "\(memory)")) }
        // So much of each 100 ms, in microseconds.
        if let processors { settings.append(("cpus", "cpu", "cpu.max", "\(processors * 100) 100000")) }
        if let processes { settings.append(("pids_limit", "pids", "pids.max", "\(processes)")) }
        return settings
    }
}

/// # Theory of operation
///
/// A cgroup for each unit, where ring1 could divide the container's (`Sources/Ring/ControlGroups.swift`): its processes
/// enter it before anything else, cannot leave it unseen, share its limits, and are killed with it all at once. That this
/// is so shows by where we are ourselves; the next supervisor finds the same.
struct CGroups {
    private static let mount = "/sys/fs/cgroup"
    private let root: String?

    init() {
        let own = Files.text("/proc/self/cgroup")?.split(separator: "\n").contains("0::/workspacekit") ?? false
        root = own && Files.isDirectory(Self.mount + "/units") ? Self.mount + "/units" : nil
    }

    /// Whether units have cgroups of their own.
    var areDelegated: Bool { root != nil }

    /// The cgroup of a unit, by its place and name; nil where there are none.
    func path(_ id: Int, _ name: String) -> String? {
        let safe = BoundedName.of(name).map { $0.isASCII && ($0.isLetter || $0.isNumber || $0 == "-") ? $0 : "_" }
        return root.map { "\($0)/\(id)-\(String(safe.prefix(100)))" }
    }

    /// Makes a unit's cgroup with its limits, those that are no longer set included; the keys that have no effect, with the
    /// reason.
    func prepare(_ path: String?, _ limits: CGroupLimits) -> [(key: String, reason: String)] {
        guard let path, let root else {
            return limits.settings.map { ($0.key, "cgroup2 is not delegated to this container") }
        }
        try? Files.makeDirectory(path)
        let available = Files.text(root + "/cgroup.subtree_control")?.split { $0 == " " || $0 == "\n" } ?? []
        for file in ["memory.max", "cpu.max", "pids.max"] where !limits.settings.contains(where: { $0.file == file }) {
            try? Files.writeKernelFile("\(path)/\(file)", "max")
        }
        return limits.settings.compactMap { setting in
            guard available.contains(where: { $0 == setting.controller }) else {
                return (setting.key, "the container has no \(setting.controller) controller to hand on")
            }
            do {
                try Files.writeKernelFile("\(path)/\(setting.file)", setting.value)
                return nil
            } catch { return (setting.key, "\(error)") }
        }
    }

    /// Kills everything in a cgroup; false when that is not how it can be done.
    func kill(_ path: String?) -> Bool {
        guard let path else { return false }
        return (try? Files.writeKernelFile(path + "/cgroup.kill", "1")) != nil
    }

    /// How often the kernel has killed for want of memory, as far as one can see from here: in the unit's cgroup, else in
    /// the container's, else (KERNEL: /proc/vmstat is not the container's own) on the whole machine.
    func outOfMemoryKills(_ path: String?) -> OutOfMemoryKills {
        if let path, let count = Self.count("oom_kill", in: path + "/memory.events") {
            return OutOfMemoryKills(scope: .unit, count: count)
        }
        if let count = Self.count("oom_kill", in: Self.mount + "/memory.events") {
            return OutOfMemoryKills(scope: .container, count: count)
        }
        return OutOfMemoryKills(scope: .machine, count: Self.count("oom_kill", in: "/proc/vmstat") ?? 0)
    }

    /// The number behind a word in a file of `word number` lines.
    static func count(_ word: String, in path: String) -> Int? {
        guard let text = Files.text(path) else { return nil }
        let line = text.split(separator: "\n").first { $0.hasPrefix(word + " ") }
        return line.flatMap { Int($0.dropFirst(word.count + 1)) }
    }
}

/// How often the kernel had killed for want of memory when somebody looked.
struct OutOfMemoryKills: Hashable {
    enum Scope: Hashable { case unit, container, machine }
    let scope: Scope
    let count: Int
}

extension Supervisor {
    /// Makes the unit's cgroup, if it can have one, for its process to enter; the returned descriptor is to be kept until it
    /// has. What has no effect is said once.
    func enterCGroup(_ id: Int, _ spawnPlan: inout SpawnPlan) -> Descriptor? {
        let unit = units[id]
        let path = cgroups.path(id, unit.spec.name)
        applyLimits(id)
        killsBefore[id] = cgroups.outOfMemoryKills(path)
        guard let path, let procs = try? Files.open(path + "/cgroup.procs", flags: 1) else { return nil }
        spawnPlan.cgroupProcs = procs.number
        return procs
    }

    /// Sets the limits that the configuration has for a unit.
    func applyLimits(_ id: Int) {
        let unit = units[id]
        for (key, reason) in cgroups.prepare(cgroups.path(id, unit.spec.name), unit.cgroupLimits)
        where saidOfLimits.insert("\(unit.spec.name) \(key) \(reason)").inserted {
            console.notice("\(unit.spec.name): \(key) has no effect: \(reason)")
        }
    }

    /// What the end of a process means: the kernel does not tell its killings for want of memory from other ones.
    func endEvent(_ pid: Int32, _ status: ExitStatus) -> Engine.Event {
        // A shell says 137 for its child.
        guard status.code == 137, let id = engine.states.indices.first(where: { isRunning($0, pid) }),
            let before = killsBefore[id]
        else { return .exited(pid: pid, status) }
        let now = cgroups.outOfMemoryKills(cgroups.path(id, units[id].spec.name))
        guard now.scope == before.scope, now.count > before.count else { return .exited(pid: pid, status) }
        return .outOfMemory(pid: pid, status, isCertain: now.scope == .unit)
    }

    private func isRunning(_ id: Int, _ pid: Int32) -> Bool {
        if case .running(pid, _) = engine.states[id] { true } else { false }
    }
}
