/// A line of passwd(5).
public struct UserRecord: Hashable, Sendable {
    /// Login name.
    public let name: String
    public let uid: UInt32, gid: UInt32
    public let home: String, shell: String
}

/// Users and groups from the text of passwd(5) and group(5): a static program has no NSS.
public struct UserDatabase: Sendable {
    private let users: [UserRecord]
    private let groups: [(name: String, gid: UInt32, members: [Substring])]

    /// Reads both texts; malformed lines do not count.
    public init(passwd: String, group: String) {
        users = passwd.split(separator: "\n").compactMap { line in
            let f = line.split(separator: ":", omittingEmptySubsequences: false)
            guard f.count >= 7, let uid = UInt32(f[2]), let gid = UInt32(f[3]) else { return nil }
            return UserRecord(name: String(f[0]), uid: uid, gid: gid, home: String(f[5]), shell: String(f[6]))
        }
        groups = group.split(separator: "\n").compactMap { line in
            let f = line.split(separator: ":", omittingEmptySubsequences: false)
            guard f.count >= 4, let gid = UInt32(f[2]) else { return nil }
            return (String(f[0]), gid, f[3].split(separator: ","))
        }
    }

    /// The database of this machine or container: /etc/passwd and /etc/group.
    public static var system: UserDatabase {
        UserDatabase(passwd: Files.text("/etc/passwd") ?? "", group: Files.text("/etc/group") ?? "")
    }

    /// The user of that id.
    public func user(id: UInt32) -> UserRecord? { users.first { $0.uid == id } }

    /// The number of the group of that name, or written as a number.
    public func group(_ name: String) -> UInt32? {
        UInt32(name) ?? groups.first { $0.name == name }?.gid
    }

    /// The identity for `name`, `uid` or `uid:gid`; nil when a name is unknown. A named user gets all its groups.
    public func identity(for text: String) -> Identity? {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        guard (1...2).contains(parts.count) else { return nil }
        let record =
            users.first { $0.name == parts[0] } ?? UInt32(parts[0]).flatMap { id in users.first { $0.uid == id } }
        guard let uid = record?.uid ?? UInt32(parts[0]) else { return nil }
        var gid = record?.gid ?? uid
        if parts.count == 2 {
            guard let given = group(String(parts[1])) else { return nil }
            gid = given
        }
        let supplementary = groups.filter { group in group.members.contains { $0 == record?.name ?? "" } }.map(\.gid)
        return Identity(uid: uid, gid: gid, groups: [gid] + supplementary.filter { $0 != gid })
    }
}

/// The path of an executable: as it is when it has a slash, else from the directories of PATH. What is relative is so to
/// `directory`, or without one to the caller's. For questions only: a program that is to be started is looked up by the
/// process that becomes it (``SpawnPlan/searchPath``).
public func findExecutable(
    _ name: String, path: String = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    in directory: String? = nil
) -> String? {
    func place(_ path: String) -> String { path.hasPrefix("/") ? path : directory.map { "\($0)/\(path)" } ?? path }
    func works(_ path: String) -> Bool { Files.status(path)?.kind == .regular && Files.isAccessible(path, 1) }
    if name.utf8.contains(UInt8(ascii: "/")) { return works(place(name)) ? place(name) : nil }
    return path.split(separator: ":").map { place("\($0)/\(name)") }.first(where: works)
}

/// Sleeps; for bounded waits at set-up only.
public func pause(_ duration: Duration) { _ = waitReadable(-1, duration) }
