internal import Config
public import Kernel

/// # Theory of operation
///
/// The life of all units as one pure machine: it takes an event and the time and says what to do. It reads no clock,
/// starts no process and allocates only when something happens.
///
///     waiting ─▶ starting ─▶ running ─▶ ended
///                   ▲            │ └──▶ backingOff ─▶ starting         (services, by policy)
///                   └── stopping ◀┘ (restart)
///
/// Shutdown goes in ranks: tasks and the command first, services when those are gone, so that a task may still use a
/// service while it ends. Each unit gets its stop signal, then SIGKILL after its own grace; the budget for everything
/// ends with SIGKILL for all. It is over when no unit has a process.
///
/// The units may change while they run: `added`, `redefined` (it runs anew by its new definition), `adjusted` (only what
/// is asked of it changed: it goes on) and `removed`. A unit keeps its place for ever, so that an id means one thing.
///
/// Invariants (tests generate histories against them): at most one process per unit; nothing is started once a shutdown
/// began; `finish` is said once, and no unit has a process then, or the budget and a second are over.
public struct Engine: Sendable {
    /// A unit's place in ``specs``.
    public typealias UnitID = Int

    /// What happened.
    public enum Event: Sendable {
        case begun
        case spawned(UnitID, pid: Int32)
        case spawnFailed(UnitID, reason: String)
        /// A process ended; it may be nobody's.
        case exited(pid: Int32, ExitStatus)
        case restartRequested(UnitID)
        /// A new unit, which takes the next place.
        case added(UnitSpec)
        /// The unit is another now, and runs anew.
        case redefined(UnitID, UnitSpec)
        /// What is asked of the unit is other now; its process stays.
        case adjusted(UnitID, UnitSpec)
        /// The unit is no longer wanted.
        case removed(UnitID)
        case shutdownRequested
    }

    /// What the driver is to do, in order.
    public enum Action: Hashable, Sendable {
        case spawn(UnitID)
        /// Signal the unit's process group.
        case signal(pid: Int32, Signal)
        /// A unit's main process is gone and its group with it.
        case killGroup(pid: Int32)
        /// A line for the user.
        case report(UnitID, String)
        /// Everything is over; the workspace ends with this code.
        case finish(UInt8)
    }

    private enum Phase: Hashable, Sendable {
        case running
        /// Ends the units of rank `rank`, then the next.
        case stopping(rank: Int, deadline: MonotonicInstant)
        case finished
    }

    /// The units, by ``UnitID``.
    public private(set) var specs: [UnitSpec]
    /// Where each unit stands, by ``UnitID``.
    public private(set) var states: [UnitState]
    /// Starts after the first, by unit.
    public private(set) var restarts: [Int]
    /// How each unit ended last; nil before its first end.
    public private(set) var lastEndings: [Ending?]
    /// Units that are no longer wanted.
    public private(set) var isRemoved: [Bool]
    private var backoffs: [Backoff]
    private var phase = Phase.running
    private var exitCode: UInt8 = 0
    private let budget: Duration
    private var random: UInt64

    /// - Parameters:
    ///   - budget: how long a shutdown may take before everything is killed.
    ///   - seed: any number; the jitter of delays follows from it.
    public init(_ specs: [UnitSpec], budget: Duration, seed: UInt64) {
        self.specs = specs
        self.budget = budget
        states = specs.map { $0.skipped.map { .skipped($0) } ?? .waiting }
        restarts = specs.map { _ in 0 }
        lastEndings = specs.map { _ in nil }
        backoffs = specs.map { _ in Backoff() }
        isRemoved = specs.map { _ in false }
        random = seed | 1
    }

    /// A shutdown has begun.
    public var isStopping: Bool { phase != .running }

    /// Takes an event that happened at `now`.
    public mutating func handle(_ event: Event, at now: MonotonicInstant, into actions: inout [Action]) {
        switch event {
        case .begun:
            for id in specs.indices {
                if case .skipped(let reason) = states[id] { actions.append(.report(id, "skipped: \(reason)")) }
            }
            // Services before tasks: a task is likely to need one.
            for id in specs.indices where states[id] == .waiting && specs[id].kind == .service { start(id, &actions) }
            for id in specs.indices where states[id] == .waiting { start(id, &actions) }
        case .spawned(let id, let pid):
            states[id] = .running(pid: pid, since: now)
            if isStopping || isRemoved[id] { stop(id, at: now, thenRestart: false, &actions) }
        case .spawnFailed(let id, let reason):
            ended(id, .notStarted(reason), uptime: .zero, at: now, &actions)
        case .exited(let pid, let status): exited(pid, status, at: now, &actions)
        case .restartRequested(let id): restart(id, at: now, &actions)
        case .added(let spec): add(spec, &actions)
        case .redefined(let id, let spec): redefine(id, spec, at: now, &actions)
        case .adjusted(let id, let spec): if specs[id].skipped == spec.skipped { specs[id] = spec }
        case .removed(let id): remove(id, at: now, &actions)
        case .shutdownRequested: beginShutdown(code: exitCode, at: now, &actions)
        }
        proceedShutdown(at: now, &actions)
    }

