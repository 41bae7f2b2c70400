/// # Theory of operation
///
/// What to write instead, where a file is no YAML. The reader says what it expected; what was probably meant is seen in
/// the text at the place where it stopped, and at the place where the construct begins that it was reading.
struct SyntaxHint {
    private let lines: LineIndex
    private let mark: Mark
    private let begin: Mark?

    /// - Parameters:
    ///   - mark: where the reader stopped.
    ///   - begin: where what it was reading begins; nil when it said nothing.
    init(_ lines: LineIndex, at mark: Mark, within begin: Mark?) {
        self.lines = lines
        self.mark = mark
        self.begin = begin
    }

    /// The hint; nil when the text shows nothing that is often done wrong.
    var text: String? {
        tab ?? unclosed ?? firstCharacter ?? colon ?? indentation
    }

    private func character(_ mark: Mark) -> Unicode.Scalar? {
        let line = lines.characters(line: mark.line)
        return line.indices.contains(mark.column - 1) ? line[mark.column - 1] : nil
    }

    private var tab: String? {
        let blanks = lines.characters(line: mark.line).prefix { $0 == " " || $0 == "\t" }
        guard let place = blanks.firstIndex(of: "\t") else { return nil }
        return "indent with spaces: a tab stands in column \(place + 1)"
    }

    /// A quote or a bracket that nothing closes, and a backslash in double quotes.
    private var unclosed: String? {
        guard let begin, let opening = character(begin) else { return nil }
        switch opening {
        case "\"" where character(mark) == "\\" && mark > begin:
            return "a backslash begins an escape in double quotes: write the text in single quotes, or two backslashes"
        case "\"", "'": return "the quote that opens in line \(begin.line) is not closed"
        case "[": return "the \"[\" of line \(begin.line) is not closed by \"]\", or a comma is missing"
        case "{": return "the \"{\" of line \(begin.line) is not closed by \"}\", or a comma is missing"
        case "*", "&": return "\"\(opening)\" begins an alias or an anchor: write the text in quotes"
        default: return nil
        }
    }

    private var firstCharacter: String? {
        // In the first column a percent sign begins a directive.
        guard mark.column > 1, let first = character(mark), "@`%".unicodeScalars.contains(first) else { return nil }
        return "a text that begins with \"\(first)\" is written in quotes"
    }

    /// A second ": " in a line, or a key without one in the line before.
    private var colon: String? {
        guard character(mark) == ":" else { return nil }
        let line = lines.characters(line: mark.line)
        if let first = Self.colon(in: line), first < mark.column - 1 {
            let value = String(String.UnicodeScalarView(line[(first + 1)...].drop { $0 == " " }))
            let quoted = value.contains("'") ? doubleQuoted(value) { _ in nil } : "'\(value)'"
            let key = String(String.UnicodeScalarView(line[...first].drop { $0 == " " || $0 == "-" }))
            return "a text that holds \": \" is written in quotes: \(key) \(quoted)"
        }
        guard let before = previous(mark.line), Self.colon(in: lines.characters(line: before)) == nil else {
            return nil
        }
        return "line \(before) has no \":\" behind its key"
    }

    /// The place of the first colon that ends a key; nil for none.
    private static func colon(in line: [Unicode.Scalar]) -> Int? {
        line.indices.first { index in
            line[index] == ":" && (index + 1 == line.count || line[index + 1] == " ")
        }
    }

    /// The last line before one that is neither blank nor a comment.
    private func previous(_ line: Int) -> Int? {
        var number = line - 1
        while number > max(0, line - 1000) {
            let first = lines.characters(line: number).first { $0 != " " && $0 != "\t" }
            if let first, first != "#" { return number }
            number -= 1
        }
        return nil
    }

    /// A line that begins in a column in which none of those around it does.
    private var indentation: String? {
        let column = Self.columns(lines.characters(line: mark.line)).first ?? 1
        guard column == mark.column else { return nil }
        var nearest: (line: Int, column: Int)?
        var limit = Int.max
        var next = previous(mark.line)
        while let line = next, limit > 1 {
            let columns = Self.columns(lines.characters(line: line)).filter { $0 < limit }
            if columns.contains(column) { return nil }
            for candidate in columns where nearest.map({ abs($0.column - column) > abs(candidate - column) }) ?? true {
                nearest = (line, candidate)
            }
            limit = min(limit, columns.first ?? limit)
            next = previous(line)
        }
        return nearest.map {
            "it begins in column \(column): line it up with column \($0.column) of line \($0.line)"
        }
    }

    /// Where what stands in a line begins: its first character, and what follows dashes.
    private static func columns(_ line: [Unicode.Scalar]) -> [Int] {
        var columns: [Int] = []
        var index = line.firstIndex { $0 != " " } ?? line.count
        while index < line.count {
            columns.append(index + 1)
            guard line[index] == "-", index + 1 < line.count, line[index + 1] == " " else { break }
            index = line[(index + 1)...].firstIndex { $0 != " " } ?? line.count
        }
        return columns
    }
}
