/// What no single value can tell: names that stand twice or nowhere, cycles, and pairs that exclude each other.
struct References {
    private let configuration: WorkspaceConfiguration
    private let document: Node
    private let checker: Checker

    init(_ configuration: WorkspaceConfiguration, _ document: Node, _ checker: Checker) {
        self.configuration = configuration
        self.document = document
        self.checker = checker
    }

    /// A unit as the graph sees it.
    private struct Unit {
        let name: String
        let path: String
        let options: UnitOptions
        let node: Node
    }

    func check() {
        checkNames()
        checkPorts()
        checkEgress()
        checkFilesystem()
        let units = units()
        for unit in units { checkOptions(unit) }
        checkDependencies(units)
    }

    /// All tasks with names and all services, each with the node of its options.
    private func units() -> [Unit] {
        let ours = document["workspacekit"]
        let services = configuration.services.compactMap { service in
            ours?["services"]?[service.name].map {
                Unit(
                    name: service.name, path: join("workspacekit.services", service.name), options: service.options,
                    node: $0)
            }
        }
        let tasks = (ours?["tasks"]?.pairs ?? []).compactMap { key, value -> Unit? in
            guard let name = key.text, let task = configuration.tasks.first(where: { $0.name == name }) else {
                return nil
            }
            return Unit(name: name, path: join("workspacekit.tasks", name), options: task.options, node: value)
        }
        return services + tasks
    }

    private func checkNames() {
        var names: Set<String> = []
        for (index, task) in configuration.tasks.enumerated() {
            guard let name = task.name, let node = document["tasks"]?.items[index]["name"] else { continue }
            if !names.insert(name).inserted {
                checker.report(
                    .warning, .duplicateName, node, "tasks[\(index)].name", "another task is called \"\(name)\" too")
            }
        }
        let ours = document["workspacekit"]
        for (key, _) in ours?["services"]?.pairs ?? [] where names.contains(key.text ?? "") {
            checker.report(
                .error, .duplicateName, key, join("workspacekit.services", key.text ?? ""),
                "a task is called \"\(key.text ?? "")\" too")
        }
        for (key, _) in ours?["tasks"]?.pairs ?? [] where !names.contains(key.text ?? "") {
            let name = key.text ?? ""
            let hint = nearest(to: name, in: names.sorted()).map { " (did you mean \"\($0)\"?)" } ?? ""
            checker.report(
                .error, .unknownReference, key, join("workspacekit.tasks", name), "no task is called \"\(name)\"\(hint)"
            )
        }
    }

    private func checkPorts() {
        let nodes = document["ports"]?.items ?? []
        var seen: [ClosedRange<UInt16>: Int] = [:]
        for (index, node) in nodes.enumerated() {
            guard let portNode = node["port"], let range = portNode.text.flatMap({ parsePortRange($0) }) else {
                continue
            }
            if let first = seen[range] {
                checker.report(
                    .warning, .duplicateName, portNode, "ports[\(index)]", "the same as ports[\(first)], which counts")
            } else {
                seen[range] = index
            }
        }
    }

    /// A policy that cannot be enforced is worse than none.
    private func checkEgress() {
        guard let network = document["workspacekit"]?["network"], let node = network["egress"] else { return }
        let egress = configuration.network.egress
        let count = egress.allowed.count + egress.denied.count
        if count > EgressSpec.ruleLimit {
            checker.report(
                .error, .tooLarge, node, "workspacekit.network.egress",
                "\(count) rules; at most \(EgressSpec.ruleLimit) are possible")
        }
        let isShared = network["mode"]?.text.map { $0 == "host" } ?? (configuration.experimentalNetwork == false)
        if isShared, !egress.isEmpty {
            checker.report(
                .error, .conflict, node, "workspacekit.network.egress",
                "cannot be enforced: the workspace shares the container's network")
        }
    }

    private func checkFilesystem() {
        let ours = document["workspacekit"]
        let path = "workspacekit.filesystem"
        if let old = ours?["writable"], ours?["filesystem"]?["writable"] != nil {
            checker.report(
                .error, .conflict, old, "workspacekit.writable", "only one of this and \(path).writable can hold")
        }
        if let node = ours?["filesystem"]?["root"], node.text == "shared", let policy = configuration.policy {
            checker.report(
                .error, .conflict, node, path + ".root",
                "cannot be shared with \(policy): root inside would replace programs that run outside of it, and reach sockets there (write private or read-only)"
            )
        }
        for node in ours?["filesystem"]?["hidden"]?.items ?? [] {
            let name = "/" + (node.text ?? "").split(separator: "/").joined(separator: "/")
            guard ["/", "/dev", "/proc", "/sys"].contains(name) else { continue }
            checker.report(
                .error, .badValue, node, path + ".hidden",
                "\(name) cannot be hidden: name the directories in it that are to be")
        }
    }

