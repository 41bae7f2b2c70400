/// # Theory of operation
///
/// The help of a command, wrapped to a width. The parser's own wrapping breaks examples and leaves short lines where the
/// source had line ends, so it is asked for text without wrapping (``unwrapped``), and the text is laid out here:
/// paragraphs are filled, lines that are set in by two spaces (examples) stay whole, and the explanation of an option or
/// a command stands in a column of its own.
public struct HelpText {
    /// A width at which the parser wraps nothing.
    public static let unwrapped = 1 << 20
    /// Where explanations begin; the parser's own place for them.
    private static let column = 26
    private let lines: [Substring]

    /// Help as the parser gives it at ``unwrapped`` columns.
    public init(_ text: String) { lines = text.split(separator: "\n", omittingEmptySubsequences: false) }

    /// The help, wrapped to so many columns; to 40 at least.
    public func wrapped(to width: Int) -> String {
        let width = max(40, width)
        var out: [String] = []
        var paragraph: [Substring] = []
        var part = Part.overview
        func flush() {
            let words = paragraph.flatMap { $0.split(separator: " ") }
            out += Self.filled(words, width, indent: 0)
            paragraph = []
        }
        for line in lines {
            if let next = Part(heading: line, after: part) {
                flush()
                part = next
                if part == .usage {
                    out += Self.filled(line.split(separator: " "), width, indent: 7)
                } else {
                    out.append(String(line))
                }
                continue
            }
            switch part {
            case .overview:
                if line.isEmpty || line.hasPrefix("  ") {
                    flush()
                    out.append(String(line))
                } else {
                    paragraph.append(line)
                }
            case .usage: out += line.isEmpty ? [""] : Self.filled(line.split(separator: " "), width, indent: 7)
            case .entries: out += Self.entry(line, width)
            }
        }
        flush()
        return out.joined(separator: "\n")
    }

    private enum Part {
        case overview, usage, entries

        /// The part that a heading begins; nil for other lines.
        init?(heading line: Substring, after part: Part) {
            if line.hasPrefix("USAGE: "), part == .overview {
                self = .usage
            } else if part != .overview, line.hasSuffix(":"), line == line.uppercased(), !line.hasPrefix(" ") {
                self = .entries
            } else {
                return nil
            }
        }
    }

    /// An option or a command with its explanation: `  LABEL   EXPLANATION`, or the explanation alone, set in.
    private static func entry(_ line: Substring, _ width: Int) -> [String] {
        guard line.hasPrefix("  ") else { return [String(line)] }
        let blanks = String(repeating: " ", count: column)
        if line.hasPrefix(blanks) { return filled(line.split(separator: " "), width, indent: column, first: column) }
        guard columnCount(String(line)) > column, line.dropFirst(column - 1).first == " " else {
            return [String(line)]
        }
        let label = line.prefix(column)
        let rest = filled(line.dropFirst(column).split(separator: " "), width, indent: column, first: column)
        return [String(label) + (rest.first ?? "").drop { $0 == " " }] + rest.dropFirst()
    }

    /// Words in lines; `first` blanks before the first line, `indent` before the others.
    private static func filled(_ words: [Substring], _ width: Int, indent: Int, first: Int = 0) -> [String] {
        var lines: [String] = []
        var line = String(repeating: " ", count: first)
        var isEmpty = true
        for word in words {
            if !isEmpty, columnCount(line) + 1 + columnCount(String(word)) > width {
                lines.append(line)
                line = String(repeating: " ", count: indent)
                isEmpty = true
            }
            line += (isEmpty ? "" : " ") + word
            isEmpty = false
        }
        return isEmpty ? lines : lines + [line]
    }
}
