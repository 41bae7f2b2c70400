/// # Theory of operation
///
/// A mapping is decoded by a table: each known key with the closure that takes its value. What is not in the table is an
/// unknown key: a warning with the nearest known one, and the rest still counts. Wrong types are errors. Nothing is
/// thrown: every value either reaches the model or leaves a diagnostic, and all of them are found in one go.
final class ConfigurationDecoder {
    private(set) var diagnostics: [Diagnostic] = []
    typealias Keys = [(name: String, take: (Node, String) -> Void)]

    func decode(_ bytes: [UInt8]) -> WorkspaceConfiguration {
        var configuration = WorkspaceConfiguration()
        let document: (root: Node?, second: Mark?)
        do throws(YAMLError) { document = try YAMLReader.read(bytes) } catch {
            report(.error, error.code, error.mark, "", error.message)
            return configuration
        }
        if let second = document.second {
            report(.warning, .severalDocuments, second, "", "only the first document of the file counts")
        }
        guard let root = document.root, root.value != .null else { return configuration }
        decodeRoot(root, &configuration)
        checkReferences(configuration)
        return configuration
    }

    func report(
        _ severity: Diagnostic.Severity, _ code: DiagnosticCode, _ mark: Mark, _ path: String, _ message: String
    ) {
        diagnostics.append(Diagnostic(severity: severity, code: code, mark: mark, path: path, message: message))
    }

    // MARK: the Gitpod schema

    private func decodeRoot(_ root: Node, _ configuration: inout WorkspaceConfiguration) {
        var c = configuration
        do {
            var keys: Keys = []
            keys.append(("tasks", { node, path in c.tasks = self.list(node, path) { self.task($0, $1) } }))
            keys.append(("ports", { node, path in c.ports = self.list(node, path) { self.port($0, $1) } }))
            keys.append(("env", { node, path in c.environment = self.variables(node, path) }))
            keys.append(("experimentalNetwork", { node, path in c.experimentalNetwork = self.boolean(node, path) }))
            keys.append(("checkoutLocation", { node, path in c.checkoutLocation = self.relativePath(node, path) }))
            keys.append(("workspaceLocation", { node, path in c.workspaceLocation = self.relativePath(node, path) }))
            keys.append(("coreDump", { node, path in c.coreDump = self.coreDump(node, path) }))
            keys.append(("gitConfig", { node, path in c.gitConfig = self.variables(node, path) }))
            keys.append(("image", { node, path in self.image(node, path) }))
            keys.append(("github", { node, path in self.foreign(node, path, deprecated: true) }))
            keys.append(("vscode", { node, path in self.foreign(node, path) }))
            keys.append(("jetbrains", { node, path in self.foreign(node, path) }))
            keys.append(
                (
                    "additionalRepositories",
                    { node, path in _ = self.list(node, path) { n, p in self.repository(n, p) } }
                ))
            keys.append(("mainConfiguration", { node, path in _ = self.string(node, path) }))
            keys.append(("workspacekit", { node, path in self.workspacekit(node, path, &c) }))
            self.mapping(root, "", keys)
        }
        configuration = c
    }

    private func task(_ node: Node, _ path: String) -> TaskSpec? {
        var task = TaskSpec(mark: node.start)
        let isMapping = mapping(
            node, path,
            [
                ("name", { task.name = self.string($0, $1) }), ("before", { task.before = self.string($0, $1) }),
                ("init", { task.initialize = self.string($0, $1) }),
                ("prebuild", { task.prebuild = self.string($0, $1) }),
                ("command", { task.command = self.string($0, $1) }),
                ("env", { task.environment = self.variables($0, $1) }),
                ("openIn", { _ = self.choice($0, $1, ["bottom", "main", "left", "right"]) }),
                (
                    "openMode",
                    {
                        _ = self.choice(
                            $0, $1,
                            ["split-left", "split-right", "tab-before", "tab-after", "split-top", "split-bottom"])
                    }
                ),
            ])
        return isMapping ? task : nil
    }

    private func port(_ node: Node, _ path: String) -> PortSpec? {
        var spec: PortSpec?
        var name: String?
        var description: String?
        var onOpen: String?
        var visibility: String?
        var networkProtocol: String?
        var sawPort = false
        let openings = ["open-browser", "open-preview", "notify", "ignore", "ignore-completely"]
        mapping(
            node, path,
            [
                (
                    "port",
                    {
                        sawPort = true
                        spec = self.portRange($0, $1).map { PortSpec(ports: $0, mark: node.start) }
                    }
                ), ("name", { name = self.string($0, $1) }), ("description", { description = self.string($0, $1) }),
                ("onOpen", { onOpen = self.choice($0, $1, openings) }),
                ("visibility", { visibility = self.choice($0, $1, ["private", "public"]) }),
                ("protocol", { networkProtocol = self.choice($0, $1, ["http", "https"]) }),
            ])
        if !sawPort, case .mapping = node.content {
            report(.error, .missingKey, node.start, path, "\"port\" is missing")
        }
        spec?.name = name
        spec?.description = description
        spec?.onOpen = onOpen
        spec?.visibility = visibility
        spec?.networkProtocol = networkProtocol
        return spec
    }

