/// What a client asks over the control socket: one JSON object on a line; `exec` sends descriptors beside it.
public struct ControlRequest: Codable, Hashable, Sendable {
    /// What is asked.
    public enum Verb: String, Codable, Sendable {
        case status, usage, metrics, variables, netStatus, netReset, netFlows, netCapture, start, stop, restart, signal,
            wait, tail,
            exec, plan, reload, ports,
            syncDone,
            syncAwait,
            attach
    }
    /// What is asked.
    public var verb: Verb
    /// The units, for `start`, `stop`, `restart`, `signal` and `wait`; without, `stop` means the workspace. The name of the
    /// point, for `syncDone` and `syncAwait`.
    public var names: [String]?
    /// For `signal`.
    public var signal: String?
    /// For `signal`: to the main processes only.
    public var mainOnly: Bool?
    /// For `wait`.
    public var condition: WaitCondition?
    /// The program and its arguments, for `exec`.
    public var command: [String]?
    /// Run it on a terminal of the workspace's; the answer brings the terminal's other side.
    public var terminal: Bool?
    /// The size that this terminal has when the program starts; the caller's.
    public var rows: UInt16?, columns: UInt16?
    /// Whom to run it as, for `exec`.
    public var user: String?
    /// Where to run it, for `exec`.
    public var directory: String?
    /// For `restart`: the `init` of tasks runs again.
    public var runsInit: Bool?
    /// For `stop`: those that need them too.
    public var force: Bool?
    /// For `start`, `stop`, `restart` and `reload`: answer when the request is taken, not when it has taken effect.
    public var noWait: Bool?
    /// For `attach`: without the terminal itself; with what was printed last.
    public var readOnly: Bool?, replay: Bool?
    /// The last descriptor beside the request is the client's user namespace (``ControlResponse/wantsProof``).
    public var hasProof: Bool?
    /// `NAME=value`, besides the workspace's environment; for `variables`: to be put down, where `names` are taken away.
    public var environment: [String]?

    /// A request without particulars.
    public init(_ verb: Verb) { self.verb = verb }
}

/// What `wait` may wait for.
public enum WaitCondition: String, Codable, Sendable, CaseIterable {
    /// It has, or had, a process.
    case started
    /// It said that it is ready, or its healthcheck succeeded once, or neither is asked of it.
    case ready
    /// Its healthcheck succeeds.
    case healthy
    /// It ended with success.
    case completed
    /// It has ended, or never ran, and nothing starts it by itself.
    case stopped
}

/// What the supervisor answers: one JSON object on a line. `exec` is answered twice: when it runs, and when it ended;
/// `reload` with `noWait` unset too: with the plan, and when it has taken effect.
public struct ControlResponse: Codable, Hashable, Sendable {
    /// The client is to ask again, with a descriptor of its user namespace: that shows that it is no process of another
    /// workspace.
    public var wantsProof: Bool?
    /// Why not; nil when it was done.
    public var error: String?
    /// For `status`.
    public var status: WorkspaceStatus?
    /// For `netStatus` and `netReset`.
    public var link: LinkStatus?
    /// For `netFlows`, whose answer brings the table.
    public var owners: [FlowOwner]?
    /// For `variables`: `NAME=value` of all that the user has put down.
    public var variables: [String]?
    /// For `metrics`.
    public var text: String?
    /// For `usage`.
    public var usage: [UnitUsage]?
    /// The exit code of an `exec` that ended.
    public var exitCode: UInt8?
    /// For `plan` and `reload`.
    public var plan: ReloadPlan?
    /// For `ports`.
    public var ports: [PortStatus]?
    /// For `attach`, whose answer brings the terminal to the one who may type; the unit's output follows as it is.
    public var isWriter: Bool?
    /// For `tail`: what could not be written to the units' logs and is kept in memory.
    public var tails: [String: [UInt8]]?

    /// An answer.
    public init(
        error: String? = nil, status: WorkspaceStatus? = nil, exitCode: UInt8? = nil, plan: ReloadPlan? = nil
    ) {
        self.plan = plan
        self.error = error
        self.status = status
        self.exitCode = exitCode
    }
}

