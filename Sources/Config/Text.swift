/// Reads `500ms`, `30s`, `1m30s`, `2h`; nil for anything else.
public func parseDuration(_ text: String) -> Duration? {
    var total = Duration.zero
    var rest = text[...]
    guard !rest.isEmpty else { return nil }
    while !rest.isEmpty {
        let digits = rest.prefix { $0.isASCII && ($0.isNumber || $0 == ".") }
        rest = rest.dropFirst(digits.count)
        let unit = rest.prefix { $0.isASCII && $0.isLetter }
        rest = rest.dropFirst(unit.count)
        guard let value = Double(digits), value <= 1e9 else { return nil }
        switch unit {
        case "us": total += .microseconds(value)
        case "ms": total += .milliseconds(value)
        case "s": total += .seconds(value)
        case "m": total += .seconds(value * 60)
        case "h": total += .seconds(value * 3600)
        default: return nil
        }
    }
    return total
}

/// Splits a command as Compose does: at blanks, with single and double quotes and backslashes; no expansion.
/// nil when a quote is not closed.
public func splitWords(_ text: String) -> [String]? {
    var words: [String] = []
    var word: String?
    var quote: Character?
    var escaped = false
    for character in text {
        if escaped {
            if quote == "\"", character != "\"", character != "\\" { word = (word ?? "") + "\\" }
            word = (word ?? "") + String(character)
            escaped = false
        } else if let open = quote {
            if character == open {
                quote = nil
            } else if character == "\\", open == "\"" {
                escaped = true
            } else {
                word = (word ?? "") + String(character)
            }
        } else if character == "'" || character == "\"" {
            quote = character
            word = word ?? ""
        } else if character == "\\" {
            escaped = true
        } else if character == " " || character == "\t" || character == "\n" || character == "\r\n" {
            if let done = word { words.append(done) }
            word = nil
        } else {
            word = (word ?? "") + String(character)
        }
    }
    guard quote == nil, !escaped else { return nil }
    if let done = word { words.append(done) }
    return words
}

/// A JSON text for a node, as Gitpod put structured values into the environment.
func jsonText(_ node: Node) -> String {
    switch node.content {
    case .sequence(let items): return "[" + items.map(jsonText).joined(separator: ",") + "]"
    case .mapping(let pairs):
        return "{" + pairs.map { jsonString(scalarText($0.key)) + ":" + jsonText($0.value) }.joined(separator: ",")
            + "}"
    case .scalar(let text, _):
        switch node.value {
        case .null?: return "null"
        case .boolean(let on)?: return on ? "true" : "false"
        case .integer(let number)?: return String(number)
        case .float(let number)? where number.isFinite: return String(number)
        default: return jsonString(text)
        }
    }
}

func scalarText(_ node: Node) -> String {
    if case .scalar(let text, _) = node.content { return text }
    return ""
}

private func jsonString(_ text: String) -> String {
    var out = "\""
    for scalar in text.unicodeScalars {
        switch scalar {
        case "\"": out += "\\\""
        case "\\": out += "\\\\"
        case "\n": out += "\\n"
        case "\r": out += "\\r"
        case "\t": out += "\\t"
        case _ where scalar.value < 0x20:
            let hex = String(scalar.value, radix: 16)
            out += "\\u" + String(repeating: "0", count: 4 - hex.count) + hex
        default: out.unicodeScalars.append(scalar)
        }
    }
    return out + "\""
}
