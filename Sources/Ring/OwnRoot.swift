internal import Kernel
internal import SystemPackage

/// # Theory of operation
///
/// A root directory of the workspace's own, with `root: private` and `root: read-only`: a tmpfs. Each directory of the
/// container lies in it as an overlay, so that what inside writes goes into the tmpfs and ends with the workspace. It
/// shows the container's files and does not lead to its sockets and pipes.
///
/// KERNEL: a directory in which something is mounted is no lower layer in a user namespace (has_locked_children()), so
/// such a directory is made anew, with its links, copies of its files, and an overlay for each directory in it. connect(2)
/// finds a socket by its inode, and an overlay has inodes of its own. A layer of an overlay is a mount that no path leads
/// to: what the overlay covers is out of reach.
///
/// The layers for writing are directories of the same tmpfs that no path in the workspace leads to. It has a bound, and
/// goes with the last mount namespace: nothing has to be cleaned up after a stage that was killed.
struct OwnRoot {
    /// Where the root is assembled.
    private let root: String
    private let plan: FilesystemPlan
    private let note: (String) -> Void
    private let table: MountTable
    /// The tmpfs, whose directories `root`, `upper` and `work` are named through it.
    private let scratch: Descriptor
    private var overlays = 0
    private var fresh: [String] = []
    /// Directories without an overlay, and why.
    private var refused: [String] = []
    private var refusal = ""

    /// Files beyond that are bound read-only, not copied.
    private static let largestCopy = 1 << 20
    /// A directory with something mounted in it and with more entries than that is bound read-only as a whole.
    private static let largestDirectory = 1000

    init(root: String, plan: FilesystemPlan, note: @escaping (String) -> Void) throws(KernelError) {
        self.root = root
        self.plan = plan
        self.note = note
        table = MountTable()
        // Half of the memory for all files together; each file takes a little of the kernel's too.
        let size = max(MachineLimits.current.memoryBytes / 2, 64 << 20)
        try Mounts.mount(
            "tmpfs", on: root, type: "tmpfs", options: "mode=755,size=\(size),nr_inodes=\(max(size >> 13, 1 << 16))")
        scratch = try Files.reference(directory: root)
        let place = "/proc/self/fd/\(scratch.number)"
        for name in ["root", "upper", "work", "fresh"] { try Files.makeDirectory("\(place)/\(name)") }
        try Mounts.mount(place + "/root", on: root, flags: .bind)
    }

    /// Fills it.
    mutating func build() throws(KernelError) {
        let directories = ["/run", "/tmp"] + plan.fresh
        fresh = directories.filter { !contains($0, plan.workspace) || ["/run", "/tmp"].contains($0) }
        try fill("/")
        if !refused.isEmpty {
            note("no layer over \(refused.joined(separator: ", ")), which can only be read: \(refusal)")
        }
        for path in fresh { try makeFresh(path) }
        if Files.isDirectory("/run/secrets") { try add("/run/secrets") }
        try places()
        try Mounts.mount("none", on: root, flags: [.isPrivate, .recursive])
    }

    private func contains(_ directory: String, _ path: String) -> Bool {
        path == directory || path.hasPrefix(directory == "/" ? "/" : directory + "/")
    }

    // MARK: the container's files

    private mutating func fill(_ directory: String) throws(KernelError) {
        let names = Files.entries(directory)
        for name in names { try add((directory == "/" ? "" : directory) + "/" + name) }
    }

    private mutating func add(_ path: String) throws(KernelError) {
        // One that is gone meanwhile is left out.
        guard let status = Files.status(path, followLinks: false) else { return }
        switch status.kind {
        case .symbolicLink: if let target = Files.linkTarget(path) { try Files.symlink(target, at: root + path) }
        case .directory: try addDirectory(path, status)
        case .regular where status.size <= Self.largestCopy && !table.hasMount(at: path):
            if let bytes = try? Files.read(path) { try copy(bytes, path, status) } else { try bindFile(path) }
        case .regular, .characterDevice, .other: try bindFile(path)
        case .socket, .pipe: break
        }
    }

