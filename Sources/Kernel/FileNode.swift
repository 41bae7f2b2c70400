internal import CKernel
internal import SystemPackage

/// What there is to know of a file before it gets another owner.
public struct NodeStatus: Hashable, Sendable {
    /// The kinds that differ here.
    public enum Kind: Hashable, Sendable { case regular, directory, other }
    /// The file's kind; links, devices, pipes and sockets are other.
    public let kind: Kind
    /// Owner.
    public let uid: UInt32, gid: UInt32
    /// Permission bits.
    public let permissions: UInt32
    /// File system and inode number.
    public let device: UInt64, inode: UInt64
    /// The mount that it is seen through; 0 where the kernel does not say (before Linux 5.8).
    public let mount: UInt64

    fileprivate init(_ raw: ck_node) {
        kind =
            switch raw.mode & 0o170000 {
            case 0o100000: .regular
            case 0o040000: .directory
            default: .other
            }
        uid = raw.uid
        gid = raw.gid
        permissions = raw.mode & 0o7777
        device = raw.device
        inode = raw.inode
        mount = raw.mount
    }

    /// Whether a file in a directory is seen through another mount than the directory.
    ///
    /// KERNEL: on an overlay, only directories are sure to have the device of the overlay (overlayfs.rst, "Inode properties").
    public func isOfAnotherMount(than directory: NodeStatus) -> Bool {
        guard mount == 0 || directory.mount == 0 else { return mount != directory.mount }
        return kind == .directory && device != directory.device
    }
}

/// The name of a file in a directory, as the kernel has it: bytes, which need not be text.
public struct FileName: Hashable, Sendable, CustomStringConvertible {
    fileprivate let bytes: [CChar]

    /// Text as a name.
    public init(_ text: String) { bytes = text.utf8.map { CChar(bitPattern: $0) } + [0] }

    fileprivate init<Bytes: Sequence<UInt8>>(bytes: Bytes) { self.bytes = bytes.map { CChar(bitPattern: $0) } + [0] }

    /// For messages.
    public var description: String { String(decoding: bytes.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self) }
}

/// One file, opened as the object of other calls (O_PATH); a link itself, never what it leads to.
public struct FileNode {
    private let file: Descriptor
    /// What it was when it was opened.
    public let status: NodeStatus

    /// A path; links in it are followed, but for its last part.
    public init(path: String) throws(KernelError) { try self.init(at: -100, FileName(path), readable: false) }

    /// A file of an open directory.
    public init(_ name: FileName, in directory: FileNode) throws(KernelError) {
        try self.init(at: directory.file.number, name, readable: false)
    }

    private init(at directory: Int32, _ name: FileName, readable: Bool) throws(KernelError) {
        let number = try check(unsafe ck_open_node(directory, name.bytes, readable ? 1 : 0), "open", name.description)
        file = Descriptor(OwnedDescriptor(owning: number))
        var raw = ck_node()
        _ = try check(unsafe ck_stat_node(number, &raw), "read the status of", name.description)
        status = NodeStatus(raw)
    }

    /// The same regular file or directory, to read it, its mode or its attributes; ESTALE when another has its name by now.
    ///
    /// - Parameter directory: The one that it was opened in; nil: `name` is a path.
    public func opened(_ name: FileName, in directory: FileNode?) throws(KernelError) -> FileNode {
        let readable = try FileNode(at: directory?.file.number ?? -100, name, readable: true)
        guard readable.status.inode == status.inode, readable.status.mount == status.mount else {
            throw KernelError(call: "open", subject: name.description, errno: .staleNFSFileHandle)
        }
        return readable
    }

    /// Gives it another owner.
    ///
    /// KERNEL: that clears setuid and setgid of a file, and removes its capabilities, also for root (chown(2)).
    public func changeOwner(uid: UInt32, gid: UInt32) throws(KernelError) {
        defer { withExtendedLifetime(file) {} }
        _ = try check(ck_change_owner(file.number, uid, gid), "change the owner of")
    }

    /// Gives it other permission bits. It must be ``opened(_:in:)``.
    public func changeMode(_ mode: UInt32) throws(KernelError) {
        defer { withExtendedLifetime(file) {} }
        _ = try check(ck_change_mode(file.number, mode), "change the mode of")
    }

    /// Its capabilities as they are stored (capabilities(7)); empty without. It must be ``opened(_:in:)``.
    public func capabilities() throws(KernelError) -> [UInt8] {
        defer { withExtendedLifetime(file) {} }
        var bytes = [UInt8](repeating: 0, count: 64)
        let count = try check(
            unsafe ck_get_attribute(file.number, Self.capabilityName, &bytes, bytes.count), "read the capabilities of")
        return Array(bytes[..<count])
    }

    /// Gives it capabilities. It must be ``opened(_:in:)``.
    public func setCapabilities(_ bytes: [UInt8]) throws(KernelError) {
        defer { withExtendedLifetime(file) {} }
        _ = try check(
            unsafe ck_set_attribute(file.number, Self.capabilityName, bytes, bytes.count), "write the capabilities of")
    }

    private static let capabilityName = "security.capability"

    /// The next names in a directory that is ``opened(_:in:)``, some at a time; nil at the end.
    public func nextNames() throws(KernelError) -> [FileName]? {
        defer { withExtendedLifetime(file) {} }
        var buffer = [UInt8](repeating: 0, count: 8192)
        let count = try check(unsafe ck_read_entries(file.number, &buffer, buffer.count), "read directory")
        return count == 0 ? nil : Self.names(buffer[..<count])
    }

    /// The names in what getdents64(2) has written: records of inode, offset, length (two bytes), kind and name.
    static func names(_ records: ArraySlice<UInt8>) -> [FileName] {
        var names: [FileName] = []
        var rest = records
        while rest.count > 19 {
            let start = rest.startIndex
            let length = Int(rest[start + 16]) | Int(rest[start + 17]) << 8
            guard length > 19, length <= rest.count else { break }
            let name = rest[(start + 19)..<(start + length)].prefix { $0 != 0 }
            if !name.elementsEqual([0x2e]), !name.elementsEqual([0x2e, 0x2e]) { names.append(FileName(bytes: name)) }
            rest = rest[(start + length)...]
        }
        return names
    }
}