    /// Does what is due at `now`.
    public mutating func advance(to now: MonotonicInstant, into actions: inout [Action]) {
        for id in specs.indices {
            switch states[id] {
            case .backingOff(let until, _, _) where until <= now && !isStopping:
                restarts[id] += 1
                start(id, &actions)
            case .stopping(let pid, let killAt, let thenRestart) where killAt <= now:
                actions.append(.report(id, "did not end within its grace: killed"))
                actions.append(.signal(pid: pid, .kill))
                states[id] = .stopping(pid: pid, killAt: now + .seconds(5), thenRestart: thenRestart)
            default: break
            }
        }
        if case .stopping(_, let deadline) = phase, deadline <= now {
            for id in specs.indices {
                switch states[id] {
                case .running(let pid, _), .stopping(let pid, _, _):
                    actions.append(.signal(pid: pid, .kill))
                    states[id] = .stopping(pid: pid, killAt: now + .seconds(5), thenRestart: false)
                default: break
                }
            }
            if deadline + .seconds(1) <= now {
                finish(&actions)
            } else {
                phase = .stopping(rank: .max, deadline: deadline)
            }
        }
        proceedShutdown(at: now, &actions)
    }

    /// When ``advance(to:into:)`` is due next; nil: only an event can change anything.
    public var nextDeadline: MonotonicInstant? {
        var next: MonotonicInstant?
        for state in states {
            switch state {
            case .backingOff(let until, _, _) where !isStopping: next = min(next ?? until, until)
            case .stopping(_, let killAt, _): next = min(next ?? killAt, killAt)
            default: break
            }
        }
        if case .stopping(let rank, let deadline) = phase {
            let due = rank == .max ? deadline + .seconds(1) : deadline
            next = min(next ?? due, due)
        }
        return next
    }

    // MARK: one unit

    private mutating func start(_ id: UnitID, _ actions: inout [Action]) {
        if let reason = specs[id].skipped {
            states[id] = .skipped(reason)
            actions.append(.report(id, "skipped: \(reason)"))
            return
        }
        states[id] = .starting
        actions.append(.spawn(id))
    }

    private mutating func exited(
        _ pid: Int32, _ status: ExitStatus, at now: MonotonicInstant, _ actions: inout [Action]
    ) {
        for id in specs.indices {
            switch states[id] {
            case .running(pid, let since):
                if specs[id].kind == .service { actions.append(.killGroup(pid: pid)) }
                return ended(id, .exited(status), uptime: now - since, at: now, &actions)
            case .stopping(pid, _, let thenRestart):
                if specs[id].kind != .task { actions.append(.killGroup(pid: pid)) }
                lastEndings[id] = .exited(status)
                if specs[id].kind == .command { exitCode = status.code }
                states[id] = .ended(.exited(status), byRequest: true)
                if thenRestart, !isStopping {
                    restarts[id] += 1
                    start(id, &actions)
                }
                return
            default: continue
            }
        }
    }

    private mutating func ended(
        _ id: UnitID, _ ending: Ending, uptime: Duration, at now: MonotonicInstant, _ actions: inout [Action]
    ) {
        let spec = specs[id]
        lastEndings[id] = ending
        let again: Bool =
            switch spec.restart {
            case .no: false
            case .always, .unlessStopped: true
            case .onFailure: !ending.isSuccess
            }
        if again, !isStopping, !isRemoved[id] {
            let delay = backoffs[id].next(ranFor: uptime, random: nextRandom())
            if case .onFailure(let limit) = spec.restart, backoffs[id].failures > limit {
                actions.append(.report(id, "\(ending): given up after \(limit) failures in a row"))
            } else {
                states[id] = .backingOff(until: now + delay, delay: delay, last: ending)
                actions.append(.report(id, "\(ending): next start in \(format(delay))"))
                return
            }
        } else if spec.kind != .command, !ending.isSuccess || spec.kind == .service {
            actions.append(.report(id, "ended: \(ending)"))
        }
        if case .notStarted(let reason) = ending, spec.kind == .command { actions.append(.report(id, reason)) }
        states[id] = .ended(ending, byRequest: false)
        if spec.kind == .command || spec.isEssential, !isRemoved[id] {
            beginShutdown(code: ending.code, at: now, &actions)
        }
    }

