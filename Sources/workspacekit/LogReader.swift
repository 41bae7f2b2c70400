internal import Config
internal import Control
internal import Kernel
internal import TerminalText

/// How `logs` shows what it finds.
struct LogStyle {
    /// `[NAME]` before each line.
    var hasNames = false
    /// RFC 3339 before each line.
    var hasTimes = false
    /// A JSON object a line.
    var isJSON = false
    /// A terminal reads: what units wrote is shown, and does not act on it.
    var isForTerminal = false

    /// A line as it is printed.
    func text(_ line: ArraySlice<UInt8>, from name: String, at time: WallInstant?) -> [UInt8] {
        if isJSON {
            var fields = [("unit", name), ("line", String(decoding: line, as: UTF8.self))]
            if let time { fields.insert(("time", "\(time)"), at: 0) }
            return Array((jsonObject(fields) + "\n").utf8)
        }
        var prefix = hasTimes ? (time.map { "\($0) " } ?? "") : ""
        if hasNames { prefix += "[\(visibleText(name))] " }
        var text = Array(prefix.utf8)
        if isForTerminal { text += terminalLine(line.last == 13 ? line.dropLast() : line) } else { text += line }
        return text + [10]
    }
}

/// Reads the units' log files: they are there whether or not the workspace still runs.
struct LogReader {
    private let state: StateDirectory
    private let files: [(name: String, path: String)]
    private let style: LogStyle
    /// Why nothing can be shown.
    let problem: String?

    /// - Parameter all: without names, the logs of earlier workspaces too.
    init(state: StateDirectory, names: [String], style: LogStyle, all: Bool = false) {
        self.state = state
        var style = style
        let present = Self.logNames(state)
        if names.isEmpty {
            let begin = all ? nil : Files.status(state.logsBegin)?.bornAt
            files = present.filter { file in
                // A unit's log is made when its workspace starts, and again when it is full.
                begin.map { begin in Files.status(file.path).map { $0.bornAt >= begin } ?? false } ?? true
            }
            problem =
                files.isEmpty
                ? "no logs in \(state.logs); name another workspace with --state-dir" : Self.refusal(files)
        } else {
            files = names.map { ($0, state.presentLog(of: $0)) }
            let missing = files.first { Files.status($0.path) == nil }
            problem =
                missing.map {
                    "no log of \"\($0.name)\" (there are: \(present.map(\.name).joined(separator: ", ")))"
                } ?? Self.refusal(files)
        }
        style.hasNames = files.count > 1
        self.style = style
    }

    /// Why the first file that the caller may not read cannot be shown; nil when there is none.
    private static func refusal(_ files: [(name: String, path: String)]) -> String? {
        files.first { Files.status($0.path) != nil && !Files.isAccessible($0.path, 4) }.map { readRefusal($0.path) }
    }

    /// The units that have logs, and where.
    private static func logNames(_ state: StateDirectory) -> [(name: String, path: String)] {
        let logs = Files.entries(state.logs).filter { $0.hasSuffix(".log") }.map { file in
            let path = "\(state.logs)/\(file)"
            let stem = String(file.dropLast(4))
            let name = FileNames.decode(stem) ?? Files.regularText(StateDirectory.nameFile(ofLog: path)) ?? stem
            return (name: name, path: path)
        }
        return logs.sorted { ($0.name, $0.path) < ($1.name, $1.path) }
    }

    /// Raw bytes where nothing stands before the lines: what a unit wrote, as it wrote it.
    private var isRaw: Bool { !style.hasNames && !style.hasTimes && !style.isJSON && !style.isForTerminal }

    /// One line of a log.
    private struct Line {
        let file: Int
        let bytes: ArraySlice<UInt8>
        let time: WallInstant?
    }

    /// Shows what is there: of each unit the last `count` lines, none from before `since`; of several units in the order
    /// of time.
    func printAll(last count: Int?, since: WallInstant?, until ends: [GrowingFile]) {
        let memory = inMemory()
        if isRaw, count == nil, since == nil {
            for (index, (name, path)) in files.enumerated() {
                for piece in pieces(path, ends[index]) { writeOut(piece.bytes[...]) }
                writeOut((memory[name] ?? [])[...])
            }
            return
        }
        var lines: [Line] = []
        for (index, file) in files.enumerated() {
            var own = self.lines(pieces(file.path, ends[index]), memory[file.name] ?? [], index)
            if let since { own = own.filter { $0.time.map { $0 >= since } ?? true } }
            lines += count.map { own.suffix($0) } ?? own[...]
        }
        // Stable, so that lines of one moment stay in their order.
        let order = lines.enumerated().sorted {
            ($0.element.time?.nanoseconds ?? .max, $0.offset) < ($1.element.time?.nanoseconds ?? .max, $1.offset)
        }
        for (_, line) in order { writeOut(style.text(line.bytes, from: files[line.file].name, at: line.time)[...]) }
    }

    /// What was there at a position: what came later is for whoever follows.
    private func pieces(_ path: String, _ end: GrowingFile) -> [LogPiece] {
        var pieces = LogFiles.pieces(path)
        guard let index = pieces.firstIndex(where: { $0.status.map { GrowingFile.Identity($0) } == end.file }) else {
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

    /// The last lines of all of it, without what would move a terminal's cursor.
    func lastLines(_ count: Int) -> [String] {
        let memory = inMemory()
        let all = files.enumerated().flatMap { index, file in
            lines(LogFiles.pieces(file.path), memory[file.name] ?? [], index)
        }
        return all.suffix(count).map { line in
            visibleText(String(decoding: line.bytes, as: UTF8.self))
        }
    }

    /// The lines of a unit, of its files and of what is kept in memory. A line that begins in one file may end in the next.
    private func lines(_ pieces: [LogPiece], _ memory: [UInt8], _ file: Int) -> [Line] {
        var all: [Line] = []
        var isWhole = true
        for piece in pieces + [LogPiece(bytes: memory, times: LogTimes([]), status: nil)] where !piece.bytes.isEmpty {
            var own = lines(piece, file)[...]
            if !isWhole, let beginning = all.popLast(), let rest = own.popFirst() {
                let bytes = beginning.bytes + rest.bytes
                all.append(Line(file: file, bytes: bytes, time: beginning.time ?? rest.time))
            }
            all += own
            isWhole = piece.bytes.last == 10
        }
        return all
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

    /// Where each log ends now.
    func ends() -> [GrowingFile] { files.map { GrowingFile($0.path) } }

    /// Shows what is added, until the workspace ends.
    func follow(from ends: [GrowingFile]) {
        var partial = files.map { _ in [UInt8]() }
        followGrowth(of: ends, in: state.logs, of: state) { bytes, index in show(bytes, index, &partial) }
    }

    private func show(_ bytes: [UInt8], _ file: Int, _ partial: inout [[UInt8]]) {
        if isRaw { return writeOut(bytes[...]) }
        partial[file] += bytes
        while let end = partial[file].firstIndex(of: 10) {
            writeOut(style.text(partial[file][..<end], from: files[file].name, at: .now)[...])
            partial[file].removeFirst(end + 1)
        }
    }
}

/// What to say of a file of the workspace's that the caller may not read.
func readRefusal(_ path: String) -> String {
    "cannot open \(path): Permission denied. hint: run this as the file's owner, or inside the workspace"
}