    /// Texts in which variables are put.
    private func checkExpressions(_ unit: Unit) {
        let environment = unit.node["environment"]?.pairs.map { ("environment." + scalarText($0.key), $0.value) } ?? []
        for (key, node) in environment + (unit.node["working_dir"].map { [("working_dir", $0)] } ?? []) {
            guard let expression = node.text.flatMap(malformedExpression) else { continue }
            let name = expression.dropFirst(2).prefix { $0.isASCII && ($0.isLetter || $0.isNumber || $0 == "_") }
            let example = "${\(name.first.map { !$0.isNumber } == true ? String(name) : "NAME")}"
            checker.report(
                .error, .badValue, node, "\(unit.path).\(key)",
                "\"\(expression)\" is no expression: write \"\(example)\" for a variable, or \"$${\" for the text \"${\""
            )
        }
    }

    private func checkOptions(_ unit: Unit) {
        checkExpressions(unit)
        if let test = unit.node["healthcheck"]?["test"], HealthcheckSpec.probe(test) == nil {
            checker.report(
                .error, .badValue, test, unit.path + ".healthcheck.test",
                "expected shell text, [CMD, PROGRAM, …] or [CMD-SHELL, TEXT]")
        }
        for (key, value) in unit.node["ulimits"]?.pairs ?? [] {
            guard let soft = value["soft"]?.number, let hard = value["hard"]?.number, hard >= 0, soft < 0 || soft > hard
            else { continue }
            checker.report(
                .error, .conflict, value, "\(unit.path).ulimits.\(key.text ?? "")", "soft is more than hard")
        }
    }

    private func checkDependencies(_ units: [Unit]) {
        let others = configuration.tasks.compactMap(\.name)
        let names = Set(units.map(\.name) + others)
        for unit in units {
            let nodes = unit.node["depends_on"].map { $0.items.isEmpty ? $0.pairs.map(\.key) : $0.items } ?? []
            for (dependency, node) in zip(unit.options.dependencies, nodes) {
                let path = unit.path + ".depends_on"
                guard names.contains(dependency.name) else {
                    let hint =
                        nearest(to: dependency.name, in: names.sorted()).map { " (did you mean \"\($0)\"?)" } ?? ""
                    checker.report(
                        .error, .unknownReference, node, path,
                        "no task or service is called \"\(dependency.name)\"\(hint)")
                    continue
                }
                let options = units.first { $0.name == dependency.name }?.options
                if dependency.condition == .healthy, options?.healthcheck == nil, options?.readiness == nil {
                    checker.report(
                        .error, .conflict, node, path,
                        "\"\(dependency.name)\" has neither \"healthcheck\" nor \"ready\": it would never be healthy")
                }
            }
        }
        checkCycles(units)
    }

    /// Depth first; each cycle is named once, from its first unit in file order.
    private func checkCycles(_ units: [Unit]) {
        let places = Dictionary(units.enumerated().map { ($1.name, $0) }, uniquingKeysWith: { a, _ in a })
        var isDone = [Bool](repeating: false, count: units.count)
        for start in units.indices where !isDone[start] {
            var trail: [(unit: Int, next: Int)] = [(start, 0)]
            while let (unit, next) = trail.last {
                let dependencies = units[unit].options.dependencies
                guard next < dependencies.count else {
                    isDone[unit] = true
                    trail.removeLast()
                    continue
                }
                trail[trail.count - 1].next += 1
                guard let place = places[dependencies[next].name], !isDone[place] else { continue }
                if let begin = trail.firstIndex(where: { $0.unit == place }) {
                    let names = (trail[begin...].map { units[$0.unit].name } + [units[place].name])
                    let node = units[unit].node["depends_on"] ?? units[unit].node
                    checker.report(
                        .error, .dependencyCycle, node, units[unit].path + ".depends_on",
                        "a dependency cycle: \(names.joined(separator: " → "))")
                } else {
                    trail.append((place, 0))
                }
            }
        }
    }
}
