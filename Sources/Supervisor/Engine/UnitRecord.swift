internal import Config
internal import Control
internal import Kernel

/// # Theory of operation
///
/// What of a unit outlives the supervisor that looks after it. After each event the driver writes the records that have
/// changed to where the next supervisor finds them; an engine made from them goes on as this one would have: what runs is
/// running, who waits for its next try waits until the same instant, a shutdown goes on within the same budget.
///
/// What is not in them is found anew: the definition (the configuration is kept beside them), and when a probe is due.
struct UnitRecord: Hashable {
    var name: String
    var kind: UnitSpec.Kind
    var isRemoved: Bool
    /// It is to stop once nothing needs it any more.
    var isToStop: Bool
    var state: UnitState
    var lastEnding: Ending?
    var restarts: Int, outOfMemoryKills: Int
    var failures: Int
    var isNotified: Bool, wasHealthy: Bool
    /// What follows from it all; said here so that it is known what has changed.
    var isReady: Bool
    var isHealthy: Bool?
    /// How it is asked to end, and for how long: all that a unit needs which the configuration no longer has.
    var stopSignal: Signal
    var stopGrace: Duration
    /// What it says of itself.
    var statusText: String
    /// Its process is about to execute the program, which may fail yet: no event has told that it has started.
    var isAnnounced = false
    /// How its last probe failed; nil: it succeeded, or there was none.
    var probeFailure: String?

    /// How many bytes a unit may say of itself, and a reason may have, so that a record has a bounded size.
    static let statusLimit = 512, reasonLimit = 200

    /// As text fields, of less than 1.5 KiB together.
    var fields: [String] {
        [
            BoundedName.of(name), kind.rawValue, isRemoved ? "removed" : "", state.text, lastEnding?.text ?? "",
            "\(restarts)",
            "\(failures)", isNotified ? "notified" : "", wasHealthy ? "healthy" : "",
            isHealthy.map { $0 ? "healthy" : "unhealthy" } ?? "", "\(stopSignal.rawValue)",
            "\(stopGrace.nanoseconds)", BoundedName.prefix(statusText, bytes: Self.statusLimit),
            isReady ? "ready" : "", "\(outOfMemoryKills)",
            isToStop ? "toStop" : "", isAnnounced ? "announced" : "",
            BoundedName.prefix(probeFailure ?? "", bytes: Self.reasonLimit),
        ]
    }

    init?(fields f: [String]) {
        guard f.count == 18, let kind = UnitSpec.Kind(rawValue: f[1]), let state = UnitState(text: f[3]),
            let restarts = Int(f[5]), let failures = Int(f[6]), let signal = Int32(f[10]), let grace = Int64(f[11]),
            let outOfMemoryKills = Int(f[14])
        else { return nil }
        name = f[0]
        self.kind = kind
        isRemoved = !f[2].isEmpty
        self.state = state
        lastEnding = Ending(text: f[4])
        self.restarts = restarts
        self.outOfMemoryKills = outOfMemoryKills
        self.failures = failures
        isNotified = !f[7].isEmpty
        wasHealthy = !f[8].isEmpty
        isHealthy = f[9].isEmpty ? nil : f[9] == "healthy"
        stopSignal = Signal(rawValue: signal)
        stopGrace = .nanoseconds(grace)
        statusText = f[12]
        isReady = !f[13].isEmpty
        isToStop = !f[15].isEmpty
        isAnnounced = !f[16].isEmpty
        probeFailure = f[17].isEmpty ? nil : f[17]
    }

    /// What the engine knows of a unit.
    init(_ engine: Engine, _ id: Engine.UnitID, statusText: String) {
        let spec = engine.specs[id]
        let health = engine.health[id]
        name = spec.name
        kind = spec.kind
        isRemoved = engine.isRemoved[id]
        isToStop = engine.toStop.contains(id)
        state = engine.states[id]
        lastEnding = engine.lastEndings[id]
        restarts = engine.restarts[id]
        outOfMemoryKills = engine.outOfMemoryKills[id]
        failures = engine.backoffs[id].failures
        isNotified = health.isNotified
        wasHealthy = health.wasHealthy
        isHealthy = health.isHealthy
        isReady = engine.isReady(id)
        stopSignal = spec.stopSignal
        stopGrace = spec.stopGrace
        self.statusText = statusText
        probeFailure = health.lastFailure
    }

