internal import Control
internal import Kernel
internal import TerminalText

/// What `top` shows: a pure picture of two samples, and what keys do to it.
struct TopScreen {
    /// What a key asks for.
    enum Command: Hashable {
        case quit
        case ask(ControlRequest.Verb, unit: String)
        /// The last lines of a unit's log, until the next key.
        case showLog(String)
        case closeLog
    }

    /// One look at the workspace.
    struct Sample {
        let at: MonotonicInstant
        let status: WorkspaceStatus
        let usage: [UnitUsage]
    }

    /// A unit's line: what it uses by now, and per second.
    struct Row: Hashable, Encodable {
        let name: String, kind: String, state: String
        let pid: Int32?
        /// Of one processor, in percent; bytes a second.
        let processorPercent: Double, receivedPerSecond: Double, sentPerSecond: Double
        let memoryBytes: UInt64
        let processes: Int, restarts: Int
    }

    private(set) var rows: [Row] = []
    private(set) var state = ""
    private var last: Sample?
    private var selected = ""
    /// A log that is looked at instead, by its unit's name.
    private(set) var log: (unit: String, lines: [String])?
    /// What came of the last command.
    var message = ""

    /// Takes another look; rates are from the one before, and 0 at the first.
    mutating func take(_ sample: Sample) {
        let before = Dictionary((last?.usage ?? []).map { ($0.name, $0) }, uniquingKeysWith: { a, _ in a })
        let pids = Dictionary((last?.status.units ?? []).map { ($0.name, $0.pid) }, uniquingKeysWith: { a, _ in a })
        let now = Dictionary(sample.usage.map { ($0.name, $0) }, uniquingKeysWith: { a, _ in a })
        let seconds = max(0.001, last.map { Double((sample.at - $0.at).nanoseconds) / 1e9 } ?? .infinity)
        rows = sample.status.units.map { unit in
            let usage = now[unit.name] ?? UnitUsage(name: unit.name)
            // Another process has counted from the beginning.
            let old = pids[unit.name] == unit.pid ? before[unit.name] ?? usage : UnitUsage(name: unit.name)
            func rate(_ new: Double, _ old: Double) -> Double { max(0, new - old) / seconds }
            return Row(
                name: unit.name, kind: unit.kind, state: unit.word, pid: unit.pid,
                processorPercent: rate(usage.processorSeconds, old.processorSeconds) * 100,
                receivedPerSecond: rate(Double(usage.receivedBytes), Double(old.receivedBytes)),
                sentPerSecond: rate(Double(usage.sentBytes), Double(old.sentBytes)), memoryBytes: usage.memoryBytes,
                processes: usage.processes, restarts: unit.restarts)
        }
        state = sample.status.state
        last = sample
        if !rows.contains(where: { $0.name == selected }) { selected = rows.first?.name ?? "" }
    }

    /// Shows a log's last lines.
    mutating func show(log lines: [String], of unit: String) { log = (unit, lines) }

    /// The keys in what was typed: bytes, and the sequences that begin with ESC [ or ESC O.
    static func keys(in typed: ArraySlice<UInt8>) -> [ArraySlice<UInt8>] {
        var keys: [ArraySlice<UInt8>] = []
        var rest = typed
        while let first = rest.first {
            let isSequence = first == 27 && rest.count >= 3 && [91, 79].contains(rest[rest.startIndex + 1])
            keys.append(rest.prefix(isSequence ? 3 : 1))
            rest = rest.dropFirst(isSequence ? 3 : 1)
        }
        return keys
    }

    /// What a key means. Arrows come as ESC [ A and ESC [ B.
    mutating func handle(_ key: ArraySlice<UInt8>) -> Command? {
        if key.first == 3 { return .quit }
        if log != nil {
            log = nil
            return .closeLog
        }
        message = ""
        switch String(decoding: key, as: UTF8.self) {
        case "q": return .quit
        case "k", "\u{1b}[A", "\u{1b}OA": move(-1)
        case "j", "\u{1b}[B", "\u{1b}OB": move(1)
        case "r" where !selected.isEmpty: return .ask(.restart, unit: selected)
        case "s" where !selected.isEmpty: return .ask(.stop, unit: selected)
        case "S" where !selected.isEmpty: return .ask(.start, unit: selected)
        case "l" where !selected.isEmpty: return .showLog(selected)
        default: break
        }
        return nil
    }

