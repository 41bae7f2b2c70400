internal import CKernel
internal import SystemPackage

/// What stat(2) says of a file, as far as we use it.
public struct FileStatus: Hashable, Sendable {
    /// The file's kind.
    public enum Kind: Hashable, Sendable { case regular, directory, symbolicLink, characterDevice, socket, pipe, other }
    /// The kind of file.
    public let kind: Kind
    /// Owner.
    public let uid: UInt32, gid: UInt32
    /// Bytes.
    public let size: Int
    /// Permission bits.
    public let permissions: UInt32
    /// Filesystem and inode number.
    public let device: UInt64, inode: UInt64
    /// When the file was made (statx(2)), which tells two that had one inode after the other apart; 1970 where the file
    /// system does not say.
    public let bornAt: WallInstant
}

extension FileStatus {
    fileprivate init(_ raw: ck_stat) {
        kind =
            switch raw.mode & 0o170000 {
            case 0o100000: .regular
            case 0o040000: .directory
            case 0o120000: .symbolicLink
            case 0o020000: .characterDevice
            case 0o140000: .socket
            case 0o010000: .pipe
            default: .other
            }
        uid = raw.uid
        gid = raw.gid
        size = Int(clamping: raw.size)
        permissions = raw.mode & 0o7777
        device = raw.device
        inode = raw.inode
        bornAt = WallInstant(nanoseconds: raw.born_ns)
    }

    /// What tells it from every other file that is open or exists meanwhile, as text.
    public var identity: String { "\(device):\(inode)" }

    /// Whether both are of one file, which then is open or exists all the while.
    public func isSameFile(as other: FileStatus) -> Bool { device == other.device && inode == other.inode }
}

/// File operations by path. Every failure names the path.
public enum Files {
    /// stat(2), or lstat(2) with `followLinks: false`; nil when the path does not exist.
    public static func status(_ path: String, followLinks: Bool = true) -> FileStatus? {
        var raw = ck_stat()
        guard unsafe ck_stat(path, followLinks ? 1 : 0, &raw) == 0 else { return nil }
        return FileStatus(raw)
    }

    /// What an open file is.
    public static func status(of file: Descriptor) -> FileStatus? {
        defer { withExtendedLifetime(file) {} }
        var raw = ck_stat()
        return unsafe ck_stat_open(file.number, &raw) == 0 ? FileStatus(raw) : nil
    }

    /// Whether the path is a directory, links followed.
    public static func isDirectory(_ path: String) -> Bool { status(path)?.kind == .directory }

    /// A regular file's bytes; at most `limit`, a larger file is an error (EFBIG). It never waits, whatever the path leads to.
    public static func read(_ path: String, limit: Int = 1 << 20) throws(KernelError) -> [UInt8] {
        try readAll(openRegular(path), subject: path, limit: limit)
    }

    /// The same of a file that a user names, which may be one that is open already (`/dev/stdin`, `/dev/fd/63`): what such a
    /// pipe gives is waited for.
    public static func readNamed(_ path: String, limit: Int) throws(KernelError) -> [UInt8] {
        guard path.hasPrefix("/dev/") || path.hasPrefix("/proc/") else { return try read(path, limit: limit) }
        let file = OwnedDescriptor(owning: try check(unsafe ck_open(path, ck_read_only, 0), "open", path))
        return try readAll(file.number, subject: path, limit: limit)
    }

    /// Everything an open file gives until its end; at most `limit` bytes.
    public static func readAll(_ file: Descriptor, subject: String, limit: Int = 1 << 20) throws(KernelError)
        -> [UInt8]
    {
        defer { withExtendedLifetime(file) {} }
        return try readAll(file.number, subject: subject, limit: limit)
    }

