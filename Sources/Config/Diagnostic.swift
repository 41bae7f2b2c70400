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
    /// Where in the structure: `tasks[1].env`; empty for the file as a whole.
    public var path: String
    /// What is wrong, and what was meant.
    public var message: String

    /// A diagnostic.
    public init(severity: Severity, code: DiagnosticCode, mark: Mark, path: String, message: String) {
        self.severity = severity
        self.code = code
        self.mark = mark
        self.path = path
        self.message = message
    }

    /// `FILE:LINE:COLUMN: error: PATH: message`, then the line and a caret under the column.
    public func rendered(file: String, source: [Substring]) -> String {
        let subject = path.isEmpty ? "" : "\(path): "
        var text = "\(file):\(mark.line):\(mark.column): \(severity.rawValue): \(subject)\(message)"
        if source.indices.contains(mark.line - 1) {
            let line = String(source[mark.line - 1].prefix(200).filter { $0 != "\r" }.map { $0 == "\t" ? " " : $0 })
            if !line.allSatisfy({ $0 == " " }) {
                text += "\n  \(line)\n  \(String(repeating: " ", count: max(0, min(mark.column - 1, 200))))^"
            }
        }
        return text
    }
}

/// A configuration as read: the model, as far as the file gave one, and what there is to say about it.
public struct Reading: Sendable {
    /// The model, as far as the file gave one.
    public let configuration: WorkspaceConfiguration
    /// In file order.
    public private(set) var diagnostics: [Diagnostic]
    private let source: [Substring]
    private let file: String

    /// Reads a configuration from its bytes. `file` is the name that diagnostics show.
    public init(_ bytes: [UInt8], file: String) {
        self.file = file
        source = String(decoding: bytes, as: UTF8.self).split(
            omittingEmptySubsequences: false, whereSeparator: { $0 == "\n" || $0 == "\r\n" })
        let decoder = ConfigurationDecoder()
        configuration = decoder.decode(bytes)
        diagnostics = decoder.diagnostics.sorted { $0.mark < $1.mark }
    }

    /// Adds what only the machine could tell, such as a user that does not exist.
    public mutating func add(_ more: [Diagnostic]) { diagnostics = (diagnostics + more).sorted { $0.mark < $1.mark } }

    /// Whether there is an error: then the configuration must not be used.
    public var hasErrors: Bool { diagnostics.contains { $0.severity == .error } }

    /// All diagnostics for people.
    public var rendered: [String] { diagnostics.map { $0.rendered(file: file, source: source) } }
}

/// The nearest of `candidates` to a misspelt word, if one is near enough to be meant.
func nearest(to word: String, in candidates: some Sequence<String>) -> String? {
    let limit = max(1, word.count / 3)
    return candidates.map { ($0, editDistance(word.lowercased(), $0.lowercased())) }
        .filter { $0.1 <= limit }.min { $0.1 < $1.1 }?.0
}

private func editDistance(_ a: String, _ b: String) -> Int {
    let b = Array(b.prefix(64))
    var row = Array(0...b.count)
    for (i, x) in a.prefix(64).enumerated() {
        var diagonal = row[0]
        row[0] = i + 1
        for (j, y) in b.enumerated() {
            let above = row[j + 1]
            row[j + 1] = min(above + 1, row[j] + 1, diagonal + (x == y ? 0 : 1))
            diagonal = above
        }
    }
    return row[b.count]
}
