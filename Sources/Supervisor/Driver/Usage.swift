internal import Control
internal import Kernel

/// All processes there are, and to which unit each belongs: by its session, or by that of one of its ancestors; by its
/// unit's cgroup, or by its mark, where it has left both.
struct UnitMembers {
    let processes: [Int32: ProcessEntry]
    private var units: [Int32: Int?] = [:]

    init(_ supervisor: Supervisor) {
        let all = ProcessEntry.all()
        processes = Dictionary(all.map { ($0.pid, $0) }, uniquingKeysWith: { a, _ in a })
        var leaders: [Int32: Int] = [:]
        for (id, state) in supervisor.engine.states.enumerated() {
            if let pid = state.pid { leaders[pid] = id }
            if case .leaving(let left) = state { leaders[left.group] = id }
        }
        let orphanages = [CurrentProcess.id, CurrentProcess.parent, 1]
        for process in all {
            var path: [Int32] = []
            var next: ProcessEntry? = process
            var found: Int?
            while let current = next, path.count < 1000 {
                if let known = units[current.pid] {
                    found = known
                    break
                }
                path.append(current.pid)
                if let id = leaders[current.pid] ?? leaders[current.session] {
                    found = id
                    break
                }
                if orphanages.contains(current.parent) {
                    if current.pid != CurrentProcess.id { found = supervisor.unit(ofOrphan: current.pid) }
                    break
                }
                next = processes[current.parent]
            }
            for pid in path { units[pid] = .some(found) }
        }
    }

    /// The unit's place; nil for what is none's.
    func unit(of pid: Int32) -> Int? { units[pid] ?? nil }
}

extension Supervisor {
    /// The unit that an orphan says it is of.
    fileprivate func unit(ofOrphan pid: Int32) -> Int? {
        if cgroups.areDelegated, let text = Files.text("/proc/\(pid)/cgroup"),
            let line = text.split(separator: "\n").first(where: { $0.hasPrefix("0::/units/") }),
            let id = Int(line.dropFirst(10).prefix { $0 != "-" }), units.indices.contains(id)
        {
            return id
        }
        let environment = (try? Files.read("/proc/\(pid)/environ", limit: 1 << 22)) ?? []
        let prefix = Array((UnitMark.name + "=").utf8)
        guard let mark = environment.split(separator: 0).first(where: { $0.starts(with: prefix) }) else { return nil }
        let name = String(decoding: mark.dropFirst(prefix.count), as: UTF8.self)
        return units.firstIndex { BoundedName.of($0.spec.name) == name }
    }

    /// What each unit uses. Nobody pays for it who does not ask.
    func usage() -> [UnitUsage] {
        let members = UnitMembers(self)
        var usages = units.map { UnitUsage(name: $0.spec.name) }
        let sockets = (try? SocketDiagnosis.open().traffic()) ?? []
        let byInode = Dictionary(sockets.map { ($0.inode, $0) }, uniquingKeysWith: { a, _ in a })
        var counted: Set<UInt32> = []
        for process in members.processes.values {
            guard let id = members.unit(of: process.pid) else { continue }
            usages[id].processes += 1
            usages[id].memoryBytes += process.residentSize
            usages[id].processorSeconds += Double(process.processorTime.nanoseconds) / 1e9
            guard !byInode.isEmpty else { continue }
            // A socket that several hold is counted once.
            for inode in process.sockets {
                guard let socket = byInode[inode], counted.insert(inode).inserted else { continue }
                traffic.count(socket, for: id)
            }
        }
        traffic.forget(allBut: counted)
        for id in units.indices {
            usages[id].receivedBytes = traffic.totals[id]?.received ?? 0
            usages[id].sentBytes = traffic.totals[id]?.sent ?? 0
        }
        // A cgroup knows better: it counts what has ended too, and what is shared once.
        for id in units.indices {
            guard let path = cgroups.path(id, units[id].spec.name) else { continue }
            if let time = CGroups.count("usage_usec", in: path + "/cpu.stat") {
                usages[id].processorSeconds = Double(time) / 1e6
            }
            if let text = Files.text(path + "/memory.current"), let size = UInt64(text.dropLast()) {
                usages[id].memoryBytes = size
            }
        }
        return visibleUnits.map { usages[$0] }
    }
}

/// What units' connections have carried, summed up over the looks at them: each socket counts with what it has carried since
/// the look before, so that a sum never goes down. Connections that come and go between two looks are not seen.
struct UnitTraffic {
    private(set) var totals: [Int: (received: UInt64, sent: UInt64)] = [:]
    private var last: [UInt32: SocketTraffic] = [:]

    mutating func count(_ socket: SocketTraffic, for id: Int) {
        var before = last[socket.inode] ?? SocketTraffic(inode: socket.inode, received: 0, sent: 0)
        // An inode that is used again.
        if before.received > socket.received || before.sent > socket.sent {
            before = SocketTraffic(inode: socket.inode, received: 0, sent: 0)
        }
        var total = totals[id] ?? (0, 0)
        total.received += socket.received - before.received
        total.sent += socket.sent - before.sent
        totals[id] = total
        last[socket.inode] = socket
    }

    mutating func forget(allBut present: Set<UInt32>) { last = last.filter { present.contains($0.key) } }
}
