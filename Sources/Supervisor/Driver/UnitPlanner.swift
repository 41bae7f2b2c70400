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
    var limits: [ProcessLimit]
    var outOfMemoryAdjustment: Int32?, nice: Int32?, fileMask: UInt32?
    /// What all its processes may have together.
    var cgroupLimits = CGroupLimits()
    /// What runs before it is asked to end.
    var preStop: [[String]] = []
    /// Only its process group is killed, not all that it started.
    var killsGroupOnly = false
    /// The phases of a task, of which each start runs those that it is to run.
    var task: PlannedTask?
    /// It runs on a terminal.
    var hasTerminal = false
    /// How it says that it is ready.
    var readiness: ReadinessSpec?
    /// Sockets made for it before it starts.
    var listeners: [ListenerSpec] = []
    /// When a file of its log is full, and how many there are; nil for the default.
    var logSize: UInt64?, logFiles: Int?
    /// What the configuration says of it, by key, to tell an edit that matters from one that does not.
    var aspects: [Aspect]

    /// Where its programs are looked for.
    var path: String { searchPath(environment) }

    /// One key of a unit's.
    struct Aspect: Hashable {
        let name: String
        let value: String
        /// A running process would have to be started anew for it.
        let needsRestart: Bool
    }
}

/// Turns the configuration into units: command lines, environments, users. It looks at files, and changes none.
struct UnitPlanner {
    let configuration: WorkspaceConfiguration
    let plan: SupervisorPlan
    var users: UserDatabase
    /// The environment of the supervisor itself.
    let inherited: [String]
    private(set) var notes: [String] = []

    init(
        configuration: WorkspaceConfiguration, plan: SupervisorPlan, users: UserDatabase = .system,
        inherited: [String] = currentEnvironment()
    ) {
        self.configuration = configuration
        self.plan = plan
        self.users = users
        self.inherited = inherited
    }

    /// All units: services, tasks, then the command.
    mutating func units() -> [PlannedUnit] {
        var units = configuration.services.map { service($0) }
        let directory = workingDirectory()
        for name in GitEnvironment(configuration.gitConfig, after: []).refused {
            notes.append("gitConfig: \(name): not a key of git's: left out, as git would refuse every command with it")
        }
        for (index, task) in configuration.tasks.enumerated() { units.append(self.task(task, index, directory)) }
        if !plan.command.isEmpty { units.append(command(directory)) }
        return units
    }

    /// Where tasks run, said where that is not what the configuration names.
    private mutating func workingDirectory() -> String {
        let directory = repositoryRoot
        if let named = namedDirectory, named != directory {
            let key = configuration.checkoutLocation != nil ? "checkoutLocation" : "workspaceLocation"
            notes.append("\(key): no directory \(named): tasks run in \(directory)")
        }
        return directory
    }

    private var namedDirectory: String? {
        (configuration.checkoutLocation ?? folder(configuration.workspaceLocation)).map {
            Files.absolute(plan.workspaceDirectory + "/" + $0)
        }
    }

    /// `checkoutLocation` below the workspace directory, if it is there; else that one.
    private var repositoryRoot: String {
        namedDirectory.flatMap { Files.isDirectory($0) ? $0 : nil } ?? plan.workspaceDirectory
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
        for pair in inherited where !pair.hasPrefix(UnitMark.name + "=") {
            let parts = pair.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            if parts.count == 2 { set(String(parts[0]), String(parts[1])) }
        }
        if values["PATH"] == nil { set("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin") }
        set("WORKSPACEKIT_STATE_DIR", plan.stateDirectory)
        let gitpod = GitpodVariables(
            repositoryRoot: repositoryRoot, isPrebuild: plan.start.isPrebuild, git: configuration.gitConfig)
        for (name, value) in gitpod.variables { set(name, value) }
        for (name, value) in gitpod.defaults where values[name] == nil { set(name, value) }
        let record = users.user(id: identity?.uid ?? 0)
        if identity == nil { set("HOME", home(inherited: values["HOME"])) }
        if identity != nil || plan.owner == 0 {
            if identity != nil { set("HOME", record?.home ?? "/") }
            set("USER", record?.name ?? "\(identity?.uid ?? 0)")
            set("LOGNAME", record?.name ?? "\(identity?.uid ?? 0)")
        }
        let kept = KeptVariables(plan.workspaceDirectory, uid: identity?.uid ?? plan.owner).variables
        for variable in kept + configuration.environment + more { set(variable.name, variable.value) }
        // Last: a program of that name in the image is the one that was meant.
        let commands = StateDirectory(plan.stateDirectory).commands
        let path = values["PATH"] ?? ""
        if !path.split(separator: ":").contains(Substring(commands)) {
            set("PATH", path.isEmpty ? commands : "\(path):\(commands)")
        }
        return order.compactMap { name in values[name].map { "\(name)=\($0)" } }
    }

