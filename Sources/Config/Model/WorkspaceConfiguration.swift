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
    /// The user that tasks run as.
    public var user: UserSpec?
    /// How long everything may take to stop.
    public var stopGrace: Duration?
    /// `workspacekit.filesystem`.
    public var filesystem = FilesystemSpec()

    /// An empty configuration.
    public init() {}
}

extension WorkspaceConfiguration {
    /// The setting that restricts where the workspace may connect to; nil for none. With one the root is not shared.
    public var policy: String? {
        if network.mode == "none" { return "network.mode: none" }
        return network.egress.isEmpty ? nil : "network.egress"
    }
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

/// A user as the file names it: a name or `uid[:gid]`; only the machine knows whether it exists.
public struct UserSpec: Hashable, Sendable {
    /// As written.
    public var name: String
    /// Where it stands.
    public var mark: Mark
}

/// A task of Gitpod's: shell text in up to four phases.
public struct TaskSpec: Hashable, Sendable {
    /// Shown before each line it prints.
    public var name: String?
    public var before: String?, initialize: String?, prebuild: String?, command: String?
    /// Its own variables, in file order.
    public var environment: [EnvironmentVariable] = []
    /// What `workspacekit.tasks` says about it.
    public var options = UnitOptions()
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
    /// `nat` or `copy`.
    public var addresses: String?
    /// The workspace's IPv4 network; nil: one that the container does not use.
    public var cidr: String?
    /// `auto`, `tap` or `packet`.
    public var link: String?
    /// Sockets at native speed, by seccomp.
    public var bypass: Bool?
    /// Ports of the container's loopback to be reachable.
    public var hostLoopback: [PortAndProtocol] = []
    /// Name servers and search domains; empty for the container's.
    public var nameServers: [String] = [], searchDomains: [String] = []
    /// Where the workspace may connect to.
    public var egress = EgressSpec()
    /// Ports outside that always lead inside.
    public var forwards: [ForwardSpec] = []
}

/// `workspacekit.filesystem`. Paths are absolute.
public struct FilesystemSpec: Hashable, Sendable {
    /// `shared`, `read-only` or `private`.
    public var root: String?
    /// Directories in which the workspace's root makes files that stay, or at least does so even where the container does not
    /// let it.
    public var writable: [String] = []
    /// Files and directories that are empty inside.
    public var hidden: [String] = []
}

/// `workspacekit.network.egress`.
public struct EgressSpec: Hashable, Sendable {
    /// What holds for flows that no rule names; nil: allowed.
    public var isAllowedByDefault: Bool?
    public var allowed: [EgressRule] = [], denied: [EgressRule] = []
    /// Rules at most.
    public static let ruleLimit = 400

    /// It says nothing that is not so anyway.
    public var isEmpty: Bool { isAllowedByDefault != false && allowed.isEmpty && denied.isEmpty }
}