    private mutating func move(_ step: Int) {
        guard let index = rows.firstIndex(where: { $0.name == selected }) else { return }
        selected = rows[min(max(0, index + step), rows.count - 1)].name
    }

    /// The lines of the picture: at most so many, each at most so wide.
    func lines(rows height: Int, columns width: Int) -> [String] {
        let body: [String]
        let keys = "q quit  j/k select  r restart  s stop  S start  l log"
        var footer = keys.count <= width ? keys : "q j/k r s S l (docs: workspacekit top --help)"
        if let log {
            body = ["log of \(visibleText(log.unit))"] + log.lines.suffix(max(0, height - 2)).map(visibleText)
            footer = "any key goes back"
        } else {
            body = table(height - 2, marking: selected, columns: width)
        }
        if !message.isEmpty { footer = visibleText(message) }
        let shown = Array(body.prefix(max(0, height - 1)))
        let padding = [String](repeating: "", count: max(0, height - 1 - shown.count))
        return (shown + padding + [footer]).map { fitted($0, columns: width) }
    }

    /// A column of the table; `rank` is which is left out first where the terminal is too narrow for all, nil for never.
    private struct Column: Sendable {
        let head: String
        let rank: Int?
        let text: @Sendable (Row) -> String
    }

    private static let columns: [Column] = [
        Column(head: "STATE", rank: nil) { $0.state }, Column(head: "PID", rank: 3) { $0.pid.map(String.init) ?? "-" },
        Column(head: "CPU%", rank: nil) { percent($0.processorPercent) },
        Column(head: "MEM", rank: nil) { bytes(Double($0.memoryBytes)) },
        Column(head: "PROCS", rank: 1) { "\($0.processes)" },
        Column(head: "RX/s", rank: 4) { bytes($0.receivedPerSecond) },
        Column(head: "TX/s", rank: 4) { bytes($0.sentPerSecond) },
        Column(head: "RESTARTS", rank: 0) { "\($0.restarts)" },
    ]

    /// The table: a line with the sums, then the units, at most so many lines, and columns as far as they fit.
    func table(_ height: Int, marking selected: String? = nil, columns width: Int = .max) -> [String] {
        var shown = Self.columns
        while true {
            let lines = table(height, selected, shown, nameWidth: .max)
            let widest = lines.dropFirst().map(columnCount).max() ?? 0
            if widest <= width { return lines }
            guard let next = shown.compactMap(\.rank).min() else {
                // Names that are too long for what is left are cut.
                let longest = rows.map { columnCount(visibleText($0.name)) }.max() ?? 0
                return table(height, selected, shown, nameWidth: max(8, longest - (widest - width)))
            }
            shown.removeAll { $0.rank == next }
        }
    }

    private func table(_ height: Int, _ selected: String?, _ columns: [Column], nameWidth: Int) -> [String] {
        let selectedIndex = rows.firstIndex { $0.name == selected } ?? 0
        let room = max(1, height - 1)
        let first = max(0, min(selectedIndex - room / 2, rows.count - room))
        let cells = rows.dropFirst(first).prefix(room).map { row in
            let name = visibleText(row.name)
            let cut = columnCount(name) > nameWidth ? fitted(name, columns: nameWidth - 1) + "…" : name
            return [(selected.map { row.name == $0 ? "> " : "  " } ?? "") + cut] + columns.map { $0.text(row) }
        }
        let head = [(selected == nil ? "" : "  ") + "NAME"] + columns.map(\.head)
        let total =
            "\(rows.count) units, \(state); "
            + "cpu \(Self.percent(rows.map(\.processorPercent).reduce(0, +)))%, "
            + "memory \(Self.bytes(Double(rows.map(\.memoryBytes).reduce(0, +))))"
        return [total]
            + tableText([head] + cells).split(separator: "\n", omittingEmptySubsequences: false).map(
                String.init
            ).dropLast()
    }

    private static func percent(_ value: Double) -> String { "\((value * 10).rounded() / 10)" }

    /// `512`, `1.5K`, `20M`: by powers of 1024.
    static func bytes(_ value: Double) -> String {
        var value = value
        for unit in ["", "K", "M", "G"] {
            if value < 1000 || unit == "G" {
                let isShort = unit.isEmpty || value >= 10
                return (isShort ? "\(Int(value.rounded()))" : "\((value * 10).rounded() / 10)") + unit
            }
            value /= 1024
        }
        return ""
    }
}
