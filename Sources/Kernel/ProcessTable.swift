internal import CKernel

/// What /proc/PID/stat says of a process (proc_pid_stat(5)), as far as we use it.
public struct ProcessEntry: Hashable, Sendable {
    /// Its id.
    public let pid: Int32
    /// Its name, at most 15 bytes.
    public let name: String
    /// Its parent, process group and session.
    public let parent: Int32, group: Int32, session: Int32
    /// Processor time of it and of those of its children that it has collected.
    public let processorTime: Duration
    /// Memory that is there, in bytes.
    public let residentSize: UInt64

    /// Reads the file's text; nil when it is none.
    public init?(stat text: String) {
        // The name stands in parentheses, and may hold any of them itself.
        guard let open = text.firstIndex(of: "("), let close = text.lastIndex(of: ")"), open < close,
            let pid = Int32(text[..<open].split(separator: " ").first ?? "")
        else { return nil }
        let fields = text[text.index(after: close)...].split { $0 == " " || $0 == "\n" }
        // From the third field, the state, on.
        guard fields.count > 21, let parent = Int32(fields[1]), let group = Int32(fields[2]),
            let session = Int32(fields[3]), let resident = Int64(fields[21])
        else { return nil }
        let ticks = fields[11...14].compactMap { Int64($0) }.reduce(0, &+)
        self.pid = pid
        name = String(text[text.index(after: open)..<close])
        self.parent = parent
        self.group = group
        self.session = session
        processorTime = .milliseconds(ticks &* 1000 / Self.ticksPerSecond)
        residentSize = UInt64(max(0, resident)) &* Self.pageSize
    }

    /// KERNEL: USER_HZ, in which /proc counts, is 100 on all machines that Swift runs on.
    private static let ticksPerSecond: Int64 = 100
    private static let pageSize = UInt64(ck_page_size())

    /// The process of an id; nil when there is none.
    public init?(_ pid: Int32) {
        guard let text = Files.text("/proc/\(pid)/stat") else { return nil }
        self.init(stat: text)
    }

    /// All processes of the PID namespace.
    public static func all() -> [ProcessEntry] {
        Files.entries("/proc").compactMap { Int32($0) }.compactMap { ProcessEntry($0) }
    }

    /// The sockets that it has open, by inode.
    public var sockets: [UInt32] {
        Files.entries("/proc/\(pid)/fd").compactMap { descriptor in
            guard let target = Files.linkTarget("/proc/\(pid)/fd/\(descriptor)"), target.hasPrefix("socket:[") else {
                return nil
            }
            return UInt32(target.dropFirst(8).dropLast())
        }
    }
}
