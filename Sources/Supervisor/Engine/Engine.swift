internal import Config
internal import Control
public import Kernel

/// # Theory of operation
///
/// The life of all units as one pure machine: it takes an event and the time and says what to do. It reads no clock,
/// starts no process and allocates only when something happens.
///
///     waiting ─▶ starting ─▶ running ─▶ ended
///                   ▲            │ └──▶ backingOff ─▶ starting         (by policy)
///                   └── stopping ◀┘ (restart, unhealthy)
///
/// A unit that was asked to end has ended when its process has and those of its group have too (`leaving`): a shell that
/// dies at once must not cost a database its orderly end. Both together have the unit's grace.
///
/// A unit waits until what it depends on has happened (`Dependencies.swift`). While it runs it is started; it is ready once
/// it said so, or was healthy once, or at once where neither is asked for; it is healthy while its healthcheck succeeds
/// (`Health.swift`). One that turns unhealthy is stopped and started anew, if its policy starts it anew at all.
///
/// A shutdown ends units in the reverse order of their dependencies (`Shutdown.swift`).
///
/// The units may change while they run: `added`, `redefined` (it runs anew by its new definition), `adjusted` (only what
/// is asked of it changed: it goes on) and `removed`. A unit keeps its place for ever, so that an id means one thing.
///
/// Invariants (tests generate histories against them): at most one process per unit; nothing is started before what it
/// depends on has happened, nor once a shutdown began; `finish` is said once, and no unit has a process then, or the
/// budget and a second are over.
public struct Engine: Sendable {
    /// A unit's place in ``specs``.
    public typealias UnitID = Int

    /// What happened.
    public enum Event: Sendable {
        case begun
        case spawned(UnitID, pid: Int32)
        /// The process could not be started. `isTemporary`: processes, descriptors or memory are exhausted now.
        case spawnFailed(UnitID, reason: String, code: UInt8 = 127, isTemporary: Bool = false)
        /// A socket of the unit could not be opened.
        case listenFailed(UnitID, reason: String)
        /// A process ended; it may be nobody's.
        case exited(pid: Int32, ExitStatus)
        /// A process ended for want of memory.
        case outOfMemory(pid: Int32, ExitStatus, isCertain: Bool)
        /// Another process is the unit's main one from now on: a daemon that has forked (MAINPID=).
        case replaced(UnitID, pid: Int32)
        /// The process group of a unit that was asked to end is empty.
        case groupEnded(UnitID)
        /// The unit says that it is ready: a newline, READY=1, a line of its log.
        case notifiedReady(UnitID)
        /// The unit says that it lives: WATCHDOG=1.
        case watchdogFed(UnitID)
        /// A probe ended, within its time or not.
        case probed(UnitID, number: Int, ProbeOutcome)
        /// Somebody connects to a socket of the unit's.
        case connectionArrived(UnitID)
        case startRequested(UnitID)
        /// These are to stop, each once none of the others needs it any more.
        case stopRequested([UnitID])
        /// What was to run before the unit is asked to end has ended.
        case preStopEnded(UnitID)
        case restartRequested(UnitID)
        /// A new unit, which takes the next place.
        case added(UnitSpec)
        /// The unit is another now, and runs anew.
        case redefined(UnitID, UnitSpec)
        /// What is asked of the unit is other now; its process stays.
        case adjusted(UnitID, UnitSpec)
        /// The unit is no longer wanted.
        case removed(UnitID)
        /// Nothing was handled for so long: the supervisor, or all of the workspace, was stopped or frozen. That time
        /// does not count as the silence of a unit.
        case stalled(Duration)
        case shutdownRequested
    }

    /// What the driver is to do, in order.
    public enum Action: Hashable, Sendable {
        case spawn(UnitID)
        /// Ask the unit's process group to end.
        case signal(pid: Int32, Signal)
        /// Ask the unit's main process alone to end.
        case signalMain(pid: Int32, Signal)
        /// Run what is to run before the unit is asked to end: ``Event/preStopEnded(_:)``.
        case preStop(UnitID)
        /// That is no longer waited for.
        case cancelPreStop(UnitID)
        /// Kill what is left of a unit: its process group, and whatever else of its processes can be found.
        case kill(UnitID, group: Int32)
        /// Look whether a unit's process group is empty, once ended processes are collected: ``Event/groupEnded(_:)``.
        case lookForGroup(UnitID, group: Int32)
        /// Ask the unit's healthcheck; `number` comes back with the answer.
        case probe(UnitID, number: Int)
        /// Nobody waits for this probe any more.
        case cancelProbe(UnitID, number: Int)
        /// A line for the user.
        case report(UnitID, String)
        /// A line for the user: the unit has ended by itself, in this way.
        case reportEnd(UnitID, Ending)
        /// Why the workspace ends, for the user.
        case announce(String)
        /// Everything is over; the workspace ends with this code.
        case finish(UInt8)
    }

