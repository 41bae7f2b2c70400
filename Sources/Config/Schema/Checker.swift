/// # Theory of operation
///
/// Walks a tree beside the ``Shape`` it ought to have, and returns what of it counts: merge keys resolved, of duplicate
/// keys the last, unknown keys and nulls left out, and wrong values too. Whatever is left out has left a diagnostic
/// (nulls excepted: "nothing here" is a way to write nothing). Nothing is thrown, so all there is to say is said in one
/// go, and what follows need not look for errors again.
final class Checker {
    private(set) var diagnostics: [Diagnostic] = []
    /// Values that speak to other tools, for one note about all of them.
    private var foreign: [(name: String, key: Node)] = []
    /// Inside of such a value nothing is an error.
    private var isForeign = false

    /// What of `node` counts; nil for nothing.
    func check(_ node: Node, _ shape: Shape, _ path: String) -> Node? {
        switch shape {
        case .anything: return node
        case .text(let format): return text(node, format, path)
        case .boolean:
            guard shape.admits(node) else { return wrongType(node, path, shape, hint: booleanHint(node)) }
            return node
        case .integer(let range): return integer(node, range, path)
        case .choice(let words, let retired): return choice(node, words, retired, path)
        case .list(let element):
            guard case .sequence(let items) = node.content else { return wrongType(node, path, shape) }
            return with(node, .sequence(items.enumerated().compactMap { self.element($1, element, "\(path)[\($0)]") }))
        case .record(let keys, let alternatives): return record(node, keys, alternatives, path)
        case .table(let names, let value): return table(node, names, value, path)
        case .variables(let fromHost, let names): return variables(node, path, fromHost: fromHost, names)
        case .oneOf(let shapes, _):
            guard let fit = shapes.first(where: { $0.admits(node) }) else { return wrongType(node, path, shape) }
            return check(node, fit, path)
        }
    }

    func report(
        _ severity: Diagnostic.Severity, _ code: DiagnosticCode, _ node: Node, _ path: String, _ message: String
    ) {
        let isDefused = isForeign && severity == .error
        diagnostics.append(
            Diagnostic(
                severity: isDefused ? .warning : severity, code: code, mark: node.start, end: node.end, path: path,
                message: message))
    }

    func report(_ error: YAMLError) {
        diagnostics.append(
            Diagnostic(
                severity: .error, code: error.code, mark: error.mark, path: "",
                message: error.message + (error.hint.map { " (\($0))" } ?? "")))
    }

    /// One note for all keys that speak to other tools.
    func reportForeignKeys() {
        guard let first = foreign.first else { return }
        var names: [String] = []
        for (name, _) in foreign where !names.contains(name) { names.append(name) }
        let verb = names.count == 1 ? "speaks" : "speak"
        report(
            .note, .withoutEffect, first.key, "",
            "\(names.joined(separator: ", ")) \(verb) to other tools: checked, and without effect here")
    }

    // MARK: scalars

    private func with(_ node: Node, _ content: Node.Content) -> Node {
        Node(content: content, start: node.start, end: node.end, weight: node.weight)
    }

    private func wrongType(_ node: Node, _ path: String, _ shape: Shape, hint: String = "") -> Node? {
        report(.error, .wrongType, node, path, "expected \(shape.expectation), found \(node.kind)\(hint)")
        return nil
    }

    private func text(_ node: Node, _ format: Format, _ path: String) -> Node? {
        guard case .scalar(let text, _) = node.content else { return wrongType(node, path, .text(format)) }
        if let problem = format.problem(with: text) {
            report(.error, .badValue, node, path, problem)
            return nil
        }
        if format == .command, let syntax = ShellSyntax(text) {
            let list = "[sh, -c, \(text.contains("'") ? jsonString(text) : "'\(text)'")]"
            let meant = path.hasSuffix(".pre_stop") ? "[{command: \(list)}]" : list
            report(
                .warning, .shellText, node, path,
                "\"\(syntax.found)\" needs a shell, and this runs without one (did you mean \(meant)?)")
        }
        if let canonical = format.canonical(text) { return with(node, Node(canonical).content) }
        // A name of digits is a name all the same.
        return format.takesNumbers ? node : with(node, .scalar(text, isPlain: false))
    }

    private func integer(_ node: Node, _ range: ClosedRange<Int>, _ path: String) -> Node? {
        guard case .integer(let number)? = node.value else { return wrongType(node, path, .integer(range)) }
        guard range.contains(number) else {
            let bound = number < range.lowerBound ? "at least \(range.lowerBound)" : "at most \(range.upperBound)"
            report(.error, .badValue, node, path, "\(number) is out of range: \(bound)")
            return nil
        }
        return node
    }

    private func choice(_ node: Node, _ words: [String], _ retired: [String], _ path: String) -> Node? {
        guard case .scalar(let text, _) = node.content else { return wrongType(node, path, .choice(words)) }
        if words.contains(text) { return node }
        if retired.contains(text) {
            report(
                .warning, .deprecated, node, path,
                "\"\(text)\" is no longer known: \(words.joined(separator: ", ")) are")
            return nil
        }
        report(
            .error, .badValue, node, path,
            "expected \(Shape.choice(words).expectation), found \"\(text)\"\(suggestion(text, words))")
        return nil
    }

