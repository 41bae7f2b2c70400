public import Kernel
internal import SystemPackage

/// Gives the files of a directory tree the owners that ``OwnerShift`` says.
///
/// Every file is opened below its open directory and never through a link, so that nothing in the tree leads out of it. Other
/// mounts are not entered. What one file refuses is told, and the others go on. A file with several names is met again under
/// each: by then it belongs to the range. (On an overlay it may be another file by then, which a list of the files that were
/// met would miss.) Memory is a list of names for each level.
public struct RootShift {
    /// What was done.
    public struct Report: Hashable, Sendable {
        /// Names that were shifted, those that were shifted already, and those whose owner or group has no place in the range.
        public var shifted = 0, already = 0, beyond = 0
        /// Files and directories whose setuid or setgid bits were kept, and whose capabilities were written again.
        public var bits = 0, capabilities = 0
        /// Mount points that were not entered.
        public var mounts = 0
        /// Files that could not be shifted or looked into.
        public var failures = 0
    }

    private struct Level {
        let directory: FileNode
        let path: String
        var names: [FileName] = []
    }

    /// As deep as a path may be, about; each level holds a descriptor.
    private static let deepest = 900
    private let owners: OwnerShift
    private let isDry: Bool
    private let tell: (KernelError) -> Void
    private var levels: [Level] = []
    /// What was done so far.
    public private(set) var report = Report()

    /// - Parameters:
    ///   - isDry: Nothing is changed.
    ///   - tell: Is given the failure of each file that could not be shifted.
    public init(_ owners: OwnerShift, isDry: Bool, tell: @escaping (KernelError) -> Void) {
        self.owners = owners
        self.isDry = isDry
        self.tell = tell
    }

    /// Shifts a tree; fails only where its top cannot be opened.
    public mutating func run(_ path: String) throws(KernelError) {
        let top = try FileNode(path: path)
        guard top.status.kind == .directory else {
            throw KernelError(call: "open directory", subject: path, errno: .notDirectory)
        }
        visit(top, FileName(path), in: nil, path: path)
        while let level = levels.indices.last {
            guard let name = levels[level].names.popLast() else {
                if !readNames(level) { levels.removeLast() }
                continue
            }
            let (directory, parent) = (levels[level].directory, levels[level].path)
            let path = parent.hasSuffix("/") ? "\(parent)\(name)" : "\(parent)/\(name)"
            do throws(KernelError) {
                let node = try FileNode(name, in: directory)
                visit(node, name, in: directory, path: path)
            } catch { fail(error, path) }
        }
    }

    /// Whether there were more names.
    private mutating func readNames(_ level: Int) -> Bool {
        do throws(KernelError) {
            guard let names = try levels[level].directory.nextNames() else { return false }
            levels[level].names = names
            return true
        } catch {
            fail(error, levels[level].path)
            return false
        }
    }

    private mutating func visit(_ node: FileNode, _ name: FileName, in directory: FileNode?, path: String) {
        if let directory, node.status.isOfAnotherMount(than: directory.status) {
            report.mounts += 1
            return
        }
        do throws(KernelError) {
            let readable = node.status.kind == .other ? nil : try node.opened(name, in: directory)
            do throws(KernelError) { try shift(node, readable) } catch { fail(error, path) }
            guard node.status.kind == .directory, let readable else { return }
            guard levels.count < Self.deepest else {
                throw KernelError(call: "read directory", errno: .fileNameTooLong)
            }
            levels.append(Level(directory: readable, path: path))
        } catch { fail(error, path) }
    }

    private mutating func shift(_ node: FileNode, _ readable: FileNode?) throws(KernelError) {
        let capabilities = node.status.kind == .regular ? try readable?.capabilities() ?? [] : []
        let rewritten = owners.capabilities(capabilities)
        let owner = newOwner(node.status)
        if !isDry {
            if let owner { try node.changeOwner(uid: owner.uid, gid: owner.gid) }
            if let readable, owner != nil, node.status.permissions & 0o6000 != 0 {
                try readable.changeMode(node.status.permissions)
            }
            if let readable, !capabilities.isEmpty, owner != nil || rewritten != nil {
                try readable.setCapabilities(rewritten ?? capabilities)
            }
        }
        if owner != nil, readable != nil, node.status.permissions & 0o6000 != 0 { report.bits += 1 }
        if rewritten != nil { report.capabilities += 1 }
    }

    /// The owner that a file is to have, or nil if it stays; counts it.
    private mutating func newOwner(_ status: NodeStatus) -> (uid: UInt32, gid: UInt32)? {
        let (user, group) = (owners.user(status.uid), owners.group(status.gid))
        if user == .beyond || group == .beyond { report.beyond += 1 }
        var owner = (uid: status.uid, gid: status.gid)
        if case .shifted(let id) = user { owner.uid = id }
        if case .shifted(let id) = group { owner.gid = id }
        if owner == (status.uid, status.gid) {
            if user == .already, group == .already { report.already += 1 }
            return nil
        }
        report.shifted += 1
        return owner
    }

    private mutating func fail(_ error: KernelError, _ path: String) {
        report.failures += 1
        tell(KernelError(call: error.call, subject: path, errno: error.errno))
    }
}
