/// Keys in a place where nothing reads them: where they belong, or what to write instead.
struct ForeignPlace {
    private enum Place { case root, ours, task, service, unit, network, egress, filesystem, other }
    private let place: Place
    private let path: String

    /// The mapping at a path.
    init(_ path: String) {
        self.path = path
        let inner = path.hasPrefix("workspacekit.") ? path.dropFirst(13) : path[...]
        let words = inner.split(separator: ".")
        place =
            switch (words.first, words.count) {
            case (nil, _): path.isEmpty ? .root : .ours
            case ("workspacekit"?, 1): .ours
            case ("network"?, 1): .network
            case ("filesystem"?, 1): .filesystem
            case ("network"?, 2) where words[1] == "egress": .egress
            case ("services"?, 2): .service
            case ("tasks"?, 2): .unit
            case (let first?, 1) where first.hasPrefix("tasks["): .task
            default: .other
            }
    }

    /// What is said about a key; nil for nothing.
    func advice(_ name: String) -> String? {
        switch place {
        case .root:
            if WorkspacekitKeys.root.contains(where: { $0.name == name }) { return "write it under \"workspacekit\"" }
            if WorkspacekitKeys.network.contains(where: { $0.name == name }) {
                return "write it under \"workspacekit.network\""
            }
            return Self.gone[name]
        case .ours:
            if name == "workspacekit" { return "write its keys here, without it" }
            if GitpodKeys.root.contains(where: { $0.name == name }) {
                return "write it in .gitpod.yml, outside of \"workspacekit\""
            }
            if WorkspacekitKeys.network.contains(where: { $0.name == name }) { return "write it under \"network\"" }
            if WorkspacekitKeys.filesystem.contains(where: { $0.name == name }) {
                return "write it under \"filesystem\""
            }
            return nil
        case .task: return name == "environment" ? "a task's variables are its \"env\"" : ofUnit(name)
        case .service, .unit: return Self.compose[name]
        case .network: return WorkspacekitKeys.egress.contains { $0.name == name } ? "write it under \"egress\"" : nil
        case .egress, .filesystem, .other: return nil
        }
    }

    private func ofUnit(_ name: String) -> String? {
        let meant = name == "dependsOn" ? "depends_on" : name
        guard WorkspacekitKeys.unit.contains(where: { $0.name == meant }) else { return Self.compose[name] }
        return "write it under \"workspacekit.tasks\", by the task's name: tasks: {NAME: {\(meant): …}}"
    }

    /// Whether a key, or what is in it, was meant to restrict the workspace.
    func isPolicy(_ name: String, _ value: Node, nearest: String?) -> Bool {
        if place == .egress || place == .filesystem || name == "egress" || nearest == "egress" { return true }
        let policies = ["network", "hostLoopback", "filesystem", "hidden"]
        if place == .root || place == .ours, policies.contains(name) { return !value.isNull }
        if place == .network, WorkspacekitKeys.egress.contains(where: { $0.name == name }) { return true }
        return Self.holdsPolicy(value, depth: 0)
    }

    private static func holdsPolicy(_ node: Node, depth: Int) -> Bool {
        guard depth < 8 else { return false }
        return node.pairs.prefix(1000).contains {
            scalarText($0.key) == "egress" || holdsPolicy($0.value, depth: depth + 1)
        }
    }

    /// Where a policy belongs.
    func policyAdvice(_ name: String, _ known: [String]) -> String {
        if place == .egress || place == .filesystem {
            return "a part of the policy would not hold; the keys are \(known.joined(separator: ", "))"
        }
        if let advice = advice(name) { return "it would restrict nothing here (\(advice))" }
        return "it would restrict nothing here (write policies under \"workspacekit.network.egress\")"
    }

    /// Keys that Gitpod's files have carried, and others' words.
    private static let gone = [
        "ide": "Gitpod removed it in 2021", "privileged": "Gitpod removed it in 2020",
        "idleTimeout": "no such key ever was", "workspaceTimeout": "no such key ever was",
        "restart": "write restart policies under \"workspacekit.tasks\"",
        "depends_on": "write dependencies under \"workspacekit.tasks\"",
        "dependsOn": "write dependencies under \"workspacekit.tasks\" as \"depends_on\"",
        "environment": "the workspace's variables are \"env\"",
        "volumes": "the workspace's files are those of the container",
        "version": "\"workspacekit config import\" reads compose files",
    ]

    /// Compose's words that have no meaning here, and what to write instead.
    private static let compose = [
        "image": "the program runs in the workspace: install it in the workspace's own image, and say \"command\"",
        "build": "the program runs in the workspace: build it there",
        "entrypoint": "write it before the words of \"command\"",
        "ports":
            "write ports at the top of .gitpod.yml (ports: [{port: 3000}]), others under \"workspacekit.network.forwards\"",
        "expose": "all services reach each other on localhost", "links": "all services reach each other on localhost",
        "volumes": "services share the workspace's files: use their paths",
        "tmpfs": "services share the workspace's files: use /tmp",
        "networks": "services share the workspace's network", "network_mode": "see \"workspacekit.network.mode\"",
        "hostname": "services share the workspace's name", "container_name": "a service is called by its key",
        "env": "a service's variables are its \"environment\"",
        "cap_add": "services share the workspace's container", "cap_drop": "services share the workspace's container",
        "privileged": "services share the workspace's container", "devices": "services share the workspace's container",
        "security_opt": "services share the workspace's container",
        "deploy": "its limits are \"mem_limit\", \"cpus\" and \"pids_limit\"", "profiles": "all services start",
        "extra_hosts": "write them to /etc/hosts in a task", "dns": "see \"workspacekit.network.dns\"",
        "labels": "nothing here reads labels", "init": "workspacekit is the init",
        "restart_policy": "it is \"restart\"", "shell": "write [sh, -c, …] as \"command\"",
        "cwd": "it is \"working_dir\"", "working_directory": "it is \"working_dir\"",
        "workdir": "it is \"working_dir\"",
    ]
}