    private mutating func addDirectory(_ path: String, _ status: FileStatus) throws(KernelError) {
        try mirror(path, status)
        // What these hold is mounted later.
        if ["/dev", "/proc", "/sys", plan.workspace, plan.state].contains(path) || fresh.contains(path)
            || plan.writable.contains(path)
        {
            return
        }
        // One that is closed, such as /root to an ordinary user, stays so: its layer would be root's inside, and empty.
        guard Files.isAccessible(path, 4) || Files.isAccessible(path, 1) else { return try bindReadOnly(path) }
        if table.hasMount(below: path) {
            guard Files.entries(path).count <= Self.largestDirectory else { return try bindReadOnly(path) }
            return try fill(path)
        }
        // A volume that can only be read, such as a ConfigMap, is followed: an overlay would not show its changes.
        if table.hasMount(at: path), table.mount(of: path)?.flags.contains(.readOnly) == true {
            var sockets = SocketSearch()
            sockets.look(path)
            if sockets.isComplete, sockets.found.isEmpty { return try bindReadOnly(path) }
        }
        do throws(KernelError) { try overlay(path, status) } catch {
            refused.append(path)
            refusal = "\(error)"
            try bindReadOnly(path)
        }
    }

    /// A directory like the container's. An owner who is not mapped would let root inside make nothing in it.
    private func mirror(_ path: String, _ status: FileStatus, at copy: String? = nil) throws(KernelError) {
        let copy = copy ?? root + path
        try Files.makeDirectory(copy)
        own(copy, status)
    }

    private func own(_ copy: String, _ status: FileStatus) {
        let isMapped = status.uid != Self.overflow && status.gid != Self.overflow
        try? Files.changeOwner(copy, uid: isMapped ? status.uid : 0, gid: isMapped ? status.gid : 0)
        try? Files.changeMode(copy, status.permissions)
    }

    private static let overflow = UInt32(65534)

    private func copy(_ bytes: [UInt8], _ path: String, _ status: FileStatus) throws(KernelError) {
        try Files.create(root + path, bytes, mode: 0o600)
        own(root + path, status)
    }

    private func bindFile(_ path: String) throws(KernelError) {
        try Files.touch(root + path)
        try Mounts.mount(path, on: root + path, flags: .bind)
        try Mounts.setReadOnly(root + path)
    }

    /// The container's directory as it is. Its sockets are covered, as far as they can be found.
    private func bindReadOnly(_ path: String) throws(KernelError) {
        try Mounts.mount(path, on: root + path, flags: [.bind, .recursive])
        try Mounts.setReadOnly(root + path)
        var sockets = SocketSearch()
        sockets.look(path)
        for socket in sockets.found { try Mounts.mount("/dev/null", on: root + socket, flags: .bind) }
    }

    private mutating func overlay(_ path: String, _ status: FileStatus) throws(KernelError) {
        let place = "/proc/self/fd/\(scratch.number)"
        let upper = "\(place)/upper/\(overlays)", work = "\(place)/work/\(overlays)"
        overlays += 1
        // The root of an overlay has the owner and the mode of the upper layer.
        try mirror(path, status, at: upper)
        try Files.makeDirectory(work)
        let lower = try Files.reference(directory: path)
        defer { withExtendedLifetime(lower) {} }
        // A root that can only be read has a layer to write in all the same; a volume stays what it is.
        let mount = table.mount(of: path)
        let flags = (mount?.flags ?? []).subtracting(mount?.path == "/" ? .readOnly : [])
        try Mounts.mount(
            "overlay", on: root + path, type: "overlay", flags: flags,
            options: "userxattr,lowerdir=/proc/self/fd/\(lower.number),upperdir=\(upper),workdir=\(work)")
    }

    // MARK: empty directories

