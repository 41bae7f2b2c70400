internal import CCap
internal import CKernel
internal import SystemPackage

/// A set of namespaces (namespaces(7)).
public struct Namespaces: OptionSet, Sendable, CustomStringConvertible {
    /// The bits of unshare(2).
    public let rawValue: Int32
    /// From the bits of unshare(2).
    public init(rawValue: Int32) { self.rawValue = rawValue }
    /// Mounts.
    public static let mount = Namespaces(rawValue: 0x0002_0000)
    /// The root of the cgroup tree in view.
    public static let cgroup = Namespaces(rawValue: 0x0200_0000)
    /// Host name.
    public static let uts = Namespaces(rawValue: 0x0400_0000)
    /// System V IPC and message queues.
    public static let ipc = Namespaces(rawValue: 0x0800_0000)
    /// Ids and capabilities.
    public static let user = Namespaces(rawValue: 0x1000_0000)
    /// Process numbers; for children.
    public static let pid = Namespaces(rawValue: 0x2000_0000)
    /// Interfaces, addresses, sockets.
    public static let network = Namespaces(rawValue: 0x4000_0000)

    /// The names as in /proc/PID/ns, joined by `+`.
    public var description: String {
        let names: [(Namespaces, String)] = [
            (.user, "user"), (.mount, "mnt"), (.pid, "pid"), (.network, "net"), (.ipc, "ipc"), (.uts, "uts"),
            (.cgroup, "cgroup"),
        ]
        return names.filter { contains($0.0) }.map(\.1).joined(separator: "+")
    }
}

/// Moves the calling process into new namespaces (unshare(2)). For a user namespace the process must have one thread.
public func unshare(_ namespaces: Namespaces) throws(KernelError) {
    _ = try check(ck_unshare(namespaces.rawValue), "make namespaces", namespaces.description)
}

/// Makes namespaces that no process stays in: `take` opens those that are to live on, by `/proc/PID/ns` of the child that
/// made them.
///
/// - Parameter users: a user namespace that the others are to belong to; nil: this process's, or the new one among them.
public func makeNamespaces<R>(
    _ namespaces: Namespaces, in users: Descriptor? = nil, take: (Int32) throws(KernelError) -> R
) throws(KernelError) -> R {
    var child = ck_namespace_child()
    _ = try check(
        unsafe ck_make_namespaces(users?.number ?? -1, namespaces.rawValue, 5000, &child), "make namespaces",
        namespaces.description)
    defer { unsafe ck_end_namespaces(&child) }
    return try take(child.pid)
}

/// Flags of mount(2).
public struct MountFlags: OptionSet, Sendable {
    /// The bits of mount(2).
    public let rawValue: UInt
    /// From the bits of mount(2).
    public init(rawValue: UInt) { self.rawValue = rawValue }
    /// MS_RDONLY
    public static let readOnly = MountFlags(rawValue: 1)
    /// MS_NOSUID
    public static let noSetuid = MountFlags(rawValue: 2)
    /// MS_NODEV
    public static let noDevices = MountFlags(rawValue: 4)
    /// MS_NOEXEC
    public static let noExecute = MountFlags(rawValue: 8)
    /// MS_REMOUNT
    public static let remount = MountFlags(rawValue: 32)
    /// MS_BIND
    public static let bind = MountFlags(rawValue: 4096)
    /// MS_REC
    public static let recursive = MountFlags(rawValue: 16384)
    /// MS_UNBINDABLE
    public static let isUnbindable = MountFlags(rawValue: 1 << 17)
    /// MS_PRIVATE
    public static let isPrivate = MountFlags(rawValue: 1 << 18)
    /// MS_SHARED
    public static let isShared = MountFlags(rawValue: 1 << 20)
    /// MS_SLAVE
    public static let isSlave = MountFlags(rawValue: 1 << 19)
}

/// Mount operations of the calling process's mount namespace.
public enum Mounts {
    /// mount(2). `source` is what the table shows for it; for a bind mount it is the path bound.
    public static func mount(
        _ source: String, on target: String, type: String = "", flags: MountFlags = [], options: String = ""
    ) throws(KernelError) {
        let what =
            flags.contains(.bind) ? "bind \(source) on" : type.isEmpty ? "change the mount at" : "mount \(type) on"
        let result = unsafe ck_mount(source, target, type, flags.rawValue, options)
        if result < 0 { throw KernelError(call: what, subject: target, errno: Errno(rawValue: -result)) }
    }

    /// Detaches the mount at `target` and all below it (MNT_DETACH).
    public static func detach(_ target: String) throws(KernelError) {
        _ = try check(unsafe ck_umount(target, 2), "unmount", target)
    }

    /// Makes the mount at `target` and all below it read-only (mount_setattr(2), since Linux 5.12).
    public static func setReadOnly(_ target: String) throws(KernelError) {
        _ = try check(unsafe ck_mount_read_only(target, 1, 1), "mount read-only", target)
    }

