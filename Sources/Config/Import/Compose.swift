/// compose.yaml: services that say which command they run become services of the workspace.
extension Importer {
    func compose(_ root: Node) {
        take(
            root, "",
            [
                "services": { node, path in
                    for (key, value) in node.pairs { self.composeService(key, value, join(path, scalarText(key))) }
                }
            ],
            without: [
                "volumes": "services share the workspace's files", "networks": "services share the workspace's network",
                "secrets": "services read the workspace's files", "configs": "services read the workspace's files",
                "include": "import each file by itself",
            ], ignoring: ["name", "version"])
        dropLostDependencies()
    }

    private func composeService(_ key: Node, _ node: Node, _ path: String) {
        let name = scalarText(key)
        guard let command = composeCommand(node, path), Format.name.problem(with: name) == nil else {
            return lost(key, path, "it has no \"command\": what its image runs is not known")
        }
        var pairs: [(String, Node)] = [("command", command)]
        func same(_ node: Node, _ path: String) {
            // A value that is known outside only is left out: what is written must hold.
            guard let value = expanded(node, path, isKept: false) else { return }
            pairs.append((path.split(separator: ".").last.map(String.init) ?? "", value))
        }
        // Variables are put in here too, when the service starts: what Compose would put in stays, in the form with braces.
        func interpolated(_ node: Node, _ path: String) {
            pairs.append((path.split(separator: ".").last.map(String.init) ?? "", braced(node)))
        }
        let container = "services share the workspace's container"
        take(
            node, path,
            [
                "command": { _, _ in }, "entrypoint": { _, _ in }, "environment": interpolated,
                "working_dir": interpolated,
                "user": same,
                "stop_signal": same, "stop_grace_period": same, "ulimits": same, "oom_score_adj": same, "tty": same,
                "restart": same,
                "pre_stop": { value, path in self.composeHooks(value, path) { pairs.append(("pre_stop", $0)) } },
                "mem_limit": same, "cpus": same, "pids_limit": same,
                "deploy": { value, path in self.composeLimits(value, path) { pairs += $0 } },
                "env_file": { value, path in self.composeFiles(value, path, same) },
                "healthcheck": { value, path in
                    self.composeHealthcheck(value, path) { pairs.append(("healthcheck", $0)) }
                },
                "depends_on": { value, path in pairs.append(("depends_on", self.composeDependencies(value, path))) },
                "ports": { value, path in self.composePorts(value, path) },
                "expose": { value, path in
                    for item in value.items {
                        if let range = item.text.flatMap({ parsePortRange($0) }) { self.declare(range) }
                    }
                },
                "logging": { value, path in
                    self.take(
                        value, path,
                        [
                            "options": { options, path in
                                let kept = options.pairs.filter {
                                    ["max-size", "max-file"].contains(scalarText($0.key))
                                }
                                let plain = kept.map { key, value in
                                    (
                                        key: key,
                                        value: scalarText(key) == "max-file"
                                            ? Node(.scalar(scalarText(value), isPlain: true)) : value
                                    )
                                }
                                if !plain.isEmpty { pairs.append(("logging", Node(.mapping(plain)))) }
                            }
                        ], without: ["driver": "logs are files"])
                },
            ],
            without: [
                "image": "its command runs in the workspace: install \"\(scalarText(node["image"] ?? node))\" there",
                "build": "its command runs in the workspace", "volumes": "services share the workspace's files",
                "networks": "services share the workspace's network", "privileged": container,
                "cap_add": container, "cap_drop": container, "security_opt": container, "devices": container,
                "network_mode": "services share the workspace's network", "profiles": "all services start",
                "extra_hosts": "write them to /etc/hosts in a task", "dns": "see workspacekit.network.dns",
                "hostname": container,
            ], ignoring: ["container_name", "init", "stdin_open", "platform", "pull_policy"])
        services.append((name, Node(pairs: pairs)))
    }

    /// `entrypoint` before `command`, as a container has them.
    private func composeCommand(_ node: Node, _ path: String) -> Node? {
        func words(_ key: String) -> [String]? {
            guard let node = node[key], !node.isNull else { return nil }
            return node.text.map { splitWords($0) ?? [$0] } ?? node.texts
        }
        let entrypoint = words("entrypoint")
        guard entrypoint != nil || words("command") != nil else { return nil }
        let all = (entrypoint ?? []) + (words("command") ?? [])
        // A shell finds the variables in its environment, with Compose's words for defaults.
        let isForShell = all.count >= 3 && all[1] == "-c" && ["sh", "bash", "dash", "ash"].contains(baseName(all[0]))
        func value(_ node: Node, _ key: String) -> Node {
            isForShell ? unescaped(node) : expanded(node, join(path, key))
        }
        if entrypoint == nil, let text = node["command"], text.text?.isEmpty == false { return value(text, "command") }
        let parts = ["entrypoint", "command"].flatMap { key -> [Node] in
            guard let node = node[key], !node.isNull else { return [] }
            guard let text = node.text else { return value(node, key).items }
            return (splitWords(text) ?? [text]).map { word in
                value(Node(content: .scalar(word, isPlain: false), start: node.start, end: node.end), key)
            }
        }
        return parts.isEmpty ? nil : Node(.sequence(parts))
    }