    private func portRange(_ node: Node, _ path: String) -> ClosedRange<UInt16>? {
        let text = scalarText(node)
        let parts = text.split(omittingEmptySubsequences: false) { $0 == "-" || $0 == ":" }
        let numbers = parts.compactMap { UInt16($0) }.filter { $0 > 0 }
        guard case .scalar = node.content, numbers.count == parts.count, (1...2).contains(numbers.count),
            let first = numbers.first, let last = numbers.last, first <= last
        else {
            report(
                .error, .badValue, node.start, path,
                "expected a port number from 1 to 65535 or a range such as \"3000-3010\", found "
                    + (text.isEmpty ? node.kind : "\"\(text)\""))
            return nil
        }
        return first...last
    }

    private func coreDump(_ node: Node, _ path: String) -> CoreDumpSpec? {
        var spec = CoreDumpSpec(isEnabled: false, softLimit: 1 << 30, hardLimit: 1 << 30)
        mapping(
            node, path,
            [
                ("enabled", { spec.isEnabled = self.boolean($0, $1) ?? false }),
                ("softLimit", { if let n = self.integer($0, $1, 0...Int.max) { spec.softLimit = UInt64(n) } }),
                ("hardLimit", { if let n = self.integer($0, $1, 0...Int.max) { spec.hardLimit = UInt64(n) } }),
            ])
        return spec
    }

    private func image(_ node: Node, _ path: String) {
        if case .scalar = node.content { return _ = string(node, path) }
        mapping(
            node, path,
            [("file", { _ = self.string($0, $1) }), ("context", { _ = self.string($0, $1) })])
    }

    private func repository(_ node: Node, _ path: String) -> Bool? {
        mapping(
            node, path,
            [("url", { _ = self.string($0, $1) }), ("checkoutLocation", { _ = self.string($0, $1) })])
    }

    /// Keys that speak to other tools: a mapping, not looked into further.
    private func foreign(_ node: Node, _ path: String, deprecated: Bool = false) {
        if deprecated { report(.warning, .deprecated, node.start, path, "deprecated, without effect here") }
        guard case .mapping = node.content else { return wrongType(node, path, "a mapping") }
    }

    // MARK: ours

    private func workspacekit(_ node: Node, _ path: String, _ configuration: inout WorkspaceConfiguration) {
        var c = configuration
        mapping(
            node, path,
            [
                ("network", { c.network = self.network($0, $1) }),
                (
                    "user",
                    {
                        c.user = self.string($0, $1)
                        c.userMark = $0.start
                    }
                ),
                ("services", { c.services = self.services($0, $1) }), ("tasks", { self.later($0, $1) }),
                (
                    "shutdown",
                    { node, path in self.mapping(node, path, [("grace", { c.stopGrace = self.duration($0, $1) })]) }
                ),
            ])
        configuration = c
    }

    /// A key that is known but has no effect yet.
    private func later(_ node: Node, _ path: String) {
        report(.warning, .withoutEffect, node.start, path, "known, but without effect in this version")
    }

    private func network(_ node: Node, _ path: String) -> NetworkSpec {
        var spec = NetworkSpec()
        var keys: Keys = [
            ("mode", { spec.mode = self.choice($0, $1, ["sandbox", "host", "none"]) }),
            ("mtu", { spec.mtu = self.integer($0, $1, 1280...65521) }),
            ("gso", { spec.gso = self.boolean($0, $1) }), ("ipv6", { spec.ipv6 = self.boolean($0, $1) }),
            ("cidr", { spec.cidr = self.cidr($0, $1) }),
            ("hostLoopback", { spec.hostLoopback = self.list($0, $1) { self.portAndProtocol($0, $1) } }),
        ]
        for name in ["addresses", "link", "bypass", "dns", "egress", "forwards"] {
            keys.append((name, { self.later($0, $1) }))
        }
        mapping(node, path, keys)
        return spec
    }

    private func cidr(_ node: Node, _ path: String) -> String? {
        guard let text = string(node, path) else { return nil }
        let parts = text.split(separator: "/")
        let octets = parts.first?.split(separator: ".", omittingEmptySubsequences: false).compactMap { UInt8($0) } ?? []
        guard parts.count == 2, octets.count == 4, let length = Int(parts[1]), (8...25).contains(length) else {
            report(
                .error, .badValue, node.start, path,
                "expected an IPv4 network of /8 to /25 such as 10.0.2.0/24, found \"\(text)\"")
            return nil
        }
        return text
    }