    private func makeFresh(_ path: String) throws(KernelError) {
        guard let target = RootPath(root).resolve(path), let status = Files.status(path) else { return }
        let place = "/proc/self/fd/\(scratch.number)/fresh/\(path.split(separator: "/").joined(separator: "-"))"
        try mirror(path, status, at: place)
        try Mounts.mount(place, on: target, flags: .bind)
        try Mounts.mount("none", on: target, flags: [.remount, .bind, .noSetuid, .noDevices])
        guard path != "/tmp" else { return }
        // Services of an image expect their directories there.
        var budget = 1000
        try directories(of: path, at: target, depth: 4, &budget)
    }

    private func directories(of path: String, at copy: String, depth: Int, _ budget: inout Int) throws(KernelError) {
        for name in Files.entries(path) where budget > 0 && depth > 0 {
            let source = "\(path)/\(name)"
            if source == "/run/secrets" { continue }
            guard let status = Files.status(source, followLinks: false) else { continue }
            budget -= 1
            if status.kind == .symbolicLink, let target = Files.linkTarget(source) {
                try Files.symlink(target, at: "\(copy)/\(name)")
            } else if status.kind == .directory, source != plan.workspace {
                try mirror(source, status, at: "\(copy)/\(name)")
                try directories(of: source, at: "\(copy)/\(name)", depth: depth - 1, &budget)
            }
        }
    }

    // MARK: places of the container's

    /// What lies over the rest: the writable places, the state directory, the system's directories.
    private func places() throws(KernelError) {
        // What is bound from here on may contain the directory that this root lies over.
        for path in [root, "/proc/self/fd/\(scratch.number)"] {
            try Mounts.mount("none", on: path, flags: .isUnbindable)
        }
        let writable = [plan.workspace] + plan.writable.filter { !isReserved($0) }
        let points = (writable + [plan.state]).map { ($0, RootPath(root).target(of: $0)) }
        for (path, target) in points { try makePoint(path, target) }
        if plan.root == .readOnly {
            try Mounts.setReadOnly(root)
            for path in fresh {
                if let target = RootPath(root).resolve(path) { try Mounts.setReadOnly(onlyAt: target, false) }
            }
        }
        for path in ["/proc", "/sys"] where Files.isDirectory(path) {
            try Mounts.mount(path, on: root + path, flags: [.bind, .recursive])
        }
        // The outer ones first: another may lie in them.
        for (path, target) in points.dropLast().sorted(by: { $0.0.utf8.count < $1.0.utf8.count })
        where Files.isDirectory(path) {
            try Mounts.mount(path, on: root + target, flags: [.bind, .recursive])
        }
        for (path, target) in points.suffix(1) { try Mounts.mount(path, on: root + target, flags: .bind) }
    }

    /// Directories that are the workspace's own in any case, and those that cannot be named.
    private func isReserved(_ path: String) -> Bool {
        let target = RootPath(root).target(of: path)
        return ["/", "/dev", "/proc", "/sys"].contains(target) || fresh.contains(target) || path == plan.workspace
    }

    private func makePoint(_ path: String, _ target: String) throws(KernelError) {
        var at = ""
        for name in target.split(separator: "/") {
            at += "/\(name)"
            guard !Files.isDirectory(root + at) else { continue }
            guard let status = Files.status(at) else { return try Files.makeDirectories(root + target) }
            try mirror(at, status)
        }
    }
}

/// Finds sockets, up to a bound.
struct SocketSearch {
    private(set) var found: [String] = []
    private var budget = 2000

    /// Everything was looked at.
    var isComplete: Bool { budget > 0 }

    mutating func look(_ directory: String, depth: Int = 8) {
        guard depth > 0 else {
            budget = 0
            return
        }
        for name in Files.entries(directory) where budget > 0 {
            budget -= 1
            let path = "\(directory)/\(name)"
            switch Files.status(path, followLinks: false)?.kind {
            case .socket: found.append(path)
            case .directory: look(path, depth: depth - 1)
            default: break
            }
        }
    }
}
