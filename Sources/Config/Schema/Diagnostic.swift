internal import TerminalText

/// What kind of thing is wrong: a stable number for tools and documentation.
public enum DiagnosticCode: String, Sendable, CaseIterable {
    case syntax = "WK1001"
    case tooLarge = "WK1002"
    case wrongType = "WK1003"
    case unknownKey = "WK1004"
    case duplicateKey = "WK1005"
    case badValue = "WK1006"
    case missingKey = "WK1007"
    case deprecated = "WK1008"
    case severalDocuments = "WK1009"
    case duplicateName = "WK1010"
    case withoutEffect = "WK1011"
    case unknownReference = "WK1012"
    case conflict = "WK1013"
    case dependencyCycle = "WK1014"
    case notCarriedOver = "WK1015"
    case shellText = "WK1016"

    /// What it means and what to do about it, for the documentation.
    public var explanation: String {
        switch self {
        case .syntax:
            "The file is no YAML. The place is where the reader lost the thread; the cause may stand a line above"
        case .tooLarge:
            "Larger than 1 MiB, deeper than 100 levels, or more than 100,000 values once aliases are expanded"
        case .wrongType:
            "A value of another type than the key takes. Plain `yes`, `on` and `22:22` are strings in YAML 1.2"
        case .unknownKey: "A key that nothing reads; it is left out, and the rest counts"
        case .duplicateKey: "A key that stands twice in one mapping; the last counts"
        case .badValue: "A value of the right type that is not allowed"
        case .missingKey: "A key without which the rest has no meaning"
        case .deprecated: "Read for old files' sake; Gitpod dropped it"
        case .severalDocuments: "The file holds several documents (`---`); the first counts"
        case .duplicateName: "A task, service or port that stands twice"
        case .withoutEffect: "Checked, and without effect: it speaks to another tool, or to a later version"
        case .unknownReference: "A task, service or user of that name does not exist"
        case .conflict: "Two things that exclude each other"
        case .dependencyCycle: "Units that wait for each other; none of them could ever start"
        case .shellText: "A command with words that only a shell understands; commands of services run without one"
        case .notCarriedOver: "`config import` met something that has no counterpart here"
        }
    }
}

/// Something to say about a configuration file, and where.
public struct Diagnostic: Hashable, Sendable {
    /// An error forbids the configuration's use.
    public enum Severity: String, Sendable { case error, warning, note }
    /// How bad it is.
    public var severity: Severity
    /// Its stable number.
    public var code: DiagnosticCode
    /// Where it is.
    public var mark: Mark
    /// Where it ends; the place after its last character.
    public var end: Mark?
    /// Where in the structure: `tasks[1].env`; empty for the file as a whole.
    public var path: String
    /// What is wrong, and what was meant.
    public var message: String

    /// A diagnostic.
    public init(
        severity: Severity, code: DiagnosticCode, mark: Mark, end: Mark? = nil, path: String, message: String
    ) {
        self.severity = severity
        self.code = code
        self.mark = mark
        self.end = end
        self.path = path
        self.message = message
    }

    /// `FILE:LINE:COLUMN: error: PATH: message`, then the line and a caret under the place.
    ///
    /// - Parameter colour: with ANSI colours, for a terminal.
    func rendered(file: String, lines: LineIndex?, colour: Bool = false) -> String {
        func paint(_ text: String, _ code: String) -> String { colour ? "\u{1b}[\(code)m\(text)\u{1b}[0m" : text }
        let hue =
            switch severity {
            case .error: "1;31"
            case .warning: "1;33"
            case .note: "1;36"
            }
        let subject = path.isEmpty ? "" : "\(path): "
        var text = paint("\(file):\(mark.line):\(mark.column):", "1")
        text += " " + paint("\(severity.rawValue):", hue) + " " + visibleText("\(subject)\(message)")
        guard let (shown, before) = lines?.excerpt(line: mark.line, column: mark.column) else { return text }
        var line = ""
        line.unicodeScalars.append(contentsOf: shown)
        let column = max(0, min(mark.column - 1 - before, shown.count))
        var width = 1
        if let end, end.line == mark.line { width = max(1, min(end.column - mark.column, shown.count - column)) }
        let caret = "^" + String(repeating: "~", count: width - 1)
        return text + "\n  \(line)\n  \(String(repeating: " ", count: column))\(paint(caret, hue))"
    }
}

/// The nearest of `candidates` to a misspelt word, if one is near enough to be meant.
public func nearest(to word: String, in candidates: some Sequence<String>) -> String? {
    let limit = max(1, word.count / 3)
    let lower = word.lowercased()
    return candidates.filter { abs($0.utf8.count - word.utf8.count) <= limit * 4 }
        .filter { abs($0.count - word.count) <= limit }.map { ($0, editDistance(lower, $0.lowercased())) }
        .filter { $0.1 <= limit }.min { $0.1 < $1.1 }?.0
}

/// Optimal string alignment: insertions, deletions, substitutions, and neighbours that changed places.
private func editDistance(_ a: String, _ b: String) -> Int {
    let a = Array(a.prefix(64))
    let b = Array(b.prefix(64))
    var before: [Int] = []
    var last: [Int] = []
    var row = Array(0...b.count)
    for i in a.indices {
        (before, last) = (last, row)
        row[0] = i + 1
        for j in b.indices {
            row[j + 1] = min(last[j + 1] + 1, row[j] + 1, last[j] + (a[i] == b[j] ? 0 : 1))
            if i > 0, j > 0, a[i] == b[j - 1], a[i - 1] == b[j] { row[j + 1] = min(row[j + 1], before[j - 1] + 1) }
        }
    }
    return row[b.count]
}
