internal import Control
internal import Kernel
internal import SystemPackage

/// # Theory of operation
///
/// A unit's output goes, byte by byte as it comes, to a file that anybody can read with cat(1), and line by line to the
/// console. Beside the file lies another with the times: 16 bytes for each piece of output, its offset and when it came
/// (``LogTimes``), so that nothing is written into what the unit said. Full files move on: `NAME.log`, `NAME.log.1`, ….
///
/// The bytes go from the unit's pipe into the file within one call of the kernel, and are read back from there: a
/// supervisor that is killed loses no line and writes none twice.
///
/// Nothing here may hold up the unit. Where the disk is full, the last 256 KiB are kept in memory instead, which is said
/// once; after a while the file is tried again, and it is said how much is missing in it.
final class UnitLog {
    static let ringLimit = 256 << 10, retryAfter = Duration.seconds(5)
    let name: String
    /// What stands before each of its lines on the console.
    /// Its place on the console.
    private let place: Int
    private let path: String
    private let console: Console
    private var sizeLimit: Int
    private var fileCount: Int
    private var file: Descriptor?
    private var times: Descriptor?
    private let openLogs: OpenLogs
    private let scratch: ReadBuffer
    /// How much is taken at once: less where its lines take long to show, so that everything else has its turn soon.
    private var portion = ReadBuffer.size
    private static let leastPortion = 8192, timeForPortion = Duration.milliseconds(1)
    private var splitter = LineSplitter()
    /// The last of the output, while it cannot be written.
    private(set) var ring: [UInt8] = []
    private var retryAt: MonotonicInstant?
    private var missing = 0

    init(
        name: String, path: String, console: Console, sizeLimit: UInt64?, fileCount: Int?, continues: Bool,
        buffer: ReadBuffer, openLogs: OpenLogs
    ) {
        self.openLogs = openLogs
        self.name = name
        place = console.add(name)
        self.path = path
        self.console = console
        scratch = buffer
        self.sizeLimit = 4 << 20
        self.fileCount = 3
        limit(sizeLimit, fileCount)
        for part in LogFiles.parts(path, limit: 100) where !continues {
            try? Files.remove(part)
            try? Files.remove(LogFiles.times(part))
        }
        // It is there from now on, and its files are opened again when there is something to write.
        if FileNames.decode(FileNames.encode(name)) == nil {
            try? Files.replace(StateDirectory.nameFile(ofLog: path), Array(name.utf8), mode: 0o600)
        }
        open()
        closeFiles()
    }

    /// Other limits from now on; nil for the default of each.
    func limit(_ size: UInt64?, _ count: Int?) {
        sizeLimit = size.flatMap { Int(exactly: $0) } ?? 4 << 20
        fileCount = max(1, count ?? 3)
    }

    private func open() {
        do {
            file = try Files.openForUpdate(path, mode: 0o600)
            times = try Files.openForAppending(LogFiles.times(path), mode: 0o600)
        } catch { fail("\(error)") }
    }

    /// Its files are opened again when there is something to write.
    func closeFiles() {
        file = nil
        times = nil
    }

    private func fail(_ reason: String) {
        closeFiles()
        openLogs.remove(self)
        if retryAt == nil {
            console.notice("\(name): its log is not written, the last 256 KiB are kept in memory: \(reason)")
        }
        retryAt = .now + Self.retryAfter
    }

    /// Takes what is in the unit's pipe or terminal, up to 64 KiB, or what about a millisecond suffices for; `eachPiece` gets it as it comes, `eachLine` by lines,
    /// once they are shown.
    func take(
        from pipe: Int32, eachPiece: (ArraySlice<UInt8>) -> Void, eachLine: ((ArraySlice<UInt8>) -> Void)?
    ) -> IOOutcome {
        if file == nil, retryAt.map({ $0 <= .now }) ?? true { open() }
        if file != nil { openLogs.use(self) }
        let begin = MonotonicInstant.now
        var outcome = takeIntoFile(pipe)
        // A terminal, or there is no file: it goes through our memory.
        if outcome == .failed(.invalidArgument) || file == nil { outcome = takeThroughMemory(pipe) }
        if case .bytes(let count) = outcome { show(count, eachPiece, eachLine) }
        adaptPortion(to: .now - begin)
        return outcome
    }

    private func adaptPortion(to duration: Duration) {
        if duration > Self.timeForPortion { portion = max(Self.leastPortion, portion / 2) }
        if duration < Self.timeForPortion / 4 { portion = min(ReadBuffer.size, portion * 2) }
    }

    /// Moves what is there into the file, and reads it back into the buffer. Without a file afterwards, nothing was moved.
    private func takeIntoFile(_ pipe: Int32) -> IOOutcome {
        guard var current = file else { return .wouldBlock }
        var size = Files.size(of: current.number)
        let coming = min(readableCount(pipe), portion)
        if size > 0, size + coming > sizeLimit {
            rotate()
            guard let next = file else { return .wouldBlock }
            current = next
            size = Files.size(of: current.number)
        }
        let outcome = splice(pipe, to: current.number, at: size, limit: max(coming, 1))
        switch outcome {
        case .bytes(let count) where count > 0:
            isWritten(at: size)
            _ = Kernel.read(current.number, at: size, into: &scratch.bytes)
        // KERNEL: splice(2) wants a pipe, and a terminal is none.
        case .failed(.invalidArgument): break
        case .failed(let errno): fail(errno == .noSpace ? "no space left" : errno.description)
        default: break
        }
        return outcome
    }

    /// Reads what is there, and writes it where there is a file; what is not written is kept, and counted as missing.
    private func takeThroughMemory(_ source: Int32) -> IOOutcome {
        let outcome = Kernel.read(source, into: &scratch.bytes)
        guard case .bytes(let count) = outcome, count > 0 else { return outcome }
        var written = 0
        if let file {
            let size = Files.size(of: file.number)
            if case .bytes(let done) = Kernel.write(file.number, Array(scratch.bytes[..<count]), at: size) {
                written = done
            }
            if written == count { isWritten(at: size) } else { fail("no space left") }
        }
        if written < count { keep(scratch.bytes[written..<count]) }
        return outcome
    }

    private func show(
        _ count: Int, _ eachPiece: (ArraySlice<UInt8>) -> Void, _ eachLine: ((ArraySlice<UInt8>) -> Void)?
    ) {
        if count > 0 { eachPiece(scratch.bytes[..<count]) }
        splitter.feed(scratch.bytes[..<count]) {
            console.line($0, of: place)
            eachLine?($0)
        }
    }

    /// The unit's process has closed its output.
    func finish() {
        splitter.finish { console.line($0, of: place) }
        closeFiles()
        openLogs.remove(self)
    }

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

    /// The file took output (again).
    private func isWritten(at offset: Int) {
        // A piece without a time has that of the one before it.
        if let times { _ = Kernel.write(times.number, LogTimes.record(offset: offset, at: .now)) }
        guard retryAt != nil else { return }
        retryAt = nil
        console.notice("\(name): its log is written again; \(missing) bytes are missing in it")
        missing = 0
        ring = []
    }

    private func keep(_ bytes: ArraySlice<UInt8>) {
        missing += bytes.count
        ring += bytes
        if ring.count > Self.ringLimit { ring.removeFirst(ring.count - Self.ringLimit) }
    }
}

/// Room for one read of any unit's output: there is only ever one at a time.
final class ReadBuffer {
    fileprivate static let size = 65536
    fileprivate var bytes = [UInt8](repeating: 0, count: size)
}
