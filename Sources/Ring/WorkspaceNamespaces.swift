internal import Kernel
internal import SystemPackage

/// # Theory of operation
///
/// The stages and the workspace are in two user namespaces, one in the other:
///
///     ring0's user namespace
///     └─ the stages': ring1, ring2, the supervisor, their mount and PID namespaces
///        └─ the workspace's: tasks, services, `exec`; network, IPC, UTS, cgroup and mount namespaces
///
/// Root of the workspace owns what is the workspace's: it configures its network, mounts, and makes containers. It has no
/// right over anything of the stages: it may not trace them, nor undo what they have mounted. The stages live in the
/// workspace's network, IPC, UTS and cgroup namespaces without being in its user namespace. ring1 makes these first and
/// enters them, so that /sys, /dev/mqueue and cgroup2 are the workspace's when it mounts them in a mount namespace that is not.
///
/// ring2 makes the workspace's mount namespace last, from its own, and goes on mounting in its own: that shows in the
/// workspace's, and never the other way round.
///
/// KERNEL: a process that has a capability in a user namespace has it in the descendants of that too (user_namespaces(7)). What a mount
/// namespace has from one whose user namespace is another is locked in it: it cannot be unmounted, moved or remounted with
/// fewer restrictions (mount_namespaces(7)).
struct WorkspaceNamespaces {
    /// The workspace's user namespace.
    let users: Descriptor
    private let others: [(kind: Namespaces, descriptor: Descriptor)]

    /// Makes them, but for the mount namespace.
    init(_ ids: WorkspaceIDs, hasNetwork: Bool, hasCgroups: Bool) throws(KernelError) {
        let kinds: [(Namespaces, String)] = [(.ipc, "ipc"), (.uts, "uts")] + (hasNetwork ? [(.network, "net")] : [])
        guard hasCgroups else {
            self = try Self(ids, kinds)
            return
        }
        do throws(KernelError) { self = try Self(ids, kinds + [(.cgroup, "cgroup")]) } catch {
            // In a workspace without cgroup namespaces, there is one less.
            guard error.errno == .notPermitted else { throw error }
            self = try Self(ids, kinds)
        }
    }

    private init(_ ids: WorkspaceIDs, _ kinds: [(Namespaces, String)]) throws(KernelError) {
        let all = kinds.reduce(Namespaces.user) { $0.union($1.0) }
        (users, others) = try makeNamespaces(all) { (pid) throws(KernelError) in
            try IDRange.write(users: ids.users, groups: ids.groups, of: pid)
            var others: [(kind: Namespaces, descriptor: Descriptor)] = []
            for (kind, name) in kinds { others.append((kind, try Files.open("/proc/\(pid)/ns/\(name)", flags: 0))) }
            return (try Files.open("/proc/\(pid)/ns/user", flags: 0), others)
        }
    }

    /// Enters all but the user namespace.
    func enter() throws(KernelError) {
        for (kind, descriptor) in others { try enterNamespace(kind, descriptor) }
    }

}

/// The workspace's mount namespace, as ring2 holds it.
struct WorkspaceMounts {
    /// Itself, to enter.
    let namespace: Descriptor
    /// Its root directory: paths from there lead through its mounts.
    let root: Descriptor
    /// Its table of mounts (proc_pid_mounts(5)), which a poller says the changes of.
    let table: Descriptor

    /// Makes it, with the mounts that this process has now. What this process mounts and unmounts later, it does there too.
    ///
    /// KERNEL: a mount that arrives by propagation is not locked itself, so that root inside may unmount it again.
    init(users: Descriptor) throws(KernelError) {
        try Mounts.mount("none", on: "/", flags: [.isShared, .recursive])
        self = try makeNamespaces(.mount, in: users) { (pid) throws(KernelError) in
            try Self(
                namespace: Files.open("/proc/\(pid)/ns/mnt", flags: 0),
                root: Files.reference(directory: "/proc/\(pid)/root"),
                table: Files.open("/proc/\(pid)/mounts", flags: 0))
        }
    }

    private init(namespace: Descriptor, root: Descriptor, table: Descriptor) {
        self.namespace = namespace
        self.root = root
        self.table = table
    }
}

/// The rights that the stages inside need, over the workspace: to start programs as any of its users, to end them, to look
/// into them, and to put its network and files in order.
extension [Capability] {
    static var ofStages: [Capability] {
        [
            .chown, .dacOverride, .dacReadSearch, .fowner, .fsetid, .kill, .setgid, .setuid, .netBindService, .netAdmin,
            .netRaw, .sysChroot, .sysPtrace, .sysAdmin, .sysNice,
        ]
    }
}
