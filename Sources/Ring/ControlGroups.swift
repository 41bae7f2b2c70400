internal import Kernel

/// # Theory of operation
///
/// The container's cgroup, as the workspace sees it, is the root of its cgroup namespace. Where the workspace may write
/// there and nobody else is in it, the stages move to a leaf of it, and its controllers are handed on to `units`, where
/// the supervisor makes a cgroup for each unit:
///
///     /              controllers handed on
///     ├ workspacekit the stages
///     └ units        controllers handed on
///       ├ 0-db
///       └ 1-web
///
/// KERNEL: a cgroup that hands controllers on has no processes of its own (cgroups(7), "no internal processes"): whoever
/// joins the container later (`docker exec`) is put where its PID 1 is (runc).
struct ControlGroups {
    private let root: String

    /// - Parameter root: where the cgroup2 is mounted.
    init(_ root: String) { self.root = root }

    /// Divides it, if it is ours; else it stays as it is.
    func divide() {
        let stages = root + "/workspacekit"
        guard let first = processes(), !first.isEmpty, first.allSatisfy(isOurs) else { return }
        guard (try? Files.makeDirectory(stages)) != nil else { return }
        // The forwarder may come to life meanwhile, where ring0 is by then.
        for _ in 0..<10 {
            guard let left = processes(), left.allSatisfy(isOurs) else { break }
            if left.isEmpty { break }
            for pid in left { try? Files.writeKernelFile(stages + "/cgroup.procs", "\(pid)") }
        }
        guard processes()?.isEmpty == true else { return }
        do { try Files.makeDirectory(root + "/units") } catch { return }
        for directory in [root, root + "/units"] {
            for controller in ["cpu", "memory", "pids"] {
                // Not every container has each of them.
                try? Files.writeKernelFile(directory + "/cgroup.subtree_control", "+" + controller)
            }
        }
    }

    /// Where the workspace's root sees it.
    static let mount = "/sys/fs/cgroup"

    /// Makes this mount namespace's mount of it writable, or read-only.
    static func setWritable(_ isWritable: Bool) {
        var flags: MountFlags = [.remount, .bind, .noSetuid, .noDevices, .noExecute]
        if !isWritable { flags.insert(.readOnly) }
        // There may be none.
        try? Mounts.mount("none", on: mount, flags: flags)
    }

    private func processes() -> [Int32]? {
        Files.text(root + "/cgroup.procs")?.split(separator: "\n").map { Int32($0) ?? 0 }
    }

    /// The stages, and the container's own init. One of another PID namespace has the number 0.
    private func isOurs(_ pid: Int32) -> Bool {
        let ring0 = CurrentProcess.parent
        return [1, ring0, CurrentProcess.id].contains(pid) || (pid > 0 && ProcessEntry(pid)?.parent == ring0)
    }
}