    /// The environment with the settings of `gitConfig`. They are added when a process starts, so that an edit of them
    /// restarts no unit.
    func withGitSettings(_ environment: [String]) -> [String] {
        let settings = GitEnvironment(configuration.gitConfig, after: environment)
        return environment.filter { !settings.replaces($0) } + settings.variables
    }

    /// The home of the user who runs the workspace, who is root inside: root's; where that is closed to them, as it is to an
    /// ordinary user, the one they came with; where they came with none (a number that the image does not know, as OpenShift
    /// gives out, has `/`), a directory in the workspace.
    private func home(inherited: String?) -> String {
        func isUsable(_ path: String) -> Bool { path != "/" && Files.isDirectory(path) && Files.isAccessible(path, 2) }
        let own = plan.owner == 0 ? users.user(id: 0)?.home ?? "/root" : inherited ?? ""
        return [own, inherited ?? ""].first(where: isUsable) ?? WorkspaceMemory(plan.workspaceDirectory).path("home")
    }

    /// Whether those who run the workspace have a home in the workspace only.
    var needsHome: Bool {
        environment(for: nil, adding: []).contains(
            "HOME=" + WorkspaceMemory(plan.workspaceDirectory).path("home"))
    }

    private func task(_ task: TaskSpec, _ index: Int, _ directory: String) -> PlannedUnit {
        let name = taskName(task, index)
        var unit = unit(
            UnitSpec(name: name, kind: .task), task.options, environment: task.environment,
            user: task.options.user ?? configuration.user, directory: directory)
        if plan.start.isPrebuild { prepareForPrebuild(&unit.spec) }
        var marker: InitMarker?
        if let script = task.initialize, !isBlank(script) {
            let others = configuration.tasks.enumerated().filter { $0.offset != index }.map { taskName($1, $0) }
            marker = InitMarker(
                workspace: plan.workspaceDirectory, name: name, script: script, position: index + 1, others: others)
        }
        unit.task = PlannedTask(
            before: task.before, initialize: task.initialize, prebuild: task.prebuild, command: task.command,
            marker: marker, isPrebuild: plan.start.isPrebuild)
        for (key, phase) in [("before", task.before), ("init", task.initialize), ("command", task.command)] {
            unit.aspects.append(.init(name: key, value: phase ?? "", needsRestart: true))
        }
        return unit
    }

    /// A task ends with its last phase here, and that is all there is to wait for: `command` does not run, so nothing says
    /// that it is ready or answers a probe.
    private func prepareForPrebuild(_ spec: inout UnitSpec) {
        spec.isEssential = false
        spec.healthcheck = nil
        spec.watchdog = nil
        spec.awaitsReadiness = false
        spec.hasPreStop = false
        let tasks = Set(configuration.tasks.enumerated().map { taskName($1, $0) })
        for index in spec.dependencies.indices where tasks.contains(spec.dependencies[index].name) {
            spec.dependencies[index].condition = .completedSuccessfully
        }
    }

