internal import TerminalText

/// Who waits for whom, as a configuration says it: for people and for Graphviz.
public struct DependencyGraph: Sendable {
    private struct Unit: Sendable {
        let name: String
        let isService: Bool
        let dependencies: [DependencySpec]
    }
    private let units: [Unit]

    /// The graph of a configuration.
    public init(_ configuration: WorkspaceConfiguration) {
        units =
            configuration.services.map {
                Unit(name: $0.name, isService: true, dependencies: $0.options.dependencies)
            }
            + configuration.tasks.enumerated().map { index, task in
                Unit(
                    name: task.name ?? "task-\(index + 1)", isService: false, dependencies: task.options.dependencies)
            }
    }

    /// In an order in which they may start.
    private var order: [Unit] {
        var shown: Set<String> = []
        var order: [Unit] = []
        // Each round takes at least one unit, or what is left waits for itself and is shown as it stands.
        while order.count < units.count {
            let next = units.filter { unit in
                !shown.contains(unit.name) && unit.dependencies.allSatisfy { shown.contains($0.name) }
            }
            let round = next.isEmpty ? units.filter { !shown.contains($0.name) } : next
            if round.isEmpty { break }
            order += round
            shown.formUnion(round.map(\.name))
        }
        return order
    }

    /// One unit a line, in an order in which they may start, with what each waits for.
    public var text: String {
        order.map { unit in
            let waits = unit.dependencies.map { "\($0.name) (\($0.condition.word))" }.joined(separator: ", ")
            return visibleText(
                "\(unit.isService ? "service" : "task") \(unit.name)\(waits.isEmpty ? "" : " after \(waits)")") + "\n"
        }.joined()
    }

    /// A list of units in an order in which they may start: `name`, `kind`, and `depends_on` as Compose writes it.
    public var json: String {
        jsonText(
            Node(
                .sequence(
                    order.map { unit in
                        let waits = unit.dependencies.map { dependency in
                            (
                                dependency.name,
                                Node(pairs: [("condition", Node(.string(dependency.condition.rawValue)))])
                            )
                        }
                        return Node(pairs: [
                            ("name", Node(.string(unit.name))),
                            ("kind", Node(.string(unit.isService ? "service" : "task"))),
                            ("depends_on", Node(pairs: waits)),
                        ])
                    })), indent: 2)
    }

    /// Graphviz's language: an arrow from who waits to what is waited for.
    public var dot: String {
        var out = "digraph workspace {\n  rankdir=LR;\n"
        for unit in units { out += "  \(jsonString(unit.name)) [shape=\(unit.isService ? "box" : "ellipse")];\n" }
        for unit in units {
            for dependency in unit.dependencies {
                out +=
                    "  \(jsonString(unit.name)) -> \(jsonString(dependency.name)) "
                    + "[label=\(jsonString(dependency.condition.word))];\n"
            }
        }
        return out + "}\n"
    }
}
