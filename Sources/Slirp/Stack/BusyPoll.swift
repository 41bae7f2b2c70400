internal import Kernel

/// How long to look for the next event before going to sleep. Pure.
///
/// # Theory of operation
///
/// A request waits for its answer as long as it takes to wake everybody on the way, and waking a processor that sleeps is the
/// largest part. Where one small message follows the other at once it is cheaper to look again for some microseconds than to
/// sleep: as KVM does it for guests that halt (halt-polling.rst), the time to look grows while waits are short and is
/// nothing after a long one. Bulk never looks: its processors have better things to do. Nor does who has one processor, as
/// whoever is waited for could not run meanwhile.
struct BusyPoll {
    /// How long, in nanoseconds.
    private(set) var limit: Int64 = 0
    static let longest: Int64 = 50_000, first: Int64 = 12_500
    /// What recent turns moved, the last ones most: bulk is known by it between its superpackets too.
    private var recentBytes: UInt64 = 0
    static let bulk: UInt64 = 8192
    private let isWorthIt: Bool

    init(processors: Int) { isWorthIt = processors > 1 }

    /// A wait is over that took so long, after a turn that moved so many bytes.
    mutating func waited(_ nanoseconds: Int64, afterBytes bytes: UInt64) {
        guard isWorthIt else { return }
        recentBytes = recentBytes - recentBytes / 8 + min(bytes, 1 << 20)
        if recentBytes > Self.bulk || nanoseconds > Self.longest {
            limit = 0
        } else if nanoseconds > limit {
            limit = min(Self.longest, max(Self.first, limit * 2))
        }
    }
}
