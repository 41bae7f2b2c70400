/// The JSON Schema (draft-07) of a `.gitpod.yml` for editors: Gitpod's keys and ours.
public enum JSONSchema {
    /// The schema as a text.
    public static var text: String {
        let head: [(String, Node)] = [
            ("$schema", Node(.string("http://json-schema.org/draft-07/schema#"))),
            ("title", Node(.string(".gitpod.yml as workspacekit reads it"))),
        ]
        let root = schema(.record(GitpodKeys.root))
        return jsonText(Node(.mapping(Node(pairs: head).pairs + root.pairs)), indent: 2)
    }

    private static func typed(_ type: String, _ more: [(String, Node)] = []) -> Node {
        Node(pairs: [("type", Node(.string(type)))] + more)
    }

    private static func list(_ texts: [String]) -> Node { Node(.sequence(texts.map { Node(.string($0)) })) }

    private static func schema(_ shape: Shape) -> Node {
        switch shape {
        case .anything: return Node(pairs: [])
        case .boolean: return typed("boolean")
        case .integer(let range):
            var more = [("minimum", Node(.integer(range.lowerBound)))]
            if range.upperBound != .max { more.append(("maximum", Node(.integer(range.upperBound)))) }
            return typed("integer", more)
        case .choice(let words, let retired): return Node(pairs: [("enum", list(words + retired))])
        case .text(let format): return text(format)
        case .list(let element): return typed("array", [("items", schema(element))])
        case .variables(let fromHost, _):
            let pattern = Node(.string(fromHost ? "^[^=\\s]+(=|$)" : "^[^=\\s]+="))
            let pairs = typed("array", [("items", typed("string", [("pattern", pattern)]))])
            return Node(pairs: [("anyOf", Node(.sequence([typed("object"), pairs])))])
        case .table(let names, let value):
            var more: [(String, Node)] = [("additionalProperties", schema(value))]
            if let pattern = names.pattern {
                more.append(("propertyNames", Node(pairs: [("pattern", Node(.string(pattern)))])))
            }
            return typed("object", more)
        case .oneOf(let shapes, _): return Node(pairs: [("anyOf", Node(.sequence(shapes.map(schema))))])
        case .record(let keys, let alternatives):
            var more: [(String, Node)] = [
                ("properties", Node(pairs: keys.map { ($0.name, property($0)) })),
                // As in Compose: a place for what anchors are made from.
                ("patternProperties", Node(pairs: [("^x-", Node(pairs: []))])),
                ("additionalProperties", Node(.boolean(false))),
            ]
            let required = keys.filter(\.isRequired).map(\.name)
            if !required.isEmpty { more.append(("required", list(required))) }
            if !alternatives.isEmpty {
                let each = alternatives.map { Node(pairs: [("required", list([$0]))]) }
                more.append(("oneOf", Node(.sequence(each))))
            }
            return typed("object", more)
        }
    }

    private static func text(_ format: Format) -> Node {
        let pattern = format.pattern.map { [("pattern", Node(.string($0)))] } ?? []
        switch format {
        case .restart:
            // YAML's way to write `no` without quotes in old files.
            return Node(pairs: [
                ("anyOf", Node(.sequence([typed("string", pattern), Node(pairs: [("const", Node(.boolean(false)))])])))
            ])
        case .processors: return Node(pairs: [("type", list(["string", "number"]))] + pattern)
        case _ where format.takesNumbers: return Node(pairs: [("type", list(["string", "integer"]))] + pattern)
        default: return typed("string", pattern)
        }
    }

    private static func property(_ key: Key) -> Node {
        var pairs: [(String, Node)] = [("description", Node(.string(plain(key.summary))))]
        if let fallback = key.fallback { pairs.append(("default", Node(fallback))) }
        if key.isDeprecated { pairs.append(("deprecated", Node(.boolean(true)))) }
        return Node(.mapping(Node(pairs: pairs).pairs + schema(key.shape).pairs))
    }

    private static func plain(_ summary: String) -> String { String(summary.filter { $0 != "`" }) }
}
