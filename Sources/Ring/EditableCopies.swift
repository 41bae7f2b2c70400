internal import Kernel
internal import SystemPackage

/// # Theory of operation
///
/// The workspace's own /etc/resolv.conf and /etc/hosts: files of its own /dev, bound over the container's. Its root can edit
/// them; nothing outside is ever written, because they are written through descriptors that were opened when they were made.
///
/// KERNEL: renaming over a file, or removing it, detaches what is mounted there in other mount namespaces. Programs outside do
/// just that to these two files. So each copy is bound again as soon as it is gone: the kernel reports every change of the
/// mounts (proc_pid_mounts(5)), and ring0 every change of the files and of the links that lead to them.
struct EditableCopies {
    private struct Copy {
        let path: String
        let source: String
        let file: Descriptor
        /// What was written last; what else stands in the file is an edit of the workspace's.
        var made: [UInt8]
        /// Looks in a row that found it not bound and could not bind it.
        var failures = 0
    }
    private static let directory = "/dev/.workspacekit"
    private static let limit = 65_536
    /// A workspace that detaches the copies again and again does not keep ring2 busy.
    private static let interval = Duration.milliseconds(20)
    /// Looks until a missing file is noted. The kernel detaches the mount before the new file has its name, so the first
    /// look often comes too early: the next one comes a millisecond later, the others ever later, a second in all.
    private static let patience = 10

    /// Readable when a mount was added or removed; nil where nothing is to be kept.
    private(set) var mounts: Descriptor?
    /// The root directory as the workspace sees it; nil: as this process does.
    private(set) var workspaceRoot: Descriptor?
    /// /etc/resolv.conf as it is to be, for ``KeptFile/resolverMade``.
    private let made: Descriptor?
    private var copies: [Copy] = []
    private var lookedAt = MonotonicInstant(nanoseconds: 0)
    private(set) var dueAt: MonotonicInstant?

    /// Makes the copies and binds them, in the workspace's root, before anything of the user's runs.
    init(_ plan: RingPlan, note: (String) -> Void) throws(KernelError) {
        let texts = [("/etc/resolv.conf", plan.resolvConf), ("/etc/hosts", plan.hosts)]
        // A workspace that is only supervised has the container's own root: nothing is made or bound there.
        guard plan.isolation != .superviseOnly, texts.contains(where: { $0.1 != nil }), Files.isDirectory("/dev") else {
            mounts = nil
            made = nil
            return
        }
        try Files.makeDirectory(Self.directory)
        // Without the restrictions of /dev: they would be locked in the binds, and engines inside remount those without them.
        try Mounts.mount("tmpfs", on: Self.directory, type: "tmpfs", options: "mode=755,size=1024k")
        for case (let path, let text?) in texts {
            let source = Self.directory + "/" + path.split(separator: "/").joined(separator: "-")
            let bytes = Array(text.utf8)
            try Files.create(source, bytes)
            let file = try Files.openForUpdate(existing: source)
            copies.append(Copy(path: path, source: source, file: file, made: bytes))
        }
        made = try plan.resolvConf.map { (text) throws(KernelError) in
            try makeMemoryFile("resolv.conf", holding: Array(text.utf8))
        }
        mounts = try? Files.open("/proc/self/mounts", flags: 0)
        bind(isFirst: true, note: note)
    }

    /// The descriptors that the supervisor gets: /etc/resolv.conf, and what is to stand in it.
    var resolver: (file: Descriptor, made: Descriptor)? {
        guard let made, let copy = copies.first(where: { $0.path == "/etc/resolv.conf" }) else { return nil }
        return (copy.file, made)
    }

    /// The workspace's mounts are no longer this process's: they are what counts.
    mutating func watch(_ workspace: WorkspaceMounts) {
        guard mounts != nil else { return }
        mounts = workspace.table
        workspaceRoot = workspace.root
    }

    private func status(_ path: String) -> FileStatus? {
        workspaceRoot.map { Files.status(path, in: $0) } ?? Files.status(path)
    }

    /// The mounts have changed, or the files outside.
    mutating func changed(at now: MonotonicInstant) { dueAt = dueAt ?? max(now, lookedAt + Self.interval) }

    /// Looks whether the copies are still bound, when it is time.
    mutating func advance(to now: MonotonicInstant, note: (String) -> Void) {
        guard let due = dueAt, due <= now else { return }
        dueAt = nil
        lookedAt = now
        bind(isFirst: false, note: note)
        let failures = copies.map(\.failures).filter { (1..<Self.patience).contains($0) }
        if let least = failures.min() { dueAt = now + .milliseconds(1 << (least - 1)) }
    }

    /// Binds each copy that is not there. The copy's own directory may be what the workspace makes of it: only the very file is
    /// bound.
    private mutating func bind(isFirst: Bool, note: (String) -> Void) {
        for index in copies.indices {
            let copy = copies[index]
            let own = Files.status(of: copy.file)
            if let own, status(copy.path)?.isSameFile(as: own) == true {
                copies[index].failures = 0
                continue
            }
            // Root inside has unmounted it in the workspace's mount namespace. A new bind mount here appears there too.
            if workspaceRoot != nil, let own, Files.status(copy.path)?.isSameFile(as: own) == true {
                try? Mounts.detach(copy.path)
            }
            var problem = "does not exist in the container: the workspace has none either"
            do throws(KernelError) {
                let target = try Files.reference(copy.path)
                let source = try Files.reference(copy.source, followLinks: false)
                defer { withExtendedLifetime((target, source)) {} }
                if let own, Files.status(of: source)?.isSameFile(as: own) == true {
                    try Mounts.mount(
                        "/proc/self/fd/\(source.number)", on: "/proc/self/fd/\(target.number)", flags: .bind)
                    copies[index].failures = 0
                    continue
                }
                problem = "is the container's: the workspace has removed its copy"
            } catch {
                if error.errno != .noSuchFileOrDirectory { problem = "is the container's: \(error)" }
            }
            copies[index].failures = isFirst ? Self.patience : min(copy.failures + 1, Self.patience + 1)
            if copies[index].failures == Self.patience { note("\(copy.path) \(problem)") }
        }
    }

    /// The container's files say something else now. A copy that the workspace has edited stays as it is.
    mutating func update(_ texts: [String: String], note: (String) -> Void) {
        for index in copies.indices {
            let copy = copies[index]
            guard let bytes = texts[copy.path].map({ Array($0.utf8) }), bytes != copy.made else { continue }
            let isEdited = Self.content(copy.file) != copy.made
            copies[index].made = bytes
            if copy.path == "/etc/resolv.conf", let made { Self.write(bytes, to: made) }
            if isEdited {
                note("\(copy.path) has changed in the container, but was edited inside: the edit stays")
            } else {
                Self.write(bytes, to: copy.file)
            }
        }
    }

    private static func content(_ file: Descriptor) -> [UInt8] {
        var buffer = [UInt8](repeating: 0, count: limit + 1)
        guard case .bytes(let count) = Kernel.read(file.number, at: 0, into: &buffer) else { return [] }
        return Array(buffer[..<count])
    }

    private static func write(_ bytes: [UInt8], to file: Descriptor) {
        _ = Kernel.write(file.number, bytes, at: 0)
        Files.truncate(file, to: bytes.count)
    }
}
