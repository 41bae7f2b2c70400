internal import Control
internal import Kernel
internal import SystemPackage

/// # Theory of operation
///
/// A unit's output goes, byte by byte as it comes, to a file that anybody can read with cat(1), and line by line to the
/// console. Beside the file lies another with the times: 16 bytes for each piece of output, its offset and when it came
/// (``LogTimes``), so that nothing is written into what the unit said. Full files move on: `NAME.log`, `NAME.log.1`, ….
///
/// Nothing here may hold up the unit. Where the disk is full, the last 256 KiB are kept in memory instead, which is said
/// once; after a while the file is tried again, and it is said how much is missing in it.
final class UnitLog {
    static let ringLimit = 256 << 10, retryAfter = Duration.seconds(5)
    let name: String
    private let path: String
    private let console: Console
    private var sizeLimit: Int
    private var fileCount: Int
    private var file: Descriptor?
    private var times: Descriptor?
    private var size = 0
    private var splitter = LineSplitter()
    /// The last of the output, while it cannot be written.
    private(set) var ring: [UInt8] = []
    private var retryAt: MonotonicInstant?
    private var missing = 0

    init(name: String, path: String, console: Console, sizeLimit: UInt64?, fileCount: Int?) {
        self.name = name
        self.path = path
        self.console = console
        self.sizeLimit = 4 << 20
        self.fileCount = 3
        limit(sizeLimit, fileCount)
        for part in LogFiles.parts(path, limit: 100) {
            try? Files.remove(part)
            try? Files.remove(LogFiles.times(part))
        }
        open()
    }

    /// Other limits from now on; nil for the default of each.
    func limit(_ size: UInt64?, _ count: Int?) {
        sizeLimit = size.flatMap { Int(exactly: $0) } ?? 4 << 20
        fileCount = max(1, count ?? 3)
    }

    private func open() {
        do {
            file = try Files.openForAppending(path, mode: 0o600)
            times = try Files.openForAppending(LogFiles.times(path), mode: 0o600)
            size = Files.status(path)?.size ?? 0
        } catch { fail("\(error)") }
    }

    private func fail(_ reason: String) {
        file = nil
        times = nil
        if retryAt == nil {
            console.notice("\(name): its log is not written, the last 256 KiB are kept in memory: \(reason)")
        }
        retryAt = .now + Self.retryAfter
    }

    /// Takes what the unit wrote; `eachLine` gets its lines, once they are shown.
    func write(_ bytes: ArraySlice<UInt8>, eachLine: (ArraySlice<UInt8>) -> Void) {
        if let due = retryAt, due <= .now { open() }
        if file != nil, size > 0, size + bytes.count > sizeLimit { rotate() }
        let written = append(bytes)
        if written < bytes.count { keep(bytes.dropFirst(written)) }
        splitter.feed(bytes) {
            console.line($0, from: name)
            eachLine($0)
        }
    }

    /// The unit's process has closed its output.
    func finish() { splitter.finish { console.line($0, from: name) } }

    private func rotate() {
        for index in stride(from: fileCount - 1, through: 1, by: -1) {
            let from = index == 1 ? path : "\(path).\(index - 1)"
            try? Files.rename(from, to: "\(path).\(index)")
            try? Files.rename(LogFiles.times(from), to: LogFiles.times("\(path).\(index)"))
        }
        if fileCount == 1 {
            try? Files.remove(path)
            try? Files.remove(LogFiles.times(path))
        }
        open()
    }

    /// How many of the bytes reached the file.
    private func append(_ bytes: ArraySlice<UInt8>) -> Int {
        guard let file, let times else { return 0 }
        let record = LogTimes.record(offset: size, at: .now)
        if case .bytes(record.count) = Kernel.write(times.number, record) {
        } else {
            fail("no space left")
            return 0
        }
        switch Kernel.write(file.number, Array(bytes)) {
        case .bytes(let count):
            size += count
            if count < bytes.count {
                fail("no space left")
            } else if retryAt != nil {
                retryAt = nil
                console.notice("\(name): its log is written again; \(missing) bytes are missing in it")
                missing = 0
                ring = []
            }
            return count
        case .failed(let errno): fail(errno.description)
        case .wouldBlock: break
        }
        return 0
    }

    private func keep(_ bytes: ArraySlice<UInt8>) {
        missing += bytes.count
        ring += bytes
        if ring.count > Self.ringLimit { ring.removeFirst(ring.count - Self.ringLimit) }
    }
}
