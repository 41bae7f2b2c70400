internal import Kernel

/// The mounts that this process sees (proc_pid_mountinfo(5)).
struct MountTable {
    struct Entry {
        let path: String
        let flags: MountFlags
    }
    let entries: [Entry]

    /// The mounts of now; without /proc, none.
    init() { self.init(mountinfo: Files.text("/proc/self/mountinfo") ?? "") }

    init(mountinfo: String) {
        entries = mountinfo.split(separator: "\n").compactMap { line in
            let words = line.split(separator: " ")
            guard words.count > 5 else { return nil }
            return Entry(path: Self.unescaped(words[4]), flags: Self.flags(words[5]))
        }
    }

    /// Whether something is mounted at the path.
    func hasMount(at path: String) -> Bool { entries.contains { $0.path == path } }

    /// Whether something is mounted below the path.
    func hasMount(below path: String) -> Bool {
        let prefix = path == "/" ? path : path + "/"
        return entries.contains { $0.path != "/" && $0.path.hasPrefix(prefix) }
    }

    /// The mount that the path is in.
    func mount(of path: String) -> Entry? {
        var found: Entry?
        for entry in entries where entry.path == "/" || path == entry.path || path.hasPrefix(entry.path + "/") {
            // Of two at one place, the later one lies above.
            if entry.path.utf8.count >= found?.path.utf8.count ?? 0 { found = entry }
        }
        return found
    }

    private static func flags(_ options: Substring) -> MountFlags {
        let words: [(Substring, MountFlags)] = [
            ("ro", .readOnly), ("nosuid", .noSetuid), ("nodev", .noDevices), ("noexec", .noExecute),
        ]
        let given = options.split(separator: ",")
        return words.filter { given.contains($0.0) }.reduce(into: []) { $0.formUnion($1.1) }
    }

    /// The kernel writes blanks, line ends and backslashes as three octal digits.
    private static func unescaped(_ text: Substring) -> String {
        var bytes: [UInt8] = []
        var rest = Array(text.utf8)[...]
        while let byte = rest.popFirst() {
            if byte == UInt8(ascii: "\\"), rest.count >= 3,
                let value = UInt8(String(decoding: rest.prefix(3), as: UTF8.self), radix: 8)
            {
                bytes.append(value)
                rest = rest.dropFirst(3)
            } else {
                bytes.append(byte)
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}