    private func service(_ service: ServiceSpec) -> PlannedUnit {
        var unit = unit(
            UnitSpec(name: service.name, kind: .service), service.options, environment: service.environment,
            fromHost: service.inheritedVariables, user: service.options.user, directory: plan.workspaceDirectory)
        unit.arguments = service.command
        let missing = service.requires.filter { findExecutable($0, path: unit.path, in: unit.directory) == nil }
        if !missing.isEmpty { unit.spec.skipped = "\(missing.joined(separator: ", ")) not found" }
        unit.aspects.append(.init(name: "command", value: "\(service.command)", needsRestart: true))
        unit.aspects.append(.init(name: "requires", value: "\(service.requires)", needsRestart: false))
        unit.listeners = service.listeners
        unit.spec.isSocketActivated = !service.listeners.isEmpty
        unit.aspects.append(.init(name: "listen", value: "\(service.listeners)", needsRestart: true))
        return unit
    }

    private func command(_ directory: String) -> PlannedUnit {
        var unit = unit(
            UnitSpec(name: "command", kind: .command), UnitOptions(), environment: [], user: nil, directory: directory)
        unit.arguments = plan.command
        return unit
    }

    /// What all kinds have in common; the command line is still to come.
    private func unit(
        _ spec: UnitSpec, _ options: UnitOptions, environment more: [EnvironmentVariable], fromHost: [String] = [],
        user: UserSpec?, directory: String
    ) -> PlannedUnit {
        var spec = spec
        spec.restart = options.restart ?? .no
        spec.isEssential = options.isEssential
        if let grace = options.stopGrace { spec.stopGrace = grace }
        spec.stopsMainOnly = options.killMode == .mixed
        if let name = options.stopSignal, let signal = Signal(name: name) { spec.stopSignal = signal }
        spec.dependencies = options.dependencies.map {
            UnitDependency($0.name, $0.condition, isRequired: $0.isRequired)
        }
        spec.successCodes = options.successCodes
        spec.readyTimeout = options.readyTimeout
        spec.hasPreStop = !options.preStop.isEmpty
        spec.healthcheck = options.healthcheck
        spec.awaitsReadiness = options.readiness != nil
        spec.watchdog = options.watchdog
        var identity: Identity?
        if let user {
            identity = users.identity(for: user.name)
            if identity == nil { spec.skipped = "unknown user \"\(user.name)\"" }
        }
        var variables: [EnvironmentVariable] = []
        for file in options.environmentFiles {
            let file = EnvironmentFile(file, in: plan.workspaceDirectory)
            if let problem = file.problem { spec.skipped = problem }
            variables += file.variables
        }
        let surroundings = self.environment(for: identity, adding: variables)
        func interpolated(_ text: String, _ key: String) -> String {
            switch interpolate(text, { name in surroundings.last { $0.hasPrefix(name + "=") }?.value }) {
            case .success(let text): return text
            case .failure(let missing):
                spec.skipped =
                    "its \(key) wants \(missing.name)" + (missing.message.isEmpty ? "" : ": \(missing.message)")
                return text
            }
        }
        // What a task's env says is Gitpod's, and stays as it is.
        let own =
            spec.kind != .service
            ? more : more.map { .init(name: $0.name, value: interpolated($0.value, "environment")) }
        let host = fromHost.map { name in
            EnvironmentVariable(name: name, value: inherited.last { $0.hasPrefix(name + "=") }?.value ?? "")
        }
        let unset = fromHost.filter { name in !inherited.contains { $0.hasPrefix(name + "=") } }
        let environment = environment(for: identity, adding: variables + host + own).filter { variable in
            !unset.contains { variable.hasPrefix($0 + "=") }
        }
        let directory = options.workingDirectory.map { inWorkspace(interpolated($0, "working_dir")) } ?? directory
        let limits = limits(options)
        let adjustment = options.outOfMemoryAdjustment.map { Int32($0) }
        var aspects: [PlannedUnit.Aspect] = []
        func aspect(_ name: String, _ value: String, needsRestart: Bool) {
            aspects.append(.init(name: name, value: value, needsRestart: needsRestart))
        }
        aspect("environment", "\(environment)", needsRestart: true)
        aspect("user", user?.name ?? "", needsRestart: true)
        aspect("working_dir", directory, needsRestart: true)
        aspect("ulimits", "\(limits)", needsRestart: true)
        aspect("oom_score_adj", adjustment?.description ?? "", needsRestart: true)
        aspect(
            "ready",
            options.readiness.map { "\($0) \(options.watchdog ?? .zero) \(options.readyTimeout ?? .zero)" } ?? "",
            needsRestart: true)
        aspect("nice", options.nice?.description ?? "", needsRestart: true)
        aspect("umask", options.fileMask?.description ?? "", needsRestart: true)
        aspect("tty", options.hasTerminal.description, needsRestart: true)
        aspect("depends_on", "\(spec.dependencies)", needsRestart: false)
        aspect("healthcheck", spec.healthcheck.map { "\($0)" } ?? "", needsRestart: false)
        aspect("logging", "\(options.logSize ?? 0) \(options.logFiles ?? 0)", needsRestart: false)
        aspect("restart", "\(spec.restart)", needsRestart: false)
        aspect("stop_signal", "\(spec.stopSignal)", needsRestart: false)
        aspect("stop_grace_period", "\(spec.stopGrace)", needsRestart: false)
        aspect("essential", spec.isEssential.description, needsRestart: false)
        aspect("mem_limit", options.memoryLimit?.description ?? "", needsRestart: false)
        aspect("cpus", options.processorLimit?.description ?? "", needsRestart: false)
        aspect("pids_limit", options.processLimit?.description ?? "", needsRestart: false)
        aspect("success_exit_codes", "\(options.successCodes.sorted())", needsRestart: false)
        aspect("pre_stop", "\(options.preStop)", needsRestart: false)
        aspect("kill_mode", options.killMode.rawValue, needsRestart: false)
        var unit = PlannedUnit(
            spec: spec, arguments: [], environment: environment + [UnitMark(spec.name).text], directory: directory,
            identity: identity,
            limits: limits, outOfMemoryAdjustment: adjustment, hasTerminal: options.hasTerminal,
            readiness: options.readiness,
            logSize: options.logSize, logFiles: options.logFiles, aspects: aspects)
        unit.nice = options.nice.map { Int32($0) }
        unit.fileMask = options.fileMask
        unit.cgroupLimits = CGroupLimits(
            memory: options.memoryLimit, processors: options.processorLimit, processes: options.processLimit)
        unit.killsGroupOnly = options.killMode == .processGroup
        unit.preStop = options.preStop
        return unit
    }

