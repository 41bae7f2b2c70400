public import Config
public import Kernel

/// A task or service as the engine sees it: what decides about its life, nothing of how it is started.
public struct UnitSpec: Hashable, Sendable {
    /// What a unit is, which decides when it stops and what its end means.
    public enum Kind: String, Sendable {
        /// A task of Gitpod's: runs once.
        case task
        /// Restarted by its policy.
        case service
        /// The command of `run -- COMMAND`: its end is the workspace's.
        case command
    }
    /// The name users know it by.
    public var name: String
    /// What it is.
    public var kind: Kind
    /// Whether its end is followed by another start.
    public var restart = RestartPolicy.no
    /// What asks it to end.
    public var stopSignal = Signal.terminate
    /// How long it may take to end before it is killed.
    public var stopGrace = Duration.seconds(5)
    /// The stop signal goes to its main process only, and what is left when that has ended is killed (`kill_mode: mixed`).
    public var stopsMainOnly = false
    /// When it ends for good, the workspace ends with its status.
    public var isEssential = false
    /// What must have happened before it starts.
    public var dependencies: [UnitDependency] = []
    /// How it is found to be healthy, and when it is asked.
    public var healthcheck: HealthcheckSpec?
    /// It says that it lives at least so often; nil: it need not.
    public var watchdog: Duration?
    /// Exit codes that are a success besides 0.
    public var successCodes: Set<UInt8> = []
    /// How long it may take to say that it is ready; nil: for ever.
    public var readyTimeout: Duration?
    /// Something is to run before it is asked to end.
    public var hasPreStop = false
    /// It says itself when it is ready.
    public var awaitsReadiness = false
    /// It starts when somebody connects to one of its sockets.
    public var isSocketActivated = false
    /// Why it is not to be started; nil to start it.
    public var skipped: String?

    /// A unit with defaults.
    public init(name: String, kind: Kind) {
        self.name = name
        self.kind = kind
    }
}

/// Something that must have happened to another unit.
public struct UnitDependency: Hashable, Sendable {
    /// The other's name.
    public var name: String
    /// What must have happened.
    public var condition: DependencySpec.Condition
    /// Whether who depends on it cannot do without.
    public var isRequired: Bool

    /// A dependency.
    public init(_ name: String, _ condition: DependencySpec.Condition, isRequired: Bool = true) {
        self.name = name
        self.condition = condition
        self.isRequired = isRequired
    }
}

/// What follows when a process has ended that was asked to.
public enum AfterStop: String, Sendable {
    case stay
    case start
    /// It was unhealthy, or not ready in time: another start, or none, as after a failure.
    case unhealthy
    case notReady
}

/// Where a unit stands. Each case holds what is valid then.
public enum UnitState: Hashable, Sendable {
    case waiting
    /// Its sockets are there; it starts when somebody connects, or something that depends on it wants to start.
    case listening
    /// Asked to be started.
    case starting
    case running(pid: Int32, since: MonotonicInstant)
    /// The next try comes; `delay` is what was waited for.
    case backingOff(until: MonotonicInstant, delay: Duration, last: Ending)
    /// Asked to end; killed at `killAt`.
    case stopping(pid: Int32, killAt: MonotonicInstant, then: AfterStop)
    /// Asked to end, and its process has; others of its group have not, or it is not known yet.
    case leaving(Leftovers)
    /// It ended, and stays so.
    case ended(Ending, byRequest: Bool)
    case skipped(String)

    /// The process, while there is one.
    var pid: Int32? {
        switch self {
        case .running(let pid, _), .stopping(let pid, _, _): pid
        default: nil
        }
    }

    /// Whether a process of it may exist.
    var hasProcess: Bool {
        switch self {
        case .starting, .running, .stopping, .leaving: true
        default: false
        }
    }

    /// A unit that was asked to end, with something else to follow; any other stays as it is.
    func followed(by next: AfterStop) -> UnitState {
        switch self {
        case .stopping(let pid, let killAt, _): return .stopping(pid: pid, killAt: killAt, then: next)
        case .leaving(var left):
            left.next = next
            return .leaving(left)
        default: return self
        }
    }
}

