public import Kernel
internal import SystemPackage

/// Why a state directory is not used.
public enum StateDirectoryError: Error, Hashable, Sendable, CustomStringConvertible {
    /// There is none.
    case missing
    /// Its path is a link, or no directory.
    case isNoDirectory(String)
    /// It belongs to another user, or others may change what is in it.
    case isForeign(String), isOpenToOthers(String)

    /// What to tell the user.
    public var description: String {
        switch self {
        case .missing: "there is no state directory"
        case .isNoDirectory(let path):
            "cannot use the state directory \(path): it is no directory of its own, but a link or a file. hint: name the directory with --state-dir"
        case .isForeign(let path):
            "cannot use the state directory \(path): it belongs to another user. hint: name another with --state-dir, or run this as its user"
        case .isOpenToOthers(let path):
            "cannot use the state directory \(path): other users may change what is in it. hint: chmod o-w,g-w \(path)"
        }
    }
}

extension StateDirectory {
    /// Opens the directory, if one of these users made it and only they can have made what is in it: it is no link, and no other
    /// user may write in it.
    ///
    /// In a user namespace that does not have the owner, the owner shows as the overflow id (user_namespaces(7)), which an
    /// ordinary user may have too: then the directory that it lies in must be closed to others.
    public func open(ownedBy users: [UInt32]) throws(StateDirectoryError) -> Descriptor {
        let directory: Descriptor
        do throws(KernelError) { directory = try Files.reference(directory: path, followLinks: false) } catch {
            throw error.errno == .noSuchFileOrDirectory ? .missing : .isNoDirectory(path)
        }
        guard let status = Files.status(of: directory) else { throw .missing }
        let overflow = Files.text("/proc/sys/kernel/overflowuid").flatMap { UInt32($0.filter { !$0.isNewline }) }
        let isUnmapped =
            status.uid == overflow && !Self.mapsEveryUser && isParentClosed
        guard users.contains(status.uid) || isUnmapped else { throw .isForeign(path) }
        let ownGroups: [UInt32] = [CurrentProcess.group, 0]
        // Only its owner can have handed it over, to the workspace's root.
        let isHandedOver = status.permissions == StateHandover.mode
        let isGroupOpen = status.permissions & 0o020 != 0 && !ownGroups.contains(status.gid) && !isHandedOver
        guard status.permissions & 0o002 == 0, !isGroupOpen else { throw .isOpenToOthers(path) }
        return directory
    }

    private var isParentClosed: Bool {
        let parent = "/" + path.split(separator: "/").dropLast().joined(separator: "/")
        return Files.status(parent).map { $0.permissions & 0o002 == 0 } ?? false
    }

    private static var mapsEveryUser: Bool {
        (Files.text("/proc/self/uid_map") ?? "").split { $0 == " " || $0 == "\n" } == ["0", "0", "4294967295"]
    }
}
