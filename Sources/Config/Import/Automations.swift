/// Gitpod Flex's automations.yaml: services with start, ready and stop commands, tasks with triggers.
extension Importer {
    func automations(_ root: Node) {
        take(
            root, "",
            [
                "services": { node, path in
                    for (key, value) in node.pairs {
                        self.automationService(scalarText(key), value, join(path, scalarText(key)))
                    }
                },
                "tasks": { node, path in
                    for (key, value) in node.pairs {
                        self.automationTask(scalarText(key), value, join(path, scalarText(key)))
                    }
                },
            ])
        let names = Set(tasks.compactMap { $0["name"]?.text })
        // What depends on a task that was left out would wait for ever.
        taskOptions = taskOptions.compactMap { name, options in
            let kept = options["depends_on"]?.pairs.filter { names.contains(scalarText($0.key)) } ?? []
            for (key, _) in options["depends_on"]?.pairs ?? [] where !names.contains(scalarText(key)) {
                lost(key, "tasks.\(name).dependsOn", "the task \"\(scalarText(key))\" was left out")
            }
            return kept.isEmpty ? nil : (name, Node(pairs: [("depends_on", Node(.mapping(kept)))]))
        }
    }

    private func automationService(_ name: String, _ node: Node, _ path: String) {
        var command: Node?
        var healthcheck: Node?
        take(
            node, path,
            [
                "commands": { commands, path in
                    self.take(
                        commands, path,
                        [
                            "start": { start, _ in command = self.shellCommand(start) },
                            // Run each second until it exits with 0.
                            "ready": { ready, _ in
                                let test = Node(.sequence([Node(.string("CMD-SHELL")), ready]))
                                healthcheck = Node(pairs: [
                                    ("test", test), ("interval", Node(.string("1s"))),
                                    ("retries", Node(.integer(1000))),
                                ])
                            },
                        ], without: ["stop": "it is stopped by a signal; let its program end in order on SIGTERM"])
                },
                "triggeredBy": { triggers, path in
                    if !triggers.texts.contains(where: { $0.hasPrefix("post") }) {
                        self.lost(triggers, path, "it starts with the workspace")
                    }
                },
                "name": { value, path in
                    if value.text != name { self.note(value, path, "it is called by its key, \"\(name)\"") }
                },
            ],
            without: [
                "description": "services have none", "runsOn": "it runs in the workspace", "role": "services have none",
            ])
        guard let command else { return lost(node, path, "\"commands.start\" is missing") }
        // There, SIGKILL follows SIGTERM after two minutes.
        var pairs = [("command", command)]
        if let healthcheck { pairs.append(("healthcheck", healthcheck)) }
        pairs.append(("stop_grace_period", Node(.string("2m"))))
        services.append((name, Node(pairs: pairs)))
    }

    private func automationTask(_ name: String, _ node: Node, _ path: String) {
        var command: Node?
        var triggers: [String] = []
        var dependencies: [(key: Node, value: Node)] = []
        take(
            node, path,
            [
                "command": { value, _ in command = value },
                "triggeredBy": { value, path in
                    triggers = value.texts
                    for item in value.items
                    where !["manual", "postEnvironmentStart", "postDevcontainerStart", "prebuild"].contains(
                        item.text ?? "")
                    {
                        self.lost(item, path, "nothing happens here at \"\(item.text ?? "")\"")
                    }
                },
                "dependsOn": { value, _ in
                    dependencies = value.items.map { item in
                        let condition = DependencySpec.Condition.completedSuccessfully.rawValue
                        return (item, Node(pairs: [("condition", Node(.string(condition)))]))
                    }
                },
                "name": { value, path in
                    if value.text != name { self.note(value, path, "it is called by its key, \"\(name)\"") }
                },
            ], without: ["description": "tasks have none", "runsOn": "it runs in the workspace"])
        guard let command else { return lost(node, path, "\"command\" is missing") }
        let phase: String
        if triggers.contains("postEnvironmentStart") {
            phase = "command"
        } else if triggers.contains("postDevcontainerStart") || triggers.contains("prebuild") {
            phase = "init"
        } else {
            return lost(node, path, "it is started by hand only; run its command with \"workspacekit exec\"")
        }
        tasks.append(Node(pairs: [("name", Node(.string(name))), (phase, command)]))
        if !dependencies.isEmpty {
            taskOptions.append((name, Node(pairs: [("depends_on", Node(.mapping(dependencies)))])))
        }
    }

    /// Shell text as a program and its arguments.
    func shellCommand(_ text: Node) -> Node { Node(.sequence([Node(.string("sh")), Node(.string("-c")), text])) }
}
