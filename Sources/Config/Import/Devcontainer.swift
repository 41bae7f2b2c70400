/// devcontainer.json: lifecycle commands, ports, environment, user.
extension Importer {
    func devcontainer(_ root: Node) {
        var once: [Node] = []
        var always: [Node] = []
        var attributes: [(key: Node, value: Node)] = []
        var containerUser: Node?
        let outside = "it describes the container, which is there before the workspace"
        take(
            root, "",
            [
                "image": { value, _ in self.image = value },
                "dockerFile": { value, _ in self.image = Node(pairs: [("file", value)]) },
                "build": { value, path in self.devcontainerBuild(value, path) },
                "onCreateCommand": { value, path in once.insert(contentsOf: self.lifecycle(value, path), at: 0) },
                "updateContentCommand": { value, path in once += self.lifecycle(value, path) },
                "postStartCommand": { value, path in always += self.lifecycle(value, path) },
                "forwardPorts": { value, path in
                    for (index, item) in value.items.enumerated() { self.devcontainerPort(item, "\(path)[\(index)]") }
                },
                "appPort": { value, path in
                    for item in value.text == nil ? value.items : [value] { self.devcontainerPort(item, path) }
                },
                "portsAttributes": { value, _ in attributes = value.pairs },
                "containerEnv": { value, path in self.devcontainerEnvironment(value, path) },
                "remoteEnv": { value, path in self.devcontainerEnvironment(value, path) },
                "remoteUser": { value, _ in self.user = value },
                "containerUser": { value, _ in containerUser = value },
                "customizations": { value, path in self.customizations(value, path) },
                // After the others, whatever its place in the file.
                "postCreateCommand": { _, _ in },
            ],
            without: [
                "initializeCommand": "it runs on the host", "postAttachCommand": "nothing here is told of an editor",
                "waitFor": "tasks start together", "features": "install what they bring in the image",
                "mounts": outside, "runArgs": outside, "privileged": outside, "capAdd": outside, "securityOpt": outside,
                "init": "workspacekit is the init", "overrideCommand": outside, "shutdownAction": outside,
                "hostRequirements": outside, "workspaceMount": outside,
                "workspaceFolder": "it is what \"run --workspace\" names",
                "dockerComposeFile": "import the compose file by itself",
                "service": "import the compose file by itself",
                "runServices": "import the compose file by itself",
                "otherPortsAttributes": "ports that are not declared are not forwarded",
                "userEnvProbe": "tasks run in a shell that is no login shell",
                "updateRemoteUserUID": outside,
            ], ignoring: ["name"])
        if let node = root["postCreateCommand"], !node.isNull { once += lifecycle(node, "postCreateCommand") }
        user = user ?? containerUser
        if user?.text == "root" { user = nil }
        for (key, value) in attributes { portAttributes(key, value, join("portsAttributes", scalarText(key))) }
        if once.isEmpty, always.isEmpty {
            for (_, node, path) in exports { lost(node, path, "its value is known to a task only, and there is none") }
            return
        }
        var pairs: [(String, Node)] = [("name", Node(.string("devcontainer")))]
        if !exports.isEmpty {
            pairs.append(("before", Node(.string(exports.map(\.text).joined(separator: "\n") + "\n"))))
        }
        if let text = joined(once) { pairs.append(("init", text)) }
        if let text = joined(always) { pairs.append(("command", text)) }
        tasks.append(Node(pairs: pairs))
    }

    private func devcontainerBuild(_ node: Node, _ path: String) {
        var pairs: [(String, Node)] = []
        take(
            node, path,
            [
                "dockerfile": { value, _ in pairs.append(("file", value)) },
                "context": { value, _ in pairs.append(("context", value)) },
            ])
        if pairs.contains(where: { $0.0 == "file" }) { image = Node(pairs: pairs) }
    }

    /// A text for the shell, a list of words, or a mapping of names to either, which run side by side there.
    private func lifecycle(_ node: Node, _ path: String) -> [Node] {
        switch node.content {
        case .scalar(let text, _):
            if text.isEmpty { return [] }
            let command = DevcontainerText(text)
            report(command, node, path)
            return command.hasVariables ? [Node(.string(command.shellText))] : [node]
        case .sequence(let items):
            let words = items.enumerated().map { index, item in
                let word = DevcontainerText(scalarText(item))
                report(word, item, "\(path)[\(index)]")
                return word.shellWord
            }
            return [Node(.string(words.joined(separator: " ")))]
        case .mapping(let pairs):
            if pairs.count > 1 { note(node, path, "its commands run one after the other") }
            return pairs.flatMap { lifecycle($0.value, join(path, scalarText($0.key))) }
        }
    }

