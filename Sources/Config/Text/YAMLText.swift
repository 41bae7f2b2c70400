/// # Theory of operation
///
/// Writes a tree as YAML for people: block style, text of several lines as literal blocks, everything else on one line,
/// quoted only where it would mean something else. What is written reads as the same tree again; tests hold it to that.
/// libyaml's emitter would do, but knows no comments, and where a value comes from is told in one.
struct YAMLText {
    private(set) var text = ""
    /// A comment for a value; nil for none.
    private let comment: (Node) -> String?

    /// The tree as a text that ends with a newline.
    init(_ root: Node, comment: @escaping (Node) -> String? = { _ in nil }) {
        self.comment = comment
        switch root.content {
        case .mapping(let pairs) where !pairs.isEmpty: block(root, 0)
        case .sequence(let items) where !items.isEmpty: block(root, 0)
        default: text = inline(root) + "\n"
        }
    }

    private mutating func block(_ node: Node, _ level: Int) {
        let blanks = String(repeating: " ", count: 2 * level)
        switch node.content {
        case .mapping(let pairs):
            for (key, value) in pairs {
                text += blanks + scalar(scalarText(key), isPlain: false) + ":"
                self.value(value, level + 1)
            }
        case .sequence(let items):
            for item in items {
                text += blanks + "-"
                let isNested =
                    switch item.content {
                    case .mapping(let pairs): !pairs.isEmpty
                    case .sequence(let items): !items.isEmpty
                    case .scalar: false
                    }
                guard isNested else {
                    value(item, level + 1)
                    continue
                }
                // The first line of what is nested stands beside the dash.
                let before = text
                text = ""
                block(item, level + 1)
                text = before + " " + text.dropFirst(2 * level + 2)
            }
        case .scalar: break
        }
    }

    /// What follows a key's colon or an item's dash.
    private mutating func value(_ node: Node, _ level: Int) {
        switch node.content {
        case .mapping(let pairs) where !pairs.isEmpty:
            text += "\n"
            block(node, level)
        case .sequence(let items) where !items.isEmpty:
            text += "\n"
            block(node, level)
        case .scalar(let string, let isPlain):
            if !isPlain || node.value == .string(string), isBlock(string) { return literal(string, level) }
            text += " " + inline(node) + note(node) + "\n"
        default: text += " " + inline(node) + note(node) + "\n"
        }
    }

    private func note(_ node: Node) -> String { comment(node).map { "  # \($0)" } ?? "" }

    private func inline(_ node: Node) -> String {
        switch node.content {
        case .mapping: return "{}"
        case .sequence: return "[]"
        case .scalar(let text, let isPlain):
            if isPlain, !text.isEmpty, node.value != .string(text) { return text }
            return node.isNull ? "null" : scalar(text, isPlain: isPlain)
        }
    }

    /// Whether a text may stand as a literal block and come back as it was.
    private func isBlock(_ text: String) -> Bool {
        guard text.contains("\n"), text.first != " ", text.first != "\n", text.first != "\t" else { return false }
        return text.unicodeScalars.allSatisfy { $0 == "\n" || $0 == "\t" || isPrintable($0) }
            && !text.allSatisfy { $0 == "\n" }
    }

    private func isPrintable(_ scalar: Unicode.Scalar) -> Bool {
        switch scalar.value {
        case 0x20...0x7e, 0xa0...0xd7ff, 0xe000...0xfefe, 0xff00...0xfffd, 0x10000...0x10ffff:
            // Line breaks of YAML 1.1, which libyaml still knows.
            scalar.value != 0x2028 && scalar.value != 0x2029
        default: false
        }
    }

    private mutating func literal(_ string: String, _ level: Int) {
        let ends = string.reversed().prefix { $0 == "\n" }.count
        text += ends == 0 ? " |-\n" : ends == 1 ? " |\n" : " |+\n"
        let blanks = String(repeating: " ", count: 2 * level)
        var lines = string.split(separator: "\n", omittingEmptySubsequences: false)
        if ends > 0 { lines.removeLast() }
        for line in lines { text += line.isEmpty ? "\n" : blanks + line + "\n" }
    }

    /// A string: plain where that means the same, else in double quotes, as JSON writes it.
    private func scalar(_ text: String, isPlain: Bool) -> String {
        guard ScalarValue(core: text) == .string(text), canBePlain(text) else { return quoted(text) }
        return text
    }

    private func canBePlain(_ text: String) -> Bool {
        let scalars = Array(text.unicodeScalars)
        guard let first = scalars.first, let last = scalars.last, first != " ", last != " ", scalars.count < 200 else {
            return false
        }
        // Readers of YAML 1.1 would take these for booleans.
        if ["y", "n", "yes", "no", "on", "off"].contains(text.lowercased()) || text == "<<" || text == "=" {
            return false
        }
        if "-?:,[]{}#&*!|>'\"%@`".unicodeScalars.contains(first) {
            guard first == "-", scalars.count > 1, scalars[1] != " ", scalars[1] != "-" else { return false }
        }
        if text.hasPrefix("...") { return false }
        // Sexagesimal numbers of YAML 1.1: 22:22.
        if scalars.allSatisfy({ ($0.value >= 48 && $0.value <= 58) || $0 == "_" || $0 == "." }) { return false }
        for (index, scalar) in scalars.enumerated() {
            let next = index + 1 < scalars.count ? scalars[index + 1] : " "
            if scalar == ":", next == " " { return false }
            if scalar == "#", index > 0, scalars[index - 1] == " " { return false }
            if !isPrintable(scalar) || "[]{},".unicodeScalars.contains(scalar) { return false }
        }
        return true
    }

    private func quoted(_ text: String) -> String {
        doubleQuoted(text) { scalar in
            if isPrintable(scalar) { return nil }
            let (mark, width) = scalar.value < 0x100 ? ("x", 2) : scalar.value < 0x10000 ? ("u", 4) : ("U", 8)
            return "\\" + mark + hexadecimal(scalar.value, width: width)
        }
    }
}
