/// A line that is no assignment.
public struct EnvironmentFileError: Error, Hashable, Sendable {
    /// From 1.
    public let line: Int
    /// What is wrong with it.
    public let message: String
}

/// Reads a file of `NAME=value` lines as Compose's `env_file` has them: blank lines and comments, `export` before the
/// name, and quotes around the value, which are taken off. Nothing is expanded.
public func parseEnvironmentFile(_ text: String) -> Result<[EnvironmentVariable], EnvironmentFileError> {
    var variables: [EnvironmentVariable] = []
    let lines = text.split(omittingEmptySubsequences: false) { $0 == "\n" || $0 == "\r\n" }
    for (index, raw) in lines.enumerated() {
        var line = trimmed(raw)
        if line.isEmpty || line.first == "#" { continue }
        if line.hasPrefix("export ") { line = trimmed(line.dropFirst(7)) }
        guard let equals = line.firstIndex(of: "="), equals != line.startIndex else {
            return .failure(EnvironmentFileError(line: index + 1, message: "expected NAME=value"))
        }
        let name = trimmed(line[..<equals])
        guard name.utf8.allSatisfy({ $0 > 32 && $0 != 34 && $0 != 39 }) else {
            return .failure(EnvironmentFileError(line: index + 1, message: "\"\(name)\" is no name for a variable"))
        }
        var value = trimmed(line[line.index(after: equals)...])
        if let quote = value.first, quote == "\"" || quote == "'" {
            guard let close = value.dropFirst().lastIndex(of: quote) else {
                return .failure(EnvironmentFileError(line: index + 1, message: "a quote is not closed"))
            }
            value = value[value.index(after: value.startIndex)..<close]
        } else if let comment = value.indices.first(where: { value[$0] == "#" && isBlank(value, before: $0) }) {
            value = trimmed(value[..<comment])
        }
        variables.append(EnvironmentVariable(name: String(name), value: String(value)))
    }
    return .success(variables)
}

private func isBlank(_ text: Substring, before index: Substring.Index) -> Bool {
    index != text.startIndex && text[text.index(before: index)].isWhitespace
}

private func trimmed(_ text: Substring) -> Substring {
    var text = text
    while text.first?.isWhitespace == true { text.removeFirst() }
    while text.last?.isWhitespace == true { text.removeLast() }
    return text
}