    private func portAndProtocol(_ node: Node, _ path: String) -> PortAndProtocol? {
        let text = scalarText(node)
        let parts = text.split(separator: "/", omittingEmptySubsequences: false)
        guard let port = parts.first.flatMap({ UInt16($0) }), port > 0, parts.count <= 2,
            parts.count == 1 || parts[1] == "tcp" || parts[1] == "udp"
        else {
            report(.error, .badValue, node.start, path, "expected a port such as 5432/tcp, found \"\(text)\"")
            return nil
        }
        return PortAndProtocol(port: port, isUDP: parts.count == 2 && parts[1] == "udp")
    }

    private func services(_ node: Node, _ path: String) -> [ServiceSpec] {
        guard case .mapping(let pairs) = node.content else {
            wrongType(node, path, "a mapping")
            return []
        }
        var services: [ServiceSpec] = []
        for (key, value) in merged(pairs, path) {
            let name = scalarText(key)
            let isName =
                !name.isEmpty
                && name.utf8.allSatisfy { byte in
                    (48...57).contains(byte) || (65...90).contains(byte) || (97...122).contains(byte)
                        || [45, 46, 95].contains(byte)
                }
            guard isName else {
                report(
                    .error, .badValue, key.start, path,
                    "a service's name has letters, digits, \"-\", \"_\" and \".\" only")
                continue
            }
            if let spec = service(name, value, "\(path).\(name)") { services.append(spec) }
        }
        return services
    }

    private func service(_ name: String, _ node: Node, _ path: String) -> ServiceSpec? {
        var spec = ServiceSpec(name: name, command: [], mark: node.start)
        var sawCommand = false
        var keys: Keys = [
            (
                "command",
                {
                    sawCommand = true
                    spec.command = self.command($0, $1)
                }
            ), ("restart", { if let policy = self.restart($0, $1) { spec.restart = policy } }),
            ("environment", { spec.environment = self.variables($0, $1) }),
            (
                "user",
                {
                    spec.user = self.string($0, $1)
                    spec.userMark = $0.start
                }
            ),
            ("working_dir", { spec.workingDirectory = self.string($0, $1) }),
            ("requires", { spec.requires = self.strings($0, $1) }),
            (
                "stop_signal",
                {
                    spec.stopSignal = self.signalName($0, $1)
                    spec.stopSignalMark = $0.start
                }
            ),
            ("stop_grace_period", { spec.stopGrace = self.duration($0, $1) }),
            ("essential", { spec.isEssential = self.boolean($0, $1) ?? false }),
        ]
        for later in [
            "env_file", "depends_on", "healthcheck", "ready", "listen", "ulimits", "oom_score_adj", "tty", "logging",
        ] {
            keys.append((later, { self.later($0, $1) }))
        }
        guard mapping(node, path, keys) else { return nil }
        if !sawCommand {
            report(.error, .missingKey, node.start, path, "\"command\" is missing")
            return nil
        }
        return spec.command.isEmpty ? nil : spec
    }

    private func command(_ node: Node, _ path: String) -> [String] {
        if case .sequence = node.content { return strings(node, path) }
        guard let text = string(node, path) else { return [] }
        guard let words = splitWords(text), !words.isEmpty else {
            report(.error, .badValue, node.start, path, text.isEmpty ? "the command is empty" : "a quote is not closed")
            return []
        }
        return words
    }

    private func restart(_ node: Node, _ path: String) -> RestartPolicy? {
        if node.value == .boolean(false) { return .no }
        guard let text = string(node, path) else { return nil }
        switch text {
        case "no": return .no
        case "always": return .always
        case "unless-stopped": return .unlessStopped
        case "on-failure": return .onFailure(limit: 8)
        case _ where text.hasPrefix("on-failure:"):
            if let limit = Int(text.dropFirst(11)), limit > 0 { return .onFailure(limit: limit) }
            fallthrough
        default:
            report(
                .error, .badValue, node.start, path,
                "expected no, always, on-failure[:max] or unless-stopped, found \"\(text)\"")
            return nil
        }
    }

    private func signalName(_ node: Node, _ path: String) -> String? {
        guard case .scalar(let text, _) = node.content, !text.isEmpty else {
            wrongType(node, path, "a signal such as SIGTERM")
            return nil
        }
        return text
    }

    /// Names that stand twice.
    private func checkReferences(_ configuration: WorkspaceConfiguration) {
        var names: Set<String> = []
        for (index, task) in configuration.tasks.enumerated() {
            guard let name = task.name else { continue }
            if !names.insert(name).inserted {
                report(
                    .warning, .duplicateName, task.mark, "tasks[\(index)].name",
                    "another task is called \"\(name)\" too")
            }
        }
        for service in configuration.services where names.contains(service.name) {
            report(
                .error, .duplicateName, service.mark, "workspacekit.services.\(service.name)",
                "a task is called \"\(service.name)\" too")
        }
        var seen: [ClosedRange<UInt16>: Int] = [:]
        for (index, port) in configuration.ports.enumerated() {
            if let first = seen[port.ports] {
                report(
                    .warning, .duplicateName, port.mark, "ports[\(index)]", "the same as ports[\(first)], which counts")
            } else {
                seen[port.ports] = index
            }
        }
    }
}
