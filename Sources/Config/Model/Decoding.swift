/// From the checked tree to the model: every value is there with its right form, or not at all, so nothing can fail.
extension WorkspaceConfiguration {
    init(decoding root: Node) {
        tasks = root["tasks"]?.items.map { TaskSpec(decoding: $0) } ?? []
        ports = root["ports"]?.items.compactMap { PortSpec(decoding: $0) } ?? []
        environment = root["env"].map(variables) ?? []
        experimentalNetwork = root["experimentalNetwork"]?.flag
        checkoutLocation = root["checkoutLocation"]?.text
        workspaceLocation = root["workspaceLocation"]?.text
        coreDump = root["coreDump"].map { CoreDumpSpec(decoding: $0) }
        gitConfig = root["gitConfig"].map(variables) ?? []
        guard let ours = root["workspacekit"] else { return }
        network = ours["network"].map { NetworkSpec(decoding: $0) } ?? NetworkSpec()
        user = ours["user"].map { UserSpec(decoding: $0) }
        services =
            ours["services"]?.pairs.map { ServiceSpec(name: $0.key.text ?? "", decoding: $0.value, $0.key) } ?? []
        stopGrace = ours["shutdown"]?["grace"]?.duration
        filesystem.root = ours["filesystem"]?["root"]?.text
        filesystem.writable = (ours["filesystem"]?["writable"] ?? ours["writable"])?.texts ?? []
        filesystem.hidden = ours["filesystem"]?["hidden"]?.texts ?? []
        for (key, value) in ours["tasks"]?.pairs ?? [] {
            guard let index = tasks.firstIndex(where: { $0.name == key.text }) else { continue }
            tasks[index].options = UnitOptions(decoding: value)
        }
    }
}

extension Node {
    var flag: Bool? {
        if case .boolean(let on)? = value { return on }
        return nil
    }
    var number: Int? {
        if case .integer(let number)? = value { return number }
        return nil
    }
    var duration: Duration? { text.flatMap(parseDuration) }
    /// One text, or a list of them.
    var texts: [String] { text.map { [$0] } ?? items.compactMap(\.text) }
}

/// Structured values become JSON, as Gitpod did; scalars stay the text they are.
private func variables(_ node: Node) -> [EnvironmentVariable] {
    node.pairs.map { key, value in
        EnvironmentVariable(
            name: key.text ?? "", value: value.isNull ? "null" : value.text ?? jsonText(value))
    }
}

extension UserSpec {
    init(decoding node: Node) { self.init(name: node.text ?? "", mark: node.start) }
}

extension TaskSpec {
    init(decoding node: Node) {
        self.init(mark: node.start)
        name = node["name"]?.text
        before = node["before"]?.text
        initialize = node["init"]?.text
        prebuild = node["prebuild"]?.text
        command = node["command"]?.text
        environment = node["env"].map(variables) ?? []
    }
}

extension PortSpec {
    init?(decoding node: Node) {
        guard let ports = node["port"]?.text.flatMap({ parsePortRange($0) }) else { return nil }
        self.init(ports: ports, mark: node.start)
        name = node["name"]?.text
        description = node["description"]?.text
        onOpen = node["onOpen"]?.text
        visibility = node["visibility"]?.text
        networkProtocol = node["protocol"]?.text
    }
}

extension CoreDumpSpec {
    init(decoding node: Node) {
        isEnabled = node["enabled"]?.flag ?? false
        softLimit = node["softLimit"]?.number.map { UInt64($0) } ?? 1 << 30
        hardLimit = node["hardLimit"]?.number.map { UInt64($0) } ?? 1 << 30
    }
}

extension NetworkSpec {
    init(decoding node: Node) {
        mode = node["mode"]?.text
        mtu = node["mtu"]?.number
        gso = node["gso"]?.flag
        ipv6 = node["ipv6"]?.flag
        addresses = node["addresses"]?.text
        cidr = node["cidr"]?.text.flatMap { $0 == "auto" ? nil : $0 }
        link = node["link"]?.text
        bypass = node["bypass"]?.flag
        hostLoopback = node["hostLoopback"]?.texts.compactMap { PortAndProtocol($0) } ?? []
        nameServers = node["dns"]?["servers"]?.texts ?? []
        searchDomains = node["dns"]?["search"]?.texts ?? []
        egress.isAllowedByDefault = node["egress"]?["default"]?.text.map { $0 == "allow" }
        egress.allowed = node["egress"]?["allow"]?.texts.compactMap { EgressRule($0) } ?? []
        egress.denied = node["egress"]?["deny"]?.texts.compactMap { EgressRule($0) } ?? []
        forwards = node["forwards"]?.texts.compactMap { ForwardSpec($0) } ?? []
    }
}

extension ServiceSpec {
    init(name: String, decoding node: Node, _ key: Node) {
        let command = node["command"].map { $0.text.flatMap(splitWords) ?? $0.texts } ?? []
        self.init(name: name, command: command, mark: key.start)
        let own = node["environment"]?.pairs ?? []
        environment = variables(Node(.mapping(own.filter { !$0.value.isNull })))
        inheritedVariables = own.filter(\.value.isNull).compactMap(\.key.text)
        requires = node["requires"]?.texts ?? []
        listeners = node["listen"]?.items.compactMap { ListenerSpec(decoding: $0) } ?? []
        options = UnitOptions(decoding: node)
    }
}

