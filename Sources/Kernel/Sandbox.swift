internal import CKernel
internal import SystemPackage

/// One-way steps that take from the calling process what it does not need. In this order: root, capabilities, calls.
public enum Sandbox {
    /// Leaves the file system: the root becomes an empty, read-only tmpfs, in a user and a mount namespace of its own,
    /// so that this needs no privilege. Open descriptors stay.
    public static func leaveFileSystem() throws(KernelError) {
        let uid = CurrentProcess.effectiveUser
        let gid = CurrentProcess.group
        try unshare([.user, .mount])
        // Without maps the process could not mount: its own ids, and no others (user_namespaces(7)).
        try Files.writeKernelFile("/proc/self/setgroups", "deny")
        try Files.writeKernelFile("/proc/self/uid_map", "\(uid) \(uid) 1")
        try Files.writeKernelFile("/proc/self/gid_map", "\(gid) \(gid) 1")
        try Mounts.mount("none", on: "/", flags: [.isPrivate, .recursive])
        // /proc is there for certain: nothing of ours starts without it.
        try Mounts.mount(
            "tmpfs", on: "/proc", type: "tmpfs", flags: [.readOnly, .noSetuid, .noDevices, .noExecute],
            options: "size=4k,mode=555")
        try CurrentProcess.changeDirectory("/proc")
        try Mounts.pivotRootHere()
        try Mounts.detach(".")
        try CurrentProcess.changeDirectory("/")
    }

    /// Leaves the file system but for some directories of it: the root becomes a small tmpfs with these bound. In a mount
    /// namespace of its own; needs CAP_SYS_ADMIN. Mounts outside come and go as before, and none goes with us.
    public static func leaveFileSystem(allBut directories: [String]) throws(KernelError) {
        try unshare(.mount)
        try Mounts.mount("none", on: "/", flags: [.isSlave, .recursive])
        let root = "/tmp"
        try Mounts.mount(
            "tmpfs", on: root, type: "tmpfs", flags: [.noSetuid, .noDevices, .noExecute], options: "size=1024k,mode=755"
        )
        for directory in directories where Files.isDirectory(directory) {
            try Files.makeDirectories(root + directory)
            try Mounts.mount(directory, on: root + directory, flags: [.bind, .recursive])
        }
        try CurrentProcess.changeDirectory(root)
        try Mounts.pivotRootHere()
        try Mounts.detach(".")
        try CurrentProcess.changeDirectory("/")
    }

    /// From now on calls that nobody who serves a forwarder makes end the process (seccomp(2)): other programs, other
    /// processes' memory, mounts, namespaces, kernels and modules. Needs no_new_privs.
    public static func forbidDangerousCalls() throws(KernelError) {
        _ = try check(ck_seccomp_forbid(), "filter system calls")
    }

    /// Refuses the calls that reach other processes, kernels and file handles (seccomp(2)), with EPERM. Needs no_new_privs.
    public static func forbidReachingCalls() throws(KernelError) {
        _ = try check(ck_seccomp_ring0(), "filter system calls")
    }

    /// Refuses sockets of AF_VSOCK (vsock(7)), which belong to no network namespace, for this process and its
    /// descendants. Needs no_new_privs or CAP_SYS_ADMIN.
    ///
    /// - Parameters:
    ///   - confined: closes the way by i386's socketcall(2) too, which costs 32-bit programs their sockets.
    ///   - withoutCgroups: refuses cgroup namespaces too, and clone3(2), whose flags no filter can read.
    public static func restrictWorkspace(confined: Bool, withoutCgroups: Bool) throws(KernelError) {
        _ = try check(ck_seccomp_workspace(confined ? 1 : 0, withoutCgroups ? 1 : 0), "filter system calls")
    }

    /// Gives up every capability and the way to new ones, and hides the process's memory from others of its user.
    public static func dropPrivileges() throws(KernelError) {
        try Capabilities.dropAll()
        try CurrentProcess.forbidNewPrivileges()
        CurrentProcess.setDumpable(false)
    }

    /// From now on any call that a forwarder does not make ends the process (seccomp(2)). Needs no_new_privs.
    public static func allowForwarderCallsOnly() throws(KernelError) {
        _ = try check(ck_seccomp_forwarder(), "filter system calls")
    }
}
