internal import Kernel

/// Follows the configuration's files: written, replaced by rename, or a link switched. Their directory is watched, because
/// a watched file would be lost with its inode. An editor writes in several steps, and git replaces many files: only
/// when 100 ms passed without news is it time to look.
struct ConfigurationWatch {
    static let quiet = Duration.milliseconds(100)
    /// Becomes readable when something may have changed; nil where nothing can be watched.
    let descriptor: Descriptor?
    private let names: [String]
    /// When to look; nil: nothing happened.
    private(set) var dueAt: MonotonicInstant?

    init(_ files: ConfigurationFiles) {
        descriptor = try? watchDirectory(files.directory)
        // Kubernetes switches a mounted ConfigMap by renaming ..data.
        names =
            [files.path, files.extensionsPath ?? files.path].map { String($0.split(separator: "/").last ?? "") }
            + ["..data"]
    }

    /// Reads the news.
    mutating func take(at now: MonotonicInstant) {
        guard let descriptor else { return }
        var buffer = [UInt8](repeating: 0, count: 16384)
        for _ in 0..<64 {
            guard case .bytes(let count) = Kernel.read(descriptor.number, into: &buffer), count > 0 else { return }
            if mentions(buffer[..<count]) { dueAt = now + Self.quiet }
        }
    }

    /// Whether it is time to look; forgets that it was.
    mutating func isDue(at now: MonotonicInstant) -> Bool {
        guard let due = dueAt, due <= now else { return false }
        dueAt = nil
        return true
    }

    /// inotify(7): wd, mask, cookie, len, each of 4 bytes, then the name, padded with zeros to len.
    private func mentions(_ bytes: ArraySlice<UInt8>) -> Bool {
        var rest = bytes
        while rest.count >= 16 {
            let header = Array(rest.prefix(16))
            let length = header[12..<16].reversed().reduce(0) { $0 << 8 | Int($1) }
            let mask = header[4..<8].reversed().reduce(0) { $0 << 8 | Int($1) }
            guard length <= rest.count - 16 else { return true }
            let name = String(decoding: rest.dropFirst(16).prefix(length).prefix { $0 != 0 }, as: UTF8.self)
            // IN_Q_OVERFLOW: anything may have happened.
            if names.contains(name) || mask & 0x4000 != 0 { return true }
            rest = rest.dropFirst(16 + length)
        }
        return false
    }
}