    enum Phase: Hashable, Sendable {
        /// Nothing has begun.
        case created
        case running
        case stopping(deadline: MonotonicInstant, wasKilled: Bool)
        case finished
    }

    /// The units, by ``UnitID``.
    public internal(set) var specs: [UnitSpec]
    /// Where each unit stands, by ``UnitID``.
    public internal(set) var states: [UnitState]
    /// What is known of the health of each, by ``UnitID``.
    public internal(set) var health: [UnitHealth]
    /// Starts after the first, by unit.
    public internal(set) var restarts: [Int]
    /// Ends for want of memory, by unit.
    public internal(set) var outOfMemoryKills: [Int]
    /// How each unit ended last; nil before its first end.
    public internal(set) var lastEndings: [Ending?]
    /// Units that are no longer wanted.
    public internal(set) var isRemoved: [Bool]
    var backoffs: [Backoff]
    var activations: [ActivationLimit]
    /// Units that are to stop once nothing needs them any more.
    var toStop: Set<UnitID> = []
    /// Units whose last errand runs, before they are asked to end.
    var preStopping: Set<UnitID> = []
    /// The units that are wanted, by name.
    var places: [String: UnitID]
    /// The workspace ends when every task has come to its end, with 1 if one failed.
    public var endsWithTasks = false
    var phase = Phase.created
    var stopNews = StopNews()
    var exitCode: UInt8 = 0
    private let budget: Duration
    private var random: UInt64

    /// - Parameters:
    ///   - budget: how long a shutdown may take before everything is killed.
    ///   - seed: any number; the jitter of delays follows from it.
    public init(_ specs: [UnitSpec], budget: Duration, seed: UInt64) {
        self.specs = specs
        self.budget = budget
        states = specs.map { _ in .waiting }
        health = specs.map { _ in UnitHealth() }
        restarts = specs.map { _ in 0 }
        outOfMemoryKills = specs.map { _ in 0 }
        lastEndings = specs.map { _ in nil }
        backoffs = specs.map { _ in Backoff() }
        activations = specs.map { _ in ActivationLimit() }
        isRemoved = specs.map { _ in false }
        places = Self.places(specs, isRemoved)
        random = seed | 1
    }

    /// A shutdown has begun.
    public var isStopping: Bool {
        switch phase {
        case .created, .running: false
        case .stopping, .finished: true
        }
    }

    /// Takes an event that happened at `now`.
    public mutating func handle(_ event: Event, at now: MonotonicInstant, into actions: inout [Action]) {
        switch event {
        case .begun: phase = .running
        case .spawned(let id, let pid):
            states[id] = .running(pid: pid, since: now)
            health[id].begin(specs[id], at: now)
            if isStopping || isRemoved[id] { stop(id, at: now, then: .stay, &actions) }
        case .spawnFailed(let id, let reason, let code, let isTemporary):
            if isTemporary, !isStopping, !isRemoved[id] {
                backOff(
                    id, .notStarted(reason, code: code), backoffs[id].nextAfterShortage(random: nextRandom()), at: now,
                    &actions)
            } else {
                ended(id, .notStarted(reason, code: code), uptime: .zero, at: now, &actions)
            }
        case .listenFailed(let id, let reason):
            if states[id] == .listening { end(id, .notStarted(reason), at: now, &actions) }
        case .exited(let pid, let status): exited(pid, .exited(status), at: now, &actions)
        case .outOfMemory(let pid, let status, let isCertain):
            exited(pid, .outOfMemory(status, isCertain: isCertain), at: now, &actions)
        case .replaced(let id, let pid):
            if case .running(_, let since) = states[id] { states[id] = .running(pid: pid, since: since) }
        case .groupEnded(let id):
            if case .leaving(let left) = states[id] { settle(id, left, at: now, &actions) }
        case .notifiedReady(let id): if case .running = states[id] { health[id].isNotified = true }
        case .watchdogFed(let id): watchdogFed(id, at: now)
        case .probed(let id, let number, let outcome): probed(id, number, outcome, at: now, &actions)
        case .connectionArrived(let id): activate(id, at: now, &actions)
        case .startRequested(let id): start(byRequest: id, &actions)
        case .stopRequested(let ids): toStop.formUnion(ids)
        case .preStopEnded(let id):
            if preStopping.remove(id) != nil, case .stopping(let pid, _, _) = states[id] {
                actions.append(stopSignal(specs[id], pid))
            }
        case .restartRequested(let id): restart(id, at: now, &actions)
        case .added(let spec): add(spec)
        case .redefined(let id, let spec): redefine(id, spec, at: now, &actions)
        case .adjusted(let id, let spec): adjust(id, spec, at: now, &actions)
        case .removed(let id): remove(id, at: now, &actions)
        case .stalled(let duration): postpone(by: duration)
        case .shutdownRequested: beginShutdown(code: exitCode, at: now, &actions)
        }
        proceed(at: now, &actions)
    }

