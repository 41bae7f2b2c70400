internal import Kernel

/// A file of the container's that the workspace has a copy of, as it is found outside: by way of links that may be switched, at
/// the end of directories that may be replaced. The directory that its name is in was opened at the start.
///
/// Whatever it is, reading it does not block, and brings 64 KiB at most.
struct OutsideFile {
    static let limit = 65_536
    private static let linkLimit = 40

    /// Where it is, as a user knows it.
    let path: String
    private let name: String
    private let start: Descriptor?

    /// The file `name` in a directory.
    init(_ directory: String, _ name: String) {
        path = "\(directory)/\(name)"
        self.name = name
        start = try? Files.reference(directory: directory)
    }

    /// What was found on the way to the file.
    struct Finding {
        /// The directories that names were looked up in, each for once: as paths, the first one by its descriptor.
        var directories: [String] = []
        /// The file; nil where the way ends before it.
        var file: Descriptor?
        var status: FileStatus?
    }

    /// Goes the way to the file. KERNEL: a path below /proc/self/fd/N begins in that directory, whatever its name leads to now.
    func find() -> Finding {
        var finding = Finding()
        guard let start else { return finding }
        let base = "/proc/self/fd/\(start.number)"
        var at = base
        var names = [Substring(name)]
        var links = 0
        while let name = names.popLast() {
            if name == ".." {
                // Of a directory whose name may have changed: the kernel knows.
                at += "/.."
                continue
            }
            if finding.directories.last != at { finding.directories.append(at) }
            let next = "\(at)/\(name)"
            guard let target = Files.linkTarget(next) else {
                if !names.isEmpty {
                    at = next
                    continue
                }
                finding.file = try? Files.openRegular(next)
                finding.status = finding.file.flatMap { Files.status(of: $0) }
                return finding
            }
            links += 1
            guard links <= Self.linkLimit else { return finding }
            names += target.split(separator: "/").filter { $0 != "." }.reversed()
            if target.hasPrefix("/") { at = "" }
        }
        return finding
    }

    /// The file's text; nil where there is none, or none that can be read.
    func text(_ finding: Finding? = nil) -> String? {
        guard let file = (finding ?? find()).file,
            let bytes = try? Files.readAll(file, subject: path, limit: Self.limit)
        else { return nil }
        return String(decoding: bytes, as: UTF8.self)
    }
}

extension OutsideFile.Finding {
    /// Whether one of these ids could have written the file or changed the way to it: they own a part of it, or its mode lets
    /// them.
    func isWritable(by map: IDMapping) -> Bool {
        guard let status else { return true }
        return ([status] + directories.map { Files.status($0 + "/.") ?? status }).contains { map.mayWrite($0) }
    }
}

/// The ids of the container that the workspace's root may act as.
struct IDMapping {
    var users: [ClosedRange<UInt32>]
    var groups: [ClosedRange<UInt32>]

    func mayWrite(_ status: FileStatus) -> Bool {
        if users.contains(where: { $0.contains(status.uid) }) { return true }
        if status.permissions & 0o020 != 0, groups.contains(where: { $0.contains(status.gid) }) { return true }
        // In a sticky directory only what is one's own may be replaced, and that is looked at itself.
        return status.permissions & 0o002 != 0 && !(status.kind == .directory && status.permissions & 0o1000 != 0)
    }
}

/// Follows files of the container's: edited, replaced by rename, or their links switched, any number of them. The directories
/// on the way are watched, because a watched file would be lost with its inode.
struct OutsideWatch {
    private let files: [OutsideFile]
    private var watches: Set<Int32> = []
    /// What becomes readable when something may have changed; nil where nothing can be watched.
    let descriptor: Descriptor?
    /// Directories that are watched: a few for each file, however its links are switched.
    private static let limit = 64
    /// News that come faster are taken together.
    private static let quiet = Duration.milliseconds(50)
    private var lookedAt: MonotonicInstant?
    /// When to look; nil: nothing happened.
    private(set) var dueAt: MonotonicInstant?

    init(_ files: [OutsideFile]) {
        self.files = files
        descriptor = try? makeDirectoryWatch()
        watch()
    }

    /// Watches the directories that lead to the files now, and no others.
    private mutating func watch() {
        guard let descriptor else { return }
        let directories = files.flatMap { $0.find().directories }.prefix(Self.limit)
        let current = Set(directories.compactMap { try? watchDirectory($0 + "/.", by: descriptor) })
        for old in watches.subtracting(current) { stopWatching(old, by: descriptor) }
        watches = current
    }

    /// Reads the news.
    mutating func take(at now: MonotonicInstant) {
        guard let descriptor else { return }
        var buffer = [UInt8](repeating: 0, count: 8192)
        for _ in 0..<64 {
            guard case .bytes(let count) = Kernel.read(descriptor.number, into: &buffer), count > 0 else { break }
        }
        dueAt = dueAt ?? max(now, (lookedAt ?? now) + Self.quiet)
    }

    /// Whether it is time to look; forgets that it was.
    mutating func isDue(at now: MonotonicInstant) -> Bool {
        guard let due = dueAt, due <= now else { return false }
        dueAt = nil
        lookedAt = now
        // Before anything is read: what changes afterwards is heard of.
        watch()
        return true
    }
}
