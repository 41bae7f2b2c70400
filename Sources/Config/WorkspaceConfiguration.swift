/// What a `.gitpod.yml` says, checked and with defaults left open: a nil or empty value means "not given".
public struct WorkspaceConfiguration: Hashable, Sendable {
    public var tasks: [TaskSpec] = []
    public var ports: [PortSpec] = []
    /// In file order.
    public var environment: [EnvironmentVariable] = []
    public var experimentalNetwork: Bool?
    /// Relative to the workspace directory.
    public var checkoutLocation: String?
    public var workspaceLocation: String?
    public var coreDump: CoreDumpSpec?
    public var gitConfig: [EnvironmentVariable] = []
    public var network = NetworkSpec()
    public var services: [ServiceSpec] = []
    /// The user that tasks run as: a name or `uid[:gid]`.
    public var user: String?
    public var userMark: Mark?
    /// How long everything may take to stop.
    public var stopGrace: Duration?

    public init() {}
}

/// A variable and its value.
public struct EnvironmentVariable: Hashable, Sendable {
    public var name: String, value: String

    public init(name: String, value: String) {
        self.name = name
        self.value = value
    }
}

/// A task of Gitpod's: shell text in up to four phases.
public struct TaskSpec: Hashable, Sendable {
    public var name: String?
    public var before: String?, initialize: String?, prebuild: String?, command: String?
    public var environment: [EnvironmentVariable] = []
    public var mark: Mark

    public init(mark: Mark) { self.mark = mark }
}

/// A declared port or range of ports.
public struct PortSpec: Hashable, Sendable {
    public var ports: ClosedRange<UInt16>
    public var name: String?, description: String?
    public var onOpen: String?, visibility: String?, networkProtocol: String?
    public var mark: Mark

    public init(ports: ClosedRange<UInt16>, mark: Mark) {
        self.ports = ports
        self.mark = mark
    }
}

/// Core dumps: RLIMIT_CORE in bytes.
public struct CoreDumpSpec: Hashable, Sendable {
    public var isEnabled: Bool
    public var softLimit: UInt64, hardLimit: UInt64
}

/// `workspacekit.network`.
public struct NetworkSpec: Hashable, Sendable {
    /// sandbox, host or none.
    public var mode: String?
    public var mtu: Int?
    public var gso: Bool?
    public var ipv6: Bool?
    public var cidr: String?
    /// Ports of the container's loopback to be reachable.
    public var hostLoopback: [PortAndProtocol] = []
}

/// `5432/tcp`.
public struct PortAndProtocol: Hashable, Sendable {
    public var port: UInt16
    public var isUDP: Bool
}

/// What happens when a service ends; Compose's words.
public enum RestartPolicy: Hashable, Sendable {
    case no
    case always
    /// Until it failed so many times in a row.
    case onFailure(limit: Int)
    case unlessStopped
}

/// A service under `workspacekit.services`; Compose's words and meaning.
public struct ServiceSpec: Hashable, Sendable {
    public var name: String
    /// The program and its arguments.
    public var command: [String]
    public var restart = RestartPolicy.no
    public var environment: [EnvironmentVariable] = []
    public var user: String?
    public var userMark: Mark?, stopSignalMark: Mark?
    public var workingDirectory: String?
    /// Executables without which the service is skipped.
    public var requires: [String] = []
    /// The signal's name.
    public var stopSignal: String?
    public var stopGrace: Duration?
    /// When it ends for good, the workspace ends with its status.
    public var isEssential = false
    public var mark: Mark

    public init(name: String, command: [String], mark: Mark) {
        self.name = name
        self.command = command
        self.mark = mark
    }
}
