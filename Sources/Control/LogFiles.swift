public import Kernel

/// Where a unit's output lies: files that follow each other, each with its times beside it.
public enum LogFiles {
    /// `NAME.log`, `NAME.log.1`, …: the newest first.
    public static func parts(_ path: String, limit: Int) -> [String] {
        [path] + (1..<max(limit, 2)).map { "\(path).\($0)" }
    }

    /// The file with the times of another.
    public static func times(_ path: String) -> String { path + ".times" }

    /// The output that is there, oldest first.
    public static func pieces(_ path: String) -> [LogPiece] {
        var present: [String] = []
        for part in parts(path, limit: 100) {
            guard Files.status(part) != nil else { break }
            present.append(part)
        }
        return present.reversed().compactMap { part in
            let times = (try? Files.read(self.times(part), limit: 1 << 30)) ?? []
            guard let file = try? Files.open(part, flags: 0),
                let bytes = try? Files.readAll(file.number, subject: part, limit: 1 << 30)
            else { return nil }
            return LogPiece(
                bytes: bytes, times: LogTimes(times), status: Files.status("/proc/self/fd/\(file.number)"))
        }
    }
}

/// One file's content.
public struct LogPiece: Sendable {
    /// What the unit wrote.
    public let bytes: [UInt8]
    /// When it came.
    public let times: LogTimes
    /// What the file is, whatever its name is by now.
    public let status: FileStatus?

    /// Content with its times.
    public init(bytes: [UInt8], times: LogTimes, status: FileStatus?) {
        self.status = status
        self.bytes = bytes
        self.times = times
    }
}

/// When output came: 16 bytes for each piece of it, offset and time, both little-endian.
public struct LogTimes: Sendable {
    private let records: [(offset: Int, at: WallInstant)]

    /// Reads a file of records; what is cut off at its end does not count.
    public init(_ bytes: [UInt8]) {
        func number(_ at: Int) -> UInt64 { (0..<8).reduce(0) { $0 | UInt64(bytes[at + $1]) << (8 * UInt64($1)) } }
        records = stride(from: 0, to: bytes.count - bytes.count % 16, by: 16).map {
            (Int(truncatingIfNeeded: number($0)), WallInstant(nanoseconds: Int64(bitPattern: number($0 + 8))))
        }
    }

    /// A record for output that begins at `offset`.
    public static func record(offset: Int, at instant: WallInstant) -> [UInt8] {
        [UInt64(offset), UInt64(bitPattern: instant.nanoseconds)].flatMap { number in
            (0..<8).map { UInt8(truncatingIfNeeded: number >> (8 * $0)) }
        }
    }

    /// When the byte at an offset came; nil when nothing is known of it.
    public func time(of offset: Int) -> WallInstant? {
        var low = 0
        var high = records.count
        while low < high {
            let middle = (low + high) / 2
            if records[middle].offset <= offset { low = middle + 1 } else { high = middle }
        }
        return low == 0 ? nil : records[low - 1].at
    }
}