    /// `yes` and `on` were booleans in YAML 1.1.
    private func booleanHint(_ node: Node) -> String {
        switch node.text?.lowercased() {
        case "yes", "on", "y": " (did you mean true?)"
        case "no", "off", "n": " (did you mean false?)"
        case "true"?: " (without quotes it is true)"
        case "false"?: " (without quotes it is false)"
        default: ""
        }
    }

    private func suggestion(_ word: String, _ candidates: [String]) -> String {
        nearest(to: word, in: candidates).map { " (did you mean \"\($0)\"?)" } ?? ""
    }

    // MARK: collections

    /// An element of a list: an empty one is an empty mapping where mappings are meant.
    private func element(_ node: Node, _ shape: Shape, _ path: String) -> Node? {
        if node.isNull, case .record(let keys, let alternatives) = shape {
            return record(with(node, .mapping([])), keys, alternatives, path)
        }
        return check(node, shape, path)
    }

    private func record(_ node: Node, _ keys: [Key], _ alternatives: [String], _ path: String) -> Node? {
        guard case .mapping(let pairs) = node.content else { return wrongType(node, path, .record(keys)) }
        var found: [(key: Node, value: Node)] = []
        let whole = merged(pairs, path)
        checkAlternatives(whole, alternatives, node, path)
        for (key, value) in whole {
            let name = scalarText(key)
            guard let known = keys.first(where: { $0.name == name }) else {
                // Compose's way to keep what anchors are made from.
                if name.hasPrefix("x-") { continue }
                reportUnknown(key, value, name, keys, path)
                continue
            }
            if let kept = take(known, key, value, join(path, name)) { found.append((key, kept)) }
        }
        for key in keys where key.isRequired && !whole.contains(where: { $0.key.text == key.name }) {
            report(.error, .missingKey, node, path, "\"\(key.name)\" is missing")
        }
        if keys.contains(where: { key in key.isRequired && !found.contains { $0.key.text == key.name } }) { return nil }
        return with(node, .mapping(found))
    }

    private func checkAlternatives(
        _ pairs: [(key: Node, value: Node)], _ alternatives: [String], _ node: Node, _ path: String
    ) {
        if alternatives.isEmpty { return }
        let found = pairs.filter { alternatives.contains($0.key.text ?? "") && !$0.value.isNull }
        let all = alternatives.map { "\"\($0)\"" }.joined(separator: ", ")
        if found.isEmpty { report(.error, .missingKey, node, path, "one of \(all) is missing") }
        for (key, _) in found.dropFirst() { report(.error, .conflict, key, path, "only one of \(all) can hold") }
    }

    private func take(_ known: Key, _ key: Node, _ value: Node, _ path: String) -> Node? {
        if value.isNull {
            if known.isRequired {
                report(.error, .wrongType, value, path, "expected \(known.shape.expectation), found null")
            }
            return nil
        }
        let wasForeign = isForeign
        defer { isForeign = wasForeign }
        switch known.standing {
        case .effective: break
        case .later:
            report(.warning, .withoutEffect, key, path, "known, but without effect in this version")
        case .foreign:
            if !isForeign { foreign.append((known.name, key)) }
            isForeign = true
        case .deprecated:
            if !isForeign { report(.warning, .deprecated, key, path, "deprecated, and without effect here") }
            isForeign = true
        case .replaced(let other): report(.warning, .deprecated, key, path, "deprecated: write it as \(other)")
        }
        return check(value, known.shape, path)
    }

    private func reportUnknown(_ key: Node, _ value: Node, _ name: String, _ keys: [Key], _ path: String) {
        let place = ForeignPlace(path)
        // A policy that nothing reads must not be taken for one that holds.
        if place.isPolicy(name, value, nearest: nearest(to: name, in: keys.map(\.name))) {
            report(
                .error, .unknownKey, key, path, "unknown key \"\(name)\": \(place.policyAdvice(name, keys.map(\.name)))"
            )
            return
        }
        var hint = place.advice(name).map { " (\($0))" } ?? ""
        if hint.isEmpty { hint = suggestion(name, keys.map(\.name)) }
        report(.warning, .unknownKey, key, path, "unknown key \"\(name)\"\(hint)")
    }

    private func table(_ node: Node, _ names: Format, _ shape: Shape, _ path: String) -> Node? {
        guard case .mapping(let pairs) = node.content else { return wrongType(node, path, .table(names: names, shape)) }
        var found: [(key: Node, value: Node)] = []
        for (key, value) in merged(pairs, path) {
            let name = key.text ?? ""
            if let problem = names.problem(with: name) {
                report(.error, .badValue, key, path, problem)
            } else if let value = element(value, shape, join(path, name)) {
                found.append((key, value))
            }
        }
        return with(node, .mapping(found))
    }

