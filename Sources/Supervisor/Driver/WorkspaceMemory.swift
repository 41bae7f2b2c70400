internal import Kernel

/// What a workspace remembers from one start to the next: files in `.workspacekit` of the workspace directory, out of version
/// control's sight.
///
/// The directory belongs to users of the workspace, who may put anything there. So nothing is opened that is not a regular
/// file, and each directory on the way is opened by itself: a link that takes its place is refused, not followed.
struct WorkspaceMemory {
    private let workspace: String

    /// - Parameter workspace: the workspace directory.
    init(_ workspace: String) { self.workspace = workspace }

    /// The path of a file, to be read.
    func path(_ name: String) -> String { "\(workspace)/.workspacekit/\(name)" }

    /// Opens `.workspacekit`, or a directory in it; made where it is missing.
    func open(_ name: String? = nil) throws(KernelError) -> Directory {
        let root = try Directory(Files.openDirectory(workspace)).open(".workspacekit")
        try? Files.create(root.path(".gitignore"), Array("*\n".utf8))
        return try name.map { (name) throws(KernelError) in try root.open(name) } ?? root
    }

    /// A directory that is open: its files' paths lead nowhere else, whatever is renamed meanwhile.
    struct Directory {
        private let descriptor: Descriptor

        fileprivate init(_ descriptor: Descriptor) { self.descriptor = descriptor }

        func path(_ name: String) -> String { "/proc/self/fd/\(descriptor.number)/\(name)" }

        /// Opens a directory in this one; made where it is missing.
        fileprivate func open(_ name: String) throws(KernelError) -> Directory {
            try Files.makeDirectory(path(name))
            return Directory(try Files.openDirectory(name, in: descriptor))
        }

        /// Gives the directory to a user.
        func give(to identity: Identity) throws(KernelError) {
            try Files.changeOwner(of: descriptor.number, uid: identity.uid, gid: identity.gid)
        }
    }
}
