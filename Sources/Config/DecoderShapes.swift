/// The shapes of values, and what is said when a value has another.
extension ConfigurationDecoder {
    /// Decodes a mapping by its table of keys; false when the node is none.
    @discardableResult
    func mapping(_ node: Node, _ path: String, _ keys: Keys) -> Bool {
        guard case .mapping(let pairs) = node.content else {
            if node.value != .null { wrongType(node, path, "a mapping") }
            return node.value == .null
        }
        for (key, value) in merged(pairs, path) {
            let name = scalarText(key)
            if let known = keys.first(where: { $0.name == name }) {
                known.take(value, path.isEmpty ? name : "\(path).\(name)")
            } else {
                let hint = nearest(to: name, in: keys.map(\.name)).map { " (did you mean \"\($0)\"?)" } ?? ""
                report(.warning, .unknownKey, key.start, path, "unknown key \"\(name)\"\(hint)")
            }
        }
        return true
    }

    /// A mapping's pairs with merge keys resolved (explicit keys win) and, of duplicates, the last.
    func merged(_ pairs: [(key: Node, value: Node)], _ path: String) -> [(key: Node, value: Node)] {
        var order: [String] = []
        var values: [String: (key: Node, value: Node)] = [:]
        for (key, value) in pairs where !isMergeKey(key) {
            let name = scalarText(key)
            if let first = values[name] {
                report(
                    .warning, .duplicateKey, key.start, path,
                    "key \"\(name)\" stands twice (first in line \(first.key.start.line)); the last counts")
            } else {
                order.append(name)
            }
            values[name] = (key, value)
        }
        for (key, value) in pairs where isMergeKey(key) {
            let sources: [Node]
            if case .sequence(let items) = value.content { sources = items } else { sources = [value] }
            for source in sources {
                guard case .mapping(let more) = source.content else {
                    report(.error, .wrongType, key.start, path, "\"<<\" takes a mapping or a list of mappings")
                    continue
                }
                for pair in merged(more, path) where values[scalarText(pair.key)] == nil {
                    order.append(scalarText(pair.key))
                    values[scalarText(pair.key)] = pair
                }
            }
        }
        return order.compactMap { values[$0] }
    }

    func isMergeKey(_ node: Node) -> Bool {
        if case .scalar("<<", isPlain: true) = node.content { return true }
        return false
    }

    func list<T>(_ node: Node, _ path: String, _ element: (Node, String) -> T?) -> [T] {
        guard case .sequence(let items) = node.content else {
            if node.value != .null { wrongType(node, path, "a list") }
            return []
        }
        return items.enumerated().compactMap { element($0.element, "\(path)[\($0.offset)]") }
    }

    func wrongType(_ node: Node, _ path: String, _ expected: String) {
        report(.error, .wrongType, node.start, path, "expected \(expected), found \(node.kind)")
    }

    func string(_ node: Node, _ path: String) -> String? {
        guard case .scalar(let text, _) = node.content else {
            wrongType(node, path, "a string")
            return nil
        }
        return node.value == .null ? nil : text
    }

    func strings(_ node: Node, _ path: String) -> [String] {
        if case .scalar = node.content { return string(node, path).map { [$0] } ?? [] }
        return list(node, path) { self.string($0, $1) }
    }

    func relativePath(_ node: Node, _ path: String) -> String? {
        guard let text = string(node, path) else { return nil }
        if text.split(separator: "/").contains("..") {
            report(.error, .badValue, node.start, path, "the path leads out of the workspace: \"\(text)\"")
            return nil
        }
        return text
    }

    func boolean(_ node: Node, _ path: String) -> Bool? {
        if case .boolean(let on)? = node.value { return on }
        if node.value != .null { wrongType(node, path, "true or false") }
        return nil
    }

    func integer(_ node: Node, _ path: String, _ range: ClosedRange<Int>) -> Int? {
        guard case .integer(let number)? = node.value else {
            if node.value != .null { wrongType(node, path, "a whole number") }
            return nil
        }
        guard range.contains(number) else {
            let bound = number < range.lowerBound ? "at least \(range.lowerBound)" : "at most \(range.upperBound)"
            report(.error, .badValue, node.start, path, "\(number) is out of range: \(bound)")
            return nil
        }
        return number
    }

    func duration(_ node: Node, _ path: String) -> Duration? {
        guard case .scalar(let text, _) = node.content, let duration = parseDuration(text) else {
            report(
                .error, .badValue, node.start, path,
                "expected a duration such as 500ms, 30s or 1m30s, found \(scalarText(node).isEmpty ? node.kind : "\"\(scalarText(node))\"")"
            )
            return nil
        }
        return duration
    }

    func choice(_ node: Node, _ path: String, _ choices: [String]) -> String? {
        guard let text = string(node, path) else { return nil }
        if choices.contains(text) { return text }
        let hint = nearest(to: text, in: choices).map { " (did you mean \"\($0)\"?)" } ?? ""
        report(
            .error, .badValue, node.start, path,
            "expected one of \(choices.joined(separator: ", ")), found \"\(text)\"\(hint)")
        return nil
    }

    /// A mapping of values, or Compose's list of NAME=value. Structured values become JSON, as Gitpod did.
    func variables(_ node: Node, _ path: String) -> [EnvironmentVariable] {
        if case .sequence(let items) = node.content {
            return items.enumerated().compactMap { index, item in
                let parts = scalarText(item).split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
                guard case .scalar = item.content, parts.count == 2, !parts[0].isEmpty else {
                    report(.error, .badValue, item.start, "\(path)[\(index)]", "expected NAME=value")
                    return nil
                }
                return EnvironmentVariable(name: String(parts[0]), value: String(parts[1]))
            }
        }
        guard case .mapping(let pairs) = node.content else {
            if node.value != .null { wrongType(node, path, "a mapping") }
            return []
        }
        return merged(pairs, path).compactMap { key, value in
            let name = scalarText(key)
            guard !name.isEmpty, !name.contains("="), !name.utf8.contains(0) else {
                report(.error, .badValue, key.start, path, "\"\(name)\" is no name for a variable")
                return nil
            }
            if case .string(let text)? = value.value { return EnvironmentVariable(name: name, value: text) }
            if case .scalar(let text, _) = value.content, value.value != .null {
                return EnvironmentVariable(name: name, value: text)
            }
            return EnvironmentVariable(name: name, value: jsonText(value))
        }
    }
}
