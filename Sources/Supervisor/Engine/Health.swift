internal import Config
internal import Kernel

/// What a probe found.
public enum ProbeOutcome: Hashable, Sendable {
    case succeeded
    /// How it failed, in words.
    case failed(String)
    /// It could not be asked: processes, descriptors or memory are exhausted. That says nothing about the unit.
    case notAsked
}

/// # Theory of operation
///
/// A healthcheck is asked once an interval, and once more only when its answer has come or its time is over: there is
/// never more than one probe of a unit. Compose's words: so many failures in a row make it unhealthy, those within
/// `start_period` do not count, and within it the probes follow each other at `start_interval`.
///
/// A unit with a watchdog (sd_notify(3)) says itself that it lives; one that was silent for too long is stopped as an
/// unhealthy one is.
///
/// Ours besides: from the start until the first interval is over the probes begin at 100 ms and come at twice the distance
/// each time, and their failures do not count either. A service is found healthy when it is, not when a minute is over.
public struct UnitHealth: Hashable, Sendable {
    /// What is happening.
    enum Probing: Hashable, Sendable {
        /// Nothing is asked: there is no healthcheck, or no process.
        case off
        case due(MonotonicInstant)
        case asked(number: Int, deadline: MonotonicInstant)
    }
    /// It said itself that it is ready.
    public internal(set) var isNotified = false
    /// What the last probes found; nil before the first success or the last of the failures that count.
    public internal(set) var isHealthy: Bool?
    /// It was healthy once since its start.
    public internal(set) var wasHealthy = false
    /// Failures in a row that count.
    public internal(set) var failures = 0
    /// How the last probe failed, or that the watchdog was not fed; nil: it succeeded, or there was none.
    public internal(set) var lastFailure: String?
    var probing = Probing.off
    /// When the unit has to have said that it lives.
    var watchdogDue: MonotonicInstant?
    /// When the unit has to have said that it is ready.
    var readyDue: MonotonicInstant?
    private var startedAt = MonotonicInstant(nanoseconds: 0)
    private var number = 0
    private var earlyDelay = Duration.zero
    static let firstProbe = Duration.milliseconds(100)

    init() {}

    /// The unit's process is there.
    mutating func begin(_ spec: UnitSpec, at now: MonotonicInstant) {
        let number = number
        self = UnitHealth()
        self.number = number
        startedAt = now
        watchdogDue = spec.watchdog.map { now + $0 }
        readyDue = spec.awaitsReadiness ? spec.readyTimeout.map { now + $0 } : nil
        guard let check = spec.healthcheck else { return }
        earlyDelay = Self.firstProbe
        probing = .due(now + min(earlyDelay, check.interval))
    }

    /// The unit's process has been there since an earlier instant; nothing is known of it but that.
    mutating func resume(_ spec: UnitSpec, since: MonotonicInstant, at now: MonotonicInstant) {
        begin(spec, at: now)
        startedAt = since
        readyDue = spec.awaitsReadiness ? spec.readyTimeout.map { since + $0 } : nil
    }

    var nextDeadline: MonotonicInstant? {
        let probe: MonotonicInstant? =
            switch probing {
            case .off: nil
            case .due(let at), .asked(_, let at): at
            }
        return [probe, watchdogDue, isNotified ? nil : readyDue].compactMap { $0 }.min()
    }

    /// A probe begins; its number.
    mutating func ask(_ check: HealthcheckSpec, at now: MonotonicInstant) -> Int {
        number += 1
        probing = .asked(number: number, deadline: now + check.timeout)
        return number
    }

    /// Takes a probe's answer. True when the unit has just become unhealthy.
    ///
    /// Failures of probes that began within `start_period` do not count until the first success; after it they do, as in
    /// Docker (`handleProbeResult` of moby's health.go).
    mutating func take(_ outcome: ProbeOutcome, _ check: HealthcheckSpec, at now: MonotonicInstant) -> Bool {
        guard case .asked(_, let deadline) = probing else { return false }
        let age = (deadline - startedAt) - check.timeout
        let failure: String
        switch outcome {
        case .succeeded:
            failures = 0
            lastFailure = nil
            isHealthy = true
            wasHealthy = true
            probing = .due(now + check.interval)
            return false
        case .notAsked:
            probing = .due(now + check.interval)
            return false
        case .failed(let text): failure = text
        }
        lastFailure = failure
        let isEarly = !wasHealthy && age < max(check.interval, check.startPeriod)
        if isEarly {
            earlyDelay = min(earlyDelay * 2, age < check.startPeriod ? check.startInterval : check.interval)
            probing = .due(now + min(earlyDelay, check.interval))
            return false
        }
        failures += 1
        probing = .due(now + check.interval)
        guard failures >= check.retries, isHealthy != false else { return false }
        isHealthy = false
        return true
    }