    /// A path that is relative to the workspace directory where it is not absolute.
    func inWorkspace(_ path: String) -> String {
        Files.absolute(path.hasPrefix("/") ? path : plan.workspaceDirectory + "/" + path)
    }

    /// RLIMIT_CORE is off unless the configuration turns core dumps on, as with Gitpod.
    var coreLimit: ProcessLimit {
        guard let dump = configuration.coreDump, dump.isEnabled else { return ProcessLimit(.core, soft: 0, hard: 0) }
        return ProcessLimit(.core, soft: min(dump.softLimit, dump.hardLimit), hard: dump.hardLimit)
    }

    private func limits(_ options: UnitOptions) -> [ProcessLimit] {
        let own = options.limits.compactMap { limit in
            ProcessLimit.Resource(name: limit.resource.rawValue).map {
                ProcessLimit($0, soft: limit.soft ?? .max, hard: limit.hard ?? .max)
            }
        }
        return own.contains { $0.resource == .core } ? own : [coreLimit] + own
    }

    /// bash where there is one, as Gitpod's tasks expect; else sh.
    static var shell: String { findExecutable("/bin/bash") ?? findExecutable("/usr/bin/bash") ?? "/bin/sh" }
}

/// PATH of an environment; empty where there is none.
func searchPath(_ environment: [String]) -> String {
    environment.last { $0.hasPrefix("PATH=") }.map { String($0.dropFirst(5)) } ?? ""
}

extension String {
    /// Behind the first `=`.
    fileprivate var value: String? { firstIndex(of: "=").map { String(self[index(after: $0)...]) } }
}

/// The name that a task has, or gets from its position.
func taskName(_ task: TaskSpec, _ index: Int) -> String { task.name ?? "task-\(index + 1)" }

func isBlank(_ text: String) -> Bool { text.allSatisfy(\.isWhitespace) }
