public import Kernel
internal import SystemPackage

/// Opens a state directory to a workspace's root who is another user than the directory's owner.
///
/// Without CAP_SETFCAP ring0 cannot map its own root, so root inside is another user of the container, and the supervisor
/// would find a directory in which it may create nothing. The directory keeps its owner, so that ring0 can remove what is in
/// it at the end without any capability. Its group becomes that of the workspace's root, and the sticky bit keeps ring0's own
/// files from that group.
///
/// KERNEL: an owner may give a file to any group that it is in (chown(2)), and the group id for file access counts as one
/// (setfsgid(2)). CAP_SETGID is enough for that, and without it ring0 could not have written such an id map; CAP_CHOWN is not
/// needed.
public struct StateHandover {
    /// The mode of a directory that was handed over: nothing else gives a directory this one by accident.
    static let mode: UInt32 = 0o3771
    private let directory: Descriptor
    private let paths: StateDirectory

    /// The state directory that is open.
    public init(_ directory: Descriptor) {
        self.directory = directory
        paths = StateDirectory("/proc/self/fd/\(directory.number)")
    }

    /// Lets members of the group create files in the directory, and remove those of earlier workspaces.
    public func give(toGroup group: UInt32) throws(KernelError) {
        let former = CurrentProcess.setFileGroup(group)
        defer { _ = CurrentProcess.setFileGroup(former) }
        for path in [paths.logs, paths.commands] { try Files.makeDirectory(path) }
        try give(directory, group, Self.mode)
        // Without the sticky bit: the supervisor removes the logs of earlier workspaces.
        if let commands = own(paths.commands) { try give(commands, group, 0o2775) }
        if let logs = own(paths.logs) { try give(logs, group, 0o2770) }
        // The supervisor replaces these, which the sticky bit does not let it.
        for name in Files.entries(paths.path) where name.hasPrefix("events.jsonl") {
            try? Files.remove("\(paths.path)/\(name)")
        }
    }

    /// Closes the directory to the group again. What is in it stays with its owners.
    public func takeBack() {
        guard let status = Files.status(of: directory), status.permissions == Self.mode else { return }
        try? Files.changeMode(paths.path, 0o711)
        try? Files.changeOwner(of: directory.number, uid: .max, gid: CurrentProcess.group)
    }

    /// The user as whom the directory's owner connects to a socket that the workspace made in it. The kernel shows an owner
    /// that the workspace's ids do not include as an id that other users of the container may show as too, so the supervisor
    /// cannot recognise the owner itself. Nil for other directories and other callers.
    func user(of socket: String) -> UInt32? {
        guard let status = Files.status(of: directory), status.permissions == Self.mode,
            status.uid == CurrentProcess.effectiveUser, let file = Files.status(socket, followLinks: false),
            file.kind == .socket
        else { return nil }
        return file.uid
    }

    private func give(_ file: Descriptor, _ group: UInt32, _ mode: UInt32) throws(KernelError) {
        try Files.changeOwner(of: file.number, uid: .max, gid: group)
        try Files.changeMode("/proc/self/fd/\(file.number)", mode)
    }

    /// A directory that this user made. An earlier workspace may have put a link to another one in its place.
    private func own(_ path: String) -> Descriptor? {
        guard let file = try? Files.reference(directory: path, followLinks: false),
            Files.status(of: file)?.uid == CurrentProcess.effectiveUser
        else { return nil }
        return file
    }
}