    /// Lists become mappings: one shape for all readers. A variable from the host is one whose value is null.
    private func variables(_ node: Node, _ path: String, fromHost: Bool, _ names: Format) -> Node? {
        var found: [(key: Node, value: Node)] = []
        switch node.content {
        case .scalar: return wrongType(node, path, .variables())
        case .sequence(let items):
            for (index, item) in items.enumerated() {
                guard let text = item.text, let pair = variable(text, fromHost: fromHost, names) else {
                    report(.error, .badValue, item, "\(path)[\(index)]", variableProblem(item))
                    continue
                }
                let key = with(item, .scalar(pair.name, isPlain: false))
                let value = with(item, pair.value.map { .scalar($0, isPlain: false) } ?? .scalar("null", isPlain: true))
                found.removeAll { $0.key.text == key.text }
                found.append((key, value))
            }
        case .mapping(let pairs):
            for (key, value) in merged(pairs, path) {
                let name = key.text ?? ""
                if names.problem(with: name) != nil {
                    report(.error, .badValue, key, path, nameProblem(name))
                } else if value.text?.utf8.contains(0) == true {
                    report(.error, .badValue, value, join(path, name), "a variable holds no zero bytes")
                } else {
                    found.append((key, value))
                }
            }
        }
        return with(node, .mapping(found))
    }

    /// `NAME=value`, or a NAME alone where that takes its value from the host; nil for anything else.
    private func variable(_ text: String, fromHost: Bool, _ names: Format) -> (name: String, value: String?)? {
        let parts = text.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
        guard let name = parts.first, names.problem(with: String(name)) == nil, parts.count == 2 || fromHost,
            !text.utf8.contains(0)
        else { return nil }
        return (String(name), parts.count == 2 ? String(parts[1]) : nil)
    }

    private func variableProblem(_ item: Node) -> String {
        guard let text = item.text, let name = text.split(separator: "=", omittingEmptySubsequences: false).first,
            text.contains("="), Format.variable.problem(with: String(name)) != nil
        else { return "expected NAME=value, found \(item.text.map { "\"\($0)\"" } ?? item.kind)" }
        return nameProblem(String(name))
    }

    private func nameProblem(_ name: String) -> String {
        if name.isEmpty { return "expected NAME=value: the name is missing" }
        let hint =
            name.contains { $0 == " " || $0 == "\t" }
            ? " (a name holds no blanks: NAME=value, without any around the \"=\")" : ""
        return "\"\(name)\" is no name for a variable\(hint)"
    }

    /// A mapping's pairs with merge keys resolved (explicit keys win, the first of several merged mappings wins) and, of
    /// duplicates, the last.
    func merged(_ pairs: [(key: Node, value: Node)], _ path: String) -> [(key: Node, value: Node)] {
        var order: [(key: Node, value: Node)] = []
        var places: [String: Int] = [:]
        for pair in pairs where !isMergeKey(pair.key) {
            guard let name = pair.key.text else {
                report(.error, .wrongType, pair.key, path, "a key is a string, not \(pair.key.kind)")
                continue
            }
            if let place = places[name] {
                report(
                    .warning, .duplicateKey, pair.key, path,
                    "key \"\(name)\" stands twice (first in line \(order[place].key.start.line)); the last counts")
                order[place] = pair
            } else {
                places[name] = order.count
                order.append(pair)
            }
        }
        for (key, value) in pairs where isMergeKey(key) {
            let sources: [Node]
            if case .sequence(let items) = value.content { sources = items } else { sources = [value] }
            for source in sources {
                guard case .mapping(let more) = source.content else {
                    report(.error, .wrongType, source, path, "\"<<\" takes a mapping or a list of mappings")
                    continue
                }
                for pair in merged(more, path) where places[pair.key.text ?? ""] == nil {
                    places[pair.key.text ?? ""] = order.count
                    order.append(pair)
                }
            }
        }
        return order
    }

    /// A tree without merge keys and duplicates, for files that have no shape here.
    func resolved(_ node: Node, _ path: String = "") -> Node {
        switch node.content {
        case .scalar: return node
        case .sequence(let items):
            return with(node, .sequence(items.enumerated().map { resolved($1, "\(path)[\($0)]") }))
        case .mapping(let pairs):
            return with(
                node,
                .mapping(merged(pairs, path).map { ($0.key, resolved($0.value, join(path, $0.key.text ?? ""))) }))
        }
    }

    private func isMergeKey(_ node: Node) -> Bool {
        if case .scalar("<<", isPlain: true) = node.content { return true }
        return false
    }
}

/// A key's path: names that are no plain words are quoted.
func join(_ path: String, _ name: String) -> String {
    let isPlain =
        !name.isEmpty
        && name.utf8.allSatisfy {
            ($0 > 47 && $0 < 58) || ($0 > 64 && $0 < 91) || ($0 > 96 && $0 < 123) || $0 == 95 || $0 == 45 || $0 == 60
        }
    let part = isPlain ? name : jsonString(name)
    return path.isEmpty ? part : "\(path).\(part)"
}
