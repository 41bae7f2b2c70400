internal import CKernel
internal import SystemPackage

/// # Theory of operation
///
/// Standard output or standard error of a process that has a loop. Its reader may pause (`run … | sleep 60`, Ctrl-S, a
/// `docker attach` that is suspended, a log driver that blocks), and the loop must go on.
///
/// O_NONBLOCK belongs to the open file description, which is shared with the shell and with every other process on the same
/// terminal or pipe, so it is never set here. Instead:
///
///     pipe, terminal   opened again through /proc/self/fd, which makes an open file description of our own with O_NONBLOCK
///     pipe             where that is refused (another user's pipe): written to a pipe of our own and moved on with splice(2),
///                      whose SPLICE_F_NONBLOCK holds for one call
///     terminal         where that is refused: written only when it polls writable, and a timer interrupts a write that blocks
///     socket           send(2) with MSG_DONTWAIT
///     file, device     written as it is: such a write does not wait for a reader
///
/// Lines are kept whole: a pipe gets pieces of at most PIPE_BUF bytes that end with a line, which it takes whole or not at all.
/// Lines that do not fit into the buffer are dropped, counted, and the count is said once the reader takes more.
public final class StandardOutput {
    private enum Path {
        case direct
        case reopened(Descriptor)
        case socket
        case spliced(reading: Descriptor, writing: Descriptor)
        case interrupted
    }

    /// The most bytes that wait for the reader.
    public static let limit = 1 << 20
    /// PIPE_BUF: a pipe takes so many bytes whole or not at all.
    private static let piece = 4096
    private let number: Int32
    private let path: Path
    private var buffer: OutputBuffer
    /// Bytes in our own pipe, for ``Path/spliced``.
    private var staged = 0
    private var isWatched = false
    /// Lines that were dropped and not yet counted in a notice.
    public private(set) var lost = 0
    private let name: String
    private let hint: String

    /// Looks at what the descriptor is.
    ///
    /// - Parameters:
    ///   - name: what the notice about dropped lines calls it.
    ///   - hint: where else the lines are, for the same notice; may be empty.
    public init(_ number: Int32, name: String, hint: String = "", limit: Int = StandardOutput.limit) {
        self.number = number
        self.name = name
        self.hint = hint
        buffer = OutputBuffer(limit: limit)
        path = Self.path(to: number)
    }

    private static func path(to number: Int32) -> Path {
        let file = "/proc/self/fd/\(number)"
        switch Files.status(file)?.kind {
        case .socket?: return .socket
        case .pipe?:
            if let own = reopen(file) { return .reopened(own) }
            guard let (reading, writing) = try? makePipe(), (try? writing.setNonblocking(true)) != nil else {
                return .interrupted
            }
            return .spliced(reading: reading, writing: writing)
        case .characterDevice? where Terminal.isTerminal(number):
            return reopen(file).map { .reopened($0) } ?? .interrupted
        default: return .direct
        }
    }

    private static func reopen(_ file: String) -> Descriptor? {
        try? Files.open(file, flags: CInt(CK_O_WRONLY | CK_O_NONBLOCK | CK_O_NOCTTY))
    }

    /// Whether both numbers are the same pipe, terminal, socket or file, so that one buffer keeps the order of their lines.
    public static func areSame(_ one: Int32, _ other: Int32) -> Bool {
        guard let a = Files.status("/proc/self/fd/\(one)"), let b = Files.status("/proc/self/fd/\(other)") else {
            return false
        }
        return a.device == b.device && a.inode == b.inode
    }

    /// The number of bytes that wait.
    public var count: Int { buffer.count }

    /// Appends a line made of the parts, or drops it and counts it. Nothing is written before ``flush()``.
    @inline(__always)
    public func append(_ prefix: ArraySlice<UInt8>, _ line: ArraySlice<UInt8>, _ end: ArraySlice<UInt8>) {
        if lost > 0 || !buffer.append(prefix, line, end) { lost += 1 }
    }

    /// Appends a text of whole lines, or drops it and counts it.
    public func append(_ text: String) { append(Array(text.utf8)[...], [], []) }

    /// Writes what the reader takes now. True when that was something.
    @discardableResult
    public func flush() -> Bool {
        let before = buffer.count
        if isFlushed() { sayLost() }
        return buffer.count < before
    }

    /// Whether everything is written now.
    private func isFlushed() -> Bool {
        switch buffer.flush(piece: Self.piece, write) {
        case .empty: return staged == 0 || moveStaged()
        case .blocked: return false
        case .failed:
            // Nobody reads it (EPIPE), or the disk is full: there is no one to tell.
            buffer.removeAll()
            return true
        }
    }

    private func sayLost() {
        guard lost > 0 else { return }
        let count = lost
        lost = 0
        append(
            "workspacekit: \(count) \(count == 1 ? "line was" : "lines were") not shown: the reader of \(name) is too slow\(hint)\n"
        )
        _ = buffer.flush(piece: Self.piece, write)
    }

    private func write(_ bytes: [UInt8], _ from: Int, _ count: Int) -> IOOutcome {
        switch path {
        case .direct: return Kernel.write(number, bytes, from: from, count: count)
        case .reopened(let own): return Kernel.write(own.number, bytes, from: from, count: count)
        case .socket: return LocalSocket.send(number, bytes, from: from, count: count)
        case .interrupted: return Kernel.writeBriefly(number, bytes, from: from, count: count)
        case .spliced(_, let writing):
            guard staged == 0 || moveStaged() else { return .wouldBlock }
            let outcome = Kernel.write(writing.number, bytes, from: from, count: count)
            if case .bytes(let taken) = outcome { staged = taken }
            _ = moveStaged()
            return outcome
        }
    }

    /// Moves what lies in our own pipe on; true when nothing is left there.
    private func moveStaged() -> Bool {
        guard case .spliced(let reading, _) = path else { return true }
        while staged > 0 {
            switch splice(from: reading.number, to: number, limit: staged) {
            case .bytes(let count) where count > 0: staged -= count
            case .failed:
                var rest = [UInt8](repeating: 0, count: staged)
                _ = Kernel.read(reading.number, into: &rest)
                staged = 0
            case .bytes, .wouldBlock: return false
            }
        }
        return true
    }

    // MARK: in a loop

    /// Writes what the reader takes, and has the poller say when it takes more, if something is left. Call at the end of each
    /// turn of the loop, and when `token` is reported. True when something was written.
    @discardableResult
    public func settle(_ poller: borrowing Poller, token: UInt64) -> Bool {
        let hasProgressed = flush()
        let waits = !buffer.isEmpty || staged > 0
        if waits, !isWatched {
            // A file cannot be watched (EPERM), and never has to be.
            isWatched = (try? poller.add(watched, .writable, token: token)) != nil
        } else if !waits, isWatched {
            poller.remove(watched)
            isWatched = false
        }
        return hasProgressed
    }

    private var watched: Int32 {
        if case .reopened(let own) = path { return own.number }
        return number
    }

    /// Writes what waits, at the end of the process, for at most that long: a reader that has paused is not waited for longer.
    public func finish(within limit: Duration) {
        let end = MonotonicInstant.now + limit
        flush()
        while !buffer.isEmpty || staged > 0 {
            let left = end - .now
            guard left > .zero, waitWritable(watched, left) else { return }
            flush()
        }
    }
}