    private func baseName(_ path: String) -> String { path.split(separator: "/").last.map(String.init) ?? path }

    /// The texts of a value, changed.
    private func mapped(_ node: Node, _ path: String, _ change: (String, Node, String) -> String) -> Node {
        switch node.content {
        case .scalar(let text, let isPlain):
            guard text.contains("$") else { return node }
            let changed = change(text, node, path)
            return Node(content: .scalar(changed, isPlain: isPlain), start: node.start, end: node.end)
        case .sequence(let items):
            return Node(.sequence(items.enumerated().map { mapped($1, "\(path)[\($0)]", change) }))
        case .mapping(let pairs):
            return Node(.mapping(pairs.map { ($0.key, mapped($0.value, join(path, scalarText($0.key)), change)) }))
        }
    }

    /// Compose writes a dollar sign as two.
    private func unescaped(_ node: Node) -> Node {
        mapped(node, "") { text, _, _ in
            InterpolationPart.parts(of: text).map { part in
                switch part {
                case .text(let text), .malformed(let text): text
                case .dollar: "$"
                case .expression(let expression): "${\(expression.name)\(expression.sign)\(expression.word)}"
                }
            }.joined()
        }
    }

    /// Where nothing is put in later: a variable's default, which Compose takes where it is not set.
    private func expanded(_ node: Node, _ path: String) -> Node { expanded(node, path, isKept: true) ?? node }

    /// Nil where a variable has no default and such texts are not kept.
    private func expanded(_ node: Node, _ path: String, isKept: Bool) -> Node? {
        var isComplete = true
        let result = mapped(node, path) { text, node, path in
            var names: [String] = []
            var hasAll = true
            let result = composed(text).map { part -> String in
                switch part {
                case .text(let text), .malformed(let text): return text
                case .dollar: return "$"
                case .expression(let expression):
                    names.append(expression.name)
                    if case .success(let value) = expression.evaluate({ _ in nil }), expression.sign.hasSuffix("-") {
                        return value
                    }
                    hasAll = false
                    return "${\(expression.name)}"
                }
            }.joined()
            let list = names.map { "${\($0)}" }.joined(separator: ", ")
            if !names.isEmpty, hasAll {
                note(node, path, "\(list) is not expanded here: the default is used")
            } else if !names.isEmpty {
                lost(node, path, "\(list) is not expanded here: write the value itself")
            }
            isComplete = isComplete && hasAll
            return result
        }
        return isComplete || isKept ? result : nil
    }

    /// Compose puts in `$NAME` as `${NAME}`.
    private func composed(_ text: String) -> [InterpolationPart] {
        InterpolationPart.parts(of: withBraces(text))
    }

    private func braced(_ node: Node) -> Node { mapped(node, "") { text, _, _ in withBraces(text) } }

    private func withBraces(_ text: String) -> String {
        var out = ""
        var rest = text[...]
        while let dollar = rest.firstIndex(of: "$") {
            out += rest[...dollar]
            rest = rest[rest.index(after: dollar)...]
            if rest.first == "$" {
                out += "$"
                rest = rest.dropFirst()
                continue
            }
            let name = rest.prefix { $0.isASCII && ($0.isLetter || $0.isNumber || $0 == "_") }
            guard let first = name.first, !first.isNumber else { continue }
            out += "{\(name)}"
            rest = rest[name.endIndex...]
        }
        return out + rest
    }

    private func composeFiles(_ node: Node, _ path: String, _ same: (Node, String) -> Void) {
        for item in node.items where item["format"] != nil {
            lost(item, path, "files are read in Compose's usual format")
        }
        guard case .sequence(let items) = node.content else { return same(node, path) }
        let files = items.map { item in
            let kept = item.pairs.filter { ["path", "required"].contains(scalarText($0.key)) }
            return kept.count > 1 ? Node(.mapping(kept)) : item["path"] ?? item
        }
        same(Node(.sequence(files)), path)
    }

    private func composeHealthcheck(_ node: Node, _ path: String, _ add: (Node) -> Void) {
        let isOff = node["disable"]?.flag == true || node["test"]?.texts == ["NONE"]
        if isOff { return }
        let kept = node.pairs.filter { pair in WorkspacekitKeys.healthcheck.contains { $0.name == scalarText(pair.key) }
        }
        guard node["test"] != nil else { return lost(node, path, "without \"test\" it is its image's") }
        // A probe of the shell's finds the variables in the service's environment.
        let isForShell = node["test"]?.text != nil || node["test"]?.texts.first == "CMD-SHELL"
        add(
            Node(
                .mapping(
                    kept.map { key, value in
                        let isTest = scalarText(key) == "test" && isForShell
                        return (key, isTest ? unescaped(value) : expanded(value, join(path, scalarText(key))))
                    })))
    }