    /// Makes the mount at `target` alone read-only, or writable again.
    public static func setReadOnly(onlyAt target: String, _ isReadOnly: Bool) throws(KernelError) {
        _ = try check(
            unsafe ck_mount_read_only(target, isReadOnly ? 1 : 0, 0), isReadOnly ? "mount read-only" : "mount writable",
            target)
    }

    /// Makes the working directory the root and puts the old root below it (pivot_root(2), the "." "." form).
    public static func pivotRootHere() throws(KernelError) {
        _ = try check(unsafe ck_pivot_root(".", "."), "pivot_root to", "the workspace's root")
    }
}

/// Sets the host name of the calling process's UTS namespace.
public func setHostName(_ name: String) throws(KernelError) {
    _ = try check(unsafe ck_sethostname(name), "set host name", name)
}

/// Enters a namespace of that kind, by a descriptor of it (setns(2)).
public func enterNamespace(_ kind: Namespaces, _ namespace: Descriptor) throws(KernelError) {
    _ = try check(ck_setns(namespace.number, kind.rawValue), "enter namespace", kind.description)
}

/// Enters a user namespace, by a descriptor of it (setns(2)); does nothing where the caller is in it already.
public func enterUserNamespace(_ namespace: Descriptor) throws(KernelError) {
    // KERNEL: setns(2) to the user namespace that the caller is in is EINVAL.
    if let here = Files.status("/proc/self/ns/user"), let there = Files.status("/proc/self/fd/\(namespace.number)"),
        here.inode == there.inode, here.device == there.device
    {
        return
    }
    try enterNamespace(.user, namespace)
}

/// A capability by number (capabilities(7)).
public enum Capability: Int32, Sendable {
    case chown = 0, dacOverride = 1, dacReadSearch = 2, fowner = 3, fsetid = 4, kill = 5, setgid = 6, setuid = 7,
        netBindService = 10, netAdmin = 12, netRaw = 13, sysChroot = 18, sysPtrace = 19, sysAdmin = 21, sysNice = 23,
        setfcap = 31
}

/// The capabilities of the calling process (libcap).
public enum Capabilities {
    /// Whether the capability is in the effective set.
    public static func has(_ capability: Capability) -> Bool {
        guard let caps = unsafe cap_get_proc() else { return false }
        defer { unsafe _ = cap_free(UnsafeMutableRawPointer(caps)) }
        var value = CAP_CLEAR
        return unsafe cap_get_flag(caps, cap_value_t(capability.rawValue), CAP_EFFECTIVE, &value) == 0
            && value == CAP_SET
    }

    /// Gives up every capability but these, as far as it has them: effective and permitted.
    public static func drop(allBut kept: [Capability]) throws(KernelError) {
        let held = kept.filter { has($0) }
        _ = cap_reset_ambient()
        guard let caps = unsafe cap_init() else { throw KernelError(call: "drop capabilities", errno: .noMemory) }
        defer { unsafe _ = cap_free(UnsafeMutableRawPointer(caps)) }
        for capability in held {
            let values = [cap_value_t(capability.rawValue)]
            for flag in [CAP_EFFECTIVE, CAP_PERMITTED] {
                _ = unsafe cap_set_flag(caps, flag, 1, values, CAP_SET)
            }
        }
        if unsafe cap_set_proc(caps) != 0 { throw KernelError(call: "drop capabilities", errno: .notPermitted) }
    }

    /// Has these capabilities, as far as they are permitted, and no others; programs that it executes get them too.
    static func hold(_ kept: [Capability]) throws(KernelError) {
        guard let caps = unsafe cap_init() else { throw KernelError(call: "keep capabilities", errno: .noMemory) }
        defer { unsafe _ = cap_free(UnsafeMutableRawPointer(caps)) }
        let values = kept.map { cap_value_t($0.rawValue) }
        for flag in [CAP_PERMITTED, CAP_EFFECTIVE, CAP_INHERITABLE] {
            _ = unsafe cap_set_flag(caps, flag, CInt(values.count), values, CAP_SET)
        }
        guard unsafe cap_set_proc(caps) == 0 else { throw KernelError(call: "keep capabilities", errno: .notPermitted) }
        for value in values {
            guard cap_set_ambient(value, CAP_SET) == 0 else {
                throw KernelError(call: "keep capabilities", errno: .notPermitted)
            }
        }
    }

    /// Gives up every capability, for good: permitted, effective, inheritable and ambient.
    public static func dropAll() throws(KernelError) {
        _ = cap_reset_ambient()
        guard let none = unsafe cap_init() else { throw KernelError(call: "drop capabilities", errno: .noMemory) }
        defer { unsafe _ = cap_free(UnsafeMutableRawPointer(none)) }
        if unsafe cap_set_proc(none) != 0 { throw KernelError(call: "drop capabilities", errno: .notPermitted) }
    }
}
