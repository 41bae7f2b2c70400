/// The configuration as it takes effect: defaults filled in, and where each value comes from.
extension Reading {
    /// What counts of the files, as YAML or JSON with Gitpod's key names; absent keys absent.
    public func documentText(json: Bool) -> String {
        json ? jsonText(document, indent: 2) : YAMLText(document).text
    }

    /// The effective configuration. As YAML each value has its origin in a comment; as JSON each is
    /// `{"value": …, "origin": …}`. An origin is `FILE:LINE` or `default`.
    public func effectiveText(json: Bool) -> String {
        let effective = self.effective
        if json { return jsonText(withOrigins(effective), indent: 2) }
        return YAMLText(effective, comment: { origin($0) }).text
    }

    /// The document with defaults where keys are absent.
    var effective: Node {
        var root = filled(document, GitpodKeys.root)
        root = replacing(root, "tasks") { tasks in
            let items = tasks.items.enumerated().map { index, task in
                task["name"] != nil ? task : adding(task, "name", Node(.string("task-\(index + 1)")), first: true)
            }
            return Node(content: .sequence(items), start: tasks.start, end: tasks.end)
        }
        return root
    }

    private func origin(_ node: Node) -> String {
        node.start.file < 0 ? "default" : "\(file(node.start)):\(node.start.line)"
    }

    private func filled(_ node: Node, _ shape: Shape) -> Node {
        switch (shape, node.content) {
        case (.record(let keys, _), .mapping): return filled(node, keys)
        case (.list(let element), .sequence(let items)):
            return Node(content: .sequence(items.map { filled($0, element) }), start: node.start, end: node.end)
        case (.table(_, let value), .mapping(let pairs)):
            return Node(
                content: .mapping(pairs.map { ($0.key, filled($0.value, value)) }), start: node.start, end: node.end)
        case (.oneOf(let shapes, _), _): return shapes.first { $0.admits(node) }.map { filled(node, $0) } ?? node
        default: return node
        }
    }

    private func filled(_ node: Node, _ keys: [Key]) -> Node {
        var pairs = node.pairs.map { key, value in
            (key: key, value: keys.first { $0.name == key.text }.map { filled(value, $0.shape) } ?? value)
        }
        for key in keys where node[key.name] == nil {
            if let fallback = key.fallback {
                pairs.append((Node(.string(key.name)), Node(fallback)))
            } else if key.standing == .effective || key.standing == .later,
                case .record(let inner, oneOf: []) = key.shape, !inner.contains(where: \.isRequired)
            {
                // What holds although nobody wrote it; a mapping that something has to be written in is not there.
                let defaults = filled(Node(.mapping([])), inner)
                if !defaults.pairs.isEmpty { pairs.append((Node(.string(key.name)), defaults)) }
            }
        }
        return Node(content: .mapping(pairs), start: node.start, end: node.end)
    }

    private func replacing(_ node: Node, _ key: String, _ change: (Node) -> Node) -> Node {
        Node(
            content: .mapping(node.pairs.map { ($0.key, $0.key.text == key ? change($0.value) : $0.value) }),
            start: node.start, end: node.end)
    }

    private func adding(_ node: Node, _ key: String, _ value: Node, first: Bool) -> Node {
        let pair = (key: Node(.string(key)), value: value)
        return Node(
            content: .mapping(first ? [pair] + node.pairs : node.pairs + [pair]), start: node.start, end: node.end)
    }

    /// Scalars and empty collections as `{value, origin}`.
    private func withOrigins(_ node: Node) -> Node {
        switch node.content {
        case .mapping(let pairs) where !pairs.isEmpty:
            return Node(.mapping(pairs.map { ($0.key, withOrigins($0.value)) }))
        case .sequence(let items) where !items.isEmpty: return Node(.sequence(items.map(withOrigins)))
        default: return Node(pairs: [("value", node), ("origin", Node(.string(origin(node))))])
        }
    }
}