    /// The unit as far as the record knows it, where the configuration has it no longer.
    var spec: UnitSpec {
        var spec = UnitSpec(name: name, kind: kind)
        spec.stopSignal = stopSignal
        spec.stopGrace = stopGrace
        return spec
    }
}

extension Engine {
    /// How far the whole is, as text fields.
    var phaseFields: [String] {
        switch phase {
        case .created, .running: ["running", "\(exitCode)"]
        case .stopping(let deadline, _): ["stopping", "\(exitCode)", "\(deadline.nanoseconds)"]
        case .finished: ["finished", "\(exitCode)"]
        }
    }

    /// An engine that goes on from records, at `now`.
    ///
    /// - Parameters:
    ///   - specs: the units by their definitions now; `records` has the record of each that has one, in the same places.
    ///   - phase: what ``phaseFields`` of the one before said.
    init(
        _ specs: [UnitSpec], records: [UnitRecord?], phase fields: [String], budget: Duration, seed: UInt64,
        at now: MonotonicInstant
    ) {
        self.init(specs, budget: budget, seed: seed)
        exitCode = fields.count > 1 ? UInt8(fields[1]) ?? 0 : 0
        switch fields.first {
        case "stopping"?:
            let deadline = fields.count > 2 ? Int64(fields[2]) : nil
            phase = .stopping(deadline: deadline.map { .init(nanoseconds: $0) } ?? now, wasKilled: false)
            stopNews.begin(at: now)
        case "finished"?: phase = .stopping(deadline: now, wasKilled: false)
        default: phase = .running
        }
        for (id, record) in records.enumerated() where id < specs.count {
            guard let record else {
                if isStopping { states[id] = .skipped("the workspace stopped first") }
                continue
            }
            restore(id, record, at: now)
        }
        places = Self.places(self.specs, isRemoved)
    }

    private mutating func restore(_ id: UnitID, _ record: UnitRecord, at now: MonotonicInstant) {
        states[id] = record.state
        lastEndings[id] = record.lastEnding
        restarts[id] = record.restarts
        outOfMemoryKills[id] = record.outOfMemoryKills
        backoffs[id] = Backoff(failures: record.failures)
        isRemoved[id] = record.isRemoved
        if record.isToStop { toStop.insert(id) }
        switch record.state {
        // The process that was asked for never ran: the wish is there still.
        case .starting: states[id] = .waiting
        case .running(_, let since):
            health[id].resume(specs[id], since: since, at: now)
            health[id].isNotified = record.isNotified
            health[id].wasHealthy = record.wasHealthy
            health[id].isHealthy = record.isHealthy
            health[id].lastFailure = record.probeFailure
        default: break
        }
    }
}

extension Engine {
    /// What a unit's stop waits for was under way when these records were written.
    mutating func resumePreStop(_ id: UnitID) { preStopping.insert(id) }
}

extension UnitState {
    /// In words and numbers that ``init(text:)`` reads.
    fileprivate var text: String {
        switch self {
        case .waiting: "waiting"
        case .listening: "listening"
        case .starting: "starting"
        case .running(let pid, let since): "running \(pid) \(since.nanoseconds)"
        case .backingOff(let until, let delay, let last):
            "backingOff \(until.nanoseconds) \(delay.nanoseconds) \(last.text)"
        case .stopping(let pid, let killAt, let next): "stopping \(pid) \(killAt.nanoseconds) \(next.rawValue)"
        case .leaving(let left):
            "leaving \(left.group) \(left.killAt.nanoseconds) \(left.next.rawValue) \(left.ending.text)"
        case .ended(let ending, let byRequest): "ended \(byRequest ? "byRequest" : "byItself") \(ending.text)"
        case .skipped(let reason): "skipped \(BoundedName.prefix(reason, bytes: UnitRecord.reasonLimit))"
        }
    }

