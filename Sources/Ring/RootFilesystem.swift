internal import Kernel
internal import SystemPackage

/// # Theory of operation
///
/// The workspace keeps the container's root: it is bound, with all that is mounted in it, to a staging directory in
/// ring1's own mount namespace, where the parts that must be the workspace's own are mounted over it. ring2, in one more
/// mount namespace, adds /proc, which belongs to its PID namespace, and pivots. Nothing of this is seen outside.
///
/// KERNEL: mounts inherited from a more privileged mount namespace are locked: they can be covered, not removed; and a
/// fresh proc or sysfs may only be mounted where one without covered parts is visible (mount_namespaces(7)).
struct RootFilesystem {
    let root: String
    let plan: RingPlan
    /// Told of each thing done in a lesser way.
    let note: (String) -> Void

    /// ring1's part: everything but /proc.
    func assemble() throws(KernelError) {
        try Mounts.mount("none", on: "/", flags: [.isSlave, .recursive])
        if isShared {
            try Mounts.mount("/", on: root, flags: [.bind, .recursive])
            try Mounts.mount("none", on: root, flags: [.isPrivate, .recursive])
        } else {
            var own = try OwnRoot(root: root, plan: plan.filesystem, note: note)
            try own.build()
            try makeResolverFiles()
            // `gp` is a link to this program, which may lie where the root is empty.
            if let program = Files.linkTarget("/proc/self/exe"), resolve(program) == nil { try bindOutside(program) }
        }
        for path in plan.filesystem.readOnlyFiles { try protect(path) }
        for path in plan.filesystem.hidden { try hide(path) }
        try coverUnwritable()
        bindCommands()
        try mountDevices()
        try mountSys()
        mountControlGroups()
    }

    private var isShared: Bool { plan.filesystem.root == .shared }

    /// A link of the container's may lead to what /run has no more: the copies of these files need something to lie over.
    private func makeResolverFiles() throws(KernelError) {
        for (path, text) in [("/etc/resolv.conf", plan.resolvConf), ("/etc/hosts", plan.hosts)] where text != nil {
            let target = root + RootPath(root).target(of: path)
            guard Files.status(target) == nil, Files.status(path) != nil else { continue }
            let parent = target.split(separator: "/").dropLast().map { "/" + $0 }.joined()
            try? Files.makeDirectories(parent)
            try? Files.touch(target)
        }
    }

    /// Makes a file one that only the outside changes.
    ///
    /// KERNEL: a file or directory that something is mounted on is neither removed nor renamed. The directories that lead to the
    /// file are bound over themselves, or root inside would put others in their place.
    private func protect(_ path: String) throws(KernelError) {
        guard let target = resolve(path), Files.status(target)?.kind == .regular else { return try bindOutside(path) }
        let places = ([plan.filesystem.workspace] + plan.filesystem.writable).map { RootPath(root).target(of: $0) }
        let place = places.filter { target.hasPrefix("\(root)\($0)/") }.max { $0.utf8.count < $1.utf8.count }
        var at = root + (place ?? "")
        for name in target.dropFirst(at.utf8.count).split(separator: "/").dropLast() where place != nil {
            at += "/\(name)"
            try Mounts.mount(at, on: at, flags: [.bind, .recursive])
        }
        // Of the container's, not of a layer over it.
        try Mounts.mount(place == nil ? path : target, on: target, flags: .bind)
        try Mounts.setReadOnly(target)
    }

    /// A file in a directory that is empty inside, such as /tmp.
    private func bindOutside(_ path: String) throws(KernelError) {
        guard !isShared, Files.status(path)?.kind == .regular else { return }
        let target = root + RootPath(root).target(of: path)
        try Files.makeDirectories(target.split(separator: "/").dropLast().map { "/" + $0 }.joined())
        try Files.touch(target)
        try Mounts.mount(path, on: target, flags: .bind)
        try Mounts.setReadOnly(target)
    }