extension ListenerSpec {
    init?(decoding node: Node) {
        guard node.text == nil else {
            self.init(node.text ?? "")
            return
        }
        guard let path = node["path"]?.text else { return nil }
        self = .local(
            path: path,
            SocketAccess(mode: node["mode"]?.text.flatMap(parseMask), group: node["group"]?.text))
    }
}

extension UnitOptions {
    init(decoding node: Node) {
        restart = node["restart"]?.text.flatMap { RestartPolicy($0) }
        user = node["user"].map { UserSpec(decoding: $0) }
        workingDirectory = node["working_dir"]?.text
        environmentFiles = node["env_file"].map(Self.environmentFiles) ?? []
        if let mark = node["env_file"]?.start { environmentFilesMark = mark }
        dependencies = node["depends_on"].map(Self.dependencies) ?? []
        healthcheck = node["healthcheck"].flatMap { HealthcheckSpec(decoding: $0) }
        readiness = node["ready"].flatMap { ReadinessSpec(decoding: $0) }
        if readiness == .systemdNotification { watchdog = node["ready"]?["watchdog"]?.duration }
        readyTimeout = node["ready"]?["timeout"]?.duration
        successCodes = Set(
            (node["success_exit_codes"]?.items ?? []).compactMap { $0.number.flatMap { UInt8(exactly: $0) } })
        preStop = node["pre_stop"].map(Self.hooks) ?? []
        stopSignal = node["stop_signal"]?.text
        stopGrace = node["stop_grace_period"]?.duration
        limits = node["ulimits"]?.pairs.compactMap { ResourceLimit(name: $0.key.text ?? "", decoding: $0.value) } ?? []
        outOfMemoryAdjustment = node["oom_score_adj"]?.number
        memoryLimit = node["mem_limit"]?.text.flatMap(parseSize)
        processorLimit = node["cpus"]?.text.flatMap(parseProcessors)
        processLimit = node["pids_limit"]?.number
        killMode = node["kill_mode"]?.text.flatMap { KillMode(rawValue: $0) } ?? .controlGroup
        nice = node["nice"]?.number
        fileMask = node["umask"]?.text.flatMap(parseMask)
        isEssential = node["essential"]?.flag ?? false
        hasTerminal = node["tty"]?.flag ?? false
        logSize = node["logging"]?["max-size"]?.text.flatMap(parseSize)
        logFiles = node["logging"]?["max-file"]?.number
    }

    private static func dependencies(_ node: Node) -> [DependencySpec] {
        if case .sequence(let items) = node.content {
            return items.map { DependencySpec(name: $0.text ?? "", condition: .started, mark: $0.start) }
        }
        return node.pairs.map { key, value in
            let condition = value["condition"]?.text.flatMap { DependencySpec.Condition(rawValue: $0) }
            return DependencySpec(
                name: key.text ?? "", condition: condition ?? .started, isRequired: value["required"]?.flag ?? true,
                mark: key.start)
        }
    }

    private static func environmentFiles(_ node: Node) -> [EnvironmentFileSpec] {
        (node.text == nil ? node.items : [node]).map { item in
            EnvironmentFileSpec(
                path: item.text ?? item["path"]?.text ?? "", isRequired: item["required"]?.flag ?? true)
        }
    }

    private static func hooks(_ node: Node) -> [[String]] {
        if let text = node.text { return splitWords(text).map { [$0] } ?? [] }
        return node.items.compactMap { item in
            item["command"].map { $0.text.flatMap(splitWords) ?? $0.texts }
        }.filter { !$0.isEmpty }
    }
}

extension HealthcheckSpec {
    init?(decoding node: Node) {
        if let port = node["port"]?.number.flatMap({ UInt16(exactly: $0) }) {
            self.init(probe: .port(port))
        } else if let url = node["http"]?.text {
            self.init(probe: .http(url))
        } else if let test = node["test"], let probe = Self.probe(test) {
            self.init(probe: probe)
        } else {
            return nil
        }
        interval = node["interval"]?.duration ?? interval
        timeout = node["timeout"]?.duration ?? timeout
        retries = node["retries"]?.number ?? retries
        startPeriod = node["start_period"]?.duration ?? startPeriod
        startInterval = node["start_interval"]?.duration ?? startInterval
    }

    /// Compose: a text is for the shell; a list says itself what it is.
    static func probe(_ test: Node) -> Probe? {
        if let text = test.text { return text.isEmpty ? nil : .shell(text) }
        let words = test.texts
        switch words.first {
        case "CMD" where words.count > 1: return .program(Array(words.dropFirst()))
        case "CMD-SHELL" where words.count == 2: return .shell(words[1])
        default: return nil
        }
    }
}

extension ReadinessSpec {
    init?(decoding node: Node) {
        if let expression = node["log"]?.text {
            self = .log(expression: expression)
        } else if let way = node["notify"]?.text {
            self = way == "fd" ? .newline : .systemdNotification
        } else {
            return nil
        }
    }
}

extension ResourceLimit {
    init?(name: String, decoding node: Node) {
        guard let resource = Resource(rawValue: name) else { return nil }
        func bytes(_ number: Int?) -> UInt64? { number.flatMap { UInt64(exactly: $0) } }
        self.init(
            resource: resource, soft: bytes(node.number ?? node["soft"]?.number),
            hard: bytes(node.number ?? node["hard"]?.number))
    }
}