    fileprivate init?(text: String) {
        let words = text.split(separator: " ", maxSplits: 3, omittingEmptySubsequences: false).map(String.init)
        func rest(_ from: Int) -> String { words.dropFirst(from).joined(separator: " ") }
        func number(_ index: Int) -> Int64? { words.count > index ? Int64(words[index]) : nil }
        func instant(_ index: Int) -> MonotonicInstant? { number(index).map { MonotonicInstant(nanoseconds: $0) } }
        func pid() -> Int32? { number(1).flatMap { Int32(exactly: $0) } }
        switch words.first {
        case "waiting"?: self = .waiting
        case "listening"?: self = .listening
        case "starting"?: self = .starting
        case "running"?:
            guard let pid = pid(), let since = instant(2) else { return nil }
            self = .running(pid: pid, since: since)
        case "backingOff"?:
            guard let until = instant(1), let delay = number(2), let last = Ending(text: rest(3)) else { return nil }
            self = .backingOff(until: until, delay: .nanoseconds(delay), last: last)
        case "stopping"?:
            guard let pid = pid(), let killAt = instant(2), let next = AfterStop(rawValue: rest(3)) else { return nil }
            self = .stopping(pid: pid, killAt: killAt, then: next)
        case "leaving"?:
            let last = rest(3).split(separator: " ", maxSplits: 1).map(String.init)
            guard let group = pid(), let killAt = instant(2), last.count == 2, let next = AfterStop(rawValue: last[0]),
                let ending = Ending(text: last[1])
            else { return nil }
            // Looked at again at once.
            let lookAt = MonotonicInstant(nanoseconds: 0)
            self = .leaving(Leftovers(group: group, killAt: killAt, lookAt: lookAt, next: next, ending: ending))
        case "ended"?:
            guard words.count > 2, let ending = Ending(text: rest(2)) else { return nil }
            self = .ended(ending, byRequest: words[1] == "byRequest")
        case "skipped"?: self = .skipped(rest(1))
        default: return nil
        }
    }
}

extension Ending {
    var text: String {
        switch self {
        case .exited(.exited(let code)): "exited \(code)"
        case .exited(.signalled(let signal, let core)): "signalled \(signal.rawValue)\(core ? " core" : "")"
        case .notStarted(let reason, let code):
            "notStarted \(code) \(BoundedName.prefix(reason, bytes: UnitRecord.reasonLimit))"
        case .unhealthy(let status, let reason):
            "unhealthy \(Ending.exited(status).text);\(BoundedName.prefix(reason, bytes: UnitRecord.reasonLimit))"
        case .notReady(let status): "notReady \(Ending.exited(status).text)"
        case .activatedTooOften: "activatedTooOften"
        case .succeeded(let status): "succeeded \(Ending.exited(status).text)"
        case .outOfMemory(let status, let isCertain):
            "outOfMemory \(isCertain ? "certainly" : "probably") \(Ending.exited(status).text)"
        }
    }

    init?(text: String) {
        let words = text.split(separator: " ", maxSplits: 1, omittingEmptySubsequences: false)
        let rest = words.count > 1 ? words[1] : ""
        switch words.first {
        case "exited"?:
            guard let code = UInt8(rest) else { return nil }
            self = .exited(.exited(code))
        case "signalled"?:
            let parts = rest.split(separator: " ")
            guard let number = parts.first.flatMap({ Int32($0) }) else { return nil }
            self = .exited(.signalled(Signal(rawValue: number), coreDumped: parts.count > 1))
        case "notStarted"?:
            let parts = rest.split(separator: " ", maxSplits: 1, omittingEmptySubsequences: false)
            guard parts.count == 2, let code = UInt8(parts[0]) else { return nil }
            self = .notStarted(String(parts[1]), code: code)
        case "unhealthy"?:
            let parts = rest.split(separator: ";", maxSplits: 1, omittingEmptySubsequences: false)
            guard parts.count == 2, case .exited(let status)? = Ending(text: String(parts[0])) else { return nil }
            self = .unhealthy(status, because: String(parts[1]))
        case "notReady"?:
            guard case .exited(let status)? = Ending(text: String(rest)) else { return nil }
            self = .notReady(status)
        case "activatedTooOften"?: self = .activatedTooOften
        case "succeeded"?:
            guard case .exited(let status)? = Ending(text: String(rest)) else { return nil }
            self = .succeeded(status)
        case "outOfMemory"?:
            let parts = rest.split(separator: " ", maxSplits: 1)
            guard parts.count == 2, case .exited(let status)? = Ending(text: String(parts[1])) else { return nil }
            self = .outOfMemory(status, isCertain: parts[0] == "certainly")
        default: return nil
        }
    }
}