/// What `status` shows.
public struct WorkspaceStatus: Codable, Hashable, Sendable {
    /// `running` or `stopping`.
    public var state: String
    /// `full`, `shared-pid` or `supervise-only`: what of it all is the workspace's own.
    public var isolation: String
    /// Services, tasks, then the command.
    public var units: [UnitStatus]
    /// What of the workspace's network is not as it was made; nil for nothing.
    public var problems: [String]?
    /// How a problem ends that `net reset` cannot mend.
    public static let restartCure = "restart the workspace"
    /// The user outside who is root inside, where that is not the container's own root who started the workspace; else nil.
    public var rootOutside: UInt32?
    /// How often the forwarder ended and was started again, with all open connections reset; nil: never.
    public var forwarderRestarts: Int?

    /// A status.
    public init(state: String, isolation: String, units: [UnitStatus]) {
        self.state = state
        self.isolation = isolation
        self.units = units
    }
}

/// One task or service.
public struct UnitStatus: Codable, Hashable, Sendable {
    /// As in the configuration.
    public var name: String
    /// `task`, `service` or `command`.
    public var kind: String
    /// `waiting`, `blocked`, `listening`, `running`, `backing off`, `stopping`, `completed`, `failed`, `stopped` or `skipped`.
    public var state: String
    /// While it has a process; as the workspace numbers it.
    public var pid: Int32?
    /// The exit code it ended with last: 128 + n for signal n.
    public var exitCode: UInt8?
    /// How it ended last, in words; or why it was skipped.
    public var reason: String?
    /// Its last process ended for want of memory; nil: it did not, or nobody could know.
    public var isOutOfMemory: Bool?
    /// How often that has happened.
    public var outOfMemoryKills = 0
    /// Starts after the first.
    public var restarts: Int
    /// While it waits: for what.
    public var waitsFor: [String]?
    /// While it runs: whether it said so, or was healthy once, or neither is asked of it.
    public var isReady: Bool?
    /// While it runs and has a healthcheck that has said something: what.
    public var isHealthy: Bool?
    /// How the last probe of its healthcheck failed: its exit code or why it could not run, and the last line it printed.
    public var probeFailure: String?
    /// It runs on a terminal (`tty: true`).
    public var hasTerminal: Bool?
    /// What it says of itself (STATUS= of sd_notify(3)).
    public var statusText: String?
    /// The delay before the next try, and what is left of it, in seconds.
    public var backoffSeconds: Double?
    /// What is left of the delay.
    public var nextTrySeconds: Double?
    /// While it stops: how long until it is killed, in seconds.
    public var killSeconds: Double?
    /// How long it has run, in seconds.
    public var uptimeSeconds: Double?

    /// Its state for people: that a process is there is not all that one wants to know.
    public var word: String {
        guard state == "running" else { return state }
        if isHealthy == false { return "unhealthy" }
        return isReady == false ? "starting" : "running"
    }

    /// What is missing until one may say that the workspace is ready; nil: nothing. A task that has ended has done its part,
    /// and a service that waits for its first connection is there for it.
    public var missing: String? {
        switch state {
        case "completed", "stopped", "skipped", "listening": nil
        case "failed": kind == "service" ? "\(name) has failed" : nil
        case "running": word == "running" ? nil : "\(name) is \(word)"
        default: "\(name) is \(state)"
        }
    }

    /// A unit that has not run yet.
    public init(name: String, kind: String, state: String, restarts: Int) {
        self.name = name
        self.kind = kind
        self.state = state
        self.restarts = restarts
    }
}

/// The interface that leads out of the workspace.
public struct LinkStatus: Codable, Hashable, Sendable {
    /// Its name.
    public let name: String
    /// As it was made.
    public let mtu: Int
    /// Its addresses and the default gateways, as they were made.
    public let addresses: [String], gateways: [String]
    /// What is not so any more.
    public let problems: [String]
    /// The container's networks that the workspace's own ones hide from it; nil where that cannot be seen, as from inside.
    public var hidden: [String]?

    /// A link as it was made, and what has become of it.
    public init(name: String, mtu: Int, addresses: [String], gateways: [String], problems: [String]) {
        self.name = name
        self.mtu = mtu
        self.addresses = addresses
        self.gateways = gateways
        self.problems = problems
    }
}