    /// Everything a descriptor gives until its end; at most `limit` bytes.
    public static func readAll(_ descriptor: Int32, subject: String, limit: Int = 1 << 20) throws(KernelError)
        -> [UInt8]
    {
        var result: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 65536)
        while true {
            switch Kernel.read(descriptor, into: &buffer) {
            case .bytes(0): return result
            case .bytes(let n): result += buffer[..<n]
            case .wouldBlock: throw KernelError(call: "read", subject: subject, errno: .resourceTemporarilyUnavailable)
            case .failed(let errno): throw KernelError(call: "read", subject: subject, errno: errno)
            }
            if result.count > limit { throw KernelError(call: "read", subject: subject, errno: .fileTooLarge) }
        }
    }

    /// The file as text; nil when it cannot be read.
    public static func text(_ path: String) -> String? {
        (try? read(path)).map { String(decoding: $0, as: UTF8.self) }
    }

    /// The text of a regular file that others may have put there; nil for anything else, for links, and beyond the limit.
    /// Never waits.
    public static func regularText(_ path: String, limit: Int = 1 << 20) -> String? {
        let number = unsafe ck_open_regular(path, ck_read_no_link, 0)
        if number < 0 { return nil }
        let file = OwnedDescriptor(owning: number)
        return (try? readAll(file.number, subject: path, limit: limit)).map { String(decoding: $0, as: UTF8.self) }
    }

    /// Opens a directory.
    public static func openDirectory(_ path: String) throws(KernelError) -> Descriptor {
        Descriptor(OwnedDescriptor(owning: try check(unsafe ck_open_directory(-1, path), "open directory", path)))
    }

    /// Opens a directory in one that is open; a link is an error.
    public static func openDirectory(_ name: String, in directory: Descriptor) throws(KernelError) -> Descriptor {
        Descriptor(
            OwnedDescriptor(
                owning: try check(unsafe ck_open_directory(directory.number, name), "open directory", name)))
    }

    /// Writes a new file in the place of whatever is there, which is removed: a link is not followed.
    public static func replace(_ path: String, _ bytes: [UInt8], mode: UInt32 = 0o644) throws(KernelError) {
        try remove(path)
        try create(path, bytes, mode: mode)
    }

    /// Writes a file that must not be there yet; EEXIST when it is.
    public static func create(_ path: String, _ bytes: [UInt8], mode: UInt32 = 0o644) throws(KernelError) {
        let file = OwnedDescriptor(owning: try check(unsafe ck_open(path, 0o301, mode), "create", path))
        try writeAll(file, bytes, path)
    }

    private static func writeAll(
        _ file: borrowing OwnedDescriptor, _ bytes: [UInt8], _ path: String
    ) throws(KernelError) {
        var done = 0
        while done < bytes.count {
            switch file.write(bytes, from: done) {
            case .bytes(let n): done += n
            case .wouldBlock: throw KernelError(call: "write", subject: path, errno: .resourceTemporarilyUnavailable)
            case .failed(let errno): throw KernelError(call: "write", subject: path, errno: errno)
            }
        }
    }

    /// Writes to a file of the kernel's (procfs, sysfs, cgroupfs) with one write(2), as those demand.
    public static func writeKernelFile(_ path: String, _ text: String) throws(KernelError) {
        let file = OwnedDescriptor(owning: try check(unsafe ck_open(path, 1, 0), "open", path))
        if case .failed(let errno) = file.write(Array(text.utf8)) {
            throw KernelError(call: "write", subject: path, errno: errno)
        }
    }

    /// Opens a regular file for appending, made when missing; closed on exec. A link there is not followed (ELOOP).
    public static func openForAppending(_ path: String, mode: UInt32 = 0o644) throws(KernelError) -> Descriptor {
        Descriptor(OwnedDescriptor(owning: try check(unsafe ck_open_regular(path, ck_append, mode), "open", path)))
    }

    /// Opens a regular file for reading and writing at offsets, made with the mode if it is not there. A link there is not
    /// followed (ELOOP).
    public static func openForUpdate(_ path: String, mode: UInt32 = 0o644) throws(KernelError) -> Descriptor {
        Descriptor(OwnedDescriptor(owning: try check(unsafe ck_open_regular(path, ck_update, mode), "open", path)))
    }

    /// How long an open file is.
    public static func size(of file: Int32) -> Int { Int(max(0, ck_size(file))) }

    /// Opens a file with the flags of open(2).
    public static func open(_ path: String, flags: Int32) throws(KernelError) -> Descriptor {
        Descriptor(OwnedDescriptor(owning: try check(unsafe ck_open(path, flags, 0), "open", path)))
    }

    /// Opens a regular file for reading, without waiting whatever the path leads to (EINVAL for pipes, sockets and devices).
    public static func openRegular(_ path: String) throws(KernelError) -> Descriptor {
        Descriptor(OwnedDescriptor(owning: try check(unsafe ck_open_regular(path, ck_read_only, 0), "open", path)))
    }

    /// Opens a regular file that is there, and no link, for reading and writing.
    public static func openForUpdate(existing path: String) throws(KernelError) -> Descriptor {
        Descriptor(
            OwnedDescriptor(owning: try check(unsafe ck_open_regular(path, ck_update_existing, 0), "open", path)))
    }

    /// A directory, as where paths begin (O_PATH): `/proc/self/fd/N/NAME` is in it, whatever its own path leads to later.
    public static func reference(directory path: String, followLinks: Bool = true) throws(KernelError) -> Descriptor {
        Descriptor(OwnedDescriptor(owning: try check(unsafe ck_open_place(path, followLinks ? 1 : 0), "open", path)))
    }

    /// Where an open file lies (proc_pid_fd(5)).
    public static func path(of file: Descriptor) -> String? {
        withExtendedLifetime(file) { linkTarget("/proc/self/fd/\(file.number)") }
    }

    /// A file as the object of other calls, neither read nor written (O_PATH).
    public static func reference(_ path: String, followLinks: Bool = true) throws(KernelError) -> Descriptor {
        Descriptor(
            OwnedDescriptor(owning: try check(unsafe ck_open_reference(path, followLinks ? 1 : 0), "open", path)))
    }

    /// The status of a file as a process sees it whose root directory is `root`: no link leads out of it (openat2(2)). A kernel
    /// without that call (before Linux 5.6) tells what this process sees.
    public static func status(_ path: String, in root: Descriptor) -> FileStatus? {
        defer { withExtendedLifetime(root) {} }
        let file = unsafe ck_open_in(root.number, path)
        guard file >= 0 else { return Errno(rawValue: -file) == .noFunction ? status(path) : nil }
        return status(of: Descriptor(OwnedDescriptor(owning: file)))
    }

    /// Cuts an open file to a length.
    public static func truncate(_ file: Descriptor, to size: Int) {
        _ = ck_ftruncate(file.number, UInt64(max(0, size)))
    }

    /// Makes a directory and its missing parents.
    public static func makeDirectories(_ path: String, mode: UInt32 = 0o755) throws(KernelError) {
        var prefix = ""
        for part in path.split(separator: "/") {
            prefix += "/" + part
            let result = unsafe ck_mkdir(prefix, mode)
            if result < 0, result != -17, !isDirectory(prefix) { _ = try check(result, "make directory", prefix) }
        }
    }

    /// Makes one directory; EEXIST when anything is there.
    public static func createDirectory(_ path: String, mode: UInt32 = 0o755) throws(KernelError) {
        _ = try check(unsafe ck_mkdir(path, mode), "make directory", path)
    }

    /// Makes one directory; it may be there already.
    public static func makeDirectory(_ path: String, mode: UInt32 = 0o755) throws(KernelError) {
        let result = unsafe ck_mkdir(path, mode)
        if result != -17 { _ = try check(result, "make directory", path) }
    }

    /// Makes an empty file if there is none.
    public static func touch(_ path: String) throws(KernelError) {
        _ = OwnedDescriptor(owning: try check(unsafe ck_open(path, 0o101, 0o644), "create", path))
    }

    /// Removes a file; a missing one is no error.
    public static func remove(_ path: String) throws(KernelError) {
        let result = unsafe ck_unlink(path)
        if result != -2 { _ = try check(result, "remove", path) }
    }

    /// Removes an empty directory; failure is ignored.
    public static func removeDirectory(_ path: String) { _ = unsafe ck_rmdir(path) }

    /// Renames a file over another.
    public static func rename(_ from: String, to: String) throws(KernelError) {
        _ = try check(unsafe ck_rename(from, to), "rename", "\(from) to \(to)")
    }

    /// Makes a symbolic link.
    public static func symlink(_ target: String, at path: String) throws(KernelError) {
        _ = try check(unsafe ck_symlink(target, path), "make link", path)
    }

    /// Where a symbolic link points; nil for anything else.
    public static func linkTarget(_ path: String) -> String? {
        var buffer = [CChar](repeating: 0, count: 4096)
        let n = unsafe ck_readlink(path, &buffer, buffer.count)
        guard n > 0, n < buffer.count else { return nil }
        return String(decoding: buffer[..<n].map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// Gives a file (not what it links to) another owner.
    public static func changeOwner(_ path: String, uid: UInt32, gid: UInt32) throws(KernelError) {
        _ = try check(unsafe ck_chown(path, uid, gid), "change the owner of", path)
    }

    /// Gives an open file, a pipe or a terminal another owner.
    public static func changeOwner(of file: Int32, uid: UInt32, gid: UInt32) throws(KernelError) {
        _ = try check(ck_change_owner(file, uid, gid), "change the owner of", "descriptor \(file)")
    }

    /// Gives a file other permission bits; a link is followed.
    public static func changeMode(_ path: String, _ mode: UInt32) throws(KernelError) {
        _ = try check(unsafe ck_chmod(path, mode), "change the mode of", path)
    }

    /// Whether the caller may use the file (access(2)): 1 execute, 2 write, 4 read.
    public static func isAccessible(_ path: String, _ mode: Int32) -> Bool { unsafe ck_access(path, mode) == 0 }

    /// Takes an exclusive lock that lasts as long as the descriptor (flock(2)); false when another holds it.
    public static func lock(_ file: Descriptor) -> Bool { ck_flock(file.number) == 0 }

    /// The path without links, `.` and `..` where they can be resolved: what a process sees as its working directory.
    public static func absolute(_ path: String) -> String {
        let start = path.hasPrefix("/") ? "" : (linkTarget("/proc/self/cwd") ?? "")
        var parts: [Substring] = []
        for part in (start + "/" + path).split(separator: "/") where part != "." {
            if part == ".." { _ = parts.popLast() } else { parts.append(part) }
        }
        return "/" + parts.joined(separator: "/")
    }
}

extension Files {
    /// The names in a directory, unsorted; none when it cannot be read.
    public static func entries(_ path: String) -> [String] {
        guard let directory = unsafe ck_directory_open(path) else { return [] }
        defer { unsafe ck_directory_close(directory) }
        var names: [String] = []
        while let name = unsafe ck_directory_next(directory) { unsafe names.append(String(cString: name)) }
        return names.filter { $0 != "." && $0 != ".." }
    }
}
