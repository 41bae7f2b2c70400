internal import Kernel
internal import SystemPackage

/// # Theory of operation
///
/// Some files of /proc and /sys check the user id of the writer, not its capabilities: the machine's root can change the
/// machine with them from any namespace. Where root inside has that id, ring1 and ring2 make them read-only or hide them, in
/// mounts that the workspace cannot undo. The lists are those of the OCI runtime's default (`linux.readonlyPaths`,
/// `linux.maskedPaths` as runc and containerd set them).
///
/// KERNEL: a new proc or sysfs can only be mounted where one without such covers is visible (mount_namespaces(7)), so no
/// process of the workspace can mount another one.
struct MaskedPaths {
    private static let readOnly = ["bus", "fs", "irq", "sys", "sysrq-trigger"]
    private static let hiddenFiles = [
        "kcore", "keys", "timer_list", "latency_stats", "timer_stats", "sched_debug", "interrupts",
    ]
    private static let hiddenDirectories = ["/proc/acpi", "/proc/asound", "/proc/scsi"]
    private static let hiddenOfSys = ["/sys/firmware", "/sys/devices/virtual/powercap"]
    private static let flags: MountFlags = [.noSetuid, .noDevices, .noExecute]
    /// Where the workspace's root is assembled.
    private let root: String

    init(_ root: String) { self.root = root }

    /// Covers /proc.
    ///
    /// - Parameter keepsNetwork: /proc/sys/net is the workspace's own, and stays writable.
    func maskProc(keepsNetwork: Bool) throws(KernelError) {
        for name in Self.readOnly where Files.status("\(root)/proc/\(name)") != nil {
            let path = "\(root)/proc/\(name)"
            try Mounts.mount(path, on: path, flags: [.bind, .recursive])
            try Mounts.mount("none", on: path, flags: Self.flags.union([.remount, .bind, .readOnly]))
        }
        for name in Self.hiddenFiles where Files.status("\(root)/proc/\(name)") != nil {
            try Mounts.mount(root + "/dev/null", on: "\(root)/proc/\(name)", flags: .bind)
        }
        try hide(Self.hiddenDirectories)
        let network = root + "/proc/sys/net"
        guard keepsNetwork, Files.isDirectory(network) else { return }
        try Mounts.mount(network, on: network, flags: .bind)
        // Refused where the container has /proc/sys read-only itself.
        try? Mounts.mount("none", on: network, flags: Self.flags.union([.remount, .bind]))
    }

    /// Mounts /sys, of the workspace's own network namespace where it has one.
    func mountSys(isOwn: Bool, _ note: (String) -> Void) throws(KernelError) {
        let sys = root + "/sys"
        do throws(KernelError) {
            guard isOwn else { throw KernelError(call: "mount sysfs on", subject: sys, errno: .notPermitted) }
            try Mounts.mount("sysfs", on: sys, type: "sysfs", flags: Self.flags.union(.readOnly))
        } catch {
            if isOwn { note("no /sys of the workspace's own, it sees the container's: \(error)") }
            try Mounts.setReadOnly(sys)
        }
        try hide(Self.hiddenOfSys)
    }

    private func hide(_ directories: [String]) throws(KernelError) {
        for path in directories where Files.isDirectory(root + path) {
            try Mounts.mount(
                "tmpfs", on: root + path, type: "tmpfs", flags: Self.flags.union(.readOnly), options: "size=4k")
        }
    }
}