/// Who inside holds a TCP connection.
public struct FlowOwner: Codable, Hashable, Sendable {
    /// Its ends, as the workspace has them.
    public let local: String, remote: String
    /// The process, as the workspace numbers it, and its name.
    public let pid: Int32, process: String
    /// The task or service that it is of.
    public let unit: String?

    /// An owner.
    public init(local: String, remote: String, pid: Int32, process: String, unit: String?) {
        self.local = local
        self.remote = remote
        self.pid = pid
        self.process = process
        self.unit = unit
    }
}

/// What the processes of a task or service use together.
public struct UnitUsage: Codable, Hashable, Sendable {
    /// As in the configuration.
    public var name: String
    /// How many there are.
    public var processes = 0
    /// Processor time, in seconds; of processes that have ended only where their parent collected them, or in a cgroup.
    public var processorSeconds = 0.0
    /// Memory, in bytes; what several share counts for each, but in a cgroup.
    public var memoryBytes: UInt64 = 0
    /// What their TCP connections have carried that were there when somebody asked.
    public var receivedBytes: UInt64 = 0, sentBytes: UInt64 = 0

    /// A unit that uses nothing.
    public init(name: String) { self.name = name }
}

/// A port on which something listens inside, or that is declared.
public struct PortStatus: Codable, Hashable, Sendable {
    /// The port.
    public var port: UInt16
    /// `tcp` or `udp`.
    public var transport: String
    /// Something listens.
    public var isListening: Bool
    /// The addresses on which something listens.
    public var addresses: [String] = []
    /// By the configuration.
    public var isDeclared = false
    public var name: String?, description: String?
    /// `http` or `https`, where a browser has something to open; nil for other ports, and where nothing is known.
    public var `protocol`: String?
    /// Who listens, as the workspace numbers processes.
    public var pid: Int32?
    /// Its name in ps.
    public var process: String?
    /// The task or service that it belongs to.
    public var unit: String?

    /// A port of which nothing else is known.
    public init(port: UInt16, transport: String, isListening: Bool) {
        self.port = port
        self.transport = transport
        self.isListening = isListening
    }
}

/// One thing that a reload of the configuration does, or would do.
public struct ReloadChange: Codable, Hashable, Sendable {
    /// What happens to it.
    public enum Action: String, Codable, Sendable {
        case start, restart, adjust, stop, skip
        case atNextStart = "at next start"
    }
    /// `service`, `task`, `port` or `setting`.
    public var kind: String
    /// Its name; a port's number or range; a setting's key.
    public var name: String
    /// What happens to it.
    public var action: Action
    /// The keys that changed, or why it is skipped.
    public var because: [String]

    /// A change.
    public init(kind: String, name: String, action: Action, because: [String]) {
        self.kind = kind
        self.name = name
        self.action = action
        self.because = because
    }
}

/// What `plan` shows and `reload` does.
public struct ReloadPlan: Codable, Hashable, Sendable {
    /// In the order in which they are done.
    public var changes: [ReloadChange] = []
    /// What there is to say about the configuration, as people read it.
    public var diagnostics: [String] = []
    /// Whether the configuration can be used; nothing changes when it cannot.
    public var isValid = true

    /// A plan without changes.
    public init() {}
}

extension ReloadChange {
    /// `task web: restart (command)`.
    public var sentence: String {
        let reasons = because.isEmpty ? "" : " (\(because.joined(separator: ", ")))"
        let verb =
            switch (kind, action) {
            case ("port", .start): "declared"
            case ("port", .stop): "no longer declared"
            case (_, .adjust): "changed, without a restart"
            case (_, .atNextStart): "takes effect at the next start of the workspace"
            case (_, .skip): "skipped"
            default: action.rawValue
            }
        return "\(kind) \(name): \(verb)\(reasons)"
    }
}

/// What became of a task in a prebuild.
public struct PrebuildResult: Codable, Hashable, Sendable {
    /// The task.
    public var name: String
    /// All of its phases ended with 0.
    public var succeeded: Bool
    /// What it ended with; nil if it never ran.
    public var exitCode: UInt8?
    /// Why it did not succeed.
    public var reason: String?
    /// How long it ran.
    public var seconds: Double?

    /// A result without particulars.
    public init(name: String, succeeded: Bool) {
        self.name = name
        self.succeeded = succeeded
    }
}