    private mutating func restart(_ id: UnitID, at now: MonotonicInstant, _ actions: inout [Action]) {
        guard !isStopping, !isRemoved[id] else { return }
        switch states[id] {
        case .running: stop(id, at: now, thenRestart: true, &actions)
        case .stopping(let pid, let killAt, _): states[id] = .stopping(pid: pid, killAt: killAt, thenRestart: true)
        case .backingOff, .ended:
            backoffs[id] = Backoff()
            restarts[id] += 1
            start(id, &actions)
        case .waiting, .starting, .skipped: break
        }
    }

    private mutating func stop(
        _ id: UnitID, at now: MonotonicInstant, thenRestart: Bool, _ actions: inout [Action]
    ) {
        guard case .running(let pid, _) = states[id] else { return }
        actions.append(.signal(pid: pid, specs[id].stopSignal))
        states[id] = .stopping(pid: pid, killAt: now + specs[id].stopGrace, thenRestart: thenRestart)
    }

    // MARK: change

    private mutating func add(_ spec: UnitSpec, _ actions: inout [Action]) {
        specs.append(spec)
        states.append(.waiting)
        restarts.append(0)
        lastEndings.append(nil)
        backoffs.append(Backoff())
        isRemoved.append(false)
        if isStopping {
            states[specs.count - 1] = .skipped("the workspace stopped first")
        } else {
            start(specs.count - 1, &actions)
        }
    }

    private mutating func redefine(
        _ id: UnitID, _ spec: UnitSpec, at now: MonotonicInstant, _ actions: inout [Action]
    ) {
        let signal = specs[id].stopSignal
        let grace = specs[id].stopGrace
        specs[id] = spec
        isRemoved[id] = false
        guard !isStopping else { return }
        backoffs[id] = Backoff()
        switch states[id] {
        case .running(let pid, _):
            // What runs is asked to end in the way that it was started for.
            actions.append(.signal(pid: pid, signal))
            states[id] = .stopping(pid: pid, killAt: now + grace, thenRestart: true)
        case .stopping(let pid, let killAt, _): states[id] = .stopping(pid: pid, killAt: killAt, thenRestart: true)
        case .starting: break
        case .waiting, .backingOff, .ended, .skipped:
            if lastEndings[id] != nil { restarts[id] += 1 }
            start(id, &actions)
        }
    }

    private mutating func remove(_ id: UnitID, at now: MonotonicInstant, _ actions: inout [Action]) {
        isRemoved[id] = true
        switch states[id] {
        case .running: stop(id, at: now, thenRestart: false, &actions)
        case .stopping(let pid, let killAt, _): states[id] = .stopping(pid: pid, killAt: killAt, thenRestart: false)
        case .backingOff(_, _, let last): states[id] = .ended(last, byRequest: true)
        case .waiting: states[id] = .skipped("no longer wanted")
        case .starting, .ended, .skipped: break
        }
    }

    // MARK: shutdown

    private static func rank(_ kind: UnitSpec.Kind) -> Int { kind == .service ? 1 : 0 }

    private mutating func beginShutdown(code: UInt8, at now: MonotonicInstant, _ actions: inout [Action]) {
        guard phase == .running else { return }
        exitCode = code
        phase = .stopping(rank: -1, deadline: now + budget)
        for id in specs.indices {
            switch states[id] {
            case .waiting: states[id] = .skipped("the workspace stopped first")
            case .backingOff(_, _, let last): states[id] = .ended(last, byRequest: true)
            default: break
            }
        }
    }

    /// Goes on to the next rank once the present one has no process left.
    private mutating func proceedShutdown(at now: MonotonicInstant, _ actions: inout [Action]) {
        while case .stopping(let rank, let deadline) = phase {
            let busy = specs.indices.contains { Self.rank(specs[$0].kind) <= rank && states[$0].hasProcess }
            if busy { return }
            if rank >= 1 { return finish(&actions) }
            phase = .stopping(rank: rank + 1, deadline: deadline)
            for id in specs.indices.reversed() where Self.rank(specs[id].kind) == rank + 1 {
                stop(id, at: now, thenRestart: false, &actions)
            }
        }
    }

    private mutating func finish(_ actions: inout [Action]) {
        guard phase != .finished else { return }
        phase = .finished
        actions.append(.finish(exitCode))
    }

    /// xorshift64: enough for jitter.
    private mutating func nextRandom() -> UInt64 {
        random ^= random << 13
        random ^= random >> 7
        random ^= random << 17
        return random
    }

    private func format(_ duration: Duration) -> String {
        let milliseconds = duration.nanoseconds / 1_000_000
        return milliseconds < 1000 ? "\(milliseconds) ms" : "\(milliseconds / 1000).\(milliseconds % 1000 / 100) s"
    }
}
