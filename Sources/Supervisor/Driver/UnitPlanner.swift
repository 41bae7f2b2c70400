internal import Config
internal import Control
internal import Kernel

/// A unit with everything its process is to be.
struct PlannedUnit {
    var spec: UnitSpec
    var arguments: [String]
    var environment: [String]
    var directory: String
    var identity: Identity?
    /// Set for a task with an `init`: made before it starts, written by its shell once `init` succeeded.
    var initMarker: String?
}

/// Turns the configuration into units: command lines, environments, users. It looks at files, and changes none.
struct UnitPlanner {
    let configuration: WorkspaceConfiguration
    let plan: SupervisorPlan
    let users: UserDatabase
    /// The environment of the supervisor itself.
    let inherited: [String]
    private(set) var notes: [String] = []

    /// All units: services, tasks, then the command.
    mutating func units() -> [PlannedUnit] {
        var units = configuration.services.map { service($0) }
        for (index, task) in configuration.tasks.enumerated() { units.append(self.task(task, index)) }
        if !plan.command.isEmpty { units.append(command()) }
        return units
    }

    /// `checkoutLocation` below the workspace directory, if it is there.
    mutating func workingDirectory() -> String {
        guard let location = configuration.checkoutLocation ?? folder(configuration.workspaceLocation) else {
            return plan.workspaceDirectory
        }
        let path = Files.absolute(plan.workspaceDirectory + "/" + location)
        if Files.isDirectory(path) { return path }
        let key = configuration.checkoutLocation != nil ? "checkoutLocation" : "workspaceLocation"
        notes.append("\(key): no directory \(path): tasks run in \(plan.workspaceDirectory)")
        return plan.workspaceDirectory
    }

    /// A workspace file's folder; the folder itself for anything else.
    private func folder(_ location: String?) -> String? {
        guard let location else { return nil }
        guard location.hasSuffix(".code-workspace") else { return location }
        return location.split(separator: "/").dropLast().joined(separator: "/")
    }

    func environment(for identity: Identity?, adding more: [EnvironmentVariable]) -> [String] {
        var values: [String: String] = [:]
        var order: [String] = []
        func set(_ name: String, _ value: String) {
            if values[name] == nil { order.append(name) }
            values[name] = value
        }
        for pair in inherited {
            let parts = pair.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            if parts.count == 2 { set(String(parts[0]), String(parts[1])) }
        }
        if values["PATH"] == nil { set("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin") }
        set("WORKSPACEKIT_STATE_DIR", plan.stateDirectory)
        // ring0's user is root inside, and needs root's HOME; another user its own.
        let record = users.user(id: identity?.uid ?? 0)
        if identity != nil || CurrentProcess.user == 0 {
            set("HOME", record?.home ?? "/")
            set("USER", record?.name ?? "\(identity?.uid ?? 0)")
            set("LOGNAME", record?.name ?? "\(identity?.uid ?? 0)")
        }
        for variable in configuration.environment + more { set(variable.name, variable.value) }
        return order.compactMap { name in values[name].map { "\(name)=\($0)" } }
    }

    private mutating func task(_ task: TaskSpec, _ index: Int) -> PlannedUnit {
        var spec = UnitSpec(name: task.name ?? "task-\(index + 1)", kind: .task)
        let (identity, problem) = identity(configuration.user)
        spec.skipped = problem
        let marker = task.initialize.flatMap { isBlank($0) ? nil : initMarker(spec.name, index) }
        let isFresh = marker.map { Files.status($0) == nil } ?? false
        let script = TaskScript(task: task, isFresh: isFresh, initMarker: marker).text
        return PlannedUnit(
            spec: spec, arguments: [Self.shell, "-c", script],
            environment: environment(for: identity, adding: task.environment), directory: workingDirectory(),
            identity: identity, initMarker: isFresh ? marker : nil)
    }

    private func initMarker(_ name: String, _ index: Int) -> String {
        let safe = name.map { $0.isASCII && ($0.isLetter || $0.isNumber || $0 == "-") ? $0 : "_" }
        return "\(plan.workspaceDirectory)/.workspacekit/init/\(index + 1)-\(String(safe))"
    }

    private mutating func service(_ service: ServiceSpec) -> PlannedUnit {
        var spec = UnitSpec(name: service.name, kind: .service)
        spec.restart = service.restart
        spec.isEssential = service.isEssential
        if let grace = service.stopGrace { spec.stopGrace = grace }
        if let name = service.stopSignal, let signal = Signal(name: name) { spec.stopSignal = signal }
        let (identity, problem) = identity(service.user)
        spec.skipped = problem
        let environment = environment(for: identity, adding: service.environment)
        let path = environment.first { $0.hasPrefix("PATH=") }.map { String($0.dropFirst(5)) } ?? ""
        let missing = service.requires.filter { findExecutable($0, path: path) == nil }
        if !missing.isEmpty { spec.skipped = "\(missing.joined(separator: ", ")) not found" }
        let directory = service.workingDirectory.map {
            Files.absolute($0.hasPrefix("/") ? $0 : plan.workspaceDirectory + "/" + $0)
        }
        return PlannedUnit(
            spec: spec, arguments: service.command, environment: environment,
            directory: directory ?? plan.workspaceDirectory, identity: identity)
    }

    private mutating func command() -> PlannedUnit {
        PlannedUnit(
            spec: UnitSpec(name: "command", kind: .command), arguments: plan.command,
            environment: environment(for: nil, adding: []), directory: workingDirectory(), identity: nil)
    }

    private func identity(_ user: String?) -> (Identity?, problem: String?) {
        guard let user else { return (nil, nil) }
        guard let identity = users.identity(for: user) else { return (nil, "unknown user \"\(user)\"") }
        return (identity, nil)
    }

    /// bash where there is one, as Gitpod's tasks expect; else sh.
    static var shell: String { findExecutable("/bin/bash") ?? findExecutable("/usr/bin/bash") ?? "/bin/sh" }
}

func isBlank(_ text: String) -> Bool { text.allSatisfy(\.isWhitespace) }

/// The shell text of a task: the phases that this start runs, each only if the one before succeeded, in one shell, so
/// that what `before` exports `command` sees.
struct TaskScript {
    let task: TaskSpec
    /// The task's `init` has not yet succeeded in this workspace.
    let isFresh: Bool
    let initMarker: String?

    var text: String {
        var parts: [String] = []
        func add(_ part: String?) { if let part, !isBlank(part) { parts.append("{\n\(part)\n}") } }
        add(task.before)
        if isFresh {
            add(task.initialize)
            if let initMarker { parts.append(": > " + quote(initMarker)) }
        }
        add(task.command)
        return parts.isEmpty ? ":" : parts.joined(separator: " && ")
    }
}

/// A word of shell text that means just `text`.
private func quote(_ text: String) -> String {
    "'" + text.split(separator: "'", omittingEmptySubsequences: false).joined(separator: "'\\''") + "'"
}