    /// Makes a directory or file empty inside.
    private func hide(_ path: String) throws(KernelError) {
        guard let target = resolve(path) else { return }
        guard Files.isDirectory(target) else {
            try Mounts.mount("/dev/null", on: target, flags: .bind)
            return try Mounts.setReadOnly(target)
        }
        try Mounts.mount(
            "tmpfs", on: target, type: "tmpfs", flags: [.readOnly, .noSetuid, .noDevices, .noExecute],
            options: "mode=555,size=4k")
    }

    /// Where the workspace's root could make no file (a read-only root, or one that belongs to ids which are not mapped), a
    /// tmpfs lies over the directory, and leads to what was there.
    private func coverUnwritable() throws(KernelError) {
        for path in plan.filesystem.writable {
            guard let target = resolve(path), Files.isDirectory(target) else {
                note("writable: there is no directory \(path) in the container")
                continue
            }
            // The last three are the workspace's own; and of the first all others are made.
            guard !["/", "/dev", "/proc", "/sys"].contains(target.dropFirst(root.count)), target != root else {
                note("writable: \(path) cannot be covered: name the directories in it that are to be")
                continue
            }
            guard !Files.isAccessible(target, 2), Files.isDirectory(root + "/dev") else { continue }
            var cover = WritableCover(target, visible: target.dropFirst(root.count) + "/.below")
            try onScratch("mode=755") { (scratch) throws(KernelError) in
                try cover.fill(scratch)
                try Files.makeDirectory("\(scratch)/.below")
                try Mounts.mount(target, on: "\(scratch)/.below", flags: [.bind, .recursive])
                try Mounts.mount(scratch, on: target, flags: [.bind, .recursive])
            }
        }
    }

    /// Directories of the PATH that login shells, su and sshd begin with: of root, and of others. What is put
    /// there later lies in the state directory.
    private static let commandDirectories = ["/usr/local/sbin", "/usr/local/games", "/usr/games"]

    /// Binds the workspace's own commands over directories of the standard PATH that have nothing in them: nothing is written
    /// into the container's, and nothing in it is hidden.
    private func bindCommands() {
        // A program of that name in the image is the one that was meant.
        let directories = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        guard !directories.contains(where: { Files.status("\(root)\($0)/gp") != nil }) else { return }
        guard let commands = plan.commands, (try? Files.makeDirectory(root + commands)) != nil else { return }
        for path in Self.commandDirectories {
            guard let target = resolve(path), Files.isDirectory(target), Files.entries(target).isEmpty else { continue }
            guard (try? Mounts.mount(root + commands, on: target, flags: .bind)) != nil, !isShared else { continue }
            try? Mounts.setReadOnly(target)
        }
    }

    /// A tmpfs at a place where nothing else is yet: what is bound from it elsewhere lives on once it is detached.
    private func onScratch(_ options: String, _ fill: (String) throws(KernelError) -> Void) throws(KernelError) {
        let scratch = root + "/dev"
        try Mounts.mount("tmpfs", on: scratch, type: "tmpfs", flags: [.noSetuid, .noDevices], options: options)
        try fill(scratch)
        try Mounts.detach(scratch)
    }

    /// The file that `path` leads to inside the new root, without a link in it; nil when it leads nowhere.
    private func resolve(_ path: String) -> String? { RootPath(root).resolve(path) }