    /// Each only if the one before succeeded.
    private func joined(_ parts: [Node]) -> Node? {
        let texts = parts.map(scalarText)
        guard texts.count > 1 else { return parts.first }
        return Node(.string(texts.map { "(\($0))" }.joined(separator: " &&\n") + "\n"))
    }

    private func devcontainerPort(_ node: Node, _ path: String) {
        guard let range = node.text.flatMap({ parsePortRange($0) }), range.count == 1 else {
            return lost(node, path, "\"\(scalarText(node))\" is no port of this workspace")
        }
        guard portIndex(range) == nil else { return }
        ports.append(Node(pairs: [("port", Node(.integer(Int(range.lowerBound))))]))
    }

    private func portIndex(_ range: ClosedRange<UInt16>) -> Int? {
        ports.firstIndex { $0["port"]?.text.flatMap { parsePortRange($0) } == range }
    }

    private func portAttributes(_ key: Node, _ node: Node, _ path: String) {
        guard let range = parsePortRange(scalarText(key)) else {
            return lost(key, path, "only ports and ranges of ports have attributes here")
        }
        let port =
            range.count == 1
            ? Node(.integer(Int(range.lowerBound))) : Node(.string("\(range.lowerBound)-\(range.upperBound)"))
        var pairs: [(String, Node)] = [("port", port)]
        let openings = [
            "notify": "notify", "openBrowser": "open-browser", "openBrowserOnce": "open-browser",
            "openPreview": "open-preview", "silent": "ignore", "ignore": "ignore-completely",
        ]
        take(
            node, path,
            [
                "label": { value, _ in pairs.append(("name", value)) },
                "onAutoForward": { value, path in
                    guard let opening = openings[scalarText(value)] else {
                        return self.lost(value, path, "\"\(scalarText(value))\" is not known")
                    }
                    pairs.append(("onOpen", Node(.string(opening))))
                },
                "protocol": { value, path in
                    guard ["http", "https"].contains(scalarText(value)) else {
                        return self.lost(value, path, "\"\(scalarText(value))\" is not known")
                    }
                    pairs.append(("protocol", value))
                },
            ],
            without: [
                "requireLocalPort": "a port outside is the same as inside, or not forwarded",
                "elevateIfNeeded": "there is nobody to ask",
            ])
        if let index = portIndex(range) { ports[index] = Node(pairs: pairs) } else { ports.append(Node(pairs: pairs)) }
    }

    /// What is said of variables in a command.
    private func report(_ text: DevcontainerText, _ node: Node, _ path: String) {
        for variable in text.unknown { lost(node, path, "\(variable) has no value here") }
        for variable in text.local {
            note(node, path, "\(variable) is a variable of the machine outside: here it is the workspace's own")
        }
    }

    /// A value without variables is one of the workspace's `env`; with variables it is exported by the task, before its
    /// commands.
    private func devcontainerEnvironment(_ node: Node, _ path: String) {
        for (key, value) in node.pairs where !value.isNull {
            let name = scalarText(key)
            let place = join(path, name)
            let text = DevcontainerText(scalarText(value))
            if let variable = text.local.first ?? text.unknown.first {
                lost(value, place, "\(variable) has no value here: set \(name) where the workspace is started")
                continue
            }
            exports.removeAll { $0.text.hasPrefix("export \(name)=") }
            if text.hasVariables {
                note(value, place, "the task exports it: \"exec\" and services do not see it")
                exports.append(("export \(name)=\(text.shellWord)", value, place))
            } else {
                environment.removeAll { scalarText($0.key) == name }
                environment.append((key, value))
            }
        }
    }

    private func customizations(_ node: Node, _ path: String) {
        take(
            node, path,
            [
                "vscode": { value, path in
                    self.take(
                        value, path, ["extensions": { list, _ in self.extensions = list }],
                        without: ["settings": "an editor's own"])
                }
            ], without: ["codespaces": "it speaks to GitHub's service", "jetbrains": "an editor's own"])
    }
}

/// A word of shell text that means just `text`; plain where that is the same.
func shellWord(_ text: String) -> String {
    let isPlain =
        !text.isEmpty
        && text.utf8.allSatisfy { byte in
            (48...57).contains(byte) || (65...90).contains(byte) || (97...122).contains(byte)
                || "-_./:=@%+,".utf8.contains(byte)
        }
    if isPlain { return text }
    return "'" + text.split(separator: "'", omittingEmptySubsequences: false).joined(separator: "'\\''") + "'"
}