    /// Leaves out a time in which neither the unit was heard nor a probe's answer taken.
    mutating func postpone(by duration: Duration) {
        watchdogDue = watchdogDue.map { $0 + duration }
        readyDue = readyDue.map { $0 + duration }
        startedAt = startedAt + duration
        switch probing {
        case .off: break
        case .due(let at): probing = .due(at + duration)
        case .asked(let number, let deadline): probing = .asked(number: number, deadline: deadline + duration)
        }
    }
}

extension Engine {
    /// It has said so, or was healthy once, or neither is asked of it.
    public func isReady(_ id: UnitID) -> Bool {
        guard case .running = states[id] else { return false }
        if specs[id].awaitsReadiness { return health[id].isNotified }
        return specs[id].healthcheck == nil || health[id].wasHealthy
    }

    /// Its healthcheck succeeds; without one, it is ready.
    public func isHealthy(_ id: UnitID) -> Bool {
        guard case .running = states[id] else { return false }
        if specs[id].healthcheck == nil { return isReady(id) }
        return health[id].isHealthy == true && (!specs[id].awaitsReadiness || health[id].isNotified)
    }

    mutating func advanceHealth(_ id: UnitID, at now: MonotonicInstant, _ actions: inout [Action]) {
        guard !isStopping else { return }
        if let due = health[id].watchdogDue, due <= now {
            health[id].watchdogDue = nil
            health[id].isHealthy = false
            health[id].lastFailure = "no WATCHDOG=1 in time"
            actions.append(.report(id, "unhealthy: no WATCHDOG=1 in time: stopped"))
            return stop(id, at: now, then: .unhealthy, &actions)
        }
        if let due = health[id].readyDue, due <= now {
            health[id].readyDue = nil
            if !health[id].isNotified {
                actions.append(.report(id, "not ready in time: stopped"))
                return stop(id, at: now, then: .notReady, &actions)
            }
        }
        guard let check = specs[id].healthcheck else { return }
        switch health[id].probing {
        case .due(let at) where at <= now:
            actions.append(.probe(id, number: health[id].ask(check, at: now)))
        case .asked(let number, let deadline) where deadline <= now:
            actions.append(.cancelProbe(id, number: number))
            answered(id, .failed("no answer within \(format(check.timeout))"), check, at: now, &actions)
        default: break
        }
    }

    mutating func probed(
        _ id: UnitID, _ number: Int, _ outcome: ProbeOutcome, at now: MonotonicInstant, _ actions: inout [Action]
    ) {
        // An answer that nobody waits for any more says nothing.
        guard case .asked(number, _) = health[id].probing, case .running = states[id],
            let check = specs[id].healthcheck
        else { return }
        answered(id, outcome, check, at: now, &actions)
    }

    private mutating func answered(
        _ id: UnitID, _ outcome: ProbeOutcome, _ check: HealthcheckSpec, at now: MonotonicInstant,
        _ actions: inout [Action]
    ) {
        let was = health[id].isHealthy
        let hasTurned = health[id].take(outcome, check, at: now)
        if outcome == .succeeded, was == false { actions.append(.report(id, "healthy again")) }
        guard hasTurned else { return }
        let reason = health[id].lastFailure.map { ": \($0)" } ?? ""
        let isStopped = specs[id].restart != .no
        let count = check.retries == 1 ? "a probe failed" : "\(check.retries) probes failed in a row"
        actions.append(.report(id, "unhealthy: \(count)\(reason)\(isStopped ? ": stopped" : "")"))
        if isStopped { stop(id, at: now, then: .unhealthy, &actions) }
    }

    /// Leaves out a time in which nothing was handled, for all that is measured by a unit's silence. A unit that was asked
    /// to end may have been frozen with us, so its grace is extended too.
    mutating func postpone(by duration: Duration) {
        for id in specs.indices {
            switch states[id] {
            case .running: health[id].postpone(by: duration)
            case .stopping(let pid, let killAt, let next):
                states[id] = .stopping(pid: pid, killAt: killAt + duration, then: next)
            case .leaving(var left):
                left.killAt = left.killAt + duration
                states[id] = .leaving(left)
            default: break
            }
        }
    }

    /// The unit says that it lives.
    mutating func watchdogFed(_ id: UnitID, at now: MonotonicInstant) {
        guard case .running = states[id], health[id].watchdogDue != nil else { return }
        health[id].watchdogDue = specs[id].watchdog.map { now + $0 }
    }

    mutating func cancelProbe(_ id: UnitID, _ actions: inout [Action]) {
        if case .asked(let number, _) = health[id].probing { actions.append(.cancelProbe(id, number: number)) }
        health[id].probing = .off
    }
}
