/// What services and, under `workspacekit.tasks`, tasks have in common; Compose's words and meaning.
public struct UnitOptions: Hashable, Sendable {
    /// What follows its end; nil: nothing.
    public var restart: RestartPolicy?
    /// Whom it runs as; nil: as the workspace's tasks, or root for services.
    public var user: UserSpec?
    /// Absolute, or relative to the workspace directory.
    public var workingDirectory: String?
    /// Files of NAME=value, read before `environment`.
    public var environmentFiles: [EnvironmentFileSpec] = []
    /// Where those stand.
    public var environmentFilesMark = Mark(line: 1, column: 1)
    /// What must have happened before it starts.
    public var dependencies: [DependencySpec] = []
    /// How it is found to be healthy.
    public var healthcheck: HealthcheckSpec?
    /// How it says that it is ready.
    public var readiness: ReadinessSpec?
    /// How often it says that it lives, with sd_notify(3); nil: it need not.
    public var watchdog: Duration?
    /// How long it may take to say that it is ready; nil: for ever.
    public var readyTimeout: Duration?
    /// Exit codes that are a success besides 0.
    public var successCodes: Set<UInt8> = []
    /// Commands that run one after the other before it is asked to end.
    public var preStop: [[String]] = []
    /// The signal's name.
    public var stopSignal: String?
    /// How long it may take to end.
    public var stopGrace: Duration?
    /// Limits of its processes, in file order.
    public var limits: [ResourceLimit] = []
    /// What the kernel adds to its badness when memory runs out.
    public var outOfMemoryAdjustment: Int?
    /// Bytes of memory, thousandths of a processor, and processes that its cgroup may have.
    public var memoryLimit: UInt64?, processorLimit: Int?, processLimit: Int?
    /// Which of its processes are asked to end, and which are killed.
    public var killMode = KillMode.controlGroup
    /// Its nice value, and its file mode creation mask.
    public var nice: Int?, fileMask: UInt32?
    /// When it ends for good, the workspace ends with its status.
    public var isEssential = false
    /// It runs on a terminal of its own.
    public var hasTerminal = false
    /// Its log files; nil for the default of each.
    public var logSize: UInt64?, logFiles: Int?

    /// Nothing but defaults.
    public init() {}
}

/// A file of variables.
public struct EnvironmentFileSpec: Hashable, Sendable {
    /// Absolute, or relative to the workspace directory.
    public var path: String
    /// Whether the unit needs it.
    public var isRequired: Bool
}

/// A service under `workspacekit.services`.
public struct ServiceSpec: Hashable, Sendable {
    /// Unique among services and tasks.
    public var name: String
    /// The program and its arguments.
    public var command: [String]
    /// Its own variables, in file order.
    public var environment: [EnvironmentVariable] = []
    /// Variables that have the values they have outside, or are unset where they have none there.
    public var inheritedVariables: [String] = []
    /// Executables without which the service is skipped.
    public var requires: [String] = []
    /// Sockets made for it before it starts, and kept across restarts.
    public var listeners: [ListenerSpec] = []
    /// What it shares with tasks.
    public var options = UnitOptions()
    /// Where it stands.
    public var mark: Mark

    /// A service that is not restarted.
    public init(name: String, command: [String], mark: Mark) {
        self.name = name
        self.command = command
        self.mark = mark
    }
}

/// What happens when a service ends; Compose's words.
public enum RestartPolicy: Hashable, Sendable {
    case no
    case always
    /// Until it failed so many times in a row.
    case onFailure(limit: Int)
    case unlessStopped

    /// How often `on-failure` tries where it does not say.
    public static let defaultLimit = 8

    /// Reads `no`, `always`, `on-failure[:max]`, `unless-stopped`; `false` is YAML's way to write `no`. nil for anything
    /// else.
    init?(_ text: String) {
        switch text {
        case "no", "false": self = .no
        case "always": self = .always
        case "unless-stopped": self = .unlessStopped
        case "on-failure": self = .onFailure(limit: Self.defaultLimit)
        default:
            guard text.hasPrefix("on-failure:"), let limit = decimal(text.dropFirst(11)), limit > 0 else { return nil }
            self = .onFailure(limit: limit)
        }
    }
}

/// Which processes of a unit are asked to end and killed; systemd's words for the first two.
public enum KillMode: String, Hashable, Sendable, CaseIterable {
    /// The stop signal goes to its process group; what is left of all that it started is killed.
    case controlGroup = "control-group"
    /// The stop signal goes to its main process only; what is left of all that it started is killed.
    case mixed
    /// The stop signal goes to its process group; what is left of that is killed, and nothing else.
    case processGroup = "process-group"
}

/// An entry of `depends_on`.
public struct DependencySpec: Hashable, Sendable {
    /// Compose's conditions.
    public enum Condition: String, Hashable, Sendable, CaseIterable {
        case started = "service_started"
        case healthy = "service_healthy"
        case completedSuccessfully = "service_completed_successfully"

        /// One word for it.
        public var word: String {
            switch self {
            case .started: "started"
            case .healthy: "healthy"
            case .completedSuccessfully: "completed"
            }
        }
    }
    /// A service's or task's name.
    public var name: String
    /// What must have happened to it.
    public var condition: Condition
    /// Whether who depends on it cannot do without.
    public var isRequired: Bool
    /// Where it stands.
    public var mark: Mark

    /// A dependency.
    public init(name: String, condition: Condition, isRequired: Bool = true, mark: Mark) {
        self.name = name
        self.condition = condition
        self.isRequired = isRequired
        self.mark = mark
    }
}

/// A healthcheck; Compose's words, and `port` and `http` besides `test`.
public struct HealthcheckSpec: Hashable, Sendable {
    /// What is asked.
    public enum Probe: Hashable, Sendable {
        /// A program; healthy when it exits with 0.
        case program([String])
        /// Shell text; healthy when it exits with 0.
        case shell(String)
        /// Healthy when a TCP connection to the port is accepted.
        case port(UInt16)
        /// Healthy when the answer's status is below 400.
        case http(String)
    }
    /// What is asked.
    public var probe: Probe
    /// From one probe to the next, and how long one may take.
    public var interval = Duration.seconds(30), timeout = Duration.seconds(30)
    /// Failures in a row after which it is unhealthy.
    public var retries = 3
    /// Failures in this time after the start do not count.
    public var startPeriod = Duration.zero
    /// The interval during `startPeriod`.
    public var startInterval = Duration.seconds(5)

    /// A healthcheck with Compose's defaults.
    public init(probe: Probe) { self.probe = probe }
}

/// How a unit says that it is ready.
public enum ReadinessSpec: Hashable, Sendable {
    /// It writes a newline to a descriptor, as s6 has it.
    case newline
    /// sd_notify(3).
    case systemdNotification
    /// A line it prints matches a POSIX extended regular expression.
    case log(expression: String)
}

/// A limit of setrlimit(2).
public struct ResourceLimit: Hashable, Sendable {
    /// The limits' names, as Compose and ulimits have them.
    public enum Resource: String, Hashable, Sendable, CaseIterable {
        case core, cpu, data, fsize, locks, memlock, msgqueue, nice, nofile, nproc, rss, rtprio, rttime, sigpending,
            stack
    }
    /// What is limited.
    public var resource: Resource
    /// nil: unlimited.
    public var soft: UInt64?, hard: UInt64?
}
