/// A value that a text needs and that is not there: `${NAME:?message}`.
public struct MissingVariable: Error, Hashable, Sendable {
    /// The variable.
    public let name: String
    /// What the text says about it; empty for nothing.
    public let message: String
}

/// # Theory of operation
///
/// Puts variables into a text as Compose does, in braces only: `${NAME}`, `${NAME:-default}` (unset or empty),
/// `${NAME-default}` (unset), `${NAME:+other}` and `${NAME+other}` (where there is one), `${NAME:?message}` and
/// `${NAME?message}` (an error). A default may hold expressions itself. `$$` is a `$`; any other `$` stays.
public func interpolate(_ text: String, _ value: (String) -> String?) -> Result<String, MissingVariable> {
    guard text.utf8.contains(UInt8(ascii: "$")) else { return .success(text) }
    var result = ""
    for part in InterpolationPart.parts(of: text) {
        switch part {
        case .text(let text), .malformed(let text): result += text
        case .dollar: result += "$"
        case .expression(let expression):
            switch expression.evaluate(value) {
            case .success(let found): result += found
            case .failure(let missing): return .failure(missing)
            }
        }
    }
    return .success(result)
}

/// A text's first expression that is none, from its `${` on; nil when all are in order.
func malformedExpression(in text: String) -> String? {
    for part in InterpolationPart.parts(of: text) {
        switch part {
        case .malformed(let text): return text
        case .expression(let expression): if let inner = malformedExpression(in: expression.word) { return inner }
        case .text, .dollar: break
        }
    }
    return nil
}

/// A part of a text with variables.
enum InterpolationPart {
    case text(String)
    /// `$$`.
    case dollar
    case expression(VariableExpression)
    /// `${` that begins no expression.
    case malformed(String)

    /// How deep a default may hold another.
    private static let depthLimit = 20

    static func parts(of text: String) -> [InterpolationPart] {
        var parts: [InterpolationPart] = []
        var rest = text[...]
        while let dollar = rest.firstIndex(of: "$") {
            if dollar > rest.startIndex { parts.append(.text(String(rest[..<dollar]))) }
            let behind = rest[rest.index(after: dollar)...]
            if behind.first == "$" {
                parts.append(.dollar)
                rest = behind.dropFirst()
            } else if behind.first == "{" {
                if let end = closingBrace(behind),
                    let expression = VariableExpression(behind[behind.index(after: behind.startIndex)..<end])
                {
                    parts.append(.expression(expression))
                    rest = behind[behind.index(after: end)...]
                } else {
                    let end = behind.firstIndex(of: "}").map { behind.index(after: $0) } ?? behind.endIndex
                    parts.append(.malformed("$" + behind[..<end]))
                    rest = behind[end...]
                }
            } else {
                parts.append(.text("$"))
                rest = behind
            }
        }
        if !rest.isEmpty { parts.append(.text(String(rest))) }
        return parts
    }

    /// The brace that closes the first one; expressions inside have braces of their own.
    private static func closingBrace(_ text: Substring) -> Substring.Index? {
        var depth = 0
        var isDollar = false
        for index in text.indices {
            let character = text[index]
            if character == "{", depth == 0 || isDollar {
                depth += 1
                if depth > depthLimit { return nil }
            } else if character == "}" {
                depth -= 1
                if depth == 0 { return index }
            }
            isDollar = character == "$"
        }
        return nil
    }
}

/// What stands between the braces.
struct VariableExpression {
    let name: String
    /// `-`, `:-`, `+`, `:+`, `?` or `:?` and what follows it; empty for none.
    let sign: String
    let word: String

    /// Nil for what is no expression.
    init?(_ text: Substring) {
        let name = text.prefix { $0.isASCII && ($0.isLetter || $0.isNumber || $0 == "_") }
        guard let first = name.first, !first.isNumber else { return nil }
        self.name = String(name)
        let rest = text[name.endIndex...]
        if let sign = [":-", ":?", ":+", "-", "?", "+"].first(where: { rest.hasPrefix($0) }) {
            self.sign = sign
            word = String(rest.dropFirst(sign.count))
        } else {
            guard rest.isEmpty else { return nil }
            sign = ""
            word = ""
        }
    }

    func evaluate(_ value: (String) -> String?) -> Result<String, MissingVariable> {
        let found = value(name)
        let counts = sign.hasPrefix(":") ? found?.isEmpty == false : found != nil
        switch sign.last {
        case "+": return counts ? interpolate(word, value) : .success("")
        case "-": return counts ? .success(found ?? "") : interpolate(word, value)
        case "?": return counts ? .success(found ?? "") : .failure(MissingVariable(name: name, message: word))
        default: return .success(found ?? "")
        }
    }
}
