internal import Config
internal import Kernel

/// The number of starts that connections may cause within a time: systemd's TriggerLimitIntervalSec= and
/// TriggerLimitBurst= with their defaults. It stops a loop in which a service ends without accepting the connection that
/// started it.
struct ActivationLimit: Hashable, Sendable {
    static let interval = Duration.seconds(2), burst = 20
    private var windowStart = MonotonicInstant(nanoseconds: 0)
    private var count = 0

    /// Counts a start; false when it is one too many.
    mutating func allowsStart(at now: MonotonicInstant) -> Bool {
        if count == 0 || now - windowStart >= Self.interval {
            windowStart = now
            count = 0
        }
        count += 1
        return count <= Self.burst
    }
}

/// Units that are started by a connection to one of their sockets.
///
/// A process that ends without another start by the restart policy leaves the unit listening, as with inetd and systemd:
/// the next connection starts it again. A unit that has ended for good has no sockets: it was stopped, it cannot be
/// started, its policy gave up, it is essential and failed, or connections started it too often.
extension Engine {
    /// Whether the unit's sockets are to be open.
    public func hasSockets(_ id: UnitID) -> Bool {
        guard specs[id].isSocketActivated, !isRemoved[id] || states[id].hasProcess else { return false }
        switch states[id] {
        case .waiting, .listening, .starting, .running, .backingOff, .stopping, .leaving: return true
        case .ended, .skipped: return false
        }
    }

    /// Starts a listening unit because of a connection, or because another unit needs it.
    mutating func activate(_ id: UnitID, at now: MonotonicInstant, _ actions: inout [Action]) {
        guard states[id] == .listening, !isStopping else { return }
        if activations[id].allowsStart(at: now) { return spawn(id, &actions) }
        end(id, .activatedTooOften, at: now, &actions)
    }

    /// Whether a unit whose process has ended goes back to its sockets.
    func listensAgain(_ id: UnitID, after ending: Ending) -> Bool {
        guard specs[id].isSocketActivated, !isStopping, !isRemoved[id], ending.wasStarted else { return false }
        return ending.isSuccess || !specs[id].isEssential
    }
}