    /// `deploy.resources.limits` are the same limits by other names.
    private func composeLimits(_ node: Node, _ path: String, _ add: ([(String, Node)]) -> Void) {
        let names = ["memory": "mem_limit", "cpus": "cpus", "pids": "pids_limit"]
        let limits = node["resources"]?["limits"]?.pairs ?? []
        add(limits.compactMap { key, value in names[scalarText(key)].map { ($0, value) } })
        let isAll =
            node.pairs.count == 1 && node["resources"]?.pairs.count == 1 && limits.count > 0
            && limits.allSatisfy { names[scalarText($0.key)] != nil }
        if !isAll { lost(node, path, "only its resources.limits (memory, cpus, pids) have a meaning here") }
    }

    private func composeHooks(_ node: Node, _ path: String, _ add: (Node) -> Void) {
        var hooks: [Node] = []
        for (index, item) in node.items.enumerated() {
            take(
                item, "\(path)[\(index)]",
                ["command": { value, path in hooks.append(Node(pairs: [("command", self.hookCommand(value, path))])) }],
                without: [
                    "user": "it runs as the service", "privileged": "services share the workspace's container",
                    "working_dir": "it runs where the service does", "environment": "it has the service's",
                ])
        }
        if !hooks.isEmpty { add(Node(.sequence(hooks))) }
    }

    private func hookCommand(_ node: Node, _ path: String) -> Node {
        let words = node.texts
        return words.count >= 3 && words[1] == "-c" ? unescaped(node) : expanded(node, path)
    }

    private func composeDependencies(_ node: Node, _ path: String) -> Node {
        guard case .mapping(let pairs) = node.content else { return node }
        return Node(
            .mapping(
                pairs.map { key, value in
                    var condition: [(String, Node)] = []
                    take(
                        value, join(path, scalarText(key)),
                        [
                            "condition": { node, _ in condition.append(("condition", node)) },
                            "required": { node, _ in condition.append(("required", node)) },
                        ],
                        without: [
                            "restart": "a restart of the one does not restart the other"
                        ])
                    return (key, Node(pairs: condition))
                }))
    }

    private func composePorts(_ node: Node, _ path: String) {
        for (index, item) in node.items.enumerated() {
            let place = "\(path)[\(index)]"
            var text = scalarText(expanded(item, place))
            if item.isMapping {
                let transport = item["protocol"]?.text.map { "/\($0)" } ?? ""
                let target = item["target"]?.text ?? ""
                let address = item["host_ip"]?.text.map { "\($0):" } ?? ""
                text = "\(address)\(item["published"]?.text ?? target):\(target)\(transport)"
            }
            guard let forward = ForwardSpec(text) else {
                lost(item, place, "\"\(text)\" is no forward")
                continue
            }
            if forward.outside == forward.inside, forward.transport == .tcp, forward.address == nil {
                declare(forward.inside)
            } else {
                forwards.append(Node(.string(text)))
            }
        }
    }

    private func declare(_ range: ClosedRange<UInt16>) {
        let port =
            range.count == 1
            ? Node(.integer(Int(range.lowerBound))) : Node(.string("\(range.lowerBound)-\(range.upperBound)"))
        guard !ports.contains(where: { $0["port"]?.text == port.text }) else { return }
        ports.append(Node(pairs: [("port", port)]))
    }

    /// What depends on a service that was left out would wait for ever; and `service_healthy` needs a healthcheck here.
    private func dropLostDependencies() {
        let names = Set(services.map(\.0))
        let healthy = Set(services.filter { $0.1["healthcheck"] != nil }.map(\.0))
        services = services.map { name, node in
            let pairs = node.pairs.compactMap { key, value -> (key: Node, value: Node)? in
                guard scalarText(key) == "depends_on" else { return (key, value) }
                let path = "services.\(name).depends_on"
                func isKept(_ entry: Node) -> Bool {
                    if names.contains(scalarText(entry)) { return true }
                    lost(entry, path, "the service \"\(scalarText(entry))\" was left out")
                    return false
                }
                if case .sequence(let items) = value.content {
                    let kept = items.filter(isKept)
                    return kept.isEmpty ? nil : (key, Node(.sequence(kept)))
                }
                let kept = value.pairs.filter { isKept($0.key) }.map { key, value -> (key: Node, value: Node) in
                    guard value["condition"]?.text == DependencySpec.Condition.healthy.rawValue,
                        !healthy.contains(scalarText(key))
                    else { return (key, value) }
                    lost(key, path, "\"\(scalarText(key))\" has no healthcheck here: its start is waited for")
                    let others = value.pairs.filter { $0.key.text != "condition" }
                    let started = Node(.string(DependencySpec.Condition.started.rawValue))
                    return (key, Node(.mapping([(Node(.string("condition")), started)] + others)))
                }
                return kept.isEmpty ? nil : (key, Node(.mapping(kept)))
            }
            return (name, Node(.mapping(pairs)))
        }
    }
}
