/// A value that a text wants and that is not there: `${NAME:?message}`.
public struct MissingVariable: Error, Hashable, Sendable {
    /// The variable.
    public let name: String
    /// What the text says about it; empty for nothing.
    public let message: String
}

/// Puts variables into a text as Compose does, in braces only: `${NAME}`, `${NAME:-default}` (unset or empty),
/// `${NAME-default}` (unset), `${NAME:?message}` and `${NAME?message}` (an error). `$$` is a `$`; any other `$` stays.
public func interpolate(
    _ text: String, _ value: (String) -> String?
) -> Result<String, MissingVariable> {
    guard text.utf8.contains(UInt8(ascii: "$")) else { return .success(text) }
    var result = ""
    var rest = text[...]
    while let dollar = rest.firstIndex(of: "$") {
        result += rest[..<dollar]
        rest = rest[rest.index(after: dollar)...]
        if rest.first == "$" {
            result.append("$")
            rest = rest.dropFirst()
        } else if rest.first == "{", let end = rest.firstIndex(of: "}"),
            let expression = VariableExpression(rest[rest.index(after: rest.startIndex)..<end])
        {
            switch expression.evaluate(value) {
            case .success(let found): result += found
            case .failure(let missing): return .failure(missing)
            }
            rest = rest[rest.index(after: end)...]
        } else {
            result.append("$")
        }
    }
    return .success(result + rest)
}

/// What stands between the braces.
private struct VariableExpression {
    let name: Substring
    /// `-`, `:-`, `?` or `:?` and what follows it; empty for none.
    let sign: String
    let word: Substring

    /// Nil for what is no name.
    init?(_ text: Substring) {
        let name = text.prefix { $0.isASCII && ($0.isLetter || $0.isNumber || $0 == "_") }
        guard let first = name.first, !first.isNumber else { return nil }
        self.name = name
        let rest = text[name.endIndex...]
        if let sign = [":-", ":?", "-", "?"].first(where: { rest.hasPrefix($0) }) {
            self.sign = sign
            word = rest.dropFirst(sign.count)
        } else {
            guard rest.isEmpty else { return nil }
            sign = ""
            word = rest
        }
    }

    func evaluate(_ value: (String) -> String?) -> Result<String, MissingVariable> {
        let found = value(String(name))
        let counts = sign.hasPrefix(":") ? found?.isEmpty == false : found != nil
        if counts || sign.isEmpty { return .success(found ?? "") }
        if sign.hasSuffix("-") { return .success(String(word)) }
        return .failure(MissingVariable(name: String(name), message: String(word)))
    }
}
