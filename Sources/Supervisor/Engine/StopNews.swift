internal import Kernel

/// When a shutdown that takes its time says what it waits for: after a second, and then less and less often.
struct StopNews: Hashable, Sendable {
    static let first = Duration.seconds(1)
    private(set) var dueAt: MonotonicInstant?
    private var interval = first

    /// The shutdown begins.
    mutating func begin(at now: MonotonicInstant) { dueAt = now + Self.first }

    /// Whether it is time to say something.
    mutating func isDue(at now: MonotonicInstant) -> Bool {
        guard let due = dueAt, due <= now else { return false }
        interval = interval * 2
        dueAt = now + interval
        return true
    }
}

extension Engine {
    /// Which units a shutdown waits for, and how long each still has: `db (3.2 s left), web`.
    func waitedFor(at now: MonotonicInstant) -> String {
        guard case .stopping(let deadline, _) = phase else { return "" }
        let busy = specs.indices.filter { states[$0].hasProcess }
        return busy.map { id in
            let killAt: MonotonicInstant? =
                switch states[id] {
                case .stopping(_, let killAt, _): killAt
                case .leaving(let left): left.killAt
                default: nil
                }
            // What has not been asked to end yet is needed by one that has.
            guard let killAt else { return specs[id].name }
            return "\(specs[id].name) (\(format(max(.zero, min(killAt, deadline) - now))) left)"
        }.joined(separator: ", ")
    }
}
