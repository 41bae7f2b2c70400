internal import Kernel

/// Which processes a notification of sd_notify(3) is believed from: those of the unit, as with systemd's `NotifyAccess=all`. The
/// name of the unit's socket is public, so any process of the workspace can write to it; the kernel says which one did.
///
/// A process is the unit's by its cgroup, by its session or by that of an ancestor. One that has ended meanwhile, as a helper
/// that only notifies does, or a daemon that left its session and carries the unit's mark, is believed where its user is the
/// unit's: that user may trace and signal the unit anyway.
extension Supervisor {
    func mayNotify(_ id: Int, _ sender: LocalSocket.Sender) -> Bool {
        guard let first = ProcessEntry(sender.pid) else { return sender.uid == userToNotify(id) }
        if cgroups.areDelegated, unit(byCGroupOf: first.pid) == id { return true }
        var leaders: Set<Int32> = []
        if let pid = engine.states[id].pid { leaders.insert(pid) }
        if let pid = mainProcesses[id] { leaders.insert(pid) }
        if case .leaving(let left) = engine.states[id] { leaders.insert(left.group) }
        let orphanages = [CurrentProcess.id, CurrentProcess.parent, 1]
        var next: ProcessEntry? = first
        for _ in 0..<100 {
            guard let current = next else { break }
            if leaders.contains(current.pid) || leaders.contains(current.session) { return true }
            if orphanages.contains(current.parent) || orphanages.contains(current.pid) { break }
            next = ProcessEntry(current.parent)
        }
        return sender.uid == userToNotify(id) && carriesMark(of: id, first.pid)
    }

    /// The user that the unit runs as.
    private func userToNotify(_ id: Int) -> UInt32 { units[id].identity?.uid ?? plan.owner }

    private func unit(byCGroupOf pid: Int32) -> Int? {
        let line = Files.text("/proc/\(pid)/cgroup")?.split(separator: "\n").first { $0.hasPrefix("0::/units/") }
        return line.flatMap { Int($0.dropFirst(10).prefix { $0 != "-" }) }
    }

    private func carriesMark(of id: Int, _ pid: Int32) -> Bool {
        let mark = Array(UnitMark(units[id].spec.name).text.utf8)
        let environment = (try? Files.read("/proc/\(pid)/environ", limit: 1 << 22)) ?? []
        return environment.split(separator: 0).contains { $0.elementsEqual(mark) }
    }
}
