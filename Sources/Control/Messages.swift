/// What a client asks over the control socket: one JSON object on a line; `exec` sends descriptors beside it.
public struct ControlRequest: Codable, Hashable, Sendable {
    public enum Verb: String, Codable, Sendable { case status, restart, stop, exec }
    public var verb: Verb
    /// The unit, for `restart`.
    public var name: String?
    /// The program and its arguments, for `exec`.
    public var command: [String]?
    /// Run it on a terminal of the workspace's; the answer brings the terminal's other side.
    public var terminal: Bool?
    public var user: String?
    public var directory: String?
    /// `NAME=value`, besides the workspace's environment.
    public var environment: [String]?

    public init(_ verb: Verb) { self.verb = verb }
}

/// What the supervisor answers: one JSON object on a line. `exec` is answered twice: when it runs, and when it ended.
public struct ControlResponse: Codable, Hashable, Sendable {
    /// Why not; nil when it was done.
    public var error: String?
    public var status: WorkspaceStatus?
    /// The exit code of an `exec` that ended.
    public var exitCode: UInt8?

    public init(error: String? = nil, status: WorkspaceStatus? = nil, exitCode: UInt8? = nil) {
        self.error = error
        self.status = status
        self.exitCode = exitCode
    }
}

/// What `status` shows.
public struct WorkspaceStatus: Codable, Hashable, Sendable {
    /// `running` or `stopping`.
    public var state: String
    public var units: [UnitStatus]

    public init(state: String, units: [UnitStatus]) {
        self.state = state
        self.units = units
    }
}

/// One task or service.
public struct UnitStatus: Codable, Hashable, Sendable {
    public var name: String
    /// `task`, `service` or `command`.
    public var kind: String
    /// `waiting`, `running`, `backing off`, `stopping`, `completed`, `failed`, `stopped` or `skipped`.
    public var state: String
    public var pid: Int32?
    /// The exit code it ended with last: 128 + n for signal n.
    public var exitCode: UInt8?
    /// How it ended last, in words; or why it was skipped.
    public var reason: String?
    /// Starts after the first.
    public var restarts: Int
    /// The delay before the next try, and what is left of it, in seconds.
    public var backoffSeconds: Double?
    public var nextTrySeconds: Double?
    /// How long it has run, in seconds.
    public var uptimeSeconds: Double?

    public init(name: String, kind: String, state: String, restarts: Int) {
        self.name = name
        self.kind = kind
        self.state = state
        self.restarts = restarts
    }
}