    private func mountDevices() throws(KernelError) {
        let dev = root + "/dev"
        guard Files.isDirectory(dev) else { return note("the container has no /dev: the workspace has none either") }
        let container = "/dev"
        try Mounts.mount("tmpfs", on: dev, type: "tmpfs", flags: .noSetuid, options: "mode=755,size=65536k")
        for name in ["null", "zero", "full", "random", "urandom", "tty"] {
            try Files.touch("\(dev)/\(name)")
            try Mounts.mount("\(container)/\(name)", on: "\(dev)/\(name)", flags: .bind)
        }
        try Files.makeDirectory(dev + "/net")
        for name in ["net/tun", "fuse"] where Files.status("\(container)/\(name)")?.kind == .characterDevice {
            try Files.touch("\(dev)/\(name)")
            try Mounts.mount("\(container)/\(name)", on: "\(dev)/\(name)", flags: .bind)
        }
        // The caller's terminal belongs to the container's devpts; /dev/console names it inside, as in other containers.
        if Terminal.isTerminal(0), let terminal = Files.linkTarget("/proc/self/fd/0"), Files.status(terminal) != nil {
            try Files.touch("\(dev)/console")
            do { try Mounts.mount(terminal, on: "\(dev)/console", flags: .bind) } catch {
                note("no /dev/console: \(error)")
            }
        }
        for name in ["pts", "shm", "mqueue"] { try Files.makeDirectory("\(dev)/\(name)") }
        do {
            try Mounts.mount(
                "devpts", on: dev + "/pts", type: "devpts", flags: [.noSetuid, .noExecute],
                options: "newinstance,ptmxmode=0666,mode=620,gid=5")
        } catch {
            // Group tty is not mapped.
            try Mounts.mount(
                "devpts", on: dev + "/pts", type: "devpts", flags: [.noSetuid, .noExecute],
                options: "newinstance,ptmxmode=0666,mode=600")
        }
        try Mounts.mount("shm", on: dev + "/shm", type: "tmpfs", flags: [.noSetuid, .noDevices], options: "mode=1777")
        do {
            try Mounts.mount("mqueue", on: dev + "/mqueue", type: "mqueue", flags: [.noSetuid, .noDevices, .noExecute])
        } catch { note("no /dev/mqueue: \(error)") }
        let links = [
            ("pts/ptmx", "ptmx"), ("/proc/self/fd", "fd"), ("/proc/self/fd/0", "stdin"), ("/proc/self/fd/1", "stdout"),
            ("/proc/self/fd/2", "stderr"),
        ]
        for (target, name) in links { try Files.symlink(target, at: "\(dev)/\(name)") }
    }

    /// A sysfs of the workspace's own network namespace; read-only where the container's is; else the container's own.
    private func mountSys() throws(KernelError) {
        let sys = root + "/sys"
        guard Files.isDirectory(sys) else { return }
        if plan.masksMachine { return try MaskedPaths(root).mountSys(isOwn: plan.network != .host, note) }
        guard plan.network != .host else { return }
        do {
            try Mounts.mount("sysfs", on: sys, type: "sysfs", flags: [.noSetuid, .noDevices, .noExecute])
        } catch {
            do {
                try Mounts.mount(
                    "sysfs", on: sys, type: "sysfs", flags: [.readOnly, .noSetuid, .noDevices, .noExecute])
            } catch {
                return note(
                    "no /sys of the workspace's own, it sees the container's: \(error) (the container's /sys is masked: "
                        + "--security-opt systempaths=unconfined)")
            }
        }
    }

    /// A cgroup2 with the container's cgroup as its root, divided where that is ours. Without one, container engines inside
    /// do not start. The container's cgroups of the first version stay where it shows them.
    private func mountControlGroups() {
        let path = root + ControlGroups.mount
        guard Files.isDirectory(path) else { return }
        let isEmpty = Files.entries(path).isEmpty
        guard isEmpty || Files.status(path + "/cgroup.controllers") != nil else { return }
        do {
            try Mounts.mount("cgroup2", on: path, type: "cgroup2", flags: [.noSetuid, .noDevices, .noExecute])
        } catch { return }
        ControlGroups(path).divide()
    }

    /// ring2's part: /proc, then the new root becomes the root.
    func enter() throws(KernelError) {
        if plan.isolation.hasOwnProcesses {
            try Mounts.mount(
                "proc", on: root + "/proc", type: "proc", flags: [.noSetuid, .noDevices, .noExecute])
        }
        if plan.masksMachine { try MaskedPaths(root).maskProc(keepsNetwork: plan.network != .host) }
        try CurrentProcess.changeDirectory(root)
        try Mounts.pivotRootHere()
        // The old root now lies over the new one at "."; with it goes all that ring1 staged.
        try Mounts.detach(".")
        try CurrentProcess.changeDirectory("/")
    }
}
