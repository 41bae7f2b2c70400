internal import Kernel

/// Whether and when a supervisor that ended without meaning to is followed by another. Pure.
///
/// One that was killed from outside (SIGKILL: by hand, by the kernel for want of memory) is followed at once, however
/// often that happens; one that lacks processes, descriptors or memory (EX_TEMPFAIL) is retried without an end, because
/// the units go on meanwhile; one that ended by itself is followed later each time, and not at all if it keeps ending before it
/// has taken over. The very first has nothing to lose yet: if it cannot start, the workspace cannot.
struct SupervisorRestart: Hashable {
    enum Decision: Hashable {
        case start(after: Duration)
        case giveUp
    }
    static let limit = 8
    static let forgottenAfter = Duration.seconds(10)
    private var hasEverBeenReady = false
    private var isReady = false
    static let longestDelay = Duration.seconds(5)
    private var kills = 0, failures = 0, shortages = 0
    private var startedAt = MonotonicInstant(nanoseconds: 0)

    mutating func started(at now: MonotonicInstant) {
        startedAt = now
        isReady = false
    }

    mutating func becameReady() {
        hasEverBeenReady = true
        isReady = true
    }

    mutating func ended(_ status: ExitStatus, at now: MonotonicInstant) -> Decision {
        guard hasEverBeenReady else { return .giveUp }
        if now - startedAt >= Self.forgottenAfter {
            kills = 0
            failures = 0
            shortages = 0
        }
        if case .signalled(.kill, _) = status {
            kills += 1
            return .start(after: isReady ? .zero : .milliseconds(min(10 * kills, 100)))
        }
        if status == .exited(ExitStatus.temporaryFailure) {
            shortages += 1
            return .start(after: min(.milliseconds(100 << min(shortages - 1, 10)), Self.longestDelay))
        }
        failures += 1
        if failures >= Self.limit, !isReady { return .giveUp }
        return .start(after: min(.milliseconds(10 << min(failures - 1, 10)), .seconds(10)))
    }
}