    /// Does what is due at `now`.
    public mutating func advance(to now: MonotonicInstant, into actions: inout [Action]) {
        for id in specs.indices {
            switch states[id] {
            case .backingOff(let until, _, _) where until <= now && !isStopping:
                restarts[id] += 1
                spawn(id, &actions)
            case .stopping(let pid, let killAt, let next) where killAt <= now:
                actions.append(.report(id, "did not end within its grace: killed"))
                cancelPreStop(id, &actions)
                actions.append(.kill(id, group: pid))
                states[id] = .stopping(pid: pid, killAt: now + .seconds(5), then: next)
            case .leaving(let left): advance(id, left, at: now, &actions)
            case .running: advanceHealth(id, at: now, &actions)
            default: break
            }
        }
        advanceShutdown(at: now, &actions)
        proceed(at: now, &actions)
    }

    /// When ``advance(to:into:)`` is due next; nil: only an event can change anything.
    public var nextDeadline: MonotonicInstant? {
        var next = shutdownDeadline
        for (id, state) in states.enumerated() {
            let due: MonotonicInstant? =
                switch state {
                case .backingOff(let until, _, _): isStopping ? nil : until
                case .stopping(_, let killAt, _): killAt
                case .leaving(let left): min(left.lookAt, left.killAt)
                case .running: isStopping ? nil : health[id].nextDeadline
                default: nil
                }
            if let due { next = min(next ?? due, due) }
        }
        return next
    }

    /// What follows from what has happened: units whose turn has come start, or end.
    private mutating func proceed(at now: MonotonicInstant, _ actions: inout [Action]) {
        switch phase {
        case .created, .finished: break
        case .running:
            stopWhatMay(at: now, &actions)
            startWhatMay(at: now, &actions)
            if endsWithTasks { endWithTasks(at: now, &actions) }
        case .stopping: proceedShutdown(at: now, &actions)
        }
    }

    private mutating func endWithTasks(at now: MonotonicInstant, _ actions: inout [Action]) {
        let tasks = specs.indices.filter { specs[$0].kind == .task && !isRemoved[$0] }
        guard tasks.allSatisfy({ hasCome(toItsEnd: $0) }) else { return }
        beginShutdown(code: tasks.allSatisfy { lastEndings[$0]?.isSuccess == true } ? 0 : 1, at: now, &actions)
        proceedShutdown(at: now, &actions)
    }

    private func hasCome(toItsEnd id: UnitID) -> Bool {
        switch states[id] {
        case .ended, .skipped: true
        case .waiting: isBlocked(id)
        default: false
        }
    }

    // MARK: shutdown's beginning

    mutating func beginShutdown(code: UInt8, at now: MonotonicInstant, _ actions: inout [Action]) {
        guard !isStopping else { return }
        exitCode = code
        phase = .stopping(deadline: now + budget, wasKilled: false)
        stopNews.begin(at: now)
        for id in specs.indices {
            cancelProbe(id, &actions)
            switch states[id] {
            case .waiting, .listening: states[id] = unstarted(id, "the workspace stopped first")
            case .backingOff(_, _, let last): states[id] = .ended(last, byRequest: true)
            default: break
            }
        }
    }

    /// xorshift64: enough for jitter.
    mutating func nextRandom() -> UInt64 {
        random ^= random << 13
        random ^= random >> 7
        random ^= random << 17
        return random
    }

    func format(_ duration: Duration) -> String {
        let milliseconds = duration.nanoseconds / 1_000_000
        return milliseconds < 1000 ? "\(milliseconds) ms" : "\(milliseconds / 1000).\(milliseconds % 1000 / 100) s"
    }
}
