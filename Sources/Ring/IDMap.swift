internal import Kernel

/// # Theory of operation
///
/// A user namespace starts without ids; ring0 gives it some, the best that its own rights allow:
///
/// 1. *direct*: started as root with CAP_SETUID and CAP_SETGID, it maps its whole own range onto itself
///    (/proc/self/uid_map says which, so this also holds in a container that lives in a user namespace). To map its own
///    root it also needs CAP_SETFCAP (user_namespaces(7), since Linux 5.12); without it, workspace root is another user.
/// 2. *helper*: an ordinary user with a range in /etc/subuid and /etc/subgid; newuidmap(1) and newgidmap(1) write.
/// 3. *single*: only the caller's own id, as root inside. apt, sudo and dockerd do not work then: said aloud.
///
/// The workspace has a user namespace of its own in that one (``IDMap/workspace``), where ring1 writes the maps.
///
/// Everything here is pure; ring0 and ring1 apply it.

/// A line of a uid_map or gid_map: `count` ids from `inside` on are those from `outside` on.
public struct IDRange: Hashable, Sendable, CustomStringConvertible {
    public var inside: UInt32, outside: UInt32, count: UInt32

    /// One line.
    public init(inside: UInt32, outside: UInt32, count: UInt32) {
        self.inside = inside
        self.outside = outside
        self.count = count
    }

    /// As uid_map wants it.
    public var description: String { "\(inside) \(outside) \(count)" }

    /// Writes a process's maps with this process's own rights.
    static func write(users: [IDRange], groups: [IDRange], of pid: Int32) throws(KernelError) {
        func text(_ ranges: [IDRange]) -> String { ranges.map(\.description).joined(separator: "\n") + "\n" }
        try Files.writeKernelFile("/proc/\(pid)/gid_map", text(groups))
        try Files.writeKernelFile("/proc/\(pid)/uid_map", text(users))
    }
}

/// The maps of the workspace's user namespace, which lies in that of the stages.
public struct WorkspaceIDs: Hashable, Sendable {
    public var users: [IDRange], groups: [IDRange]
    /// Whom ring2 and the supervisor run as; nil: as the workspace's root, because there is no other id.
    public var stages: UInt32?
}

/// How the id maps of the workspace are written.
public struct IDMap: Hashable, Sendable {
    /// Who writes them.
    public enum Method: Hashable, Sendable {
        /// ring0, to /proc/PID/uid_map.
        case direct
        /// newuidmap(1) and newgidmap(1).
        case helper
        /// ring0, its own id only; needs setgroups denied.
        case single
    }
    /// Who writes the maps.
    public var method: Method
    public var users: [IDRange], groups: [IDRange]

    /// The ids of the stages' user namespace that the workspace's own has, one to one: all but the last, which is the
    /// stages' own. What runs in the workspace has no id that may signal them. A single id is everybody's.
    public var workspace: WorkspaceIDs {
        func oneToOne(_ ranges: [IDRange]) -> [IDRange] {
            ranges.map { IDRange(inside: $0.inside, outside: $0.inside, count: $0.count) }
        }
        var ids = WorkspaceIDs(users: oneToOne(users), groups: oneToOne(groups))
        let total = users.reduce(0) { $0 + UInt64($1.count) }
        guard total > 1, let last = ids.users.indices.max(by: { ids.users[$0].inside < ids.users[$1].inside }) else {
            return ids
        }
        ids.users[last].count -= 1
        ids.stages = ids.users[last].inside + ids.users[last].count
        ids.users.removeAll { $0.count == 0 }
        return ids
    }

    /// What ring0 knows of itself when it chooses.
    public struct Situation: Sendable {
        public var uid: UInt32, gid: UInt32
        /// CAP_SETUID and CAP_SETGID are effective.
        public var maySetIDs: Bool
        /// CAP_SETFCAP is effective.
        public var mayMapRoot: Bool
        /// /proc/self/uid_map and gid_map.
        public var uidMap: String, gidMap: String
        /// /etc/subuid and /etc/subgid.
        public var subuid: String, subgid: String
        /// The user's login name, as subuid(5) may use it.
        public var userName: String?
        /// newuidmap and newgidmap are installed.
        public var hasHelpers: Bool
        /// Who is workspace root when the container's root may not be mapped.
        public var substituteRoot: UInt32 = 1000
    }

    /// The best map that the situation allows.
    public static func choose(_ s: Situation) -> IDMap {
        if s.uid == 0, s.maySetIDs {
            let users = identity(s.uidMap, mapRoot: s.mayMapRoot, substitute: s.substituteRoot)
            let groups = identity(s.gidMap, mapRoot: s.mayMapRoot, substitute: s.substituteRoot)
            if !users.isEmpty, !groups.isEmpty { return IDMap(method: .direct, users: users, groups: groups) }
        }
        if s.hasHelpers, let users = subordinate(s.subuid, uid: s.uid, name: s.userName),
            let groups = subordinate(s.subgid, uid: s.uid, name: s.userName)
        {
            return IDMap(
                method: .helper, users: [IDRange(inside: 0, outside: s.uid, count: 1), users],
                groups: [IDRange(inside: 0, outside: s.gid, count: 1), groups])
        }
        return IDMap(
            method: .single, users: [IDRange(inside: 0, outside: s.uid, count: 1)],
            groups: [IDRange(inside: 0, outside: s.gid, count: 1)])
    }

    /// Every id of this namespace onto itself; without the right to map root, `substitute` stands for root.
    static func identity(_ map: String, mapRoot: Bool, substitute: UInt32) -> [IDRange] {
        var ranges: [IDRange] = []
        for line in map.split(separator: "\n") {
            let numbers = line.split(whereSeparator: { $0 == " " || $0 == "\t" }).compactMap { UInt32($0) }
            guard numbers.count == 3, numbers[2] > 0 else { continue }
            // A map of every id there is looks like the machine's first user namespace to runc and others, which then
            // try what only that may do. The very last id is nobody's; without it they see where they are.
            let count = numbers[0] == 0 && numbers[2] == .max ? numbers[2] - 1 : numbers[2]
            ranges.append(IDRange(inside: numbers[0], outside: numbers[0], count: count))
        }
        guard !mapRoot else { return ranges }
        var split: [IDRange] = [IDRange(inside: 0, outside: substitute, count: 1)]
        for range in ranges {
            let end = UInt64(range.inside) + UInt64(range.count)
            for part in [(UInt64(range.inside), UInt64(substitute)), (UInt64(substitute) + 1, end)] {
                let low = max(part.0, max(1, UInt64(range.inside)))
                let high = min(part.1, end)
                if low < high {
                    split.append(IDRange(inside: UInt32(low), outside: UInt32(low), count: UInt32(high - low)))
                }
            }
        }
        return split
    }

    /// The first range of at least 1,000 ids that subuid(5) grants, mapped from 1 on.
    static func subordinate(_ file: String, uid: UInt32, name: String?) -> IDRange? {
        for line in file.split(separator: "\n") {
            let parts = line.split(separator: ":", omittingEmptySubsequences: false)
            guard parts.count == 3, String(parts[0]) == name || UInt32(parts[0]) == uid, let start = UInt32(parts[1]),
                let count = UInt32(parts[2]), count >= 1000, start.addingReportingOverflow(count).overflow == false
            else { continue }
            return IDRange(inside: 1, outside: start, count: count)
        }
        return nil
    }
}
