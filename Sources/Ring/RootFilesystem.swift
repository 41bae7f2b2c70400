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
        try Mounts.mount("/", on: root, flags: [.bind, .recursive])
        try Mounts.mount("none", on: root, flags: [.isPrivate, .recursive])
        try coverUnwritable()
        bindCommands()
        try mountDevices()
        try mountSys()
        mountControlGroups()
    }

    /// Where the workspace's root could make no file (a read-only root, or one that belongs to ids which are not mapped), a
    /// tmpfs lies over the directory, and leads to what was there.
    private func coverUnwritable() throws(KernelError) {
        for path in plan.writable {
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
            try? Mounts.mount(root + commands, on: target, flags: .bind)
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
    private func resolve(_ path: String) -> String? {
        var at = ""
        var names = Array(path.split(separator: "/").reversed())
        var links = 0
        while let name = names.popLast() {
            if name == "." { continue }
            if name == ".." {
                at = at.split(separator: "/").dropLast().map { "/" + $0 }.joined()
                continue
            }
            guard let target = Files.linkTarget("\(root)\(at)/\(name)") else {
                at += "/\(name)"
                continue
            }
            links += 1
            guard links <= 40 else { return nil }
            names += target.split(separator: "/").reversed()
            if target.hasPrefix("/") { at = "" }
        }
        return Files.status(root + at, followLinks: false) == nil ? nil : root + at
    }

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
