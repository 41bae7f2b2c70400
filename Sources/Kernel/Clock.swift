internal import CKernel

/// A point on the machine's monotonic clock (CLOCK_MONOTONIC). Cores take it as a parameter; only drivers read the clock.
public struct MonotonicInstant: Hashable, Comparable, Sendable {
    /// Nanoseconds since an arbitrary start.
    public var nanoseconds: Int64

    /// An instant so many nanoseconds after the clock's start.
    public init(nanoseconds: Int64) { self.nanoseconds = nanoseconds }

    /// The clock, read.
    public static var now: MonotonicInstant { MonotonicInstant(nanoseconds: ck_monotonic_ns()) }

    /// Earlier.
    public static func < (a: Self, b: Self) -> Bool { a.nanoseconds < b.nanoseconds }
    /// Later by a duration, wrapping.
    public static func + (a: Self, b: Duration) -> Self { Self(nanoseconds: a.nanoseconds &+ b.nanoseconds) }
    /// The time between.
    public static func - (a: Self, b: Self) -> Duration { .nanoseconds(a.nanoseconds &- b.nanoseconds) }
}

extension Duration {
    /// The duration in whole nanoseconds, saturated.
    public var nanoseconds: Int64 {
        let (seconds, attoseconds) = components
        let (product, overflow) = seconds.multipliedReportingOverflow(by: 1_000_000_000)
        if overflow { return seconds < 0 ? .min : .max }
        let (sum, carried) = product.addingReportingOverflow(attoseconds / 1_000_000_000)
        return carried ? (seconds < 0 ? .min : .max) : sum
    }

    /// The duration in whole milliseconds, rounded up, as poll-like calls want it.
    public var millisecondsRoundedUp: Int32 { Int32(clamping: (nanoseconds &+ 999_999) / 1_000_000) }
}

/// Unpredictable bytes (getrandom(2)).
public func randomUInt64() -> UInt64 {
    var value: UInt64 = 0
    _ = unsafe withUnsafeMutableBytes(of: &value) { unsafe ck_random($0.baseAddress, $0.count) }
    return value
}
