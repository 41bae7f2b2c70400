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

/// Finds out that a loop was not running though it should have been: its process was stopped (SIGSTOP, a debugger) or
/// frozen (the cgroup freezer, `docker pause`), or it was kept from the processor. Deadlines that measure the silence of
/// others do not count such a time.
public struct StallDetector: Hashable, Sendable {
    /// Shorter delays are a busy machine.
    public static let threshold = Duration.seconds(1)
    private var waitsSince = MonotonicInstant(nanoseconds: 0)
    private var deadline: MonotonicInstant?
    private var wokeAt: MonotonicInstant?
    private var stalledAtWork = Duration.zero

    /// A detector that has seen nothing.
    public init() {}

    /// The loop is about to wait until `deadline`; nil: for an event alone, which may take any time.
    public mutating func waits(until deadline: MonotonicInstant?, at now: MonotonicInstant) {
        let work = wokeAt.map { now - $0 } ?? .zero
        stalledAtWork = work >= Self.threshold ? work : .zero
        waitsSince = now
        // A deadline that has passed already is no reason to call the present late.
        self.deadline = deadline.map { max($0, now) }
    }

    /// The loop goes on: how long it has handled nothing if it was stalled, else nil. A wait that ended too late counts as a
    /// whole, because the stall may have begun with it.
    public mutating func woke(at now: MonotonicInstant) -> Duration? {
        wokeAt = now
        let isLate = deadline.map { now - $0 >= Self.threshold } ?? false
        let lost = stalledAtWork + (isLate ? now - waitsSince : .zero)
        return lost > .zero ? lost : nil
    }
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

/// A point in civil time (CLOCK_REALTIME).
public struct WallInstant: Hashable, Comparable, Sendable, CustomStringConvertible {
    /// Nanoseconds since 1970-01-01 00:00 UTC, without leap seconds.
    public var nanoseconds: Int64

    /// An instant so many nanoseconds after 1970.
    public init(nanoseconds: Int64) { self.nanoseconds = nanoseconds }

    /// The clock, read.
    public static var now: WallInstant { WallInstant(nanoseconds: ck_realtime_ns()) }

    /// Earlier.
    public static func < (a: Self, b: Self) -> Bool { a.nanoseconds < b.nanoseconds }
    /// Earlier by a duration.
    public static func - (a: Self, b: Duration) -> Self { Self(nanoseconds: a.nanoseconds &- b.nanoseconds) }

    /// RFC 3339, UTC, with milliseconds: `2026-11-25T03:04:05.678Z`.
    public var description: String {
        let (seconds, rest) = nanoseconds.quotientFloored(1_000_000_000)
        let (days, time) = seconds.quotientFloored(86400)
        let (year, month, day) = Self.date(days)
        func padded(_ number: Int64, _ width: Int) -> String {
            let text = String(number)
            return String(repeating: "0", count: max(0, width - text.count)) + text
        }
        return "\(padded(year, 4))-\(padded(month, 2))-\(padded(day, 2))T\(padded(time / 3600, 2)):"
            + "\(padded(time / 60 % 60, 2)):\(padded(time % 60, 2)).\(padded(rest / 1_000_000, 3))Z"
    }

    /// Reads RFC 3339 with any offset and fraction, or a date alone; nil for anything else.
    public init?(_ text: String) {
        let bytes = Array(text.utf8)
        func number(_ range: Range<Int>) -> Int64? {
            guard range.upperBound <= bytes.count, bytes[range].allSatisfy({ (48...57).contains($0) }) else {
                return nil
            }
            return bytes[range].reduce(0) { $0 * 10 + Int64($1 - 48) }
        }
        guard bytes.count >= 10, bytes[4] == 45, bytes[7] == 45, let year = number(0..<4), let month = number(5..<7),
            let day = number(8..<10), (1...12).contains(month), (1...31).contains(day), year >= 1678, year < 2262
        else { return nil }
        var seconds = Self.days(year, month, day) * 86400
        var fraction: Int64 = 0
        if bytes.count > 10 {
            guard [84, 116, 32].contains(bytes[10]), let hour = number(11..<13), bytes.count >= 19, bytes[13] == 58,
                let minute = number(14..<16), bytes[16] == 58, let second = number(17..<19), hour < 24, minute < 60,
                second < 61
            else { return nil }
            seconds += hour * 3600 + minute * 60 + second
            var index = 19
            if index < bytes.count, bytes[index] == 46 {
                let digits = bytes[(index + 1)...].prefix { (48...57).contains($0) }
                guard !digits.isEmpty else { return nil }
                var scale: Int64 = 100_000_000
                for digit in digits.prefix(9) {
                    fraction += Int64(digit - 48) * scale
                    scale /= 10
                }
                index += 1 + digits.count
            }
            switch bytes.count - index {
            case 0: break
            case 1: guard bytes[index] == 90 || bytes[index] == 122 else { return nil }
            case 6:
                guard bytes[index] == 43 || bytes[index] == 45, bytes[index + 3] == 58,
                    let hours = number((index + 1)..<(index + 3)), let minutes = number((index + 4)..<(index + 6)),
                    hours < 24, minutes < 60
                else { return nil }
                seconds += (bytes[index] == 43 ? -1 : 1) * (hours * 3600 + minutes * 60)
            default: return nil
            }
        }
        nanoseconds = seconds * 1_000_000_000 + fraction
    }

    /// Days since 1970 of a date in the Gregorian calendar, years counted from March.
    private static func days(_ year: Int64, _ month: Int64, _ day: Int64) -> Int64 {
        let shifted = month <= 2 ? year - 1 : year
        let (era, yearOfEra) = shifted.quotientFloored(400)
        let dayOfYear = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1
        return era * 146_097 + yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear - 719_468
    }

    private static func date(_ days: Int64) -> (year: Int64, month: Int64, day: Int64) {
        let (era, dayOfEra) = (days + 719_468).quotientFloored(146_097)
        let yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let shifted = (5 * dayOfYear + 2) / 153
        let month = shifted + (shifted < 10 ? 3 : -9)
        return (yearOfEra + era * 400 + (month <= 2 ? 1 : 0), month, dayOfYear - (153 * shifted + 2) / 5 + 1)
    }
}

extension Int64 {
    /// Quotient and remainder, the remainder never negative.
    fileprivate func quotientFloored(_ divisor: Int64) -> (Int64, Int64) {
        let (quotient, remainder) = quotientAndRemainder(dividingBy: divisor)
        return remainder < 0 ? (quotient - 1, remainder + divisor) : (quotient, remainder)
    }
}
