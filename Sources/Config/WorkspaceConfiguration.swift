/// What a `.gitpod.yml` says, checked and with defaults left open: a nil or empty value means "not given".
public struct WorkspaceConfiguration: Hashable, Sendable {
    /// In file order.
    public var tasks: [TaskSpec] = []
    /// In file order.
    public var ports: [PortSpec] = []
    /// In file order.
    public var environment: [EnvironmentVariable] = []
    /// `false` shares the container's network.
    public var experimentalNetwork: Bool?
    /// Relative to the workspace directory.
    public var checkoutLocation: String?
    /// A folder, or a *.code-workspace file, relative to the workspace directory.
    public var workspaceLocation: String?
    /// Core dumps; nil: off.
    public var coreDump: CoreDumpSpec?
    /// Settings for git, in file order.
    public var gitConfig: [EnvironmentVariable] = []
    /// `workspacekit.network`.
    public var network = NetworkSpec()
    /// `workspacekit.services`, in file order.
    public var services: [ServiceSpec] = []
    /// The user that tasks run as: a name or `uid[:gid]`.
    public var user: String?
    /// Where `user` stands.
    public var userMark: Mark?
    /// How long everything may take to stop.
    public var stopGrace: Duration?

    /// An empty configuration.
    public init() {}
}

/// A variable and its value.
public struct EnvironmentVariable: Hashable, Sendable {
    public var name: String, value: String

    /// A variable.
    public init(name: String, value: String) {
        self.name = name
        self.value = value
    }
}

/// A task of Gitpod's: shell text in up to four phases.
public struct TaskSpec: Hashable, Sendable {
    /// Shown before each line it prints.
    public var name: String?
    public var before: String?, initialize: String?, prebuild: String?, command: String?
    /// Its own variables, in file order.
    public var environment: [EnvironmentVariable] = []
    /// Where it stands.
    public var mark: Mark

    /// A task without phases.
    public init(mark: Mark) { self.mark = mark }
}

/// A declared port or range of ports.
public struct PortSpec: Hashable, Sendable {
    /// The ports, both ends included.
    public var ports: ClosedRange<UInt16>
    public var name: String?, description: String?
    public var onOpen: String?, visibility: String?, networkProtocol: String?
    /// Where it stands.
    public var mark: Mark

    /// A declaration of ports.
    public init(ports: ClosedRange<UInt16>, mark: Mark) {
        self.ports = ports
        self.mark = mark
    }
}

/// Core dumps: RLIMIT_CORE in bytes.
public struct CoreDumpSpec: Hashable, Sendable {
    /// Whether cores are written.
    public var isEnabled: Bool
    public var softLimit: UInt64, hardLimit: UInt64
}

/// `workspacekit.network`.
public struct NetworkSpec: Hashable, Sendable {
    /// sandbox, host or none.
    public var mode: String?
    /// The link's MTU.
    public var mtu: Int?
    /// Superpackets on the link.
    public var gso: Bool?
    /// IPv6 inside.
    public var ipv6: Bool?
    /// The workspace's IPv4 network.
    public var cidr: String?
    /// Ports of the container's loopback to be reachable.
    public var hostLoopback: [PortAndProtocol] = []
}

/// `5432/tcp`.
public struct PortAndProtocol: Hashable, Sendable {
    /// The port.
    public var port: UInt16
    /// UDP; else TCP.
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
    /// Unique among services and tasks.
    public var name: String
    /// The program and its arguments.
    public var command: [String]
    /// What follows its end.
    public var restart = RestartPolicy.no
    /// Its own variables, in file order.
    public var environment: [EnvironmentVariable] = []
    /// Whom it runs as: a name or `uid[:gid]`; nil: root inside.
    public var user: String?
    public var userMark: Mark?, stopSignalMark: Mark?
    /// Absolute, or relative to the workspace directory.
    public var workingDirectory: String?
    /// Executables without which the service is skipped.
    public var requires: [String] = []
    /// The signal's name.
    public var stopSignal: String?
    /// How long it may take to end.
    public var stopGrace: Duration?
    /// When it ends for good, the workspace ends with its status.
    public var isEssential = false
    /// Where it stands.
    public var mark: Mark

    /// A service that is not restarted.
    public init(name: String, command: [String], mark: Mark) {
        self.name = name
        self.command = command
        self.mark = mark
    }
}