/// What a process that was asked to end has left, and how long for.
public struct Leftovers: Hashable, Sendable {
    /// How often one looks whether they are gone.
    static let lookInterval = Duration.milliseconds(25)
    /// The process group, named by the process that has ended.
    public var group: Int32
    /// Killed then.
    var killAt: MonotonicInstant
    /// When to look next.
    var lookAt: MonotonicInstant
    /// What follows.
    var next: AfterStop
    /// How the process ended.
    var ending: Ending
}

/// How a unit's process ended, or why it never was one.
public enum Ending: Hashable, Sendable, CustomStringConvertible {
    case exited(ExitStatus)
    /// It could not be started.
    case notStarted(String, code: UInt8 = 127)
    /// Its healthcheck failed, and it was stopped for that; how it ended then.
    case unhealthy(ExitStatus, because: String)
    /// It did not say in time that it is ready, and was stopped for that; how it ended then.
    case notReady(ExitStatus)
    /// It exited with a code that is a success for it.
    case succeeded(ExitStatus)
    /// Connections started it again and again, and it ended each time.
    case activatedTooOften
    /// The kernel killed it, or what it needed, for want of memory; `isCertain`: in its own cgroup, not just somewhere.
    case outOfMemory(ExitStatus, isCertain: Bool)

    /// The shell's number for it; 126 or 127 for what could not be started.
    public var code: UInt8 {
        switch self {
        case .notStarted(_, let code): code
        case .activatedTooOften: 1
        default: status?.code ?? 1
        }
    }
    /// How the process ended; nil where there was none.
    var status: ExitStatus? {
        switch self {
        case .exited(let status), .outOfMemory(let status, _), .succeeded(let status), .unhealthy(let status, _),
            .notReady(let status):
            status
        case .notStarted, .activatedTooOften: nil
        }
    }
    /// Whether it exited with 0, or with another code that is a success for it.
    public var isSuccess: Bool { if case .succeeded = self { true } else { self == .exited(.exited(0)) } }
    /// Whether there was a process at all.
    var wasStarted: Bool { if case .notStarted = self { false } else { true } }
    /// In words.
    public var description: String {
        switch self {
        case .exited(let status): status.description
        case .notStarted(let reason, _): reason
        case .unhealthy(_, let reason): reason.isEmpty ? "unhealthy" : "unhealthy: \(reason)"
        case .notReady: "not ready in time"
        case .activatedTooOften:
            "connections started it more than \(ActivationLimit.burst) times within "
                + "\(ActivationLimit.interval.components.seconds) s"
        case .succeeded(let status): "\(status), a success"
        case .outOfMemory(let status, let isCertain): "\(status), \(isCertain ? "" : "probably ")out of memory"
        }
    }
}

/// How long to wait before a service is tried again: 500 ms, doubled up to 30 s, with up to 10 % added so that services
/// which fail together do not return together; forgotten after 30 s of running.
struct Backoff: Hashable, Sendable {
    static let first = Duration.milliseconds(500), cap = Duration.seconds(30), forgottenAfter = Duration.seconds(30)
    private(set) var failures: Int
    /// Starts in a row that failed because processes, descriptors or memory were exhausted: not failures of the unit.
    private var shortages = 0

    /// After so many failures in a row.
    init(failures: Int = 0) { self.failures = failures }

    /// The failures in a row before this one.
    func failures(ranFor uptime: Duration) -> Int { uptime >= Self.forgottenAfter ? 0 : failures }

    /// The delay for the next try. `random` is any number; it decides the jitter.
    mutating func next(ranFor uptime: Duration, random: UInt64) -> Duration {
        failures = failures(ranFor: uptime) + 1
        shortages = 0
        return delay(failures, random: random)
    }

    /// The delay for the next try after a start that failed for lack of resources.
    mutating func nextAfterShortage(random: UInt64) -> Duration {
        shortages += 1
        return delay(shortages, random: random)
    }

    private func delay(_ tries: Int, random: UInt64) -> Duration {
        let delay = min(Self.first * Double(1 << min(tries - 1, 10)), Self.cap)
        return delay + delay * (Double(random % 1000) / 10_000)
    }
}
