/// A text in double quotes, as JSON and YAML both read it. `special` gives the escape of a character that cannot stand as
/// it is; nil for one that can.
func doubleQuoted(_ text: String, special: (Unicode.Scalar) -> String?) -> String {
    var out = "\""
    for scalar in text.unicodeScalars {
        switch scalar {
        case "\"": out += "\\\""
        case "\\": out += "\\\\"
        case "\n": out += "\\n"
        case "\r": out += "\\r"
        case "\t": out += "\\t"
        default:
            if let escape = special(scalar) { out += escape } else { out.unicodeScalars.append(scalar) }
        }
    }
    return out + "\""
}

/// A number in so many hexadecimal digits.
func hexadecimal(_ number: UInt32, width: Int) -> String {
    let text = String(number, radix: 16)
    return String(repeating: "0", count: max(0, width - text.count)) + text
}

/// A text as a JSON string (RFC 8259, section 7).
func jsonString(_ text: String) -> String {
    doubleQuoted(text) {
        $0.value < 0x20 || (0x7f...0x9f).contains($0.value) ? "\\u" + hexadecimal($0.value, width: 4) : nil
    }
}

/// A JSON text for a node, as Gitpod put structured values into the environment: without blanks, merge keys as written.
///
/// - Parameter indent: nil for one line; else lines, indented by so many blanks a level.
func jsonText(_ node: Node, indent: Int? = nil, level: Int = 0) -> String {
    func block(_ open: String, _ parts: [String], _ close: String) -> String {
        guard let indent, !parts.isEmpty else { return open + parts.joined(separator: ",") + close }
        let outer = "\n" + String(repeating: " ", count: indent * level)
        let inner = outer + String(repeating: " ", count: indent)
        return open + inner + parts.joined(separator: "," + inner) + outer + close
    }
    switch node.content {
    case .sequence(let items): return block("[", items.map { jsonText($0, indent: indent, level: level + 1) }, "]")
    case .mapping(let pairs):
        let colon = indent == nil ? ":" : ": "
        let parts = pairs.map {
            jsonString(scalarText($0.key)) + colon + jsonText($0.value, indent: indent, level: level + 1)
        }
        return block("{", parts, "}")
    case .scalar(let text, _):
        switch node.value {
        case .null?: return "null"
        case .boolean(let on)?: return on ? "true" : "false"
        case .integer(let number)?: return String(number)
        case .float(let number)? where number.isFinite: return jsonNumber(number)
        default: return jsonString(text)
        }
    }
}

/// Swift's text of a number is JSON's but for `inf` and `nan`, which do not get here.
private func jsonNumber(_ number: Double) -> String {
    if number == number.rounded(), abs(number) < 1e15 { return String(Int(number)) }
    return String(number)
}

func scalarText(_ node: Node) -> String { node.text ?? "" }

extension Node {
    /// A mapping that no file gave.
    convenience init(pairs: [(String, Node)]) {
        self.init(.mapping(pairs.map { (Node(.string($0)), $1) }))
    }
}

/// A JSON object of texts on one line.
public func jsonObject(_ fields: [(name: String, value: String)]) -> String {
    "{" + fields.map { jsonString($0.name) + ":" + jsonString($0.value) }.joined(separator: ",") + "}"
}

extension Reading {
    /// The diagnostics as a JSON array, in file order.
    public var diagnosticsJSON: String {
        let entries = diagnostics.map { diagnostic in
            let end = diagnostic.end ?? diagnostic.mark
            return Node(pairs: [
                ("file", Node(.string(file(diagnostic.mark)))), ("line", Node(.integer(diagnostic.mark.line))),
                ("column", Node(.integer(diagnostic.mark.column))), ("endLine", Node(.integer(end.line))),
                ("endColumn", Node(.integer(end.column))),
                ("severity", Node(.string(diagnostic.severity.rawValue))),
                ("code", Node(.string(diagnostic.code.rawValue))), ("path", Node(.string(diagnostic.path))),
                ("message", Node(.string(diagnostic.message))),
            ])
        }
        return jsonText(Node(.sequence(entries)), indent: 2)
    }
}
