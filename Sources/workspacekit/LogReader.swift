internal import Config
internal import Control
internal import Kernel

/// How `logs` shows what it finds.
struct LogStyle {
    /// `[NAME]` before each line.
    var hasNames = false
    /// RFC 3339 before each line.
    var hasTimes = false
    /// A JSON object a line.
    var isJSON = false

    /// A line as it is printed.
    func text(_ line: ArraySlice<UInt8>, from name: String, at time: WallInstant?) -> [UInt8] {
        if isJSON {
            var fields = [("unit", name), ("line", String(decoding: line, as: UTF8.self))]
            if let time { fields.insert(("time", "\(time)"), at: 0) }
            return Array((jsonObject(fields) + "\n").utf8)
        }
        var prefix = hasTimes ? (time.map { "\($0) " } ?? "") : ""
        if hasNames { prefix += "[\(name)] " }
        return Array(prefix.utf8) + line + [10]
    }
}

/// Reads the units' log files: they are there whether or not the workspace still runs.
struct LogReader {
    private let state: StateDirectory
    private let files: [(name: String, path: String)]
    private let style: LogStyle
    /// Why nothing can be shown.
    let problem: String?

    init(state: StateDirectory, names: [String], style: LogStyle) {
        self.state = state
        var style = style
        let present = Self.logNames(state)
        if names.isEmpty {
            files = present.map { ($0, "\(state.logs)/\($0).log") }
            problem = present.isEmpty ? "no logs in \(state.logs); name another workspace with --state-dir" : nil
        } else {
            files = names.map { ($0, state.log(of: $0)) }
            let missing = files.first { Files.status($0.path) == nil }
            problem = missing.map { "no log of \"\($0.name)\" (there are: \(present.joined(separator: ", ")))" }
        }
        style.hasNames = files.count > 1
        self.style = style
    }

    private static func logNames(_ state: StateDirectory) -> [String] {
        Files.entries(state.logs).filter { $0.hasSuffix(".log") }.map { String($0.dropLast(4)) }.sorted()
    }

    /// Raw bytes where nothing stands before the lines: what a unit wrote, as it wrote it.
    private var isRaw: Bool { !style.hasNames && !style.hasTimes && !style.isJSON }

    /// One line of a log.
    private struct Line {
        let file: Int
        let bytes: ArraySlice<UInt8>
        let time: WallInstant?
    }

    /// Shows what is there: of each unit the last `count` lines, none from before `since`; of several units in the order
    /// of time.
    func printAll(last count: Int?, since: WallInstant?, until ends: [Position]) {
        let memory = inMemory()
        if isRaw, count == nil, since == nil {
            for (index, (name, path)) in files.enumerated() {
                for piece in pieces(path, ends[index]) { writeAll(piece.bytes[...]) }
                writeAll((memory[name] ?? [])[...])
            }
            return
        }
        var lines: [Line] = []
        for (index, file) in files.enumerated() {
            var own = pieces(file.path, ends[index]).flatMap { self.lines($0, index) }
            own += self.lines(LogPiece(bytes: memory[file.name] ?? [], times: LogTimes([]), status: nil), index)
            if let since { own = own.filter { $0.time.map { $0 >= since } ?? true } }
            lines += count.map { own.suffix($0) } ?? own[...]
        }
        // Stable, so that lines of one moment stay in their order.
        let order = lines.enumerated().sorted {
            ($0.element.time?.nanoseconds ?? .max, $0.offset) < ($1.element.time?.nanoseconds ?? .max, $1.offset)
        }
        for (_, line) in order { writeAll(style.text(line.bytes, from: files[line.file].name, at: line.time)[...]) }
    }

    /// What was there at a position: what came later is for whoever follows.
    private func pieces(_ path: String, _ end: Position) -> [LogPiece] {
        var pieces = LogFiles.pieces(path)
        guard let index = pieces.firstIndex(where: { $0.status.map { Identity($0) } == end.file }) else {
            return pieces
        }
        pieces.removeSubrange((index + 1)...)
        let last = pieces[index]
        pieces[index] = LogPiece(bytes: Array(last.bytes.prefix(end.offset)), times: last.times, status: last.status)
        return pieces
    }

    /// What the workspace could not write to its files and keeps in memory.
    private func inMemory() -> [String: [UInt8]] {
        guard let client = try? ControlClient(state) else { return [:] }
        var request = ControlRequest(.tail)
        request.names = files.map(\.name)
        return client.ask(request)?.tails ?? [:]
    }

    private func lines(_ piece: LogPiece, _ file: Int) -> [Line] {
        var lines: [Line] = []
        var rest = piece.bytes[...]
        while !rest.isEmpty {
            let end = rest.firstIndex(of: 10) ?? rest.endIndex
            lines.append(Line(file: file, bytes: rest[..<end], time: piece.times.time(of: rest.startIndex)))
            rest = rest[min(end + 1, rest.endIndex)...]
        }
        return lines
    }

    /// Up to where a log was shown: a file, and an offset in it. Files move on, and inodes are used again.
    struct Position {
        var file: Identity?
        var offset = 0
    }

    /// A file, whatever its name is by now.
    struct Identity: Hashable {
        let inode: UInt64
        let bornAt: WallInstant

        init(_ status: FileStatus) {
            inode = status.inode
            bornAt = status.bornAt
        }
    }

    /// Where each log ends now.
    func ends() -> [Position] {
        files.map { file in
            guard let status = Files.status(file.path) else { return Position() }
            return Position(file: Identity(status), offset: status.size)
        }
    }

    /// Shows what is added, until the workspace ends. The directory is watched, so that nothing is polled.
    func follow(from ends: [Position]) {
        var positions = ends
        var partial = files.map { _ in [UInt8]() }
        guard let watch = try? watchDirectory(state.logs), let client = try? ControlClient(state) else { return }
        var buffer = [UInt8](repeating: 0, count: 65536)
        while true {
            let ended = waitReadable(client.connection.descriptor.number, .zero) && !client.reconnect()
            for (index, file) in files.enumerated() {
                for bytes in added(file.path, &positions[index]) { show(bytes, index, &partial) }
            }
            if ended { return }
            if waitReadable(watch.number, .seconds(1)) { _ = Kernel.read(watch.number, into: &buffer) }
        }
    }

    /// What was written since: the rest of the file that was shown last, wherever it is now, and all that came after it.
    private func added(_ path: String, _ position: inout Position) -> [[UInt8]] {
        let (newer, offset) = files(of: path, since: position)
        if offset == nil { say("some output is missing here: it came faster than it was read") }
        var from = offset ?? 0
        var found: [[UInt8]] = []
        for (part, identity) in newer.reversed() {
            defer { from = 0 }
            // Files may move on while they are read; then the next look goes on from the last one that was shown.
            guard let file = try? Files.open(part, flags: 0),
                let status = Files.status("/proc/self/fd/\(file.number)"), Identity(status) == identity,
                let bytes = try? Files.readAll(file.number, subject: part, limit: 1 << 30)
            else { return found }
            if bytes.count > from { found.append(Array(bytes.dropFirst(from))) }
            position = Position(file: identity, offset: max(bytes.count, from))
        }
        return found
    }

    /// The file of a position and those that came after it, the newest first, and how much of it was shown; nil when it is
    /// not there any more.
    private func files(of path: String, since position: Position) -> (newer: [(String, Identity)], offset: Int?) {
        var newer: [(String, Identity)] = []
        // While files move on, one may not be found under either name: it is looked for again before it counts as lost.
        for attempt in 0..<10 {
            if attempt > 0 { pause(.milliseconds(2)) }
            newer = []
            for part in LogFiles.parts(path, limit: 100) {
                guard let status = Files.status(part) else { break }
                newer.append((part, Identity(status)))
                if Identity(status) == position.file { return (newer, min(position.offset, status.size)) }
            }
            if position.file == nil { return (newer, 0) }
        }
        return (newer, nil)
    }

    private func show(_ bytes: [UInt8], _ file: Int, _ partial: inout [[UInt8]]) {
        if isRaw { return writeAll(bytes[...]) }
        partial[file] += bytes
        while let end = partial[file].firstIndex(of: 10) {
            writeAll(style.text(partial[file][..<end], from: files[file].name, at: .now)[...])
            partial[file].removeFirst(end + 1)
        }
    }

    /// Writes to standard output; ends the program quietly when nobody reads any more.
    private func writeAll(_ bytes: ArraySlice<UInt8>) {
        var rest = bytes
        while !rest.isEmpty {
            guard case .bytes(let count) = Kernel.write(1, Array(rest.prefix(65536))), count > 0 else { quit(0) }
            rest = rest.dropFirst(count)
        }
    }
}
